// kernels/ops.h on the CPU: checks the spans, then jumps into the version for this machine.
#include "kernels/cpu.h"

#include <bit>
#include <functional>
#include <limits>

#include "engine/base/assert.hpp"
#include "kernels/ops.h"
#include "kernels/robust.h"
#include "kernels/scalar.h"

namespace papilio::kernels {
namespace {

// The loops are compiled on the promise that their spans do not overlap.
template <typename T>
bool disjoint(std::span<T> a, std::span<const T> b) {
  const std::less_equal<const T*> not_after;
  return a.empty() || b.empty() || not_after(a.data() + a.size(), b.data()) || not_after(b.data() + b.size(), a.data());
}

template <typename T>
void check_pair(std::span<T> to, std::span<const T> from) {
  PAPILIO_ASSERT_VALUES(to.size() == from.size(), to.size(), from.size());
  PAPILIO_ASSERT(disjoint(to, from));
}

}  // namespace

const CpuOperations& cpu_operations() {
  static const CpuOperations* const best = [] {
    for (const CpuOperations* candidate : kCpuOperations) {
      if (candidate->supported()) return candidate;
    }
    return &kBaselineOperations;
  }();
  return *best;
}

void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values) {
  check_pair(sum, values);
  cpu_operations().accumulate(sum.data(), own_scale, weight, values.data(), sum.size());
}

void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total) {
  check_pair(sum, values);
  cpu_operations().accumulate_and_finalise(sum.data(), own_scale, weight, values.data(), inverse_total, sum.size());
}

void finalise(std::span<float> sum, float inverse_total) {
  cpu_operations().finalise(sum.data(), inverse_total, sum.size());
}

std::uint64_t checksum(std::span<const std::byte> bytes) {
  return cpu_operations().checksum(bytes.data(), bytes.size());
}

bool all_within(std::span<const float> values, float limit) {
  PAPILIO_ASSERT(limit >= 0 && limit <= std::numeric_limits<float>::max());
  return cpu_operations().all_within(values.data(), limit, values.size());
}

std::size_t first_not_within(std::span<const float> values, float limit) {
  std::size_t index = 0;
  while (index < values.size() && all_within(values.subspan(index, 1), limit)) index += 1;
  return index;
}

Inspection inspect(std::span<const float> values) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::int32_t largest_bits = 0;
  double sum_of_squares = 0;
  cpu_operations().inspect(values.data(), values.size(), &largest_bits, &sum_of_squares);
  if (largest_bits >= std::bit_cast<std::int32_t>(kInfinity)) {
    return {.largest = kInfinity, .sum_of_squares = std::numeric_limits<double>::infinity(), .finite = false};
  }
  return {.largest = std::bit_cast<float>(largest_bits), .sum_of_squares = sum_of_squares, .finite = true};
}

void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from) {
  check_pair(to, from);
  cpu_operations().copy_streaming(to.data(), from.data(), from.size());
}

NumberFault check_encoded(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  return scalar::check_encoded(codec, bytes, elements, limit);
}

NumberFault accumulate_checked(std::span<float> sum, float own_scale, float weight, Codec codec,
                               std::span<const std::byte> bytes, float inverse_total, float limit) {
  return scalar::accumulate_checked(sum, own_scale, weight, codec, bytes, inverse_total, limit);
}

NumberFault decode(Codec codec, std::span<const std::byte> bytes, std::span<float> out, float limit) {
  return scalar::decode(codec, bytes, out, limit);
}

void encode(Codec codec, std::span<const float> values, std::span<std::byte> out) {
  scalar::encode(codec, values, out);
}

void encode_with_feedback(Codec codec, std::span<const float> values, std::span<float> residual,
                          std::span<std::byte> out) {
  scalar::encode_with_feedback(codec, values, residual, out);
}

void finalise_and_encode(std::span<float> sum, float inverse_total, Codec codec, std::span<std::byte> out) {
  scalar::finalise_and_encode(sum, inverse_total, codec, out);
}

void group_bytes(Codec codec, std::span<const std::byte> bytes, std::span<std::byte> out) {
  scalar::group_bytes(codec, bytes, out);
}

void ungroup_bytes(Codec codec, std::span<const std::byte> grouped, std::span<std::byte> out) {
  scalar::ungroup_bytes(codec, grouped, out);
}

void trimmed_mean(Contributions contributions, std::size_t trim, std::span<float> out) {
  scalar::trimmed_mean(contributions, trim, out);
}

void median(Contributions contributions, std::span<float> out) { scalar::median(contributions, out); }

void centred_clipping(Contributions contributions, float radius, std::size_t iterations, std::span<float> centre) {
  scalar::centred_clipping(contributions, radius, iterations, centre);
}

}  // namespace papilio::kernels
