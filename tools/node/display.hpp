// What a user sees of a run: one rewritten line with a progress bar on a terminal, one plain line per round elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "engine/training/trainer.hpp"

namespace papilio::tools {

class Display {
 public:
  // `steps`: rounds of the whole run. `target_batch`: samples of one.
  Display(std::FILE* out, std::uint64_t steps, std::uint64_t target_batch);

  void show_progress(std::uint64_t step, const GroupProgress& progress);
  void show_round(const training::RoundLine& line);
  // A sentence of its own line.
  void say(const std::string& text);

 private:
  void rewrite(const std::string& text);

  std::FILE* out_;
  bool terminal_;
  bool line_is_open_ = false;
  std::uint64_t steps_;
  std::uint64_t target_batch_;
  std::string last_round_;
};

// The line of one round, without its end.
[[nodiscard]] std::string round_text(const training::RoundLine& line);

}  // namespace papilio::tools
