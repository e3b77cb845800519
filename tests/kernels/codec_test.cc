// Codecs: the reference against what kernels/codec.h states (every 16-bit number, error bounds over 10^7 values, what
// was decoded encodes to the same bytes, nothing lost over rounds), every instruction set against the reference, bit
// for bit, and what is refused.
#include "kernels/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/ops.h"
#include "kernels/scalar.h"
#include "kernels/targets.h"
#include "tests/kernels/drawing.h"
#include "tests/kernels/hostile.h"

namespace papilio::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();
using Bytes = std::vector<std::byte>;

// Values that are as large as gradients, and of all magnitudes between blocks.
std::vector<float> mixed_values(Random& random, std::size_t count) {
  std::vector<float> values(count);
  float magnitude = 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % kInt8Block == 0) magnitude = std::ldexp(1.0F, static_cast<int>(random.below(60)) - 40);
    values[i] = random_float(random, magnitude);
  }
  return values;
}

Bytes encoded(Codec codec, std::span<const float> values) {
  Bytes bytes(encoded_bytes(codec, values.size()));
  encode(codec, values, bytes);
  return bytes;
}

std::vector<float> decoded(Codec codec, const Bytes& bytes, std::size_t elements) {
  std::vector<float> values(elements);
  scalar::decode_accepted(codec, bytes, values);
  return values;
}

// Bytes at an address that is no multiple of anything, with guards on both sides.
class PlacedBytes {
 public:
  PlacedBytes(std::size_t size, std::size_t offset)
      : storage_(size + offset + 64, kGuard), begin_(offset), size_(size) {}
  std::span<std::byte> span() { return std::span(storage_).subspan(begin_, size_); }
  [[nodiscard]] bool guards_intact() const {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + size_) && storage_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kGuard{0xa7};
  Bytes storage_;
  std::size_t begin_, size_;
};

::testing::AssertionResult same_bytes(std::span<const std::byte> got, std::span<const std::byte> wanted) {
  if (got.size() != wanted.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] != wanted[i]) {
      return ::testing::AssertionFailure() << "byte " << i << " of " << got.size() << ": " << static_cast<int>(got[i])
                                           << ", wanted " << static_cast<int>(wanted[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

TEST(Codec, LengthsAndBack) {
  EXPECT_EQ(encoded_bytes(Codec::int8, 0), 0U);
  EXPECT_EQ(encoded_bytes(Codec::int8, 1), 5U);
  EXPECT_EQ(encoded_bytes(Codec::int8, 256), 260U);
  EXPECT_EQ(encoded_bytes(Codec::int8, 257), 265U);
  for (const Codec codec : kCodecs) {
    for (std::size_t elements = 0; elements < 2000; ++elements) {
      const std::size_t bytes = encoded_bytes(codec, elements);
      ASSERT_EQ(encoded_elements(codec, bytes), elements) << to_string(codec);
      for (std::size_t more = bytes; more < encoded_bytes(codec, elements + 1); ++more) {
        ASSERT_EQ(encoded_elements(codec, more), elements) << to_string(codec) << ", " << more;
      }
    }
  }
}

// Round to nearest, ties to even, by the definition: no number of the format is nearer.
void expect_nearest(float value, std::uint16_t got, float (*back)(std::uint16_t), std::uint16_t most) {
  const auto magnitude = static_cast<std::uint16_t>(got & 0x7fffU);
  ASSERT_LE(magnitude, most);
  const double wanted = std::abs(static_cast<double>(value));
  const double off = std::abs(static_cast<double>(back(magnitude)) - wanted);
  if (magnitude > 0) {
    const double below = wanted - static_cast<double>(back(magnitude - 1));
    ASSERT_TRUE(off < below || (off == below && magnitude % 2 == 0)) << value;
  }
  if (magnitude < most) {
    const double above = static_cast<double>(back(magnitude + 1)) - wanted;
    ASSERT_TRUE(off < above || (off == above && magnitude % 2 == 0)) << value;
  }
  ASSERT_EQ(got >> 15U, std::bit_cast<std::uint32_t>(value) >> 31U) << value;
}

TEST(Codec, SixteenBitsAreTheNearestWithTiesToEven) {
  Random random(3);
  for (int i = 0; i < 300'000; ++i) {
    float value = std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
    // Exactly between two numbers, every other time.
    if (i % 2 == 0) value = std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) & 0xffff0000U) | 0x8000U);
    if (!std::isfinite(value)) continue;
    expect_nearest(value, scalar::bf16_from_float(value), scalar::float_from_bf16, 0x7f7f);
    float small = random_float(random, std::ldexp(1.0F, static_cast<int>(random.below(44)) - 27));
    if (i % 2 == 0) small = std::bit_cast<float>((std::bit_cast<std::uint32_t>(small) & 0xffffe000U) | 0x1000U);
    expect_nearest(small, scalar::fp16_from_float(small), scalar::float_from_fp16, 0x7bff);
  }
}

TEST(Codec, EverySixteenBitNumberComesBackAsItWas) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto each = static_cast<std::uint16_t>(bits);
    const bool bf16_is_number = (each & 0x7fffU) <= 0x7f80U, fp16_is_number = (each & 0x7fffU) <= 0x7c00U;
    EXPECT_EQ(scalar::bf16_from_float(scalar::float_from_bf16(each)), bf16_is_number ? each : kBf16NotANumber);
    EXPECT_EQ(scalar::fp16_from_float(scalar::float_from_fp16(each)), fp16_is_number ? each : kFp16NotANumber);
    EXPECT_EQ(std::isnan(scalar::float_from_fp16(each)), !fp16_is_number);
  }
}

TEST(Codec, KnownNumbers) {
  EXPECT_EQ(scalar::fp16_from_float(1.0F), 0x3c00);
  EXPECT_EQ(scalar::fp16_from_float(-2.0F), 0xc000);
  EXPECT_EQ(scalar::fp16_from_float(65504.0F), 0x7bff);
  EXPECT_EQ(scalar::fp16_from_float(65520.0F), 0x7bff);  // would round to infinity
  EXPECT_EQ(scalar::fp16_from_float(-1e30F), 0xfbff);
  EXPECT_EQ(scalar::fp16_from_float(kInfinity), 0x7c00);
  EXPECT_EQ(scalar::fp16_from_float(-kInfinity), 0xfc00);
  EXPECT_EQ(scalar::fp16_from_float(-kNotANumber), kFp16NotANumber);
  EXPECT_EQ(scalar::fp16_from_float(0x1p-24F), 1);
  EXPECT_EQ(scalar::fp16_from_float(0x1p-25F), 0);
  EXPECT_EQ(scalar::fp16_from_float(0x1.000002p-25F), 1);
  EXPECT_EQ(scalar::fp16_from_float(0x1.ffcp-15F), 0x0400);  // the largest subnormal number's neighbour
  EXPECT_EQ(scalar::float_from_fp16(0x3555), 0x1.554p-2F);
  EXPECT_EQ(scalar::bf16_from_float(1.0F), 0x3f80);
  EXPECT_EQ(scalar::bf16_from_float(0x1.01p0F), 0x3f80);
  EXPECT_EQ(scalar::bf16_from_float(0x1.03p0F), 0x3f82);
  EXPECT_EQ(scalar::bf16_from_float(kLargest), 0x7f7f);
  EXPECT_EQ(scalar::bf16_from_float(-kLargest), 0xff7f);
  EXPECT_EQ(scalar::bf16_from_float(-kInfinity), 0xff80);
  EXPECT_EQ(scalar::bf16_from_float(-kNotANumber), kBf16NotANumber);
  EXPECT_EQ(kLargestBf16, scalar::float_from_bf16(0x7f7f));
  EXPECT_EQ(kLargestFp16, scalar::float_from_fp16(0x7bff));
  EXPECT_TRUE(std::isfinite(127 * kLargestInt8Scale));
  EXPECT_FALSE(std::isfinite(127 * std::bit_cast<float>(std::bit_cast<std::uint32_t>(kLargestInt8Scale) + 0x80U)));
}

TEST(Codec, ScalesOfInt8Blocks) {
  EXPECT_EQ(scalar::int8_scale(0), 0);
  EXPECT_EQ(scalar::int8_scale(127), 1);
  EXPECT_EQ(scalar::int8_scale(std::nextafter(127 * kSmallestInt8Scale, 0.0F)), 0);
  EXPECT_EQ(scalar::int8_scale(127 * kSmallestInt8Scale), kSmallestInt8Scale);
  EXPECT_EQ(scalar::int8_scale(kLargest), kLargestInt8Scale);
  Random random(5);
  for (int i = 0; i < 300'000; ++i) {
    const float largest = std::abs(random_float(random, std::ldexp(1.0F, static_cast<int>(random.below(190)) - 70)));
    const float scale = scalar::int8_scale(largest);
    if (scale == 0) continue;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(scale) & kInt8ScaleFraction, 0U);
    const double exact = static_cast<double>(largest) / 127;
    ASSERT_LE(static_cast<double>(scale), exact * (1 + 0x1p-16 + 0x1p-23));
    ASSERT_GE(static_cast<double>(scale), exact * (1 - 0x1p-15));
    // The promise that blocks keep: the largest value's byte is 127, and the scale is found again from it.
    ASSERT_EQ(std::lrint(largest * (1 / scale)), 127);
    ASSERT_EQ(scalar::int8_scale(127 * scale), scale);
    for (int byte = -127; byte <= 127; ++byte) {
      const float value = static_cast<float>(byte) * scale;
      ASSERT_EQ(static_cast<double>(value), static_cast<double>(byte) * static_cast<double>(scale));
      ASSERT_EQ(std::lrint(value * (1 / scale)), byte);
    }
    i += 100;
  }
}

TEST(Codec, ErrorBoundsHoldOnTenMillionValues) {
  Random random(17);
  constexpr std::size_t kAtOnce = 100'000, kTimes = 100;
  for (std::size_t time = 0; time < kTimes; ++time) {
    const std::vector<float> values = mixed_values(random, kAtOnce);
    for (const Codec codec : kCodecs) {
      const std::vector<float> got = decoded(codec, encoded(codec, values), values.size());
      std::size_t beyond = 0;
      float largest = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % kInt8Block == 0) {
          largest = 0;
          for (std::size_t k = i; k < std::min(values.size(), i + kInt8Block); ++k) {
            largest = std::max(largest, std::abs(values[k]));
          }
        }
        const double off = std::abs(static_cast<double>(got[i]) - static_cast<double>(values[i]));
        if (off > error_bound(codec, values[i], largest)) beyond += 1;
      }
      ASSERT_EQ(beyond, 0U) << to_string(codec);
    }
  }
}

TEST(Codec, ErrorBoundsHoldAtTheEdges) {
  Random random(19);
  for (const Kind kind : {Kind::denormal, Kind::huge}) {
    for (const Codec codec : kCodecs) {
      const std::vector<float> values = draw(random, kind, kInt8Block);
      const std::vector<float> got = decoded(codec, encoded(codec, values), values.size());
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::abs(value));
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_TRUE(std::isfinite(got[i]));
        EXPECT_LE(std::abs(static_cast<double>(got[i]) - static_cast<double>(values[i])),
                  error_bound(codec, values[i], largest))
            << to_string(codec) << ": " << values[i];
      }
    }
  }
}

using CodecOnEveryTarget = TargetTest;

TEST_P(CodecOnEveryTarget, MatchesTheReference) {
  Random random(23);
  for (const Codec codec : kCodecs) {
    for (const Kind kind : {Kind::ordinary, Kind::denormal, Kind::huge, Kind::any_bits}) {
      for (const std::size_t length : lengths()) {
        const std::size_t offset = random.below(20);
        const std::string label = std::string(to_string(codec)) + ", length " + std::to_string(length) + ", kind " +
                                  std::to_string(static_cast<int>(kind)) + ", offset " + std::to_string(offset);
        std::vector<float> values = draw(random, kind, length), state = draw(random, kind, length);
        if (kind == Kind::any_bits && random.chance(0.5)) {  // blocks without a bad number, too
          for (float& value : values) value = std::isfinite(value) ? value : 1.0F;
        }
        const std::size_t size = encoded_bytes(codec, length);
        Bytes wanted(size);
        Placed from(values, offset % 5);

        scalar::encode(codec, values, wanted);
        PlacedBytes got(size, offset);
        encode(codec, from.span(), got.span());
        ASSERT_TRUE(same_bytes(got.span(), wanted)) << "encode, " << label;
        ASSERT_TRUE(got.guards_intact()) << "encode, " << label;

        std::vector<float> wanted_values(length);
        scalar::decode_accepted(codec, wanted, wanted_values);
        Placed out(std::vector<float>(length), offset % 7);
        decode_accepted(codec, got.span(), out.span());
        ASSERT_TRUE(same_bits(out.span(), wanted_values)) << "decode, " << label;
        ASSERT_TRUE(out.guards_intact()) << "decode, " << label;

        for (const float limit : {0.0F, 2.5F, 1e30F, kLargest}) {
          ASSERT_EQ(check_encoded(codec, got.span(), length, limit),
                    scalar::check_encoded(codec, wanted, length, limit))
              << label << ", limit " << limit;
          const Arrival arrival = checksum_and_check(codec, got.span(), length, limit);
          ASSERT_EQ(arrival.fault, scalar::check_encoded(codec, wanted, length, limit)) << label << ", limit " << limit;
          ASSERT_EQ(arrival.checksum, scalar::checksum(wanted)) << label;
        }

        const float own_scale = random_float(random, 2), weight = random_float(random, 2);
        const float inverse = random_float(random, 2);
        Placed sum(state, offset % 3);
        std::vector<float> wanted_sum = state;
        const NumberFault fault =
            scalar::accumulate_checked(wanted_sum, own_scale, weight, codec, wanted, inverse, kLargest);
        ASSERT_EQ(accumulate_checked(sum.span(), own_scale, weight, codec, got.span(), inverse, kLargest), fault);
        ASSERT_TRUE(same_bits(sum.span(), wanted_sum)) << "accumulate, " << label;
        ASSERT_TRUE(sum.guards_intact()) << "accumulate, " << label;

        Placed residual(state, offset % 3);
        std::vector<float> wanted_residual = state;
        scalar::encode_with_feedback(codec, values, wanted_residual, wanted);
        encode_with_feedback(codec, from.span(), residual.span(), got.span());
        if (codec != Codec::fp32) {
          ASSERT_TRUE(same_bytes(got.span(), wanted)) << "feedback, " << label;
        }
        ASSERT_TRUE(same_bits(residual.span(), wanted_residual)) << "residual, " << label;
        ASSERT_TRUE(residual.guards_intact() && got.guards_intact()) << "feedback, " << label;

        std::vector<float> wanted_average = values;
        scalar::finalise_and_encode(wanted_average, inverse, codec, wanted);
        finalise_and_encode(from.span(), inverse, codec, got.span());
        if (codec != Codec::fp32) {
          ASSERT_TRUE(same_bytes(got.span(), wanted)) << "finalise, " << label;
        }
        ASSERT_TRUE(same_bits(from.span(), wanted_average)) << "finalise, " << label;
        ASSERT_TRUE(from.guards_intact() && got.guards_intact()) << "finalise, " << label;
      }
    }
  }
}

// Every fp32 whose rounding is a question: all upper halves, with lower halves around a tie.
TEST_P(CodecOnEveryTarget, SixteenBitsOfEveryUpperHalf) {
  std::vector<float> values;
  for (const std::uint32_t low : {0x0U, 0x1U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU, 0x0fffU, 0x1000U, 0x1001U, 0x3000U}) {
    values.clear();
    for (std::uint32_t high = 0; high < 0x10000U; ++high) values.push_back(std::bit_cast<float>((high << 16U) | low));
    for (const Codec codec : {Codec::bf16, Codec::fp16}) {
      Bytes wanted(encoded_bytes(codec, values.size()));
      scalar::encode(codec, values, wanted);
      ASSERT_TRUE(same_bytes(encoded(codec, values), wanted)) << to_string(codec) << ", " << low;
    }
  }
}

TEST_P(CodecOnEveryTarget, EverySixteenBitNumberIsDecodedAlike) {
  for (const Codec codec : {Codec::bf16, Codec::fp16}) {
    Bytes all(2 * 0x10000);
    for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) std::memcpy(all.data() + std::size_t{2} * bits, &bits, 2);
    std::vector<float> got(0x10000), wanted(0x10000);
    decode_accepted(codec, all, got);
    scalar::decode_accepted(codec, all, wanted);
    ASSERT_TRUE(same_bits(got, wanted)) << to_string(codec);
  }
}

TEST_P(CodecOnEveryTarget, WhatWasDecodedEncodesToTheSameBytes) {
  Random random(29);
  for (const Codec codec : kCodecs) {
    for (const std::size_t length : {1, 255, 256, 257, 10'000}) {
      for (const Kind kind : {Kind::ordinary, Kind::denormal, Kind::huge}) {
        const Bytes once = encoded(codec, draw(random, kind, length));
        ASSERT_EQ(try_payload(codec, once, length, kLargest), "") << to_string(codec) << ", " << length;
        ASSERT_EQ(check_encoded(codec, once, length, kLargest), NumberFault::none) << to_string(codec);
      }
      const Bytes once = encoded(codec, mixed_values(random, length));
      ASSERT_EQ(try_payload(codec, once, length, kLargest), "") << to_string(codec) << ", " << length;
    }
  }
}

// What an average is made of: the reducer's own copy is what everybody decodes.
TEST_P(CodecOnEveryTarget, TheReducerHoldsWhatTheOthersReceive) {
  Random random(31);
  for (const Codec codec : kCodecs) {
    std::vector<float> sum = mixed_values(random, 1000);
    Bytes bytes(encoded_bytes(codec, sum.size()));
    finalise_and_encode(sum, 0.3F, codec, bytes);
    std::vector<float> received(sum.size());
    ASSERT_EQ(decode(codec, bytes, received, kLargest), NumberFault::none);
    EXPECT_TRUE(same_bits(received, sum)) << to_string(codec);
  }
}

TEST_P(CodecOnEveryTarget, ErrorFeedbackLosesNothingOverRounds) {
  Random random(37);
  constexpr std::size_t kElements = 1000, kRounds = 200;
  for (const Codec codec : kCodecs) {
    std::vector<float> residual(kElements);
    std::vector<double> sent(kElements), given(kElements), magnitude(kElements);
    for (std::size_t round = 0; round < kRounds; ++round) {
      // Values far below the step of their block, which rounding alone would lose for good; some beyond what fp16
      // holds.
      std::vector<float> values(kElements);
      for (std::size_t i = 0; i < kElements; ++i)
        values[i] = i % 100 == 0 ? 3.0F : random_float(random, 0.01F) + 0.002F;
      if (round == 0) values[7] = 1e5F;
      Bytes bytes(encoded_bytes(codec, kElements));
      encode_with_feedback(codec, values, residual, bytes);
      const std::vector<float> received = decoded(codec, bytes, kElements);
      for (std::size_t i = 0; i < kElements; ++i) {
        given[i] += static_cast<double>(values[i]);
        sent[i] += static_cast<double>(received[i]);
        magnitude[i] += std::abs(static_cast<double>(values[i])) + std::abs(static_cast<double>(residual[i]));
      }
    }
    // One rounding per round, of values + residual.
    for (std::size_t i = 0; i < kElements; ++i) {
      ASSERT_NEAR(sent[i] + static_cast<double>(residual[i]), given[i], magnitude[i] * 0x1p-23) << to_string(codec);
    }
  }
}

TEST_P(CodecOnEveryTarget, ABadNumberDoesNotStayInTheResidual) {
  for (const Codec codec : kCodecs) {
    for (const float bad : {kInfinity, -kInfinity, kNotANumber}) {
      std::vector<float> values(300, 1.0F), residual(300, 0.25F);
      values[3] = bad;
      Bytes bytes(encoded_bytes(codec, values.size()));
      encode_with_feedback(codec, values, residual, bytes);
      EXPECT_NE(check_encoded(codec, bytes, values.size(), kLargest), NumberFault::none) << to_string(codec);
      EXPECT_TRUE(all_within(residual, 1.0F)) << to_string(codec);
    }
  }
}

// One bad number among good ones is found wherever it stands, before anything is written.
TEST_P(CodecOnEveryTarget, OneBadNumberIsFoundAtEveryPlace) {
  Random random(41);
  for (const Codec codec : {Codec::fp32, Codec::bf16, Codec::fp16}) {
    for (const std::size_t length : {1, 7, 40, 131, 300}) {
      const Bytes good = encoded(codec, draw(random, Kind::ordinary, length));
      for (std::size_t place = 0; place < length; ++place) {
        for (const float bad : {kInfinity, -kInfinity, kNotANumber, 4.0F, -4.0F}) {
          Bytes bytes = good;
          const Bytes one = encoded(codec, std::vector<float>{bad});
          std::copy(one.begin(), one.end(), bytes.begin() + static_cast<std::ptrdiff_t>(place * one.size()));
          const NumberFault wanted = std::isfinite(bad) ? NumberFault::too_large : NumberFault::not_finite;
          ASSERT_EQ(check_encoded(codec, bytes, length, 3.5F), wanted) << to_string(codec) << place;
          ASSERT_EQ(try_payload(codec, bytes, length, 3.5F), "") << to_string(codec) << place;
        }
      }
    }
  }
}

TEST_P(CodecOnEveryTarget, Int8RefusesWhatNoEncoderWrites) {
  Random random(43);
  for (const std::size_t length : {200, 256, 700}) {
    const Bytes good = encoded(Codec::int8, draw(random, Kind::ordinary, length));
    const std::size_t blocks = int8_blocks(length);
    const auto fault_with = [&](auto change) {
      Bytes bytes = good;
      change(bytes);
      EXPECT_EQ(try_payload(Codec::int8, bytes, length, 1e30F), "");
      return check_encoded(Codec::int8, bytes, length, 1e30F);
    };
    ASSERT_EQ(fault_with([](Bytes&) {}), NumberFault::none);
    for (std::size_t block = 0; block < blocks; ++block) {
      float own = 0;
      std::memcpy(&own, good.data() + 4 * block, 4);
      const auto scale_becomes = [&](float scale) {
        return fault_with([&](Bytes& bytes) { std::memcpy(bytes.data() + 4 * block, &scale, 4); });
      };
      for (const float bad : {kNotANumber, -kNotANumber, kInfinity, -kInfinity, -own, -0.0F, 1e-38F, 1e-45F, kLargest,
                              kSmallestInt8Scale / 2, std::nextafter(own, 1.0F), 2 * kLargestInt8Scale}) {
        EXPECT_EQ(scale_becomes(bad), NumberFault::bad_scale) << bad;
      }
      EXPECT_EQ(scale_becomes(0.0F), NumberFault::bad_value);
      EXPECT_EQ(scale_becomes(0x1p100F), NumberFault::too_large);
      EXPECT_EQ(scale_becomes(1.0F), NumberFault::none);
    }
    for (std::size_t place = 0; place < length; ++place) {
      const auto byte_becomes = [&](std::uint8_t byte) {
        return fault_with([&](Bytes& bytes) { bytes[4 * blocks + place] = std::byte{byte}; });
      };
      EXPECT_EQ(byte_becomes(0x80), NumberFault::bad_value) << place;
      EXPECT_EQ(byte_becomes(0x81), NumberFault::none) << place;
    }
    // A block whose scale is larger than its bytes need.
    EXPECT_EQ(fault_with([&](Bytes& bytes) {
                for (std::size_t i = 4 * blocks; i < bytes.size(); ++i) bytes[i] = std::byte{126};
              }),
              NumberFault::bad_value);
  }
}

TEST_P(CodecOnEveryTarget, LengthsThatDoNotFitAreRefused) {
  for (const Codec codec : kCodecs) {
    for (const std::size_t length : {0, 1, 256, 1000}) {
      const Bytes bytes(encoded_bytes(codec, length) + 3);
      for (std::size_t size = 0; size <= bytes.size(); ++size) {
        const NumberFault wanted = size + 3 == bytes.size() ? NumberFault::none : NumberFault::bad_length;
        ASSERT_EQ(check_encoded(codec, std::span(bytes).first(size), length, 1), wanted) << to_string(codec);
      }
      ASSERT_EQ(try_payload(codec, bytes, length, 1), "");
    }
  }
}

TEST_P(CodecOnEveryTarget, ALimitOfNothingHasNoSign) {
  for (const Codec codec : kCodecs) {
    const std::vector<float> nothing(300), one(300, 1.0F);
    for (const float limit : {0.0F, -0.0F}) {
      ASSERT_EQ(try_payload(codec, encoded(codec, nothing), nothing.size(), limit), "") << to_string(codec);
      EXPECT_EQ(check_encoded(codec, encoded(codec, nothing), nothing.size(), limit), NumberFault::none);
      ASSERT_EQ(try_payload(codec, encoded(codec, one), one.size(), limit), "") << to_string(codec);
      EXPECT_EQ(check_encoded(codec, encoded(codec, one), one.size(), limit), NumberFault::too_large);
    }
  }
}

TEST_P(CodecOnEveryTarget, RandomBytesAreRefusedOrHarmless) {
  Random random(47);
  for (int i = 0; i < 3000; ++i) {
    Bytes bytes(random.below(3000));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
    ASSERT_EQ(try_hostile_bytes(bytes), "");
  }
  // One bit off an honest payload.
  for (const Codec codec : kCodecs) {
    const std::size_t length = 300;
    const Bytes honest = encoded(codec, draw(random, Kind::ordinary, length));
    for (int i = 0; i < 2000; ++i) {
      Bytes bytes = honest;
      const std::size_t bit = random.below(8 * bytes.size());
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      ASSERT_EQ(try_payload(codec, bytes, length, 1e30F), "") << to_string(codec) << ", bit " << bit;
    }
  }
}

// Random bytes hardly ever look like a payload or a frame; what was one and is damaged gets past the first looks.
TEST_P(CodecOnEveryTarget, DamagedPayloadsAndFramesAreRefusedOrHarmless) {
  Random random(48);
  for (const Codec codec : kCodecs) {
    int payloads_taken = 0, frames_taken = 0, frames_refused = 0;
    for (int i = 0; i < 1500; ++i) {
      const std::size_t length = 1 + random.below(600);
      const Bytes honest = encoded(codec, draw(random, Kind::ordinary, length));
      const Bytes payload = damaged(random, honest);
      ASSERT_EQ(try_payload(codec, payload, length, 1e30F), "") << to_string(codec) << ", " << length;
      payloads_taken += check_encoded(codec, payload, length, 1e30F) == NumberFault::none;
      Bytes frame(2 * honest.size() + 100);
      frame.resize(compress(honest, codec, 1, frame));
      ASSERT_GT(frame.size(), 0U);
      frame = damaged(random, frame);
      bool is_taken = false;
      ASSERT_EQ(try_frame(codec, frame, honest.size(), &is_taken), "") << to_string(codec) << ", " << length;
      (is_taken ? frames_taken : frames_refused) += 1;
    }
    // Both answers occur, or the above says nothing.
    EXPECT_GT(payloads_taken, 20) << to_string(codec);
    EXPECT_GT(frames_taken, 20) << to_string(codec);
    EXPECT_GT(frames_refused, 20) << to_string(codec);
  }
}

TEST_P(CodecOnEveryTarget, GroupedBytesMatchTheReferenceAndComeBack) {
  Random random(53);
  for (const Codec codec : kCodecs) {
    for (const std::size_t length : lengths()) {
      Bytes bytes(encoded_bytes(codec, length));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
      Bytes wanted(bytes.size());
      scalar::group_bytes(codec, bytes, wanted);
      PlacedBytes grouped(bytes.size(), 3), back(bytes.size(), 5);
      group_bytes(codec, bytes, grouped.span());
      ASSERT_TRUE(same_bytes(grouped.span(), wanted)) << to_string(codec) << ", " << length;
      ungroup_bytes(codec, grouped.span(), back.span());
      ASSERT_TRUE(same_bytes(back.span(), bytes)) << to_string(codec) << ", " << length;
      ASSERT_TRUE(grouped.guards_intact() && back.guards_intact());
      scalar::ungroup_bytes(codec, wanted, back.span());
      ASSERT_TRUE(same_bytes(back.span(), bytes)) << to_string(codec) << ", " << length;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CodecOnEveryTarget, ::testing::ValuesIn(targets()), target_name);

TEST(CodecDeathTest, RefusesTargetsThatDoNotFit) {
  std::vector<float> values(10);
  Bytes bytes(21);
  EXPECT_DEATH(encode(Codec::bf16, values, bytes), "broken invariant.*values 21, 10");
  const auto own = std::as_writable_bytes(std::span(values));
  EXPECT_DEATH(encode(Codec::bf16, values, own.first(20)), "broken invariant");
  EXPECT_DEATH(group_bytes(Codec::fp32, bytes, std::span(bytes)), "broken invariant");
  EXPECT_DEATH(static_cast<void>(check_encoded(Codec::bf16, bytes, 10, kNotANumber)), "broken invariant");
}

}  // namespace
}  // namespace papilio::kernels
