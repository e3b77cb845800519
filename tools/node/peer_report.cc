#include "tools/node/peer_report.hpp"

#include "tools/node/text.hpp"

namespace papilio::tools {

using nlohmann::ordered_json;

ordered_json document_of(const PeerReport& peer, std::size_t id_digits) {
  const auto known = [](double value) { return value < 0 ? ordered_json() : ordered_json(value); };
  return {{"peer", to_hex(peer.peer, id_digits)},
          {"address", peer.address},
          {"cut_off", peer.cut_off},
          {"reason", peer.reason},
          {"evidence", peer.evidence},
          {"banned", peer.banned},
          {"contributions_in", peer.contributions_in},
          {"averages_in", peer.averages_in},
          {"times_resumed", peer.times_resumed},
          {"round_trip_ms", known(peer.round_trip_ms)},
          {"first_shard_ms", known(peer.first_shard_ms)},
          {"longest_gap_ms", known(peer.longest_gap_ms)},
          {"rate_bytes_per_s", known(peer.rate_bytes_per_s)},
          {"lag_ms", known(peer.lag_ms)},
          {"limit_ms", known(peer.limit_ms)},
          {"digest", peer.digest ? ordered_json(hexadecimal(*peer.digest, 16)) : ordered_json()}};
}

}  // namespace papilio::tools
