// What only the libuv backend promises: its loop is there for others, and running out of descriptors is survived.
#include "transport/uv_io.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <memory>

#include "transport/socket.hpp"

namespace papilio::transport {
namespace {

TEST(UvIo, HandlesOfOthersRunInTheSameLoop) {
  const std::unique_ptr<Io> io = make_uv_io().value();
  uv_timer_t timer{};
  bool fired = false;
  uv_timer_init(io->event_loop(), &timer);
  timer.data = &fired;
  uv_timer_start(
      &timer, [](uv_timer_t* handle) { *static_cast<bool*>(handle->data) = true; }, 5, 0);
  while (!fired) io->run_once(kNever);
  bool closed = false;
  timer.data = &closed;
  uv_close(reinterpret_cast<uv_handle_t*>(&timer),
           [](uv_handle_t* handle) { *static_cast<bool*>(handle->data) = true; });
  while (!closed) io->run_once(kNever);
}

class Counter final : public StreamEvents, public ListenerEvents {
 public:
  void on_accepted(Stream& stream) override {
    ++accepted;
    stream.set_events(*this);
    stream.abort();
  }
  void on_connected(Stream&) override {}
  void on_read(Stream&, std::size_t) override {}
  void on_written(Stream&) override {}
  void on_failed(Stream& stream, IoStatus how) override {
    status = how;
    stream.close();
  }
  void on_closed(Stream&) override { ++closed; }
  int accepted = 0, closed = 0;
  IoStatus status;
};

// Lets no new descriptor be opened while it lives.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const Descriptor lowest(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const rlimit limit{.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  NoMoreDescriptors(const NoMoreDescriptors&) = delete;
  NoMoreDescriptors& operator=(const NoMoreDescriptors&) = delete;
  ~NoMoreDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(UvIo, OutOfDescriptorsRefusesAndRecovers) {
  const std::unique_ptr<Io> io = make_uv_io().value();
  Counter counter;
  const Result<Listener*> listener = io->listen(Address::parse("127.0.0.1:0").value(), {}, counter);
  ASSERT_TRUE(listener.ok());
  const Address address = (*listener)->address();
  // Once with descriptors to spare: accepted and aborted, seen as failed. (It also shows every type to UBSan, which
  // needs a descriptor to look at an object's type for the first time.)
  io->connect(address, {}, counter);
  while (counter.closed < 2) io->run_once(kNever);
  EXPECT_EQ(counter.accepted, 1);
  EXPECT_EQ(counter.status.code, IoCode::reset) << counter.status.to_string();
  counter = {};
  int error_number = 0;
  const Descriptor first = open_stream_socket(address, {}, error_number);
  const Descriptor second = open_stream_socket(address, {}, error_number);
  const auto reset_seen = [](const Descriptor& socket) {
    char byte = 0;
    return ::recv(socket.get(), &byte, 1, 0) < 0 && errno == ECONNRESET;
  };
  {
    const NoMoreDescriptors none;
    static_cast<void>(::connect(first.get(), address.data(), address.size()));
    while (!reset_seen(first)) io->run_once(io->now() + std::chrono::milliseconds(10));
    EXPECT_EQ(counter.accepted, 0);
    io->connect(address, {}, counter);
    while (counter.closed == 0) io->run_once(kNever);
    EXPECT_EQ(counter.status.code, IoCode::out_of_resources) << counter.status.to_string();
  }
  static_cast<void>(::connect(second.get(), address.data(), address.size()));
  while (counter.closed == 1) io->run_once(kNever);
  EXPECT_EQ(counter.accepted, 1);
  (*listener)->close();
  while (io->open_handles() > 0) io->run_once(kNever);
}

TEST(UvIo, IsWhatMakeIoGives) {
  std::string why;
  const Result<std::unique_ptr<Io>> io = make_io(IoBackend::uv, &why);
  ASSERT_TRUE(io.ok());
  EXPECT_EQ((*io)->name(), "uv");
  EXPECT_NE((*io)->event_loop(), nullptr);
  EXPECT_FALSE(why.empty());
}

}  // namespace
}  // namespace papilio::transport
