// What a judge found out about a node's line, and what a run asks of one: plain figures, how they come out of what was
// counted, and the comparison between them. How the figures are signed and travel is the shell's business; a node that
// decides whom to let in sees only these.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/time.hpp"
#include "engine/core/conduct.hpp"

namespace papilio::core {

// The content of a certificate whose signature holds. Rates in bits per second on the line (headers of TCP, IP and
// Ethernet included), as the judge counted them.
struct Qualification {
  PeerId subject;
  PeerId judge;
  std::string run_id;  // empty: for any run
  std::uint64_t up_bps = 0, down_bps = 0;
  Duration round_trip_median{}, round_trip_p99{}, jitter{};
  std::uint64_t retransmits = 0;
  WallTime issued{}, expires{};
  // Both directions at the same time.
  std::uint64_t up_at_once_bps = 0, down_at_once_bps = 0;
};

// What a run asks of its nodes' lines.
struct LineRequirement {
  std::uint64_t up_bps = 100'000'000, down_bps = 100'000'000;
  Duration round_trip = std::chrono::milliseconds(200);
};

// Why the line is not what is asked for, each with what to do about it; empty: it is. `margin` is how much more than
// asked for it has to be, as a share: 0.05 asks for 105 Mbit/s where 100 are the minimum.
[[nodiscard]] std::vector<std::string> shortfalls(const Qualification& line, const LineRequirement& requirement,
                                                  double margin);

// A direction that falls below this share of what it carries alone while the other is busy, is taken from by the other:
// on Wi-Fi and some mobile networks, each gets half. Acknowledgements alone take up to 5% of a symmetric line.
inline constexpr double kAtOnceShare = 0.6;

// What is worth knowing though no reason to refuse: on very short lines with a deep queue, congestion control may cause
// the same as half duplex.
[[nodiscard]] std::vector<std::string> hints(const Qualification& line);

// ---- from counts to figures

struct RoundTripFigures {
  Duration minimum{}, median{}, p99{};
  // Mean difference between one and the next (as in RFC 3550, not smoothed).
  Duration jitter{};
  std::size_t count = 0;
};
// In the order in which they were measured. All zero for none.
[[nodiscard]] RoundTripFigures round_trip_figures(std::span<const Duration> round_trips);

// What one direction's payload took on the line.
struct LineOverhead {
  // Ethernet 14, TCP 20, its timestamps 12, and IPv4 20 or IPv6 40.
  static constexpr std::uint32_t kPacketBytesIpv4 = 66, kPacketBytesIpv6 = 86;

  std::uint32_t segment_bytes = 0;  // of TCP payload in a full packet; 0: not known, nothing is added for packets
  std::uint32_t packet_bytes = kPacketBytesIpv4;
  bool encrypted = false;  // TLS 1.3: one record for a frame's header, one for each 16 KiB of its payload

  // `payload_bytes` in frames of `frame_payload_bytes` behind headers of `frame_header_bytes`.
  [[nodiscard]] double line_bytes(std::uint64_t payload_bytes, std::size_t frame_payload_bytes,
                                  std::size_t frame_header_bytes) const;
};

}  // namespace papilio::core
