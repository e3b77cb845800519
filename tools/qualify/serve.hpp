// papilio-qualify serve: a judge as a process.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/core/qualification.hpp"
#include "engine/core/test_desk.hpp"
#include "tools/common/command_line.hpp"
#include "tools/qualify/options.hpp"

namespace papilio::qualify {

struct ServeOptions {
  LineOptions line;
  std::string listen;
  core::LineRequirement minimum{.up_bps = 0, .down_bps = 0, .round_trip = std::chrono::hours(1)};
  Duration valid_for = std::chrono::hours(24 * 7);
  core::TestDeskConfig desk;
  // Short enough for `run --seconds 5`, long enough that a burst of a second or two does not pass for the line's rate.
  Duration shortest_test = std::chrono::seconds(4), longest_test = std::chrono::seconds(60);
  std::uint64_t most_tests = 0;  // ends after so many; 0: never
};

// Until a signal, or until most_tests are over. Writes what was tested to --json.
Status serve(const ServeOptions& options, const tools::CommandLine& line);

}  // namespace papilio::qualify
