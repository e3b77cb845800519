#include "engine/base/units.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <span>

namespace papilio {
namespace {

struct Unit {
  std::string_view suffix;
  std::uint64_t factor;
};

// Largest first: formatting takes the first that divides.
constexpr std::array kSizeUnits{Unit{"T", 1ULL << 40U}, Unit{"G", 1ULL << 30U}, Unit{"M", 1ULL << 20U},
                                Unit{"K", 1ULL << 10U}, Unit{"", 1}};
constexpr std::array kSizeAliases{Unit{"TiB", 1ULL << 40U}, Unit{"GiB", 1ULL << 30U}, Unit{"MiB", 1ULL << 20U},
                                  Unit{"KiB", 1ULL << 10U}, Unit{"B", 1}};
constexpr std::array kTimeUnits{Unit{"h", 3'600'000'000'000}, Unit{"m", 60'000'000'000}, Unit{"s", 1'000'000'000},
                                Unit{"ms", 1'000'000},        Unit{"us", 1'000},         Unit{"ns", 1}};
constexpr std::array kRateUnits{Unit{"Tbps", 1'000'000'000'000}, Unit{"Gbps", 1'000'000'000}, Unit{"Mbps", 1'000'000},
                                Unit{"Kbps", 1'000}, Unit{"bps", 1}};

enum class Problem { malformed, unknown_unit, too_large };

// Either the value in the smallest unit, or why not.
struct Parsed {
  std::uint64_t value = 0;
  std::optional<Problem> problem;
};

bool is_digit(char character) { return character >= '0' && character <= '9'; }

std::optional<std::uint64_t> factor_of(std::string_view suffix, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (unit.suffix == suffix) return unit.factor;
  }
  return std::nullopt;
}

// DIGITS[.DIGITS]SUFFIX, computed in integers: binary fractions would turn 0.3s into 299999999 ns.
Parsed parse_quantity(std::string_view text, std::span<const Unit> units, std::span<const Unit> aliases,
                      std::uint64_t maximum) {
  __extension__ using Wide = unsigned __int128;
  constexpr std::size_t kMaximumDigits = 20;  // of either half: keeps every product below within 128 bits

  std::size_t end = 0;
  Wide whole = 0;
  for (; end < text.size() && is_digit(text[end]); ++end) whole = whole * 10 + static_cast<unsigned>(text[end] - '0');
  if (end == 0) return {0, Problem::malformed};
  if (end > kMaximumDigits) return {0, Problem::too_large};

  Wide fraction = 0;
  Wide fraction_scale = 1;
  if (end < text.size() && text[end] == '.') {
    const std::size_t start = ++end;
    for (; end < text.size() && is_digit(text[end]); ++end) {
      if (end - start >= kMaximumDigits) return {0, Problem::malformed};
      fraction = fraction * 10 + static_cast<unsigned>(text[end] - '0');
      fraction_scale *= 10;
    }
    if (end == start) return {0, Problem::malformed};
  }

  const std::string_view suffix = text.substr(end);
  std::optional<std::uint64_t> factor = factor_of(suffix, units);
  if (!factor) factor = factor_of(suffix, aliases);
  if (!factor && suffix.empty() && whole == 0 && fraction == 0) factor = 1;  // nothing of any unit is nothing
  if (!factor) return {0, Problem::unknown_unit};

  // whole < 10^20 < 2^67 and factor < 2^42; fraction likewise: both products stay below 2^109.
  const Wide value = whole * *factor + fraction * *factor / fraction_scale;
  if (value > maximum) return {0, Problem::too_large};
  return {static_cast<std::uint64_t>(value), std::nullopt};
}

Error describe(std::string_view text, Problem problem, std::string_view what, std::string_view examples,
               std::string_view maximum) {
  const std::string quoted = "'" + std::string(text) + "'";
  std::string message;
  switch (problem) {
    case Problem::malformed: message = quoted + " is not a " + std::string(what); break;
    case Problem::unknown_unit: message = quoted + " has no unit of a " + std::string(what); break;
    case Problem::too_large:
      message = quoted + " is too large for a " + std::string(what) + " (at most " + std::string(maximum) + ")";
      break;
  }
  return usage_error(message + "; write it like " + std::string(examples));
}

std::string format_exactly(std::uint64_t value, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (value % unit.factor == 0 && value != 0) {
      return std::to_string(value / unit.factor) + std::string(unit.suffix);
    }
  }
  return "0" + std::string(units.back().suffix);
}

// Three significant digits, or all digits before the point.
std::string three_digits(double value) {
  const double magnitude = std::fabs(value);
  // 9.995 and 99.95 would round up to one digit too many.
  const int decimals = magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0;
  std::array<char, 64> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  return {buffer.data(), static_cast<std::size_t>(std::max(0, length))};
}

std::string with_prefix(double value, double base, std::span<const std::string_view> names) {
  std::size_t index = 0;
  while (std::fabs(value) >= base - 0.5 && index + 1 < names.size()) {
    value /= base;
    ++index;
  }
  return (index == 0 && value == std::floor(value) ? std::to_string(static_cast<long long>(value))
                                                   : three_digits(value)) +
         " " + std::string(names[index]);
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  const Parsed parsed = parse_quantity(text, kSizeUnits, kSizeAliases, std::numeric_limits<std::uint64_t>::max());
  if (parsed.problem) {
    return describe(text, *parsed.problem, "size", "512, 64K, 1M or 1.5G (powers of 1024 bytes)", "16777215T");
  }
  return parsed.value;
}

Result<Duration> parse_duration(std::string_view text) {
  constexpr auto kMaximum = static_cast<std::uint64_t>(std::numeric_limits<Duration::rep>::max());
  const Parsed parsed = parse_quantity(text, kTimeUnits, {}, kMaximum);
  if (parsed.problem) return describe(text, *parsed.problem, "time", "100us, 250ms, 2s or 5m", "2562047h");
  return Duration(static_cast<Duration::rep>(parsed.value));
}

Result<std::uint64_t> parse_rate(std::string_view text) {
  const Parsed parsed = parse_quantity(text, kRateUnits, {}, std::numeric_limits<std::uint64_t>::max());
  if (parsed.problem) {
    return describe(text, *parsed.problem, "rate", "64Kbps, 200Mbps or 1Gbps (bits per second, powers of 1000)",
                    "18446744Tbps");
  }
  return parsed.value;
}

std::string format_size(std::uint64_t bytes) { return format_exactly(bytes, kSizeUnits); }

std::string format_duration(Duration duration) {
  const Duration::rep count = duration.count();
  if (count == 0) return "0s";
  // Negated as unsigned: the least value has no positive counterpart.
  const auto magnitude = count < 0 ? 0U - static_cast<std::uint64_t>(count) : static_cast<std::uint64_t>(count);
  return (count < 0 ? "-" : "") + format_exactly(magnitude, kTimeUnits);
}

std::string format_rate(std::uint64_t bits_per_s) { return format_exactly(bits_per_s, kRateUnits); }

std::string human_size(double bytes) {
  static constexpr std::array<std::string_view, 6> kNames{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  return with_prefix(bytes, 1024, kNames);
}

std::string human_duration(Duration duration) {
  const double seconds = to_seconds(duration);
  const double magnitude = std::fabs(seconds);
  if (magnitude == 0) return "0 s";
  if (magnitude < 999.5e-9) return three_digits(seconds * 1e9) + " ns";
  if (magnitude < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (magnitude < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  if (magnitude < 120) return three_digits(seconds) + " s";
  if (magnitude < 7200) return three_digits(seconds / 60) + " min";
  return three_digits(seconds / 3600) + " h";
}

std::string human_rate(double bits_per_s) {
  static constexpr std::array<std::string_view, 5> kNames{"bit/s", "Kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"};
  return with_prefix(bits_per_s, 1000, kNames);
}

}  // namespace papilio
