// Small readings of values and reports that the simulator's checks share.
#pragma once

#include <cstdio>
#include <cstring>
#include <span>
#include <string>

#include "engine/core/partition.hpp"
#include "engine/node/node.hpp"

namespace papilio::sim {

[[nodiscard]] inline bool same_bits(std::span<const float> one, std::span<const float> other) {
  return one.size() == other.size() && (one.empty() || std::memcmp(one.data(), other.data(), one.size_bytes()) == 0);
}

[[nodiscard]] inline std::string text_of(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

// Reports that do not name the reducer of each chunk are of rounds in which nobody succeeds anybody.
template <typename Report>
inline constexpr bool kHasSuccessors = requires(const Report& report) {
  report.reducers;
};

template <typename Report>
[[nodiscard]] MemberIndex reducer_of(const Report& report, const PartitionPlan& plan, ChunkIndex chunk) {
  if constexpr (kHasSuccessors<Report>) {
    return report.reducers[chunk];
  } else {
    return plan.reducer(chunk);
  }
}

}  // namespace papilio::sim
