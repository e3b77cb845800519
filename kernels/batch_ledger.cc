#include "kernels/batch_ledger.h"

#include <atomic>
#include <utility>

namespace papilio::kernels {

void BatchLedger::add(Batch batch) { entries_.push_back({.batch = std::move(batch)}); }

std::size_t BatchLedger::orders() const {
  std::size_t orders = 0;
  for (const Entry& entry : entries_) orders += entry.batch.tasks.size();
  return orders;
}

bool BatchLedger::is_marked(const Batch& batch) {
  return std::atomic_ref<std::uint32_t>(*batch.mark).load(std::memory_order_acquire) != 0;
}

void BatchLedger::tell(const Device::Task& task, NumberFault fault) {
  std::atomic_ref<std::uint32_t>(*task.status)
      .store(Device::kTaskDone | static_cast<std::uint32_t>(fault), std::memory_order_release);
}

}  // namespace papilio::kernels
