// What a device has under way, in batches, and what its owner may be told of them. The driver's word that a batch is
// done comes some time after its results, and after a failure it never comes, while what followed may already have
// overwritten older results. So a batch counts as done when its mark, which the device writes into pinned memory behind
// the results, and before any result of a later batch, is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "engine/base/result.hpp"
#include "kernels/device.h"

namespace papilio::kernels {

// Not thread-safe.
class BatchLedger {
 public:
  struct Batch {
    std::vector<Device::Task> tasks;
    std::uint32_t* mark = nullptr;  // not 0 once everything is there
    std::uint64_t number = 0;
  };
  // The mark is 0, or the device has set it since.
  void add(Batch batch);
  // Tells the owner of every batch whose mark is there. `fault_of(batch, task)`: of the payload of one of its tasks.
  template <typename FaultOf>
  void publish(FaultOf fault_of) {
    for (Entry& entry : entries_) {
      if (entry.published || !is_marked(entry.batch)) continue;
      for (std::size_t i = 0; i < entry.batch.tasks.size(); ++i) tell(entry.batch.tasks[i], fault_of(entry.batch, i));
      entry.published = true;
    }
  }
  [[nodiscard]] const Batch& first() const { return entries_.front().batch; }
  // It has ended, carried out or not: after publish().
  void drop_first() { entries_.pop_front(); }
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] std::size_t orders() const;

 private:
  struct Entry {
    Batch batch;
    bool published = false;  // its tasks' status words may be another's by now
  };
  [[nodiscard]] static bool is_marked(const Batch& batch);
  static void tell(const Device::Task& task, NumberFault fault);

  std::deque<Entry> entries_;
};

}  // namespace papilio::kernels
