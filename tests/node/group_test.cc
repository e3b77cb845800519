// Whole groups of engines over the simulated network: real frames, rosters agreed on, rounds run, a proposer that dies,
// a peer that starts late, a frozen one, one that some have banned, one that was left out, and models that drift apart.
#include "engine/node/group.hpp"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "transport/sim_io.hpp"

namespace papilio::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint16_t kPort = 7000;
constexpr std::uint64_t kBatch = 40;

PeerId id_of(std::uint32_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(7 * number + 1));
  return id;
}

// A node without its thread, and a trainer that works `samples` into every epoch.
class Host final : public EngineEvents {
 public:
  Host(transport::SimNetwork& network, std::uint32_t number, std::uint32_t hosts, bool goes_on_alone)
      : io_(network.make_host(number)) {
    MeshConfig mesh;
    mesh.self = id_of(number);
    mesh.run_id = "group-test";
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
                                                           .elements = gradient_.size(),
                                                           .target_batch = kBatch,
                                                           .round_timeout = seconds(10),
                                                           .goes_on_alone = goes_on_alone});
  }
  ~Host() = default;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  void on_peer_joined(Peer& peer) override { group_->handle_peer_joined(io_->now(), peer); }
  void on_peer_left(Peer& peer, PeerLeft, const std::string&) override { group_->handle_peer_left(io_->now(), peer); }
  void on_control(Peer& peer, const transport::Header& header) override {
    if (const auto evidence = group_->handle_control(io_->now(), peer, header)) violations.push_back(*evidence);
  }
  void on_round_over(RoundReport report) override {
    if (report.canceled) return;  // leaving
    in_round_ = false;
    group_->handle_round_over(io_->now(), report);
    const std::uint64_t drifted = drifts_from <= report.epoch ? 1 : 0;
    group_->report_model(report.epoch, 1000 + report.epoch + drifted);
    reports.push_back(std::move(report));
    group_->add_samples(samples);
    group_->act(io_->now());
  }
  void on_refused(const transport::Address&, const std::string&) override {}
  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override {
    if (std::find(banned_.begin(), banned_.end(), peer) == banned_.end()) return std::nullopt;
    return transport::Refusal{transport::RefusalReason::banned, "by the test"};
  }
  void ban(std::uint32_t number) {
    banned_.push_back(id_of(number));
    group_->handle_bans(banned_);
    if (Peer* const peer = engine_->mesh().find(id_of(number))) engine_->mesh().drop(*peer, "banned");
  }

  void turn() {
    io_->run_once(io_->now());
    if (group_->open_round() && !in_round_) {
      in_round_ = true;
      specs.push_back(*group_->open_round());
      engine_->begin_round(*group_->open_round(), gradient_, 1);
    }
    engine_->handle_time(io_->now());
    group_->act(io_->now());
  }
  [[nodiscard]] TimePoint next_deadline() const {
    const bool may_begin = group_->open_round() && !in_round_;
    return may_begin ? io_->now() : std::min(engine_->next_deadline(), group_->next_deadline(io_->now()));
  }
  [[nodiscard]] Group& group() { return *group_; }
  [[nodiscard]] GroupProgress progress() const { return group_->progress(io_->now()); }
  [[nodiscard]] Engine& engine() { return *engine_; }
  void let_go() {
    while (io_->open_handles() > 0 && !engine_->mesh().is_closed()) io_->run_once(io_->now());
  }

  std::uint64_t samples = 0;
  std::uint64_t drifts_from = ~std::uint64_t{0};
  std::vector<RoundReport> reports;
  std::vector<RoundSpec> specs;
  std::vector<std::string> violations;

 private:
  std::vector<PeerId> banned_;
  std::vector<float> gradient_ = std::vector<float>(100'000, 1.0F);
  std::unique_ptr<transport::Io> io_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Group> group_;
  bool in_round_ = false;
};

class GroupTest : public ::testing::Test {
 protected:
  // Everybody is linked before anybody works: a round begins with those present.
  void start(std::uint32_t hosts, std::uint64_t samples) {
    hosts_.resize(hosts);
    for (std::uint32_t number = 0; number < hosts; ++number) start_one(number);
    ASSERT_TRUE(run_until([&] {
      return std::all_of(hosts_.begin(), hosts_.end(),
                         [&](const auto& host) { return host->progress().members == hosts; });
    }));
    for (const auto& host : hosts_) {
      host->samples = samples;
      host->group().add_samples(samples);
    }
  }
  void start_one(std::uint32_t number) {
    hosts_[number] = std::make_unique<Host>(network_, number, static_cast<std::uint32_t>(hosts_.size()), go_on_alone_);
  }
  void kill(std::uint32_t number) {
    network_.kill_host(number, transport::SimDeath::reset);
    hosts_[number]->let_go();
    hosts_[number].reset();
  }
  ~GroupTest() override {
    for (std::uint32_t number = 0; number < hosts_.size(); ++number) {
      if (hosts_[number]) kill(number);
    }
  }

  // Until it is so; false after `bound` of simulated time.
  bool run_until(const std::function<bool()>& is_so, Duration bound = seconds(60)) {
    const TimePoint end = network_.now() + bound;
    while (!is_so()) {
      if (network_.now() >= end) return false;
      TimePoint next = std::min(network_.next_event_time(), end);
      for (std::uint32_t number = 0; number < hosts_.size(); ++number) {
        if (hosts_[number] && number != frozen_) next = std::min(next, hosts_[number]->next_deadline());
      }
      network_.advance_to(std::max(next, network_.now()));
      for (std::uint32_t number = 0; number < hosts_.size(); ++number) {
        if (hosts_[number] && number != frozen_) hosts_[number]->turn();
      }
    }
    return true;
  }
  bool run_rounds(std::size_t rounds, Duration bound = seconds(60)) {
    return run_until(
        [&] {
          for (std::uint32_t number = 0; number < hosts_.size(); ++number) {
            const auto& host = hosts_[number];
            if (host && number != frozen_ && number != waiting_ && host->reports.size() < rounds) return false;
          }
          return true;
        },
        bound);
  }
  static constexpr std::uint32_t kNobody = ~std::uint32_t{0};

  transport::SimNetwork network_{5};
  std::vector<std::unique_ptr<Host>> hosts_;
  std::uint32_t frozen_ = kNobody;
  std::uint32_t waiting_ = kNobody;  // is in no round
  bool go_on_alone_ = true;
};

TEST_F(GroupTest, EverybodyBeginsTheSameRounds) {
  start(4, kBatch / 4);
  ASSERT_TRUE(run_rounds(5));
  std::set<PeerId> all;
  for (std::size_t round = 0; round < 5; ++round) {
    for (const auto& host : hosts_) {
      EXPECT_EQ(host->specs[round].group, hosts_[0]->specs[round].group);
      EXPECT_EQ(host->specs[round].model, hosts_[0]->specs[round].model);
      EXPECT_NE(host->specs[round].group, 0U);
      EXPECT_EQ(host->specs[round].members.size(), 4U);
      EXPECT_EQ(host->reports[round].local_chunks, 0U);
      EXPECT_TRUE(host->violations.empty());
    }
  }
  EXPECT_NE(hosts_[0]->specs[0].group, hosts_[0]->specs[1].group);
  EXPECT_TRUE(hosts_[0]->progress().in_sync);
}

TEST_F(GroupTest, ThreeGoOnWithoutTheFourth) {
  start(4, kBatch / 4);
  ASSERT_TRUE(run_rounds(2));
  kill(3);
  for (const auto& host : hosts_) {
    if (host) host->samples = kBatch / 2;
  }
  for (const auto& host : hosts_) {
    if (host) host->group().add_samples(kBatch);
  }
  ASSERT_TRUE(run_rounds(6));
  for (const auto& host : hosts_) {
    if (!host) continue;
    EXPECT_EQ(host->specs.back().members.size(), 3U);
    EXPECT_EQ(host->specs[5].group, hosts_[0]->specs[5].group);
  }
}

// A restarted node is in no round, hinders nobody, and knows why.
TEST_F(GroupTest, WhoStartsAfreshWaitsForStateAndHindersNobody) {
  start(4, kBatch / 2);
  ASSERT_TRUE(run_rounds(3));
  kill(2);
  ASSERT_TRUE(run_rounds(4));
  start_one(2);
  waiting_ = 2;
  ASSERT_TRUE(run_until([&] { return hosts_[2]->group().is_out_of_step(); }));
  const TimePoint begin = network_.now();
  const std::size_t before = hosts_[0]->reports.size();
  ASSERT_TRUE(run_rounds(before + 10));
  EXPECT_LT(network_.now() - begin, seconds(10));
  EXPECT_TRUE(hosts_[2]->reports.empty());
  ASSERT_TRUE(hosts_[2]->group().state_wanted());
  EXPECT_EQ(hosts_[2]->group().state_wanted()->why, StateWanted::Why::behind);
  EXPECT_GE(hosts_[2]->group().state_wanted()->epoch, before);
  EXPECT_TRUE(hosts_[2]->progress().waits_for_state);
  EXPECT_EQ(hosts_[0]->progress().members, 3U);
  // With the state that the round in flight comes to, it is in the next one.
  hosts_[2]->group().handle_state_taken(network_.now(), hosts_[0]->progress().local_epoch + 1);
  waiting_ = kNobody;
  EXPECT_TRUE(run_until([&] { return !hosts_[2]->reports.empty(); }));
  EXPECT_EQ(hosts_[2]->reports.back().members, 4U);
}

TEST_F(GroupTest, AFrozenPeerIsNotCountedOn) {
  start(4, kBatch / 2);
  ASSERT_TRUE(run_rounds(2));
  frozen_ = 1;
  network_.freeze_host(1);
  const std::size_t before = hosts_[0]->reports.size();
  ASSERT_TRUE(run_rounds(before + 5, seconds(120)));
  EXPECT_EQ(hosts_[0]->reports.back().members, 3U);
}

TEST_F(GroupTest, WhoDriftsApartIsToldAndSoAreTheOthers) {
  start(4, kBatch / 4);
  hosts_[3]->drifts_from = 2;
  ASSERT_TRUE(run_rounds(5));
  EXPECT_FALSE(hosts_[3]->progress().in_sync);
  ASSERT_TRUE(hosts_[3]->group().state_wanted());
  EXPECT_EQ(hosts_[3]->group().state_wanted()->why, StateWanted::Why::diverged);
  for (std::uint32_t number = 0; number < 3; ++number) {
    EXPECT_TRUE(hosts_[number]->progress().in_sync);
    EXPECT_EQ(hosts_[number]->progress().out_of_sync, 1U);
    EXPECT_FALSE(hosts_[number]->group().state_wanted());
  }
}

bool names(const RoundSpec& spec, std::uint32_t number) {
  return std::any_of(spec.members.begin(), spec.members.end(),
                     [&](const auto& member) { return member.peer == id_of(number); });
}

// Whom one has banned and the others have not, stays in rosters, and its turns to propose cost nobody their place. Whom
// many have banned is in none of theirs.
TEST_F(GroupTest, ABanLeavesNoOtherMemberOut) {
  for (const std::uint32_t bans : {1U, 2U}) {
    SCOPED_TRACE(bans);
    start(5, kBatch / 4);
    ASSERT_TRUE(run_rounds(2));
    for (std::uint32_t number = 1; number <= bans; ++number) hosts_[number]->ban(0);
    waiting_ = 0;
    const std::size_t before = hosts_[4]->reports.size();
    const TimePoint begin = network_.now();
    ASSERT_TRUE(run_rounds(before + 20));
    // A second where the accuser or the accused is first in the order.
    EXPECT_LT(network_.now() - begin, bans == 1 ? seconds(40) : seconds(10));
    for (std::uint32_t number = 1; number < 5; ++number) {
      for (std::size_t round = before + 1; round < before + 20; ++round) {
        const RoundSpec& spec = hosts_[number]->specs[round];
        for (std::uint32_t other = 1; other < 5; ++other) EXPECT_TRUE(names(spec, other)) << number << " " << other;
        EXPECT_EQ(names(spec, 0), bans == 1) << "round " << spec.round;
        EXPECT_EQ(spec.group, hosts_[4]->specs[round].group);
      }
      EXPECT_TRUE(hosts_[number]->violations.empty());
    }
    for (std::uint32_t number = 0; number < 5; ++number) kill(number);
    hosts_.clear();
    waiting_ = kNobody;
  }
}

// A round began without host 3, which was away for a moment. It is not stuck: that round is its own, and the next one
// has it again. It says so, and its model is known to differ.
TEST_F(GroupTest, WhoWasLeftOutOfARoundIsInTheNextOne) {
  for (const bool goes_on : {true, false}) {
    SCOPED_TRACE(goes_on);
    go_on_alone_ = goes_on;
    start(4, kBatch / 4);
    ASSERT_TRUE(run_rounds(2));
    for (const auto& host : hosts_) host->samples = 0;
    EXPECT_FALSE(run_until([] { return false; }, seconds(2)));
    const std::size_t before = hosts_[3]->reports.size();
    ASSERT_EQ(before, hosts_[0]->reports.size());
    frozen_ = 3;
    for (const auto& host : hosts_) host->samples = kBatch / 4;
    for (std::uint32_t number = 0; number < 3; ++number) hosts_[number]->group().add_samples(kBatch / 2);
    ASSERT_TRUE(run_until([&] { return hosts_[0]->group().open_round().has_value(); }));
    frozen_ = kNobody;
    if (!goes_on) {
      ASSERT_TRUE(run_until([&] { return hosts_[3]->group().is_out_of_step(); }));
      EXPECT_EQ(hosts_[3]->group().state_wanted()->why, StateWanted::Why::left_out);
    } else {
      ASSERT_TRUE(run_rounds(before + 4));
      ASSERT_EQ(hosts_[3]->specs[before].members.size(), 1U);
      EXPECT_EQ(hosts_[3]->reports[before].epoch, hosts_[0]->reports[before].epoch);
      EXPECT_EQ(hosts_[0]->specs[before].members.size(), 3U);
      for (std::size_t round = before + 1; round < before + 4; ++round) {
        EXPECT_EQ(hosts_[3]->specs[round].group, hosts_[0]->specs[round].group);
        EXPECT_EQ(hosts_[3]->specs[round].members.size(), 4U);
      }
      EXPECT_FALSE(hosts_[3]->group().is_out_of_step());
    }
    for (std::uint32_t number = 0; number < 4; ++number) kill(number);
    hosts_.clear();
  }
}

// Whatever a peer says again and again, the log stays readable.
TEST_F(GroupTest, NonsenseAboutProgressDoesNotFloodTheLog) {
  start(2, 0);
  std::ostringstream log;
  const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log);
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink));
  Peer* const peer = hosts_[0]->engine().mesh().find(id_of(1));
  ASSERT_NE(peer, nullptr);
  for (int times = 0; times < 1000; ++times) {
    hosts_[0]->engine().mesh().send_control(*peer, transport::Progress{.samples = 2, .total_samples = 1});
  }
  run_until([] { return false; }, seconds(30));
  spdlog::set_default_logger(before);
  const std::string text = log.str();
  std::size_t lines = 0;
  for (std::size_t at = text.find("disregarded"); at != std::string::npos; at = text.find("disregarded", at + 1))
    ++lines;
  EXPECT_EQ(lines, LogLimitConfig().lines + 1) << text;
  EXPECT_NE(text.find("995 more progress reports disregarded"), std::string::npos) << text;
}

// What no correct peer says comes back as evidence.
TEST_F(GroupTest, AForgedProposalIsEvidence) {
  start(3, kBatch / 2);
  ASSERT_TRUE(run_rounds(1));
  Host& liar = *hosts_[0];
  Peer* const victim = liar.engine().mesh().find(id_of(1));
  ASSERT_NE(victim, nullptr);
  liar.engine().mesh().send_control(*victim, transport::Propose{.round = 9,
                                                                .epoch = 8,
                                                                .members = {{.peer = id_of(1)}, {.peer = id_of(2)}},
                                                                .chunk_bytes = 65536,
                                                                .timeout_ms = 1000,
                                                                .attempt = 1,
                                                                .proposer = id_of(2)});
  ASSERT_TRUE(run_until([&] { return !hosts_[1]->violations.empty(); }));
  EXPECT_NE(hosts_[1]->violations[0].find("another peer's name"), std::string::npos);
}

}  // namespace
}  // namespace papilio::node
