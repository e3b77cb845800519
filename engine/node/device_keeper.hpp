// The gradient on a device from round to round, as the trainer's thread sees it: brings what the device has computed
// into the host copy, before the round begins and not in it, because a round has a deadline and the computation of a
// gradient has none. What was made for the device (pinned memory, streams) is kept for the next round.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/node/node.hpp"
#include "kernels/device.h"

namespace papilio::node {

// Not thread-safe: one thread at a time, and none while a round works on the gradient.
class DeviceKeeper {
 public:
  // `wake` may be called from any thread, for as long as the device lives.
  using Maker = std::function<Result<std::unique_ptr<kernels::Device>>(const DeviceSpan&, std::function<void()> wake)>;
  struct Patience {
    Duration load = std::chrono::seconds(60);  // includes what is left of the gradient's computation
    // The device has nothing else to do then, and what waits for it here is not to look stalled to the others
    // (LatenessConfig::stall_grace).
    Duration round = std::chrono::seconds(1);
  };
  // `wake`: for who drives rounds.
  DeviceKeeper(Maker maker, std::function<void()> wake) : DeviceKeeper(std::move(maker), std::move(wake), Patience{}) {}
  DeviceKeeper(Maker maker, std::function<void()> wake, Patience patience);

  // Blocks until the host copy is the gradient. Valid until the next call.
  Result<kernels::DeviceGradient*> load(const DeviceSpan& span);

 private:
  Result<std::unique_ptr<kernels::DeviceGradient>> make(const DeviceSpan& span);
  Status wait_until_loaded();

  const Maker maker_;
  const std::function<void()> wake_;
  const Patience patience_;
  DeviceSpan span_;

  std::mutex mutex_;
  std::condition_variable rung_;
  std::uint64_t times_rung_ = 0;
  std::unique_ptr<kernels::DeviceGradient> gradient_;  // last: its device rings
};

}  // namespace papilio::node
