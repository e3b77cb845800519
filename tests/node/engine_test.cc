// Whole engines over real loopback sockets, several in one thread: rounds of every shape against a float64 reference,
// peers that leave, vanish, lie or speak another language, and nothing left over after a thousand rounds.
#include "engine/node/engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/ops.h"
#include "transport/io.hpp"

namespace papilio::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using transport::Header;

constexpr Duration kBound = seconds(60);
constexpr std::size_t kChunkBytes = kMinimumChunkBytes;
constexpr std::uint64_t kChunk = kChunkBytes / sizeof(float);  // elements
constexpr Fingerprint kModel{.low = 17, .high = 4};

PeerId id_of(std::size_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

// What member `member` contributes at `element` of round `round`: no copy of the input has to be kept.
float input(RoundId round, std::size_t member, std::uint64_t element) {
  const std::uint64_t bits = Random::mix((round << 40U) + (std::uint64_t{member} << 32U) + element);
  return static_cast<float>(static_cast<double>(bits >> 11U) * 0x1.0p-52 - 1);
}

struct TestPeerLeft {
  PeerId peer;
  PeerLeft how = PeerLeft::lost;
  std::string why;
};

// One engine and what it told.
struct Member final : EngineEvents {
  void on_peer_joined(Peer&) override { joined += 1; }
  void on_peer_left(Peer& peer, PeerLeft how, const std::string& why) override { left.push_back({peer.id, how, why}); }
  void on_control(Peer&, const Header& header) override { control.push_back(header); }
  void on_round_over(RoundReport report) override { reports.push_back(std::move(report)); }
  void on_refused(const transport::Address&, const std::string& why) override { refused.push_back(why); }
  void on_offence(Peer& peer, core::Offence offence, const std::string&) override {
    offences.emplace_back(peer.id, offence);
  }
  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override {
    if (peer != banned) return std::nullopt;
    return transport::Refusal{transport::RefusalReason::banned, "until tomorrow (slow: it froze)"};
  }

  std::unique_ptr<Engine> engine;
  bool is_dead = false;
  int joined = 0;
  std::vector<TestPeerLeft> left;
  std::vector<Header> control;
  std::vector<RoundReport> reports;
  std::vector<std::string> refused;
  std::vector<std::pair<PeerId, core::Offence>> offences;
  std::optional<PeerId> banned;
  std::vector<float> gradient;
};

using Setting = std::function<void(std::size_t, MeshConfig&, RoundDriverConfig&)>;

class EngineTest : public testing::TestWithParam<transport::IoBackend> {
 protected:
  EngineTest() {
    std::string why;
    auto io = transport::make_io(GetParam(), &why);
    PAPILIO_ASSERT(io.ok());
    io_ = std::move(*io);
  }
  ~EngineTest() override {
    for (const auto& member : members_) {
      member->engine->leave("the test is over", seconds(5));
      EXPECT_TRUE(member->engine->mesh().is_closed());
      const transport::SlabPool* const pool = member->engine->rounds().pool();
      if (pool != nullptr) {
        EXPECT_EQ(pool->available(), pool->capacity());
      }
    }
    EXPECT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
  }

  void turn(TimePoint until) {
    for (const auto& member : members_) {
      if (!member->is_dead) until = std::min(until, member->engine->next_deadline());
    }
    io_->run_once(until);
    for (const auto& member : members_) {
      if (!member->is_dead) member->engine->handle_time(io_->now());
    }
  }
  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      turn(bound);
    }
    return true;
  }

  Member& add_engine(const Setting& setting = {}) {
    const std::size_t index = members_.size();
    Member& member = *members_.emplace_back(std::make_unique<Member>());
    MeshConfig mesh;
    mesh.self = id_of(index);
    mesh.fingerprint = kModel;
    mesh.run_id = "test";
    mesh.listen = transport::Address::parse("127.0.0.1:0").value();
    mesh.local_options = default_socket_options(true, "");
    mesh.seed = index;
    RoundDriverConfig rounds;
    if (setting) setting(index, mesh, rounds);
    rounds.self = mesh.self;
    EngineEvents& events = member;
    member.engine = std::make_unique<Engine>(*io_, mesh, rounds, events);
    EXPECT_TRUE(member.engine->start().ok());
    return member;
  }
  transport::Address address_of(std::size_t index) { return *mesh(index).listen_address(); }
  Mesh& mesh(std::size_t index) { return members_[index]->engine->mesh(); }
  Member& member(std::size_t index) { return *members_[index]; }

  // Engines that are all linked.
  void make_group(std::size_t count, const Setting& setting = {}) {
    for (std::size_t i = 0; i < count; ++i) {
      add_engine(setting);
      for (std::size_t j = 0; j < i; ++j) mesh(i).add_address(address_of(j));
    }
    ASSERT_TRUE(everybody_is_linked());
  }
  [[nodiscard]] bool everybody_is_linked() {
    return run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [&](const auto& each) { return each->engine->mesh().peers().size() + 1 == members_.size(); });
    });
  }

  [[nodiscard]] RoundSpec spec(RoundId round, std::size_t members, Duration timeout = seconds(50)) const {
    RoundSpec result{.round = round, .epoch = round, .members = {}, .chunk_bytes = kChunkBytes, .timeout = timeout};
    for (std::size_t i = 0; i < members; ++i) {
      result.members.push_back({.peer = id_of(i), .rate_bytes_per_s = 0, .reduces = !is_client(i)});
    }
    return result;
  }
  [[nodiscard]] bool is_client(std::size_t index) const {
    return std::find(clients_.begin(), clients_.end(), index) != clients_.end();
  }
  [[nodiscard]] double weight_of(std::size_t index) const { return index < weights_.size() ? weights_[index] : 1.0; }

  void begin(std::size_t index, const RoundSpec& round, std::uint64_t elements) {
    Member& each = member(index);
    each.gradient.resize(elements);
    for (std::uint64_t i = 0; i < elements; ++i) each.gradient[i] = input(round.round, index, i);
    each.engine->begin_round(round, each.gradient, weight_of(index));
  }
  [[nodiscard]] bool rounds_are_over(RoundId round) {
    return run_until([&] {
      return std::all_of(members_.begin(), members_.end(), [&](const auto& each) {
        return each->is_dead || (!each->reports.empty() && each->reports.back().round == round);
      });
    });
  }
  // A round of all engines.
  void all_reduce(RoundId round, std::uint64_t elements) {
    const RoundSpec each = spec(round, members_.size());
    for (std::size_t i = 0; i < members_.size(); ++i) begin(i, each, elements);
    ASSERT_TRUE(rounds_are_over(round));
  }

  // Every chunk of this member is what its report says, against float64 or bit for bit.
  void expect_values_as_reported(std::size_t index, std::size_t roster) {
    const Member& each = member(index);
    ASSERT_FALSE(each.reports.empty());
    const RoundReport& report = each.reports.back();
    ASSERT_EQ(report.peers.size(), roster);
    std::vector<PlanMember> plan_members;
    for (std::size_t i = 0; i < roster; ++i) plan_members.push_back({.reduces = !is_client(i)});
    const PartitionPlan plan = PartitionPlan::make(each.gradient.size(), plan_members, kChunkBytes);
    ASSERT_EQ(report.chunks.size(), plan.chunk_count());
    std::uint64_t wrong = 0, local = 0;
    double covered = 0;
    for (ChunkIndex chunk = 0; chunk < plan.chunk_count(); ++chunk) {
      const Range range = plan.chunk(chunk);
      const Coverage coverage = report.chunks[chunk];
      local += coverage == 0 ? 1U : 0U;
      covered += static_cast<double>(range.size) * std::popcount(coverage) / static_cast<double>(roster);
      for (std::uint64_t i = range.begin; i < range.end(); ++i) {
        if (coverage == 0) {
          wrong += each.gradient[i] != input(report.round, index, i) ? 1U : 0U;
          continue;
        }
        double sum = 0, total = 0;
        for (std::size_t j = 0; j < roster; ++j) {
          if ((coverage & coverage_of(static_cast<MemberIndex>(j))) == 0) continue;
          sum += weight_of(j) * input(report.round, j, i);
          total += weight_of(j);
        }
        wrong += std::abs(each.gradient[i] - sum / total) > 1e-6 * static_cast<double>(roster) ? 1U : 0U;
      }
    }
    EXPECT_EQ(wrong, 0U) << "member " << index;
    EXPECT_EQ(report.local_chunks, local);
    if (!each.gradient.empty()) {
      EXPECT_NEAR(report.coverage, covered / static_cast<double>(each.gradient.size()), 1e-9);
    }
  }

  void expect_everything_averaged() {
    const std::size_t count = members_.size();
    const Coverage everybody = coverage_of(static_cast<MemberIndex>(count)) - 1;
    for (std::size_t i = 0; i < count; ++i) {
      expect_values_as_reported(i, count);
      const RoundReport& report = member(i).reports.back();
      EXPECT_EQ(report.members, count);
      EXPECT_EQ(report.coverage, 1);
      EXPECT_EQ(report.local_chunks, 0U);
      EXPECT_FALSE(report.canceled);
      EXPECT_TRUE(report.error.empty());
      EXPECT_EQ(report.digest, member(0).reports.back().digest);
      EXPECT_TRUE(member(i).gradient == member(0).gradient);
      for (const Coverage coverage : report.chunks) EXPECT_EQ(coverage, everybody);
      std::uint64_t sent = 0, received = 0;
      for (std::size_t j = 0; j < count; ++j) {
        const PeerReport& peer = report.peers[j];
        EXPECT_EQ(peer.peer, id_of(j));
        EXPECT_FALSE(peer.cut_off) << peer.reason;
        EXPECT_EQ(peer.shards_in_flight, 0U);
        sent += peer.bytes_out;
        received += peer.bytes_in;
        // What one counts as sent the other counts as received.
        if (i != j) {
          EXPECT_EQ(peer.bytes_out, member(j).reports.back().peers[i].bytes_in);
        }
      }
      EXPECT_EQ(report.bytes_sent, sent);
      EXPECT_EQ(report.bytes_received, received);
    }
  }

  [[nodiscard]] std::string reason(std::size_t at, std::size_t about) {
    return member(at).reports.back().peers[about].reason;
  }

  std::unique_ptr<transport::Io> io_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<double> weights_;
  std::vector<std::size_t> clients_;
};

// Every backend that can run on this machine.
std::vector<transport::IoBackend> backends() {
  std::vector<transport::IoBackend> list = {transport::IoBackend::uv};
  if (transport::make_io(transport::IoBackend::uring, nullptr).ok()) list.push_back(transport::IoBackend::uring);
  return list;
}
std::string backend_name(const testing::TestParamInfo<transport::IoBackend>& info) {
  return info.param == transport::IoBackend::uring ? "uring" : "uv";
}
INSTANTIATE_TEST_SUITE_P(Backends, EngineTest, testing::ValuesIn(backends()), backend_name);

// ---- rounds without faults

TEST_P(EngineTest, GroupsOfEverySizeAverage) {
  for (const std::size_t count : {2U, 3U, 5U, 8U}) {
    while (members_.size() < count) {
      add_engine();
      for (std::size_t j = 0; j + 1 < members_.size(); ++j) mesh(members_.size() - 1).add_address(address_of(j));
    }
    ASSERT_TRUE(everybody_is_linked());
    all_reduce(count, 203'530);
    expect_everything_averaged();
    EXPECT_EQ(member(0).reports.back().samples, count);
  }
}

TEST_P(EngineTest, EverySizeFromNothingAverages) {
  make_group(3);
  RoundId round = 0;
  for (const std::uint64_t elements : {0U, 1U, 2U, 3U, 4U, 1023U, 16384U, 16385U, 203'530U}) {
    all_reduce(++round, elements);
    expect_everything_averaged();
  }
}

TEST_P(EngineTest, SixteenMillionElementsByReferenceAndByCopy) {
  make_group(2, [](std::size_t, MeshConfig&, RoundDriverConfig& rounds) { rounds.borrow = Borrow::everything; });
  all_reduce(1, 16'777'216);
  expect_everything_averaged();
  EXPECT_TRUE(member(0).left.empty());  // nobody had to be cut for holding on to memory
  all_reduce(2, 16'777'216);
  expect_everything_averaged();
}

TEST_P(EngineTest, UnequalWeightsAndAClient) {
  weights_ = {1, 250, 0.5, 32};
  clients_ = {2};
  make_group(4, [](std::size_t index, MeshConfig& mesh, RoundDriverConfig&) {
    if (index == 2) mesh.role = transport::WireRole::client;
  });
  all_reduce(1, 203'530);
  expect_everything_averaged();
  EXPECT_EQ(member(0).reports.back().peers[1].weight, 250);
  EXPECT_EQ(member(0).reports.back().peers[2].role, Role::client);
  EXPECT_EQ(member(0).reports.back().samples, 284U);
}

TEST_P(EngineTest, AveragesByReferenceAndContributionsFirst) {
  make_group(3, [](std::size_t index, MeshConfig&, RoundDriverConfig& rounds) {
    rounds.borrow = Borrow::everything;
    rounds.order = index == 0 ? core::RoundOrder::contributions_first : core::RoundOrder::automatic;
  });
  for (RoundId round = 1; round <= 20; ++round) {
    all_reduce(round, 300'000);
    expect_everything_averaged();
  }
  EXPECT_TRUE(member(0).left.empty());
}

TEST_P(EngineTest, SeveralFlowsPerLink) {
  make_group(3, [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.flows = 4; });
  ASSERT_TRUE(run_until([&] {
    return std::all_of(members_.begin(), members_.end(), [](const auto& each) {
      const auto& peers = each->engine->mesh().peers();
      return std::all_of(peers.begin(), peers.end(), [](const auto& peer) { return peer->flows.size() == 4; });
    });
  }));
  for (RoundId round = 1; round <= 10; ++round) {
    all_reduce(round, 1'000'000);
    expect_everything_averaged();
  }
  EXPECT_TRUE(member(0).left.empty());
}

TEST_P(EngineTest, AloneARoundEndsWithoutAnyEvent) {
  add_engine();
  begin(0, spec(1, 1), 5000);
  EXPECT_LE(member(0).engine->next_deadline(), io_->now());  // or the loop would sleep over a round that is over
  ASSERT_TRUE(rounds_are_over(1));
  expect_everything_averaged();
}

TEST_P(EngineTest, AThousandRoundsLeaveNothingBehind) {
  make_group(3);
  const auto descriptors = [] {
    const auto entries = std::filesystem::directory_iterator("/proc/self/fd");
    return std::distance(std::filesystem::begin(entries), std::filesystem::end(entries));
  };
  std::size_t handles = 0;
  std::ptrdiff_t open_descriptors = 0;
  std::size_t slabs = 0;
  for (RoundId round = 1; round <= 1000; ++round) {
    all_reduce(round, 40'000);
    if (round == 10) {
      handles = io_->open_handles();
      open_descriptors = descriptors();
      slabs = member(0).engine->rounds().pool()->capacity();
    }
    if (round % 100 == 0) expect_everything_averaged();
  }
  EXPECT_EQ(io_->open_handles(), handles);
  EXPECT_EQ(descriptors(), open_descriptors);
  for (const auto& each : members_) {
    const transport::SlabPool* pool = each->engine->rounds().pool();
    EXPECT_EQ(pool->capacity(), slabs);
    EXPECT_EQ(pool->available(), pool->capacity());
    EXPECT_EQ(each->joined, 2);
    EXPECT_TRUE(each->left.empty());
  }
}

// ---- links

TEST_P(EngineTest, TwoThatDialEachOtherAtOnceEndWithOneLink) {
  for (int repetition = 0; repetition < 100; ++repetition) {
    const std::size_t first = members_.size();
    // Which of the two has the lower id alternates, and so does who is told first.
    add_engine();
    add_engine();
    const std::size_t one = first + static_cast<std::size_t>(repetition % 2);
    const std::size_t other = first + 1 - static_cast<std::size_t>(repetition % 2);
    mesh(one).add_address(address_of(other));
    for (int turns = 0; turns < repetition % 7; ++turns) {
      io_->run_once(io_->now());
      member(one).engine->handle_time(io_->now());
    }
    mesh(other).add_address(address_of(one));
    ASSERT_TRUE(run_until([&] {
      return mesh(one).peers().size() == 1 && mesh(other).peers().size() == 1 && io_->open_handles() == 4;
    })) << repetition;
    EXPECT_EQ(mesh(one).peers()[0]->flows.size(), 1U);
    EXPECT_EQ(member(one).joined, 1);
    EXPECT_EQ(member(other).joined, 1);
    EXPECT_TRUE(member(one).left.empty());
    EXPECT_TRUE(member(other).left.empty());
    for (const std::size_t index : {one, other}) member(index).engine->leave("next", seconds(5));
    members_.clear();
    ASSERT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
  }
}

TEST_P(EngineTest, HellosOfAnotherRunOrModelAreRefusedWithAReason) {
  make_group(2);
  struct Case {
    std::string expected;
    Setting setting;
  };
  const std::vector<Case> cases = {
      {"wrong-run", [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.run_id = "another"; }},
      {"wrong-model", [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.fingerprint.low += 1; }},
      {"wrong-model", [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.elements = 5; }},
      {"wrong-run", [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.run_id = std::string(512, 'r'); }}};
  std::uint64_t refused = 0;
  for (const Case& each : cases) {
    Member& stranger = add_engine(each.setting);
    stranger.engine->mesh().add_address(address_of(0));
    ASSERT_TRUE(run_until([&] { return !stranger.refused.empty(); }));
    EXPECT_NE(stranger.refused[0].find(each.expected), std::string::npos) << stranger.refused[0];
    EXPECT_EQ(mesh(0).counters().refused, ++refused);
    EXPECT_EQ(mesh(0).counters().protocol_violations, 0U);
    EXPECT_EQ(stranger.engine->mesh().counters().protocol_violations, 0U);
    EXPECT_EQ(stranger.joined, 0);
    stranger.engine->leave("", seconds(5));
    members_.pop_back();
  }
  all_reduce(1, 50'000);
  expect_everything_averaged();
}

// Whoever says so has proved nothing: an address is asked again, if seldom, and works once somebody else is there.
TEST_P(EngineTest, AnAddressWhereAnotherRunAnsweredIsAskedAgain) {
  make_group(1);
  Member& other = add_engine([](std::size_t, MeshConfig& mesh, RoundDriverConfig&) {
    mesh.redial_most = milliseconds(4);
    mesh.redial_refused = milliseconds(5);
    mesh.run_id = "another";
  });
  other.engine->mesh().add_address(address_of(0));
  ASSERT_TRUE(run_until([&] { return mesh(0).counters().refused >= 3; }));
  EXPECT_EQ(other.refused.size(), 1U) << "told once";
  other.engine->leave("", seconds(5));
  members_.pop_back();
  Member& seldom = add_engine([](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.run_id = "another"; });
  seldom.engine->mesh().add_address(address_of(0));
  ASSERT_TRUE(run_until([&] { return !seldom.refused.empty() && io_->open_handles() == 2; }));
  EXPECT_GT(seldom.engine->mesh().next_deadline(), io_->now() + std::chrono::minutes(4));
}

// Whoever dials: both sides of a handshake look at the other's name, and say why they want no link.
TEST_P(EngineTest, ABannedPeerIsRefusedWithTheReasonAndComesBackAfterwards) {
  const Setting impatient = [](std::size_t, MeshConfig& config, RoundDriverConfig&) {
    config.redial_banned = milliseconds(5);
  };
  for (const bool banned_one_dials : {true, false}) {
    const std::size_t judge = members_.size(), offender = judge + 1;
    add_engine(impatient);
    add_engine(impatient);
    member(judge).banned = id_of(offender);
    const std::size_t dialler = banned_one_dials ? offender : judge;
    mesh(dialler).add_address(address_of(judge + offender - dialler));
    ASSERT_TRUE(run_until([&] { return mesh(judge).counters().refused >= 3; }));
    ASSERT_TRUE(run_until([&] { return mesh(dialler).bans().size() == 1; }));
    EXPECT_NE(mesh(dialler).bans()[0].find("until tomorrow (slow: it froze)"), std::string::npos);
    EXPECT_NE(mesh(dialler).bans()[0].find(banned_one_dials ? "refuses this node" : "banned here"), std::string::npos);
    EXPECT_TRUE(mesh(dialler).unanswered().empty());
    EXPECT_TRUE(member(dialler).refused.empty()) << "not for good";
    EXPECT_EQ(member(judge).joined, 0);

    member(judge).banned.reset();
    ASSERT_TRUE(run_until([&] { return mesh(judge).peers().size() == 1 && mesh(offender).peers().size() == 1; }));
    EXPECT_TRUE(mesh(dialler).bans().empty());
  }
}

TEST_P(EngineTest, WhoIsBannedIsAskedSeldom) {
  add_engine();
  add_engine();
  member(0).banned = id_of(1);
  mesh(1).add_address(address_of(0));
  ASSERT_TRUE(run_until([&] { return mesh(1).bans().size() == 1 && mesh(1).next_deadline() != kNever; }));
  ASSERT_TRUE(run_until([&] { return mesh(1).next_deadline() > io_->now() + seconds(20); }));
  EXPECT_EQ(mesh(0).counters().refused, 1U);
}

TEST_P(EngineTest, ANodeThatDialsItselfGivesUp) {
  make_group(1);
  mesh(0).add_address(address_of(0));
  ASSERT_TRUE(run_until([&] { return !member(0).refused.empty() && io_->open_handles() == 1; }));
  EXPECT_EQ(member(0).joined, 0);
}

// ---- members that go missing

TEST_P(EngineTest, AGoodbyeInTheMiddleOfARoundIsADeparture) {
  make_group(3);
  const RoundSpec round = spec(1, 3);
  begin(0, round, 400'000);
  begin(1, round, 400'000);
  begin(2, round, 400'000);
  member(2).engine->leave("enough", seconds(5));
  member(2).is_dead = true;
  ASSERT_EQ(member(2).reports.size(), 1U);
  ASSERT_TRUE(rounds_are_over(1));
  expect_values_as_reported(0, 3);
  expect_values_as_reported(1, 3);
  for (const std::size_t index : {0U, 1U}) {
    EXPECT_EQ(reason(index, 2), "departed");
    ASSERT_EQ(member(index).left.size(), 1U);
    EXPECT_EQ(member(index).left[0].how, PeerLeft::goodbye);
    EXPECT_EQ(member(index).left[0].why, "enough");
    EXPECT_EQ(mesh(index).counters().protocol_violations, 0U);
  }
  EXPECT_EQ(mesh(2).counters().protocol_violations, 0U);
}

TEST_P(EngineTest, ALostConnectionAtAnyPointEndsTheRoundForEverybody) {
  make_group(4);
  Random random(5);
  for (RoundId round = 1; round <= 60; ++round) {
    ASSERT_TRUE(everybody_is_linked());
    const RoundSpec each = spec(round, 4);
    for (std::size_t i = 0; i < 4; ++i) begin(i, each, 200'000);
    for (std::uint64_t turns = random.below(12); turns > 0; --turns) turn(io_->now());
    const std::size_t victim = random.below(4);
    while (!mesh(victim).peers().empty()) mesh(victim).drop(*mesh(victim).peers()[0], "pulled the plug");
    ASSERT_TRUE(rounds_are_over(round));
    for (std::size_t i = 0; i < 4; ++i) {
      expect_values_as_reported(i, 4);
      const std::string why = reason(i, victim);
      EXPECT_TRUE(why.empty() || why == "connection-lost" || why == "condemned") << why;
      EXPECT_FALSE(member(i).reports.back().local_chunks > 0 && i != victim && why.empty());
    }
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
}

TEST_P(EngineTest, AMemberThatNeverBeginsCostsItsPartOnly) {
  RoundId round = 0;
  for (const Borrow borrow : {Borrow::nothing, Borrow::contributions, Borrow::everything}) {
    constexpr std::uint64_t kElements = 3 * 4 * kChunk;
    round += 1;
    for (const auto& each : members_) each->engine->leave("", seconds(5));
    members_.clear();
    make_group(3, [&](std::size_t, MeshConfig&, RoundDriverConfig& rounds) { rounds.borrow = borrow; });
    ASSERT_TRUE(everybody_is_linked());
    const RoundSpec each = spec(round, 3, milliseconds(800));
    begin(0, each, kElements);
    begin(1, each, kElements);
    ASSERT_TRUE(run_until([&] {
      return !member(0).reports.empty() && member(0).reports.back().round == round && !member(1).reports.empty() &&
             member(1).reports.back().round == round;
    }));
    for (const std::size_t index : {0U, 1U}) {
      expect_values_as_reported(index, 3);
      EXPECT_EQ(reason(index, 2), "averages-missing");
      EXPECT_EQ(reason(index, 1 - index), "");
      for (const Coverage coverage : member(index).reports.back().chunks) EXPECT_TRUE(coverage == 0 || coverage == 3);
      EXPECT_NEAR(member(index).reports.back().coverage, 4.0 / 9, 0.01);
    }
  }
}

TEST_P(EngineTest, AMemberThatIsNotConnectedIsNotWaitedFor) {
  make_group(2);
  const RoundSpec each = spec(1, 3);
  begin(0, each, 100'000);
  begin(1, each, 100'000);
  ASSERT_TRUE(rounds_are_over(1));
  for (const std::size_t index : {0U, 1U}) {
    expect_values_as_reported(index, 3);
    EXPECT_EQ(reason(index, 2), "connection-lost");
  }
}

TEST_P(EngineTest, ShardsOfAFutureRoundAreHeldUntilItBegins) {
  make_group(3);
  const RoundSpec each = spec(4, 3);
  begin(0, each, 400'000);
  begin(1, each, 400'000);
  for (int i = 0; i < 50; ++i) turn(io_->now() + milliseconds(1));
  EXPECT_TRUE(member(0).reports.empty());
  begin(2, each, 400'000);
  ASSERT_TRUE(rounds_are_over(4));
  expect_everything_averaged();
}

TEST_P(EngineTest, HeldShardsThatNobodyWantsAreGivenUpAndTheNextRoundRuns) {
  make_group(2, [](std::size_t, MeshConfig&, RoundDriverConfig& rounds) { rounds.hold_timeout = milliseconds(100); });
  // Engine 0 is far ahead, by mistake or malice; engine 1 must neither stay stuck nor follow it.
  begin(0, spec(1'000'000, 2, milliseconds(400)), 50'000);
  ASSERT_TRUE(run_until([&] { return member(0).reports.size() == 1; }));
  EXPECT_EQ(member(1).engine->rounds().last_round(), 0U);
  ASSERT_TRUE(everybody_is_linked());
  begin(0, spec(1'000'001, 2), 50'000);
  begin(1, spec(1'000'001, 2), 50'000);
  ASSERT_TRUE(rounds_are_over(1'000'001));
  EXPECT_TRUE(member(1).reports.back().peers[0].reason.empty());
  begin(0, spec(1'000'002, 2, milliseconds(200)), 50'000);
  begin(1, spec(1'000'002, 2, milliseconds(200)), 50'000);
  ASSERT_TRUE(rounds_are_over(1'000'002));
}

TEST_P(EngineTest, CancelAtAnyPointLeavesEveryChunkWhole) {
  make_group(3);
  Random random(6);
  for (RoundId round = 1; round <= 40; ++round) {
    ASSERT_TRUE(everybody_is_linked());
    const RoundSpec each = spec(round, 3);
    for (std::size_t i = 0; i < 3; ++i) begin(i, each, 200'000);
    for (std::uint64_t turns = random.below(12); turns > 0; --turns) turn(io_->now());
    const std::size_t quitter = random.below(3);
    const bool was_over = member(quitter).reports.size() == round;
    member(quitter).engine->cancel_round();
    ASSERT_TRUE(rounds_are_over(round));
    for (std::size_t i = 0; i < 3; ++i) expect_values_as_reported(i, 3);
    EXPECT_EQ(member(quitter).reports.back().canceled, !was_over);
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
}

// ---- peers that are not engines

// A connection that speaks the protocol as far as the test wants it to.
class Liar final : private transport::FlowEvents {
 public:
  Liar() : flow_(*this) {}

  void dial(transport::Io& io, const transport::Address& address, PeerId self) {
    self_ = self;
    flow_.dial(io, address, {});
  }
  // `declared`: what the header says of the payload's size, if that is to be a lie, too.
  void send(const Header& header, std::vector<std::byte> payload = {}, std::size_t declared = 0) {
    transport::HeaderBytes bytes;
    transport::encode_frame_header(header, declared != 0 ? declared : payload.size(), bytes);
    send_bytes(std::move(bytes), std::move(payload));
  }
  void send_bytes(transport::HeaderBytes header, std::vector<std::byte> payload = {}) {
    outbox_.emplace_back(std::move(header), std::move(payload));
    flow_.wake_sender();
  }
  void abort() { flow_.abort(); }

  [[nodiscard]] bool is_linked() const { return linked_; }
  [[nodiscard]] bool is_closed() const { return closed_; }
  [[nodiscard]] std::size_t contributions_in() const { return contributions_; }
  [[nodiscard]] bool has_sent_everything() const { return outbox_.empty() && flow_.is_idle(); }

 private:
  void on_flow_connected(transport::Flow&) override {
    flow_.send_control(transport::Hello{.peer = self_, .fingerprint = kModel, .run_id = "test", .flows = 1});
  }
  transport::PayloadDecision on_payload_header(transport::Flow&, const Header& header, std::size_t) override {
    contributions_ += std::holds_alternative<transport::Contribution>(header) ? 1U : 0U;
    return {};
  }
  void on_frame(transport::Flow&, const Header& header, transport::Slab, std::size_t) override {
    if (!std::holds_alternative<transport::Hello>(header)) return;
    flow_.send_control(transport::Ready{1});
    linked_ = true;
  }
  bool next_frame(transport::Flow&, transport::OutgoingFrame& frame) override {
    if (outbox_.empty() || !linked_) return false;
    std::tie(frame.header, payload_) = std::move(outbox_.front());
    outbox_.pop_front();
    frame.payload = payload_;
    frame.mode = transport::WriteMode::copy;
    return true;
  }
  void on_frame_sent(transport::Flow&, std::uint64_t) override {}
  void on_flow_failed(transport::Flow&, const transport::FlowFailure&) override {}
  void on_flow_closed(transport::Flow&) override { closed_ = true; }

  PeerId self_;
  transport::Flow flow_;
  bool linked_ = false, closed_ = false;
  std::size_t contributions_ = 0;
  std::deque<std::pair<transport::HeaderBytes, std::vector<std::byte>>> outbox_;
  std::vector<std::byte> payload_;
};

// Two engines, and a liar as member 2. Chunks 0 and 1 are engine 0's, 2 and 3 engine 1's, 4 and 5 the liar's.
class LiarTest : public EngineTest {
 protected:
  static constexpr std::uint64_t kElements = 6 * kChunk;

  ~LiarTest() override {
    for (Liar& liar : liars_) liar.abort();
    EXPECT_TRUE(run_until([&] { return std::all_of(liars_.begin(), liars_.end(), gone); }));
  }
  static bool gone(const Liar& liar) { return liar.is_closed(); }

  void make_liar(const Setting& setting = {}) {
    make_group(2, setting);
    for (std::size_t i = 0; i < 2; ++i) liars_.emplace_back().dial(*io_, address_of(i), id_of(2));
    ASSERT_TRUE(run_until([&] { return mesh(0).peers().size() == 2 && mesh(1).peers().size() == 2; }));
  }
  void begin_both(Duration timeout = seconds(50)) {
    begin(0, spec(1, 3, timeout), kElements);
    begin(1, spec(1, 3, timeout), kElements);
  }
  static std::vector<std::byte> payload(std::size_t elements, float value) {
    const std::vector<float> values(elements, value);
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  // What an honest member 2 contributes to this chunk.
  static std::vector<std::byte> honest(ChunkIndex chunk) {
    std::vector<float> values(kChunk);
    for (std::uint64_t i = 0; i < kChunk; ++i) values[i] = input(1, 2, chunk * kChunk + i);
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  static transport::Contribution contribution(ChunkIndex chunk, const std::vector<std::byte>& payload,
                                              float weight = 1) {
    return {.round = 1, .checksum = kernels::checksum(payload), .chunk = chunk, .weight = weight};
  }
  static transport::Average average(ChunkIndex chunk, const std::vector<std::byte>& payload, Coverage coverage = 7) {
    return {.round = 1,
            .checksum = kernels::checksum(payload),
            .coverage = coverage,
            .chunk = chunk,
            .total_weight = 3,
            .reducer = 2};
  }
  // Engine 0 cuts the liar off for `why`; engine 1 is left alone by it; both end with what they have between them.
  void expect_cut_off(const std::string& why, bool is_offence = true) {
    ASSERT_TRUE(run_until([&] { return liars_[0].is_closed(); })) << why;
    EXPECT_EQ(mesh(0).find(id_of(2)), nullptr);
    liars_[1].abort();
    ASSERT_TRUE(rounds_are_over(1));
    EXPECT_EQ(reason(0, 2), why);
    EXPECT_EQ(reason(1, 2), "connection-lost");
    ASSERT_EQ(member(0).offences.size(), is_offence ? 1U : 0U);
    if (is_offence) {
      EXPECT_EQ(member(0).offences[0], std::pair(id_of(2), core::offence_of(why).value()));
    }
    for (const std::size_t index : {0U, 1U}) {
      expect_values_as_reported(index, 3);
      EXPECT_EQ(reason(index, 1 - index), "");
      EXPECT_EQ(member(index).reports.back().chunks[2], 3U);
      EXPECT_EQ(member(index).reports.back().chunks[4], 3U);  // its part went to its successor, member 0
      EXPECT_EQ(member(index).reports.back().chunks[5], 3U);
      EXPECT_EQ(member(index).reports.back().reducers[4], 0U);
    }
    EXPECT_EQ(member(0).reports.back().digest, member(1).reports.back().digest);
  }

  std::deque<Liar> liars_;
};
INSTANTIATE_TEST_SUITE_P(Backends, LiarTest, testing::ValuesIn(backends()), backend_name);

TEST_P(LiarTest, ACorruptedContribution) {
  make_liar();
  begin_both();
  std::vector<std::byte> bytes = honest(0);
  const transport::Contribution header = contribution(0, bytes);
  bytes[1000] ^= std::byte{1};
  liars_[0].send(header, bytes);
  // Within one host it may have gone by reference and changed on the way: it may come again, and say what it still has.
  expect_cut_off("connection-lost", false);
  EXPECT_EQ(member(0).reports.back().chunks[0], 3U);
}

TEST_P(LiarTest, ACorruptedAverage) {
  make_liar();
  begin_both();
  std::vector<std::byte> bytes = payload(kChunk, 1);
  const transport::Average header = average(4, bytes);
  bytes.back() ^= std::byte{128};
  liars_[0].send(header, bytes);
  expect_cut_off("damaged-bytes");
}

TEST_P(LiarTest, WeightsThatAreNone) {
  for (const float weight : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 0.0F,
                             -1.0F, 2e9F, std::numeric_limits<float>::denorm_min()}) {
    make_liar();
    begin_both();
    const auto bytes = honest(0);
    liars_[0].send(contribution(0, bytes, weight), bytes);
    expect_cut_off("protocol");
    for (const std::size_t index : {0U, 1U}) member(index).engine->leave("", seconds(5));
    members_.clear();
    ASSERT_TRUE(run_until([&] { return std::all_of(liars_.begin(), liars_.end(), gone); }));
    liars_.clear();
  }
}

TEST_P(LiarTest, AChunkThatIsNotTheReceivers) {
  make_liar();
  begin_both();
  const auto bytes = honest(2);
  liars_[0].send(contribution(2, bytes), bytes);
  expect_cut_off("protocol");
}

TEST_P(LiarTest, AChunkThatDoesNotExist) {
  make_liar();
  begin_both();
  const auto bytes = honest(0);
  liars_[0].send(contribution(6, bytes), bytes);
  expect_cut_off("protocol");
}

TEST_P(LiarTest, TheSameChunkTwice) {
  make_liar();
  begin_both();
  const auto bytes = honest(0);
  liars_[0].send(contribution(0, bytes), bytes);
  liars_[0].send(contribution(0, bytes), bytes);
  expect_cut_off("protocol");
  EXPECT_EQ(member(0).reports.back().chunks[0], 7U);  // the first one counted, and counts
  EXPECT_EQ(member(0).reports.back().chunks[1], 3U);
  EXPECT_EQ(member(0).reports.back().peers[2].contributions_in, 1U);
}

TEST_P(LiarTest, TwoWeightsInOneRound) {
  make_liar();
  begin_both();
  liars_[0].send(contribution(0, honest(0), 1), honest(0));
  liars_[0].send(contribution(1, honest(1), 2), honest(1));
  expect_cut_off("protocol");
}

TEST_P(LiarTest, AShardOfAnotherShape) {
  for (const std::size_t bytes_count : {kChunkBytes - 4, kChunkBytes + 4, kChunkBytes - 1, std::size_t{1}}) {
    make_liar();
    begin_both();
    const std::vector<std::byte> bytes(bytes_count);
    liars_[0].send(contribution(0, bytes), bytes);
    expect_cut_off("wrong-model");
    for (const std::size_t index : {0U, 1U}) member(index).engine->leave("", seconds(5));
    members_.clear();
    ASSERT_TRUE(run_until([&] { return std::all_of(liars_.begin(), liars_.end(), gone); }));
    liars_.clear();
  }
}

TEST_P(LiarTest, AnAverageOfSomebodyElsesPart) {
  make_liar();
  begin_both();
  const auto bytes = payload(kChunk, 100);
  liars_[0].send(average(2, bytes), bytes);
  expect_cut_off("protocol");
}

TEST_P(LiarTest, AnAverageOverMembersThatAreNotThere) {
  make_liar();
  begin_both();
  const auto bytes = payload(kChunk, 100);
  liars_[0].send(average(4, bytes, 15), bytes);
  expect_cut_off("protocol");
}

TEST_P(LiarTest, ASecondHello) {
  make_liar();
  begin_both();
  liars_[0].send(transport::Hello{.peer = id_of(2), .fingerprint = kModel, .run_id = "test", .flows = 1});
  expect_cut_off("protocol");
  EXPECT_EQ(mesh(0).counters().protocol_violations, 1U);
}

TEST_P(LiarTest, AFrameOfAQualificationTest) {
  make_liar();
  begin_both();
  liars_[0].send(transport::TestPing{1});
  expect_cut_off("protocol");
  EXPECT_EQ(mesh(0).counters().protocol_violations, 1U);
}

TEST_P(LiarTest, TestDataInTheMiddleOfARound) {
  make_liar();
  begin_both();
  liars_[0].send(transport::TestData{0}, honest(0));
  expect_cut_off("protocol");
  EXPECT_EQ(mesh(0).counters().protocol_violations, 1U);
}

TEST_P(LiarTest, GarbageInTheMiddleOfARound) {
  make_liar();
  begin_both();
  liars_[0].send(contribution(0, honest(0)), honest(0));
  liars_[0].send_bytes(transport::HeaderBytes(500, std::byte{'x'}));
  expect_cut_off("protocol");
  EXPECT_EQ(mesh(0).counters().protocol_violations, 1U);
  EXPECT_EQ(member(0).reports.back().chunks[0], 7U);
}

TEST_P(LiarTest, ADamagedHeaderIsNoProofOfALie) {
  make_liar();
  begin_both();
  const auto bytes = honest(0);
  transport::HeaderBytes header;
  transport::encode_frame_header(contribution(0, bytes), bytes.size(), header);
  header[40] ^= std::byte{1};
  liars_[0].send_bytes(header, bytes);
  expect_cut_off("damaged-bytes");
}

TEST_P(LiarTest, ShardsOfAPastRoundAreDisregarded) {
  make_liar();
  for (const auto& each : members_) each->engine->rounds().skip_rounds_to(0);
  begin_both();
  for (std::size_t i = 0; i < 2; ++i) {
    const auto old = payload(kChunk, 1000);
    transport::Contribution header = contribution(static_cast<ChunkIndex>(2 * i), old);
    header.round = 0;
    liars_[i].send(header, old);
    for (ChunkIndex chunk = static_cast<ChunkIndex>(2 * i); chunk < 2 * i + 2; ++chunk) {
      liars_[i].send(contribution(chunk, honest(chunk)), honest(chunk));
    }
    for (ChunkIndex chunk = 4; chunk < 6; ++chunk) {
      std::vector<float> values(kChunk);
      for (std::uint64_t k = 0; k < kChunk; ++k) {
        double sum = 0;
        for (std::size_t each = 0; each < 3; ++each) sum += input(1, each, chunk * kChunk + k);
        values[k] = static_cast<float>(sum / 3);
      }
      const auto all = std::as_bytes(std::span(values));
      const std::vector<std::byte> bytes(all.begin(), all.end());
      liars_[i].send(average(chunk, bytes), bytes);
    }
    liars_[i].send(transport::Done{.round = 1, .digest = 0});
  }
  ASSERT_TRUE(rounds_are_over(1));
  expect_values_as_reported(0, 3);
  expect_values_as_reported(1, 3);
  EXPECT_EQ(reason(0, 2), "");
  EXPECT_EQ(member(0).reports.back().coverage, 1);
  EXPECT_EQ(member(0).reports.back().digest, member(1).reports.back().digest);
}

TEST_P(LiarTest, OneThatPromisesAPayloadAndStallsIsNamedAtTheDeadline) {
  make_liar();
  begin_both(milliseconds(700));
  for (std::size_t i = 0; i < 2; ++i) {
    std::vector<std::byte> bytes = honest(static_cast<ChunkIndex>(2 * i));
    const transport::Contribution header = contribution(static_cast<ChunkIndex>(2 * i), bytes);
    bytes.resize(100);
    liars_[i].send(header, bytes, kChunkBytes);
  }
  ASSERT_TRUE(rounds_are_over(1));
  for (const std::size_t index : {0U, 1U}) {
    expect_values_as_reported(index, 3);
    EXPECT_EQ(reason(index, 2), "averages-missing");
    EXPECT_EQ(reason(index, 1 - index), "");
  }
}

// All slabs are in the hands of one who stalls; when it goes, those that starved go on.
TEST_P(LiarTest, StarvedFlowsGoOnWhenASlabComesBack) {
  make_liar([](std::size_t, MeshConfig&, RoundDriverConfig& rounds) { rounds.pool_bytes_limit = 1; });
  liars_.emplace_back().dial(*io_, address_of(0), id_of(3));
  ASSERT_TRUE(run_until([&] { return mesh(0).peers().size() == 3; }));
  // Members 2 and 3 take both slabs of engine 0 before engine 1 begins.
  const RoundSpec round = spec(1, 4);
  begin(0, round, 8 * kChunk);
  ASSERT_EQ(member(0).engine->rounds().pool()->capacity(), 2U);
  for (const std::size_t index : {0U, 2U}) {
    const std::vector<std::byte> bytes(100);
    liars_[index].send(contribution(0, bytes), bytes, kChunkBytes);
  }
  ASSERT_TRUE(run_until([&] { return member(0).engine->rounds().pool()->available() == 0; }));
  begin(1, round, 8 * kChunk);
  ASSERT_TRUE(run_until([&] { return member(0).engine->rounds().starved_flows() == 1; }));
  for (Liar& liar : liars_) liar.abort();
  ASSERT_TRUE(rounds_are_over(1));
  EXPECT_EQ(member(0).reports.back().chunks[0], 3U);
  EXPECT_EQ(reason(0, 1), "");
  EXPECT_EQ(reason(1, 0), "");
}

// ---- connections that are no peers at all

struct RawConnection final : transport::StreamEvents {
  void on_connected(transport::Stream&) override {
    if (!text.empty()) {
      const transport::WriteBuffer bytes(reinterpret_cast<const std::byte*>(text.data()), text.size());
      stream->write({&bytes, 1}, transport::WriteMode::copy);
    }
    const transport::ReadBuffer into(buffer);
    stream->read({&into, 1}, 1);
  }
  void on_read(transport::Stream&, std::size_t) override {
    const transport::ReadBuffer into(buffer);
    stream->read({&into, 1}, 1);
  }
  void on_written(transport::Stream&) override {}
  void on_failed(transport::Stream&, transport::IoStatus) override {
    ended = true;
    stream->close();
  }
  void on_closed(transport::Stream&) override { closed = true; }

  transport::Stream* stream = nullptr;
  std::string text;
  std::array<std::byte, 1000> buffer{};
  bool ended = false, closed = false;
};

TEST_P(EngineTest, StrangersAreShownOutAndTheOthersGoOn) {
  make_group(2, [](std::size_t, MeshConfig& mesh, RoundDriverConfig&) { mesh.handshake_timeout = milliseconds(300); });
  std::deque<RawConnection> strangers(4);
  strangers[0].text = "GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n" + std::string(200, 'x') + "\r\n\r\n";
  for (int i = 0; i < 3000; ++i) strangers[1].text += static_cast<char>(Random::mix(static_cast<std::uint64_t>(i)));
  strangers[2].text = "PPL1";  // begins well, and says no more
  for (RawConnection& each : strangers) each.stream = &io_->connect(address_of(0), {}, each);
  RoundId round = 0;
  while (!std::all_of(strangers.begin(), strangers.end(), [](const auto& each) { return each.closed; })) {
    ASSERT_LT(round, 100'000U);
    all_reduce(++round, 1000);
  }
  expect_everything_averaged();
  EXPECT_EQ(mesh(0).counters().protocol_violations, 2U);
  EXPECT_EQ(mesh(0).counters().handshake_timeouts, 2U);
  EXPECT_EQ(mesh(0).peers().size(), 1U);
  EXPECT_TRUE(member(0).left.empty());
}

TEST_P(EngineTest, AShardBeforeTheHelloIsAViolation) {
  make_group(2);
  RawConnection stranger;
  transport::HeaderBytes bytes;
  transport::encode_frame_header(transport::Contribution{.round = 1, .weight = 1}, 100, bytes);
  stranger.text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  stranger.stream = &io_->connect(address_of(0), {}, stranger);
  ASSERT_TRUE(run_until([&] { return stranger.closed; }));
  EXPECT_EQ(mesh(0).counters().protocol_violations, 1U);
  all_reduce(1, 1000);
  expect_everything_averaged();
}

}  // namespace
}  // namespace papilio::node
