// Which instruction sets the kernels were compiled for, as far as this machine runs them. Google Highway picks the best
// of them at the first call; tests hold each against the scalar reference, and papilio-bench times each.
#pragma once

#include <cstdint>
#include <vector>

namespace papilio::kernels {

struct Target {
  const char* name;
  std::int64_t highway;  // Highway's number for it
};

// Best first. The last one, SCALAR, is the reference itself and runs everywhere.
[[nodiscard]] std::vector<Target> targets();

// What the kernels use now.
[[nodiscard]] Target target_in_use();

// For tests and benchmarks, while no other thread is in a kernel: use this one from now on; without one, the best
// again.
void use_target(const Target& target);
void use_best_target();

}  // namespace papilio::kernels
