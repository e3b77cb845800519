#include <array>
#include <string>
#include <string_view>

#include "engine/base/units.hpp"
#include "tools/sim/scenario.hpp"

namespace papilio::sim {

namespace {

std::string seconds(Duration duration) { return human_duration(duration); }

std::string rate(std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? "unlimited" : human_rate(8.0 * static_cast<double>(bytes_per_s));
}

std::string_view to_string(Stranger stranger) {
  constexpr std::array<std::string_view, 6> kNames{"",
                                                   "stranger of another model",
                                                   "stranger of another run",
                                                   "stranger of another size",
                                                   "stranger that babbles",
                                                   "stranger that says nothing"};
  return kNames[static_cast<std::size_t>(stranger)];
}

std::string describe(const FrameTrigger& trigger) {
  return (trigger.averages ? "average " : "contribution ") + std::to_string(trigger.count);
}

std::string describe_network(const Scenario& scenario) {
  constexpr std::array<std::string_view, 4> kBorrow{"automatic", "nothing", "contributions", "everything"};
  return "network: latency " + seconds(scenario.network.latency) + ", jitter " + seconds(scenario.network.jitter) +
         ", buffers " + format_size(scenario.network.buffer_bytes) + ", segments up to " +
         std::to_string(scenario.network.largest_segment_bytes) + " bytes; " +
         (scenario.one_machine ? "one machine; " : "") +
         std::string(kBorrow[static_cast<std::size_t>(scenario.borrow)]) + " by reference; " +
         (scenario.averages_first ? "averages" : "contributions") + " first; " +
         (scenario.everybody_dials ? "everybody dials everybody" : "each dials those before it") +
         (scenario.error_feedback ? "" : "; no error feedback") +
         (scenario.roster_keeps_dead ? "; rosters keep the dead" : "") + "\n";
}

std::string describe_host(const HostPlan& host, std::size_t number) {
  std::string kind(to_string(host.stranger));
  if (host.stranger == Stranger::no) kind = host.client ? "client" : "miner";
  return "host " + std::to_string(number) + ": " + kind + ", up " + rate(host.up_bytes_per_s) + ", down " +
         rate(host.down_bytes_per_s) + ", flows " + std::to_string(host.flows) +
         (host.format.is_plain() ? "" : ", sends " + to_string(host.format)) +
         (host.first_round > 0 ? ", started for round " + std::to_string(host.first_round + 1) : "") + "\n";
}

// Empty if the member does what everybody does.
std::string describe_begin(const BeginPlan& begin, Duration timeout) {
  constexpr std::array<std::string_view, 4> kPoisons{"", "NaN in its gradient", "infinity in its gradient",
                                                     "a huge gradient"};
  std::string text;
  const auto add = [&](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
  if (begin.never) add(begin.skips ? "sits it out and says so" : "never begins");
  if (!begin.never && begin.after > times(timeout, 0.05)) add("begins " + seconds(begin.after) + " late");
  if (begin.poison != Poison::none) add(std::string(kPoisons[static_cast<std::size_t>(begin.poison)]));
  if (begin.other_epoch) add("is of another epoch");
  if (begin.other_roster) add("believes in another roster");
  return text;
}

std::string describe_mishap(const MishapPlan& plan) {
  std::string text = "round " + std::to_string(plan.round + 1) + " + " +
                     (plan.trigger.count > 0 ? "its " + describe(plan.trigger) : seconds(plan.after)) + ": host " +
                     std::to_string(plan.host) + " " + std::string(to_string(plan.mishap));
  if (plan.lasts >= Duration::zero()) text += " for " + seconds(plan.lasts);
  if (plan.mishap == Mishap::slow) {
    text += " (up " + std::to_string(plan.up_bytes_per_s) + ", down " + std::to_string(plan.down_bytes_per_s) +
            " bytes/s; 0: as before)";
  }
  return text + (plan.harmless ? ", which nobody may be blamed for\n" : "\n");
}

std::string describe_lie(const LiePlan& plan) {
  const std::string count = plan.count == kAllFrames ? "from there on" : std::to_string(plan.count) + " of them";
  return "round " + std::to_string(plan.round + 1) + ": host " + std::to_string(plan.host) + " lies (" +
         std::string(to_string(plan.lie)) + ") with its " + describe(plan.first) + ", " + count + "\n";
}

}  // namespace

std::string_view to_string(Mishap mishap) {
  constexpr std::array<std::string_view, 7> kNames{"crashes",      "dies silently", "freezes", "is partitioned",
                                                   "becomes slow", "leaves",        "cancels"};
  return kNames[static_cast<std::size_t>(mishap)];
}

std::string_view to_string(Lie lie) {
  constexpr std::array<std::string_view, 27> kNames{
      "model",           "group",         "round ahead",    "round behind",     "not finite",
      "weight",          "duplicate",     "out of range",   "unasked",          "bad size",
      "bad coverage",    "magic",         "version",        "unknown type",     "oversize",
      "header checksum", "table",         "garbage",        "payload checksum", "withheld",
      "early done",      "false suspect", "false takeover", "false holdings",   "false wanted",
      "false resume",    "false pulse"};
  return kNames[static_cast<std::size_t>(lie)];
}

std::string describe(const Scenario& scenario) {
  std::string text = "seed " + std::to_string(scenario.seed) + ": " + std::to_string(scenario.members) + " members, " +
                     std::to_string(scenario.elements) + " elements in chunks of " +
                     std::to_string(scenario.chunk_bytes) + " bytes, " + std::to_string(scenario.rounds.size()) +
                     " rounds, timeout " + seconds(scenario.timeout) +
                     (scenario.period > Duration::zero() ? ", one every " + seconds(scenario.period) : "") + "\n";
  text += describe_network(scenario);
  for (std::size_t i = 0; i < scenario.hosts.size(); ++i) text += describe_host(scenario.hosts[i], i);
  for (std::size_t round = 0; round < scenario.rounds.size(); ++round) {
    for (std::size_t host = 0; host < scenario.rounds[round].members.size(); ++host) {
      const std::string begin = describe_begin(scenario.rounds[round].members[host], scenario.timeout);
      if (begin.empty()) continue;
      text += "round " + std::to_string(round + 1) + ": host " + std::to_string(host) + " " + begin + "\n";
    }
  }
  for (const ByteFaultPlan& fault : scenario.byte_faults) {
    constexpr std::array<std::string_view, 3> kNames{"reset", "corrupt", "truncate"};
    text += std::string(kNames[static_cast<std::size_t>(fault.fault)]) + " at byte " + std::to_string(fault.at_byte) +
            " from host " + std::to_string(fault.from) + " to " + std::to_string(fault.to) + "\n";
  }
  for (const MishapPlan& plan : scenario.mishaps) text += describe_mishap(plan);
  for (const LiePlan& plan : scenario.lies) text += describe_lie(plan);
  return text;
}

}  // namespace papilio::sim
