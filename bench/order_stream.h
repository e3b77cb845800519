// The owner of a gradient on a device, as plain as can be: gives orders, sleeps until it is woken, takes what is done.
// The benchmarks of the GPU's pipeline run on it, and the tests see to it that it always ends.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "kernels/device.h"

namespace papilio::bench {

inline TimePoint time_now() { return TimePoint(std::chrono::steady_clock::now().time_since_epoch()); }

// Counts wake-ups.
class Bell {
 public:
  void ring() {
    {
      const std::lock_guard lock(mutex_);
      rung_ += 1;
    }
    changed_.notify_all();
  }
  std::uint64_t rung() {
    const std::lock_guard lock(mutex_);
    return rung_;
  }
  void wait_for_more_than(std::uint64_t rung, TimePoint until) {
    const auto more = [&] { return rung_ > rung; };
    std::unique_lock lock(mutex_);
    if (until == kNever) {
      changed_.wait(lock, more);
    } else {
      changed_.wait_until(lock, std::chrono::steady_clock::time_point(until.time_since_epoch()), more);
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t rung_ = 0;
};

// Carries `total` orders through, at most so many at a time: order_of(0), order_of(1) and so on. An error if one is
// refused, or if the device fails or stops: never waits for longer than the gradient's patience.
inline Status carry_through(kernels::DeviceGradient& gradient, Bell& bell, std::size_t total,
                            std::size_t most_under_way,
                            const std::function<kernels::ChunkOrder(std::size_t)>& order_of) {
  std::size_t next = 0, done = 0;
  while (true) {
    const std::uint64_t rung = bell.rung();
    for (const kernels::ChunkCompletion& each : gradient.take_completions(time_now())) {
      if (each.fault != kernels::NumberFault::none) {
        return runtime_error("order " + std::to_string(each.tag) + " was refused");
      }
      done += 1;
    }
    if (gradient.failure()) return *gradient.failure();
    // Nobody rings for what has been taken already.
    if (done == total) return Done{};
    while (gradient.in_flight() < most_under_way && next < total) gradient.submit(time_now(), order_of(next++));
    if (!gradient.failure()) bell.wait_for_more_than(rung, gradient.deadline());
  }
}

}  // namespace papilio::bench
