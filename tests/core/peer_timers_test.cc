#include "engine/core/peer_timers.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "tests/core/fluid_group.hpp"
#include "tests/seeds.hpp"

namespace papilio::core {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMegabyte = 1'000'000;

// Four peers of member 0, each of which owes 4 MB contributions and 4 MB averages, asked about at every tick.
class PeerTimersTest : public ::testing::Test {
 protected:
  void begin(std::uint32_t members, double rate = 0, std::uint64_t contribution = 4 * kMegabyte,
             std::uint64_t average = 4 * kMegabyte) {
    lateness_.emplace(config_, members, 0, start_);
    members_ = members;
    for (MemberIndex i = 0; i < members; ++i) lateness_->expect(i, contribution, average, rate);
  }

  // Ticks until `until`, and at every tick tells each member's bytes; the verdicts of all ticks.
  template <typename Bytes>
  std::vector<LateMember> play(Duration until, Bytes bytes_of) {
    std::vector<LateMember> found;
    while (now_ < start_ + until) {
      now_ += config_.tick;
      for (MemberIndex i = 1; i < members_; ++i) {
        const std::int64_t bytes = bytes_of(i);
        if (bytes > 0) lateness_->handle_bytes(i, now_, static_cast<std::uint64_t>(bytes));
        if (bytes == 0) lateness_->handle_heard(i, now_);  // a pulse
      }
      for (const LateMember& late : lateness_->judge(now_)) {
        found.push_back(late);
        found_at_.push_back(now_ - start_);
        if (cut_off_) lateness_->handle_gone(late.member);
      }
    }
    return found;
  }

  static constexpr std::int64_t kSilent = -1;
  static constexpr std::int64_t kPulse = 0;

  LatenessConfig config_;
  std::optional<Lateness> lateness_;
  std::uint32_t members_ = 0;
  bool cut_off_ = true;
  TimePoint start_{seconds(1000)};
  TimePoint now_ = start_;
  std::vector<Duration> found_at_;
};

// ---- the configuration

TEST_F(PeerTimersTest, DefaultConfigurationIsSound) { EXPECT_TRUE(check(LatenessConfig{}).ok()); }

TEST_F(PeerTimersTest, WrongConfigurationsAreNamed) {
  const auto error_of = [](auto change) {
    LatenessConfig config;
    change(config);
    const Status status = check(config);
    return status ? std::string("no error") : status.error().message;
  };
  const auto expect_named = [&](const char* name, auto change) {
    EXPECT_EQ(error_of(change).rfind(std::string(name) + " is ", 0), 0U) << name << ": " << error_of(change);
  };
  expect_named("stall_grace", [](LatenessConfig& config) { config.stall_grace = Duration::zero(); });
  expect_named("first_shard_grace", [](LatenessConfig& config) { config.first_shard_grace = seconds(1); });
  expect_named("minority_patience", [](LatenessConfig& config) { config.minority_patience = seconds(-1); });
  expect_named("window", [](LatenessConfig& config) { config.window = seconds(3); });
  expect_named("slack", [](LatenessConfig& config) { config.slack = 0.5; });
  expect_named("mads", [](LatenessConfig& config) { config.mads = std::numeric_limits<double>::quiet_NaN(); });
  expect_named("lag_floor", [](LatenessConfig& config) { config.lag_floor = seconds(2); });
  expect_named("lag_ceiling", [](LatenessConfig& config) { config.lag_ceiling = seconds(2); });
  expect_named("minimum_rate_bytes_per_s", [](LatenessConfig& config) { config.minimum_rate_bytes_per_s = -1; });
  expect_named("announced_margin", [](LatenessConfig& config) { config.announced_margin = 0; });
  expect_named("waiting_share", [](LatenessConfig& config) { config.waiting_share = 0; });
  expect_named("tick", [](LatenessConfig& config) { config.tick = seconds(1); });
}

// ---- what the timers show

TEST_F(PeerTimersTest, ReportShowsWhatIsKnown) {
  begin(3);
  TimerReport report = lateness_->report(1, now_);
  EXPECT_LT(report.round_trip_ms, 0);
  EXPECT_LT(report.first_shard_ms, 0);

  lateness_->handle_round_trip(1, milliseconds(80));
  lateness_->handle_round_trip(1, milliseconds(160));
  lateness_->handle_bytes(1, start_ + milliseconds(250), kMegabyte);
  lateness_->handle_bytes(1, start_ + milliseconds(950), kMegabyte);
  lateness_->handle_bytes(1, start_ + milliseconds(1250), kMegabyte);
  lateness_->handle_finished(1, start_ + milliseconds(1250));
  report = lateness_->report(1, start_ + seconds(9));
  EXPECT_DOUBLE_EQ(report.round_trip_ms, 90);
  EXPECT_DOUBLE_EQ(report.first_shard_ms, 250);
  EXPECT_DOUBLE_EQ(report.longest_gap_ms, 700);
  EXPECT_DOUBLE_EQ(report.rate_bytes_per_s, 3e6);
}

TEST(RateWindowTest, ForgetsWhatIsOlderThanItsBuckets) {
  RateWindow window;
  const Duration bucket = milliseconds(250);
  const TimePoint begin{seconds(50)};
  for (int i = 0; i < 100; ++i) window.add(bucket, begin + i * milliseconds(250), 10);
  const TimePoint now = begin + 99 * milliseconds(250);
  EXPECT_EQ(window.bytes_since(bucket, now - seconds(4), now), 170U);
  EXPECT_EQ(window.bytes_since(bucket, now - seconds(1), now), 50U);
  EXPECT_EQ(window.bytes_since(bucket, now - seconds(40), now), 170U) << "older buckets are gone, not read twice";
  window.add(bucket, now + seconds(60), 7);
  EXPECT_EQ(window.bytes_since(bucket, now, now + seconds(60)), 7U);
  EXPECT_EQ(window.bytes_since(bucket, now + seconds(59), now + seconds(70)), 7U);
}

// ---- first shard

TEST_F(PeerTimersTest, NeverStartingIsLateAfterTheGraceAndNotBefore) {
  begin(5);
  const auto bytes_of = [](MemberIndex i) { return i == 2 ? kSilent : i == 3 ? kPulse : 50'000; };
  auto found = play(config_.first_shard_grace, [&](MemberIndex i) { return i == 3 ? 50'000 : bytes_of(i); });
  EXPECT_TRUE(found.empty());
  found = play(config_.first_shard_grace + 2 * config_.tick, bytes_of);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
  EXPECT_EQ(found[0].reason, LateReason::first_shard);
  EXPECT_TRUE(found[0].sure);
}

TEST_F(PeerTimersTest, PulsesAreNoShards) {
  begin(5);
  const auto found = play(config_.first_shard_grace + 2 * config_.tick,
                          [](MemberIndex i) { return i == 2 ? kPulse : std::int64_t{50'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].reason, LateReason::first_shard);
}

TEST_F(PeerTimersTest, StartingBeforeMostOthersBlamesNobody) {
  begin(5);
  const auto found = play(config_.first_shard_grace + config_.minority_patience,
                          [](MemberIndex i) { return i == 1 ? std::int64_t{20'000} : kSilent; });
  EXPECT_TRUE(found.empty());
  const auto later = play(config_.first_shard_grace + config_.minority_patience + 2 * config_.tick,
                          [](MemberIndex i) { return i == 1 ? std::int64_t{20'000} : kSilent; });
  ASSERT_EQ(later.size(), 3U);
  for (const LateMember& late : later) EXPECT_FALSE(late.sure);
}

TEST_F(PeerTimersTest, StartingLateIsNoLag) {
  begin(5);
  const auto found = play(seconds(7), [this](MemberIndex i) {
    return i == 4 && now_ < start_ + milliseconds(4800) ? kSilent : std::int64_t{120'000};
  });
  EXPECT_TRUE(found.empty());
  EXPECT_LT(lateness_->report(4, now_).lag_ms, 500);
}

// ---- silence

TEST_F(PeerTimersTest, SilenceIsLateAfterTheGraceAndNotBefore) {
  begin(5, 0, 40 * kMegabyte);
  const auto steady = [](MemberIndex) { return std::int64_t{50'000}; };
  const auto frozen = [](MemberIndex i) { return i == 3 ? kSilent : std::int64_t{50'000}; };
  EXPECT_TRUE(play(seconds(1), steady).empty());
  EXPECT_TRUE(play(seconds(1) + config_.stall_grace, frozen).empty());
  EXPECT_TRUE(play(seconds(1) + config_.stall_grace + 2 * config_.tick, steady).empty()) << "one late gap is no fault";
  play(seconds(9), steady);
  const auto found = play(seconds(9) + config_.stall_grace + 2 * config_.tick, frozen);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 3U);
  EXPECT_EQ(found[0].reason, LateReason::stalled);
  EXPECT_TRUE(found[0].sure);
  EXPECT_GT(found[0].silent, config_.stall_grace);
  EXPECT_LE(found[0].silent, config_.stall_grace + 2 * config_.tick);
}

TEST_F(PeerTimersTest, SilentWhereOnlyItsWordIsOwedIsLateAndWhereNothingIsOwedIsNot) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  lateness_->set_owes(2, Owes::done, now_);
  lateness_->handle_finished(3, now_);
  const auto found = play(seconds(4), [](MemberIndex i) { return i == 2 || i == 3 ? kSilent : std::int64_t{50'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
  EXPECT_EQ(found[0].reason, LateReason::stalled);
}

TEST_F(PeerTimersTest, OneOfTwoPeersIsFound) {
  begin(3);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  const auto found = play(seconds(4), [](MemberIndex i) { return i == 1 ? kSilent : std::int64_t{50'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_TRUE(found[0].sure) << "this node and the other peer are the majority";
}

TEST_F(PeerTimersTest, SilenceOfMostIsThisNodesOwnLine) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  const auto one_talks = [](MemberIndex i) { return i == 1 ? std::int64_t{50'000} : kSilent; };
  EXPECT_TRUE(play(seconds(1) + config_.stall_grace + config_.minority_patience, one_talks).empty());
  const auto found = play(seconds(1) + config_.stall_grace + config_.minority_patience + 2 * config_.tick, one_talks);
  ASSERT_EQ(found.size(), 3U);
  for (const LateMember& late : found) {
    EXPECT_EQ(late.reason, LateReason::stalled);
    EXPECT_FALSE(late.sure);
  }
}

TEST_F(PeerTimersTest, LineThatComesBackBlamesNobody) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  EXPECT_TRUE(play(seconds(6), [](MemberIndex) { return kSilent; }).empty());
  EXPECT_TRUE(play(seconds(12), [](MemberIndex) { return std::int64_t{50'000}; }).empty());
}

TEST_F(PeerTimersTest, BetweenTwoNobodyCanTellWhoseFaultItIs) {
  begin(2);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  const auto found = play(seconds(1) + config_.stall_grace + 2 * config_.tick, [](MemberIndex) { return kSilent; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].reason, LateReason::stalled);
  EXPECT_FALSE(found[0].sure);
  EXPECT_NE(describe(found[0]).find("own line"), std::string::npos);
}

TEST_F(PeerTimersTest, ProcessThatWasFrozenItselfBlamesNobody) {
  for (const Duration frozen : {Duration(milliseconds(1500)), Duration(seconds(60))}) {
    now_ = start_;
    begin(5);
    play(seconds(1), [](MemberIndex i) { return i == 1 ? std::int64_t{10'000} : std::int64_t{50'000}; });
    // 1.4 s without member 4, then this process stands still.
    EXPECT_TRUE(
        play(milliseconds(2400), [](MemberIndex i) { return i == 4 ? kSilent : std::int64_t{50'000}; }).empty());
    now_ += frozen;
    EXPECT_TRUE(lateness_->judge(now_).empty());
    const Duration thawed = now_ - start_;
    EXPECT_TRUE(play(thawed + milliseconds(1900), [](MemberIndex i) { return i == 4 ? kSilent : std::int64_t{50'000}; })
                    .empty())
        << "clocks start anew";
    const auto found =
        play(thawed + milliseconds(2200), [](MemberIndex i) { return i == 4 ? kSilent : std::int64_t{50'000}; });
    ASSERT_EQ(found.size(), 1U) << "and run again";
    EXPECT_EQ(found[0].member, 4U);
  }
}

TEST_F(PeerTimersTest, FrozenBeforeTheFirstShardsBlamesNobody) {
  begin(5);
  now_ += seconds(60);
  EXPECT_TRUE(lateness_->judge(now_).empty());
  EXPECT_TRUE(play(seconds(64), [](MemberIndex i) { return i == 1 ? kSilent : std::int64_t{50'000}; }).empty());
  EXPECT_EQ(play(milliseconds(65'300), [](MemberIndex i) { return i == 1 ? kSilent : std::int64_t{50'000}; }).size(),
            1U);
}

TEST_F(PeerTimersTest, HeldBackPeersClocksStandStill) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  lateness_->handle_held_back(2, true);
  const auto without_2 = [](MemberIndex i) { return i == 2 ? kSilent : std::int64_t{50'000}; };
  EXPECT_TRUE(play(seconds(9), without_2).empty());
  EXPECT_LT(lateness_->report(2, now_).lag_ms, 500);
  lateness_->handle_held_back(2, false);
  EXPECT_TRUE(play(seconds(9) + config_.stall_grace, without_2).empty());
  EXPECT_EQ(play(seconds(9) + config_.stall_grace + 2 * config_.tick, without_2).size(), 1U);
}

TEST_F(PeerTimersTest, GoneMembersAreNotJudged) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  lateness_->handle_gone(2);
  EXPECT_TRUE(play(seconds(9), [](MemberIndex i) { return i == 2 ? kSilent : std::int64_t{50'000}; }).empty());
}

TEST_F(PeerTimersTest, StallsOfThisNodesLineAndOfAPeersAreNotAddedUp) {
  begin(5);
  play(seconds(1), [](MemberIndex) { return std::int64_t{50'000}; });
  play(milliseconds(2500), [](MemberIndex) { return kSilent; });
  const auto found = play(milliseconds(4300), [](MemberIndex i) { return i == 2 ? kSilent : std::int64_t{50'000}; });
  EXPECT_TRUE(found.empty()) << describe(found[0]);
  EXPECT_EQ(play(milliseconds(5200), [](MemberIndex i) { return i == 2 ? kSilent : std::int64_t{50'000}; }).size(), 1U);
}

// ---- rates and lags

TEST_F(PeerTimersTest, CrawlingIsFoundByItsLag) {
  begin(5);
  const auto found = play(seconds(5), [](MemberIndex i) { return i == 2 ? 3'000 : std::int64_t{300'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
  EXPECT_EQ(found[0].reason, LateReason::slow);
  EXPECT_TRUE(found[0].sure);
  EXPECT_LE(found_at_[0], config_.lag_floor + milliseconds(500));
  EXPECT_LT(found[0].rate_bytes_per_s, found[0].expected_bytes_per_s);
}

TEST_F(PeerTimersTest, DrippingIsFound) {
  begin(5);
  const auto found = play(seconds(6), [this](MemberIndex i) {
    const bool drops = (now_ - start_) % seconds(1) == Duration::zero();
    return i != 2 ? std::int64_t{300'000} : drops ? std::int64_t{65'536} : kPulse;
  });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
  EXPECT_EQ(found[0].reason, LateReason::slow);
}

TEST_F(PeerTimersTest, LineThatIsSlowForAllBlamesNobody) {
  begin(5, 25e6);
  EXPECT_TRUE(play(seconds(60), [](MemberIndex i) { return 10'000 + 1'000 * std::int64_t{i}; }).empty());
}

TEST_F(PeerTimersTest, SlownessOfMostIsThisNodesOwnLine) {
  begin(5, 0, 40 * kMegabyte);
  const auto found = play(seconds(20), [this](MemberIndex i) {
    return now_ < start_ + seconds(2) ? 300'000 : std::int64_t{i == 1 ? 100'000 : 500};
  });
  EXPECT_TRUE(found.empty()) << describe(found[0]);
}

TEST_F(PeerTimersTest, WithinWhatItQualifiedForIsNotSlow) {
  begin(5, 0);
  lateness_->expect(2, 4 * kMegabyte, kMegabyte, 400e3);  // 100 kB/s for each of its four lines
  lateness_->expect(0, 0, 0, 25e6);
  const auto found = play(seconds(60), [](MemberIndex i) { return i == 2 ? 5'000 : std::int64_t{300'000}; });
  EXPECT_TRUE(found.empty()) << describe(found[0]);
}

TEST_F(PeerTimersTest, JustInsideTheSlackPassesJustOutsideFails) {
  for (const bool inside : {true, false}) {
    now_ = start_;
    begin(5, 4e6, 400 * kMegabyte);  // 1 MB/s per line: a quarter of it is enough, and so is a quarter of the median
    const std::int64_t per_tick = inside ? 27'000 : 22'000;
    const auto found = play(seconds(30), [&](MemberIndex i) { return i == 3 ? per_tick : std::int64_t{100'000}; });
    EXPECT_EQ(found.empty(), inside);
  }
}

TEST_F(PeerTimersTest, OneGapUnderTheGraceIsNoFaultAtAnyTime) {
  for (Duration at = milliseconds(100); at < seconds(7); at += milliseconds(300)) {
    now_ = start_;
    begin(5, 4e6);
    const auto found = play(seconds(12), [&](MemberIndex i) {
      const bool gap = now_ >= start_ + at && now_ < start_ + at + milliseconds(1900);
      return i == 2 && gap ? kSilent : std::int64_t{i == 2 ? 60'000 : 100'000};
    });
    EXPECT_TRUE(found.empty()) << "gap at " << to_seconds(at) << ": " << describe(found[0]);
  }
}

TEST_F(PeerTimersTest, MinimumRateHoldsEvenForThoseWhoAnnouncedNothing) {
  config_.lag_floor = config_.lag_ceiling = seconds(1000);
  begin(5);
  const auto found = play(seconds(12), [](MemberIndex i) { return i == 2 ? 6'000 : std::int64_t{7'000}; });
  ASSERT_EQ(found.size(), 1U) << "250 kB/s shared among four lines";
  EXPECT_EQ(found[0].member, 2U);
}

TEST_F(PeerTimersTest, OnlyPeerIsHeldToWhatItAnnounced) {
  begin(2, 4e6, 40 * kMegabyte);
  EXPECT_TRUE(play(seconds(10), [](MemberIndex) { return std::int64_t{110'000}; }).empty());
  const auto found = play(seconds(20), [](MemberIndex) { return std::int64_t{20'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].reason, LateReason::slow);
  EXPECT_FALSE(found[0].sure);
}

TEST_F(PeerTimersTest, LimitWidensWithTheSpreadUpToTheCeiling) {
  begin(8, 0, 400 * kMegabyte);
  play(seconds(5), [](MemberIndex i) { return std::int64_t{40'000} + 10'000 * std::int64_t{i}; });
  const double early = lateness_->report(1, now_).limit_ms;
  play(seconds(50), [](MemberIndex i) { return std::int64_t{40'000} + 10'000 * std::int64_t{i}; });
  EXPECT_GT(lateness_->report(1, now_).limit_ms, early);
  EXPECT_LE(lateness_->report(1, now_).limit_ms, to_milliseconds(config_.lag_ceiling));
}

// ---- waiting for others

// All contribute at once; then member 2 sends no averages while the others do.
class WaitingTest : public PeerTimersTest {
 protected:
  void contribute(double rate, MemberIndex laggard = 99) {
    begin(5, rate);
    play(seconds(1), [&](MemberIndex i) { return i == laggard ? 4'000 : std::int64_t{400'000}; });
    for (MemberIndex i = 1; i < members_; ++i) {
      if (i != laggard) lateness_->set_owes(i, Owes::averages_only, now_);
    }
  }
};

TEST_F(WaitingTest, ReducerThatWaitsForNobodyIsLate) {
  contribute(0);
  lateness_->handle_waiting(2, 0);
  const auto found = play(seconds(7), [](MemberIndex i) { return i == 2 ? kPulse : std::int64_t{400'000}; });
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found[0].member, 2U);
  EXPECT_EQ(found[0].reason, LateReason::slow);
  EXPECT_LE(found_at_[0], seconds(1) + config_.window + milliseconds(500)) << "once its rate shows it";
}

TEST_F(WaitingTest, ReducersThatWaitForASlowContributorAreNotLate) {
  contribute(0, 4);
  for (MemberIndex i = 1; i < 4; ++i) lateness_->handle_waiting(i, coverage_of(4));
  lateness_->handle_waiting(1, 0);
  // Member 1 has all it needs, the others wait for member 4.
  const auto found = play(seconds(6), [](MemberIndex i) {
    return i == 1 ? 400'000 : i == 4 ? std::int64_t{4'000} : kPulse;
  });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 4U);
}

TEST_F(WaitingTest, ReducersMayWaitForAContributorAsLongAsItIsNotLate) {
  contribute(0, 4);
  for (MemberIndex i = 1; i < 4; ++i) lateness_->handle_waiting(i, i == 3 ? coverage_of(4) : 0);
  // Slow, but no more than one may be that announced nothing: it needs 20 s for what it contributes.
  const auto found = play(seconds(20), [](MemberIndex i) { return i == 3 ? kPulse : i == 4 ? 200'000 : 400'000; });
  EXPECT_TRUE(found.empty()) << describe(found[0]);
}

TEST_F(WaitingTest, WhoWaitedIsJudgedByWhatItSendsAfterwards) {
  contribute(0);
  lateness_->handle_finished(4, now_);
  lateness_->handle_waiting(2, coverage_of(4));
  const auto bytes_of = [this](MemberIndex i) {
    const Duration time = now_ - start_;
    return i != 2 ? std::int64_t{400'000} : time < seconds(7) ? kPulse : time < milliseconds(8900) ? kSilent : 400'000;
  };
  EXPECT_TRUE(play(seconds(7), bytes_of).empty());
  lateness_->handle_waiting(2, 0);
  const auto found = play(seconds(11), bytes_of);
  EXPECT_TRUE(found.empty()) << describe(found[0]);
}

TEST_F(WaitingTest, WhoeverHoldsUpMostOthersBlamesNobody) {
  contribute(0);
  for (MemberIndex i = 1; i < members_; ++i) lateness_->handle_waiting(i, i < 4 ? coverage_of(0) : 0);
  const auto found = play(seconds(30), [](MemberIndex i) {
    return i == 4 ? std::int64_t{400'000} : i == 3 ? kPulse : std::int64_t{200'000};
  });
  EXPECT_TRUE(found.empty()) << describe(found[0]);
}

TEST_F(WaitingTest, NobodyBeginsToWaitAgain) {
  contribute(0);
  lateness_->handle_finished(4, now_);
  lateness_->handle_waiting(2, 0);
  lateness_->handle_waiting(2, coverage_of(4));
  const auto found = play(seconds(6), [](MemberIndex i) { return i == 2 ? kPulse : std::int64_t{400'000}; });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
}

TEST_F(WaitingTest, WhoClaimsToWaitForAMemberThatIsThroughGetsMoreTimeButNotForever) {
  contribute(0);
  lateness_->handle_finished(4, now_);
  lateness_->handle_waiting(2, coverage_of(4));
  const auto bytes_of = [](MemberIndex i) { return i == 2 ? kPulse : std::int64_t{400'000}; };
  EXPECT_TRUE(play(seconds(1) + 3 * config_.lag_floor, bytes_of).empty());
  const auto found = play(seconds(2) + 3 * config_.lag_floor, bytes_of);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].member, 2U);
}

TEST_F(WaitingTest, TwoThatClaimToWaitForEachOtherAreBothLate) {
  contribute(0);
  lateness_->handle_waiting(2, coverage_of(3));
  lateness_->handle_waiting(3, coverage_of(2));
  const auto found = play(seconds(12), [](MemberIndex i) { return i == 2 || i == 3 ? kPulse : std::int64_t{400'000}; });
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].member + found[1].member, 5U);
}

TEST_F(WaitingTest, WaitingIsBelievedAsLongAsTheRoundWasAnnouncedToTake) {
  // 20 MB in all, 4 MB of them each reducer's: 32 MB each way at 4 MB/s take 8 s.
  contribute(4e6);
  lateness_->handle_finished(4, now_);
  lateness_->handle_waiting(2, coverage_of(4));
  const auto bytes_of = [](MemberIndex i) { return i == 2 ? kPulse : std::int64_t{400'000}; };
  EXPECT_TRUE(play(seconds(12), bytes_of).empty());
  EXPECT_EQ(play(seconds(14) + 3 * config_.lag_floor, bytes_of).size(), 1U);
}

TEST_F(WaitingTest, NewDutiesStartTheClocksAnew) {
  contribute(0);
  play(seconds(3), [](MemberIndex) { return std::int64_t{200'000}; });
  for (MemberIndex i = 1; i < members_; ++i) lateness_->set_owes(i, Owes::done, now_);
  lateness_->expect(3, 4 * kMegabyte, 8 * kMegabyte, 0);  // it takes over a part
  EXPECT_EQ(lateness_->owes(3), Owes::averages_only);
  const auto others_pulse = [](MemberIndex) { return kPulse; };
  EXPECT_TRUE(play(seconds(6), others_pulse).empty());
  lateness_->handle_waiting(3, 0);
  EXPECT_EQ(play(seconds(10), others_pulse).size(), 1U) << "and are not stopped";
}

// ---- whole groups

struct Draw {
  FluidConfig config;
  std::vector<FluidMember> members;
};

double mbit(double rate) { return rate * 125e3; }

// A group of `count`, each within 70% to 120% of what it announced (times jitter), with one stall under the grace each
// way now and then, starting within a second or, now and then, three. `announced`: unequal lines that are known;
// otherwise all about alike, and nothing is known.
Draw draw_honest(Random& random, std::uint32_t count, bool announced) {
  static constexpr std::array<double, 6> kRates = {20, 50, 100, 200, 500, 1000};
  Draw draw;
  // Both ends of one line may stall, but in a group of two nothing shows that there were two stalls.
  enum class Stalls : std::uint8_t { up, down, both };
  const auto stalls = static_cast<Stalls>(random.below(count == 2 ? 2 : 3));
  double slowest = 1e18;
  for (std::uint32_t i = 0; i < count; ++i) {
    FluidMember member;
    const double rate = mbit(announced ? kRates[random.below(kRates.size())] : 100 * (1 + random.uniform()));
    slowest = std::min(slowest, rate);
    member.announced_bytes_per_s = announced ? rate : 0;
    member.up_bytes_per_s = rate * (0.7 + 0.5 * random.uniform());
    member.down_bytes_per_s = rate * (0.7 + 0.5 * random.uniform());
    if (random.chance(0.3)) member.down_bytes_per_s *= 1 + 9 * random.uniform();  // more down than up
    member.starts_s = random.chance(0.1) ? 3 * random.uniform() : random.uniform();
    if (random.chance(0.3)) {
      member.up_stall_at_s = 12 * random.uniform();
      member.up_stall_s = (stalls == Stalls::up ? 1.7 : 1.2) * random.uniform();
    }
    if (random.chance(0.3)) {
      member.down_stall_at_s = 12 * random.uniform();
      member.down_stall_s = (stalls == Stalls::down ? 1.7 : 1.2) * random.uniform();
    }
    if (stalls == Stalls::up) member.down_stall_at_s = 1e9;
    if (stalls == Stalls::down) member.up_stall_at_s = 1e9;
    draw.members.push_back(member);
  }
  // A round of 0.3 to 8 s on the slowest line, both phases.
  const double round_s = 0.3 + 7.7 * random.uniform() * random.uniform();
  draw.config.elements = static_cast<std::uint64_t>(slowest * round_s / 2 / 4) + 1000;
  draw.config.averages_first = random.chance(0.5);
  draw.config.chunk_bytes = choose_chunk_bytes(draw.config.elements, count, slowest);
  draw.config.step_s = count > 16 ? 0.05 : 0.025;
  return draw;
}

std::string text_of(const Finding& finding) {
  return std::to_string(finding.by) + " finds " + std::to_string(finding.late.member) + " at " +
         std::to_string(finding.at_s) + " s: " + describe(finding.late);
}

std::uint32_t draw_count(Random& random, std::uint32_t least) {
  const double kind = random.uniform();
  if (kind < 0.7) return least + static_cast<std::uint32_t>(random.below(5));
  if (kind < 0.98) return 7 + static_cast<std::uint32_t>(random.below(10));
  return 17 + static_cast<std::uint32_t>(random.below(48));
}

// ROUND.md, promise 5: a peer within the limits that it qualified for is never banned.
TEST(LatenessSimulation, HonestGroupsBlameNobody) {
  for (std::uint64_t seed = 0; seed < seeds(10'000); ++seed) {
    Random random(seed);
    const std::uint32_t count = draw_count(random, 2);
    Draw draw = draw_honest(random, count, random.chance(0.7));
    FluidGroup group(draw.config, draw.members, seed);
    group.run();
    ASSERT_TRUE(group.findings().empty())
        << "seed " << seed << ", " << count << " members: " << text_of(group.findings()[0]);
    ASSERT_TRUE(group.is_over()) << "seed " << seed;
  }
}

// A group like the above whose member 0 has a fault soon after the start, in a round long enough for it to matter.
// It takes no stalls: what is asked is how long a fault takes to find, and stalls put that off.
struct Faulty {
  Draw draw;
  FluidMember& culprit() { return draw.members[0]; }
};

Faulty draw_faulty(Random& random, std::uint32_t count, Fault fault, bool announced) {
  Faulty faulty{draw_honest(random, count, announced)};
  for (FluidMember& member : faulty.draw.members) {
    member.starts_s = random.uniform();
    member.up_stall_s = member.down_stall_s = 0;
    if (announced) member.announced_bytes_per_s = mbit(200);
    member.up_bytes_per_s = member.down_bytes_per_s = mbit(200) * (0.9 + 0.2 * random.uniform());
  }
  faulty.draw.config.elements = 16U << 20U;  // 64 MiB
  faulty.draw.config.chunk_bytes = choose_chunk_bytes(faulty.draw.config.elements, count, mbit(200));
  faulty.culprit().fault = fault;
  faulty.culprit().fault_at_s = 1.2 + 0.5 * random.uniform();  // all have begun
  return faulty;
}

// Every member that is waiting for member 0 finds it within the time from the fault (or its own start), nobody finds
// anybody else, and the round ends without it.
void expect_found(Fault fault, LateReason reason, double within_s, std::uint32_t largest = 64) {
  double longest_s = 0;
  for (std::uint64_t seed = 0; seed < seeds(200); ++seed) {
    Random random(seed);
    const std::uint32_t count = seed % 40 == 0 ? largest : 3 + static_cast<std::uint32_t>(random.below(10));
    const bool announced = random.chance(0.5);
    Faulty faulty = draw_faulty(random, count, fault, announced);
    FluidGroup group(faulty.draw.config, faulty.draw.members, seed);
    group.run();
    const std::string which = "seed " + std::to_string(seed) + ", " + std::to_string(count) + " members, " +
                              (announced ? "announced" : "unannounced");
    for (const Finding& finding : group.findings()) {
      if (finding.by == 0 && fault == Fault::slow_receiver) continue;  // what it believes itself is of no account
      ASSERT_EQ(finding.late.member, 0U) << which << ": " << text_of(finding);
      ASSERT_EQ(finding.late.reason, reason) << which << ": " << text_of(finding);
      ASSERT_TRUE(finding.late.sure) << which << ": " << text_of(finding);
      const double since_s =
          fault == Fault::never_starts ? faulty.draw.members[finding.by].starts_s : faulty.culprit().fault_at_s;
      longest_s = std::max(longest_s, finding.at_s - since_s);
      ASSERT_LE(finding.at_s - since_s, within_s) << which << ": " << text_of(finding);
    }
    ASSERT_TRUE(group.is_over()) << which;
    ASSERT_FALSE(group.findings().empty()) << which;
  }
  ::testing::Test::RecordProperty("longest_ms", static_cast<int>(longest_s * 1e3));
}

// Lag and rate, one after the other in the worst case.
const double kSlowSeconds = to_seconds(LatenessConfig{}.lag_floor + LatenessConfig{}.window);

double ticks_s(int ticks) { return ticks * to_seconds(LatenessConfig{}.tick); }

TEST(LatenessSimulation, NeverStartingIsFound) {
  expect_found(Fault::never_starts, LateReason::first_shard,
               to_seconds(LatenessConfig{}.first_shard_grace) + ticks_s(2));
}

TEST(LatenessSimulation, FrozenIsFound) {
  expect_found(Fault::frozen, LateReason::stalled, to_seconds(LatenessConfig{}.stall_grace) + ticks_s(2));
}

// Up to a window passes until the rate no longer shows what came before the fault.
TEST(LatenessSimulation, CrawlIsFound) { expect_found(Fault::crawl, LateReason::slow, kSlowSeconds); }

// Among 64 members at 200 Mbit/s one shard per second is a sixth of a member's share: slow, but no drip.
TEST(LatenessSimulation, DripIsFound) { expect_found(Fault::drip, LateReason::slow, kSlowSeconds + 1, 12); }

TEST(LatenessSimulation, SlowReducerIsFound) { expect_found(Fault::slow_reducer, LateReason::slow, 15); }

TEST(LatenessSimulation, SlowReceiverIsFound) { expect_found(Fault::slow_receiver, LateReason::slow, 30); }

}  // namespace
}  // namespace papilio::core
