// One butterfly all-reduce round, as a pure state machine. It knows which chunks are whose, who has contributed to
// what, what may be sent to whom, and when to stop waiting. It does no I/O and no arithmetic and reads no clock: the
// shell tells it what arrived (handle_*), asks it what to send or compute next (poll_*), and when it wants to be woken
// (next_deadline). Every member runs the same code, so the whole group can be stepped in a simulator.
//
// The algorithm is the reduce-scatter and all-gather over parts of uneven size known from Moshpit SGD and hivemind
// (Ryabinin et al., "Moshpit SGD: Communication-Efficient Decentralized Training on Heterogeneous Unreliable Devices",
// NeurIPS 2021), chunked so that both phases overlap. What a round promises is in ROUND.md's words: by its deadline
// every chunk is either an average over known contributors or this member's own gradient.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/time.hpp"
#include "engine/core/partition.hpp"

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
};
[[nodiscard]] std::string_view to_string(CutOff reason);

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

// Weights are counts of samples or proportions of them. Within these bounds neither the sum of kMaximumMembers weights
// nor its reciprocal leaves the range of a float, so that no member can turn an average into infinities.
inline constexpr double kMinimumWeight = 1e-9;
inline constexpr double kMaximumWeight = 1e9;

// What is sent first where both could be. Averages first keeps them in the cache of a fast machine; contributions first
// keeps a slow line busy to the end, because nothing that is sent last waits for anybody else's answer.
enum class RoundOrder : std::uint8_t { automatic, averages_first, contributions_first };

struct RoundConfig {
  RoundId round = 0;
  MemberIndex self = 0;
  double weight = 1;  // of this member's gradient: kMinimumWeight to kMaximumWeight
  TimePoint start{};
  // When a reducer finalises with what it has, so that the averages still reach the others in time.
  TimePoint reduce_by{};
  TimePoint deadline{};
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
  [[nodiscard]] float total_weight(ChunkIndex chunk) const { return static_cast<float>(chunks_[chunk].total_weight); }
  [[nodiscard]] CutOff cut_off(MemberIndex member) const { return peers_[member].cut_off; }
  // Whether the member reads this member's memory no more.
  [[nodiscard]] bool has_released(MemberIndex member) const {
    return peers_[member].is_done || peers_[member].averages_sent == 0;
  }
  [[nodiscard]] bool is_live(MemberIndex member) const { return (live_ & coverage_of(member)) != 0; }
  [[nodiscard]] double announced_weight(MemberIndex member) const { return peers_[member].weight; }
  [[nodiscard]] std::uint32_t contributions_in(MemberIndex member) const { return peers_[member].contributions_in; }
  [[nodiscard]] std::uint32_t averages_in(MemberIndex member) const { return peers_[member].averages_in; }

  // ---- shards: check the header, place and verify the payload, then handle it
  [[nodiscard]] Verdict check_contribution(MemberIndex from, ChunkIndex chunk, double weight,
                                           std::uint64_t elements) const;
  [[nodiscard]] Verdict check_average(MemberIndex from, ChunkIndex chunk, Coverage coverage, double total_weight,
                                      std::uint64_t elements) const;
  // Re-checks (the chunk may have been settled while the payload was on its way): no value means disregard it.
  std::optional<Reduction> handle_contribution(MemberIndex from, ChunkIndex index, double weight);
  // The kernel finished what handle_contribution or poll_finalisation ordered for this chunk.
  void handle_reduced(ChunkIndex index);
  // False: disregard it. True: the caller writes the payload over the chunk now, before anything else.
  bool handle_average(MemberIndex from, ChunkIndex index, Coverage coverage, double total_weight);

  // ---- other events
  // Every chunk is settled at the member, and it will not touch borrowed bytes any more.
  void handle_done(MemberIndex from);
  // The kernel took the shard that poll_send ordered.
  void handle_sent(MemberIndex to, const SendOrder& order);
  void handle_cut_off(MemberIndex member, CutOff reason);
  void handle_time(TimePoint now);
  // Ends the round: what is averaged stays so, the rest is local.
  void cancel();

  // ---- what to do next
  // The next shard for this member; in the order in which the receiver wants them.
  std::optional<SendOrder> poll_send(MemberIndex to);
  std::optional<Finalisation> poll_finalisation();
  // Once, when every chunk is settled: tell every live member so.
  bool poll_done();

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
    Coverage in = 0;                     // own part: contributions accepted, own included
    Coverage coverage_when_settled = 0;  // 0: local
    double total_weight = 0;
  };
  struct Peer {
    CutOff cut_off = CutOff::none;
    double weight = 0;
    std::uint32_t contributions_in = 0;
    std::uint32_t averages_in = 0;
    std::uint32_t averages_missing = 0;  // chunks of its part that are not settled here
    ChunkIndex next_contribution = 0;    // cursor through its part
    std::uint32_t next_average = 0;      // cursor through finished_
    std::uint32_t averages_sent = 0;     // taken by the kernel
    bool is_done = false;
    bool contributes = true;  // still waited for
  };

  [[nodiscard]] bool is_own(ChunkIndex chunk) const;
  void settle_local(ChunkIndex index);
  void finalise_where_complete();
  void stop_waiting_for_contributions();
  // Two that reduce nothing owe each other nothing, and need not be connected.
  [[nodiscard]] bool owe_each_other(MemberIndex member) const;
  void update_over();

  RoundConfig config_;
  PartitionPlan plan_;
  Coverage live_ = 0;          // members that are not cut off, this one included
  Coverage contributing_ = 0;  // members whose contributions are still waited for, this one included
  std::vector<Chunk> chunks_;
  std::vector<Peer> peers_;
  std::vector<ChunkIndex> finished_;     // own chunks in the order in which their averages were ready
  std::vector<ChunkIndex> to_finalise_;  // own chunks whose last contributor was cut off
  std::uint64_t unsettled_ = 0;
  bool reduce_by_passed_ = false;
  bool canceled_ = false;
  bool done_told_ = false;
  bool over_ = false;
};

}  // namespace papilio::core
