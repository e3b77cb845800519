#include "tools/common/status_line.hpp"

#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace papilio::tools {
namespace {

std::size_t columns_of(std::FILE* terminal) {
  winsize size{};
  if (::ioctl(::fileno(terminal), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

StatusLine::StatusLine(std::FILE* out) : out_(out), is_terminal_(::isatty(::fileno(out)) == 1) {
  // A log line on the same screen takes the status line's place, which comes back below it.
  if (is_terminal_ && ::isatty(STDERR_FILENO) == 1) spdlog::set_pattern("\r\033[K%H:%M:%S.%e %^%-5l%$ %v");
}

// A line longer than the terminal would wrap, and going back to its start would not undo the wrapped part.
void StatusLine::rewrite(const std::string& text) {
  if (!is_terminal_) return;
  std::fprintf(out_, "\r\033[K%s", text.substr(0, columns_of(out_) - 1).c_str());
  is_open_ = true;
  std::fflush(out_);
}

void StatusLine::say(const std::string& text, Place place) {
  const char* const before = !is_open_ ? "" : place == Place::below ? "\n" : "\r\033[K";
  std::fprintf(out_, "%s%s\n", before, text.c_str());
  is_open_ = false;
  std::fflush(out_);
}

std::string progress_bar(double done, std::size_t width) {
  const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(width));
  return std::string(filled, '#') + std::string(width - filled, '.');
}

}  // namespace papilio::tools
