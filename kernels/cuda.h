// GPUs, for those who compile without CUDA's headers: whether there is one, memory that it can reach, and a Device
// (kernels/device.h) on its streams. Linked everywhere: built without CUDA, or where no GPU is, availability() says so
// in words and everything else returns errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "engine/base/result.hpp"
#include "kernels/cuda_tasks.h"
#include "kernels/device.h"

namespace papilio::kernels::cuda {

struct Availability {
  bool usable = false;
  std::string text;  // which GPU, or why there is none: one line
};
[[nodiscard]] const Availability& availability();

enum class Place : std::uint8_t { device, pinned };

// Owner of memory that the GPU works on.
class Memory {
 public:
  static Result<Memory> allocate(Place place, std::size_t bytes);
  Memory() = default;
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(place_, other.place_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  // In device memory: an address only.
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Place place_ = Place::device;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Makes memory of somebody else's, such as a slab pool's, pinned for the GPU too: transfers from there need no copy in
// between. Whole pages. An error is no harm: everything works without, more slowly.
[[nodiscard]] Status register_pinned(std::span<std::byte> pages);
void unregister_pinned(std::span<std::byte> pages);

// Orders are carried out in batches: one copy of all payloads into device memory, two kernels, one copy of all results
// back, on streams of their own, so that the copies of one batch go on while another is reduced.
struct DeviceConfig {
  // Of payloads in one batch, unless one alone has more: so many that what one copy costs by itself counts for little,
  // and so few that the last batch's way through does not count for much.
  std::size_t batch_bytes = std::size_t{8} << 20U;
  std::size_t batches = 4;          // under way at a time; each has batch_bytes of device memory
  std::size_t largest_payload = 0;  // in bytes, if it is known: memory for it is then there from the start
  // The orders come after the work that is in this stream now: what computed the gradient. 0: CUDA's default stream.
  Stream after = nullptr;
};

// `gradient` is device memory, `elements` of it. `wake` is called from other threads; it may not call CUDA.
[[nodiscard]] Result<std::unique_ptr<Device>> make_device(float* gradient, std::size_t elements, DeviceConfig config,
                                                          std::function<void()> wake);

// ---- for tests and benchmarks

[[nodiscard]] Result<Stream> make_stream();
void destroy_stream(Stream stream);
[[nodiscard]] Status wait_for(Stream stream);
// Between any two places; after all work in the default stream, and everything is there when it returns.
[[nodiscard]] Status copy(void* to, const void* from, std::size_t bytes);
[[nodiscard]] Status copy_later(void* to, const void* from, std::size_t bytes, Stream stream);
[[nodiscard]] Status fill_later(void* to, int byte, std::size_t bytes, Stream stream);
// 0 is success.
[[nodiscard]] std::string error_text(int code);
// Reads and forgets the last error that is not for good.
void forget_error();

// A stretch of time on the device's own clock.
class Stopwatch {
 public:
  Stopwatch();
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  void start(Stream stream);
  // Waits until all before is done; negative if it failed.
  [[nodiscard]] double stop(Stream stream);

 private:
  void* begin_ = nullptr;
  void* end_ = nullptr;
};

}  // namespace papilio::kernels::cuda
