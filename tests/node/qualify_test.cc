// Judge and candidates over the simulated network: lines measured right, lies found out, and a judge that neither hangs
// nor fills up, whoever comes.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "tests/node/qualify_world.hpp"

namespace papilio::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using transport::Header;
using transport::TestPhaseKind;
using transport::TestWaitReason;

struct Line {
  double up_mbps, down_mbps;
  int round_trip_ms;
  bool encrypted;
};

void PrintTo(const Line& line, std::ostream* out) {
  *out << line.up_mbps << "/" << line.down_mbps << " Mbit/s, " << line.round_trip_ms << " ms"
       << (line.encrypted ? ", encrypted" : "");
}

class Accuracy : public ::testing::TestWithParam<Line> {};

TEST_P(Accuracy, WithinTwoPercentEachWay) {
  const Line line = GetParam();
  QualifyWorld world({.up_bps = line.up_mbps * 1e6,
                      .down_bps = line.down_mbps * 1e6,
                      .round_trip = milliseconds(line.round_trip_ms),
                      .encrypted = line.encrypted,
                      .duration = seconds(line.round_trip_ms < 100 ? 4 : 10)});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(candidate));
  ASSERT_EQ(candidate.result().failure, "");
  const transport::TestVerdict& verdict = candidate.result().verdict;
  EXPECT_NEAR(static_cast<double>(verdict.up_bps) / 1e6, line.up_mbps, 0.02 * line.up_mbps);
  EXPECT_NEAR(static_cast<double>(verdict.down_bps) / 1e6, line.down_mbps, 0.02 * line.down_mbps);
  // What the simulated kernel acknowledges does not wait behind what goes up, as it does on real lines, while receipts
  // do: at once, less is counted down than went through.
  EXPECT_NEAR(static_cast<double>(verdict.up_at_once_bps) / 1e6, line.up_mbps, 0.05 * line.up_mbps);
  EXPECT_LE(static_cast<double>(verdict.down_at_once_bps) / 1e6, 1.02 * line.down_mbps);
  EXPECT_GE(static_cast<double>(verdict.down_at_once_bps) / 1e6, 0.4 * line.down_mbps);
  EXPECT_NEAR(static_cast<double>(verdict.round_trip_median_ns) / 1e6, line.round_trip_ms, 1);
  // Simulated queues are deep.
  EXPECT_LE(candidate.result().took, milliseconds(line.round_trip_ms < 100 ? 4300 : 10300));
  EXPECT_EQ(candidate.result().certificate.has_value(), line.encrypted);
  EXPECT_GT(world.tallies, 8);
}

INSTANTIATE_TEST_SUITE_P(Lines, Accuracy,
                         ::testing::Values(Line{50, 50, 1, false}, Line{50, 50, 40, true}, Line{100, 100, 1, true},
                                           Line{100, 100, 40, false}, Line{200, 200, 40, true}, Line{200, 50, 1, false},
                                           Line{200, 50, 40, true}, Line{50, 200, 40, false},
                                           Line{1000, 1000, 2, false}, Line{1000, 1000, 40, true},
                                           Line{100, 100, 190, true}));

TEST(Qualify, ThePhasesComeInOrder) {
  QualifyWorld world({});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(candidate));
  ASSERT_EQ(world.phases.size(), 5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(static_cast<std::size_t>(world.phases[i].kind), i);
  EXPECT_EQ(world.judge().take_outcomes().size(), 1);
}

TEST(Qualify, TheCertificateSaysWhoWhatWhenAndForWhichRun) {
  QualifyWorld world({.encrypted = true});
  Candidate& candidate = world.add_candidate(2, [](CandidateConfig& config) { config.run_id = "the run"; });
  ASSERT_TRUE(world.run_until_done(candidate));
  ASSERT_EQ(candidate.result().failure, "");
  const auto read = read_certificate(candidate.result().verdict.certificate);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->subject, identity_of_host(2).id());
  EXPECT_EQ(read->judge, world.judge_identity().id());
  EXPECT_EQ(read->run_id, "the run");
  EXPECT_EQ(read->up_bps, candidate.result().verdict.up_bps);
  EXPECT_EQ(read->down_at_once_bps, candidate.result().verdict.down_at_once_bps);
  EXPECT_EQ(read->issued, kToday);
  EXPECT_EQ(read->expires, kToday + std::chrono::hours(24 * 7));
  EXPECT_EQ(candidate.result().judge, world.judge_identity().id());
}

TEST(Qualify, WithoutEncryptionFiguresButNoCertificate) {
  QualifyWorld world({});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_EQ(candidate.result().failure, "");
  EXPECT_TRUE(candidate.result().verdict.certificate.empty());
  EXPECT_NE(candidate.result().verdict.note.find("--security tls"), std::string::npos);
}

TEST(Qualify, BelowTheJudgesOwnMinimumNothingIsSigned) {
  for (const std::uint64_t minimum_bps : {90'000'000, 110'000'000}) {
    QualifyWorld world({.encrypted = true, .judge = [&](JudgeConfig& config) { config.minimum.up_bps = minimum_bps; }});
    Candidate& candidate = world.add_candidate(2);
    ASSERT_TRUE(world.run_until_done(candidate));
    EXPECT_EQ(candidate.result().failure, "");
    EXPECT_EQ(candidate.result().certificate.has_value(), minimum_bps < 100'000'000);
    EXPECT_EQ(candidate.result().verdict.note.empty(), minimum_bps < 100'000'000);
  }
}

// ---- lies. The host's writes are changed on their way out, below the candidate.

class Liar final : public transport::SimTamperer {
 public:
  explicit Liar(std::function<void(Header&, std::span<std::byte>)> lie) : lie_(std::move(lie)) {}
  void on_write(std::uint32_t, std::vector<std::byte>& bytes) override {
    const transport::FrameSizes sizes = transport::parse_frame_head(bytes);
    transport::ParsedHeader parsed = transport::parse_frame_header(std::span(bytes).first(sizes.header_bytes));
    ASSERT_EQ(parsed.fault, transport::FrameFault::none);
    std::vector<std::byte> payload(bytes.begin() + static_cast<std::ptrdiff_t>(sizes.header_bytes), bytes.end());
    lie_(parsed.header, payload);
    transport::encode_frame_header(parsed.header, payload.size(), bytes);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
  }

 private:
  std::function<void(Header&, std::span<std::byte>)> lie_;
};

std::string failure_of_liar(std::function<void(Header&, std::span<std::byte>)> lie) {
  QualifyWorld world({});
  Liar liar(std::move(lie));
  Candidate& candidate = world.add_candidate(2);
  world.network().set_tamperer(2, &liar);
  EXPECT_TRUE(world.run_until_done(candidate));
  const auto outcomes = world.judge().take_outcomes();
  world.network().set_tamperer(2, nullptr);
  EXPECT_EQ(outcomes.size(), 1);
  return outcomes.empty() ? "" : outcomes[0].verdict.failure;
}

TEST(QualifyLies, NoLieNoFailure) {
  EXPECT_EQ(failure_of_liar([](Header&, std::span<std::byte>) {}), "");
}

TEST(QualifyLies, AMadeUpReceipt) {
  int count = 0;
  EXPECT_NE(failure_of_liar([&](Header& header, std::span<std::byte>) {
              if (auto* const receipts = std::get_if<transport::TestReceipts>(&header); receipts && ++count == 50) {
                receipts->receipts.back().digest += 1;
              }
            }).find("a wrong receipt"),
            std::string::npos);
}

// It answers for data that are still on their way, as somebody would who wants to look twice as fast.
TEST(QualifyLies, ReceiptsForWhatHasNotArrived) {
  EXPECT_NE(failure_of_liar([](Header& header, std::span<std::byte>) {
              if (auto* const receipts = std::get_if<transport::TestReceipts>(&header)) {
                transport::TestReceipt ahead = receipts->receipts.back();
                ahead.sequence += 1;
                receipts->receipts.push_back(ahead);
              }
            }).find("receipt"),
            std::string::npos);
}

TEST(QualifyLies, FillerThatCompresses) {
  EXPECT_NE(failure_of_liar([](Header& header, std::span<std::byte> payload) {
              if (std::holds_alternative<transport::TestData>(header)) {
                std::fill(payload.begin(), payload.end(), std::byte{0});
              }
            }).find("not the random data"),
            std::string::npos);
}

TEST(QualifyLies, OneWrongByteUp) {
  EXPECT_NE(failure_of_liar([](Header& header, std::span<std::byte> payload) {
              if (std::holds_alternative<transport::TestData>(header)) payload.back() ^= std::byte{1};
            }).find("not the random data"),
            std::string::npos);
}

TEST(QualifyLies, AnsweringPingsBeforeTheyCome) {
  EXPECT_NE(failure_of_liar([](Header& header, std::span<std::byte>) {
              if (auto* const ping = std::get_if<transport::TestPing>(&header)) ping->nonce += 1;
            }).find("ping"),
            std::string::npos);
}

TEST(QualifyLies, SkippedNumbersUp) {
  EXPECT_NE(failure_of_liar([](Header& header, std::span<std::byte>) {
              if (auto* const data = std::get_if<transport::TestData>(&header)) data->sequence += data->sequence > 20;
            }).find("another length or number"),
            std::string::npos);
}

// ---- hosts that go away

TEST(QualifyFailures, NobodyListens) {
  QualifyWorld world({});
  Candidate& candidate = world.add_candidate(
      2, [](CandidateConfig& config) { config.judge = transport::Address::simulated(kJudgeHost, 1); });
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_NE(candidate.result().failure.find("no judge at"), std::string::npos) << candidate.result().failure;
}

TEST(QualifyFailures, TheJudgesProcessEnds) {
  QualifyWorld world({});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_phase(TestPhaseKind::up));
  world.kill_judge(transport::SimDeath::reset);
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_NE(candidate.result().failure.find("was lost"), std::string::npos) << candidate.result().failure;
}

TEST(QualifyFailures, TheJudgeVanishesWithoutAWord) {
  for (const TestPhaseKind phase : {TestPhaseKind::round_trip, TestPhaseKind::up, TestPhaseKind::both}) {
    QualifyWorld world({});
    Candidate& candidate = world.add_candidate(2);
    ASSERT_TRUE(world.run_until_phase(phase));
    const TimePoint then = world.network().now();
    world.kill_judge(transport::SimDeath::silent);
    ASSERT_TRUE(world.run_until_done(candidate));
    EXPECT_NE(candidate.result().failure.find("silent"), std::string::npos) << candidate.result().failure;
    EXPECT_LE(world.network().now() - then, CandidateConfig{}.patience + seconds(1));
  }
}

// A judge that answers whatever it hears, begins a test, and comes to no end.
class EndlessJudge final : public transport::FlowEvents, public transport::ListenerEvents {
 public:
  EndlessJudge(transport::Io& io, const transport::Address& address)
      : listener_(io.listen(address, {}, *this).value()) {}
  void leave() {
    std::exchange(listener_, nullptr)->close();
    for (transport::Flow& each : flows_) each.abort();
  }
  [[nodiscard]] bool is_closed() const { return open_ == 0; }

 private:
  void on_accepted(transport::Stream& stream) override {
    open_ += 1;
    flows_.emplace_back(*this).adopt(stream);
  }
  void on_flow_connected(transport::Flow&) override {}
  transport::PayloadDecision on_payload_header(transport::Flow&, const Header&, std::size_t) override { return {}; }
  void on_frame(transport::Flow& flow, const Header& header, transport::Slab, std::size_t) override {
    if (const auto* const request = std::get_if<transport::TestRequest>(&header); request && request->flow == 0) {
      flow.send_control(transport::TestPhase{.kind = TestPhaseKind::join,
                                             .duration_ms = request->duration_ms,
                                             .session = 1,
                                             .flows = request->flows,
                                             .payload_bytes = 1024});
      flow.send_control(transport::TestPing{1});
    } else if (const auto* const ping = std::get_if<transport::TestPing>(&header)) {
      flow.send_control(*ping);
    }
  }
  bool next_frame(transport::Flow&, transport::OutgoingFrame&) override { return false; }
  void on_frame_sent(transport::Flow&, std::uint64_t) override {}
  void on_flow_failed(transport::Flow&, const transport::FlowFailure&) override {}
  void on_flow_closed(transport::Flow&) override { open_ -= 1; }

  transport::Listener* listener_;
  std::deque<transport::Flow> flows_;
  int open_ = 0;
};

TEST(QualifyFailures, AJudgeThatComesToNoEndHoldsNobodyForEver) {
  QualifyWorld world({});
  EndlessJudge judge(world.io_of(9), transport::Address::simulated(9, 1));
  const TimePoint then = world.network().now();
  Candidate& candidate =
      world.add_candidate(2, [](CandidateConfig& config) { config.judge = transport::Address::simulated(9, 1); });
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_NE(candidate.result().failure.find("no end"), std::string::npos) << candidate.result().failure;
  EXPECT_LE(world.network().now() - then, seconds(4) + CandidateConfig{}.patience + seconds(1));
  judge.leave();
  EXPECT_TRUE(world.run_until([&] { return judge.is_closed() && candidate.is_closed(); }));
}

// Who sends on after the test has ended keeps the next one waiting no longer than the cut takes.
TEST(QualifyFailures, DataFlowsEndWithTheTest) {
  QualifyWorld world({});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until([&] { return world.judge().desk().being_tested() == 1; }));
  ASSERT_TRUE(world.run_until([&] { return world.judge().desk().being_tested() == 0; }));
  world.network().freeze_host(2);  // it closes nothing itself
  ASSERT_TRUE(
      world.run_until([&] { return world.judge().connections() <= 1; }, world.network().now() + milliseconds(100)));
  world.network().thaw_host(2);
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_EQ(candidate.result().failure, "");
}

// Frozen in any phase: the test ends within the time that was given for it, and the next in the queue has its turn.
TEST(QualifyFailures, ACandidateThatFreezesCostsTheNextOneNothingButTime) {
  for (const TestPhaseKind phase :
       {TestPhaseKind::join, TestPhaseKind::round_trip, TestPhaseKind::up, TestPhaseKind::down, TestPhaseKind::both}) {
    QualifyWorld world({.duration = seconds(12)});
    world.add_candidate(2);
    ASSERT_TRUE(world.run_until_phase(phase));
    const TimePoint then = world.network().now();
    world.network().freeze_host(2);
    Candidate& next = world.add_candidate(3);
    ASSERT_TRUE(world.run_until([&] { return world.judge().desk().waiting() == 1; }));
    ASSERT_TRUE(world.run_until([&] { return world.judge().desk().waiting() == 0; }));
    EXPECT_LE(world.network().now() - then, seconds(13));
    ASSERT_TRUE(world.run_until_done(next));
    EXPECT_EQ(next.result().failure, "");
    EXPECT_NEAR(static_cast<double>(next.result().verdict.up_bps), 100e6, 3e6);
    const auto outcomes = world.judge().take_outcomes();
    ASSERT_EQ(outcomes.size(), 2);
    EXPECT_NE(outcomes[0].verdict.failure, "");
    world.network().thaw_host(2);
  }
}

TEST(QualifyFailures, ACandidateThatIsCutOffWhileItWaitsIsPassedOver) {
  QualifyWorld world({});
  Candidate& first = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_phase(TestPhaseKind::up));
  Candidate& second = world.add_candidate(3);
  Candidate& third = world.add_candidate(4);
  ASSERT_TRUE(world.run_until([&] { return world.judge().desk().waiting() == 2; }));
  second.cancel("it has better to do");
  ASSERT_TRUE(world.run_until_done(first));
  ASSERT_TRUE(world.run_until_done(third));
  EXPECT_EQ(first.result().failure, "");
  EXPECT_EQ(third.result().failure, "");
}

TEST(QualifyFailures, AJudgeThatIsStoppedSaysSo) {
  QualifyWorld world({});
  Candidate& tested = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_phase(TestPhaseKind::down));
  Candidate& waiting = world.add_candidate(3);
  ASSERT_TRUE(world.run_until([&] { return world.judge().desk().waiting() == 1; }));
  world.judge().leave("closing for today");
  ASSERT_TRUE(world.run_until_done(tested));
  ASSERT_TRUE(world.run_until_done(waiting));
  EXPECT_NE(tested.result().failure.find("closing for today"), std::string::npos) << tested.result().failure;
  EXPECT_NE(waiting.result().failure.find("closing for today"), std::string::npos) << waiting.result().failure;
}

// ---- who may have a test

TEST(QualifyDoor, TheSecondWaitsAndIsTold) {
  QualifyWorld world({});
  Candidate& first = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_phase(TestPhaseKind::round_trip));
  Candidate& second = world.add_candidate(3);
  ASSERT_TRUE(world.run_until_done(first));
  ASSERT_TRUE(world.run_until_done(second));
  ASSERT_FALSE(world.waits.empty());
  EXPECT_EQ(world.waits.front().position, 1);
  EXPECT_GT(world.waits.front().retry_after_ms, 0);
  for (const Candidate* each : {&first, &second}) {
    EXPECT_EQ(each->result().failure, "");
    EXPECT_NEAR(static_cast<double>(each->result().verdict.down_bps), 100e6, 2e6);
    EXPECT_LE(each->result().took, seconds(4));  // without the wait
  }
}

TEST(QualifyDoor, PatienceInTheQueueHasAnEnd) {
  QualifyWorld world({.duration = seconds(20)});
  world.add_candidate(2);
  ASSERT_TRUE(world.run_until_phase(TestPhaseKind::up));
  Candidate& second = world.add_candidate(3, [](CandidateConfig& config) { config.patience_in_queue = seconds(7); });
  const TimePoint then = world.network().now();
  ASSERT_TRUE(world.run_until_done(second));
  EXPECT_NE(second.result().failure.find("turn"), std::string::npos) << second.result().failure;
  EXPECT_NEAR(to_seconds(world.network().now() - then), 7, 0.5);
}

TEST(QualifyDoor, TestedTwiceOnlyAfterTheInterval) {
  QualifyWorld world({.judge = [](JudgeConfig& config) { config.desk.every = seconds(60); }});
  ASSERT_TRUE(world.run_until_done(world.add_candidate(2)));
  Candidate& again = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(again));
  ASSERT_TRUE(again.result().refusal);
  EXPECT_EQ(again.result().refusal->reason, TestWaitReason::too_often);
  EXPECT_NEAR(again.result().refusal->retry_after_ms, 56'000, 1'000);
  world.run_for(milliseconds(again.result().refusal->retry_after_ms));
  Candidate& later = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(later));
  EXPECT_EQ(later.result().failure, "");
}

TEST(QualifyDoor, ForAnotherRunOrInTooLittleTimeIsRefused) {
  QualifyWorld world({.judge = [](JudgeConfig& config) { config.run_id = "this one"; }});
  Candidate& other = world.add_candidate(2, [](CandidateConfig& config) { config.run_id = "that one"; });
  ASSERT_TRUE(world.run_until_done(other));
  EXPECT_NE(other.result().failure.find("--run-id this one"), std::string::npos) << other.result().failure;
  Candidate& hasty = world.add_candidate(3, [](CandidateConfig& config) {
    config.run_id = "this one";
    config.duration = seconds(1);
  });
  ASSERT_TRUE(world.run_until_done(hasty));
  EXPECT_NE(hasty.result().failure.find("--seconds"), std::string::npos) << hasty.result().failure;
}

transport::TestRequest request_of(const PeerId& peer) { return {.peer = peer, .duration_ms = 4000, .flows = 4}; }

// The judge's process is stopped for longer than the test would take, and finds the data flow at its door afterwards.
TEST(QualifyDoor, AFlowThatComesAfterTheTimeOfItsTestIsTooLate) {
  QualifyWorld world({});
  transport::TestRequest request = request_of(identity_of_host(2).id());
  request.flows = 1;
  Stranger& candidate = world.add_stranger(2, {request});
  ASSERT_TRUE(world.run_until([&] { return candidate.heard<transport::TestPhase>() != nullptr; }));
  request.session = candidate.heard<transport::TestPhase>()->session;
  request.flow = 1;
  Stranger& late = world.add_stranger(2, {request});
  world.run_for(milliseconds(12));  // connected; the request is under way
  world.network().advance_to(world.network().now() + seconds(10));
  ASSERT_TRUE(world.run_until([&] { return late.is_closed(); }));
  const auto outcomes = world.judge().take_outcomes();
  ASSERT_EQ(outcomes.size(), 1);
  EXPECT_NE(outcomes[0].verdict.failure, "");
  EXPECT_EQ(world.judge().desk().being_tested(), 0);
}

TEST(QualifyDoor, AnIdThatTheKeyDoesNotProveIsRefused) {
  QualifyWorld world({.encrypted = true});
  Stranger& mallory = world.add_stranger(2, {request_of(identity_of_host(7).id())});
  ASSERT_TRUE(world.run_until([&] { return mallory.is_closed(); }));
  const auto* const answer = mallory.heard<transport::TestWait>();
  ASSERT_NE(answer, nullptr);
  EXPECT_EQ(answer->reason, TestWaitReason::bad_request);
  EXPECT_EQ(world.judge().desk().being_tested(), 0);
}

// Somebody who knows the session's number cannot lend his line to somebody else's test.
TEST(QualifyDoor, AFlowUnderAnotherKeyDoesNotJoin) {
  QualifyWorld world({.encrypted = true});
  Stranger& candidate = world.add_stranger(2, {request_of(identity_of_host(2).id())});
  ASSERT_TRUE(world.run_until([&] { return candidate.heard<transport::TestPhase>() != nullptr; }));
  transport::TestRequest join = request_of(identity_of_host(2).id());
  join.session = candidate.heard<transport::TestPhase>()->session;
  join.flow = 1;
  Stranger& helper = world.add_stranger(3, {join});
  ASSERT_TRUE(world.run_until([&] { return helper.is_closed(); }));
  join.session += 1;  // and with a wrong number not even the candidate itself
  Stranger& wrong = world.add_stranger(2, {join});
  ASSERT_TRUE(world.run_until([&] { return wrong.is_closed(); }));
  EXPECT_EQ(world.judge().desk().being_tested(), 1);
}

TEST(QualifyDoor, WhoSaysNothingIsCutOffInTime) {
  QualifyWorld world({});
  Stranger& silent = world.add_stranger(2, {});
  const TimePoint then = world.network().now();
  ASSERT_TRUE(world.run_until([&] { return silent.is_closed(); }));
  EXPECT_LE(world.network().now() - then, JudgeConfig{}.patience + seconds(1));
}

TEST(QualifyDoor, FramesOfOtherProtocolsOrAtTheWrongTimeEndTheConnection) {
  const PeerId peer = identity_of_host(2).id();
  const std::vector<std::vector<Header>> conversations = {{transport::Hello{}},
                                                          {transport::TestPing{1}},
                                                          {transport::TestReceipts{{{1, 2, 3}}}},
                                                          {transport::TestVerdict{}},
                                                          {request_of(peer), request_of(peer)},
                                                          {request_of(peer), transport::TestReceipts{{{1, 2, 3}}}},
                                                          {request_of(peer), transport::Goodbye{"bye"}}};
  for (const auto& words : conversations) {
    QualifyWorld world({});
    Stranger& stranger = world.add_stranger(2, words);
    EXPECT_TRUE(world.run_until([&] { return stranger.is_closed(); }));
    EXPECT_EQ(world.judge().desk().being_tested(), 0);
  }
}

// Crowds that ask for nothing make room, whoever they are: together they have more than the judge has room for.
TEST(QualifyDoor, CrowdsFromSeveralAddressesKeepNobodyOut) {
  QualifyWorld world({});
  const core::DoorConfig door = JudgeConfig().door;
  for (std::uint32_t host = 10; host < 17; ++host) {
    for (std::uint32_t i = 0; i < door.elsewhere.connections; ++i) world.add_stranger(host, {});
  }
  world.run_for(milliseconds(200));
  Candidate& honest = world.add_candidate(3);
  ASSERT_TRUE(world.run_until([&] { return honest.is_done(); }));
  EXPECT_EQ(honest.result().failure, "");
}

// Nor do so many that one handshake of each fills the room for them: the data flows of who is being tested are let in.
TEST(QualifyDoor, NeitherDoCrowdsFromVeryManyAddresses) {
  QualifyWorld world({});
  for (std::uint32_t host = 10; host < 74; ++host) world.add_stranger(host, {});
  world.run_for(milliseconds(200));
  Candidate& honest = world.add_candidate(3, [](CandidateConfig& config) { config.flows = kMaximumFlows; });
  ASSERT_TRUE(world.run_until([&] { return honest.is_done(); }));
  EXPECT_EQ(honest.result().failure, "");
}

// A candidate whose data flow is turned away waits for what the judge has to say of it.
TEST(QualifyDoor, WhatAJudgeSaysOfAFlowThatWasTurnedAwayIsHeard) {
  QualifyWorld world({.judge = [](JudgeConfig& config) { config.door.elsewhere.connections = 3; }});
  Candidate& candidate = world.add_candidate(2);
  ASSERT_TRUE(world.run_until_done(candidate));
  EXPECT_NE(candidate.result().failure.find("data flows did not come"), std::string::npos)
      << candidate.result().failure;
}

// Connections by the hundred, and requests under ever new names: the judge holds what it allows, and whoever comes from
// elsewhere is tested as if nothing were.
TEST(QualifyDoor, AFloodFromOneAddressStopsAtItsLimits) {
  QualifyWorld world({});
  const std::uint32_t limit = JudgeConfig().door.elsewhere.connections;
  for (std::uint8_t i = 0; i < 200; ++i) {
    std::vector<Header> words;
    if (i % 2 == 0) words.push_back(request_of(transport::Identity::from_seed({i, 7}).id()));
    world.add_stranger(2, words);
  }
  Candidate& honest = world.add_candidate(3);
  std::size_t most = 0;
  ASSERT_TRUE(world.run_until([&] {
    most = std::max(most, world.judge().connections());
    return honest.is_done();
  }));
  EXPECT_EQ(honest.result().failure, "");
  EXPECT_NEAR(static_cast<double>(honest.result().verdict.up_bps), 100e6, 3e6);
  EXPECT_LE(most, limit + 1U + CandidateConfig{}.flows);
  EXPECT_LE(world.judge().desk().remembered(), core::TestDeskConfig{}.per_address + 1);
}

}  // namespace
}  // namespace papilio::node
