#include "engine/training/sampler.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

namespace papilio::training {
namespace {

Sampler sampler_of(std::uint64_t batch, std::uint32_t slot, std::uint32_t slots, std::uint64_t seed = 1) {
  return {seed, 10'000, batch, slot, slots, share_of(batch, slot, slots)};
}

TEST(Share, TilesTheBatchForAnyNumberOfSlots) {
  for (const std::uint64_t batch : {1U, 7U, 64U, 100U, 1023U}) {
    for (std::uint32_t slots = 1; slots <= 64 && slots <= batch; ++slots) {
      std::uint64_t next = 0;
      for (std::uint32_t slot = 0; slot < slots; ++slot) {
        const Share share = share_of(batch, slot, slots);
        EXPECT_EQ(share.first, next);
        EXPECT_GE(share.count, batch / slots);
        EXPECT_LE(share.count, batch / slots + 1);
        next += share.count;
      }
      EXPECT_EQ(next, batch);
    }
  }
}

TEST(Share, DoesNotOverflow) {
  const std::uint64_t batch = ~std::uint64_t{0};
  const Share last = share_of(batch, 63, 64);
  EXPECT_EQ(last.first + last.count, batch);
}

TEST(Sampler, TheUnionOfAllNodesIsTheSingleProcess) {
  const std::uint64_t batch = 22;
  for (const std::uint32_t slots : {2U, 3U, 5U, 8U}) {
    for (const std::uint64_t epoch : {0U, 1U, 17U}) {
      std::vector<std::uint64_t> single, together;
      const Sampler alone = sampler_of(batch, 0, 1);
      for (std::uint64_t i = 0; i < batch; ++i) single.push_back(alone.index(epoch, i));
      for (std::uint32_t slot = 0; slot < slots; ++slot) {
        const Sampler node = sampler_of(batch, slot, slots);
        for (std::uint64_t i = 0; i < node.share().count; ++i) together.push_back(node.index(epoch, i));
      }
      EXPECT_EQ(single, together);
    }
  }
}

TEST(Sampler, NoSampleIsTakenTwiceByAnyNodeInAnyEpoch) {
  const std::uint64_t batch = 10;
  std::set<std::uint64_t> taken;
  std::size_t count = 0;
  for (std::uint64_t epoch = 0; epoch < 20; ++epoch) {
    for (std::uint32_t slot = 0; slot < 3; ++slot) {
      const Sampler node = sampler_of(batch, slot, 3);
      for (std::uint64_t i = 0; i < batch; ++i, ++count) taken.insert(node.index(epoch, i));  // beyond its share
    }
  }
  EXPECT_EQ(taken.size(), count);
}

TEST(Sampler, OffsetsDependOnSeedAndIndexOnlyAndCoverTheCorpus) {
  const Sampler first = sampler_of(8, 0, 1), again = sampler_of(8, 1, 2), other = sampler_of(8, 0, 1, 2);
  std::size_t same_as_other_seed = 0;
  std::set<std::size_t> tenths;
  for (std::uint64_t index = 0; index < 1000; ++index) {
    const std::size_t offset = first.offset(index);
    ASSERT_LT(offset, 10'000U);
    EXPECT_EQ(offset, again.offset(index));
    same_as_other_seed += offset == other.offset(index);
    tenths.insert(offset / 1000);
  }
  EXPECT_LT(same_as_other_seed, 10U);
  EXPECT_EQ(tenths.size(), 10U);
}

}  // namespace
}  // namespace papilio::training
