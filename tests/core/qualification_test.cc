// From counts to figures, and from figures to a verdict: each limit from both sides.
#include "engine/core/qualification.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::core {
namespace {

using std::chrono::milliseconds;

Duration ms(double value) { return from_seconds(value / 1e3); }

Qualification line(std::uint64_t up_bps, std::uint64_t down_bps, Duration round_trip) {
  Qualification figures;
  figures.up_bps = figures.up_at_once_bps = up_bps;
  figures.down_bps = figures.down_at_once_bps = down_bps;
  figures.round_trip_median = round_trip;
  return figures;
}

TEST(Shortfalls, EachLimitFromBothSides) {
  const LineRequirement asked{.up_bps = 100'000'000, .down_bps = 50'000'000, .round_trip = milliseconds(200)};
  const auto count = [&](const Qualification& figures) { return shortfalls(figures, asked, 0).size(); };
  EXPECT_EQ(count(line(100'000'000, 50'000'000, milliseconds(200))), 0);
  EXPECT_EQ(count(line(99'999'999, 50'000'000, milliseconds(200))), 1);
  EXPECT_EQ(count(line(100'000'000, 49'999'999, milliseconds(200))), 1);
  EXPECT_EQ(count(line(100'000'000, 50'000'000, milliseconds(200) + Duration(1))), 1);
  EXPECT_EQ(count(line(1, 1, std::chrono::seconds(1))), 3);
}

TEST(Shortfalls, TheMarginAsksForMore) {
  const LineRequirement asked{.up_bps = 100'000'000, .down_bps = 0, .round_trip = milliseconds(210)};
  EXPECT_TRUE(shortfalls(line(105'000'001, 0, milliseconds(200)), asked, 0.05).empty());
  EXPECT_EQ(shortfalls(line(104'999'999, 0, milliseconds(200)), asked, 0.05).size(), 1);
  EXPECT_EQ(shortfalls(line(105'000'001, 0, milliseconds(201)), asked, 0.05).size(), 1);
}

TEST(Hints, TellOfADirectionThatTheOtherTakesFrom) {
  Qualification figures = line(200'000'000, 100'000'000, milliseconds(1));
  figures.up_at_once_bps = static_cast<std::uint64_t>(200e6 * kAtOnceShare);
  EXPECT_TRUE(hints(figures).empty());
  figures.up_at_once_bps -= 1;
  ASSERT_EQ(hints(figures).size(), 1);
  EXPECT_NE(hints(figures)[0].find("up falls from 200 Mbit/s to 120 Mbit/s"), std::string::npos) << hints(figures)[0];
  figures.down_at_once_bps = 1;
  EXPECT_EQ(hints(figures).size(), 2);
  EXPECT_TRUE(shortfalls(figures, {}, 0).empty());  // no reason to refuse
}

TEST(Shortfalls, SayWhatWasMeasuredWhatIsAskedAndWhatToDo) {
  const LineRequirement asked;
  const auto reasons = shortfalls(line(95'000'000, 200'000'000, milliseconds(250)), asked, 0);
  ASSERT_EQ(reasons.size(), 2);
  for (const char* const word : {"up", "95.0 Mbit/s", "100 Mbit/s", "cable"}) {
    EXPECT_NE(reasons[0].find(word), std::string::npos) << reasons[0];
  }
  for (const char* const word : {"round trip", "250 ms", "200 ms", "nearer"}) {
    EXPECT_NE(reasons[1].find(word), std::string::npos) << reasons[1];
  }
}

TEST(RoundTrips, OfNoneOneAndTwo) {
  EXPECT_EQ(round_trip_figures({}).median, Duration::zero());
  const std::vector<Duration> one{ms(5)};
  EXPECT_EQ(round_trip_figures(one).median, ms(5));
  EXPECT_EQ(round_trip_figures(one).p99, ms(5));
  EXPECT_EQ(round_trip_figures(one).jitter, Duration::zero());
  const std::vector<Duration> two{ms(7), ms(5)};
  EXPECT_EQ(round_trip_figures(two).minimum, ms(5));
  EXPECT_EQ(round_trip_figures(two).median, ms(6));
  EXPECT_EQ(round_trip_figures(two).p99, ms(7));
  EXPECT_EQ(round_trip_figures(two).jitter, ms(2));
}

TEST(RoundTrips, JitterIsOfTheOrderNotOfTheSpread) {
  std::vector<Duration> rising, swinging;
  for (int i = 0; i < 100; ++i) rising.push_back(ms(i));
  for (int i = 0; i < 100; ++i) swinging.push_back(ms(i % 2 == 0 ? 0 : 99));
  EXPECT_EQ(round_trip_figures(rising).jitter, ms(1));
  EXPECT_EQ(round_trip_figures(swinging).jitter, ms(99));
}

// Against the definition, on drawn inputs.
TEST(RoundTrips, DrawnOnesHaveTheirRanks) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Duration> all(1 + random.below(300));
    for (Duration& each : all) each = Duration(static_cast<std::int64_t>(random.below(1000)));
    const RoundTripFigures figures = round_trip_figures(all);
    std::sort(all.begin(), all.end());
    EXPECT_EQ(figures.count, all.size());
    EXPECT_EQ(figures.minimum, all.front());
    const auto below = [&](Duration value) { return std::lower_bound(all.begin(), all.end(), value) - all.begin(); };
    const auto not_above = [&](Duration value) {
      return std::upper_bound(all.begin(), all.end(), value) - all.begin();
    };
    const auto count = static_cast<double>(all.size());
    EXPECT_LE(static_cast<double>(below(figures.median)), count / 2 + 1);
    EXPECT_GE(static_cast<double>(not_above(figures.median)), count / 2 - 1);
    EXPECT_GE(static_cast<double>(not_above(figures.p99)), 0.99 * count);
    EXPECT_LE(figures.median, figures.p99);
    EXPECT_LE(figures.p99, all.back());
  }
}

TEST(LineOverheadTest, CountsWhatTravelsBesideThePayload) {
  constexpr std::size_t kPayload = 32768, kHeader = 128;
  LineOverhead overhead;
  // Nothing is known of packets: payload and headers.
  EXPECT_DOUBLE_EQ(overhead.line_bytes(10 * kPayload, kPayload, kHeader), 10.0 * (kPayload + kHeader));
  overhead.encrypted = true;  // a record for the header, two for the payload
  EXPECT_DOUBLE_EQ(overhead.line_bytes(10 * kPayload, kPayload, kHeader), 10.0 * (kPayload + kHeader + 3 * 22));
  overhead.encrypted = false;
  overhead.segment_bytes = 1448;
  EXPECT_DOUBLE_EQ(overhead.line_bytes(kPayload, kPayload, kHeader), (kPayload + kHeader) * 1514.0 / 1448);
  overhead.packet_bytes = LineOverhead::kPacketBytesIpv6;
  overhead.segment_bytes = 1428;
  EXPECT_DOUBLE_EQ(overhead.line_bytes(kPayload, kPayload, kHeader), (kPayload + kHeader) * 1514.0 / 1428);
}

// Who asks for tiny packets does not look faster for it.
TEST(LineOverheadTest, ShortSegmentsGainNothing) {
  constexpr std::size_t kPayload = 32768, kHeader = 128;
  constexpr std::uint32_t kLeast = 1200;
  const auto factor = [](std::uint32_t segment_bytes) {
    const LineOverhead overhead{.segment_bytes = segment_bytes};
    return overhead.line_bytes(kPayload, kPayload, kHeader) / (kPayload + kHeader);
  };
  EXPECT_DOUBLE_EQ(factor(88), 1.055);
  EXPECT_DOUBLE_EQ(factor(kLeast - 1), factor(kLeast));
  EXPECT_LT(factor(kLeast + 1), factor(kLeast));
}

}  // namespace
}  // namespace papilio::core
