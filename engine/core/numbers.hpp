// Which numbers may take part in a round. Averages are sums over up to kMaximumMembers members, added up in float32 in
// the reducer's own gradient, where nothing can be taken back: so each weight and each element is bounded beforehand,
// such that no sum, whoever is in it and in whatever order, can leave the range of a float.
#pragma once

#include <limits>

#include "engine/base/limits.hpp"

namespace papilio::core {

// Weights are counts of samples or proportions of them. Within these bounds neither the sum of kMaximumMembers weights
// nor its reciprocal leaves the range of a float. They are floats themselves, because weights travel as such: a double
// within the bounds stays within them when it is rounded.
inline constexpr double kMinimumWeight = 1e-9F;
inline constexpr double kMaximumWeight = 1e9F;

// False for what is not a number, too.
[[nodiscard]] constexpr bool weight_is_valid(double weight) {
  return weight >= kMinimumWeight && weight <= kMaximumWeight;
}

// A contribution's elements times its weight stay within this, and so do its elements: half of what kMaximumMembers of
// them could add up to, which leaves room for rounding.
inline constexpr float kLargestTerm = std::numeric_limits<float>::max() / (2 * kMaximumMembers);
// An honest average lies between its contributions, but for rounding.
inline constexpr float kLargestAverage = 2 * kLargestTerm;

// The largest |element| of a contribution with this (valid) weight. Weights below 1 do not allow larger ones: the
// division by their sum makes the element as large as it was.
[[nodiscard]] constexpr float largest_element(double weight) {
  return weight > 1 ? static_cast<float>(double{kLargestTerm} / weight) : kLargestTerm;
}

static_assert(double{kLargestTerm} * kMaximumMembers <= double{std::numeric_limits<float>::max()} / 2);
static_assert(kMaximumWeight * kMaximumMembers < double{std::numeric_limits<float>::max()});
static_assert(1 / (kMaximumWeight * kMaximumMembers) > double{std::numeric_limits<float>::min()});

}  // namespace papilio::core
