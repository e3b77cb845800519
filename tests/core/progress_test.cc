// The group's progress as one member sees it: sums, the majority's epoch, agreement on the model, and what is believed
// of peers that report nonsense.
#include "engine/core/progress.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio {
namespace {

using std::chrono::seconds;

PeerId peer(std::uint32_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 4; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (24 - 8 * i));
  return id;
}

TimePoint at(int second) { return TimePoint(seconds(second)); }

ProgressReport report(std::uint64_t epoch, std::uint64_t samples, std::uint64_t total) {
  return {.epoch = epoch, .samples = samples, .total_samples = total, .model = {}};
}

ProgressReport with_model(std::uint64_t epoch, std::uint64_t digest) {
  return {.epoch = epoch, .samples = 0, .total_samples = 0, .model = ModelDigest{epoch, digest}};
}

TEST(Progress, AloneItCountsItself) {
  Progress progress({.target_batch = 100});
  EXPECT_EQ(progress.members(), 1U);
  EXPECT_EQ(progress.group_epoch(), 0U);
  progress.handle_samples(60);
  EXPECT_FALSE(progress.target_reached());
  progress.handle_samples(39);
  EXPECT_FALSE(progress.target_reached());  // just outside
  progress.handle_samples(1);
  EXPECT_TRUE(progress.target_reached());  // just inside
  EXPECT_EQ(progress.local_report(), report(0, 100, 100));
  progress.handle_epoch(1);
  EXPECT_EQ(progress.local_report(), report(1, 0, 100));
  EXPECT_FALSE(progress.target_reached());
  EXPECT_EQ(progress.in_agreement(at(0)), 0U);  // no digest told yet
}

TEST(Progress, TheGroupReachesTheTargetTogether) {
  Progress progress({.target_batch = 100});
  progress.handle_samples(40);
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 30, 30)), ReportVerdict::accepted);
  EXPECT_EQ(progress.handle_report(at(1), peer(2), report(0, 29, 29)), ReportVerdict::accepted);
  EXPECT_EQ(progress.group_samples(), 99U);
  EXPECT_FALSE(progress.target_reached());
  EXPECT_EQ(progress.handle_report(at(2), peer(2), report(0, 30, 30)), ReportVerdict::accepted);
  EXPECT_TRUE(progress.target_reached());
  EXPECT_EQ(progress.members(), 3U);
  EXPECT_EQ(progress.total_samples(), 100U);
}

TEST(Progress, WithoutATargetNoRoundIsDue) {
  Progress progress({});
  progress.handle_samples(std::numeric_limits<std::uint64_t>::max());
  EXPECT_FALSE(progress.target_reached());
}

TEST(Progress, SamplesOfOtherEpochsDoNotCountTowardsOurs) {
  Progress progress({.target_batch = 100});
  progress.handle_epoch(5);
  progress.handle_samples(10);
  progress.handle_report(at(1), peer(1), report(4, 50, 500));  // has not finished the last round yet
  progress.handle_report(at(1), peer(2), report(6, 50, 500));  // is through with the round that we are in
  progress.handle_report(at(1), peer(3), report(5, 50, 500));
  EXPECT_EQ(progress.group_samples(), 60U);
  EXPECT_EQ(progress.total_samples(), 1510U);
  progress.handle_epoch(6);
  EXPECT_EQ(progress.group_samples(), 50U);
}

TEST(Progress, APeerThatLeftCountsOnlyInTheTotal) {
  Progress progress({.target_batch = 100});
  progress.handle_model({0, 7});
  progress.handle_report(at(1), peer(1), {0, 80, 80, ModelDigest{0, 7}});
  EXPECT_EQ(progress.in_agreement(at(1)), 2U);
  progress.handle_peer_left(peer(1));
  progress.handle_peer_left(peer(1));
  progress.handle_peer_left(peer(9));  // never seen
  EXPECT_EQ(progress.members(), 1U);
  EXPECT_EQ(progress.group_samples(), 0U);
  EXPECT_EQ(progress.total_samples(), 80U);
  EXPECT_EQ(progress.in_agreement(at(1)), 1U);
  EXPECT_EQ(progress.standing(peer(1)), std::nullopt);
}

TEST(Progress, AReturningPeerIsNotCountedTwice) {
  Progress progress({.target_batch = 100});
  progress.handle_report(at(1), peer(1), report(3, 10, 80));
  progress.handle_peer_left(peer(1));
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(3, 20, 90)), ReportVerdict::accepted);
  EXPECT_EQ(progress.total_samples(), 90U);
  // Restarted from nothing: the old samples stay done, the new ones come on top.
  progress.handle_peer_left(peer(1));
  EXPECT_EQ(progress.handle_report(at(3), peer(1), report(0, 5, 5)), ReportVerdict::accepted);
  EXPECT_EQ(progress.total_samples(), 95U);
}

TEST(Progress, ReportsThatGoBackAreIgnored) {
  Progress progress({.target_batch = 100});
  ASSERT_EQ(progress.handle_report(at(1), peer(1), report(3, 20, 320)), ReportVerdict::accepted);
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(2, 50, 350)), ReportVerdict::epoch_went_back);
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(3, 19, 320)), ReportVerdict::samples_went_back);
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(4, 0, 319)), ReportVerdict::samples_went_back);
  EXPECT_EQ(progress.total_samples(), 320U);
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(3, 20, 320)), ReportVerdict::accepted);
  EXPECT_EQ(progress.handle_report(at(2), peer(1), report(4, 0, 320)), ReportVerdict::accepted);
}

TEST(Progress, AbsurdReportsAreIgnored) {
  Progress progress({.target_batch = 100, .maximum_samples = 200});
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 201, 201)), ReportVerdict::too_many_samples);
  EXPECT_EQ(progress.members(), 1U);  // nor does such a report make it a member
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 200, 199)), ReportVerdict::total_too_small);
  EXPECT_EQ(progress.handle_report(at(1), peer(1), {0, 1, 1, ModelDigest{1, 5}}), ReportVerdict::model_from_future);
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 200, 200)), ReportVerdict::accepted);
}

TEST(Progress, TheDefaultMaximumFollowsTheTarget) {
  Progress progress({.target_batch = 100});
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 1601, 1601)), ReportVerdict::too_many_samples);
  EXPECT_EQ(progress.handle_report(at(1), peer(1), report(0, 1600, 1600)), ReportVerdict::accepted);
  Progress without_target({});
  EXPECT_EQ(without_target.handle_report(at(1), peer(1), report(0, 1ULL << 32U, 1ULL << 32U)), ReportVerdict::accepted);
  EXPECT_EQ(without_target.handle_report(at(1), peer(1), report(0, (1ULL << 32U) + 1, 1ULL << 33U)),
            ReportVerdict::too_many_samples);
}

TEST(Progress, TotalsStickAtTheTop) {
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  Progress progress({.target_batch = 100});
  progress.handle_report(at(1), peer(1), report(0, 0, most));
  progress.handle_report(at(1), peer(2), report(0, 0, most));
  progress.handle_samples(5);
  EXPECT_EQ(progress.total_samples(), most);
}

TEST(Progress, OneLiarCannotMoveTheGroupsEpoch) {
  Progress progress({.target_batch = 100});
  progress.handle_epoch(10);
  progress.handle_report(at(1), peer(1), report(10, 0, 0));
  progress.handle_report(at(1), peer(2), report(std::numeric_limits<std::uint64_t>::max(), 0, 0));
  EXPECT_EQ(progress.group_epoch(), 10U);
  EXPECT_EQ(progress.standing(peer(2)), Standing::ahead);
  EXPECT_EQ(progress.standing(peer(1)), Standing::in_step);
  EXPECT_EQ(progress.local_standing(), Standing::in_step);
  EXPECT_EQ(progress.out_of_sync(), 1U);
}

TEST(Progress, NeighboursAreInStepFurtherApartIsNot) {
  Progress progress({});
  progress.handle_epoch(10);
  for (std::uint32_t i = 1; i <= 3; ++i) progress.handle_report(at(1), peer(i), report(10, 0, 0));
  progress.handle_report(at(1), peer(4), report(9, 0, 0));
  progress.handle_report(at(1), peer(5), report(11, 0, 0));
  EXPECT_EQ(progress.standing(peer(4)), Standing::in_step);
  EXPECT_EQ(progress.standing(peer(5)), Standing::in_step);
  EXPECT_EQ(progress.out_of_sync(), 0U);
  progress.handle_report(at(1), peer(5), report(12, 0, 0));
  progress.handle_report(at(1), peer(6), report(8, 0, 0));
  EXPECT_EQ(progress.standing(peer(5)), Standing::ahead);
  EXPECT_EQ(progress.standing(peer(6)), Standing::behind);
  EXPECT_EQ(progress.standing(peer(7)), std::nullopt);
  EXPECT_EQ(progress.out_of_sync(), 2U);
}

TEST(Progress, ALatecomerSeesThatItIsBehind) {
  Progress progress({});
  progress.handle_report(at(1), peer(1), report(40, 0, 0));
  progress.handle_report(at(1), peer(2), report(41, 0, 0));
  EXPECT_EQ(progress.group_epoch(), 40U);
  EXPECT_EQ(progress.local_standing(), Standing::behind);
  progress.handle_epoch(40);
  EXPECT_EQ(progress.local_standing(), Standing::in_step);
}

TEST(Progress, AgreementIsComparedAtTheLatestCommonEpoch) {
  Progress progress({});
  progress.handle_model({0, 100});
  progress.handle_epoch(1);
  progress.handle_model({1, 111});
  EXPECT_EQ(progress.in_agreement(at(1)), 1U);
  progress.handle_report(at(1), peer(1), with_model(1, 111));  // the same
  progress.handle_report(at(1), peer(2), with_model(1, 999));  // another
  progress.handle_report(at(1), peer(3), with_model(0, 100));  // one epoch behind, agreed then
  progress.handle_report(at(1), peer(4), with_model(0, 999));  // one epoch behind, did not
  progress.handle_report(at(1), peer(5), with_model(2, 222));  // ahead: nothing in common yet
  progress.handle_report(at(1), peer(6), report(1, 0, 0));     // has told none
  EXPECT_EQ(progress.in_agreement(at(1)), 3U);
  progress.handle_epoch(2);
  progress.handle_model({2, 222});
  EXPECT_EQ(progress.in_agreement(at(1)), 3U);  // itself, 1 by epoch 1, 5 by epoch 2; 3 is two epochs back now
}

TEST(Progress, ACorrectedDigestReplacesTheOld) {
  Progress progress({});
  progress.handle_model({0, 1});
  progress.handle_report(at(1), peer(1), with_model(0, 2));
  EXPECT_EQ(progress.in_agreement(at(1)), 1U);
  progress.handle_report(at(2), peer(1), with_model(0, 1));  // it took over the group's state
  EXPECT_EQ(progress.in_agreement(at(2)), 2U);
  EXPECT_EQ(progress.local_report().model, (ModelDigest{0, 1}));
}

TEST(Progress, SilentPeersAreNotInAgreement) {
  Progress progress({.stale_after = seconds(60)});
  progress.handle_model({0, 1});
  progress.handle_report(at(10), peer(1), with_model(0, 1));
  EXPECT_EQ(progress.in_agreement(at(70)), 2U);
  EXPECT_EQ(progress.in_agreement(at(71)), 1U);
  EXPECT_EQ(progress.members(), 2U);  // silence is no departure
  progress.handle_report(at(71), peer(1), with_model(0, 1));
  EXPECT_EQ(progress.in_agreement(at(71)), 2U);
}

TEST(Progress, RoomIsBoundedAndThoseWhoLeftMakeWay) {
  Progress progress({.maximum_peers = 3});
  for (std::uint32_t i = 1; i <= 3; ++i) {
    EXPECT_EQ(progress.handle_report(at(1), peer(i), report(0, i, i)), ReportVerdict::accepted);
  }
  EXPECT_EQ(progress.handle_report(at(1), peer(4), report(0, 4, 4)), ReportVerdict::too_many_peers);
  progress.handle_peer_left(peer(2));
  EXPECT_EQ(progress.handle_report(at(1), peer(4), report(0, 4, 4)), ReportVerdict::accepted);
  EXPECT_EQ(progress.members(), 4U);
  EXPECT_EQ(progress.total_samples(), 10U);  // those of peer 2 are not lost
  EXPECT_EQ(progress.handle_report(at(1), peer(2), report(0, 2, 2)), ReportVerdict::too_many_peers);
}

TEST(ProgressDeathTest, OurOwnMistakesAbort) {
  Progress progress({});
  progress.handle_epoch(3);
  EXPECT_DEATH(progress.handle_epoch(3), "broken invariant.*values 3, 3");
  EXPECT_DEATH(progress.handle_model({4, 1}), "broken invariant.*values 4, 3");
}

// Random events against the definitions, written out over a map.
TEST(Progress, MatchesAModelOverRandomEvents) {
  Random random(41);
  for (int run = 0; run < 200; ++run) {
    Progress progress({.target_batch = 500, .maximum_samples = 300});
    std::map<std::uint32_t, ProgressReport> present;
    std::uint64_t epoch = 0, samples = 0;
    for (int step = 0; step < 200; ++step) {
      const auto who = static_cast<std::uint32_t>(random.below(12));
      switch (random.below(6)) {
        case 0:
          if (random.chance(0.2)) progress.handle_epoch(++epoch), samples = 0;
          break;
        case 1: progress.handle_samples(7), samples += 7; break;
        case 2: progress.handle_peer_left(peer(who)), present.erase(who); break;
        default: {
          ProgressReport word = report(random.below(6), random.below(310), 0);
          word.total_samples = word.epoch * 310 + word.samples;
          const auto known = present.find(who);
          bool wanted = word.samples <= 300;
          if (known != present.end()) {
            wanted = wanted && word.epoch >= known->second.epoch && word.total_samples >= known->second.total_samples;
          }
          const ReportVerdict verdict = progress.handle_report(at(step), peer(who), word);
          ASSERT_EQ(verdict == ReportVerdict::accepted, wanted) << to_string(verdict);
          if (wanted) present[who] = word;
        }
      }
      std::vector<std::uint64_t> epochs{epoch};
      std::uint64_t sum = samples;
      for (const auto& [number, word] : present) {
        epochs.push_back(word.epoch);
        if (word.epoch == epoch) sum += word.samples;
      }
      std::sort(epochs.begin(), epochs.end());
      ASSERT_EQ(progress.members(), epochs.size());
      ASSERT_EQ(progress.group_epoch(), epochs[(epochs.size() - 1) / 2]);
      ASSERT_EQ(progress.group_samples(), sum);
      ASSERT_EQ(progress.target_reached(), sum >= 500);
    }
  }
}

}  // namespace
}  // namespace papilio
