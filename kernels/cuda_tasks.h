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

// Words in device memory through which the launches of one order speak to each other; all zero before and after it.
// One order at a time.
struct Scratch {
  std::uint32_t fault = 0;    // the worst so far; see fault_of
  std::uint32_t arrived = 0;  // blocks that are done
};

// The graver a fault, that is the earlier in NumberFault, the larger its word: atomicMax keeps the one to report.
[[nodiscard]] constexpr std::uint32_t word_of(NumberFault fault) {
  return fault == NumberFault::none ? 0 : 64U - static_cast<std::uint32_t>(fault);
}
[[nodiscard]] constexpr NumberFault fault_of(std::uint32_t word) {
  return word == 0 ? NumberFault::none : static_cast<NumberFault>(64U - word);
}

// What the host reads when an order is through: kFinished plus the fault (Device::kTaskDone). 0: not yet.
inline constexpr std::uint32_t kFinished = 0x80000000U;

// values = (own_scale * values + weight * decode(in)) * inverse_total, or values = decode(in), if the whole of `in` is
// fit to be used; and `mirror` = values in any case.
struct ReduceTask {
  const std::byte* in = nullptr;  // device memory, or pinned host memory
  std::byte* stage = nullptr;     // device memory that `in` is brought to first; none: used where it is
  float* values = nullptr;
  float* mirror = nullptr;  // may be none
  std::size_t count = 0;
  float own_scale = 1;
  float weight = 1;
  float inverse_total = 1;
  float limit = 0;
  Scratch* scratch = nullptr;       // in device memory; none: no check, nothing published
  std::uint32_t* status = nullptr;  // in pinned host memory; may be none
};

// v = values (times `factor` where `scaled`) (plus residual); out = encode(v); residual = v - decode(out), 0 where not
// finite; decoded = mirror = decode(out).
struct EncodeTask {
  const float* values = nullptr;
  float* decoded = nullptr;   // may be none, or `values`
  float* residual = nullptr;  // may be none
  float* mirror = nullptr;    // may be none
  std::byte* out = nullptr;   // may be none: only with fp32
  std::size_t count = 0;
  bool scaled = false;
  float factor = 1;
};

// As kernels::Inspection, where the sum of squares is added up in another order: equal but for rounding.
struct NormResult {
  double sum_of_squares = 0;
  std::uint32_t largest_bits = 0;
  std::uint32_t unused = 0;
};

}  // namespace papilio::kernels::cuda
