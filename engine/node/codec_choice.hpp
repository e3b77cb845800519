// Which format gets a gradient over a line soonest: fewer bytes take less of the line and more of the processor. Both
// work at the same time, so a round takes as long as the slower of the two.
#pragma once

#include <array>
#include <optional>
#include <span>

#include "engine/node/shard_coder.hpp"

namespace papilio::node {

// Of this machine, in seconds for each byte of gradient: what a member's share of a round costs beyond that of plain
// fp32, to encode, to keep what rounding owes, and to add up or decode.
struct CoderCosts {
  std::array<double, std::size(kernels::kCodecs)> seconds_per_byte{};
};
// Takes a few milliseconds; the machine's, so once for a process.
[[nodiscard]] const CoderCosts& coder_costs();

// What Zstd makes of a gradient in this codec, tried on some of it.
struct ZstdTrial {
  double ratio = 1;             // bytes afterwards for one before
  double seconds_per_byte = 0;  // of gradient, both ways
};
[[nodiscard]] ZstdTrial try_zstd(std::span<const float> values, transport::Codec codec, int level);

// `line_bytes_per_s`: each way, of the whole node, not of one of its links. Plain unless another format promises to
// take at least kWorthwhile less time: these are estimates, and nothing may be slower than plain by more than noise.
inline constexpr double kWorthwhile = 0.1;
[[nodiscard]] transport::Codec fastest_codec(double line_bytes_per_s, const CoderCosts& costs);
[[nodiscard]] bool zstd_pays(double line_bytes_per_s, transport::Codec codec, const CoderCosts& costs,
                             const ZstdTrial& trial);

}  // namespace papilio::node
