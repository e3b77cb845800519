// For every machine: what the compiler's default flags allow (SSE2 on x86-64, NEON on 64-bit Arm).
#if defined(__SSE2__)
#define PAPILIO_XXH_VECTOR XXH_SSE2
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define PAPILIO_XXH_VECTOR XXH_NEON
#else
#define PAPILIO_XXH_VECTOR XXH_SCALAR
#endif
#include "kernels/cpu_loops.h"

namespace papilio::kernels {

const CpuOperations kBaselineOperations = {
    .name = "baseline",
    .supported = [] { return true; },
    .accumulate = accumulate_loop,
    .accumulate_and_finalise = accumulate_and_finalise_loop,
    .finalise = finalise_loop,
    .checksum = checksum_bytes,
    .all_within = all_within_loop,
    .inspect = inspect_loop,
    .copy_streaming = copy_streaming_bytes,
};

}  // namespace papilio::kernels
