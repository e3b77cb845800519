// Codecs (kernels/codec.h) by Highway (kernels/simd_common.h). A payload is looked at as a whole before the first
// write, which is cheap because the second pass finds it in the cache; anything wrong with it is named by the
// reference.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd_codec.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include "kernels/ops.h"
#include "kernels/scalar.h"
#include "kernels/simd_common.h"

// May be included several times, each time in the namespace of one target.
#ifndef PAPILIO_KERNELS_PARTS
#define PAPILIO_KERNELS_PARTS
namespace papilio::kernels {

// What accumulate does with each number.
struct Factors {
  float own_scale, weight, inverse_total;
};

// What becomes of the values once their encoding is known.
enum class Kept {
  nothing,   // state is not touched: the values are only read
  residual,  // values + state is encoded; state keeps what the encoding lost
  decoded,   // state * inverse is encoded; state becomes what that decodes to
};

}  // namespace papilio::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace papilio::kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

bool acceptable(Codec codec, const std::byte* bytes, std::size_t elements, float limit) {
  return scalar::check_encoded(codec, {bytes, encoded_bytes(codec, elements)}, elements, limit) == NumberFault::none;
}
void accumulate_accepted(float* sum, Factors factors, Codec codec, const std::byte* bytes, std::size_t elements) {
  scalar::accumulate_accepted({sum, elements}, factors.own_scale, factors.weight, codec,
                              {bytes, encoded_bytes(codec, elements)}, factors.inverse_total);
}
void decode_accepted(Codec codec, const std::byte* bytes, float* out, std::size_t elements) {
  scalar::decode_accepted(codec, {bytes, encoded_bytes(codec, elements)}, {out, elements});
}
void encode(Codec codec, const float* values, std::byte* out, std::size_t elements) {
  scalar::encode(codec, {values, elements}, {out, encoded_bytes(codec, elements)});
}
void encode_with_feedback(Codec codec, const float* values, float* residual, std::byte* out, std::size_t elements) {
  scalar::encode_with_feedback(codec, {values, elements}, {residual, elements}, {out, encoded_bytes(codec, elements)});
}
void finalise_and_encode(float* sum, float inverse_total, Codec codec, std::byte* out, std::size_t elements) {
  scalar::finalise_and_encode({sum, elements}, inverse_total, codec, {out, encoded_bytes(codec, elements)});
}
void group_bytes(Codec codec, const std::byte* bytes, std::byte* out, std::size_t size) {
  scalar::group_bytes(codec, {bytes, size}, {out, size});
}
void ungroup_bytes(Codec codec, const std::byte* grouped, std::byte* out, std::size_t size) {
  scalar::ungroup_bytes(codec, {grouped, size}, {out, size});
}

#else

constexpr std::size_t kFloats = hn::MaxLanes(Floats());
static_assert(kInt8Block % (4 * kFloats) == 0);

using Shorts = hn::Rebind<std::uint16_t, Floats>;  // as many as Floats, in half the bytes
using Short = hn::Vec<Shorts>;
using SignedBytes = hn::Rebind<std::int8_t, Floats>;

HWY_INLINE Integer to_bits(Float value) { return hn::BitCast(Integers(), value); }
HWY_INLINE Float from_bits(Integer bits) { return hn::BitCast(Floats(), bits); }
HWY_INLINE Integer integer(std::int32_t value) { return hn::Set(Integers(), value); }

constexpr std::int32_t kInfinityBits = 0x7f800000;

// --- How one vector of numbers is read from and written to a payload.

struct Fp32 {
  static constexpr std::size_t kBytes = 4;
  using Stored = Floats;
  static HWY_INLINE Float read(const std::byte* from) {
    return hn::LoadU(Floats(), reinterpret_cast<const float*>(from));
  }
  static HWY_INLINE Float encoded(Float value) { return value; }
  static HWY_INLINE Float decoded(Float value) { return value; }
};

struct Bf16 {
  static constexpr std::size_t kBytes = 2;
  using Stored = Shorts;
  static HWY_INLINE Float read(const std::byte* from) {
    return decoded(hn::LoadU(Shorts(), reinterpret_cast<const std::uint16_t*>(from)));
  }
  static HWY_INLINE Float decoded(Short bits) {
    return from_bits(hn::ShiftLeft<16>(hn::BitCast(Integers(), hn::PromoteTo(hn::RebindToUnsigned<Integers>(), bits))));
  }
  static HWY_INLINE Short encoded(Float value) {
    const Integer bits = to_bits(value), magnitude = magnitude_bits(value);
    const Integer odd = hn::And(hn::ShiftRight<16>(bits), integer(1));
    // The largest finite number first: what is beyond it would round to infinity.
    const Integer capped = hn::Min(magnitude, integer(0x7f7f0000));
    const Integer rounded = hn::ShiftRight<16>(hn::Add(hn::Add(capped, integer(0x7fff)), odd));
    const Integer finite = hn::IfThenElse(hn::Gt(integer(kInfinityBits), magnitude), rounded, integer(0x7f80));
    const Integer sign = hn::And(hn::ShiftRight<16>(bits), integer(0x8000));
    const Integer result =
        hn::IfThenElse(hn::Gt(magnitude, integer(kInfinityBits)), integer(kBf16NotANumber), hn::Or(finite, sign));
    return hn::DemoteTo(Shorts(), result);
  }
};

// Processors' own conversions, where Highway uses them: they round to nearest even whatever the thread's mode is.
#undef PAPILIO_KERNELS_HAVE_FP16            // of the target before this one
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2  // of two targets the better one has the lower number
#define PAPILIO_KERNELS_HAVE_FP16 1
#else
#define PAPILIO_KERNELS_HAVE_FP16 0
#endif

struct Fp16 {
  static constexpr std::size_t kBytes = 2;
  using Stored = Shorts;
  static HWY_INLINE Float read(const std::byte* from) {
    return decoded(hn::LoadU(Shorts(), reinterpret_cast<const std::uint16_t*>(from)));
  }
#if PAPILIO_KERNELS_HAVE_FP16
  static HWY_INLINE Float decoded(Short bits) {
    return hn::PromoteTo(Floats(), hn::BitCast(hn::Rebind<hwy::float16_t, Floats>(), bits));
  }
  static HWY_INLINE Short encoded(Float value) {
    const Integer magnitude = magnitude_bits(value);
    const Integer sign = hn::AndNot(integer(0x7fffffff), to_bits(value));
    const Integer capped = hn::Min(magnitude, integer(0x477fe000));  // 65504, the largest finite number
    const Integer finite = hn::IfThenElse(hn::Gt(integer(kInfinityBits), magnitude), capped, magnitude);
    const Integer safe =
        hn::IfThenElse(hn::Gt(magnitude, integer(kInfinityBits)), integer(0x7fc00000), hn::Or(finite, sign));
    return hn::BitCast(Shorts(), hn::DemoteTo(hn::Rebind<hwy::float16_t, Floats>(), from_bits(safe)));
  }
#else
  // The same steps as the reference's.
  static HWY_INLINE Float decoded(Short bits) {
    const Integer wide = hn::BitCast(Integers(), hn::PromoteTo(hn::RebindToUnsigned<Integers>(), bits));
    const Integer sign = hn::ShiftLeft<16>(hn::And(wide, integer(0x8000)));
    const Integer magnitude = hn::ShiftLeft<13>(hn::And(wide, integer(0x7fff)));
    const Integer finite = to_bits(hn::Mul(from_bits(magnitude), hn::Set(Floats(), 0x1p112F)));
    const Integer beyond = hn::Or(magnitude, integer(kInfinityBits));
    const Integer value = hn::IfThenElse(hn::Gt(integer(0x7c00 << 13), magnitude), finite, beyond);
    return from_bits(hn::Or(value, sign));
  }
  static HWY_INLINE Short encoded(Float value) {
    const Integer bits = to_bits(value), magnitude = magnitude_bits(value);
    const Integer sign = hn::And(hn::ShiftRight<16>(bits), integer(0x8000));
    const Integer capped = hn::Min(magnitude, integer(0x477fe000));
    const Integer odd = hn::And(hn::ShiftRight<13>(capped), integer(1));
    const Integer normal =
        hn::Sub(hn::ShiftRight<13>(hn::Add(hn::Add(capped, integer(0xfff)), odd)), integer(112 << 10));
    const Float half = hn::Set(Floats(), 0.5F);
    const Integer subnormal = hn::Sub(to_bits(hn::Add(from_bits(capped), half)), to_bits(half));
    const Integer finite = hn::IfThenElse(hn::Gt(integer(0x38800000), magnitude), subnormal, normal);
    const Integer number = hn::IfThenElse(hn::Gt(integer(kInfinityBits), magnitude), finite, integer(0x7c00));
    const Integer result =
        hn::IfThenElse(hn::Gt(magnitude, integer(kInfinityBits)), integer(kFp16NotANumber), hn::Or(number, sign));
    return hn::DemoteTo(Shorts(), result);
  }
#endif
};

// --- Reading payloads.

HWY_INLINE bool shorts_within(const std::byte* bytes, std::size_t count, std::int16_t most) {
  const hn::Repartition<std::int16_t, Floats> d;
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  constexpr std::size_t kAtOnce = 4;
  const auto no_sign = hn::Set(d, 0x7fff);
  hn::Vec<decltype(d)> largest[kAtOnce];
  for (auto& each : largest) each = hn::Zero(d);
  const auto* values = reinterpret_cast<const std::int16_t*>(bytes);
  std::size_t i = 0;
  for (; i + kAtOnce * kLanes <= count; i += kAtOnce * kLanes) {
    for (std::size_t k = 0; k < kAtOnce; ++k) {
      largest[k] = hn::Max(largest[k], hn::And(hn::LoadU(d, values + i + k * kLanes), no_sign));
    }
  }
  while (i < count) {
    const std::size_t used = HWY_MIN(kLanes, count - i);
    const Padded<std::int16_t, kLanes> rest(bytes + i * sizeof(std::int16_t), used);
    largest[0] = hn::Max(largest[0], hn::And(hn::Load(d, rest.values), no_sign));
    i += used;
  }
  const auto all = hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]));
  return hn::AllFalse(d, hn::Gt(all, hn::Set(d, most)));
}

HWY_INLINE bool floats_within(const std::byte* bytes, std::size_t count, float limit) {
  constexpr std::size_t kAtOnce = 4;
  Integer largest[kAtOnce];
  for (Integer& each : largest) each = hn::Zero(Integers());
  std::size_t i = 0;
  for (; i + kAtOnce * kFloats <= count; i += kAtOnce * kFloats) {
    for (std::size_t k = 0; k < kAtOnce; ++k) {
      largest[k] = hn::Max(largest[k], magnitude_bits(Fp32::read(bytes + (i + k * kFloats) * sizeof(float))));
    }
  }
  while (i < count) {
    const std::size_t used = HWY_MIN(kFloats, count - i);
    const Padded<float, kFloats> rest(bytes + i * sizeof(float), used);
    largest[0] = hn::Max(largest[0], magnitude_bits(hn::Load(Floats(), rest.values)));
    i += used;
  }
  const Integer all = hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]));
  return hn::AllFalse(Integers(), hn::Gt(all, to_bits(hn::Set(Floats(), limit))));
}

// Are all scales ones that an encoder writes, and 127 times each within the limit?
HWY_INLINE bool scales_within(const std::byte* scales, std::size_t blocks, float limit) {
  const Integer smallest = to_bits(hn::Set(Floats(), kSmallestInt8Scale));
  const Integer largest = to_bits(hn::Set(Floats(), kLargestInt8Scale));
  const Integer most = to_bits(hn::Set(Floats(), limit)), zero = hn::Zero(Integers());
  Integer wrong = zero;
  const auto note = [&](auto mask) HWY_ATTR { wrong = hn::Or(wrong, hn::VecFromMask(Integers(), mask)); };
  for (std::size_t i = 0; i < blocks; i += kFloats) {
    const Padded<float, kFloats> each(scales + i * sizeof(float), HWY_MIN(kFloats, blocks - i));
    const Float scale = hn::Load(Floats(), each.values);
    // As integers, negative scales are below the smallest one and NaN is beyond the largest.
    const Integer bits = to_bits(scale);
    note(hn::AndNot(hn::Eq(bits, zero), hn::Gt(smallest, bits)));
    note(hn::Gt(bits, largest));
    note(hn::Gt(hn::And(bits, integer(kInt8ScaleFraction)), zero));
    note(hn::Gt(to_bits(hn::Mul(scale, hn::Set(Floats(), 127))), most));
  }
  return hn::AllTrue(Integers(), hn::Eq(wrong, zero));
}

using ManyBytes = hn::Repartition<std::uint8_t, Floats>;
using ManyByte = hn::Vec<ManyBytes>;

// Does 127 or -127 occur in a whole block, and not -128 in the same place? `largest` takes part in the maxima of all
// |byte|; that of -128 is 128.
HWY_INLINE bool has_127(const std::byte* bytes, ManyByte& largest) {
  const ManyBytes d;
  const hn::RebindToSigned<ManyBytes> signed_bytes;
  ManyByte block = hn::Zero(d);
  for (std::size_t i = 0; i < kInt8Block; i += hn::MaxLanes(d)) {
    const auto values = hn::LoadU(signed_bytes, reinterpret_cast<const std::int8_t*>(bytes + i));
    block = hn::Max(block, hn::BitCast(d, hn::Abs(values)));
  }
  largest = hn::Max(largest, block);
  return !hn::AllFalse(d, hn::Eq(block, hn::Set(d, 127)));
}

// Do the bytes of every block use its scale as an encoder does? One answer in the end: a payload that fails is rare.
HWY_INLINE bool bytes_use_scales(const std::byte* payload, std::size_t elements) {
  const ManyBytes d;
  const std::size_t blocks = int8_blocks(elements);
  const std::byte* bytes = payload + blocks * sizeof(float);
  ManyByte largest = hn::Zero(d);
  unsigned unlike = 0;
  for (std::size_t block = 0; block < blocks; ++block) {
    std::uint32_t scale = 0;
    memcpy(&scale, payload + block * sizeof(scale), sizeof(scale));
    const std::size_t begin = block * kInt8Block;
    const std::size_t used = HWY_MIN(kInt8Block, elements - begin);
    if (scale == 0) {  // then all bytes are 0
      const Padded<std::byte, kInt8Block> all(bytes + begin, used);
      for (const std::byte byte : all.values) unlike |= static_cast<unsigned>(byte);
    } else if (used == kInt8Block) {
      unlike |= static_cast<unsigned>(!has_127(bytes + begin, largest));
    } else {
      const Padded<std::byte, kInt8Block> rest(bytes + begin, used);
      unlike |= static_cast<unsigned>(!has_127(rest.values, largest));
    }
  }
  return unlike == 0 && hn::AllTrue(d, hn::Eq(hn::Max(largest, hn::Set(d, 127)), hn::Set(d, 127)));
}

bool acceptable(Codec codec, const std::byte* bytes, std::size_t elements, float limit) {
  switch (codec) {
    case Codec::fp32: return floats_within(bytes, elements, limit);
    case Codec::bf16:
    case Codec::fp16:
      return shorts_within(bytes, elements, static_cast<std::int16_t>(scalar::largest_bits_within(codec, limit)));
    case Codec::int8: return scales_within(bytes, int8_blocks(elements), limit) && bytes_use_scales(bytes, elements);
  }
  return false;
}

// One vector of numbers joins the sum.
struct Adder {
  HWY_INLINE explicit Adder(Factors factors)
      : own_scale(hn::Set(Floats(), factors.own_scale)),
        weight(hn::Set(Floats(), factors.weight)),
        inverse_total(hn::Set(Floats(), factors.inverse_total)) {}
  HWY_INLINE void write(float* sum, Float value) const {
    const Float own = hn::Mul(own_scale, hn::LoadU(Floats(), sum));
    const Float other = hn::Mul(weight, value);
    hn::StoreU(hn::Mul(hn::Add(own, other), inverse_total), Floats(), sum);
  }
  Float own_scale, weight, inverse_total;
};

// One vector of numbers is all there is.
struct Writer {
  HWY_INLINE void write(float* out, Float value) const { hn::StoreU(value, Floats(), out); }
};

template <class Format, class Sink>
HWY_INLINE void read_numbers(const std::byte* HWY_RESTRICT bytes, float* HWY_RESTRICT to, std::size_t count,
                             Sink sink) {
  std::size_t i = 0;
  for (; i + kFloats <= count; i += kFloats) sink.write(to + i, Format::read(bytes + i * Format::kBytes));
  if (i == count) return;
  const std::size_t used = count - i;
  const Padded<std::byte, kFloats * Format::kBytes> rest(bytes + i * Format::kBytes, used * Format::kBytes);
  Padded<float, kFloats> last(to + i, used);
  sink.write(last.values, Format::read(rest.values));
  last.copy_to(to + i, used);
}

template <class Sink>
HWY_INLINE void read_int8_block(const std::byte* HWY_RESTRICT bytes, float scale, float* HWY_RESTRICT to, Sink sink) {
  const Float factor = hn::Set(Floats(), scale);
  for (std::size_t i = 0; i < kInt8Block; i += kFloats) {
    const auto narrow = hn::LoadU(SignedBytes(), reinterpret_cast<const std::int8_t*>(bytes + i));
    sink.write(to + i, hn::Mul(hn::ConvertTo(Floats(), hn::PromoteTo(Integers(), narrow)), factor));
  }
}

template <class Sink>
HWY_INLINE void read_int8(const std::byte* payload, float* to, std::size_t elements, Sink sink) {
  const std::byte* bytes = payload + int8_blocks(elements) * sizeof(float);
  for (std::size_t begin = 0; begin < elements; begin += kInt8Block) {
    float scale = 0;
    memcpy(&scale, payload + begin / kInt8Block * sizeof(scale), sizeof(scale));
    if (begin + kInt8Block <= elements) {
      read_int8_block(bytes + begin, scale, to + begin, sink);
    } else {
      const Padded<std::byte, kInt8Block> rest(bytes + begin, elements - begin);
      Padded<float, kInt8Block> last(to + begin, elements - begin);
      read_int8_block(rest.values, scale, last.values, sink);
      last.copy_to(to + begin, elements - begin);
    }
  }
}

template <class Sink>
HWY_INLINE void read_payload(Codec codec, const std::byte* bytes, float* to, std::size_t elements, Sink sink) {
  switch (codec) {
    case Codec::fp32: return read_numbers<Fp32>(bytes, to, elements, sink);
    case Codec::bf16: return read_numbers<Bf16>(bytes, to, elements, sink);
    case Codec::fp16: return read_numbers<Fp16>(bytes, to, elements, sink);
    case Codec::int8: return read_int8(bytes, to, elements, sink);
  }
}

void accumulate_accepted(float* sum, Factors factors, Codec codec, const std::byte* bytes, std::size_t elements) {
  read_payload(codec, bytes, sum, elements, Adder(factors));
}

void decode_accepted(Codec codec, const std::byte* bytes, float* out, std::size_t elements) {
  read_payload(codec, bytes, out, elements, Writer());
}

// --- Writing payloads.

// What is to be encoded, by what shall be kept.
template <Kept kept>
HWY_INLINE Float value_to_encode(const float* values, const float* state, Float inverse) {
  if constexpr (kept == Kept::nothing) return hn::LoadU(Floats(), values);
  if constexpr (kept == Kept::residual) return hn::Add(hn::LoadU(Floats(), values), hn::LoadU(Floats(), state));
  if constexpr (kept == Kept::decoded) return hn::Mul(hn::LoadU(Floats(), state), inverse);
}

template <Kept kept>
HWY_INLINE void keep(float* state, Float value, Float decoded) {
  if constexpr (kept == Kept::residual) {
    const Float lost = hn::Sub(value, decoded);
    const auto finite = hn::Gt(integer(kInfinityBits), magnitude_bits(lost));
    hn::StoreU(from_bits(hn::IfThenElseZero(finite, to_bits(lost))), Floats(), state);
  }
  if constexpr (kept == Kept::decoded) hn::StoreU(decoded, Floats(), state);
}

// Arrays that are not used are null, and to a null pointer nothing may be added, not even where nobody reads there.
template <bool is_used, class T>
HWY_INLINE T* from_element(T* begin, std::size_t index) {
  if constexpr (is_used) return begin + index;
  return begin;
}
template <Kept kept>
HWY_INLINE const float* values_from(const float* values, std::size_t index) {
  return from_element<kept != Kept::decoded>(values, index);
}
template <Kept kept>
HWY_INLINE float* state_from(float* state, std::size_t index) {
  return from_element<kept != Kept::nothing>(state, index);
}

template <class Format, Kept kept>
HWY_INLINE void write_numbers_once(const float* values, float* state, Float inverse, std::byte* out) {
  const Float value = value_to_encode<kept>(values, state, inverse);
  const auto bits = Format::encoded(value);
  hn::StoreU(bits, typename Format::Stored(), reinterpret_cast<hn::TFromD<typename Format::Stored>*>(out));
  if constexpr (kept != Kept::nothing) keep<kept>(state, value, Format::decoded(bits));
}

template <class Format, Kept kept>
HWY_INLINE void write_numbers(const float* HWY_RESTRICT values, float* HWY_RESTRICT state, float inverse_total,
                              std::byte* HWY_RESTRICT out, std::size_t count) {
  const Float inverse = hn::Set(Floats(), inverse_total);
  std::size_t i = 0;
  for (; i + kFloats <= count; i += kFloats) {
    write_numbers_once<Format, kept>(values_from<kept>(values, i), state_from<kept>(state, i), inverse,
                                     out + i * Format::kBytes);
  }
  if (i == count) return;
  const std::size_t used = count - i;
  const Padded<float, kFloats> last(values_from<kept>(values, i), kept == Kept::decoded ? 0 : used);
  Padded<float, kFloats> last_state(state_from<kept>(state, i), kept == Kept::nothing ? 0 : used);
  Padded<std::byte, kFloats * Format::kBytes> last_out(out, 0);
  write_numbers_once<Format, kept>(last.values, last_state.values, inverse, last_out.values);
  if (kept != Kept::nothing) last_state.copy_to(state + i, used);
  last_out.copy_to(out + i * Format::kBytes, used * Format::kBytes);
}

// One whole block: its scale is returned.
template <Kept kept>
HWY_INLINE float write_int8_block(const float* HWY_RESTRICT values, float* HWY_RESTRICT state, Float inverse,
                                  std::byte* HWY_RESTRICT out) {
  constexpr std::size_t kAtOnce = 4;
  Integer largest[kAtOnce];
  for (Integer& each : largest) each = hn::Zero(Integers());
  for (std::size_t i = 0; i < kInt8Block; i += kAtOnce * kFloats) {
    for (std::size_t k = 0; k < kAtOnce; ++k) {
      const std::size_t at = i + k * kFloats;
      const Float value = value_to_encode<kept>(values_from<kept>(values, at), state_from<kept>(state, at), inverse);
      if constexpr (kept != Kept::nothing) hn::StoreU(value, Floats(), state + at);
      largest[k] = hn::Max(largest[k], magnitude_bits(value));
    }
  }
  const Integer all = hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]));
  const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(Integers(), all));
  float magnitude = 0, scale = 0, reciprocal = 0;
  memcpy(&magnitude, &bits, sizeof(bits));
  if (bits >= kInfinityBits) {
    memcpy(&scale, &kInt8NotANumber, sizeof(scale));
  } else {
    scale = scalar::int8_scale(magnitude);
    if (scale != 0) reciprocal = 1 / scale;
  }
  const Float factor = hn::Set(Floats(), reciprocal), back = hn::Set(Floats(), scale);
  const float* from = kept == Kept::nothing ? values : state;
  for (std::size_t i = 0; i < kInt8Block; i += kFloats) {
    const Float value = hn::LoadU(Floats(), from + i);
    // A factor of 0 makes bytes of 0, except from what is not finite.
    const Integer rounded = bits >= kInfinityBits ? hn::Zero(Integers()) : hn::NearestInt(hn::Mul(value, factor));
    hn::StoreU(hn::DemoteTo(SignedBytes(), rounded), SignedBytes(), reinterpret_cast<std::int8_t*>(out + i));
    if constexpr (kept != Kept::nothing) {
      keep<kept>(state + i, value, hn::Mul(hn::ConvertTo(Floats(), rounded), back));
    }
  }
  return scale;
}

template <Kept kept>
HWY_INLINE void write_int8(const float* values, float* state, float inverse_total, std::byte* out,
                           std::size_t elements) {
  const Float inverse = hn::Set(Floats(), inverse_total);
  std::byte* bytes = out + int8_blocks(elements) * sizeof(float);
  for (std::size_t begin = 0; begin < elements; begin += kInt8Block) {
    float scale = 0;
    const std::size_t used = HWY_MIN(kInt8Block, elements - begin);
    if (used == kInt8Block) {
      scale = write_int8_block<kept>(values_from<kept>(values, begin), state_from<kept>(state, begin), inverse,
                                     bytes + begin);
    } else {
      const Padded<float, kInt8Block> last(values_from<kept>(values, begin), kept == Kept::decoded ? 0 : used);
      Padded<float, kInt8Block> last_state(state_from<kept>(state, begin), kept == Kept::nothing ? 0 : used);
      Padded<std::byte, kInt8Block> last_bytes(bytes, 0);
      scale = write_int8_block<kept>(last.values, last_state.values, inverse, last_bytes.values);
      if (kept != Kept::nothing) last_state.copy_to(state + begin, used);
      last_bytes.copy_to(bytes + begin, used);
    }
    memcpy(out + begin / kInt8Block * sizeof(scale), &scale, sizeof(scale));
  }
}

template <Kept kept>
HWY_INLINE void write_payload(Codec codec, const float* values, float* state, float inverse_total, std::byte* out,
                              std::size_t elements) {
  switch (codec) {
    case Codec::fp32: return write_numbers<Fp32, kept>(values, state, inverse_total, out, elements);
    case Codec::bf16: return write_numbers<Bf16, kept>(values, state, inverse_total, out, elements);
    case Codec::fp16: return write_numbers<Fp16, kept>(values, state, inverse_total, out, elements);
    case Codec::int8: return write_int8<kept>(values, state, inverse_total, out, elements);
  }
}

void encode(Codec codec, const float* values, std::byte* out, std::size_t elements) {
  write_payload<Kept::nothing>(codec, values, nullptr, 1, out, elements);
}
void encode_with_feedback(Codec codec, const float* values, float* residual, std::byte* out, std::size_t elements) {
  write_payload<Kept::residual>(codec, values, residual, 1, out, elements);
}
void finalise_and_encode(float* sum, float inverse_total, Codec codec, std::byte* out, std::size_t elements) {
  write_payload<Kept::decoded>(codec, nullptr, sum, inverse_total, out, elements);
}

// --- Bytes by significance.

template <std::size_t planes, bool grouping>
HWY_INLINE void transpose_bytes(const std::byte* from, std::byte* to, std::size_t count) {
  const hn::Repartition<std::uint8_t, Floats> d;
  constexpr std::size_t kBytes = hn::MaxLanes(d);
  const auto* source = reinterpret_cast<const std::uint8_t*>(from);
  auto* target = reinterpret_cast<std::uint8_t*>(to);
  std::size_t i = 0;
  for (; i + kBytes <= count; i += kBytes) {
    hn::Vec<decltype(d)> plane[4];
    if constexpr (grouping) {
      if constexpr (planes == 4) hn::LoadInterleaved4(d, source + 4 * i, plane[0], plane[1], plane[2], plane[3]);
      if constexpr (planes == 2) hn::LoadInterleaved2(d, source + 2 * i, plane[0], plane[1]);
      for (std::size_t k = 0; k < planes; ++k) hn::StoreU(plane[k], d, target + k * count + i);
    } else {
      for (std::size_t k = 0; k < planes; ++k) plane[k] = hn::LoadU(d, source + k * count + i);
      if constexpr (planes == 4) hn::StoreInterleaved4(plane[0], plane[1], plane[2], plane[3], d, target + 4 * i);
      if constexpr (planes == 2) hn::StoreInterleaved2(plane[0], plane[1], d, target + 2 * i);
    }
  }
  for (; i < count; ++i) {
    for (std::size_t k = 0; k < planes; ++k) {
      if constexpr (grouping) {
        to[k * count + i] = from[planes * i + k];
      } else {
        to[planes * i + k] = from[k * count + i];
      }
    }
  }
}

template <bool grouping>
HWY_INLINE void transpose_payload(Codec codec, const std::byte* from, std::byte* to, std::size_t size) {
  const std::size_t elements = encoded_elements(codec, size);
  if (codec == Codec::bf16 || codec == Codec::fp16) return transpose_bytes<2, grouping>(from, to, elements);
  const std::size_t numbers = codec == Codec::int8 ? int8_blocks(elements) : elements;
  transpose_bytes<4, grouping>(from, to, numbers);
  const std::size_t done = numbers * sizeof(float);
  if (size > done) memcpy(to + done, from + done, size - done);
}

void group_bytes(Codec codec, const std::byte* bytes, std::byte* out, std::size_t size) {
  transpose_payload<true>(codec, bytes, out, size);
}
void ungroup_bytes(Codec codec, const std::byte* grouped, std::byte* out, std::size_t size) {
  transpose_payload<false>(codec, grouped, out, size);
}

#endif

}  // namespace papilio::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <functional>

#include "engine/base/assert.hpp"

namespace papilio::kernels {
namespace {

HWY_EXPORT(acceptable);
HWY_EXPORT(accumulate_accepted);
HWY_EXPORT(decode_accepted);
HWY_EXPORT(encode);
HWY_EXPORT(encode_with_feedback);
HWY_EXPORT(finalise_and_encode);
HWY_EXPORT(group_bytes);
HWY_EXPORT(ungroup_bytes);

// The loops are compiled on the promise that what they write overlaps nothing else.
bool disjoint(std::span<const std::byte> a, std::span<const std::byte> b) {
  const std::less_equal<const std::byte*> not_after;
  return a.empty() || b.empty() || not_after(a.data() + a.size(), b.data()) || not_after(b.data() + b.size(), a.data());
}

void check_payload(Codec codec, std::span<const float> values, std::span<const std::byte> payload) {
  PAPILIO_ASSERT_VALUES(payload.size() == encoded_bytes(codec, values.size()), payload.size(), values.size());
  PAPILIO_ASSERT(disjoint(std::as_bytes(values), payload));
}

void check_grouping(Codec codec, std::span<const std::byte> from, std::span<const std::byte> to) {
  PAPILIO_ASSERT_VALUES(from.size() == to.size(), from.size(), to.size());
  PAPILIO_ASSERT_VALUES(encoded_bytes(codec, encoded_elements(codec, from.size())) == from.size(), from.size(), 0);
  PAPILIO_ASSERT(disjoint(from, to));
}

}  // namespace

NumberFault check_encoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  PAPILIO_ASSERT(limit >= 0 && limit <= std::numeric_limits<float>::max());
  limit = std::abs(limit);  // -0 is a limit, too, and its bits are not compared as they are
  if (bytes.size() != encoded_bytes(codec, elements)) return NumberFault::bad_length;
  if (HWY_DYNAMIC_DISPATCH(acceptable)(codec, bytes.data(), elements, limit)) return NumberFault::none;
  return scalar::check_encoded(codec, bytes, elements, limit);
}

NumberFault accumulate_checked(std::span<float> sum, float own_scale, float weight, Codec codec,
                               std::span<const std::byte> bytes, float inverse_total, float limit) {
  const NumberFault fault = check_encoded(codec, bytes, sum.size(), limit);
  if (fault == NumberFault::none) accumulate_accepted(sum, own_scale, weight, codec, bytes, inverse_total);
  return fault;
}

void accumulate_accepted(std::span<float> sum, float own_scale, float weight, Codec codec,
                         std::span<const std::byte> bytes, float inverse_total) {
  check_payload(codec, sum, bytes);
  HWY_DYNAMIC_DISPATCH(accumulate_accepted)
  (sum.data(), {own_scale, weight, inverse_total}, codec, bytes.data(), sum.size());
}

NumberFault decode(Codec codec, std::span<const std::byte> bytes, std::span<float> out, float limit) {
  const NumberFault fault = check_encoded(codec, bytes, out.size(), limit);
  if (fault == NumberFault::none) decode_accepted(codec, bytes, out);
  return fault;
}

void decode_accepted(Codec codec, std::span<const std::byte> bytes, std::span<float> out) {
  check_payload(codec, out, bytes);
  HWY_DYNAMIC_DISPATCH(decode_accepted)(codec, bytes.data(), out.data(), out.size());
}

void encode(Codec codec, std::span<const float> values, std::span<std::byte> out) {
  check_payload(codec, values, out);
  HWY_DYNAMIC_DISPATCH(encode)(codec, values.data(), out.data(), values.size());
}

void encode_with_feedback(Codec codec, std::span<const float> values, std::span<float> residual,
                          std::span<std::byte> out) {
  check_payload(codec, values, out);
  check_payload(codec, residual, out);
  PAPILIO_ASSERT(disjoint(std::as_bytes(values), std::as_bytes(residual)));
  HWY_DYNAMIC_DISPATCH(encode_with_feedback)(codec, values.data(), residual.data(), out.data(), values.size());
}

void finalise_and_encode(std::span<float> sum, float inverse_total, Codec codec, std::span<std::byte> out) {
  check_payload(codec, sum, out);
  HWY_DYNAMIC_DISPATCH(finalise_and_encode)(sum.data(), inverse_total, codec, out.data(), sum.size());
}

void group_bytes(Codec codec, std::span<const std::byte> bytes, std::span<std::byte> out) {
  check_grouping(codec, bytes, out);
  HWY_DYNAMIC_DISPATCH(group_bytes)(codec, bytes.data(), out.data(), bytes.size());
}

void ungroup_bytes(Codec codec, std::span<const std::byte> grouped, std::span<std::byte> out) {
  check_grouping(codec, grouped, out);
  HWY_DYNAMIC_DISPATCH(ungroup_bytes)(codec, grouped.data(), out.data(), grouped.size());
}

}  // namespace papilio::kernels

#endif
