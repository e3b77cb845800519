// Who learns from what: a run has one endless, seeded order of samples, and every node takes its own stretch of it, so
// that no two nodes ever work on the same sample and the union of an epoch's stretches is exactly the batch that a
// single process would have taken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/base/assert.hpp"
#include "engine/base/random.hpp"

namespace papilio::training {

// A stretch of an epoch's batch: `count` samples from position `first`.
struct Share {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool operator==(const Share&) const = default;
};

// `batch` cut between `slots` nodes as evenly as whole samples allow; the shares of all slots tile the batch.
// slot < slots.
[[nodiscard]] constexpr Share share_of(std::uint64_t batch, std::uint32_t slot, std::uint32_t slots) {
  const std::uint64_t first = batch / slots * slot + batch % slots * slot / slots;
  const std::uint64_t next = slot + 1;
  const std::uint64_t end = batch / slots * next + batch % slots * next / slots;
  return {first, end - first};
}

class Sampler {
 public:
  // `windows`: how many offsets the corpus has. `share`: this node's stretch of every epoch's batch.
  Sampler(std::uint64_t seed, std::size_t windows, std::uint64_t batch, std::uint32_t slot, std::uint32_t slots,
          Share share)
      : seed_(Random::mix(seed + 0x9e3779b97f4a7c15U)),
        windows_(windows),
        batch_(batch),
        slot_(slot),
        slots_(slots),
        share_(share) {
    PAPILIO_ASSERT(windows > 0 && batch > 0 && slot < slots);
    PAPILIO_ASSERT_VALUES(share.first + share.count <= batch, share.first + share.count, batch);
  }

  [[nodiscard]] const Share& share() const { return share_; }

  // Global index of the `position`-th sample that this node takes in `epoch`. Within the share it is the single
  // process's order. A node that is faster than its share goes on in an order of its own, far behind all batches:
  // nobody else takes those samples either, and no other epoch of its own does, up to one batch's worth of them.
  [[nodiscard]] std::uint64_t index(std::uint64_t epoch, std::uint64_t position) const {
    if (position < share_.count) return epoch * batch_ + share_.first + position;
    const std::uint64_t extra = position - share_.count;
    return kExtraSamples + (epoch * slots_ + slot_) * batch_ + extra % batch_;
  }

  // Where in the corpus the sample with this global index begins.
  [[nodiscard]] std::size_t offset(std::uint64_t index) const {
    return static_cast<std::size_t>(Random(Random::mix(index) ^ seed_).below(windows_));
  }

 private:
  static constexpr std::uint64_t kExtraSamples = std::uint64_t{1} << 63U;

  std::uint64_t seed_;
  std::uint64_t windows_;
  std::uint64_t batch_;
  std::uint32_t slot_;
  std::uint32_t slots_;
  Share share_;
};

}  // namespace papilio::training
