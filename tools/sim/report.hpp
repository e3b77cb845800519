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

}  // namespace papilio::sim
