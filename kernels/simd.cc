// The operations of kernels/ops.h on plain floats and bytes, by Highway (kernels/simd_common.h).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "kernels/ops.h"
#include "kernels/scalar.h"
#include "kernels/simd_common.h"
#include "kernels/targets.h"

// Only for its constants and short inputs.
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include <xxhash.h>

HWY_BEFORE_NAMESPACE();
namespace papilio::kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

void accumulate(float* sum, float own_scale, float weight, const float* values, float, std::size_t count) {
  scalar::accumulate({sum, count}, own_scale, weight, {values, count});
}
void accumulate_and_finalise(float* sum, float own_scale, float weight, const float* values, float inverse_total,
                             std::size_t count) {
  scalar::accumulate_and_finalise({sum, count}, own_scale, weight, {values, count}, inverse_total);
}
void finalise(float* sum, float inverse_total, std::size_t count) { scalar::finalise({sum, count}, inverse_total); }
bool all_within(const float* values, float limit, std::size_t count) {
  return scalar::all_within({values, count}, limit);
}
Inspection inspect(const float* values, std::size_t count) { return scalar::inspect({values, count}); }
std::uint64_t checksum(const std::byte* bytes, std::size_t size) { return scalar::checksum({bytes, size}); }
bool checksum_and_check(const std::byte* bytes, std::size_t size, bool shorts, std::int32_t most, std::uint64_t* sum) {
  *sum = scalar::checksum({bytes, size});
  const std::uint32_t mask = shorts ? 0x7fffU : 0x7fffffffU;
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < size; i += shorts ? 2 : 4) {
    std::uint32_t bits = 0;
    memcpy(&bits, bytes + i, shorts ? 2 : 4);
    largest = HWY_MAX(largest, bits & mask);
  }
  return largest <= static_cast<std::uint32_t>(most);
}
void copy_streaming(std::byte* to, const std::byte* from, std::size_t size) {
  scalar::copy_streaming({to, size}, {from, size});
}

#else

constexpr std::size_t kFloats = hn::MaxLanes(Floats());

template <bool finalised>
HWY_INLINE void accumulate_loop(float* HWY_RESTRICT sum, float own_scale, float weight,
                                const float* HWY_RESTRICT values, float inverse_total, std::size_t count) {
  const Floats d;
  const Float own_factor = hn::Set(d, own_scale), factor = hn::Set(d, weight), inverse = hn::Set(d, inverse_total);
  std::size_t i = 0;
  for (; i + kFloats <= count; i += kFloats) {
    const Float own = hn::Mul(own_factor, hn::LoadU(d, sum + i));
    const Float other = hn::Mul(factor, hn::LoadU(d, values + i));
    const Float total = hn::Add(own, other);
    hn::StoreU(finalised ? hn::Mul(total, inverse) : total, d, sum + i);
  }
  const std::size_t rest = count - i;
  if (finalised) {
    scalar::accumulate_and_finalise({sum + i, rest}, own_scale, weight, {values + i, rest}, inverse_total);
  } else {
    scalar::accumulate({sum + i, rest}, own_scale, weight, {values + i, rest});
  }
}

void accumulate(float* sum, float own_scale, float weight, const float* values, float inverse_total,
                std::size_t count) {
  accumulate_loop<false>(sum, own_scale, weight, values, inverse_total, count);
}
void accumulate_and_finalise(float* sum, float own_scale, float weight, const float* values, float inverse_total,
                             std::size_t count) {
  accumulate_loop<true>(sum, own_scale, weight, values, inverse_total, count);
}

void finalise(float* sum, float inverse_total, std::size_t count) {
  const Floats d;
  const Float inverse = hn::Set(d, inverse_total);
  std::size_t i = 0;
  for (; i + kFloats <= count; i += kFloats) hn::StoreU(hn::Mul(hn::LoadU(d, sum + i), inverse), d, sum + i);
  scalar::finalise({sum + i, count - i}, inverse_total);
}

// The largest |value| as bits, from several maxima at once, so that one need not wait for another.
HWY_INLINE std::int32_t largest_bits(const float* values, std::size_t count) {
  const Floats d;
  constexpr std::size_t kAtOnce = 4;
  Integer largest[kAtOnce];
  for (Integer& each : largest) each = hn::Zero(Integers());
  std::size_t i = 0;
  for (; i + kAtOnce * kFloats <= count; i += kAtOnce * kFloats) {
    for (std::size_t k = 0; k < kAtOnce; ++k) {
      largest[k] = hn::Max(largest[k], magnitude_bits(hn::LoadU(d, values + i + k * kFloats)));
    }
  }
  while (i < count) {
    const std::size_t used = HWY_MIN(kFloats, count - i);
    const Padded<float, kFloats> rest(values + i, used);
    largest[0] = hn::Max(largest[0], magnitude_bits(hn::Load(d, rest.values)));
    i += used;
  }
  const Integer all = hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]));
  return hn::GetLane(hn::MaxOfLanes(Integers(), all));
}

// No early end: branches would keep it from running at the speed of the cache, and a chunk that fails is rare.
bool all_within(const float* values, float limit, std::size_t count) {
  std::int32_t most = 0;
  memcpy(&most, &limit, sizeof(most));
  return largest_bits(values, count) <= most;
}

Inspection inspect(const float* values, std::size_t count) {
  const Floats d;
  SquareSums squares;
  Integer largest = hn::Zero(Integers());
  std::size_t i = 0;
  for (; i + SquareSums::kLanes <= count; i += SquareSums::kLanes) {
    squares.add(values + i);
    for (std::size_t k = 0; k < SquareSums::kLanes; k += kFloats) {
      largest = hn::Max(largest, magnitude_bits(hn::LoadU(d, values + i + k)));
    }
  }
  // Lanes that have no element any more add 0, which changes no sum of squares.
  const Padded<float, SquareSums::kLanes> rest(values + i, count - i);
  squares.add(rest.values);
  for (std::size_t k = 0; k < SquareSums::kLanes; k += kFloats) {
    largest = hn::Max(largest, magnitude_bits(hn::Load(d, rest.values + k)));
  }
  const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(Integers(), largest));
  Inspection result;
  if (bits >= 0x7f800000) {
    return {.largest = HUGE_VALF, .sum_of_squares = HUGE_VAL, .finite = false};
  }
  memcpy(&result.largest, &bits, sizeof(bits));
  result.sum_of_squares = squares.total();
  return result;
}

using Words = hn::Repartition<std::uint64_t, Floats>;
using Word = hn::Vec<Words>;

// The eight accumulators of XXH3 for inputs beyond 240 bytes, section "XXH3 Algorithm Description (for long inputs)".
struct Xxh3 {
  static constexpr std::size_t kPerVector = hn::MaxLanes(Words());
  static constexpr std::size_t kVectors = 8 / kPerVector;
  static constexpr std::size_t kStripe = 64;
  static constexpr std::size_t kSecretStep = 8;
  static constexpr std::size_t kSecret = sizeof(XXH3_kSecret);
  static constexpr std::size_t kStripesPerBlock = (kSecret - kStripe) / kSecretStep;

  HWY_INLINE Xxh3() {
    HWY_ALIGN static constexpr std::uint64_t kStart[8] = {XXH_PRIME32_3, XXH_PRIME64_1, XXH_PRIME64_2, XXH_PRIME64_3,
                                                          XXH_PRIME64_4, XXH_PRIME32_2, XXH_PRIME64_5, XXH_PRIME32_1};
    for (std::size_t i = 0; i < kVectors; ++i) lanes[i] = hn::Load(Words(), kStart + i * kPerVector);
  }

  static HWY_INLINE Word load(const void* bytes, std::size_t vector) {
    return hn::LoadU(Words(), static_cast<const std::uint64_t*>(bytes) + vector * kPerVector);
  }
  static HWY_INLINE Word low_products(Word a, Word b) {
    const hn::Repartition<std::uint32_t, Words> halves;
    return hn::MulEven(hn::BitCast(halves, a), hn::BitCast(halves, b));
  }

  template <class Look>
  HWY_INLINE void take(const std::byte* stripe, const unsigned char* secret, Look& look) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      const Word data = load(stripe, i);
      look.at(data, i);
      const Word key = hn::Xor(data, load(secret, i));
      const Word product = low_products(key, hn::ShiftRight<32>(key));
      lanes[i] = hn::Add(lanes[i], hn::Add(hn::Shuffle01(data), product));
    }
  }
  HWY_INLINE void scramble() {
    const Word prime = hn::Set(Words(), XXH_PRIME32_1);
    for (std::size_t i = 0; i < kVectors; ++i) {
      const Word mixed =
          hn::Xor(hn::Xor(lanes[i], hn::ShiftRight<47>(lanes[i])), load(XXH3_kSecret + kSecret - kStripe, i));
      const Word high = hn::ShiftLeft<32>(low_products(hn::ShiftRight<32>(mixed), prime));
      lanes[i] = hn::Add(low_products(mixed, prime), high);
    }
  }

  Word lanes[kVectors];
};

// What else is asked of the words that the checksum reads: nothing, or the largest magnitude of the numbers in them.
struct NoLook {
  HWY_INLINE void at(Word, std::size_t) {}
};

template <typename T>
struct LargestLook {
  using Lanes = hn::Repartition<T, Floats>;

  HWY_INLINE LargestLook() {
    for (auto& each : largest) each = hn::Zero(Lanes());
  }
  HWY_INLINE void at(Word data, std::size_t vector) {
    const auto magnitude = hn::And(hn::BitCast(Lanes(), data), hn::Set(Lanes(), hwy::LimitsMax<T>()));
    largest[vector] = hn::Max(largest[vector], magnitude);
  }
  HWY_INLINE bool all_within(T most) const {
    auto all = largest[0];
    for (std::size_t i = 1; i < Xxh3::kVectors; ++i) all = hn::Max(all, largest[i]);
    return hn::AllFalse(Lanes(), hn::Gt(all, hn::Set(Lanes(), most)));
  }

  hn::Vec<Lanes> largest[Xxh3::kVectors];
};

// Of more than XXH3_MIDSIZE_MAX bytes.
template <class Look>
HWY_INLINE std::uint64_t checksum_looking(const std::byte* bytes, std::size_t size, Look& look) {
  Xxh3 state;
  // How many stripes the next block has is kept from the compiler: the loop over 16, unrolled, reads ahead in an order
  // that costs up to a quarter where the bytes come from memory.
  std::size_t left = (size - 1) / Xxh3::kStripe;
  for (const std::byte* block = bytes; left > 0;) {
    const std::size_t stripes = HWY_MIN(left, Xxh3::kStripesPerBlock);
    for (std::size_t i = 0; i < stripes; ++i) {
      state.take(block + i * Xxh3::kStripe, XXH3_kSecret + i * Xxh3::kSecretStep, look);
    }
    if (stripes == Xxh3::kStripesPerBlock) state.scramble();
    block += stripes * Xxh3::kStripe;
    left -= stripes;
  }
  // The last stripe may overlap the one before; numbers looked at twice change no maximum.
  state.take(bytes + size - Xxh3::kStripe, XXH3_kSecret + Xxh3::kSecret - Xxh3::kStripe - 7, look);

  HWY_ALIGN std::uint64_t lanes[8];
  for (std::size_t i = 0; i < Xxh3::kVectors; ++i) hn::Store(state.lanes[i], Words(), lanes + i * Xxh3::kPerVector);
  std::uint64_t hash = size * XXH_PRIME64_1;
  for (std::size_t pair = 0; pair < 4; ++pair) {
    std::uint64_t secret[2];
    memcpy(secret, XXH3_kSecret + 11 + 16 * pair, sizeof(secret));
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(lanes[2 * pair] ^ secret[0]) * (lanes[2 * pair + 1] ^ secret[1]);
    hash += static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64U);
  }
  hash = (hash ^ (hash >> 37U)) * 0x165667919e3779f9U;
  return hash ^ (hash >> 32U);
}

std::uint64_t checksum(const std::byte* bytes, std::size_t size) {
  if (size <= XXH3_MIDSIZE_MAX) return scalar::checksum({bytes, size});
  NoLook nothing;
  return checksum_looking(bytes, size, nothing);
}

template <typename T>
HWY_INLINE bool looks_within(const std::byte* bytes, std::size_t size, T most, std::uint64_t* sum) {
  LargestLook<T> look;
  *sum = checksum_looking(bytes, size, look);
  return look.all_within(most);
}

bool checksum_and_check(const std::byte* bytes, std::size_t size, bool shorts, std::int32_t most, std::uint64_t* sum) {
  if (shorts) return looks_within(bytes, size, static_cast<std::int16_t>(most), sum);
  return looks_within(bytes, size, most, sum);
}

// Stores that go round the cache: the target is not read first (which halves the traffic to memory), and the slabs that
// the next payload lands in stay cached.
void copy_streaming(std::byte* to, const std::byte* from, std::size_t size) {
  const hn::Repartition<std::uint8_t, Floats> d;
  constexpr std::size_t kBytes = hn::MaxLanes(d);
  auto* target = reinterpret_cast<std::uint8_t*>(to);
  const auto* source = reinterpret_cast<const std::uint8_t*>(from);
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(target) % kBytes;
  const std::size_t head = misaligned == 0 ? 0 : kBytes - misaligned;
  std::size_t done = 0;
  if (size >= head + kBytes) {
    memcpy(target, source, head);
    for (done = head; done + kBytes <= size; done += kBytes) hn::Stream(hn::LoadU(d, source + done), d, target + done);
    hwy::FlushStream();  // such stores are ordered by nothing else
  }
  if (size > done) memcpy(target + done, source + done, size - done);
}

#endif

}  // namespace papilio::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <bit>
#include <functional>
#include <limits>

#include "engine/base/assert.hpp"

namespace papilio::kernels {
namespace {

HWY_EXPORT(accumulate);
HWY_EXPORT(accumulate_and_finalise);
HWY_EXPORT(finalise);
HWY_EXPORT(all_within);
HWY_EXPORT(inspect);
HWY_EXPORT(checksum);
HWY_EXPORT(checksum_and_check);
HWY_EXPORT(copy_streaming);

// The loops are compiled on the promise that their spans do not overlap.
template <typename T>
bool disjoint(std::span<T> a, std::span<const T> b) {
  const std::less_equal<const T*> not_after;
  return a.empty() || b.empty() || not_after(a.data() + a.size(), b.data()) || not_after(b.data() + b.size(), a.data());
}

template <typename T>
void check_pair(std::span<T> to, std::span<const T> from) {
  PAPILIO_ASSERT_VALUES(to.size() == from.size(), to.size(), from.size());
  PAPILIO_ASSERT(disjoint(to, from));
}

}  // namespace

std::vector<Target> targets() {
  std::vector<Target> all;
  for (const std::int64_t each : hwy::SupportedAndGeneratedTargets()) all.push_back({hwy::TargetName(each), each});
  return all;
}

Target target_in_use() { return targets().front(); }

void use_target(const Target& target) {
  hwy::SetSupportedTargetsForTest(target.highway);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

void use_best_target() {
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values) {
  check_pair(sum, values);
  HWY_DYNAMIC_DISPATCH(accumulate)(sum.data(), own_scale, weight, values.data(), 1.0F, sum.size());
}

void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total) {
  check_pair(sum, values);
  HWY_DYNAMIC_DISPATCH(accumulate_and_finalise)
  (sum.data(), own_scale, weight, values.data(), inverse_total, sum.size());
}

void finalise(std::span<float> sum, float inverse_total) {
  HWY_DYNAMIC_DISPATCH(finalise)(sum.data(), inverse_total, sum.size());
}

std::uint64_t checksum(std::span<const std::byte> bytes) {
  return HWY_DYNAMIC_DISPATCH(checksum)(bytes.data(), bytes.size());
}

Arrival checksum_and_check(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  PAPILIO_ASSERT(limit >= 0 && limit <= std::numeric_limits<float>::max());
  limit = std::abs(limit);  // -0 is a limit, too, and its bits are not compared as they are
  if (bytes.size() != encoded_bytes(codec, elements)) return {checksum(bytes), NumberFault::bad_length};
  if (codec == Codec::int8 || bytes.size() <= XXH3_MIDSIZE_MAX) {
    return {checksum(bytes), check_encoded(codec, bytes, elements, limit)};
  }
  const bool shorts = codec != Codec::fp32;
  const std::int32_t most =
      shorts ? std::int32_t{scalar::largest_bits_within(codec, limit)} : std::bit_cast<std::int32_t>(limit);
  Arrival arrival;
  if (!HWY_DYNAMIC_DISPATCH(checksum_and_check)(bytes.data(), bytes.size(), shorts, most, &arrival.checksum)) {
    arrival.fault = scalar::check_encoded(codec, bytes, elements, limit);
  }
  return arrival;
}

bool all_within(std::span<const float> values, float limit) {
  PAPILIO_ASSERT(limit >= 0 && limit <= std::numeric_limits<float>::max());
  limit = std::abs(limit);  // -0 is a limit, too, and its bits are not compared as they are
  return HWY_DYNAMIC_DISPATCH(all_within)(values.data(), limit, values.size());
}

std::size_t first_not_within(std::span<const float> values, float limit) {
  std::size_t index = 0;
  while (index < values.size() && all_within(values.subspan(index, 1), limit)) index += 1;
  return index;
}

Inspection inspect(std::span<const float> values) {
  return HWY_DYNAMIC_DISPATCH(inspect)(values.data(), values.size());
}

void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from) {
  check_pair(to, from);
  HWY_DYNAMIC_DISPATCH(copy_streaming)(to.data(), from.data(), from.size());
}

}  // namespace papilio::kernels

#endif
