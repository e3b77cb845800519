#include "kernels/host_device.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "kernels/ops.h"

namespace papilio::kernels {
namespace {

using Kind = ChunkOrder::Kind;

NumberFault carry_out(const ChunkOrder& order, std::span<float> values) {
  switch (order.kind) {
    case Kind::load:
    case Kind::upload: return NumberFault::none;  // the latter comes as a write
    case Kind::encode: kernels::encode(order.codec, values, order.out); return NumberFault::none;
    case Kind::accumulate:
      return kernels::accumulate_checked(values, order.own_scale, order.weight, order.codec, order.in,
                                         order.inverse_total, order.limit);
    case Kind::finalise:
      if (order.out.empty()) {
        kernels::finalise(values, order.inverse_total);
      } else {
        kernels::finalise_and_encode(values, order.inverse_total, order.codec, order.out);
      }
      return NumberFault::none;
    case Kind::write: return kernels::decode(order.codec, order.in, values, order.limit);
  }
  return NumberFault::none;
}

}  // namespace

HostDevice::HostDevice(std::span<float> memory, HostDeviceConfig config, std::function<void()> wake)
    : memory_(memory),
      config_(config),
      wake_(std::move(wake)),
      pinned_bytes_left_(config.pinned_bytes),
      tasks_(config.lanes),
      thread_([this] { run(); }) {}

HostDevice::~HostDevice() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<std::span<std::byte>> HostDevice::allocate_pinned(std::size_t bytes) {
  if (bytes > pinned_bytes_left_) return runtime_error("no memory: " + std::to_string(bytes) + " bytes were wanted");
  pinned_bytes_left_ -= bytes;
  pinned_.push_back(std::make_unique<float[]>(bytes / sizeof(float) + 1));
  return std::span(reinterpret_cast<std::byte*>(pinned_.back().get()), bytes);
}

Status HostDevice::submit(const Task& task) {
  {
    const std::lock_guard lock(mutex_);
    if (lost_ || submitted_ >= config_.refuse_from) {
      return runtime_error("order " + std::to_string(submitted_) + " was refused, as it was to be");
    }
    submitted_ += 1;
    tasks_[task.lane].push_back(task);
  }
  changed_.notify_all();
  return Done{};
}

std::optional<Error> HostDevice::failure() const {
  const std::lock_guard lock(mutex_);
  if (!lost_) return std::nullopt;
  return runtime_error("the stand-in was lost at order " + std::to_string(config_.lose_at) + ", as it was to be");
}

bool HostDevice::is_idle() const {
  return !busy_ && (lost_ || std::all_of(tasks_.begin(), tasks_.end(), [](const auto& lane) { return lane.empty(); }));
}

bool HostDevice::drain(Duration limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return is_idle(); });
}

void HostDevice::publish() {
  std::size_t first = 0;
  ledger_.publish([&](const BatchLedger::Batch& batch, std::size_t) {
    while (&outcomes_[first].mark != batch.mark) first += 1;
    return outcomes_[first].fault;
  });
}

void HostDevice::notice() {
  const std::lock_guard lock(mutex_);
  publish();
}

void HostDevice::wait_until_idle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return is_idle(); });
}

void HostDevice::wait_until_stalled() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stalled_; });
}

// Not while it is being called: the owner may be gone when this returns.
void HostDevice::silence() {
  const std::lock_guard lock(wake_mutex_);
  silent_ = true;
}

std::string HostDevice::state() const {
  const std::lock_guard lock(mutex_);
  std::size_t waiting = 0;
  for (const auto& lane : tasks_) waiting += lane.size();
  return std::to_string(waiting) + " tasks wait, " + (stalled_ ? "stalled" : busy_ ? "busy" : "idle");
}

void HostDevice::resume() {
  {
    const std::lock_guard lock(mutex_);
    may_stall_ = false;
  }
  changed_.notify_all();
}

// What a transfer that was cut short leaves behind.
void HostDevice::lose(const Task& task) {
  const std::span<float> values = memory_.subspan(task.order.begin, task.order.count);
  static_cast<void>(carry_out(task.order, values));
  if (task.mirror != nullptr) std::memcpy(task.mirror, values.data(), values.size_bytes() / 2);
  std::fill(memory_.begin(), memory_.end(), -12345.0F);
}

void HostDevice::run() {
  std::unique_lock lock(mutex_);
  std::size_t lane = 0;
  while (true) {
    changed_.wait(lock, [&] {
      return ending_ ||
             (!lost_ && std::any_of(tasks_.begin(), tasks_.end(), [](const auto& each) { return !each.empty(); }));
    });
    if (ending_) return;
    // Lanes in turn, two tasks of each, so that they overtake each other.
    while (tasks_[lane].empty()) lane = (lane + 1) % tasks_.size();
    const Task task = std::move(tasks_[lane].front());
    tasks_[lane].pop_front();
    const bool lost = carried_out_ == config_.lose_at;
    carried_out_ += 1;
    if (carried_out_ % 2 == 0) lane = (lane + 1) % tasks_.size();
    busy_ = true;
    if (carried_out_ > config_.stall_at && may_stall_) {
      stalled_ = true;
      if (task.mirror != nullptr) std::fill_n(task.mirror, task.order.count / 2, -12345.0F);
      changed_.notify_all();
      changed_.wait(lock, [&] { return !may_stall_ || ending_; });
      stalled_ = false;
      if (ending_) return;
    }
    lock.unlock();
    NumberFault fault = NumberFault::none;
    if (lost) {
      lose(task);
    } else {
      const std::span<float> values = memory_.subspan(task.order.begin, task.order.count);
      fault = carry_out(task.order, values);
      if (task.mirror != nullptr) std::memcpy(task.mirror, values.data(), values.size_bytes());
    }
    lock.lock();
    busy_ = false;
    Outcome& outcome = outcomes_.emplace_back(Outcome{.mark = lost ? 0U : 1U, .fault = fault});
    ledger_.add({.tasks = {task}, .mark = &outcome.mark});
    if (lost || ledger_.size() > config_.notices_late || is_idle()) {
      publish();
      for (; !ledger_.empty(); ledger_.drop_first()) outcomes_.pop_front();
    }
    lost_ = lost_ || lost;
    changed_.notify_all();
    lock.unlock();
    {
      const std::lock_guard wake_lock(wake_mutex_);
      if (wake_ && !silent_) wake_();
    }
    lock.lock();
  }
}

}  // namespace papilio::kernels
