// Who still holds the same: judged when everybody has told, against the majority, and said once per change.
#include "engine/core/agreement.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace papilio::core {
namespace {

PeerId peer(std::uint8_t number) {
  PeerId id;
  id.bytes[0] = number;
  return id;
}

TEST(Agreement, NothingKnownIsInSync) {
  Agreement agreement(peer(0));
  EXPECT_TRUE(agreement.state().in_sync);
  agreement.handle_peer(peer(1), 3, 7);  // this node has told nothing yet
  EXPECT_TRUE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().told, 0U);
  EXPECT_FALSE(agreement.poll_change());
}

TEST(Agreement, AloneItAgreesWithItself) {
  Agreement agreement(peer(0));
  agreement.handle_own(0, 7);
  EXPECT_TRUE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().told, 1U);
}

TEST(Agreement, AMinorityOfOneKnowsIt) {
  Agreement agreement(peer(0));
  agreement.handle_own(4, 1);
  for (std::uint8_t other = 1; other <= 3; ++other) agreement.handle_peer(peer(other), 4, 2);
  EXPECT_FALSE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().told, 4U);
  EXPECT_EQ(agreement.state().differing, 3U);
  EXPECT_EQ(agreement.state().since, 4U);
  EXPECT_EQ(agreement.state().out_of_sync, std::vector<PeerId>{peer(0)});
}

TEST(Agreement, TheMajoritySeesWhoDiffers) {
  Agreement agreement(peer(0));
  agreement.handle_own(4, 1);
  agreement.handle_peer(peer(2), 4, 1);
  agreement.handle_peer(peer(1), 4, 9);
  EXPECT_TRUE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().out_of_sync, std::vector<PeerId>{peer(1)});
}

// Just half is no majority, whichever side one is on.
TEST(Agreement, HalfIsNotAMajority) {
  Agreement agreement(peer(0));
  agreement.handle_peer(peer(1), 0, 1);
  agreement.handle_peer(peer(2), 0, 2);
  agreement.handle_peer(peer(3), 0, 2);
  agreement.handle_own(0, 1);
  EXPECT_FALSE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().differing, 2U);
  EXPECT_EQ(agreement.state().out_of_sync, (std::vector<PeerId>{peer(2), peer(3)}));
}

TEST(Agreement, ItWaitsForThoseThatAreExpected) {
  Agreement agreement(peer(0));
  for (std::uint8_t other = 1; other <= 3; ++other) agreement.handle_peer(peer(other), 0, 5);
  agreement.handle_own(0, 5);
  agreement.handle_own(1, 6);
  agreement.handle_peer(peer(1), 1, 7);  // would be one against one
  EXPECT_EQ(agreement.state().epoch, 0U);
  EXPECT_TRUE(agreement.state().in_sync);
  agreement.handle_peer(peer(2), 1, 6);
  agreement.handle_peer(peer(3), 2, 8);  // already at the next: its digest of epoch 1 was never heard
  EXPECT_EQ(agreement.state().epoch, 1U);
  EXPECT_TRUE(agreement.state().in_sync);
  EXPECT_EQ(agreement.state().told, 3U);
}

TEST(Agreement, WhoCameThroughTheRoundIsExpectedToTell) {
  Agreement agreement(peer(0));
  agreement.handle_round(0, std::vector{peer(0), peer(1), peer(2), peer(3)});
  agreement.handle_own(0, 1);
  agreement.handle_peer(peer(1), 0, 2);
  EXPECT_EQ(agreement.state().told, 0U);
  agreement.handle_peer(peer(2), 0, 1);
  agreement.handle_peer_left(peer(3));
  EXPECT_EQ(agreement.state().told, 3U);
  EXPECT_TRUE(agreement.state().in_sync);
}

TEST(Agreement, WhoLeavesOrStaysBehindIsNotWaitedFor) {
  Agreement agreement(peer(0));
  agreement.handle_peer(peer(1), 0, 5);
  agreement.handle_peer(peer(2), 0, 5);
  agreement.handle_own(0, 5);
  agreement.handle_own(1, 6);
  agreement.handle_peer(peer(1), 1, 6);
  EXPECT_EQ(agreement.state().epoch, 0U);
  agreement.handle_peer_left(peer(2));
  EXPECT_EQ(agreement.state().epoch, 1U);
  agreement.handle_peer(peer(3), 0, 77);  // a newcomer at the start
  agreement.handle_own(2, 8);
  agreement.handle_peer(peer(1), 2, 8);
  EXPECT_EQ(agreement.state().epoch, 2U);
  EXPECT_EQ(agreement.state().told, 2U);
}

TEST(Agreement, AnEpochIsJudgedAtTheLatestWhenTheNextIsTold) {
  Agreement agreement(peer(0));
  agreement.handle_peer(peer(1), 0, 5);
  agreement.handle_peer(peer(2), 0, 5);
  agreement.handle_own(0, 5);
  agreement.handle_own(1, 6);
  agreement.handle_peer(peer(1), 1, 7);
  agreement.handle_own(2, 8);  // peer 2 said nothing about epoch 1
  EXPECT_EQ(agreement.state().epoch, 1U);
  EXPECT_FALSE(agreement.state().in_sync);
}

TEST(Agreement, EachChangeIsSaidOnce) {
  Agreement agreement(peer(0));
  const auto round = [&](std::uint64_t epoch, std::uint64_t own, std::uint64_t theirs) {
    agreement.handle_own(epoch, own);
    agreement.handle_peer(peer(1), epoch, theirs);
    agreement.handle_peer(peer(2), epoch, theirs);
  };
  round(0, 1, 1);
  EXPECT_FALSE(agreement.poll_change());
  round(1, 2, 3);
  const auto apart = agreement.poll_change();
  ASSERT_TRUE(apart);
  EXPECT_FALSE(apart->in_sync);
  EXPECT_EQ(apart->since, 1U);
  round(2, 4, 5);
  EXPECT_FALSE(agreement.poll_change());
  EXPECT_EQ(agreement.state().since, 1U);
  round(3, 6, 6);
  const auto together = agreement.poll_change();
  ASSERT_TRUE(together);
  EXPECT_TRUE(together->in_sync);
  EXPECT_TRUE(together->out_of_sync.empty());
  EXPECT_EQ(together->since, 3U);
}

TEST(Agreement, OldDigestsChangeNothing) {
  Agreement agreement(peer(0));
  agreement.handle_own(5, 1);
  agreement.handle_peer(peer(1), 5, 1);
  agreement.handle_own(4, 9);
  agreement.handle_peer(peer(1), 4, 9);
  EXPECT_EQ(agreement.state().epoch, 5U);
  EXPECT_TRUE(agreement.state().in_sync);
}

}  // namespace
}  // namespace papilio::core
