// How many strangers may stand at the door. Whoever can reach this node can open connections and leave them, and none
// of them has proved anything yet; so they are counted by where they come from, and nobody's crowd takes the room of
// others. A pure state machine: the shell tells of every accepted connection and asks whether it may stay. It knows
// nothing of who is welcome: that is for `Admission`, once somebody has proved a name.
//
// Where handshakes fill the room for all of them, the address with the most in progress makes room, with the one that
// it began first; those that its established connections may bring do not count, and take nobody's room (longest queue
// drop; Suter, Lakshman, Stiliadis, Choudhury, "Buffer Management Schemes for Supporting TCP in Gigabit Routers with
// Per-Flow Queueing", 1999; ours are handshakes instead of packets, and the oldest goes, because it is the least likely
// to come to anything). So who has nothing yet is let in, whatever the others do. Connections that are established are
// not dropped for others; an address may have no more of them than are left in total (dynamic thresholds; Choudhury,
// Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"

namespace papilio::core {

// Where a connection comes from, as far as a stranger cannot choose it: an IPv4 address, or the first 64 bits of an
// IPv6 address, because the rest is the stranger's own choice. The local host is one address, whichever of its own it
// uses.
class AddressBlock {
 public:
  static AddressBlock local_host();
  static AddressBlock of_ipv4(const std::array<std::uint8_t, 4>& address);
  // IPv4 addresses that are written as IPv6 (::ffff:1.2.3.4) are the same as of_ipv4.
  static AddressBlock of_ipv6(const std::array<std::uint8_t, 16>& address);

  [[nodiscard]] bool is_local_host() const { return is_local_host_; }
  [[nodiscard]] const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }

  auto operator<=>(const AddressBlock&) const = default;

 private:
  std::array<std::uint8_t, 16> bytes_{};
  bool is_local_host_ = false;
};

// Of one address block.
struct BlockLimits {
  std::uint32_t connections = 0;  // open at once
  // Of them not established yet, beside those that established ones may bring (DoorConfig::handshakes_per_connection).
  std::uint32_t handshakes = 0;
  std::uint32_t attempts_at_once = 0;  // connections opened in one go
  double attempts_per_s = 0;           // and after that
};

// docs/admission.md tells what each costs and buys.
struct DoorConfig {
  // 63 peers with 16 flows each (1,008) may share one address behind a NAT, and a quarter more for links that are made
  // anew before the old ones are known to be gone. Handshakes: 63 first flows at once, twice. Attempts: a group that
  // starts all at once; and then few enough that who connects in a loop does not keep this node busy with handshakes.
  BlockLimits elsewhere = {.connections = 1280, .handshakes = 128, .attempts_at_once = 1280, .attempts_per_s = 32};
  // Whole groups are tried out on one host, and started anew in quick succession; who is on this host already has
  // easier ways to take its memory.
  BlockLimits local_host = {.connections = 4096, .handshakes = 1024, .attempts_at_once = 8192, .attempts_per_s = 1024};
  // For every established connection of an address so many more handshakes: a link begins with one flow and dials the
  // others at once.
  std::uint32_t handshakes_per_connection = kMaximumFlows;
  // A link and the one that takes its place.
  std::uint32_t connections_per_peer = 2 * kMaximumFlows;
  // Each takes a descriptor, and memory for TLS and buffers.
  std::uint32_t connections_in_total = 8192;
  // Of them not established yet, beside those that established ones may bring. Twice what one group brings at most
  // (1,008).
  std::uint32_t handshakes_in_total = 2048;
  // Of one connection, until it is established: some 3 KiB of TLS, a hello, and a few certificates.
  std::uint64_t bytes_per_handshake = std::uint64_t{32} << 10U;
  // Address blocks remembered, some 200 bytes each. Those with nothing open are forgotten first, and with them how
  // often they came; never those with something open, so at least connections_in_total.
  std::uint32_t blocks = 16384;
};

// Names the constant, its value and the remedy.
[[nodiscard]] Status check(const DoorConfig& config);

enum class DoorVerdict : std::uint8_t {
  welcome,
  too_many_here,                 // connections of that address
  too_many_in_total,             // connections, or that address has as many as are left
  too_many_handshakes,           // of that address
  too_many_handshakes_in_total,  // and no other address has more of them
  too_often,                     // attempts of that address
  too_many_of_peer,              // connections of one proven peer
  too_many_bytes,                // of one handshake
};
inline constexpr std::size_t kDoorVerdicts = 8;
// As in metrics and logs: `too-many-here`.
[[nodiscard]] std::string_view to_string(DoorVerdict verdict);

// One connection, from handle_opened to handle_closed. Never 0, never twice.
using Visit = std::uint64_t;

struct DoorAnswer {
  DoorVerdict verdict = DoorVerdict::welcome;
  Visit visit = 0;      // where welcome; else the connection is to be closed, and no more is to be told of it
  Visit displaced = 0;  // where not 0: that one has to make room for it; close it, too (and tell of that)
};

class Door {
 public:
  explicit Door(DoorConfig config = {});

  // ---- what happens
  // A connection was accepted.
  DoorAnswer handle_opened(TimePoint now, const AddressBlock& from);
  // So many more bytes came from it that is not established yet. Unless welcome, close it (and tell of that).
  DoorVerdict handle_bytes(Visit visit, std::uint64_t bytes);
  // It proved to be that peer. Once per visit. Unless welcome, close it (and tell of that).
  DoorVerdict handle_authenticated(Visit visit, const PeerId& peer);
  // Its hello is in and answered, and it is part of a link: no handshake any more.
  void handle_established(Visit visit);
  void handle_closed(Visit visit);

  // ---- getters
  [[nodiscard]] std::uint32_t connections() const { return static_cast<std::uint32_t>(visits_.size()); }
  [[nodiscard]] std::uint32_t handshakes() const { return handshakes_; }
  [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }
  // So many times that verdict, since the start.
  [[nodiscard]] std::uint64_t count_of(DoorVerdict verdict) const { return counts_[static_cast<std::size_t>(verdict)]; }
  // For logs: the limit, its value, and what its flag is called.
  [[nodiscard]] std::string explain(DoorVerdict verdict, const AddressBlock& from) const;
  [[nodiscard]] const DoorConfig& config() const { return config_; }

 private:
  struct Block {
    std::uint32_t connections = 0;
    std::uint32_t established = 0;  // of connections
    std::set<Visit> handshakes;     // of connections; numbers grow, so the oldest is the first
    double attempts_left = 0;
    TimePoint attempts_as_of{};
    std::list<AddressBlock>::iterator idle;  // where connections is 0
  };
  using Blocks = std::map<AddressBlock, Block>;  // a tree: addresses are chosen by strangers, and so would hashes be
  enum class Stage : std::uint8_t { handshake, established, displaced };
  struct Guest {
    Blocks::iterator block;
    std::optional<PeerId> peer;
    std::uint64_t bytes = 0;
    Stage stage = Stage::handshake;
  };
  // Blocks with a surplus by how much, and among equals, who began the first of them earlier comes later.
  using Crowds = std::map<std::pair<std::uint64_t, Visit>, Blocks::iterator>;

  [[nodiscard]] const BlockLimits& limits_of(const AddressBlock& from) const;
  [[nodiscard]] DoorVerdict verdict_on(const AddressBlock& from, const Block& block) const;
  Blocks::iterator remember(TimePoint now, const AddressBlock& from);
  void refill(TimePoint now, const AddressBlock& from, Block& block) const;
  [[nodiscard]] std::uint64_t earned(const Block& block) const;
  // Of its handshakes, those beyond what its established connections may bring.
  [[nodiscard]] std::uint64_t surplus(const Block& block) const;
  [[nodiscard]] bool takes_anybodys_room(const Block& block) const;
  Visit displace();
  // Changes handshakes or established of a block, and what is counted of them.
  template <typename Change>
  void recount(Blocks::iterator block, Change change);
  void remove_handshake(Blocks::iterator block, Visit visit);
  Guest& guest_of(Visit visit);
  DoorVerdict counted(DoorVerdict verdict);

  DoorConfig config_;
  Blocks blocks_;
  std::list<AddressBlock> idle_;  // blocks with nothing open, the longest forgotten first
  std::map<Visit, Guest> visits_;
  std::map<PeerId, std::uint32_t> connections_of_peers_;
  Visit last_visit_ = 0;
  Crowds crowds_;
  std::uint32_t handshakes_ = 0;
  std::uint64_t surplus_ = 0;  // of all blocks
  std::array<std::uint64_t, kDoorVerdicts> counts_{};
};

}  // namespace papilio::core
