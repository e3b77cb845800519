#include "engine/node/roster_seals.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <utility>

#include "engine/base/assert.hpp"

namespace papilio::node {

transport::Consent RosterSeals::sign(const core::Proposal& proposal) const {
  PAPILIO_ASSERT(is_on());
  return make_consent(*identity_, run_, proposal);
}

std::optional<std::string> RosterSeals::take(const core::Proposal& own, const PeerId& from,
                                             const std::optional<transport::Consent>& consent) {
  if (!consent) return "it is not signed";
  const bool is_answered = own_ && own_->proposal == own && own_->consents.contains(from);
  if (is_answered) return std::nullopt;  // saying it again costs nothing here, and changes nothing
  if (auto objection = objection_to(run_, own, from, *consent)) return objection;
  if (!own_ || own_->proposal != own) own_ = Own{.proposal = own, .consents = {}};
  own_->consents.insert_or_assign(from, *consent);
  return std::nullopt;
}

RosterSeals::Look RosterSeals::look(const PeerId& from, const SignedCommit& told, bool is_news) {
  const SignedCommit* const held = find(told.commit);
  if (held != nullptr && *held == told) return {Finding::holds, {}};  // nearly always: everybody passes it on
  const DoubleTongued proposer{told.commit.proposal.ballot.proposer, told.commit.proposal.round};
  const bool is_double_tongued =
      std::find(double_tongued_.begin(), double_tongued_.end(), proposer) != double_tongued_.end();
  const bool may_be_taken = is_news && names_own(told.commit);
  if (is_double_tongued && !(may_be_taken && may_still_be_taken(told.commit))) return {Finding::passed_over, {}};
  const auto other = std::find_if(held_.begin(), held_.end(),
                                  [&](const SignedCommit& each) { return contradict(each.commit, told.commit); });
  if (!is_news && held == nullptr && other == held_.end()) return {Finding::passed_over, {}};
  if (!spend_look(from) || !spend_signatures(told.commit)) return {Finding::passed_over, {}};
  // Who made this up gives itself away soonest in what itself or its receiver would have signed.
  const std::array<PeerId, 2> first = {identity_->id(), from};
  if (auto objection = objection_to(run_, told, held, first)) return {Finding::does_not_hold, std::move(*objection)};
  if (held != nullptr) return {Finding::holds, {}};
  if (other == held_.end() || is_double_tongued) {
    keep(told);
    return {Finding::holds, {}};
  }
  if (double_tongued_.size() == kMostRemembered) double_tongued_.erase(double_tongued_.begin());
  double_tongued_.push_back(proposer);
  double_commits_.push_back({.run = run_, .first = *other, .second = told});
  if (may_be_taken) keep(told);
  return {Finding::contradicts, {}, may_be_taken};
}

RosterSeals::Look RosterSeals::look_unasked(const PeerId& from, const SignedCommit& told) {
  PAPILIO_ASSERT(names_own(told.commit));
  if (!spend_look(from)) return {Finding::passed_over, {}};
  if (told.consents.empty()) return {Finding::does_not_hold, "it is not signed"};
  const transport::PublicKey& key = identity_->public_key();
  const auto own = std::find_if(told.consents.begin(), told.consents.end(),
                                [&](const transport::Consent& each) { return each.key == key; });
  if (own == told.consents.end()) return {Finding::does_not_hold, "this node's own signature is not there"};
  auto objection = objection_to(run_, told.commit.proposal, identity_->id(), *own);
  if (objection) return {Finding::does_not_hold, std::move(*objection)};
  return {Finding::passed_over, {}};
}

// Who comes back under new keys is counted anew; that makes what it sends about this node no better signed, and all
// that is not about this node is counted together.
bool RosterSeals::spend_look(const PeerId& from) {
  if (looked_at_.size() == kMostRemembered && !looked_at_.contains(from)) {
    looked_at_.erase(std::min_element(looked_at_.begin(), looked_at_.end(),
                                      [](const auto& one, const auto& next) { return one.second < next.second; }));
  }
  std::uint32_t& count = looked_at_[from];
  if (count == kMostLookedAt) return false;
  count += 1;
  return true;
}

bool RosterSeals::spend_signatures(const core::Commit& commit) {
  if (names_own(commit)) return true;  // needs this node's own consent, which is looked at early
  const auto signatures = static_cast<std::size_t>(std::popcount(commit.mask)) + 1;
  if (foreign_signatures_ + signatures > kMostForeignSignatures) return false;
  foreign_signatures_ += signatures;
  return true;
}

bool RosterSeals::may_still_be_taken(const core::Commit& commit) const {
  const auto is_alike = [&](const SignedCommit& each) {
    return each.commit.proposal.round == commit.proposal.round &&
           each.commit.proposal.ballot.proposer == commit.proposal.ballot.proposer && names_own(each.commit);
  };
  return std::count_if(held_.begin(), held_.end(), is_alike) < kMostOfDoubleTongued;
}

const SignedCommit* RosterSeals::seal(const core::Commit& commit) {
  PAPILIO_ASSERT(is_on());
  if (const SignedCommit* const held = find(commit)) return held;
  const core::Proposal& proposal = commit.proposal;
  if (proposal.ballot.proposer != identity_->id()) return nullptr;
  if (!own_ || own_->proposal != proposal) own_ = Own{.proposal = proposal, .consents = {}};
  own_->consents.insert_or_assign(identity_->id(), sign(proposal));
  SignedCommit sealed{.commit = commit, .consents = {}, .seal = make_seal(*identity_, run_, commit)};
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    if ((commit.mask & coverage_of(member)) == 0) continue;
    const auto consent = own_->consents.find(proposal.members[member].peer);
    if (consent == own_->consents.end()) return nullptr;  // of an epoch that is over
    sealed.consents.push_back(consent->second);
  }
  own_.reset();
  keep(sealed);
  return find(commit);
}

std::optional<DoubleCommit> RosterSeals::poll_double_commit() {
  if (double_commits_.empty()) return std::nullopt;
  DoubleCommit next = std::move(double_commits_.back());
  double_commits_.pop_back();
  return next;
}

void RosterSeals::handle_epoch(std::uint64_t epoch) {
  std::erase_if(held_, [&](const SignedCommit& each) { return each.commit.proposal.epoch + 1 < epoch; });
  own_.reset();
  std::erase_if(double_tongued_, [&](const DoubleTongued& each) { return each.round < epoch; });
  looked_at_.clear();
  foreign_signatures_ = 0;
}

const SignedCommit* RosterSeals::find(const core::Commit& commit) const {
  const auto found =
      std::find_if(held_.begin(), held_.end(), [&](const SignedCommit& each) { return each.commit == commit; });
  return found == held_.end() ? nullptr : &*found;
}

bool RosterSeals::names_own(const core::Commit& commit) const {
  const auto& members = commit.proposal.members;
  for (MemberIndex member = 0; member < members.size(); ++member) {
    if (members[member].peer == identity_->id()) return (commit.mask & coverage_of(member)) != 0;
  }
  return false;
}

// Those that name this node hold its own signature, so nobody can make up any number of them.
void RosterSeals::keep(const SignedCommit& commit) {
  if (!names_own(commit.commit)) {
    const auto foreign = [&](const SignedCommit& each) { return !names_own(each.commit); };
    if (std::count_if(held_.begin(), held_.end(), foreign) >= static_cast<std::ptrdiff_t>(kMostForeign)) {
      held_.erase(std::find_if(held_.begin(), held_.end(), foreign));
    }
  }
  held_.push_back(commit);
}

}  // namespace papilio::node
