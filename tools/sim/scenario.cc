#include "tools/sim/scenario.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <utility>

#include "engine/base/random.hpp"
#include "engine/base/units.hpp"

namespace papilio::sim {

namespace {

constexpr std::array<FaultProfile, 13> kProfiles{{
    {Faults::none, "none", "nothing goes wrong: nobody may be cut off, coverage is full"},
    {Faults::resets, "resets", "connections are lost at a random byte"},
    {Faults::crash, "crash", "processes end in the middle of a round; their connections are reset"},
    {Faults::silent, "silent", "machines die without a word, or freeze, some of them for a while"},
    {Faults::corrupt, "corrupt", "one byte between two members arrives changed"},
    {Faults::truncate, "truncate", "a connection ends early, and only its reader is told"},
    {Faults::late, "late", "members begin a round long after the others, after its deadline, or never"},
    {Faults::partition, "partition", "nothing passes between two halves of the group for a while"},
    {Faults::slow, "slow", "a machine's line drops to a trickle"},
    {Faults::goodbye, "goodbye", "members leave in the middle of a round"},
    {Faults::cancel, "cancel", "members cancel their round"},
    {Faults::wrong_model, "wrong-model", "nodes of another model dial in"},
    {Faults::mixed, "mixed", "any of these, several at once"},
}};

// Positions in the byte streams and sizes are drawn on a logarithmic scale: small ones matter as much as large ones.
std::uint64_t log_uniform(Random& random, double least, double most) {
  return static_cast<std::uint64_t>(least * std::pow(most / least, random.uniform()));
}
Duration uniform(Random& random, Duration least, Duration most) {
  return least + Duration(random.below(static_cast<std::uint64_t>((most - least).count()) + 1));
}
Duration times(Duration duration, double factor) { return from_seconds(to_seconds(duration) * factor); }

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
        begin.after = uniform(random, Duration::zero(), std::min(times(scenario.timeout, 0.05), times(usual, 2)));
      }
      plan.members.push_back(begin);
    }
    scenario.rounds.push_back(std::move(plan));
  }
}

// ---- faults

class FaultDrawer {
 public:
  FaultDrawer(Random& random, Scenario& scenario, Duration usual)
      : random_(random), scenario_(scenario), usual_(usual) {}

  void draw(Faults faults) {
    switch (faults) {
      case Faults::none: return;
      case Faults::resets: return byte_fault(transport::SimFault::reset);
      case Faults::corrupt: return byte_fault(transport::SimFault::corrupt);
      case Faults::truncate: return byte_fault(transport::SimFault::truncate);
      case Faults::crash: return mishap(Mishap::crash);
      case Faults::silent: return mishap(random_.chance(0.4) ? Mishap::vanish : Mishap::freeze);
      case Faults::partition: return mishap(Mishap::partition);
      case Faults::slow: return mishap(Mishap::slow);
      case Faults::goodbye: return mishap(Mishap::goodbye);
      case Faults::cancel: return mishap(Mishap::cancel);
      case Faults::late: return late();
      case Faults::wrong_model: return stranger();
      case Faults::mixed: return draw(kProfiles[1 + random_.below(kProfiles.size() - 2)].faults);
    }
  }

 private:
  std::uint32_t any_member() { return static_cast<std::uint32_t>(random_.below(scenario_.members)); }
  // The last round shows whether the group recovered: nothing new goes wrong in it.
  std::uint32_t any_round() {
    const std::size_t most = std::max<std::size_t>(1, scenario_.rounds.size() - 1);
    return static_cast<std::uint32_t>(random_.below(most));
  }

  void byte_fault(transport::SimFault fault) {
    if (scenario_.members < 2) return;
    ByteFaultPlan plan{.fault = fault, .from = any_member(), .to = any_member(), .at_byte = 0};
    if (plan.from == plan.to || !pairs_.insert(std::minmax(plan.from, plan.to)).second) return;
    const double per_round = static_cast<double>(scenario_.elements * sizeof(float)) * 2 / scenario_.members + 1000;
    const double rounds = static_cast<double>(scenario_.rounds.size());
    plan.at_byte =
        random_.chance(0.2) ? random_.below(500) : random_.below(static_cast<std::uint64_t>(per_round * rounds));
    scenario_.byte_faults.push_back(plan);
  }

  void mishap(Mishap kind) {
    MishapPlan plan{.mishap = kind, .round = any_round(), .host = any_member()};
    plan.after = random_.chance(0.8) ? uniform(random_, Duration::zero(), usual_)
                                     : uniform(random_, Duration::zero(), scenario_.timeout);
    if (kind == Mishap::freeze && random_.chance(0.7)) {
      plan.lasts = uniform(random_, Duration::zero(), times(scenario_.timeout, 2));
    }
    if (kind == Mishap::partition) {
      if (scenario_.members < 2) return;
      plan.lasts = uniform(random_, Duration::zero(), times(scenario_.timeout, 1.5));
      const std::uint64_t everybody =
          scenario_.members == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << scenario_.members) - 1;
      plan.others = random_.next() & everybody & ~(std::uint64_t{1} << plan.host);
      // One partition at a time: healing heals all.
      if (std::exchange(partitioned_, true)) return;
    }
    if (kind == Mishap::slow) plan.bytes_per_s = log_uniform(random_, 20, 20e3);
    scenario_.mishaps.push_back(plan);
  }

  void late() {
    BeginPlan& begin = scenario_.rounds[any_round()].members[any_member()];
    begin.never = random_.chance(0.3);
    begin.skips = random_.chance(0.5);
    begin.after = uniform(random_, times(scenario_.timeout, 0.3), times(scenario_.timeout, 2.5));
  }

  void stranger() {
    HostPlan host = scenario_.hosts.front();
    host.client = random_.chance(0.5);
    host.stranger = true;
    if (scenario_.hosts.size() < scenario_.members + 3) scenario_.hosts.push_back(host);
  }

  Random& random_;
  Scenario& scenario_;
  Duration usual_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> pairs_;
  bool partitioned_ = false;
};

}  // namespace

std::span<const FaultProfile> fault_profiles() { return kProfiles; }

std::string_view to_string(Faults faults) { return kProfiles[static_cast<std::size_t>(faults)].name; }

std::optional<Faults> faults_of(std::string_view name) {
  for (const FaultProfile& profile : kProfiles) {
    if (profile.name == name) return profile.faults;
  }
  return std::nullopt;
}

std::string_view to_string(Mishap mishap) {
  constexpr std::array<std::string_view, 7> kNames{"crashes",      "dies silently", "freezes", "is partitioned",
                                                   "becomes slow", "leaves",        "cancels"};
  return kNames[static_cast<std::size_t>(mishap)];
}

Scenario draw_scenario(const Settings& settings, std::uint64_t seed) {
  Random random(Random::mix(seed + 0x9e3779b97f4a7c15U));
  Scenario scenario;
  scenario.seed = seed;
  scenario.members = settings.peers;
  scenario.elements = draw_elements(random);
  // A few chunks to a few dozen in all.
  const std::uint64_t bytes = std::max<std::uint64_t>(64, scenario.elements * sizeof(float));
  scenario.chunk_bytes = std::bit_ceil(
      std::max<std::uint64_t>(16, log_uniform(random, static_cast<double>(bytes) / 64, static_cast<double>(bytes))));
  draw_network(random, scenario);
  draw_hosts(random, scenario);

  const Duration generous = generous_round_time(scenario);
  const Duration usual = scenario.network.latency * 6 + times(generous, 0.3);
  scenario.timeout = std::max(Duration(std::chrono::seconds(5)), times(generous, 8 + 8 * random.uniform()));
  scenario.averages_first = random.chance(0.5);
  scenario.one_machine = random.chance(0.4);
  scenario.borrow = static_cast<node::Borrow>(1 + random.below(3));
  scenario.roster_keeps_dead = random.chance(0.5);
  scenario.pool_bytes_limit = std::size_t{64} << 20U;
  draw_rounds(random, scenario,
              settings.rounds != 0 ? settings.rounds : 2 + static_cast<std::uint32_t>(random.below(3)), usual);

  FaultDrawer drawer(random, scenario, usual);
  const std::uint64_t faults = settings.faults == Faults::mixed ? random.below(5) : 1 + random.below(3);
  for (std::uint64_t i = 0; i < faults; ++i) drawer.draw(settings.faults);
  // With slabs for a few flows only, members wait for each other; that is for groups in which everybody is well.
  if (scenario.is_calm() && settings.faults == Faults::none && random.chance(0.3)) {
    scenario.pool_bytes_limit = 4096 * (1 + random.below(4));
  }
  if (settings.faults != Faults::none && random.chance(0.2))
    scenario.period = times(scenario.timeout, 0.2 + random.uniform());
  return scenario;
}

std::string describe(const Scenario& scenario) {
  const auto seconds = [](Duration duration) { return human_duration(duration); };
  std::string text = "seed " + std::to_string(scenario.seed) + ": " + std::to_string(scenario.members) + " members, " +
                     std::to_string(scenario.elements) + " elements in chunks of " +
                     std::to_string(scenario.chunk_bytes) + " bytes, " + std::to_string(scenario.rounds.size()) +
                     " rounds, timeout " + seconds(scenario.timeout) +
                     (scenario.period > Duration::zero() ? ", one every " + seconds(scenario.period) : "") + "\n";
  text += "network: latency " + seconds(scenario.network.latency) + ", jitter " + seconds(scenario.network.jitter) +
          ", buffers " + format_size(scenario.network.buffer_bytes) + ", segments up to " +
          std::to_string(scenario.network.largest_segment_bytes) + " bytes; " +
          (scenario.one_machine ? "one machine; " : "") +
          std::array{"automatic", "nothing", "contributions", "everything"}[static_cast<std::size_t>(scenario.borrow)] +
          " by reference; " + (scenario.everybody_dials ? "everybody dials everybody" : "each dials those before it") +
          (scenario.roster_keeps_dead ? "; rosters keep the dead" : "") + "\n";
  for (std::size_t i = 0; i < scenario.hosts.size(); ++i) {
    const HostPlan& host = scenario.hosts[i];
    text += "host " + std::to_string(i) + ": " +
            (host.stranger ? "stranger"
             : host.client ? "client"
                           : "miner") +
            ", up " +
            (host.up_bytes_per_s == 0 ? "unlimited" : human_rate(8.0 * static_cast<double>(host.up_bytes_per_s))) +
            ", down " +
            (host.down_bytes_per_s == 0 ? "unlimited" : human_rate(8.0 * static_cast<double>(host.down_bytes_per_s))) +
            ", flows " + std::to_string(host.flows) + "\n";
  }
  for (std::size_t round = 0; round < scenario.rounds.size(); ++round) {
    for (std::size_t host = 0; host < scenario.rounds[round].members.size(); ++host) {
      const BeginPlan& begin = scenario.rounds[round].members[host];
      if (begin.never) {
        text += "round " + std::to_string(round) + ": host " + std::to_string(host) + " sits it out\n";
      } else if (begin.after > times(scenario.timeout, 0.05)) {
        text += "round " + std::to_string(round) + ": host " + std::to_string(host) + " begins " +
                seconds(begin.after) + " late\n";
      }
    }
  }
  for (const ByteFaultPlan& fault : scenario.byte_faults) {
    constexpr std::array<std::string_view, 3> kNames{"reset", "corrupt", "truncate"};
    text += std::string(kNames[static_cast<std::size_t>(fault.fault)]) + " at byte " + std::to_string(fault.at_byte) +
            " from host " + std::to_string(fault.from) + " to " + std::to_string(fault.to) + "\n";
  }
  for (const MishapPlan& plan : scenario.mishaps) {
    text += "round " + std::to_string(plan.round) + " + " + seconds(plan.after) + ": host " +
            std::to_string(plan.host) + " " + std::string(to_string(plan.mishap)) +
            (plan.lasts >= Duration::zero() ? " for " + seconds(plan.lasts) : "") +
            (plan.bytes_per_s > 0 ? " (" + std::to_string(plan.bytes_per_s) + " bytes/s)" : "") + "\n";
  }
  return text;
}

}  // namespace papilio::sim
