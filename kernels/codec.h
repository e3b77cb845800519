// How the numbers of a chunk travel: exactly, or in fewer bytes. What is stated here binds every implementation
// (scalar, every SIMD target, CUDA): encoding gives the same bytes and decoding the same bits everywhere, so that all
// members of a group hold the same model whatever machines they have.
//
//   fp32  the bytes themselves.
//   bf16  the upper half of an fp32, rounded to nearest, ties to even.
//   fp16  IEEE 754 binary16, rounded to nearest, ties to even.
//   int8  blocks of kInt8Block elements (the last may be shorter). All blocks' scales come first, as fp32, then one
//         signed byte per element; an element is byte * scale, which fp32 holds exactly (7 bits times 17).
//
// Little-endian throughout. What the encoder does with numbers that do not fit:
//   bf16, fp16  A finite value beyond the largest finite one becomes that, with its sign: an honest sender is never
//               taken for one that sends infinities, and error feedback carries the rest over. Infinity stays
//               infinity; every NaN becomes kBf16NotANumber or kFp16NotANumber. The receiver finds them: nothing is
//               hidden from it.
//   int8        A block with an infinity or a NaN gets the scale kInt8NotANumber and bytes of 0.
//
// The scale of a block, in fp32 arithmetic, with m the largest |value| of it:
//   s = m / 127; if s < kSmallestInt8Scale, scale and all bytes are 0; else
//   scale = min(s rounded up to 17 significant bits, kLargestInt8Scale): the low 7 bits of its fraction are 0;
//   r = 1 / scale; byte = value * r rounded to an integer, to nearest, ties to even. It never leaves [-127, 127], and
//   the largest value's is always 127 or -127, because m / 127 * (1 - 2^-15) <= scale and
//   scale <= m / 127 * (1 + 2^-16 + 2^-23).
//
// What was decoded encodes to the same bytes again, for every payload that kernels::check_encoded accepts. A member can
// therefore pass on an average that it holds only as floats, byte for byte. (int8: the largest is 127 * scale exactly,
// its quotient by 127 is scale exactly, and byte * scale * r is off from the integer by less than 127 * 2^-22.)
#pragma once

#include <cstddef>
#include <cstdint>

namespace papilio::kernels {

// The numbers are those of the wire format.
enum class Codec : std::uint8_t { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3 };
inline constexpr Codec kCodecs[] = {Codec::fp32, Codec::bf16, Codec::fp16, Codec::int8};

[[nodiscard]] constexpr const char* to_string(Codec codec) {
  switch (codec) {
    case Codec::fp32: return "fp32";
    case Codec::bf16: return "bf16";
    case Codec::fp16: return "fp16";
    case Codec::int8: return "int8";
  }
  return "unknown codec";
}

inline constexpr std::size_t kInt8Block = 256;
inline constexpr std::uint32_t kInt8ScaleFraction = 0x7f;      // bits of a scale that are 0
inline constexpr float kSmallestInt8Scale = 0x1p-100F;         // so that 1 / scale is finite and normal
inline constexpr float kLargestInt8Scale = 0x1.0204p+121F;     // 127 of it are finite, and of no larger one
inline constexpr std::uint32_t kInt8NotANumber = 0x7fc00000U;  // as bits of an fp32
inline constexpr std::uint16_t kBf16NotANumber = 0x7fc0U;
inline constexpr std::uint16_t kFp16NotANumber = 0x7e00U;
inline constexpr float kLargestBf16 = 0x1.fep+127F;
inline constexpr float kLargestFp16 = 65504.0F;

[[nodiscard]] constexpr std::size_t int8_blocks(std::size_t elements) {
  return elements / kInt8Block + (elements % kInt8Block != 0 ? 1 : 0);
}

// The length of a payload, exactly.
[[nodiscard]] constexpr std::size_t encoded_bytes(Codec codec, std::size_t elements) {
  switch (codec) {
    case Codec::fp32: return 4 * elements;
    case Codec::bf16:
    case Codec::fp16: return 2 * elements;
    case Codec::int8: return sizeof(float) * int8_blocks(elements) + elements;
  }
  return 0;
}

// How many elements a payload of so many bytes holds; of a length that no payload has, those of the next shorter one.
[[nodiscard]] constexpr std::size_t encoded_elements(Codec codec, std::size_t bytes) {
  switch (codec) {
    case Codec::fp32: return bytes / 4;
    case Codec::bf16:
    case Codec::fp16: return bytes / 2;
    case Codec::int8: {
      const std::size_t rest = bytes % (kInt8Block + sizeof(float));
      return bytes / (kInt8Block + sizeof(float)) * kInt8Block + (rest > sizeof(float) ? rest - sizeof(float) : 0);
    }
  }
  return 0;
}

// How far decode(encode(value)) may be from a finite value; `largest` is the largest |value| of its block (int8 only).
[[nodiscard]] constexpr double error_bound(Codec codec, float value, float largest) {
  const double magnitude = value < 0 ? -static_cast<double>(value) : static_cast<double>(value);
  const auto beyond = [&](float most) { return magnitude > double{most} ? magnitude - double{most} : 0.0; };
  switch (codec) {
    case Codec::fp32: return 0;
    case Codec::bf16: return magnitude * 0x1p-8 + 0x1p-134 + beyond(kLargestBf16);
    case Codec::fp16: return magnitude * 0x1p-11 + 0x1p-25 + beyond(kLargestFp16);
    case Codec::int8: {
      if (static_cast<double>(largest) < 127 * 0x1.000002p-100) return static_cast<double>(largest);
      return static_cast<double>(largest) / 254 * (1 + 0x1p-14);
    }
  }
  return 0;
}

// Why a payload was refused. Where several apply, the one that stands first here is given.
enum class NumberFault : std::uint8_t {
  none,
  bad_frame,   // compressed bytes that are no frame of exactly the size that was due
  bad_length,  // not the length of so many elements
  not_finite,  // an infinity or a NaN (fp32, bf16, fp16)
  bad_scale,   // int8: NaN, infinite, negative, out of range, or with more bits than an encoder gives it
  bad_value,   // int8: -128, or no 127 although the scale is not 0, or a byte that is not 0 although it is
  too_large,   // |value| beyond the limit
};

[[nodiscard]] constexpr const char* to_string(NumberFault fault) {
  switch (fault) {
    case NumberFault::none: return "none";
    case NumberFault::bad_frame: return "not a compressed frame of the size that was due";
    case NumberFault::bad_length: return "not the length of that many elements";
    case NumberFault::not_finite: return "a value that is not a finite number";
    case NumberFault::bad_scale: return "a scale that no encoder writes";
    case NumberFault::bad_value: return "bytes that no encoder writes for their scale";
    case NumberFault::too_large: return "a value beyond the limit";
  }
  return "unknown fault";
}

}  // namespace papilio::kernels
