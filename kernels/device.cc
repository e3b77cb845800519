#include "kernels/device.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "engine/base/assert.hpp"

namespace papilio::kernels {
namespace {

using Kind = ChunkOrder::Kind;

bool is_sum(Kind kind) { return kind == Kind::accumulate || kind == Kind::finalise; }

std::span<float> floats_of(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// Written by the device; what it wrote before is visible once this is.
std::uint32_t read_status(std::uint32_t* status) {
  return std::atomic_ref<std::uint32_t>(*status).load(std::memory_order_acquire);
}

NumberFault fault_of(std::uint32_t status) { return static_cast<NumberFault>(status & 0xffU); }

}  // namespace

DeviceGradient::DeviceGradient(std::unique_ptr<Device> device) : device_(std::move(device)) {}

DeviceGradient::~DeviceGradient() { device_->drain(); }

Result<std::unique_ptr<DeviceGradient>> DeviceGradient::make(std::unique_ptr<Device> device, std::size_t elements) {
  std::unique_ptr<DeviceGradient> gradient(new DeviceGradient(std::move(device)));
  if (elements > 0) {
    auto memory = gradient->device_->allocate_pinned(elements * sizeof(float));
    if (!memory) return memory.error();
    gradient->host_ = floats_of(*memory);
  }
  return gradient;
}

void DeviceGradient::submit(const ChunkOrder& order) {
  PAPILIO_ASSERT_VALUES(order.begin <= host_.size() && order.count <= host_.size() - order.begin, order.begin,
                        order.count);
  if (!failure_) {
    // A payload of the wrong length must not reach a kernel.
    const bool reads = order.kind == Kind::accumulate || order.kind == Kind::write;
    if (reads && order.in.size() != encoded_bytes(order.codec, order.count)) {
      completions_.push_back({.tag = order.tag, .fault = NumberFault::bad_length});
      return;
    }
    failure_ = try_submit(order);
  }
  if (failure_) not_submitted_.push_back(order);
}

std::optional<Error> DeviceGradient::try_submit(const ChunkOrder& order) {
  Device::Task task{.order = order, .mirror = nullptr, .status = nullptr, .lane = 0};
  const bool sums = is_sum(order.kind);
  OpenChunk* open = nullptr;
  if (sums) {
    auto opened = open_chunk(order);
    if (!opened) return opened.error();
    open = *opened;
    task.mirror = open->place[open->submitted % 2].data();
  } else if (order.kind != Kind::encode) {
    task.mirror = host_.data() + order.begin;
  }
  auto status = take_status();
  if (!status) return status.error();
  task.status = *status;
  task.lane = lane_of(order.begin);
  if (auto taken = device_->submit(task); !taken) return taken.error();
  if (open != nullptr) open->submitted += 1;
  auto& use = lanes_in_use_[order.begin];
  use = {task.lane, use.second + 1};
  in_flight_.push_back({.order = order, .status = task.status, .lane = task.lane, .sums = sums});
  return std::nullopt;
}

Result<DeviceGradient::OpenChunk*> DeviceGradient::open_chunk(const ChunkOrder& order) {
  if (const auto found = open_.find(order.begin); found != open_.end()) return &found->second;
  OpenChunk chunk;
  chunk.count = order.count;
  for (std::span<float>& place : chunk.place) {
    if (!free_places_.empty() && free_places_.back().size() >= order.count) {
      place = free_places_.back();
      free_places_.pop_back();
      continue;
    }
    auto memory = device_->allocate_pinned(order.count * sizeof(float));
    if (!memory) return memory.error();
    place = floats_of(*memory);
  }
  return &open_.emplace(order.begin, chunk).first->second;
}

Result<std::uint32_t*> DeviceGradient::take_status() {
  if (free_status_.empty()) {
    constexpr std::size_t kAtATime = 1024;
    auto memory = device_->allocate_pinned(kAtATime * sizeof(std::uint32_t));
    if (!memory) return memory.error();
    auto* const words = reinterpret_cast<std::uint32_t*>(memory->data());
    for (std::size_t i = 0; i < kAtATime; ++i) free_status_.push_back(words + i);
  }
  std::uint32_t* const status = free_status_.back();
  free_status_.pop_back();
  std::atomic_ref<std::uint32_t>(*status).store(0, std::memory_order_release);
  return status;
}

// What is under way for one chunk stays in one lane, so that it is carried out in order.
std::size_t DeviceGradient::lane_of(std::size_t begin) {
  if (const auto found = lanes_in_use_.find(begin); found != lanes_in_use_.end()) return found->second.first;
  next_lane_ = (next_lane_ + 1) % device_->lanes();
  return next_lane_;
}

void DeviceGradient::complete(const Running& running, std::uint32_t status) {
  const ChunkOrder& order = running.order;
  completions_.push_back({.tag = order.tag, .fault = fault_of(status)});
  free_status_.push_back(running.status);
  const auto use = lanes_in_use_.find(order.begin);
  if (--use->second.second == 0) lanes_in_use_.erase(use);
  if (!running.sums) return;
  OpenChunk& open = open_.at(order.begin);
  open.completed += 1;
  const bool is_final = order.kind == Kind::finalise || (order.last && fault_of(status) == NumberFault::none);
  if (!is_final || open.completed != open.submitted) return;
  const std::span<float> place = open.place[(open.completed - 1) % 2];
  std::memcpy(host_.data() + order.begin, place.data(), order.count * sizeof(float));
  for (const std::span<float> each : open.place) free_places_.push_back(each);
  open_.erase(order.begin);
}

void DeviceGradient::collect() {
  // Lanes overtake each other; within one, what was given first is done first.
  std::uint64_t waiting = 0;
  PAPILIO_ASSERT(device_->lanes() <= 64);
  std::erase_if(in_flight_, [&](const Running& running) {
    const std::uint64_t bit = std::uint64_t{1} << running.lane;
    if ((waiting & bit) != 0) return false;
    const std::uint32_t status = read_status(running.status);
    if ((status & Device::kTaskDone) == 0) {
      waiting |= bit;
      return false;
    }
    complete(running, status);
    return true;
  });
}

std::vector<ChunkCompletion> DeviceGradient::take_completions() {
  // First asked about failure: what it says of the words then holds.
  auto failure = device_->failure();
  collect();
  if (!failure_) failure_ = std::move(failure);
  return std::exchange(completions_, {});
}

std::vector<ChunkOrder> DeviceGradient::take_back() {
  device_->drain();
  collect();
  if (!failure_) failure_ = runtime_error("the gradient was taken back from " + device_->describe());
  for (auto& [begin, open] : open_) {
    if (open.completed == 0) continue;  // the host copy is as it was
    const std::span<float> place = open.place[(open.completed - 1) % 2];
    std::memcpy(host_.data() + begin, place.data(), open.count * sizeof(float));
  }
  open_.clear();
  std::vector<ChunkOrder> orders;
  for (const Running& running : in_flight_) orders.push_back(running.order);
  in_flight_.clear();
  orders.insert(orders.end(), not_submitted_.begin(), not_submitted_.end());
  not_submitted_.clear();
  return orders;
}

}  // namespace papilio::kernels
