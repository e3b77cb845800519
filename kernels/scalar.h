// The reference that every faster version of kernels/ops.h and kernels/robust.h is held against: one element at a time,
// in the order that the comments there state, so that reading it is enough to know what the right answer is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "kernels/robust.h"

namespace papilio::kernels::scalar {

// One number, as kernels/codec.h says.
std::uint16_t bf16_from_float(float value);
std::uint16_t fp16_from_float(float value);
float float_from_bf16(std::uint16_t bits);
float float_from_fp16(std::uint16_t bits);
// What every block of int8 needs: its scale, from the largest |value| (finite).
float int8_scale(float largest);
// The bits without sign of the largest bf16 or fp16 within a limit (finite, not negative).
std::uint16_t largest_bits_within(Codec codec, float limit);
// What kernels/robust.h multiplies a difference with, from the sum of its squares.
float clipping_factor(double sum_of_squares, float radius);

// As in kernels/ops.h, bit for bit (which NaN comes out of several is left open).
void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values);
void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total);
void finalise(std::span<float> sum, float inverse_total);
std::uint64_t checksum(std::span<const std::byte> bytes);
bool all_within(std::span<const float> values, float limit);
Inspection inspect(std::span<const float> values);
void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from);

NumberFault check_encoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit);
NumberFault accumulate_checked(std::span<float> sum, float own_scale, float weight, Codec codec,
                               std::span<const std::byte> bytes, float inverse_total, float limit);
NumberFault decode(Codec codec, std::span<const std::byte> bytes, std::span<float> out, float limit);
Arrival checksum_and_check(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit);
void accumulate_accepted(std::span<float> sum, float own_scale, float weight, Codec codec,
                         std::span<const std::byte> bytes, float inverse_total);
void decode_accepted(Codec codec, std::span<const std::byte> bytes, std::span<float> out);
void encode(Codec codec, std::span<const float> values, std::span<std::byte> out);
void encode_with_feedback(Codec codec, std::span<const float> values, std::span<float> residual,
                          std::span<std::byte> out);
void finalise_and_encode(std::span<float> sum, float inverse_total, Codec codec, std::span<std::byte> out);
void group_bytes(Codec codec, std::span<const std::byte> bytes, std::span<std::byte> out);
void ungroup_bytes(Codec codec, std::span<const std::byte> grouped, std::span<std::byte> out);

// As in kernels/robust.h.
void trimmed_mean(Contributions contributions, std::size_t trim, std::span<float> out);
void median(Contributions contributions, std::span<float> out);
void centred_clipping(Contributions contributions, float radius, std::size_t iterations, std::span<float> centre);
// The two halves of an iteration of the last.
double squared_distance(std::span<const float> values, std::span<const float> centre);
void move_centre(Contributions contributions, std::span<const float> factors, std::span<float> centre);

}  // namespace papilio::kernels::scalar
