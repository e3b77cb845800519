// Who reduces what in one round: the flat gradient cut into one part per member, so that all finish at the same time
// with the bandwidths they have, and every part cut into chunks. Every member computes the plan for itself from the
// roster, so it is integer arithmetic throughout: equal inputs give equal plans on every machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"

namespace papilio {

struct PlanMember {
  bool reduces = true;  // false: a client peer, its part is empty
  // Bytes per second, each way at once. 0: unknown, taken as the median of the known ones; all unknown: all alike.
  double rate = 0;
};

// Consecutive elements of the flat gradient.
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t size = 0;
  [[nodiscard]] constexpr std::uint64_t end() const { return begin + size; }
  bool operator==(const Range&) const = default;
};

// A value: copy it freely, nothing in it is on the heap. Parts lie in member order and tile the gradient; chunks are
// numbered through all parts in that order. If nobody reduces, all parts are empty and there are no chunks.
class PartitionPlan {
 public:
  // A plan of nothing, for one member.
  PartitionPlan() = default;

  // The fastest plan for `elements` fp32 values (at most kMaximumElements) among 1 to kMaximumMembers members, with
  // chunks of `chunk_bytes` (a power of two from 4 to kMaximumChunkBytes). Never throws; arguments out of range are our
  // own mistake and abort. The algorithm is explained in partition.cc.
  static PartitionPlan make(std::uint64_t elements, std::span<const PlanMember> members, std::size_t chunk_bytes);

  [[nodiscard]] std::uint64_t elements() const { return elements_; }
  [[nodiscard]] std::uint64_t chunk_elements() const { return chunk_elements_; }
  [[nodiscard]] std::uint32_t members() const { return members_; }
  [[nodiscard]] ChunkIndex chunk_count() const { return first_chunks_[members_]; }

  // What `member` reduces. Begins on a multiple of 1,024 elements (4 KiB) where the sizes allow.
  [[nodiscard]] Range part(MemberIndex member) const;
  [[nodiscard]] ChunkIndex first_chunk(MemberIndex member) const;
  [[nodiscard]] ChunkIndex chunks(MemberIndex member) const;

  [[nodiscard]] MemberIndex reducer(ChunkIndex chunk) const;
  // The last chunk of a part may be shorter than chunk_elements(), none is empty.
  [[nodiscard]] Range chunk(ChunkIndex chunk) const;

  bool operator==(const PartitionPlan&) const = default;

 private:
  std::uint64_t elements_ = 0;
  std::uint64_t chunk_elements_ = kMinimumChunkBytes / sizeof(float);
  std::uint32_t members_ = 1;
  // Entry i is where member i starts, entry members_ the end of all.
  std::array<std::uint64_t, kMaximumMembers + 1> begins_{};
  std::array<ChunkIndex, kMaximumMembers + 1> first_chunks_{};
};

// Seconds until the last member has sent (and, alike, received) its share of a round under `plan`:
// max over i of ((1 - f_i) + (n - 1) f_i) * bytes / rate_i, with f_i the fraction that member i reduces. A bound that
// no schedule beats; for tests and benchmarks. With no rate known at all: as if all had one byte per second.
[[nodiscard]] double finish_time_s(std::span<const PlanMember> members, const PartitionPlan& plan);

// What a line to another host is taken for, in bytes per second, as long as nobody knows better: 200 Mbit/s. Only the
// chunk size depends on it.
inline constexpr double kAssumedRemoteRate = 25e6;

// A chunk size for `elements` fp32 values shared out among `reducers` members (0 counts as 1), where the slowest member
// moves `minimum_rate` bytes per second (0: unknown, taken as fast). A power of two within limits.hpp.
[[nodiscard]] std::size_t choose_chunk_bytes(std::uint64_t elements, std::uint32_t reducers, double minimum_rate);

}  // namespace papilio
