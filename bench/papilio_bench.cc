// papilio-bench: how fast the operations of kernels/ops.h run, beside what this machine's memory allows at that moment.
// A rate alone says little (it is the machine's); the counter `of_memcpy` divides it by memcpy over as many bytes,
// timed right before in the same process. Both count every byte read and written once, so 1.0 is the speed of memory
// (or of the cache that the size fits).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/cuda_bench.h"
#include "engine/base/random.hpp"
#include "kernels/ops.h"

namespace {

namespace kernels = papilio::kernels;

constexpr std::int64_t kSmallestBytes = std::int64_t{16} << 10;
constexpr std::int64_t kLargestBytes = std::int64_t{64} << 20;

// Values between 0.5 and 1: sums stay finite and normal however long a benchmark runs, as scales below 1 are used.
std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  papilio::Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(0.5 + random.uniform() / 2);
  return values;
}

// Of this thread: what others do on the machine should not decide the ratio.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Bytes read plus bytes written per second, over buffers that total `touched_bytes`; the best of a few short runs,
// since other work on the machine can only slow it down.
double memcpy_bytes_per_s(std::size_t touched_bytes) {
  const std::size_t bytes = std::max<std::size_t>(touched_bytes / 2, 1);
  std::vector<std::byte> from(bytes, std::byte{1});
  std::vector<std::byte> to(bytes);
  const std::size_t copies = std::max<std::size_t>(1, (std::size_t{16} << 20U) / bytes);
  double best = 0;
  for (int run = 0; run < 7; ++run) {
    const double start = cpu_seconds();
    for (std::size_t i = 0; i < copies; ++i) {
      std::memcpy(to.data(), from.data(), bytes);
      benchmark::DoNotOptimize(to.data());
      benchmark::ClobberMemory();
    }
    best = std::max(best, 2.0 * static_cast<double>(bytes) * static_cast<double>(copies) / (cpu_seconds() - start));
  }
  return best;
}

// `passes`: how often an operation over n bytes touches n bytes: accumulate reads two spans and writes one.
template <typename Operation>
void run(benchmark::State& state, double passes, Operation operation) {
  const auto bytes = static_cast<double>(state.range(0));
  const double memcpy_rate = memcpy_bytes_per_s(static_cast<std::size_t>(passes * bytes));
  const double start = cpu_seconds();
  for (auto _ : state) {
    operation();
    benchmark::ClobberMemory();
  }
  const double rate = bytes * passes * static_cast<double>(state.iterations()) / (cpu_seconds() - start);
  state.counters["GB/s"] = rate / 1e9;
  state.counters["of_memcpy"] = rate / memcpy_rate;
}

std::size_t element_count(const benchmark::State& state) {
  return static_cast<std::size_t>(state.range(0)) / sizeof(float);
}

void accumulate(benchmark::State& state) {
  std::vector<float> sum = random_values(element_count(state), 1);
  const std::vector<float> values = random_values(element_count(state), 2);
  run(state, 3, [&] { kernels::accumulate(sum, 0.5F, 0.25F, values); });
}

void accumulate_and_finalise(benchmark::State& state) {
  std::vector<float> sum = random_values(element_count(state), 1);
  const std::vector<float> values = random_values(element_count(state), 2);
  run(state, 3, [&] { kernels::accumulate_and_finalise(sum, 0.5F, 0.25F, values, 0.75F); });
}

// Times 1, since repeated shrinking would end in subnormal numbers, which are slow; no kernel looks at the factor.
void finalise(benchmark::State& state) {
  std::vector<float> sum = random_values(element_count(state), 1);
  run(state, 2, [&] { kernels::finalise(sum, 1.0F); });
}

void checksum(benchmark::State& state) {
  const std::vector<float> values = random_values(element_count(state), 1);
  run(state, 1, [&] { benchmark::DoNotOptimize(kernels::checksum(std::as_bytes(std::span(values)))); });
}

void all_within(benchmark::State& state) {
  const std::vector<float> values = random_values(element_count(state), 1);
  run(state, 1, [&] { benchmark::DoNotOptimize(kernels::all_within(values, 1.0F)); });
}

void inspect(benchmark::State& state) {
  const std::vector<float> values = random_values(element_count(state), 1);
  run(state, 1, [&] { benchmark::DoNotOptimize(kernels::inspect(values)); });
}

// What a reducer does with a contribution that has just arrived; its share of the time is what the check costs.
void take_contribution(benchmark::State& state, bool checked) {
  std::vector<float> sum = random_values(element_count(state), 1);
  const std::vector<float> values = random_values(element_count(state), 2);
  run(state, 3, [&] {
    benchmark::DoNotOptimize(kernels::checksum(std::as_bytes(std::span(values))));
    if (checked) benchmark::DoNotOptimize(kernels::all_within(values, 1.0F));
    kernels::accumulate(sum, 0.5F, 0.25F, values);
  });
}
void contribution_unchecked(benchmark::State& state) { take_contribution(state, false); }
void contribution_checked(benchmark::State& state) { take_contribution(state, true); }

// Sums of subnormal numbers, which some processors add up much more slowly: what a peer could cost others by them.
void accumulate_subnormal(benchmark::State& state) {
  const std::vector<float> values(element_count(state), 1e-40F);
  std::vector<float> sum = values;
  run(state, 3, [&] { kernels::accumulate(sum, 0.5F, 0.5F, values); });
}

void copy_streaming(benchmark::State& state) {
  const std::vector<float> from = random_values(element_count(state), 1);
  std::vector<float> to(from.size());
  run(state, 2, [&] {
    kernels::copy_streaming(std::as_writable_bytes(std::span(to)), std::as_bytes(std::span(from)));
    benchmark::ClobberMemory();
  });
}

void sizes(benchmark::internal::Benchmark* suite) { suite->RangeMultiplier(4)->Range(kSmallestBytes, kLargestBytes); }

BENCHMARK(accumulate)->Apply(sizes);
BENCHMARK(accumulate_and_finalise)->Apply(sizes);
BENCHMARK(finalise)->Apply(sizes);
BENCHMARK(checksum)->Apply(sizes);
BENCHMARK(all_within)->Apply(sizes);
BENCHMARK(inspect)->Apply(sizes);
BENCHMARK(contribution_unchecked)->Apply(sizes);
BENCHMARK(contribution_checked)->Apply(sizes);
BENCHMARK(accumulate_subnormal)->Apply(sizes);
BENCHMARK(copy_streaming)->Apply(sizes);

constexpr std::string_view kHelp =
    "papilio-bench: speed of the kernels over spans of 16 KiB to 64 MiB, as GB/s (bytes read plus written) and as a\n"
    "fraction of memcpy measured in the same run.\n\n"
    "  --json FILE       write the results as JSON; `-`: to standard output, and nothing else there\n"
    "  --filter REGEX    only the benchmarks whose name matches, such as accumulate/\n"
    "  --min-time SECONDS  of each benchmark (0.5)\n"
    "  --repetitions N   of each benchmark (1)\n"
    "  --list            names only\n"
    "  --log-level LEVEL accepted like in the other programs; this one logs nothing\n"
    "  --version, --help\n"
    "  --benchmark_*     any flag of Google Benchmark\n";

[[noreturn]] void refuse(const std::string& message) {
  std::fprintf(stderr, "papilio-bench: %s; see --help\n", message.c_str());
  std::exit(2);
}

// The flags of every Papilio program, in the words of Google Benchmark.
std::vector<std::string> translate(int argc, char** argv) {
  std::vector<std::string> result = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::fputs(kHelp.data(), stdout);
      std::exit(0);
    }
    if (flag == "--version") {
      std::puts("papilio-bench " PAPILIO_VERSION);
      std::exit(0);
    }
    if (flag == "--list") {
      result.emplace_back("--benchmark_list_tests=true");
      continue;
    }
    if (flag.starts_with("--benchmark_")) {
      result.push_back(flag);
      continue;
    }
    std::string value;
    if (const std::size_t equals = flag.find('='); equals != std::string::npos) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    } else if (i + 1 < argc) {
      value = argv[++i];
    }
    if (flag != "--json" && flag != "--filter" && flag != "--min-time" && flag != "--repetitions" &&
        flag != "--log-level") {
      refuse("unknown argument `" + flag + "`");
    }
    if (value.empty()) refuse(flag + " needs a value");
    if (flag == "--json" && value == "-") {
      result.emplace_back("--benchmark_format=json");
    } else if (flag == "--json") {
      if (!std::ofstream(value, std::ios::app)) refuse("cannot write `" + value + "`");
      result.push_back("--benchmark_out=" + value);
      result.emplace_back("--benchmark_out_format=json");
    } else if (flag == "--filter") {
      result.push_back("--benchmark_filter=" + value);
    } else if (flag == "--min-time") {
      result.push_back("--benchmark_min_time=" + value);
    } else if (flag == "--repetitions") {
      result.push_back("--benchmark_repetitions=" + value);
    }
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words = translate(argc, argv);
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  int count = static_cast<int>(words.size());
  papilio::bench::register_gpu_benchmarks();
  benchmark::Initialize(&count, arguments.data());
  if (count > 1) refuse(std::string("unknown argument `") + arguments[1] + "`");
  if (benchmark::RunSpecifiedBenchmarks() == 0) refuse("no benchmark matches the filter");
  benchmark::Shutdown();
  return 0;
}
