// Names of things that cross the wire. Each is its own type, so that an index into chunks cannot be passed where an
// index into members is meant.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

namespace papilio {

// 32 bytes: the hash of a peer's public key once identities exist; until then random, drawn once per process.
struct PeerId {
  std::array<std::uint8_t, 32> bytes{};
  auto operator<=>(const PeerId&) const = default;
};

// Hash of the model's parameter names, shapes, dtypes and the run id: peers with another one are of another model.
struct Fingerprint {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  auto operator<=>(const Fingerprint&) const = default;
};

// The round's number within a run. Rounds of one run are counted up by everyone.
using RoundId = std::uint64_t;
// Position in the round's roster, 0 to kMaximumMembers - 1.
using MemberIndex = std::uint32_t;
// Position of a chunk in the whole gradient, counted through all parts in order.
using ChunkIndex = std::uint32_t;
// One bit per member: which members' contributions an average holds.
using Coverage = std::uint64_t;

// The first `digits` hexadecimal digits, for logs and tables.
[[nodiscard]] inline std::string to_hex(const PeerId& id, std::size_t digits = 8) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < digits && i < 2 * id.bytes.size(); ++i) {
    const unsigned byte = id.bytes[i / 2];
    text += kDigits[i % 2 == 0 ? byte >> 4U : byte & 15U];
  }
  return text;
}

[[nodiscard]] constexpr Coverage coverage_of(MemberIndex member) { return Coverage{1} << member; }

}  // namespace papilio
