#include "tools/sim/round_check.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/base/assert.hpp"

namespace papilio::sim {

namespace {

constexpr std::uint32_t kMaximumHosts = 64;

bool same_bits(std::span<const float> one, std::span<const float> other) {
  return one.size() == other.size() && (one.empty() || std::memcmp(one.data(), other.data(), one.size_bytes()) == 0);
}

std::string text_of(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

PartitionPlan plan_of(const node::RoundSpec& spec, std::uint64_t elements) {
  std::vector<PlanMember> members;
  for (const transport::RosterMember& member : spec.members) {
    members.push_back({.reduces = member.reduces, .rate = static_cast<double>(member.rate_bytes_per_s)});
  }
  return PartitionPlan::make(elements, members, spec.chunk_bytes);
}

}  // namespace

RoundCheck::RoundCheck(const node::RoundSpec& spec, std::vector<std::uint32_t> hosts, std::uint64_t elements)
    : spec_(spec), hosts_(std::move(hosts)), plan_(plan_of(spec, elements)) {
  PAPILIO_ASSERT_VALUES(hosts_.size() == spec_.members.size(), hosts_.size(), spec_.members.size());
  inputs_.resize(hosts_.size());
  begun_.assign(hosts_.size(), false);
  disturbed_pairs_.assign(kMaximumHosts, 0);
  average_coverage_.assign(plan_.chunk_count(), 0);
  average_holder_.assign(plan_.chunk_count(), 0);
  averages_.resize(elements);
}

MemberIndex RoundCheck::member_of(std::uint32_t host) const {
  const auto found = std::find(hosts_.begin(), hosts_.end(), host);
  return found == hosts_.end() ? node::kNotAMember : static_cast<MemberIndex>(found - hosts_.begin());
}

void RoundCheck::handle_begin(std::uint32_t host, std::span<const float> gradient, double weight) {
  const MemberIndex member = member_of(host);
  inputs_[member] = {.gradient = {gradient.begin(), gradient.end()}, .weight = static_cast<float>(weight)};
  begun_[member] = true;
}

void RoundCheck::disturb_pair(std::uint32_t one, std::uint32_t other) {
  disturbed_pairs_[one] |= bit(other);
  disturbed_pairs_[other] |= bit(one);
  calm_ = false;
}

bool RoundCheck::are_well(MemberIndex one, MemberIndex other) const {
  if (is_disturbed(hosts_[one]) || is_disturbed(hosts_[other])) return false;
  return (disturbed_pairs_[hosts_[one]] & bit(hosts_[other])) == 0;
}

std::string RoundCheck::name(MemberIndex member) const { return "host " + std::to_string(hosts_[member]); }

std::string RoundCheck::check_end(std::uint32_t host, const RoundReport& report, std::span<const float> values) {
  const MemberIndex self = member_of(host);
  const auto failure = [&](const std::string& what) {
    return "round " + std::to_string(spec_.round) + ", " + name(self) + ": " + what;
  };
  if (std::string wrong = check_report(self, report); !wrong.empty()) return failure(wrong);
  if (plan_.chunk_count() == 0 && !same_bits(values, inputs_[self].gradient)) {
    return failure("promise 2: nobody averages anything, yet the gradient changed");
  }
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    const Range range = plan_.chunk(chunk);
    std::string wrong = check_chunk(self, chunk, report.chunks[chunk], values.subspan(range.begin, range.size));
    if (!wrong.empty()) return failure("chunk " + std::to_string(chunk) + ": " + wrong);
  }
  if (std::string wrong = check_expected(self, report); !wrong.empty()) return failure(wrong);
  if (std::string wrong = check_digest(self, report, values); !wrong.empty()) return failure(wrong);
  return {};
}

// The report agrees with itself: its sums are the sums of its lists.
std::string RoundCheck::check_report(MemberIndex self, const RoundReport& report) const {
  if (report.round != spec_.round || report.members != hosts_.size() || report.peers.size() != hosts_.size() ||
      report.chunks.size() != plan_.chunk_count()) {
    return "promise 2: the report is of another round, roster or plan";
  }
  std::uint64_t local = 0;
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) local += report.chunks[chunk] == 0 ? 1 : 0;
  if (local != report.local_chunks) {
    return "promise 2: the report counts " + std::to_string(report.local_chunks) + " local chunks and lists " +
           std::to_string(local);
  }
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if (member == self) continue;
    const PeerReport& peer = report.peers[member];
    std::uint64_t contributions = 0;
    std::uint64_t averages = 0;
    for (ChunkIndex chunk = plan_.first_chunk(self); chunk < plan_.first_chunk(self) + plan_.chunks(self); ++chunk) {
      contributions += (report.chunks[chunk] & coverage_of(member)) != 0 ? 1 : 0;
    }
    for (ChunkIndex chunk = plan_.first_chunk(member); chunk < plan_.first_chunk(member) + plan_.chunks(member);
         ++chunk) {
      averages += report.chunks[chunk] != 0 ? 1 : 0;
    }
    if (contributions != peer.contributions_in || averages != peer.averages_in) {
      return "promise 4: of " + name(member) + " the report counts " + std::to_string(peer.contributions_in) +
             " contributions and " + std::to_string(peer.averages_in) + " averages, its chunks list " +
             std::to_string(contributions) + " and " + std::to_string(averages);
    }
    const bool everything = contributions == plan_.chunks(self) && averages == plan_.chunks(member);
    if (!everything && !peer.cut_off && !report.canceled) {
      return "promise 2: " + name(member) + " gave " + std::to_string(contributions) + " contributions and " +
             std::to_string(averages) + " averages, not all, and the report does not say why";
    }
    if (peer.shards_in_flight != 0) return "promise 7: a shard to " + name(member) + " is still under way";
  }
  return {};
}

// Promise 5, and coverage: members that nothing befell have each other's shards, whatever happens to the rest.
std::string RoundCheck::check_expected(MemberIndex self, const RoundReport& report) const {
  if (is_disturbed(hosts_[self])) return {};
  if (report.canceled) return "promise 2: canceled by nobody";
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if (member == self || !are_well(self, member) || !report.peers[member].cut_off) continue;
    return "promise 5: " + name(member) + " was cut off (" + report.peers[member].reason +
           "), though nothing befell it";
  }
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    const MemberIndex reducer = plan_.reducer(chunk);
    if (!are_well(self, reducer)) continue;
    if (report.chunks[chunk] == 0) {
      return "promise 5: chunk " + std::to_string(chunk) + " is local, though nothing befell its reducer, " +
             name(reducer);
    }
    for (MemberIndex member = 0; member < hosts_.size(); ++member) {
      if (!are_well(reducer, member) || (report.chunks[chunk] & coverage_of(member)) != 0) continue;
      return "promise 5: chunk " + std::to_string(chunk) + " of " + name(reducer) + " lacks " + name(member) +
             ", which nothing befell";
    }
  }
  return {};
}

std::string RoundCheck::check_chunk(MemberIndex self, ChunkIndex chunk, Coverage coverage,
                                    std::span<const float> values) {
  const Range range = plan_.chunk(chunk);
  const std::span<const float> local = std::span<const float>(inputs_[self].gradient).subspan(range.begin, range.size);
  if (coverage == 0) {
    return same_bits(values, local) ? ""
                                    : "promise 2: the report says local, and its values are not the local gradient";
  }
  const std::span<float> average = std::span(averages_).subspan(range.begin, range.size);
  if (average_coverage_[chunk] != 0) {
    const std::string both = name(average_holder_[chunk]) + " and " + name(self);
    if (average_coverage_[chunk] != coverage) return "promise 3: " + both + " list different contributors";
    return same_bits(values, average) ? "" : "promise 3: " + both + " hold different bytes";
  }
  if (std::string wrong = check_average(chunk, coverage, values); !wrong.empty()) return wrong;
  average_coverage_[chunk] = coverage;
  average_holder_[chunk] = self;
  std::copy(values.begin(), values.end(), average.begin());
  return {};
}

// fp32 summation in any order is within (n + 2) 2^-24 sum(w|g|) / sum(w).
std::string RoundCheck::check_average(ChunkIndex chunk, Coverage coverage, std::span<const float> values) const {
  std::vector<MemberIndex> contributors;
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if ((coverage & coverage_of(member)) == 0) continue;
    if (!begun_[member]) return "promise 4: lists " + name(member) + ", which had not begun the round";
    contributors.push_back(member);
  }
  if (contributors.size() != static_cast<std::size_t>(std::popcount(coverage))) {
    return "promise 2: lists a contributor that is not a member";
  }
  const Range range = plan_.chunk(chunk);
  double weights = 0;
  for (const MemberIndex member : contributors) weights += inputs_[member].weight;
  for (std::uint64_t i = 0; i < range.size; ++i) {
    double sum = 0;
    double magnitude = 0;
    for (const MemberIndex member : contributors) {
      const double product = inputs_[member].weight * static_cast<double>(inputs_[member].gradient[range.begin + i]);
      sum += product;
      magnitude += std::abs(product);
    }
    const double bound =
        0x1.0p-24 * static_cast<double>(contributors.size() + 2) * magnitude / weights * 1.000001 + 1e-35;
    const double value = static_cast<double>(values[i]);
    if (std::abs(value - sum / weights) <= bound) continue;
    return "promise 2: element " + std::to_string(range.begin + i) + " is " + text_of(value) +
           ", the average over its " + std::to_string(contributors.size()) + " contributors is " +
           text_of(sum / weights);
  }
  return {};
}

std::string RoundCheck::check_digest(MemberIndex self, const RoundReport& report, std::span<const float> values) {
  if (!std::exchange(any_ended_, true)) {
    first_ = self;
    first_digest_ = report.digest;
    first_values_.assign(values.begin(), values.end());
    return {};
  }
  const bool same_values = same_bits(values, first_values_);
  if (same_values == (report.digest == first_digest_)) return {};
  return "promise 8: " + name(first_) + " and " + name(self) + " hold " + (same_values ? "the same" : "different") +
         " values with " + (same_values ? "different digests" : "the same digest");
}

}  // namespace papilio::sim
