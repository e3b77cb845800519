// How a node's owner says whom it lets in: everything of docs/admission.md in one struct, so that all of it is checked
// together, before the first stranger is at the door.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/core/admission.hpp"
#include "engine/core/door.hpp"
#include "engine/core/qualification.hpp"

namespace papilio::node {

enum class Security : std::uint8_t {
  tls,   // every connection is encrypted, both ends prove their ids
  none,  // neither: for closed networks and benchmarks, where a peer may call itself whatever it likes
};

struct AdmissionConfig {
  Security security = Security::tls;
  std::optional<std::vector<PeerId>> allowed;  // only these; none: everybody
  std::vector<PeerId> denied;
  // Whose certificates count. Any of them: certificates are required.
  std::vector<PeerId> judges;
  std::uint32_t judges_needed = 1;
  core::LineRequirement minimum;
  std::chrono::seconds clock_skew = core::AdmissionPolicy().clock_skew;
  // Files with this node's own certificates, to be shown to the others; empty: those in state_dir.
  std::vector<std::string> certificates;
  // A link over which nothing came for so long is given up. Nodes that live say something every second or so.
  Duration idle_timeout = std::chrono::minutes(5);
  core::DoorConfig door;
};

// How often something was refused at the door.
struct RefusalCount {
  std::string reason;  // as in docs/admission.md: banned, not-secure, too-many-here ...
  std::uint64_t count = 0;
};

// Names the constant as the command line calls it, its value and the remedy.
[[nodiscard]] Status check(const AdmissionConfig& config);

// What the core is to decide by, in a node of that id and run.
[[nodiscard]] core::AdmissionPolicy policy_of(const AdmissionConfig& config, const PeerId& self,
                                              const std::string& run_id);

}  // namespace papilio::node
