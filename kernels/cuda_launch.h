// The launches of kernels/cuda_kernels.cu. Apart from kernels/cuda.h, which turns their codes (cudaError_t, 0 for
// success) into errors with words.
#pragma once

#include "kernels/cuda_tasks.h"

namespace papilio::kernels::cuda {

inline constexpr unsigned kNormBlocks = 1056;  // partial results of a norm

// Looks at the payloads, and does what the tasks say where no fault was found. In one call, because the second kernel
// begins before the first one has ended, which is right for these two only.
int launch_reduce(Codec codec, const Batch<ReduceTask>& batch, Stream stream);
// The first half alone.
int launch_check(Codec codec, const Batch<ReduceTask>& batch, Stream stream);
int launch_encode(Codec codec, const Batch<EncodeTask>& batch, Stream stream);
int launch_norm(const float* values, std::size_t count, NormResult* partial, Scratch* scratch, NormResult* result,
                Stream stream);

}  // namespace papilio::kernels::cuda
