// The operations of kernels/ops.h on the device. Bit for bit what the scalar reference does: the compiler may not fuse
// a multiplication with an addition (-fmad=false), divisions are true ones, and rounding is spelt out.
//
// All are bound by memory: 16-byte accesses where every pointer allows it, several independent loads
// in flight per thread, one pass over what is large. Element i of one span meets element i of the others, so where one
// pointer is misaligned all go element by element, with whole elements loaded where they are aligned.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda_launch.h"

namespace papilio::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kUnroll = 4;
constexpr unsigned kGroup = 4;  // elements that a thread takes at a time
constexpr std::uint32_t kInfinityBits = 0x7f800000U;

__device__ std::uint32_t magnitude_bits(float value) { return __float_as_uint(value) & 0x7fffffffU; }

__device__ std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > kInfinityBits) return kBf16NotANumber;
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  if (magnitude == kInfinityBits) return static_cast<std::uint16_t>(sign | 0x7f80U);
  const std::uint32_t rounded = (magnitude + 0x7fffU + ((magnitude >> 16U) & 1U)) >> 16U;
  return static_cast<std::uint16_t>(sign | min(rounded, 0x7f7fU));
}
__device__ float from_bf16(std::uint16_t half) { return __uint_as_float(std::uint32_t{half} << 16U); }

__device__ std::uint16_t to_fp16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > kInfinityBits) return kFp16NotANumber;
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  if (magnitude == kInfinityBits) return static_cast<std::uint16_t>(sign | 0x7c00U);
  const std::uint32_t rounded = __half_as_ushort(__float2half_rn(__uint_as_float(magnitude)));
  return static_cast<std::uint16_t>(sign | min(rounded, 0x7bffU));
}
__device__ float from_fp16(std::uint16_t half) { return __half2float(__ushort_as_half(half)); }

template <Codec codec>
__device__ std::uint16_t to_half(float value) {
  return codec == Codec::bf16 ? to_bf16(value) : to_fp16(value);
}
template <Codec codec>
__device__ float from_half(std::uint16_t half) {
  return codec == Codec::bf16 ? from_bf16(half) : from_fp16(half);
}

__device__ float int8_scale(float largest) {
  const float exact = __fdiv_rn(largest, 127.0F);
  if (exact < kSmallestInt8Scale) return 0;
  const float rounded = __uint_as_float((__float_as_uint(exact) + kInt8ScaleFraction) & ~kInt8ScaleFraction);
  return fminf(rounded, kLargestInt8Scale);
}

// Little-endian, wherever it lies.
template <typename Word>
__device__ Word load_anywhere(const std::byte* from) {
  if (reinterpret_cast<std::uintptr_t>(from) % sizeof(Word) == 0) return *reinterpret_cast<const Word*>(from);
  Word word = 0;
  for (unsigned i = 0; i < sizeof(Word); ++i) word |= static_cast<Word>(static_cast<Word>(from[i]) << (8 * i));
  return word;
}
template <typename Word>
__device__ void store_anywhere(std::byte* to, Word word) {
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof(Word) == 0) {
    *reinterpret_cast<Word*>(to) = word;
    return;
  }
  for (unsigned i = 0; i < sizeof(Word); ++i) to[i] = static_cast<std::byte>(word >> (8 * i));
}

struct Four {
  float value[kGroup];
};

__device__ Four four(float4 v) { return {{v.x, v.y, v.z, v.w}}; }
__device__ float4 packed(const Four& v) { return make_float4(v.value[0], v.value[1], v.value[2], v.value[3]); }

__device__ bool in_fours(const float* values) { return reinterpret_cast<std::uintptr_t>(values) % 16 == 0; }
__device__ Four load_group(const float* values, std::size_t group) {
  return four(reinterpret_cast<const float4*>(values)[group]);
}
__device__ void store_group(float* values, std::size_t group, const Four& v) {
  reinterpret_cast<float4*>(values)[group] = packed(v);
}

// ---- decoding

template <Codec codec>
struct Payload {
  const std::byte* bytes;
  std::size_t count;

  __device__ const std::byte* quanta() const { return bytes + sizeof(float) * int8_blocks(count); }
  __device__ float scale(std::size_t block) const {
    return __uint_as_float(load_anywhere<std::uint32_t>(bytes + sizeof(float) * block));
  }

  __device__ float one(std::size_t i) const {
    if constexpr (codec == Codec::fp32) return __uint_as_float(load_anywhere<std::uint32_t>(bytes + 4 * i));
    if constexpr (codec == Codec::bf16 || codec == Codec::fp16) {
      return from_half<codec>(load_anywhere<std::uint16_t>(bytes + 2 * i));
    }
    if constexpr (codec == Codec::int8) {
      return __fmul_rn(static_cast<float>(static_cast<signed char>(quanta()[i])), scale(i / kInt8Block));
    }
  }

  [[nodiscard]] __device__ bool can_vectorise() const {
    constexpr unsigned kBytes = codec == Codec::fp32 ? 16 : codec == Codec::int8 ? 4 : 8;
    return reinterpret_cast<std::uintptr_t>(bytes) % kBytes == 0;
  }

  // Elements 4 * group and on, all of which are there. `past_l1`: from where copies and earlier kernels have put them,
  // whatever this multiprocessor has read there before.
  template <bool past_l1>
  __device__ Four vector(std::size_t group) const {
    const auto load = [](const auto* from) { return past_l1 ? __ldcg(from) : *from; };
    if constexpr (codec == Codec::fp32) return four(load(reinterpret_cast<const float4*>(bytes) + group));
    if constexpr (codec == Codec::bf16 || codec == Codec::fp16) {
      const uint2 raw = load(reinterpret_cast<const uint2*>(bytes) + group);
      return {{from_half<codec>(static_cast<std::uint16_t>(raw.x)),
               from_half<codec>(static_cast<std::uint16_t>(raw.x >> 16U)),
               from_half<codec>(static_cast<std::uint16_t>(raw.y)),
               from_half<codec>(static_cast<std::uint16_t>(raw.y >> 16U))}};
    }
    if constexpr (codec == Codec::int8) {
      const std::uint32_t raw = load(reinterpret_cast<const std::uint32_t*>(quanta()) + group);
      const float by = load(reinterpret_cast<const float*>(bytes) + group / (kInt8Block / kGroup));
      Four result;
      for (unsigned i = 0; i < kGroup; ++i) {
        result.value[i] = __fmul_rn(static_cast<float>(static_cast<signed char>(raw >> (8 * i))), by);
      }
      return result;
    }
  }
};

__device__ std::uint32_t fault_of_value(float value, float limit) {
  const std::uint32_t magnitude = magnitude_bits(value);
  if (magnitude >= kInfinityBits) return word_of(NumberFault::not_finite);
  return magnitude > __float_as_uint(limit) ? word_of(NumberFault::too_large) : 0;
}

// What is wrong with a block whose largest |byte| is `largest` (128 where one is -128).
__device__ std::uint32_t fault_of_block(float scale, std::uint32_t largest, float limit) {
  const std::uint32_t bits = __float_as_uint(scale);
  if (bits >= kInfinityBits) return word_of(NumberFault::bad_scale);  // the sign is the top bit
  if ((bits & kInt8ScaleFraction) != 0 || scale > kLargestInt8Scale) return word_of(NumberFault::bad_scale);
  if (bits != 0 && scale < kSmallestInt8Scale) return word_of(NumberFault::bad_scale);
  if (largest != (bits == 0 ? 0U : 127U)) return word_of(NumberFault::bad_value);
  return __fmul_rn(127.0F, scale) > limit && bits != 0 ? word_of(NumberFault::too_large) : 0;
}

__device__ std::uint32_t warp_largest(std::uint32_t value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = max(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  return value;
}

// Of four bytes.
__device__ std::uint32_t largest_quantum(std::uint32_t word) {
  std::uint32_t largest = 0;
  for (unsigned i = 0; i < 4; ++i) {
    largest = max(largest, static_cast<std::uint32_t>(abs(static_cast<signed char>(word >> (8 * i)))));
  }
  return largest;
}

__device__ std::size_t thread_index() { return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ std::size_t thread_count() { return std::size_t{gridDim.x} * blockDim.x; }

// Calls `body` with every index below `count`, kUnroll at a time so that their loads can be in flight together. A block
// takes a tile of neighbours.
template <typename Body>
__device__ void for_all(std::size_t count, Body body) {
  constexpr std::size_t kTile = std::size_t{kThreads} * kUnroll;
  for (std::size_t begin = kTile * blockIdx.x; begin < count; begin += kTile * gridDim.x) {
    std::size_t i = begin + threadIdx.x;
    if (begin + kTile <= count) {
      body.template operator()<kUnroll>(i);
    } else {
      for (; i < count; i += kThreads) body.template operator()<1>(i);
    }
  }
}

template <Codec codec>
__device__ void check(const ReduceTask& task) {
  const Payload<codec> payload{task.in, task.count};
  const bool vector = payload.can_vectorise();
  std::uint32_t worst = 0;
  if constexpr (codec == Codec::int8) {
    const std::size_t blocks = int8_blocks(task.count);
    const std::size_t stride = thread_count() / 32;
    const unsigned lane = threadIdx.x % 32;
    std::size_t block = thread_index() / 32;
    if (vector) {
      // Whole blocks, several per warp with their loads in flight together.
      const std::size_t whole = task.count / kInt8Block;
      for (; block + (kUnroll - 1) * stride < whole; block += kUnroll * stride) {
        std::uint32_t raw[kUnroll][2];
        float scale[kUnroll];
#pragma unroll
        for (unsigned u = 0; u < kUnroll; ++u) {
          const std::size_t each = block + u * stride;
          const auto* const words = reinterpret_cast<const std::uint32_t*>(payload.quanta() + each * kInt8Block);
          raw[u][0] = words[lane];
          raw[u][1] = words[lane + 32];
          scale[u] = payload.scale(each);
        }
#pragma unroll
        for (unsigned u = 0; u < kUnroll; ++u) {
          const std::uint32_t largest = warp_largest(max(largest_quantum(raw[u][0]), largest_quantum(raw[u][1])));
          worst = max(worst, fault_of_block(scale[u], largest, task.limit));
        }
      }
    }
    for (; block < blocks; block += stride) {
      const std::size_t begin = block * kInt8Block;
      const std::size_t size = min(kInt8Block, task.count - begin);
      std::uint32_t largest = 0;
      for (std::size_t i = lane; i < size; i += 32) {
        const int quantum = static_cast<signed char>(payload.quanta()[begin + i]);
        largest = max(largest, static_cast<std::uint32_t>(abs(quantum)));
      }
      worst = max(worst, fault_of_block(payload.scale(block), warp_largest(largest), task.limit));
    }
  } else {
    const std::size_t groups = vector ? task.count / kGroup : 0;
    for_all(groups, [&]<unsigned unroll>(std::size_t first) {
      Four x[unroll];
#pragma unroll
      for (unsigned u = 0; u < unroll; ++u) x[u] = payload.template vector<false>(first + u * kThreads);
#pragma unroll
      for (unsigned u = 0; u < unroll; ++u) {
        for (const float value : x[u].value) worst = max(worst, fault_of_value(value, task.limit));
      }
    });
    for (std::size_t i = groups * kGroup + thread_index(); i < task.count; i += thread_count()) {
      worst = max(worst, fault_of_value(payload.one(i), task.limit));
    }
  }
  if (worst != 0) atomicMax(task.verdict, task.ticket + worst);
}

__device__ float reduced(const ReduceTask& task, float own, float other) {
  if (task.replace) return other;
  const float sum = __fadd_rn(__fmul_rn(task.own_scale, own), __fmul_rn(task.weight, other));
  return __fmul_rn(sum, task.inverse_total);
}

// `refused()` says whether the payload was found bad; it is asked when the loads of whole groups are under way.
template <Codec codec, typename Refused>
__device__ void apply(const ReduceTask& task, Refused refused) {
  const Payload<codec> payload{task.in, task.count};
  const std::size_t groups = in_fours(task.values) && payload.can_vectorise() ? task.count / kGroup : 0;
  for_all(groups, [&]<unsigned unroll>(std::size_t first) {
    Four own[unroll], other[unroll];
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) {
      if (!task.replace) own[u] = four(__ldcg(reinterpret_cast<const float4*>(task.values) + first + u * kThreads));
      other[u] = payload.template vector<true>(first + u * kThreads);
    }
    if (refused()) return;
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) {
      Four result;
#pragma unroll
      for (unsigned i = 0; i < kGroup; ++i) result.value[i] = reduced(task, own[u].value[i], other[u].value[i]);
      store_group(task.values, first + u * kThreads, result);
    }
  });
  if (refused()) return;
  for (std::size_t i = groups * kGroup + thread_index(); i < task.count; i += thread_count()) {
    task.values[i] = reduced(task, task.replace ? 0 : task.values[i], payload.one(i));
  }
}

// The kernel that applies begins while the one that checks still runs, so that its loads are under way when the verdict
// is there. Why that is right:
// - launch_reduce is the only place that launches it so, and it has just launched the check of the same batch.
// - The check itself begins as every kernel does, when all that is ahead of it in its stream has ended: the copy that
//   brought the payloads, and whatever changed the values before. What lets the next one begin comes later still.
// - The check writes nothing but verdicts. These are read, and values written, behind the wait for its end.
// - Loads ahead of the wait go past the L1 cache, which could hold what was there before.
// - Every block waits before it ends, so that what is behind both in the stream has both behind it.
// On GPUs that cannot do this, the two run one after the other.
__device__ void let_the_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ void wait_for_the_one_ahead() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// One row of blocks per task.
template <Codec codec>
__global__ void __launch_bounds__(kThreads) check_kernel(const __grid_constant__ Batch<ReduceTask> batch) {
  let_the_next_begin();
  const ReduceTask& task = batch.task[blockIdx.y];
  if (task.verdict != nullptr) check<codec>(task);
}

template <Codec codec>
__global__ void __launch_bounds__(kThreads) apply_kernel(const __grid_constant__ Batch<ReduceTask> batch) {
  const ReduceTask& task = batch.task[blockIdx.y];
  const auto fault = [&]() -> std::uint32_t {
    wait_for_the_one_ahead();
    if (task.verdict == nullptr) return 0;
    const unsigned long long verdict = *reinterpret_cast<volatile unsigned long long*>(task.verdict);
    return verdict > task.ticket ? static_cast<std::uint32_t>(verdict - task.ticket) : 0;
  };
  apply<codec>(task, [&] { return fault() != 0; });
  if (blockIdx.x == 0 && threadIdx.x == 0 && task.fault != nullptr) *task.fault = fault();
}

// ---- encoding

__device__ float to_encode(const EncodeTask& task, std::size_t i) {
  float value = task.values[i];
  if (task.scaled) value = __fmul_rn(value, task.factor);
  if (task.residual != nullptr) value = __fadd_rn(value, task.residual[i]);
  return value;
}
__device__ Four group_to_encode(const EncodeTask& task, std::size_t group) {
  Four value = load_group(task.values, group);
  if (task.scaled) {
    for (float& each : value.value) each = __fmul_rn(each, task.factor);
  }
  if (task.residual != nullptr) {
    const Four rest = load_group(task.residual, group);
    for (unsigned i = 0; i < kGroup; ++i) value.value[i] = __fadd_rn(value.value[i], rest.value[i]);
  }
  return value;
}

// The difference is exact; where it is not finite, nothing is kept.
__device__ float left_over(float value, float decoded) {
  const float rest = __fsub_rn(value, decoded);
  return magnitude_bits(rest) >= kInfinityBits ? 0 : rest;
}

__device__ void keep(const EncodeTask& task, std::size_t i, float value, float decoded) {
  if (task.residual != nullptr) task.residual[i] = left_over(value, decoded);
  if (task.decoded != nullptr) task.decoded[i] = decoded;
}
__device__ void keep_group(const EncodeTask& task, std::size_t group, const Four& value, const Four& decoded) {
  if (task.residual != nullptr) {
    Four rest;
    for (unsigned i = 0; i < kGroup; ++i) rest.value[i] = left_over(value.value[i], decoded.value[i]);
    store_group(task.residual, group, rest);
  }
  if (task.decoded != nullptr) store_group(task.decoded, group, decoded);
}

__device__ bool in_fours(const EncodeTask& task) {
  return in_fours(task.values) && in_fours(task.decoded) && in_fours(task.residual);
}

template <Codec codec>
__device__ void encode_elements(const EncodeTask& task) {
  const bool vector = in_fours(task) && Payload<codec>{task.out, task.count}.can_vectorise();
  const std::size_t groups = vector ? task.count / kGroup : 0;
  for_all(groups, [&]<unsigned unroll>(std::size_t first) {
    Four value[unroll];
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) value[u] = group_to_encode(task, first + u * kThreads);
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) {
      const std::size_t group = first + u * kThreads;
      Four decoded = value[u];
      if constexpr (codec == Codec::fp32) {
        if (task.out != nullptr) store_group(reinterpret_cast<float*>(task.out), group, value[u]);
      } else {
        std::uint16_t half[kGroup];
#pragma unroll
        for (unsigned i = 0; i < kGroup; ++i) {
          half[i] = to_half<codec>(value[u].value[i]);
          decoded.value[i] = from_half<codec>(half[i]);
        }
        reinterpret_cast<uint2*>(task.out)[group] =
            make_uint2(half[0] | std::uint32_t{half[1]} << 16U, half[2] | std::uint32_t{half[3]} << 16U);
      }
      keep_group(task, group, value[u], decoded);
    }
  });
  for (std::size_t i = groups * kGroup + thread_index(); i < task.count; i += thread_count()) {
    const float value = to_encode(task, i);
    float decoded = value;
    if constexpr (codec == Codec::fp32) {
      if (task.out != nullptr) store_anywhere(task.out + 4 * i, __float_as_uint(value));
    } else {
      const std::uint16_t half = to_half<codec>(value);
      store_anywhere(task.out + 2 * i, half);
      decoded = from_half<codec>(half);
    }
    keep(task, i, value, decoded);
  }
}

// A warp takes a block of elements, each lane eight of them: twice four in a row, or every 32nd.
struct BlockScale {
  float scale, inverse;
  __device__ explicit BlockScale(std::uint32_t largest_bits) {
    if (largest_bits >= kInfinityBits) {
      scale = __uint_as_float(kInt8NotANumber);
      inverse = 0;
      return;
    }
    scale = int8_scale(__uint_as_float(largest_bits));
    inverse = scale > 0 ? __fdiv_rn(1.0F, scale) : 0;
  }
  // 0 where the scale is none or 0: x * 0 is 0, or not a number where x is none, which converts to 0.
  [[nodiscard]] __device__ int quantum(float value) const {
    return inverse > 0 ? __float2int_rn(__fmul_rn(value, inverse)) : 0;
  }
  [[nodiscard]] __device__ float decoded(int quantum) const { return __fmul_rn(static_cast<float>(quantum), scale); }
};

__device__ void encode_blocks(const EncodeTask& task) {
  const bool vector = in_fours(task) && Payload<Codec::int8>{task.out, task.count}.can_vectorise();
  const std::size_t blocks = int8_blocks(task.count);
  std::byte* const quanta = task.out + sizeof(float) * blocks;
  const unsigned lane = threadIdx.x % 32;
  for (std::size_t block = thread_index() / 32; block < blocks; block += thread_count() / 32) {
    const std::size_t begin = block * kInt8Block;
    const std::size_t size = min(kInt8Block, task.count - begin);
    std::uint32_t largest = 0;
    if (vector && size == kInt8Block) {
      const std::size_t group[2] = {begin / kGroup + lane, begin / kGroup + 32 + lane};
      const Four value[2] = {group_to_encode(task, group[0]), group_to_encode(task, group[1])};
#pragma unroll
      for (const Four& each : value) {
        for (const float x : each.value) largest = max(largest, magnitude_bits(x));
      }
      const BlockScale scale(warp_largest(largest));
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        std::uint32_t word = 0;
        Four decoded;
        for (unsigned i = 0; i < kGroup; ++i) {
          const int quantum = scale.quantum(value[half].value[i]);
          word |= (static_cast<std::uint32_t>(quantum) & 0xffU) << (8 * i);
          decoded.value[i] = scale.decoded(quantum);
        }
        reinterpret_cast<std::uint32_t*>(quanta)[group[half]] = word;
        keep_group(task, group[half], value[half], decoded);
      }
      if (lane == 0) reinterpret_cast<float*>(task.out)[block] = scale.scale;
    } else {
      float value[kInt8Block / 32];
#pragma unroll
      for (unsigned k = 0; k < kInt8Block / 32; ++k) {
        const std::size_t i = lane + 32 * k;
        value[k] = i < size ? to_encode(task, begin + i) : 0;
        largest = max(largest, magnitude_bits(value[k]));
      }
      const BlockScale scale(warp_largest(largest));
#pragma unroll
      for (unsigned k = 0; k < kInt8Block / 32; ++k) {
        const std::size_t i = lane + 32 * k;
        if (i >= size) continue;
        const int quantum = scale.quantum(value[k]);
        quanta[begin + i] = static_cast<std::byte>(quantum & 0xff);
        keep(task, begin + i, value[k], scale.decoded(quantum));
      }
      if (lane == 0) store_anywhere(task.out + sizeof(float) * block, __float_as_uint(scale.scale));
    }
  }
}

template <Codec codec>
__global__ void __launch_bounds__(kThreads) encode_kernel(const __grid_constant__ Batch<EncodeTask> batch) {
  if constexpr (codec == Codec::int8) {
    encode_blocks(batch.task[blockIdx.y]);
  } else {
    encode_elements<codec>(batch.task[blockIdx.y]);
  }
}

// ---- norm

__device__ void add_up(double& squares, std::uint32_t& largest, double* shared_squares, std::uint32_t* shared_largest) {
  for (int distance = 16; distance > 0; distance /= 2) {
    squares += __shfl_xor_sync(0xffffffffU, squares, distance);
  }
  largest = warp_largest(largest);
  if (threadIdx.x % 32 == 0) {
    shared_squares[threadIdx.x / 32] = squares;
    shared_largest[threadIdx.x / 32] = largest;
  }
  __syncthreads();
  squares = 0;
  largest = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
    squares += shared_squares[warp];
    largest = max(largest, shared_largest[warp]);
  }
  __syncthreads();
}

// The same bits each time: which elements a thread adds up depends on the grid alone, and the last block adds up the
// blocks' sums in their order.
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const float* values, std::size_t count, NormResult* partial, Scratch* scratch, NormResult* result) {
  __shared__ double shared_squares[kThreads / 32];
  __shared__ std::uint32_t shared_largest[kThreads / 32];
  __shared__ bool is_last;
  double squares = 0;
  std::uint32_t largest = 0;
  const auto take = [&](float value) {
    largest = max(largest, magnitude_bits(value));
    squares = __fma_rn(static_cast<double>(value), static_cast<double>(value), squares);
  };
  const std::size_t groups = in_fours(values) ? count / kGroup : 0;
  for_all(groups, [&]<unsigned unroll>(std::size_t first) {
    Four x[unroll];
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) x[u] = load_group(values, first + u * kThreads);
#pragma unroll
    for (unsigned u = 0; u < unroll; ++u) {
      for (const float value : x[u].value) take(value);
    }
  });
  for (std::size_t i = groups * kGroup + thread_index(); i < count; i += thread_count()) take(values[i]);
  add_up(squares, largest, shared_squares, shared_largest);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = {squares, largest, 0};
    __threadfence();
    is_last = atomicAdd(&scratch->arrived, 1U) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  squares = 0;
  largest = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
    const volatile NormResult& each = partial[block];
    squares += each.sum_of_squares;
    largest = max(largest, each.largest_bits);
  }
  add_up(squares, largest, shared_squares, shared_largest);
  if (threadIdx.x == 0) {
    *result = {squares, largest, 0};
    scratch->arrived = 0;
  }
}

// ---- launching

unsigned blocks_for(std::size_t count) {
  const std::size_t per_block = std::size_t{kThreads} * kUnroll * kGroup;
  const std::size_t blocks = (count + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > (1U << 20U) ? (1U << 20U) : blocks);
}

template <typename Task>
dim3 grid_for(const Batch<Task>& batch, std::size_t elements_for_one = 1) {
  std::size_t most = 0;
  for (unsigned i = 0; i < batch.count; ++i) most = std::max(most, batch.task[i].count);
  return {blocks_for((most + elements_for_one - 1) / elements_for_one), std::max(1U, batch.count)};
}

bool can_begin_early() {
  static const bool answer = [] {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major >= 9;
  }();
  return answer;
}

// Calls `body` with the codec as a constant.
template <typename Body>
int with_codec(Codec codec, Body body) {
  switch (codec) {
    case Codec::fp32: return body.template operator()<Codec::fp32>();
    case Codec::bf16: return body.template operator()<Codec::bf16>();
    case Codec::fp16: return body.template operator()<Codec::fp16>();
    case Codec::int8: break;
  }
  return body.template operator()<Codec::int8>();
}

}  // namespace

int launch_check(Codec codec, const Batch<ReduceTask>& batch, Stream stream) {
  // A warp looks at kUnroll blocks of int8 at a time, which are more elements than a block of threads takes otherwise.
  const dim3 grid = grid_for(batch, codec == Codec::int8 ? 2 : 1);
  return with_codec(codec, [&]<Codec constant>() -> int {
    check_kernel<constant><<<grid, kThreads, 0, stream>>>(batch);
    return cudaGetLastError();
  });
}

int launch_reduce(Codec codec, const Batch<ReduceTask>& batch, Stream stream) {
  const bool checked =
      std::any_of(batch.task, batch.task + batch.count, [](const ReduceTask& task) { return task.verdict != nullptr; });
  if (checked) {
    if (const int code = launch_check(codec, batch, stream); code != cudaSuccess) return code;
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid_for(batch);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = checked && can_begin_early() ? 1 : 0;
  return with_codec(
      codec, [&]<Codec constant>() -> int { return cudaLaunchKernelEx(&config, apply_kernel<constant>, batch); });
}

int launch_encode(Codec codec, const Batch<EncodeTask>& batch, Stream stream) {
  return with_codec(codec, [&]<Codec constant>() -> int {
    encode_kernel<constant><<<grid_for(batch), kThreads, 0, stream>>>(batch);
    return cudaGetLastError();
  });
}

int launch_norm(const float* values, std::size_t count, NormResult* partial, Scratch* scratch, NormResult* result,
                Stream stream) {
  const unsigned blocks = blocks_for(count) < kNormBlocks ? blocks_for(count) : kNormBlocks;
  norm_kernel<<<blocks, kThreads, 0, stream>>>(values, count, partial, scratch, result);
  return cudaGetLastError();
}

}  // namespace papilio::kernels::cuda
