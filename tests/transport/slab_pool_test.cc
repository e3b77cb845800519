// Slabs: one owner each, all of them back in the end, and clear words where there are none to be had.
#include "transport/slab_pool.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <vector>

namespace papilio::transport {
namespace {

TEST(SlabPool, HandsOutEverySlabOnceAndTakesItBack) {
  auto pool = SlabPool::make(10000, 5);
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(pool->capacity(), 5U);
  EXPECT_EQ(pool->slab_bytes() % static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), 0U);
  EXPECT_GE(pool->slab_bytes(), 10000U);
  {
    std::vector<Slab> slabs;
    std::set<std::byte*> places;
    for (int i = 0; i < 5; ++i) {
      slabs.push_back(pool->take());
      ASSERT_TRUE(slabs.back());
      const std::span<std::byte> bytes = slabs.back().bytes();
      ASSERT_EQ(bytes.size(), pool->slab_bytes());
      std::memset(bytes.data(), i, bytes.size());
      places.insert(bytes.data());
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % 64, 0U);
    }
    EXPECT_EQ(places.size(), 5U);
    EXPECT_FALSE(pool->take());
    EXPECT_EQ(pool->available(), 0U);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(slabs[static_cast<std::size_t>(i)].bytes().back(), std::byte(i));
  }
  EXPECT_EQ(pool->available(), 5U);
}

TEST(SlabPool, TheLastReturnedIsTheNextTaken) {
  auto pool = SlabPool::make(4096, 3);
  Slab one = pool->take();
  Slab two = pool->take();
  std::byte* const place = one.bytes().data();
  one.release();
  EXPECT_FALSE(one);
  Slab three = pool->take();
  EXPECT_EQ(three.bytes().data(), place);
}

TEST(SlabPool, MovingASlabMovesItsOwnership) {
  auto pool = SlabPool::make(1, 2);
  Slab one = pool->take();
  Slab two = std::move(one);
  EXPECT_FALSE(one);  // NOLINT(bugprone-use-after-move): that it is empty is the point
  EXPECT_TRUE(two);
  EXPECT_EQ(pool->available(), 1U);
  Slab three = pool->take();
  three = std::move(two);  // lets go of its own
  EXPECT_EQ(pool->available(), 1U);
  Slab& itself = three;
  three = std::move(itself);
  EXPECT_TRUE(three);
  three.release();
  three.release();
  EXPECT_EQ(pool->available(), 2U);
}

TEST(SlabPool, ImpossibleSizesAreAnErrorThatNamesThem) {
  for (const auto& [bytes, count] : std::vector<std::pair<std::size_t, std::size_t>>{{0, 3}, {4096, 0}}) {
    const auto pool = SlabPool::make(bytes, count);
    ASSERT_FALSE(pool.ok());
    EXPECT_NE(pool.error().message.find(std::to_string(bytes)), std::string::npos);
  }
  constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();
  EXPECT_FALSE(SlabPool::make(kHuge, 1).ok());
  EXPECT_FALSE(SlabPool::make(kHuge / 2 + 1, 2).ok());
  EXPECT_FALSE(SlabPool::make(std::size_t{1} << 34U, (std::size_t{1} << 30U) + 1).ok());  // wraps to 16 GiB
  EXPECT_FALSE(SlabPool::make(std::size_t{1} << 46U, 64).ok());                           // more than there is
}

TEST(SlabPool, TellsOfItsPagesWhenTheyComeAndBeforeTheyGo) {
  std::vector<std::span<std::byte>> mapped, unmapped;
  std::string refusal;
  const PageCallbacks callbacks{.on_mapped =
                                    [&](std::span<std::byte> pages) {
                                      mapped.push_back(pages);
                                      return refusal;
                                    },
                                .on_unmapping =
                                    [&](std::span<std::byte> pages) {
                                      pages[0] = std::byte{1};  // still there
                                      unmapped.push_back(pages);
                                    }};
  {
    auto made = SlabPool::make(10000, 3, callbacks);
    ASSERT_TRUE(made.ok());
    const SlabPool pool(std::move(*made));
    ASSERT_EQ(mapped.size(), 1U);
    EXPECT_EQ(mapped[0].size(), 3 * pool.slab_bytes());
    EXPECT_TRUE(unmapped.empty());
  }
  ASSERT_EQ(unmapped.size(), 1U);
  EXPECT_EQ(unmapped[0].data(), mapped[0].data());

  refusal = "too many pages for the test";
  {
    auto refused = SlabPool::make(10000, 3, callbacks);
    ASSERT_TRUE(refused.ok());
    EXPECT_NE(refused->notes().find(refusal), std::string::npos);
    EXPECT_TRUE(refused->take());
  }
  EXPECT_EQ(unmapped.size(), 1U);
}

TEST(SlabPoolDeathTest, ASlabMustNotOutliveItsPool) {
  EXPECT_DEATH(
      {
        Slab slab;
        {
          auto pool = SlabPool::make(4096, 1);
          slab = pool->take();
        }
      },
      "broken invariant");
}

}  // namespace
}  // namespace papilio::transport
