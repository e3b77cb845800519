// What the norm policy bounds, whoever lies and whoever comes first; and the bounds on weights and elements, from both
// sides and through the rounding to a float that they have on the wire.
#include "engine/core/norm_policy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/core/numbers.hpp"

namespace papilio::core {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::uint64_t kElements = 16384;

NormPolicy make(NormAction action, std::uint32_t members, double own, double usual_norm = 0, double limit = 8) {
  NormPolicy policy({.action = action, .limit = limit});
  policy.begin(0, members, 4, usual_norm / std::sqrt(double{kElements}));
  if (policy.is_on()) policy.handle_own(2, own);
  return policy;
}

TEST(NormPolicy, WordsAreReadBack) {
  for (const NormAction action : {NormAction::off, NormAction::clip, NormAction::refuse}) {
    EXPECT_EQ(norm_action_of(to_string(action)), action);
  }
  EXPECT_EQ(norm_action_of("Clip"), std::nullopt);
  EXPECT_EQ(norm_action_of(""), std::nullopt);
}

TEST(NormPolicy, LimitsFromBothSides) {
  for (const NormAction action : {NormAction::clip, NormAction::refuse}) {
    NormPolicy policy = make(action, 4, 10);
    EXPECT_EQ(policy.judge(1, 2, kElements, 80).action, NormAction::off);
    const NormVerdict beyond = policy.judge(2, 2, kElements, 80.5);
    EXPECT_EQ(beyond.action, action);
    EXPECT_EQ(beyond.group_norm, 10);
    EXPECT_DOUBLE_EQ(beyond.scale, action == NormAction::clip ? 80 / 80.5 : 1);
  }
}

TEST(NormPolicy, ClippedIsExactlyTheLimit) {
  NormPolicy policy = make(NormAction::clip, 5, 3, 0, 2);
  const NormVerdict verdict = policy.judge(4, 2, kElements, 3e30);
  EXPECT_EQ(verdict.action, NormAction::clip);
  EXPECT_DOUBLE_EQ(verdict.scale * 3e30, 6);
}

// Two members: each can only trust itself.
TEST(NormPolicy, InAPairOnesOwnNormDecides) {
  NormPolicy policy = make(NormAction::refuse, 2, 1);
  EXPECT_EQ(policy.judge(1, 2, kElements, 7.9).action, NormAction::off);
  EXPECT_EQ(make(NormAction::refuse, 2, 1).judge(1, 2, kElements, 8.1).action, NormAction::refuse);
  EXPECT_EQ(make(NormAction::refuse, 2, 1).judge(1, 2, kElements, 1e-9).action, NormAction::off);
}

TEST(NormPolicy, LiarsThatComeFirstDoNotSetTheMedian) {
  NormPolicy policy = make(NormAction::refuse, 5, 1);
  EXPECT_EQ(policy.judge(1, 2, kElements, 1e6).action, NormAction::refuse);
  EXPECT_EQ(policy.judge(2, 2, kElements, 1e6).action, NormAction::refuse);
  EXPECT_EQ(policy.judge(3, 2, kElements, 1.5).action, NormAction::off);
  EXPECT_EQ(policy.judge(4, 2, kElements, 0.5).action, NormAction::off);
}

// The group is right and this member's own norm is the odd one: it gives way as the others are heard.
TEST(NormPolicy, TheGroupOutvotesOnesOwnNorm) {
  NormPolicy policy = make(NormAction::clip, 5, 1, 0, 10);
  EXPECT_EQ(policy.judge(1, 2, kElements, 9).group_norm, 1);
  EXPECT_EQ(policy.judge(2, 2, kElements, 9).group_norm, 1);
  EXPECT_EQ(policy.judge(3, 2, kElements, 9).group_norm, 9);
  EXPECT_EQ(policy.judge(4, 2, kElements, 89).action, NormAction::off);
}

// Any honest norms, any liars (huge, tiny or both) short of half, in any order: what a contribution is held against
// stays between the smallest and the largest honest norm, so honest ones within the limit of each other always pass,
// and a liar never gets more than the limit times the largest honest norm.
TEST(NormPolicy, FewerThanHalfCannotMoveItWhateverTheOrder) {
  Random random(3);
  for (int repetition = 0; repetition < 20'000; ++repetition) {
    const auto members = static_cast<std::uint32_t>(2 + random.below(63));
    const std::uint64_t liars = random.below((members - 1) / 2 + 1);
    std::vector<MemberIndex> order(members - 1);
    std::iota(order.begin(), order.end(), MemberIndex{1});
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    std::vector<double> norms(members);
    double smallest = kInfinity, largest = 0;
    std::vector<bool> lies(members, false);
    for (std::uint64_t i = 0; i < liars; ++i) lies[members - 1 - i] = true;
    for (MemberIndex member = 0; member < members; ++member) {
      norms[member] = lies[member] ? (random.chance(0.5) ? 1e30 : 1e-30) : 1 + 7 * random.uniform();
      if (lies[member]) continue;
      smallest = std::min(smallest, norms[member]);
      largest = std::max(largest, norms[member]);
    }
    NormPolicy policy = make(NormAction::clip, members, norms[0]);
    for (const MemberIndex member : order) {
      const NormVerdict verdict = policy.judge(member, 2, kElements, norms[member]);
      ASSERT_GE(verdict.group_norm, smallest);
      ASSERT_LE(verdict.group_norm, largest);
      ASSERT_LE(norms[member] * verdict.scale, 8 * largest * (1 + 1e-12));
      if (!lies[member]) {
        ASSERT_EQ(verdict.action, NormAction::off) << norms[member] << " against " << verdict.group_norm;
      }
    }
  }
}

// A chunk in which this member, and most, have nothing: rows of an embedding whose words did not occur.
TEST(NormPolicy, AQuietChunkCondemnsNobody) {
  NormPolicy policy = make(NormAction::refuse, 5, 0, 2);
  EXPECT_EQ(policy.judge(1, 2, kElements, 0).action, NormAction::off);
  EXPECT_EQ(policy.judge(2, 2, kElements, 16).action, NormAction::off);
  EXPECT_EQ(policy.judge(3, 2, kElements, 16.5).action, NormAction::refuse);
  // A shorter chunk is held to less: its last one may hold few elements.
  NormPolicy shorter = make(NormAction::refuse, 5, 0, 2);
  EXPECT_EQ(shorter.judge(1, 2, kElements / 4, 8).action, NormAction::off);
  EXPECT_EQ(shorter.judge(2, 2, kElements / 4, 8.5).action, NormAction::refuse);
}

TEST(NormPolicy, WithoutAnyYardstickNobodyIsJudged) {
  NormPolicy policy = make(NormAction::refuse, 3, 0);
  EXPECT_EQ(policy.judge(1, 2, kElements, 1000).action, NormAction::off);
}

TEST(NormPolicy, AveragesAreHeldToTheSquareOfTheLimit) {
  const NormPolicy policy = make(NormAction::clip, 4, 1, 2);
  EXPECT_FALSE(policy.average_is_wild(kElements, 10, 640));
  EXPECT_TRUE(policy.average_is_wild(kElements, 10, 641));
  EXPECT_FALSE(policy.average_is_wild(kElements, 0, 128));  // a quiet chunk
  EXPECT_TRUE(policy.average_is_wild(kElements, 0, 129));
  EXPECT_FALSE(make(NormAction::refuse, 4, 0, 0).average_is_wild(kElements, 0, 1e30));  // no yardstick
  EXPECT_FALSE(make(NormAction::off, 4, 1, 2).average_is_wild(kElements, 10, 1e30));
}

// Honest norms within the limit of each other, and a liar of any weight that is clipped by an honest reducer: no honest
// member takes that reducer for a liar.
TEST(NormPolicy, AnHonestReducerIsNeverCondemnedForALiar) {
  Random random(4);
  for (int repetition = 0; repetition < 10'000; ++repetition) {
    const auto members = static_cast<std::uint32_t>(3 + random.below(10));
    NormPolicy reducer = make(NormAction::clip, members, 1 + 7 * random.uniform());
    for (MemberIndex member = 1; member + 1 < members; ++member) {
      reducer.judge(member, 2, kElements, 1 + 7 * random.uniform());
    }
    const double clipped = 1e20 * reducer.judge(members - 1, 2, kElements, 1e20).scale;
    // All of the weight is the liar's: the average is what was left of its values.
    ASSERT_FALSE(reducer.average_is_wild(kElements, 1 + 7 * random.uniform(), clipped));
  }
}

TEST(NormPolicy, ChunksAndRoundsAreApart) {
  NormPolicy policy = make(NormAction::refuse, 3, 1);
  EXPECT_TRUE(policy.knows_own(2));
  EXPECT_FALSE(policy.knows_own(3));
  policy.handle_own(3, 100);
  EXPECT_EQ(policy.judge(1, 3, kElements, 500).action, NormAction::off);
  EXPECT_EQ(policy.judge(1, 2, kElements, 500).action, NormAction::refuse);
  policy.begin(1, 2, 3, 0);
  EXPECT_FALSE(policy.knows_own(2));
}

TEST(NormPolicyDeathTest, RefusesALimitThatIsNone) {
  for (const double limit : {0.99, 1.1e6, kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_DEATH(NormPolicy({.action = NormAction::clip, .limit = limit}), "broken invariant");
  }
}

// ---- weights and elements

// What is within the bounds as a double is within them as a float, too: a weight that all_reduce takes is one that the
// others take.
TEST(Numbers, WeightsStayValidOnTheWire) {
  Random random(9);
  const auto on_the_wire = [](double weight) { return double{static_cast<float>(weight)}; };
  for (const double weight : {1e-9, kMinimumWeight, std::nextafter(kMinimumWeight, 1.0), 1.0, 1e9, kMaximumWeight,
                              std::nextafter(kMaximumWeight, 0.0)}) {
    EXPECT_TRUE(weight_is_valid(weight)) << weight;
    EXPECT_TRUE(weight_is_valid(on_the_wire(weight))) << weight;
  }
  for (int i = 0; i < 10'000; ++i) {
    const double weight = std::pow(10.0, 18 * random.uniform() - 9);
    EXPECT_EQ(weight_is_valid(weight), weight_is_valid(on_the_wire(weight))) << weight;
  }
  for (const double weight :
       {0.0, -0.0, -1.0, std::nextafter(kMinimumWeight, 0.0), std::nextafter(kMaximumWeight, kInfinity), kInfinity,
        -kInfinity, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::denorm_min(),
        double{std::numeric_limits<float>::denorm_min()}, double{std::numeric_limits<float>::min()},
        double{std::numeric_limits<float>::max()}, std::numeric_limits<double>::max()}) {
    EXPECT_FALSE(weight_is_valid(weight)) << weight;
  }
}

// The largest elements of the most members with the largest and the smallest weights, through the kernel's arithmetic.
TEST(Numbers, NoSumOfTheLargestOverflows) {
  const float weights[] = {static_cast<float>(kMinimumWeight), 0.3F, 1, 3, 1000.1F, static_cast<float>(kMaximumWeight)};
  for (const float one : weights) {
    for (const float other : weights) {
      float sum = largest_element(one);
      double total = double{one};
      for (std::uint32_t member = 1; member < kMaximumMembers; ++member) {
        sum = (member == 1 ? one : 1.0F) * sum + other * largest_element(other);
        total += double{other};
        ASSERT_TRUE(std::isfinite(sum)) << one << ", " << other;
      }
      const float average = sum * static_cast<float>(1 / total);
      EXPECT_TRUE(std::isfinite(average));
      EXPECT_LE(average, kLargestAverage) << one << ", " << other;
      EXPECT_GT(average, 0) << one << ", " << other;
    }
  }
}

TEST(Numbers, SmallWeightsDoNotAllowLargerElements) {
  EXPECT_EQ(largest_element(kMinimumWeight), kLargestTerm);
  EXPECT_EQ(largest_element(1), kLargestTerm);
  EXPECT_EQ(largest_element(2), kLargestTerm / 2);
}

}  // namespace
}  // namespace papilio::core
