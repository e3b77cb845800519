// A device that is none: a thread that carries orders out with the CPU's kernels, some time later, as a GPU would. With
// it, what is built on kernels/device.h can be tested where there is no GPU, failures included.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/device.h"

namespace papilio::kernels {

struct HostDeviceConfig {
  std::size_t lanes = 3;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  // The task with this number, counted from 0, is refused: as when memory runs out.
  std::uint64_t refuse_from = kNever;
  // The device is lost in the middle of this task, with half of its result transferred and the rest spoilt.
  std::uint64_t lose_at = kNever;
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
  void drain() override;

 private:
  void run();
  void lose(const Task& task);

  std::span<float> memory_;
  const HostDeviceConfig config_;
  std::function<void()> wake_;
  std::size_t pinned_bytes_left_;
  std::vector<std::unique_ptr<float[]>> pinned_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<Task>> tasks_;  // by lane
  std::uint64_t submitted_ = 0;
  std::uint64_t carried_out_ = 0;
  bool busy_ = false;
  bool lost_ = false;
  bool ending_ = false;
  std::thread thread_;  // last: it uses all the rest
};

}  // namespace papilio::kernels
