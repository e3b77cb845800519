// What one seed means: a group with its machines and links, its rounds, and what goes wrong when. All of it is drawn
// here, before anything runs, so that a scenario can be printed, and so that what the group does cannot change what
// happens to it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/time.hpp"
#include "engine/node/round_driver.hpp"
#include "tools/sim/faults.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

struct Settings {
  std::uint32_t peers = 8;       // at least
  std::uint32_t most_peers = 0;  // each seed draws a number from `peers` to here; 0: `peers`
  Faults faults = Faults::mixed;
  std::uint32_t rounds = 0;  // 0: drawn
  bool full_size = false;    // of the seven pairs' tensors; otherwise a 64th
};

// Somebody who dials the group and is none of it.
enum class Stranger : std::uint8_t {
  no,
  of_another_model,
  of_another_run,
  of_another_size,
  babbling,  // another protocol
  mute,      // connects and says nothing
};

// Hosts and members are both counted from 0 in this order; positions in a round's roster are something else.
struct HostPlan {
  bool client = false;
  std::uint64_t announced_rate = 0;  // bytes per second, as the partition plan uses it
  std::uint64_t up_bytes_per_s = 0, down_bytes_per_s = 0;
  std::uint16_t flows = 1;
  Stranger stranger = Stranger::no;  // strangers are never in a roster
  node::ShardFormat format;          // what it sends its shards in
  std::uint32_t first_round = 0;     // its machine is started when this round opens
};

// What is wrong with a member's own gradient.
enum class Poison : std::uint8_t { none, not_a_number, infinite, huge };

struct BeginPlan {
  double weight = 1;
  Duration after{};    // the round's opening
  bool never = false;  // sits this round out
  bool skips = false;  // and says so to its engine
  Poison poison = Poison::none;
  bool other_epoch = false;   // believes that it is another epoch's round
  bool other_roster = false;  // believes that the group is another one
};

struct RoundPlan {
  Duration pause{};                // before it, once everybody is ready
  std::vector<BeginPlan> members;  // by host
};

// What befalls hosts, at a time after a round's opening.
enum class Mishap : std::uint8_t { crash, vanish, freeze, partition, slow, goodbye, cancel };
[[nodiscard]] std::string_view to_string(Mishap mishap);

// In place of a time: when the host sends the so-many-th of these frames in the round. A crash then happens before that
// frame has left.
struct FrameTrigger {
  bool averages = false;    // otherwise contributions
  std::uint32_t count = 0;  // from 1; 0: not triggered by frames
};

struct MishapPlan {
  Mishap mishap = Mishap::crash;
  std::uint32_t round = 0;
  Duration after{};
  FrameTrigger trigger;
  std::uint32_t host = 0;
  std::uint64_t others = 0;  // partition: the hosts on the other side, by bit
  // Until a frozen host thaws, a partition heals, a crashed host starts again; negative: never.
  Duration lasts = Duration(-1);
  // slow: bytes per second, 0: as before
  std::uint64_t up_bytes_per_s = 0, down_bytes_per_s = 0;
  bool harmless = false;  // a stall that nobody may be blamed for
};

// A fault in the bytes of one direction between two hosts.
struct ByteFaultPlan {
  transport::SimFault fault = transport::SimFault::reset;
  std::uint32_t from = 0, to = 0;
  std::uint64_t at_byte = 0;
};

// What a member does to the frames that its engine sends: changes a shard (with a header checksum that is right again
// where it matters), or lets a false frame follow it.
enum class Lie : std::uint8_t {
  model,
  group,
  round_ahead,
  round_behind,
  not_finite,  // in the payload, whose checksum is right
  weight,
  duplicate,
  out_of_range,
  unasked,
  bad_size,
  bad_coverage,
  magic,
  version,
  unknown_type,
  oversize,
  header_checksum,
  table,
  garbage,
  payload_checksum,
  withheld,  // the shard is not sent at all
  early_done,
  false_suspect,
  false_takeover,
  false_holdings,
  false_wanted,
  false_resume,
  false_pulse,
};
[[nodiscard]] std::string_view to_string(Lie lie);

struct LiePlan {
  Lie lie = Lie::model;
  std::uint32_t host = 0;
  std::uint32_t round = 0;
  FrameTrigger first;       // of the shards that it sends in the round
  std::uint32_t count = 1;  // so many shards from there on; kAllFrames: to the round's end
};
inline constexpr std::uint32_t kAllFrames = ~std::uint32_t{0};

struct Scenario {
  std::uint64_t seed = 0;
  transport::SimOptions network;
  std::vector<HostPlan> hosts;  // members first, then strangers
  std::uint32_t members = 0;
  bool everybody_dials = true;  // otherwise each member dials those before it
  std::uint64_t elements = 0;
  std::size_t chunk_bytes = 0;
  Duration timeout{};
  std::size_t pool_bytes_limit = 0;
  bool averages_first = true;
  bool one_machine = false;
  // What goes by reference; what is changed too early arrives changed.
  node::Borrow borrow = node::Borrow::nothing;
  bool error_feedback = true;
  bool roster_keeps_dead = false;  // whoever announces rounds has not noticed who died
  // Rounds open at this distance, ready or not. Zero: when everybody is through with the round before.
  Duration period{};
  std::vector<RoundPlan> rounds;
  std::vector<MishapPlan> mishaps;
  std::vector<ByteFaultPlan> byte_faults;
  std::vector<LiePlan> lies;
  std::uint64_t faults = 0;  // what was drawn, by bit of Faults

  [[nodiscard]] bool is_calm() const {
    return mishaps.empty() && byte_faults.empty() && lies.empty() && period == Duration::zero();
  }
  void add_fault(Faults fault) { faults |= std::uint64_t{1} << static_cast<unsigned>(fault); }
};

[[nodiscard]] Scenario draw_scenario(const Settings& settings, std::uint64_t seed);
// For people, several lines.
[[nodiscard]] std::string describe(const Scenario& scenario);

}  // namespace papilio::sim
