#include "tools/node/signals.hpp"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

#include "engine/base/assert.hpp"

namespace papilio::tools {
namespace {

// Of the two seconds that Ctrl-C may take; the rest is for writing the results.
constexpr int kPatienceMs = 1700;

}  // namespace

SignalWatcher::SignalWatcher(std::function<void()> ask, std::function<void()> end_now)
    : ask_(std::move(ask)), end_now_(std::move(end_now)) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  PAPILIO_ASSERT(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  signals_ = ::signalfd(-1, &set, SFD_CLOEXEC);
  finished_ = ::eventfd(0, EFD_CLOEXEC);
  PAPILIO_ASSERT(signals_ >= 0 && finished_ >= 0);
  thread_ = std::thread([this] { watch(); });
}

SignalWatcher::~SignalWatcher() {
  const std::uint64_t one = 1;
  PAPILIO_ASSERT(::write(finished_, &one, sizeof(one)) == sizeof(one));
  thread_.join();
  ::close(signals_);
  ::close(finished_);
}

void SignalWatcher::watch() {
  int patience_ms = -1;  // for ever
  for (;;) {
    pollfd descriptors[2] = {{finished_, POLLIN, 0}, {signals_, POLLIN, 0}};
    const int ready = ::poll(descriptors, 2, patience_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (descriptors[0].revents != 0) return;
    if (patience_ms >= 0) return end_now_();  // a second signal, or time is up
    signalfd_siginfo information{};
    PAPILIO_ASSERT(::read(signals_, &information, sizeof(information)) == sizeof(information));
    patience_ms = kPatienceMs;
    ask_();
  }
}

}  // namespace papilio::tools
