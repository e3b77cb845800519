// What the tests of the kernels share: lengths, alignments and values where vector code goes wrong, comparison by bits,
// and a fixture that runs a test once for each instruction set that this machine has.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/targets.h"

namespace papilio::kernels {

// While the test runs, the kernels use the target it is for.
class TargetTest : public ::testing::TestWithParam<Target> {
 protected:
  void SetUp() override { use_target(GetParam()); }
  void TearDown() override { use_best_target(); }
};

inline std::string target_name(const ::testing::TestParamInfo<Target>& target) { return target.param.name; }

inline std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all(71);
  std::iota(all.begin(), all.end(), std::size_t{0});
  for (const std::size_t length : {127, 128, 129, 240, 241, 255, 256, 257, 1000, 1024, 4095, 4096, 4097, 65537}) {
    all.push_back(length);
  }
  return all;
}

inline float random_float(Random& random, float magnitude) {
  return static_cast<float>(2 * random.uniform() - 1) * magnitude;
}

// What the values of a test look like.
enum class Kind { ordinary, denormal, huge, any_bits };

inline float draw(Random& random, Kind kind) {
  switch (kind) {
    case Kind::ordinary: return random_float(random, 3.0F);
    case Kind::denormal: return random_float(random, 4 * std::numeric_limits<float>::min());
    case Kind::huge: return random_float(random, std::numeric_limits<float>::max());
    case Kind::any_bits: break;  // zeros of both signs, infinities and NaNs among them
  }
  static constexpr std::uint32_t kSpecial[] = {0, 0x80000000U, 0x7f800000U, 0xff800000U, 0x7fc00000U, 0x7f800001U, 1};
  if (random.chance(0.3)) return std::bit_cast<float>(kSpecial[random.below(std::size(kSpecial))]);
  return std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
}

inline std::vector<float> draw(Random& random, Kind kind, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = draw(random, kind);
  return values;
}

// A copy of `values` that starts `offset` floats behind a 64-byte boundary, with guards on both sides.
class Placed {
 public:
  Placed(const std::vector<float>& values, std::size_t offset)
      : storage_(values.size() + offset + 32, kGuard), size_(values.size()) {
    auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    begin_ = (64 - address % 64) % 64 / sizeof(float) + offset;
    std::copy(values.begin(), values.end(), storage_.begin() + static_cast<std::ptrdiff_t>(begin_));
  }
  std::span<float> span() { return {storage_.data() + begin_, size_}; }
  [[nodiscard]] bool guards_intact() const {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + size_) && storage_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr float kGuard = 12345.0F;
  std::vector<float> storage_;
  std::size_t begin_ = 0, size_ = 0;
};

// Equal bits; any NaN equals any other, since IEEE 754 leaves open which of two operands' payloads comes through.
inline ::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> wanted) {
  if (got.size() != wanted.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(wanted[i])) continue;
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(wanted[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << " of " << got.size() << ": " << got[i] << ", wanted " << wanted[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace papilio::kernels
