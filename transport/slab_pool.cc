#include "transport/slab_pool.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

namespace papilio::transport {

Slab::Slab(Slab&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), index_(other.index_) {}

Slab& Slab::operator=(Slab&& other) noexcept {
  if (this != &other) {
    release();
    pool_ = std::exchange(other.pool_, nullptr);
    index_ = other.index_;
  }
  return *this;
}

std::span<std::byte> Slab::bytes() const {
  PAPILIO_ASSERT(pool_ != nullptr);
  return {pool_->region_ + std::size_t{index_} * pool_->slab_bytes_, pool_->slab_bytes_};
}

void Slab::release() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(index_);
}

Result<SlabPool> SlabPool::make(std::size_t slab_bytes, std::size_t count, PageCallbacks callbacks) {
  if (slab_bytes == 0 || count == 0) {
    return usage_error("a slab pool needs slabs: got " + std::to_string(count) + " of " + std::to_string(slab_bytes) +
                       " bytes; give at least 1 of at least 1 byte");
  }
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  // Sums and products below must not wrap to something that looks affordable.
  constexpr std::size_t kMost = std::size_t{1} << 47U;  // what a process can address
  if (slab_bytes > kMost || count > kMost / slab_bytes || count > std::numeric_limits<std::uint32_t>::max()) {
    return usage_error("a slab pool of " + std::to_string(count) + " slabs of " + std::to_string(slab_bytes) +
                       " bytes is beyond any machine; use a smaller chunk size or fewer peers");
  }
  SlabPool pool;
  pool.slab_bytes_ = (slab_bytes + page_bytes - 1) / page_bytes * page_bytes;
  pool.count_ = count;
  const std::size_t total_bytes = pool.slab_bytes_ * count;
  void* region = mmap(nullptr, total_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (region == MAP_FAILED) {
    return runtime_error("cannot map " + std::to_string(total_bytes) + " bytes for the slab pool: " +
                         std::strerror(errno) + "; use a smaller chunk size or fewer peers");
  }
  pool.region_ = static_cast<std::byte*>(region);
  // Huge pages only where the pool fills some: a 2 MiB page for a 1 MiB pool would waste the other half.
  if (total_bytes >= (std::size_t{8} << 20U)) static_cast<void>(madvise(region, total_bytes, MADV_HUGEPAGE));
  // MLOCK_ONFAULT: pages are pinned when first used, so an idle slab costs nothing.
  if (mlock2(region, total_bytes, MLOCK_ONFAULT) != 0) {
    pool.notes_ = "the slab pool (" + std::to_string(total_bytes) +
                  " bytes) is not locked in memory: " + std::strerror(errno) +
                  "; raise the memlock limit (ulimit -l) to pin it";
  }
  if (callbacks.on_mapped) {
    const std::string refused = callbacks.on_mapped({pool.region_, total_bytes});
    if (refused.empty()) {
      pool.on_unmapping_ = std::move(callbacks.on_unmapping);
    } else {
      pool.notes_ += (pool.notes_.empty() ? "" : "; ") + refused;
    }
  }
  pool.free_.reserve(count);
  for (std::size_t i = count; i-- > 0;) pool.free_.push_back(static_cast<std::uint32_t>(i));
  return pool;
}

SlabPool::SlabPool(SlabPool&& other) noexcept
    : region_(std::exchange(other.region_, nullptr)),
      slab_bytes_(other.slab_bytes_),
      count_(other.count_),
      free_(std::move(other.free_)),
      notes_(std::move(other.notes_)),
      on_unmapping_(std::move(other.on_unmapping_)) {
  PAPILIO_ASSERT_VALUES(free_.size() == count_, free_.size(), count_);  // slabs point at their pool: move it unused
}

SlabPool::~SlabPool() {
  if (region_ == nullptr) return;
  PAPILIO_ASSERT_VALUES(free_.size() == count_, free_.size(), count_);  // a slab outlived its pool
  if (on_unmapping_) on_unmapping_({region_, slab_bytes_ * count_});
  munmap(region_, slab_bytes_ * count_);
}

Slab SlabPool::take() {
  if (free_.empty()) return {};
  const std::uint32_t index = free_.back();
  free_.pop_back();
  return Slab(this, index);
}

void SlabPool::give_back(std::uint32_t index) {
  PAPILIO_ASSERT_VALUES(free_.size() < count_, free_.size(), count_);
  free_.push_back(index);
}

}  // namespace papilio::transport
