// How fast this machine adds up contributions, as a node does in a round. The candidate's own word: no judge can check
// it, so it is in no certificate.
#pragma once

namespace papilio::qualify {

// 1e9 bytes of fp32 contributions per second, accumulated in chunks of 512 KiB on one core; takes about 0.15 s.
[[nodiscard]] double measure_reduce_gbs();

}  // namespace papilio::qualify
