// Which peers are in the next round, agreed without a fixed master. The order in which miners may propose rotates from
// round to round; whoever's turn it is proposes a roster, those named acknowledge, and the proposer commits those that
// did. Any of them may die between any two messages: a commit is passed on by everybody who gets it before they begin,
// and the next proposer, when it hears of a commit, passes that on instead of its own. A pure state machine: no clock,
// no socket; the shell tells it what arrived (handle_*), sends what it says (poll_message), and wakes it
// (next_deadline).
//
// The shape is single-decree Paxos (Lamport, "The Part-Time Parliament", 1998): ballots ordered by (attempt, proposer),
// promises that block lower ballots, and values that are taken over. It differs in what it must give: a quorum is
// whoever is present, not a majority, because both sides of a partition are to go on. What majorities give there,
// leases and answers give here: nobody commits while somebody who answers has promised another ballot, and an
// acknowledgement binds its sender until the proposer commits, withdraws, is lost or lets the lease run out.
//
// Guarantee, among correct members. Call two connected if their link is up from the first proposal of a round until
// both have begun it or will not, and alive if what is sent to them is answered within a quarter of ack_grace.
//   1. No two connected, alive members that are both at the epoch when the round is first proposed begin it with
//      different rosters, where whole sides are cut apart and peers die. Where single links are missing (A and B are
//      connected, but not to the same proposers), still no member begins with a roster that names a connected, alive
//      peer which has begun with another.
//   2. Among a set that is stable and connected, a round begins within begin_bound(f) after it is due, where f of the
//      miners fail to act; nobody waits for the absent. Who comes late joins the next round.
//   3. A proposer cannot leave out whom it likes: who is asked refuses a roster without a member that it sees itself,
//   up
//      to date, for inclusion_patience. One miner that sees all is enough for a round with all; where none does, that
//      patience is added to the bound. A member that more than a third of the others has banned is in no roster.
//   4. A partition lets each side go on with its own roster. Shards of one are told from those of the other by
//      group_hash; what it means for the models is found by digests (core/agreement). After it has healed, the next
//      roster names everybody who is at the epoch.
// A member that is not alive by this definition (frozen, or behind a link that holds messages for seconds) may begin a
// roster that the others have given up: it then finds itself alone in that round, and they lose nothing. A liar can
// split a group for a round, or commit without one that it says did not answer; it cannot keep rounds from beginning.
// What it tells about others' answers is for signatures to prove, which the shell sees to (node/roster_seals).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/time.hpp"

namespace papilio::core {

struct RosterEntry {
  PeerId peer;
  std::uint64_t rate_bytes_per_s = 0;  // 0: unknown
  bool reduces = true;
  bool operator==(const RosterEntry&) const = default;
};

// Attempts are counted from 1 in each round; 0 is below every proposal.
struct Ballot {
  std::uint32_t attempt = 0;
  PeerId proposer;
  auto operator<=>(const Ballot&) const = default;
};

struct Proposal {
  RoundId round = 0;
  std::uint64_t epoch = 0;  // rounds completed by those named: round - 1
  Ballot ballot;
  std::vector<RosterEntry> members;  // sorted by id
  std::uint32_t chunk_bytes = 0;
  std::uint32_t timeout_ms = 0;
  // Drawn anew whenever the proposer starts: its attempts begin at 1 again, and are others then.
  std::uint64_t instance = 0;
  bool operator==(const Proposal&) const = default;
};

// What a proposal came to. Whole, so that it can be passed on to those that never saw the proposal.
struct Commit {
  Proposal proposal;
  Coverage mask = 0;  // bit i: the proposal's member i acknowledged and is in the roster
  bool operator==(const Commit&) const = default;
};

// A committed proposal without those that did not acknowledge: what a round begins with.
struct Roster {
  RoundId round = 0;
  std::uint64_t epoch = 0;
  std::vector<RosterEntry> members;
  std::uint32_t chunk_bytes = 0;
  std::uint32_t timeout_ms = 0;
  bool operator==(const Roster&) const = default;
};
[[nodiscard]] Roster roster_of(const Commit& commit);

// Of everything that members must agree on before their shards may meet: round, epoch, members in order, chunk size.
[[nodiscard]] std::uint64_t group_hash(const Roster& roster);
// Of which model's gradient a shard is: the fingerprint and the epoch.
[[nodiscard]] std::uint64_t model_hash(const Fingerprint& fingerprint, std::uint64_t epoch);
// The place of a miner in the order of proposers of that round: the lowest goes first (rendezvous hashing: Thaler and
// Ravishankar, 1998; a peer that comes or goes moves nobody else).
[[nodiscard]] std::uint64_t proposer_order(RoundId round, const PeerId& peer);

enum class Answer : std::uint8_t {
  acknowledged,
  promised_higher,  // a higher ballot was promised: `promised`
  busy,             // bound to `promised` until that comes to something; the final answer follows
  other_epoch,      // the sender is at `epoch`
  wrong_entry,      // the sender's own rate or role is not as proposed
  too_far_ahead,    // the attempt is not believable
  left_out,         // most others began this round without the sender, which waits for their state
  withdrawn,        // from the proposer: this ballot will not be committed
  no_credit,        // too many of the proposer's proposals came to nothing, or too many have banned it: not for a while
  incomplete,       // leaves out a member that the sender sees, up to date
};
inline constexpr Answer kLastAnswer = Answer::incomplete;
[[nodiscard]] std::string_view to_string(Answer answer);

struct RosterAnswer {
  RoundId round = 0;
  Ballot ballot;  // the proposal that is answered
  Answer answer = Answer::acknowledged;
  Ballot promised;
  std::uint64_t epoch = 0;
  bool operator==(const RosterAnswer&) const = default;
};

// What a message deserved.
enum class RosterVerdict : std::uint8_t {
  accepted,
  deferred,          // is answered later
  refused,           // answered with why not
  known,             // nothing new
  other_epoch,       // of a round that is not this node's next
  blocked,           // a commit below what was promised: held until that comes to something
  left_out,          // a commit without this node
  unasked,           // an answer to a proposal that is not under way here
  unconnected,       // from a peer that was never introduced
  not_acknowledged,  // a commit that names this node, passed on by another, of a proposal never acknowledged here
  // From here on only a broken or hostile peer:
  forged,          // the same, from the proposer itself
  not_a_miner,     // a proposal from a peer that may not propose
  wrong_proposer,  // a proposal in somebody else's name
  bad_members,     // none, too many, twice, out of order, or without the proposer as reducer
  self_missing,    // a proposal sent to a peer that it does not name
  bad_rate,        // above kMaximumRate
  bad_shape,       // chunk size, timeout, round or attempt outside what is possible
  bad_mask,        // names members that there are not, or leaves out the proposer
  flood,           // more attempts than a correct miner makes
};
[[nodiscard]] std::string_view to_string(RosterVerdict verdict);
[[nodiscard]] constexpr bool is_violation(RosterVerdict verdict) { return verdict >= RosterVerdict::forged; }

// What can be said of it without knowing anything else.
[[nodiscard]] RosterVerdict judge(const Proposal& proposal);
[[nodiscard]] RosterVerdict judge(const Commit& commit);

// 8 Tbit/s: no line is faster, and sums of 64 stay far from the end of the type.
inline constexpr std::uint64_t kMaximumRate = 1'000'000'000'000;
inline constexpr std::uint32_t kLeastTimeoutMs = 10;
inline constexpr std::uint32_t kMostTimeoutMs = 24 * 3600 * 1000;
// How far an attempt may be above the highest seen. More than correct peers can get ahead of each other, and small
// enough that hostile jumps never reach the end of the type.
inline constexpr std::uint32_t kMostAttemptJump = 256;

// docs/rosters.md says what each costs and buys.
struct RosterConfig {
  PeerId self;
  std::uint64_t instance = 0;
  bool is_miner = true;  // may propose, and reduces
  std::uint64_t rate_bytes_per_s = 0;
  std::uint64_t elements = 0;
  std::size_t chunk_bytes = 0;  // 0: chosen from the gradient's size and the rates
  Duration round_timeout = std::chrono::seconds(30);
  // How long after its own round a proposer waits for the other members of that round to be done, too.
  Duration arrival_grace = std::chrono::seconds(2);
  // How long each proposer in the order is left to act before the next one does.
  Duration propose_grace = std::chrono::seconds(1);
  // How long answers to a proposal are waited for.
  Duration ack_grace = std::chrono::seconds(1);
  // How long an acknowledgement binds its sender to a proposer that says nothing more. At least twice ack_grace.
  Duration lease = std::chrono::seconds(3);
  // How long after a proposer's connection is lost its commit may still come through others.
  Duration settle_grace = std::chrono::milliseconds(500);
  // How long a node refuses proposals that leave out a member which it sees itself, from the first of a round on.
  Duration inclusion_patience = std::chrono::seconds(10);
  // Proposals that one miner may make in one epoch at once, and how long until it may make one more.
  double attempts_at_once = 4;
  Duration attempt_refill = std::chrono::seconds(5);
};
// How long after a round is due it begins at the latest, if `failures` of the miners do not act (in the worst case each
// after the other's acknowledgements are in) and everybody else answers.
[[nodiscard]] Duration begin_bound(const RosterConfig& config, std::uint32_t failures);

// A connected peer, as far as rosters are concerned.
struct RosterPeer {
  PeerId id;
  bool is_miner = true;
  bool takes_part = true;  // validators do not
  std::uint64_t rate_bytes_per_s = 0;
  bool is_local_host = false;
  std::optional<std::uint64_t> epoch;  // as it reported; none yet
  std::vector<PeerId> banned;          // by it, as it reported
};

struct RosterMessage {
  std::vector<PeerId> to;
  std::variant<Proposal, RosterAnswer, Commit> content;
};

class Rostering {
 public:
  explicit Rostering(const RosterConfig& config);

  // ---- what happens here
  // This node completed a round or took over state: it is now at `epoch`, later than before.
  // `lost` were members of that round, but will hardly come out of it: they are not waited for.
  void handle_epoch(TimePoint now, std::uint64_t epoch, std::span<const PeerId> lost = {});
  // Whether a round should begin: the target is reached, or one is wanted. Repeating it changes nothing.
  void handle_due(TimePoint now, bool due);
  void handle_time(TimePoint now);
  // All that this node has banned, and keeps no link to: they may still be linked to others.
  void handle_bans(std::span<const PeerId> banned);

  // ---- what peers do
  // A peer is connected, or said something about itself.
  void handle_peer(TimePoint now, const RosterPeer& peer);
  void handle_peer_left(TimePoint now, const PeerId& id);
  RosterVerdict handle_proposal(TimePoint now, const PeerId& from, const Proposal& proposal);
  RosterVerdict handle_answer(TimePoint now, const PeerId& from, const RosterAnswer& answer);
  RosterVerdict handle_commit(TimePoint now, const PeerId& from, const Commit& commit);

  // What can be said of a commit before it is taken. `accepted`: handle_commit would look further.
  [[nodiscard]] RosterVerdict judge_commit(const PeerId& from, const Commit& commit) const;

  // ---- polls: after every handle_*, until it gives nothing
  std::optional<RosterMessage> poll_message();

  // ---- getters
  [[nodiscard]] const RosterConfig& config() const { return config_; }
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
  // The roster of the round after epoch(), once it is agreed. Poll the messages before beginning: others may depend on
  // hearing of it from here.
  [[nodiscard]] const std::optional<Commit>& decided() const { return decided_; }
  // So many of those connected began this round without this node that another one would only split the group, or all
  // that may propose one.
  [[nodiscard]] bool is_left_out() const;
  [[nodiscard]] TimePoint next_deadline() const;
  [[nodiscard]] bool is_proposing() const { return collecting_.has_value(); }
  // This node's own proposal that is under way; null: none is.
  [[nodiscard]] const Proposal* proposing() const { return collecting_ ? &collecting_->proposal : nullptr; }
  // What this node acknowledged under that ballot, in this epoch and not long ago; null otherwise.
  [[nodiscard]] const Proposal* acknowledged(const Ballot& ballot) const;
  // The same of one that is known, this node's own that is under way included.
  [[nodiscard]] bool has_acknowledged(const Proposal& proposal) const;

 private:
  enum class Said : std::uint8_t { nothing, acknowledged, busy, outbid, after_others, refused, began_elsewhere, gone };
  struct Known : RosterPeer {
    bool is_silent = false;     // did not answer in time, and has said nothing since
    std::uint32_t excuses = 0;  // proposals of this epoch that it has brought down by being bound to another
    bool is_expected = false;   // was in the last round, and is not out of it yet
    // What its proposals that came to nothing weigh; a commit of its own clears it.
    std::uint32_t demerits = 0;
    TimePoint credit_from{};  // no acknowledgement before
    double attempts_left = 0;
    TimePoint refilled{};
  };
  // This node's own proposal, under way.
  struct Collecting {
    Proposal proposal;
    std::vector<Said> said;  // by member
    TimePoint answer_by{};
    TimePoint give_up{};
    // Somebody began another roster: it was passed on to those that it names, who get until answer_by.
    std::vector<std::uint64_t> passed_on;  // hashes
  };
  // What this node is bound to by its acknowledgement.
  struct Lease {
    PeerId holder;
    TimePoint until{};
  };

  [[nodiscard]] bool spend_attempt(TimePoint now, Known& peer) const;
  RosterVerdict consider(TimePoint now, const Proposal& proposal);
  void acknowledge(TimePoint now, const Proposal& proposal);
  void answer(const Proposal& proposal, Answer what);
  void blame(TimePoint now, const PeerId& proposer, std::uint32_t demerits);
  void release(TimePoint now);
  [[nodiscard]] bool is_of_another_life(const Proposal& proposal) const;
  RosterVerdict handle_foreign_commit(TimePoint now, const Known& from, const Commit& commit);
  void pass_on(TimePoint now, const PeerId& from, const Commit& commit);
  void decide(const Commit& commit);

  [[nodiscard]] bool may_propose() const;
  [[nodiscard]] TimePoint own_turn() const;
  [[nodiscard]] bool is_present(const Known& peer) const;
  [[nodiscard]] bool leaves_out_somebody(TimePoint now, const Proposal& proposal) const;
  [[nodiscard]] bool is_outcast(const PeerId& id) const;
  void count_bans();
  void propose(TimePoint now);
  void choose_members(Proposal& proposal) const;
  void set_said(const PeerId& peer, Said said);
  void look_at_answers(TimePoint now, bool may_give_up);
  void withdraw(TimePoint now);
  void step_back(TimePoint now);

  [[nodiscard]] Known* find(const PeerId& id);
  [[nodiscard]] bool began_elsewhere(const PeerId& id) const;
  void send(std::vector<PeerId> to, std::variant<Proposal, RosterAnswer, Commit> content);
  [[nodiscard]] std::vector<PeerId> connected() const;
  void check_invariants() const;

  RosterConfig config_;
  std::vector<Known> peers_;
  std::vector<PeerId> banned_;      // by this node
  std::vector<PeerId> outcasts_;    // banned by so many that they are in no roster
  std::vector<RosterMessage> out_;  // oldest first
  std::size_t out_next_ = 0;

  // Of the round after epoch_:
  std::uint64_t epoch_ = 0;
  TimePoint epoch_began_{};
  std::optional<TimePoint> due_since_;
  TimePoint last_setback_{};
  std::uint32_t own_setbacks_ = 0;
  std::uint32_t own_attempts_ = 0;
  TimePoint first_attempt_{};
  std::uint32_t highest_attempt_ = 0;
  Ballot promised_;
  std::optional<Lease> lease_;
  std::vector<Proposal> acknowledged_;  // the latest few
  std::optional<Proposal> deferred_;    // the highest that came while bound to another
  std::optional<Commit> blocked_;
  std::optional<Collecting> collecting_;
  std::optional<Commit> decided_;
  std::vector<PeerId> elsewhere_;                      // connected peers that began this round without this node
  std::optional<TimePoint> refuses_incomplete_until_;  // from the first such proposal on
  std::optional<TimePoint> steps_back_until_;  // others first: this node does not see everybody, or has no credit

  std::optional<Commit> last_;             // of the round before
  std::optional<Proposal> of_next_epoch_;  // came while this node was in a round; the highest
};

}  // namespace papilio::core
