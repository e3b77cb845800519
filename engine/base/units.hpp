// How people write sizes, times and rates on a command line or in a configuration, and how the engine writes them back.
// One reader for all binaries, so that `64K` means the same everywhere and every mistake is answered with the text that
// was wrong and examples of what is right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"

namespace papilio {

// Bytes: `512`, `64K`, `1M`, `1.5G`, `2T`; powers of 1024, `64KiB` is the same as `64K`. A fraction of a byte is
// dropped.
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);

// A time: `100ns`, `100us`, `250ms`, `2s`, `1.5s`, `5m`, `1h`, and a bare `0`. Anything else needs its unit: a bare
// number read as the wrong unit is wrong by a factor of a thousand and nobody notices.
[[nodiscard]] Result<Duration> parse_duration(std::string_view text);

// Bits per second: `9600bps`, `64Kbps`, `200Mbps`, `2.5Gbps`, and a bare `0`; powers of 1000, as networks count.
[[nodiscard]] Result<std::uint64_t> parse_rate(std::string_view text);

// Exact, and read back to the same value: `64K`, `1000`, `250ms`, `200Mbps`. The largest unit that leaves no remainder.
[[nodiscard]] std::string format_size(std::uint64_t bytes);
[[nodiscard]] std::string format_duration(Duration duration);
[[nodiscard]] std::string format_rate(std::uint64_t bits_per_s);

// For people, rounded to three or four digits: `1.50 MiB`, `12.3 ms`, `191 Mbit/s`.
[[nodiscard]] std::string human_size(double bytes);
[[nodiscard]] std::string human_duration(Duration duration);
[[nodiscard]] std::string human_rate(double bits_per_s);

}  // namespace papilio
