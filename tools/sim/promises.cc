// The promises of ROUND.md, each as one function of RoundCheck.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/base/random.hpp"
#include "tools/sim/report.hpp"
#include "tools/sim/round_check.hpp"

namespace papilio::sim {

namespace {

// The longest that it takes to find out that a reducer is gone, by the defaults of its timers, and to average what is
// missing in its place; once more if that one is gone, too. What goes wrong later may leave chunks local. Who says that
// it waits for a slow one is believed for lag_floor / waiting_share longer.
constexpr Duration kSuccessionTime = std::chrono::seconds(20);
constexpr Duration kFurtherSuccessionTime = std::chrono::seconds(9);

// As the codec's own bound, of values that are beyond a float where somebody's gradient is.
double codec_error(kernels::Codec codec, double value, double largest) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return kernels::error_bound(codec, static_cast<float>(std::min(value, kMost)),
                              static_cast<float>(std::min(largest, kMost)));
}

std::uint64_t hash_of(std::span<const float> values) {
  std::uint64_t hash = values.size();
  for (const float value : values) hash = Random::mix(hash ^ std::bit_cast<std::uint32_t>(value));
  return hash;
}

}  // namespace

bool RoundCheck::leaves_time() const {
  const int further = std::max(std::popcount(disturbed_within_ & reducers()) - 1, 0);
  return last_disturbance_ + kSuccessionTime + further * kFurtherSuccessionTime <= opened_ + spec_.timeout;
}

// Promise 2: the report agrees with itself; its sums are the sums of its lists.
std::string RoundCheck::check_report(MemberIndex self, const RoundReport& report) const {
  if (report.round != spec_.round || report.members != hosts_.size() || report.peers.size() != hosts_.size() ||
      report.chunks.size() != plan_.chunk_count()) {
    return "promise 2: the report is of another round, roster or plan";
  }
  const auto local = static_cast<std::uint64_t>(std::count(report.chunks.begin(), report.chunks.end(), Coverage{0}));
  if (local != report.local_chunks) {
    return "promise 2: the report counts " + std::to_string(report.local_chunks) + " local chunks and lists " +
           std::to_string(local);
  }
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if (member == self) continue;
    if (std::string wrong = check_peer_report(self, member, report); !wrong.empty()) return wrong;
  }
  return {};
}

// A chunk that this member averaged without the other's contribution, or never got back from it.
ChunkIndex RoundCheck::first_lacking(MemberIndex self, MemberIndex member, const RoundReport& report) const {
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    const Coverage coverage = report.chunks[chunk];
    const bool lacks = coverage != 0 && report.reducers[chunk] == self && (coverage & coverage_of(member)) == 0;
    if (lacks || (coverage == 0 && plan_.reducer(chunk) == member)) return chunk;
  }
  return plan_.chunk_count();
}

// Promises 2, 4 and 7, of what the report says about one peer.
std::string RoundCheck::check_peer_report(MemberIndex self, MemberIndex member, const RoundReport& report) const {
  const PeerReport& peer = report.peers[member];
  std::uint64_t contributions = 0, averages = 0;
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    if (report.chunks[chunk] == 0) continue;
    const MemberIndex reducer = report.reducers[chunk];
    if (reducer == self && (report.chunks[chunk] & coverage_of(member)) != 0) contributions += 1;
    if (reducer == member) averages += 1;
  }
  if (contributions > peer.contributions_in || averages > peer.averages_in) {
    return "promise 4: of " + name(member) + " the report counts " + std::to_string(peer.contributions_in) +
           " contributions and " + std::to_string(peer.averages_in) + " averages, its chunks list " +
           std::to_string(contributions) + " and " + std::to_string(averages);
  }
  const bool is_explained = peer.cut_off || peer.times_resumed > 0 || report.canceled;
  if (const ChunkIndex lacking = first_lacking(self, member, report); lacking < plan_.chunk_count() && !is_explained) {
    return "promise 2: chunk " + std::to_string(lacking) + " lacks " + name(member) +
           ", and the report does not say why";
  }
  if (peer.cut_off && peer.reason.empty()) return "promise 2: " + name(member) + " was cut off for no reason";
  if (peer.shards_in_flight != 0) return "promise 7: a shard to " + name(member) + " is still under way";
  return {};
}

// Promise 2, of a chunk that is said to be local.
std::string RoundCheck::check_local(MemberIndex self, ChunkIndex chunk, std::span<const float> values) const {
  const Range range = plan_.chunk(chunk);
  const std::span<const float> local = std::span<const float>(inputs_[self].gradient).subspan(range.begin, range.size);
  return same_bits(values, local) ? "" : "promise 2: the report says local, and its values are not the local gradient";
}

double RoundCheck::Input::owed(std::uint64_t element) const {
  return codec == kernels::Codec::fp32 || residual.empty() ? 0 : std::abs(static_cast<double>(residual[element]));
}

double RoundCheck::Input::largest(Range block) const {
  double most = 0;
  for (std::uint64_t i = block.begin; i < block.end(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(gradient[i])) + owed(i));
  }
  return most;
}

double RoundCheck::Input::error(std::uint64_t element, double largest) const {
  const double sent = std::abs(static_cast<double>(gradient[element])) + owed(element);
  return owed(element) + codec_error(codec, sent, largest);
}

// Promise 2, of a chunk that is said to be averaged. Promise 4, as far as members that did not even begin are
// concerned.
std::string RoundCheck::check_average(ChunkIndex chunk, const Average& average) const {
  std::vector<const Input*> contributors;
  HostBits names = 0;
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if ((average.coverage & coverage_of(member)) == 0) continue;
    if (!inputs_[member].begun) return "promise 4: lists " + name(member) + ", which had not begun the round";
    contributors.push_back(&inputs_[member]);
    names |= bit(hosts_[member]);
  }
  if (contributors.size() != static_cast<std::size_t>(std::popcount(average.coverage))) {
    return "promise 2: lists a contributor that is not a member";
  }
  const Range range = plan_.chunk(chunk);
  for (std::uint64_t begin = range.begin; begin < range.end(); begin += kernels::kInt8Block) {
    const Range block{begin, std::min<std::uint64_t>(kernels::kInt8Block, range.end() - begin)};
    std::string wrong = check_block(block, chunk, average, contributors, (names & equivocators_) != 0);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// Summation of fp32 in any order is within (n + 2) 2^-24 sum(w|g|) / sum(w); to this the codecs add what contributions
// lose to rounding, each by its weight, and what the average does. The reducer's own gradient is not rounded, and an
// average of it alone is not either.
std::string RoundCheck::check_block(Range block, ChunkIndex chunk, const Average& average,
                                    const std::vector<const Input*>& contributors, bool any_liar) const {
  const Input& reducer = inputs_[average.reducer];
  const bool is_alone = average.coverage == coverage_of(average.reducer);
  const bool is_own_part = plan_.reducer(chunk) == average.reducer;
  double weights = 0;
  for (const Input* input : contributors) weights += input->weight;
  std::vector<double> exact(block.size), error(block.size);
  for (const Input* input : contributors) {
    const double largest = input->largest(block);
    for (std::uint64_t i = 0; i < block.size; ++i) {
      const double value = static_cast<double>(input->gradient[block.begin + i]);
      const double rounding = input == &reducer ? 0 : input->error(block.begin + i, largest);
      exact[i] += input->weight * value / weights;
      error[i] += input->weight / weights *
                  (rounding + 0x1.0p-24 * static_cast<double>(contributors.size() + 2) * (std::abs(value) + rounding));
    }
  }
  const auto carried = [&](std::uint64_t i) { return is_own_part ? reducer.owed(block.begin + i) : 0; };
  double largest = 0;
  for (std::uint64_t i = 0; i < block.size; ++i) {
    largest = std::max(largest, std::abs(exact[i]) + error[i] + carried(i));
  }
  for (std::uint64_t i = 0; i < block.size; ++i) {
    double bound = error[i];
    if (!is_alone)
      bound += carried(i) + codec_error(reducer.codec, std::abs(exact[i]) + error[i] + carried(i), largest);
    bound = bound * 1.000001 + 1e-35;
    const double value = static_cast<double>(average.values[block.begin - plan_.chunk(chunk).begin + i]);
    // A poisoned reducer keeps its own poison; nobody else may take it.
    const bool is_its_own = average.holders == coverage_of(average.reducer) && !is_well(average.reducer);
    if (!std::isfinite(value) && is_its_own) continue;
    if (!std::isfinite(value)) return "promise 2: element " + std::to_string(block.begin + i) + " is not finite";
    if (any_liar || std::abs(value - exact[i]) <= bound) continue;
    return "promise 2: element " + std::to_string(block.begin + i) + " is " + text_of(value) +
           ", the average over its " + std::to_string(contributors.size()) + " contributors is " + text_of(exact[i]) +
           " within " + text_of(bound);
  }
  return {};
}

// What is of another model or group is disregarded.
std::string RoundCheck::check_strangers(MemberIndex self, ChunkIndex chunk, const Average& average) const {
  if ((of_other_models_ & bit(hosts_[self])) != 0) return {};
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if ((average.coverage & coverage_of(member)) == 0) continue;
    if ((of_other_models_ & bit(hosts_[member])) != 0)
      return "promise 2: counts " + name(member) + ", of another epoch";
    if (!disguised_.contains({member, average.reducer, chunk})) continue;
    return "promise 2: counts a contribution of " + name(member) + " that said it is of another model or group";
  }
  return {};
}

// Promise 3: whoever made it, members that could hear each other all the time hold the same average; and one reducer
// never makes two.
std::string RoundCheck::check_same(ChunkIndex chunk, const Average& average) const {
  const auto self = static_cast<MemberIndex>(std::countr_zero(average.holders));
  for (const Average& known : averages_[chunk]) {
    const bool same = known.coverage == average.coverage && same_bits(known.values, average.values);
    if (same) continue;
    const auto first = static_cast<MemberIndex>(std::countr_zero(known.holders));
    if (known.reducer == average.reducer) {
      return "promise 3: " + name(first) + " and " + name(self) + " hold different averages, both made by " +
             name(known.reducer);
    }
    for (MemberIndex other = 0; other < hosts_.size(); ++other) {
      if ((known.holders & coverage_of(other)) == 0 || !are_well(self, other) || !most_are_well()) continue;
      // Each half of a partition averages for itself.
      if (is_parted_ || may_be_outvoted(self) || may_be_outvoted(other)) continue;
      return "promise 3: " + name(other) + " holds the average of " + name(known.reducer) + ", " + name(self) +
             " that of " + name(average.reducer) + ", and they differ";
    }
  }
  return {};
}

// Promise 5: nobody whom nothing befell is cut off. Who is through with the round may hang up; if it owed anything,
// that shows in what is lacking.
std::string RoundCheck::check_blame(MemberIndex self, const RoundReport& report) const {
  if (is_parted_) return {};
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    if (member == self || !report.peers[member].cut_off || !are_well(self, member) || may_be_outvoted(member)) continue;
    const bool has_ended =
        std::any_of(ended_.begin(), ended_.end(), [&](const Ended& end) { return end.member == member; });
    const std::string& reason = report.peers[member].reason;
    if (has_ended && (reason == "connection-lost" || reason == "condemned")) continue;
    // What it lacked may have been withheld from it twice.
    const bool is_left_behind =
        reason == "not-done" || (reason == "condemned" && (not_done_ & coverage_of(member)) != 0);
    if (is_left_behind && std::popcount(disturbed_ & everybody()) > 1) continue;
    if (!leaves_time() && (reason == "contributions-missing" || reason == "not-done")) continue;
    return "promise 5: " + name(member) + " was cut off (" + report.peers[member].reason +
           "), though nothing befell it";
  }
  return {};
}

// Promise 5, and no bans where nobody can be cut off.
std::string RoundCheck::check_offence(std::uint32_t by, std::uint32_t against, const std::string& offence) const {
  const MemberIndex self = member_of(by), member = member_of(against);
  if (is_parted_) return {};
  if (self == node::kNotAMember || member == node::kNotAMember) return {};
  if (!are_well(self, member) || may_be_outvoted(member) || !inputs_[member].begun) return {};
  return "round " + std::to_string(spec_.round) + ", " + name(self) + ": promise 5: holds it against " + name(member) +
         ", which nothing befell: " + offence;
}

// Coverage: members that nothing befell are in each other's averages, whatever happens to the rest.
std::string RoundCheck::check_coverage(MemberIndex self, const RoundReport& report) const {
  if (is_parted_) return {};
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    if (report.chunks[chunk] == 0) continue;
    const MemberIndex reducer = report.reducers[chunk];
    if (!are_well(self, reducer) || may_be_outvoted(reducer)) continue;
    if (reducer != plan_.reducer(chunk) && !leaves_time()) continue;
    for (MemberIndex member = 0; member < hosts_.size(); ++member) {
      if (!are_well(reducer, member) || may_be_outvoted(member)) continue;
      if ((report.chunks[chunk] & coverage_of(member)) != 0) continue;
      return "promise 5: chunk " + std::to_string(chunk) + " by " + name(reducer) + " lacks " + name(member) +
             ", which nothing befell";
    }
  }
  return {};
}

// Promise 6: while a majority is well, a chunk is local only if nobody was left who could average it in time.
std::string RoundCheck::check_successors(MemberIndex self, const RoundReport& report) const {
  for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
    if (report.chunks[chunk] != 0) continue;
    const MemberIndex original = plan_.reducer(chunk);
    if (!is_parted_ && are_well(self, original) && !may_be_outvoted(original)) {
      return "promise 5: chunk " + std::to_string(chunk) + " is local, though nothing befell its reducer, " +
             name(original);
    }
    const MemberIndex able = successor(self, chunk);
    if (able == node::kNotAMember) continue;
    return "promise 6: chunk " + std::to_string(chunk) + " is local, though " + name(able) +
           " could have averaged it in place of " + name(original);
  }
  return {};
}

// A member that had everything it takes: time, the ear of everybody who is well, and a majority of such.
MemberIndex RoundCheck::successor(MemberIndex self, ChunkIndex chunk) const {
  const MemberIndex original = plan_.reducer(chunk);
  if (!most_are_well()) return node::kNotAMember;  // then nobody can tell whose line it is
  const HostBits well = everybody() & ~disturbed_;
  const HostBits voters = reducers() & ~bit(hosts_[original]);
  if (2 * std::popcount(well & voters) <= std::popcount(voters)) return node::kNotAMember;
  // Only this member lost it, so nobody replaces it.
  if (is_well(original)) return node::kNotAMember;
  if (!leaves_time()) return node::kNotAMember;
  const auto hears_all = [&](MemberIndex member) {
    return is_well(member) && (disturbed_pairs_[hosts_[member]] & well) == 0;
  };
  if (!hears_all(self)) return node::kNotAMember;
  for (MemberIndex member = 0; member < hosts_.size(); ++member) {
    const bool is_able = plan_.chunks(member) > 0 && hears_all(member) && !may_be_outvoted(member);
    if (member != self && is_able) return member;
  }
  return node::kNotAMember;
}

// Promise 8: digests tell members with the same values from members with others.
std::string RoundCheck::check_digest(MemberIndex self, const RoundReport& report, std::span<const float> values) {
  // NaN is its own business of whoever put it in; its bits do not tell where they come from.
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return {};
  const Ended ended{.member = self, .digest = report.digest, .values_hash = hash_of(values)};
  for (const Ended& other : ended_) {
    const bool same_values = other.values_hash == ended.values_hash;
    if (same_values == (other.digest == ended.digest)) continue;
    return "promise 8: " + name(other.member) + " and " + name(self) + " hold " +
           (same_values ? "the same" : "different") + " values with " +
           (same_values ? "different digests" : "the same digest");
  }
  ended_.push_back(ended);
  return {};
}

}  // namespace papilio::sim
