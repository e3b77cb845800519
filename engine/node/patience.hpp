// For whom a round waits and for how long, and before it, whoever agrees on who is in it: every constant of
// docs/rounds.md, docs/timers.md and docs/rosters.md, so that a node's owner can set each of them and all are checked
// together, before a round depends on them.
#pragma once

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/core/roster.hpp"
#include "engine/core/round.hpp"

namespace papilio::node {

struct RoundPatience {
  // Part of the round's timeout after which reducers finalise with what they have: the rest is for the averages' way
  // back, and for successors.
  double reduce_by_fraction = 0.6;
  // The same for successors, with the parts that they took over.
  double settle_by_fraction = 0.85;
  // How often members tell each other that they are alive, and for whom they wait. Others take silence of several of
  // these for a stall.
  Duration pulse_interval = std::chrono::milliseconds(250);
  core::Patience members;
};

struct RosterPatience {
  core::RosterConfig agreement;  // times and attempts only; what else is in there is the node's own
  // Everybody reports at least this often, so that silence means something.
  Duration report_interval = std::chrono::seconds(1);
  // A connected peer that said nothing for this long is not counted on, until it speaks.
  Duration silent_after = std::chrono::seconds(10);
};

// Names the constant as the command line calls it, its value and the remedy.
[[nodiscard]] Status check(const RoundPatience& patience);
[[nodiscard]] Status check(const RosterPatience& patience);

// Graces are meant for rounds of kUsualTimeout and more; a shorter one has no room for them, down to a half.
inline constexpr Duration kUsualTimeout = std::chrono::seconds(20);
[[nodiscard]] double room_for_graces(Duration timeout);
// The same constants for a round that has this much room for graces.
[[nodiscard]] core::LatenessConfig scaled(core::LatenessConfig config, double room);

}  // namespace papilio::node
