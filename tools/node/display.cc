#include "tools/node/display.hpp"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "engine/base/units.hpp"

namespace papilio::tools {

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
    : line_(out), steps_(steps), target_batch_(target_batch) {}

void Display::show_progress(std::uint64_t step, const GroupProgress& progress) {
  const double of_step =
      std::min(1.0, static_cast<double>(progress.group_samples) / static_cast<double>(target_batch_));
  rewrite((static_cast<double>(step - 1) + of_step) / static_cast<double>(steps_), step);
}

void Display::show_round(const training::RoundLine& line) {
  last_round_ = round_text(line);
  if (!line_.is_terminal()) return say(last_round_);
  rewrite(static_cast<double>(line.step) / static_cast<double>(steps_), line.step);
}

void Display::rewrite(double done, std::uint64_t step) {
  if (!line_.is_terminal()) return;
  line_.rewrite(fmt::format("[{}] {}/{}  {}", progress_bar(done, 20), step, steps_, last_round_));
}

}  // namespace papilio::tools
