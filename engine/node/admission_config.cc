#include "engine/node/admission_config.hpp"

#include "engine/base/units.hpp"

namespace papilio::node {
namespace {

Status check_unproven(const AdmissionConfig& config) {
  const auto needs_tls = [](const std::string& name) {
    return usage_error(name +
                       ": means nothing with security 'none', where ids are not proved; choose tls, or leave it out");
  };
  if (config.security == Security::tls) return Done{};
  if (config.allowed) return needs_tls("allow");
  if (!config.judges.empty()) return needs_tls("judge");
  return Done{};
}

}  // namespace

Status check(const AdmissionConfig& config) {
  if (auto checked = core::check(config.door); !checked) return usage_error("door-" + checked.error().message);
  if (auto checked = check_unproven(config); !checked) return checked;
  // Not below the time for which a node may leave a peer's shards unread.
  if (config.idle_timeout < std::chrono::seconds(150) || config.idle_timeout > std::chrono::hours(24)) {
    return usage_error("idle-timeout: '" + format_duration(config.idle_timeout) + "' is not a time from 150s to 24h");
  }
  if (config.judges.empty() && config.judges_needed != AdmissionConfig().judges_needed) {
    return usage_error("judges-needed: '" + std::to_string(config.judges_needed) +
                       "' of no judges; name whose certificates count with judge, or leave it out");
  }
  return core::check(policy_of(config, PeerId{}, ""));
}

core::AdmissionPolicy policy_of(const AdmissionConfig& config, const PeerId& self, const std::string& run_id) {
  core::AdmissionPolicy policy;
  policy.self = self;
  policy.run_id = run_id;
  policy.denied.insert(config.denied.begin(), config.denied.end());
  if (config.allowed) policy.allowed.emplace(config.allowed->begin(), config.allowed->end());
  policy.judges.insert(config.judges.begin(), config.judges.end());
  policy.judges_needed = config.judges_needed;
  policy.minimum = config.minimum;
  policy.clock_skew = config.clock_skew;
  return policy;
}

}  // namespace papilio::node
