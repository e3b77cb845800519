// Small ways of writing values for people and for JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace papilio::tools {

// The low `digits` hexadecimal digits of `value`, with leading zeros.
[[nodiscard]] inline std::string hexadecimal(std::uint64_t value, std::size_t digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(digits, '0');
  for (std::size_t i = 0; i < digits; ++i, value >>= 4U) text[digits - 1 - i] = kDigits[value & 15U];
  return text;
}

}  // namespace papilio::tools
