// The arithmetic of a round, over spans of one chunk. Each operation has a scalar reference (kernels/scalar.cc); faster
// versions are held against it. Nothing here allocates, locks or knows about peers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

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

}  // namespace papilio::kernels
