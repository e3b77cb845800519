// The reference that every faster version of kernels/ops.h is held against: one element at a time, in the order that
// the comments of ops.h state, so that reading it is enough to know what the right answer is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/ops.h"

namespace papilio::kernels::scalar {

// As in kernels/ops.h, bit for bit (which NaN comes out of several is left open).
void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values);
void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total);
void finalise(std::span<float> sum, float inverse_total);
std::uint64_t checksum(std::span<const std::byte> bytes);
bool all_within(std::span<const float> values, float limit);
Inspection inspect(std::span<const float> values);
void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from);

}  // namespace papilio::kernels::scalar
