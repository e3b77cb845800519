// papilio-perf: times the all-reduce between local processes, or as one rank of several hosts, and checks every result
// against a float64 reference. Columns as in nccl-tests, so that figures can be set side by side.

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "engine/base/limits.hpp"
#include "engine/base/units.hpp"
#include "tools/common/command_line.hpp"
#include "tools/perf/data.hpp"
#include "tools/perf/rank.hpp"

namespace papilio::perf {
namespace {

using tools::kExitDone;
using tools::kExitNotSo;
using tools::kExitRuntime;

struct Options {
  WorldOptions world;
  std::uint64_t begin_bytes = std::uint64_t{1} << 20U;
  std::uint64_t end_bytes = std::uint64_t{256} << 20U;
  std::uint64_t factor = 4;
  std::uint64_t iterations = 20;
  std::uint64_t warmup = 5;
  std::string codec = "fp32";
  std::string transport = "auto";
  std::string security = "none";
  // One rank of several hosts.
  std::uint64_t rank = 0;
  std::uint64_t world_size = 0;
  std::string listen;
  std::vector<std::string> peers;

  [[nodiscard]] bool is_distributed() const { return world_size > 0; }
  [[nodiscard]] std::vector<std::uint64_t> sizes() const {
    std::vector<std::uint64_t> all;
    for (std::uint64_t bytes = begin_bytes; bytes <= end_bytes; bytes *= factor) all.push_back(bytes);  // see check()
    return all;
  }
};

// What one rank measured in one iteration. Times are CLOCK_MONOTONIC seconds, comparable between processes of one host.
struct Sample {
  double start_s = 0;
  double end_s = 0;
  double cpu_s = 0;
  std::uint64_t wrong = 0;
  std::uint64_t digest = 0;
};

struct SizeResult {
  std::uint64_t bytes = 0;
  std::vector<double> seconds;  // per iteration
  double cpu_s_per_op = 0;      // all ranks together
  std::uint64_t peak_rss_bytes = 0;
  std::uint64_t wrong = 0;
};

double clock_s(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double process_cpu_s() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// VmHWM: the peak of the resident set since the start or the last reset.
std::uint64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

void reset_peak_rss() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5";
}

// A gradient in pages of its own, returned to the system with it.
class GradientMemory {
 public:
  explicit GradientMemory(std::uint64_t bytes) : bytes_(bytes) {
    void* region = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) return;
    region_ = static_cast<float*>(region);
    if (bytes_ >= (std::uint64_t{4} << 20U)) static_cast<void>(madvise(region, mapped_bytes(), MADV_HUGEPAGE));
  }
  GradientMemory(const GradientMemory&) = delete;
  GradientMemory& operator=(const GradientMemory&) = delete;
  ~GradientMemory() {
    if (region_ != nullptr) munmap(region_, mapped_bytes());
  }
  [[nodiscard]] bool ok() const { return region_ != nullptr; }
  [[nodiscard]] std::span<float> values() const { return {region_, bytes_ / sizeof(float)}; }

 private:
  [[nodiscard]] std::size_t mapped_bytes() const { return std::max<std::uint64_t>(bytes_, 1); }
  std::uint64_t bytes_;
  float* region_ = nullptr;
};

// ---- one iteration, the same in both modes

// Of all that may be used, the one whose bound is the widest.
kernels::Codec widest_codec(const WorldOptions& world) {
  return world.format ? node::kernel_codec(world.format->codec) : kernels::Codec::int8;
}

Result<Sample> run_iteration(Rank& rank, std::uint32_t index, const WorldOptions& world, std::span<float> values,
                             std::uint32_t iteration, pthread_barrier_t* barrier) {
  fill_inputs(values, index, iteration);
  if (barrier != nullptr) {
    pthread_barrier_wait(barrier);
  } else if (auto together = rank.gather({0.0F}); !together) {
    return together.error();
  }
  Sample sample;
  const double cpu_before = process_cpu_s();
  sample.start_s = clock_s(CLOCK_MONOTONIC);
  auto report = rank.all_reduce(values);
  sample.end_s = clock_s(CLOCK_MONOTONIC);
  sample.cpu_s = process_cpu_s() - cpu_before;
  if (!report) return report.error();
  // Checking is heavier than averaging: nobody begins it while others, on the same cores, still average.
  if (barrier != nullptr) pthread_barrier_wait(barrier);
  sample.digest = report->digest;
  sample.wrong = count_wrong(values, world.weights, iteration, bound_of(widest_codec(world), world.error_feedback));
  return sample;
}

// ---- several local processes

// Lives in memory that all local ranks share.
struct Shared {
  pthread_barrier_t barrier;
  char error[kMaximumMembers][512];
  ErrorKind error_kind[kMaximumMembers];
  std::uint16_t ports[kMaximumMembers];
  std::uint64_t peak_rss[kMaximumMembers];
  char backend_note[256];
};

class SharedMemory {
 public:
  SharedMemory(std::uint32_t ranks, std::uint64_t samples) : bytes_(sizeof(Shared) + ranks * samples * sizeof(Sample)) {
    void* region = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) return;
    shared_ = static_cast<Shared*>(region);
    samples_ = reinterpret_cast<Sample*>(shared_ + 1);
    samples_per_rank_ = samples;
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared_->barrier, &attributes, ranks);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() {
    if (shared_ != nullptr) munmap(shared_, bytes_);
  }
  [[nodiscard]] bool ok() const { return shared_ != nullptr; }
  Shared* operator->() const { return shared_; }
  [[nodiscard]] Sample& sample(std::uint32_t rank, std::uint64_t iteration) const {
    return samples_[rank * samples_per_rank_ + iteration];
  }

 private:
  std::size_t bytes_;
  Shared* shared_ = nullptr;
  Sample* samples_ = nullptr;
  std::uint64_t samples_per_rank_ = 0;
};

Status run_local_rank(const Options& options, std::uint32_t index, std::uint64_t bytes, SharedMemory& shared) {
  auto made = Rank::make(options.world, index, "127.0.0.1:0");
  if (!made) return made.error();
  Rank& rank = **made;
  shared->ports[index] = rank.port();
  if (index == 0) std::snprintf(shared->backend_note, sizeof(shared->backend_note), "%s", rank.backend_note().c_str());
  pthread_barrier_wait(&shared->barrier);
  std::vector<std::string> addresses;
  for (std::uint32_t other = 0; other < options.world.ranks; ++other) {
    addresses.push_back("127.0.0.1:" + std::to_string(shared->ports[other]));
  }
  if (auto connected = rank.connect(addresses); !connected) return connected.error();

  const GradientMemory gradient(bytes);
  if (!gradient.ok()) return runtime_error("no memory for a gradient of " + format_size(bytes));
  for (std::uint64_t i = 0; i < options.warmup + options.iterations; ++i) {
    auto sample =
        run_iteration(rank, index, options.world, gradient.values(), static_cast<std::uint32_t>(i), &shared->barrier);
    if (!sample) return sample.error();
    shared.sample(index, i) = *sample;
  }
  shared->peak_rss[index] = peak_rss_bytes();
  pthread_barrier_wait(&shared->barrier);  // nobody leaves while another still averages
  rank.leave();
  return Done{};
}

// Waits for all children; when one fails, ends the others, which would wait for it.
bool wait_for_ranks(std::vector<pid_t> children) {
  bool all_well = true;
  while (!children.empty()) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno == EINTR) continue;
    if (ended < 0) return false;
    const auto found = std::find(children.begin(), children.end(), ended);
    if (found == children.end()) continue;
    children.erase(found);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (all_well) {
      for (const pid_t child : children) kill(child, SIGKILL);
    }
    all_well = false;
  }
  return all_well;
}

SizeResult summarise(const Options& options, std::uint64_t bytes, const SharedMemory& shared) {
  SizeResult result;
  result.bytes = bytes;
  const std::uint32_t ranks = options.world.ranks;
  for (std::uint64_t i = 0; i < options.warmup + options.iterations; ++i) {
    double start = shared.sample(0, i).start_s;
    double end = shared.sample(0, i).end_s;
    double cpu = 0;
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      const Sample& sample = shared.sample(rank, i);
      start = std::min(start, sample.start_s);
      end = std::max(end, sample.end_s);
      cpu += sample.cpu_s;
      result.wrong += sample.wrong;
      // All members hold the same bytes, or the round broke its third promise.
      if (sample.digest != shared.sample(0, i).digest) result.wrong += bytes / sizeof(float);
    }
    if (i < options.warmup) continue;
    result.seconds.push_back(end - start);
    result.cpu_s_per_op += cpu / static_cast<double>(options.iterations);
  }
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    result.peak_rss_bytes = std::max(result.peak_rss_bytes, shared->peak_rss[rank]);
  }
  return result;
}

// Fresh processes for every size, so that one size's memory is not another's peak.
Result<SizeResult> run_local_size(const Options& options, std::uint64_t bytes, std::string& backend_note) {
  SharedMemory shared(options.world.ranks, options.warmup + options.iterations);
  if (!shared.ok()) return runtime_error("no shared memory for the ranks' results");
  std::vector<pid_t> children;
  for (std::uint32_t rank = 0; rank < options.world.ranks; ++rank) {
    const pid_t child = fork();
    if (child < 0) return runtime_error("cannot start rank " + std::to_string(rank) + ": " + std::strerror(errno));
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const Status done = run_local_rank(options, rank, bytes, shared);
      if (!done) {
        std::snprintf(shared->error[rank], sizeof(shared->error[rank]), "%s", done.error().message.c_str());
        shared->error_kind[rank] = done.error().kind;
      }
      _exit(done ? kExitDone : kExitRuntime);
    }
    children.push_back(child);
  }
  if (!wait_for_ranks(children)) {
    for (std::uint32_t rank = 0; rank < options.world.ranks; ++rank) {
      if (shared->error[rank][0] != 0) return Error{shared->error_kind[rank], shared->error[rank]};
    }
    return runtime_error("a rank was ended by a signal");
  }
  backend_note = shared->backend_note;
  return summarise(options, bytes, shared);
}

// ---- one rank of several hosts

Result<SizeResult> run_distributed_size(const Options& options, Rank& rank, std::uint64_t bytes) {
  SizeResult result;
  result.bytes = bytes;
  reset_peak_rss();
  const GradientMemory gradient(bytes);
  if (!gradient.ok()) return runtime_error("no memory for a gradient of " + format_size(bytes));
  double cpu_s = 0;
  for (std::uint64_t i = 0; i < options.warmup + options.iterations; ++i) {
    auto sample = run_iteration(rank, static_cast<std::uint32_t>(options.rank), options.world, gradient.values(),
                                static_cast<std::uint32_t>(i), nullptr);
    if (!sample) return sample.error();
    result.wrong += sample->wrong;
    if (i < options.warmup) continue;
    result.seconds.push_back(sample->end_s - sample->start_s);
    cpu_s += sample->cpu_s / static_cast<double>(options.iterations);
  }
  // Every rank's CPU seconds, peak memory in MiB and wrong elements.
  auto all = rank.gather(
      {static_cast<float>(cpu_s), static_cast<float>(peak_rss_bytes()) / 1048576.0F, static_cast<float>(result.wrong)});
  if (!all) return all.error();
  result.wrong = 0;
  for (std::size_t i = 0; i < all->size(); i += 3) {
    result.cpu_s_per_op += static_cast<double>((*all)[i]);
    result.peak_rss_bytes =
        std::max(result.peak_rss_bytes, static_cast<std::uint64_t>(static_cast<double>((*all)[i + 1]) * 1048576));
    result.wrong += static_cast<std::uint64_t>(std::llround((*all)[i + 2]));
  }
  return result;
}

// ---- output

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

void print_header(std::FILE* out, const Options& options, const std::string& backend_note) {
  std::fprintf(out, "# papilio-perf %s: all-reduce, %u ranks, %llu iterations after %llu, security %s\n",
               PAPILIO_VERSION, options.world.ranks, static_cast<unsigned long long>(options.iterations),
               static_cast<unsigned long long>(options.warmup), options.security.c_str());
  std::fprintf(out, "# transport: %s\n", backend_note.c_str());
  std::fprintf(out, "#%11s %12s %7s %6s %10s %8s %8s %8s %12s %10s\n", "size", "count", "type", "redop", "time",
               "algbw", "busbw", "#wrong", "cpu/op", "peak rss");
  std::fprintf(out, "#%11s %12s %7s %6s %10s %8s %8s %8s %12s %10s\n", "(B)", "(elements)", "", "", "(us)", "(GB/s)",
               "(GB/s)", "", "(s)", "(MiB)");
}

nlohmann::ordered_json print_result(std::FILE* out, const Options& options, const SizeResult& result) {
  const double median_s = median_of(result.seconds);
  const auto [fastest, slowest] = std::minmax_element(result.seconds.begin(), result.seconds.end());
  const double ranks = options.world.ranks;
  const double algbw_gbs = median_s > 0 ? static_cast<double>(result.bytes) / median_s / 1e9 : 0;
  const double busbw_gbs = algbw_gbs * 2 * (ranks - 1) / ranks;
  std::fprintf(out, "%12llu %12llu %7s %6s %10.1f %8.3f %8.3f %8llu %12.4f %10.1f\n",
               static_cast<unsigned long long>(result.bytes), static_cast<unsigned long long>(result.bytes / 4),
               "float", "avg", median_s * 1e6, algbw_gbs, busbw_gbs, static_cast<unsigned long long>(result.wrong),
               result.cpu_s_per_op, static_cast<double>(result.peak_rss_bytes) / 1048576);
  std::fflush(out);
  return {{"bytes", result.bytes},
          {"ranks", options.world.ranks},
          {"codec", options.codec},
          {"transport", options.transport},
          {"security", options.security},
          {"iters", options.iterations},
          {"time_us", {{"median", median_s * 1e6}, {"min", *fastest * 1e6}, {"max", *slowest * 1e6}}},
          {"algbw_gbs", algbw_gbs},
          {"busbw_gbs", busbw_gbs},
          {"cpu_s_per_op", result.cpu_s_per_op},
          {"peak_rss_bytes", result.peak_rss_bytes},
          {"wrong", result.wrong}};
}

// ---- command line

Result<std::vector<double>> parse_weights(const std::vector<std::string>& texts) {
  std::vector<double> weights;
  for (const std::string& text : texts) {
    char* end = nullptr;
    const double weight = std::strtod(text.c_str(), &end);
    if (end == text.c_str() || *end != 0 || !(weight > 0) || weight > core::kMaximumWeight) {
      return usage_error("--weights: '" + text + "' is not a weight: give positive numbers, such as --weights 1,2,1");
    }
    weights.push_back(weight);
  }
  return weights;
}

Status check(Options& options, const std::vector<std::string>& rate_texts, const std::vector<std::string>& weight_texts,
             std::uint64_t ranks, std::uint64_t clients) {
  options.world.format = *node::parse_format_choice(options.codec);  // one of the choices
  options.world.is_secure = options.security == "tls";
  if (options.begin_bytes < sizeof(float)) {
    return usage_error("--begin " + format_size(options.begin_bytes) + ": holds no fp32 value; give at least 4");
  }
  if (options.end_bytes > kMaximumElements * sizeof(float)) {
    return usage_error("--end " + format_size(options.end_bytes) + ": is above the largest gradient; give at most " +
                       format_size(kMaximumElements * sizeof(float)));
  }
  if (options.world.timeout <= Duration::zero()) {
    return usage_error("--timeout " + format_duration(options.world.timeout) + ": must be more than nothing, like 30s");
  }
  if (options.begin_bytes > options.end_bytes) {
    return usage_error("--begin " + format_size(options.begin_bytes) + " is above --end " +
                       format_size(options.end_bytes) + ": give --begin at most --end");
  }
  if (options.begin_bytes % 4 != 0) {
    return usage_error("--begin " + std::to_string(options.begin_bytes) +
                       ": sizes are of fp32 values: a multiple of 4");
  }
  const bool any_distributed =
      options.world_size > 0 || options.rank > 0 || !options.listen.empty() || !options.peers.empty();
  if (any_distributed) {
    if (options.world_size < 1 || options.listen.empty() || options.peers.size() != options.world_size) {
      return usage_error(
          "several hosts need --world N, --rank R, --listen ADDRESS:PORT and --peers with N addresses in "
          "world order: got world " +
          std::to_string(options.world_size) + ", rank " + std::to_string(options.rank) + ", listen '" +
          options.listen + "' and " + std::to_string(options.peers.size()) + " peers");
    }
    if (options.rank >= options.world_size) {
      return usage_error("--rank " + std::to_string(options.rank) + " is not in the world of " +
                         std::to_string(options.world_size) + ": ranks are 0 to " +
                         std::to_string(options.world_size - 1));
    }
    ranks = options.world_size;
  }
  options.world.ranks = static_cast<std::uint32_t>(ranks);
  options.world.several_hosts = any_distributed;
  if (clients >= ranks) {
    return usage_error("--clients " + std::to_string(clients) + " leaves nobody of " + std::to_string(ranks) +
                       " ranks to reduce: use fewer clients");
  }
  options.world.clients = static_cast<std::uint32_t>(clients);
  auto weights = parse_weights(weight_texts);
  if (!weights) return weights.error();
  options.world.weights = *weights;
  if (options.world.weights.empty()) options.world.weights.assign(ranks, 1.0);
  for (const std::string& text : rate_texts) {
    auto rate = parse_rate(text);
    if (!rate) return usage_error("--rates: " + rate.error().message);
    options.world.rates_bytes_per_s.push_back(*rate / 8);
  }
  if (options.world.weights.size() != ranks ||
      (!rate_texts.empty() && options.world.rates_bytes_per_s.size() != ranks)) {
    return usage_error("--weights and --rates need one value for each of the " + std::to_string(ranks) +
                       " ranks: got " + std::to_string(weight_texts.size()) + " weights and " +
                       std::to_string(rate_texts.size()) + " rates");
  }
  if (options.world.chunk_bytes != 0 &&
      (options.world.chunk_bytes < kMinimumChunkBytes || options.world.chunk_bytes > kMaximumChunkBytes ||
       (options.world.chunk_bytes & (options.world.chunk_bytes - 1)) != 0)) {
    return usage_error("--chunk " + format_size(options.world.chunk_bytes) +
                       ": a chunk is a power of two from 64K to 4M");
  }
  return Done{};
}

Result<nlohmann::ordered_json> run(const Options& options, std::FILE* out, bool& all_right) {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  std::unique_ptr<Rank> rank;
  if (options.is_distributed()) {
    auto made = Rank::make(options.world, static_cast<std::uint32_t>(options.rank), options.listen);
    if (!made) return made.error();
    rank = std::move(*made);
    if (auto connected = rank->connect(options.peers); !connected) return connected.error();
  }
  const bool prints = !options.is_distributed() || options.rank == 0;
  bool first = true;
  for (const std::uint64_t bytes : options.sizes()) {
    std::string note = rank != nullptr ? rank->backend_note() : "";
    auto result = rank != nullptr ? run_distributed_size(options, *rank, bytes) : run_local_size(options, bytes, note);
    if (!result) return result.error();
    all_right = all_right && result->wrong == 0;
    if (!prints) continue;
    if (std::exchange(first, false)) print_header(out, options, note);
    results.push_back(print_result(out, options, *result));
  }
  if (rank != nullptr) rank->leave();
  return results;
}

int main_of_perf(int argc, char** argv) {
  tools::CommandLine line({.name = "papilio-perf",
                           .summary = "times Papilio's collective operations and checks their results",
                           .synopsis = {"allreduce [OPTIONS]"},
                           .description = "Times operations between processes. See papilio-perf allreduce --help.",
                           .not_so = "a result is wrong",
                           .examples = {"papilio-perf allreduce --ranks 4 --begin 1M --end 64M"}});
  CLI::App& command = line.add_command(
      "allreduce",
      {.name = "papilio-perf allreduce",
       .summary = "times the butterfly all-reduce",
       .synopsis = {"[--ranks N] [--begin SIZE] [--end SIZE] [OPTIONS]",
                    "--world N --rank R --listen A:P --peers A:P,A:P,... [OPTIONS]"},
       .description =
           "Starts N local processes that average random gradients of several sizes, or takes part as one rank of "
           "several hosts. Inputs are random per rank and iteration; #wrong counts elements further from a float64 "
           "reference than fp32 summation in any order can be: (n + 2) 2^-24 sum(w|g|) / sum(w), and what the codec "
           "may take: twice its own bound, for contributions and for their average, and as much again that error "
           "feedback carries over from the iteration before, all of values up to 1. The codecs' bounds: bf16 2^-8 |x|, "
           "fp16 2^-11 |x| + 2^-25, int8 max/254 of its block of 256 (kernels/codec.h).\n\n"
           "An iteration's time is from the first rank's start to the last rank's end (over several hosts: this "
           "rank's own). algbw is size over time, busbw = algbw 2(n-1)/n, both in 1e9 bytes/s; cpu/op is the "
           "CPU time of all ranks, peak rss the largest rank's.",
       .not_so = "a result is wrong",
       .examples = {"papilio-perf allreduce --ranks 4 --begin 1M --end 256M --factor 4",
                    "papilio-perf allreduce --ranks 8 --begin 64M --end 64M --transport uv --json -"}});
  line.app().require_subcommand(1);

  Options options;
  std::uint64_t ranks = 4;
  std::uint64_t clients = 0;
  std::uint64_t flows = 0;
  std::string borrow = "auto";
  std::string order = "auto";
  std::string error_feedback = "on";
  std::vector<std::string> rates;
  std::vector<std::string> weights;
  tools::add_count(command, "--ranks", ranks, 1, kMaximumMembers, "local processes");
  tools::add_size(command, "--begin", options.begin_bytes, "the smallest gradient");
  tools::add_size(command, "--end", options.end_bytes, "the largest gradient");
  tools::add_count(command, "--factor", options.factor, 2, 1024, "from one size to the next");
  tools::add_count(command, "--iters", options.iterations, 1, 100000, "timed iterations per size");
  tools::add_count(command, "--warmup", options.warmup, 0, 100000, "iterations before them");
  tools::add_choice(command, "--codec", options.codec, node::format_choices(),
                    "what shards are sent in; auto: whatever is fastest on each link, checked as int8");
  tools::add_choice(command, "--error-feedback", error_feedback, {"on", "off"},
                    "whether what rounding took is added in the next iteration");
  tools::add_choice(command, "--transport", options.transport, {"auto", "uring", "uv"}, "the Io backend");
  tools::add_choice(command, "--security", options.security, {"none", "tls"},
                    "TLS 1.3 on every connection, or, as other benchmarks of this kind, none");
  command.add_option("--congestion-control", options.world.congestion_control,
                     "TCP congestion control (default: cubic on the local host, else the system's)");
  tools::add_count(command, "--flows", flows, 0, kMaximumFlows, "connections per pair of ranks, 0: chosen");
  tools::add_size(command, "--chunk", options.world.chunk_bytes, "chunk size, 0: chosen");
  tools::add_choice(command, "--order", order, {"auto", "averages-first", "contributions-first"},
                    "what a member sends first");
  tools::add_choice(command, "--borrow", borrow, {"auto", "nothing", "contributions", "everything"},
                    "which shards go out by reference instead of by copy");
  tools::add_size(command, "--socket-buffer", options.world.socket_buffer_bytes, "send and receive buffers, 0: chosen");
  tools::add_count(command, "--clients", clients, 0, kMaximumMembers, "the last ranks reduce nothing");
  command.add_option("--weights", weights, "one weight per rank")->delimiter(',');
  command.add_option("--rates", rates, "one line rate per rank, such as 200Mbps,50Mbps")->delimiter(',');
  tools::add_duration(command, "--timeout", options.world.timeout, "of connecting and of each round");
  tools::add_count(command, "--rank", options.rank, 0, kMaximumMembers - 1, "this rank, with --world");
  tools::add_count(command, "--world", options.world_size, 0, kMaximumMembers, "ranks on several hosts");
  tools::add_address(command, "--listen", options.listen, "where this rank listens, with --world");
  tools::add_addresses(command, "--peers", options.peers, "all ranks' addresses in world order, with --world");
  if (const auto code = line.parse(argc, argv)) return *code;

  options.world.error_feedback = error_feedback == "on";
  options.world.flows = static_cast<std::uint16_t>(flows);
  options.world.backend = *transport::parse_io_backend(options.transport);  // one of the choices
  options.world.order = order == "averages-first"        ? core::RoundOrder::averages_first
                        : order == "contributions-first" ? core::RoundOrder::contributions_first
                                                         : core::RoundOrder::automatic;
  if (borrow == "nothing") options.world.borrow = node::Borrow::nothing;
  if (borrow == "contributions") options.world.borrow = node::Borrow::contributions;
  if (borrow == "everything") options.world.borrow = node::Borrow::everything;
  if (auto checked = check(options, rates, weights, ranks, clients); !checked) return line.fail(checked.error());

  bool all_right = true;
  auto results = run(options, line.out(), all_right);
  if (!results) return line.fail(results.error());
  if (auto written = line.write_json(*results); !written) return line.fail(written.error());
  return all_right ? kExitDone : kExitNotSo;
}

}  // namespace
}  // namespace papilio::perf

int main(int argc, char** argv) { return papilio::perf::main_of_perf(argc, argv); }
