// Deadlines are data. The engine's time is a monotonic count of nanoseconds that the Io hands out, constant for one
// turn of the loop; nothing in the core can read a clock, so that a simulated run replays exactly.
#pragma once

#include <chrono>
#include <cstdint>

namespace papilio {

using Duration = std::chrono::nanoseconds;

// A clock type without now(): time points exist only where somebody handed them over.
struct EngineClock {
  using rep = Duration::rep;
  using period = Duration::period;
  using duration = Duration;
  using time_point = std::chrono::time_point<EngineClock>;
  static constexpr bool is_steady = true;
};
using TimePoint = EngineClock::time_point;

inline constexpr TimePoint kNever = TimePoint::max();

[[nodiscard]] constexpr double to_seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }
[[nodiscard]] constexpr double to_milliseconds(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}
[[nodiscard]] constexpr Duration from_seconds(double seconds) {
  return Duration(static_cast<std::int64_t>(seconds * 1e9));
}

// `time + wait` (not negative) without wrapping past kNever; `time` may be TimePoint::min(), long ago.
[[nodiscard]] constexpr TimePoint saturating_add(TimePoint time, Duration wait) {
  return time > TimePoint{} && wait > kNever - time ? kNever : time + wait;
}
static_assert(saturating_add(TimePoint::min(), Duration{1}) < TimePoint{});
static_assert(saturating_add(TimePoint{Duration{5}}, Duration::max()) == kNever);

}  // namespace papilio
