// A device that is none: a thread that carries orders out with the CPU's kernels, some time later, as a GPU would. With
// it, what is built on kernels/device.h can be tested where there is no GPU, failures included.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/batch_ledger.h"
#include "kernels/device.h"

namespace papilio::kernels {

struct HostDeviceConfig {
  std::size_t lanes = 3;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  // The task with this number, counted from 0, is refused: as when memory runs out.
  std::uint64_t refuse_from = kNever;
  // The device is lost in the middle of this task, with half of its result transferred and the rest spoilt.
  std::uint64_t lose_at = kNever;
  // The device begins this task, has written half of a result that is none, and says nothing more, until resume() if
  // ever.
  std::uint64_t stall_at = kNever;
  // So many tasks more are carried out before the owner hears of one, unless the device has nothing else to do.
  std::size_t notices_late = 0;
  // As for refuse_from: bytes of pinned memory that there are.
  std::size_t pinned_bytes = ~std::size_t{0};
};

class HostDevice final : public Device {
 public:
  // `memory` plays the memory of the device: it holds the gradient, and outlives this.
  HostDevice(std::span<float> memory, HostDeviceConfig config, std::function<void()> wake);
  ~HostDevice() override;

  [[nodiscard]] std::string describe() const override { return "a thread that stands in for a device"; }
  [[nodiscard]] std::size_t lanes() const override { return config_.lanes; }
  Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override;
  Status submit(const Task& task) override;
  [[nodiscard]] std::optional<Error> failure() const override;
  bool drain(Duration limit) override;
  Status follow(void*) override { return Done{}; }
  void notice() override;
  void silence() override;
  [[nodiscard]] std::string state() const override;

  // From any thread: the stall is over, and the device goes on as if nothing had been.
  void resume();
  // Returns when nothing is under way, as drain() does, without a limit.
  void wait_until_idle();
  void wait_until_stalled();

 private:
  [[nodiscard]] bool is_idle() const;  // under the lock
  void run();
  void lose(const Task& task);
  void publish();  // under the lock

  std::span<float> memory_;
  const HostDeviceConfig config_;
  std::function<void()> wake_;
  std::size_t pinned_bytes_left_;
  std::vector<std::unique_ptr<float[]>> pinned_;

  std::mutex wake_mutex_;  // held while the owner is being woken
  bool silent_ = false;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<Task>> tasks_;  // by lane
  struct Outcome {
    std::uint32_t mark = 0;
    NumberFault fault = NumberFault::none;
  };
  std::deque<Outcome> outcomes_;  // of the ledger's tasks, each a batch of its own
  BatchLedger ledger_;
  std::uint64_t submitted_ = 0;
  std::uint64_t carried_out_ = 0;
  bool busy_ = false;
  bool stalled_ = false;
  bool may_stall_ = true;
  bool lost_ = false;
  bool ending_ = false;
  std::thread thread_;  // last: it uses all the rest
};

}  // namespace papilio::kernels
