// What io_uring adds to the rules of transport/io.hpp: libuv's loop inside its wait, zero-copy sends towards other
// hosts, and saying why it cannot run.
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <thread>
#include <vector>

#include "engine/base/random.hpp"
#include "transport/uring_io.hpp"

namespace papilio::transport {
namespace {

std::unique_ptr<Io> uring_or_null() {
  Result<std::unique_ptr<Io>> io = make_uring_io();
  return io ? std::move(*io) : nullptr;
}

// An address of this machine outside 127.0.0.0/8, so that it counts as another host; loopback where there is none.
Address own_address() {
  Address found = Address::parse("127.0.0.1:0").value();
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    const Address address = Address::from_socket(one->ifa_addr, sizeof(sockaddr_in));
    if (!address.is_local_host()) found = address;
  }
  ::freeifaddrs(all);
  return found;
}

// Takes whatever comes and counts it.
class End final : public StreamEvents, public ListenerEvents {
 public:
  void on_accepted(Stream& accepted) override {
    stream = &accepted;
    accepted.set_events(*this);
  }
  void on_connected(Stream&) override { connected = true; }
  void on_read(Stream&, std::size_t) override { ++reads; }
  void on_written(Stream&) override { ++writes; }
  void on_failed(Stream&, IoStatus status) override { failure = status; }
  void on_closed(Stream&) override { stream = nullptr; }

  Stream* stream = nullptr;
  bool connected = false;
  int reads = 0, writes = 0;
  IoStatus failure;
};

template <typename Predicate>
bool run_until(Io& io, Predicate predicate) {
  const TimePoint bound = io.now() + std::chrono::seconds(60);
  while (!predicate() && io.now() < bound) io.run_once(bound);
  return predicate();
}

TEST(UringIo, TurnsTheEventLoop) {
  const auto io = uring_or_null();
  if (io == nullptr) return;  // automatic says why, see below
  std::array<int, 3> fired{};
  uv_timer_t timer{};
  uv_async_t async{};
  uv_signal_t signal{};
  timer.data = async.data = signal.data = &fired;
  ASSERT_EQ(uv_timer_init(io->event_loop(), &timer), 0);
  ASSERT_EQ(
      uv_async_init(io->event_loop(), &async, [](uv_async_t* h) { ++(*static_cast<std::array<int, 3>*>(h->data))[1]; }),
      0);
  ASSERT_EQ(uv_signal_init(io->event_loop(), &signal), 0);
  uv_timer_start(
      &timer, [](uv_timer_t* h) { ++(*static_cast<std::array<int, 3>*>(h->data))[0]; }, 3, 0);
  ASSERT_TRUE(run_until(*io, [&] { return fired[0] == 1; }));
  for (int i = 1; i <= 50; ++i) {
    std::thread other([&] { uv_async_send(&async); });
    EXPECT_TRUE(run_until(*io, [&] { return fired[1] == i; }));
    other.join();
  }
  // Started outside of libuv's callbacks, in the middle of the loop's life.
  uv_signal_start(
      &signal, [](uv_signal_t* h, int) { ++(*static_cast<std::array<int, 3>*>(h->data))[2]; }, SIGUSR1);
  ::raise(SIGUSR1);
  ASSERT_TRUE(run_until(*io, [&] { return fired[2] == 1; }));
  uv_close(reinterpret_cast<uv_handle_t*>(&timer), nullptr);
  uv_close(reinterpret_cast<uv_handle_t*>(&async), nullptr);
  uv_close(reinterpret_cast<uv_handle_t*>(&signal), nullptr);
}

// A descriptor that its callback does not empty has to be reported again: the wait looks at states, not at edges.
TEST(UringIo, EventLoopIsLevelTriggered) {
  const auto io = uring_or_null();
  if (io == nullptr) return;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "abc", 3), 3);
  int count = 0;
  uv_poll_t poll{};
  poll.data = &count;
  ASSERT_EQ(uv_poll_init(io->event_loop(), &poll, ends[0]), 0);
  uv_poll_start(&poll, UV_READABLE, [](uv_poll_t* h, int, int) { ++*static_cast<int*>(h->data); });
  EXPECT_TRUE(run_until(*io, [&] { return count >= 5; }));
  uv_close(reinterpret_cast<uv_handle_t*>(&poll), nullptr);
  io->run_once(io->now());
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(UringIo, MadeInOneThreadAndRunInAnother) {
  auto io = uring_or_null();
  if (io == nullptr) return;
  End server, client;
  Result<Listener*> listener = io->listen(Address::parse("127.0.0.1:0").value(), {}, server);
  ASSERT_TRUE(listener.ok());
  client.stream = &io->connect((*listener)->address(), {}, client);
  std::thread([&] {
    EXPECT_TRUE(run_until(*io, [&] { return client.connected && server.stream != nullptr; }));
  }).join();
  io.reset();  // with everything open, from a thread that may not use the ring
}

// Borrowed payloads to another host: zero-copy sends, and, as this host's own interfaces copy, the return to plain
// ones.
TEST(UringIo, BorrowedPayloadsToOtherHosts) {
  const auto io = uring_or_null();
  if (io == nullptr) return;
  End server, client;
  Result<Listener*> listener = io->listen(own_address(), {}, server);
  ASSERT_TRUE(listener.ok()) << listener.error().message;
  client.stream = &io->connect((*listener)->address(), {.send_buffer_bytes = 65536}, client);
  ASSERT_TRUE(run_until(*io, [&] { return client.connected && server.stream != nullptr; }));
  Random random(1);
  std::vector<std::byte> header(40), sent(3000001), at_server(header.size() + sent.size());
  for (int i = 1; i <= 6; ++i) {
    for (std::byte& byte : sent) byte = static_cast<std::byte>(random.next());
    for (std::byte& byte : header) byte = static_cast<std::byte>(i);
    const std::array<WriteBuffer, 2> buffers{WriteBuffer(header), WriteBuffer(sent)};
    client.stream->write(i == 2 ? std::span(buffers).last(1) : std::span(buffers), WriteMode::borrow);
    const std::size_t headers = i == 2 ? 0 : header.size();
    const ReadBuffer into(at_server.data(), headers + sent.size());
    server.stream->read({&into, 1}, into.size());
    ASSERT_TRUE(run_until(*io, [&] { return client.writes == i && server.reads == i; })) << client.failure.to_string();
    EXPECT_TRUE(std::equal(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(headers), at_server.begin()));
    EXPECT_TRUE(std::equal(sent.begin(), sent.end(), at_server.begin() + static_cast<std::ptrdiff_t>(headers)));
  }
  const StreamInfo info = client.stream->info();
  EXPECT_EQ(info.bytes_sent, 6 * sent.size() + 5 * header.size());
  (*listener)->close();
  client.stream->close();
  server.stream->close();
  EXPECT_TRUE(run_until(*io, [&] { return io->open_handles() == 0; }));
}

// on_closed has to come although the kernel holds pages of a peer that reads nothing.
TEST(UringIo, EndsWithBorrowedPayloadOnItsWay) {
  for (const bool orderly : {false, true}) {
    for (const bool first_write : {true, false}) {
      const auto io = uring_or_null();
      if (io == nullptr) return;
      End server, client;
      Result<Listener*> listener = io->listen(own_address(), {}, server);
      ASSERT_TRUE(listener.ok()) << listener.error().message;
      client.stream = &io->connect((*listener)->address(), {.send_buffer_bytes = 65536}, client);
      ASSERT_TRUE(run_until(*io, [&] { return client.connected && server.stream != nullptr; }));
      const std::vector<std::byte> sent(std::size_t{32} << 20U);
      const WriteBuffer small(sent.data(), 65536), large(sent);
      client.stream->write({first_write ? &large : &small, 1}, WriteMode::borrow);
      const TimePoint end = io->now() + std::chrono::milliseconds(20);
      while (io->now() < end) io->run_once(end);
      orderly ? client.stream->close() : client.stream->abort();
      EXPECT_TRUE(run_until(*io, [&] { return client.stream == nullptr; }));
      server.stream->abort();
      (*listener)->close();
      EXPECT_TRUE(run_until(*io, [&] { return io->open_handles() == 0; }));
    }
  }
}

// In a child, because a filter stays for the rest of a process's life. 0: everything as it should be.
int run_without_io_uring(int error_number) {
  const auto denial = SECCOMP_RET_ERRNO | static_cast<unsigned>(error_number);
  std::array<sock_filter, 4> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, denial),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
    return 1;
  const Result<std::unique_ptr<Io>> asked = make_io(IoBackend::uring, nullptr);
  if (asked.ok() || asked.error().message.find("io_uring") == std::string::npos) return 2;
  std::string why;
  Result<std::unique_ptr<Io>> automatic = make_io(IoBackend::automatic, &why);
  if (!automatic.ok() || (*automatic)->name() != "uv") return 3;
  return why.find("libuv") == 0 && why.find('\n') == std::string::npos && why.find("io_uring") != std::string::npos ? 0
                                                                                                                    : 4;
}

TEST(MakeIo, AutomaticFallsBackToLibuvAndSaysWhy) {
  for (const int error_number : {EPERM, ENOSYS, EINVAL, ENOMEM}) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(run_without_io_uring(error_number));
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << "with error " << error_number;
  }
}

TEST(MakeIo, SaysWhatWasTaken) {
  for (const IoBackend backend : {IoBackend::automatic, IoBackend::uv}) {
    std::string why;
    const Result<std::unique_ptr<Io>> io = make_io(backend, &why);
    ASSERT_TRUE(io.ok()) << io.error().message;
    EXPECT_NE(why.find((*io)->name() == "uv" ? "libuv" : "io_uring"), std::string::npos) << why;
  }
}

}  // namespace
}  // namespace papilio::transport
