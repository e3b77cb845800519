// When the group averages, and who takes part. Everybody counts samples and tells the others; when the target is
// reached, the reachable peer with the lowest id announces the round with its roster. Single-threaded; runs on the
// loop's thread beside the Engine. (The announcement is one message from one peer: agreement that survives a proposer's
// death in the middle of it takes this class's place.)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/progress.hpp"
#include "engine/node/engine.hpp"
#include "engine/node/node.hpp"

namespace papilio::node {

struct GroupConfig {
  PeerId self;
  transport::WireRole role = transport::WireRole::miner;
  std::uint64_t elements = 0;
  std::uint64_t target_batch = 0;
  std::uint64_t rate_bytes_per_s = 0;
  std::size_t chunk_bytes = 0;  // 0: chosen
  Duration round_timeout{};
};

// How long an announcement waits for peers that have not yet said that they finished the round before.
inline constexpr Duration kArrivalGrace = std::chrono::seconds(2);

class Group {
 public:
  Group(Engine& engine, const GroupConfig& config)
      : engine_(engine), config_(config), progress_({config.target_batch}) {}

  // ---- what happens here
  void add_samples(std::uint64_t samples);
  void report_model(std::uint64_t epoch, std::uint64_t digest);
  // The trainer asks for a round; without a target batch that is what opens one.
  void handle_round_wanted() { round_wanted_ = true; }
  void handle_round_over(TimePoint now, const RoundReport& report);

  // ---- what peers do
  void handle_peer_joined(Peer& peer);
  void handle_peer_left(Peer& peer);
  void handle_control(TimePoint now, Peer& peer, const transport::Header& header);

  // Once a turn: sends what changed, announces a round if it is this node's to announce and time for it.
  void act(TimePoint now);
  // When act() wants to be called even if nothing happens.
  [[nodiscard]] TimePoint next_deadline(TimePoint now) const;

  // The round that is announced and not over; the trainer may join it.
  [[nodiscard]] const std::optional<RoundSpec>& open_round() const { return open_round_; }
  // This node's epoch differs from the group's: it cannot take part.
  [[nodiscard]] bool is_out_of_step() const;
  [[nodiscard]] GroupProgress progress(TimePoint now) const;

 private:
  [[nodiscard]] bool may_announce(TimePoint now) const;
  [[nodiscard]] bool everybody_arrived() const;
  void announce();
  void handle_round_start(Peer& peer, const transport::RoundStart& start);
  void open(const transport::RoundStart& start);
  [[nodiscard]] transport::Progress wire_report() const;

  Engine& engine_;
  GroupConfig config_;
  Progress progress_;
  std::optional<RoundSpec> open_round_;
  std::optional<transport::RoundStart> next_start_;  // announced while the round before it is still in flight here
  TimePoint epoch_began_{};
  bool round_wanted_ = false;
  bool changed_ = false;
};

}  // namespace papilio::node
