// Every compiled version of the kernels against the scalar reference, bit for bit, over the lengths, alignments and
// values where vector code goes wrong; the reference itself against float64 and against the checksum library.
#include "kernels/ops.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/scalar.h"
#include "kernels/targets.h"
#include "tests/kernels/drawing.h"

namespace papilio::kernels {
namespace {

using OnEveryTarget = TargetTest;

TEST_P(OnEveryTarget, MatchesTheScalarReferenceBitForBit) {
  Random random(7);
  for (const Kind kind : {Kind::ordinary, Kind::denormal, Kind::huge, Kind::any_bits}) {
    for (const std::size_t length : lengths()) {
      for (const std::size_t offset : {0, 1, 3}) {
        const std::vector<float> start = draw(random, kind, length);
        Placed values(draw(random, kind, length), offset ^ 1U);
        const float own_scale = random.chance(0.5) ? 1.0F : draw(random, kind);
        const float weight = draw(random, kind);
        const float inverse = draw(random, kind);
        const std::string label = "length " + std::to_string(length) + ", offset " + std::to_string(offset) +
                                  ", kind " + std::to_string(static_cast<int>(kind));

        Placed got(start, offset), wanted(start, offset);
        accumulate(got.span(), own_scale, weight, values.span());
        scalar::accumulate(wanted.span(), own_scale, weight, values.span());
        EXPECT_TRUE(same_bits(got.span(), wanted.span())) << "accumulate, " << label;
        EXPECT_TRUE(got.guards_intact()) << "accumulate, " << label;

        finalise(got.span(), inverse);
        scalar::finalise(wanted.span(), inverse);
        EXPECT_TRUE(same_bits(got.span(), wanted.span())) << "finalise, " << label;
        EXPECT_TRUE(got.guards_intact()) << "finalise, " << label;

        Placed fused(start, offset);
        accumulate_and_finalise(fused.span(), own_scale, weight, values.span(), inverse);
        EXPECT_TRUE(same_bits(fused.span(), wanted.span())) << "accumulate_and_finalise, " << label;
        EXPECT_TRUE(fused.guards_intact()) << "accumulate_and_finalise, " << label;
      }
    }
  }
}

TEST_P(OnEveryTarget, ChecksumIsXxh3WhateverTheAlignment) {
  Random random(11);
  for (const std::size_t length : lengths()) {
    std::vector<std::byte> source(length + 8), target(length + 16);
    for (std::byte& byte : source) byte = static_cast<std::byte>(random.next());
    const std::uint64_t wanted = XXH3_64bits(source.data() + 1, length);
    const std::span<const std::byte> from(source.data() + 1, length);
    EXPECT_EQ(scalar::checksum(from), wanted) << length;
    EXPECT_EQ(checksum(from), wanted) << length;
    for (const std::size_t offset : {0, 1, 5}) {
      std::fill(target.begin(), target.end(), std::byte{0xa5});
      copy_streaming(std::span(target).subspan(offset, length), from);
      EXPECT_TRUE(std::equal(from.begin(), from.end(), target.begin() + static_cast<std::ptrdiff_t>(offset)));
      EXPECT_EQ(checksum(std::span(target).subspan(offset, length)), wanted) << length;
      for (std::size_t i = 0; i < target.size(); ++i) {
        if (i < offset || i >= offset + length) {
          ASSERT_EQ(target[i], std::byte{0xa5}) << length << ", byte " << i;
        }
      }
    }
  }
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Not a number in every way that bits can say it: quiet and signalling, both signs, the smallest and largest payload.
constexpr std::uint32_t kNotANumber[] = {0x7fc00000U, 0xffc00000U, 0x7f800001U, 0xff800001U, 0x7fffffffU,
                                         0xffffffffU, 0x7fbfffffU, 0xffbfffffU, 0x7fd5aaaaU};
constexpr std::uint32_t kInfinities[] = {0x7f800000U, 0xff800000U};

std::vector<float> all_bad_numbers() {
  std::vector<float> all;
  for (const std::uint32_t bits : kNotANumber) all.push_back(std::bit_cast<float>(bits));
  for (const std::uint32_t bits : kInfinities) all.push_back(std::bit_cast<float>(bits));
  return all;
}

// One bad number among good ones is found wherever it stands, and none is seen where there is none: the floats next to
// the span hold a bad one, too.
TEST_P(OnEveryTarget, OneBadNumberIsFoundAtEveryPlace) {
  Random random(31);
  constexpr float kLimit = 100;
  std::vector<float> bad = all_bad_numbers();
  for (const float beyond : {std::nextafter(kLimit, kInfinity), -std::nextafter(kLimit, kInfinity),
                             std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()}) {
    bad.push_back(beyond);
  }
  for (std::size_t length = 0; length <= 70; ++length) {
    for (const std::size_t offset : {16, 1, 2, 3, 7}) {
      Placed values(draw(random, Kind::ordinary, length), offset);
      const std::span<float> span = values.span();
      span.data()[-1] = span.data()[length] = std::numeric_limits<float>::quiet_NaN();
      ASSERT_TRUE(all_within(span, kLimit));
      for (std::size_t place = 0; place < length; ++place) {
        const float kept = span[place];
        for (const float each : bad) {
          span[place] = each;
          ASSERT_FALSE(all_within(span, kLimit)) << length << ", " << place;
          ASSERT_FALSE(scalar::all_within(span, kLimit)) << length << ", " << place;
        }
        span[place] = place % 2 == 0 ? kLimit : -kLimit;  // the limit itself is within
        ASSERT_TRUE(all_within(span, kLimit)) << length << ", " << place;
        ASSERT_TRUE(scalar::all_within(span, kLimit)) << length << ", " << place;
        span[place] = kept;
      }
    }
  }
}

TEST_P(OnEveryTarget, LimitsFromNothingToEverything) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const std::size_t length : {1, 8, 33}) {
    const auto within = [&](float value, float limit) {
      const std::vector<float> values(length, value);
      const bool answer = all_within(values, limit);
      EXPECT_EQ(answer, scalar::all_within(values, limit)) << value << ", limit " << limit;
      return answer;
    };
    EXPECT_TRUE(within(0.0F, 0.0F));
    EXPECT_TRUE(within(-0.0F, 0.0F));
    EXPECT_TRUE(within(0.0F, -0.0F));  // which is not negative
    EXPECT_TRUE(within(-0.0F, -0.0F));
    EXPECT_FALSE(within(kTiny, -0.0F));
    EXPECT_FALSE(within(kTiny, 0.0F));
    EXPECT_FALSE(within(-kTiny, 0.0F));
    EXPECT_TRUE(within(-kTiny, kTiny));
    EXPECT_TRUE(within(-kLargest, kLargest));
    for (const float bad : all_bad_numbers()) EXPECT_FALSE(within(bad, kLargest));
  }
}

TEST_P(OnEveryTarget, InspectionMatchesTheScalarReferenceBitForBit) {
  Random random(37);
  for (const Kind kind : {Kind::ordinary, Kind::denormal, Kind::huge, Kind::any_bits}) {
    for (const std::size_t length : lengths()) {
      for (const std::size_t offset : {16, 1, 3}) {
        Placed values(draw(random, kind, length), offset);
        const std::span<float> span = values.span();
        span.data()[-1] = span.data()[length] = std::numeric_limits<float>::quiet_NaN();
        const Inspection wanted = scalar::inspect(span);
        const Inspection got = inspect(span);
        EXPECT_EQ(got.finite, wanted.finite) << length;
        EXPECT_EQ(got.largest, wanted.largest) << length;
        EXPECT_EQ(std::bit_cast<std::uint64_t>(got.sum_of_squares), std::bit_cast<std::uint64_t>(wanted.sum_of_squares))
            << length;
      }
    }
  }
}

TEST_P(OnEveryTarget, InspectionFindsOneBadNumberAtEveryPlace) {
  for (std::size_t length = 1; length <= 70; ++length) {
    for (std::size_t place = 0; place < length; ++place) {
      for (const float each : all_bad_numbers()) {
        std::vector<float> values(length, 1.0F);
        values[place] = each;
        ASSERT_FALSE(inspect(values).finite) << length << ", " << place;
        ASSERT_FALSE(scalar::inspect(values).finite) << length << ", " << place;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, OnEveryTarget, ::testing::ValuesIn(targets()), target_name);

TEST(Ops, UsesTheBestTargetOfThisMachine) {
  const std::vector<Target> all = targets();
  EXPECT_STREQ(target_in_use().name, all.front().name);
  EXPECT_STREQ(all.back().name, "SCALAR");
  use_target(all.back());
  EXPECT_STREQ(target_in_use().name, "SCALAR");
  use_best_target();
  EXPECT_STREQ(target_in_use().name, all.front().name);
}

// The vectors of the XXH3 specification's reference: the empty input's value is the published one.
TEST(Ops, ChecksumOfKnownInputs) {
  EXPECT_EQ(checksum({}), 0x2d06800538d394c2U);
  const std::string text(300, 'x');
  EXPECT_EQ(checksum(std::as_bytes(std::span(text))), XXH3_64bits(text.data(), text.size()));
}

TEST(Ops, ChecksumNoticesEveryFlippedBit) {
  std::vector<std::byte> bytes(700, std::byte{3});
  const std::uint64_t whole = checksum(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto mask = static_cast<std::byte>(1U << (bit % 8));
    bytes[bit / 8] ^= mask;
    EXPECT_NE(checksum(bytes), whole) << bit;
    bytes[bit / 8] ^= mask;
  }
}

TEST(Ops, InspectionTellsTheLargestAndTheSquares) {
  const std::vector<float> values = {3, -4, 0, -0.0F, 1e-20F};
  const Inspection ordinary = inspect(values);
  EXPECT_EQ(ordinary.largest, 4);
  EXPECT_DOUBLE_EQ(ordinary.sum_of_squares, 25);
  EXPECT_TRUE(ordinary.finite);

  // Squares of the largest floats, which float32 could not hold.
  const std::vector<float> huge(1000, std::numeric_limits<float>::lowest());
  const Inspection largest = inspect(huge);
  EXPECT_EQ(largest.largest, std::numeric_limits<float>::max());
  EXPECT_NEAR(std::sqrt(largest.sum_of_squares / 1000), double{std::numeric_limits<float>::max()}, 1e32);
  EXPECT_TRUE(largest.finite);

  // Squares of the smallest, which float32 would lose.
  const std::vector<float> small(1000, std::numeric_limits<float>::denorm_min());
  EXPECT_GT(inspect(small).sum_of_squares, 0);
  EXPECT_EQ(inspect(small).largest, std::numeric_limits<float>::denorm_min());

  for (const float bad : all_bad_numbers()) {
    const Inspection inspection = inspect(std::vector<float>{1, bad, 2});
    EXPECT_FALSE(inspection.finite);
    EXPECT_EQ(inspection.largest, kInfinity);
    EXPECT_EQ(inspection.sum_of_squares, kInfinity);
  }
}

TEST(Ops, InspectionFollowsAPlainSum) {
  Random random(41);
  for (const std::size_t length : lengths()) {
    const std::vector<float> values = draw(random, Kind::ordinary, length);
    double wanted = 0;
    float largest = 0;
    for (const float value : values) {
      wanted += static_cast<double>(value) * static_cast<double>(value);
      largest = std::max(largest, std::abs(value));
    }
    EXPECT_NEAR(inspect(values).sum_of_squares, wanted, 1e-12 * wanted) << length;
    EXPECT_EQ(inspect(values).largest, largest) << length;
  }
}

TEST(Ops, TheFirstBadNumberIsNamed) {
  std::vector<float> values(100, 1.0F);
  EXPECT_EQ(first_not_within(values, 2), 100U);
  values[70] = 3;
  EXPECT_EQ(first_not_within(values, 2), 70U);
  values[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(first_not_within(values, 2), 17U);
  values[0] = -kInfinity;
  EXPECT_EQ(first_not_within(values, 2), 0U);
}

TEST(Ops, EmptySpansAreFine) {
  EXPECT_TRUE(all_within({}, 0));
  EXPECT_EQ(first_not_within({}, 0), 0U);
  EXPECT_EQ(inspect({}).largest, 0);
  EXPECT_EQ(inspect({}).sum_of_squares, 0);
  EXPECT_TRUE(inspect({}).finite);
  accumulate({}, 1, 1, {});
  accumulate_and_finalise({}, 1, 1, {}, 1);
  finalise({}, 1);
  copy_streaming({}, {});
}

// The use that a round makes of it: own values in place, one call per contributor, the last one fused.
TEST(Ops, WeightedAverageOfManyFollowsFloat64) {
  Random random(23);
  const std::size_t length = 10'007;
  for (const std::size_t contributors : {2U, 3U, 8U, 64U}) {
    std::vector<std::vector<float>> gradients;
    std::vector<float> weights;
    double total = 0;
    for (std::size_t i = 0; i < contributors; ++i) {
      gradients.push_back(draw(random, Kind::ordinary, length));
      weights.push_back(static_cast<float>(1 + random.below(5000)));
      total += static_cast<double>(weights.back());
    }
    std::vector<float> sum = gradients[0];
    for (std::size_t i = 1; i < contributors; ++i) {
      const float own_scale = i == 1 ? weights[0] : 1.0F;
      if (i + 1 < contributors) {
        accumulate(sum, own_scale, weights[i], gradients[i]);
      } else {
        accumulate_and_finalise(sum, own_scale, weights[i], gradients[i], static_cast<float>(1 / total));
      }
    }
    for (std::size_t element = 0; element < length; ++element) {
      double wanted = 0, magnitude = 0;
      for (std::size_t i = 0; i < contributors; ++i) {
        const double term = static_cast<double>(weights[i]) * static_cast<double>(gradients[i][element]);
        wanted += term / total;
        magnitude += std::abs(term) / total;
      }
      // Each term is rounded once when weighted and at most once per addition, then twice for the division.
      const double tolerance =
          magnitude * static_cast<double>(contributors + 3) * std::numeric_limits<float>::epsilon() / 2;
      ASSERT_NEAR(static_cast<double>(sum[element]), wanted, tolerance) << contributors << ", " << element;
    }
  }
}

using OpsDeathTest = ::testing::Test;

TEST(OpsDeathTest, RefusesUnequalAndOverlappingSpans) {
  std::vector<float> values(100);
  const std::span<float> all(values);
  EXPECT_DEATH(accumulate(all.first(10), 1, 1, all.subspan(50, 11)), "broken invariant.*values 10, 11");
  EXPECT_DEATH(accumulate(all.first(10), 1, 1, all.subspan(9, 10)), "broken invariant");
  accumulate(all.first(10), 1, 1, all.subspan(10, 10));  // side by side is fine
}

TEST(OpsDeathTest, RefusesALimitThatIsNone) {
  const std::vector<float> values(3);
  for (const float limit : {-1.0F, kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_DEATH(static_cast<void>(all_within(values, limit)), "broken invariant");
  }
}

}  // namespace
}  // namespace papilio::kernels
