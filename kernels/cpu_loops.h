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
