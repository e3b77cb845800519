#include "tools/sim/scenario.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "engine/base/random.hpp"
#include "engine/core/peer_timers.hpp"

namespace papilio::sim {

namespace {

std::uint64_t draw_elements(Random& random) {
  switch (random.below(8)) {
    case 0: return std::array<std::uint64_t, 4>{0, 1, 2, 3}[random.below(4)];
    case 1: return 1 + 2 * random.below(50);
    case 7: return 4000 + random.below(16000);
    default: return log_uniform(random, 10, 6000);
  }
}

void draw_network(Random& random, Scenario& scenario) {
  transport::SimOptions& network = scenario.network;
  network.latency = Duration(log_uniform(random, 20e3, 100e6));
  network.jitter = random.chance(0.3) ? Duration::zero() : times(network.latency, random.uniform());
  network.buffer_bytes = std::size_t{1} << (12 + random.below(8));
  const std::uint64_t gradient_bytes = scenario.elements * sizeof(float);
  // Tiny segments only where there is little to cut: a scenario has to stay quick.
  const std::uint64_t least_segment = std::max<std::uint64_t>(16, gradient_bytes * scenario.members / 512);
  network.largest_segment_bytes = std::max<std::uint64_t>(least_segment, log_uniform(random, 16, 65536));
  network.odd_segment_chance = random.chance(0.5) ? 0 : 0.5 * random.uniform();
}

// A connection carries its buffer per round trip. Nobody qualifies with one that this holds below the rate at which a
// member is cut off for crawling.
void widen_buffers(Scenario& scenario) {
  transport::SimOptions& network = scenario.network;
  const double least_rate = 2 * core::LatenessConfig{}.minimum_rate_bytes_per_s /
                            static_cast<double>(std::max<std::uint32_t>(1, scenario.members - 1));
  const double bytes = least_rate * 2 * to_seconds(network.latency + network.jitter);
  network.buffer_bytes = std::max(network.buffer_bytes, std::bit_ceil(static_cast<std::size_t>(bytes)));
}

void draw_hosts(Random& random, Scenario& scenario) {
  const double least_rate = scenario.members > 16 ? 10e6 : 1e6;
  const bool unlimited = random.chance(0.3);
  const bool rates_known = random.chance(0.5);
  const bool with_clients = scenario.members > 1 && random.chance(0.4);
  for (std::uint32_t i = 0; i < scenario.members; ++i) {
    HostPlan host;
    if (!unlimited) {
      host.up_bytes_per_s = log_uniform(random, least_rate, 200e6);
      host.down_bytes_per_s = random.chance(0.5) ? host.up_bytes_per_s : log_uniform(random, least_rate, 200e6);
    }
    if (rates_known) host.announced_rate = unlimited ? log_uniform(random, 1e6, 1e9) : host.up_bytes_per_s;
    host.flows = static_cast<std::uint16_t>(1 + random.below(3));
    host.client = with_clients && random.chance(0.3);
    scenario.hosts.push_back(host);
  }
  const bool any_miner =
      std::any_of(scenario.hosts.begin(), scenario.hosts.end(), [](const HostPlan& host) { return !host.client; });
  if (!any_miner) scenario.hosts.front().client = false;
  scenario.everybody_dials = random.chance(0.5);
}

// Time for one round in which nothing goes wrong, generously: every byte of the group through the slowest line, and
// every connection no faster than its buffer per round trip.
Duration generous_round_time(const Scenario& scenario) {
  double slowest = 1e9;
  for (const HostPlan& host : scenario.hosts) {
    if (host.up_bytes_per_s > 0) {
      slowest =
          std::min({slowest, static_cast<double>(host.up_bytes_per_s), static_cast<double>(host.down_bytes_per_s)});
    }
  }
  const double chunks =
      static_cast<double>(scenario.elements * sizeof(float)) / static_cast<double>(scenario.chunk_bytes) +
      static_cast<double>(scenario.members);
  const double bytes = static_cast<double>(scenario.elements * sizeof(float)) + 256 * chunks;
  const double latency_s = to_seconds(scenario.network.latency + scenario.network.jitter);
  const double window_s = 2 * bytes / static_cast<double>(scenario.network.buffer_bytes) * 2 * latency_s;
  return from_seconds(2 * bytes * scenario.members / slowest + window_s + 8 * latency_s);
}

void draw_rounds(Random& random, Scenario& scenario, std::uint32_t rounds, Duration usual) {
  const bool equal_weights = random.chance(0.3);
  for (std::uint32_t round = 0; round < rounds; ++round) {
    RoundPlan plan;
    plan.pause = random.chance(0.3) ? Duration::zero() : uniform(random, Duration::zero(), usual);
    const bool together = random.chance(0.3);
    for (std::uint32_t host = 0; host < scenario.members; ++host) {
      BeginPlan begin;
      begin.weight = equal_weights        ? 1.0
                     : random.chance(0.5) ? static_cast<double>(1 + random.below(1000))
                                          : 0.01 + 10 * random.uniform();
      // Members that are well begin within a twentieth of the timeout.
      if (!together) {
        begin.after =
            uniform(random, Duration::zero(),
                    std::min({times(scenario.timeout, 0.05), times(usual, 2), Duration(std::chrono::seconds(3))}));
      }
      plan.members.push_back(begin);
    }
    scenario.rounds.push_back(std::move(plan));
  }
}

// From numbers of its own: the rest of a seed's scenario is the same with and without.
void draw_formats(Scenario& scenario) {
  Random random(Random::mix(scenario.seed ^ 0xc0dec0dec0dec0deU));
  scenario.error_feedback = random.chance(0.75);
  if (random.chance(0.6)) return;
  const bool all_alike = random.chance(0.5);
  for (HostPlan& host : scenario.hosts) {
    host.format.codec = static_cast<transport::Codec>(random.below(4));
    if (random.chance(0.25)) host.format.compression = transport::Compression::zstd;
    if (all_alike) host.format = scenario.hosts.front().format;
  }
}

Duration draw_timeout(Random& random, const Settings& settings, Duration generous) {
  // Rounds in which somebody has to be found out take longer than any grace; a few are too short for that.
  const bool is_short = settings.faults == Faults::none || (settings.faults != Faults::honest && random.chance(0.25));
  const Duration least = std::chrono::seconds(is_short ? 5 : 20 + static_cast<int>(random.below(21)));
  return std::max(least, times(generous, 8 + 8 * random.uniform()));
}

std::uint32_t draw_members(Random& random, const Settings& settings) {
  if (settings.faults == Faults::pairs) return kPairPeers;
  if (settings.most_peers <= settings.peers) return settings.peers;
  // Small groups are where majorities are tight, and they are quick; large ones cost the square of their size.
  const double part = random.uniform() * random.uniform();
  const double ratio = (settings.most_peers + 0.999) / settings.peers;
  return static_cast<std::uint32_t>(settings.peers * std::pow(ratio, part));
}

std::uint32_t draw_round_count(Random& random, std::uint32_t members) {
  return 2 + static_cast<std::uint32_t>(random.below(members > 24 ? 1 : 3));
}

}  // namespace

Scenario draw_scenario(const Settings& settings, std::uint64_t seed) {
  Random random(Random::mix(seed + 0x9e3779b97f4a7c15U));
  Scenario scenario;
  scenario.seed = seed;
  scenario.members = draw_members(random, settings);
  const bool is_pair = settings.faults == Faults::pairs;
  scenario.elements = is_pair ? pair_elements(settings.full_size ? 1 : 64) : draw_elements(random);
  // A few chunks to a few dozen in all.
  const std::uint64_t bytes = std::max<std::uint64_t>(64, scenario.elements * sizeof(float));
  scenario.chunk_bytes = std::bit_ceil(
      std::max<std::uint64_t>(16, log_uniform(random, static_cast<double>(bytes) / 64, static_cast<double>(bytes))));
  draw_network(random, scenario);
  draw_hosts(random, scenario);
  draw_formats(scenario);
  if (is_pair) {
    for (std::uint32_t host = 0; host < scenario.members; ++host) scenario.hosts[host].client = host == 1;
  }

  const Duration generous = generous_round_time(scenario);
  const Duration usual = scenario.network.latency * 6 + times(generous, 0.3);
  scenario.timeout = draw_timeout(random, settings, generous);
  scenario.averages_first = random.chance(0.5);
  scenario.one_machine = random.chance(0.4);
  scenario.borrow = static_cast<node::Borrow>(1 + random.below(3));
  scenario.roster_keeps_dead = random.chance(0.5);
  scenario.pool_bytes_limit = std::size_t{64} << 20U;
  draw_rounds(random, scenario, settings.rounds != 0 ? settings.rounds : draw_round_count(random, scenario.members),
              usual);

  if (is_pair) {
    draw_pair(random, static_cast<std::uint32_t>(seed % kPairs), usual, scenario);
    return scenario;
  }
  draw_faults(random, settings.faults, usual, scenario);
  widen_buffers(scenario);
  // With slabs for a few flows only, members wait for each other; that is for groups in which everybody is well.
  if (scenario.is_calm() && settings.faults == Faults::none && random.chance(0.3)) {
    scenario.pool_bytes_limit = 4096 * (1 + random.below(4));
  }
  const bool may_overlap = settings.faults != Faults::none && settings.faults != Faults::honest;
  if (may_overlap && random.chance(0.2)) scenario.period = times(scenario.timeout, 0.2 + random.uniform());
  return scenario;
}

}  // namespace papilio::sim
