// Memory for a gradient: whole pages of its own, so that the kernel can be handed the pages themselves and huge pages
// can back them. Zeroed when new, never moved.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>

#include "engine/base/assert.hpp"

namespace papilio::training {

class PageMemory {
 public:
  explicit PageMemory(std::size_t floats) : floats_(floats) {
    PAPILIO_ASSERT(floats > 0);
    void* pages = ::mmap(nullptr, floats_ * sizeof(float), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return;
    data_ = static_cast<float*>(pages);
    // A wish only: without huge pages everything works, with more page faults.
    ::madvise(pages, floats_ * sizeof(float), MADV_HUGEPAGE);
  }
  ~PageMemory() {
    if (data_ != nullptr) ::munmap(data_, floats_ * sizeof(float));
  }
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;

  // False when the system had no memory left.
  [[nodiscard]] bool ok() const { return data_ != nullptr; }
  [[nodiscard]] std::span<float> floats() const { return {data_, floats_}; }

 private:
  float* data_ = nullptr;
  std::size_t floats_;
};

}  // namespace papilio::training
