// How many seeds a test draws. PAPILIO_SEEDS (tools/check --seeds) is for those that draw 60 as a rule; the others draw
// as many more or fewer: 10,000 become 1,333 where it is 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace papilio {

inline std::uint64_t seeds(std::uint64_t usual) {
  constexpr std::uint64_t kUsual = 60;
  const char* const text = std::getenv("PAPILIO_SEEDS");
  const std::uint64_t asked = text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
  return asked > 0 ? std::max<std::uint64_t>(1, usual * asked / kUsual) : usual;
}

}  // namespace papilio
