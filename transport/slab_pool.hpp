// Payloads land in slabs: fixed-size pieces of one pinned region, so that the kernel (and later the GPU) can move bytes
// into memory that never pages, and memory use is bounded by construction, whatever the peers do. A slab has exactly
// one owner at a time; it returns to the pool when its owner lets go. When the pool is empty, readers pause and TCP
// slows the peers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.hpp"

namespace papilio::transport {

class SlabPool;

// Unique owner of one slab; empty when default-constructed or moved from.
class Slab {
 public:
  Slab() = default;
  Slab(Slab&& other) noexcept;
  Slab& operator=(Slab&& other) noexcept;
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  ~Slab() { release(); }

  explicit operator bool() const { return pool_ != nullptr; }
  [[nodiscard]] std::span<std::byte> bytes() const;
  void release();

 private:
  friend class SlabPool;
  Slab(SlabPool* pool, std::uint32_t index) : pool_(pool), index_(index) {}

  SlabPool* pool_ = nullptr;
  std::uint32_t index_ = 0;
};

// Told of the pool's memory, so that its owner can make it known elsewhere: to a GPU, which this box knows nothing of.
struct PageCallbacks {
  // Before the first slab is used. Returns an empty string, or why the pages are not known there now: it goes to
  // notes(), and the pool works all the same.
  std::function<std::string(std::span<std::byte>)> on_mapped;
  // Before the pages go, if on_mapped returned an empty string.
  std::function<void(std::span<std::byte>)> on_unmapping;
};

// Not thread-safe: slabs are taken and returned on the loop's thread.
class SlabPool {
 public:
  // `slab_bytes` is rounded up to whole pages. Memory is locked, and huge pages are asked for, where the system allows;
  // notes() says in one line what was not granted.
  static Result<SlabPool> make(std::size_t slab_bytes, std::size_t count, PageCallbacks callbacks = {});
  SlabPool(SlabPool&& other) noexcept;
  SlabPool& operator=(SlabPool&&) = delete;
  SlabPool(const SlabPool&) = delete;
  SlabPool& operator=(const SlabPool&) = delete;
  ~SlabPool();

  // An empty Slab when all are taken.
  Slab take();
  [[nodiscard]] std::size_t slab_bytes() const { return slab_bytes_; }
  [[nodiscard]] std::size_t capacity() const { return count_; }
  [[nodiscard]] std::size_t available() const { return free_.size(); }
  [[nodiscard]] const std::string& notes() const { return notes_; }

 private:
  friend class Slab;
  SlabPool() = default;
  void give_back(std::uint32_t index);

  std::byte* region_ = nullptr;
  std::size_t slab_bytes_ = 0;
  std::size_t count_ = 0;
  std::vector<std::uint32_t> free_;  // last in, first out: the slab used last is still in the cache
  std::string notes_;
  std::function<void(std::span<std::byte>)> on_unmapping_;
};

}  // namespace papilio::transport
