// Rosters: what each message deserves, and, in a small world of messages, what a group agrees on when proposers die
// between any two messages, links are lost, sides are cut apart and heal, peers freeze and come back, and some lie.
#include "engine/core/roster.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/base/random.hpp"
#include "tests/seeds.hpp"

namespace papilio::core {
namespace {

std::uint64_t worlds() { return seeds(10'000); }

using std::chrono::milliseconds;
using std::chrono::seconds;

PeerId id_of(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(Random::mix(number + 1) >> (8 * i));
  id.bytes[31] = static_cast<std::uint8_t>(number);
  return id;
}

RosterConfig config_of(std::uint64_t number, bool is_miner = true) {
  return {.self = id_of(number), .is_miner = is_miner, .rate_bytes_per_s = 1000 + number, .elements = 1'000'000};
}

RosterPeer peer_of(std::uint64_t number, std::uint64_t epoch = 0, bool is_miner = true) {
  return {.id = id_of(number),
          .is_miner = is_miner,
          .takes_part = true,
          .rate_bytes_per_s = 1000 + number,
          .is_local_host = false,
          .epoch = epoch};
}

Proposal proposal_of(std::vector<std::uint64_t> numbers, std::uint64_t proposer, std::uint32_t attempt = 1) {
  Proposal proposal{.round = 1,
                    .epoch = 0,
                    .ballot = {attempt, id_of(proposer)},
                    .members = {},
                    .chunk_bytes = 65536,
                    .timeout_ms = 1000};
  for (const std::uint64_t number : numbers) proposal.members.push_back({id_of(number), 1000 + number, true});
  std::sort(proposal.members.begin(), proposal.members.end(),
            [](const auto& one, const auto& other) { return one.peer < other.peer; });
  return proposal;
}

constexpr TimePoint kNow{seconds(10)};
const std::vector<std::uint64_t> kAll = {0, 1, 2, 3};

// Number 0, linked to 1, 2 (miners) and 3 (a client).
struct Single {
  Single() {
    for (std::uint64_t other = 1; other <= 3; ++other) rostering.handle_peer(kNow, peer_of(other, 0, other != 3));
  }
  // What it says to that peer, of that kind.
  template <typename Kind>
  std::vector<Kind> said_to(std::uint64_t number) {
    std::vector<Kind> said;
    while (const auto message = rostering.poll_message()) {
      const bool is_for_it = std::find(message->to.begin(), message->to.end(), id_of(number)) != message->to.end();
      if (const auto* content = std::get_if<Kind>(&message->content); content != nullptr && is_for_it) {
        said.push_back(*content);
      }
    }
    return said;
  }
  Answer answer_to(std::uint64_t number) {
    const auto said = said_to<RosterAnswer>(number);
    EXPECT_EQ(said.size(), 1U);
    return said.empty() ? Answer::withdrawn : said[0].answer;
  }
  Rostering rostering{config_of(0)};
};

TEST(Roster, AProposalIsAcknowledgedAndItsCommitBegins) {
  Single node;
  const Proposal proposal = proposal_of(kAll, 1);
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal), RosterVerdict::accepted);
  EXPECT_EQ(node.answer_to(1), Answer::acknowledged);
  const Commit commit{.proposal = proposal, .mask = 15};
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(2), commit), RosterVerdict::accepted);  // whoever passes it on
  ASSERT_TRUE(node.rostering.decided());
  EXPECT_EQ(roster_of(*node.rostering.decided()).members.size(), 4U);
  EXPECT_EQ(node.said_to<Commit>(2).size(), 1U);  // once
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(1), commit), RosterVerdict::known);
  EXPECT_TRUE(node.said_to<Commit>(2).empty());
  // Whoever proposes now is told what was agreed.
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(2), proposal_of(kAll, 2, 5)), RosterVerdict::refused);
  EXPECT_EQ(node.said_to<Commit>(2), std::vector{commit});
}

TEST(Roster, WhatAProposalMustBe) {
  const auto verdict_of = [](Proposal proposal, std::uint64_t from = 1) {
    return Single().rostering.handle_proposal(kNow, id_of(from), proposal);
  };
  const Proposal good = proposal_of({0, 1, 2, 3}, 1);
  EXPECT_EQ(verdict_of(good), RosterVerdict::accepted);
  EXPECT_EQ(verdict_of(good, 2), RosterVerdict::wrong_proposer);
  EXPECT_EQ(verdict_of(good, 9), RosterVerdict::unconnected);
  EXPECT_EQ(verdict_of(proposal_of({0, 3}, 3), 3), RosterVerdict::not_a_miner);
  EXPECT_EQ(verdict_of(proposal_of({1, 2}, 1)), RosterVerdict::self_missing);
  EXPECT_EQ(verdict_of(proposal_of({0, 2}, 1)), RosterVerdict::bad_members);
  EXPECT_EQ(verdict_of(proposal_of({0, 1, 1}, 1)), RosterVerdict::bad_members);
  EXPECT_EQ(verdict_of(proposal_of({}, 1)), RosterVerdict::bad_members);
  Proposal bad = good;
  std::swap(bad.members.front(), bad.members.back());
  EXPECT_EQ(verdict_of(bad), RosterVerdict::bad_members);
  bad = good;
  for (RosterEntry& member : bad.members) member.reduces = member.peer != id_of(1);
  EXPECT_EQ(verdict_of(bad), RosterVerdict::bad_members);
  std::vector<std::uint64_t> many;
  for (std::uint64_t number = 0; number < kMaximumMembers; ++number) many.push_back(number);
  EXPECT_EQ(verdict_of(proposal_of(many, 1)), RosterVerdict::accepted);
  many.push_back(kMaximumMembers);
  EXPECT_EQ(verdict_of(proposal_of(many, 1)), RosterVerdict::bad_members);
  for (const std::uint64_t rate : {kMaximumRate + 1, ~std::uint64_t{0}}) {
    bad = good;
    bad.members[0].rate_bytes_per_s = rate;
    EXPECT_EQ(verdict_of(bad), RosterVerdict::bad_rate);
  }
  for (const auto& spoil : std::vector<void (*)(Proposal&)>{
           [](Proposal& each) { each.chunk_bytes = 65536 / 2; }, [](Proposal& each) { each.chunk_bytes = 65537; },
           [](Proposal& each) { each.chunk_bytes = 2 * kMaximumChunkBytes; },
           [](Proposal& each) { each.timeout_ms = kLeastTimeoutMs - 1; },
           [](Proposal& each) { each.timeout_ms = kMostTimeoutMs + 1; }, [](Proposal& each) { each.round = 2; },
           [](Proposal& each) { each.round = 0; }, [](Proposal& each) { each.ballot.attempt = 0; }}) {
    bad = good;
    spoil(bad);
    EXPECT_EQ(verdict_of(bad), RosterVerdict::bad_shape);
    EXPECT_TRUE(is_violation(RosterVerdict::bad_shape));
  }
}

TEST(Roster, RefusalsSayWhy) {
  const auto answer_to = [](const Proposal& proposal) {
    Single node;
    EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal), RosterVerdict::refused);
    return node.answer_to(1);
  };
  Proposal proposal = proposal_of(kAll, 1);
  proposal.epoch = 7;
  proposal.round = 8;
  EXPECT_EQ(answer_to(proposal), Answer::other_epoch);
  proposal = proposal_of(kAll, 1);
  for (RosterEntry& member : proposal.members) member.rate_bytes_per_s = 5;
  EXPECT_EQ(answer_to(proposal), Answer::wrong_entry);
  EXPECT_EQ(answer_to(proposal_of(kAll, 1, kMostAttemptJump + 1)), Answer::too_far_ahead);
  Single node;
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1, kMostAttemptJump)),
            RosterVerdict::accepted);
  static_cast<void>(node.answer_to(1));
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(2), proposal_of(kAll, 2, 1)), RosterVerdict::refused);
  EXPECT_EQ(node.answer_to(2), Answer::promised_higher);
}

TEST(Roster, AnAcknowledgementBindsUntilItsLeaseEnds) {
  Single node;
  const RosterConfig& config = node.rostering.config();
  node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1));
  static_cast<void>(node.said_to<RosterAnswer>(1));
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(2), proposal_of(kAll, 2, 2)), RosterVerdict::deferred);
  EXPECT_EQ(node.answer_to(2), Answer::busy);
  node.rostering.handle_time(kNow + config.lease - milliseconds(1));
  EXPECT_TRUE(node.said_to<RosterAnswer>(2).empty());
  node.rostering.handle_time(kNow + config.lease);
  EXPECT_EQ(node.answer_to(2), Answer::acknowledged);
  // The commit of the first is blocked now, and told to the second; which takes it over, or not.
  const Commit late{.proposal = proposal_of(kAll, 1), .mask = 15};
  EXPECT_EQ(node.rostering.handle_commit(kNow + config.lease, id_of(1), late), RosterVerdict::blocked);
  EXPECT_EQ(node.said_to<Commit>(2), std::vector{late});
  EXPECT_EQ(node.rostering.handle_commit(kNow + config.lease, id_of(2), late), RosterVerdict::accepted);
  EXPECT_TRUE(node.rostering.decided());
}

TEST(Roster, AWithdrawnOrLostProposalLetsGo) {
  for (const bool is_lost : {false, true}) {
    Single node;
    const Proposal proposal = proposal_of(kAll, 1);
    node.rostering.handle_proposal(kNow, id_of(1), proposal);
    node.rostering.handle_proposal(kNow, id_of(2), proposal_of(kAll, 2, 2));
    static_cast<void>(node.said_to<RosterAnswer>(2));
    if (is_lost) {
      node.rostering.handle_peer_left(kNow, id_of(1));
      EXPECT_TRUE(node.said_to<RosterAnswer>(2).empty());  // its commit may be on its way through others
      node.rostering.handle_time(kNow + node.rostering.config().settle_grace);
    } else {
      const RosterAnswer withdrawn{.round = 1, .ballot = proposal.ballot, .answer = Answer::withdrawn};
      EXPECT_EQ(node.rostering.handle_answer(kNow, id_of(2), withdrawn), RosterVerdict::wrong_proposer);
      EXPECT_EQ(node.rostering.handle_answer(kNow, id_of(1), withdrawn), RosterVerdict::accepted);
    }
    EXPECT_EQ(node.answer_to(2), Answer::acknowledged);
  }
}

TEST(Roster, CommitsThatNobodyAcknowledgedAreNotBelieved) {
  Single node;
  const Proposal proposal = proposal_of(kAll, 1);
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(1), {proposal, 15}), RosterVerdict::forged);
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(2), {proposal, 15}), RosterVerdict::not_acknowledged);
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(1), {proposal, 16}), RosterVerdict::bad_mask);
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(1), {proposal, 0}), RosterVerdict::bad_mask);
  node.rostering.handle_proposal(kNow, id_of(1), proposal);
  Commit other{.proposal = proposal, .mask = 15};
  other.proposal.timeout_ms += 1;
  EXPECT_EQ(node.rostering.handle_commit(kNow, id_of(1), other), RosterVerdict::forged);
  EXPECT_FALSE(node.rostering.decided());
}

// Started anew, a proposer counts from 1 again: that is no lie, and it learns how far it had got.
TEST(Roster, AProposerThatWasStartedAnewIsNoForger) {
  Single node;
  node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1));
  EXPECT_EQ(node.answer_to(1), Answer::acknowledged);
  Proposal again = proposal_of(kAll, 1);
  again.timeout_ms += 1;
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), again), RosterVerdict::forged);
  again.instance = 5;
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), again), RosterVerdict::refused);
  EXPECT_EQ(node.answer_to(1), Answer::promised_higher);
  again.ballot.attempt = 2;
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), again), RosterVerdict::accepted);
  EXPECT_EQ(node.answer_to(1), Answer::acknowledged);
  ASSERT_NE(node.rostering.acknowledged(again.ballot), nullptr);
  EXPECT_EQ(*node.rostering.acknowledged(again.ballot), again);
  EXPECT_EQ(node.rostering.acknowledged({3, id_of(1)}), nullptr);
}

TEST(Roster, JudgingACommitChangesNothing) {
  Single node;
  const Commit commit{.proposal = proposal_of(kAll, 1), .mask = 15};
  EXPECT_EQ(node.rostering.judge_commit(id_of(9), commit), RosterVerdict::unconnected);
  EXPECT_EQ(node.rostering.judge_commit(id_of(1), {commit.proposal, 16}), RosterVerdict::bad_mask);
  EXPECT_EQ(node.rostering.judge_commit(id_of(1), commit), RosterVerdict::accepted);
  EXPECT_EQ(node.rostering.judge_commit(id_of(1), commit), RosterVerdict::accepted);
  node.rostering.handle_proposal(kNow, id_of(1), commit.proposal);
  node.rostering.handle_commit(kNow, id_of(1), commit);
  EXPECT_EQ(node.rostering.judge_commit(id_of(1), commit), RosterVerdict::known);
}

TEST(Roster, AttemptsAreRationed) {
  Single node;
  std::uint32_t attempt = 0;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1, ++attempt)), RosterVerdict::accepted);
  }
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1, ++attempt)), RosterVerdict::flood);
  const Duration refill = node.rostering.config().attempt_refill;
  EXPECT_EQ(node.rostering.handle_proposal(kNow + refill - milliseconds(1), id_of(1), proposal_of(kAll, 1, ++attempt)),
            RosterVerdict::flood);
  EXPECT_EQ(node.rostering.handle_proposal(kNow + refill + milliseconds(1), id_of(1), proposal_of(kAll, 1, ++attempt)),
            RosterVerdict::accepted);
}

// Whoever leaves out a member that this node sees is refused for a while; whoever cannot see it gets its way after
// that.
TEST(Roster, WhoIsHereIsNotLeftOut) {
  Single node;
  const Duration patience = node.rostering.config().inclusion_patience;
  const auto answer_to = [&](Duration after, const Proposal& proposal) {
    node.rostering.handle_proposal(kNow + after, proposal.ballot.proposer, proposal);
    const std::uint64_t from = proposal.ballot.proposer == id_of(1) ? 1 : 2;
    return node.answer_to(from);
  };
  // Higher attempts, other proposers and other sets do not count against it.
  EXPECT_EQ(answer_to(seconds(0), proposal_of({0, 1, 2}, 1, 1)), Answer::incomplete);
  EXPECT_EQ(answer_to(milliseconds(1), proposal_of({0, 1, 2}, 1, 200)), Answer::incomplete);
  EXPECT_EQ(answer_to(milliseconds(2), proposal_of({0, 2}, 2, 201)), Answer::incomplete);
  EXPECT_EQ(answer_to(patience - milliseconds(1), proposal_of({0, 1, 2}, 1, 202)), Answer::incomplete);
  EXPECT_EQ(answer_to(patience, proposal_of({0, 1, 2}, 1, 203)), Answer::acknowledged);
  // Nobody insists on those that are at another epoch, were lost, or do not take part.
  for (const int how : {0, 1, 2}) {
    Single other;
    RosterPeer third = peer_of(3, how == 0 ? 1 : 0, false);
    third.takes_part = how != 1;
    if (how == 2) {
      other.rostering.handle_peer_left(kNow, id_of(3));
    } else {
      other.rostering.handle_peer(kNow, third);
    }
    other.rostering.handle_proposal(kNow, id_of(1), proposal_of({0, 1, 2}, 1));
    EXPECT_EQ(other.answer_to(1), Answer::acknowledged) << how;
  }
}

// A fast liar finds its victims' reports of the new epoch still on their way.
TEST(Roster, WhoIsStillFinishingTheLastRoundIsNotLeftOut) {
  for (const bool is_lost : {false, true}) {
    Single node;
    node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1));
    node.rostering.handle_commit(kNow, id_of(1), {.proposal = proposal_of(kAll, 1), .mask = 15});
    const std::vector<PeerId> lost = {id_of(3)};
    node.rostering.handle_epoch(kNow, 1, is_lost ? std::span<const PeerId>(lost) : std::span<const PeerId>());
    for (const std::uint64_t other : {1, 2}) node.rostering.handle_peer(kNow, peer_of(other, 1));
    Proposal next = proposal_of({0, 1, 2}, 1);
    next.round = 2;
    next.epoch = 1;
    static_cast<void>(node.said_to<RosterAnswer>(1));
    const Duration grace = node.rostering.config().arrival_grace;
    node.rostering.handle_proposal(kNow + grace - milliseconds(1), id_of(1), next);
    EXPECT_EQ(node.answer_to(1), is_lost ? Answer::acknowledged : Answer::incomplete);
    if (is_lost) continue;
    next.ballot.attempt = 2;
    node.rostering.handle_proposal(kNow + grace, id_of(1), next);
    EXPECT_EQ(node.answer_to(1), Answer::acknowledged);
  }
}

// Told that it leaves somebody out, a proposer lets the others go first, and asks those that it took for silent.
TEST(Roster, WhoDoesNotSeeEverybodyLetsOthersGoFirst) {
  Single node;
  const RosterConfig config = node.rostering.config();
  node.rostering.handle_due(kNow, true);
  const TimePoint turn = node.rostering.next_deadline();
  node.rostering.handle_time(turn);
  const auto proposals = node.said_to<Proposal>(1);
  ASSERT_EQ(proposals.size(), 1U);
  RosterAnswer no{.round = 1, .ballot = proposals[0].ballot, .answer = Answer::incomplete};
  EXPECT_EQ(node.rostering.handle_answer(turn, id_of(2), no), RosterVerdict::accepted);
  EXPECT_EQ(node.answer_to(1), Answer::withdrawn);  // at once: it holds those that agreed
  EXPECT_GE(node.rostering.next_deadline() - turn, 3 * config.propose_grace);
  // One that always says so is gone without in the end.
  for (int tries = 0; tries < 4 && !node.rostering.decided(); ++tries) {
    const TimePoint again = node.rostering.next_deadline();
    node.rostering.handle_time(again);
    const auto next = node.said_to<Proposal>(1);
    ASSERT_EQ(next.size(), 1U) << tries;
    for (const std::uint64_t from : {1, 3, 2}) {
      if (!node.rostering.is_proposing()) break;
      no.ballot = next[0].ballot;
      no.answer = from == 2 ? Answer::incomplete : Answer::acknowledged;
      node.rostering.handle_answer(again, id_of(from), no);
    }
    static_cast<void>(node.said_to<RosterAnswer>(1));
  }
  ASSERT_TRUE(node.rostering.decided());
  EXPECT_EQ(roster_of(*node.rostering.decided()).members.size(), 3U);
}

// More than a third of the others, and at least two: then nobody has it in a roster, and its own come to nothing.
TEST(Roster, WhomManyHaveBannedIsInNoRoster) {
  const auto with = [](std::uint64_t others, std::uint64_t accusers, bool self_too) {
    Rostering node(config_of(0));
    for (std::uint64_t other = 1; other <= others; ++other) {
      RosterPeer peer = peer_of(other);
      // Naming it often does not help.
      if (other > 1 && other <= 1 + accusers) peer.banned = {id_of(1), id_of(1), id_of(1)};
      node.handle_peer(kNow, peer);
    }
    if (self_too) node.handle_bans(std::vector<PeerId>{id_of(1)});
    node.handle_due(kNow, true);
    node.handle_time(kNow + seconds(100));
    while (const auto message = node.poll_message()) {
      if (const auto* const proposal = std::get_if<Proposal>(&message->content)) return proposal->members.size();
    }
    return std::size_t{0};
  };
  EXPECT_EQ(with(2, 1, false), 3U);  // one word against another
  EXPECT_EQ(with(3, 1, false), 4U);
  EXPECT_EQ(with(3, 2, false), 3U);
  EXPECT_EQ(with(5, 1, true), 5U);
  EXPECT_EQ(with(6, 2, false), 7U);
  EXPECT_EQ(with(6, 3, false), 6U);

  Single node;
  for (const std::uint64_t accuser : {2, 3}) {
    RosterPeer peer = peer_of(accuser, 0, accuser != 3);
    peer.banned = {id_of(1)};
    node.rostering.handle_peer(kNow, peer);
  }
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(1), proposal_of(kAll, 1)), RosterVerdict::refused);
  EXPECT_EQ(node.answer_to(1), Answer::no_credit);
  EXPECT_EQ(node.rostering.handle_proposal(kNow, id_of(2), proposal_of({0, 2, 3}, 2)), RosterVerdict::accepted);
  EXPECT_EQ(node.answer_to(2), Answer::acknowledged);
}

// One member alone needs nobody's answer; who does not answer is left out after the grace, and not asked again until it
// speaks.
TEST(Roster, TheSilentAreLeftOut) {
  Rostering alone(config_of(0));
  alone.handle_due(kNow, true);
  alone.handle_time(kNow);
  EXPECT_TRUE(alone.decided());

  Single node;
  const RosterConfig config = node.rostering.config();
  node.rostering.handle_due(kNow, true);
  const TimePoint turn = node.rostering.next_deadline();  // others may come first in the order
  node.rostering.handle_time(turn);
  const auto proposals = node.said_to<Proposal>(1);
  ASSERT_EQ(proposals.size(), 1U);
  EXPECT_EQ(proposals[0].members.size(), 4U);
  const RosterAnswer yes{.round = 1, .ballot = proposals[0].ballot, .answer = Answer::acknowledged};
  EXPECT_EQ(node.rostering.handle_answer(turn, id_of(1), yes), RosterVerdict::accepted);
  EXPECT_EQ(node.rostering.handle_answer(turn, id_of(9), yes), RosterVerdict::unconnected);
  node.rostering.handle_time(turn + config.ack_grace - milliseconds(1));
  EXPECT_FALSE(node.rostering.decided());
  node.rostering.handle_time(turn + config.ack_grace);
  ASSERT_TRUE(node.rostering.decided());
  EXPECT_EQ(roster_of(*node.rostering.decided()).members.size(), 2U);
}

TEST(Roster, HashesTellRostersAndModelsApart) {
  const Roster roster = roster_of({proposal_of({0, 1, 2}, 1), 7});
  std::set<std::uint64_t> hashes{group_hash(roster)};
  for (const auto& change : std::vector<void (*)(Roster&)>{
           [](Roster& each) { each.round += 1; }, [](Roster& each) { each.epoch += 1; },
           [](Roster& each) { each.chunk_bytes *= 2; }, [](Roster& each) { each.members.pop_back(); },
           [](Roster& each) { std::swap(each.members[0], each.members[1]); },
           [](Roster& each) { each.members[1].reduces = false; },
           [](Roster& each) { each.members[1].rate_bytes_per_s += 1; }}) {
    Roster other = roster;
    change(other);
    EXPECT_TRUE(hashes.insert(group_hash(other)).second);
  }
  EXPECT_NE(model_hash({1, 2}, 3), model_hash({1, 2}, 4));
  EXPECT_NE(model_hash({1, 2}, 3), model_hash({2, 1}, 3));
  EXPECT_EQ(model_hash({1, 2}, 3), model_hash({1, 2}, 3));
}

TEST(Roster, EveryMinerComesFirstSomeday) {
  std::set<std::uint64_t> first;
  for (RoundId round = 1; round <= 100; ++round) {
    std::uint64_t best = 0;
    for (std::uint64_t number = 1; number < 8; ++number) {
      if (proposer_order(round, id_of(number)) < proposer_order(round, id_of(best))) best = number;
    }
    first.insert(best);
  }
  EXPECT_EQ(first.size(), 8U);
}

// ---- a world of messages

struct WorldOptions {
  std::uint32_t hosts = 4;
  std::uint32_t clients = 0;                // of them, the last
  Duration most_delay = milliseconds(100);  // of one message
  Duration due_spread = milliseconds(200);  // how far apart members find that the round is due
};

// A begun round, as one host did it.
struct Begun {
  std::uint64_t group = 0;
  Roster roster;
  PeerId proposer;
  TimePoint when{};
};

class World {
 public:
  World(std::uint64_t seed, const WorldOptions& options) : options_(options), random_(seed), seed_(seed) {
    hosts_.resize(options.hosts);
    links_.resize(std::size_t{options.hosts} * options.hosts);
    for (std::uint32_t host = 0; host < options.hosts; ++host) start(host, 0);
    for (std::uint32_t one = 0; one < options.hosts; ++one) {
      for (std::uint32_t other = 0; other < one; ++other) connect(one, other);
    }
  }

  // Many carry the same.
  using Message = std::shared_ptr<const RosterMessage>;
  struct Host {
    std::unique_ptr<Rostering> rostering;
    std::uint64_t number = 0;  // of its id: a restarted host is another peer
    bool is_alive = false;
    bool is_frozen = false;
    bool is_alone = false;                                 // ahead of those that left it out
    bool has_wavered = false;                              // was frozen: no longer alive in the sense of the guarantee
    int messages_to_live = -1;                             // dies before sending that many more; -1: does not
    std::vector<std::pair<std::uint32_t, Message>> inbox;  // while frozen
    std::map<std::uint64_t, Begun> begun;                  // by epoch
    std::vector<PeerId> banned;
    std::uint64_t told_epoch = 0;
    TimePoint epoch_since{};
    TimePoint due_at = kNever;
    TimePoint round_over = kNever;
  };

  [[nodiscard]] Host& host(std::uint32_t index) { return hosts_[index]; }
  [[nodiscard]] std::uint32_t size() const { return options_.hosts; }
  [[nodiscard]] TimePoint now() const { return now_; }
  [[nodiscard]] Random& random() { return random_; }
  [[nodiscard]] std::uint64_t most_epoch() const {
    std::uint64_t most = 0;
    for (const Host& each : hosts_) {
      if (each.is_alive) most = std::max(most, each.rostering->epoch());
    }
    return most;
  }

  void start(std::uint32_t index, std::uint64_t epoch) {
    Host& started = hosts_[index];
    started = {};
    started.number = next_number_++;
    RosterConfig config = config_of(started.number, index < options_.hosts - options_.clients);
    config.settle_grace = 3 * options_.most_delay;
    started.rostering = std::make_unique<Rostering>(config);
    started.is_alive = true;
    if (epoch > 0) started.rostering->handle_epoch(now_, epoch);
    started.told_epoch = epoch;
    started.epoch_since = now_;
    started.due_at = now_ + 2 * options_.most_delay + delay(options_.due_spread);
  }

  void connect(std::uint32_t one, std::uint32_t other) {
    Link& link = link_of(one, other);
    if (link.is_up || one == other || !hosts_[one].is_alive || !hosts_[other].is_alive) return;
    if (has_banned(one, other) || has_banned(other, one)) return;
    link.is_up = true;
    link.up_since = now_;
    link.arrivals[0] = link.arrivals[1] = now_;
    tell(one, other);
    tell(other, one);
  }

  void disconnect(std::uint32_t one, std::uint32_t other) {
    Link& link = link_of(one, other);
    if (!link.is_up) return;
    link.is_up = false;
    link.down_since = now_;
    link.generation += 1;  // what is on its way is lost
    for (const auto& [here, there] : {std::pair(one, other), std::pair(other, one)}) {
      if (!hosts_[here].is_alive) continue;
      std::erase_if(hosts_[here].inbox, [gone = there](const auto& each) { return each.first == gone; });
      hosts_[here].rostering->handle_peer_left(now_, id_of(hosts_[there].number));
      touched_.insert(here);
    }
  }

  void ban(std::uint32_t index, std::uint32_t other) {
    if (has_banned(index, other)) return;
    hosts_[index].banned.push_back(id_of(hosts_[other].number));
    hosts_[index].rostering->handle_bans(hosts_[index].banned);
    disconnect(index, other);
    for (std::uint32_t each = 0; each < size(); ++each) {
      if (each != index) tell(index, each);
    }
  }
  [[nodiscard]] bool has_banned(std::uint32_t index, std::uint32_t other) const {
    const auto& banned = hosts_[index].banned;
    return std::find(banned.begin(), banned.end(), id_of(hosts_[other].number)) != banned.end();
  }
  [[nodiscard]] bool are_linked(std::uint32_t one, std::uint32_t other) { return link_of(one, other).is_up; }

  void crash(std::uint32_t index) {
    hosts_[index].is_alive = false;
    touched_.erase(index);
    for (std::uint32_t other = 0; other < size(); ++other) disconnect(index, other);
  }

  void freeze(std::uint32_t index) { hosts_[index].is_frozen = hosts_[index].has_wavered = true; }
  void thaw(std::uint32_t index) {
    Host& thawed = hosts_[index];
    if (!thawed.is_alive || !thawed.is_frozen) return;
    thawed.is_frozen = false;
    for (auto& [from, message] : std::exchange(thawed.inbox, {})) deliver(from, index, *message);
    touched_.insert(index);
  }

  void send(std::uint32_t from, std::uint32_t to, const Message& message) { push(from, to, Event{.message = message}); }

  // Everything that happens up to `until`.
  void run_until(TimePoint until) {
    for (;;) {
      settle();
      const TimePoint next = std::min(next_time(), until);
      now_ = std::max(now_, next);
      while (!events_.empty() && events_.top().when <= now_) {
        const Event event = events_.top();
        events_.pop();
        handle(event);
        settle();
      }
      for (std::uint32_t index = 0; index < size(); ++index) wake(index);
      settle();
      if (now_ >= until && next_time() > until) return;
    }
  }

  [[nodiscard]] static bool names(const Roster& roster, const PeerId& id) {
    return std::any_of(roster.members.begin(), roster.members.end(), [&](const auto& each) { return each.peer == id; });
  }

  // Like state sync: everybody alive goes on from the same epoch, none is in a round.
  void gather(std::uint64_t epoch) {
    for (std::uint32_t index = 0; index < size(); ++index) {
      Host& gathered = hosts_[index];
      if (!gathered.is_alive) continue;
      gathered.has_wavered = false;
      gathered.round_over = kNever;
      gathered.rostering->handle_epoch(now_, epoch);
      gathered.due_at = now_ + 2 * options_.most_delay + delay(options_.due_spread);
      touched_.insert(index);
    }
  }

  bool keeps_going = true;    // rounds end, and the next is due
  bool single_links = false;  // links come and go one by one: who is connected to one need not be to the next
  std::uint64_t rounds_begun = 0;
  std::set<std::uint32_t> liars;
  bool go_on_alone = false;   // whom a round left out; and then wait for the others
  bool liars_propose = true;  // by themselves, like everybody
  // What liars are told.
  std::function<void(std::uint32_t from, const RosterMessage&)> overhear;

 private:
  struct Link {
    bool is_up = false;
    std::uint32_t generation = 0;
    TimePoint up_since{}, down_since{};
    TimePoint arrivals[2];  // per direction: a link keeps order
  };
  struct Event {
    TimePoint when{};
    std::uint64_t sequence = 0;
    std::uint32_t from = 0, to = 0, generation = 0;
    std::optional<std::uint64_t> epoch;  // a report of it and of bans, else:
    std::vector<PeerId> banned;
    Message message;
    bool operator<(const Event& other) const { return std::tie(other.when, other.sequence) < std::tie(when, sequence); }
  };

  Link& link_of(std::uint32_t one, std::uint32_t other) {
    return links_[std::size_t{std::max(one, other)} * options_.hosts + std::min(one, other)];
  }
  Duration delay(Duration most) { return Duration(static_cast<std::int64_t>(random_.below(most.count() + 1))); }

  void push(std::uint32_t from, std::uint32_t to, Event event) {
    Link& link = link_of(from, to);
    if (!link.is_up) return;
    TimePoint& arrival = link.arrivals[from < to ? 0 : 1];
    arrival = std::max(arrival, now_ + delay(options_.most_delay));
    event.when = arrival;
    event.sequence = ++sequence_;
    event.from = from;
    event.to = to;
    event.generation = link.generation;
    events_.push(std::move(event));
  }

  void tell(std::uint32_t from, std::uint32_t to) {
    push(from, to, Event{.epoch = hosts_[from].rostering->epoch(), .banned = hosts_[from].banned});
  }

  void handle(const Event& event) {
    if (link_of(event.from, event.to).generation != event.generation) return;
    Host& to = hosts_[event.to];
    if (event.epoch) {
      const bool is_miner = event.from < options_.hosts - options_.clients;
      RosterPeer peer = peer_of(hosts_[event.from].number, *event.epoch, is_miner);
      peer.banned = event.banned;
      to.rostering->handle_peer(now_, peer);
      touched_.insert(event.to);
      return;
    }
    if (to.is_frozen) {
      to.inbox.emplace_back(event.from, event.message);
      return;
    }
    deliver(event.from, event.to, *event.message);
  }

  void deliver(std::uint32_t from, std::uint32_t index, const RosterMessage& message) {
    Rostering& to = *hosts_[index].rostering;
    const PeerId sender = id_of(hosts_[from].number);
    RosterVerdict verdict = RosterVerdict::accepted;
    if (const auto* proposal = std::get_if<Proposal>(&message.content)) {
      verdict = to.handle_proposal(now_, sender, *proposal);
    } else if (const auto* answer = std::get_if<RosterAnswer>(&message.content)) {
      verdict = to.handle_answer(now_, sender, *answer);
    } else {
      verdict = to.handle_commit(now_, sender, std::get<Commit>(message.content));
    }
    if (overhear && liars.contains(index)) overhear(from, message);
    touched_.insert(index);
    if (!is_violation(verdict)) return;
    EXPECT_TRUE(liars.contains(from)) << to_string(verdict) << ", seed " << seed_;
    ban(index, from);
  }

  void wake(std::uint32_t index) {
    Host& woken = hosts_[index];
    if (!woken.is_alive || woken.is_frozen) return;
    if (now_ >= woken.round_over) {
      woken.round_over = kNever;
      woken.rostering->handle_epoch(now_, woken.rostering->epoch() + 1);
      if (keeps_going) woken.due_at = now_ + delay(options_.due_spread);
      touched_.insert(index);
    }
    std::uint32_t linked = 1, ahead = 0;
    for (std::uint32_t other = 0; other < size(); ++other) {
      if (other == index || !link_of(index, other).is_up) continue;
      linked += 1;
      ahead += hosts_[other].rostering->epoch() > woken.rostering->epoch() ? 1U : 0U;
    }
    const bool is_behind = !woken.rostering->decided() && 2 * ahead > linked;
    if (go_on_alone && (woken.rostering->is_left_out() || is_behind)) {
      woken.rostering->handle_epoch(now_, woken.rostering->epoch() + 1);
      woken.due_at = kNever;
      woken.is_alone = true;
      touched_.insert(index);
    }
    const auto is_through = [&](const Host& each) {
      return each.is_alive && each.rostering->epoch() >= woken.rostering->epoch();
    };
    if (woken.is_alone && 2 * std::count_if(hosts_.begin(), hosts_.end(), is_through) > static_cast<int>(size())) {
      woken.is_alone = false;
      woken.due_at = now_ + delay(options_.due_spread);
    }
    if (now_ >= woken.due_at) {
      woken.due_at = kNever;
      if (liars_propose || !liars.contains(index)) woken.rostering->handle_due(now_, true);
      touched_.insert(index);
    }
    if (now_ >= woken.rostering->next_deadline()) touched_.insert(index);
  }

  [[nodiscard]] TimePoint next_time() const {
    TimePoint next = events_.empty() ? kNever : events_.top().when;
    for (const Host& each : hosts_) {
      if (!each.is_alive || each.is_frozen) continue;
      next = std::min({next, each.due_at, each.round_over, each.rostering->next_deadline()});
    }
    return next;
  }

  // What hosts say and do at this moment, until none has anything left.
  void settle() {
    while (!touched_.empty()) {
      const std::uint32_t index = *touched_.begin();
      touched_.erase(touched_.begin());
      Host& each = hosts_[index];
      if (!each.is_alive || each.is_frozen) continue;
      each.rostering->handle_time(now_);
      if (each.told_epoch != each.rostering->epoch()) {
        each.told_epoch = each.rostering->epoch();
        each.epoch_since = now_;
        for (std::uint32_t other = 0; other < size(); ++other) {
          if (other != index) tell(index, other);
        }
      }
      while (each.is_alive) {
        const auto message = each.rostering->poll_message();
        if (!message) break;
        say(index, std::make_shared<const RosterMessage>(*message));
      }
      if (each.is_alive) begin_what_is_decided(index);
    }
  }

  void say(std::uint32_t index, const Message& message) {
    if (const auto* proposal = std::get_if<Proposal>(&message->content)) {
      first_proposed_.try_emplace(proposal->epoch, now_);
    }
    for (const PeerId& id : message->to) {
      Host& each = hosts_[index];
      if (each.messages_to_live == 0) return crash(index);
      if (each.messages_to_live > 0) each.messages_to_live -= 1;
      for (std::uint32_t other = 0; other < size(); ++other) {
        if (hosts_[other].is_alive && id_of(hosts_[other].number) == id) send(index, other, message);
      }
    }
  }

  void begin_what_is_decided(std::uint32_t index) {
    Host& each = hosts_[index];
    const auto& decided = each.rostering->decided();
    if (!decided || each.begun.contains(decided->proposal.epoch)) return;
    const Roster roster = roster_of(*decided);
    first_proposed_.try_emplace(roster.epoch, now_);  // a roster of one needs no message
    const Begun begun{
        .group = group_hash(roster), .roster = roster, .proposer = decided->proposal.ballot.proposer, .when = now_};
    each.begun[roster.epoch] = begun;
    rounds_begun += 1;
    each.round_over = keeps_going ? now_ + milliseconds(300) + delay(milliseconds(300)) : kNever;
    check_agreement(index, begun);
  }

  // From before that round was first proposed until now, or until that peer died.
  bool was_linked(std::uint32_t index, const PeerId& id, TimePoint proposed) {
    for (std::uint32_t other = 0; other < size(); ++other) {
      if (id_of(hosts_[other].number) != id) continue;
      const Link& link = link_of(index, other);
      const bool still = link.is_up || (link.down_since > proposed && !hosts_[other].is_alive);
      return other == index || (still && link.up_since < proposed - 2 * options_.most_delay);
    }
    return false;
  }

  void check_agreement(std::uint32_t index, const Begun& mine) {
    const Host& self = hosts_[index];
    const PeerId own_id = id_of(self.number);
    ASSERT_TRUE(names(mine.roster, own_id)) << "seed " << seed_;
    const auto proposed = first_proposed_.find(mine.roster.epoch);
    ASSERT_NE(proposed, first_proposed_.end());
    const TimePoint in_time = proposed->second - 2 * options_.most_delay;
    if (!liars.empty()) return;  // nothing is promised then but that rounds go on
    if (self.has_wavered || self.epoch_since >= in_time) return;
    for (std::uint32_t other = 0; other < size(); ++other) {
      const Host& peer = hosts_[other];
      if (other == index || !peer.is_alive || peer.has_wavered) continue;
      const Link& link = link_of(index, other);
      if (!link.is_up || link.up_since >= in_time) continue;
      if (peer.epoch_since >= in_time && peer.rostering->epoch() == mine.roster.epoch) continue;  // late
      const auto theirs = peer.begun.find(mine.roster.epoch);
      if (theirs == peer.begun.end() || theirs->second.group == mine.group) continue;
      const bool expects = names(mine.roster, id_of(peer.number)) || names(theirs->second.roster, own_id);
      const auto knew_both = [&](std::uint32_t each) {
        return was_linked(each, mine.proposer, proposed->second) &&
               was_linked(each, theirs->second.proposer, proposed->second);
      };
      EXPECT_FALSE(expects || (!single_links && knew_both(index) && knew_both(other)))
          << "seed " << seed_ << ": hosts " << index << " and " << other << " began the round of epoch "
          << mine.roster.epoch << " with " << mine.roster.members.size() << " and "
          << theirs->second.roster.members.size() << " members, " << to_milliseconds(theirs->second.when - mine.when)
          << " ms apart, " << to_milliseconds(mine.when - proposed->second) << " ms after it was first proposed";
    }
  }

  WorldOptions options_;
  Random random_;
  std::uint64_t seed_;
  TimePoint now_{seconds(1)};
  std::uint64_t sequence_ = 0;
  std::uint64_t next_number_ = 0;
  std::vector<Host> hosts_;
  std::vector<Link> links_;
  std::priority_queue<Event> events_;
  std::set<std::uint32_t> touched_;
  std::map<std::uint64_t, TimePoint> first_proposed_;
};

// Everybody alive begins the next round, with all of them, within the bound.
void expect_all_gather(World& world, std::uint32_t failures, std::uint64_t seed) {
  for (std::uint32_t one = 0; one < world.size(); ++one) {
    world.thaw(one);
    world.host(one).messages_to_live = -1;
  }
  for (std::uint32_t one = 0; one < world.size(); ++one) {
    for (std::uint32_t other = 0; other < one; ++other) world.connect(one, other);
  }
  world.run_until(world.now() + seconds(1));
  const std::uint64_t epoch = world.most_epoch() + 1;
  world.keeps_going = false;
  world.gather(epoch);
  world.run_until(world.now() + seconds(1) + begin_bound(config_of(0), failures));
  std::size_t alive = 0, miners = 0;
  for (std::uint32_t index = 0; index < world.size(); ++index) {
    if (!world.host(index).is_alive) continue;
    alive += 1;
    miners += world.host(index).rostering->config().is_miner ? 1U : 0U;
  }
  if (miners == 0) return;  // nobody may propose
  std::set<std::uint64_t> groups;
  for (std::uint32_t index = 0; index < world.size(); ++index) {
    auto& each = world.host(index);
    if (!each.is_alive) continue;
    ASSERT_TRUE(each.begun.contains(epoch)) << "host " << index << " did not begin, seed " << seed;
    EXPECT_EQ(each.begun[epoch].roster.members.size(), alive) << "seed " << seed;
    groups.insert(each.begun[epoch].group);
  }
  EXPECT_LE(groups.size(), 1U) << "seed " << seed;
}

std::uint32_t drawn_size(std::uint64_t seed) {
  return static_cast<std::uint32_t>(seed % 100 == 0 ? 64 : 2 + Random::mix(seed) % 9);
}

TEST(RosterWorld, WithoutFaultsEverybodyBeginsAtOnce) {
  for (std::uint64_t seed = 0; seed < seeds(200); ++seed) {
    const std::uint32_t hosts = drawn_size(seed);
    World world(seed, {.hosts = hosts, .clients = hosts / 4});
    world.run_until(world.now() + seconds(10));
    EXPECT_GT(world.most_epoch(), 6U) << seed;
    for (std::uint32_t index = 0; index < hosts; ++index) {
      for (auto& [epoch, begun] : world.host(index).begun) {
        EXPECT_EQ(begun.roster.members.size(), hosts) << "epoch " << epoch << ", seed " << seed;
      }
      EXPECT_GE(world.host(index).rostering->epoch() + 1, world.most_epoch()) << seed;
    }
  }
}

// The proposer of every round dies before its k-th message, for every k there is.
TEST(RosterWorld, TheProposerMayDieBetweenAnyTwoMessages) {
  for (std::uint32_t hosts = 2; hosts <= 6; ++hosts) {
    for (int messages = 0; messages < static_cast<int>(3 * hosts); ++messages) {
      for (std::uint64_t seed = 0; seed < seeds(20); ++seed) {
        World world(seed, {.hosts = hosts});
        for (std::uint32_t index = 0; index < hosts; ++index) {
          bool is_first = true;
          for (std::uint32_t other = 0; other < hosts; ++other) {
            is_first = is_first && proposer_order(1, id_of(index)) <= proposer_order(1, id_of(other));
          }
          if (is_first) world.host(index).messages_to_live = messages;
        }
        world.keeps_going = false;
        world.run_until(world.now() + milliseconds(200) + begin_bound(config_of(0), 1));
        std::set<std::uint64_t> groups;
        for (std::uint32_t index = 0; index < hosts; ++index) {
          auto& each = world.host(index);
          if (!each.is_alive) continue;
          ASSERT_TRUE(each.begun.contains(0)) << "host " << index << ", seed " << seed << ", messages " << messages;
          groups.insert(each.begun[0].group);
        }
        EXPECT_EQ(groups.size(), 1U);
      }
    }
  }
}

// A miner that proposes all the time, to some, and never commits; and one that says it is busy: rounds go on without
// them, and within a bound.
TEST(RosterWorld, LiarsDelayButDoNotStop) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const std::uint32_t hosts = 4 + static_cast<std::uint32_t>(seed % 4);
    World world(seed, {.hosts = hosts});
    const std::uint32_t liar = 0;
    world.liars = {liar};
    world.run_until(world.now() + milliseconds(400));
    const bool is_careful = seed % 2 == 0;  // stays within what is no violation
    std::uint32_t attempt = 0;
    const TimePoint end = world.now() + seconds(60);
    while (world.now() < end) {
      const std::uint64_t epoch = world.most_epoch();
      Proposal proposal{
          .round = epoch + 1,
          .epoch = epoch,
          .ballot = {attempt += 1 + static_cast<std::uint32_t>(world.random().below(is_careful ? 2 : 400)),
                     id_of(liar)},
          .members = {},
          .chunk_bytes = 65536,
          .timeout_ms = 1000};
      for (std::uint32_t each = 0; each < hosts; ++each) proposal.members.push_back({id_of(each), 1000 + each, true});
      std::sort(proposal.members.begin(), proposal.members.end(),
                [](const auto& one, const auto& other) { return one.peer < other.peer; });
      for (std::uint32_t to = 1; to < hosts; ++to) {
        const auto about = [&](Answer answer) {
          return RosterAnswer{.round = epoch + 1,
                              .ballot = {1, id_of(to)},
                              .answer = answer,
                              .promised = {attempt, id_of(liar)},
                              .epoch = epoch};
        };
        world.send(liar, to, std::make_shared<RosterMessage>(RosterMessage{{}, about(Answer::busy)}));
        world.send(liar, to, std::make_shared<RosterMessage>(RosterMessage{{}, about(Answer::promised_higher)}));
        if (!is_careful || world.random().chance(0.7)) {
          world.send(liar, to, std::make_shared<RosterMessage>(RosterMessage{{}, proposal}));
        }
        // In the name of another, who never proposed that.
        Commit commit{.proposal = proposal, .mask = (Coverage{1} << hosts) - 1};
        commit.proposal.ballot.proposer = id_of(1 + world.random().below(hosts - 1));
        if (!is_careful) world.send(liar, to, std::make_shared<RosterMessage>(RosterMessage{{}, commit}));
      }
      world.run_until(world.now() + milliseconds(is_careful ? 5100 : world.random().below(300)));
    }
    std::uint32_t went_on = 0;
    for (std::uint32_t each = 1; each < hosts; ++each) went_on += world.host(each).rostering->epoch() > 2 ? 1U : 0U;
    EXPECT_GE(2 * went_on, hosts - 1) << "seed " << seed;  // it can split them, and one side then sits out
  }
}

// A liar, number 0, that some have banned and others have not, and that wants rounds without those that have. It tells
// the rest what suits it, and commits what they acknowledge. Or it goes by the book, and only names whom it still sees.
class HalfBanned {
 public:
  HalfBanned(World& world, bool by_the_book) : world_(world) {
    world_.liars = {kLiar};
    world_.liars_propose = by_the_book;
    world_.overhear = [this](std::uint32_t from, const RosterMessage& message) { hear(from, message); };
  }

  // Something that is no violation: it wants to stay.
  void lie() {
    const std::uint64_t epoch = world_.most_epoch();
    if (epoch != std::exchange(epoch_, epoch)) attempts_ = 0;
    Random& random = world_.random();
    if (under_way_ && random.chance(0.2)) {
      for (std::uint32_t to = 1; to < world_.size(); ++to) say(to, about(Answer::withdrawn, under_way_->ballot));
      under_way_.reset();
    }
    if (random.chance(0.3)) {
      constexpr Answer kExcuses[] = {Answer::busy, Answer::promised_higher, Answer::incomplete};
      const auto to = static_cast<std::uint32_t>(1 + random.below(world_.size() - 1));
      say(to, about(kExcuses[random.below(3)], {1, id_of(to)}));
    }
    if (attempts_ == 4 || !random.chance(0.5)) return;
    attempts_ += 1;
    // Everybody, so as to hold the others up; or those that it still sees, or some of them.
    const std::uint64_t kind = random.below(3);
    std::vector<std::uint64_t> numbers{kLiar};
    for (std::uint32_t other = 1; other < world_.size(); ++other) {
      const bool is_wanted = kind == 0 || (world_.are_linked(kLiar, other) && (kind == 1 || random.chance(0.7)));
      if (is_wanted) numbers.push_back(other);
    }
    Proposal proposal = proposal_of(numbers, kLiar, highest_ += 1 + static_cast<std::uint32_t>(random.below(3)));
    proposal.epoch = epoch;
    proposal.round = epoch + 1;
    for (RosterEntry& entry : proposal.members) entry.reduces = entry.reduces && !is_client(entry.peer);
    said_yes_.clear();
    wants_.clear();
    under_way_ = proposal;
    for (const std::uint64_t number : numbers) {
      const auto other = static_cast<std::uint32_t>(number);
      if (other == kLiar || !world_.are_linked(kLiar, other)) continue;
      wants_.insert(other);
      say(other, proposal);
    }
    commits_ = kind != 0;
  }

  static constexpr std::uint32_t kLiar = 0;

 private:
  bool is_client(const PeerId& id) {
    for (std::uint32_t other = 0; other < world_.size(); ++other) {
      if (id_of(world_.host(other).number) == id) return !world_.host(other).rostering->config().is_miner;
    }
    return false;
  }
  RosterAnswer about(Answer answer, Ballot ballot) {
    return {
        .round = epoch_ + 1, .ballot = ballot, .answer = answer, .promised = {highest_, id_of(kLiar)}, .epoch = epoch_};
  }
  template <typename Content>
  void say(std::uint32_t to, const Content& content) {
    world_.send(kLiar, to, std::make_shared<RosterMessage>(RosterMessage{{}, content}));
  }

  void hear(std::uint32_t from, const RosterMessage& message) {
    const auto* const answer = std::get_if<RosterAnswer>(&message.content);
    if (answer == nullptr || !under_way_ || answer->ballot != under_way_->ballot) return;
    if (answer->answer != Answer::acknowledged || !commits_) return;
    said_yes_.insert(from);
    if (said_yes_ != wants_) return;
    Commit commit{.proposal = *under_way_, .mask = 0};
    for (MemberIndex member = 0; member < under_way_->members.size(); ++member) commit.mask |= coverage_of(member);
    for (const std::uint32_t to : wants_) say(to, commit);
    under_way_.reset();
  }

  World& world_;
  std::uint64_t epoch_ = 0;
  std::uint32_t attempts_ = 0, highest_ = 0;
  std::optional<Proposal> under_way_;
  std::set<std::uint32_t> wants_, said_yes_;
  bool commits_ = false;
};

// No honest member is left out by a liar that others have banned, but for the one that bans it in the middle of its
// proposal: to a proposer that is none of what it lost. It takes that round for its own, and is in the next one.
TEST(RosterWorld, AHalfBannedLiarLeavesNobodyOut) {
  for (std::uint64_t seed = 0; seed < worlds(); ++seed) {
    const std::uint32_t hosts = 4 + static_cast<std::uint32_t>(Random::mix(seed) % 5);
    World world(seed, {.hosts = hosts, .clients = seed % 3 == 0 ? 1U : 0U});
    world.go_on_alone = true;
    HalfBanned liar(world, seed % 4 == 0);
    world.run_until(world.now() + milliseconds(400));
    const std::uint32_t bans = 1 + static_cast<std::uint32_t>(world.random().below(hosts - 2));
    std::vector<TimePoint> banned;  // by host 1, 2, ...
    for (const TimePoint end = world.now() + seconds(20); world.now() < end;) {
      if (banned.size() < bans && world.random().chance(0.1)) {
        banned.push_back(world.now());
        world.ban(static_cast<std::uint32_t>(banned.size()), HalfBanned::kLiar);
      }
      if (!world.liars_propose) liar.lie();
      world.run_until(world.now() + milliseconds(world.random().below(400)));
    }
    for (std::uint32_t one = 1; one < hosts; ++one) {
      EXPECT_GE(world.host(one).rostering->epoch(), 5U) << "host " << one << ", seed " << seed;
      for (const auto& [epoch, begun] : world.host(one).begun) {
        for (std::uint32_t other = 1; other < hosts; ++other) {
          if (World::names(begun.roster, id_of(other))) continue;
          const auto where = testing::Message() << "epoch " << epoch << " without host " << other << ", seed " << seed;
          ASSERT_EQ(begun.proposer, id_of(HalfBanned::kLiar)) << where;
          ASSERT_LE(other, banned.size()) << where;
          EXPECT_LE(banned[other - 1], begun.when) << where;
          EXPECT_LE(begun.when - banned[other - 1], config_of(0).ack_grace) << where;
        }
      }
    }
  }
}

// Honest members that see different peers, for good: each insists on those that it sees, while that can help. What they
// agree on is checked as in all worlds.
TEST(RosterWorld, ViewsThatDifferDoNotStopRounds) {
  const RosterConfig config = config_of(0);
  const Duration bound = config.inclusion_patience + begin_bound(config, 1);
  for (std::uint64_t seed = 0; seed < worlds(); ++seed) {
    const std::uint32_t hosts = 3 + static_cast<std::uint32_t>(Random::mix(seed) % 6);
    const std::uint32_t clients = seed % 3 == 0 ? hosts / 3 : 0;
    World world(seed, {.hosts = hosts, .clients = clients});
    world.single_links = world.go_on_alone = true;
    const double missing = 0.1 + 0.1 * static_cast<double>(seed % 5);
    for (std::uint32_t one = 0; one < hosts; ++one) {
      for (std::uint32_t other = 0; other < one; ++other) {
        if (world.random().chance(missing)) world.disconnect(one, other);
      }
    }
    // A client that hangs on a single miner cannot tell whether that has gone on without it for good reason.
    std::set<std::uint32_t> waited_for;
    for (std::uint32_t one = 0; one < hosts; ++one) {
      std::uint32_t miners = 0;
      for (std::uint32_t other = 0; other < hosts - clients; ++other) miners += world.are_linked(one, other) ? 1U : 0U;
      if (one < hosts - clients || miners > 1) waited_for.insert(one);
    }
    const TimePoint end = world.now() + bound;
    const auto everybody_went_on = [&] {
      return std::all_of(waited_for.begin(), waited_for.end(),
                         [&](std::uint32_t each) { return world.host(each).rostering->epoch() > 0; });
    };
    while (!everybody_went_on() && world.now() < end) world.run_until(world.now() + milliseconds(100));
    EXPECT_TRUE(everybody_went_on()) << "seed " << seed;
  }
}

struct Faults {
  bool crashes = false, dies_between = false, cuts = false, single_links = false, freezes = false;
};

void run_faults(std::uint64_t seed, const Faults& faults) {
  const std::uint32_t hosts = seed % 50 == 0 ? 24 : 2 + static_cast<std::uint32_t>(Random::mix(seed) % 7);
  World world(seed, {.hosts = hosts,
                     .clients = hosts / 5,
                     .most_delay = milliseconds(1 + seed % 240),
                     .due_spread = milliseconds(seed % 3 == 0 ? 3000 : 100)});
  Random& random = world.random();
  world.single_links = faults.single_links;
  std::vector<std::uint32_t> side(hosts);  // hosts with the same number are connected, others are not
  const auto any = [&] { return static_cast<std::uint32_t>(random.below(hosts)); };
  for (int step = 0; step < 30; ++step) {
    world.run_until(world.now() + milliseconds(random.below(1500)));
    const std::uint32_t host = any();
    switch (random.below(6)) {
      case 0:
        if (faults.crashes) world.crash(host);
        break;
      case 1:
        if (faults.dies_between) world.host(host).messages_to_live = static_cast<int>(random.below(3 * hosts));
        break;
      case 2:
        if (faults.crashes && !world.host(host).is_alive) {
          // At epoch 0, or with a state that somebody gave it.
          world.start(host, random.chance(0.5) ? 0 : world.most_epoch());
          for (std::uint32_t other = 0; other < hosts; ++other) {
            if (side[host] == side[other]) world.connect(host, other);
          }
        }
        break;
      case 3:
        if (faults.cuts) {
          for (std::uint32_t& each : side) each = 2 * each + static_cast<std::uint32_t>(random.below(2));
          for (std::uint32_t one = 0; one < hosts; ++one) {
            for (std::uint32_t other = 0; other < one; ++other) {
              if (side[one] != side[other]) world.disconnect(one, other);
            }
          }
        }
        if (faults.single_links) world.disconnect(host, any());
        break;
      case 4:
        if (faults.cuts && random.chance(0.5)) {
          side.assign(hosts, 0);
          for (std::uint32_t one = 0; one < hosts; ++one) {
            for (std::uint32_t other = 0; other < one; ++other) world.connect(one, other);
          }
        }
        if (faults.single_links) world.connect(host, any());
        break;
      case 5:
        if (faults.freezes) world.freeze(host);
        if (faults.freezes && random.chance(0.7)) world.thaw(any());
        break;
      default: break;
    }
  }
  expect_all_gather(world, hosts, seed);
}

constexpr std::uint64_t kSeeds = 1000;

TEST(RosterWorld, Crashes) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) run_faults(seed, {.crashes = true});
}
TEST(RosterWorld, DeathsBetweenMessages) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) run_faults(seed, {.crashes = true, .dies_between = true});
}
TEST(RosterWorld, PartitionsThatHeal) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) run_faults(seed, {.crashes = true, .cuts = true});
}
TEST(RosterWorld, SingleLinksComeAndGo) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) run_faults(seed, {.crashes = true, .single_links = true});
}
TEST(RosterWorld, FrozenPeers) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) run_faults(seed, {.freezes = true});
}
TEST(RosterWorld, Everything) {
  for (std::uint64_t seed = 0; seed < seeds(kSeeds); ++seed) {
    run_faults(seed, {.crashes = true, .dies_between = true, .cuts = true, .single_links = true, .freezes = true});
  }
}

}  // namespace
}  // namespace papilio::core
