// Any bytes as a payload, and what must hold whatever they are: refused with a reason and nothing written, or accepted,
// and then finite, within the limit and the same bytes again when encoded. One function, for random tests and for a
// fuzzer.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

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
  std::vector<std::byte> out(encoded_bytes(codec, asked), std::byte{0x5a});
  if (decompress(bytes, codec, out) != NumberFault::none &&
      !std::all_of(out.begin(), out.end(), [](std::byte each) { return each == std::byte{0x5a}; })) {
    return "decompressed though refused";
  }
  return "";
}

}  // namespace papilio::kernels
