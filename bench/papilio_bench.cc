// papilio-bench: how fast the parts of the engine run, beside what this machine's memory allows at that moment. A rate
// alone says little (it is the machine's); the counter `of_memcpy` divides it by memcpy over as many bytes, timed in
// turn in the same process. Both count every byte read and written once, so 1.0 is the speed of memory (or of the cache
// that the size fits).
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "bench/suite.h"

namespace {

constexpr std::string_view kHelp =
    "papilio-bench: speed of the kernels by codec, instruction set and size (bytes of the values as fp32), as GB/s "
    "(bytes\n"
    "read plus written) and as a fraction of memcpy measured in the same run; of slabs, frames and the loop.\n\n"
    "  --json FILE       write the results as JSON; `-`: to standard output, and nothing else there\n"
    "  --filter REGEX    only the benchmarks whose name matches, such as 'accumulate/AVX2'\n"
    "  --min-time SECONDS  of each benchmark (0.05)\n"
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
  std::vector<std::string> result = {argv[0], "--benchmark_min_time=0.05"};
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
  papilio::bench::register_kernel_benchmarks();
  papilio::bench::register_transport_benchmarks();
  benchmark::Initialize(&count, arguments.data());
  if (count > 1) refuse(std::string("unknown argument `") + arguments[1] + "`");
  if (benchmark::RunSpecifiedBenchmarks() == 0) refuse("no benchmark matches the filter");
  benchmark::Shutdown();
  return 0;
}
