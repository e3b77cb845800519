// kernels/cuda.h on a GPU. Host code, compiled by nvcc for its headers.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cuda.h"
#include "kernels/cuda_launch.h"

namespace papilio::kernels::cuda {

static_assert(kFinished == Device::kTaskDone);

namespace {

Error error_of(int code, const std::string& doing) {
  if (code == cudaErrorMemoryAllocation) return runtime_error("out of GPU memory while " + doing);
  return runtime_error("the GPU failed while " + doing + ": " + error_text(code));
}
Status status_of(int code, const char* doing) {
  if (code == cudaSuccess) return Done{};
  forget_error();
  return error_of(code, doing);
}

Availability look() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    forget_error();
    if (code == cudaErrorInsufficientDriver) {
      return {.usable = false,
              .text = "no GPU: there is no NVIDIA driver, or it is too old for CUDA " +
                      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10)};
    }
    return {.usable = false,
            .text = "no GPU: " + (code != cudaSuccess ? error_text(code) : std::string("none is visible"))};
  }
  int device = 0;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    forget_error();
    return {.usable = false, .text = "no GPU: it does not answer"};
  }
  const std::string name = properties.name;
  if (properties.major * 10 + properties.minor < 75) {
    return {.usable = false, .text = "no GPU: " + name + " is older than compute capability 7.5"};
  }
  // The first use of the driver's may still fail, where another process has the GPU to itself.
  if (const cudaError_t used = cudaFree(nullptr); used != cudaSuccess) {
    forget_error();
    return {.usable = false, .text = "no GPU: " + name + ": " + error_text(used)};
  }
  return {.usable = true,
          .text = name + ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors, " +
                  std::to_string(properties.totalGlobalMem >> 20U) + " MiB"};
}

// Ranges that the GPU can reach by itself.
class PinnedRanges {
 public:
  void add(const std::byte* begin, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    ranges_.emplace_back(begin, begin + bytes);
  }
  void remove(const std::byte* begin) {
    const std::lock_guard lock(mutex_);
    std::erase_if(ranges_, [&](const auto& range) { return range.first == begin; });
  }
  bool holds(const std::byte* begin, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    return std::any_of(ranges_.begin(), ranges_.end(),
                       [&](const auto& range) { return begin >= range.first && begin + bytes <= range.second; });
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<const std::byte*, const std::byte*>> ranges_;
};
PinnedRanges& pinned_ranges() {
  static PinnedRanges ranges;
  return ranges;
}

class CudaDevice final : public Device {
 public:
  CudaDevice(float* gradient, DeviceConfig config, std::function<void()> wake)
      : gradient_(gradient), config_(config), wake_(std::move(wake)) {}
  ~CudaDevice() override;
  Status start();

  [[nodiscard]] std::string describe() const override {
    return availability().text + " (" + to_string(config_.design) + ", " + std::to_string(config_.lanes) + " streams)";
  }
  [[nodiscard]] std::size_t lanes() const override { return lanes_.size(); }
  Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override;
  Status submit(const Task& task) override;
  [[nodiscard]] std::optional<Error> failure() const override;
  bool drain(Duration limit) override;
  void silence() override;
  [[nodiscard]] std::string state() const override;

 private:
  struct Lane {
    Stream stream = nullptr;
    Memory stage;
    Memory scratch;
  };
  using Kind = ChunkOrder::Kind;

  int carry_out(Lane& lane, const Task& task);
  int reduce(Lane& lane, const Task& task);
  int encode(Lane& lane, const Task& task);
  Status make_room(Lane& lane, std::size_t bytes);
  int announce(Lane& lane);
  void wait_for_events();
  void fail(int code, const char* doing);
  void wake();
  static void call_wake(void* device) { static_cast<CudaDevice*>(device)->wake(); }

  float* const gradient_;
  DeviceConfig config_;
  std::mutex wake_mutex_;  // held while the owner is being woken
  std::function<void()> wake_;
  int device_ = 0;
  std::vector<Lane> lanes_;
  std::vector<Memory> pinned_;
  std::vector<Memory> outgrown_;  // stages that were too small, and may still be in use
  cudaStream_t notices_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<cudaEvent_t> pending_;
  std::vector<cudaEvent_t> free_events_;
  std::optional<Error> failure_;
  bool waiting_ = false;
  bool ending_ = false;
  std::thread waiter_;
};

Status CudaDevice::start() {
  cudaEvent_t gradient_ready = nullptr;
  int code = cudaGetDevice(&device_);
  if (code == cudaSuccess) code = cudaEventCreateWithFlags(&gradient_ready, cudaEventDisableTiming);
  if (code == cudaSuccess) code = cudaEventRecord(gradient_ready, config_.after);
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&notices_, cudaStreamNonBlocking);
  lanes_.resize(std::clamp<std::size_t>(config_.lanes, 1, 64));
  for (Lane& lane : lanes_) {
    if (code != cudaSuccess) break;
    code = cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking);
    if (code == cudaSuccess) code = cudaStreamWaitEvent(lane.stream, gradient_ready);
    auto scratch = Memory::allocate(Place::device, sizeof(Scratch));
    if (!scratch) return scratch.error();
    lane.scratch = std::move(*scratch);
    if (code == cudaSuccess) code = cudaMemsetAsync(lane.scratch.data(), 0, sizeof(Scratch), lane.stream);
    if (auto room = make_room(lane, config_.largest_payload); !room) return room;
  }
  if (gradient_ready != nullptr) cudaEventDestroy(gradient_ready);
  if (code != cudaSuccess) return error_of(code, "making streams");
  int multiprocessors = 1;
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device_);
  config_.blocks_per_order = std::clamp(config_.blocks_per_order, 1U, static_cast<unsigned>(multiprocessors));
  if (config_.notice == Notice::waiter) waiter_ = std::thread([this] { wait_for_events(); });
  return Done{};
}

// Whoever destroys it has drained it.
CudaDevice::~CudaDevice() {
  if (waiter_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    waiter_.join();
  }
  for (Lane& lane : lanes_) {
    if (lane.stream != nullptr) cudaStreamDestroy(lane.stream);
  }
  if (notices_ != nullptr) cudaStreamDestroy(notices_);
  for (cudaEvent_t event : free_events_) cudaEventDestroy(event);
}

Result<std::span<std::byte>> CudaDevice::allocate_pinned(std::size_t bytes) {
  auto memory = Memory::allocate(Place::pinned, bytes);
  if (!memory) return memory.error();
  std::fill_n(memory->data(), bytes, std::byte{0});
  pinned_.push_back(std::move(*memory));
  return std::span(pinned_.back().data(), bytes);
}

// Stages grow to the largest payload so far. The old one is kept, as freeing it would wait for the device.
Status CudaDevice::make_room(Lane& lane, std::size_t bytes) {
  if (lane.stage.size() >= bytes) return Done{};
  auto stage = Memory::allocate(Place::device, (bytes + 4095) / 4096 * 4096);
  if (!stage) return stage.error();
  outgrown_.push_back(std::exchange(lane.stage, std::move(*stage)));
  return Done{};
}

Status CudaDevice::submit(const Task& task) {
  if (auto failed = failure()) return *failed;
  cudaSetDevice(device_);
  Lane& lane = lanes_[task.lane];
  if (auto room = make_room(lane, encoded_bytes(task.order.codec, task.order.count)); !room) return room;
  int code = carry_out(lane, task);
  if (code == cudaSuccess) code = announce(lane);
  return status_of(code, "taking an order");
}

int CudaDevice::carry_out(Lane& lane, const Task& task) {
  const ChunkOrder& order = task.order;
  if (order.count == 0)
    return launch_publish({.scratch = lane.scratch.as<Scratch>(), .status = task.status}, lane.stream);
  if (order.kind == Kind::accumulate || order.kind == Kind::write) return reduce(lane, task);
  ReduceTask publish{.scratch = lane.scratch.as<Scratch>(), .status = task.status};
  int code = cudaSuccess;
  if (order.kind == Kind::load) {
    code = cudaMemcpyAsync(task.mirror, gradient_ + order.begin, order.count * sizeof(float), cudaMemcpyDefault,
                           lane.stream);
  } else {
    code = encode(lane, task);
  }
  return code != cudaSuccess ? code : launch_publish(publish, lane.stream);
}

int CudaDevice::reduce(Lane& lane, const Task& task) {
  const ChunkOrder& order = task.order;
  const bool replace = order.kind == Kind::write;
  ReduceTask work{.in = order.in.data(),
                  .stage = lane.stage.data(),
                  .values = gradient_ + order.begin,
                  .mirror = task.mirror,
                  .count = order.count,
                  .own_scale = order.own_scale,
                  .weight = order.weight,
                  .inverse_total = order.inverse_total,
                  .limit = order.limit,
                  .scratch = lane.scratch.as<Scratch>(),
                  .status = task.status};
  if (config_.design == Design::direct && pinned_ranges().holds(order.in.data(), order.in.size())) {
    return launch_order(order.codec, replace, work, config_.blocks_per_order, lane.stream);
  }
  int code = cudaMemcpyAsync(lane.stage.data(), order.in.data(), order.in.size(), cudaMemcpyDefault, lane.stream);
  work.in = lane.stage.data();
  work.stage = nullptr;
  if (code != cudaSuccess) return code;
  if (config_.design != Design::staged) {
    return launch_order(order.codec, replace, work, config_.blocks_per_order, lane.stream);
  }
  work.mirror = nullptr;
  if (code = launch_check(order.codec, work, lane.stream); code != cudaSuccess) return code;
  if (code = launch_apply(order.codec, replace, work, lane.stream); code != cudaSuccess) return code;
  if (task.mirror != nullptr) {
    code = cudaMemcpyAsync(task.mirror, work.values, order.count * sizeof(float), cudaMemcpyDefault, lane.stream);
  }
  return code != cudaSuccess ? code : launch_publish(work, lane.stream);
}

int CudaDevice::encode(Lane& lane, const Task& task) {
  const ChunkOrder& order = task.order;
  const bool keeps = order.kind == Kind::finalise;
  const bool straight = config_.design != Design::staged;
  float* const values = gradient_ + order.begin;
  EncodeTask work{.values = values,
                  .decoded = keeps ? values : nullptr,
                  .mirror = keeps && straight ? task.mirror : nullptr,
                  .out = lane.stage.data(),
                  .count = order.count,
                  .scaled = keeps && order.inverse_total != 1,
                  .factor = order.inverse_total};
  const bool to_pinned = straight && pinned_ranges().holds(order.out.data(), order.out.size());
  if (to_pinned) work.out = order.out.data();
  if (order.out.empty()) work.out = nullptr;
  int code = launch_encode(order.codec, work, lane.stream);
  if (code == cudaSuccess && !to_pinned && !order.out.empty()) {
    code = cudaMemcpyAsync(order.out.data(), lane.stage.data(), order.out.size(), cudaMemcpyDefault, lane.stream);
  }
  if (code == cudaSuccess && keeps && !straight && task.mirror != nullptr) {
    code = cudaMemcpyAsync(task.mirror, values, order.count * sizeof(float), cudaMemcpyDefault, lane.stream);
  }
  return code;
}

// Not while it is being called: the owner may be gone when this returns.
void CudaDevice::silence() {
  const std::lock_guard lock(wake_mutex_);
  wake_ = nullptr;
}

void CudaDevice::wake() {
  const std::lock_guard lock(wake_mutex_);
  if (wake_) wake_();
}

// A host function holds up its stream, so it goes to a stream of its own that waits for the order.
int CudaDevice::announce(Lane& lane) {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_events_.empty()) {
      event = free_events_.back();
      free_events_.pop_back();
    }
  }
  int code = cudaSuccess;
  if (event == nullptr) code = cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync);
  if (code == cudaSuccess) code = cudaEventRecord(event, lane.stream);
  if (code == cudaSuccess && config_.notice == Notice::host_function) {
    code = cudaStreamWaitEvent(notices_, event);
    if (code == cudaSuccess) code = cudaLaunchHostFunc(notices_, call_wake, this);
  }
  {
    const std::lock_guard lock(mutex_);
    if (config_.notice == Notice::host_function || code != cudaSuccess) {
      if (event != nullptr) free_events_.push_back(event);
      return code;
    }
    pending_.push_back(event);
  }
  changed_.notify_all();
  return code;
}

void CudaDevice::fail(int code, const char* doing) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = error_of(code, doing);
}

void CudaDevice::wait_for_events() {
  cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !pending_.empty(); });
    if (pending_.empty()) return;
    cudaEvent_t event = pending_.front();
    pending_.pop_front();
    waiting_ = true;
    lock.unlock();
    const int code = cudaEventSynchronize(event);
    if (code != cudaSuccess) fail(code, "carrying out an order");
    lock.lock();
    free_events_.push_back(event);
    waiting_ = false;
    changed_.notify_all();
    lock.unlock();
    wake();
    lock.lock();
  }
}

std::optional<Error> CudaDevice::failure() const {
  {
    const std::lock_guard lock(mutex_);
    if (failure_) return failure_;
  }
  if (config_.notice == Notice::waiter) return std::nullopt;
  const cudaError_t code = cudaStreamQuery(notices_);
  if (code == cudaSuccess || code == cudaErrorNotReady) return std::nullopt;
  return error_of(code, "carrying out an order");
}

// CUDA has no wait with a limit, so that the streams are asked again and again: this is the end of a device, or nearly.
bool CudaDevice::drain(Duration limit) {
  const auto give_up = std::chrono::steady_clock::now() + limit;
  const auto ended = [&](Stream stream) {
    while (stream != nullptr) {
      const cudaError_t code = cudaStreamQuery(stream);
      if (code == cudaSuccess) break;
      if (code != cudaErrorNotReady) {
        fail(code, "carrying out an order");
        break;
      }
      if (std::chrono::steady_clock::now() >= give_up) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return true;
  };
  for (Lane& lane : lanes_) {
    if (!ended(lane.stream)) return false;
  }
  if (!ended(notices_)) return false;
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, give_up, [&] { return !waiter_.joinable() || (pending_.empty() && !waiting_); });
}

std::string CudaDevice::state() const {
  std::string text;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const cudaError_t code = cudaStreamQuery(lanes_[i].stream);
    text += (i == 0 ? "streams: " : ", ") + std::string(code == cudaSuccess         ? "idle"
                                                        : code == cudaErrorNotReady ? "busy"
                                                                                    : error_text(code));
  }
  const std::lock_guard lock(mutex_);
  return text + "; " + std::to_string(pending_.size()) + " events wait, the waiter is " +
         (waiter_.joinable() ? waiting_ ? "in the driver" : "idle" : "not there");
}

}  // namespace

const Availability& availability() {
  static const Availability answer = look();
  return answer;
}

std::string error_text(int code) {
  return std::string(cudaGetErrorString(static_cast<cudaError_t>(code))) + " (CUDA error " + std::to_string(code) + ")";
}

void forget_error() { static_cast<void>(cudaGetLastError()); }

Result<Memory> Memory::allocate(Place place, std::size_t bytes) {
  if (!availability().usable) return runtime_error(availability().text);
  Memory memory;
  void* data = nullptr;
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  const int code = place == Place::device ? cudaMalloc(&data, size)
                                          : cudaHostAlloc(&data, size, cudaHostAllocPortable | cudaHostAllocMapped);
  if (code != cudaSuccess) {
    forget_error();
    if (place == Place::device) return error_of(code, "allocating " + std::to_string(bytes) + " bytes");
    return runtime_error("cannot pin " + std::to_string(bytes) + " bytes of memory for the GPU: " + error_text(code));
  }
  memory.place_ = place;
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_ = bytes;
  if (place == Place::pinned) pinned_ranges().add(memory.data_, bytes);
  return Result<Memory>(std::move(memory));
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (place_ == Place::device) {
    cudaFree(data_);
  } else {
    pinned_ranges().remove(data_);
    cudaFreeHost(data_);
  }
}

Status register_pinned(std::span<std::byte> pages) {
  if (!availability().usable) return runtime_error(availability().text);
  const int code = cudaHostRegister(pages.data(), pages.size(), cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (code == cudaSuccess) pinned_ranges().add(pages.data(), pages.size());
  return status_of(code, "pinning memory of the host");
}

void unregister_pinned(std::span<std::byte> pages) {
  if (!pinned_ranges().holds(pages.data(), pages.size())) return;
  pinned_ranges().remove(pages.data());
  cudaHostUnregister(pages.data());
}

Result<std::unique_ptr<Device>> make_device(float* gradient, std::size_t, DeviceConfig config,
                                            std::function<void()> wake) {
  if (!availability().usable) return runtime_error(availability().text);
  auto device = std::make_unique<CudaDevice>(gradient, config, std::move(wake));
  if (auto started = device->start(); !started) return started.error();
  return std::unique_ptr<Device>(std::move(device));
}

Result<Stream> make_stream() {
  if (!availability().usable) return runtime_error(availability().text);
  cudaStream_t stream = nullptr;
  const int code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (code != cudaSuccess) return error_of(code, "making a stream");
  return stream;
}
void destroy_stream(Stream stream) { cudaStreamDestroy(stream); }
Status wait_for(Stream stream) { return status_of(cudaStreamSynchronize(stream), "working"); }
Status copy(void* to, const void* from, std::size_t bytes) {
  return status_of(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copying");
}
Status copy_later(void* to, const void* from, std::size_t bytes, Stream stream) {
  return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copying");
}
Status fill_later(void* to, int byte, std::size_t bytes, Stream stream) {
  return status_of(cudaMemsetAsync(to, byte, bytes, stream), "filling memory");
}

Stopwatch::Stopwatch() {
  cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&begin_));
  cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&end_));
}
Stopwatch::~Stopwatch() {
  cudaEventDestroy(static_cast<cudaEvent_t>(begin_));
  cudaEventDestroy(static_cast<cudaEvent_t>(end_));
}
void Stopwatch::start(Stream stream) { cudaEventRecord(static_cast<cudaEvent_t>(begin_), stream); }
double Stopwatch::stop(Stream stream) {
  float milliseconds = 0;
  cudaEventRecord(static_cast<cudaEvent_t>(end_), stream);
  if (cudaEventSynchronize(static_cast<cudaEvent_t>(end_)) != cudaSuccess) return -1;
  if (cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin_), static_cast<cudaEvent_t>(end_)) !=
      cudaSuccess) {
    return -1;
  }
  return static_cast<double>(milliseconds) / 1e3;
}

}  // namespace papilio::kernels::cuda
