// Ctrl-C has to end the process cleanly, and within two seconds even while LibTorch is in the middle of a long
// computation that nothing can interrupt. A thread of its own takes the signals: the first asks for a clean end, and if
// the process is still there shortly after, or a second signal comes, it is ended as it is.
#pragma once

#include <functional>
#include <thread>

namespace papilio::tools {

class SignalWatcher {
 public:
  // Blocks SIGINT and SIGTERM in this thread and all that it starts from now on: make it before any other thread.
  // `ask` is called once, at the first signal; `end_now` when patience is over, and must not return.
  SignalWatcher(std::function<void()> ask, std::function<void()> end_now);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void watch();

  std::function<void()> ask_, end_now_;
  int signals_ = -1;   // signalfd
  int finished_ = -1;  // eventfd, written by the destructor
  std::thread thread_;
};

}  // namespace papilio::tools
