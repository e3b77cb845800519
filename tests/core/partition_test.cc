// Plans drawn at random tile the gradient and cost what the best plan costs; the corner cases of size, membership and
// rates are named one by one.
#include "engine/core/partition.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio {
namespace {

constexpr std::size_t kChunkBytes = kMinimumChunkBytes;

std::vector<PlanMember> alike(std::size_t count) { return std::vector<PlanMember>(count); }

std::vector<PlanMember> with_rates(const std::vector<double>& rates) {
  std::vector<PlanMember> members;
  members.reserve(rates.size());
  for (const double rate : rates) members.push_back({.rate = rate});
  return members;
}

// Everything that holds for every plan.
void expect_sound(const PartitionPlan& plan, std::uint64_t elements, std::span<const PlanMember> members) {
  ASSERT_EQ(plan.elements(), elements);
  ASSERT_EQ(plan.members(), members.size());
  const bool anybody = std::any_of(members.begin(), members.end(), [](const PlanMember& m) { return m.reduces; });
  std::uint64_t end = 0;
  ChunkIndex chunk = 0;
  for (MemberIndex member = 0; member < members.size(); ++member) {
    const Range part = plan.part(member);
    ASSERT_EQ(part.begin, end);
    end = part.end();
    ASSERT_EQ(plan.first_chunk(member), chunk);
    if (!members[member].reduces) {
      ASSERT_EQ(part.size, 0U);
    }
    std::uint64_t inner = part.begin;
    for (ChunkIndex i = 0; i < plan.chunks(member); ++i, ++chunk) {
      ASSERT_EQ(plan.reducer(chunk), member);
      const Range range = plan.chunk(chunk);
      ASSERT_EQ(range.begin, inner);
      ASSERT_GT(range.size, 0U);
      ASSERT_LE(range.size, plan.chunk_elements());
      if (i + 1 < plan.chunks(member)) {
        ASSERT_EQ(range.size, plan.chunk_elements());
      }
      inner = range.end();
    }
    ASSERT_EQ(inner, end);
  }
  ASSERT_EQ(end, anybody ? elements : 0U);
  ASSERT_EQ(chunk, plan.chunk_count());
}

// The least time by bisection over T, straight from the definition; in seconds, for `bytes`.
double best_time_s(std::span<const PlanMember> members, double bytes) {
  const auto n = static_cast<double>(members.size());
  double low = 0, high = 0;
  for (const PlanMember& member : members) {
    low = std::max(low, 1 / member.rate);
    high = std::max(high, n / member.rate);
  }
  for (int step = 0; step < 200; ++step) {
    const double middle = (low + high) / 2;
    double room = 0;
    for (const PlanMember& member : members) {
      if (member.reduces) room += std::max(0.0, (middle * member.rate - 1) / (n - 2));
    }
    (room >= 1 ? high : low) = middle;
  }
  return high * bytes;
}

TEST(Partition, EverySizeAndGroupIsTiled) {
  for (const std::uint64_t elements : {0ULL, 1ULL, 3ULL, 1023ULL, 1024ULL, 1025ULL, 203'530ULL, 16'777'216ULL}) {
    for (std::uint32_t count = 1; count <= kMaximumMembers; ++count) {
      const std::vector<PlanMember> members = alike(count);
      const PartitionPlan plan = PartitionPlan::make(elements, members, kChunkBytes);
      expect_sound(plan, elements, members);
      // Nobody's part is out of line by more than two grains.
      std::uint64_t smallest = elements, largest = 0;
      for (MemberIndex i = 0; i < count; ++i) {
        smallest = std::min(smallest, plan.part(i).size);
        largest = std::max(largest, plan.part(i).size);
      }
      EXPECT_LE(largest - smallest, std::max<std::uint64_t>(1, elements / count / 4)) << elements << ", " << count;
    }
  }
}

TEST(Partition, RandomPlansAreTiled) {
  Random random(5);
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t elements = random.below(std::uint64_t{1} << (1 + random.below(26)));
    std::vector<PlanMember> members(1 + random.below(kMaximumMembers));
    for (PlanMember& member : members) {
      member.reduces = !random.chance(0.3);
      if (random.chance(0.8)) member.rate = std::exp2(40 * random.uniform());
    }
    const std::size_t chunk_bytes = std::size_t{1} << (8 + random.below(15));
    const PartitionPlan plan = PartitionPlan::make(elements, members, chunk_bytes);
    expect_sound(plan, elements, members);
    if (::testing::Test::HasFatalFailure()) FAIL() << "round " << round;
    EXPECT_EQ(plan, PartitionPlan::make(elements, members, chunk_bytes));
  }
}

TEST(Partition, LargePartsStartOnPages) {
  const std::vector<PlanMember> members = with_rates({20e6, 31e6, 7e6, 25e6, 25e6});
  for (const std::uint64_t elements : {203'530ULL, 16'777'216ULL, 16'777'217ULL}) {
    const PartitionPlan plan = PartitionPlan::make(elements, members, kChunkBytes);
    for (MemberIndex i = 0; i < members.size(); ++i) {
      if (plan.part(i).size > 0) {
        EXPECT_EQ(plan.part(i).begin % 1024, 0U) << elements;
      }
    }
    for (ChunkIndex chunk = 0; chunk < plan.chunk_count(); ++chunk) EXPECT_EQ(plan.chunk(chunk).begin % 1024, 0U);
  }
}

TEST(Partition, EqualRatesGiveEqualParts) {
  for (const double rate : {0.0, 25e6}) {
    const PartitionPlan plan = PartitionPlan::make(16'777'216, with_rates({rate, rate, rate, rate}), 262'144);
    for (MemberIndex i = 0; i < 4; ++i) EXPECT_EQ(plan.part(i), (Range{i * 4'194'304ULL, 4'194'304ULL}));
    EXPECT_EQ(plan.chunk_count(), 256U);
    EXPECT_EQ(plan.chunk_elements(), 65'536U);
  }
}

TEST(Partition, TwoMembersShareEquallyWhateverTheirRates) {
  const std::vector<PlanMember> members = with_rates({1e6, 9e6});
  const PartitionPlan plan = PartitionPlan::make(std::uint64_t{8192} * 4, members, kChunkBytes);
  EXPECT_EQ(plan.part(0).size, plan.part(1).size);
  EXPECT_DOUBLE_EQ(finish_time_s(members, plan), 8192 * 16 / 1e6);
}

TEST(Partition, OneMemberAloneMovesNothing) {
  const std::vector<PlanMember> members = with_rates({1e6});
  const PartitionPlan plan = PartitionPlan::make(5000, members, kChunkBytes);
  EXPECT_EQ(plan.part(0), (Range{0, 5000}));
  EXPECT_EQ(finish_time_s(members, plan), 0);
}

TEST(Partition, ThreeFastAndOneSlowMeetTheBound) {
  const double fast = 200e6 / 8, slow = 50e6 / 8;
  const std::vector<PlanMember> members = with_rates({fast, slow, fast, fast});
  const PartitionPlan plan = PartitionPlan::make(16'777'216, members, 262'144);
  // The slow one needs all its time for its own values: S / rate, and reduces nothing; the others share alike.
  EXPECT_EQ(plan.part(1).size, 0U);
  EXPECT_NEAR(static_cast<double>(plan.part(0).size), 16'777'216 / 3.0, 1024);
  EXPECT_DOUBLE_EQ(finish_time_s(members, plan), 16'777'216 * 4 / slow);
}

TEST(Partition, UnevenRatesMeetTheClosedForm) {
  // All take part: T = (n - 2 + k) / R = 8 / 1000 per byte at unit 1e6; f = ((8 r - R) / (3 R)).
  const std::vector<PlanMember> members = with_rates({300e6, 200e6, 200e6, 150e6, 150e6});
  const std::uint64_t elements = 30'000'000;
  const PartitionPlan plan = PartitionPlan::make(elements, members, 262'144);
  EXPECT_NEAR(static_cast<double>(plan.part(0).size) / 3e7, 1400.0 / 3000, 1e-4);
  EXPECT_NEAR(static_cast<double>(plan.part(1).size) / 3e7, 600.0 / 3000, 1e-4);
  EXPECT_NEAR(static_cast<double>(plan.part(4).size) / 3e7, 200.0 / 3000, 1e-4);
  EXPECT_NEAR(finish_time_s(members, plan), 8e-9 * 4 * 3e7, 0.002 * 0.96);
}

TEST(Partition, FinishTimeIsWithinHalfAPercentOfTheBest) {
  Random random(17);
  for (int round = 0; round < 2000; ++round) {
    std::vector<PlanMember> members(3 + random.below(6));
    bool anybody = false;
    for (PlanMember& member : members) {
      member.reduces = random.chance(0.8);
      member.rate = 1e6 * std::exp2(6 * random.uniform());
      anybody = anybody || member.reduces;
    }
    if (!anybody) members[0].reduces = true;
    const std::uint64_t elements = 16'777'216 + random.below(1000);
    const PartitionPlan plan = PartitionPlan::make(elements, members, 262'144);
    const double best = best_time_s(members, static_cast<double>(elements) * 4);
    EXPECT_LE(finish_time_s(members, plan), 1.005 * best) << round;
    EXPECT_GE(finish_time_s(members, plan), 0.999 * best) << round;
  }
}

// The bisection above shares its algebra with the plan; this search over a grid of fractions shares nothing.
TEST(Partition, NoGridPointBeatsThePlan) {
  Random random(29);
  for (int round = 0; round < 40; ++round) {
    std::vector<PlanMember> members(4);
    for (PlanMember& member : members) member.rate = 1e6 * (1 + 9 * random.uniform());
    const double elements = 16'777'216;
    const PartitionPlan plan = PartitionPlan::make(16'777'216, members, 262'144);
    double best = std::numeric_limits<double>::infinity();
    const int steps = 60;
    for (int a = 0; a <= steps; ++a) {
      for (int b = 0; a + b <= steps; ++b) {
        for (int c = 0; a + b + c <= steps; ++c) {
          const int counts[] = {a, b, c, steps - a - b - c};
          double time = 0;
          for (std::size_t i = 0; i < 4; ++i) {
            const double fraction = counts[i] / static_cast<double>(steps);
            time = std::max(time, ((1 - fraction) + 3 * fraction) * 4 * elements / members[i].rate);
          }
          best = std::min(best, time);
        }
      }
    }
    EXPECT_LE(finish_time_s(members, plan), 1.005 * best) << round;
  }
}

TEST(Partition, ClientsReduceNothingAndReducersShareTheRest) {
  std::vector<PlanMember> members = alike(5);
  members[0].reduces = members[3].reduces = false;
  const PartitionPlan plan = PartitionPlan::make(std::uint64_t{3} * 65'536, members, kChunkBytes);
  EXPECT_EQ(plan.part(0), (Range{0, 0}));
  EXPECT_EQ(plan.part(1), (Range{0, 65'536}));
  EXPECT_EQ(plan.part(2), (Range{65'536, 65'536}));
  EXPECT_EQ(plan.part(3), (Range{131'072, 0}));
  EXPECT_EQ(plan.part(4), (Range{131'072, 65'536}));
  EXPECT_EQ(plan.chunks(3), 0U);
  EXPECT_EQ(plan.reducer(plan.first_chunk(3)), 4U);
}

TEST(Partition, NobodyReduces) {
  std::vector<PlanMember> members = alike(3);
  for (PlanMember& member : members) member.reduces = false;
  const PartitionPlan plan = PartitionPlan::make(1000, members, kChunkBytes);
  expect_sound(plan, 1000, members);
  EXPECT_EQ(plan.chunk_count(), 0U);
  EXPECT_EQ(finish_time_s(members, plan), 0);
}

TEST(Partition, UnknownRatesCountAsTheMedianOfTheKnown) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double unknown : {0.0, -5.0, infinity, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(PartitionPlan::make(1'000'000, with_rates({40e6, unknown, 20e6, 30e6}), kChunkBytes),
              PartitionPlan::make(1'000'000, with_rates({40e6, 30e6, 20e6, 30e6}), kChunkBytes));
  }
}

TEST(Partition, ExtremeRatesDoNotOverflow) {
  const std::vector<PlanMember> members = with_rates({std::numeric_limits<double>::max(), 1e-300, 1e12, 1});
  const PartitionPlan plan = PartitionPlan::make(kMaximumElements, members, kMaximumChunkBytes);
  EXPECT_EQ(plan.part(0).size, plan.part(2).size);
  EXPECT_EQ(plan.part(0).size + plan.part(2).size, kMaximumElements);
  EXPECT_EQ(plan.chunk_count(), kMaximumElements / (kMaximumChunkBytes / 4));
}

TEST(PartitionDeathTest, OurOwnMistakesAbort) {
  EXPECT_DEATH(PartitionPlan::make(1, {}, kChunkBytes), "broken invariant.*values 0, 64");
  EXPECT_DEATH(PartitionPlan::make(1, alike(65), kChunkBytes), "broken invariant.*values 65, 64");
  EXPECT_DEATH(PartitionPlan::make(1, alike(2), 100'000), "broken invariant.*values 100000");
  EXPECT_DEATH(PartitionPlan::make(kMaximumElements + 1, alike(2), kChunkBytes), "broken invariant");
  const PartitionPlan plan = PartitionPlan::make(1, alike(2), kChunkBytes);
  EXPECT_DEATH(static_cast<void>(plan.part(2)), "broken invariant.*values 2, 2");
  EXPECT_DEATH(static_cast<void>(plan.chunk(1)), "broken invariant.*values 1, 1");
}

TEST(ChooseChunkBytes, FollowsSizeAndRate) {
  const std::uint64_t mebi = 262'144;  // elements of 1 MiB
  EXPECT_EQ(choose_chunk_bytes(64 * mebi, 4, 0), 512U << 10U);
  EXPECT_EQ(choose_chunk_bytes(64 * mebi, 4, 1e9), 512U << 10U);
  EXPECT_EQ(choose_chunk_bytes(1 * mebi, 4, 0), 256U << 10U);  // a part is one chunk
  EXPECT_EQ(choose_chunk_bytes(1 * mebi, 64, 0), 64U << 10U);  // no smaller than the least
  EXPECT_EQ(choose_chunk_bytes(64 * mebi, 4, 25e6), 128U << 10U);
  EXPECT_EQ(choose_chunk_bytes(64 * mebi, 4, 1000), kMinimumChunkBytes);
  EXPECT_EQ(choose_chunk_bytes(0, 0, 0), kMinimumChunkBytes);
  EXPECT_EQ(choose_chunk_bytes(kMaximumElements, 64, 1e6), kMaximumChunkBytes);
}

TEST(ChooseChunkBytes, IsAlwaysAPowerOfTwoWithinTheLimits) {
  Random random(3);
  for (int round = 0; round < 10'000; ++round) {
    const std::size_t bytes =
        choose_chunk_bytes(random.next() >> (24 + random.below(40)), static_cast<std::uint32_t>(random.below(65)),
                           random.chance(0.2) ? 0 : std::exp2(40 * random.uniform()));
    ASSERT_TRUE(std::has_single_bit(bytes));
    ASSERT_GE(bytes, kMinimumChunkBytes);
    ASSERT_LE(bytes, kMaximumChunkBytes);
  }
}

}  // namespace
}  // namespace papilio
