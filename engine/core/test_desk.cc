#include "engine/core/test_desk.hpp"

#include <algorithm>

#include "engine/base/assert.hpp"

namespace papilio::core {
namespace {

constexpr Duration kHour = std::chrono::hours(1);

}  // namespace

TestDesk::TestDesk(const TestDeskConfig& config) : config_(config), test_length_(config.test_length) {
  PAPILIO_ASSERT(config.at_once > 0 && config.per_address > 0 && config.per_hour > 0);
  PAPILIO_ASSERT_VALUES(config.every <= kHour, config.every.count(), kHour.count());
}

void TestDesk::forget(TimePoint now) {
  while (!history_.empty() && now - history_.front().time >= kHour) history_.pop_front();
}

// What is left of the time that this peer, this address or everybody has to wait for the next test to begin.
std::optional<Duration> TestDesk::too_soon_by(TimePoint now, const PeerId& peer, const AddressBlock& address) const {
  Duration left{};
  std::size_t from_address = 0, this_hour = 0;
  for (auto each = history_.rbegin(); each != history_.rend(); ++each) {
    const Duration ago = now - each->time;
    const bool another = each->address == address && ++from_address == config_.per_address;
    if ((each->peer == peer || another) && ago < config_.every) left = std::max(left, config_.every - ago);
    if (ago < kHour && ++this_hour == config_.per_hour) left = std::max(left, kHour - ago);
  }
  return left > Duration::zero() ? std::optional(left) : std::nullopt;
}

Duration TestDesk::wait_for(TimePoint now, std::size_t ahead) const {
  if (ahead < config_.at_once) return Duration::zero();
  // The oldest test that is under way ends first; after it, one test length for each `at_once` ahead.
  Duration first = test_length_;
  for (const Visitor& each : tested_) {
    first = std::min(first, std::max(Duration::zero(), test_length_ - (now - each.began)));
  }
  const auto further = static_cast<std::int64_t>((ahead - config_.at_once) / config_.at_once);
  return first + further * test_length_;
}

TestDesk::Answer TestDesk::handle_request(TimePoint now, Ticket ticket, const PeerId& peer,
                                          const AddressBlock& address) {
  forget(now);
  std::size_t from_address = 0;
  bool here = false;
  const auto look_at = [&](const Visitor& other) {
    PAPILIO_ASSERT_VALUES(other.ticket != ticket, ticket, other.ticket);
    here = here || other.peer == peer;
    from_address += other.address == address ? 1 : 0;
  };
  std::for_each(waiting_.begin(), waiting_.end(), look_at);
  std::for_each(tested_.begin(), tested_.end(), look_at);
  const std::size_t ahead = waiting_.size() + tested_.size();
  if (here) return {.kind = Kind::already_here, .retry_after = wait_for(now, ahead)};
  if (const auto left = too_soon_by(now, peer, address)) return {.kind = Kind::too_often, .retry_after = *left};
  const bool room = waiting_.size() < config_.waiting || (waiting_.empty() && tested_.size() < config_.at_once);
  if (from_address >= config_.per_address || !room) {
    return {.kind = Kind::busy, .retry_after = std::max<Duration>(wait_for(now, ahead), std::chrono::seconds(1))};
  }
  waiting_.push_back({.ticket = ticket, .peer = peer, .address = address});
  return {.kind = Kind::queued, .position = ahead};
}

void TestDesk::handle_gone(TimePoint now, Ticket ticket) {
  std::erase_if(waiting_, [&](const Visitor& each) { return each.ticket == ticket; });
  const auto found =
      std::find_if(tested_.begin(), tested_.end(), [&](const Visitor& each) { return each.ticket == ticket; });
  if (found == tested_.end()) return;
  // The next one will take about as long. Tests that end early do not make the guess shorter: they are the exception.
  test_length_ = std::max(config_.test_length, now - found->began);
  tested_.erase(found);
}

std::optional<TestDesk::Ticket> TestDesk::poll_begin(TimePoint now) {
  if (waiting_.empty() || tested_.size() >= config_.at_once) return std::nullopt;
  forget(now);
  // Whoever waited while others from its address were tested, or while the hour filled up, waits on.
  const auto next = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const Visitor& each) { return !too_soon_by(now, each.peer, each.address); });
  if (next == waiting_.end()) return std::nullopt;
  Visitor visitor = std::move(*next);
  waiting_.erase(next);
  visitor.began = now;
  history_.push_back({.time = now, .peer = visitor.peer, .address = visitor.address});
  tested_.push_back(std::move(visitor));
  return tested_.back().ticket;
}

std::size_t TestDesk::position_of(Ticket ticket) const {
  const auto found =
      std::find_if(waiting_.begin(), waiting_.end(), [&](const Visitor& each) { return each.ticket == ticket; });
  return found == waiting_.end() ? 0 : static_cast<std::size_t>(found - waiting_.begin()) + tested_.size();
}

Duration TestDesk::wait_of(TimePoint now, Ticket ticket) const { return wait_for(now, position_of(ticket)); }

}  // namespace papilio::core
