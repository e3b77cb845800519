// Orders on their way to a device that is given many at a time: which of them go together. Apart from the device
// because it needs no GPU, and because the order in which orders are carried out hangs on it.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "kernels/device.h"

namespace papilio::kernels {

class OrderQueue {
 public:
  // Of one batch. A single order may have more bytes.
  OrderQueue(std::size_t most_bytes, std::size_t most_orders) : most_bytes_(most_bytes), most_orders_(most_orders) {}

  void push(const Device::Task& task);
  // The first order, and all behind it that can be carried out together with it: done in the same way, and each alone
  // in its lane. What is left behind stays in order.
  std::vector<Device::Task> take();
  [[nodiscard]] bool empty() const { return tasks_.empty(); }
  [[nodiscard]] std::size_t size() const { return tasks_.size(); }
  // Waiting for more would make no larger batch.
  [[nodiscard]] bool has_a_full_batch() const { return bytes_ >= most_bytes_ || tasks_.size() >= most_orders_; }
  void clear();

 private:
  const std::size_t most_bytes_;
  const std::size_t most_orders_;
  std::deque<Device::Task> tasks_;
  std::size_t bytes_ = 0;
};

// Bytes that the order moves in the direction that its kind needs.
[[nodiscard]] std::size_t moved_bytes(const ChunkOrder& order);

}  // namespace papilio::kernels
