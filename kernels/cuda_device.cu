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

#include "kernels/batch_ledger.h"
#include "kernels/cuda.h"
#include "kernels/cuda_launch.h"
#include "kernels/order_queue.h"

namespace papilio::kernels::cuda {
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

// Copies that have nothing to do with each other. Neighbours whose neighbours they become go in one piece, and where
// the driver can, all go in one call: every copy by itself leaves the bus idle for some microseconds.
class Copies {
 public:
  // One end is the host's.
  void add(void* to, const void* from, std::size_t bytes, const void* host) {
    if (bytes == 0) return;
    const auto* const begin = static_cast<const std::byte*>(host);
    if (!all_.empty()) {
      Copy& last = all_.back();
      if (last.to + last.bytes == to && last.from + last.bytes == from &&
          pinned_ranges().holds(last.host, last.bytes + bytes)) {  // as one: ranges that only touch are not
        last.bytes += bytes;
        return;
      }
    }
    all_.push_back({static_cast<std::byte*>(to), static_cast<const std::byte*>(from), begin, bytes});
  }
  [[nodiscard]] bool empty() const { return all_.empty(); }

  // `in_one_call` is set to false where the driver cannot.
  int run(cudaStream_t stream, std::atomic<bool>& in_one_call) {
#if CUDART_VERSION >= 13000
    if (in_one_call && all_.size() > 1 && all_pinned()) {
      std::vector<void*> to;
      std::vector<const void*> from;
      std::vector<std::size_t> bytes;
      for (const Copy& copy : all_) {
        to.push_back(copy.to);
        from.push_back(copy.from);
        bytes.push_back(copy.bytes);
      }
      cudaMemcpyAttributes attributes{};
      attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
      std::size_t first = 0;
      const int code =
          cudaMemcpyBatchAsync(to.data(), from.data(), bytes.data(), to.size(), &attributes, &first, 1, stream);
      if (code == cudaSuccess) return code;
      forget_error();  // if it is not about the call, the copies will say so, too
      in_one_call = false;
    }
#else
    in_one_call = false;
#endif
    for (const Copy& copy : all_) {
      const int code = cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDefault, stream);
      if (code != cudaSuccess) return code;
    }
    return cudaSuccess;
  }

 private:
  struct Copy {
    std::byte* to;
    const std::byte* from;
    const std::byte* host;
    std::size_t bytes;
  };
  [[nodiscard]] bool all_pinned() const {
    return std::all_of(all_.begin(), all_.end(),
                       [](const Copy& copy) { return pinned_ranges().holds(copy.host, copy.bytes); });
  }
  std::vector<Copy> all_;
};

// While it lives, the calling thread speaks to that device, whichever it has to do with otherwise.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    cudaGetDevice(&before_);
    if (before_ != device) cudaSetDevice(device);
    changed_ = before_ != device;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Where memory is; for what no device knows, the device that the calling thread has to do with.
int device_of(const void* memory) {
  cudaPointerAttributes attributes{};
  const bool is_known = cudaPointerGetAttributes(&attributes, memory) == cudaSuccess;
  if (!is_known) forget_error();
  if (is_known && (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged)) {
    return attributes.device;
  }
  int device = 0;
  cudaGetDevice(&device);
  return device;
}

// In a stage, everything begins where vectors can.
constexpr std::size_t kStageStep = 256;
constexpr std::size_t stage_bytes(std::size_t bytes) { return (bytes + kStageStep - 1) / kStageStep * kStageStep; }

// Two threads speak to the driver: one gives it batches, which may take as long as the driver likes, the other sleeps
// until a batch is done. The owner's thread only ever takes the lock.
class CudaDevice final : public Device {
 public:
  CudaDevice(float* gradient, DeviceConfig config, std::function<void()> wake)
      : gradient_(gradient), config_(config), wake_(std::move(wake)), queue_(config.batch_bytes, kMostTasks) {}
  ~CudaDevice() override;
  Status start();

  [[nodiscard]] std::string describe() const override {
    return availability().text + (copies_in_one_call_ ? "" : " (copies one by one)");
  }
  [[nodiscard]] std::size_t lanes() const override { return kLanes; }
  Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override;
  Status submit(const Task& task) override;
  [[nodiscard]] std::optional<Error> failure() const override;
  bool drain(Duration limit) override;
  Status follow(void* stream) override;
  void notice() override;
  void silence() override;
  [[nodiscard]] std::string state() const override;

 private:
  using Kind = ChunkOrder::Kind;
  static constexpr std::size_t kLanes = 64;  // orders of one lane are never in one batch

  // Orders under way, with all that one batch needs; there are a few, used again and again.
  struct Slot {
    std::vector<Task> tasks;
    std::uint64_t number = 0;
    Memory stage;     // payloads, before they are reduced or after they were encoded
    Memory verdicts;  // one word per task, in device memory
    Memory faults;    // likewise, where the host can read them; behind them, the mark that all results are there
    cudaEvent_t copied = nullptr, computed = nullptr, done = nullptr;

    [[nodiscard]] std::uint32_t* mark() const { return faults.as<std::uint32_t>() + kMostTasks; }
  };
  struct LastOut {
    std::uint64_t number = 0;
    cudaEvent_t done = nullptr;
  };

  void submit_batches();
  [[nodiscard]] bool can_take() const;  // under the lock, like the next
  void give_up(std::unique_lock<std::mutex>& lock, const Error& error);
  std::optional<Error> carry_out(Slot& slot);
  std::optional<Error> make_room(Slot& slot, std::size_t bytes);
  int reduce(Slot& slot, Copies& results);
  int encode(Slot& slot, Copies& results);
  int wait_for_results_of(const Slot& slot);
  void wait_for_batches();
  void publish();  // under the lock
  void wake();

  float* const gradient_;
  const DeviceConfig config_;
  std::mutex wake_mutex_;  // held while the owner is being woken
  std::function<void()> wake_;
  int device_ = 0;
  std::atomic<bool> copies_in_one_call_{true};
  std::vector<Memory> pinned_;

  // Of the thread that submits, once it runs.
  cudaStream_t in_ = nullptr, compute_ = nullptr, out_ = nullptr;
  cudaEvent_t gradient_ready_ = nullptr;
  std::vector<Memory> outgrown_;  // stages that were too small: to free them would wait for the device
  Memory one_;                    // in device memory: what marks are copied from
  std::uint64_t last_number_ = 0;
  LastOut last_out_[kLanes];  // the last batch that copies results of this lane to the host

  mutable std::mutex mutex_;
  std::condition_variable work_;     // for the thread that submits
  std::condition_variable changed_;  // for everyone else
  OrderQueue queue_;
  std::deque<Slot> slots_;
  std::vector<Slot*> free_;
  BatchLedger under_way_;
  std::deque<Slot*> slots_under_way_;
  std::uint64_t completed_ = 0;
  std::optional<Error> error_;    // nothing new is begun
  std::optional<Error> failure_;  // and nothing is under way any more
  bool submitting_ = false;
  bool closed_ = false;
  bool ending_ = false;
  std::thread submitter_;
  std::thread waiter_;
};

Status CudaDevice::start() {
  device_ = device_of(gradient_);
  const OnDevice here(device_);
  int code = cudaSuccess;
  const auto then = [&code](auto call) {
    if (code == cudaSuccess) code = call();
  };
  const auto make_event = [&](cudaEvent_t* event, unsigned flags) {
    then([=] { return cudaEventCreateWithFlags(event, cudaEventDisableTiming | flags); });
  };
  const auto make_stream = [&](cudaStream_t* stream) {
    then([=] { return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking); });
  };
  make_event(&gradient_ready_, 0);
  make_stream(&in_);
  make_stream(&compute_);
  make_stream(&out_);
  auto one = Memory::allocate(Place::device, sizeof(std::uint32_t));
  if (!one) return one.error();
  one_ = std::move(*one);
  then([&] { return cudaMemsetAsync(one_.data(), 1, one_.size(), compute_); });
  then([&] { return cudaStreamSynchronize(compute_); });  // before out_ reads it
  if (code == cudaSuccess) {
    if (auto followed = follow(config_.after); !followed) return followed;
  }
  for (std::size_t i = 0; i < std::clamp<std::size_t>(config_.batches, 1, 64) && code == cudaSuccess; ++i) {
    Slot& slot = slots_.emplace_back();
    const std::size_t payloads = std::max(config_.batch_bytes, config_.largest_payload);
    if (auto error = make_room(slot, payloads + kMostTasks * kStageStep)) return *error;
    auto verdicts = Memory::allocate(Place::device, kMostTasks * sizeof(unsigned long long));
    if (!verdicts) return verdicts.error();
    slot.verdicts = std::move(*verdicts);
    auto faults = Memory::allocate(Place::pinned, (kMostTasks + 1) * sizeof(std::uint32_t));
    if (!faults) return faults.error();
    slot.faults = std::move(*faults);
    then([&] { return cudaMemsetAsync(slot.verdicts.data(), 0, slot.verdicts.size(), compute_); });
    make_event(&slot.copied, 0);
    make_event(&slot.computed, 0);
    make_event(&slot.done, cudaEventBlockingSync);
    free_.push_back(&slot);
  }
  if (code != cudaSuccess) return status_of(code, "making streams");
  submitter_ = std::thread([this] { submit_batches(); });
  waiter_ = std::thread([this] { wait_for_batches(); });
  return Done{};
}

// Whoever destroys it has drained it.
CudaDevice::~CudaDevice() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  changed_.notify_all();
  if (submitter_.joinable()) submitter_.join();
  if (waiter_.joinable()) waiter_.join();
  for (const Slot& slot : slots_) {
    for (cudaEvent_t event : {slot.copied, slot.computed, slot.done}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
  if (gradient_ready_ != nullptr) cudaEventDestroy(gradient_ready_);
  for (cudaStream_t stream : {in_, compute_, out_}) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

// Everything that reads or writes the gradient waits for what is in compute_.
Status CudaDevice::follow(void* stream) {
  const OnDevice here(device_);
  int code = cudaEventRecord(gradient_ready_, static_cast<cudaStream_t>(stream));
  if (code == cudaSuccess) code = cudaStreamWaitEvent(compute_, gradient_ready_);
  return status_of(code, "waiting for the gradient");
}

Result<std::span<std::byte>> CudaDevice::allocate_pinned(std::size_t bytes) {
  const OnDevice here(device_);
  auto memory = Memory::allocate(Place::pinned, bytes);
  if (!memory) return memory.error();
  std::fill_n(memory->data(), bytes, std::byte{0});
  pinned_.push_back(std::move(*memory));
  return std::span(pinned_.back().data(), bytes);
}

Status CudaDevice::submit(const Task& task) {
  bool call = false;
  {
    const std::lock_guard lock(mutex_);
    if (error_) return *error_;
    queue_.push(task);
    call = can_take();
  }
  if (call) work_.notify_one();
  return Done{};
}

// While the device has enough to do, orders are left to become a full batch.
bool CudaDevice::can_take() const {
  if (closed_ || error_ || queue_.empty() || free_.empty()) return false;
  return under_way_.size() < 2 || queue_.has_a_full_batch();
}

void CudaDevice::submit_batches() {
  cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return ending_ || can_take(); });
    if (ending_) return;
    Slot& slot = *free_.back();
    free_.pop_back();
    slot.tasks = queue_.take();
    submitting_ = true;
    lock.unlock();
    std::atomic_ref<std::uint32_t>(*slot.mark()).store(0, std::memory_order_release);
    const std::optional<Error> error = carry_out(slot);
    lock.lock();
    if (error) {
      give_up(lock, *error);
      return;
    }
    under_way_.add({.tasks = slot.tasks, .mark = slot.mark(), .number = slot.number});
    slots_under_way_.push_back(&slot);
    submitting_ = false;
    changed_.notify_all();
  }
}

// Not before everything that the device was given has ended: nothing completes after a failure.
void CudaDevice::give_up(std::unique_lock<std::mutex>& lock, const Error& error) {
  if (!error_) error_ = error;
  lock.unlock();
  for (cudaStream_t stream : {in_, compute_, out_}) cudaStreamSynchronize(stream);
  forget_error();
  lock.lock();
  changed_.wait(lock, [&] { return under_way_.empty(); });
  failure_ = error_;
  submitting_ = false;
  changed_.notify_all();
  lock.unlock();
  wake();
  lock.lock();
}

std::optional<Error> CudaDevice::make_room(Slot& slot, std::size_t bytes) {
  if (slot.stage.size() >= bytes) return std::nullopt;
  auto stage = Memory::allocate(Place::device, (bytes + 4095) / 4096 * 4096);
  if (!stage) return stage.error();
  outgrown_.push_back(std::exchange(slot.stage, std::move(*stage)));
  return std::nullopt;
}

std::optional<Error> CudaDevice::carry_out(Slot& slot) {
  slot.number = ++last_number_;
  const Kind kind = slot.tasks.front().order.kind;
  std::size_t bytes = 0;
  for (const Task& task : slot.tasks) bytes += stage_bytes(moved_bytes(task.order));
  if (auto error = kind == Kind::load ? std::nullopt : make_room(slot, bytes)) return error;
  Copies results;
  int code = wait_for_results_of(slot);
  if (code == cudaSuccess) {
    if (kind == Kind::load) {
      for (const Task& task : slot.tasks) {
        const ChunkOrder& order = task.order;
        results.add(task.mirror, gradient_ + order.begin, order.count * sizeof(float), task.mirror);
      }
    } else {
      code = kind == Kind::encode || kind == Kind::finalise ? encode(slot, results) : reduce(slot, results);
    }
  }
  if (code == cudaSuccess && !results.empty()) {
    code = cudaEventRecord(slot.computed, compute_);
    if (code == cudaSuccess) code = cudaStreamWaitEvent(out_, slot.computed);
    if (code == cudaSuccess) code = results.run(out_, copies_in_one_call_);
    for (const Task& task : slot.tasks) last_out_[task.lane] = {slot.number, slot.done};
  }
  cudaStream_t const last = results.empty() ? compute_ : out_;
  if (code == cudaSuccess) {
    code = cudaMemcpyAsync(slot.mark(), one_.data(), sizeof(std::uint32_t), cudaMemcpyDeviceToHost, last);
  }
  if (code == cudaSuccess) code = cudaEventRecord(slot.done, last);
  if (code == cudaSuccess) return std::nullopt;
  forget_error();
  return error_of(code, "carrying out an order");
}

// No value may change while the results of an earlier batch are still copied from there.
int CudaDevice::wait_for_results_of(const Slot& slot) {
  LastOut last;
  for (const Task& task : slot.tasks) {
    if (last_out_[task.lane].number > last.number) last = last_out_[task.lane];
  }
  {
    const std::lock_guard lock(mutex_);
    if (last.number <= completed_) return cudaSuccess;
  }
  return cudaStreamWaitEvent(compute_, last.done);
}

int CudaDevice::reduce(Slot& slot, Copies& results) {
  Copies payloads;
  Batch<ReduceTask> batch;
  std::byte* stage = slot.stage.data();
  for (const Task& task : slot.tasks) {
    const ChunkOrder& order = task.order;
    float* const values = gradient_ + order.begin;
    payloads.add(stage, order.in.data(), order.in.size(), order.in.data());
    batch.task[batch.count] = {.in = stage,
                               .values = values,
                               .count = order.count,
                               .own_scale = order.own_scale,
                               .weight = order.weight,
                               .inverse_total = order.inverse_total,
                               .limit = order.limit,
                               .replace = order.kind == Kind::write,
                               .verdict = slot.verdicts.as<unsigned long long>() + batch.count,
                               .ticket = slot.number * kTicketStep,
                               .fault = slot.faults.as<std::uint32_t>() + batch.count};
    batch.count += 1;
    stage += stage_bytes(order.in.size());
    if (task.mirror != nullptr) results.add(task.mirror, values, order.count * sizeof(float), task.mirror);
  }
  int code = payloads.run(in_, copies_in_one_call_);
  if (code == cudaSuccess) code = cudaEventRecord(slot.copied, in_);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(compute_, slot.copied);
  return code != cudaSuccess ? code : launch_reduce(slot.tasks.front().order.codec, batch, compute_);
}

int CudaDevice::encode(Slot& slot, Copies& results) {
  Batch<EncodeTask> batch;
  std::byte* stage = slot.stage.data();
  for (const Task& task : slot.tasks) {
    const ChunkOrder& order = task.order;
    const bool keeps = order.kind == Kind::finalise;
    float* const values = gradient_ + order.begin;
    batch.task[batch.count++] = {.values = values,
                                 .decoded = keeps ? values : nullptr,
                                 .out = order.out.empty() ? nullptr : stage,
                                 .count = order.count,
                                 .scaled = keeps && order.inverse_total != 1,
                                 .factor = order.inverse_total};
    results.add(order.out.data(), stage, order.out.size(), order.out.data());
    stage += stage_bytes(moved_bytes(order));
  }
  for (const Task& task : slot.tasks) {
    if (task.order.kind != Kind::finalise || task.mirror == nullptr) continue;
    results.add(task.mirror, gradient_ + task.order.begin, task.order.count * sizeof(float), task.mirror);
  }
  return launch_encode(slot.tasks.front().order.codec, batch, compute_);
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

void CudaDevice::publish() {
  under_way_.publish([](const BatchLedger::Batch& batch, std::size_t i) {
    const Kind kind = batch.tasks[i].order.kind;
    const bool reads = kind == Kind::accumulate || kind == Kind::write;
    // The faults lie before the mark, in the same memory.
    return reads ? fault_of((batch.mark - kMostTasks)[i]) : NumberFault::none;
  });
}

void CudaDevice::notice() {
  const std::lock_guard lock(mutex_);
  publish();
}

void CudaDevice::wait_for_batches() {
  cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !under_way_.empty(); });
    if (under_way_.empty()) return;
    Slot& slot = *slots_under_way_.front();
    lock.unlock();
    const int code = cudaEventSynchronize(slot.done);
    lock.lock();
    // An error says nothing about this batch: it may have been done long before. Its mark does.
    if (code != cudaSuccess && !error_) error_ = error_of(code, "carrying out an order");
    publish();
    completed_ = slot.number;
    under_way_.drop_first();
    slots_under_way_.pop_front();
    free_.push_back(&slot);
    if (error_ && under_way_.empty() && !submitting_) failure_ = error_;
    work_.notify_one();
    changed_.notify_all();
    lock.unlock();
    wake();
    lock.lock();
  }
}

std::optional<Error> CudaDevice::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

// What the driver was not given yet it never will be.
bool CudaDevice::drain(Duration limit) {
  std::unique_lock lock(mutex_);
  closed_ = true;
  queue_.clear();
  return changed_.wait_for(lock, limit, [&] { return !submitting_ && under_way_.empty(); });
}

std::string CudaDevice::state() const {
  const std::lock_guard lock(mutex_);
  return std::to_string(under_way_.orders()) + " orders in " + std::to_string(under_way_.size()) +
         " batches are with the driver, " + (submitting_ ? "one more batch is being given to it, " : "") +
         std::to_string(queue_.size()) + " orders wait";
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
// cudaMemcpy alone returns when pageable memory has been read, which may be before everything is in the device's
// memory; streams that do not wait for the default stream would find the rest of it missing.
Status copy(void* to, const void* from, std::size_t bytes) {
  const int code = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, nullptr);
  return status_of(code != cudaSuccess ? code : cudaStreamSynchronize(nullptr), "copying");
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
