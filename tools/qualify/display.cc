#include "tools/qualify/display.hpp"

#include <spdlog/fmt/fmt.h>

#include "engine/base/units.hpp"

namespace papilio::qualify {
namespace {

constexpr std::size_t kBarWidth = 24;

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

void Display::begin(const std::string& judge) {
  say("judge " + judge);
  phase_ = "connecting";
  waiting_.clear();
  shows_up_ = shows_down_ = false;
}

void Display::show_waiting(const transport::TestWait& wait) {
  std::string text = fmt::format("waiting: {} ahead, about {:.0f} s", wait.position, wait.retry_after_ms / 1e3);
  if (!line_.is_terminal() && text != waiting_) say("  " + text);
  waiting_ = std::move(text);
}

void Display::show_phase(const transport::TestPhase& phase) {
  using transport::TestPhaseKind;
  waiting_.clear();
  phase_ = name_of(phase.kind);
  shows_up_ = phase.kind == TestPhaseKind::up || phase.kind == TestPhaseKind::both;
  shows_down_ = phase.kind == TestPhaseKind::down || phase.kind == TestPhaseKind::both;
  if (!line_.is_terminal() && phase.kind != TestPhaseKind::join) {
    say(fmt::format("  {}: {}", phase_, human_duration(std::chrono::milliseconds(phase.duration_ms))));
  }
}

void Display::show_time(Duration since_start) {
  if (!line_.is_terminal()) return;
  if (!waiting_.empty()) return line_.rewrite("  " + waiting_);
  std::string text =
      fmt::format("  [{}] {:>4.1f} s  {}", tools::progress_bar(to_seconds(since_start) / to_seconds(whole_), kBarWidth),
                  to_seconds(since_start), phase_);
  if (shows_up_) text += "  up " + human_rate(static_cast<double>(tally_.up_bps));
  if (shows_down_) text += "  down " + human_rate(static_cast<double>(tally_.down_bps));
  line_.rewrite(text);
}

}  // namespace papilio::qualify
