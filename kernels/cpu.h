// One table of functions per x86-64 level that the CPU kernels are compiled for. kernels/ops.h picks the best one that
// this machine runs, once, above the loops; the tests walk through all of them. There is no AVX-512
// level: measured on a Zen 4, it is 4% faster where the chunk is in cache (both move what the second-level cache
// delivers) and 10 to 25% slower where it comes from memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace papilio::kernels {

// Raw pointers instead of spans: the code behind these is compiled with instructions that this machine may lack, and
// an inline function of a shared header, emitted there, could be the copy that the linker keeps for everyone.
struct CpuOperations {
  const char* name;
  // May this machine run them? The only entry that is safe to call before knowing.
  bool (*supported)();
  void (*accumulate)(float* sum, float own_scale, float weight, const float* values, std::size_t count);
  void (*accumulate_and_finalise)(float* sum, float own_scale, float weight, const float* values, float inverse_total,
                                  std::size_t count);
  void (*finalise)(float* sum, float inverse_total, std::size_t count);
  std::uint64_t (*checksum)(const void* bytes, std::size_t size);
  bool (*all_within)(const float* values, float limit, std::size_t count);
  // The largest |value| as bits (from infinity's on: not all are finite, and the sum means nothing) and the sum of the
  // squares, folded as kernels/ops.h says.
  void (*inspect)(const float* values, std::size_t count, std::int32_t* largest_bits, double* sum_of_squares);
  void (*copy_streaming)(void* to, const void* from, std::size_t size);
};

extern const CpuOperations kBaselineOperations;
#ifdef PAPILIO_KERNELS_X86
extern const CpuOperations kAvx2Operations;
#endif

// All that were compiled in, best first.
inline constexpr const CpuOperations* kCpuOperations[] = {
#ifdef PAPILIO_KERNELS_X86
    &kAvx2Operations,
#endif
    &kBaselineOperations,
};

// The best one that this machine runs.
const CpuOperations& cpu_operations();

}  // namespace papilio::kernels
