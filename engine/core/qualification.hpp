// What a judge found out about a node's line, and what a run asks of one: plain figures and the comparison between
// them. How the figures are signed and travel is the shell's business; a node that decides whom to let in sees only
// these.
#pragma once

#include <chrono>
#include <cstdint>
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
};

// What a run asks of its nodes' lines.
struct LineRequirement {
  std::uint64_t up_bps = 100'000'000, down_bps = 100'000'000;
  Duration round_trip = std::chrono::milliseconds(200);
};

}  // namespace papilio::core
