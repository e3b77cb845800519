#include "engine/core/round.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"
#include "engine/core/mutation.hpp"

namespace papilio::core {

namespace {

float inverse_total(double total_weight, Coverage in) {
  return static_cast<float>(1.0 / (mutated(Mutation::wrong_denominator) ? std::popcount(in) : total_weight));
}

}  // namespace

Round::Round(const RoundConfig& config, PartitionPlan plan)
    : config_(config), plan_(plan), lateness_(config.patience.lateness, plan.members(), config.self, config.start) {
  const std::uint32_t members = plan_.members();
  PAPILIO_ASSERT_VALUES(config_.self < members && members <= kMaximumMembers, config_.self, members);
  PAPILIO_ASSERT(weight_is_valid(config_.weight));
  live_ = everybody();
  contributing_ = live_;
  config_.reducers &= live_;
  chunks_.resize(plan_.chunk_count());
  peers_.resize(members);
  parts_.resize(members);
  unsettled_ = chunks_.size();
  for (MemberIndex member = 0; member < members; ++member) {
    peers_[member].next_contribution = plan_.first_chunk(member);
    parts_[member].givers = coverage_of(member);
    if (plan_.chunks(member) > 0) config_.reducers |= coverage_of(member);
  }
  peers_[config_.self].weight = config_.weight;
  finished_.reserve(plan_.chunks(config_.self));
  for_each_chunk(config_.self, [&](ChunkIndex, Chunk& chunk) {
    chunk.in = coverage_of(config_.self);
    chunk.total_weight = config_.weight;
  });
  config_.rates.resize(members);
  expect_bytes();
  // A plan without reducers for some chunks cannot be: parts tile the gradient. A plan without any reducer has no
  // chunks.
  finalise_where_complete();
  update_over();
}

// ---- who is who

Coverage Round::everybody() const { return members() == kMaximumMembers ? ~Coverage{0} : coverage_of(members()) - 1; }

ChunkBits Round::open_chunks(MemberIndex part) const {
  ChunkBits open = no_chunks(part);
  for (ChunkIndex place = 0; place < plan_.chunks(part); ++place) {
    if (chunks_[plan_.first_chunk(part) + place].state == ChunkState::open) set_bit(open, place);
  }
  return open;
}

bool Round::is_reduced_here(MemberIndex part) const {
  return is_held_here(part) && (part == config_.self || parts_[part].decided);
}

// Whose contributions the chunk, which this member reduces, still waits for.
Coverage Round::missing(MemberIndex part, ChunkIndex chunk) const {
  if (part == config_.self) return contributing_ & ~chunks_[chunk].in;
  const Part& taken = parts_[part];
  Coverage missing = settle_by_passed_ ? 0 : taken.answered & live_ & ~chunks_[chunk].in;
  const std::uint32_t place = chunk - plan_.first_chunk(part);
  for (Coverage rest = missing; rest != 0; rest &= rest - 1) {
    const auto member = static_cast<MemberIndex>(std::countr_zero(rest));
    if (get_bit(taken.spent[member], place)) missing &= ~coverage_of(member);
  }
  return missing;
}

Coverage Round::waiting_for() const {
  Coverage waiting = 0;
  for (MemberIndex part = 0; part < members(); ++part) {
    if (!is_held_here(part)) continue;
    if (parts_[part].taken && parts_[part].answer_by != kNever) waiting |= live_ & ~parts_[part].answered;
    if (!is_reduced_here(part)) continue;
    const ChunkIndex begin = plan_.first_chunk(part);
    for (ChunkIndex index = begin; index < begin + plan_.chunks(part); ++index) {
      const Chunk& chunk = chunks_[index];
      if (chunk.state != ChunkState::open) continue;
      waiting |= chunk.in != 0 ? missing(part, index) : chunk.asked_of < members() ? coverage_of(chunk.asked_of) : 0;
    }
  }
  return waiting & live_ & ~coverage_of(config_.self);
}

TimePoint Round::next_deadline() const {
  if (over_) return kNever;
  TimePoint next = std::min({config_.deadline, linger_until_, lateness_.next_tick()});
  if (!reduce_by_passed_) next = std::min(next, config_.reduce_by);
  if (in_trouble_ && !settle_by_passed_) next = std::min(next, config_.settle_by);
  for (MemberIndex member = 0; in_trouble_ && member < members(); ++member) {
    const TimePoint lost_at = peers_[member].lost_at;
    if (lost_at == kNever) continue;
    // One that was lost just now is to be dated at once.
    next = std::min(
        next, lost_at == TimePoint::min() ? config_.start : saturating_add(lost_at, config_.patience.resume_grace));
  }
  return next;
}

// ---- shards

Verdict Round::check_contribution(MemberIndex from, ChunkIndex chunk, double weight, std::uint64_t elements) const {
  PAPILIO_ASSERT_VALUES(from < members() && from != config_.self, from, config_.self);
  if (chunk >= chunks_.size()) return Verdict::out_of_range;
  const MemberIndex part = plan_.reducer(chunk);
  if (elements != plan_.chunk(chunk).size) return Verdict::bad_size;
  if (!weight_is_valid(weight)) return Verdict::bad_weight;
  // One weight per member and round: another one would make different averages over "the same" contributors.
  const Peer& peer = peers_[from];
  if (peer.contributions_in > 0 && peer.weight != weight) return Verdict::bad_weight;
  if (!is_reduced_here(part)) {
    return part == config_.self || (in_trouble_ && may_reduce(config_.self)) ? Verdict::late : Verdict::unasked;
  }
  // Asked for again after a new connection or a takeover, it may cross with our word that it came.
  if ((chunks_[chunk].in & coverage_of(from)) != 0) return in_trouble_ ? Verdict::late : Verdict::duplicate;
  if (mutated(Mutation::counted_late_contribution)) return Verdict::accept;
  if (!is_live(from) || chunks_[chunk].state != ChunkState::open) return Verdict::late;
  return Verdict::accept;
}

Verdict Round::check_average(MemberIndex from, ChunkIndex chunk, MemberIndex reducer, Coverage coverage,
                             double total_weight, std::uint64_t elements) const {
  PAPILIO_ASSERT_VALUES(from < members() && from != config_.self, from, config_.self);
  if (chunk >= chunks_.size()) return Verdict::out_of_range;
  if (elements != plan_.chunk(chunk).size) return Verdict::bad_size;
  if (!(total_weight >= kMinimumWeight && total_weight <= kMaximumWeight * kMaximumMembers)) return Verdict::bad_weight;
  if (reducer >= members() || !may_reduce(reducer)) return Verdict::bad_coverage;
  if ((coverage & coverage_of(reducer)) == 0 || (coverage & ~everybody()) != 0) return Verdict::bad_coverage;
  const Part& part = parts_[plan_.reducer(chunk)];
  if ((part.givers & coverage_of(from)) == 0) {
    return in_trouble_ && may_reduce(from) ? Verdict::late : Verdict::unasked;
  }
  // Without trouble nobody passes on what others averaged.
  if (reducer != from && !in_trouble_) return Verdict::bad_coverage;
  if (chunks_[chunk].coverage_when_settled != 0) return in_trouble_ ? Verdict::late : Verdict::duplicate;
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
  chunk.spent = true;
  chunk.total_weight += weight;
  chunk.reductions_in_flight += 1;
  reduction.last = missing(plan_.reducer(index), index) == 0;
  if (reduction.last) {
    chunk.state = ChunkState::finalising;
    reduction.inverse_total = inverse_total(chunk.total_weight, chunk.in);
  }
  return reduction;
}

void Round::handle_reduced(ChunkIndex index) {
  Chunk& chunk = chunks_[index];
  PAPILIO_ASSERT_VALUES(chunk.reductions_in_flight > 0, index, chunk.reductions_in_flight);
  chunk.reductions_in_flight -= 1;
  if (chunk.reductions_in_flight > 0 || chunk.state != ChunkState::finalising) return;
  if (chunk.to_finalise) return;  // accumulated; the division is still to be asked for
  chunk.reducer = config_.self;
  settle(index, chunk.in);
}

void Round::settle(ChunkIndex index, Coverage coverage) {
  Chunk& chunk = chunks_[index];
  chunk.state = ChunkState::settled;
  chunk.coverage_when_settled = coverage;
  unsettled_ -= 1;
  if (coverage != 0 && plan_.reducer(index) == config_.self && chunk.reducer == config_.self)
    finished_.push_back(index);
  for (MemberIndex member = 0; in_trouble_ && coverage != 0 && member < members(); ++member) {
    Peer& peer = peers_[member];
    if (peer.wants.empty() || !peer.wants[index]) continue;
    peer.wants[index] = false;
    peer.requested.push_back({ShardKind::average, index});
  }
  if (unsettled_ == 0 && !canceled_) notices_.push_back({.kind = Notice::Kind::done});
  update_over();
}

bool Round::handle_average(MemberIndex from, ChunkIndex index, MemberIndex reducer, Coverage coverage,
                           double total_weight) {
  if (check_average(from, index, reducer, coverage, total_weight, plan_.chunk(index).size) != Verdict::accept) {
    return false;
  }
  Chunk& chunk = chunks_[index];
  chunk.total_weight = total_weight;
  chunk.reducer = reducer;
  if (reducer != config_.self) peers_[reducer].averages_in += 1;
  Part& part = parts_[plan_.reducer(index)];
  if (part.fetch_by != kNever) part.fetch_by = TimePoint::min();
  if (part.relay_by != kNever) part.relay_by = TimePoint::min();
  settle(index, coverage);
  return true;
}

// ---- other events

void Round::handle_done(MemberIndex from) {
  peers_[from].is_done = true;
  if (in_trouble_) take_done_for_answers(from);
  update_over();
}

void Round::handle_sent(MemberIndex to, const SendOrder& order) {
  if (order.kind == ShardKind::average) peers_[to].averages_sent += 1;
  update_over();
}

void Round::handle_cut_off(MemberIndex member, CutOff reason, std::string evidence, bool is_sure) {
  PAPILIO_ASSERT_VALUES(member < members() && member != config_.self && reason != CutOff::none, member, reason);
  if (!is_live(member) || over_) return;
  in_trouble_ = true;
  Peer& peer = peers_[member];
  peer.cut_off = reason;
  if (reason == CutOff::connection_lost || reason == CutOff::departed) ever_lost_ |= coverage_of(member);
  peer.lost_at = TimePoint::min();  // to be dated at the next handle_time
  peer.requested.clear();
  peer.wants.clear();
  lateness_.handle_gone(member);
  expect_bytes();  // the others may have waited for it
  live_ &= ~coverage_of(member);
  contributing_ &= ~coverage_of(member);
  if (mutated(Mutation::counted_cut_off_member)) {
    for (Chunk& chunk : chunks_) chunk.in |= chunk.in != 0 ? coverage_of(member) : 0;
  }
  if (may_reduce(member) && !canceled_ && !mutated(Mutation::silent_loss)) {
    peer.suspects |= coverage_of(config_.self);
    notices_.push_back({.kind = Notice::Kind::suspect, .member = member});
  }
  if (!is_mended_by_reconnecting(reason) || reason == CutOff::condemned) {
    notices_.push_back({.kind = Notice::Kind::cut_off,
                        .to = config_.self,
                        .member = member,
                        .evidence = std::move(evidence),
                        .is_sure = is_sure});
  }
  for (MemberIndex index = 0; index < members(); ++index) {
    Part& part = parts_[index];
    if (part.relay == member) part.relay = kEverybody;
    part.claims &= ~coverage_of(member);  // it says so again when it is back
  }
  review_parts();
  finalise_where_complete();
  update_over();
}

// From here on nobody's contribution is waited for; those that miss any are named in the report.
void Round::stop_waiting_for_contributions() {
  reduce_by_passed_ = true;
  if (is_held_here(config_.self)) name_missing(config_.self);  // their averages are still welcome
  contributing_ = coverage_of(config_.self);
  finalise_where_complete();
}

void Round::handle_time(TimePoint now) {
  if (over_) return;
  if (!reduce_by_passed_ && now >= config_.reduce_by) stop_waiting_for_contributions();
  if (in_trouble_) {
    for (Peer& peer : peers_) {
      if (peer.lost_at == TimePoint::min()) peer.lost_at = now;
    }
    give_up_relays(now);
    ask_relays(now);
    stop_waiting_for_answers(now);
    if (!settle_by_passed_ && now >= config_.settle_by) {
      for (MemberIndex part = 0; part < members(); ++part) {
        if (parts_[part].taken) name_missing(part);
      }
      settle_by_passed_ = true;
      for (MemberIndex part = 0; part < members(); ++part) {
        if (parts_[part].taken) decide(part);
      }
      finalise_where_complete();
    }
  }
  cut_off_late(now);
  ask_those_who_are_done(now);
  cut_off_not_done(now);
  if (now < config_.deadline || mutated(Mutation::forgotten_deadline)) return;
  if (!reduce_by_passed_) stop_waiting_for_contributions();
  finish_with_what_is_there();
}

// What the member has not given to this one, as far as it may be blamed for it.
Owes Round::owes(MemberIndex member) const {
  bool owes_averages = false;
  for (MemberIndex part = 0; part < members(); ++part) {
    const ChunkIndex begin = plan_.first_chunk(part);
    const bool is_reduced = is_reduced_here(part);
    if (!is_reduced && holder(part) != member) continue;
    for (ChunkIndex index = begin; index < begin + plan_.chunks(part); ++index) {
      const Chunk& chunk = chunks_[index];
      if (chunk.state != ChunkState::open) continue;
      const bool is_fetched = is_reduced && chunk.in == 0;  // from one who holds it: no contribution was asked for
      if (is_reduced && !is_fetched && (missing(part, index) & coverage_of(member)) != 0) return Owes::contributions;
      owes_averages |= is_fetched ? chunk.asked_of == member : !is_reduced;
    }
  }
  if (owes_averages) return Owes::averages_only;
  return peers_[member].is_done || !owe_each_other(member) ? Owes::nothing : Owes::done;
}

// Those whose contributions to this part are not waited for any longer.
void Round::name_missing(MemberIndex part) {
  Coverage late = 0;
  for_each_chunk(part, [&](ChunkIndex index, const Chunk& chunk) {
    if (chunk.state == ChunkState::open && chunk.in != 0) late |= missing(part, index);
  });
  for (Coverage rest = late & ~coverage_of(config_.self); rest != 0; rest &= rest - 1) {
    peers_[static_cast<MemberIndex>(std::countr_zero(rest))].cut_off = CutOff::contributions_missing;
  }
}

// Whenever authority over a part moves: how much is to come from whom.
void Round::expect_bytes() {
  std::vector<std::uint64_t> bytes(members());
  for (MemberIndex part = 0; part < members(); ++part) {
    bytes[holder(part)] += plan_.part(part).size * sizeof(float);
  }
  for (MemberIndex member = 0; member < members(); ++member) {
    lateness_.expect(member, bytes[config_.self], bytes[member], config_.rates[member]);  // of self, the rate counts
  }
}

void Round::cut_off_late(TimePoint now) {
  if (now < lateness_.next_tick() || over_) return;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (!is_live(member) || member == config_.self) continue;
    lateness_.set_owes(member, owes(member), now);
    lateness_.set_succeeds(member, is_successor(member));
  }
  const std::span<const LateMember> judged = lateness_.judge(now);
  const std::vector<LateMember> late(judged.begin(), judged.end());
  for (const LateMember& each : late) {
    // A successor has to find out about those who do not answer it before it can go on, and is held to no rate. Its
    // contributions depend on nobody.
    const bool may_wait = each.reason == LateReason::slow && is_successor(each.member) &&
                          lateness_.owes(each.member) != Owes::contributions;
    if (may_wait && each.lag < config_.patience.lateness.lag_ceiling) continue;
    // A member whose connections were lost to most of the others may be the one at fault, however well they are now.
    const bool is_suspect_itself = 2 * std::popcount(ever_lost_) > static_cast<int>(members()) - 1;
    const bool is_sure = each.sure && !may_wait && !is_suspect_itself;
    handle_cut_off(each.member, each.reason == LateReason::first_shard ? CutOff::never_started : CutOff::slow,
                   describe(each), is_sure);
  }
}

Coverage Round::live_that_owe() const {
  return may_reduce(config_.self) ? live_ : live_ & (config_.reducers | coverage_of(config_.self));
}

Coverage Round::done_members() const {
  Coverage done = 0;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (peers_[member].is_done) done |= coverage_of(member);
  }
  return done & live_that_owe();
}

// Those few that have not everything while the others wait: not for ever.
void Round::cut_off_not_done(TimePoint now) {
  if (over_ || unsettled_ > 0) return;
  const Coverage done = done_members() | coverage_of(config_.self);
  if (2 * std::popcount(done) <= std::popcount(live_that_owe())) {
    linger_until_ = kNever;
    return;
  }
  if (linger_until_ == kNever) {
    const Duration wait = std::max(config_.patience.linger_floor,
                                   from_seconds(to_seconds(now - config_.start) * config_.patience.linger_fraction));
    linger_until_ = std::min(config_.deadline, saturating_add(now, wait));
  }
  if (now < linger_until_) return;
  linger_until_ = kNever;  // armed again if somebody who was lost comes back
  for (MemberIndex member = 0; member < members(); ++member) {
    if ((live_that_owe() & ~done & coverage_of(member)) != 0) handle_cut_off(member, CutOff::not_done);
  }
}

// Time is up. What others' gradients were added onto can only become an average over those; the rest is local.
void Round::finish_with_what_is_there() {
  for (MemberIndex part = 0; part < members(); ++part) {
    const bool is_owed = !is_held_here(part) && is_live(holder(part)) && any_bit(open_chunks(part));
    if (is_owed) peers_[holder(part)].cut_off = CutOff::averages_missing;
  }
  for (MemberIndex part = 0; part < members(); ++part) {
    if (is_reduced_here(part)) name_missing(part);
  }
  cut_short();
}

void Round::cancel() {
  if (over_) return;
  canceled_ = true;
  cut_short();
}

void Round::cut_short() {
  is_cut_short_ = true;
  live_ = contributing_ = coverage_of(config_.self);
  for (MemberIndex part = 0; part < members(); ++part) settle_local(part);
  update_over();
}

void Round::settle_local(MemberIndex part) {
  for_each_chunk(part, [&](ChunkIndex index, Chunk& chunk) {
    if (chunk.state != ChunkState::open) return;
    if (chunk.spent || (part == config_.self && is_held_here(part))) return begin_finalising(index);
    settle(index, 0);
  });
}

void Round::begin_finalising(ChunkIndex index) {
  chunks_[index].state = ChunkState::finalising;
  chunks_[index].to_finalise = true;
  to_finalise_.push_back(index);
}

void Round::finalise_where_complete() {
  const bool nobody_else = live_ == coverage_of(config_.self);
  for (MemberIndex part = 0; part < members(); ++part) {
    if (!is_reduced_here(part)) continue;
    for_each_chunk(part, [&](ChunkIndex index, const Chunk& chunk) {
      // A chunk that is being fetched has no contributions, not even this member's own.
      if (chunk.state != ChunkState::open || chunk.in == 0 || missing(part, index) != 0) return;
      if (part != config_.self && !chunk.spent && nobody_else) {
        settle(index, 0);
      } else {
        begin_finalising(index);
      }
    });
  }
}

bool Round::all_are_done() const {
  if (is_cut_short_) return true;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (member == config_.self || !owe_each_other(member) || peers_[member].is_done) continue;
    const bool is_waited_for = is_live(member) || (may_come_back(member) && !is_condemned(member));
    if (is_waited_for && !mutated(Mutation::early_release)) return false;
  }
  return true;
}

void Round::update_over() {
  if (over_ || unsettled_ > 0) return;
  over_ = chunks_.empty() || all_are_done();
}

// ---- what to do next

std::optional<SendOrder> Round::poll_send(MemberIndex to) {
  PAPILIO_ASSERT_VALUES(to < members() && to != config_.self, to, config_.self);
  if (over_ || !is_live(to)) return std::nullopt;
  Peer& peer = peers_[to];
  while (!peer.requested.empty()) {
    const SendOrder order = peer.requested.front();
    peer.requested.pop_front();
    const Chunk& chunk = chunks_[order.chunk];
    const bool is_given = order.kind == ShardKind::average ? chunk.coverage_when_settled != 0
                                                           : chunk.state == ChunkState::open && !chunk.spent &&
                                                                 holder(plan_.reducer(order.chunk)) == to;
    if (is_given) return order;
  }
  if (peer.by_request) return std::nullopt;
  const ChunkIndex lost = mutated(Mutation::lost_chunk) && plan_.chunks(to) > 1 ? 1 : 0;
  const ChunkIndex end = plan_.first_chunk(to) + plan_.chunks(to) - lost;
  if (parts_[to].distance != 0) peer.next_contribution = end;  // its part is another's by now
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
    chunk.to_finalise = false;
    chunk.reductions_in_flight += 1;
    // Alone, the chunk is already what it should be, bit for bit: dividing w * g by w would not be.
    const bool alone = chunk.in == coverage_of(config_.self);
    return Finalisation{
        .chunk = index, .scale = !alone, .inverse_total = alone ? 1.0F : inverse_total(chunk.total_weight, chunk.in)};
  }
  return std::nullopt;
}

std::optional<Notice> Round::poll_notice() {
  for (MemberIndex index = 0; in_trouble_ && index < members(); ++index) {
    Part& part = parts_[index];
    if (!part.answer_due) continue;
    Notice answer{.kind = Notice::Kind::holdings, .to = holder(index), .part = index, .distance = part.distance};
    answer.first = answer.second = no_chunks(index);
    bool is_certain = true;  // not while a kernel may be about to finish an average of it
    for_each_chunk(index, [&](ChunkIndex at, const Chunk& chunk) {
      is_certain = is_certain && chunk.state != ChunkState::finalising;
      if (chunk.coverage_when_settled != 0) set_bit(answer.first, at - plan_.first_chunk(index));
      if (chunk.spent || chunk.state != ChunkState::open) set_bit(answer.second, at - plan_.first_chunk(index));
    });
    if (!is_certain) continue;
    part.answer_due = false;
    return answer;
  }
  if (notices_.empty()) return std::nullopt;
  Notice notice = std::move(notices_.front());
  notices_.pop_front();
  return notice;
}

void Round::check_invariants() const {
  std::uint64_t unsettled = 0;
  for (ChunkIndex index = 0; index < chunks_.size(); ++index) {
    const Chunk& chunk = chunks_[index];
    if (chunk.state != ChunkState::settled) unsettled += 1;
    if (plan_.reducer(index) == config_.self) PAPILIO_ASSERT((chunk.in & coverage_of(config_.self)) != 0);
    PAPILIO_ASSERT(chunk.in != 0 || (chunk.state != ChunkState::finalising && !chunk.spent));
    PAPILIO_ASSERT(in_trouble_ || chunk.in == 0 || plan_.reducer(index) == config_.self);
  }
  PAPILIO_ASSERT_VALUES(unsettled == unsettled_, unsettled, unsettled_);
  PAPILIO_ASSERT(!over_ || unsettled_ == 0);
  PAPILIO_ASSERT((contributing_ & ~live_) == 0);
  for (MemberIndex part = 0; part < members(); ++part) {
    PAPILIO_ASSERT_VALUES(parts_[part].distance < members(), part, parts_[part].distance);
    PAPILIO_ASSERT(!parts_[part].taken || is_held_here(part));
  }
}

}  // namespace papilio::core
