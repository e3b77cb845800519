#include "tools/qualify/display.hpp"

#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/units.hpp"

namespace papilio::qualify {
namespace {

constexpr std::size_t kBarWidth = 24;

std::size_t columns_of(std::FILE* terminal) {
  winsize size{};
  if (::ioctl(::fileno(terminal), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string name_of(transport::TestPhaseKind kind) {
  switch (kind) {
    case transport::TestPhaseKind::join: return "connecting";
    case transport::TestPhaseKind::round_trip: return "round trips";
    case transport::TestPhaseKind::up: return "up";
    case transport::TestPhaseKind::down: return "down";
    case transport::TestPhaseKind::both: return "both at once";
    case transport::TestPhaseKind::over: return "done";
  }
  return "done";
}

}  // namespace

Display::Display(std::FILE* out, Duration whole) : out_(out), terminal_(::isatty(::fileno(out)) == 1), whole_(whole) {
  // A log line on the same screen takes the bar's place; the bar comes back below it.
  if (terminal_ && ::isatty(STDERR_FILENO) == 1) spdlog::set_pattern("\r\033[K%H:%M:%S.%e %^%-5l%$ %v");
}

void Display::begin(const std::string& judge) {
  say("judge " + judge);
  phase_ = "connecting";
  waiting_.clear();
  shows_up_ = shows_down_ = false;
}

void Display::show_waiting(const transport::TestWait& wait) {
  std::string text = fmt::format("waiting: {} ahead, about {:.0f} s", wait.position, wait.retry_after_ms / 1e3);
  if (!terminal_ && text != waiting_) say("  " + text);
  waiting_ = std::move(text);
}

void Display::show_phase(const transport::TestPhase& phase) {
  using transport::TestPhaseKind;
  waiting_.clear();
  phase_ = name_of(phase.kind);
  shows_up_ = phase.kind == TestPhaseKind::up || phase.kind == TestPhaseKind::both;
  shows_down_ = phase.kind == TestPhaseKind::down || phase.kind == TestPhaseKind::both;
  if (!terminal_ && phase.kind != TestPhaseKind::join) {
    say(fmt::format("  {}: {}", phase_, human_duration(std::chrono::milliseconds(phase.duration_ms))));
  }
}

void Display::show_time(Duration since_start) {
  if (!terminal_) return;
  if (!waiting_.empty()) return rewrite("  " + waiting_);
  const double done = std::clamp(to_seconds(since_start) / to_seconds(whole_), 0.0, 1.0);
  const auto filled = static_cast<std::size_t>(done * kBarWidth);
  std::string text = fmt::format("  [{}{}] {:>4.1f} s  {}", std::string(filled, '#'),
                                 std::string(kBarWidth - filled, '.'), to_seconds(since_start), phase_);
  if (shows_up_) text += "  up " + human_rate(static_cast<double>(tally_.up_bps));
  if (shows_down_) text += "  down " + human_rate(static_cast<double>(tally_.down_bps));
  rewrite(text);
}

void Display::say(const std::string& text) {
  fmt::print(out_, "{}{}\n", line_is_open_ ? "\r\033[K" : "", text);
  line_is_open_ = false;
  std::fflush(out_);
}

// A line longer than the terminal would wrap, and going back to its start would not undo the wrapped part.
void Display::rewrite(const std::string& text) {
  fmt::print(out_, "\r\033[K{}", text.substr(0, columns_of(out_) - 1));
  line_is_open_ = true;
  std::fflush(out_);
}

}  // namespace papilio::qualify
