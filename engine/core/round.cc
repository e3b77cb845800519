#include "engine/core/round.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"
#include "engine/core/mutation.hpp"

namespace papilio::core {

std::string_view to_string(CutOff reason) {
  switch (reason) {
    case CutOff::none: return "none";
    case CutOff::connection_lost: return "connection-lost";
    case CutOff::departed: return "departed";
    case CutOff::contributions_missing: return "contributions-missing";
    case CutOff::averages_missing: return "averages-missing";
    case CutOff::wrong_model: return "wrong-model";
    case CutOff::damaged_bytes: return "damaged-bytes";
    case CutOff::protocol: return "protocol";
  }
  return "unknown";
}

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::accept: return "accept";
    case Verdict::late: return "late";
    case Verdict::duplicate: return "duplicate";
    case Verdict::unasked: return "unasked";
    case Verdict::out_of_range: return "out-of-range";
    case Verdict::bad_size: return "bad-size";
    case Verdict::bad_weight: return "bad-weight";
    case Verdict::bad_coverage: return "bad-coverage";
  }
  return "unknown";
}

namespace {

// False for what is not a number, too.
bool weight_is_valid(double weight) { return weight >= kMinimumWeight && weight <= kMaximumWeight; }

float inverse_total(double total_weight, Coverage in) {
  return static_cast<float>(1.0 / (mutated(Mutation::wrong_denominator) ? std::popcount(in) : total_weight));
}

}  // namespace

Round::Round(const RoundConfig& config, PartitionPlan plan) : config_(config), plan_(plan) {
  const std::uint32_t members = plan_.members();
  PAPILIO_ASSERT_VALUES(config_.self < members && members <= kMaximumMembers, config_.self, members);
  PAPILIO_ASSERT(weight_is_valid(config_.weight));
  live_ = members == kMaximumMembers ? ~Coverage{0} : coverage_of(members) - 1;
  contributing_ = live_;
  chunks_.resize(plan_.chunk_count());
  peers_.resize(members);
  unsettled_ = chunks_.size();
  for (MemberIndex member = 0; member < members; ++member) {
    peers_[member].next_contribution = plan_.first_chunk(member);
    peers_[member].averages_missing = plan_.chunks(member);
  }
  peers_[config_.self].weight = config_.weight;
  const ChunkIndex own_begin = plan_.first_chunk(config_.self);
  const ChunkIndex own_end = own_begin + plan_.chunks(config_.self);
  finished_.reserve(own_end - own_begin);
  for (ChunkIndex chunk = own_begin; chunk < own_end; ++chunk) {
    chunks_[chunk].in = coverage_of(config_.self);
    chunks_[chunk].total_weight = config_.weight;
  }
  // A plan without reducers for some chunks cannot be: parts tile the gradient. A plan without any reducer has no
  // chunks.
  finalise_where_complete();
  update_over();
}

bool Round::is_own(ChunkIndex chunk) const {
  const ChunkIndex begin = plan_.first_chunk(config_.self);
  return chunk >= begin && chunk - begin < plan_.chunks(config_.self);
}

TimePoint Round::next_deadline() const {
  if (over_) return kNever;
  return reduce_by_passed_ ? config_.deadline : std::min(config_.reduce_by, config_.deadline);
}

// ---- shards

Verdict Round::check_contribution(MemberIndex from, ChunkIndex chunk, double weight, std::uint64_t elements) const {
  PAPILIO_ASSERT_VALUES(from < members() && from != config_.self, from, config_.self);
  if (chunk >= chunks_.size()) return Verdict::out_of_range;
  if (!is_own(chunk)) return Verdict::unasked;
  if (elements != plan_.chunk(chunk).size) return Verdict::bad_size;
  if (!weight_is_valid(weight)) return Verdict::bad_weight;
  // One weight per member and round: another one would make different averages over "the same" contributors.
  const Peer& peer = peers_[from];
  if (peer.contributions_in > 0 && peer.weight != weight) return Verdict::bad_weight;
  if ((chunks_[chunk].in & coverage_of(from)) != 0) return Verdict::duplicate;
  if (mutated(Mutation::counted_late_contribution)) return Verdict::accept;
  if (!is_live(from) || chunks_[chunk].state != ChunkState::open) return Verdict::late;
  return Verdict::accept;
}

Verdict Round::check_average(MemberIndex from, ChunkIndex chunk, Coverage coverage, double total_weight,
                             std::uint64_t elements) const {
  PAPILIO_ASSERT_VALUES(from < members() && from != config_.self, from, config_.self);
  if (chunk >= chunks_.size()) return Verdict::out_of_range;
  if (is_own(chunk) || plan_.reducer(chunk) != from) return Verdict::unasked;
  if (elements != plan_.chunk(chunk).size) return Verdict::bad_size;
  if (!(total_weight >= kMinimumWeight && total_weight <= kMaximumWeight * kMaximumMembers)) return Verdict::bad_weight;
  const Coverage everybody = members() == kMaximumMembers ? ~Coverage{0} : coverage_of(members()) - 1;
  if ((coverage & coverage_of(from)) == 0 || (coverage & ~everybody) != 0) return Verdict::bad_coverage;
  if (chunks_[chunk].coverage_when_settled != 0) return Verdict::duplicate;
  if (chunks_[chunk].state != ChunkState::open || !is_live(from)) return Verdict::late;
  return Verdict::accept;
}

std::optional<Reduction> Round::handle_contribution(MemberIndex from, ChunkIndex index, double weight) {
  if (check_contribution(from, index, weight, plan_.chunk(index).size) != Verdict::accept) return std::nullopt;
  Chunk& chunk = chunks_[index];
  Peer& peer = peers_[from];
  peer.weight = weight;
  peer.contributions_in += 1;

  Reduction reduction;
  reduction.own_scale = chunk.in == coverage_of(config_.self) ? static_cast<float>(config_.weight) : 1.0F;
  reduction.weight = static_cast<float>(mutated(Mutation::doubled_contribution) ? 2 * weight : weight);
  chunk.in |= coverage_of(from);
  chunk.total_weight += weight;
  chunk.reductions_in_flight += 1;
  reduction.last = (contributing_ & ~chunk.in) == 0;
  if (reduction.last) {
    chunk.state = ChunkState::finalising;
    reduction.inverse_total = inverse_total(chunk.total_weight, chunk.in);
  }
  return reduction;
}

void Round::handle_reduced(ChunkIndex index) {
  Chunk& chunk = chunks_[index];
  PAPILIO_ASSERT_VALUES(is_own(index) && chunk.reductions_in_flight > 0, index, chunk.reductions_in_flight);
  chunk.reductions_in_flight -= 1;
  if (chunk.reductions_in_flight > 0 || chunk.state == ChunkState::settled) return;
  if (chunk.state == ChunkState::finalising) {
    const bool ordered = std::find(to_finalise_.begin(), to_finalise_.end(), index) == to_finalise_.end();
    if (!ordered) return;  // accumulated; the division is still to be asked for
    chunk.state = ChunkState::settled;
    chunk.coverage_when_settled = chunk.in;
    unsettled_ -= 1;
    peers_[config_.self].averages_missing -= 1;
    finished_.push_back(index);
    update_over();
  }
}

bool Round::handle_average(MemberIndex from, ChunkIndex index, Coverage coverage, double total_weight) {
  if (check_average(from, index, coverage, total_weight, plan_.chunk(index).size) != Verdict::accept) return false;
  Chunk& chunk = chunks_[index];
  chunk.state = ChunkState::settled;
  chunk.coverage_when_settled = coverage;
  chunk.total_weight = total_weight;
  unsettled_ -= 1;
  peers_[from].averages_in += 1;
  peers_[from].averages_missing -= 1;
  update_over();
  return true;
}

// ---- other events

void Round::handle_done(MemberIndex from) {
  peers_[from].is_done = true;
  update_over();
}

void Round::handle_sent(MemberIndex to, const SendOrder& order) {
  if (order.kind == ShardKind::average) peers_[to].averages_sent += 1;
  update_over();
}

void Round::handle_cut_off(MemberIndex member, CutOff reason) {
  PAPILIO_ASSERT_VALUES(member < members() && member != config_.self && reason != CutOff::none, member, reason);
  if (!is_live(member) || over_) return;
  peers_[member].cut_off = reason;
  live_ &= ~coverage_of(member);
  contributing_ &= ~coverage_of(member);
  if (mutated(Mutation::counted_cut_off_member)) {
    for (Chunk& chunk : chunks_) chunk.in |= chunk.in != 0 ? coverage_of(member) : 0;
  }
  const ChunkIndex begin = plan_.first_chunk(member);
  for (ChunkIndex chunk = begin; chunk < begin + plan_.chunks(member); ++chunk) settle_local(chunk);
  finalise_where_complete();
  update_over();
}

void Round::settle_local(ChunkIndex index) {
  Chunk& chunk = chunks_[index];
  if (chunk.state == ChunkState::settled) return;
  PAPILIO_ASSERT_VALUES(!is_own(index), index, config_.self);
  chunk.state = ChunkState::settled;
  chunk.coverage_when_settled = 0;
  unsettled_ -= 1;
  peers_[plan_.reducer(index)].averages_missing -= 1;
}

void Round::finalise_where_complete() {
  const ChunkIndex begin = plan_.first_chunk(config_.self);
  for (ChunkIndex index = begin; index < begin + plan_.chunks(config_.self); ++index) {
    Chunk& chunk = chunks_[index];
    if (chunk.state != ChunkState::open || (contributing_ & ~chunk.in) != 0) continue;
    chunk.state = ChunkState::finalising;
    to_finalise_.push_back(index);
  }
}

// From here on nobody's contribution is waited for; those that miss any are named in the report.
void Round::stop_waiting_for_contributions() {
  reduce_by_passed_ = true;
  if (mutated(Mutation::forgotten_reduce_by)) return;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (member == config_.self || !is_live(member)) continue;
    if (peers_[member].contributions_in < plan_.chunks(config_.self)) {
      peers_[member].cut_off = CutOff::contributions_missing;  // its averages are still welcome
    }
  }
  contributing_ = coverage_of(config_.self);
  finalise_where_complete();
}

void Round::handle_time(TimePoint now) {
  if (over_) return;
  if (!reduce_by_passed_ && now >= config_.reduce_by) stop_waiting_for_contributions();
  if (now < config_.deadline || mutated(Mutation::forgotten_deadline)) return;
  if (!reduce_by_passed_) stop_waiting_for_contributions();
  for (MemberIndex member = 0; member < members(); ++member) {
    if (member == config_.self || !is_live(member)) continue;
    if (peers_[member].averages_missing > 0) {
      handle_cut_off(member, CutOff::averages_missing);
    } else {
      live_ &= ~coverage_of(member);  // nothing more is owed to anybody: time is up
    }
  }
  update_over();
}

void Round::cancel() {
  if (over_) return;
  canceled_ = true;
  live_ = contributing_ = coverage_of(config_.self);
  for (ChunkIndex chunk = 0; chunk < chunks_.size(); ++chunk) {
    if (!is_own(chunk)) settle_local(chunk);
  }
  finalise_where_complete();
  update_over();
}

bool Round::owe_each_other(MemberIndex member) const {
  return plan_.chunks(config_.self) > 0 || plan_.chunks(member) > 0;
}

void Round::update_over() {
  if (over_ || unsettled_ > 0) return;
  const std::uint32_t own_chunks = plan_.chunks(config_.self);
  for (MemberIndex member = 0; member < members(); ++member) {
    if (member == config_.self || !is_live(member) || !owe_each_other(member)) continue;
    if (peers_[member].averages_sent < own_chunks) return;
    if (!peers_[member].is_done && !mutated(Mutation::early_release)) return;
  }
  over_ = true;
}

// ---- what to do next

std::optional<SendOrder> Round::poll_send(MemberIndex to) {
  PAPILIO_ASSERT_VALUES(to < members() && to != config_.self, to, config_.self);
  if (over_ || !is_live(to)) return std::nullopt;
  Peer& peer = peers_[to];
  const ChunkIndex lost = mutated(Mutation::lost_chunk) && plan_.chunks(to) > 1 ? 1 : 0;
  const ChunkIndex end = plan_.first_chunk(to) + plan_.chunks(to) - lost;
  // A chunk whose average came back without our contribution needs it no more.
  while (peer.next_contribution < end && chunks_[peer.next_contribution].state == ChunkState::settled) {
    peer.next_contribution += 1;
  }
  const bool has_contribution = peer.next_contribution < end;
  const bool has_average = peer.next_average < finished_.size();
  if (has_average && (config_.averages_first || !has_contribution)) {
    return SendOrder{ShardKind::average, finished_[peer.next_average++]};
  }
  if (has_contribution) return SendOrder{ShardKind::contribution, peer.next_contribution++};
  return std::nullopt;
}

std::optional<Finalisation> Round::poll_finalisation() {
  for (std::size_t i = 0; i < to_finalise_.size(); ++i) {
    const ChunkIndex index = to_finalise_[i];
    Chunk& chunk = chunks_[index];
    if (chunk.reductions_in_flight > 0) continue;
    to_finalise_[i] = to_finalise_.back();
    to_finalise_.pop_back();
    chunk.reductions_in_flight += 1;
    // Alone, the chunk is already what it should be, bit for bit: dividing w * g by w would not be.
    const bool alone = chunk.in == coverage_of(config_.self);
    return Finalisation{
        .chunk = index, .scale = !alone, .inverse_total = alone ? 1.0F : inverse_total(chunk.total_weight, chunk.in)};
  }
  return std::nullopt;
}

bool Round::poll_done() {
  if (done_told_ || unsettled_ > 0 || canceled_) return false;
  done_told_ = true;
  return true;
}

void Round::check_invariants() const {
  std::uint64_t unsettled = 0;
  for (ChunkIndex index = 0; index < chunks_.size(); ++index) {
    const Chunk& chunk = chunks_[index];
    if (chunk.state != ChunkState::settled) unsettled += 1;
    if (is_own(index)) {
      PAPILIO_ASSERT((chunk.in & coverage_of(config_.self)) != 0);
      PAPILIO_ASSERT(chunk.state != ChunkState::settled || chunk.coverage_when_settled == chunk.in);
    } else {
      PAPILIO_ASSERT(chunk.in == 0 && chunk.state != ChunkState::finalising);
    }
  }
  PAPILIO_ASSERT_VALUES(unsettled == unsettled_, unsettled, unsettled_);
  PAPILIO_ASSERT(!over_ || unsettled_ == 0);
  PAPILIO_ASSERT((contributing_ & ~live_) == 0 || reduce_by_passed_);
}

}  // namespace papilio::core
