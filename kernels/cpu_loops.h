// The CPU kernels as plain loops that the compiler vectorises. Included by one source file per x86-64 level, each
// compiled with its own flags, which defines PAPILIO_XXH_VECTOR and then one CpuOperations from what is in here.
// Everything has internal linkage, so that no level's code can stand in for another's. All files are compiled with
// -ffp-contract=off: a fused multiply-add rounds once where the reference rounds twice, and results would depend on
// the machine.
#pragma once

#include <string.h>

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

// Bytes copied before they are hashed: source and copy of one block fit into the first-level cache (32 KiB and up on
// x86-64) side by side, so that hashing the block costs no second pass over memory.
constexpr std::size_t kBlockBytes = std::size_t{4} << 10U;

std::uint64_t copy_and_checksum_bytes(void* to, const void* from, std::size_t size) {
  if (size == 0) return XXH3_64bits(nullptr, 0);
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  // The copy is hashed, not the source: if the owner of the source writes to it meanwhile, what is sent still agrees
  // with its checksum.
  for (std::size_t begin = 0; begin < size; begin += kBlockBytes) {
    const std::size_t block = size - begin < kBlockBytes ? size - begin : kBlockBytes;
    memcpy(target + begin, source + begin, block);
    XXH3_64bits_update(&state, target + begin, block);
  }
  return XXH3_64bits_digest(&state);
}

}  // namespace
}  // namespace papilio::kernels
