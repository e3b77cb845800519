// A test as the judge counts it: what counts, what does not, and what ends it.
#include "engine/core/line_test.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::core {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kPayload = 32768;
constexpr TimePoint kBegin{std::chrono::hours(1)};

// A judge and a candidate on a line that carries a frame every so often, each way.
class Course {
 public:
  explicit Course(LineTestConfig config = {}, std::size_t flows = 2, Duration length = seconds(10))
      : test(config, flows, kPayload, kBegin, kBegin + length), flows_(flows) {}

  // Frames per second each way; what is sent down arrives `delay` later.
  double up_per_s = 100, down_per_s = 200;
  Duration delay = milliseconds(20);
  bool receipts = true;
  // Overrides what becomes of an arrival down: return false to keep its receipt back.
  bool withholds_in_warm_up = false;

  void run() {
    const Duration tick = milliseconds(1);
    for (now = kBegin; !test.is_over(); now += tick) step(tick);
  }

  void step(Duration tick) {
    while (const auto next = test.poll_step()) {
      steps.push_back(*next);
      stage_began = now;
    }
    const double share = to_seconds(tick);
    if (test.poll_ping(now, nonce)) pongs.push_back({now + round_trip, nonce++});
    while (!pongs.empty() && pongs.front().first <= now) {
      test.handle_pong(now, pongs.front().second);
      pongs.pop_front();
    }
    if (goes_up(test.stage())) up_debt += up_per_s * share;
    for (; up_debt >= 1; up_debt -= 1) test.handle_up(now, true);
    if (goes_down(test.stage())) down_debt += down_per_s * share;
    for (; down_debt >= 1 && test.may_send_down(); down_debt -= 1) {
      const std::size_t flow = next_flow++ % flows_;
      const std::uint64_t sequence = test.next_down(flow);
      test.begin_down(flow, 1000 * flow + sequence);
      test.handle_down_sent(flow);
      under_way.push_back({now + delay, {flow, sequence}});
    }
    while (!under_way.empty() && under_way.front().first <= now) {
      if (receipts) kept_back.push_back(under_way.front().second);
      under_way.pop_front();
    }
    const bool warming_up = goes_down(test.stage()) && !steps.empty() && now - stage_began <= steps.back().warm_up;
    if (!withholds_in_warm_up || !warming_up) {
      for (const auto& [flow, sequence] : kept_back) test.handle_receipt(now, flow, sequence, 1000 * flow + sequence);
      kept_back.clear();
    }
    if (now < test.next_deadline()) return;
    for (std::size_t flow = 0; flow < flows_; ++flow) {
      std::uint64_t bytes = 0;
      for (const auto& each : under_way) bytes += each.second.first == flow ? kPayload : 0;
      test.settle(flow, bytes);
    }
    test.handle_time(now);
  }

  LineTest test;
  TimePoint now = kBegin, stage_began = kBegin;
  std::vector<LineTest::Step> steps;
  Duration round_trip = milliseconds(40);

 private:
  std::size_t flows_;
  double up_debt = 0, down_debt = 0;
  std::size_t next_flow = 0;
  std::uint64_t nonce = 1;
  std::deque<std::pair<TimePoint, std::uint64_t>> pongs;
  std::deque<std::pair<TimePoint, std::pair<std::size_t, std::uint64_t>>> under_way;
  std::vector<std::pair<std::size_t, std::uint64_t>> kept_back;
};

double bps(double frames_per_s) { return frames_per_s * kPayload * 8; }

TEST(LineTestTest, MeasuresEachWayAloneAndAtOnce) {
  Course course;
  course.run();
  EXPECT_EQ(course.test.failure(), "");
  const PayloadRates& rates = course.test.rates();
  EXPECT_NEAR(rates.up_bps, bps(100), bps(1));
  EXPECT_NEAR(rates.down_bps, bps(200), bps(2));
  EXPECT_NEAR(rates.up_at_once_bps, bps(100), bps(1));
  EXPECT_NEAR(rates.down_at_once_bps, bps(200), bps(2));
  EXPECT_EQ(course.test.round_trips().median, milliseconds(40));
  EXPECT_GT(course.test.round_trips().count, 50);
}

TEST(LineTestTest, TakesTheTimeThatThereIs) {
  Course course({}, 4, seconds(5));
  course.run();
  EXPECT_LE(course.now, kBegin + seconds(5) + milliseconds(2));
  course.step(milliseconds(1));  // to hear of the end
  ASSERT_EQ(course.steps.size(), 5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(static_cast<std::size_t>(course.steps[i].stage), i);
}

// Drawn rates, delays and lengths: what comes out is what went through.
TEST(LineTestTest, DrawnLinesAreMeasuredRight) {
  Random random(7);
  for (int i = 0; i < 40; ++i) {
    Course course({}, 1 + random.below(8), milliseconds(3000 + static_cast<int>(random.below(9000))));
    course.up_per_s = 100 + random.uniform() * 3000;
    course.down_per_s = 100 + random.uniform() * 3000;
    course.delay = milliseconds(random.below(150));
    course.round_trip = milliseconds(1 + random.below(250));
    course.run();
    ASSERT_EQ(course.test.failure(), "");
    // Whole frames, at most one per flow and edge.
    const double up_slack = 0.01 + 20 / course.up_per_s, down_slack = 0.01 + 20 / course.down_per_s;
    EXPECT_NEAR(course.test.rates().up_bps / bps(course.up_per_s), 1, up_slack);
    EXPECT_NEAR(course.test.rates().down_bps / bps(course.down_per_s), 1, down_slack);
    EXPECT_EQ(course.test.round_trips().median, course.round_trip);
  }
}

TEST(LineTestTest, TheWarmUpDoesNotCount) {
  Course course;
  // Ten times as fast until the warm-up is over.
  while (!course.test.is_over()) {
    const bool warm = !course.steps.empty() && course.now - course.stage_began > course.steps.back().warm_up;
    course.up_per_s = warm ? 100 : 1000;
    course.step(milliseconds(1));
    course.now += milliseconds(1);
  }
  EXPECT_NEAR(course.test.rates().up_bps, bps(100), bps(3));
}

// The oldest trick: receive at leisure, hand the receipts in when they count.
TEST(LineTestTest, ReceiptsWithheldDuringTheWarmUpGainNothing) {
  Course course;
  course.withholds_in_warm_up = true;
  course.run();
  EXPECT_EQ(course.test.failure(), "");
  EXPECT_LE(course.test.rates().down_bps, bps(200) * 1.03);
  EXPECT_LE(course.test.rates().down_at_once_bps, bps(200) * 1.03);
}

TEST(LineTestTest, AWrongReceiptEndsIt) {
  for (int wrong = 0; wrong < 4; ++wrong) {
    Course course;
    course.receipts = false;
    while (course.test.stage() != TestStage::down) {
      course.step(milliseconds(1));
      course.now += milliseconds(1);
    }
    ASSERT_TRUE(course.test.may_send_down());
    course.test.begin_down(0, 77);
    course.test.begin_down(0, 78);
    switch (wrong) {
      case 0: course.test.handle_receipt(course.now, 0, 0, 76); break;   // a guess
      case 1: course.test.handle_receipt(course.now, 0, 1, 78); break;   // out of turn
      case 2: course.test.handle_receipt(course.now, 1, 0, 77); break;   // nothing was sent there
      case 3: course.test.handle_receipt(course.now, 99, 0, 77); break;  // no such flow
    }
    EXPECT_TRUE(course.test.is_over()) << wrong;
    EXPECT_NE(course.test.failure().find("receipt"), std::string::npos) << course.test.failure();
  }
}

TEST(LineTestTest, AReceiptCountsOnce) {
  Course course;
  while (course.test.stage() != TestStage::down) {
    course.step(milliseconds(1));
    course.now += milliseconds(1);
  }
  course.test.begin_down(0, 77);
  course.test.handle_receipt(course.now, 0, 0, 77);
  EXPECT_FALSE(course.test.is_over());
  course.test.handle_receipt(course.now, 0, 0, 77);
  EXPECT_TRUE(course.test.is_over());
}

TEST(LineTestTest, FillerThatIsNotTheJudgesEndsIt) {
  Course course;
  while (course.test.stage() != TestStage::up) {
    course.step(milliseconds(1));
    course.now += milliseconds(1);
  }
  course.test.handle_up(course.now, true);
  EXPECT_FALSE(course.test.is_over());
  course.test.handle_up(course.now, false);
  EXPECT_NE(course.test.failure().find("not the random data"), std::string::npos);
}

TEST(LineTestTest, AnswersToPingsHaveToBeTheirs) {
  Course course;
  EXPECT_TRUE(course.test.poll_ping(kBegin, 5));
  EXPECT_FALSE(course.test.poll_ping(kBegin + milliseconds(9), 6));
  EXPECT_TRUE(course.test.poll_ping(kBegin + milliseconds(10), 6));
  course.test.handle_pong(kBegin + milliseconds(11), 5);
  EXPECT_FALSE(course.test.is_over());
  course.test.handle_pong(kBegin + milliseconds(11), 7);
  EXPECT_TRUE(course.test.is_over());
}

TEST(LineTestTest, NoAnswerToPingsIsAFailure) {
  Course course;
  course.round_trip = seconds(30);
  course.run();
  EXPECT_NE(course.test.failure().find("ping"), std::string::npos) << course.test.failure();
}

TEST(LineTestTest, AStallEndsItFromEitherSide) {
  const LineTestConfig config;
  Course up;
  up.up_per_s = 0;
  up.run();
  EXPECT_NE(up.test.failure().find("nothing came up"), std::string::npos) << up.test.failure();
  EXPECT_EQ(up.now - up.stage_began, config.stall);
  Course down;
  down.receipts = false;
  down.run();
  EXPECT_NE(down.test.failure().find("no receipt"), std::string::npos) << down.test.failure();
  // One frame a little sooner than that each time is no stall.
  Course slow({}, 1, seconds(30));
  slow.up_per_s = slow.down_per_s = 1 / (to_seconds(config.stall) - 0.1);
  slow.run();
  EXPECT_EQ(slow.test.failure(), "");
}

TEST(LineTestTest, SoMuchIsPouredOutWithoutReceiptsAndNoMore) {
  LineTestConfig config;
  config.most_unreceipted_bytes = 10 * kPayload;
  Course course(config);
  course.receipts = false;
  while (course.test.stage() != TestStage::down) {
    course.step(milliseconds(1));
    course.now += milliseconds(1);
  }
  int sent = 0;
  for (; course.test.may_send_down(); ++sent) course.test.begin_down(0, 7);
  EXPECT_EQ(sent, 10);
  course.test.handle_receipt(course.now, 0, 0, 7);
  EXPECT_TRUE(course.test.may_send_down());
}

TEST(LineTestTest, ALoopThatSleptThroughAWindowMeasuresNothing) {
  Course course;
  course.now = kBegin + seconds(60);
  course.test.handle_time(course.now);
  EXPECT_NE(course.test.failure().find("too busy"), std::string::npos);
}

}  // namespace
}  // namespace papilio::core
