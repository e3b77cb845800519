#include "tools/sim/runner.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace papilio::sim {

namespace {

using WallClock = std::chrono::steady_clock;

// What a worker says of one seed, ahead of `text_bytes` of explanation. Pipes keep these whole: far below PIPE_BUF.
struct Record {
  std::uint64_t rounds = 0;
  std::uint64_t events = 0;
  std::uint64_t faults = 0;
  Tally tally;
  std::uint64_t text_bytes = 0;
};
static_assert(std::is_trivially_copyable_v<Record>);

bool write_all(int descriptor, const void* data, std::size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(descriptor, from, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    from += written;
    bytes -= static_cast<std::size_t>(written);
  }
  return true;
}

// A process that works through every jobs-th seed, and what it has said so far.
class Worker {
 public:
  Worker(const Settings& settings, const SeedRange& range, std::uint64_t offset)
      : settings_(settings), range_(range), next_(offset) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() { end(SIGKILL); }

  [[nodiscard]] bool is_over() const { return next_ >= range_.count; }
  [[nodiscard]] int descriptor() const { return descriptor_; }

  Status start() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return runtime_error(std::string("cannot make a pipe: ") + std::strerror(errno));
    process_ = fork();
    if (process_ < 0) {
      close(ends[0]);
      close(ends[1]);
      return runtime_error(std::string("cannot start a process: ") + std::strerror(errno));
    }
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(ends[0]);
      work(ends[1]);
      _exit(0);
    }
    close(ends[1]);
    descriptor_ = ends[0];
    spoke_ = WallClock::now();
    return Done{};
  }

  // Reads what there is. When the worker died in the middle of a seed, that seed failed.
  void read_some(Summary& summary) {
    char chunk[4096];
    const ssize_t count = read(descriptor_, chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR) return;
    if (count <= 0) return handle_end(summary);
    spoke_ = WallClock::now();
    said_.append(chunk, static_cast<std::size_t>(count));
    for (;;) {
      Record record;
      if (said_.size() < sizeof(record)) return;
      std::memcpy(&record, said_.data(), sizeof(record));
      if (said_.size() < sizeof(record) + record.text_bytes) return;
      const std::string text = said_.substr(sizeof(record), record.text_bytes);
      said_.erase(0, sizeof(record) + record.text_bytes);
      finish_seed(summary, record, text);
    }
  }

  void check_patience(Summary& summary) {
    if (process_ <= 0 || WallClock::now() - spoke_ < range_.patience) return;
    end(SIGKILL);
    finish_lost_seed(summary, "did not come to an end: the process was stopped");
  }

  [[nodiscard]] bool is_running() const { return process_ > 0; }

 private:
  void work(int out) {
    for (std::uint64_t i = next_; i < range_.count; i += range_.jobs) {
      const bool replay = range_.replay_every > 0 && i % range_.replay_every == 0;
      const Outcome outcome = run_seed(settings_, range_.first + i, replay);
      const std::string text = outcome.failure.substr(0, 2000);
      const Record record{outcome.rounds, outcome.events, outcome.faults, outcome.tally, text.size()};
      if (!write_all(out, &record, sizeof(record)) || !write_all(out, text.data(), text.size())) return;
    }
  }

  void finish_seed(Summary& summary, const Record& record, const std::string& failure) {
    summary.seeds += 1;
    summary.rounds += record.rounds;
    summary.events += record.events;
    for (std::size_t fault = 0; fault < kFaults; ++fault) {
      if ((record.faults >> fault & 1U) == 0) continue;
      FaultSummary& each = summary.faults[fault];
      each.seeds += 1;
      each.failures += failure.empty() ? 0 : 1;
      each.tally.add(record.tally);
    }
    if (!failure.empty()) summary.failures.push_back({range_.first + next_, failure});
    next_ += range_.jobs;
  }

  // The worker cannot tell any more what it was about.
  void finish_lost_seed(Summary& summary, const std::string& failure) {
    Record record;
    record.faults = draw_scenario(settings_, range_.first + next_).faults;
    finish_seed(summary, record, failure);
  }

  void handle_end(Summary& summary) {
    const int status = end(0);
    if (is_over()) return;
    finish_lost_seed(summary, WIFSIGNALED(status)
                                  ? std::string("the process was ended by signal ") + std::to_string(WTERMSIG(status)) +
                                        " (" + strsignal(WTERMSIG(status)) + ")"
                                  : std::string("the process ended"));
  }

  int end(int signal) {
    if (process_ <= 0) return 0;
    if (signal != 0) kill(process_, signal);
    int status = 0;
    while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    close(descriptor_);
    process_ = -1;
    descriptor_ = -1;
    said_.clear();
    return status;
  }

  const Settings& settings_;
  const SeedRange& range_;
  std::uint64_t next_;  // seed, counted from the first, that is being run
  pid_t process_ = -1;
  int descriptor_ = -1;
  std::string said_;
  WallClock::time_point spoke_;
};

}  // namespace

Outcome run_seed(const Settings& settings, std::uint64_t seed, bool replay) {
  const Scenario scenario = draw_scenario(settings, seed);
  Outcome outcome = run_scenario(scenario, nullptr);
  if (!replay || !outcome.failure.empty()) return outcome;
  const Outcome again = run_scenario(scenario, nullptr);
  if (again.hash != outcome.hash || again.events != outcome.events || again.failure != outcome.failure) {
    outcome.failure = "promise 9: the same seed gave another run: " + std::to_string(outcome.events) +
                      " events, then " + std::to_string(again.events);
  }
  return outcome;
}

Result<Summary> run_seeds(const Settings& settings, const SeedRange& range,
                          const std::function<void(const Summary&)>& progress) {
  Summary summary;
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::uint32_t job = 0; job < range.jobs; ++job)
    workers.push_back(std::make_unique<Worker>(settings, range, job));
  for (;;) {
    std::vector<pollfd> waits;
    std::vector<Worker*> waiting;
    for (const auto& worker : workers) {
      const bool enough = range.most_failures > 0 && summary.failures.size() >= range.most_failures;
      if (!worker->is_running() && !worker->is_over() && !enough) {
        if (auto started = worker->start(); !started) return started.error();
      }
      if (!worker->is_running() || enough) continue;
      waits.push_back({.fd = worker->descriptor(), .events = POLLIN, .revents = 0});
      waiting.push_back(worker.get());
    }
    if (waits.empty()) break;
    poll(waits.data(), waits.size(), 1000);
    for (std::size_t i = 0; i < waits.size(); ++i) {
      if (waits[i].revents != 0) waiting[i]->read_some(summary);
      waiting[i]->check_patience(summary);
    }
    if (progress) progress(summary);
  }
  std::sort(summary.failures.begin(), summary.failures.end(),
            [](const SeedFailure& one, const SeedFailure& other) { return one.seed < other.seed; });
  return summary;
}

}  // namespace papilio::sim
