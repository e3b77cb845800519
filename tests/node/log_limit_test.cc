// Few lines about many strangers.
#include "engine/node/log_limit.hpp"

#include <gtest/gtest.h>

namespace papilio::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{seconds(1000)};

TEST(LogLimit, AFewLinesPerKindAndIntervalThenACount) {
  LogLimit limit({.lines = 2, .interval = seconds(10)});
  EXPECT_EQ(limit.next_deadline(), kNever);
  EXPECT_TRUE(limit.admit(kStart, "idle"));
  EXPECT_TRUE(limit.admit(kStart + seconds(1), "idle"));
  EXPECT_EQ(limit.next_deadline(), kNever) << "nothing was left out";
  EXPECT_FALSE(limit.admit(kStart + seconds(2), "idle"));
  EXPECT_FALSE(limit.admit(kStart + seconds(9), "idle"));
  EXPECT_TRUE(limit.admit(kStart + seconds(9), "noise")) << "another kind";
  EXPECT_EQ(limit.next_deadline(), kStart + seconds(10));
  EXPECT_FALSE(limit.poll(kStart + seconds(10) - milliseconds(1)).has_value());

  const auto left_out = limit.poll(kStart + seconds(10));
  ASSERT_TRUE(left_out.has_value());
  EXPECT_EQ(left_out->kind, "idle");
  EXPECT_EQ(left_out->lines, 2U);
  EXPECT_FALSE(limit.poll(kStart + seconds(10)).has_value()) << "told once";
  EXPECT_EQ(limit.next_deadline(), kNever);
  EXPECT_TRUE(limit.admit(kStart + seconds(10), "idle")) << "the next interval";
}

TEST(LogLimit, ALateCountLosesNothing) {
  LogLimit limit({.lines = 1, .interval = seconds(10)});
  EXPECT_TRUE(limit.admit(kStart, "idle"));
  EXPECT_FALSE(limit.admit(kStart + seconds(1), "idle"));
  EXPECT_FALSE(limit.admit(kStart + seconds(30), "idle")) << "not before the count was told";
  EXPECT_EQ(limit.poll(kStart + seconds(30))->lines, 2U);
  EXPECT_TRUE(limit.admit(kStart + seconds(30), "idle"));
}

TEST(LogLimit, AtTheEndAllIsTold) {
  LogLimit limit({.lines = 1, .interval = seconds(10)});
  EXPECT_TRUE(limit.admit(kStart, "idle"));
  EXPECT_FALSE(limit.admit(kStart, "idle"));
  EXPECT_EQ(limit.poll(kNever)->lines, 1U);
  EXPECT_FALSE(limit.poll(kNever).has_value());
}

}  // namespace
}  // namespace papilio::node
