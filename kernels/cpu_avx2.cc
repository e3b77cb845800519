// Compiled with -mavx2: nothing in here may run before supported() said yes.
#define PAPILIO_XXH_VECTOR XXH_AVX2
#include "kernels/cpu_loops.h"

namespace papilio::kernels {

const CpuOperations kAvx2Operations = {
    .name = "avx2",
    .supported = [] { return __builtin_cpu_supports("avx2") != 0; },
    .accumulate = accumulate_loop,
    .accumulate_and_finalise = accumulate_and_finalise_loop,
    .finalise = finalise_loop,
    .checksum = checksum_bytes,
    .all_within = all_within_loop,
    .inspect = inspect_loop,
    .copy_streaming = copy_streaming_bytes,
};

}  // namespace papilio::kernels
