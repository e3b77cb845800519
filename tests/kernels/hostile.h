// Any bytes as a payload, and what must hold whatever they are: refused with a reason and nothing written, or accepted,
// and then finite, within the limit and the same bytes again when encoded. Apart from the tests that draw the bytes, so
// that each of them, whatever it draws, asks for all of it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/ops.h"

namespace papilio::kernels {

// What is wrong, or an empty string.
inline std::string try_payload(Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit) {
  constexpr float kBefore = 0.125F;
  const NumberFault fault = check_encoded(codec, bytes, elements, limit);
  std::vector<float> sum(elements, kBefore), out(elements, kBefore);
  if (accumulate_checked(sum, 1, 0.5F, codec, bytes, 1, limit) != fault) return "accumulate_checked disagrees";
  if (decode(codec, bytes, out, limit) != fault) return "decode disagrees";
  const Arrival arrival = checksum_and_check(codec, bytes, elements, limit);
  if (arrival.fault != fault || arrival.checksum != checksum(bytes)) return "checksum_and_check disagrees";
  if (fault != NumberFault::none) {
    const auto untouched = [](float value) { return value == kBefore; };
    const bool kept = std::all_of(sum.begin(), sum.end(), untouched) && std::all_of(out.begin(), out.end(), untouched);
    return kept ? "" : "written though refused";
  }
  for (const float value : out) {
    if (!(std::abs(value) <= limit)) return "accepted a value beyond the limit";
  }
  std::vector<std::byte> again(bytes.size());
  encode(codec, out, again);
  return std::equal(bytes.begin(), bytes.end(), again.begin()) ? "" : "not the same bytes when encoded again";
}

// `frame` as what a payload of `size` bytes was compressed to: what is wrong, or an empty string.
inline std::string try_frame(Codec codec, std::span<const std::byte> frame, std::size_t size,
                             bool* is_taken = nullptr) {
  constexpr std::byte kBefore{0x5a};
  constexpr std::size_t kGuard = 64;
  std::vector<std::byte> out(size + kGuard, kBefore);
  const std::span<std::byte> due = std::span(out).first(size);
  const auto untouched = [](std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte each) { return each == kBefore; });
  };
  const NumberFault fault = decompress(frame, codec, due);
  if (is_taken != nullptr) *is_taken = fault == NumberFault::none;
  if (!untouched(std::span(out).subspan(size))) return "written beyond what was due";
  if (fault == NumberFault::bad_frame) return untouched(due) ? "" : "decompressed though refused";
  if (fault != NumberFault::none) return "refused for something that is not the frame's";
  std::vector<std::byte> again(2 * size + 100), back(size);
  again.resize(compress(due, codec, 1, again));
  if (decompress(again, codec, back) != NumberFault::none) return "what was accepted does not go round";
  if (!std::equal(back.begin(), back.end(), due.begin())) return "not the same bytes after going round";
  // Whatever it is, it is now looked at as every payload is.
  return try_payload(codec, due, encoded_elements(codec, size), 1e30F);
}

// A few of the things that happen to bytes, by fault or by intent: bits flip, bytes change, go missing, come twice or
// from elsewhere.
inline std::vector<std::byte> damaged(Random& random, std::vector<std::byte> bytes) {
  for (std::uint64_t times = 1 + random.below(3); times > 0 && !bytes.empty(); --times) {
    const auto at = static_cast<std::ptrdiff_t>(random.below(bytes.size()));
    const auto other = static_cast<std::ptrdiff_t>(random.below(bytes.size()));
    switch (random.below(6)) {
      case 0: bytes[static_cast<std::size_t>(at)] = static_cast<std::byte>(random.next()); break;
      case 1: bytes[static_cast<std::size_t>(at)] = bytes[static_cast<std::size_t>(other)]; break;
      case 2:
        if (random.chance(0.5)) bytes.erase(bytes.begin() + at);
        break;
      case 3:
        if (random.chance(0.5)) bytes.insert(bytes.begin() + at, bytes[static_cast<std::size_t>(other)]);
        break;
      default: bytes[static_cast<std::size_t>(at)] ^= static_cast<std::byte>(1U << random.below(8));
    }
  }
  return bytes;
}

// `bytes` as every codec's payload and as a compressed frame; the first three choose what is expected of the rest.
inline std::string try_hostile_bytes(std::span<const std::byte> bytes) {
  if (bytes.size() < 3) return "";
  const auto codec = static_cast<Codec>(static_cast<std::uint8_t>(bytes[0]) % 4);
  const bool exact = (static_cast<std::uint8_t>(bytes[0]) & 0x80U) == 0;
  const std::size_t asked = static_cast<std::uint8_t>(bytes[1]) + 256U * (static_cast<std::uint8_t>(bytes[2]) % 8U);
  bytes = bytes.subspan(3);
  const std::size_t elements = exact ? encoded_elements(codec, bytes.size()) : asked;
  if (exact) bytes = bytes.first(encoded_bytes(codec, elements));
  for (const float limit : {1e3F, 3e38F}) {
    if (std::string wrong = try_payload(codec, bytes, elements, limit); !wrong.empty()) return wrong;
  }
  return try_frame(codec, bytes, encoded_bytes(codec, asked));
}

}  // namespace papilio::kernels
