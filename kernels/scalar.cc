#include "kernels/scalar.h"

#include <bit>
#include <limits>

// The library's own portable code, so that its vector versions are held against it too.
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include <xxhash.h>

#include "engine/base/assert.hpp"

namespace papilio::kernels::scalar {

void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values) {
  PAPILIO_ASSERT_VALUES(sum.size() == values.size(), sum.size(), values.size());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const float own = own_scale * sum[i];
    const float other = weight * values[i];
    sum[i] = own + other;
  }
}

void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total) {
  accumulate(sum, own_scale, weight, values);
  finalise(sum, inverse_total);
}

void finalise(std::span<float> sum, float inverse_total) {
  for (float& value : sum) value *= inverse_total;
}

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

namespace {

// Without the sign, the order of the bit patterns is the order of the magnitudes, with infinity above every number and
// every NaN above infinity. Compared as integers, because a NaN compares false with everything and because no compiler
// flag may argue it away.
std::uint32_t magnitude_bits(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7fffffffU; }

}  // namespace

bool all_within(std::span<const float> values, float limit) {
  for (const float value : values) {
    if (magnitude_bits(value) > magnitude_bits(limit)) return false;
  }
  return true;
}

Inspection inspect(std::span<const float> values) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::uint32_t largest = 0;
  double squares[kInspectionLanes] = {};
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (magnitude_bits(values[i]) > largest) largest = magnitude_bits(values[i]);
    const auto value = static_cast<double>(values[i]);
    squares[i % kInspectionLanes] += value * value;
  }
  if (largest >= magnitude_bits(kInfinity)) {
    return {.largest = kInfinity, .sum_of_squares = std::numeric_limits<double>::infinity(), .finite = false};
  }
  for (std::size_t width = kInspectionLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) squares[lane] += squares[lane + width];
  }
  return {.largest = std::bit_cast<float>(largest), .sum_of_squares = squares[0], .finite = true};
}

void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from) {
  PAPILIO_ASSERT_VALUES(to.size() == from.size(), to.size(), from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i];
}

}  // namespace papilio::kernels::scalar
