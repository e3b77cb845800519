// Ctrl-C has to end the process cleanly, and within two seconds even while LibTorch is in the middle of a long
// computation that nothing can interrupt. A thread of its own takes the signals: the first asks for a clean end, and if
// the process is still there shortly after, or a second signal comes, it is ended as it is.
#pragma once

#include <functional>
#include <thread>

namespace papilio::tools {

// At most one at a time in a process.
class SignalWatcher {
 public:
  // Takes SIGINT and SIGTERM over. `ask` is called once, at the first signal; `end_now` when patience is over, and must
  // not return. Both run on the watcher's thread.
  SignalWatcher(std::function<void()> ask, std::function<void()> end_now);
  // The signals do what they did before.
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void watch();

  std::function<void()> ask_, end_now_;
  int finished_ = -1;  // eventfd, written by the destructor
  std::thread thread_;
};

}  // namespace papilio::tools
