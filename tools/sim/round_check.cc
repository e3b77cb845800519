#include "tools/sim/round_check.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/assert.hpp"
#include "tools/sim/report.hpp"

namespace papilio::sim {

namespace {

constexpr std::uint32_t kMaximumHosts = 64;

PartitionPlan plan_of(const node::RoundSpec& spec, std::uint64_t elements) {
  std::vector<PlanMember> members;
  for (const transport::RosterMember& member : spec.members) {
    members.push_back({.reduces = member.reduces, .rate = static_cast<double>(member.rate_bytes_per_s)});
  }
  return PartitionPlan::make(elements, members, spec.chunk_bytes);
}

}  // namespace

RoundCheck::RoundCheck(const node::RoundSpec& spec, std::vector<std::uint32_t> hosts, std::uint64_t elements,
                       TimePoint opened)
    : spec_(spec),
      hosts_(std::move(hosts)),
      plan_(plan_of(spec, elements)),
      opened_(opened),
      inputs_(hosts_.size()),
      disturbed_pairs_(kMaximumHosts, 0),
      last_disturbance_(opened),
      averages_(plan_.chunk_count()) {
  PAPILIO_ASSERT_VALUES(hosts_.size() == spec_.members.size(), hosts_.size(), spec_.members.size());
}

MemberIndex RoundCheck::member_of(std::uint32_t host) const {
  const auto found = std::find(hosts_.begin(), hosts_.end(), host);
  return found == hosts_.end() ? node::kNotAMember : static_cast<MemberIndex>(found - hosts_.begin());
}

void RoundCheck::handle_begin(std::uint32_t host, std::span<const float> gradient, double weight,
                              const Encoding& encoding) {
  // The weight as the others read it from the shards.
  inputs_[member_of(host)] = {.gradient = {gradient.begin(), gradient.end()},
                              .weight = static_cast<float>(weight),
                              .begun = true,
                              .codec = encoding.codec,
                              .residual = {encoding.residual.begin(), encoding.residual.end()}};
}

void RoundCheck::disturb_host(std::uint32_t host, TimePoint now) {
  disturbed_ |= bit(host);
  if (now > opened_) disturbed_within_ |= bit(host);
  last_disturbance_ = std::max(last_disturbance_, now);
}

void RoundCheck::disturb_pair(std::uint32_t one, std::uint32_t other, TimePoint now) {
  disturbed_pairs_[one] |= bit(other);
  disturbed_pairs_[other] |= bit(one);
  last_disturbance_ = std::max(last_disturbance_, now);
  calm_ = false;
}

void RoundCheck::handle_disguise(std::uint32_t host, std::uint32_t to, ChunkIndex chunk, bool is_disguised) {
  const std::tuple shard{member_of(host), member_of(to), chunk};
  if (is_disguised) {
    disguised_.insert(shard);
  } else {
    disguised_.erase(shard);
  }
}

RoundCheck::HostBits RoundCheck::everybody() const {
  HostBits bits = 0;
  for (const std::uint32_t host : hosts_) bits |= bit(host);
  return bits;
}

RoundCheck::HostBits RoundCheck::reducers() const {
  HostBits bits = 0;
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if (spec_.members[member].reduces) bits |= bit(hosts_[member]);
  }
  return bits;
}

// Successors are elected by a majority of those that reduce: where no majority of them is well and hears each other,
// the rest may come apart. Who has lost the most of the others is left out first.
bool RoundCheck::most_are_well() const {
  HostBits connected = reducers() & ~disturbed_;
  for (;;) {
    std::uint32_t worst = 0;
    int most_lost = 0;
    for (const std::uint32_t host : hosts_) {
      const int lost = (connected & bit(host)) != 0 ? std::popcount(disturbed_pairs_[host] & connected) : 0;
      if (lost > most_lost) {
        most_lost = lost;
        worst = host;
      }
    }
    if (most_lost == 0) break;
    connected &= ~bit(worst);
  }
  return 2 * std::popcount(connected) > std::popcount(reducers());
}

// The others may take one for lost that half of them cannot hear.
bool RoundCheck::is_isolated(MemberIndex member) const {
  HostBits roster = 0;
  for (const std::uint32_t host : hosts_) roster |= bit(host);
  const HostBits unheard = disturbed_pairs_[hosts_[member]] & roster;
  return 2 * std::popcount(unheard) + 1 >= static_cast<int>(hosts_.size());
}

bool RoundCheck::are_well(MemberIndex one, MemberIndex other) const {
  return is_well(one) && is_well(other) && !is_isolated(one) && !is_isolated(other) &&
         (disturbed_pairs_[hosts_[one]] & bit(hosts_[other])) == 0;
}

// Those who lost it, together with those of whom anything can be expected, are enough to say that it is gone. Members
// that reduce have a vote.
bool RoundCheck::may_be_outvoted(MemberIndex member) const {
  // Who is outvoted itself loses those that follow the vote, and says so of them.
  HostBits outvoted = 0;
  for (MemberIndex other = 0; other < hosts_.size(); ++other) {
    if (other != member && has_majority_against(other, 0)) outvoted |= bit(hosts_[other]);
  }
  return has_majority_against(member, outvoted);
}

bool RoundCheck::has_majority_against(MemberIndex member, HostBits outvoted) const {
  const HostBits others = reducers() & ~bit(hosts_[member]);
  const HostBits strange = others & (disturbed_ | outvoted) & ~dead_;
  const HostBits lost_it = others & disturbed_pairs_[hosts_[member]] & ~disturbed_ & ~dead_;
  const int against = std::popcount(strange | lost_it);
  return against > 0 && 2 * against >= std::popcount(others & ~dead_);
}

std::string RoundCheck::name(MemberIndex member) const { return "host " + std::to_string(hosts_[member]); }

std::string RoundCheck::check_end(std::uint32_t host, const RoundReport& report, std::span<const float> values) {
  const MemberIndex self = member_of(host);
  const auto failure = [&](const std::string& what) {
    return "round " + std::to_string(spec_.round) + ", " + name(self) + ": " + what;
  };
  // What a liar ends with is its own affair: nobody answers its questions.
  if ((equivocators_ & bit(host)) != 0) return {};
  if (std::string wrong = check_report(self, report); !wrong.empty()) return failure(wrong);
  if (plan_.chunk_count() == 0 && !same_bits(values, inputs_[self].gradient)) {
    return failure("promise 2: nobody averages anything, yet the gradient changed");
  }
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    const Range range = plan_.chunk(chunk);
    std::string wrong = check_chunk(self, chunk, report, values.subspan(range.begin, range.size));
    if (!wrong.empty()) return failure("chunk " + std::to_string(chunk) + ": " + wrong);
  }
  if (is_well(self) && !may_be_outvoted(self)) {
    if (report.canceled) return failure("promise 2: canceled by nobody");
    if (std::string wrong = check_blame(self, report); !wrong.empty()) return failure(wrong);
    if (std::string wrong = check_coverage(self, report); !wrong.empty()) return failure(wrong);
    if (std::string wrong = check_successors(self, report); !wrong.empty()) return failure(wrong);
  }
  if (std::string wrong = check_digest(self, report, values); !wrong.empty()) return failure(wrong);
  for (MemberIndex member = 0; is_well(self) && member < hosts_.size(); ++member) {
    if (report.peers[member].reason == "not-done") not_done_ |= coverage_of(member);
  }
  return {};
}

std::string RoundCheck::check_chunk(MemberIndex self, ChunkIndex chunk, const RoundReport& report,
                                    std::span<const float> values) {
  if (report.chunks[chunk] == 0) return check_local(self, chunk, values);
  Average average{.reducer = report.reducers[chunk],
                  .coverage = report.chunks[chunk],
                  .holders = coverage_of(self),
                  .values = {values.begin(), values.end()}};
  if (std::string wrong = check_same(chunk, average); !wrong.empty()) return wrong;
  if (std::string wrong = check_strangers(self, chunk, average); !wrong.empty()) return wrong;
  for (Average& known : averages_[chunk]) {
    if (known.reducer != average.reducer || known.coverage != average.coverage) continue;
    if (!same_bits(known.values, average.values)) continue;
    known.holders |= average.holders;
    return {};
  }
  if (std::string wrong = check_average(chunk, average); !wrong.empty()) return wrong;
  averages_[chunk].push_back(std::move(average));
  return {};
}

}  // namespace papilio::sim
