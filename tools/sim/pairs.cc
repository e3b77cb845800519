// The seven pairs of faults that ROUND.md names, each for the first two of five peers. What the words mean here:
//   fail-before     its process ended before the round; the roster still has it
//   slow-sending    its line drops to a trickle when it begins to contribute
//   fail-sending    its process ends when it has sent some contributions
//   slow-reducing   its line drops to a trickle when it begins to send averages
//   fail-reducing   its process ends when it has sent some averages; a client, which sends none, is well
//   cancel          it cancels its round
#include <array>
#include <string_view>
#include <utility>

#include "tools/sim/faults.hpp"
#include "tools/sim/scenario.hpp"

namespace papilio::sim {

namespace {

enum class PairFault : std::uint8_t {
  none,
  fail_before,
  slow_sending,
  fail_sending,
  slow_reducing,
  fail_reducing,
  cancel,
};

struct NamedPair {
  std::string_view name;
  PairFault first, second;
};

constexpr std::array<NamedPair, kPairs> kNamedPairs{{
    {"none/fail-before", PairFault::none, PairFault::fail_before},
    {"fail-before/fail-before", PairFault::fail_before, PairFault::fail_before},
    {"slow-sending/fail-sending", PairFault::slow_sending, PairFault::fail_sending},
    {"fail-sending/fail-before", PairFault::fail_sending, PairFault::fail_before},
    {"slow-reducing/fail-sending", PairFault::slow_reducing, PairFault::fail_sending},
    {"fail-reducing/fail-reducing", PairFault::fail_reducing, PairFault::fail_reducing},
    {"none/cancel", PairFault::none, PairFault::cancel},
}};

void add(Random& random, PairFault fault, std::uint32_t round, std::uint32_t host, Duration usual, Scenario& scenario) {
  MishapPlan plan{.mishap = Mishap::crash, .round = round, .after = {}, .trigger = {}, .host = host};
  const auto some = static_cast<std::uint32_t>(1 + random.below(6));
  const std::uint64_t trickle = log_uniform(random, 20, 20e3);
  switch (fault) {
    case PairFault::none: return;
    case PairFault::fail_before: scenario.rounds[round].members[host].never = true; break;
    case PairFault::slow_sending:
      plan.mishap = Mishap::slow;
      plan.trigger = {.averages = false, .count = 1};
      plan.up_bytes_per_s = trickle;
      break;
    case PairFault::fail_sending: plan.trigger = {.averages = false, .count = some}; break;
    case PairFault::slow_reducing:
      plan.mishap = Mishap::slow;
      plan.trigger = {.averages = true, .count = 1};
      plan.up_bytes_per_s = trickle;
      break;
    case PairFault::fail_reducing: plan.trigger = {.averages = true, .count = some}; break;
    case PairFault::cancel:
      plan.mishap = Mishap::cancel;
      plan.after = uniform(random, Duration::zero(), usual);
      break;
  }
  scenario.mishaps.push_back(plan);
}

}  // namespace

std::uint64_t pair_elements(std::uint64_t scale) { return (16 * 1024 + 3 * 8192 + 4 * 4 * 4 + 1024 * 1024) / scale; }

std::string_view pair_name(std::uint32_t pair) { return kNamedPairs[pair].name; }

void draw_pair(Random& random, std::uint32_t pair, Duration usual, Scenario& scenario) {
  scenario.add_fault(Faults::pairs);
  const NamedPair& named = kNamedPairs[pair];
  // Mostly in the first round; the last one shows whether the rest recovered.
  const std::uint32_t round = random.chance(0.7) ? 0 : static_cast<std::uint32_t>(scenario.rounds.size() - 2);
  const bool swapped = random.chance(0.5);
  add(random, named.first, round, swapped ? 1 : 0, usual, scenario);
  add(random, named.second, round, swapped ? 0 : 1, usual, scenario);
}

}  // namespace papilio::sim
