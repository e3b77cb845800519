// Which patience a node accepts: each constant just inside its bounds and just outside.
#include "engine/node/patience.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace papilio::node {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::StartsWith;

struct Case {
  std::string names;  // what the error begins with
  std::function<void(RoundPatience&)> inside, outside;
};

std::vector<Case> cases() {
  return {
      {"stall-grace", [](auto& p) { p.members.lateness.stall_grace = seconds(2); },
       [](auto& p) { p.members.lateness.stall_grace = seconds(0); }},
      {"stall-grace: ", [](auto& p) { p.members.lateness.first_shard_grace = hours(24); },
       [](auto& p) { p.members.lateness.stall_grace = seconds(-1); }},
      {"first-shard-grace", [](auto& p) { p.members.lateness.first_shard_grace = seconds(2); },
       [](auto& p) { p.members.lateness.first_shard_grace = milliseconds(1999); }},
      {"first-shard-grace", [](auto& p) { p.members.lateness.first_shard_grace = hours(24); },
       [](auto& p) { p.members.lateness.first_shard_grace = hours(24) + milliseconds(1); }},
      {"minority-patience", [](auto& p) { p.members.lateness.minority_patience = seconds(0); },
       [](auto& p) { p.members.lateness.minority_patience = milliseconds(-1); }},
      {"window", [](auto& p) { p.members.lateness.window = seconds(4); },
       [](auto& p) { p.members.lateness.window = milliseconds(3999); }},
      {"slack", [](auto& p) { p.members.lateness.slack = 1; }, [](auto& p) { p.members.lateness.slack = 0.99; }},
      {"slack", [](auto& p) { p.members.lateness.slack = 1e6; }, [](auto& p) { p.members.lateness.slack = 1.1e6; }},
      {"mads", [](auto& p) { p.members.lateness.mads = 0; }, [](auto& p) { p.members.lateness.mads = -0.1; }},
      {"lag-floor", [](auto& p) { p.members.lateness.lag_floor = milliseconds(2001); },
       [](auto& p) { p.members.lateness.lag_floor = seconds(2); }},
      {"lag-ceiling", [](auto& p) { p.members.lateness.lag_ceiling = seconds(3); },
       [](auto& p) { p.members.lateness.lag_ceiling = milliseconds(2999); }},
      {"minimum-rate", [](auto& p) { p.members.lateness.minimum_rate_bytes_per_s = 0; },
       [](auto& p) { p.members.lateness.minimum_rate_bytes_per_s = -1; }},
      {"announced-margin", [](auto& p) { p.members.lateness.announced_margin = 1; },
       [](auto& p) { p.members.lateness.announced_margin = 0.9; }},
      {"waiting-share", [](auto& p) { p.members.lateness.waiting_share = 1; },
       [](auto& p) { p.members.lateness.waiting_share = 1.1; }},
      {"tick", [](auto& p) { p.members.lateness.tick = milliseconds(250); },
       [](auto& p) { p.members.lateness.tick = milliseconds(251); }},
      {"pulse-interval", [](auto& p) { p.pulse_interval = milliseconds(1); },
       [](auto& p) { p.pulse_interval = milliseconds(0); }},
      {"pulse-interval", [](auto& p) { p.pulse_interval = milliseconds(250); },
       [](auto& p) { p.pulse_interval = milliseconds(251); }},
      {"resume-grace", [](auto& p) { p.members.resume_grace = milliseconds(200); },
       [](auto& p) { p.members.resume_grace = milliseconds(199); }},
      {"linger-floor", [](auto& p) { p.members.resume_grace = milliseconds(1166); },
       [](auto& p) { p.members.resume_grace = milliseconds(1167); }},
      {"resume-grace", [](auto& p) { p.members.resume_grace = 2 * p.members.lateness.tick; },
       [](auto& p) { p.members.resume_grace = p.members.lateness.tick; }},
      {"linger-floor", [](auto& p) { p.members.linger_floor = seconds(2); },
       [](auto& p) { p.members.linger_floor = milliseconds(1999); }},
      {"linger-fraction", [](auto& p) { p.members.linger_fraction = 0; },
       [](auto& p) { p.members.linger_fraction = std::numeric_limits<double>::quiet_NaN(); }},
      {"reduce-by-fraction", [](auto& p) { p.reduce_by_fraction = 0.001; }, [](auto& p) { p.reduce_by_fraction = 0; }},
      {"settle-by-fraction", [](auto& p) { p.settle_by_fraction = 0.6; }, [](auto& p) { p.settle_by_fraction = 0.59; }},
      {"settle-by-fraction", [](auto& p) { p.settle_by_fraction = 0.999; }, [](auto& p) { p.settle_by_fraction = 1; }},
  };
}

TEST(RoundPatience, TheDefaultsAreGood) { EXPECT_TRUE(check(RoundPatience()).ok()); }

TEST(RoundPatience, EveryBoundHasTwoSides) {
  for (const Case& each : cases()) {
    RoundPatience good, bad;
    each.inside(good);
    each.outside(bad);
    EXPECT_TRUE(check(good).ok()) << each.names << ": " << check(good).error().message;
    ASSERT_FALSE(check(bad).ok()) << each.names;
    EXPECT_THAT(check(bad).error().message, StartsWith(each.names));
    EXPECT_EQ(check(bad).error().kind, ErrorKind::usage);
  }
}

struct RosterCase {
  std::string names;
  std::function<void(RosterPatience&)> inside, outside;
};

TEST(RosterPatience, EveryBoundHasTwoSides) {
  EXPECT_TRUE(check(RosterPatience()).ok());
  const std::vector<RosterCase> cases = {
      {"arrival-grace", [](auto& p) { p.agreement.arrival_grace = milliseconds(1); },
       [](auto& p) { p.agreement.arrival_grace = seconds(0); }},
      {"propose-grace", [](auto& p) { p.agreement.propose_grace = hours(24); },
       [](auto& p) { p.agreement.propose_grace = hours(24) + milliseconds(1); }},
      {"ack-grace", [](auto& p) { p.agreement.ack_grace = milliseconds(1); },
       [](auto& p) { p.agreement.ack_grace = seconds(-1); }},
      {"lease: '1999ms'", [](auto& p) { p.agreement.lease = seconds(2); },
       [](auto& p) { p.agreement.lease = milliseconds(1999); }},
      {"settle-grace", [](auto& p) { p.agreement.settle_grace = milliseconds(1); },
       [](auto& p) { p.agreement.settle_grace = seconds(0); }},
      {"inclusion-patience", [](auto& p) { p.agreement.inclusion_patience = milliseconds(1); },
       [](auto& p) { p.agreement.inclusion_patience = seconds(0); }},
      {"attempts-at-once", [](auto& p) { p.agreement.attempts_at_once = 1; },
       [](auto& p) { p.agreement.attempts_at_once = 0.9; }},
      {"attempts-at-once", [](auto& p) { p.agreement.attempts_at_once = 1e6; },
       [](auto& p) { p.agreement.attempts_at_once = std::numeric_limits<double>::quiet_NaN(); }},
      {"attempt-refill", [](auto& p) { p.agreement.attempt_refill = milliseconds(1); },
       [](auto& p) { p.agreement.attempt_refill = seconds(0); }},
      {"report-interval", [](auto& p) { p.report_interval = seconds(5); },
       [](auto& p) { p.report_interval = seconds(0); }},
      {"silent-after", [](auto& p) { p.silent_after = seconds(2); },
       [](auto& p) { p.silent_after = milliseconds(1999); }},
  };
  for (const RosterCase& each : cases) {
    RosterPatience good, bad;
    each.inside(good);
    each.outside(bad);
    EXPECT_TRUE(check(good).ok()) << each.names << ": " << check(good).error().message;
    ASSERT_FALSE(check(bad).ok()) << each.names;
    EXPECT_THAT(check(bad).error().message, StartsWith(each.names));
    EXPECT_EQ(check(bad).error().kind, ErrorKind::usage);
  }
}

// What a round with little room makes of good constants is good, too: the core takes no others.
TEST(RoundPatience, ShortRoundsKeepTheBounds) {
  for (const Case& each : cases()) {
    RoundPatience good;
    each.inside(good);
    for (const Duration timeout :
         {milliseconds(10), milliseconds(10'000), milliseconds(15'000), milliseconds(60'000)}) {
      EXPECT_TRUE(core::check(scaled(good.members.lateness, room_for_graces(timeout))).ok()) << each.names;
    }
  }
}

TEST(RoundPatience, RoomForGraces) {
  EXPECT_EQ(room_for_graces(seconds(20)), 1);
  EXPECT_EQ(room_for_graces(seconds(3600)), 1);
  EXPECT_EQ(room_for_graces(seconds(15)), 0.75);
  EXPECT_EQ(room_for_graces(seconds(1)), 0.5);
}

}  // namespace
}  // namespace papilio::node
