// What happened to one peer in one round, as JSON: what its timers say, and why it was cut off. In one place, so that
// papilio-node and the stand-ins of tests say the same.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>

#include "engine/node/node.hpp"

namespace papilio::tools {

// What is not known is null. `id_digits`: how much of the peer's name is said.
[[nodiscard]] nlohmann::ordered_json document_of(const PeerReport& peer, std::size_t id_digits);

}  // namespace papilio::tools
