// The CPU kernels as plain loops that the compiler vectorises. Included by one source file per x86-64 level, each
// compiled with its own flags, which defines PAPILIO_XXH_VECTOR and then one CpuOperations from what is in here.
// Everything has internal linkage, so that no level's code can stand in for another's. All files are compiled with
// -ffp-contract=off: a fused multiply-add rounds once where the reference rounds twice, and results would depend on
// the machine.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define XXH_INLINE_ALL
#define XXH_VECTOR PAPILIO_XXH_VECTOR
#include <xxhash.h>

#include "kernels/cpu.h"
#include "kernels/ops.h"

namespace papilio::kernels {
namespace {

void accumulate_loop(float* __restrict sum, float own_scale, float weight, const float* __restrict values,
                     std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] = own_scale * sum[i] + weight * values[i];
}

void accumulate_and_finalise_loop(float* __restrict sum, float own_scale, float weight, const float* __restrict values,
                                  float inverse_total, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] = (own_scale * sum[i] + weight * values[i]) * inverse_total;
}

void finalise_loop(float* sum, float inverse_total, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] *= inverse_total;
}

std::uint64_t checksum_bytes(const void* bytes, std::size_t size) { return XXH3_64bits(bytes, size); }

// Without the sign, the order of the bit patterns is the order of the magnitudes, with infinity and every NaN on top.
// Integers, since a NaN compares false with everything. memcpy and not std::bit_cast: see kernels/cpu.h on inline
// functions.
std::int32_t magnitude_bits(const float* value) {
  std::int32_t bits = 0;
  memcpy(&bits, value, sizeof(bits));
  return bits & 0x7fffffff;
}

// No early end: branches would keep it from running at the speed of the cache, and a chunk that fails is rare.
bool all_within_loop(const float* values, float limit, std::size_t count) {
  const std::int32_t most = magnitude_bits(&limit);
  std::int32_t beyond = 0;  // negative as soon as one difference was
  for (std::size_t i = 0; i < count; ++i) beyond |= most - magnitude_bits(values + i);
  return beyond >= 0;
}

void inspect_loop(const float* values, std::size_t count, std::int32_t* largest_bits, double* sum_of_squares) {
  std::int32_t largest[kInspectionLanes] = {};
  double squares[kInspectionLanes] = {};
  const auto add = [&](std::size_t element, std::size_t lane) {
    const std::int32_t bits = magnitude_bits(values + element);
    largest[lane] = largest[lane] > bits ? largest[lane] : bits;
    const auto value = static_cast<double>(values[element]);
    squares[lane] += value * value;
  };
  std::size_t done = 0;
  for (; done + kInspectionLanes <= count; done += kInspectionLanes) {
    for (std::size_t lane = 0; lane < kInspectionLanes; ++lane) add(done + lane, lane);
  }
  for (std::size_t lane = 0; done + lane < count; ++lane) add(done + lane, lane);
  for (std::size_t width = kInspectionLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) {
      squares[lane] += squares[lane + width];
      largest[lane] = largest[lane] > largest[lane + width] ? largest[lane] : largest[lane + width];
    }
  }
  *largest_bits = largest[0];
  *sum_of_squares = squares[0];
}

// Stores that go round the cache: the target is not read first (which halves the traffic to memory), and the slabs that
// the next payload lands in stay cached.
void copy_streaming_bytes(void* to, const void* from, std::size_t size) {
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
#ifdef __SSE2__
#ifdef __AVX2__
  using Vector = __m256i;
#else
  using Vector = __m128i;
#endif
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(target) % sizeof(Vector);
  const std::size_t head = misaligned == 0 ? 0 : sizeof(Vector) - misaligned;
  if (size >= head + sizeof(Vector)) {
    memcpy(target, source, head);
    std::size_t done = head;
    for (; done + sizeof(Vector) <= size; done += sizeof(Vector)) {
#ifdef __AVX2__
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target + done),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + done)));
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + done),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + done)));
#endif
    }
    _mm_sfence();  // such stores are ordered by nothing else
    target += done;
    source += done;
    size -= done;
  }
#endif
  if (size > 0) memcpy(target, source, size);
}

}  // namespace
}  // namespace papilio::kernels
