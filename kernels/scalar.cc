#include "kernels/scalar.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
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
  scalar::finalise(sum, inverse_total);
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

namespace {

constexpr std::uint32_t kInfinityBits = 0x7f800000U;

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void store(std::span<std::byte> bytes, std::size_t index, T value) {
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
}

// The elements of block `block` out of `elements`.
std::size_t block_length(std::size_t block, std::size_t elements) {
  return std::min(kInt8Block, elements - block * kInt8Block);
}

// Element `index` of a payload of `elements`, whatever it is.
float decoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements, std::size_t index) {
  switch (codec) {
    case Codec::fp32: return load<float>(bytes, index);
    case Codec::bf16: return float_from_bf16(load<std::uint16_t>(bytes, index));
    case Codec::fp16: return float_from_fp16(load<std::uint16_t>(bytes, index));
    case Codec::int8: {
      const auto byte = load<std::int8_t>(bytes.subspan(sizeof(float) * int8_blocks(elements)), index);
      return static_cast<float>(byte) * load<float>(bytes, index / kInt8Block);
    }
  }
  return 0;
}

// Whether the int8 bytes of one block use its scale as an encoder does.
bool uses_scale(std::span<const std::byte> block, float scale) {
  int largest = 0;
  for (std::size_t i = 0; i < block.size(); ++i)
    largest = std::max(largest, std::abs(int{load<std::int8_t>(block, i)}));
  return largest == (scale == 0 ? 0 : 127);
}

NumberFault check_int8(std::span<const std::byte> bytes, std::size_t elements, float limit) {
  const std::size_t blocks = int8_blocks(elements);
  for (std::size_t block = 0; block < blocks; ++block) {
    const auto scale = load<float>(bytes, block);
    const auto bits = std::bit_cast<std::uint32_t>(scale);
    if (bits == 0) continue;
    if ((bits & kInt8ScaleFraction) != 0 || !(scale >= kSmallestInt8Scale && scale <= kLargestInt8Scale)) {
      return NumberFault::bad_scale;
    }
  }
  const std::span<const std::byte> values = bytes.subspan(sizeof(float) * blocks);
  for (std::size_t block = 0; block < blocks; ++block) {
    if (!uses_scale(values.subspan(block * kInt8Block, block_length(block, elements)), load<float>(bytes, block))) {
      return NumberFault::bad_value;
    }
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    if (127 * load<float>(bytes, block) > limit) return NumberFault::too_large;
  }
  return NumberFault::none;
}

void encode_int8_block(std::span<const float> values, float* scale_out, std::span<std::byte> out) {
  std::uint32_t largest = 0;
  for (const float value : values) largest = std::max(largest, magnitude_bits(value));
  std::fill(out.begin(), out.end(), std::byte{0});
  if (largest >= kInfinityBits) {
    *scale_out = std::bit_cast<float>(kInt8NotANumber);
    return;
  }
  *scale_out = int8_scale(std::bit_cast<float>(largest));
  if (*scale_out == 0) return;
  const float reciprocal = 1 / *scale_out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    store(out, i, static_cast<std::int8_t>(std::lrint(values[i] * reciprocal)));
  }
}

void check_sizes(Codec codec, std::size_t elements, std::span<const std::byte> bytes) {
  PAPILIO_ASSERT_VALUES(bytes.size() == encoded_bytes(codec, elements), bytes.size(), encoded_bytes(codec, elements));
}

// `planes` bytes of different significance in each of the first `count` numbers; what follows those stays as it is.
struct Planes {
  std::size_t planes = 0, count = 0;
};
Planes planes_of(Codec codec, std::size_t bytes) {
  const std::size_t elements = encoded_elements(codec, bytes);
  PAPILIO_ASSERT_VALUES(encoded_bytes(codec, elements) == bytes, encoded_bytes(codec, elements), bytes);
  if (codec == Codec::int8) return {sizeof(float), int8_blocks(elements)};
  return {codec == Codec::fp32 ? sizeof(float) : sizeof(std::uint16_t), elements};
}

}  // namespace

std::uint16_t bf16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16U) & 0x8000U);
  if (magnitude_bits(value) > kInfinityBits) return kBf16NotANumber;
  if (magnitude_bits(value) == kInfinityBits) return sign | 0x7f80U;
  const std::uint32_t rounded = (magnitude_bits(value) + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
  return static_cast<std::uint16_t>(sign | std::min(rounded, std::uint32_t{0x7f7f}));
}

std::uint16_t fp16_from_float(float value) {
  constexpr std::uint32_t kLargest = 0x477fe000U;         // 65504
  constexpr std::uint32_t kSmallestNormal = 0x38800000U;  // 2^-14
  const std::uint32_t magnitude = magnitude_bits(value);
  const auto sign = static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) >> 16U) & 0x8000U);
  if (magnitude > kInfinityBits) return kFp16NotANumber;
  if (magnitude == kInfinityBits) return sign | 0x7c00U;
  if (magnitude >= kLargest) return sign | 0x7bffU;
  if (magnitude < kSmallestNormal) {
    // Floats in [0.5, 1) lie 2^-24 apart, as subnormal binary16 numbers do: the addition rounds, and leaves the result.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign |
                                      (std::bit_cast<std::uint32_t>(rounded) - std::bit_cast<std::uint32_t>(0.5F)));
  }
  const std::uint32_t rounded = (magnitude + 0xfffU + ((magnitude >> 13U) & 1U)) >> 13U;
  return static_cast<std::uint16_t>(sign | (rounded - (112U << 10U)));
}

float float_from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16U); }

float float_from_fp16(std::uint16_t bits) {
  const std::uint32_t sign = (std::uint32_t{bits} & 0x8000U) << 16U;
  const std::uint32_t magnitude = (std::uint32_t{bits} & 0x7fffU) << 13U;
  if (magnitude >= (0x7c00U << 13U)) return std::bit_cast<float>(sign | kInfinityBits | magnitude);
  // The exponents' biases differ by 112; a subnormal number is one of fp32, too, until it is multiplied.
  const float value = std::bit_cast<float>(magnitude) * 0x1p112F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

float int8_scale(float largest) {
  const float exact = largest / 127;
  if (exact < kSmallestInt8Scale) return 0;
  const std::uint32_t up = (std::bit_cast<std::uint32_t>(exact) + kInt8ScaleFraction) & ~kInt8ScaleFraction;
  return std::min(std::bit_cast<float>(up), kLargestInt8Scale);
}

std::uint16_t largest_bits_within(Codec codec, float limit) {
  if (codec == Codec::bf16) return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(limit) >> 16U);
  const std::uint16_t nearest = fp16_from_float(limit);
  return float_from_fp16(nearest) > limit ? nearest - 1 : nearest;
}

float clipping_factor(double sum_of_squares, float radius) {
  const double length = std::sqrt(sum_of_squares);
  return length > static_cast<double>(radius) ? static_cast<float>(static_cast<double>(radius) / length) : 1.0F;
}

NumberFault check_encoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  PAPILIO_ASSERT(limit >= 0 && limit <= std::numeric_limits<float>::max());
  if (bytes.size() != encoded_bytes(codec, elements)) return NumberFault::bad_length;
  if (codec == Codec::int8) return check_int8(bytes, elements, limit);
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    largest = std::max(largest, magnitude_bits(decoded(codec, bytes, elements, i)));
  }
  if (largest >= kInfinityBits) return NumberFault::not_finite;
  return largest > magnitude_bits(limit) ? NumberFault::too_large : NumberFault::none;
}

Arrival checksum_and_check(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  return {.checksum = scalar::checksum(bytes), .fault = scalar::check_encoded(codec, bytes, elements, limit)};
}

NumberFault accumulate_checked(std::span<float> sum, float own_scale, float weight, Codec codec,
                               std::span<const std::byte> bytes, float inverse_total, float limit) {
  const NumberFault fault = scalar::check_encoded(codec, bytes, sum.size(), limit);
  if (fault == NumberFault::none) scalar::accumulate_accepted(sum, own_scale, weight, codec, bytes, inverse_total);
  return fault;
}

void accumulate_accepted(std::span<float> sum, float own_scale, float weight, Codec codec,
                         std::span<const std::byte> bytes, float inverse_total) {
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const float own = own_scale * sum[i];
    const float other = weight * decoded(codec, bytes, sum.size(), i);
    sum[i] = (own + other) * inverse_total;
  }
}

NumberFault decode(Codec codec, std::span<const std::byte> bytes, std::span<float> out, float limit) {
  const NumberFault fault = scalar::check_encoded(codec, bytes, out.size(), limit);
  if (fault == NumberFault::none) scalar::decode_accepted(codec, bytes, out);
  return fault;
}

void decode_accepted(Codec codec, std::span<const std::byte> bytes, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = decoded(codec, bytes, out.size(), i);
}

void encode(Codec codec, std::span<const float> values, std::span<std::byte> out) {
  check_sizes(codec, values.size(), out);
  if (codec == Codec::int8) {
    const std::size_t blocks = int8_blocks(values.size());
    for (std::size_t block = 0; block < blocks; ++block) {
      const std::size_t begin = block * kInt8Block, length = block_length(block, values.size());
      float scale = 0;
      encode_int8_block(values.subspan(begin, length), &scale, out.subspan(sizeof(float) * blocks + begin, length));
      store(out, block, scale);
    }
    return;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (codec == Codec::fp32) store(out, i, values[i]);
    if (codec == Codec::bf16) store(out, i, bf16_from_float(values[i]));
    if (codec == Codec::fp16) store(out, i, fp16_from_float(values[i]));
  }
}

void encode_with_feedback(Codec codec, std::span<const float> values, std::span<float> residual,
                          std::span<std::byte> out) {
  PAPILIO_ASSERT_VALUES(values.size() == residual.size(), values.size(), residual.size());
  for (std::size_t i = 0; i < values.size(); ++i) residual[i] = values[i] + residual[i];
  scalar::encode(codec, residual, out);
  for (std::size_t i = 0; i < values.size(); ++i) {
    residual[i] -= decoded(codec, out, values.size(), i);
    if (magnitude_bits(residual[i]) >= kInfinityBits) residual[i] = 0;
  }
}

void finalise_and_encode(std::span<float> sum, float inverse_total, Codec codec, std::span<std::byte> out) {
  scalar::finalise(sum, inverse_total);
  scalar::encode(codec, sum, out);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = decoded(codec, out, sum.size(), i);
}

void group_bytes(Codec codec, std::span<const std::byte> bytes, std::span<std::byte> out) {
  PAPILIO_ASSERT_VALUES(bytes.size() == out.size(), bytes.size(), out.size());
  const Planes at = planes_of(codec, bytes.size());
  for (std::size_t plane = 0; plane < at.planes; ++plane) {
    for (std::size_t i = 0; i < at.count; ++i) out[plane * at.count + i] = bytes[i * at.planes + plane];
  }
  for (std::size_t i = at.planes * at.count; i < bytes.size(); ++i) out[i] = bytes[i];
}

void ungroup_bytes(Codec codec, std::span<const std::byte> grouped, std::span<std::byte> out) {
  PAPILIO_ASSERT_VALUES(grouped.size() == out.size(), grouped.size(), out.size());
  const Planes at = planes_of(codec, grouped.size());
  for (std::size_t plane = 0; plane < at.planes; ++plane) {
    for (std::size_t i = 0; i < at.count; ++i) out[i * at.planes + plane] = grouped[plane * at.count + i];
  }
  for (std::size_t i = at.planes * at.count; i < grouped.size(); ++i) out[i] = grouped[i];
}

namespace {

void check_contributions(Contributions contributions, std::size_t elements) {
  PAPILIO_ASSERT_VALUES(!contributions.empty() && contributions.size() <= kMaximumMembers, contributions.size(), 0);
  for (const auto& each : contributions) PAPILIO_ASSERT_VALUES(each.size() == elements, each.size(), elements);
}

// Integers in the order of the floats, -0 below +0: whichever instruction compares, the order is the same.
std::int32_t order_key(float value) {
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
float from_order_key(std::int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

using Column = std::array<float, kMaximumMembers>;

// All contributions' values at one place, smallest first.
Column sorted_column(Contributions contributions, std::size_t element) {
  std::array<std::int32_t, kMaximumMembers> keys{};
  for (std::size_t i = 0; i < contributions.size(); ++i) keys[i] = order_key(contributions[i][element]);
  std::sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(contributions.size()));
  Column column{};
  for (std::size_t i = 0; i < contributions.size(); ++i) column[i] = from_order_key(keys[i]);
  return column;
}

}  // namespace

void trimmed_mean(Contributions contributions, std::size_t trim, std::span<float> out) {
  check_contributions(contributions, out.size());
  PAPILIO_ASSERT_VALUES(2 * trim < contributions.size(), trim, contributions.size());
  const std::size_t count = contributions.size();
  for (std::size_t element = 0; element < out.size(); ++element) {
    const Column column = sorted_column(contributions, element);
    float sum = 0;
    for (std::size_t i = trim; i < count - trim; ++i) sum += column[i];
    out[element] = sum / static_cast<float>(count - 2 * trim);
  }
}

void median(Contributions contributions, std::span<float> out) {
  check_contributions(contributions, out.size());
  const std::size_t count = contributions.size();
  for (std::size_t element = 0; element < out.size(); ++element) {
    const Column column = sorted_column(contributions, element);
    const float lower = column[(count - 1) / 2], upper = column[count / 2];
    out[element] = count % 2 == 1 ? upper : 0.5F * lower + 0.5F * upper;
  }
}

void centred_clipping(Contributions contributions, float radius, std::size_t iterations, std::span<float> centre) {
  check_contributions(contributions, centre.size());
  PAPILIO_ASSERT(radius >= 0);
  std::array<float, kMaximumMembers> factors{};
  for (std::size_t iteration = 0; iteration < iterations; ++iteration) {
    for (std::size_t i = 0; i < contributions.size(); ++i) {
      factors[i] = clipping_factor(squared_distance(contributions[i], centre), radius);
    }
    scalar::move_centre(contributions, factors, centre);
  }
}

double squared_distance(std::span<const float> values, std::span<const float> centre) {
  double squares[kInspectionLanes] = {};
  for (std::size_t element = 0; element < centre.size(); ++element) {
    const auto difference = static_cast<double>(values[element] - centre[element]);
    squares[element % kInspectionLanes] += difference * difference;
  }
  for (std::size_t width = kInspectionLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) squares[lane] += squares[lane + width];
  }
  return squares[0];
}

void move_centre(Contributions contributions, std::span<const float> factors, std::span<float> centre) {
  for (std::size_t element = 0; element < centre.size(); ++element) {
    float moved = 0;
    for (std::size_t i = 0; i < contributions.size(); ++i) {
      moved += (contributions[i][element] - centre[element]) * factors[i];
    }
    centre[element] += moved / static_cast<float>(contributions.size());
  }
}

}  // namespace papilio::kernels::scalar
