#include "tools/sim/host_config.hpp"

#include <limits>

#include "engine/base/random.hpp"

namespace papilio::sim {

namespace {

constexpr std::uint16_t kPort = 7000;

PeerId peer_id(std::uint64_t seed, std::uint32_t host) {
  Random random(Random::mix(seed) + host);
  PeerId id;
  for (std::uint8_t& byte : id.bytes) byte = static_cast<std::uint8_t>(random.below(256));
  return id;
}

void add_poison(Random& random, Poison poison, std::vector<float>& gradient) {
  if (gradient.empty() || poison == Poison::none) return;
  if (poison == Poison::huge) {
    // Finite, and still so as an average, but not when it is multiplied by a large weight.
    for (float& value : gradient) value *= 1e33F;
    return;
  }
  const float value = poison == Poison::not_a_number ? std::numeric_limits<float>::quiet_NaN()
                      : random.chance(0.5)           ? std::numeric_limits<float>::infinity()
                                                     : -std::numeric_limits<float>::infinity();
  for (std::uint64_t count = 1 + random.below(3); count > 0; --count) gradient[random.below(gradient.size())] = value;
}

}  // namespace

node::MeshConfig mesh_config(const Scenario& scenario, std::uint32_t host) {
  const HostPlan& plan = scenario.hosts[host];
  node::MeshConfig mesh;
  mesh.self = peer_id(scenario.seed, host);
  mesh.fingerprint = {.low = plan.stranger == Stranger::of_another_model ? std::uint64_t{666} : 1, .high = 2};
  mesh.run_id = plan.stranger == Stranger::of_another_run ? "another" : "simulated";
  mesh.role = plan.client ? transport::WireRole::client : transport::WireRole::miner;
  mesh.elements = scenario.elements + (plan.stranger == Stranger::of_another_size ? 1 : 0);
  mesh.rate_bytes_per_s = plan.announced_rate;
  mesh.flows = plan.flows;
  mesh.one_machine = scenario.one_machine;
  mesh.seed = Random::mix(scenario.seed ^ (host + 1));
  if (!plan.client) mesh.listen = transport::Address::simulated(host, kPort);
  for (std::uint32_t other = 0; other < scenario.hosts.size(); ++other) {
    const bool dials = scenario.everybody_dials || plan.client || plan.stranger != Stranger::no || other < host;
    if (other == host || scenario.hosts[other].client || !dials) continue;
    mesh.peers.push_back(transport::Address::simulated(other, kPort));
  }
  return mesh;
}

node::RoundDriverConfig driver_config(const Scenario& scenario, std::uint32_t host) {
  node::RoundDriverConfig rounds;
  rounds.self = peer_id(scenario.seed, host);
  rounds.pool_bytes_limit = scenario.pool_bytes_limit;
  rounds.borrow = scenario.borrow;
  rounds.format = scenario.hosts[host].format;
  rounds.error_feedback = scenario.error_feedback;
  rounds.order = scenario.averages_first ? core::RoundOrder::averages_first : core::RoundOrder::contributions_first;
  return rounds;
}

std::vector<float> draw_gradient(const Scenario& scenario, std::uint32_t host, std::size_t round) {
  Random random(Random::mix(scenario.seed + 1) ^ Random::mix((std::uint64_t{host} << 32U) + round + 1));
  const float scale = random.chance(0.5) ? 1.0F : static_cast<float>(1e-3 + 1e3 * random.uniform());
  std::vector<float> gradient(scenario.elements);
  for (float& value : gradient) value = scale * static_cast<float>(random.uniform() - 0.5);
  for (float& value : gradient) {
    if (random.chance(0.01)) value = -0.0F;
  }
  add_poison(random, scenario.rounds[round].members[host].poison, gradient);
  return gradient;
}

}  // namespace papilio::sim
