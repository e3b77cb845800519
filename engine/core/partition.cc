#include "engine/core/partition.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/base/assert.hpp"

namespace papilio {
namespace {

__extension__ using Wide = unsigned __int128;

// One page of fp32: parts that start and end on pages can be pinned, mapped and sent without copies on their own.
constexpr std::uint64_t kPageElements = 4096 / sizeof(float);
// A part boundary is rounded to pages only if a part holds at least this many of them, so that rounding unbalances the
// plan by little; smaller gradients use a smaller grain.
constexpr std::uint64_t kGrainsPerPart = 8;

// Rates enter the arithmetic as whole bytes per second in this range (1 TB/s at most), which keeps every product below
// in 128 bits.
constexpr double kLowestRate = 1;
constexpr double kHighestRate = 1e12;

using Rates = std::array<std::uint64_t, kMaximumMembers>;
// Member i reduces the fraction shares[i] / (sum of all shares).
using Shares = std::array<Wide, kMaximumMembers>;

bool is_known(double rate) { return std::isfinite(rate) && rate > 0; }

// Whole bytes per second for each member, the unknown ones filled in.
Rates effective_rates(std::span<const PlanMember> members) {
  Rates rates{}, known{};
  std::size_t known_count = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (!is_known(members[i].rate)) continue;
    rates[i] = static_cast<std::uint64_t>(std::clamp(members[i].rate, kLowestRate, kHighestRate));
    known[known_count++] = rates[i];
  }
  std::sort(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(known_count));
  const std::uint64_t stand_in = known_count == 0 ? 1 : known[(known_count - 1) / 2];
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (rates[i] == 0) rates[i] = stand_in;
  }
  return rates;
}

// Member i moves ((1 - f_i) + (n - 1) f_i) S = (1 + (n - 2) f_i) S bytes each way: its own values to the other
// reducers, and the averages of its part to everybody. hivemind chooses the f_i by a linear program
// (`load_balance_peers` in hivemind/averaging/load_balancing.py); with this cost it needs none. If the round takes time
// T S, member i has room for f_i <= (T r_i - 1) / (n - 2), which is nothing for those with r_i <= 1 / T, and the least
// T is the one where the rooms add up to 1. With the k fastest reducers taking part, and R the sum of their rates, that
// is
//     T = (n - 2 + k) / R   and   f_i = ((n - 2 + k) r_i - R) / ((n - 2) R),
// and k is the largest number for which the slowest of them still gets something: like water poured over steps. If some
// member that reduces nothing needs longer than T for its own values, the round takes as long as that; sharing out by
// T still lets all others finish as early as they can. With n = 2 every f_i costs the same: equal parts.
Shares fair_shares(std::span<const PlanMember> members) {
  Shares shares{};
  std::array<std::uint32_t, kMaximumMembers> order{};
  std::uint32_t reducers = 0;
  for (std::uint32_t i = 0; i < members.size(); ++i) {
    if (members[i].reduces) order[reducers++] = i;
  }
  if (members.size() <= 2) {
    for (std::uint32_t k = 0; k < reducers; ++k) shares[order[k]] = 1;
    return shares;
  }
  const Rates rates = effective_rates(members);
  std::sort(order.begin(), order.begin() + reducers,
            [&](std::uint32_t a, std::uint32_t b) { return rates[a] != rates[b] ? rates[a] > rates[b] : a < b; });
  const std::uint64_t others = members.size() - 2;
  std::uint32_t taking_part = 0;
  Wide sum = 0;
  while (taking_part < reducers) {
    const std::uint64_t next = rates[order[taking_part]];
    if (Wide{others + taking_part + 1} * next <= sum + next) break;
    sum += next;
    ++taking_part;
  }
  for (std::uint32_t k = 0; k < taking_part; ++k) {
    shares[order[k]] = Wide{others + taking_part} * rates[order[k]] - sum;
  }
  return shares;
}

std::uint64_t choose_grain(std::uint64_t elements, std::uint64_t reducers) {
  std::uint64_t grain = kPageElements;
  while (grain > 1 && elements / (grain * kGrainsPerPart) < reducers) grain /= 2;
  return grain;
}

// Sizes in proportion to the shares, in whole grains by the method of largest remainders (ties: lower index first);
// what is left of the last grain goes to the last part that has any.
std::array<std::uint64_t, kMaximumMembers> part_sizes(std::uint64_t elements, const Shares& shares) {
  std::array<std::uint64_t, kMaximumMembers> sizes{};
  Wide total = 0;
  std::uint64_t sharing = 0;
  for (const Wide share : shares) {
    total += share;
    sharing += share > 0 ? 1 : 0;
  }
  if (sharing == 0) return sizes;

  const std::uint64_t grain = choose_grain(elements, sharing);
  const std::uint64_t grains = elements / grain;
  std::array<Wide, kMaximumMembers> remainders{};
  std::array<std::uint32_t, kMaximumMembers> order{};
  std::uint64_t left = grains;
  for (std::uint32_t i = 0; i < shares.size(); ++i) {
    const Wide exact = shares[i] * grains;
    sizes[i] = static_cast<std::uint64_t>(exact / total);
    remainders[i] = exact % total;
    order[i] = i;
    left -= sizes[i];
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return remainders[a] > remainders[b]; });
  PAPILIO_ASSERT_VALUES(left <= sharing, left, sharing);
  for (std::uint64_t k = 0; k < left; ++k) ++sizes[order[k]];

  std::uint32_t last = 0;
  for (std::uint32_t i = 0; i < shares.size(); ++i) {
    if (sizes[i] > 0) last = i;
    sizes[i] *= grain;
  }
  sizes[last] += elements % grain;
  return sizes;
}

}  // namespace

PartitionPlan PartitionPlan::make(std::uint64_t elements, std::span<const PlanMember> members,
                                  std::size_t chunk_bytes) {
  PAPILIO_ASSERT_VALUES(!members.empty() && members.size() <= kMaximumMembers, members.size(), kMaximumMembers);
  PAPILIO_ASSERT_VALUES(elements <= kMaximumElements, elements, kMaximumElements);
  PAPILIO_ASSERT_VALUES(std::has_single_bit(chunk_bytes) && chunk_bytes >= sizeof(float), chunk_bytes, sizeof(float));
  PAPILIO_ASSERT_VALUES(chunk_bytes <= kMaximumChunkBytes, chunk_bytes, kMaximumChunkBytes);

  PartitionPlan plan;
  plan.elements_ = elements;
  plan.chunk_elements_ = chunk_bytes / sizeof(float);
  plan.members_ = static_cast<std::uint32_t>(members.size());
  const std::array<std::uint64_t, kMaximumMembers> sizes = part_sizes(elements, fair_shares(members));
  std::uint64_t chunks = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    plan.begins_[i + 1] = plan.begins_[i] + sizes[i];
    chunks += (sizes[i] + plan.chunk_elements_ - 1) / plan.chunk_elements_;
    PAPILIO_ASSERT_VALUES(chunks <= ChunkIndex{0} - ChunkIndex{1}, chunks, chunk_bytes);
    plan.first_chunks_[i + 1] = static_cast<ChunkIndex>(chunks);
  }
  return plan;
}

Range PartitionPlan::part(MemberIndex member) const {
  PAPILIO_ASSERT_VALUES(member < members_, member, members_);
  return {begins_[member], begins_[member + 1] - begins_[member]};
}

ChunkIndex PartitionPlan::first_chunk(MemberIndex member) const {
  PAPILIO_ASSERT_VALUES(member < members_, member, members_);
  return first_chunks_[member];
}

ChunkIndex PartitionPlan::chunks(MemberIndex member) const {
  PAPILIO_ASSERT_VALUES(member < members_, member, members_);
  return first_chunks_[member + 1] - first_chunks_[member];
}

MemberIndex PartitionPlan::reducer(ChunkIndex chunk) const {
  PAPILIO_ASSERT_VALUES(chunk < chunk_count(), chunk, chunk_count());
  // Members with empty parts share their first chunk with the next one; the last of those owns it.
  const auto end = first_chunks_.begin() + members_ + 1;
  return static_cast<MemberIndex>(std::upper_bound(first_chunks_.begin(), end, chunk) - first_chunks_.begin() - 1);
}

Range PartitionPlan::chunk(ChunkIndex chunk) const {
  const MemberIndex member = reducer(chunk);
  const std::uint64_t begin = begins_[member] + (chunk - first_chunks_[member]) * chunk_elements_;
  return {begin, std::min(chunk_elements_, begins_[member + 1] - begin)};
}

double finish_time_s(std::span<const PlanMember> members, const PartitionPlan& plan) {
  PAPILIO_ASSERT_VALUES(members.size() == plan.members(), members.size(), plan.members());
  if (plan.chunk_count() == 0) return 0;
  const Rates rates = effective_rates(members);
  double latest = 0;
  for (MemberIndex i = 0; i < members.size(); ++i) {
    const std::uint64_t own = plan.part(i).size;
    const std::uint64_t moved = (plan.elements() - own) + (members.size() - 1) * own;
    latest = std::max(latest, static_cast<double>(moved) * sizeof(float) / static_cast<double>(rates[i]));
  }
  return latest;
}

std::size_t choose_chunk_bytes(std::uint64_t elements, std::uint32_t reducers, double minimum_rate) {
  // Measured on loopback, 64 MiB over 4 ranks: 256 KiB takes 1.25 times as long, 128 KiB 1.4 times, 1 MiB 1.05 times;
  // over 8 ranks all three lose as well.
  constexpr std::size_t kUsual = std::size_t{512} << 10U;
  // On a slow link a chunk is what everything else waits behind, and what is lost when a connection breaks.
  constexpr double kLongestChunkSeconds = 0.010;
  // Above this, per-chunk tables and reports outgrow their use, however slow the link: 16 GiB at the usual size.
  constexpr std::uint64_t kMostChunks = 65536;

  const std::uint64_t bytes = elements * sizeof(float);
  const std::uint64_t part_bytes = bytes / std::max(reducers, 1U);
  std::size_t chunk = kUsual;
  // A small part is one or two chunks: there, frames cost more than overlap gains.
  while (chunk > kMinimumChunkBytes && part_bytes <= chunk / 2) chunk /= 2;
  if (is_known(minimum_rate)) {
    while (chunk > kMinimumChunkBytes && static_cast<double>(chunk) > kLongestChunkSeconds * minimum_rate) chunk /= 2;
  }
  while (chunk < kMaximumChunkBytes && bytes / chunk > kMostChunks) chunk *= 2;
  return chunk;
}

}  // namespace papilio
