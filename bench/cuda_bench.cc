// The GPU's part of papilio-bench, in a file of its own because it measures with the device's clock and against the
// device's own copies.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bench/order_stream.h"
#include "bench/suite.h"
#include "engine/base/random.hpp"
#include "kernels/cuda.h"
#include "kernels/cuda_launch.h"
#include "kernels/ops.h"

namespace papilio::bench {
namespace {

using namespace kernels;  // NOLINT(google-build-using-namespace): a benchmark of nothing else
using kernels::cuda::Memory;
using kernels::cuda::Place;
using Clock = std::chrono::steady_clock;

// Without destructors, which would wait for a GPU that hangs.
[[noreturn]] void give_up(const std::string& message) {
  std::fprintf(stderr, "papilio-bench: %s\n", message.c_str());
  std::fflush(nullptr);
  std::_Exit(3);
}
void must(const Status& status) {
  if (!status) give_up(status.error().message);
}
template <typename T>
T must(Result<T> result) {
  if (!result) give_up(result.error().message);
  return std::move(*result);
}
void must(int code) {
  if (code != 0) give_up(kernels::cuda::error_text(code));
}

// Ends the process if a benchmark does: a GPU that hangs must not make those who measure wait for ever.
class Guard {
 public:
  explicit Guard(std::string name)
      : thread_([this, name = std::move(name)] {
          std::unique_lock lock(mutex_);
          if (changed_.wait_for(lock, kLimit, [&] { return ended_; })) return;
          std::fprintf(stderr, "papilio-bench: %s has not ended after %d s\n", name.c_str(),
                       static_cast<int>(kLimit.count()));
          std::_Exit(3);
        }) {}
  ~Guard() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  static constexpr std::chrono::seconds kLimit{30};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all the rest
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// ---- kernels, from device memory to device memory

// What every benchmark works in: several sets of operands, taken in turn, so that none is still in the cache.
constexpr std::size_t kArenaBytes = std::size_t{1} << 30U;

struct Arena {
  kernels::cuda::Stream stream = must(kernels::cuda::make_stream());
  Memory values = must(Memory::allocate(Place::device, kArenaBytes));
  Memory payload = must(Memory::allocate(Place::device, kArenaBytes + (kArenaBytes >> 4U)));
  Memory residual = must(Memory::allocate(Place::device, kArenaBytes));
  Memory small = must(Memory::allocate(Place::device, std::size_t{1} << 20U));

  Arena() {
    // Random values once, and copied on.
    constexpr std::size_t kSeed = std::size_t{16} << 20U;
    std::vector<float> drawn(kSeed / sizeof(float));
    Random random(1);
    for (float& value : drawn) value = static_cast<float>(0.5 + random.uniform() / 2);
    must(kernels::cuda::copy(values.data(), drawn.data(), kSeed));
    for (std::size_t done = kSeed; done < kArenaBytes; done *= 2) {
      must(kernels::cuda::copy(values.data() + done, values.data(), std::min(done, kArenaBytes - done)));
    }
    must(kernels::cuda::copy(payload.data(), values.data(), kArenaBytes));
    must(kernels::cuda::fill_later(residual.data(), 0, kArenaBytes, stream));
    must(kernels::cuda::fill_later(small.data(), 0, small.size(), stream));
    must(kernels::cuda::wait_for(stream));
  }
  [[nodiscard]] kernels::cuda::Scratch* scratch() const { return small.as<kernels::cuda::Scratch>(); }
  [[nodiscard]] unsigned long long* verdict() const { return small.as<unsigned long long>() + 8; }
};
Arena& arena() {
  static Arena only;
  return only;
}

// Seconds per launch of `launch(i)`, which takes the i-th set of operands; enough launches that one start counts for
// nothing.
double seconds_per_launch(std::size_t launches, const std::function<void(std::size_t)>& launch) {
  kernels::cuda::Stopwatch stopwatch;
  stopwatch.start(arena().stream);
  for (std::size_t i = 0; i < launches; ++i) launch(i);
  const double seconds = stopwatch.stop(arena().stream);
  if (seconds < 0) give_up("the GPU failed");
  return seconds / static_cast<double>(launches);
}

// Bytes read and written per second by the driver's own copy that touches as many bytes; the best of a few.
double copy_rate(std::size_t touched) {
  static std::map<std::size_t, double> known;
  double& best = known[touched];
  if (best > 0) return best;
  const std::size_t bytes =
      std::max<std::size_t>(4096, std::min(touched / 2, kArenaBytes) / 4096 * 4096);  // whole pages
  const std::size_t sets = std::max<std::size_t>(1, kArenaBytes / bytes);
  const std::size_t launches = std::clamp<std::size_t>((std::size_t{4} << 30U) / bytes, 8, 512);
  for (int run = 0; run < 5; ++run) {
    const double seconds = seconds_per_launch(launches, [&](std::size_t i) {
      must(kernels::cuda::copy_later(arena().residual.data() + i % sets * bytes,
                                     arena().values.data() + i % sets * bytes, bytes, arena().stream));
    });
    best = std::max(best, 2.0 * static_cast<double>(bytes) / seconds);
  }
  must(kernels::cuda::fill_later(arena().residual.data(), 0, kArenaBytes, arena().stream));
  return best;
}

struct Operands {
  float* values;
  std::byte* payload;
  float* residual;
  std::size_t count;
};
using Launch = std::function<void(const Operands&)>;

// `touched`: bytes that one launch must read and write.
void time_kernel(benchmark::State& state, std::size_t count, std::size_t payload_bytes, std::size_t touched,
                 const Launch& launch) {
  const std::size_t value_stride = (count * sizeof(float) + 255) / 256 * 256;
  const std::size_t payload_stride = (payload_bytes + 255) / 256 * 256;
  const std::size_t sets =
      std::min(kArenaBytes / value_stride, arena().payload.size() / std::max<std::size_t>(payload_stride, 1));
  const auto operands = [&](std::size_t i) {
    const std::size_t set = i % sets;
    return Operands{.values = reinterpret_cast<float*>(arena().values.data() + set * value_stride),
                    .payload = arena().payload.data() + set * payload_stride,
                    .residual = reinterpret_cast<float*>(arena().residual.data() + set * value_stride),
                    .count = count};
  };
  const double copy = copy_rate(touched);
  const std::size_t launches =
      std::clamp<std::size_t>((std::size_t{2} << 30U) / std::max<std::size_t>(touched, 1), 8, 512);
  for (std::size_t i = 0; i < std::min(sets, launches); ++i) launch(operands(i));
  must(kernels::cuda::wait_for(arena().stream));
  double best = 1e9;
  for (auto _ : state) {
    const double seconds = seconds_per_launch(launches, [&](std::size_t i) { launch(operands(i)); });
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const double rate = static_cast<double>(touched) / best;
  state.counters["GB/s"] = rate / 1e9;
  state.counters["of_copy"] = rate / copy;
}

void launch_encode(Codec codec, const kernels::cuda::EncodeTask& task) {
  kernels::cuda::Batch<kernels::cuda::EncodeTask> batch{.count = 1};
  batch.task[0] = task;
  must(kernels::cuda::launch_encode(codec, batch, arena().stream));
}

// Payloads that hold what the codec says: encoded from the values, set by set.
void encode_payloads(Codec codec, std::size_t count) {
  static std::pair<Codec, std::size_t> last{Codec::fp32, 0};
  if (last == std::pair(codec, count)) return;
  last = {codec, count};
  const std::size_t value_stride = (count * sizeof(float) + 255) / 256 * 256;
  const std::size_t payload_stride = (encoded_bytes(codec, count) + 255) / 256 * 256;
  const std::size_t sets = std::min(kArenaBytes / value_stride, arena().payload.size() / payload_stride);
  for (std::size_t set = 0; set < sets; ++set) {
    launch_encode(codec, {.values = reinterpret_cast<float*>(arena().values.data() + set * value_stride),
                          .out = arena().payload.data() + set * payload_stride,
                          .count = count});
  }
  must(kernels::cuda::wait_for(arena().stream));
}

// Sums stay between 0.5 and 1, however often.
using Reduction = kernels::cuda::Batch<kernels::cuda::ReduceTask>;
Reduction reduction(const Operands& operands, bool checked) {
  static unsigned long long ticket = 0;
  Reduction batch{.count = 1};
  batch.task[0] = {.in = operands.payload,
                   .values = operands.values,
                   .count = operands.count,
                   .own_scale = 0.5F,
                   .weight = 0.5F,
                   .limit = 1e30F,
                   .verdict = checked ? arena().verdict() : nullptr,
                   .ticket = ticket += kernels::cuda::kTicketStep};
  return batch;
}

void register_kernels(Codec codec, std::size_t bytes) {
  const std::size_t count = bytes / sizeof(float);
  const std::size_t payload = encoded_bytes(codec, count);
  const std::string tail = std::string("/") + to_string(codec) + "/" + std::to_string(bytes);
  const auto add = [&](const std::string& name, std::size_t touched, bool reads_payload, Launch launch) {
    benchmark::RegisterBenchmark(("gpu/" + name + tail).c_str(),
                                 [=](benchmark::State& state) {
                                   const Guard guard(name + tail);
                                   if (reads_payload) encode_payloads(codec, count);
                                   time_kernel(state, count, payload, touched, launch);
                                 })
        ->UseManualTime()
        ->Iterations(7)
        ->Unit(benchmark::kMicrosecond);
  };
  const auto stream = [] { return arena().stream; };
  add("accumulate", payload + 2 * bytes, true, [=](const Operands& operands) {
    must(kernels::cuda::launch_reduce(codec, reduction(operands, false), stream()));
  });
  add("accumulate_checked", payload + 2 * bytes, true, [=](const Operands& operands) {
    must(kernels::cuda::launch_reduce(codec, reduction(operands, true), stream()));
  });
  add("check", payload, true,
      [=](const Operands& operands) { must(kernels::cuda::launch_check(codec, reduction(operands, true), stream())); });
  add("decode", payload + bytes, true, [=](const Operands& operands) {
    Reduction batch = reduction(operands, false);
    batch.task[0].replace = true;
    must(kernels::cuda::launch_reduce(codec, batch, stream()));
  });
  add("encode", bytes + payload, false, [=](const Operands& operands) {
    launch_encode(codec, {.values = operands.values, .out = operands.payload, .count = operands.count});
  });
  add("finalise_and_encode", 2 * bytes + payload, false, [=](const Operands& operands) {
    launch_encode(codec, {.values = operands.values,
                          .decoded = operands.values,
                          .out = operands.payload,
                          .count = operands.count,
                          .scaled = true,
                          .factor = 1.0F});
  });
  if (codec != Codec::fp32) {
    add("encode_with_feedback", 3 * bytes + payload, false, [=](const Operands& operands) {
      launch_encode(
          codec,
          {.values = operands.values, .residual = operands.residual, .out = operands.payload, .count = operands.count});
    });
    return;
  }
  add("finalise", 2 * bytes, false, [=](const Operands& operands) {
    launch_encode(Codec::fp32, {.values = operands.values,
                                .decoded = operands.values,
                                .count = operands.count,
                                .scaled = true,
                                .factor = 1.0F});
  });
  add("norm", bytes, false, [=](const Operands& operands) {
    auto* const results = reinterpret_cast<kernels::cuda::NormResult*>(arena().small.data() + 4096);
    must(
        kernels::cuda::launch_norm(operands.values, operands.count, results + 1, arena().scratch(), results, stream()));
  });
}

// ---- the pipeline: pinned host memory in, reduced on the device, pinned host memory out

constexpr std::size_t kGradientBytes = std::size_t{256} << 20U;
constexpr std::size_t kContributions = 8;
constexpr std::size_t kOpenBytes = std::size_t{16} << 20U;   // of chunks that are averaged at the same time
constexpr std::size_t kSlabBytes = std::size_t{64} << 20U;   // payloads are read from there, again and again
constexpr std::size_t kQueueBytes = std::size_t{32} << 20U;  // of payloads that the device has at a time
constexpr std::size_t kCopyBytes = std::size_t{64} << 20U;   // by which the two copies alone are timed

// What the two copies reach by themselves: in pieces of this size, each way alone and both at once.
struct CopyRates {
  double in = 0, out = 0, both = 0;
};
CopyRates copy_rates(std::size_t piece) {
  static std::map<std::size_t, CopyRates> known;
  if (const auto found = known.find(piece); found != known.end()) return found->second;
  static Memory to_device = must(Memory::allocate(Place::pinned, kCopyBytes));
  static Memory from_device = must(Memory::allocate(Place::pinned, kCopyBytes));
  const kernels::cuda::Stream streams[2] = {must(kernels::cuda::make_stream()), must(kernels::cuda::make_stream())};
  const auto rate = [&](bool in, bool out) {
    double best = 0;
    for (int run = 0; run < 6; ++run) {
      const auto start = Clock::now();
      for (std::size_t round = 0; round < 4; ++round) {
        for (std::size_t at = 0; at < kCopyBytes; at += piece) {
          if (in) must(kernels::cuda::copy_later(arena().values.data() + at, to_device.data() + at, piece, streams[0]));
          if (out)
            must(kernels::cuda::copy_later(from_device.data() + at, arena().payload.data() + at, piece, streams[1]));
        }
      }
      for (const auto stream : streams) must(kernels::cuda::wait_for(stream));
      best = std::max(best, 4.0 * static_cast<double>(kCopyBytes) / seconds_since(start));
    }
    return best;
  };
  const CopyRates rates{.in = rate(true, false), .out = rate(false, true), .both = rate(true, true)};
  for (const auto stream : streams) kernels::cuda::destroy_stream(stream);
  known[piece] = rates;
  return rates;
}

// What comes back to the host.
enum class Back : std::uint8_t {
  each,  // the sum after each contribution, as kernels/device.h needs it
  last,  // the result
};

struct PipelineCase {
  Codec codec = Codec::fp32;
  std::size_t chunk_bytes = std::size_t{1} << 20U;
  Back back = Back::last;
  std::size_t batch_bytes = kernels::cuda::DeviceConfig{}.batch_bytes;
  bool side_by_side = false;  // payloads lie in the order in which they are used, one right behind the other
};

std::string name_of(const PipelineCase& which) {
  return std::string("gpu/pipeline/") + to_string(which.codec) + "/chunk:" + std::to_string(which.chunk_bytes) +
         "/back:" + (which.back == Back::each ? "each" : "last") + "/batch:" + std::to_string(which.batch_bytes) +
         "/slabs:" + (which.side_by_side ? "row" : "anywhere");
}

// Leaves out what comes back but for the last contribution to a chunk.
class ResultsOnly final : public Device {
 public:
  explicit ResultsOnly(std::unique_ptr<Device> device) : device_(std::move(device)) {}
  [[nodiscard]] std::string describe() const override { return device_->describe(); }
  [[nodiscard]] std::size_t lanes() const override { return device_->lanes(); }
  Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override { return device_->allocate_pinned(bytes); }
  Status submit(const Task& task) override {
    Task reduced = task;
    if (task.order.kind == ChunkOrder::Kind::accumulate && !task.order.last) reduced.mirror = nullptr;
    return device_->submit(reduced);
  }
  [[nodiscard]] std::optional<Error> failure() const override { return device_->failure(); }
  bool drain(Duration limit) override { return device_->drain(limit); }
  Status follow(void* stream) override { return device_->follow(stream); }
  void silence() override { device_->silence(); }
  [[nodiscard]] std::string state() const override { return device_->state(); }

 private:
  std::unique_ptr<Device> device_;
};

// All contributions to all chunks of one gradient, chunk by chunk as a round goes, from a pool of pinned slabs that
// fill in any order.
void pipeline(benchmark::State& state, const PipelineCase& which) {
  const Guard guard(name_of(which));
  const std::size_t chunk = which.chunk_bytes / sizeof(float);
  const std::size_t payload = encoded_bytes(which.codec, chunk);
  const std::size_t chunks = kGradientBytes / which.chunk_bytes;
  static Memory pool = must(Memory::allocate(Place::pinned, kSlabBytes + (kSlabBytes >> 4U)));
  const std::size_t slab = which.side_by_side ? payload : (payload + 8191) / 4096 * 4096;
  std::vector<std::span<std::byte>> slabs;
  for (std::size_t at = 0; at + slab <= pool.size(); at += slab) slabs.emplace_back(pool.data() + at, payload);
  const std::vector<float> values(chunk, 0.75F);
  for (const auto each : slabs) encode(which.codec, values, each);
  Random random(5);
  for (std::size_t i = slabs.size(); i > 1 && !which.side_by_side; --i) std::swap(slabs[i - 1], slabs[random.below(i)]);
  must(kernels::cuda::copy(arena().residual.data(), arena().values.data(), kGradientBytes));

  Bell bell;
  auto device = must(kernels::cuda::make_device(arena().residual.as<float>(), kGradientBytes / sizeof(float),
                                                {.batch_bytes = which.batch_bytes, .largest_payload = payload},
                                                [&] { bell.ring(); }));
  if (which.back == Back::last) device = std::make_unique<ResultsOnly>(std::move(device));
  auto gradient =
      must(DeviceGradient::make(std::move(device), kGradientBytes / sizeof(float), std::chrono::seconds(3)));
  const std::size_t open = std::max<std::size_t>(1, kOpenBytes / which.chunk_bytes);
  must(gradient->reserve(3 * open, chunk));
  const std::size_t orders = chunks * kContributions;
  const auto order_of = [&](std::size_t i) {
    const std::size_t group = i / (open * kContributions), in_group = i % (open * kContributions);
    return ChunkOrder{.kind = ChunkOrder::Kind::accumulate,
                      .tag = i,
                      .begin = (group * open + in_group % open) % chunks * chunk,
                      .count = chunk,
                      .codec = which.codec,
                      .in = slabs[i % slabs.size()],
                      .own_scale = 0.5F,
                      .weight = 0.5F,
                      .limit = 1e30F,
                      .last = in_group / open + 1 == kContributions};
  };
  const auto contribute = [&] {
    const Status carried = carry_through(*gradient, bell, orders, kQueueBytes / payload, order_of);
    if (carried) return true;
    static int failures = 0;
    const std::string message = carried.error().message + "; " + gradient->state();
    if (++failures == 3) give_up(name_of(which) + ": " + message);
    state.SkipWithError(message.c_str());
    return false;
  };
  if (!contribute()) return;
  double best = 1e9;
  for (auto _ : state) {
    const auto start = Clock::now();
    if (!contribute()) return;
    const double seconds = seconds_since(start);
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  if (const std::string device_is = gradient->device()->describe(); device_is.ends_with(")")) {
    std::fprintf(stderr, "papilio-bench: %s\n", device_is.c_str());
  }
  // What giving one order costs its owner, with the device busy.
  const std::size_t given = std::min<std::size_t>(24, open);
  const auto start = Clock::now();
  for (std::size_t i = 0; i < given; ++i) gradient->submit(time_now(), order_of(i));
  const double submitting = seconds_since(start) / static_cast<double>(given);
  if (!gradient->take_back().stopped) give_up("the GPU does not stop: " + gradient->state());
  gradient.reset();
  const CopyRates whole = copy_rates(kCopyBytes), pieces = copy_rates(which.chunk_bytes);
  const auto in = static_cast<double>(payload * orders);
  const auto out = static_cast<double>(kGradientBytes * (which.back == Back::each ? kContributions : 1));
  state.counters["in_GB/s"] = in / best / 1e9;
  state.counters["out_GB/s"] = out / best / 1e9;
  // The slower of the two copies alone, of the same bytes: in one piece, and in pieces of a chunk.
  state.counters["of_copies"] = std::max(in / whole.in, out / whole.out) / best;
  state.counters["of_pieces"] = std::max(in / pieces.in, out / pieces.out) / best;
  // Both copies at the same time, and nothing else.
  if (which.codec == Codec::fp32 && which.back == Back::each) state.counters["of_both"] = in / whole.both / best;
  state.counters["order_us"] = best / static_cast<double>(orders) * 1e6;
  state.counters["submit_us"] = submitting * 1e6;
}

void copies(benchmark::State& state, std::size_t piece) {
  const Guard guard("copies");
  CopyRates rates;
  for (auto _ : state) {
    rates = copy_rates(piece);
    state.SetIterationTime(static_cast<double>(kCopyBytes) / rates.both);
  }
  state.counters["in_GB/s"] = rates.in / 1e9;
  state.counters["out_GB/s"] = rates.out / 1e9;
  state.counters["both_GB/s"] = rates.both / 1e9;
}

// From an order for almost nothing until its owner knows that it is done.
void notice(benchmark::State& state) {
  const Guard guard("notice");
  Bell bell;
  auto device = must(kernels::cuda::make_device(arena().residual.as<float>(), 4096, {}, [&] { bell.ring(); }));
  auto gradient = must(DeviceGradient::make(std::move(device), 4096));
  for (auto _ : state) {
    const auto start = Clock::now();
    const Status carried = carry_through(*gradient, bell, 1, 1, [](std::size_t) {
      return ChunkOrder{.kind = ChunkOrder::Kind::load, .tag = 0, .begin = 0, .count = 1024};
    });
    if (!carried) give_up(carried.error().message + "\n" + gradient->state());
    state.SetIterationTime(seconds_since(start));
  }
}

void register_pipeline() {
  constexpr std::size_t kKiB = 1024;
  const auto add = [](const PipelineCase& which) {
    benchmark::RegisterBenchmark(name_of(which).c_str(), pipeline, which)
        ->UseManualTime()
        ->Iterations(9)
        ->Unit(benchmark::kMillisecond);
  };
  for (const std::size_t chunk : {1024 * kKiB, 512 * kKiB, 4096 * kKiB}) {
    add({.chunk_bytes = chunk});
    add({.chunk_bytes = chunk, .batch_bytes = 4096 * kKiB});
    add({.chunk_bytes = chunk, .side_by_side = true});
    add({.chunk_bytes = chunk, .back = Back::each});
    add({.chunk_bytes = chunk, .back = Back::each, .batch_bytes = 4096 * kKiB});
  }
  for (const Codec codec : {Codec::bf16, Codec::int8}) {
    for (const std::size_t chunk : {512 * kKiB, 1024 * kKiB, 4096 * kKiB}) {
      add({.codec = codec, .chunk_bytes = chunk});
      add({.codec = codec, .chunk_bytes = chunk, .back = Back::each});
    }
  }
  for (const std::size_t piece : {256 * kKiB, 512 * kKiB, 1024 * kKiB, 4096 * kKiB, 8192 * kKiB, kCopyBytes}) {
    benchmark::RegisterBenchmark(("gpu/copies/" + std::to_string(piece)).c_str(), copies, piece)
        ->UseManualTime()
        ->Iterations(1);
  }
  benchmark::RegisterBenchmark("gpu/notice", notice)->UseManualTime()->Iterations(500)->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_gpu_benchmarks() {
  const kernels::cuda::Availability& gpu = kernels::cuda::availability();
  std::fprintf(stderr, "papilio-bench: %s\n", gpu.text.c_str());
  if (!gpu.usable) return;
  register_pipeline();
  for (const Codec codec : kCodecs) {
    for (const std::size_t bytes :
         {std::size_t{1} << 20U, std::size_t{4} << 20U, std::size_t{32} << 20U, std::size_t{256} << 20U}) {
      register_kernels(codec, bytes);
    }
  }
}

}  // namespace papilio::bench
