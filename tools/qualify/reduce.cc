#include "tools/qualify/reduce.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

#include "kernels/ops.h"

namespace papilio::qualify {

double measure_reduce_gbs() {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kElements = (std::size_t{512} << 10U) / sizeof(float);
  constexpr auto kRound = std::chrono::milliseconds(25);
  std::vector<float> sum(kElements, 0.0F);
  const std::vector<float> values(kElements, 1.0F);
  double best = 0;
  // The best of a few: a moment in which the machine does something else says nothing about it. The first warms up.
  for (int round = 0; round < 6; ++round) {
    const Clock::time_point begin = Clock::now();
    std::size_t chunks = 0;
    Clock::time_point end = begin;
    for (; end - begin < kRound; end = Clock::now(), ++chunks) kernels::accumulate(sum, 1.0F, 0.5F, values);
    const double seconds = std::chrono::duration<double>(end - begin).count();
    best = std::max(best, static_cast<double>(chunks * kElements * sizeof(float)) / seconds / 1e9);
  }
  return best;
}

}  // namespace papilio::qualify
