// The part of a round that begins when somebody is lost: who replaces whom, what the successor asks the others for, and
// how a member that alone has lost a reducer gets its averages all the same. Apart from round.cc, which is the whole of
// a round in which nothing goes wrong. The rules are in round.hpp's first comment and in docs/rounds.md.
#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/core/mutation.hpp"
#include "engine/core/round.hpp"

namespace papilio::core {

// ---- who is lost, and comes back

Verdict Round::handle_suspect(MemberIndex from, MemberIndex member, bool withdrawn) {
  if (member >= members()) return Verdict::out_of_range;
  if (over_ || !is_live(from)) return Verdict::late;
  in_trouble_ = true;
  if (member == from) {  // it gives up this round
    handle_cut_off(from, CutOff::departed);
    return Verdict::accept;
  }
  if (withdrawn) {
    peers_[member].suspects &= ~coverage_of(from);
    lateness_.handle_has_back(from, member);
  } else {
    peers_[member].suspects |= coverage_of(from);
  }
  review_parts();
  update_over();
  return Verdict::accept;
}

// A majority of the reducers that are live, itself left out, have lost it. Clients have no vote: they are not connected
// to each other.
bool Round::is_condemned(MemberIndex member) const {
  if (!is_lost_by_most(member, 0)) return false;
  // Who is condemned has lost those that follow the majority: that is not a word against them.
  Coverage condemned = 0;
  for (Coverage rest = peers_[member].suspects & live_ & ~coverage_of(config_.self); rest != 0; rest &= rest - 1) {
    const auto voter = static_cast<MemberIndex>(std::countr_zero(rest));
    if (is_lost_by_most(voter, 0)) condemned |= coverage_of(voter);
  }
  return condemned == 0 || is_lost_by_most(member, condemned);
}

bool Round::is_lost_by_most(MemberIndex member, Coverage voteless) const {
  const Coverage electorate = live_ & config_.reducers & ~coverage_of(member) & ~voteless;
  if ((electorate & ~coverage_of(config_.self)) == 0) {  // nobody else can tell
    return (peers_[member].suspects & coverage_of(config_.self)) != 0 && !may_come_back(member);
  }
  return 2 * std::popcount(peers_[member].suspects & electorate) > std::popcount(electorate);
}

// Nobody who has condemned this member is connected to it any more to say so; but then it has lost them, too. One
// stranger's word that it takes over is not enough.
bool Round::has_lost_most() const {
  const Coverage others = config_.reducers & ~coverage_of(config_.self);
  return 2 * std::popcount(others & live_) <= std::popcount(others);
}

// Its connection was lost so lately that it may be about to dial again.
bool Round::may_come_back(MemberIndex member) const {
  return !is_live(member) && peers_[member].lost_at != kNever &&
         (peers_[member].cut_off == CutOff::connection_lost || peers_[member].cut_off == CutOff::damaged_bytes);
}

bool Round::may_resume(MemberIndex member) const {
  if (over_ || is_cut_short_) return false;
  if (is_live(member)) return true;
  // What the others have lost stays lost until its part is with a successor: else it would come and go.
  return is_mended_by_reconnecting(peers_[member].cut_off) && !(is_condemned(member) && parts_held(member) != 0);
}

bool Round::handle_resumed(MemberIndex member) {
  Peer& peer = peers_[member];
  if (!may_resume(member)) return false;
  if (!is_live(member)) {
    live_ |= coverage_of(member);
    if (!reduce_by_passed_) contributing_ |= coverage_of(member);
    if ((peer.suspects & coverage_of(config_.self)) != 0) {
      peer.suspects &= ~coverage_of(config_.self);
      notices_.push_back({.kind = Notice::Kind::suspect, .member = member, .withdrawn = true});
    }
  }
  in_trouble_ = true;
  lateness_.handle_back(member);
  peer.cut_off = CutOff::none;
  peer.lost_at = kNever;
  peer.times_resumed += 1;
  peer.by_request = true;
  peer.requested.clear();
  peer.wants.clear();
  for (Part& part : parts_) part.relays_tried &= ~coverage_of(member);
  // It has missed whom this member lost in the meantime.
  for (MemberIndex other = 0; other < members(); ++other) {
    const bool is_lost = other != member && (peers_[other].suspects & coverage_of(config_.self)) != 0;
    if (is_lost) notices_.push_back({.kind = Notice::Kind::suspect, .to = member, .member = other});
  }
  if (unsettled_ == 0) notices_.push_back({.kind = Notice::Kind::done, .to = member});
  for (MemberIndex part = 0; part < members(); ++part) {
    if (plan_.chunks(part) == 0) continue;
    if (part == config_.self && is_held_here(part)) {
      ask_contributions(part, member);
    } else if (parts_[part].taken) {
      parts_[part].answered &= ~coverage_of(member);
      notices_.push_back(
          {.kind = Notice::Kind::takeover, .to = member, .part = part, .distance = parts_[part].distance});
    } else if (holder(part) == member) {
      tell_wanted(member, part, {}, open_chunks(part));
    } else if ((member + members() - part) % members() < parts_[part].distance) {
      notices_.push_back(
          {.kind = Notice::Kind::takeover, .to = member, .part = part, .distance = parts_[part].distance});
    }
  }
  update_over();
  return true;
}

// ---- who averages a part instead

Coverage Round::parts_held(MemberIndex member) const {
  Coverage parts = 0;
  for (MemberIndex part = 0; part < members(); ++part) {
    if (holder(part) == member && plan_.chunks(part) > 0) parts |= coverage_of(part);
  }
  return parts;
}

// The distance of the first from the part's holder on that is not gone; members(): there is none. Gone is also who is
// connected to this member alone: the others would not take its averages.
std::uint32_t Round::nearest_reducer(MemberIndex part) const {
  std::uint32_t distance = parts_[part].distance;
  const auto is_gone = [&](MemberIndex member) {
    return !may_reduce(member) || (member != config_.self && is_condemned(member));
  };
  while (distance < members() && is_gone((part + distance) % members())) distance += 1;
  return distance;
}

// After anything that changes who is live or who has lost whom.
void Round::review_parts() {
  if (over_ || canceled_) return;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (member != config_.self && is_live(member) && parts_held(member) != 0 && is_condemned(member)) {
      return handle_cut_off(member, CutOff::condemned);  // which comes back here
    }
  }
  for (MemberIndex index = 0; index < members(); ++index) {
    Part& part = parts_[index];
    if (plan_.chunks(index) == 0) continue;
    const std::uint32_t nearest = nearest_reducer(index);
    const std::uint32_t claimed = believed_claim(index, nearest);
    if (nearest >= members()) {
      settle_local(index);  // nobody is left to average it
    } else if (claimed > part.distance) {
      yield(index, claimed);
    } else if (nearest > part.distance && (index + nearest) % members() == config_.self) {
      take_over(index, nearest);
    } else if (part.taken) {
      decide(index);
    }
  }
}

void Round::take_over(MemberIndex index, std::uint32_t distance) {
  Part& part = parts_[index];
  part.distance = distance;
  part.taken = true;
  part.decided = false;
  part.answer_by = TimePoint::min();  // to be dated at the next handle_time
  part.givers = 0;
  part.answered = 0;
  part.held.assign(members(), {});
  part.spent.assign(members(), {});
  expect_bytes();
  notices_.push_back({.kind = Notice::Kind::takeover, .part = index, .distance = distance});
  decide(index);
}

Verdict Round::handle_takeover(MemberIndex from, MemberIndex index, std::uint32_t distance) {
  if (index >= members() || distance < 1 || distance >= members()) return Verdict::out_of_range;
  const MemberIndex successor = (index + distance) % members();
  if (!may_reduce(successor)) return Verdict::unasked;
  if (over_ || !is_live(from)) return Verdict::late;
  Part& part = parts_[index];
  if (distance < part.distance) return Verdict::late;
  in_trouble_ = true;
  part.votes.resize(members());
  part.votes[from] = static_cast<std::uint8_t>(std::max<std::uint32_t>(part.votes[from], distance));
  if (successor != from) {
    review_parts();
    return Verdict::accept;
  }
  if (distance == part.distance) {  // asked again after a new connection
    part.answer_due = true;
    return Verdict::accept;
  }
  part.claims |= coverage_of(from);
  review_parts();
  return Verdict::accept;
}

// The distance of one that claims the part and may have it by all that this member knows; 0: nobody's. A claim of one
// farther on counts for nothing as long as a nearer one is there: else a single word would keep everybody from the
// right successor.
std::uint32_t Round::believed_claim(MemberIndex index, std::uint32_t nearest) const {
  const Part& part = parts_[index];
  const auto claims = [&](std::uint32_t distance) {
    return (part.claims & coverage_of((index + distance) % members())) != 0;
  };
  if (!is_held_here(index)) return nearest < members() && nearest > part.distance && claims(nearest) ? nearest : 0;
  for (std::uint32_t distance = part.distance + 1; distance < members(); ++distance) {
    if (claims(distance) && (has_lost_most() || is_outvoted(part, distance))) return distance;
  }
  return 0;
}

// One who was away does not hear that a majority has lost it, and is told so by those who follow its successor, or one
// farther on.
bool Round::is_outvoted(const Part& part, std::uint32_t distance) const {
  const Coverage electorate = live_ & config_.reducers & ~coverage_of(config_.self);
  int votes = 0;
  for (MemberIndex member = 0; member < part.votes.size(); ++member) {
    votes += part.votes[member] >= distance && (electorate & coverage_of(member)) != 0 ? 1 : 0;
  }
  return 2 * votes > std::popcount(electorate);
}

// Lets the farther one have the part.
void Round::yield(MemberIndex index, std::uint32_t distance) {
  Part& part = parts_[index];
  const MemberIndex before = holder(index);
  if (before != config_.self && is_live(before)) {
    notices_.push_back({.kind = Notice::Kind::takeover, .to = before, .part = index, .distance = distance});
  }
  part.distance = distance;
  part.taken = part.decided = false;
  part.relay = kEverybody;
  part.relay_by = kNever;
  part.relays_tried = 0;  // what those pass on is not taken any more
  part.givers = coverage_of(holder(index));
  part.answer_due = true;
  expect_bytes();
  update_over();
}

// ---- what a successor asks for, and what is asked of this member

Verdict Round::check_bits(MemberIndex part, const ChunkBits& bits) const {
  return bits.size() > no_chunks(part).size() ? Verdict::out_of_range : Verdict::accept;
}

Verdict Round::handle_holdings(MemberIndex from, MemberIndex index, std::uint32_t distance, const ChunkBits& held,
                               const ChunkBits& spent) {
  if (index >= members()) return Verdict::out_of_range;
  if (is_violation(check_bits(index, held)) || is_violation(check_bits(index, spent))) return Verdict::out_of_range;
  Part& part = parts_[index];
  if (over_ || !is_live(from) || !part.taken || part.distance != distance) return Verdict::late;
  // Each answer costs this member's line; who comes back may answer again.
  if ((part.answered & coverage_of(from)) != 0) return Verdict::late;
  part.answered |= coverage_of(from);
  part.held[from] = held;
  part.spent[from] = spent;
  for_each_chunk(index, [&](ChunkIndex chunk, const Chunk&) {
    if (!get_bit(held, chunk - plan_.first_chunk(index))) want_average(from, chunk);
  });
  // One that comes late, or again, is asked for what is still open.
  if (part.decided) ask_contributions(index, from);
  decide(index);
  finalise_where_complete();
  return Verdict::accept;
}

// Lost so lately that they may be dialling, and by this member rather than by most: what they hold counts, too.
Coverage Round::about_to_come_back() const {
  Coverage members_back = 0;
  for (MemberIndex member = 0; member < members(); ++member) {
    if (may_come_back(member) && !is_condemned(member)) members_back |= coverage_of(member);
  }
  return members_back;
}

// Who has everything need not say what it holds. It may not know this member as the successor at all: where a lost
// reducer came back to the others, they have its averages from itself.
void Round::take_done_for_answers(MemberIndex from) {
  if (over_ || !is_live(from) || !may_be_done(from)) return;
  for (MemberIndex index = 0; index < members(); ++index) {
    Part& part = parts_[index];
    if (!part.taken || (part.answered & coverage_of(from)) != 0) continue;
    part.answered |= coverage_of(from);
    part.held[from].assign(no_chunks(index).size(), ~std::uint64_t{0});
    part.spent[from] = part.held[from];
    decide(index);
  }
}

// Once all have answered: what anybody holds is fetched from there, the rest is averaged anew.
void Round::decide(MemberIndex index) {
  Part& part = parts_[index];
  const Coverage others = live_ & ~coverage_of(config_.self);
  const bool waits = part.answer_by != kNever && !mutated(Mutation::impatient_successor);
  if (over_ || !part.taken || (((others | about_to_come_back()) & ~part.answered) != 0 && waits)) return;
  const bool first = !std::exchange(part.decided, true);
  if (first) expect_bytes();  // only now they are asked for their contributions
  const ChunkIndex begin = plan_.first_chunk(index);
  std::vector<ChunkBits> fetched(members());
  bool any_new = false;
  for_each_chunk(index, [&](ChunkIndex at, Chunk& chunk) {
    if (chunk.state != ChunkState::open || chunk.in != 0) return;  // here, or under way
    if (chunk.asked_of != kEverybody && is_live(chunk.asked_of)) return;
    for (Coverage rest = part.answered & others; rest != 0; rest &= rest - 1) {
      const auto member = static_cast<MemberIndex>(std::countr_zero(rest));
      if (!get_bit(part.held[member], at - begin)) continue;
      if (fetched[member].empty()) fetched[member] = no_chunks(index);
      chunk.asked_of = member;
      return set_bit(fetched[member], at - begin);
    }
    chunk.in = coverage_of(config_.self);
    chunk.total_weight = config_.weight;
    any_new = true;
  });
  for (MemberIndex member = 0; member < members(); ++member) {
    if (fetched[member].empty()) continue;
    part.givers |= coverage_of(member);
    part.fetch_by = TimePoint::min();  // to be dated at the next handle_time
    tell_wanted(member, index, {}, std::move(fetched[member]));
  }
  for (Coverage rest = any_new ? others : 0; rest != 0; rest &= rest - 1) {
    const auto member = static_cast<MemberIndex>(std::countr_zero(rest));
    if (settle_by_passed_ || (part.answered & coverage_of(member)) == 0) {
      peers_[member].cut_off = CutOff::contributions_missing;  // there is no time to ask
    } else {
      ask_contributions(index, member);
    }
  }
  if (any_new || first) finalise_where_complete();
}

void Round::ask_contributions(MemberIndex part, MemberIndex of) {
  ChunkBits contributions = no_chunks(part);
  for_each_chunk(part, [&](ChunkIndex index, const Chunk& chunk) {
    if (chunk.state == ChunkState::open && chunk.in != 0 && (missing(part, index) & coverage_of(of)) != 0) {
      set_bit(contributions, index - plan_.first_chunk(part));
    }
  });
  tell_wanted(of, part, std::move(contributions), {});
}

void Round::tell_wanted(MemberIndex to, MemberIndex part, ChunkBits contributions, ChunkBits averages) {
  if (!any_bit(contributions) && !any_bit(averages)) return;
  notices_.push_back({.kind = Notice::Kind::wanted,
                      .to = to,
                      .part = part,
                      .first = std::move(contributions),
                      .second = std::move(averages)});
}

Verdict Round::handle_wanted(MemberIndex from, MemberIndex part, const ChunkBits& contributions,
                             const ChunkBits& averages) {
  if (part >= members()) return Verdict::out_of_range;
  if (is_violation(check_bits(part, contributions)) || is_violation(check_bits(part, averages))) {
    return Verdict::out_of_range;
  }
  if (over_ || !is_live(from)) return Verdict::late;
  // Every answer costs this member's line: a few per part are all that failures can need.
  Peer& peer = peers_[from];
  if (++peer.requests > 8 * members()) return Verdict::duplicate;
  in_trouble_ = true;
  for_each_chunk(part, [&](ChunkIndex index, const Chunk& chunk) {
    const std::uint32_t place = index - plan_.first_chunk(part);
    if (get_bit(averages, place)) want_average(from, index);
    if (get_bit(contributions, place) && !chunk.spent) peer.requested.push_back({ShardKind::contribution, index});
  });
  return Verdict::accept;
}

void Round::want_average(MemberIndex to, ChunkIndex index) {
  Peer& peer = peers_[to];
  if (chunks_[index].state == ChunkState::settled) {
    if (chunks_[index].coverage_when_settled != 0) peer.requested.push_back({ShardKind::average, index});
    return;
  }
  if (peer.wants.empty()) peer.wants.resize(chunks_.size());
  peer.wants[index] = true;
}

// One whose answer is stuck in its own slow line must not keep the others from averaging anew in time. What it may hold
// all the same is lost to them.
void Round::stop_waiting_for_answers(TimePoint now) {
  // Half of what the others give a successor, so that it is not blamed for those who do not answer.
  // Just before settle_by nothing is left until then, but all until the deadline.
  const bool is_late = config_.settle_by - now < config_.deadline - config_.settle_by;
  const Duration left = (is_late ? config_.deadline : config_.settle_by) - now;
  const TimePoint patience_ends = saturating_add(now, std::min(config_.patience.lateness.lag_ceiling / 2, left / 2));
  for (MemberIndex index = 0; index < members(); ++index) {
    Part& part = parts_[index];
    if (!part.taken) continue;
    if (part.answer_by == TimePoint::min()) part.answer_by = patience_ends;
    if (part.fetch_by == TimePoint::min()) part.fetch_by = patience_ends;
    if (now < std::min(part.answer_by, part.fetch_by)) continue;
    if (now >= part.answer_by) part.answer_by = kNever;
    if (now >= part.fetch_by) {
      part.fetch_by = kNever;
      forget_what_is_withheld(index);
    }
    decide(index);
  }
}

// Asked of somebody who says it holds them, averages have not come: they are had from others, or averaged anew.
void Round::forget_what_is_withheld(MemberIndex index) {
  Part& part = parts_[index];
  for_each_chunk(index, [&](ChunkIndex, Chunk& chunk) {
    if (chunk.state != ChunkState::open || chunk.in != 0 || chunk.asked_of == kEverybody) return;
    part.held[chunk.asked_of].clear();
    Peer& giver = peers_[chunk.asked_of];
    if (is_live(chunk.asked_of) && giver.cut_off == CutOff::none) giver.cut_off = CutOff::averages_missing;
    chunk.asked_of = kEverybody;
  });
}

// ---- averages that others pass on

// A reducer that only this member has lost, and that does not come back: another member passes its averages on. The
// reducer may be a successor that had no chance to tell this member so.
void Round::ask_relays(TimePoint now) {
  for (MemberIndex index = 0; index < members() && !canceled_; ++index) {
    Part& part = parts_[index];
    const std::uint32_t nearest = nearest_reducer(index);
    const MemberIndex lost = (index + nearest) % members();
    if (nearest >= members() || lost == config_.self || is_live(lost) || part.relay != kEverybody ||
        plan_.chunks(index) == 0)
      continue;
    const TimePoint lost_at = peers_[lost].lost_at;
    if (lost_at != kNever && now < saturating_add(lost_at, config_.patience.resume_grace)) continue;
    ask_relay(index, live_ & config_.reducers & ~coverage_of(config_.self) & ~peers_[lost].suspects);
  }
  bool any_expired = false;
  for (Peer& peer : peers_) {
    if (peer.lost_at == kNever || now < saturating_add(peer.lost_at, config_.patience.resume_grace)) continue;
    peer.lost_at = kNever;
    any_expired = true;
  }
  if (!any_expired) return;
  review_parts();
  finalise_where_complete();
  update_over();
}

// Nobody can have everything who has not been sent this member's own averages: its word is not believed before.
bool Round::may_be_done(MemberIndex member) const {
  return !is_held_here(config_.self) || peers_[member].averages_sent >= plan_.chunks(config_.self);
}

// Most others have everything, so what this one lacks exists: it need not wait until its reducer is found out to be
// dead, or to withhold it from this member alone.
void Round::ask_those_who_are_done(TimePoint now) {
  Coverage done = done_members() & ~coverage_of(config_.self);
  for (Coverage rest = done; rest != 0; rest &= rest - 1) {
    const auto member = static_cast<MemberIndex>(std::countr_zero(rest));
    if (!may_be_done(member)) done &= ~coverage_of(member);
  }
  const Coverage others = live_that_owe() & ~coverage_of(config_.self);
  const bool is_asking = !over_ && unsettled_ > 0;
  const bool most_are_done = 2 * std::popcount(done) > std::popcount(others);
  some_done_at_ = is_asking && done != 0 ? std::min(some_done_at_, now) : kNever;
  most_done_at_ = is_asking && most_are_done ? std::min(most_done_at_, now) : kNever;
  if (some_done_at_ == kNever) return;
  for (MemberIndex index = 0; index < members(); ++index) {
    if (is_held_here(index) || parts_[index].relay != kEverybody) continue;
    const Duration usual = config_.patience.resume_grace;
    // What somebody has was sent to this member, too: as a rule it is on its way, over this member's own slow line.
    // Where nothing comes, it is withheld.
    const TimePoint quiet_since =
        std::max(some_done_at_, lateness_.timers(holder(index)).last_payload.value_or(some_done_at_));
    const bool is_quiet = now >= saturating_add(quiet_since, 3 * usual);
    const bool is_behind = now >= saturating_add(most_done_at_, usual) && !peers_[holder(index)].is_done;
    if (!is_quiet && !is_behind) continue;
    ask_relay(index, done & config_.reducers & ~coverage_of(holder(index)));
  }
}

// The first of these after the part's holder passes the holder's averages on.
void Round::ask_relay(MemberIndex index, Coverage candidates) {
  // One whom most have lost averages for itself: what it has is not what they have.
  for (Coverage rest = candidates; rest != 0; rest &= rest - 1) {
    const auto member = static_cast<MemberIndex>(std::countr_zero(rest));
    if (is_condemned(member)) candidates &= ~coverage_of(member);
  }
  ChunkBits averages = open_chunks(index);
  if (!any_bit(averages)) return;
  Part& part = parts_[index];
  for (std::uint32_t step = 1; step < members() && part.relay == kEverybody; ++step) {
    const MemberIndex member = (holder(index) + step) % members();
    if ((candidates & ~part.relays_tried & coverage_of(member)) != 0) part.relay = member;
  }
  if (part.relay == kEverybody) return;
  part.relay_by = TimePoint::min();  // to be dated at the next handle_time
  in_trouble_ = true;
  part.givers |= coverage_of(part.relay);
  tell_wanted(part.relay, index, {}, std::move(averages));
}

// One may have died since, or withhold what it was asked for. It is not asked again: what it gets later it sends.
void Round::give_up_relays(TimePoint now) {
  const TimePoint patience_ends = saturating_add(now, 3 * config_.patience.resume_grace);
  for (Part& part : parts_) {
    if (part.relay == kEverybody) continue;
    if (part.relay_by == TimePoint::min()) part.relay_by = patience_ends;
    if (now < part.relay_by) continue;
    part.relays_tried |= coverage_of(part.relay);
    part.relay = kEverybody;
    part.relay_by = kNever;
  }
}

}  // namespace papilio::core
