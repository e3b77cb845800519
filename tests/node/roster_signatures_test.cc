// Signed rosters among real groups over the simulated network: honest ones agree as they do without signatures, and
// what liars do with signatures is found by everybody who is told, or comes to nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/node/group.hpp"
#include "engine/node/round_record.hpp"
#include "tests/seeds.hpp"
#include "transport/sim_io.hpp"

namespace papilio::node {
namespace {

using std::chrono::seconds;

constexpr std::uint16_t kPort = 7000;
constexpr std::uint64_t kBatch = 40;
const RunName kRun{"signatures", {3, 4}};

const transport::Identity& identity_of(std::uint32_t number) {
  static const std::vector<transport::Identity> identities = [] {
    std::vector<transport::Identity> made;
    for (std::uint8_t each = 0; each < 8; ++each) {
      made.push_back(transport::Identity::from_seed({static_cast<std::uint8_t>(each + 1)}));
    }
    return made;
  }();
  return identities[number];
}
const PeerId& id_of(std::uint32_t number) { return identity_of(number).id(); }

// A node without its thread. A liar's group listens and says nothing: the test speaks for it.
class Host final : public EngineEvents {
 public:
  Host(transport::SimNetwork& network, std::uint32_t number, std::uint32_t hosts, bool lies)
      : is_liar(lies), io_(network.make_host(number)) {
    MeshConfig mesh;
    mesh.self = id_of(number);
    mesh.run_id = kRun.run_id;
    mesh.fingerprint = kRun.fingerprint;
    mesh.elements = gradient_.size();
    mesh.seed = number;
    mesh.listen = transport::Address::simulated(number, kPort);
    for (std::uint32_t other = 0; other < hosts; ++other) {
      if (other != number) mesh.peers.push_back(transport::Address::simulated(other, kPort));
    }
    RoundDriverConfig rounds;
    rounds.self = mesh.self;
    engine_ = std::make_unique<Engine>(*io_, mesh, rounds, static_cast<EngineEvents&>(*this));
    EXPECT_TRUE(engine_->start().ok());
    group_ = std::make_unique<Group>(*engine_, GroupConfig{.self = mesh.self,
                                                           .fingerprint = kRun.fingerprint,
                                                           .elements = gradient_.size(),
                                                           .target_batch = kBatch,
                                                           .round_timeout = seconds(10),
                                                           .identity = &identity_of(number),
                                                           .run_id = kRun.run_id,
                                                           .instance = number + 1});
  }

  void on_peer_joined(Peer& peer) override { group_->handle_peer_joined(io_->now(), peer); }
  void on_peer_left(Peer& peer, PeerLeft, const std::string&) override { group_->handle_peer_left(io_->now(), peer); }
  void on_control(Peer& peer, const transport::Header& header) override {
    if (const auto* ack = std::get_if<transport::Ack>(&header)) acks.push_back(*ack);
    if (const auto* propose = std::get_if<transport::Propose>(&header)) proposals.push_back(*propose);
    if (const auto* commit = std::get_if<transport::Commit>(&header)) commits.push_back(*commit);
    if (const auto* progress = std::get_if<transport::Progress>(&header)) told_bans = progress->banned;
    if (is_liar && !std::holds_alternative<transport::Progress>(header)) return;
    if (const auto evidence = group_->handle_control(io_->now(), peer, header)) {
      violations.push_back(to_hex(peer.id) + " " + *evidence);
    }
    while (auto proof = group_->poll_double_commit()) proofs.push_back(std::move(*proof));
    if (auto roster = group_->poll_left_out()) left_out_of.push_back(std::move(*roster));
  }
  void on_round_over(RoundReport report) override {
    if (report.canceled) return;  // leaving
    in_round_ = false;
    const SignedCommit* const roster = group_->open_roster();
    records.push_back(round_record_of(kRun, group_->open_round()->group, roster, report, 0));
    group_->handle_round_over(io_->now(), report);
    reports.push_back(std::move(report));
    group_->add_samples(samples);
    group_->act(io_->now());
  }
  void on_refused(const transport::Address&, const std::string&) override {}

  void turn() {
    io_->run_once(io_->now());
    if (group_->open_round() && !in_round_) {
      in_round_ = true;
      specs.push_back(*group_->open_round());
      engine_->begin_round(*group_->open_round(), gradient_, 1);
    }
    engine_->handle_time(io_->now());
    if (!is_liar) group_->act(io_->now());
  }
  [[nodiscard]] TimePoint next_deadline() const {
    if (is_liar) return engine_->next_deadline();
    const bool may_begin = group_->open_round() && !in_round_;
    return may_begin ? io_->now() : std::min(engine_->next_deadline(), group_->next_deadline(io_->now()));
  }
  void tell(std::uint32_t other, const transport::Header& header) {
    Peer* const peer = engine_->mesh().find(id_of(other));
    ASSERT_NE(peer, nullptr);
    engine_->mesh().send_control(*peer, header);
  }
  [[nodiscard]] Group& group() { return *group_; }
  [[nodiscard]] std::uint32_t members() const { return group_->progress(io_->now()).members; }
  void let_go() {
    while (io_->open_handles() > 0 && !engine_->mesh().is_closed()) io_->run_once(io_->now());
  }

  bool is_liar = false;
  std::uint64_t samples = 0;
  std::vector<transport::Ack> acks;
  std::vector<transport::Propose> proposals;
  std::vector<transport::Commit> commits;
  std::vector<PeerId> told_bans;  // by whoever spoke last
  std::vector<RoundReport> reports;
  std::vector<RoundRecord> records;
  std::vector<RoundSpec> specs;
  std::vector<std::string> violations;
  std::vector<DoubleCommit> proofs;
  std::vector<SignedCommit> left_out_of;

 private:
  std::vector<float> gradient_ = std::vector<float>(64, 1.0F);
  std::unique_ptr<transport::Io> io_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Group> group_;
  bool in_round_ = false;
};

class World {
 public:
  World(std::uint64_t seed, std::uint32_t hosts, std::uint32_t liar = kNobody) : network_(seed) {
    for (std::uint32_t number = 0; number < hosts; ++number) {
      hosts_.push_back(std::make_unique<Host>(network_, number, hosts, number == liar));
    }
    EXPECT_TRUE(run_until([&] {
      return std::all_of(hosts_.begin(), hosts_.end(), [&](const auto& host) { return host->members() == hosts; });
    }));
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() {
    for (std::uint32_t number = 0; number < hosts_.size(); ++number) kill(number);
  }

  void work(std::uint64_t samples) {
    for (const auto& host : hosts_) {
      if (!host) continue;
      host->samples = samples;
      host->group().add_samples(samples);
    }
  }
  void kill(std::uint32_t number) {
    if (!hosts_[number]) return;
    network_.kill_host(number, transport::SimDeath::reset);
    hosts_[number]->let_go();
    hosts_[number].reset();
  }
  bool run_until(const std::function<bool()>& is_so, Duration bound = seconds(60)) {
    const TimePoint end = network_.now() + bound;
    while (!is_so()) {
      if (network_.now() >= end) return false;
      TimePoint next = std::min(network_.next_event_time(), end);
      for (const auto& host : hosts_) {
        if (host) next = std::min(next, host->next_deadline());
      }
      network_.advance_to(std::max(next, network_.now()));
      for (const auto& host : hosts_) {
        if (host) host->turn();
      }
    }
    return true;
  }
  bool run_rounds(std::size_t rounds) {
    return run_until([&] {
      return std::all_of(hosts_.begin(), hosts_.end(),
                         [&](const auto& host) { return !host || host->reports.size() >= rounds; });
    });
  }
  // Long enough for every message to arrive and to be passed on, too short for anybody's patience to end.
  void settle() {
    run_until([] { return false; }, std::chrono::milliseconds(200));
  }
  Host& operator[](std::uint32_t number) { return *hosts_[number]; }

  static constexpr std::uint32_t kNobody = ~std::uint32_t{0};

 private:
  transport::SimNetwork network_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

// 10,000 rosters: in every other world a member dies half-way.
TEST(SignedRosters, HonestWorldsAgree) {
  constexpr std::size_t kRounds = 50;
  std::uint64_t rosters = 0;
  for (std::uint64_t seed = 1; seed <= seeds(200); ++seed) {
    World world(seed, 3);
    world.work(kBatch / 2);
    const std::size_t before_death = seed % 2 == 0 ? kRounds / 2 : kRounds;
    ASSERT_TRUE(world.run_rounds(before_death)) << seed;
    for (std::uint32_t number = 0; number < 3; ++number) ASSERT_TRUE(world[number].violations.empty()) << seed;
    if (before_death < kRounds) {
      world.kill(2);
      ASSERT_TRUE(world.run_rounds(kRounds)) << seed;
    }
    for (std::size_t round = 0; round < kRounds; ++round) {
      const RoundRecord& first = world[0].records[round];
      const RoundRecord& second = world[1].records[round];
      ASSERT_EQ(first.group, second.group) << seed;
      ASSERT_TRUE(first.roster.has_value() && first.roster == second.roster) << seed;
      rosters += 1;
    }
    // The report is one that anybody can check.
    for (const std::uint32_t number : {0U, 1U}) {
      const RoundRecord& last = world[number].records.back();
      ASSERT_EQ(objection_to(last, id_of(number)), std::nullopt) << seed;
      ASSERT_TRUE(world[number].violations.empty() && world[number].proofs.empty()) << seed;
    }
  }
  EXPECT_EQ(rosters, seeds(200) * kRounds);
}

// ---- a proposer that lies: host 0

constexpr std::uint32_t kLiar = 0;
constexpr std::uint32_t kHosts = 4;

core::Proposal core_of(const transport::Propose& wire) {
  core::Proposal proposal{.round = wire.round,
                          .epoch = wire.epoch,
                          .ballot = {wire.attempt, wire.proposer},
                          .members = {},
                          .chunk_bytes = wire.chunk_bytes,
                          .timeout_ms = wire.timeout_ms,
                          .instance = wire.instance};
  for (const auto& each : wire.members) proposal.members.push_back({each.peer, each.rate_bytes_per_s, each.reduces});
  return proposal;
}

transport::Propose proposal_of_all() {
  transport::Propose proposal{.round = 1,
                              .epoch = 0,
                              .members = {},
                              .chunk_bytes = 65536,
                              .timeout_ms = 10'000,
                              .attempt = 1,
                              .proposer = id_of(kLiar),
                              .instance = 99};
  for (std::uint32_t number = 0; number < kHosts; ++number) proposal.members.push_back({.peer = id_of(number)});
  std::sort(proposal.members.begin(), proposal.members.end(),
            [](const auto& one, const auto& other) { return one.peer < other.peer; });
  return proposal;
}

std::uint64_t mask_of(const transport::Propose& proposal, const std::vector<std::uint32_t>& numbers) {
  std::uint64_t mask = 0;
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    for (const std::uint32_t number : numbers) {
      if (proposal.members[member].peer == id_of(number)) mask |= coverage_of(member);
    }
  }
  return mask;
}

// Signed by everybody whom it names, and by its proposer: as if all had agreed.
transport::Commit commit_of(const transport::Propose& proposal, const std::vector<std::uint32_t>& numbers,
                            const RunName& run = kRun) {
  transport::Commit commit{.proposal = proposal, .mask = mask_of(proposal, numbers)};
  for (const auto& member : proposal.members) {
    for (const std::uint32_t number : numbers) {
      if (member.peer == id_of(number)) {
        commit.consents.push_back(make_consent(identity_of(number), run, core_of(proposal)));
      }
    }
  }
  commit.seal = make_seal(identity_of(kLiar), run, {core_of(proposal), commit.mask});
  return commit;
}

std::size_t place_of(const transport::Propose& proposal, std::uint32_t number) {
  std::size_t place = 0;
  while (proposal.members[place].peer != id_of(number)) ++place;
  return place;
}

class LyingProposer : public ::testing::Test {
 protected:
  // Proposes to these, who acknowledge with their signatures.
  void propose_to(const std::vector<std::uint32_t>& numbers) {
    for (const std::uint32_t number : numbers) world_[kLiar].tell(number, proposal_);
    ASSERT_TRUE(world_.run_until([&] { return world_[kLiar].acks.size() == numbers.size(); }));
    for (const transport::Ack& ack : world_[kLiar].acks) {
      ASSERT_EQ(ack.answer, transport::RosterAnswer::acknowledged);
      ASSERT_TRUE(ack.consent.has_value());
    }
  }
  void expect_refused(std::uint32_t number, const std::string& words) {
    ASSERT_FALSE(world_[number].violations.empty()) << words;
    EXPECT_NE(world_[number].violations.back().find(words), std::string::npos) << world_[number].violations.back();
    EXPECT_FALSE(world_[number].group().open_round().has_value());
    EXPECT_TRUE(world_[number].specs.empty());
  }

  World world_{7, kHosts, kLiar};
  const transport::Propose proposal_ = proposal_of_all();
};

// What a consent looks like comes from the member itself.
TEST_F(LyingProposer, MembersSignExactlyWhatTheyAcknowledge) {
  propose_to({1});
  const transport::Ack& ack = world_[kLiar].acks[0];
  EXPECT_EQ(objection_to(kRun, core_of(proposal_), id_of(1), *ack.consent), std::nullopt);
  EXPECT_NE(objection_to(kRun, core_of(proposal_), id_of(2), *ack.consent), std::nullopt);
}

// Not prevented: nobody else can know whether the answer arrived. Who is left out has the proposer's signature for it.
TEST_F(LyingProposer, WhoIsLeftOutAfterAgreeingHasItSigned) {
  propose_to({1, 2, 3});
  for (const std::uint32_t number : {1U, 2U}) world_[kLiar].tell(number, commit_of(proposal_, {0, 1, 2}));
  ASSERT_TRUE(world_.run_until([&] { return !world_[3].left_out_of.empty(); }));
  world_.settle();
  ASSERT_EQ(world_[3].left_out_of.size(), 1U);
  EXPECT_EQ(objection_to(kRun, world_[3].left_out_of[0]), std::nullopt);
  for (const std::uint32_t number : {1U, 2U}) {
    ASSERT_EQ(world_[number].specs.size(), 1U);
    EXPECT_EQ(world_[number].specs[0].members.size(), 3U);
  }
  for (const std::uint32_t number : {1U, 2U, 3U}) EXPECT_TRUE(world_[number].violations.empty());
}

TEST_F(LyingProposer, NobodyIsNamedWhoDidNotAgree) {
  propose_to({1, 2});
  transport::Commit commit = commit_of(proposal_, {0, 1, 2, 3});
  commit.consents[place_of(proposal_, 3)].signature = commit.consents[place_of(proposal_, 2)].signature;
  world_[kLiar].tell(1, commit);
  world_.settle();
  expect_refused(1, "the signature of " + to_hex(id_of(3)) + " does not hold");
}

TEST_F(LyingProposer, ASignatureByAnotherKeyIsNobodys) {
  propose_to({1, 2, 3});
  transport::Commit commit = commit_of(proposal_, {0, 1, 2, 3});
  commit.consents[place_of(proposal_, 3)] = make_consent(identity_of(5), kRun, core_of(proposal_));
  world_[kLiar].tell(1, commit);
  world_.settle();
  expect_refused(1, "the key given for " + to_hex(id_of(3)) + " is not its own");
}

// Consents of this member's, but to something else.
TEST_F(LyingProposer, ReplayedConsentsDoNotHold) {
  propose_to({1, 2, 3});
  std::vector<transport::Consent> replays = {
      make_consent(identity_of(3), {"other", kRun.fingerprint}, core_of(proposal_)),
      make_consent(identity_of(3), {kRun.run_id, {3, 5}}, core_of(proposal_))};
  for (const auto& change : std::vector<void (*)(core::Proposal&)>{
           [](core::Proposal& each) { each.round = 2; }, [](core::Proposal& each) { each.ballot.attempt = 2; },
           [](core::Proposal& each) { each.instance = 98; }, [](core::Proposal& each) { each.chunk_bytes *= 2; }}) {
    core::Proposal other = core_of(proposal_);
    change(other);
    replays.push_back(make_consent(identity_of(3), kRun, other));
  }
  for (const transport::Consent& replay : replays) {
    transport::Commit commit = commit_of(proposal_, {0, 1, 2, 3});
    commit.consents[place_of(proposal_, 3)] = replay;
    world_[kLiar].tell(1, commit);
  }
  world_.settle();
  EXPECT_EQ(world_[1].violations.size(), replays.size());
  expect_refused(1, "does not hold");
}

TEST_F(LyingProposer, WithoutSignaturesNothingIsTaken) {
  propose_to({1, 2, 3});
  world_[kLiar].tell(1, transport::Commit{.proposal = proposal_, .mask = 15});
  world_.settle();
  expect_refused(1, "it is not signed");
  transport::Commit commit = commit_of(proposal_, {0, 1, 2, 3});
  commit.consents.pop_back();
  world_[kLiar].tell(1, commit);
  world_.settle();
  expect_refused(1, "3 signatures for 4 members");
  commit = commit_of(proposal_, {0, 1, 2, 3});
  commit.seal[5] ^= 1;
  world_[kLiar].tell(1, commit);
  world_.settle();
  expect_refused(1, "its proposer's signature does not hold");
}

// Everybody hears of both from the others, and has both signatures.
TEST_F(LyingProposer, TwoCommitsOfOneProposalAreProof) {
  propose_to({1, 2, 3});
  world_[kLiar].tell(1, commit_of(proposal_, {0, 1, 2, 3}));
  world_[kLiar].tell(2, commit_of(proposal_, {0, 2, 3}));
  world_.settle();
  for (const std::uint32_t number : {1U, 2U, 3U}) {
    ASSERT_EQ(world_[number].proofs.size(), 1U) << number;
    const DoubleCommit& proof = world_[number].proofs[0];
    EXPECT_EQ(proof.first.commit.proposal.ballot.proposer, id_of(kLiar));
    EXPECT_EQ(objection_to(proof), std::nullopt);
    const auto read = parse_double_commit(encode(proof));
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(objection_to(*read), std::nullopt);
    EXPECT_TRUE(world_[number].violations.empty()) << world_[number].violations[0];  // who passes on is no liar
  }
}

// Told first that nobody else is in it, a member is in the round all the same that the others begin with it.
TEST_F(LyingProposer, WhoHearsTheWrongHalfFirstIsStillInTheRound) {
  propose_to({1, 2, 3});
  world_[kLiar].tell(1, commit_of(proposal_, {0}));
  world_.settle();
  for (const std::uint32_t number : {1U, 2U, 3U}) world_[kLiar].tell(number, commit_of(proposal_, {0, 1, 2, 3}));
  world_.settle();
  EXPECT_EQ(world_[1].proofs.size(), 1U);
  for (const std::uint32_t number : {1U, 2U, 3U}) {
    ASSERT_EQ(world_[number].specs.size(), 1U) << number;
    EXPECT_EQ(world_[number].specs[0].members.size(), kHosts) << number;
    EXPECT_TRUE(world_[number].violations.empty()) << number;
  }
}

// Whoever was let in could make up keys, and two commits for each.
TEST_F(LyingProposer, MadeUpProposersAreNotJudged) {
  const transport::Identity& made_up = identity_of(kHosts + 1);
  for (const std::uint32_t timeout_ms : {10'000U, 10'001U}) {
    transport::Propose proposal = proposal_;
    proposal.proposer = made_up.id();
    proposal.members = {{.peer = made_up.id()}};
    proposal.timeout_ms = timeout_ms;
    const core::Commit commit{core_of(proposal), 1};
    world_[kLiar].tell(1, transport::Commit{.proposal = proposal,
                                            .mask = 1,
                                            .consents = {make_consent(made_up, kRun, commit.proposal)},
                                            .seal = make_seal(made_up, kRun, commit)});
  }
  world_.settle();
  EXPECT_TRUE(world_[1].proofs.empty());
  EXPECT_TRUE(world_[1].violations.empty());
}

// The latest, whatever their ids.
TEST_F(LyingProposer, TheLatestBansAreTold) {
  std::vector<PeerId> banned;
  for (std::uint8_t number = 0; number < kMaximumMembers + 6; ++number) {
    PeerId id;
    id.bytes.fill(static_cast<std::uint8_t>(200 - number));
    banned.push_back(id);
  }
  world_[1].group().handle_bans(banned);
  banned.erase(banned.begin(), banned.begin() + 6);
  EXPECT_TRUE(world_.run_until([&] { return world_[kLiar].told_bans == banned; }));
}

// The same attempt in another life of the proposer is no contradiction.
TEST_F(LyingProposer, AnotherLifeIsNoContradiction) {
  transport::Propose other = proposal_;
  other.instance += 1;
  EXPECT_FALSE(contradict({core_of(proposal_), 15}, {core_of(other), 13}));
  EXPECT_TRUE(contradict({core_of(proposal_), 15}, {core_of(proposal_), 13}));
  EXPECT_FALSE(contradict({core_of(proposal_), 15}, {core_of(proposal_), 15}));
}

// ---- who passes on: host 0 again, of what an honest proposer committed

TEST(LyingMember, WhatIsChangedOnTheWayIsFoundAndHeldAgainstItsSender) {
  World world(9, kHosts, kLiar);
  for (std::uint32_t number = 1; number < kHosts; ++number) world[number].group().add_samples(kBatch);
  // The liar agrees, as everybody does.
  ASSERT_TRUE(world.run_until([&] { return !world[kLiar].proposals.empty(); }));
  const transport::Propose asked = world[kLiar].proposals[0];
  std::uint32_t proposer = 1;
  while (id_of(proposer) != asked.proposer) ++proposer;
  world[kLiar].tell(proposer, transport::Ack{.round = asked.round,
                                             .attempt = asked.attempt,
                                             .proposer = asked.proposer,
                                             .answer = transport::RosterAnswer::acknowledged,
                                             .consent = make_consent(identity_of(kLiar), kRun, core_of(asked))});
  ASSERT_TRUE(world.run_until([&] { return !world[kLiar].commits.empty(); }));
  const transport::Commit honest = world[kLiar].commits[0];
  const std::uint32_t victim = proposer == 1 ? 2 : 1;
  world[kLiar].tell(victim, honest);
  world.settle();
  ASSERT_TRUE(world[victim].violations.empty());

  std::vector<transport::Commit> changed(5, honest);
  changed[0].mask = mask_of(asked, {proposer, victim});
  changed[0].consents = {honest.consents[std::min(place_of(asked, proposer), place_of(asked, victim))],
                         honest.consents[std::max(place_of(asked, proposer), place_of(asked, victim))]};
  changed[1].proposal.members[0].rate_bytes_per_s = 5;
  changed[2].proposal.members[place_of(asked, victim)].reduces = false;
  changed[3].consents[place_of(asked, victim)].signature[0] ^= 1;
  changed[4].seal[63] ^= 1;
  for (std::size_t i = 0; i < changed.size(); ++i) {
    world[kLiar].tell(victim, changed[i]);
    world.settle();
    ASSERT_EQ(world[victim].violations.size(), i + 1);
    EXPECT_NE(world[victim].violations.back().find("does not hold"), std::string::npos);
    EXPECT_TRUE(world[victim].violations.back().starts_with(to_hex(id_of(kLiar))));
  }
  EXPECT_TRUE(world[victim].proofs.empty());
}

// An acknowledgement that is not signed, or not rightly, is none: the roster is without its sender.
TEST(LyingMember, AnAcknowledgementThatIsNotSignedIsNone) {
  for (const bool is_signed_wrongly : {false, true}) {
    World world(11, kHosts, kLiar);
    for (std::uint32_t number = 1; number < kHosts; ++number) world[number].group().add_samples(kBatch);
    ASSERT_TRUE(world.run_until([&] { return !world[kLiar].proposals.empty(); }));
    const transport::Propose asked = world[kLiar].proposals[0];
    std::uint32_t proposer = 1;
    while (id_of(proposer) != asked.proposer) ++proposer;
    transport::Ack ack{.round = asked.round,
                       .attempt = asked.attempt,
                       .proposer = asked.proposer,
                       .answer = transport::RosterAnswer::acknowledged};
    core::Proposal other = core_of(asked);
    other.timeout_ms += 1;
    if (is_signed_wrongly) ack.consent = make_consent(identity_of(kLiar), kRun, other);
    world[kLiar].tell(proposer, ack);
    ASSERT_TRUE(world.run_until([&] { return !world[proposer].specs.empty(); }));
    ASSERT_EQ(world[proposer].violations.size(), 1U);
    EXPECT_NE(world[proposer].violations[0].find(is_signed_wrongly ? "does not hold" : "it is not signed"),
              std::string::npos);
    EXPECT_EQ(world[proposer].specs[0].members.size(), 3U);
  }
}

}  // namespace
}  // namespace papilio::node
