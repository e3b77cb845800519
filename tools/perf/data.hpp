// Inputs that every rank can recompute: element i of rank r in iteration t is a hash of (r, t, i), so that the float64
// reference of an average needs no memory and no communication.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/codec.h"

namespace papilio::perf {

// Fills with the rank's values of this iteration, uniform in [-1, 1).
void fill_inputs(std::span<float> values, std::uint32_t rank, std::uint32_t iteration);

// How far from the exact average a codec may take an element, where all inputs are within [-1, 1]: `absolute` plus
// `relative` times the weighted mean of |g_i|. Twice the codec's own bound (kernels/codec.h): contributions are
// rounded, and so is their average. With error feedback, each may also carry what rounding took in the iteration
// before, which is once more as much. 1% covers rounding of what was rounded.
struct CodecBound {
  double relative = 0;
  double absolute = 0;
};
[[nodiscard]] CodecBound bound_of(kernels::Codec codec, bool error_feedback);

// How many elements are further from the float64 weighted average of all ranks' inputs than fp32 summation in any order
// can be, (n + 2) * 2^-24 * sum(w_i |g_i|) / sum(w_i) (Higham, "Accuracy and Stability of Numerical Algorithms", ch.
// 4), and the codec on top of it. NaN is always wrong. One weight per rank.
std::uint64_t count_wrong(std::span<const float> values, std::span<const double> weights, std::uint32_t iteration,
                          const CodecBound& codec);

}  // namespace papilio::perf
