// What one seed means: a group with its machines and links, its rounds, and what goes wrong when. All of it is drawn
// here, before anything runs, so that a scenario can be printed, and so that what the group does cannot change what
// happens to it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/time.hpp"
#include "engine/node/round_driver.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

enum class Faults : std::uint8_t {
  none,
  resets,
  crash,
  silent,
  corrupt,
  truncate,
  late,
  partition,
  slow,
  goodbye,
  cancel,
  wrong_model,
  mixed,
};

struct FaultProfile {
  Faults faults;
  std::string_view name;  // as on the command line
  std::string_view explanation;
};
[[nodiscard]] std::span<const FaultProfile> fault_profiles();
[[nodiscard]] std::string_view to_string(Faults faults);
[[nodiscard]] std::optional<Faults> faults_of(std::string_view name);

struct Settings {
  std::uint32_t peers = 8;
  Faults faults = Faults::mixed;
  std::uint32_t rounds = 0;  // 0: drawn
};

// Hosts and members are both counted from 0 in this order; positions in a round's roster are something else.
struct HostPlan {
  bool client = false;
  std::uint64_t announced_rate = 0;  // bytes per second, as the partition plan uses it
  std::uint64_t up_bytes_per_s = 0, down_bytes_per_s = 0;
  std::uint16_t flows = 1;
  bool stranger = false;  // of another model; never in a roster
};

struct BeginPlan {
  double weight = 1;
  Duration after{};    // the round's opening
  bool never = false;  // sits this round out
  bool skips = false;  // and says so to its engine
};

struct RoundPlan {
  Duration pause{};                // before it, once everybody is ready
  std::vector<BeginPlan> members;  // by host
};

// What befalls hosts, at a time after a round's opening.
enum class Mishap : std::uint8_t { crash, vanish, freeze, partition, slow, goodbye, cancel };
[[nodiscard]] std::string_view to_string(Mishap mishap);

struct MishapPlan {
  Mishap mishap = Mishap::crash;
  std::uint32_t round = 0;
  Duration after{};
  std::uint32_t host = 0;
  std::uint64_t others = 0;       // partition: the hosts on the other side, by bit
  Duration lasts = Duration(-1);  // freeze and partition; negative: for good
  std::uint64_t bytes_per_s = 0;  // slow
};

// A fault in the bytes of one direction between two hosts; at most one per pair of hosts.
struct ByteFaultPlan {
  transport::SimFault fault = transport::SimFault::reset;
  std::uint32_t from = 0, to = 0;
  std::uint64_t at_byte = 0;
};

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
  bool roster_keeps_dead = false;  // whoever announces rounds has not noticed who died
  // Rounds open at this distance, ready or not. Zero: when everybody is through with the round before.
  Duration period{};
  std::vector<RoundPlan> rounds;
  std::vector<MishapPlan> mishaps;
  std::vector<ByteFaultPlan> byte_faults;

  [[nodiscard]] bool is_calm() const { return mishaps.empty() && byte_faults.empty() && period == Duration::zero(); }
};

[[nodiscard]] Scenario draw_scenario(const Settings& settings, std::uint64_t seed);
// For people, several lines.
[[nodiscard]] std::string describe(const Scenario& scenario);

}  // namespace papilio::sim
