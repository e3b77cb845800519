#include "tools/qualify/show.hpp"

#include <spdlog/fmt/fmt.h>

#include <chrono>

#include "engine/base/text.hpp"
#include "engine/base/units.hpp"
#include "engine/node/certificate.hpp"
#include "tools/qualify/options.hpp"

namespace papilio::qualify {

Result<int> show(const std::string& file, const tools::CommandLine& line) {
  auto bytes = node::load_certificate(file);
  if (!bytes) return bytes.error();
  const auto read = node::read_certificate(*bytes);
  if (!read) {
    fmt::print(line.out(), "NOT GENUINE: '{}' is {}\n", file, read.error().message);
    if (auto written = line.write_json({{"genuine", false}, {"valid", false}, {"reason", read.error().message}});
        !written) {
      return written.error();
    }
    return static_cast<int>(tools::kExitNotSo);
  }
  const core::WallTime now{std::chrono::seconds(wall_seconds())};
  const bool valid = now >= read->issued && now < read->expires;
  const auto rate = [](std::uint64_t bps) { return human_rate(static_cast<double>(bps)); };
  std::FILE* const out = line.out();
  fmt::print(out, "{}\n",
             valid                ? "GENUINE"
             : now < read->issued ? "GENUINE, BUT NOT VALID YET"
                                  : "GENUINE, BUT EXPIRED");
  fmt::print(out, "  peer     {}\n  judge    {}\n", to_hex(read->subject, 64), to_hex(read->judge, 64));
  fmt::print(out, "  run      {}\n", read->run_id.empty() ? "any" : one_line(read->run_id));
  fmt::print(out, "  up       {} (at once {})\n", rate(read->up_bps), rate(read->up_at_once_bps));
  fmt::print(out, "  down     {} (at once {})\n", rate(read->down_bps), rate(read->down_at_once_bps));
  fmt::print(out, "  rtt      {} (p99 {}, jitter {})\n", human_duration(read->round_trip_median),
             human_duration(read->round_trip_p99), human_duration(read->jitter));
  fmt::print(out, "  resent   {}\n", read->retransmits);
  fmt::print(out, "  issued   {}\n  expires  {}\n", core::to_text(read->issued), core::to_text(read->expires));
  auto written = line.write_json(
      {{"genuine", true},
       {"valid", valid},
       {"peer", to_hex(read->subject, 64)},
       {"judge", to_hex(read->judge, 64)},
       {"run_id", read->run_id},
       {"up_bps", read->up_bps},
       {"down_bps", read->down_bps},
       {"at_once", {{"up_bps", read->up_at_once_bps}, {"down_bps", read->down_at_once_bps}}},
       {"rtt_ms",
        {{"median", to_milliseconds(read->round_trip_median)}, {"p99", to_milliseconds(read->round_trip_p99)}}},
       {"jitter_ms", to_milliseconds(read->jitter)},
       {"retransmits", read->retransmits},
       {"issued", core::to_text(read->issued)},
       {"expires", core::to_text(read->expires)}});
  if (!written) return written.error();
  return static_cast<int>(valid ? tools::kExitDone : tools::kExitNotSo);
}

}  // namespace papilio::qualify
