#include "engine/core/agreement.hpp"

#include <algorithm>
#include <utility>

namespace papilio::core {

void Agreement::handle_round(std::uint64_t epoch, std::span<const PeerId> members) {
  expected_epoch_ = epoch;
  expected_.assign(members.begin(), members.end());
  std::erase(expected_, self_);
}

void Agreement::handle_own(std::uint64_t epoch, std::uint64_t digest) {
  if (own_ && epoch < own_->epoch) return;
  if (own_ && epoch > own_->epoch && state_.epoch != own_->epoch) judge();  // with what is known by now
  own_ = Told{epoch, digest};
  if (everybody_told()) judge();
}

void Agreement::handle_peer(const PeerId& peer, std::uint64_t epoch, std::uint64_t digest) {
  const auto found =
      std::find_if(members_.begin(), members_.end(), [&](const Member& member) { return member.peer == peer; });
  if (found == members_.end()) {
    members_.push_back({.peer = peer, .latest = {epoch, digest}, .before = std::nullopt});
  } else if (epoch == found->latest.epoch) {
    if (found->latest.digest == digest) return;
    found->latest.digest = digest;
  } else if (epoch > found->latest.epoch) {
    found->before = std::exchange(found->latest, Told{epoch, digest});
  } else {
    return;
  }
  if (own_ && everybody_told()) judge();
}

void Agreement::handle_peer_left(const PeerId& peer) {
  const std::size_t left = std::erase_if(members_, [&](const Member& member) { return member.peer == peer; });
  if (left + std::erase(expected_, peer) > 0 && own_ && everybody_told()) judge();
}

const Agreement::Told* Agreement::at(const Member& member, std::uint64_t epoch) {
  if (member.latest.epoch == epoch) return &member.latest;
  return member.before && member.before->epoch == epoch ? &*member.before : nullptr;
}

// Those that came through the round, and those that told of the epoch before; who is further behind waits for state.
bool Agreement::everybody_told() const {
  const auto has_told = [&](const Member& member) {
    return member.latest.epoch > own_->epoch || at(member, own_->epoch) != nullptr;
  };
  if (expected_epoch_ == own_->epoch) {
    for (const PeerId& peer : expected_) {
      const auto is_that = [&](const Member& member) { return member.peer == peer && has_told(member); };
      if (std::none_of(members_.begin(), members_.end(), is_that)) return false;
    }
  }
  return std::all_of(members_.begin(), members_.end(),
                     [&](const Member& member) { return member.latest.epoch + 1 < own_->epoch || has_told(member); });
}

void Agreement::judge() {
  std::vector<std::pair<PeerId, std::uint64_t>> told{{self_, own_->digest}};
  for (const Member& member : members_) {
    if (const Told* const digest = at(member, own_->epoch)) told.emplace_back(member.peer, digest->digest);
  }
  const auto holders = [&](std::uint64_t digest) {
    return std::count_if(told.begin(), told.end(), [&](const auto& each) { return each.second == digest; });
  };
  const auto is_of_most = [&](const auto& each) { return 2 * holders(each.second) > std::ssize(told); };
  const auto most = std::find_if(told.begin(), told.end(), is_of_most);
  const std::uint64_t right = most != told.end() ? most->second : own_->digest;

  AgreementState next{.epoch = own_->epoch,
                      .told = static_cast<std::uint32_t>(told.size()),
                      .differing = static_cast<std::uint32_t>(std::ssize(told) - holders(own_->digest)),
                      .in_sync = most != told.end() && own_->digest == right,
                      .since = state_.since,
                      .out_of_sync = {}};
  for (const auto& [peer, digest] : told) {
    if (digest != right) next.out_of_sync.push_back(peer);
  }
  std::sort(next.out_of_sync.begin(), next.out_of_sync.end());
  if (next.in_sync != state_.in_sync || next.out_of_sync != state_.out_of_sync) {
    next.since = next.epoch;
    changed_ = true;
  }
  state_ = std::move(next);
}

std::optional<AgreementState> Agreement::poll_change() {
  if (!std::exchange(changed_, false)) return std::nullopt;
  return state_;
}

}  // namespace papilio::core
