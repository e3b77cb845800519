#include "engine/core/roster.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/random.hpp"
#include "engine/core/partition.hpp"

namespace papilio::core {
namespace {

// An old acknowledgement matters only while its proposer, or somebody who heard of its commit, may still speak up.
constexpr std::size_t kRememberedAcknowledgements = 8;
// How many proposals a peer may bring down by being bound to another before one goes on without it.
constexpr std::uint32_t kExcuses = 4;
// Commits of others that one proposal passes on. There is one, or a few after a heal; a liar could make up any number.
constexpr std::size_t kMostPassedOn = 4;
constexpr std::uint32_t kMostBackoffSteps = 8;
// A proposal that binds others and comes to nothing: withdrawn is what happens to correct proposers that collide,
// silent until the lease ends only to those that freeze. More than kDemeritsForgiven, and each costs twice the last
// one's wait.
constexpr std::uint32_t kDemeritsOfWithdrawn = 1;
constexpr std::uint32_t kDemeritsOfSilence = 2;
constexpr std::uint32_t kDemeritsForgiven = 3;
constexpr std::uint32_t kMostDoublings = 6;
// A member is in no roster if more than one in so many of the others have banned it, and at least so many: liars are
// assumed to be fewer, so one honest member is among its accusers.
constexpr std::size_t kBanShare = 3;
constexpr std::size_t kFewestBans = 2;
// Whoever does not see everybody waits this part of the others' patience before it tries again: so often that they can
// accept it soon after their patience ended, so rarely that what it withdraws meanwhile is forgiven.
constexpr int kTriesWithinPatience = 4;

std::uint64_t absorb(std::uint64_t hash, std::uint64_t value) {
  return Random::mix(hash ^ Random::mix(value + 0x9e3779b97f4a7c15U));
}

std::uint64_t absorb(std::uint64_t hash, const PeerId& id) {
  for (std::size_t word = 0; word < id.bytes.size(); word += 8) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 8; ++i) value |= std::uint64_t{id.bytes[word + i]} << (8 * i);
    hash = absorb(hash, value);
  }
  return hash;
}

const RosterEntry* entry_of(const Proposal& proposal, const PeerId& id) {
  for (const RosterEntry& entry : proposal.members) {
    if (entry.peer == id) return &entry;
  }
  return nullptr;
}

bool names(const Commit& commit, const PeerId& id) {
  for (MemberIndex member = 0; member < commit.proposal.members.size(); ++member) {
    if (commit.proposal.members[member].peer == id) return (commit.mask & coverage_of(member)) != 0;
  }
  return false;
}

std::uint64_t hash_of(const Commit& commit) { return group_hash(roster_of(commit)); }

}  // namespace

Roster roster_of(const Commit& commit) {
  const Proposal& proposal = commit.proposal;
  Roster roster{.round = proposal.round,
                .epoch = proposal.epoch,
                .members = {},
                .chunk_bytes = proposal.chunk_bytes,
                .timeout_ms = proposal.timeout_ms};
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    if ((commit.mask & coverage_of(member)) != 0) roster.members.push_back(proposal.members[member]);
  }
  return roster;
}

std::uint64_t group_hash(const Roster& roster) {
  std::uint64_t hash = absorb(absorb(absorb(1, roster.round), roster.epoch), roster.chunk_bytes);
  for (const RosterEntry& member : roster.members) {
    // Rates and roles too: the partition plan is made from them.
    hash = absorb(absorb(absorb(hash, member.peer), member.rate_bytes_per_s), member.reduces ? 1U : 0U);
  }
  return hash;
}

std::uint64_t model_hash(const Fingerprint& fingerprint, std::uint64_t epoch) {
  return absorb(absorb(absorb(2, fingerprint.low), fingerprint.high), epoch);
}

std::uint64_t proposer_order(RoundId round, const PeerId& peer) { return absorb(absorb(3, round), peer); }

std::string_view to_string(Answer answer) {
  switch (answer) {
    case Answer::acknowledged: return "acknowledged";
    case Answer::promised_higher: return "a higher ballot was promised";
    case Answer::busy: return "bound to another proposal for now";
    case Answer::other_epoch: return "at another epoch";
    case Answer::wrong_entry: return "its own rate or role is not as proposed";
    case Answer::too_far_ahead: return "the attempt is too far ahead";
    case Answer::left_out: return "the round began without it";
    case Answer::withdrawn: return "withdrawn";
    case Answer::no_credit: return "too many of this proposer's proposals came to nothing, or too many have banned it";
    case Answer::incomplete: return "a member that is here is left out";
  }
  return "unknown";
}

std::string_view to_string(RosterVerdict verdict) {
  switch (verdict) {
    case RosterVerdict::accepted: return "accepted";
    case RosterVerdict::deferred: return "deferred";
    case RosterVerdict::refused: return "refused";
    case RosterVerdict::known: return "known already";
    case RosterVerdict::other_epoch: return "of another epoch";
    case RosterVerdict::blocked: return "a commit below what was promised";
    case RosterVerdict::left_out: return "a commit without this node";
    case RosterVerdict::unasked: return "an answer to nothing that was asked";
    case RosterVerdict::unconnected: return "from a peer that is not connected";
    case RosterVerdict::not_acknowledged: return "a commit of a proposal that this node never acknowledged, passed on";
    case RosterVerdict::forged: return "a commit of a proposal that this node never acknowledged";
    case RosterVerdict::not_a_miner: return "a proposal from a peer that is not a miner";
    case RosterVerdict::wrong_proposer: return "a proposal in another peer's name";
    case RosterVerdict::bad_members:
      return "its members are none, too many, named twice, out of order, or lack the proposer";
    case RosterVerdict::self_missing: return "this node is not in its roster";
    case RosterVerdict::bad_rate: return "a member's rate is above 8 Tbit/s";
    case RosterVerdict::bad_shape: return "its chunk size, timeout, round or attempt is not possible";
    case RosterVerdict::bad_mask: return "a commit of members that there are not, or without its proposer";
    case RosterVerdict::flood: return "more attempts than a correct miner makes";
  }
  return "unknown";
}

RosterVerdict judge(const Proposal& proposal) {
  const auto& members = proposal.members;
  if (members.empty() || members.size() > kMaximumMembers) return RosterVerdict::bad_members;
  const auto not_ascending = [](const RosterEntry& one, const RosterEntry& next) { return !(one.peer < next.peer); };
  if (std::adjacent_find(members.begin(), members.end(), not_ascending) != members.end()) {
    return RosterVerdict::bad_members;
  }
  const RosterEntry* const proposer = entry_of(proposal, proposal.ballot.proposer);
  if (proposer == nullptr || !proposer->reduces) return RosterVerdict::bad_members;
  for (const RosterEntry& member : members) {
    if (member.rate_bytes_per_s > kMaximumRate) return RosterVerdict::bad_rate;
  }
  const bool chunk_fits = std::has_single_bit(proposal.chunk_bytes) && proposal.chunk_bytes >= kMinimumChunkBytes &&
                          proposal.chunk_bytes <= kMaximumChunkBytes;
  const bool timeout_fits = proposal.timeout_ms >= kLeastTimeoutMs && proposal.timeout_ms <= kMostTimeoutMs;
  const bool is_of_one_round = proposal.round != 0 && proposal.round - 1 == proposal.epoch;
  if (!chunk_fits || !timeout_fits || !is_of_one_round || proposal.ballot.attempt == 0) return RosterVerdict::bad_shape;
  return RosterVerdict::accepted;
}

RosterVerdict judge(const Commit& commit) {
  if (const RosterVerdict verdict = judge(commit.proposal); verdict != RosterVerdict::accepted) return verdict;
  const std::size_t members = commit.proposal.members.size();
  const bool beyond = members < kMaximumMembers && (commit.mask >> members) != 0;
  return beyond || !names(commit, commit.proposal.ballot.proposer) ? RosterVerdict::bad_mask : RosterVerdict::accepted;
}

Duration begin_bound(const RosterConfig& config, std::uint32_t failures) {
  return config.arrival_grace + (failures + 1) * (config.lease + (failures + 1) * config.propose_grace);
}

Rostering::Rostering(const RosterConfig& config) : config_(config) {
  PAPILIO_ASSERT(config_.lease >= 2 * config_.ack_grace);
  PAPILIO_ASSERT(config_.inclusion_patience >= Duration::zero());
}

// ---- what happens here

void Rostering::handle_epoch(TimePoint now, std::uint64_t epoch, std::span<const PeerId> lost) {
  PAPILIO_ASSERT_VALUES(epoch > epoch_, epoch, epoch_);
  if (collecting_) withdraw(now);
  last_ = decided_ && decided_->proposal.epoch + 1 == epoch ? std::move(decided_) : std::nullopt;
  epoch_ = epoch;
  epoch_began_ = now;
  due_since_.reset();
  last_setback_ = now;
  own_setbacks_ = 0;
  own_attempts_ = 0;
  highest_attempt_ = 0;
  promised_ = {};
  lease_.reset();
  acknowledged_.clear();
  deferred_.reset();
  blocked_.reset();
  collecting_.reset();
  decided_.reset();
  elsewhere_.clear();
  refuses_incomplete_until_.reset();
  steps_back_until_.reset();
  for (Known& peer : peers_) {
    peer.attempts_left = config_.attempts_at_once;
    if (peer.excuses <= kExcuses) peer.excuses = 0;  // who used them up gets none until it acknowledges again
    const bool is_lost = std::find(lost.begin(), lost.end(), peer.id) != lost.end();
    // After taking over state there is no such roster: whoever is close behind will be here soon.
    const bool was_in_it = last_ ? names(*last_, peer.id) : peer.epoch && *peer.epoch + 2 >= epoch_;
    peer.is_expected = was_in_it && !is_lost && (!peer.epoch || *peer.epoch < epoch_);
  }
  count_bans();

  if (const auto next = std::exchange(of_next_epoch_, std::nullopt); next && next->epoch == epoch_) {
    if (Known* const proposer = find(next->ballot.proposer)) {
      static_cast<void>(spend_attempt(now, *proposer));
      consider(now, *next);
    }
  }
  check_invariants();
}

void Rostering::handle_due(TimePoint now, bool due) {
  if (!due) {
    due_since_.reset();
  } else if (!due_since_) {
    due_since_ = now;
  }
}

void Rostering::handle_bans(std::span<const PeerId> banned) {
  banned_.assign(banned.begin(), banned.end());
  count_bans();
}

void Rostering::handle_time(TimePoint now) {
  if (lease_ && now >= lease_->until) {
    blame(now, lease_->holder, kDemeritsOfSilence);
    release(now);
  }
  if (collecting_) look_at_answers(now, true);
  if (may_propose() && now >= own_turn()) propose(now);
  check_invariants();
}

TimePoint Rostering::next_deadline() const {
  TimePoint next = kNever;
  if (lease_) next = std::min(next, lease_->until);
  if (collecting_) next = std::min(next, collecting_->answer_by);
  if (may_propose()) next = std::min(next, own_turn());
  return next;
}

// ---- peers that come and go

void Rostering::handle_peer(TimePoint now, const RosterPeer& peer) {
  if (peer.id == config_.self) return;
  Known* known = find(peer.id);
  const bool is_new = known == nullptr;
  const bool epoch_is_news = is_new || known->epoch != peer.epoch;
  if (is_new) {
    known = &peers_.emplace_back();
    known->attempts_left = config_.attempts_at_once;
    known->refilled = now;
  }
  RosterPeer told = peer;
  if (told.banned.size() > kMaximumMembers) told.banned.resize(kMaximumMembers);
  std::sort(told.banned.begin(), told.banned.end());  // each counts once
  told.banned.erase(std::unique(told.banned.begin(), told.banned.end()), told.banned.end());
  const bool bans_are_news = epoch_is_news || known->banned != told.banned || known->takes_part != told.takes_part;
  static_cast<RosterPeer&>(*known) = std::move(told);
  known->is_silent = false;
  if (bans_are_news) count_bans();
  if (peer.epoch && *peer.epoch >= epoch_) known->is_expected = false;
  // Its link is new, so it may have missed what was agreed; a rumour of it is all that a late peer needs.
  if (epoch_is_news && decided_ && (is_new || peer.epoch == epoch_)) send({peer.id}, *decided_);
  if (epoch_is_news && last_ && peer.epoch && *peer.epoch + 1 == epoch_) send({peer.id}, *last_);
}

void Rostering::handle_peer_left(TimePoint now, const PeerId& id) {
  std::erase_if(peers_, [&](const Known& peer) { return peer.id == id; });
  std::erase(elsewhere_, id);
  count_bans();
  // Its last words may still be on their way through others.
  if (lease_ && lease_->holder == id)
    lease_->until = std::min(lease_->until, saturating_add(now, config_.settle_grace));
  if (deferred_ && deferred_->ballot.proposer == id) deferred_.reset();
  if (of_next_epoch_ && of_next_epoch_->ballot.proposer == id) of_next_epoch_.reset();
  if (collecting_) {
    set_said(id, Said::gone);
    look_at_answers(now, false);
  }
  check_invariants();
}

// ---- somebody else proposes

RosterVerdict Rostering::handle_proposal(TimePoint now, const PeerId& from, const Proposal& proposal) {
  Known* const proposer = find(from);
  if (proposer == nullptr) return RosterVerdict::unconnected;
  if (proposal.ballot.proposer != from) return RosterVerdict::wrong_proposer;
  if (!proposer->is_miner) return RosterVerdict::not_a_miner;
  if (const RosterVerdict verdict = judge(proposal); verdict != RosterVerdict::accepted) return verdict;
  if (entry_of(proposal, config_.self) == nullptr) return RosterVerdict::self_missing;
  if (!spend_attempt(now, *proposer)) return RosterVerdict::flood;
  const RosterVerdict verdict = consider(now, proposal);
  check_invariants();
  return verdict;
}

bool Rostering::spend_attempt(TimePoint now, Known& peer) const {
  const double refilled = to_seconds(now - peer.refilled) / to_seconds(config_.attempt_refill);
  peer.attempts_left = std::min(config_.attempts_at_once, peer.attempts_left + refilled);
  peer.refilled = now;
  if (peer.attempts_left < 1) return false;
  peer.attempts_left -= 1;
  return true;
}

RosterVerdict Rostering::consider(TimePoint now, const Proposal& proposal) {
  const PeerId& proposer = proposal.ballot.proposer;
  if (proposal.epoch != epoch_) {
    if (last_ && proposal.epoch + 1 == epoch_) {
      send({proposer}, *last_);
      return RosterVerdict::refused;
    }
    if (decided_ && proposal.epoch == epoch_ + 1) {  // it is through with the round that is in flight here
      if (!of_next_epoch_ || of_next_epoch_->ballot < proposal.ballot) of_next_epoch_ = proposal;
      return RosterVerdict::deferred;
    }
    answer(proposal, Answer::other_epoch);
    return RosterVerdict::refused;
  }
  if (decided_) {
    send({proposer}, *decided_);
    return RosterVerdict::refused;
  }
  const RosterEntry& self = *entry_of(proposal, config_.self);
  if (self.rate_bytes_per_s != config_.rate_bytes_per_s || self.reduces != config_.is_miner) {
    answer(proposal, Answer::wrong_entry);
    return RosterVerdict::refused;
  }
  if (is_left_out()) {
    answer(proposal, Answer::left_out);
    return RosterVerdict::refused;
  }
  if (proposal.ballot.attempt > highest_attempt_ + kMostAttemptJump) {
    answer(proposal, Answer::too_far_ahead);
    return RosterVerdict::refused;
  }
  highest_attempt_ = std::max(highest_attempt_, proposal.ballot.attempt);
  if (const Known* const peer = find(proposer); is_outcast(proposer) || (peer != nullptr && now < peer->credit_from)) {
    answer(proposal, Answer::no_credit);
    return RosterVerdict::refused;
  }
  if (leaves_out_somebody(now, proposal)) {
    // By this node's time, not by attempts: those are the proposer's to count. In this time everybody who sees all has
    // had a turn, so where it ends, nobody does.
    if (!refuses_incomplete_until_) refuses_incomplete_until_ = saturating_add(now, config_.inclusion_patience);
    if (now < *refuses_incomplete_until_) {
      answer(proposal, Answer::incomplete);
      return RosterVerdict::refused;
    }
  }
  if (proposal.ballot == promised_ && !has_acknowledged(proposal)) {
    if (!is_of_another_life(proposal)) return RosterVerdict::forged;
    answer(proposal, Answer::promised_higher);  // so it learns how far it had got
    return RosterVerdict::refused;
  }
  if (proposal.ballot < promised_) {
    answer(proposal, Answer::promised_higher);
    return RosterVerdict::refused;
  }
  if (lease_ && lease_->holder != proposer) {
    if (deferred_ && proposal.ballot < deferred_->ballot) {
      answer(proposal, Answer::promised_higher);
      return RosterVerdict::refused;
    }
    deferred_ = proposal;
    answer(proposal, Answer::busy);
    return RosterVerdict::deferred;
  }
  if (collecting_) withdraw(now);
  acknowledge(now, proposal);
  return RosterVerdict::accepted;
}

void Rostering::acknowledge(TimePoint now, const Proposal& proposal) {
  promised_ = proposal.ballot;
  lease_ = Lease{proposal.ballot.proposer, saturating_add(now, config_.lease)};
  if (deferred_ && !(promised_ < deferred_->ballot)) deferred_.reset();
  if (!has_acknowledged(proposal)) {
    if (acknowledged_.size() == kRememberedAcknowledgements) acknowledged_.erase(acknowledged_.begin());
    acknowledged_.push_back(proposal);
  }
  answer(proposal, Answer::acknowledged);
}

void Rostering::answer(const Proposal& proposal, Answer what) {
  send({proposal.ballot.proposer},
       RosterAnswer{
           .round = proposal.round, .ballot = proposal.ballot, .answer = what, .promised = promised_, .epoch = epoch_});
}

bool Rostering::has_acknowledged(const Proposal& proposal) const {
  if (collecting_ && collecting_->proposal == proposal) return true;
  return std::find(acknowledged_.begin(), acknowledged_.end(), proposal) != acknowledged_.end();
}

// Its proposer was started anew, and counts from 1 again.
bool Rostering::is_of_another_life(const Proposal& proposal) const {
  const Proposal* const known = acknowledged(proposal.ballot);
  return known != nullptr && known->instance != proposal.instance;
}

const Proposal* Rostering::acknowledged(const Ballot& ballot) const {
  const auto found = std::find_if(acknowledged_.rbegin(), acknowledged_.rend(),
                                  [&](const Proposal& each) { return each.ballot == ballot; });
  return found == acknowledged_.rend() ? nullptr : &*found;
}

void Rostering::blame(TimePoint now, const PeerId& proposer, std::uint32_t demerits) {
  Known* const peer = find(proposer);
  if (peer == nullptr) return;
  peer->demerits += demerits;
  if (peer->demerits <= kDemeritsForgiven) return;
  const std::uint32_t doublings = std::min(peer->demerits - kDemeritsForgiven - 1, kMostDoublings);
  peer->credit_from = saturating_add(now, config_.attempt_refill * (1U << doublings));
}

// What this node was bound to came to nothing.
void Rostering::release(TimePoint now) {
  lease_.reset();
  last_setback_ = now;
  if (blocked_) return decide(*std::exchange(blocked_, std::nullopt));
  if (const auto waiting = std::exchange(deferred_, std::nullopt);
      waiting && find(waiting->ballot.proposer) != nullptr) {
    acknowledge(now, *waiting);
  }
}

// ---- commits

RosterVerdict Rostering::judge_commit(const PeerId& from, const Commit& commit) const {
  const bool is_known = std::any_of(peers_.begin(), peers_.end(), [&](const Known& peer) { return peer.id == from; });
  if (!is_known) return RosterVerdict::unconnected;
  if (decided_ && *decided_ == commit) return RosterVerdict::known;  // nearly always: everybody passes it on
  if (const RosterVerdict verdict = judge(commit); verdict != RosterVerdict::accepted) return verdict;
  if (commit.proposal.epoch != epoch_) return RosterVerdict::other_epoch;
  return decided_ ? RosterVerdict::known : RosterVerdict::accepted;
}

RosterVerdict Rostering::handle_commit(TimePoint now, const PeerId& from, const Commit& commit) {
  if (const RosterVerdict verdict = judge_commit(from, commit); verdict != RosterVerdict::accepted) return verdict;
  if (!names(commit, config_.self)) return handle_foreign_commit(now, *find(from), commit);
  if (!has_acknowledged(commit.proposal)) {
    return from == commit.proposal.ballot.proposer ? RosterVerdict::forged : RosterVerdict::not_acknowledged;
  }
  const bool is_bound_to_another = lease_ && lease_->holder != from && commit.proposal.ballot < promised_;
  if (is_bound_to_another) {
    blocked_ = commit;
    send({lease_->holder}, commit);  // who may take it over, and then says so
    return RosterVerdict::blocked;
  }
  decide(commit);
  return RosterVerdict::accepted;
}

RosterVerdict Rostering::handle_foreign_commit(TimePoint now, const Known& from, const Commit& commit) {
  const PeerId sender = from.id;
  if (names(commit, sender) && !began_elsewhere(sender)) elsewhere_.push_back(sender);
  if (collecting_) {
    if (names(commit, sender)) set_said(sender, Said::began_elsewhere);
    pass_on(now, sender, commit);
    look_at_answers(now, false);
  } else if (lease_ && lease_->holder == sender) {
    release(now);
  }
  check_invariants();
  return RosterVerdict::left_out;
}

// Those that a commit names may not have heard of it. Only they can tell whether they acknowledged it.
void Rostering::pass_on(TimePoint now, const PeerId& from, const Commit& commit) {
  auto& passed_on = collecting_->passed_on;
  const std::uint64_t hash = hash_of(commit);
  if (passed_on.size() == kMostPassedOn || std::find(passed_on.begin(), passed_on.end(), hash) != passed_on.end()) {
    return;
  }
  passed_on.push_back(hash);
  collecting_->answer_by = std::min(saturating_add(now, config_.ack_grace), collecting_->give_up);
  std::vector<PeerId> named;
  for (const Known& peer : peers_) {
    if (peer.id != from && names(commit, peer.id)) named.push_back(peer.id);
  }
  send(std::move(named), commit);
}

void Rostering::decide(const Commit& commit) {
  decided_ = commit;
  if (Known* const proposer = find(commit.proposal.ballot.proposer)) proposer->demerits = 0;
  collecting_.reset();
  lease_.reset();
  deferred_.reset();
  blocked_.reset();
  // To all, not only to those named: the others learn that this round is none of theirs.
  send(connected(), commit);
  check_invariants();
}

bool Rostering::is_left_out() const {
  if (decided_ || elsewhere_.empty()) return false;
  std::size_t here = 1;
  bool has_proposer = config_.is_miner;
  for (const Known& peer : peers_) {
    if (!is_present(peer)) continue;
    here += 1;
    has_proposer = has_proposer || peer.is_miner;
  }
  return elsewhere_.size() >= here || !has_proposer;
}

// ---- this node proposes

bool Rostering::may_propose() const {
  return config_.is_miner && due_since_ && !decided_ && !lease_ && !collecting_ && !is_left_out();
}

bool Rostering::is_present(const Known& peer) const {
  return peer.takes_part && peer.epoch == epoch_ && !peer.is_silent && !began_elsewhere(peer.id) &&
         !is_outcast(peer.id);
}

// Of those that this node would have in the round itself, or still waits for. A full group has no room for all.
bool Rostering::leaves_out_somebody(TimePoint now, const Proposal& proposal) const {
  if (proposal.members.size() == kMaximumMembers) return false;
  const bool waits = now < saturating_add(epoch_began_, config_.arrival_grace);
  return std::any_of(peers_.begin(), peers_.end(), [&](const Known& peer) {
    const bool may_arrive = waits && peer.is_expected && peer.takes_part && !is_outcast(peer.id);
    return (is_present(peer) || may_arrive) && entry_of(proposal, peer.id) == nullptr;
  });
}

bool Rostering::is_outcast(const PeerId& id) const {
  return std::find(outcasts_.begin(), outcasts_.end(), id) != outcasts_.end();
}

// By whom peers are banned, among those that are in step, or one round behind while they finish it.
void Rostering::count_bans() {
  std::vector<PeerId> bans(banned_);
  std::size_t voters = 1;
  for (const Known& peer : peers_) {
    if (!peer.takes_part || !peer.epoch || *peer.epoch + 1 < epoch_) continue;
    voters += 1;
    bans.insert(bans.end(), peer.banned.begin(), peer.banned.end());
  }
  std::sort(bans.begin(), bans.end());
  outcasts_.clear();
  for (auto first = bans.begin(); first != bans.end();) {
    const auto last = std::upper_bound(first, bans.end(), *first);
    const auto count = static_cast<std::size_t>(last - first);
    // The accused is a voter, too, but not about itself.
    if (*first != config_.self && count >= kFewestBans && kBanShare * count > voters - 1) outcasts_.push_back(*first);
    first = last;
  }
}

TimePoint Rostering::own_turn() const {
  const auto place = std::pair(proposer_order(epoch_ + 1, config_.self), config_.self);
  std::int64_t before = 0;
  TimePoint start = std::max({*due_since_, last_setback_, steps_back_until_.value_or(last_setback_)});
  for (const Known& peer : peers_) {
    if (peer.is_expected && !is_outcast(peer.id))
      start = std::max(start, saturating_add(epoch_began_, config_.arrival_grace));
    if (!peer.is_miner || !is_present(peer)) continue;
    before += std::pair(proposer_order(epoch_ + 1, peer.id), peer.id) < place ? 1 : 0;
  }
  // One less at a time than the others allow: their clocks and the lines between shift a little.
  const double beyond = own_attempts_ + 2 - config_.attempts_at_once;
  if (own_attempts_ > 0 && beyond > 0) {
    start = std::max(start, saturating_add(first_attempt_, from_seconds(beyond * to_seconds(config_.attempt_refill))));
  }
  // After failures a little later each time, so that two who hinder each other fall out of step.
  const auto backoff = std::min(own_setbacks_, kMostBackoffSteps) * config_.propose_grace / 2;
  return saturating_add(start, before * config_.propose_grace + backoff);
}

void Rostering::propose(TimePoint now) {
  Collecting collecting;
  Proposal& proposal = collecting.proposal;
  proposal.round = epoch_ + 1;
  proposal.epoch = epoch_;
  proposal.instance = config_.instance;
  highest_attempt_ = std::max(highest_attempt_, promised_.attempt) + 1;
  proposal.ballot = {highest_attempt_, config_.self};
  if (own_attempts_++ == 0) first_attempt_ = now;
  const auto timeout_ms = std::chrono::ceil<std::chrono::milliseconds>(config_.round_timeout).count();
  proposal.timeout_ms = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(timeout_ms, std::int64_t{kLeastTimeoutMs}, std::int64_t{kMostTimeoutMs}));
  choose_members(proposal);
  collecting.said.assign(proposal.members.size(), Said::nothing);
  collecting.answer_by = saturating_add(now, config_.ack_grace);
  // Early enough that a commit then still reaches everybody within the lease.
  collecting.give_up = saturating_add(now, config_.lease - config_.ack_grace);
  promised_ = proposal.ballot;
  deferred_.reset();

  std::vector<PeerId> others;
  for (const RosterEntry& member : proposal.members) {
    if (member.peer != config_.self) others.push_back(member.peer);
  }
  send(std::move(others), proposal);
  collecting_ = std::move(collecting);
  set_said(config_.self, Said::acknowledged);
  look_at_answers(now, false);
}

// Everybody who is here and at this epoch; of more than a group can hold, those that this round's order prefers.
void Rostering::choose_members(Proposal& proposal) const {
  std::vector<const Known*> here;
  for (const Known& peer : peers_) {
    // Silent to this node, but here for others? Then they want to see it asked.
    const bool is_doubtful = steps_back_until_ && peer.is_silent && peer.takes_part && peer.epoch == epoch_ &&
                             !began_elsewhere(peer.id) && !is_outcast(peer.id);
    if (is_present(peer) || is_doubtful) here.push_back(&peer);
  }
  std::sort(here.begin(), here.end(), [&](const Known* one, const Known* other) {
    return proposer_order(proposal.round, one->id) < proposer_order(proposal.round, other->id);
  });
  if (here.size() >= kMaximumMembers) here.resize(kMaximumMembers - 1);

  proposal.members.push_back(
      {.peer = config_.self, .rate_bytes_per_s = config_.rate_bytes_per_s, .reduces = config_.is_miner});
  std::uint64_t slowest = config_.rate_bytes_per_s;
  std::uint32_t reducers = 1;
  bool all_local = true;
  for (const Known* const peer : here) {
    proposal.members.push_back(
        {.peer = peer->id, .rate_bytes_per_s = peer->rate_bytes_per_s, .reduces = peer->is_miner});
    if (peer->rate_bytes_per_s > 0 && (slowest == 0 || peer->rate_bytes_per_s < slowest)) {
      slowest = peer->rate_bytes_per_s;
    }
    reducers += peer->is_miner ? 1U : 0U;
    all_local = all_local && peer->is_local_host;
  }
  std::sort(proposal.members.begin(), proposal.members.end(),
            [](const RosterEntry& one, const RosterEntry& other) { return one.peer < other.peer; });
  const double rate = slowest > 0 ? static_cast<double>(slowest) : (all_local ? 0 : kAssumedRemoteRate);
  const std::size_t chunk_bytes =
      config_.chunk_bytes != 0 ? config_.chunk_bytes : choose_chunk_bytes(config_.elements, reducers, rate);
  proposal.chunk_bytes = static_cast<std::uint32_t>(chunk_bytes);
}

RosterVerdict Rostering::handle_answer(TimePoint now, const PeerId& from, const RosterAnswer& answer) {
  Known* const sender = find(from);
  if (sender == nullptr) return RosterVerdict::unconnected;
  if (answer.round != epoch_ + 1) return RosterVerdict::other_epoch;
  if (answer.answer == Answer::withdrawn) {
    if (answer.ballot.proposer != from) return RosterVerdict::wrong_proposer;
    if (deferred_ && deferred_->ballot == answer.ballot) deferred_.reset();
    if (lease_ && lease_->holder == from && promised_ == answer.ballot) {
      blame(now, from, kDemeritsOfWithdrawn);
      release(now);
    }
    return RosterVerdict::accepted;
  }
  if (!collecting_ || collecting_->proposal.ballot != answer.ballot ||
      entry_of(collecting_->proposal, from) == nullptr) {
    return RosterVerdict::unasked;
  }
  switch (answer.answer) {
    case Answer::acknowledged: set_said(from, Said::acknowledged); break;
    case Answer::busy: set_said(from, Said::busy); break;
    case Answer::no_credit:
    case Answer::incomplete: set_said(from, Said::after_others); break;
    case Answer::promised_higher: {
      if (answer.promised.attempt <= highest_attempt_ + kMostAttemptJump) {
        highest_attempt_ = std::max(highest_attempt_, answer.promised.attempt);
      }
      set_said(from, Said::outbid);
      break;
    }
    default: set_said(from, Said::refused); break;
  }
  look_at_answers(now, false);
  check_invariants();
  return RosterVerdict::accepted;
}

void Rostering::set_said(const PeerId& peer, Said said) {
  const auto& members = collecting_->proposal.members;
  for (MemberIndex member = 0; member < members.size(); ++member) {
    if (members[member].peer != peer) continue;
    Said& before = collecting_->said[member];
    if (before != Said::began_elsewhere || said == Said::gone) before = said;  // that does not un-happen
  }
}

// Commits when nobody's answer is outstanding, or long enough; the latter only once all that has arrived was read.
void Rostering::look_at_answers(TimePoint now, bool may_give_up) {
  Collecting& own = *collecting_;
  // This node was asleep: the others may have given it up, and what they answered since may still be unread.
  if (now >= saturating_add(own.answer_by, config_.ack_grace / 2)) return withdraw(now);
  // Others have better chances, so they go first; at once, since this proposal holds them.
  for (MemberIndex member = 0; member < own.said.size(); ++member) {
    if (own.said[member] != Said::after_others) continue;
    Known* const peer = find(own.proposal.members[member].peer);
    if (peer == nullptr || peer->excuses >= kExcuses) continue;  // then one goes on without it
    peer->excuses += 1;
    return step_back(now);
  }
  const auto count = [&](Said said) { return std::count(own.said.begin(), own.said.end(), said); };
  if ((count(Said::nothing) > 0 || !own.passed_on.empty()) && !(may_give_up && now >= own.answer_by)) return;
  if (count(Said::busy) > 0 && !(may_give_up && now >= own.give_up)) {
    own.answer_by = own.give_up;
    return;
  }

  bool anybody_excused = false;
  Commit commit{.proposal = own.proposal, .mask = 0};
  for (MemberIndex member = 0; member < own.said.size(); ++member) {
    const Said said = own.said[member];
    if (said == Said::acknowledged) commit.mask |= coverage_of(member);
    Known* const peer = find(own.proposal.members[member].peer);
    if (peer == nullptr) continue;
    if (said == Said::nothing) peer->is_silent = true;
    if (said == Said::acknowledged) peer->excuses = 0;
    if (said == Said::busy || said == Said::outbid) anybody_excused |= ++peer->excuses <= kExcuses;
  }
  // Going on without those that are bound to another proposal would split the group; so would a round beside the one
  // that others have begun.
  const bool others_prevail = count(Said::began_elsewhere) >= count(Said::acknowledged);
  if (anybody_excused || others_prevail) return withdraw(now);
  decide(commit);
}

void Rostering::step_back(TimePoint now) {
  std::int64_t miners = 1;
  for (const Known& peer : peers_) miners += peer.is_miner && is_present(peer) ? 1 : 0;
  const Duration everybody = miners * config_.propose_grace;
  steps_back_until_ =
      saturating_add(now, std::max<Duration>(everybody, config_.inclusion_patience / kTriesWithinPatience));
  withdraw(now);
}

void Rostering::withdraw(TimePoint now) {
  const Proposal proposal = std::move(collecting_->proposal);
  collecting_.reset();
  own_setbacks_ += 1;
  last_setback_ = now;
  std::vector<PeerId> others;
  for (const Known& peer : peers_) {
    if (entry_of(proposal, peer.id) != nullptr) others.push_back(peer.id);
  }
  send(std::move(others), RosterAnswer{.round = proposal.round,
                                       .ballot = proposal.ballot,
                                       .answer = Answer::withdrawn,
                                       .promised = promised_,
                                       .epoch = epoch_});
}

// ---- helpers

std::optional<RosterMessage> Rostering::poll_message() {
  if (out_next_ == out_.size()) {
    out_.clear();
    out_next_ = 0;
    return std::nullopt;
  }
  return std::move(out_[out_next_++]);
}

void Rostering::send(std::vector<PeerId> to, std::variant<Proposal, RosterAnswer, Commit> content) {
  if (!to.empty()) out_.push_back({std::move(to), std::move(content)});
}

std::vector<PeerId> Rostering::connected() const {
  std::vector<PeerId> ids;
  for (const Known& peer : peers_) ids.push_back(peer.id);
  return ids;
}

Rostering::Known* Rostering::find(const PeerId& id) {
  const auto found = std::find_if(peers_.begin(), peers_.end(), [&](const Known& peer) { return peer.id == id; });
  return found == peers_.end() ? nullptr : &*found;
}

bool Rostering::began_elsewhere(const PeerId& id) const {
  return std::find(elsewhere_.begin(), elsewhere_.end(), id) != elsewhere_.end();
}

void Rostering::check_invariants() const {
  PAPILIO_ASSERT(!collecting_ || (!lease_ && !decided_));
  PAPILIO_ASSERT(!collecting_ || collecting_->proposal.ballot == promised_);
  PAPILIO_ASSERT(!deferred_ || promised_ < deferred_->ballot);
  PAPILIO_ASSERT(!deferred_ || lease_);
  PAPILIO_ASSERT(!blocked_ || lease_);
  PAPILIO_ASSERT(!decided_ || decided_->proposal.epoch == epoch_);
  PAPILIO_ASSERT_VALUES(elsewhere_.size() <= peers_.size(), elsewhere_.size(), peers_.size());
}

}  // namespace papilio::core
