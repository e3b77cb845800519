// Flows over real loopback sockets: frames of many sizes both ways, a peer that writes byte by byte, holding and going
// on, and an end in every state, after which every slab is back and every handle gone.
#include "transport/flow.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "transport/uv_io.hpp"

namespace papilio::transport {
namespace {

constexpr auto kBound = std::chrono::seconds(20);

using Bytes = std::vector<std::byte>;

Bytes random_bytes(std::size_t size, std::uint64_t seed) {
  Random random(seed);
  Bytes bytes(size);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random.next() & 255U);
  return bytes;
}

Header shard(ChunkIndex chunk) { return Contribution{.round = 1, .chunk = chunk, .weight = 1}; }

// One end of a connection, with a wish for every question a flow asks.
struct End final : FlowEvents {
  explicit End(SlabPool& slabs) : pool(slabs), flow(*this) {}
  End(const End&) = delete;
  End& operator=(const End&) = delete;

  void on_flow_connected(Flow&) override { connected += 1; }
  PayloadDecision on_payload_header(Flow&, const Header& header, std::size_t payload_bytes) override {
    questions += 1;
    if (abort_at_question) {
      flow.abort();
      return {};
    }
    if (verdict != PayloadVerdict::accept) return {.verdict = verdict, .slab = {}};
    EXPECT_LE(payload_bytes, pool.slab_bytes());
    EXPECT_TRUE(std::holds_alternative<Contribution>(header));
    Slab slab = pool.take();
    EXPECT_TRUE(slab);
    return {.verdict = PayloadVerdict::accept, .slab = std::move(slab)};
  }
  void on_frame(Flow&, const Header& header, Slab payload, std::size_t payload_bytes) override {
    EXPECT_EQ(closed, 0);
    headers.push_back(header);
    if (payload_bytes > 0) {
      const std::span<std::byte> bytes = payload.bytes().first(payload_bytes);
      payloads.emplace_back(bytes.begin(), bytes.end());
    } else {
      EXPECT_FALSE(payload);
    }
    if (abort_at_frame) flow.abort();
  }
  bool next_frame(Flow&, OutgoingFrame& frame) override {
    if (outbox.empty()) return false;
    outgoing = std::move(outbox.front());
    outbox.pop_front();
    encode_frame_header(shard(static_cast<ChunkIndex>(offered)), outgoing.size(), frame.header);
    frame.payload = outgoing;
    frame.mode = offered % 2 == 0 ? WriteMode::copy : WriteMode::borrow;
    if (frame.mode == WriteMode::borrow) kept.push_back(outgoing);
    if (frame.mode == WriteMode::borrow) frame.payload = kept.back();
    frame.tag = 1000 + offered++;
    return true;
  }
  void on_frame_sent(Flow&, std::uint64_t tag) override { tags.push_back(tag); }
  void on_flow_failed(Flow&, const FlowFailure& with) override {
    failed += 1;
    EXPECT_EQ(closed, 0);
    failure = with;
  }
  void on_flow_closed(Flow&) override { closed += 1; }

  SlabPool& pool;
  PayloadVerdict verdict = PayloadVerdict::accept;
  bool abort_at_question = false, abort_at_frame = false;
  int connected = 0, failed = 0, closed = 0, questions = 0;
  FlowFailure failure;
  std::vector<Header> headers;
  std::vector<Bytes> payloads;
  std::deque<Bytes> outbox;
  Bytes outgoing;
  std::deque<Bytes> kept;  // what was sent by reference stays where it was
  std::uint64_t offered = 0;
  std::vector<std::uint64_t> tags;
  Flow flow;
};

// A peer without a Flow: bytes as they are.
struct RawPeer final : StreamEvents {
  void on_connected(Stream&) override { connected = true; }
  void on_read(Stream&, std::size_t bytes) override {
    received.insert(received.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(bytes));
    read();
  }
  void on_written(Stream&) override {
    writing = false;
    write_next();
  }
  void on_failed(Stream&, IoStatus status) override {
    ended = true;
    code = status.code;
  }
  void on_closed(Stream&) override { stream = nullptr; }

  void read() {
    const ReadBuffer into(buffer);
    stream->read({&into, 1}, 1);
  }
  // In pieces of `piece_bytes`, each its own write.
  void write(const Bytes& bytes, std::size_t piece_bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += piece_bytes) {
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      pieces.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(std::min(piece_bytes, bytes.size() - at)));
    }
    write_next();
  }
  void write_next() {
    if (writing || ended || pieces.empty()) return;
    writing = true;
    current = std::move(pieces.front());
    pieces.pop_front();
    const WriteBuffer from(current);
    stream->write({&from, 1}, WriteMode::copy);
  }
  [[nodiscard]] bool is_done() const { return pieces.empty() && !writing; }

  Stream* stream = nullptr;
  bool connected = false, ended = false, writing = false;
  IoCode code = IoCode::ok;
  std::array<std::byte, 4096> buffer{};
  Bytes received;
  Bytes current;
  std::deque<Bytes> pieces;
};

class FlowTest : public testing::Test, private ListenerEvents {
 protected:
  FlowTest()
      : io_(make_uv_io().value()),
        pool_(SlabPool::make(kMaximumPayloadBytes, 4).value()),
        near_(std::make_unique<End>(pool_)),
        far_(std::make_unique<End>(pool_)) {
    listener_ = io_->listen(Address::parse("127.0.0.1:0").value(), {}, *this).value();
  }
  ~FlowTest() override {
    near_->flow.abort();
    far_->flow.abort();
    if (raw_.stream != nullptr) raw_.stream->abort();
    if (listener_ != nullptr) listener_->close();
    EXPECT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
    EXPECT_EQ(pool_.available(), pool_.capacity());
    EXPECT_EQ(near_->closed, near_started_ ? 1 : 0);
    EXPECT_EQ(far_->closed, far_started_ ? 1 : 0);
    EXPECT_LE(near_->failed, 1);
    EXPECT_LE(far_->failed, 1);
  }

  void on_accepted(Stream& stream) override {
    far_started_ = true;
    far_->flow.adopt(stream);
  }
  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      io_->run_once(bound);
    }
    return true;
  }
  void dial() {
    near_started_ = true;
    near_->flow.dial(*io_, listener_->address(), {});
  }
  void connect() {
    dial();
    ASSERT_TRUE(run_until([&] { return near_->connected == 1 && far_started_; }));
  }
  void connect_raw() {
    raw_.stream = &io_->connect(listener_->address(), {}, raw_);
    ASSERT_TRUE(run_until([&] { return raw_.connected && far_started_; }));
    raw_.read();
  }

  std::unique_ptr<Io> io_;
  SlabPool pool_;
  std::unique_ptr<End> near_, far_;  // near dials, far was accepted
  RawPeer raw_;
  bool near_started_ = false, far_started_ = false;
  Listener* listener_ = nullptr;
};

Bytes frame_bytes(const Header& header, const Bytes& payload = {}) {
  HeaderBytes bytes;
  encode_frame_header(header, payload.size(), bytes);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

TEST_F(FlowTest, PayloadsOfManySizesCrossBothWaysAtOnce) {
  const std::vector<std::size_t> sizes = {1,    3,     4,     111,    127,     128,           129,
                                          4095, 65536, 65537, 300000, 1 << 20, (1 << 22) - 1, 1 << 22};
  std::vector<Bytes> sent;
  for (std::size_t i = 0; i < sizes.size(); ++i) sent.push_back(random_bytes(sizes[i], i));
  near_->outbox.assign(sent.begin(), sent.end());
  far_->outbox.assign(sent.rbegin(), sent.rend());
  connect();
  far_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] {
    return near_->payloads.size() == sent.size() && far_->payloads.size() == sent.size() && near_->flow.is_idle() &&
           far_->flow.is_idle();
  }));
  EXPECT_EQ(far_->payloads, sent);
  std::reverse(sent.begin(), sent.end());
  EXPECT_EQ(near_->payloads, sent);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(near_->tags[i], 1000 + i);  // each given back once, in order
    EXPECT_EQ(std::get<Contribution>(near_->headers[i]).chunk, i);
  }
  EXPECT_EQ(near_->tags.size(), sizes.size());
  EXPECT_EQ(pool_.available(), pool_.capacity());
}

TEST_F(FlowTest, APeerThatWritesByteByByteIsUnderstood) {
  connect_raw();
  const Bytes payload = random_bytes(700, 5);
  Propose long_header{.round = 3, .epoch = 2, .members = {}, .chunk_bytes = 65536, .timeout_ms = 5};
  long_header.members.resize(8);
  for (const Bytes& each : {frame_bytes(Ready{3}), frame_bytes(shard(8), payload), frame_bytes(long_header),
                            frame_bytes(shard(9), payload), frame_bytes(Goodbye{"bye"})}) {
    raw_.write(each, 1);
  }
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 5; }));
  EXPECT_EQ(std::get<Ready>(far_->headers[0]).flows, 3);
  EXPECT_EQ(std::get<Contribution>(far_->headers[1]).chunk, 8U);
  EXPECT_EQ(std::get<Propose>(far_->headers[2]).members.size(), 8U);
  EXPECT_EQ(std::get<Goodbye>(far_->headers[4]).reason, "bye");
  ASSERT_EQ(far_->payloads.size(), 2U);
  EXPECT_EQ(far_->payloads[1], payload);
}

TEST_F(FlowTest, AnyCutOfTheStreamIntoPiecesIsUnderstood) {
  connect_raw();
  Bytes stream;
  std::vector<Bytes> payloads;
  Random random(3);
  for (ChunkIndex i = 0; i < 200; ++i) {
    payloads.push_back(random_bytes(1 + random.below(3000), i));
    const Bytes each = frame_bytes(shard(i), payloads.back());
    stream.insert(stream.end(), each.begin(), each.end());
    if (i % 3 == 0) {
      const Bytes control = frame_bytes(Done{i});
      stream.insert(stream.end(), control.begin(), control.end());
    }
  }
  for (std::size_t at = 0; at < stream.size();) {
    const std::size_t piece = std::min<std::size_t>(1 + random.below(5000), stream.size() - at);
    const auto begin = stream.begin() + static_cast<std::ptrdiff_t>(at);
    raw_.write(Bytes(begin, begin + static_cast<std::ptrdiff_t>(piece)), piece);
    at += piece;
  }
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 267; }));
  EXPECT_EQ(far_->payloads, payloads);
}

TEST_F(FlowTest, LongHeadersArriveWhole) {
  connect();
  Propose start{.round = 3, .epoch = 2, .members = {}, .chunk_bytes = 65536, .timeout_ms = 5};
  start.members.resize(kMaximumMembers);
  for (int i = 0; i < 3; ++i) near_->flow.send_control(start);
  near_->flow.send_control(Goodbye{std::string(500, 'z')});
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 4; }));
  EXPECT_EQ(std::get<Propose>(far_->headers[2]).members.size(), kMaximumMembers);
  EXPECT_EQ(std::get<Goodbye>(far_->headers[3]).reason, std::string(500, 'z'));
}

TEST_F(FlowTest, ControlFramesGoBeforeData) {
  near_->outbox.assign({random_bytes(1000, 1), random_bytes(1000, 2)});
  dial();
  near_->flow.send_control(Ready{1});  // before it is connected: waits
  near_->flow.send_control(Done{5});
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 4; }));
  EXPECT_EQ(type_of(far_->headers[0]), FrameType::ready);
  EXPECT_EQ(type_of(far_->headers[1]), FrameType::done);
  EXPECT_EQ(type_of(far_->headers[2]), FrameType::contribution);
}

TEST_F(FlowTest, HeldPayloadsWaitAndAreAskedAboutAgain) {
  connect();
  far_->verdict = PayloadVerdict::hold;
  near_->outbox.push_back(random_bytes(100000, 1));
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->questions == 1; }));
  EXPECT_TRUE(far_->flow.holds());
  near_->flow.send_control(Done{1});
  far_->flow.resume();  // still no
  EXPECT_EQ(far_->questions, 2);
  EXPECT_TRUE(far_->flow.holds());
  far_->verdict = PayloadVerdict::accept;
  EXPECT_TRUE(far_->headers.empty());  // nothing overtakes what is held
  far_->flow.resume();
  EXPECT_FALSE(far_->flow.holds());
  far_->flow.resume();  // once is enough
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 2; }));
  EXPECT_EQ(far_->questions, 3);
  EXPECT_EQ(far_->payloads[0], random_bytes(100000, 1));
}

TEST_F(FlowTest, DiscardedPayloadsAreNotReportedAndTheStreamGoesOn) {
  connect();
  far_->verdict = PayloadVerdict::discard;
  near_->outbox.assign({random_bytes(1, 1), random_bytes(65536, 2), random_bytes(1 << 22, 3)});
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->questions == 3 && near_->flow.is_idle(); }));
  near_->flow.send_control(Done{1});
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 1; }));
  EXPECT_EQ(type_of(far_->headers[0]), FrameType::done);
  EXPECT_TRUE(far_->payloads.empty());
  EXPECT_EQ(pool_.available(), pool_.capacity());
}

TEST_F(FlowTest, HeldThenDiscarded) {
  connect();
  far_->verdict = PayloadVerdict::hold;
  near_->outbox.push_back(random_bytes(100000, 1));
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->questions == 1; }));
  far_->verdict = PayloadVerdict::discard;
  far_->flow.resume();
  near_->flow.send_control(Done{1});
  ASSERT_TRUE(run_until([&] { return far_->headers.size() == 1; }));
}

// Words for a peer that does not read are not kept without end, even if it goes on talking.
TEST_F(FlowTest, APeerThatNeverReadsIsGivenUp) {
  raw_.stream = &io_->connect(listener_->address(), {}, raw_);
  ASSERT_TRUE(run_until([&] { return raw_.connected && far_started_; }));  // and never reads
  const Goodbye word{std::string(500, 'z')};
  constexpr std::size_t kLimit = std::size_t{64} << 20U;  // what is kept, and sockets' buffers
  std::size_t said = 0;
  for (; far_->flow.is_open() && said < kLimit; said += word.reason.size()) {
    far_->flow.send_control(word);
    if (said % 8000 == 0) io_->run_once(io_->now());
  }
  EXPECT_LT(said, kLimit);
  ASSERT_TRUE(run_until([&] { return far_->closed == 1; }));
  EXPECT_EQ(far_->failed, 1);
  EXPECT_EQ(far_->failure.io.code, IoCode::timed_out);
}

TEST_F(FlowTest, ClosingAfterSendingDeliversWhatWasQueued) {
  connect();
  near_->outbox.assign({random_bytes(1 << 20, 1), random_bytes(10, 2)});
  near_->flow.wake_sender();  // the first shard is on its way; the second is not begun any more
  near_->flow.send_control(Goodbye{"done"});
  near_->flow.close_after_sending();
  ASSERT_TRUE(run_until([&] { return near_->closed == 1 && far_->failed == 1; }));
  ASSERT_EQ(far_->headers.size(), 2U);
  EXPECT_EQ(type_of(far_->headers[1]), FrameType::goodbye);
  EXPECT_EQ(far_->failure.io.code, IoCode::closed_by_peer);
  EXPECT_FALSE(far_->failure.is_protocol_violation());
  EXPECT_EQ(near_->failed, 0);
  EXPECT_TRUE(run_until([&] { return far_->closed == 1; }));
}

TEST_F(FlowTest, AnAbortWhileAnOrderlyCloseLingersEndsIt) {
  connect_raw();  // a peer that neither reads on nor closes
  far_->outbox.push_back(random_bytes(1 << 22, 1));
  far_->flow.wake_sender();
  far_->flow.close_after_sending();
  far_->flow.abort();
  EXPECT_FALSE(far_->flow.is_open());
  ASSERT_TRUE(run_until([&] { return far_->closed == 1; }));
}

TEST_F(FlowTest, ARefusedDialFailsOnce) {
  const Address silent = listener_->address();
  std::exchange(listener_, nullptr)->close();
  near_started_ = true;
  near_->flow.dial(*io_, silent, {});
  near_->flow.send_control(Ready{1});
  ASSERT_TRUE(run_until([&] { return near_->closed == 1; }));
  EXPECT_EQ(near_->failed, 1);
  EXPECT_EQ(near_->failure.io.code, IoCode::refused);
}

// ---- what no peer may send

class BadBytes : public FlowTest {
 protected:
  void expect_fault(const Bytes& bytes, FrameFault fault) {
    connect_raw();
    raw_.write(bytes, bytes.size());
    ASSERT_TRUE(run_until([&] { return far_->closed == 1; }));
    EXPECT_EQ(far_->failed, 1);
    EXPECT_EQ(far_->failure.frame_fault, fault) << far_->failure.to_string();
    EXPECT_TRUE(far_->failure.is_protocol_violation());
    EXPECT_TRUE(far_->payloads.empty());
  }
};

TEST_F(BadBytes, HttpIsNotPapilio) {
  Bytes bytes(400, std::byte{'a'});
  constexpr std::string_view kText = "GET /index.html HTTP/1.1\r\nHost: example.org\r\nCookie: ";
  std::memcpy(bytes.data(), kText.data(), kText.size());
  expect_fault(bytes, FrameFault::not_papilio);
}

TEST_F(BadBytes, Garbage) { expect_fault(random_bytes(100000, 77), FrameFault::not_papilio); }

TEST_F(BadBytes, GarbageAfterAGoodShard) {
  Bytes bytes = frame_bytes(Ready{1});
  const Bytes garbage = random_bytes(500, 3);
  bytes.insert(bytes.end(), garbage.begin(), garbage.end());
  expect_fault(bytes, FrameFault::not_papilio);
  EXPECT_EQ(far_->headers.size(), 1U);
}

TEST_F(BadBytes, ADamagedHeader) {
  Bytes bytes = frame_bytes(shard(1), random_bytes(100, 1));
  bytes[60] ^= std::byte{1};
  expect_fault(bytes, FrameFault::bad_checksum);
}

TEST_F(BadBytes, ADamagedLongHeader) {
  Propose start{.round = 3, .epoch = 2, .members = {}, .chunk_bytes = 65536, .timeout_ms = 5};
  start.members.resize(kMaximumMembers);
  Bytes bytes = frame_bytes(start);
  bytes[2000] ^= std::byte{128};
  expect_fault(bytes, FrameFault::bad_checksum);
}

// ---- an end in every state

TEST_F(FlowTest, AbortBeforeItIsConnected) {
  dial();
  near_->flow.send_control(Ready{1});
  near_->flow.abort();
  EXPECT_TRUE(run_until([&] { return near_->closed == 1; }));
  EXPECT_EQ(near_->connected, 0);
}

TEST_F(FlowTest, ClosingBeforeItIsConnectedAborts) {
  dial();
  near_->flow.send_control(Ready{1});
  near_->flow.close_after_sending();
  EXPECT_TRUE(run_until([&] { return near_->closed == 1; }));
}

TEST_F(FlowTest, AbortWhileIdle) {
  connect();
  near_->flow.abort();
  near_->flow.abort();
  near_->flow.send_control(Ready{1});
  near_->flow.wake_sender();
  near_->flow.resume();
  EXPECT_TRUE(run_until([&] { return near_->closed == 1 && far_->closed == 1; }));
  EXPECT_EQ(near_->failed, 0);
  EXPECT_EQ(far_->failed, 1);
  EXPECT_EQ(far_->failure.io.code, IoCode::reset);
}

TEST_F(FlowTest, AbortWhileWriting) {
  connect();
  far_->verdict = PayloadVerdict::hold;  // nobody reads: the write cannot end
  for (std::uint64_t i = 0; i < 8; ++i) near_->outbox.push_back(random_bytes(1 << 22, i));
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->questions == 1; }));
  EXPECT_FALSE(near_->flow.is_idle());
  near_->flow.abort();
  EXPECT_TRUE(run_until([&] { return near_->closed == 1; }));
}

TEST_F(FlowTest, AbortWhileHolding) {
  connect();
  far_->verdict = PayloadVerdict::hold;
  near_->outbox.push_back(random_bytes(1 << 20, 1));
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->questions == 1; }));
  far_->flow.abort();
  far_->flow.resume();
  EXPECT_EQ(far_->questions, 1);
  EXPECT_TRUE(run_until([&] { return far_->closed == 1 && near_->closed == 1; }));
}

TEST_F(FlowTest, AbortInTheMiddleOfAPayloadGivesTheSlabBack) {
  connect_raw();
  Bytes bytes = frame_bytes(shard(1), random_bytes(100000, 1));
  bytes.resize(50000);
  raw_.write(bytes, bytes.size());
  ASSERT_TRUE(run_until([&] { return far_->questions == 1 && raw_.is_done(); }));
  EXPECT_EQ(pool_.available(), pool_.capacity() - 1);
  far_->flow.abort();
  EXPECT_TRUE(run_until([&] { return far_->closed == 1; }));
  EXPECT_EQ(pool_.available(), pool_.capacity());
}

TEST_F(FlowTest, TheConnectionLostInTheMiddleOfAPayloadGivesTheSlabBack) {
  for (const bool orderly : {true, false}) {
    far_ = std::make_unique<End>(pool_);
    far_started_ = false;
    raw_ = RawPeer();
    connect_raw();
    Bytes bytes = frame_bytes(shard(1), random_bytes(100000, 1));
    bytes.resize(50000);
    raw_.write(bytes, bytes.size());
    ASSERT_TRUE(run_until([&] { return far_->questions == 1 && raw_.is_done(); }));
    if (orderly) {
      raw_.stream->close();
    } else {
      raw_.stream->abort();
    }
    EXPECT_TRUE(run_until([&] { return far_->closed == 1 && raw_.stream == nullptr; }));
    EXPECT_EQ(far_->failed, 1);
    EXPECT_EQ(pool_.available(), pool_.capacity());
  }
}

TEST_F(FlowTest, AbortInsideEveryCallback) {
  connect();
  far_->abort_at_question = true;
  near_->outbox.push_back(random_bytes(1000, 1));
  near_->flow.wake_sender();
  ASSERT_TRUE(run_until([&] { return far_->closed == 1 && near_->closed == 1; }));
  EXPECT_EQ(far_->failed, 0);
  EXPECT_TRUE(far_->payloads.empty());
}

TEST_F(FlowTest, AbortInsideOnFrameHandlesNothingMore) {
  connect_raw();
  far_->abort_at_frame = true;
  Bytes bytes = frame_bytes(shard(1), random_bytes(1000, 1));
  const Bytes more = frame_bytes(Done{1});
  bytes.insert(bytes.end(), more.begin(), more.end());
  raw_.write(bytes, bytes.size());
  ASSERT_TRUE(run_until([&] { return far_->closed == 1; }));
  EXPECT_EQ(far_->headers.size(), 1U);
}

}  // namespace
}  // namespace papilio::transport
