// The arithmetic of a round, over spans of one chunk. Each operation has a scalar reference (kernels/scalar.cc); faster
// versions are held against it, bit for bit. Nothing here locks or knows about peers, and only compress and decompress
// allocate, once per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec.h"

namespace papilio::kernels {

// sum[i] = own_scale * sum[i] + weight * values[i]. The first contribution to a chunk passes the reducer's own weight
// as own_scale (the sum then holds the reducer's raw gradient), later ones pass 1. Sizes are equal; no alignment is
// needed; the spans must not overlap (both asserted).
void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values);

// The last contribution, fused with the division by the total weight:
// sum[i] = (own_scale * sum[i] + weight * values[i]) * inverse_total.
void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total);

// sum[i] *= inverse_total: for chunks whose last contributor was cut off.
void finalise(std::span<float> sum, float inverse_total);

// 64-bit XXH3 of a payload (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md), seed 0. Little-endian hosts only.
std::uint64_t checksum(std::span<const std::byte> bytes);

// Is every |value| at most `limit` (finite, not negative: asserted)? A NaN is within no limit, whatever its sign and
// payload. True for no values.
[[nodiscard]] bool all_within(std::span<const float> values, float limit);
// The index of the first that is not, or values.size(). For error messages: one element at a time.
[[nodiscard]] std::size_t first_not_within(std::span<const float> values, float limit);

// What one pass over a span tells about its numbers.
struct Inspection {
  float largest = 0;          // max |value|; infinity where any is infinite or not a number
  double sum_of_squares = 0;  // infinity in that case
  bool finite = true;
};
// The squares are added up in float64 over kInspectionLanes partial sums (element i belongs to lane i % 16), which are
// then folded in halves: the same bits on every machine.
inline constexpr std::size_t kInspectionLanes = 16;
[[nodiscard]] Inspection inspect(std::span<const float> values);

// Copies a whole chunk that nobody here reads again soon: where the machine can, past the cache.
void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from);

// --- Payloads as they travel: kernels/codec.h says what the bytes mean. They begin at any address.

// Is this a payload of `elements` numbers, each finite and at most `limit` (finite, not negative: asserted)? The length
// is looked at before anything else.
[[nodiscard]] NumberFault check_encoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements,
                                        float limit);

// The checksum and check_encoded in one reading: for fp32, bf16 and fp16 the look at the numbers all but vanishes in
// the time that the checksum takes.
struct Arrival {
  std::uint64_t checksum = 0;
  NumberFault fault = NumberFault::none;
};
[[nodiscard]] Arrival checksum_and_check(Codec codec, std::span<const std::byte> bytes, std::size_t elements,
                                         float limit);

// For payloads that one of these two accepted (only the length is asserted):
// sum[i] = (own_scale * sum[i] + weight * decoded[i]) * inverse_total. inverse_total is 1 for all but the last
// contribution.
void accumulate_accepted(std::span<float> sum, float own_scale, float weight, Codec codec,
                         std::span<const std::byte> bytes, float inverse_total);
void decode_accepted(Codec codec, std::span<const std::byte> bytes, std::span<float> out);

// sum[i] = (own_scale * sum[i] + weight * decoded[i]) * inverse_total, if check_encoded accepts the whole payload;
// otherwise `sum` stays as it was, bit for bit.
[[nodiscard]] NumberFault accumulate_checked(std::span<float> sum, float own_scale, float weight, Codec codec,
                                             std::span<const std::byte> bytes, float inverse_total, float limit);

// The values, if check_encoded accepts the whole payload; otherwise `out` stays as it was.
[[nodiscard]] NumberFault decode(Codec codec, std::span<const std::byte> bytes, std::span<float> out, float limit);

// `out` is exactly encoded_bytes long and overlaps nothing else (both asserted), here and below.
void encode(Codec codec, std::span<const float> values, std::span<std::byte> out);

// Error feedback (Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error
// Feedback Fixes SignSGD", ICML 2019): sends v = values + residual, and leaves v - decode(out) in `residual` for the
// next time, so that what rounding took is late and not lost. The difference is exact; where it is not finite, 0 is
// kept.
void encode_with_feedback(Codec codec, std::span<const float> values, std::span<float> residual,
                          std::span<std::byte> out);

// The end of a reduction: sum *= inverse_total, then `out` is its encoding and `sum` what that decodes to, so that the
// reducer holds what everybody else receives.
void finalise_and_encode(std::span<float> sum, float inverse_total, Codec codec, std::span<std::byte> out);

// --- Compression of payloads, for links that are slower than the compressor.

// Bytes of equal significance together (all first bytes, all second ones, ...), which is what makes floats
// compressible: signs and exponents repeat, fractions are noise. Of int8 only the scales are taken apart. Lengths are
// equal and a whole payload's of its codec (asserted).
void group_bytes(Codec codec, std::span<const std::byte> bytes, std::span<std::byte> out);
void ungroup_bytes(Codec codec, std::span<const std::byte> grouped, std::span<std::byte> out);

// One Zstd frame (RFC 8878) of the grouped bytes, with its content size in the header. Returns its length, or 0 if it
// does not fit in `out`: pass a shorter `out` to have it only where it pays.
[[nodiscard]] std::size_t compress(std::span<const std::byte> bytes, Codec codec, int level, std::span<std::byte> out);

// The way back. `out` is as long as the payload must be, a bound that holds before anything is decompressed: input that
// is not one frame of exactly this content is refused, with `out` as it was.
[[nodiscard]] NumberFault decompress(std::span<const std::byte> frame, Codec codec, std::span<std::byte> out);

}  // namespace papilio::kernels
