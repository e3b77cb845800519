// Whom a node lets in, and how many strangers may stand at its door, as flags and keys, for every program that runs a
// node. Apart from papilio-node's settings, so that the stand-ins of tests can be given the same flags.
#pragma once

#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/node/admission_config.hpp"
#include "tools/common/command_line.hpp"

namespace papilio::tools {

// What was said; admission_of() makes what is meant of it.
struct AdmissionSettings {
  std::string security = "tls";
  std::vector<std::string> allow, deny, judges;  // ids
  std::string allow_file, deny_file;
  Duration clock_skew = node::AdmissionConfig().clock_skew;
  node::AdmissionConfig constants;  // the rest
};

// --allow, --judge and their like, and --door-connections and its like, or the keys of a [door] table. The values that
// `settings` has now are the defaults.
void add_admission_options(CLI::App& app, AdmissionSettings& settings);

// Reads the lists' files and checks everything together. Errors name flag, value and remedy.
[[nodiscard]] Result<node::AdmissionConfig> admission_of(const AdmissionSettings& settings);

}  // namespace papilio::tools
