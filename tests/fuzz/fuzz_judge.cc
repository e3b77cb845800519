// A judge of qualification tests among candidates and strangers: requests, data flows, test data and receipts that
// could be right, any others, connections that end or stand still, and time. It ends nothing but their tests and
// connections, and is closed in order.
#include "engine/node/judge.hpp"

#include "engine/node/certificate.hpp"
#include "kernels/ops.h"
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

constexpr std::size_t kPayloadBytes = 64;
constexpr std::size_t kMostLines = 60;
constexpr std::uint32_t kCandidates = 4;

const Identity& identity_of(std::uint32_t number) {
  static const std::array<Identity, kCandidates> identities = {
      Identity::from_seed(SecretSeed{10}), Identity::from_seed(SecretSeed{11}), Identity::from_seed(SecretSeed{12}),
      Identity::from_seed(SecretSeed{13})};
  return identities[number % kCandidates];
}

// The other end of a connection.
struct Line {
  ScriptIo::Handle stream;
  std::uint32_t candidate = 0;
  std::uint32_t flow = 0;  // 0: control
  std::uint64_t sent = 0;  // frames of test data
  Bytes read;              // what is not a whole frame yet
  std::vector<TestReceipt> receipts;
  std::vector<TestPing> pings;
};

class World {
 public:
  explicit World(Draws& draws) : draws_(draws), judge_(io_, config()) { FUZZ_CHECK(judge_.start().ok()); }

  void run() {
    while (!draws_.is_empty()) {
      step();
      turn();
    }
    judge_.leave("the input is over");
    for (int i = 0; i < 20 && !judge_.is_closed(); ++i) pass_time(seconds(1));
    FUZZ_CHECK(judge_.is_closed());
    io_.run_once(io_.now());
    FUZZ_CHECK(io_.open_handles() == 0 && judge_.desk().being_tested() == 0 && judge_.desk().waiting() == 0);
  }

 private:
  static node::JudgeConfig config() {
    node::JudgeConfig config;
    config.listen = Address::simulated(1, 1);
    config.identity = &identity_of(0);
    config.payload_bytes = kPayloadBytes;
    config.desk.waiting = 2;
    config.desk.every = milliseconds(10);
    config.test.most_unreceipted_bytes = 16 * kPayloadBytes;
    config.door.connections_in_total = 40;
    config.door.handshakes_in_total = 24;
    config.door.elsewhere.connections = 36;
    config.wall_now = [] { return core::WallTime(seconds(1'800'000'000)); };
    return config;
  }
  void turn() {
    io_.run_once(io_.now());
    judge_.handle_time(io_.now());
    for (Line& line : lines_) listen_to(line);
    std::erase_if(lines_, [](const Line& line) { return *line.stream == nullptr; });
    for (const node::TestOutcome& outcome : judge_.take_outcomes()) check(outcome);
    FUZZ_CHECK(judge_.desk().being_tested() <= 1 && judge_.desk().waiting() <= 2);
  }
  void pass_time(Duration most) {
    const TimePoint end = io_.now() + most;
    for (std::uint32_t turns = 0; io_.now() < end; ++turns) {
      FUZZ_CHECK(turns < 20'000);  // it would spin
      io_.advance_to(std::clamp(judge_.next_deadline(), io_.now() + milliseconds(1), end));
      turn();
    }
  }
  static void check(const node::TestOutcome& outcome) {
    if (outcome.verdict.certificate.empty()) return;
    const auto certificate = node::read_certificate(outcome.verdict.certificate);
    FUZZ_CHECK(outcome.verdict.failure.empty() && certificate && certificate->subject == outcome.candidate);
  }

  void step() {
    switch (draws_.below(14)) {
      case 0: return static_cast<void>(dial(draws_.below(kCandidates)));
      case 1: return ask(line());
      case 2: return join();
      case 3: return send_data(line());
      case 4:
        for (Line& each : lines_) send_data(&each);
        return;
      case 5: return answer_all();
      case 6: answer_all(); return pass_time(milliseconds(10) * draws_.byte());
      case 7: {
        Line* const to = line();
        return say(to, draw_header(draws_, draws_.byte(), kCandidates));
      }
      case 8: {
        constexpr std::uint32_t kFirst = static_cast<std::uint32_t>(FrameType::test_request) - 1;
        Line* const to = line();
        return say(to, draw_header(draws_, kFirst + draws_.below(8), kCandidates));
      }
      case 9:
        if (Line* const to = line()) (*to->stream)->feed(draws_.take(draws_.byte()));
        return;
      case 10:
        if (Line* const to = line()) (*to->stream)->end(static_cast<IoCode>(1 + draws_.below(6)));
        return;
      case 11:
        if (Line* const to = line()) (*to->stream)->set_takes_bytes(draws_.chance());
        return;
      case 12: return begin();
      default: return pass_time(milliseconds(1) * (draws_.number() % 3000));
    }
  }

  Line* line() {
    const std::uint8_t choice = draws_.byte();
    if (lines_.empty()) return nullptr;
    Line& chosen = lines_[choice % lines_.size()];
    return *chosen.stream != nullptr ? &chosen : nullptr;
  }
  Line* dial(std::uint32_t candidate) {
    if (!io_.listens() || lines_.size() >= kMostLines) return nullptr;
    Line made{.stream = io_.accept(Address::simulated(10 + candidate, 1)), .candidate = candidate};
    if (*made.stream == nullptr) return nullptr;
    if (candidate != 3) (*made.stream)->set_key(identity_of(candidate).public_key());  // the last has none
    return &lines_.emplace_back(std::move(made));
  }
  static void say(Line* to, const Header& header, std::span<const std::byte> payload = {}) {
    if (to == nullptr || *to->stream == nullptr) return;
    feed_frame(**to->stream, header, payload);
  }
  void ask(Line* to) {
    if (to == nullptr) return;
    say(to, TestRequest{.peer = identity_of(to->candidate).id(),
                        .run_id = "fuzz",
                        .duration_ms = 1500 + 10U * draws_.byte(),
                        .flows = static_cast<std::uint16_t>(1 + draws_.below(kMaximumFlows))});
  }
  // The data flows of the test that was announced last.
  void join() {
    const std::uint32_t candidate = phase_of_;
    for (std::uint16_t flow = 1; flow <= phase_.flows; ++flow) {
      Line* const made = dial(candidate);
      if (made == nullptr) return;
      made->flow = flow;
      say(made, TestRequest{.peer = identity_of(candidate).id(),
                            .run_id = "fuzz",
                            .flows = phase_.flows,
                            .flow = flow,
                            .session = phase_.session});
    }
  }
  // A whole test, up to the first test data.
  void begin() {
    ask(dial(draws_.below(kCandidates)));
    turn();
    join();
    turn();
    for (int pings = 0; pings < 10; ++pings) {
      pass_time(milliseconds(20));
      answer_all();
    }
    pass_time(milliseconds(1) * draws_.byte());
    answer_all();
  }
  void send_data(Line* to) {
    if (to == nullptr || to->flow == 0 || *to->stream == nullptr) return;
    TestFiller filler({phase_.up_key_low, phase_.up_key_high});
    Bytes payload(kPayloadBytes);
    filler.fill(to->flow - 1, to->sent, payload);
    if (draws_.byte() >= 0xf8) payload[draws_.byte() % payload.size()] ^= std::byte{1};
    HeaderBytes bytes;
    encode_frame_header(TestData{to->sent++}, payload.size(), bytes);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    const std::size_t missing = draws_.byte() >= 0xe0 ? draws_.below(kPayloadBytes) : 0;  // that does not come
    (*to->stream)->feed(std::span(bytes).first(bytes.size() - missing));
  }
  void answer_all() {
    std::vector<TestReceipt> receipts;
    for (Line& each : lines_) {
      receipts.insert(receipts.end(), each.receipts.begin(), each.receipts.end());
      each.receipts.clear();
    }
    for (Line& each : lines_) {
      if (each.flow != 0) continue;
      for (const TestPing& ping : std::exchange(each.pings, {})) say(&each, ping);
      if (each.candidate != phase_of_ || receipts.empty()) continue;
      receipts.resize(std::min(receipts.size(), kMaximumReceipts));
      say(&each, TestReceipts{std::exchange(receipts, {})});
    }
  }
  void listen_to(Line& line) {
    if (*line.stream == nullptr) return;
    take_frames(**line.stream, line.read, [&](const Header& header, std::span<const std::byte> payload) {
      FUZZ_CHECK(is_of_test(header));
      hear(line, header, payload);
    });
  }
  void hear(Line& line, const Header& header, std::span<const std::byte> payload) {
    if (const auto* phase = std::get_if<TestPhase>(&header)) {
      const std::uint64_t low = phase_.up_key_low, high = phase_.up_key_high;
      phase_ = *phase;
      phase_of_ = line.candidate;
      if (phase->up_key_low == 0) phase_.up_key_low = low, phase_.up_key_high = high;
    } else if (const auto* ping = std::get_if<TestPing>(&header)) {
      line.pings.push_back(*ping);
    } else if (const auto* data = std::get_if<TestData>(&header)) {
      FUZZ_CHECK(line.flow != 0 && payload.size() == kPayloadBytes);
      line.receipts.push_back({kernels::checksum(payload), data->sequence, line.flow - 1});
    }
  }

  Draws& draws_;
  ScriptIo io_;
  std::vector<Line> lines_;
  TestPhase phase_{.flows = 0};
  std::uint32_t phase_of_ = 0;
  node::Judge judge_;
};

}  // namespace

std::vector<Bytes> seeds() {
  Bytes whole = bytes_of({12, 1, 0, 3, 0});
  for (int i = 0; i < 200; ++i) {
    append(whole, {4, 0, 0, 0, 0, 0, 0, 0, 0, 6, 1});
  }
  // All data flows of a first candidate stand still in the middle of a frame while a second one is tested.
  constexpr int kFlows = kMaximumFlows;
  Bytes stuck = bytes_of({12, 1, 0, 15, 80, 4});
  for (int flow = 0; flow < kFlows; ++flow) append(stuck, {0, 255, 9});
  append(stuck, {7, 0, 2, 0, 12, 2, 0, 15, 80});
  // The first one's data flows are the first lines, then comes the second one's control flow.
  for (int flow = 0; flow < kFlows; ++flow) append(stuck, {3, kFlows + 1 + flow, 0, 0});
  // Two crowds, the smaller one last: it displaces the other's.
  Bytes crowds;
  for (int i = 0; i < 28; ++i) {
    append(crowds, {0, i < 18 ? 0 : 1});
  }
  return {
      whole,
      stuck,
      crowds,
      bytes_of({0, 1, 1, 0, 0, 3, 2, 5, 6, 10, 3, 1, 10, 2, 1, 13, 240}),
      bytes_of({0, 3, 9, 0, 4, 1, 2, 3, 4, 8, 0, 1, 0, 0, 0, 13, 250}),
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
