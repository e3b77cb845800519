// One butterfly all-reduce round, as a pure state machine. It knows which chunks are whose, who has contributed to
// what, what may be sent to whom, and when to stop waiting. It does no I/O and no arithmetic and reads no clock: the
// shell tells it what arrived (handle_*), asks it what to send or compute next (poll_*), and when it wants to be woken
// (next_deadline). Every member runs the same code, so the whole group can be stepped in a simulator.
//
// The algorithm is the reduce-scatter and all-gather over parts of uneven size known from Moshpit SGD and hivemind
// (Ryabinin et al., "Moshpit SGD: Communication-Efficient Decentralized Training on Heterogeneous Unreliable Devices",
// NeurIPS 2021), chunked so that both phases overlap. What a round promises (docs/rounds.md): by its deadline
// every chunk is either an average over known contributors or this member's own gradient.
//
// When a reducer is lost, its part goes to a successor. Authority over a part moves along the ring of members and never
// back: the successor is the first live reducer after the lost one, its distance along the ring is its rank, and who
// has heard of a farther one takes nothing from a nearer one any more. Because a chunk may be averaged already at some
// members and not at others, the successor first asks everybody what they hold; what anybody holds is passed on, and
// only what nobody holds is averaged anew. So a chunk has one average among all who stay connected. A reducer is
// replaced when a majority of the live members have lost it (a crash tolerant election needs no more, because at worst
// a chunk stays local); a member that alone has lost it asks another one to pass its averages on, or reconnects and
// resumes. No member returns before all live ones have everything, so that what the last of them lacks can still be
// had.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/time.hpp"
#include "engine/core/numbers.hpp"
#include "engine/core/partition.hpp"
#include "engine/core/peer_timers.hpp"

namespace papilio::core {

enum class CutOff : std::uint8_t {
  none,
  connection_lost,        // the operating system said so
  departed,               // it said goodbye
  contributions_missing,  // not everything was in when this member had to finalise
  averages_missing,       // its part was not back by the deadline
  wrong_model,            // its hello, shard or shape is of another model
  damaged_bytes,          // a payload did not match its checksum
  protocol,               // it sent what no member may send
  slow,                   // its timers say so: see peer_timers.hpp
  never_started,          // not one shard of it came
  condemned,              // a majority of the members have lost it
  wrong_group,            // its shards are of another roster
  not_done,               // the others had everything long ago, and it did not
  non_finite,             // it sent NaN, infinity, or what would overflow an average
  wild_norm,              // the norm policy refused its contribution
};
[[nodiscard]] std::string_view to_string(CutOff reason);
// What ends with the connection and can begin again with a new one.
[[nodiscard]] constexpr bool is_mended_by_reconnecting(CutOff reason) {
  return reason == CutOff::connection_lost || reason == CutOff::departed || reason == CutOff::condemned ||
         reason == CutOff::damaged_bytes;
}

// What a shard's header deserves, before its payload is placed.
enum class Verdict : std::uint8_t {
  accept,
  late,          // of a chunk that is settled already, or from a member that was cut off: disregarded, no fault
  duplicate,     // the same shard twice
  unasked,       // a chunk that is not the receiver's (contribution) or not the sender's (average) to reduce
  out_of_range,  // no such chunk
  bad_size,      // the payload does not fit the chunk
  bad_weight,    // not between kMinimumWeight and kMaximumWeight, or not the sender's weight so far
  bad_coverage,  // names members that are not in the round, or leaves out the reducer
};
[[nodiscard]] std::string_view to_string(Verdict verdict);
// Only late shards can come from a correct member.
[[nodiscard]] constexpr bool is_violation(Verdict verdict) {
  return verdict != Verdict::accept && verdict != Verdict::late;
}

// What is sent first where both could be. Averages first keeps them in the cache of a fast machine; contributions first
// keeps a slow line busy to the end, because nothing that is sent last waits for anybody else's answer.
enum class RoundOrder : std::uint8_t { automatic, averages_first, contributions_first };

// How long members wait for each other before they help themselves.
struct Patience {
  // How long a lost reducer may take to come back before another member is asked for its averages.
  Duration resume_grace = std::chrono::milliseconds(500);
  // How long members that have everything wait for the few that have not: at least this, and at least linger_fraction
  // of the round so far.
  Duration linger_floor = std::chrono::milliseconds(3500);
  double linger_fraction = 0.25;
  LatenessConfig lateness;
};

struct RoundConfig {
  RoundId round = 0;
  MemberIndex self = 0;
  double weight = 1;  // of this member's gradient: kMinimumWeight to kMaximumWeight
  TimePoint start{};
  // When a reducer finalises with what it has, so that the averages still reach the others in time.
  TimePoint reduce_by{};
  // When a successor finalises what it took over with what it has.
  TimePoint settle_by{};
  TimePoint deadline{};
  // Members that may reduce, the empty parts of tiny gradients included; the others are clients.
  Coverage reducers = ~Coverage{0};
  Patience patience;
  // Bytes per second, each way, that each member qualified for; 0, or none at all: unknown.
  std::vector<double> rates;
  bool averages_first = true;  // see RoundOrder
};

// What the kernels are to do with a contribution that was accepted:
//   values = (own_scale * values + weight * payload) * (last ? inverse_total : 1)
struct Reduction {
  float own_scale = 1;
  float weight = 1;
  bool last = false;
  float inverse_total = 1;
};

// A chunk of this member's part that is final without a further contribution: values *= inverse_total where `scale`.
struct Finalisation {
  ChunkIndex chunk = 0;
  bool scale = false;
  float inverse_total = 1;
};

enum class ShardKind : std::uint8_t { contribution, average };

struct SendOrder {
  ShardKind kind = ShardKind::contribution;
  ChunkIndex chunk = 0;
};

// One bit per chunk of a part, from its first: bit i % 64 of word i / 64.
using ChunkBits = std::vector<std::uint64_t>;
[[nodiscard]] inline bool get_bit(const ChunkBits& bits, std::uint32_t place) {
  return place / 64 < bits.size() && ((bits[place / 64] >> (place % 64)) & 1U) != 0;
}
inline void set_bit(ChunkBits& bits, std::uint32_t place) { bits[place / 64] |= std::uint64_t{1} << (place % 64); }
[[nodiscard]] inline bool any_bit(const ChunkBits& bits) {
  return std::any_of(bits.begin(), bits.end(), [](std::uint64_t word) { return word != 0; });
}

// What to tell others. `to`: a member, or kEverybody (all live members).
inline constexpr MemberIndex kEverybody = ~MemberIndex{0};
struct Notice {
  enum class Kind : std::uint8_t {
    suspect,   // lost `member` (or, withdrawn, has it back); of itself: gives up this round
    takeover,  // the one at `distance` averages what is missing of `part` from now on: this member itself, or, said to
               // one who averaged it before, the one whose averages this member takes
    holdings,  // the answer to a takeover: `first`: averages held, `second`: own gradients given away
    wanted,    // of `part`, `first`: contributions, `second`: averages wanted from the receiver
    done,      // every chunk is settled
    cut_off,   // to the shell itself: `member` was cut off in here; its link is to go
  };
  Kind kind = Kind::suspect;
  MemberIndex to = kEverybody;
  MemberIndex member = 0;
  bool withdrawn = false;
  MemberIndex part = 0;
  std::uint32_t distance = 0;
  ChunkBits first, second;
  // Of a cut-off: what its timers say, and whether it is certain that the fault is not this node's own.
  std::string evidence;
  bool is_sure = false;
};
[[nodiscard]] std::string_view to_string(Notice::Kind kind);

class Round {
 public:
  Round(const RoundConfig& config, PartitionPlan plan);

  // ---- getters
  [[nodiscard]] RoundId id() const { return config_.round; }
  [[nodiscard]] const RoundConfig& config() const { return config_; }
  [[nodiscard]] const PartitionPlan& plan() const { return plan_; }
  [[nodiscard]] std::uint32_t members() const { return plan_.members(); }
  // Every chunk is settled, every live member has what this member owes it, and has said that its chunks are settled,
  // too: nobody needs this member's memory any more.
  [[nodiscard]] bool is_over() const { return over_; }
  [[nodiscard]] bool is_settled() const { return unsettled_ == 0; }
  [[nodiscard]] bool was_canceled() const { return canceled_; }
  [[nodiscard]] TimePoint next_deadline() const;
  // Members whose gradients chunk holds; 0 while it is, or stays, this member's own gradient.
  [[nodiscard]] Coverage coverage(ChunkIndex chunk) const { return chunks_[chunk].coverage_when_settled; }
  // Who averaged it; meaningful where coverage() is not 0.
  [[nodiscard]] MemberIndex reducer(ChunkIndex chunk) const { return chunks_[chunk].reducer; }
  [[nodiscard]] float total_weight(ChunkIndex chunk) const { return static_cast<float>(chunks_[chunk].total_weight); }
  [[nodiscard]] CutOff cut_off(MemberIndex member) const { return peers_[member].cut_off; }
  // Whether others' gradients were added onto this member's own there.
  [[nodiscard]] bool is_spent(ChunkIndex chunk) const { return chunks_[chunk].spent; }
  // Whether the member reads this member's memory no more.
  [[nodiscard]] bool has_released(MemberIndex member) const {
    return peers_[member].is_done || peers_[member].averages_sent == 0;
  }
  [[nodiscard]] Coverage live() const { return live_; }
  [[nodiscard]] bool is_live(MemberIndex member) const { return (live_ & coverage_of(member)) != 0; }
  [[nodiscard]] double announced_weight(MemberIndex member) const { return peers_[member].weight; }
  [[nodiscard]] std::uint32_t contributions_in(MemberIndex member) const { return peers_[member].contributions_in; }
  // Chunks that it averaged, whoever passed them on.
  [[nodiscard]] std::uint32_t averages_in(MemberIndex member) const { return peers_[member].averages_in; }
  [[nodiscard]] std::uint32_t times_resumed(MemberIndex member) const { return peers_[member].times_resumed; }
  // Two that reduce nothing owe each other nothing, and need not be connected.
  [[nodiscard]] bool owe_each_other(MemberIndex member) const { return may_reduce(config_.self) || may_reduce(member); }
  // Who may average this part now.
  [[nodiscard]] MemberIndex holder(MemberIndex part) const { return (part + parts_[part].distance) % members(); }
  // Somebody has lost somebody: members may ask each other for what they lack.
  [[nodiscard]] bool is_in_trouble() const { return in_trouble_; }
  // Told of bytes, words and round trips by the shell as they come; asked here at every tick.
  [[nodiscard]] Lateness& lateness() { return lateness_; }
  [[nodiscard]] const Lateness& lateness() const { return lateness_; }
  // Whether a new connection would let it go on in this round.
  [[nodiscard]] bool may_resume(MemberIndex member) const;
  // Members without whose contributions this one cannot finish a chunk.
  [[nodiscard]] Coverage waiting_for() const;

  // ---- shards: check the header, place and verify the payload, then handle it
  [[nodiscard]] Verdict check_contribution(MemberIndex from, ChunkIndex chunk, double weight,
                                           std::uint64_t elements) const;
  [[nodiscard]] Verdict check_average(MemberIndex from, ChunkIndex chunk, MemberIndex reducer, Coverage coverage,
                                      double total_weight, std::uint64_t elements) const;
  // Re-checks (the chunk may have been settled while the payload was on its way): no value means disregard it.
  std::optional<Reduction> handle_contribution(MemberIndex from, ChunkIndex index, double weight);
  // The kernel finished what handle_contribution or poll_finalisation ordered for this chunk.
  void handle_reduced(ChunkIndex index);
  // False: disregard it. True: the caller writes the payload over the chunk now, before anything else.
  bool handle_average(MemberIndex from, ChunkIndex index, MemberIndex reducer, Coverage coverage, double total_weight);

  // ---- other events
  // Every chunk is settled at the member, and it will not touch borrowed bytes any more.
  void handle_done(MemberIndex from);
  // The kernel took the shard that poll_send ordered.
  void handle_sent(MemberIndex to, const SendOrder& order);
  // Its shards are not taken any more, and nobody waits for it; what it contributed counts.
  // `evidence`: what its timers say, where they are the reason; `is_sure`: that the fault is not this node's own.
  void handle_cut_off(MemberIndex member, CutOff reason, std::string evidence = {}, bool is_sure = false);
  // The member is in this round and connected again: it goes on where it was. What was on its way is sent again where
  // the other side asks for it. False if it was cut off for something that a new connection does not mend.
  bool handle_resumed(MemberIndex member);
  // The four below return accept, late (out of date: no fault) or a violation.
  Verdict handle_suspect(MemberIndex from, MemberIndex member, bool withdrawn);
  Verdict handle_takeover(MemberIndex from, MemberIndex part, std::uint32_t distance);
  Verdict handle_holdings(MemberIndex from, MemberIndex part, std::uint32_t distance, const ChunkBits& held,
                          const ChunkBits& spent);
  Verdict handle_wanted(MemberIndex from, MemberIndex part, const ChunkBits& contributions, const ChunkBits& averages);
  void handle_time(TimePoint now);
  // Ends the round: what is averaged stays so, the rest is local.
  void cancel();

  // ---- what to do next
  // The next shard for this member; in the order in which the receiver wants them.
  std::optional<SendOrder> poll_send(MemberIndex to);
  std::optional<Finalisation> poll_finalisation();
  // Until there is none: tell it to whom it is for.
  std::optional<Notice> poll_notice();

  // Aborts if an invariant does not hold. The simulator runs it after every event.
  void check_invariants() const;

 private:
  enum class ChunkState : std::uint8_t {
    open,        // own part: waits for contributions; other parts: waits for the average
    finalising,  // own part: all that will come is in, the kernel is at work or about to be asked
    settled,     // average or local, for good
  };
  struct Chunk {
    ChunkState state = ChunkState::open;
    std::uint8_t reductions_in_flight = 0;
    bool to_finalise = false;            // poll_finalisation is to order it
    bool spent = false;                  // others' gradients were added onto this member's own
    MemberIndex reducer = 0;             // of the average that is here
    MemberIndex asked_of = kEverybody;   // who was asked to pass its average on
    Coverage in = 0;                     // where this member reduces: contributions accepted, own included
    Coverage coverage_when_settled = 0;  // 0: local
    double total_weight = 0;
  };
  struct Peer {
    CutOff cut_off = CutOff::none;
    double weight = 0;
    std::uint32_t contributions_in = 0;
    std::uint32_t averages_in = 0;
    ChunkIndex next_contribution = 0;  // cursor through its part
    std::uint32_t next_average = 0;    // cursor through finished_
    std::uint32_t averages_sent = 0;   // taken by the kernel
    std::uint32_t times_resumed = 0;
    std::uint32_t requests = 0;  // its wanted messages so far
    bool is_done = false;
    bool by_request = false;  // resumed: gets what it asks for, the cursors rest
    Coverage suspects = 0;    // members that have lost it
    TimePoint lost_at = kNever;
    std::deque<SendOrder> requested;  // to be sent to it
    std::vector<bool> wants;          // by chunk: averages it asked for that are not here yet; empty: none
  };
  // One member's part, named after it, wherever the authority over it is.
  struct Part {
    std::uint32_t distance = 0;  // of its holder, along the ring from its own reducer
    Coverage claims = 0;         // who said that it takes the part over: believed once a majority is known
    // By member: the distance of the one whose averages it says it takes; empty: nobody said anything.
    std::vector<std::uint8_t> votes;
    Coverage givers = 0;             // whose averages of it are taken
    MemberIndex relay = kEverybody;  // who was asked to pass averages on
    TimePoint relay_by = kNever;     // another one is asked then; put off by every average
    Coverage relays_tried = 0;
    bool answer_due = false;  // the holder is to be told what is here
    // As its holder, having taken it over:
    bool taken = false;
    bool decided = false;          // which chunks are passed on, and which averaged anew
    TimePoint answer_by = kNever;  // those who have not answered by then are not waited for
    TimePoint fetch_by = kNever;   // nor those who were asked to pass on what they hold; put off by every average
    Coverage answered = 0;
    std::vector<ChunkBits> held, spent;  // by member
  };

  [[nodiscard]] Coverage everybody() const;
  [[nodiscard]] bool may_reduce(MemberIndex member) const { return (config_.reducers & coverage_of(member)) != 0; }
  // Whether this member is the one to average the chunks of this part.
  [[nodiscard]] bool is_held_here(MemberIndex part) const { return holder(part) == config_.self; }
  [[nodiscard]] bool is_reduced_here(MemberIndex part) const;
  [[nodiscard]] Coverage missing(MemberIndex part, ChunkIndex chunk) const;
  [[nodiscard]] bool is_condemned(MemberIndex member) const;
  [[nodiscard]] bool is_lost_by_most(MemberIndex member, Coverage voteless) const;
  [[nodiscard]] std::uint32_t nearest_reducer(MemberIndex part) const;
  // The parts, its own or taken over, that the member may average: one bit each, by the member they are named after.
  [[nodiscard]] Coverage parts_held(MemberIndex member) const;
  [[nodiscard]] bool is_successor(MemberIndex member) const { return (parts_held(member) & ~coverage_of(member)) != 0; }
  [[nodiscard]] bool may_come_back(MemberIndex member) const;
  [[nodiscard]] Verdict check_bits(MemberIndex part, const ChunkBits& bits) const;
  template <typename Function>
  void for_each_chunk(MemberIndex part, Function function) {
    const ChunkIndex begin = plan_.first_chunk(part);
    const ChunkIndex end = begin + plan_.chunks(part);
    for (ChunkIndex index = begin; index < end; ++index) function(index, chunks_[index]);
  }
  [[nodiscard]] ChunkBits no_chunks(MemberIndex part) const { return ChunkBits((plan_.chunks(part) + 63) / 64); }
  [[nodiscard]] ChunkBits open_chunks(MemberIndex part) const;

  void settle(ChunkIndex index, Coverage coverage);
  void settle_local(MemberIndex part);
  void begin_finalising(ChunkIndex index);
  void finalise_where_complete();
  void stop_waiting_for_contributions();
  void finish_with_what_is_there();
  void cut_short();
  void cut_off_not_done(TimePoint now);
  void cut_off_late(TimePoint now);
  [[nodiscard]] Owes owes(MemberIndex member) const;
  void name_missing(MemberIndex part);
  void expect_bytes();

  void review_parts();
  void take_over(MemberIndex part, std::uint32_t distance);
  void yield(MemberIndex part, std::uint32_t distance);
  [[nodiscard]] std::uint32_t believed_claim(MemberIndex part, std::uint32_t nearest) const;
  [[nodiscard]] bool is_outvoted(const Part& part, std::uint32_t distance) const;
  [[nodiscard]] bool may_be_done(MemberIndex member) const;
  [[nodiscard]] Coverage about_to_come_back() const;
  void take_done_for_answers(MemberIndex from);
  void decide(MemberIndex part);
  void ask_contributions(MemberIndex part, MemberIndex of);
  void ask_relays(TimePoint now);
  void stop_waiting_for_answers(TimePoint now);
  void forget_what_is_withheld(MemberIndex part);
  void ask_relay(MemberIndex part, Coverage candidates);
  void give_up_relays(TimePoint now);
  void ask_those_who_are_done(TimePoint now);
  [[nodiscard]] Coverage live_that_owe() const;
  [[nodiscard]] Coverage done_members() const;
  [[nodiscard]] bool has_lost_most() const;
  void want_average(MemberIndex to, ChunkIndex index);
  void tell_wanted(MemberIndex to, MemberIndex part, ChunkBits contributions, ChunkBits averages);
  [[nodiscard]] bool all_are_done() const;
  void update_over();

  RoundConfig config_;
  PartitionPlan plan_;
  Coverage live_ = 0;          // members that are not cut off, this one included
  Coverage ever_lost_ = 0;     // members whose connections were lost in this round, if only for a while
  Coverage contributing_ = 0;  // members whose contributions are still waited for, this one included
  std::vector<Chunk> chunks_;
  std::vector<Peer> peers_;
  std::vector<Part> parts_;
  std::vector<ChunkIndex> finished_;     // chunks of this member's part in the order in which their averages were ready
  std::vector<ChunkIndex> to_finalise_;  // chunks that are complete without a further contribution
  std::deque<Notice> notices_;
  std::uint64_t unsettled_ = 0;
  Lateness lateness_;
  TimePoint linger_until_ = kNever;
  TimePoint some_done_at_ = kNever;  // since when any other member has everything
  TimePoint most_done_at_ = kNever;  // since when a majority of the others has
  bool in_trouble_ = false;          // anybody has lost anybody: what seems unasked may be somebody's older view
  bool settle_by_passed_ = false;
  bool reduce_by_passed_ = false;
  bool canceled_ = false;
  bool is_cut_short_ = false;  // by cancel() or the deadline: nobody is waited for
  bool over_ = false;
};

}  // namespace papilio::core
