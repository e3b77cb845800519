// The rules of transport/io.hpp, run on every backend.
#include <dirent.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "engine/base/random.hpp"
#include "tests/transport/io_harness.hpp"
#include "transport/socket.hpp"

namespace papilio::transport {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(std::size_t count, std::uint64_t seed) {
  Bytes bytes(count);
  Random random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

std::size_t count_descriptors() {
  std::size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

// One end of a connection. Posts operations, counts what comes back, and checks the rules that hold for every test: no
// callback inside a call, none without an operation, none after on_closed, now() constant within a turn.
class Endpoint : public StreamEvents {
 public:
  explicit Endpoint(Io& io) : io_(io) {}
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;
  virtual ~Endpoint() { EXPECT_TRUE(stream == nullptr || closed == 1) << "the test left a stream open"; }

  void connect(const Address& address, const SocketOptions& options = {}) {
    const Call call(*this);
    stream = &io_.connect(address, options, *this);
  }
  void adopt(Stream& accepted) {
    stream = &accepted;
    accepted.set_events(*this);
    connected = 1;
  }
  void read(std::span<const ReadBuffer> buffers, std::size_t at_least) {
    const Call call(*this);
    ASSERT_FALSE(reading);
    reading = true;
    asked = at_least;
    room = 0;
    for (const ReadBuffer& buffer : buffers) room += buffer.size();
    stream->read(buffers, at_least);
  }
  void read(std::span<std::byte> buffer, std::size_t at_least) {
    const ReadBuffer one = buffer;
    read({&one, 1}, at_least);
  }
  void read(std::span<std::byte> buffer) { read(buffer, buffer.size()); }
  void write(std::span<const WriteBuffer> buffers, WriteMode mode = WriteMode::copy) {
    const Call call(*this);
    ASSERT_FALSE(writing);
    writing = true;
    stream->write(buffers, mode);
  }
  void write(std::span<const std::byte> buffer, WriteMode mode = WriteMode::copy) {
    const WriteBuffer one = buffer;
    write({&one, 1}, mode);
  }
  void close() {
    const Call call(*this);
    closing = true;
    stream->close();
  }
  void abort() {
    const Call call(*this);
    closing = true;
    stream->abort();
  }

  void on_connected(Stream& which) override {
    check(which);
    EXPECT_FALSE(closing);
    ++connected;
    after_connected();
  }
  void on_read(Stream& which, std::size_t bytes) override {
    check(which);
    EXPECT_TRUE(reading && !closing && failed == 0);
    EXPECT_GE(bytes, asked);
    EXPECT_LE(bytes, room);
    reading = false;
    ++reads;
    last_read = bytes;
    after_read(bytes);
  }
  void on_written(Stream& which) override {
    check(which);
    EXPECT_TRUE(writing && !closing && failed == 0);
    writing = false;
    ++writes;
    after_written();
  }
  void on_failed(Stream& which, IoStatus how) override {
    check(which);
    EXPECT_FALSE(closing);
    EXPECT_NE(how.code, IoCode::ok);
    ++failed;
    EXPECT_EQ(failed, 1);
    status = how;
    after_failed();
  }
  void on_closed(Stream& which) override {
    check(which);
    EXPECT_TRUE(closing);
    ++closed;
    EXPECT_EQ(closed, 1);
  }

  Stream* stream = nullptr;
  int connected = 0, reads = 0, writes = 0, failed = 0, closed = 0;
  std::size_t last_read = 0, asked = 0, room = 0;
  bool reading = false, writing = false, closing = false;
  IoStatus status;

 protected:
  virtual void after_connected() {}
  virtual void after_read(std::size_t) {}
  virtual void after_written() {}
  virtual void after_failed() {}
  Io& io_;

 private:
  struct Call {
    explicit Call(Endpoint& endpoint) : endpoint_(endpoint) { ++endpoint_.inside_; }
    ~Call() { --endpoint_.inside_; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    Endpoint& endpoint_;
  };
  void check(const Stream& which) {
    EXPECT_EQ(inside_, 0) << "a callback ran inside a call of the owner's";
    EXPECT_EQ(closed, 0) << "a callback came after on_closed";
    EXPECT_TRUE(stream == nullptr || &which == stream);
    const TimePoint now = io_.now();
    EXPECT_EQ(now, io_.now());
  }
  int inside_ = 0;
};

// Sends and receives one long message at the same time, in pieces, and posts the next piece from within the callback.
class Transfer : public Endpoint {
 public:
  Transfer(Io& io, const Bytes& out, Bytes& in, std::size_t piece, WriteMode mode)
      : Endpoint(io), out_(out), in_(in), piece_(piece), mode_(mode) {}

  void start() {
    after_read(0);
    next_write();
  }
  [[nodiscard]] bool done() const { return received_ == in_.size() && sent_ == out_.size() && !writing; }

 protected:
  void after_connected() override { start(); }
  void after_read(std::size_t bytes) override {
    received_ += bytes;
    if (received_ == in_.size()) return;
    const auto next = std::span(in_).subspan(received_, std::min(piece_, in_.size() - received_));
    read(next, std::max<std::size_t>(1, next.size() / 2));
  }
  void after_written() override { next_write(); }

 private:
  void next_write() {
    if (sent_ == out_.size()) return;
    const std::size_t bytes = std::min(piece_, out_.size() - sent_);
    const std::size_t header = std::min<std::size_t>(bytes - 1, 13);
    const WriteBuffer buffers[] = {std::span(out_).subspan(sent_, header),
                                   std::span(out_).subspan(sent_ + header, bytes - header)};
    sent_ += bytes;
    write(buffers, mode_);
  }

  const Bytes& out_;
  Bytes& in_;
  std::size_t piece_;
  WriteMode mode_;
  std::size_t sent_ = 0, received_ = 0;
};

class Acceptor final : public ListenerEvents {
 public:
  void on_accepted(Stream& stream) override {
    ++count;
    PAPILIO_ASSERT(!waiting.empty());
    Endpoint* endpoint = waiting.front();
    waiting.erase(waiting.begin());
    endpoint->adopt(stream);
  }
  std::vector<Endpoint*> waiting;  // who takes the next connections, in order
  int count = 0;
};

class IoConformance : public testing::TestWithParam<HarnessFactory> {
 protected:
  // What a library opens once per process is not a leak.
  static void SetUpTestSuite() {
    for (const HarnessFactory& factory : harness_factories()) factory.make();
  }
  void SetUp() override {
    descriptors_before_ = count_descriptors();
    harness_ = GetParam().make();
  }
  void TearDown() override {
    if (listener_ != nullptr) listener_->close();
    EXPECT_TRUE(harness_->run_until([&] { return harness_->open_handles() == 0; })) << "streams or listeners left";
    harness_.reset();
    EXPECT_EQ(count_descriptors(), descriptors_before_);
  }

  void listen(const SocketOptions& options = {}) {
    Result<Listener*> result = harness_->server().listen(harness_->listen_address(), options, acceptor_);
    ASSERT_TRUE(result.ok()) << result.error().message;
    listener_ = *result;
    ASSERT_NE(listener_->address().port(), 0);
  }
  // Connects the two ends through the listener.
  void join(Endpoint& dialled, Endpoint& accepted, const SocketOptions& options = {}) {
    if (listener_ == nullptr) listen(options);
    acceptor_.waiting.push_back(&accepted);
    dialled.connect(listener_->address(), options);
    ASSERT_TRUE(run_until([&] { return dialled.connected == 1 && accepted.connected == 1; }));
  }
  bool run_until(const std::function<bool()>& predicate) { return harness_->run_until(predicate); }
  void close_both(Endpoint& one, Endpoint& other) {
    one.close();
    other.close();
    EXPECT_TRUE(run_until([&] { return one.closed == 1 && other.closed == 1; }));
  }
  Io& server() { return harness_->server(); }
  Io& client() { return harness_->client(); }

  std::unique_ptr<Harness> harness_;
  Acceptor acceptor_;
  Listener* listener_ = nullptr;

 private:
  std::size_t descriptors_before_ = 0;
};

TEST_P(IoConformance, ConnectsAndKnowsThePeer) {
  Endpoint near(client()), far(server());
  join(near, far);
  EXPECT_EQ(near.stream->peer_address(), listener_->address());
  EXPECT_EQ(near.stream->peer_address().is_local_host(), far.stream->peer_address().is_local_host());
  close_both(near, far);
}

TEST_P(IoConformance, ReadsExactlyAcrossSeveralBuffers) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes sent = random_bytes(1000, 1);
  near.write(sent);
  Bytes a(1), b(0), c(499), d(500);
  const ReadBuffer buffers[] = {a, b, c, d};
  far.read(buffers, 1000);
  ASSERT_TRUE(run_until([&] { return far.reads == 1 && near.writes == 1; }));
  EXPECT_EQ(far.last_read, 1000U);
  Bytes all = a;
  all.insert(all.end(), c.begin(), c.end());
  all.insert(all.end(), d.begin(), d.end());
  EXPECT_EQ(all, sent);
  EXPECT_EQ(far.stream->info().bytes_received, 1000U);
  EXPECT_EQ(near.stream->info().bytes_sent, 1000U);
  close_both(near, far);
}

TEST_P(IoConformance, ReadAheadTakesWhatIsThere) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes sent = random_bytes(300, 2);
  near.write(sent);
  Bytes received(1000);
  std::size_t count = 0;
  // 8 wanted, room for more: whatever the pieces, nothing is lost and nothing is waited for beyond 8.
  while (count < sent.size()) {
    const int reads = far.reads;
    far.read(std::span(received).subspan(count), std::min<std::size_t>(8, sent.size() - count));
    ASSERT_TRUE(run_until([&] { return far.reads == reads + 1; }));
    count += far.last_read;
  }
  received.resize(count);
  EXPECT_EQ(received, sent);
  close_both(near, far);
}

TEST_P(IoConformance, ReadWaitsForAtLeast) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes sent = random_bytes(100, 3);
  Bytes received(200);
  far.read(received, 100);
  near.write(std::span(sent).first(60));
  ASSERT_TRUE(run_until([&] { return near.writes == 1; }));
  harness_->settle();
  EXPECT_EQ(far.reads, 0);
  EXPECT_EQ(far.stream->info().bytes_received, 60U) << "bytes of an unfinished read count as they arrive";
  near.write(std::span(sent).last(40));
  ASSERT_TRUE(run_until([&] { return far.reads == 1; }));
  EXPECT_EQ(far.last_read, 100U);
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), received.begin()));
  close_both(near, far);
}

// Writes its bytes one at a time.
class Dripper : public Endpoint {
 public:
  Dripper(Io& io, const Bytes& bytes) : Endpoint(io), bytes_(bytes) {}
  void drip() {
    if (next_ < bytes_.size()) write(std::span(bytes_).subspan(next_++, 1));
  }

 protected:
  void after_written() override { drip(); }

 private:
  const Bytes& bytes_;
  std::size_t next_ = 0;
};

TEST_P(IoConformance, ByteAtATime) {
  const Bytes sent = random_bytes(500, 4);
  Dripper near(client(), sent);
  Endpoint far(server());
  join(near, far);
  Bytes received(500);
  far.read(received);
  near.drip();
  ASSERT_TRUE(run_until([&] { return far.reads == 1; }));
  EXPECT_EQ(received, sent);
  close_both(near, far);
}

TEST_P(IoConformance, OneByteBothWays) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes ping = {std::byte{1}}, pong = {std::byte{2}};
  Bytes at_far(1), at_near(1);
  for (int i = 1; i <= 100; ++i) {
    far.read(at_far);
    near.read(at_near);
    near.write(ping);
    ASSERT_TRUE(run_until([&] { return far.reads == i; }));
    far.write(pong);
    ASSERT_TRUE(run_until([&] { return near.reads == i && near.writes == i && far.writes == i; }));
    EXPECT_EQ(at_far, ping);
    EXPECT_EQ(at_near, pong);
  }
  close_both(near, far);
}

struct TransferCase {
  WriteMode mode;
  std::size_t piece;
  std::size_t total;
  SocketOptions options;
};

TEST_P(IoConformance, LargeTransfersBothWays) {
  const TransferCase cases[] = {
      {WriteMode::copy, std::size_t{256} << 10U, std::size_t{8} << 20U, {}},
      {WriteMode::borrow, std::size_t{256} << 10U, std::size_t{8} << 20U, {}},
      {WriteMode::borrow, std::size_t{4} << 20U, std::size_t{16} << 20U, {}},
      // A small socket buffer, so that pieces block half-way, in the pipe too; an odd size, so that no page is whole.
      {WriteMode::borrow, 300001, 5000003, {.send_buffer_bytes = 16384, .receive_buffer_bytes = 16384}},
      {WriteMode::copy, 300001, 5000003, {.send_buffer_bytes = 16384, .receive_buffer_bytes = 16384}},
      {WriteMode::borrow, 70000, 1000003, {}},
      {WriteMode::borrow, 1000, 100000, {}},
  };
  std::uint64_t seed = 5;
  for (const TransferCase& one : cases) {
    SCOPED_TRACE("piece " + std::to_string(one.piece));
    const Bytes up = random_bytes(one.total, seed++), down = random_bytes(one.total, seed++);
    Bytes at_far(up.size()), at_near(down.size());
    Transfer near(client(), up, at_near, one.piece, one.mode);
    Transfer far(server(), down, at_far, one.piece, one.mode);
    listen(one.options);
    acceptor_.waiting.push_back(&far);
    near.connect(listener_->address(), one.options);
    ASSERT_TRUE(run_until([&] { return far.connected == 1; }));
    far.start();
    ASSERT_TRUE(run_until([&] { return near.done() && far.done(); }));
    EXPECT_TRUE(at_far == up);
    EXPECT_TRUE(at_near == down);
    close_both(near, far);
    listener_->close();
    listener_ = nullptr;
  }
}

TEST_P(IoConformance, WriteWaitsForAPeerThatDoesNotRead) {
  for (const WriteMode mode : {WriteMode::copy, WriteMode::borrow}) {
    Endpoint near(client()), far(server());
    join(near, far, {.send_buffer_bytes = 65536, .receive_buffer_bytes = 65536});
    const Bytes sent = random_bytes(std::size_t{16} << 20U, 6);
    near.write(sent, mode);
    harness_->settle();
    EXPECT_EQ(near.writes, 0);
    EXPECT_LT(near.stream->info().bytes_sent, sent.size());
    Bytes received(sent.size());
    far.read(received);
    ASSERT_TRUE(run_until([&] { return near.writes == 1 && far.reads == 1; }));
    EXPECT_TRUE(received == sent);
    EXPECT_EQ(near.stream->info().bytes_sent, sent.size());
    close_both(near, far);
  }
}

TEST_P(IoConformance, WritesAgainAfterAReaderPaused) {
  Endpoint near(client()), far(server());
  join(near, far);
  // Data waits while no read is posted, several times: the backend has to drop and regain interest.
  for (int i = 1; i <= 5; ++i) {
    const Bytes sent = random_bytes(1000, 7 + i);
    near.write(sent);
    ASSERT_TRUE(run_until([&] { return near.writes == i; }));
    harness_->settle();
    Bytes received(1000);
    far.read(received);
    ASSERT_TRUE(run_until([&] { return far.reads == i; }));
    EXPECT_EQ(received, sent);
  }
  close_both(near, far);
}

TEST_P(IoConformance, EndOfStreamAfterTheLastByte) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes sent = random_bytes(5000, 8);
  near.write(sent);
  ASSERT_TRUE(run_until([&] { return near.writes == 1; }));
  near.close();
  ASSERT_TRUE(run_until([&] { return near.closed == 1 || far.reading; }));
  Bytes received(5000);
  far.read(received);
  ASSERT_TRUE(run_until([&] { return far.reads == 1; }));
  EXPECT_EQ(received, sent);
  Bytes more(10);
  far.read(more, 1);
  ASSERT_TRUE(run_until([&] { return far.failed == 1; }));
  EXPECT_EQ(far.status.code, IoCode::closed_by_peer);
  EXPECT_EQ(far.reads, 1);
  far.close();
  EXPECT_TRUE(run_until([&] { return far.closed == 1 && near.closed == 1; }));
}

TEST_P(IoConformance, EndOfStreamInTheMiddleOfARead) {
  Endpoint near(client()), far(server());
  join(near, far);
  Bytes received(1000);
  far.read(received);
  const Bytes sent = random_bytes(999, 9);
  near.write(sent);
  ASSERT_TRUE(run_until([&] { return near.writes == 1; }));
  near.close();
  ASSERT_TRUE(run_until([&] { return far.failed == 1; }));
  EXPECT_EQ(far.status.code, IoCode::closed_by_peer);
  EXPECT_EQ(far.reads, 0);
  far.close();
  EXPECT_TRUE(run_until([&] { return far.closed == 1 && near.closed == 1; }));
}

// A goodbye has to arrive although the peer is still sending and we stopped reading.
TEST_P(IoConformance, CloseDeliversWhatWasWrittenWhileThePeerSends) {
  const SocketOptions options{.send_buffer_bytes = 65536, .receive_buffer_bytes = 65536};
  Endpoint near(client()), far(server());
  join(near, far, options);
  const Bytes flood = random_bytes(std::size_t{16} << 20U, 10);
  far.write(flood);
  const Bytes goodbye = random_bytes(20000, 11);
  near.write(goodbye);
  ASSERT_TRUE(run_until([&] { return near.writes == 1; }));
  harness_->settle();
  near.close();
  Bytes received(goodbye.size());
  far.read(received);
  ASSERT_TRUE(run_until([&] { return far.reads == 1 || far.failed == 1; }));
  EXPECT_EQ(far.reads, 1);
  EXPECT_EQ(received, goodbye);
  if (far.failed == 0) {
    Bytes more(1);
    far.read(more);
    EXPECT_TRUE(run_until([&] { return far.failed == 1; }));
  }
  far.close();
  EXPECT_TRUE(run_until([&] { return far.closed == 1 && near.closed == 1; }));
}

TEST_P(IoConformance, RefusedWhereNobodyListens) {
  Endpoint near(client());
  near.connect(harness_->silent_address());
  ASSERT_TRUE(run_until([&] { return near.failed == 1; }));
  EXPECT_EQ(near.status.code, IoCode::refused) << near.status.to_string();
  EXPECT_EQ(near.connected, 0);
  near.close();
  EXPECT_TRUE(run_until([&] { return near.closed == 1; }));
}

TEST_P(IoConformance, CloseAndAbortWhileConnecting) {
  listen();
  for (const bool orderly : {true, false}) {
    Endpoint near(client()), far(server());
    acceptor_.waiting.push_back(&far);
    near.connect(listener_->address());
    orderly ? near.close() : near.abort();
    ASSERT_TRUE(run_until([&] { return near.closed == 1; }));
    EXPECT_EQ(near.connected, 0);
    EXPECT_EQ(near.failed, 0);
    harness_->settle();
    if (far.stream != nullptr) {
      far.abort();
      EXPECT_TRUE(run_until([&] { return far.closed == 1; }));
    }
    acceptor_.waiting.clear();
  }
}

TEST_P(IoConformance, ResetBeforeTheFirstByte) {
  Endpoint near(client()), far(server());
  join(near, far);
  Bytes buffer(10);
  far.read(buffer);
  near.abort();
  ASSERT_TRUE(run_until([&] { return far.failed == 1 && near.closed == 1; }));
  EXPECT_EQ(far.status.code, IoCode::reset) << far.status.to_string();
  far.close();
  EXPECT_TRUE(run_until([&] { return far.closed == 1; }));
}

TEST_P(IoConformance, ResetIsNoticedWithNothingPosted) {
  Endpoint near(client()), far(server());
  join(near, far);
  harness_->settle();
  near.abort();
  ASSERT_TRUE(run_until([&] { return far.failed == 1; }));
  EXPECT_EQ(far.status.code, IoCode::reset) << far.status.to_string();
  far.abort();
  EXPECT_TRUE(run_until([&] { return far.closed == 1 && near.closed == 1; }));
}

TEST_P(IoConformance, ResetInTheMiddleOfARead) {
  Endpoint near(client()), far(server());
  join(near, far);
  Bytes buffer(1000);
  far.read(buffer);
  const Bytes sent = random_bytes(500, 12);
  near.write(sent);
  ASSERT_TRUE(run_until([&] { return far.stream->info().bytes_received == 500; }));
  near.abort();
  ASSERT_TRUE(run_until([&] { return far.failed == 1; }));
  EXPECT_EQ(far.status.code, IoCode::reset) << far.status.to_string();
  EXPECT_EQ(far.reads, 0);
  far.close();
  EXPECT_TRUE(run_until([&] { return far.closed == 1 && near.closed == 1; }));
}

TEST_P(IoConformance, ResetInTheMiddleOfAWrite) {
  for (const WriteMode mode : {WriteMode::copy, WriteMode::borrow}) {
    Endpoint near(client()), far(server());
    join(near, far);
    const Bytes sent = random_bytes(std::size_t{32} << 20U, 13);
    near.write(sent, mode);
    harness_->settle();
    EXPECT_EQ(near.writes, 0);
    far.abort();
    ASSERT_TRUE(run_until([&] { return near.failed == 1; }));
    EXPECT_EQ(near.status.code, IoCode::reset) << near.status.to_string();
    EXPECT_EQ(near.writes, 0);
    near.close();
    EXPECT_TRUE(run_until([&] { return near.closed == 1 && far.closed == 1; }));
  }
}

TEST_P(IoConformance, ResetAfterClose) {
  Endpoint near(client()), far(server());
  join(near, far);
  near.close();
  far.abort();
  EXPECT_TRUE(run_until([&] { return near.closed == 1 && far.closed == 1; }));
  EXPECT_EQ(near.failed, 0);
}

TEST_P(IoConformance, CloseAndAbortWithOperationsInFlight) {
  for (const bool orderly : {true, false}) {
    for (const WriteMode mode : {WriteMode::copy, WriteMode::borrow}) {
      Endpoint near(client()), far(server());
      join(near, far);
      const Bytes sent = random_bytes(std::size_t{32} << 20U, 14);
      Bytes buffer(1000);
      near.read(buffer);
      near.write(sent, mode);
      harness_->settle();
      orderly ? near.close() : near.abort();
      // A second call changes nothing.
      orderly ? near.close() : near.abort();
      far.abort();
      ASSERT_TRUE(run_until([&] { return near.closed == 1 && far.closed == 1; }));
      EXPECT_EQ(near.reads + near.writes + near.failed, 0);
    }
  }
}

TEST_P(IoConformance, CloseBeforeTheCompletionIsDelivered) {
  Endpoint near(client()), far(server());
  join(near, far);
  const Bytes sent = random_bytes(100, 15);
  // Taken by the kernel at once perhaps, but the owner closes before it was told: on_closed ends the operation.
  near.write(sent);
  near.close();
  ASSERT_TRUE(run_until([&] { return near.closed == 1; }));
  EXPECT_EQ(near.writes, 0);
  far.abort();
  EXPECT_TRUE(run_until([&] { return far.closed == 1; }));
}

// Closes itself from within a callback.
class Quitter : public Endpoint {
 public:
  using Endpoint::Endpoint;

 protected:
  void after_read(std::size_t) override { close(); }
  void after_failed() override { abort(); }
};

TEST_P(IoConformance, CloseFromWithinCallbacks) {
  Quitter near(client()), far(server());
  join(near, far);
  Bytes at_near(1), at_far(1);
  near.read(at_near);
  far.read(at_far);
  const Bytes one(1);
  near.write(one);
  ASSERT_TRUE(run_until([&] { return near.closed == 1 && far.closed == 1; }));
  EXPECT_EQ(far.reads, 1);
  EXPECT_EQ(near.failed, 1);
}

TEST_P(IoConformance, AbortAfterFailure) {
  Endpoint near(client()), far(server());
  join(near, far);
  Bytes buffer(1);
  near.read(buffer);
  far.close();
  ASSERT_TRUE(run_until([&] { return near.failed == 1; }));
  near.abort();
  EXPECT_TRUE(run_until([&] { return near.closed == 1 && far.closed == 1; }));
}

TEST_P(IoConformance, ListenerCloses) {
  listen();
  const Address address = listener_->address();
  listener_->close();
  listener_ = nullptr;
  ASSERT_TRUE(run_until([&] { return harness_->open_handles() == 0; }));
  Endpoint near(client());
  near.connect(address);
  ASSERT_TRUE(run_until([&] { return near.failed == 1; }));
  EXPECT_EQ(near.status.code, IoCode::refused);
  near.close();
  EXPECT_TRUE(run_until([&] { return near.closed == 1; }));
  EXPECT_EQ(acceptor_.count, 0);
  // The port is free again.
  Result<Listener*> again = server().listen(address, {}, acceptor_);
  ASSERT_TRUE(again.ok()) << again.error().message;
  listener_ = *again;
}

TEST_P(IoConformance, PortInUseIsAClearError) {
  listen();
  Result<Listener*> second = server().listen(listener_->address(), {}, acceptor_);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find(listener_->address().to_string()), std::string::npos);
}

TEST_P(IoConformance, ThousandsOfConnections) {
  constexpr std::size_t kConnections = 2000;
  listen();
  std::vector<std::unique_ptr<Endpoint>> near, far;
  for (std::size_t i = 0; i < kConnections; ++i) {
    near.push_back(std::make_unique<Endpoint>(client()));
    far.push_back(std::make_unique<Endpoint>(server()));
    acceptor_.waiting.push_back(far.back().get());
    near.back()->connect(listener_->address());
  }
  const auto all = [](const auto& ends, auto member, int value) {
    return std::all_of(ends.begin(), ends.end(), [&](const auto& end) { return (*end).*member == value; });
  };
  ASSERT_TRUE(run_until([&] { return all(near, &Endpoint::connected, 1) && all(far, &Endpoint::connected, 1); }));
  // Everybody says its number and hears it back, whichever connection was accepted first.
  std::vector<std::array<std::byte, 8>> said(kConnections), heard(kConnections), answered(kConnections);
  for (std::size_t i = 0; i < kConnections; ++i) {
    std::memcpy(said[i].data(), &i, sizeof i);
    far[i]->read(heard[i]);
    near[i]->read(answered[i]);
    near[i]->write(said[i]);
  }
  ASSERT_TRUE(run_until([&] { return all(far, &Endpoint::reads, 1); }));
  for (std::size_t i = 0; i < kConnections; ++i) far[i]->write(heard[i]);
  ASSERT_TRUE(run_until([&] { return all(near, &Endpoint::reads, 1) && all(far, &Endpoint::writes, 1); }));
  EXPECT_EQ(answered, said);
  for (std::size_t i = 0; i < kConnections; ++i) {
    i % 2 == 0 ? near[i]->close() : near[i]->abort();
    i % 3 == 0 ? far[i]->abort() : far[i]->close();
  }
  ASSERT_TRUE(run_until([&] { return all(near, &Endpoint::closed, 1) && all(far, &Endpoint::closed, 1); }));
}

TEST_P(IoConformance, TimePassesOnlyBetweenTurns) {
  Io& io = client();
  const TimePoint start = io.now();
  EXPECT_EQ(io.now(), start);
  // Returns at once when the time has passed already, whatever else.
  io.run_once(start);
  EXPECT_GE(io.now(), start);
  const TimePoint before = io.now();
  EXPECT_EQ(io.now(), before);
}

TEST_P(IoConformance, WaitsAreNotCutShortNorForgotten) {
  if (!harness_->is_real()) return;  // simulated time never waits
  Io& io = client();
  for (const Duration wait : {Duration(std::chrono::microseconds(300)), Duration(std::chrono::microseconds(2500)),
                              Duration(std::chrono::milliseconds(20))}) {
    const TimePoint until = io.now() + wait;
    // An implementation may look around now and then, but neither gives up waiting nor spins.
    int turns = 0;
    for (; io.now() < until; ++turns) io.run_once(until);
    EXPECT_LE(turns, 20) << "nothing happened, so the wait lasts";
  }
}

TEST_P(IoConformance, WakeEndsTheWaitFromAnotherThread) {
  if (!harness_->is_real()) return;  // one thread runs a whole simulated network
  Io& io = client();
  for (int i = 0; i < 100; ++i) {
    std::atomic<bool> woken = false;
    std::thread waker([&] {
      woken = true;
      io.wake();
    });
    // Without the wake this would last for ever.
    while (!woken) io.run_once(kNever);
    waker.join();
    // The wake may have come after `woken` was seen; then it ends this wait instead.
    io.wake();
    io.run_once(kNever);
  }
}

TEST_P(IoConformance, WakeBeforeTheWaitCounts) {
  if (!harness_->is_real()) return;
  client().wake();
  client().run_once(kNever);
}

// Whoever connects costs a descriptor when the owner is told of it and not before, however many do: the owner decides
// who stays.
TEST_P(IoConformance, ConnectionsNobodyHasTakenYetCostNothing) {
  if (!harness_->is_real()) return;
  class Taker final : public ListenerEvents, public StreamEvents {
   public:
    void on_accepted(Stream& stream) override {
      stream.set_events(*this);
      taken.push_back(&stream);
      most_descriptors_each = std::max(most_descriptors_each, count_descriptors() - before - (taken.size() - 1));
    }
    void on_connected(Stream&) override {}
    void on_read(Stream&, std::size_t) override {}
    void on_written(Stream&) override {}
    void on_failed(Stream&, IoStatus) override {}
    void on_closed(Stream&) override { ++closed; }

    std::vector<Stream*> taken;
    std::size_t before = 0, most_descriptors_each = 0, closed = 0;
  } taker;
  Result<Listener*> listener = server().listen(harness_->listen_address(), {}, taker);
  ASSERT_TRUE(listener.ok());
  const Address address = (*listener)->address();
  std::vector<Descriptor> diallers;
  while (diallers.size() < 300) {
    diallers.emplace_back(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(diallers.back().get(), address.data(), address.size()), 0);
  }
  taker.before = count_descriptors();
  EXPECT_TRUE(run_until([&] { return taker.taken.size() == diallers.size(); }));
  EXPECT_EQ(taker.most_descriptors_each, 1U);
  for (Stream* stream : taker.taken) stream->abort();
  diallers.clear();
  (*listener)->close();
  EXPECT_TRUE(run_until([&] { return taker.closed == taker.taken.size(); }));
}

TEST_P(IoConformance, DestructionWithEverythingOpen) {
  listen();
  Endpoint near(client()), far(server());
  join(near, far);
  Bytes buffer(10);
  near.read(buffer);
  const Bytes sent = random_bytes(std::size_t{8} << 20U, 16);
  near.write(sent, WriteMode::borrow);
  // An owner that goes down with its loop gets no callbacks; nothing leaks (descriptors, and memory under ASan).
  harness_ = GetParam().make();
  listener_ = nullptr;
  near.stream = far.stream = nullptr;
}

INSTANTIATE_TEST_SUITE_P(AllBackends, IoConformance, testing::ValuesIn(harness_factories()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace papilio::transport
