// Addresses, status texts, and the sender that passes payloads by reference.
#include "transport/socket.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::transport {
namespace {

using Bytes = std::vector<std::byte>;

TEST(Address, ReadsAndWritesTheSameText) {
  for (const char* text :
       {"127.0.0.1:31337", "0.0.0.0:0", "[::1]:65535", "[2001:db8::1]:80", "sim/7:31337", "sim/4294967295:1"}) {
    const Result<Address> address = Address::parse(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_EQ(address->to_string(), text);
  }
  EXPECT_EQ(Address::parse("sim/7:31337").value(), Address::simulated(7, 31337));
  EXPECT_EQ(Address::parse("localhost:5").value().port(), 5);
  EXPECT_EQ(Address().to_string(), "(no address)");
}

TEST(Address, RefusalsNameTheTextAndTheForm) {
  // Longer than a label may be, so that no name server is asked.
  const std::string no_host = std::string(70, 'x') + ":80";
  for (const char* text : {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:80x",
                           "127.0.0.1: 80", "::1:80", ":80", "[]:80", "sim/x:1", "sim/4294967296:1", no_host.c_str()}) {
    const Result<Address> address = Address::parse(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.error().kind, ErrorKind::usage);
    EXPECT_NE(address.error().message.find(std::string("'").append(text).append("'")), std::string::npos);
    EXPECT_NE(address.error().message.find("ADDRESS:PORT"), std::string::npos);
  }
}

TEST(Address, KnowsTheLocalHost) {
  for (const char* text : {"127.0.0.1:1", "127.200.3.4:1", "[::1]:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_TRUE(Address::parse(text).value().is_local_host()) << text;
  }
  for (const char* text : {"128.0.0.1:1", "0.0.0.0:1", "[::2]:1", "[::ffff:10.0.0.1]:1", "sim/127:1"}) {
    EXPECT_FALSE(Address::parse(text).value().is_local_host()) << text;
  }
}

TEST(IoStatus, NamesWhatHappened) {
  EXPECT_EQ(IoStatus::from_errno(0).code, IoCode::ok);
  EXPECT_EQ(IoStatus::from_errno(ECONNRESET).code, IoCode::reset);
  EXPECT_EQ(IoStatus::from_errno(EPIPE).code, IoCode::reset);
  EXPECT_EQ(IoStatus::from_errno(ECONNREFUSED).code, IoCode::refused);
  EXPECT_EQ(IoStatus::from_errno(EHOSTUNREACH).code, IoCode::unreachable);
  EXPECT_EQ(IoStatus::from_errno(ETIMEDOUT).code, IoCode::timed_out);
  EXPECT_EQ(IoStatus::from_errno(EMFILE).code, IoCode::out_of_resources);
  EXPECT_EQ(IoStatus::from_errno(EBADF).code, IoCode::failed);
  EXPECT_EQ((IoStatus{IoCode::closed_by_peer, 0}).to_string(), "closed by the peer");
  EXPECT_EQ(IoStatus::from_errno(ECONNREFUSED).to_string(), "connection refused (Connection refused)");
}

TEST(Sockets, ListeningErrorsNameAddressReasonAndRemedy) {
  Address bound;
  const Address any = Address::parse("127.0.0.1:0").value();
  const Result<Descriptor> first = open_listening_socket(any, {}, bound);
  ASSERT_TRUE(first.ok());
  const Result<Descriptor> second = open_listening_socket(bound, {}, bound);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().message, "cannot listen on " + bound.to_string() +
                                        ": Address already in use; stop the program that listens there or choose "
                                        "another port");
  const Result<Descriptor> foreign = open_listening_socket(Address::parse("192.0.2.1:0").value(), {}, bound);
  ASSERT_FALSE(foreign.ok());
  EXPECT_NE(foreign.error().message.find("192.0.2.1:0"), std::string::npos);
  const Result<Descriptor> control = open_listening_socket(any, {.congestion_control = "no-such-thing"}, bound);
  ASSERT_FALSE(control.ok());
  EXPECT_EQ(control.error().kind, ErrorKind::usage);
  EXPECT_NE(control.error().message.find("'no-such-thing'"), std::string::npos);
  EXPECT_FALSE(open_listening_socket(Address::simulated(1, 1), {}, bound).ok());
}

TEST(Sockets, OptionsTakeEffect) {
  int error_number = 0;
  const SocketOptions options{.congestion_control = "cubic",
                              .send_buffer_bytes = 100000,
                              .receive_buffer_bytes = 90000,
                              .unsent_low_water_bytes = 16384};
  const Descriptor socket = open_stream_socket(Address::parse("127.0.0.1:1").value(), options, error_number);
  ASSERT_TRUE(socket.valid()) << error_number;
  const auto option = [&](int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    EXPECT_EQ(::getsockopt(socket.get(), level, name, &value, &length), 0);
    return value;
  };
  EXPECT_EQ(option(IPPROTO_TCP, TCP_NODELAY), 1);
  // The kernel doubles what it is asked for, to pay for its own bookkeeping.
  EXPECT_EQ(option(SOL_SOCKET, SO_SNDBUF), 200000);
  EXPECT_EQ(option(SOL_SOCKET, SO_RCVBUF), 180000);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_NOTSENT_LOWAT), 16384);
  EXPECT_NE(::fcntl(socket.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(socket.get(), F_GETFD) & FD_CLOEXEC, 0);
}

// A sender on one side of a loopback connection; the other side reads when told to.
class SplicedPair : public testing::Test {
 protected:
  void SetUp() override {
    Address bound;
    const SocketOptions small{.send_buffer_bytes = 100000, .receive_buffer_bytes = 100000};
    Descriptor listener = std::move(open_listening_socket(Address::parse("127.0.0.1:0").value(), small, bound)).value();
    int error_number = 0;
    socket_ = open_stream_socket(bound, small, error_number);
    ASSERT_TRUE(::connect(socket_.get(), bound.data(), bound.size()) == 0 || errno == EINPROGRESS);
    peer_ = Descriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    ASSERT_TRUE(peer_.valid());
    Random random(1);
    payload_.resize(3'000'001);
    for (std::byte& byte : payload_) byte = static_cast<std::byte>(random.next());
  }

  void start(bool by_reference) {
    const WriteBuffer buffers[] = {std::span(header_), {}, std::span(payload_)};
    sender_.start(buffers, by_reference);
  }
  void expect_one_message_more() {
    expected_.insert(expected_.end(), header_.begin(), header_.end());
    expected_.insert(expected_.end(), payload_.begin(), payload_.end());
  }
  void drain() {
    std::array<std::byte, 65536> buffer;
    for (ssize_t count = 0; (count = ::read(peer_.get(), buffer.data(), buffer.size())) > 0;) {
      received_.insert(received_.end(), buffer.begin(), buffer.begin() + count);
    }
  }
  void send_all(bool by_reference) {
    start(by_reference);
    SpliceSender::Progress progress{};
    while ((progress = sender_.advance(socket_.get())) == SpliceSender::Progress::blocked) drain();
    ASSERT_EQ(progress, SpliceSender::Progress::done);
    expect_one_message_more();
  }
  void drain_all() {
    for (int i = 0; i < 1'000'000 && received_.size() < expected_.size(); ++i) drain();
    EXPECT_TRUE(received_ == expected_);
  }

  Descriptor socket_, peer_;
  SpliceSender sender_;
  Bytes payload_, received_, expected_;
  Bytes header_ = Bytes(100, std::byte{7});
};

TEST_F(SplicedPair, PassesPayloadsByReference) {
  for (int i = 0; i < 3; ++i) {
    send_all(true);
    send_all(false);
  }
  drain_all();
  EXPECT_FALSE(sender_.fell_back_to_copy());
  EXPECT_EQ(sender_.spliced_bytes(), 3 * payload_.size());
}

TEST_F(SplicedPair, CopiesForGoodWhereNoPipeCanBeHad) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  start(true);
  // Locals only while no descriptor can be had: sanitizers need some to look at objects.
  SpliceSender& sender = sender_;
  const int socket = socket_.get();
  ::setrlimit(RLIMIT_NOFILE, &none);
  const SpliceSender::Progress progress = sender.advance(socket);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(progress, SpliceSender::Progress::blocked);
  while (sender_.advance(socket_.get()) == SpliceSender::Progress::blocked) drain();
  expect_one_message_more();
  send_all(true);
  drain_all();
  EXPECT_TRUE(sender_.fell_back_to_copy());
  EXPECT_EQ(sender_.spliced_bytes(), 0U);
}

TEST_F(SplicedPair, CancelLeavesAFreshSender) {
  start(true);
  ASSERT_EQ(sender_.advance(socket_.get()), SpliceSender::Progress::blocked);
  sender_.cancel();
  EXPECT_TRUE(sender_.idle());
  drain();
  // What was taken of the first message lies before the second one.
  std::array<std::byte, 1> probe;
  EXPECT_EQ(::recv(peer_.get(), probe.data(), probe.size(), MSG_DONTWAIT), -1);
  received_.clear();
  send_all(true);
  drain_all();
}

TEST_F(SplicedPair, APeerThatWentAwayIsAnError) {
  start(true);
  ASSERT_EQ(sender_.advance(socket_.get()), SpliceSender::Progress::blocked);
  reset_on_close(peer_.get());
  peer_.reset();
  EXPECT_EQ(sender_.advance(socket_.get()), SpliceSender::Progress::failed);
  EXPECT_EQ(IoStatus::from_errno(sender_.error_number()).code, IoCode::reset);
  // Once more, on a socket that already told its error: no signal ends the process.
  EXPECT_EQ(sender_.advance(socket_.get()), SpliceSender::Progress::failed);
  sender_.cancel();
}

TEST_F(SplicedPair, ReaderFillsBuffersInOrderAcrossPieces) {
  Bytes first(5), second(4);
  const ReadBuffer buffers[] = {first, {}, second};
  ScatterReader reader;
  reader.start(buffers, 6);
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::blocked);
  EXPECT_EQ(reader.latest_bytes(), 0U);
  const auto send_letters = [&](const char* letters) {
    ASSERT_EQ(::send(socket_.get(), letters, std::strlen(letters), 0), static_cast<ssize_t>(std::strlen(letters)));
    pollfd readable{.fd = peer_.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&readable, 1, 20'000), 1);
  };
  send_letters("abc");
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::partial);
  EXPECT_TRUE(reader.drained_socket());
  send_letters("defg");
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::done) << "at least 6 of 9";
  EXPECT_EQ(reader.received_bytes(), 7U);
  EXPECT_EQ(reader.latest_bytes(), 4U);
  EXPECT_EQ(std::memcmp(first.data(), "abcde", 5), 0);
  EXPECT_EQ(std::memcmp(second.data(), "fg", 2), 0);

  reader.start(buffers, 9);
  send_letters("0123456789");
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::done);
  EXPECT_FALSE(reader.drained_socket()) << "one more may be waiting";
  EXPECT_EQ(std::memcmp(second.data(), "5678", 4), 0);

  socket_.reset();
  reader.start(buffers, 9);
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::partial);
  EXPECT_EQ(reader.advance(peer_.get()), ScatterReader::Progress::ended);
}

TEST(Borrowing, PaysForLargePayloadsOnThisHostOnly) {
  EXPECT_TRUE(pays_to_borrow(true, WriteMode::borrow, kMinimumBorrowBytes));
  EXPECT_FALSE(pays_to_borrow(true, WriteMode::borrow, kMinimumBorrowBytes - 1));
  EXPECT_FALSE(pays_to_borrow(false, WriteMode::borrow, kMinimumBorrowBytes));
  EXPECT_FALSE(pays_to_borrow(true, WriteMode::copy, kMinimumBorrowBytes));
}

}  // namespace
}  // namespace papilio::transport
