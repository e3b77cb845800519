#include "engine/base/units.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "engine/base/random.hpp"

namespace papilio {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();

template <typename T>
void expect_error_about(const Result<T>& result, const std::string& text, const std::string& example) {
  ASSERT_FALSE(result.ok()) << text;
  EXPECT_EQ(result.error().kind, ErrorKind::usage);
  EXPECT_NE(result.error().message.find("'" + text + "'"), std::string::npos) << result.error().message;
  EXPECT_NE(result.error().message.find(example), std::string::npos) << result.error().message;
}

TEST(Units, SizesArePowersOf1024) {
  EXPECT_EQ(parse_size("0").value(), 0U);
  EXPECT_EQ(parse_size("512").value(), 512U);
  EXPECT_EQ(parse_size("512B").value(), 512U);
  EXPECT_EQ(parse_size("64K").value(), 65536U);
  EXPECT_EQ(parse_size("64KiB").value(), 65536U);
  EXPECT_EQ(parse_size("1M").value(), 1048576U);
  EXPECT_EQ(parse_size("1.5G").value(), 1610612736U);
  EXPECT_EQ(parse_size("2T").value(), 2199023255552U);
  EXPECT_EQ(parse_size("0.0001K").value(), 0U);
}

TEST(Units, SizesAtTheEdge) {
  EXPECT_EQ(parse_size("18446744073709551615").value(), kLargest);
  expect_error_about(parse_size("18446744073709551616"), "18446744073709551616", "64K");
  EXPECT_EQ(parse_size("16777215T").value(), 16777215ULL << 40U);
  expect_error_about(parse_size("16777216T"), "16777216T", "64K");
  expect_error_about(parse_size("99999999999999999999T"), "99999999999999999999T", "too large");
  expect_error_about(parse_size("100000000000000000000000"), "100000000000000000000000", "too large");
}

TEST(Units, WrongSizesAreNamed) {
  for (const char* text : {"", "K", "-1", "+1", " 1M", "1M ", "1 M", "1X", "1KB", "1k", "1.", ".5M", "1.2.3", "0x10",
                           "1e6", "nan", "inf", "1M2"}) {
    expect_error_about(parse_size(text), text, "64K, 1M");
  }
}

TEST(Units, TimesNeedTheirUnit) {
  EXPECT_EQ(parse_duration("0").value(), seconds(0));
  EXPECT_EQ(parse_duration("7ns").value(), nanoseconds(7));
  EXPECT_EQ(parse_duration("100us").value(), microseconds(100));
  EXPECT_EQ(parse_duration("250ms").value(), milliseconds(250));
  EXPECT_EQ(parse_duration("2s").value(), seconds(2));
  EXPECT_EQ(parse_duration("0.3s").value(), milliseconds(300));
  EXPECT_EQ(parse_duration("5m").value(), minutes(5));
  EXPECT_EQ(parse_duration("1h").value(), hours(1));
  EXPECT_EQ(parse_duration("9223372036854775807ns").value(), Duration::max());
  expect_error_about(parse_duration("9223372036854775808ns"), "9223372036854775808ns", "too large");
  for (const char* text : {"", "2", "-2s", "2 s", "s", "2sec", "2M", "1:30"}) {
    expect_error_about(parse_duration(text), text, "250ms, 2s");
  }
}

TEST(Units, RatesAreBitsPerSecondInPowersOf1000) {
  EXPECT_EQ(parse_rate("0").value(), 0U);
  EXPECT_EQ(parse_rate("9600bps").value(), 9600U);
  EXPECT_EQ(parse_rate("64Kbps").value(), 64'000U);
  EXPECT_EQ(parse_rate("200Mbps").value(), 200'000'000U);
  EXPECT_EQ(parse_rate("2.5Gbps").value(), 2'500'000'000U);
  for (const char* text : {"", "200", "200M", "200MBps", "200mbps", "-1Mbps", "Mbps"}) {
    expect_error_about(parse_rate(text), text, "200Mbps");
  }
}

TEST(Units, ExactFormsAreReadBackToTheSameValue) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(65536), "64K");
  EXPECT_EQ(format_size(65537), "65537");
  EXPECT_EQ(format_duration(milliseconds(250)), "250ms");
  EXPECT_EQ(format_duration(seconds(0)), "0s");
  EXPECT_EQ(format_duration(milliseconds(-1500)), "-1500ms");
  EXPECT_EQ(format_rate(200'000'000), "200Mbps");
  EXPECT_EQ(format_rate(0), "0bps");

  Random random(1);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t value = random.next() >> random.below(64);
    EXPECT_EQ(parse_size(format_size(value)).value(), value);
    EXPECT_EQ(parse_rate(format_rate(value)).value(), value);
    const Duration duration(static_cast<Duration::rep>(value >> 1U));
    EXPECT_EQ(parse_duration(format_duration(duration)).value(), duration);
  }
}

TEST(Units, FormsForPeople) {
  EXPECT_EQ(human_size(0), "0 B");
  EXPECT_EQ(human_size(1023), "1023 B");
  EXPECT_EQ(human_size(1024), "1.00 KiB");
  EXPECT_EQ(human_size(1.5 * 1024 * 1024), "1.50 MiB");
  EXPECT_EQ(human_size(1023.9 * 1024), "1.00 MiB");
  EXPECT_EQ(human_duration(seconds(0)), "0 s");
  EXPECT_EQ(human_duration(microseconds(12'345)), "12.3 ms");
  EXPECT_EQ(human_duration(nanoseconds(999'900)), "1.00 ms");
  EXPECT_EQ(human_duration(seconds(90)), "90.0 s");
  EXPECT_EQ(human_duration(minutes(90)), "90.0 min");
  EXPECT_EQ(human_rate(191e6), "191 Mbit/s");
  EXPECT_EQ(human_rate(1e9), "1.00 Gbit/s");
}

// Whatever a user types: an answer, never a crash, and errors quote the text.
TEST(Units, AnyTextGetsAnAnswer) {
  static constexpr std::string_view kAlphabet = "0123456789.KMGTBibpsmunh+- e";
  Random random(2);
  for (int i = 0; i < 100'000; ++i) {
    std::string text;
    for (std::uint64_t length = random.below(30); length > 0; --length)
      text += kAlphabet[random.below(kAlphabet.size())];
    for (const Error& error : {parse_size(text).ok() ? Error{} : parse_size(text).error(),
                               parse_duration(text).ok() ? Error{} : parse_duration(text).error(),
                               parse_rate(text).ok() ? Error{} : parse_rate(text).error()}) {
      if (error.message.empty()) continue;
      EXPECT_EQ(error.message.rfind("'" + text + "'", 0), 0U) << error.message;
    }
  }
}

}  // namespace
}  // namespace papilio
