// What a user sees of a test: one rewritten line with a bar, the phase and the rate of now on a terminal, one plain
// line per phase elsewhere.
#pragma once

#include <cstdio>
#include <string>

#include "engine/base/time.hpp"
#include "tools/common/status_line.hpp"
#include "transport/test_frames.hpp"

namespace papilio::qualify {

class Display {
 public:
  // `whole`: how long a test is to take.
  Display(std::FILE* out, Duration whole) : line_(out), whole_(whole) {}

  void begin(const std::string& judge);
  void show_waiting(const transport::TestWait& wait);
  void show_phase(const transport::TestPhase& phase);
  void note_tally(const transport::TestTally& tally) { tally_ = tally; }
  // Several times a second: how long the test has taken so far.
  void show_time(Duration since_start);
  // A sentence on a line of its own.
  void say(const std::string& text) { line_.say(text, tools::StatusLine::Place::instead); }

 private:
  tools::StatusLine line_;
  Duration whole_;
  std::string phase_;
  bool shows_up_ = false, shows_down_ = false;
  transport::TestTally tally_;
  std::string waiting_;
};

}  // namespace papilio::qualify
