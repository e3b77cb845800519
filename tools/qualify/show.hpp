// papilio-qualify show: what a certificate says, and whether it is one.
#pragma once

#include <string>

#include "engine/base/result.hpp"
#include "tools/common/command_line.hpp"

namespace papilio::qualify {

// Exit code 0: genuine and not expired.
Result<int> show(const std::string& file, const tools::CommandLine& line);

}  // namespace papilio::qualify
