#include "tools/perf/data.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace papilio::perf {

namespace {

// 32-bit finaliser of MurmurHash3 (Appleby), which vectorises; quality is ample for test data.
inline float input(std::uint32_t seed, std::uint32_t index) {
  std::uint32_t x = index * 0x9e3779b1U + seed;
  x ^= x >> 16U;
  x *= 0x85ebca6bU;
  x ^= x >> 13U;
  x *= 0xc2b2ae35U;
  x ^= x >> 16U;
  return static_cast<float>(static_cast<std::int32_t>(x)) * 0x1.0p-31F;
}

std::uint32_t seed_of(std::uint32_t rank, std::uint32_t iteration) {
  return rank * 0x27d4eb2fU + iteration * 0x165667b1U + 0x1234567U;
}

// Checking would take longer than averaging without wide vectors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define PAPILIO_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define PAPILIO_VECTOR_CLONES
#endif

constexpr std::size_t kBlock = 1024;

PAPILIO_VECTOR_CLONES void add_block(std::array<double, kBlock>& sum, std::array<double, kBlock>& magnitude,
                                     std::uint32_t seed, std::uint32_t begin, double weight) {
  for (std::size_t i = 0; i < kBlock; ++i) {
    const double value = weight * static_cast<double>(input(seed, begin + static_cast<std::uint32_t>(i)));
    sum[i] += value;
    magnitude[i] += std::fabs(value);
  }
}

}  // namespace

PAPILIO_VECTOR_CLONES
void fill_inputs(std::span<float> values, std::uint32_t rank, std::uint32_t iteration) {
  const std::uint32_t seed = seed_of(rank, iteration);
  float* const out = values.data();
  const std::size_t size = values.size();
  for (std::size_t i = 0; i < size; ++i) out[i] = input(seed, static_cast<std::uint32_t>(i));
}

CodecBound bound_of(kernels::Codec codec, bool error_feedback) {
  CodecBound once;
  switch (codec) {
    case kernels::Codec::fp32: return {};
    case kernels::Codec::bf16: once = {.relative = 0x1p-8, .absolute = 0x1p-134}; break;
    case kernels::Codec::fp16: once = {.relative = 0x1p-11, .absolute = 0x1p-25}; break;
    case kernels::Codec::int8: once = {.absolute = kernels::error_bound(codec, 1, 1)}; break;
  }
  const double carried = error_feedback ? once.relative + once.absolute : 0;
  return {.relative = 2 * 1.01 * once.relative, .absolute = 2 * 1.01 * (once.absolute + carried)};
}

std::uint64_t count_wrong(std::span<const float> values, std::span<const double> weights, std::uint32_t iteration,
                          const CodecBound& codec) {
  double total = 0;
  for (const double weight : weights) total += weight;
  const double relative_bound = (static_cast<double>(weights.size()) + 2) * 0x1.0p-24 + codec.relative;
  std::uint64_t wrong = 0;
  for (std::size_t begin = 0; begin < values.size(); begin += kBlock) {
    std::array<double, kBlock> sum{};
    std::array<double, kBlock> magnitude{};
    for (std::uint32_t rank = 0; rank < weights.size(); ++rank) {
      if (weights[rank] > 0) {
        add_block(sum, magnitude, seed_of(rank, iteration), static_cast<std::uint32_t>(begin), weights[rank]);
      }
    }
    const std::size_t size = std::min(kBlock, values.size() - begin);
    for (std::size_t i = 0; i < size; ++i) {
      const double error = std::fabs(static_cast<double>(values[begin + i]) - sum[i] / total);
      wrong += error <= relative_bound * magnitude[i] / total + codec.absolute ? 0U : 1U;
    }
  }
  return wrong;
}

}  // namespace papilio::perf
