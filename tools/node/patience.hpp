// The patience of rounds, and of the agreement before them, as flags and keys, for every program that runs a node.
// Apart from papilio-node's settings, so that the stand-ins of tests can be given the same flags.
#pragma once

#include <cstdint>

#include "engine/base/result.hpp"
#include "engine/node/patience.hpp"
#include "tools/common/command_line.hpp"

namespace papilio::tools {

struct PatienceSettings {
  node::RoundPatience constants;
  // Rates are bits per second on command lines.
  std::uint64_t minimum_rate_bps = static_cast<std::uint64_t>(8 * core::LatenessConfig().minimum_rate_bytes_per_s);

  [[nodiscard]] node::RoundPatience patience() const;
};

// --patience-stall-grace and its like, or the keys of a [patience] table. The values that `settings` has now are the
// defaults.
void add_patience_options(CLI::App& app, PatienceSettings& settings);

// --roster-lease and its like, or the keys of a [roster] table.
void add_roster_options(CLI::App& app, node::RosterPatience& patience);

// Names flag, value and remedy.
[[nodiscard]] Status validate(const PatienceSettings& settings);
[[nodiscard]] Status validate(const node::RosterPatience& patience);

}  // namespace papilio::tools
