// The simulator's own judge: for each promise of ROUND.md, a round that keeps it passes, and the same round with that
// promise broken does not. Three members, one chunk each.
#include "tools/sim/round_check.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace papilio::sim {
namespace {

using testing::AssertionFailure;
using testing::AssertionResult;
using testing::AssertionSuccess;

constexpr std::uint32_t kMembers = 5;
constexpr std::uint64_t kElements = 4 * kMembers;
constexpr TimePoint kOpened{std::chrono::seconds(50)};
constexpr Coverage kEverybody = (1U << kMembers) - 1;

class RoundCheckTest : public testing::Test {
 protected:
  RoundCheckTest() : check_(spec(), {10, 11, 12, 13, 14}, kElements, kOpened) {
    for (MemberIndex member = 0; member < kMembers; ++member) {
      inputs_.emplace_back(kElements);
      for (std::uint64_t i = 0; i < kElements; ++i) {
        inputs_.back()[i] = static_cast<float>(member + 1) * 0.1F + static_cast<float>(i);
      }
    }
  }

  static node::RoundSpec spec() {
    node::RoundSpec spec{.round = 3, .epoch = 3, .members = {}, .chunk_bytes = 16, .timeout = std::chrono::minutes(1)};
    spec.members.resize(kMembers);
    return spec;
  }

  void begin() {
    for (MemberIndex member = 0; member < kMembers; ++member) check_.handle_begin(10 + member, inputs_[member], 1, {});
  }

  // What the chunk is if those contributed, with weights of 1.
  [[nodiscard]] std::vector<float> average(ChunkIndex chunk, Coverage coverage) const {
    std::vector<float> values(4);
    for (std::uint64_t i = 0; i < 4; ++i) {
      double sum = 0, weights = 0;
      for (MemberIndex member = 0; member < kMembers; ++member) {
        if ((coverage & coverage_of(member)) == 0) continue;
        sum += static_cast<double>(inputs_[member][chunk * 4 + i]);
        weights += 1;
      }
      values[i] = static_cast<float>(sum / weights);
    }
    return values;
  }

  // A member's end of the round: coverage and reducer of each chunk, values to match.
  struct End {
    RoundReport report;
    std::vector<float> values;
  };
  [[nodiscard]] End end(MemberIndex self, const std::vector<Coverage>& coverages) const {
    End end;
    end.values = inputs_[self];
    end.report.round = 3;
    end.report.members = kMembers;
    end.report.peers.resize(kMembers);
    end.report.digest = 1;
    for (ChunkIndex chunk = 0; chunk < kMembers; ++chunk) set_chunk(end, self, chunk, coverages[chunk], chunk);
    return end;
  }
  [[nodiscard]] End good_end(MemberIndex self) const { return end(self, std::vector<Coverage>(kMembers, kEverybody)); }

  void set_chunk(End& end, MemberIndex self, ChunkIndex chunk, Coverage coverage, MemberIndex reducer) const {
    end.report.chunks.resize(kMembers);
    end.report.reducers.resize(kMembers, node::kNotAMember);
    end.report.chunks[chunk] = coverage;
    end.report.reducers[chunk] = coverage == 0 ? node::kNotAMember : reducer;
    const std::vector<float> values =
        coverage != 0 ? average(chunk, coverage)
                      : std::vector<float>(inputs_[self].begin() + chunk * 4, inputs_[self].begin() + chunk * 4 + 4);
    std::copy(values.begin(), values.end(), end.values.begin() + chunk * 4);
    end.report.local_chunks = 0;
    for (PeerReport& peer : end.report.peers) peer.contributions_in = peer.averages_in = 0;
    for (ChunkIndex each = 0; each < kMembers; ++each) {
      if (end.report.chunks[each] == 0) {
        end.report.local_chunks += 1;
        continue;
      }
      if (end.report.reducers[each] < kMembers) end.report.peers[end.report.reducers[each]].averages_in += 1;
      for (MemberIndex member = 0; member < kMembers; ++member) {
        const bool counted = (end.report.chunks[each] & coverage_of(member)) != 0;
        if (end.report.reducers[each] == self && counted) end.report.peers[member].contributions_in += 1;
      }
    }
  }

  // `what`: part of the objection; empty: there is none.
  AssertionResult judged(MemberIndex self, const End& end, const std::string& what) {
    const std::string wrong = check_.check_end(10 + self, end.report, end.values);
    if (what.empty() && wrong.empty()) return AssertionSuccess();
    if (!what.empty() && wrong.find(what) != std::string::npos) return AssertionSuccess();
    return AssertionFailure() << "'" << wrong << "' instead of '" << what << "'";
  }

  RoundCheck check_;
  std::vector<std::vector<float>> inputs_;
};

TEST_F(RoundCheckTest, AFaultlessRoundPasses) {
  begin();
  for (MemberIndex member = 0; member < kMembers; ++member) EXPECT_TRUE(judged(member, good_end(member), ""));
  EXPECT_TRUE(check_.is_calm());
}

TEST_F(RoundCheckTest, Promise2ValuesAreWhatTheReportSays) {
  begin();
  End end = good_end(0);
  end.values[7] += 0.001F;
  EXPECT_TRUE(judged(0, end, "promise 2: element 7"));
  end.values[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(judged(0, end, "promise 2: element 7 is not finite"));
}

TEST_F(RoundCheckTest, Promise2LocalIsTheOwnGradient) {
  begin();
  check_.disturb_host(12, kOpened);
  End end = good_end(0);
  set_chunk(end, 0, 2, 0, 0);
  end.report.peers[2].cut_off = true;
  end.report.peers[2].reason = "slow";
  end.values[8] += 1;
  EXPECT_TRUE(judged(0, end, "chunk 2: promise 2: the report says local"));
}

TEST_F(RoundCheckTest, Promise2TheReportAgreesWithItself) {
  begin();
  End end = good_end(0);
  end.report.local_chunks = 1;
  EXPECT_TRUE(judged(0, end, "promise 2: the report counts 1 local chunks and lists 0"));
  end = good_end(0);
  end.report.members = 4;
  EXPECT_TRUE(judged(0, end, "promise 2: the report is of another round"));
  end = good_end(0);
  end.report.peers[3].averages_in = 0;
  EXPECT_TRUE(judged(0, end, "promise 4"));
}

TEST_F(RoundCheckTest, Promise2WhoIsLackingIsExplained) {
  begin();
  check_.disturb_host(13, kOpened);
  End end = good_end(0);
  set_chunk(end, 0, 0, kEverybody & ~coverage_of(3), 0);
  EXPECT_TRUE(judged(0, end, "chunk 0 lacks host 13, and the report does not say why"));
  end.report.peers[3].cut_off = true;
  EXPECT_TRUE(judged(0, end, "host 13 was cut off for no reason"));
  end.report.peers[3].reason = "slow";
  EXPECT_TRUE(judged(0, end, ""));
}

TEST_F(RoundCheckTest, Promise3TheSameAverageIsTheSameBytes) {
  begin();
  EXPECT_TRUE(judged(0, good_end(0), ""));
  End end = good_end(1);
  end.values[16] = std::nextafter(end.values[16], 100.0F);
  EXPECT_TRUE(judged(1, end, "promise 3: host 10 and host 11 hold different averages, both made by host 14"));
}

// Host 13 made an average before it died, host 14 another one after it.
TEST_F(RoundCheckTest, Promise3OneAverageAmongThoseWhoHearEachOther) {
  begin();
  check_.disturb_host(13, kOpened);
  EXPECT_TRUE(judged(0, good_end(0), ""));
  End end = good_end(1);
  set_chunk(end, 1, 3, kEverybody & ~coverage_of(3), 4);
  EXPECT_TRUE(judged(1, end, "promise 3: host 10 holds the average of host 13, host 11 that of host 14"));
  check_.disturb_pair(10, 11, kOpened);
  end.report.digest = 2;
  EXPECT_TRUE(judged(1, end, ""));
}

TEST_F(RoundCheckTest, Promise4OnlyThoseWhoBeganAreCounted) {
  for (MemberIndex member = 0; member + 1 < kMembers; ++member)
    check_.handle_begin(10 + member, inputs_[member], 1, {});
  EXPECT_TRUE(judged(0, good_end(0), "promise 4: lists host 14, which had not begun"));
}

TEST_F(RoundCheckTest, WhatSaysItIsOfAnotherModelIsNotCounted) {
  begin();
  check_.disturb_host(12, kOpened);
  check_.handle_disguise(12, 11, 1, true);
  EXPECT_TRUE(judged(0, good_end(0), "counts a contribution of host 12 that said"));
  check_.handle_disguise(12, 11, 1, false);
  EXPECT_TRUE(judged(0, good_end(0), ""));
  check_.handle_other_model(12);
  EXPECT_TRUE(judged(1, good_end(1), "counts host 12, of another epoch"));
}

TEST_F(RoundCheckTest, Promise5NobodyWellIsCutOffOrBlamed) {
  begin();
  End end = good_end(0);
  end.report.peers[2].cut_off = true;
  end.report.peers[2].reason = "slow";
  EXPECT_TRUE(judged(0, end, "promise 5: host 12 was cut off (slow)"));
  EXPECT_NE(check_.check_offence(10, 12, "slow").find("promise 5"), std::string::npos);
  check_.disturb_pair(10, 12, kOpened);
  EXPECT_TRUE(judged(0, end, ""));
  EXPECT_EQ(check_.check_offence(10, 12, "slow"), "");
}

// Two of its four judges have lost it: the others may believe them. One is not enough.
TEST_F(RoundCheckTest, Promise5WhoIsOutvotedMayBeCutOff) {
  begin();
  End end = good_end(0);
  end.report.peers[2].cut_off = true;
  end.report.peers[2].reason = "condemned";
  check_.disturb_pair(12, 13, kOpened);
  EXPECT_TRUE(judged(0, end, "promise 5"));
  check_.disturb_pair(12, 14, kOpened);
  EXPECT_TRUE(judged(0, end, ""));
}

TEST_F(RoundCheckTest, Promise5WhoIsWellIsInTheAverages) {
  begin();
  check_.disturb_host(13, kOpened);
  End end = good_end(0);
  set_chunk(end, 0, 1, kEverybody & ~coverage_of(2), 1);
  EXPECT_TRUE(judged(0, end, "promise 5: chunk 1 by host 11 lacks host 12"));
}

TEST_F(RoundCheckTest, Promise6ALostPartIsAveragedBySomebodyElse) {
  begin();
  check_.disturb_host(12, kOpened + std::chrono::seconds(1));
  End end = good_end(0);
  set_chunk(end, 0, 2, 0, 0);
  end.report.peers[2].cut_off = true;
  end.report.peers[2].reason = "connection-lost";
  EXPECT_TRUE(judged(0, end, "promise 6: chunk 2 is local, though host 11 could have averaged it in place of host 12"));
  set_chunk(end, 0, 2, kEverybody & ~coverage_of(2), 3);
  EXPECT_TRUE(judged(0, end, ""));
}

TEST_F(RoundCheckTest, Promise6IsNotForThoseWithoutTimeOrMajority) {
  begin();
  End end = good_end(0);
  set_chunk(end, 0, 2, 0, 0);
  end.report.peers[2].cut_off = true;
  end.report.peers[2].reason = "connection-lost";
  RoundCheck early = check_;
  early.disturb_host(12, kOpened);
  EXPECT_NE(early.check_end(10, end.report, end.values).find("promise 6"), std::string::npos);
  RoundCheck too_late = check_;
  too_late.disturb_host(12, kOpened + std::chrono::seconds(55));
  EXPECT_EQ(too_late.check_end(10, end.report, end.values), "");
  RoundCheck too_few = check_;
  for (const std::uint32_t host : {12U, 13U, 14U}) too_few.disturb_host(host, kOpened);
  EXPECT_EQ(too_few.check_end(10, end.report, end.values), "");
}

TEST_F(RoundCheckTest, Promise8DigestsTellValuesApart) {
  begin();
  EXPECT_TRUE(judged(0, good_end(0), ""));
  End end = good_end(1);
  end.report.digest = 2;
  EXPECT_TRUE(judged(1, end, "promise 8: host 10 and host 11 hold the same values with different digests"));
}

}  // namespace
}  // namespace papilio::sim
