#include "tools/node/display.hpp"

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/units.hpp"

namespace papilio::tools {
namespace {

std::string bar(double done, std::size_t width) {
  const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(width));
  return std::string(filled, '#') + std::string(width - filled, '.');
}

std::size_t columns_of(std::FILE* terminal) {
  winsize size{};
  if (::ioctl(::fileno(terminal), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string round_text(const training::RoundLine& line) {
  std::string text = fmt::format(
      "epoch {:>4}  loss {:.4f}  samples {}/{} (total {})  round {}  sent {}  received {}  members {}  coverage "
      "{:.0f}%",
      line.epoch, line.loss, line.samples, line.global_samples, line.total_samples,
      human_duration(from_seconds(line.seconds)), human_size(static_cast<double>(line.bytes_sent)),
      human_size(static_cast<double>(line.bytes_received)), line.members, line.coverage * 100);
  for (const PeerReport& peer : line.cut_off) {
    text += fmt::format("  cut off {} ({}{}{})", to_hex(peer.peer), peer.reason, peer.evidence.empty() ? "" : ": ",
                        peer.evidence);
  }
  return text;
}

Display::Display(std::FILE* out, std::uint64_t steps, std::uint64_t target_batch)
    : out_(out), terminal_(::isatty(::fileno(out)) == 1), steps_(steps), target_batch_(target_batch) {
  // A log line on the same screen takes the bar's place; the bar comes back below it.
  if (terminal_ && ::isatty(STDERR_FILENO) == 1) spdlog::set_pattern("\r\033[K%H:%M:%S.%e %^%-5l%$ %v");
}

void Display::show_progress(std::uint64_t step, const GroupProgress& progress) {
  if (!terminal_) return;
  const double of_step =
      std::min(1.0, static_cast<double>(progress.group_samples) / static_cast<double>(target_batch_));
  const double done = (static_cast<double>(step - 1) + of_step) / static_cast<double>(steps_);
  rewrite(fmt::format("[{}] {}/{}  {}", bar(done, 20), step, steps_, last_round_));
}

void Display::show_round(const training::RoundLine& line) {
  last_round_ = round_text(line);
  if (terminal_) {
    rewrite(fmt::format("[{}] {}/{}  {}", bar(static_cast<double>(line.step) / static_cast<double>(steps_), 20),
                        line.step, steps_, last_round_));
  } else {
    fmt::print(out_, "{}\n", last_round_);
    std::fflush(out_);
  }
}

void Display::say(const std::string& text) {
  fmt::print(out_, "{}{}\n", line_is_open_ ? "\n" : "", text);
  line_is_open_ = false;
  std::fflush(out_);
}

// A line longer than the terminal would wrap, and going back to its start would not undo the wrapped part.
void Display::rewrite(const std::string& text) {
  fmt::print(out_, "\r\033[K{}", text.substr(0, columns_of(out_) - 1));
  line_is_open_ = true;
  std::fflush(out_);
}

}  // namespace papilio::tools
