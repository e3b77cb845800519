// The GPU's part of papilio-bench, in a file of its own because it measures with the device's clock and against the
// device's own copies.
#pragma once

namespace papilio::bench {

// Adds the benchmarks that this machine's GPU can run; without one it adds none and says why on standard error.
void register_gpu_benchmarks();

}  // namespace papilio::bench
