#include "tools/node/signals.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

#include "engine/base/assert.hpp"

namespace papilio::tools {
namespace {

// Of the two seconds that Ctrl-C may take; the rest is for writing the results and for a busy machine.
constexpr int kPatienceMs = 1400;

// Handlers and an eventfd rather than blocked signals and a signalfd: OpenBLAS starts threads while it is being loaded,
// before main() could block anything for them, and a signal that meets such a thread would end the process.
std::atomic<int> signals_descriptor{-1};
static_assert(std::atomic<int>::is_always_lock_free);

void tell(int descriptor) {
  const std::uint64_t one = 1;
  // Only a full counter could refuse it, and then there is news to be read already.
  [[maybe_unused]] const ssize_t written = ::write(descriptor, &one, sizeof(one));
}

void on_signal(int) {
  const int error_number = errno;
  tell(signals_descriptor.load());
  errno = error_number;
}

void set_handlers(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM}) PAPILIO_ASSERT(::sigaction(signal, &action, nullptr) == 0);
}

}  // namespace

SignalWatcher::SignalWatcher(std::function<void()> ask, std::function<void()> end_now)
    : ask_(std::move(ask)), end_now_(std::move(end_now)), finished_(::eventfd(0, EFD_CLOEXEC)) {
  const int descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  PAPILIO_ASSERT(descriptor >= 0 && finished_ >= 0);
  PAPILIO_ASSERT(signals_descriptor.exchange(descriptor) == -1);
  set_handlers(on_signal);
  thread_ = std::thread([this] { watch(); });
}

SignalWatcher::~SignalWatcher() {
  set_handlers(SIG_DFL);
  tell(finished_);
  thread_.join();
  ::close(finished_);
  ::close(signals_descriptor.exchange(-1));
}

void SignalWatcher::watch() {
  const int signals = signals_descriptor.load();
  int patience_ms = -1;  // for ever
  for (;;) {
    pollfd descriptors[2] = {{finished_, POLLIN, 0}, {signals, POLLIN, 0}};
    if (::poll(descriptors, 2, patience_ms) < 0) continue;  // interrupted
    if (descriptors[0].revents != 0) return;
    if (patience_ms >= 0) return end_now_();  // a second signal, or time is up
    std::uint64_t count = 0;
    PAPILIO_ASSERT(::read(signals, &count, sizeof(count)) == sizeof(count));
    patience_ms = kPatienceMs;
    ask_();
  }
}

}  // namespace papilio::tools
