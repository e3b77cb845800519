// What can go wrong in a simulated group: one name for every row of ROUND.md's table of events, and some more. A
// profile of one of them makes scenarios in which that goes wrong, and nothing else does.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "engine/base/random.hpp"
#include "engine/base/time.hpp"

namespace papilio::sim {

struct Scenario;

enum class Faults : std::uint8_t {
  none,
  honest,
  absent,
  never_starts,
  late,
  connection_lost,
  frozen,
  crash,
  silent,
  restart,
  crawl,
  drip,
  slow_reducer,
  dead_reducer,
  wrong_model,
  wrong_header,
  wrong_epoch,
  wrong_group,
  wrong_round,
  non_finite,
  wild_norm,
  bad_weight,
  bad_shard,
  malformed,
  damaged_bytes,
  truncate,
  everybody_gone,
  refused,
  partition,
  goodbye,
  cancel,
  liar,
  pairs,
  mixed,
};
inline constexpr std::size_t kFaults = static_cast<std::size_t>(Faults::mixed) + 1;

struct FaultProfile {
  Faults faults;
  std::string_view name;  // as on the command line
  std::string_view explanation;
};
// By Faults.
[[nodiscard]] std::span<const FaultProfile> fault_profiles();
[[nodiscard]] std::string_view to_string(Faults faults);
[[nodiscard]] std::optional<Faults> faults_of(std::string_view name);

// Adds to a scenario what the profile wants to go wrong. `usual`: about how long a round takes in which nothing does.
void draw_faults(Random& random, Faults faults, Duration usual, Scenario& scenario);

// The five peers and the tensors of the seven pairs of faults, of which `pair` is one. To be called on an empty
// scenario; `scale` divides the largest tensor's sizes, 1 for those that ROUND.md gives.
inline constexpr std::uint32_t kPairs = 7;
inline constexpr std::uint32_t kPairPeers = 5;
[[nodiscard]] std::uint64_t pair_elements(std::uint64_t scale);
void draw_pair(Random& random, std::uint32_t pair, Duration usual, Scenario& scenario);
[[nodiscard]] std::string_view pair_name(std::uint32_t pair);

// Logarithmic draws: small positions and sizes matter as much as large ones.
[[nodiscard]] std::uint64_t log_uniform(Random& random, double least, double most);
[[nodiscard]] Duration uniform(Random& random, Duration least, Duration most);
[[nodiscard]] inline Duration times(Duration duration, double factor) {
  return from_seconds(to_seconds(duration) * factor);
}

}  // namespace papilio::sim
