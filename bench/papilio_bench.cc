// papilio-bench: how fast the parts of the engine run, beside what this machine's memory allows at that moment. A rate
// alone says little (it is the machine's); the counter `of_memcpy` divides it by memcpy over as many bytes, timed in
// turn in the same process. Both count every byte read and written once, so 1.0 is the speed of memory (or of the cache
// that the size fits).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/suite.h"
#include "tools/common/command_line.hpp"

namespace papilio::bench {
namespace {

struct Options {
  std::string filter;
  Duration min_time = std::chrono::milliseconds(50);
  std::uint64_t repetitions = 1;
  bool list = false;
};

tools::ManualPage manual_page() {
  return {
      .name = "papilio-bench",
      .summary = "time the kernels, slabs, frames and the loop",
      .synopsis = {"[--filter REGEX] [--min-time TIME] [--repetitions N] [--json FILE]", "--list [--filter REGEX]"},
      .description =
          "Speed of the kernels by codec, instruction set and size (bytes of the values as fp32), as GB/s (bytes read "
          "plus written) and as a fraction of memcpy measured in the same run; of slabs, frames and the loop.\n\n"
          "Any flag of Google Benchmark (--benchmark_*) is passed on to it.",
      .not_so = "",
      .examples = {"papilio-bench --filter 'accumulate/AVX2' --json kernels.json",
                   "papilio-bench --filter '/AVX3/524288' --min-time 200ms --repetitions 5"},
  };
}

void add_options(tools::CommandLine& command_line, Options& options) {
  CLI::App& app = command_line.app();
  tools::add_text(app, "--filter", options.filter, "REGEX", "Only the benchmarks whose name matches.");
  tools::add_duration(app, "--min-time", options.min_time, "How long each benchmark runs at least.");
  tools::add_count(app, "--repetitions", options.repetitions, 1, 1'000'000, "How often each benchmark is run.");
  app.add_flag("--list", options.list, "Print the names only.");
}

// The flags of every Papilio program, in the words of Google Benchmark.
std::vector<std::string> translate(const Options& options, const tools::CommandLine& command_line) {
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.9f", std::chrono::duration<double>(options.min_time).count());
  std::vector<std::string> words = {std::string("--benchmark_min_time=") + seconds,
                                    "--benchmark_repetitions=" + std::to_string(options.repetitions)};
  if (!options.filter.empty()) words.push_back("--benchmark_filter=" + options.filter);
  if (options.list) words.emplace_back("--benchmark_list_tests=true");
  if (command_line.json_file() == "-") {
    words.emplace_back("--benchmark_format=json");
  } else if (command_line.wants_json()) {
    words.push_back("--benchmark_out=" + command_line.json_file());
    words.emplace_back("--benchmark_out_format=json");
  }
  return words;
}

int run(int argc, char** argv) {
  // Google Benchmark's own go round the reader of ours.
  std::vector<std::string> theirs;
  std::vector<const char*> ours;
  for (const char* word : std::vector<const char*>(argv, argv + argc)) {
    if (std::string_view(word).starts_with("--benchmark_")) {
      theirs.emplace_back(word);
    } else {
      ours.push_back(word);
    }
  }
  Options options;
  tools::CommandLine command_line(manual_page());
  add_options(command_line, options);
  if (const std::optional<int> code = command_line.parse(static_cast<int>(ours.size()), ours.data())) return *code;
  if (options.min_time <= Duration::zero()) {
    return command_line.fail(usage_error("--min-time: must be more than 0; give a time such as 50ms"));
  }

  std::vector<std::string> words = translate(options, command_line);
  words.insert(words.begin(), argv[0]);
  words.insert(words.end(), theirs.begin(), theirs.end());  // the last one counts
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  int count = static_cast<int>(words.size());
  register_kernel_benchmarks();
  register_tls_benchmarks();
  register_transport_benchmarks();
  register_gpu_benchmarks();
  benchmark::Initialize(&count, arguments.data());
  if (count > 1) {
    return command_line.fail(usage_error(std::string("unknown argument '") + arguments[1] + "'; see --help"));
  }
  if (benchmark::RunSpecifiedBenchmarks() == 0) {
    return command_line.fail(
        usage_error("--filter: no benchmark matches '" + options.filter + "'; --list prints their names"));
  }
  benchmark::Shutdown();
  return tools::kExitDone;
}

}  // namespace
}  // namespace papilio::bench

int main(int argc, char** argv) { return papilio::bench::run(argc, argv); }
