// What one launch of a CUDA kernel works on, as plain data. Apart from kernels/cuda.h because the device code includes
// it, too, and the device compiler should see as little as possible.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec.h"

// The runtime's own name of what its headers call cudaStream_t; declared here so that they need not be included.
struct CUstream_st;

namespace papilio::kernels::cuda {

using Stream = CUstream_st*;

// Word in device memory through which the blocks of a norm speak to each other: 0 before and after it. One at a time.
struct Scratch {
  std::uint32_t arrived = 0;  // blocks that are done
};

// The graver a fault, that is the earlier in NumberFault, the larger its word: atomicMax keeps the one to report.
[[nodiscard]] constexpr std::uint32_t word_of(NumberFault fault) {
  return fault == NumberFault::none ? 0 : 64U - static_cast<std::uint32_t>(fault);
}
[[nodiscard]] constexpr NumberFault fault_of(std::uint32_t word) {
  return word == 0 ? NumberFault::none : static_cast<NumberFault>(64U - word);
}

// values = (own_scale * values + weight * decode(in)) * inverse_total, or values = decode(in) where `replace`, if the
// whole of `in` is fit to be used.
struct ReduceTask {
  const std::byte* in = nullptr;
  float* values = nullptr;
  std::size_t count = 0;
  float own_scale = 1;
  float weight = 1;
  float inverse_total = 1;
  float limit = 0;
  bool replace = false;
  // In device memory: the ticket plus the worst fault that was found; none: no check. A verdict with an older ticket is
  // an older task's and counts for nothing, so that nobody has to clear it. Tickets are multiples of kTicketStep, grow,
  // and are not 0.
  unsigned long long* verdict = nullptr;
  unsigned long long ticket = 0;
  std::uint32_t* fault = nullptr;  // in pinned host memory, where the host reads it (word_of) afterwards; may be none
};
inline constexpr unsigned long long kTicketStep = 256;

// v = values (times `factor` where `scaled`) (plus residual); out = encode(v); residual = v - decode(out), 0 where not
// finite; decoded = decode(out).
struct EncodeTask {
  const float* values = nullptr;
  float* decoded = nullptr;   // may be none, or `values`
  float* residual = nullptr;  // may be none
  std::byte* out = nullptr;   // may be none: only with fp32
  std::size_t count = 0;
  bool scaled = false;
  float factor = 1;
};

// What one launch does: tasks that have nothing to do with each other.
inline constexpr std::size_t kMostTasks = 32;
template <typename Task>
struct Batch {
  Task task[kMostTasks];
  std::uint32_t count = 0;
};

// As kernels::Inspection, where the sum of squares is added up in another order: equal but for rounding.
struct NormResult {
  double sum_of_squares = 0;
  std::uint32_t largest_bits = 0;
  std::uint32_t unused = 0;
};

}  // namespace papilio::kernels::cuda
