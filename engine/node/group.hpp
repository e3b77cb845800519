// When the group averages, who takes part, and whether they still hold the same. Everybody counts samples and tells the
// others; when the target is reached, the core agrees on a roster (core/roster) and this class carries its words. Told
// digests show who has drifted apart (core/agreement). Single-threaded; runs on the loop's thread beside the Engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/agreement.hpp"
#include "engine/core/progress.hpp"
#include "engine/core/roster.hpp"
#include "engine/node/engine.hpp"
#include "engine/node/log_limit.hpp"
#include "engine/node/node.hpp"
#include "engine/node/roster_seals.hpp"

namespace papilio::node {

struct GroupConfig {
  PeerId self;
  Fingerprint fingerprint;
  transport::WireRole role = transport::WireRole::miner;
  std::uint64_t elements = 0;
  std::uint64_t target_batch = 0;
  std::uint64_t rate_bytes_per_s = 0;
  std::size_t chunk_bytes = 0;  // 0: chosen
  Duration round_timeout{};
  // Rosters are signed with this, and have to be, then; null: no signatures. Outlives the group; its id is `self`.
  const transport::Identity* identity = nullptr;
  // What signatures hold for, beside the fingerprint.
  std::string run_id = {};
  // Of this life of the node (core::Proposal).
  std::uint64_t instance = 0;
  // docs/rosters.md says what each costs and buys.
  RosterPatience patience;
  // What a node does that the others began a round without: true, it takes the round for its own, with its own
  // gradient, and is in the next one, its model a step apart from theirs. False: it waits until it has their state,
  // which nothing fetches yet.
  bool goes_on_alone = true;
};

// Why this node cannot go on with the group as it is. This is the place where state sync comes in: it fetches the
// group's state and then calls Group::handle_state_taken.
struct StateWanted {
  enum class Why : std::uint8_t {
    behind,    // the group is at a later epoch
    left_out,  // the others began this epoch's round without this node
    diverged,  // this node's model is not the majority's
  };
  Why why = Why::behind;
  std::uint64_t epoch = 0;  // of the group
};

class Group {
 public:
  Group(Engine& engine, const GroupConfig& config);

  // ---- what happens here
  void add_samples(std::uint64_t samples);
  void report_model(std::uint64_t epoch, std::uint64_t digest);
  // The trainer asks for a round; without a target batch that is what opens one.
  void handle_round_wanted(TimePoint now);
  void handle_round_over(TimePoint now, const RoundReport& report);
  // State sync has brought this node to `epoch`, later than before.
  void handle_state_taken(TimePoint now, std::uint64_t epoch);
  // All that this node has banned, the latest last: only the latest few count. Others are told: whom many have banned
  // is in no roster.
  void handle_bans(std::vector<PeerId> banned);

  // ---- what peers do
  void handle_peer_joined(TimePoint now, Peer& peer);
  void handle_peer_left(TimePoint now, Peer& peer);
  // What no correct peer says comes back in words, as evidence against it.
  std::optional<std::string> handle_control(TimePoint now, Peer& peer, const transport::Header& header);

  // A proposer that committed one proposal in two ways, with the proof: what that leads to is the owner's to judge.
  // Only proposers that are linked, or had this node's own consent: anybody can make up others, and say two things for
  // each.
  [[nodiscard]] std::optional<DoubleCommit> poll_double_commit();
  // A round that began without this node, although it had agreed to it; each once.
  [[nodiscard]] std::optional<SignedCommit> poll_left_out() { return std::exchange(left_out_of_, std::nullopt); }
  [[nodiscard]] const RunName& run() const { return seals_.run(); }
  // What the open round began with; null without signatures, and where this node is alone in it.
  [[nodiscard]] const SignedCommit* open_roster();

  // Once a turn: sends what is to be said, and opens the round that was agreed on.
  void act(TimePoint now);
  // When act() wants to be called even if nothing happens.
  [[nodiscard]] TimePoint next_deadline(TimePoint now) const;

  // The round that is agreed on and not over; the trainer may join it.
  [[nodiscard]] const std::optional<RoundSpec>& open_round() const { return open_round_; }
  // This node is not in rosters: it has to fetch the group's state first.
  [[nodiscard]] bool is_out_of_step() const;
  // The open round, or the last one, is one that the others began without this node.
  [[nodiscard]] bool is_alone() const { return alone_.has_value(); }
  [[nodiscard]] std::optional<StateWanted> state_wanted() const;
  [[nodiscard]] GroupProgress progress(TimePoint now) const;

 private:
  struct Heard {
    PeerId peer;
    TimePoint when{};
    bool is_silent = false;
    std::vector<PeerId> banned;  // by it, as it said
  };

  void handle_progress(TimePoint now, Peer& peer, const transport::Progress& wire);
  std::optional<std::string> handle_answer(TimePoint now, Peer& peer, const transport::Ack& wire);
  std::optional<std::string> handle_commit(TimePoint now, Peer& peer, const transport::Commit& wire);
  void note_left_out(const SignedCommit& told);
  [[nodiscard]] std::optional<transport::Header> signed_header(const core::Proposal& proposal);
  [[nodiscard]] std::optional<transport::Header> signed_header(const core::RosterAnswer& answer);
  [[nodiscard]] std::optional<transport::Header> signed_header(const core::Commit& commit);
  std::optional<std::string> disregard(TimePoint now, const Peer& peer, const char* what, const std::string& why,
                                       bool is_violation);
  std::optional<std::string> judge(TimePoint now, const Peer& peer, const char* what, core::RosterVerdict verdict);
  void open(const core::Roster& roster, const core::Ballot& ballot);
  void tell_roster(TimePoint now, const Peer& peer);
  void note_heard(TimePoint now, const Peer& peer);
  void note_silence(TimePoint now);
  void send_roster_messages();
  void open_what_is_decided();
  void open_round_alone();
  void look_for_others(TimePoint now);
  void say_unwritten(TimePoint now);
  void say_changes();
  [[nodiscard]] bool is_due(TimePoint now) const;
  [[nodiscard]] bool is_counted_on(TimePoint now, const Heard& heard) const;
  [[nodiscard]] transport::Progress wire_report() const;

  Engine& engine_;
  GroupConfig config_;
  Progress progress_;
  core::Rostering rostering_;
  RosterSeals seals_;
  std::optional<SignedCommit> left_out_of_;
  RoundId last_left_out_ = 0;
  core::Agreement models_;   // after the optimiser's step
  core::Agreement results_;  // of rounds, before it
  std::optional<RoundSpec> open_round_;
  std::vector<Heard> heard_;  // connected peers
  TimePoint epoch_began_{};
  TimePoint next_report_{};
  std::optional<TimePoint> round_wanted_since_;
  bool was_in_a_round_ = false;
  bool has_fresh_state_ = false;  // taken over, and in no round since: who missed one with it takes it over again
  // This node takes a round for its own, and waits from its end on, until then, for the others to be through with it.
  struct Alone {
    TimePoint wait_until = kNever;
  };
  std::optional<Alone> alone_;
  std::vector<PeerId> banned_;
  LogLimit log_limit_;
  bool changed_ = false;
  std::optional<StateWanted::Why> said_;  // what the log was told last about this node's standing
};

}  // namespace papilio::node
