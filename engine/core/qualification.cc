#include "engine/core/qualification.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engine/base/units.hpp"

namespace papilio::core {
namespace {

// Segments count as no shorter than this, because the peer says how long they may be: with 88 bytes each, headers alone
// would make a line look 1.75 times as fast. Every path of the Internet carries packets of 1280 bytes.
constexpr std::uint32_t kLeastSegmentBytes = 1200;
constexpr std::size_t kTlsRecordBytes = 16384;
constexpr double kTlsRecordOverheadBytes = 22;  // header 5, content type 1, tag 16

std::string share_text(double margin) {
  return margin > 0 ? " plus a margin of " + std::to_string(std::lround(margin * 100)) + "%" : "";
}

void add_shortfall(const char* way, std::uint64_t measured_bps, std::uint64_t asked_bps, double margin,
                   const char* remedy, std::vector<std::string>& reasons) {
  if (static_cast<double>(measured_bps) >= static_cast<double>(asked_bps) * (1 + margin)) return;
  reasons.push_back(std::string(way) + " " + human_rate(static_cast<double>(measured_bps)) + " is below the " +
                    human_rate(static_cast<double>(asked_bps)) + " that are asked for" + share_text(margin) + ": " +
                    remedy);
}

void add_hint(const char* way, std::uint64_t alone_bps, std::uint64_t at_once_bps, std::vector<std::string>& all) {
  if (static_cast<double>(at_once_bps) >= static_cast<double>(alone_bps) * kAtOnceShare) return;
  all.push_back(std::string(way) + " falls from " + human_rate(static_cast<double>(alone_bps)) + " to " +
                human_rate(static_cast<double>(at_once_bps)) +
                " while the other direction is busy, as it is in a round: if it is Wi-Fi, use a cable; if not, look "
                "for a deep queue in the modem, or for a busy CPU");
}

}  // namespace

std::vector<std::string> shortfalls(const Qualification& line, const LineRequirement& requirement, double margin) {
  std::vector<std::string> reasons;
  add_shortfall("up", line.up_bps, requirement.up_bps, margin,
                "stop other uploads (backups, calls, other nodes), use a cable instead of Wi-Fi, or get a line with "
                "more upload",
                reasons);
  add_shortfall("down", line.down_bps, requirement.down_bps, margin,
                "stop other downloads (streams, updates, other nodes), use a cable instead of Wi-Fi, or get a faster "
                "line",
                reasons);
  if (static_cast<double>(line.round_trip_median.count()) * (1 + margin) >
      static_cast<double>(requirement.round_trip.count())) {
    reasons.push_back("a round trip takes " + human_duration(line.round_trip_median) + ", more than the " +
                      human_duration(requirement.round_trip) + " that are allowed" + share_text(margin) +
                      ": leave VPNs and Wi-Fi out of the way, or take part in a run nearer to you");
  }
  return reasons;
}

std::vector<std::string> hints(const Qualification& line) {
  std::vector<std::string> all;
  add_hint("up", line.up_bps, line.up_at_once_bps, all);
  add_hint("down", line.down_bps, line.down_at_once_bps, all);
  return all;
}

RoundTripFigures round_trip_figures(std::span<const Duration> round_trips) {
  RoundTripFigures figures;
  figures.count = round_trips.size();
  if (round_trips.empty()) return figures;
  std::vector<Duration> sorted(round_trips.begin(), round_trips.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  figures.minimum = sorted.front();
  figures.median = sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  figures.p99 = sorted[(sorted.size() - 1) * 99 / 100 + ((sorted.size() - 1) * 99 % 100 != 0 ? 1 : 0)];
  Duration steps{};
  for (std::size_t i = 1; i < round_trips.size(); ++i) steps += std::chrono::abs(round_trips[i] - round_trips[i - 1]);
  if (round_trips.size() > 1) figures.jitter = steps / static_cast<std::int64_t>(round_trips.size() - 1);
  return figures;
}

double LineOverhead::line_bytes(std::uint64_t payload_bytes, std::size_t frame_payload_bytes,
                                std::size_t frame_header_bytes) const {
  double frame_bytes = static_cast<double>(frame_payload_bytes + frame_header_bytes);
  if (encrypted) {
    const std::size_t records = 1 + (frame_payload_bytes + kTlsRecordBytes - 1) / kTlsRecordBytes;
    frame_bytes += static_cast<double>(records) * kTlsRecordOverheadBytes;
  }
  const double frames = static_cast<double>(payload_bytes) / static_cast<double>(frame_payload_bytes);
  const std::uint32_t counted_bytes = std::max(segment_bytes, kLeastSegmentBytes);
  const double per_packet = segment_bytes > 0 ? static_cast<double>(counted_bytes + packet_bytes) / counted_bytes : 1.0;
  return frames * frame_bytes * per_packet;
}

}  // namespace papilio::core
