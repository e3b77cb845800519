#include "kernels/device.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
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

// Devices that would not stop. They are never destroyed, not even at exit: that would wait for them.
void leave_alone(std::unique_ptr<Device> device) {
  static std::mutex mutex;
  static auto* const devices = new std::vector<std::unique_ptr<Device>>;
  device->silence();
  const std::lock_guard lock(mutex);
  devices->push_back(std::move(device));
}

// Enough to keep a device busy, and few enough to look through.
constexpr std::size_t kMostUnderWay = 128;

const char* to_string(Kind kind) {
  switch (kind) {
    case Kind::load: return "load";
    case Kind::encode: return "encode";
    case Kind::accumulate: return "accumulate";
    case Kind::finalise: return "finalise";
    case Kind::write: return "write";
    case Kind::upload: return "upload";
  }
  return "?";
}

std::string in_seconds(Duration duration) {
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return std::to_string(milliseconds / 1000) + "." + std::to_string(milliseconds % 1000 / 100) + " s";
}

}  // namespace

DeviceGradient::DeviceGradient(std::unique_ptr<Device> device, Duration patience)
    : device_(std::move(device)), patience_(patience) {}

DeviceGradient::~DeviceGradient() {
  if (device_ != nullptr && !device_->drain(kStopLimit)) leave_alone(std::move(device_));
}

Result<std::unique_ptr<DeviceGradient>> DeviceGradient::make(std::unique_ptr<Device> device, std::size_t elements,
                                                             Duration patience) {
  std::unique_ptr<DeviceGradient> gradient(new DeviceGradient(std::move(device), patience));
  if (elements > 0) {
    auto memory = gradient->device_->allocate_pinned(elements * sizeof(float));
    if (!memory) return memory.error();
    gradient->host_ = floats_of(*memory);
  }
  auto words = gradient->device_->allocate_pinned(kMostUnderWay * sizeof(std::uint32_t));
  if (!words) return words.error();
  auto* const first = reinterpret_cast<std::uint32_t*>(words->data());
  for (std::size_t i = 0; i < kMostUnderWay; ++i) gradient->free_status_.push_back(first + i);
  return gradient;
}

Status DeviceGradient::reserve(std::size_t chunks, std::size_t elements) {
  const auto fit = [&](const std::span<float>& place) { return place.size() >= elements; };
  const auto there = static_cast<std::size_t>(std::count_if(free_places_.begin(), free_places_.end(), fit));
  if (elements == 0 || there >= 2 * chunks) return Done{};
  const std::size_t wanted = 2 * chunks - there;
  auto memory = device_->allocate_pinned(wanted * elements * sizeof(float));
  if (!memory) return memory.error();
  const std::span<float> places = floats_of(*memory);
  for (std::size_t i = 0; i < wanted; ++i) free_places_.push_back(places.subspan(i * elements, elements));
  return Done{};
}

Status DeviceGradient::follow(void* stream) {
  if (failure_) return *failure_;
  return device_->follow(stream);
}

TimePoint DeviceGradient::deadline() const { return completions_.empty() ? lost_at() : TimePoint{}; }

TimePoint DeviceGradient::lost_at() const {
  return failure_ || in_flight_.empty() ? kNever : saturating_add(last_progress_, patience_);
}

std::string DeviceGradient::state() const {
  std::string text =
      std::to_string(in_flight_.size()) + " orders with the device, " + std::to_string(waiting_.size()) + " waiting";
  if (!in_flight_.empty()) {
    const Running& first = in_flight_.front();
    text += ", the first: " + std::string(to_string(first.order.kind)) + " " + std::to_string(first.order.tag) +
            " of " + std::to_string(first.order.count) + " elements at " + std::to_string(first.order.begin) +
            ", lane " + std::to_string(first.lane);
  }
  return text + "; " + (device_ != nullptr ? device_->state() : "the device was left alone");
}

void DeviceGradient::submit(TimePoint now, const ChunkOrder& order) {
  PAPILIO_ASSERT_VALUES(order.begin <= host_.size() && order.count <= host_.size() - order.begin, order.begin,
                        order.count);
  PAPILIO_ASSERT_VALUES(order.codec <= Codec::int8, order.codec, order.tag);
  const bool encodes = order.kind == Kind::encode || order.kind == Kind::finalise;
  const bool has_room = order.out.size() == encoded_bytes(order.codec, order.count);
  PAPILIO_ASSERT_VALUES(!encodes || has_room || (order.codec == Codec::fp32 && order.out.empty()), order.out.size(),
                        order.count);
  PAPILIO_ASSERT(order.limit >= 0 && !std::signbit(order.limit));  // whose bits are compared
  if (!failure_) {
    // A payload of the wrong length must not reach a kernel.
    const bool reads = order.kind == Kind::accumulate || order.kind == Kind::write;
    if (reads && order.in.size() != encoded_bytes(order.codec, order.count)) {
      completions_.push_back({.tag = order.tag, .fault = NumberFault::bad_length});
      return;
    }
  }
  if (in_flight_.empty()) last_progress_ = now;
  waiting_.push_back(order);
  submit_waiting();
}

void DeviceGradient::submit_waiting() {
  while (!failure_ && !waiting_.empty() && in_flight_.size() < kMostUnderWay) {
    failure_ = try_submit(waiting_.front());
    if (!failure_) waiting_.pop_front();
  }
}

std::optional<Error> DeviceGradient::try_submit(const ChunkOrder& order) {
  Device::Task task{.order = order, .mirror = nullptr, .status = nullptr, .lane = 0};
  const auto found = open_.find(order.begin);
  OpenChunk* open = found != open_.end() ? &found->second : nullptr;
  if (is_sum(order.kind)) {
    auto opened = open_chunk(order);
    if (!opened) return opened.error();
    open = *opened;
    float* const home = host_.data() + order.begin;
    const bool ends = order.kind == Kind::finalise || order.last;
    if (ends && open->newest != nullptr && open->newest != home) {
      task.mirror = home;
    } else {
      task.mirror = open->place[open->newest == open->place[0].data() ? 1 : 0].data();
    }
  } else if (order.kind == Kind::upload) {
    task.order.kind = Kind::write;
    task.order.codec = Codec::fp32;
    task.order.in = std::as_bytes(host_.subspan(order.begin, order.count));
    task.order.limit = std::numeric_limits<float>::max();
  } else if (order.kind != Kind::encode) {
    task.mirror = host_.data() + order.begin;
  }
  task.status = take_status();
  task.lane = lane_of(order.begin);
  if (auto taken = device_->submit(task); !taken) return taken.error();
  const bool counts = open != nullptr && order.kind != Kind::encode;
  if (counts) {
    open->newest = is_sum(order.kind) ? task.mirror : host_.data() + order.begin;
    open->under_way += 1;
    open->uploads += order.kind == Kind::upload ? 1 : 0;
  }
  auto& use = lanes_in_use_[order.begin];
  use = {task.lane, use.second + 1};
  in_flight_.push_back(
      {.order = order, .status = task.status, .lane = task.lane, .mirror = task.mirror, .counts = counts});
  return std::nullopt;
}

Result<DeviceGradient::OpenChunk*> DeviceGradient::open_chunk(const ChunkOrder& order) {
  if (const auto found = open_.find(order.begin); found != open_.end()) return &found->second;
  OpenChunk chunk;
  chunk.count = order.count;
  for (std::span<float>& place : chunk.place) {
    const auto taken = take_place(order.count);
    if (!taken) {
      if (!chunk.place[0].empty()) free_places_.push_back(chunk.place[0]);
      return runtime_error("more chunks are open at once than memory was reserved for");
    }
    place = *taken;
  }
  return &open_.emplace(order.begin, chunk).first->second;
}

// The smallest that fits.
std::optional<std::span<float>> DeviceGradient::take_place(std::size_t elements) {
  auto best = free_places_.end();
  for (auto each = free_places_.begin(); each != free_places_.end(); ++each) {
    if (each->size() >= elements && (best == free_places_.end() || each->size() < best->size())) best = each;
  }
  if (best == free_places_.end()) return std::nullopt;
  const std::span<float> place = *best;
  *best = free_places_.back();
  free_places_.pop_back();
  return place;
}

// There are as many as orders may be under way.
std::uint32_t* DeviceGradient::take_status() {
  PAPILIO_ASSERT(!free_status_.empty());
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
  if (!running.counts) return;
  const auto found = open_.find(order.begin);
  OpenChunk& open = found->second;
  open.under_way -= 1;
  const bool is_well = fault_of(status) == NumberFault::none;
  bool is_final = order.kind == Kind::finalise || (order.last && is_well);
  if (is_sum(order.kind)) {
    open.whole = running.mirror;
  } else {
    // What was written counts and no sum before it. A payload that was refused changes nothing on the device, whose
    // copy then is that sum.
    open.whole = host_.data() + order.begin;
    open.uploads -= order.kind == Kind::upload ? 1 : 0;
    is_final = is_well;
  }
  if (!is_final || open.under_way != 0) return;
  bring_home(open, host_.data() + order.begin);
  close(found);
}

void DeviceGradient::close(std::unordered_map<std::size_t, OpenChunk>::iterator open) {
  for (const std::span<float> each : open->second.place) free_places_.push_back(each);
  open_.erase(open);
}

void DeviceGradient::replace(std::size_t begin) {
  if (const auto open = open_.find(begin); open != open_.end()) open->second.uploads += 1;
}

void DeviceGradient::bring_home(const OpenChunk& open, float* home) {
  if (open.whole != nullptr && open.whole != home && open.uploads == 0)
    std::memcpy(home, open.whole, open.count * sizeof(float));
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

std::vector<ChunkCompletion> DeviceGradient::take_completions(TimePoint now) {
  if (device_ != nullptr) {
    // First asked about failure: what it says of the words then holds.
    auto failure = device_->failure();
    const std::size_t before = in_flight_.size();
    collect();
    if (in_flight_.size() != before) last_progress_ = now;
    if (!failure_) failure_ = std::move(failure);
    if (now >= lost_at()) {
      failure_ = runtime_error(device_->describe() + " has completed nothing for " + in_seconds(now - last_progress_) +
                               " (" + state() + ")");
    }
    submit_waiting();
  }
  return std::exchange(completions_, {});
}

// Out of all memory that the device may still write to. It may even go on completing orders meanwhile, and then to
// write where the last result but one was: what was copied counts only if nothing was completed while it was.
void DeviceGradient::flee() {
  std::vector<float> copy(host_.size());
  std::size_t before = 0;
  do {
    device_->notice();
    collect();
    before = in_flight_.size();
    std::copy(host_.begin(), host_.end(), copy.begin());
    for (const auto& [begin, open] : open_) {
      if (open.whole != host_.data() + begin) bring_home(open, copy.data() + begin);
    }
#if !defined(__SANITIZE_THREAD__)  // which knows of no fences, and refuses them
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
    device_->notice();
    collect();
  } while (in_flight_.size() != before);
  refuge_ = std::move(copy);
  host_ = refuge_;
  leave_alone(std::move(device_));
  free_places_.clear();
  free_status_.clear();
}

DeviceGradient::TakenBack DeviceGradient::take_back(Duration limit) {
  TakenBack back;
  for (const ChunkOrder& order : waiting_) {
    if (order.kind == Kind::upload) replace(order.begin);
  }
  if (device_ != nullptr) {
    if (!failure_) failure_ = runtime_error("the gradient was taken back from " + device_->describe());
    back.stopped = device_->drain(limit);
    if (!back.stopped) flee();
  }
  if (device_ != nullptr) {
    collect();
    for (const auto& [begin, open] : open_) bring_home(open, host_.data() + begin);
  }
  open_.clear();
  lanes_in_use_.clear();
  for (const Running& running : in_flight_) back.orders.push_back(running.order);
  in_flight_.clear();
  back.orders.insert(back.orders.end(), waiting_.begin(), waiting_.end());
  waiting_.clear();
  std::unordered_map<std::size_t, std::size_t> uploads;  // by the chunk's begin: orders up to and with the last one
  for (std::size_t i = 0; i < back.orders.size(); ++i) {
    if (back.orders[i].kind == Kind::upload) uploads[back.orders[i].begin] = i + 1;
  }
  std::size_t place = 0;
  std::erase_if(back.orders, [&](const ChunkOrder& order) {
    const auto upload = uploads.find(order.begin);
    const bool is_of_no_use = upload != uploads.end() && place < upload->second;
    if (is_of_no_use) completions_.push_back({.tag = order.tag, .fault = NumberFault::none});
    place += 1;
    return is_of_no_use;
  });
  return back;
}

}  // namespace papilio::kernels
