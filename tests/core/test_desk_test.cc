// The judge's desk: who is tested, who waits, who is sent away, with each limit from both sides; and on drawn visitors,
// what has to hold whatever they do.
#include "engine/core/test_desk.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::core {
namespace {

using Kind = TestDesk::Kind;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr TimePoint kStart{std::chrono::hours(5)};

PeerId peer(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
  id.bytes[31] = 1;
  return id;
}

AddressBlock host(std::uint64_t number) {
  return AddressBlock::of_ipv4({10, 0, static_cast<std::uint8_t>(number >> 8U), static_cast<std::uint8_t>(number)});
}

class TestDeskTest : public ::testing::Test {
 protected:
  TestDesk::Answer ask(std::uint64_t who) { return ask(who, who, host(who)); }
  TestDesk::Answer ask(TestDesk::Ticket ticket, std::uint64_t who, const AddressBlock& from) {
    return desk_.handle_request(now_, ticket, peer(who), from);
  }
  // One whole test of 10 s.
  void test(std::uint64_t who) {
    ASSERT_EQ(ask(who).kind, Kind::queued);
    ASSERT_EQ(desk_.poll_begin(now_), who);
    now_ += seconds(10);
    desk_.handle_gone(now_, who);
  }

  TestDeskConfig config_;
  TestDesk desk_{config_};
  TimePoint now_ = kStart;
};

// One that took long is no reason to guess so ever after.
TEST_F(TestDeskTest, TheGuessFollowsTheLastTest) {
  const auto test_for = [&](TestDesk::Ticket ticket, Duration length) {
    EXPECT_EQ(ask(ticket).kind, TestDesk::Kind::queued);
    EXPECT_EQ(desk_.poll_begin(now_), ticket);
    now_ += length;
    desk_.handle_gone(now_, ticket);
  };
  test_for(1, seconds(60));
  ask(2);
  EXPECT_EQ(desk_.poll_begin(now_), 2);
  ask(3);
  EXPECT_EQ(desk_.wait_of(now_, 3), seconds(60));
  now_ += seconds(2);
  desk_.handle_gone(now_, 2);
  EXPECT_EQ(desk_.poll_begin(now_), 3);
  ask(4);
  EXPECT_EQ(desk_.wait_of(now_, 4), config_.test_length);
}

TEST_F(TestDeskTest, TheFirstBeginsAtOnceTheNextWaitItsTurn) {
  EXPECT_EQ(ask(1).position, 0);
  EXPECT_EQ(desk_.poll_begin(now_), 1);
  EXPECT_EQ(desk_.poll_begin(now_), std::nullopt);
  EXPECT_EQ(ask(2).position, 1);
  EXPECT_EQ(ask(3).position, 2);
  EXPECT_EQ(desk_.position_of(3), 2);
  now_ += seconds(4);
  EXPECT_EQ(desk_.wait_of(now_, 2), seconds(6));
  EXPECT_EQ(desk_.wait_of(now_, 3), seconds(16));
  EXPECT_EQ(desk_.poll_begin(now_), std::nullopt);
  desk_.handle_gone(now_, 1);
  EXPECT_EQ(desk_.poll_begin(now_), 2);
  EXPECT_EQ(desk_.position_of(3), 1);
  desk_.handle_gone(now_, 2);
  EXPECT_EQ(desk_.poll_begin(now_), 3);
  EXPECT_EQ(desk_.waiting(), 0);
}

TEST_F(TestDeskTest, WhoLeavesWhileWaitingIsPassedOver) {
  ask(1);
  EXPECT_EQ(desk_.poll_begin(now_), 1);
  ask(2);
  ask(3);
  desk_.handle_gone(now_, 2);
  EXPECT_EQ(desk_.position_of(3), 1);
  desk_.handle_gone(now_, 1);
  EXPECT_EQ(desk_.poll_begin(now_), 3);
}

TEST_F(TestDeskTest, SoManyWaitAndNoMore) {
  ask(0);
  EXPECT_EQ(desk_.poll_begin(now_), 0);
  for (std::uint64_t who = 1; who <= config_.waiting; ++who) EXPECT_EQ(ask(who).kind, Kind::queued);
  const TestDesk::Answer answer = ask(99);
  EXPECT_EQ(answer.kind, Kind::busy);
  EXPECT_EQ(answer.retry_after, seconds(10) * (config_.waiting + 1));
  desk_.handle_gone(now_, 3);
  EXPECT_EQ(ask(99).kind, Kind::queued);
}

TEST_F(TestDeskTest, SoManyFromOneAddressAndNoMore) {
  for (std::uint64_t who = 1; who <= config_.per_address; ++who) EXPECT_EQ(ask(who, who, host(201)).kind, Kind::queued);
  EXPECT_EQ(ask(98, 98, host(201)).kind, Kind::busy);
  EXPECT_EQ(ask(99, 99, host(202)).kind, Kind::queued);
}

TEST_F(TestDeskTest, OnePeerIsHereOnce) {
  EXPECT_EQ(ask(1, 7, host(201)).kind, Kind::queued);
  EXPECT_EQ(ask(2, 7, host(202)).kind, Kind::already_here);
  EXPECT_EQ(desk_.poll_begin(now_), 1);
  EXPECT_EQ(ask(2, 7, host(202)).kind, Kind::already_here);
}

TEST_F(TestDeskTest, APeerIsTestedAgainAfterTheIntervalNotBefore) {
  test(1);
  TestDesk::Answer answer = ask(1);
  EXPECT_EQ(answer.kind, Kind::too_often);
  EXPECT_EQ(answer.retry_after, config_.every - seconds(10));
  now_ = kStart + config_.every - Duration(1);
  EXPECT_EQ(ask(1, 1, host(203)).kind, Kind::too_often);
  now_ = kStart + config_.every;
  EXPECT_EQ(ask(1).kind, Kind::queued);
}

TEST_F(TestDeskTest, AnAddressIsTestedSoOftenUnderWhateverNames) {
  for (std::uint64_t who = 1; who <= config_.per_address; ++who) {
    ASSERT_EQ(ask(who, who, host(201)).kind, Kind::queued);
    ASSERT_EQ(desk_.poll_begin(now_), who);
    now_ += seconds(10);
    desk_.handle_gone(now_, who);
  }
  EXPECT_EQ(ask(50, 50, host(201)).kind, Kind::too_often);
  EXPECT_EQ(ask(51, 51, host(202)).kind, Kind::queued);
  now_ = kStart + config_.every;
  EXPECT_EQ(ask(50, 50, host(201)).kind, Kind::queued);
}

TEST_F(TestDeskTest, SoManyAnHourAndNoMore) {
  for (std::uint64_t who = 0; who < config_.per_hour; ++who) test(1000 + who);
  const TestDesk::Answer answer = ask(1);
  EXPECT_EQ(answer.kind, Kind::too_often);
  EXPECT_EQ(answer.retry_after, std::chrono::hours(1) - seconds(10) * config_.per_hour);
  EXPECT_EQ(desk_.remembered(), config_.per_hour);
  now_ = kStart + std::chrono::hours(1) - Duration(1);
  EXPECT_EQ(ask(1).kind, Kind::too_often);
  now_ = kStart + std::chrono::hours(1);
  EXPECT_EQ(ask(1).kind, Kind::queued);
}

TEST_F(TestDeskTest, SeveralAtOnceIfItIsToldSo) {
  config_.at_once = 3;
  TestDesk desk(config_);
  for (std::uint64_t who = 1; who <= 4; ++who) {
    EXPECT_EQ(desk.handle_request(now_, who, peer(who), host(who)).kind, Kind::queued);
  }
  EXPECT_EQ(desk.poll_begin(now_), 1);
  EXPECT_EQ(desk.poll_begin(now_), 2);
  EXPECT_EQ(desk.poll_begin(now_), 3);
  EXPECT_EQ(desk.poll_begin(now_), std::nullopt);
  desk.handle_gone(now_, 2);
  EXPECT_EQ(desk.poll_begin(now_), 4);
}

TEST_F(TestDeskTest, ADeskWithoutChairsStillTests) {
  config_.waiting = 0;
  TestDesk desk(config_);
  EXPECT_EQ(desk.handle_request(now_, 1, peer(1), host(1)).kind, Kind::queued);
  EXPECT_EQ(desk.poll_begin(now_), 1);
  EXPECT_EQ(desk.handle_request(now_, 2, peer(2), host(2)).kind, Kind::busy);
  desk.handle_gone(now_, 1);
  EXPECT_EQ(desk.handle_request(now_, 2, peer(2), host(2)).kind, Kind::queued);
}

// Visitors who come, wait, leave and come back as they like. Whatever they do: never more at once than allowed, nobody
// more often than allowed, and what is remembered is bounded.
TEST(TestDeskRandom, LimitsHoldWhateverVisitorsDo) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Random random(seed);
    TestDeskConfig config{.at_once = 1 + random.below(3),
                          .waiting = random.below(5),
                          .per_address = 1 + random.below(3),
                          .every = seconds(random.below(120)),
                          .per_hour = 1 + random.below(60)};
    TestDesk desk(config);
    TimePoint now = kStart;
    std::map<TestDesk::Ticket, std::pair<PeerId, AddressBlock>> here;
    std::set<TestDesk::Ticket> tested;
    std::map<PeerId, TimePoint> last;
    std::vector<TimePoint> starts;
    TestDesk::Ticket next = 1;
    for (int step = 0; step < 2000; ++step) {
      now += Duration(static_cast<std::int64_t>(random.below(5'000'000'000)));
      if (random.chance(0.6)) {
        const auto id = peer(random.below(20));
        const AddressBlock from = host(random.below(6));
        const auto answer = desk.handle_request(now, next, id, from);
        if (answer.kind == Kind::queued) here[next++] = {id, from};
        if (answer.kind == Kind::too_often) {
          EXPECT_GT(answer.retry_after, Duration::zero());
        }
      } else if (!here.empty()) {
        auto gone = here.begin();
        std::advance(gone, static_cast<std::ptrdiff_t>(random.below(here.size())));
        desk.handle_gone(now, gone->first);
        tested.erase(gone->first);
        here.erase(gone);
      }
      while (const auto ticket = desk.poll_begin(now)) {
        ASSERT_TRUE(here.contains(*ticket)) << seed;
        const PeerId id = here[*ticket].first;
        if (last.contains(id)) {
          ASSERT_GE(now - last[id], config.every) << seed;
        }
        last[id] = now;
        tested.insert(*ticket);
        starts.push_back(now);
      }
      ASSERT_LE(tested.size(), config.at_once) << seed;
      ASSERT_EQ(tested.size(), desk.being_tested()) << seed;
      ASSERT_EQ(here.size(), desk.waiting() + desk.being_tested()) << seed;
      ASSERT_LE(desk.remembered(), config.per_hour) << seed;
      const auto recent = std::count_if(starts.begin(), starts.end(),
                                        [&](TimePoint start) { return now - start < std::chrono::hours(1); });
      ASSERT_LE(static_cast<std::size_t>(recent), config.per_hour) << seed;
    }
    EXPECT_FALSE(starts.empty()) << seed;
  }
}

}  // namespace
}  // namespace papilio::core
