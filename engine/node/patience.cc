#include "engine/node/patience.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "engine/base/units.hpp"

namespace papilio::node {
namespace {

// Nothing in a round is longer than the longest round.
constexpr Duration kLongest = std::chrono::hours(24);
constexpr double kLargestFactor = 1e6;

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}
std::string text_of(Duration value) { return format_duration(value); }

template <typename Value>
Error wrong(const char* name, Value value, const char* remedy) {
  return usage_error(std::string(name) + ": '" + text_of(value) + "' " + remedy);
}

// The core names its constants as the code does.
Error as_on_the_command_line(Error error) {
  std::replace(error.message.begin(), error.message.end(), '_', '-');
  return error;
}

bool is_fraction(double value) { return value > 0 && value < 1; }

Status check_bounds(const RoundPatience& patience) {
  const core::LatenessConfig& lateness = patience.members.lateness;
  const struct {
    const char* name;
    Duration value;
  } durations[] = {{"pulse-interval", patience.pulse_interval},
                   {"resume-grace", patience.members.resume_grace},
                   {"linger-floor", patience.members.linger_floor},
                   {"first-shard-grace", lateness.first_shard_grace},
                   {"stall-grace", lateness.stall_grace},
                   {"minority-patience", lateness.minority_patience},
                   {"window", lateness.window},
                   {"lag-floor", lateness.lag_floor},
                   {"lag-ceiling", lateness.lag_ceiling},
                   {"tick", lateness.tick}};
  for (const auto& each : durations) {
    if (each.value < Duration::zero() || each.value > kLongest) {
      return wrong(each.name, each.value, "is not a time up to 24h");
    }
  }
  const struct {
    const char* name;
    double value;
  } factors[] = {{"linger-fraction", patience.members.linger_fraction},
                 {"slack", lateness.slack},
                 {"mads", lateness.mads},
                 {"announced-margin", lateness.announced_margin}};
  for (const auto& each : factors) {
    if (!(each.value >= 0 && each.value <= kLargestFactor)) {
      return wrong(each.name, each.value, "is not a factor from 0 to 1e6");
    }
  }
  return Done{};
}

}  // namespace

Status check(const RoundPatience& patience) {
  if (auto checked = check_bounds(patience); !checked) return checked;
  const core::LatenessConfig& lateness = patience.members.lateness;
  if (auto checked = core::check(lateness); !checked) return as_on_the_command_line(checked.error());
  // Rounds that are too short for the graces halve them, and not these two.
  if (patience.pulse_interval <= Duration::zero() || patience.pulse_interval > lateness.stall_grace / 8) {
    return wrong("pulse-interval", patience.pulse_interval,
                 "must be more than 0 and at most an eighth of stall-grace, or members that are well seem to stall");
  }
  if (lateness.tick > lateness.stall_grace / 8) {
    return wrong("tick", lateness.tick, "must be at most an eighth of stall-grace, or nobody looks in time");
  }
  if (patience.members.resume_grace < 2 * lateness.tick) {
    return wrong("resume-grace", patience.members.resume_grace,
                 "must be at least two ticks, or everybody is asked for everything at once");
  }
  if (patience.members.linger_floor < lateness.stall_grace) {
    return wrong("linger-floor", patience.members.linger_floor,
                 "must be at least stall-grace, or a forgiven gap costs a slow receiver the round");
  }
  if (patience.members.linger_floor < 3 * patience.members.resume_grace) {
    return wrong(
        "linger-floor", patience.members.linger_floor,
        "must be at least three times resume-grace, or who lacks an average has no time to ask another member");
  }
  if (!is_fraction(patience.reduce_by_fraction)) {
    return wrong("reduce-by-fraction", patience.reduce_by_fraction, "must be more than 0 and less than 1");
  }
  if (!is_fraction(patience.settle_by_fraction) || patience.settle_by_fraction < patience.reduce_by_fraction) {
    return wrong("settle-by-fraction", patience.settle_by_fraction,
                 "must be at least reduce-by-fraction and less than 1, or successors have no time");
  }
  return Done{};
}

Status check(const RosterPatience& patience) {
  const core::RosterConfig& agreement = patience.agreement;
  const struct {
    const char* name;
    Duration value;
  } durations[] = {{"arrival-grace", agreement.arrival_grace},   {"propose-grace", agreement.propose_grace},
                   {"ack-grace", agreement.ack_grace},           {"lease", agreement.lease},
                   {"settle-grace", agreement.settle_grace},     {"inclusion-patience", agreement.inclusion_patience},
                   {"attempt-refill", agreement.attempt_refill}, {"report-interval", patience.report_interval},
                   {"silent-after", patience.silent_after}};
  constexpr Duration kShortest = std::chrono::milliseconds(1);
  for (const auto& each : durations) {
    if (each.value < kShortest || each.value > kLongest) {
      return wrong(each.name, each.value, "is not a time from 1ms to 24h");
    }
  }
  if (agreement.lease < 2 * agreement.ack_grace) {
    return wrong("lease", agreement.lease, "must be at least twice ack-grace, or commits come too late");
  }
  if (!(agreement.attempts_at_once >= 1 && agreement.attempts_at_once <= kLargestFactor)) {
    return wrong("attempts-at-once", agreement.attempts_at_once, "is not a number from 1 to 1e6");
  }
  if (patience.silent_after < 2 * patience.report_interval) {
    return wrong("silent-after", patience.silent_after,
                 "must be at least twice report-interval, or members that are well seem silent");
  }
  return Done{};
}

double room_for_graces(Duration timeout) {
  return std::clamp(to_seconds(timeout) / to_seconds(kUsualTimeout), 0.5, 1.0);
}

core::LatenessConfig scaled(core::LatenessConfig config, double room) {
  for (Duration* each : {&config.first_shard_grace, &config.stall_grace, &config.minority_patience, &config.window,
                         &config.lag_floor, &config.lag_ceiling}) {
    *each = from_seconds(to_seconds(*each) * room);
  }
  return config;
}

}  // namespace papilio::node
