// Runs many seeds, in processes of their own: a seed that aborts on a broken invariant, or spins, is a finding like any
// other, with its number, and the seeds after it still run.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/sim/scenario.hpp"
#include "tools/sim/world.hpp"

namespace papilio::sim {

struct SeedRange {
  std::uint64_t first = 1;
  std::uint64_t count = 1;
  std::uint32_t jobs = 1;           // processes at a time
  std::uint64_t replay_every = 16;  // every so many seeds one is run twice and has to come out the same; 0: none
  std::uint64_t most_failures = 0;  // stop after so many; 0: go on to the end
  Duration patience = std::chrono::seconds(300);  // of real time, for one seed
};

struct SeedFailure {
  std::uint64_t seed = 0;
  std::string what;
};

// Of all seeds in which this went wrong, whatever else did.
struct FaultSummary {
  std::uint64_t seeds = 0;
  std::uint64_t failures = 0;
  Tally tally;
};

struct Summary {
  std::uint64_t seeds = 0;  // that were run
  std::uint64_t rounds = 0;
  std::uint64_t events = 0;
  std::array<FaultSummary, kFaults> faults;  // by Faults
  std::vector<SeedFailure> failures;         // in order of seeds
};

// In this process. `replay`: run it a second time and hold the two runs against each other.
[[nodiscard]] Outcome run_seed(const Settings& settings, std::uint64_t seed, bool replay);

// `progress` is told how many seeds are done, now and then.
[[nodiscard]] Result<Summary> run_seeds(const Settings& settings, const SeedRange& range,
                                        const std::function<void(const Summary&)>& progress = {});

}  // namespace papilio::sim
