// Robust averages: every instruction set against the reference, bit for bit, the reference against plain definitions,
// and what they are for: a few liars cannot pull them far.
#include "kernels/robust.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/scalar.h"
#include "kernels/targets.h"
#include "tests/kernels/drawing.h"

namespace papilio::kernels {
namespace {

// Contributions and the spans that the kernels take.
struct Group {
  std::vector<std::vector<float>> values;
  std::vector<std::span<const float>> spans;

  [[nodiscard]] Contributions all() {
    spans.assign(values.begin(), values.end());
    return spans;
  }
};

Group draw_group(Random& random, std::size_t members, std::size_t elements, Kind kind = Kind::ordinary) {
  Group group;
  for (std::size_t i = 0; i < members; ++i) group.values.push_back(draw(random, kind, elements));
  return group;
}

using RobustOnEveryTarget = TargetTest;

TEST_P(RobustOnEveryTarget, MatchesTheReference) {
  Random random(61);
  for (const Kind kind : {Kind::ordinary, Kind::denormal, Kind::huge, Kind::any_bits}) {
    for (const std::size_t members : {1, 2, 3, 4, 5, 7, 8, 16, 33, 64}) {
      for (const std::size_t elements : {0, 1, 3, 15, 16, 17, 100}) {
        Group group = draw_group(random, members, elements, kind);
        // Equal values and zeros of both signs, whose order shows in the result's sign.
        for (auto& each : group.values) {
          for (float& value : each) {
            if (random.chance(0.2)) value = random.chance(0.5) ? 0.0F : -0.0F;
          }
        }
        std::vector<float> got(elements), wanted(elements);
        for (std::size_t trim = 0; 2 * trim < members; trim += 1 + members / 4) {
          trimmed_mean(group.all(), trim, got);
          scalar::trimmed_mean(group.all(), trim, wanted);
          ASSERT_TRUE(same_bits(got, wanted)) << "trimmed mean, " << members << ", " << elements << ", " << trim;
        }
        median(group.all(), got);
        scalar::median(group.all(), wanted);
        ASSERT_TRUE(same_bits(got, wanted)) << "median, " << members << ", " << elements;

        got = wanted = draw(random, kind, elements);
        centred_clipping(group.all(), 2.5F, 3, got);
        scalar::centred_clipping(group.all(), 2.5F, 3, wanted);
        ASSERT_TRUE(same_bits(got, wanted)) << "centred clipping, " << members << ", " << elements;
      }
    }
  }
}

TEST_P(RobustOnEveryTarget, OrdersByDefinition) {
  Random random(67);
  Group group = draw_group(random, 9, 50);
  std::vector<float> trimmed(50), middle(50);
  trimmed_mean(group.all(), 2, trimmed);
  median(group.all(), middle);
  for (std::size_t i = 0; i < 50; ++i) {
    std::vector<double> column;
    for (const auto& each : group.values) column.push_back(static_cast<double>(each[i]));
    std::sort(column.begin(), column.end());
    double sum = 0;
    for (std::size_t k = 2; k < 7; ++k) sum += column[k];
    EXPECT_NEAR(static_cast<double>(trimmed[i]), sum / 5, 1e-6);
    EXPECT_EQ(static_cast<double>(middle[i]), column[4]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RobustOnEveryTarget, ::testing::ValuesIn(targets()), target_name);

// Eight honest members around 1, three that say whatever helps them most.
TEST(Robust, LiarsPullTheMeanButNotThese) {
  Random random(71);
  constexpr std::size_t kElements = 200;
  Group group = draw_group(random, 11, kElements);
  for (std::size_t member = 0; member < 11; ++member) {
    for (float& value : group.values[member]) value = member < 8 ? 1 + value / 30 : 1e6F;
  }
  std::vector<float> out(kElements);
  const auto farthest = [&] {
    double most = 0;
    for (const float value : out) most = std::max(most, std::abs(static_cast<double>(value) - 1));
    return most;
  };
  trimmed_mean(group.all(), 3, out);
  EXPECT_LE(farthest(), 0.1);
  median(group.all(), out);
  EXPECT_LE(farthest(), 0.1);
  // Clipping moves towards the liars by at most radius * 3 / 11 per iteration, over the whole chunk.
  std::fill(out.begin(), out.end(), 1.0F);
  centred_clipping(group.all(), 1.0F, 1, out);
  double squares = 0;
  for (const float value : out) squares += std::pow(static_cast<double>(value) - 1, 2);
  EXPECT_LE(std::sqrt(squares), 3.0 / 11 + 0.3);
}

TEST(Robust, ClippingWithALargeRadiusIsTheMean) {
  Random random(73);
  Group group = draw_group(random, 5, 100);
  std::vector<float> centre = draw(random, Kind::ordinary, 100);
  centred_clipping(group.all(), 1e9F, 1, centre);
  for (std::size_t i = 0; i < centre.size(); ++i) {
    double sum = 0;
    for (const auto& each : group.values) sum += static_cast<double>(each[i]);
    EXPECT_NEAR(static_cast<double>(centre[i]), sum / 5, 1e-5);
  }
}

TEST(Robust, TheMiddleOfTwoLargeValuesDoesNotOverflow) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Group group;
  group.values = {{kLargest}, {kLargest}};
  std::vector<float> out(1);
  median(group.all(), out);
  EXPECT_EQ(out[0], kLargest);
}

TEST(RobustDeathTest, RefusesWhatMakesNoSense) {
  Random random(79);
  Group group = draw_group(random, 4, 10);
  std::vector<float> out(10), shorter(9);
  EXPECT_DEATH(trimmed_mean(group.all(), 2, out), "broken invariant.*values 2, 4");
  EXPECT_DEATH(median(group.all(), shorter), "broken invariant.*values 10, 9");
  EXPECT_DEATH(median({}, out), "broken invariant");
  EXPECT_DEATH(centred_clipping(group.all(), -1, 1, out), "broken invariant");
}

}  // namespace
}  // namespace papilio::kernels
