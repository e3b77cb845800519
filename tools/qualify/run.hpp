// papilio-qualify run: has this machine's line tested by one or several judges, and says whether it will do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/core/qualification.hpp"
#include "tools/common/command_line.hpp"
#include "tools/qualify/options.hpp"

namespace papilio::qualify {

struct RunOptions {
  LineOptions line;
  std::vector<std::string> peers;
  std::string seconds = "10";                    // as given
  Duration duration = std::chrono::seconds(10);  // what that is
  std::uint64_t flows = 4;
  core::LineRequirement requirement;
  double margin = 0;
  Duration patience_in_queue = std::chrono::minutes(5);
};

// The exit code. Errors are for what kept every judge from a verdict.
Result<int> run(const RunOptions& options, const tools::CommandLine& line);

}  // namespace papilio::qualify
