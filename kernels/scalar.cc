#include "kernels/scalar.h"

// The library's own portable code, so that its vector versions are held against it too.
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include <xxhash.h>

#include "engine/base/assert.hpp"

namespace papilio::kernels::scalar {

void accumulate(std::span<float> sum, float own_scale, float weight, std::span<const float> values) {
  PAPILIO_ASSERT_VALUES(sum.size() == values.size(), sum.size(), values.size());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const float own = own_scale * sum[i];
    const float other = weight * values[i];
    sum[i] = own + other;
  }
}

void accumulate_and_finalise(std::span<float> sum, float own_scale, float weight, std::span<const float> values,
                             float inverse_total) {
  accumulate(sum, own_scale, weight, values);
  finalise(sum, inverse_total);
}

void finalise(std::span<float> sum, float inverse_total) {
  for (float& value : sum) value *= inverse_total;
}

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

void copy_streaming(std::span<std::byte> to, std::span<const std::byte> from) {
  PAPILIO_ASSERT_VALUES(to.size() == from.size(), to.size(), from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i];
}

}  // namespace papilio::kernels::scalar
