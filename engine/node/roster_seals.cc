#include "engine/node/roster_seals.hpp"

#include <algorithm>
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
  if (std::find(double_tongued_.begin(), double_tongued_.end(), proposer) != double_tongued_.end()) {
    return {Finding::passed_over, {}};
  }
  const auto other = std::find_if(held_.begin(), held_.end(),
                                  [&](const SignedCommit& each) { return contradict(each.commit, told.commit); });
  if (!is_news && held == nullptr && other == held_.end()) return {Finding::passed_over, {}};
  if (++looked_at_[from] > kMostLookedAt) return {Finding::passed_over, {}};
  if (auto objection = objection_to(run_, told, held)) return {Finding::does_not_hold, std::move(*objection)};
  if (held != nullptr) return {Finding::holds, {}};
  if (other != held_.end()) {
    double_tongued_.push_back(proposer);
    double_commits_.push_back({.run = run_, .first = *other, .second = told});
    return {Finding::contradicts, {}};
  }
  keep(told);
  return {Finding::holds, {}};
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
