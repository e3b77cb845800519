// What the files of papilio-bench share: each registers its benchmarks with one function, and every rate is held
// against memcpy over as many bytes, timed in turn with the operation so that whatever else the machine does slows
// both.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <new>
#include <string>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::bench {

void register_kernel_benchmarks();
void register_tls_benchmarks();
void register_transport_benchmarks();
void register_gpu_benchmarks();

// Page-aligned, as slabs and gradients are: a vector of 64 bytes that straddles two cache lines costs two.
template <typename T>
struct PageAllocator {
  using value_type = T;
  static constexpr std::align_val_t kPage{4096};

  PageAllocator() = default;
  template <typename Other>
  PageAllocator(const PageAllocator<Other>&) {}  // NOLINT(google-explicit-constructor)
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kPage)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, kPage); }
  bool operator==(const PageAllocator&) const { return true; }
};
using Floats = std::vector<float, PageAllocator<float>>;
using Bytes = std::vector<std::byte, PageAllocator<std::byte>>;

// Values between 0.5 and 1: sums stay finite and normal however long a benchmark runs, as scales below 1 are used. Long
// ones repeat, for the time that drawing takes.
inline Floats random_values(std::size_t count, std::uint64_t seed) {
  constexpr std::size_t kDrawn = std::size_t{1} << 18U;
  Random random(seed);
  Floats values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = i < kDrawn ? static_cast<float>(0.5 + random.uniform() / 2) : values[i - kDrawn];
  }
  return values;
}

// Of this thread: what others do on the machine should not decide the ratio.
inline double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

template <typename Operation>
double seconds_of(Operation operation, std::size_t times) {
  const double start = cpu_seconds();
  for (std::size_t i = 0; i < times; ++i) {
    operation();
    benchmark::ClobberMemory();
  }
  return cpu_seconds() - start;
}

inline double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Runs both in turn, for about 0.2 ms each, and sets the counters "GB/s" (of the operation, which touches `bytes`
// bytes) and `ratio_name`: the median over the turns of the operation's rate by that of the other one, which touches
// `other_bytes`.
template <typename Operation, typename Other>
void run_in_turn(benchmark::State& state, double bytes, Operation operation, double other_bytes, Other other,
                 const std::string& ratio_name) {
  constexpr double kTurnBytes = 4e6;
  const auto times = static_cast<std::size_t>(std::max(1.0, kTurnBytes / bytes));
  const auto other_times = static_cast<std::size_t>(std::max(1.0, kTurnBytes / other_bytes));
  std::vector<double> rates, ratios;
  operation();
  other();
  for (auto _ : state) {
    const double other_rate = other_bytes * static_cast<double>(other_times) / seconds_of(other, other_times);
    const double seconds = seconds_of(operation, times);
    state.SetIterationTime(seconds);
    rates.push_back(bytes * static_cast<double>(times) / seconds);
    ratios.push_back(rates.back() / other_rate);
  }
  state.counters["GB/s"] = median_of(rates) / 1e9;
  state.counters[ratio_name] = median_of(ratios);
}

// Against memcpy with buffers of together `bytes` bytes: both count each byte read and each written once.
template <typename Operation>
void run_against_memcpy(benchmark::State& state, double bytes, Operation operation) {
  const auto half = std::max<std::size_t>(static_cast<std::size_t>(bytes) / 2, 64);
  const Bytes from(half, std::byte{1});
  Bytes to(half);
  const auto copy = [&] {
    std::memcpy(to.data(), from.data(), half);
    benchmark::DoNotOptimize(to.data());
  };
  run_in_turn(state, bytes, operation, 2.0 * static_cast<double>(half), copy, "of_memcpy");
}

}  // namespace papilio::bench
