#include "kernels/order_queue.h"

#include <cstdint>

#include "engine/base/assert.hpp"

namespace papilio::kernels {
namespace {

using Kind = ChunkOrder::Kind;

enum class Way { load, encode, reduce };
Way way_of(Kind kind) {
  if (kind == Kind::load) return Way::load;
  return kind == Kind::encode || kind == Kind::finalise ? Way::encode : Way::reduce;
}

}  // namespace

std::size_t moved_bytes(const ChunkOrder& order) {
  switch (way_of(order.kind)) {
    case Way::load: break;
    case Way::encode: return encoded_bytes(order.codec, order.count);
    case Way::reduce: return order.in.size();
  }
  return order.count * sizeof(float);
}

void OrderQueue::push(const Device::Task& task) {
  PAPILIO_ASSERT_VALUES(task.lane < 64, task.lane, 64);
  tasks_.push_back(task);
  bytes_ += moved_bytes(task.order);
}

std::vector<Device::Task> OrderQueue::take() {
  std::vector<Device::Task> batch;
  std::uint64_t seen = 0;  // lanes of orders that are taken or left: what follows there has to wait
  std::size_t bytes = 0;
  std::erase_if(tasks_, [&](const Device::Task& task) {
    const std::uint64_t lane = std::uint64_t{1} << task.lane;
    const bool free = (seen & lane) == 0;
    seen |= lane;
    const std::size_t more = moved_bytes(task.order);
    if (!batch.empty()) {
      const ChunkOrder& first = batch.front().order;
      if (!free || batch.size() >= most_orders_ || bytes + more > most_bytes_ || task.order.codec != first.codec ||
          way_of(task.order.kind) != way_of(first.kind)) {
        return false;
      }
    }
    batch.push_back(task);
    bytes += more;
    return true;
  });
  bytes_ -= bytes;
  return batch;
}

void OrderQueue::clear() {
  tasks_.clear();
  bytes_ = 0;
}

}  // namespace papilio::kernels
