// The launches of kernels/cuda_kernels.cu. Apart from kernels/cuda.h, which turns their codes (cudaError_t, 0 for
// success) into errors with words.
#pragma once

#include "kernels/cuda_tasks.h"

namespace papilio::kernels::cuda {

inline constexpr unsigned kNormBlocks = 1056;  // partial results of a norm

// Looks at the payload; the fault goes to the scratch.
int launch_check(Codec codec, const ReduceTask& task, Stream stream);
// Does what the task says unless the scratch holds a fault. With a scratch it comes right after launch_check: it may
// begin before that has ended.
int launch_apply(Codec codec, bool replace, const ReduceTask& task, Stream stream);
// Tells the host, and clears the scratch.
int launch_publish(const ReduceTask& task, Stream stream);
// All three in one launch of at most so many blocks; all of them have to fit on the device at once.
int launch_order(Codec codec, bool replace, const ReduceTask& task, unsigned most_blocks, Stream stream);
int launch_encode(Codec codec, const EncodeTask& task, Stream stream);
int launch_norm(const float* values, std::size_t count, NormResult* partial, Scratch* scratch, NormResult* result,
                Stream stream);

}  // namespace papilio::kernels::cuda
