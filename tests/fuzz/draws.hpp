// Choices out of the fuzzer's bytes, for targets that are driven by sequences of events: whatever the bytes are, they
// are a valid sequence, and a small change of them is a small change of it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "engine/base/ids.hpp"

namespace papilio::fuzz {

class Draws {
 public:
  explicit Draws(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool is_empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    return value;
  }
  bool chance() { return (byte() & 1U) != 0; }
  // Below `bound`, which is at most 256.
  std::uint32_t below(std::uint32_t bound) { return byte() % bound; }
  std::span<const std::byte> take(std::size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  std::span<const std::byte> rest() { return take(bytes_.size()); }

  // Small ones mostly, and now and then any at all: a byte says which.
  std::uint64_t number() {
    const std::uint8_t first = byte();
    if (first < 0xf0) return first;
    std::uint64_t value = 0;
    const auto bytes = take(std::size_t{1} + (first & 7U));
    std::memcpy(&value, bytes.data(), bytes.size());
    return (first & 8U) != 0 ? ~value : value;
  }
  std::uint32_t number32() { return static_cast<std::uint32_t>(number()); }
  // Any bits, the special ones among them, or a small whole number.
  double real() {
    const std::uint8_t first = byte();
    if (first < 0xf0) return first;
    return std::bit_cast<double>(number());
  }
  std::string text(std::size_t most) {
    const auto bytes = take(number() % (most + 1));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // One of few, so that names meet again, or any.
  PeerId peer(std::uint32_t known) {
    PeerId id;
    const std::uint8_t first = byte();
    if (first < 0xf8) {
      id.bytes.fill(static_cast<std::uint8_t>(first % known + 1));
    } else {
      const auto bytes = take(id.bytes.size());
      std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(id.bytes.data()));
    }
    return id;
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace papilio::fuzz
