// Averages that a few liars cannot pull wherever they like, over the contributions to one chunk. They need all
// contributions at once, where the mean adds each as it arrives; the scalar references are in kernels/scalar.cc.
//
// All are deterministic to the bit: values are ordered by their bit patterns (-0 before +0), sums are in the stated
// order. Contributions are checked before (kernels::check_encoded): finite, and small enough that sums stay finite.
#pragma once

#include <cstddef>
#include <span>

#include "engine/base/limits.hpp"

namespace papilio::kernels {

// One span per contributor, 1 to kMaximumMembers of them, all as long as the result (asserted).
using Contributions = std::span<const std::span<const float>>;

// Coordinate by coordinate, the mean of what is left without the `trim` smallest and the `trim` largest values (fewer
// than half of them: asserted), added up from the smallest: right within a bound as long as at most `trim` contributors
// lie. Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
// ICML 2018, definition 2.
void trimmed_mean(Contributions contributions, std::size_t trim, std::span<float> out);

// Coordinate by coordinate, the middle value, or half of one middle value plus half of the other. Ibid., definition 1.
void median(Contributions contributions, std::span<float> out);

// Each iteration moves `centre` by the mean of the contributions' differences to it, each shortened to the length
// `radius` if it is longer (over the whole chunk): centre += sum_i (x_i - centre) * min(1, radius / |x_i - centre|) /
// n. On entry `centre` holds a guess, such as the previous round's average. Karimireddy, He, Jaggi, "Learning from
// History for Byzantine Robust Optimization", ICML 2021, section 4. Lengths are in float64, folded over
// kInspectionLanes lanes as in kernels::inspect; the rest is in float32.
void centred_clipping(Contributions contributions, float radius, std::size_t iterations, std::span<float> centre);

}  // namespace papilio::kernels
