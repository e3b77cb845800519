// A candidate before a judge who says whatever he likes: what a judge says in a test, in any order, anything else,
// bytes that are no frames, connections that end or stand still, and time. The candidate ends, with a result or with
// the reason why there is none, within its time whatever the judge does, and leaves nothing open.
#include "engine/node/candidate.hpp"

#include "engine/node/certificate.hpp"
#include "tests/fuzz/frames.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/fuzz/randomness.hpp"
#include "tests/fuzz/script_io.hpp"
#include "tests/fuzz/silence.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kPayloadBytes = 64;
constexpr std::uint64_t kSession = 7;
constexpr std::size_t kRoom = 1024;  // that a line takes in one turn

const Identity& judge() {
  static const Identity identity = Identity::from_seed(SecretSeed{10});
  return identity;
}
const Identity& self() {
  static const Identity identity = Identity::from_seed(SecretSeed{11});
  return identity;
}

// The judge's end of a connection.
struct Line {
  ScriptIo::Handle stream;
  std::uint64_t sent = 0;      // frames of test data
  std::uint64_t received = 0;  // likewise
  Bytes read;                  // what is not a whole frame yet
  bool is_stuck = false;       // takes no bytes
  [[nodiscard]] bool is_open() const { return *stream != nullptr; }
};

class World {
 public:
  explicit World(Draws& draws) : draws_(draws), config_(config(draws)), candidate_(io_, config_, nullptr) {}

  void run() {
    io_.run_once(io_.now());
    const TimePoint began = io_.now();
    candidate_.start();
    while (!draws_.is_empty() && !candidate_.is_done()) {
      step();
      turn();
    }
    const Duration most = config_.duration + config_.patience + config_.patience_in_queue + seconds(1);
    while (!candidate_.is_done() && io_.now() - began < most) pass_time(seconds(1));
    FUZZ_CHECK(candidate_.is_done());
    turn();
    FUZZ_CHECK(candidate_.is_closed() && io_.open_handles() == 0);
    check(candidate_.result());
  }

 private:
  static node::CandidateConfig config(Draws& draws) {
    node::CandidateConfig config;
    config.judge = Address::simulated(1, 1);
    config.self = self().id();
    config.run_id = "fuzz";
    config.flows = static_cast<std::uint16_t>(1 + draws.below(4));
    config.patience_in_queue = seconds(20);
    return config;
  }
  static void check(const node::CandidateResult& result) {
    if (!result.certificate) return;
    FUZZ_CHECK(result.failure.empty() && result.judge == result.certificate->judge &&
               result.certificate->subject == self().id() && result.certificate->up_bps == result.verdict.up_bps);
  }

  void turn() {
    for (const Line& each : lines_) {
      if (each.is_open() && !each.is_stuck) (*each.stream)->set_room(kRoom);
    }
    candidate_.turn(io_.now());
    for (ScriptIo::Handle& dialled : io_.take_dialled()) {
      // The control connection, and as many for data as it was configured for.
      FUZZ_CHECK(lines_.size() < 1U + config_.flows);
      lines_.push_back({.stream = std::move(dialled)});
    }
    for (Line& each : lines_) listen_to(each);
  }
  void pass_time(Duration most) {
    const TimePoint end = io_.now() + most;
    for (std::uint32_t turns = 0; io_.now() < end && !candidate_.is_done(); ++turns) {
      FUZZ_CHECK(turns < 20'000);  // it would spin
      io_.advance_to(std::clamp(candidate_.next_deadline(), io_.now() + milliseconds(1), end));
      turn();
    }
  }

  void step() {
    switch (draws_.below(16)) {
      case 0: return connect();
      case 1: return say(control(), phase(TestPhaseKind::join));
      case 2: return say(control(), phase(static_cast<TestPhaseKind>(draws_.below(6))));
      case 3: return send_data(line());
      case 4:
        for (Line& each : lines_) send_data(&each);
        return;
      case 5: return say(control(), TestPing{draws_.number()});
      case 6: return say(control(), TestTally{draws_.number(), draws_.number()});
      case 7: return say(control(), verdict());
      case 8: {
        Line* const to = line();
        return say(to, draw_header(draws_, draws_.byte(), 2));
      }
      case 9: {
        constexpr std::uint32_t kFirst = static_cast<std::uint32_t>(FrameType::test_request) - 1;
        Line* const to = line();
        return say(to, draw_header(draws_, kFirst + draws_.below(8), 2));
      }
      case 10:
        if (Line* const to = line()) (*to->stream)->feed(draws_.take(draws_.byte()));
        return;
      case 11:
        if (Line* const to = line()) (*to->stream)->end(static_cast<IoCode>(1 + draws_.below(8)));
        return;
      case 12:
        if (Line* const to = line()) {
          to->is_stuck = draws_.chance();
          if (to->is_stuck) (*to->stream)->set_room(0);
        }
        return;
      case 13:
        return say(control(), TestWait{.reason = static_cast<TestWaitReason>(draws_.below(6)),
                                       .position = draws_.byte(),
                                       .retry_after_ms = draws_.number32(),
                                       .detail = draws_.text(600)});
      case 14: return begin();
      default: return pass_time(milliseconds(1) * (draws_.number() % 3000));
    }
  }

  Line* control() { return lines_.empty() ? nullptr : &lines_.front(); }
  Line* line() {
    const std::uint8_t choice = draws_.byte();
    return lines_.empty() || !lines_[choice % lines_.size()].is_open() ? nullptr : &lines_[choice % lines_.size()];
  }
  void connect() {
    for (const Line& each : lines_) {
      if (!each.is_open() || (*each.stream)->is_connected()) continue;
      (*each.stream)->set_key(judge().public_key());
      (*each.stream)->connect();
    }
  }
  // A whole test, up to the first test data.
  void begin() {
    connect();
    turn();
    say(control(), phase(TestPhaseKind::join));
    turn();
    connect();
    turn();
    say(control(), phase(TestPhaseKind::down));
  }
  [[nodiscard]] TestPhase phase(TestPhaseKind kind) const {
    return {.kind = kind,
            .duration_ms = 1000,
            .session = kSession,
            .flows = config_.flows,
            .payload_bytes = kPayloadBytes,
            .up_key_low = 1,
            .up_key_high = 2};
  }
  TestVerdict verdict() {
    const Identity& signer = draws_.byte() < 0xc0 ? judge() : self();
    TestVerdict verdict{.up_bps = draws_.number(), .down_bps = draws_.number(), .round_trip_median_ns = 1'000'000};
    core::Qualification figures{.subject = draws_.chance() ? self().id() : judge().id(),
                                .judge = signer.id(),
                                .run_id = "fuzz",
                                .up_bps = verdict.up_bps,
                                .down_bps = verdict.down_bps,
                                .round_trip_median = milliseconds(1),
                                .issued = core::WallTime(seconds(1'800'000'000)),
                                .expires = core::WallTime(seconds(1'800'100'000))};
    if (draws_.byte() >= 0xc0) figures.up_bps += 1;
    verdict.certificate = node::sign_certificate(signer, figures);
    if (draws_.byte() >= 0xc0) verdict.certificate.resize(draws_.byte() % verdict.certificate.size());
    return verdict;
  }
  static void say(Line* to, const Header& header, std::span<const std::byte> payload = {}) {
    if (to == nullptr || !to->is_open()) return;
    feed_frame(**to->stream, header, payload);
  }
  void send_data(Line* to) {
    if (to == nullptr) return;
    const Bytes payload(kPayloadBytes - (draws_.byte() >= 0xf8 ? 1U : 0U), std::byte{draws_.byte()});
    say(to, TestData{to->sent++}, payload);
  }

  void listen_to(Line& line) {
    if (!line.is_open()) return;
    take_frames(**line.stream, line.read,
                [&](const Header& header, std::span<const std::byte> payload) { hear(line, header, payload.size()); });
  }
  // It says nothing but what belongs to a test, each on the connection that it belongs to.
  void hear(Line& line, const Header& header, std::size_t payload_bytes) {
    const bool is_control = &line == &lines_.front();
    if (const auto* const data = std::get_if<TestData>(&header)) {
      FUZZ_CHECK(!is_control && payload_bytes == kPayloadBytes && data->sequence == line.received++);
    } else if (const auto* const request = std::get_if<TestRequest>(&header)) {
      FUZZ_CHECK(request->peer == self().id() && (request->flow == 0) == is_control);
    } else {
      FUZZ_CHECK(is_control &&
                 (std::holds_alternative<TestReceipts>(header) || std::holds_alternative<TestPing>(header)));
    }
  }

  Draws& draws_;
  ScriptIo io_;
  node::CandidateConfig config_;
  std::vector<Line> lines_;
  node::Candidate candidate_;
};

}  // namespace

std::vector<Bytes> seeds() {
  Bytes whole = bytes_of({3, 14, 5, 1, 5, 2});
  for (int i = 0; i < 50; ++i) {
    append(whole, {4, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 15, 20});
  }
  append(whole, {2, 2, 15, 100, 2, 4, 15, 100, 7, 100, 100, 1, 0, 0, 0});
  return {
      whole,
      bytes_of(
          {0, 0, 13, 0, 3, 200, 4, 'w', 'a', 'i', 't', 15, 250, 1, 5, 13, 1, 0, 0, 0}),    // waits, then is sent away
      bytes_of({1, 14, 2, 2, 15, 250, 12, 1, 0, 15, 250, 12, 1, 1, 7, 1, 1, 1, 0, 0, 0}),  // up, and the line is stuck
      bytes_of({2, 14, 11, 1, 1, 15, 250, 6, 1, 1, 15, 250}),                              // a data flow ends
      bytes_of({0, 14, 7, 1, 1, 0, 0, 0, 0}),  // somebody else's certificate
  };
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::be_silent();
  papilio::fuzz::repeat_randomness();
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::World(draws).run();
  return 0;
}
