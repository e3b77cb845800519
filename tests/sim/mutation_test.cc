// A checker that never fails proves nothing: every deliberate fault of the core has to be found by the simulator, on
// seeds that the core as it is passes.

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdint>
#include <ostream>
#include <string>

#include "engine/core/mutation.hpp"
#include "tools/sim/runner.hpp"

namespace papilio::core {
Mutation active_mutation = Mutation::none;
}  // namespace papilio::core

namespace papilio::sim {
namespace {

using core::Mutation;

constexpr std::uint64_t kMostSeeds = 60;

// In which a broken core is looked for, after the one that is known to bring it out.
constexpr std::array kProfiles{Faults::mixed, Faults::damaged_bytes, Faults::late,       Faults::crawl,
                               Faults::drip,  Faults::crash,         Faults::non_finite, Faults::wrong_round};

Summary run_with(Mutation mutation, Faults faults, std::uint64_t most_failures) {
  spdlog::set_level(spdlog::level::off);
  core::active_mutation = mutation;
  const Settings settings{.peers = 5, .faults = faults};
  const SeedRange range{.first = 1, .count = kMostSeeds, .replay_every = 0, .most_failures = most_failures};
  auto summary = run_seeds(settings, range);
  core::active_mutation = Mutation::none;
  EXPECT_TRUE(summary.ok());
  return *summary;
}

TEST(BrokenCore, TheCoreAsItIsPasses) {
  for (const Faults faults : kProfiles) {
    const Summary summary = run_with(Mutation::none, faults, 0);
    EXPECT_EQ(summary.seeds, kMostSeeds);
    for (const SeedFailure& failure : summary.failures) {
      ADD_FAILURE() << to_string(faults) << ", seed " << failure.seed << ": " << failure.what;
    }
  }
}

struct Case {
  Mutation mutation;
  const char* name;
  Faults faults = Faults::mixed;  // what brings it out
};

void PrintTo(const Case& broken, std::ostream* out) { *out << broken.name; }

class BrokenCores : public testing::TestWithParam<Case> {};

TEST_P(BrokenCores, IsFound) {
  Summary summary = run_with(GetParam().mutation, GetParam().faults, 1);
  for (const Faults faults : kProfiles) {
    if (summary.failures.empty()) summary = run_with(GetParam().mutation, faults, 1);
  }
  ASSERT_FALSE(summary.failures.empty()) << "not found in " << summary.seeds << " seeds";
  RecordProperty("seeds", std::to_string(summary.seeds));
  RecordProperty("what", summary.failures.front().what);
}

INSTANTIATE_TEST_SUITE_P(All, BrokenCores,
                         testing::Values(Case{Mutation::wrong_denominator, "wrong_denominator"},
                                         Case{Mutation::doubled_contribution, "doubled_contribution"},
                                         Case{Mutation::counted_late_contribution, "counted_late_contribution"},
                                         Case{Mutation::counted_cut_off_member, "counted_cut_off_member"},
                                         Case{Mutation::forgotten_deadline, "forgotten_deadline"},
                                         Case{Mutation::impatient_successor, "impatient_successor", Faults::crash},
                                         Case{Mutation::silent_loss, "silent_loss", Faults::crash},
                                         Case{Mutation::unchecked_numbers, "unchecked_numbers", Faults::non_finite},
                                         Case{Mutation::lost_chunk, "lost_chunk"},
                                         Case{Mutation::skipped_checksum, "skipped_checksum", Faults::damaged_bytes},
                                         Case{Mutation::written_before_check, "written_before_check",
                                              Faults::damaged_bytes},
                                         Case{Mutation::unwritten_average, "unwritten_average"},
                                         Case{Mutation::mixed_rounds, "mixed_rounds", Faults::late},
                                         Case{Mutation::early_release, "early_release"}),
                         [](const testing::TestParamInfo<Case>& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace papilio::sim
