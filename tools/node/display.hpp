// What a user sees of a run: one rewritten line with a progress bar on a terminal, one plain line per round elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "engine/training/trainer.hpp"
#include "tools/common/status_line.hpp"

namespace papilio::tools {

class Display {
 public:
  // `steps`: rounds of the whole run. `target_batch`: samples of one.
  Display(std::FILE* out, std::uint64_t steps, std::uint64_t target_batch);

  void show_progress(std::uint64_t step, const GroupProgress& progress);
  void show_round(const training::RoundLine& line);
  // A sentence of its own line.
  void say(const std::string& text) { line_.say(text, StatusLine::Place::below); }

 private:
  void rewrite(double done, std::uint64_t step);

  StatusLine line_;
  std::uint64_t steps_;
  std::uint64_t target_batch_;
  std::string last_round_;
};

// The line of one round, without its end.
[[nodiscard]] std::string round_text(const training::RoundLine& line);

}  // namespace papilio::tools
