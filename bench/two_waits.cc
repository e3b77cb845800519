// io_uring and libuv each want to be the one that waits. This program measures which of them should wait, and how the
// other should sit in that wait, with both doing work in one thread: the ring carries TCP over loopback (a ping-pong of
// 64 bytes, or a stream received 256 KiB at a time), while libuv serves a timer of 1 ms and an async handle that
// another thread fires 1000 times a second. The choice is recorded in ARCHITECTURE.md; this is where it comes from.
//
// Repetitions of all ways are interleaved and the order rotates, so that a disturbance of the machine hits all alike.
#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/assert.hpp"

namespace {

enum class Way {
  ring_alone,      // no libuv at all: what the others' company costs
  uv_polls_ring,   // libuv waits; uv_poll on the ring's descriptor. DEFER_TASKRUN hangs here: a lost wake-up
  uv_polls_event,  // libuv waits; the ring signals a registered eventfd
  ring_multishot,  // the ring waits; one multishot poll on libuv's backend descriptor
  ring_rearmed,    // the ring waits; a single poll on it, posted again after every turn of libuv
};
constexpr std::array kWays = {Way::ring_alone, Way::uv_polls_ring, Way::uv_polls_event, Way::ring_multishot,
                              Way::ring_rearmed};
constexpr Way kReference = Way::uv_polls_ring;

const char* to_string(Way way) {
  switch (way) {
    case Way::ring_alone: return "ring alone, no libuv";
    case Way::uv_polls_ring: return "(a) libuv waits, polls the ring";
    case Way::ring_multishot: return "(b) ring waits, multishot poll";
    case Way::ring_rearmed: return "(b') ring waits, poll re-armed";
    case Way::uv_polls_event: return "(c) libuv waits, eventfd";
  }
  return "";
}

enum class Workload { ping_pong, stream };
constexpr std::array kWorkloads = {Workload::ping_pong, Workload::stream};

constexpr std::size_t kPingBytes = 64;
constexpr std::size_t kStreamBytes = std::size_t{256} << 10U;
constexpr std::int64_t kWakeIntervalNs = 1'000'000;
constexpr std::uint64_t kTimerMs = 1;
constexpr unsigned kRingEntries = 64;
constexpr std::int64_t kNever = INT64_MAX;

[[noreturn]] void fail(const char* what, int error_number) {
  std::fprintf(stderr, "two_waits: %s: %s\n", what, std::strerror(error_number));
  std::exit(3);
}
void check_uv(int result, const char* what) {
  if (result < 0) {
    std::fprintf(stderr, "two_waits: %s: %s\n", what, uv_strerror(result));
    std::exit(3);
  }
}

std::int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

double thread_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](timeval time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Which of two CPUs a thread runs on decides more than what is measured here: a wake-up of another CPU is slow on
// virtual machines, one on the same CPU competes for it. So it is fixed, or reported for both.
enum class Placement { apart, same, free };

const char* to_string(Placement placement) {
  return placement == Placement::apart ? "apart" : placement == Placement::same ? "the same" : "as the kernel likes";
}

void place(Placement placement, bool is_partner) {
  if (placement == Placement::free) return;
  static const cpu_set_t allowed = [] {  // before anybody is pinned: threads inherit that
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) fail("sched_getaffinity", errno);
    return set;
  }();
  const int wanted = is_partner && placement == Placement::apart ? 1 : 0;
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != wanted) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
  fail("--placement apart needs two CPUs; try --placement free", EINVAL);
}

// --- The other side of the connection: a thread with blocking calls
// ---------------------------------------------------

bool send_all(int socket, const std::byte* data, std::size_t size) {
  while (size > 0) {
    const ssize_t sent = send(socket, data, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}

void partner(int socket, Workload workload) {
  std::vector<std::byte> buffer(workload == Workload::ping_pong ? kPingBytes : kStreamBytes);
  const auto size = static_cast<ssize_t>(buffer.size());
  bool open = true;
  while (open) {
    if (workload == Workload::ping_pong && recv(socket, buffer.data(), buffer.size(), MSG_WAITALL) != size) break;
    open = send_all(socket, buffer.data(), buffer.size());
  }
  close(socket);
}

struct SocketPair {
  int ours;
  int theirs;
};

// Cubic on both: BBR paces on loopback, and would be what is measured.
SocketPair connect_over_loopback() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || ours < 0) fail("socket", errno);
  for (const int each : {listener, ours}) {
    const int on = 1;
    setsockopt(each, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (setsockopt(each, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) != 0) fail("this kernel has no cubic", errno);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0) fail("bind", errno);
  if (listen(listener, 1) != 0) fail("listen", errno);
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  if (connect(ours, reinterpret_cast<sockaddr*>(&address), length) != 0) fail("connect", errno);
  const int theirs = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (theirs < 0) fail("accept", errno);
  close(listener);
  return {ours, theirs};
}

// --- What the ring carries
// --------------------------------------------------------------------------------------------

enum Tag : std::uint64_t { kTagSent = 1, kTagReceived, kTagUv };

class Traffic {
 public:
  Traffic(io_uring& ring, int socket, Workload workload)
      : ring_(ring),
        socket_(socket),
        workload_(workload),
        received_(workload == Workload::ping_pong ? kPingBytes : kStreamBytes) {}

  void post() {
    if (workload_ == Workload::ping_pong) {
      io_uring_sqe* send = next_entry();
      io_uring_prep_send(send, socket_, sent_.data(), sent_.size(), MSG_WAITALL);
      io_uring_sqe_set_data64(send, kTagSent);
    }
    io_uring_sqe* receive = next_entry();
    io_uring_prep_recv(receive, socket_, received_.data(), received_.size(), MSG_WAITALL);
    io_uring_sqe_set_data64(receive, kTagReceived);
  }

  void completed(std::uint64_t tag, int result) {
    --outstanding_;
    if (tag != kTagReceived || stopping_) return;
    if (result != static_cast<int>(received_.size())) fail("receive", result < 0 ? -result : ECONNRESET);
    ++rounds_;
    post();
  }

  // The partner sees the end of the stream; what is posted ends.
  void stop() {
    stopping_ = true;
    shutdown(socket_, SHUT_RDWR);
  }

  [[nodiscard]] bool stopping() const { return stopping_; }
  [[nodiscard]] bool finished() const { return stopping_ && outstanding_ == 0; }
  [[nodiscard]] double rounds() const { return static_cast<double>(rounds_); }

 private:
  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    PAPILIO_ASSERT(entry != nullptr);
    ++outstanding_;
    return entry;
  }

  io_uring& ring_;
  int socket_;
  Workload workload_;
  std::array<std::byte, kPingBytes> sent_{};
  std::vector<std::byte> received_;
  std::uint64_t rounds_ = 0;
  int outstanding_ = 0;
  bool stopping_ = false;
};

// --- What libuv has to do meanwhile
// -----------------------------------------------------------------------------------

class UvWork {
 public:
  UvWork() {
    check_uv(uv_loop_init(&loop_), "uv_loop_init");
    check_uv(uv_async_init(&loop_, &async_, [](uv_async_t* handle) { self(handle)->woken(); }), "uv_async_init");
    check_uv(uv_timer_init(&loop_, &timer_), "uv_timer_init");
    async_.data = timer_.data = this;
    check_uv(uv_timer_start(
                 &timer_, [](uv_timer_t* handle) { ++self(handle)->ticks_; }, kTimerMs, kTimerMs),
             "uv_timer_start");
  }
  UvWork(const UvWork&) = delete;
  UvWork& operator=(const UvWork&) = delete;

  void start_waker(Placement placement) {
    waker_ = std::thread([this, placement] {
      place(placement, true);
      fire_until_stopped();
    });
  }

  // Closes everything on the loop, also handles that others put there.
  ~UvWork() {
    stopping_ = true;
    if (waker_.joinable()) waker_.join();
    uv_walk(
        &loop_,
        [](uv_handle_t* handle, void*) {
          if (uv_is_closing(handle) == 0) uv_close(handle, nullptr);
        },
        nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    check_uv(uv_loop_close(&loop_), "uv_loop_close");
  }

  [[nodiscard]] uv_loop_t& loop() { return loop_; }
  [[nodiscard]] double ticks() const { return static_cast<double>(ticks_); }
  // From uv_async_send in the other thread to the callback in this one, microseconds.
  [[nodiscard]] std::vector<double>& wake_delays_us() { return wake_delays_us_; }

 private:
  template <typename Handle>
  static UvWork* self(Handle* handle) {
    return static_cast<UvWork*>(handle->data);
  }

  void woken() {
    const std::int64_t sent = sent_ns_.exchange(0);
    if (sent != 0) wake_delays_us_.push_back(static_cast<double>(now_ns() - sent) / 1e3);
  }

  void fire_until_stopped() {
    std::int64_t next = now_ns();
    while (!stopping_) {
      next += kWakeIntervalNs;
      const timespec until{.tv_sec = next / 1'000'000'000, .tv_nsec = next % 1'000'000'000};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
      std::int64_t served = 0;  // a wake that was not served yet keeps its time: the delay is that of the first
      sent_ns_.compare_exchange_strong(served, now_ns());
      uv_async_send(&async_);
    }
  }

  uv_loop_t loop_{};
  uv_async_t async_{};
  uv_timer_t timer_{};
  std::uint64_t ticks_ = 0;
  std::vector<double> wake_delays_us_;
  std::atomic<std::int64_t> sent_ns_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread waker_;
};

// --- The ways to wait
// -------------------------------------------------------------------------------------------------

unsigned setup_flags(Way way) {
  return way == Way::uv_polls_ring ? IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
                                   : IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
}

class Loop {
 public:
  Loop(Way way, int socket, Workload workload) : way_(way), traffic_(ring_, socket, workload) {
    const int result = io_uring_queue_init(kRingEntries, &ring_, setup_flags(way));
    if (result < 0) fail("this kernel refuses the ring (needs Linux 6.1 and io_uring allowed)", -result);
    if (way == Way::uv_polls_event) {
      event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      const int registered = io_uring_register_eventfd(&ring_, event_);
      if (registered < 0) fail("io_uring_register_eventfd", -registered);
    }
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop() {
    io_uring_queue_exit(&ring_);
    if (event_ >= 0) close(event_);
  }

  Traffic& traffic() { return traffic_; }

  // Until the traffic is finished; it is stopped at `stop_ns`.
  void run(std::int64_t stop_ns) {
    stop_ns_ = stop_ns;
    traffic_.post();
    if (way_ == Way::uv_polls_ring || way_ == Way::uv_polls_event) {
      libuv_waits();
    } else {
      ring_waits();
    }
  }

  UvWork uv;

 private:
  void libuv_waits() {
    uv_prepare_t prepare{};
    uv_poll_t poll{};
    prepare.data = poll.data = this;
    check_uv(uv_prepare_init(&uv.loop(), &prepare), "uv_prepare_init");
    check_uv(uv_prepare_start(&prepare, [](uv_prepare_t* handle) { static_cast<Loop*>(handle->data)->submit(); }),
             "uv_prepare_start");
    check_uv(uv_poll_init(&uv.loop(), &poll, way_ == Way::uv_polls_event ? event_ : ring_.ring_fd), "uv_poll_init");
    check_uv(uv_poll_start(&poll, UV_READABLE,
                           [](uv_poll_t* handle, int, int) { static_cast<Loop*>(handle->data)->ring_ready(); }),
             "uv_poll_start");
    while (!traffic_.finished()) {
      uv_run(&uv.loop(), UV_RUN_ONCE);
      stop_when_due();
    }
    uv_close(reinterpret_cast<uv_handle_t*>(&prepare), nullptr);
    uv_close(reinterpret_cast<uv_handle_t*>(&poll), nullptr);
    uv_run(&uv.loop(), UV_RUN_NOWAIT);  // both handles live on this frame: let them go now
  }

  // What the completions ask for is submitted at once: it may complete at once, and then a turn of libuv is saved.
  void ring_ready() {
    if (event_ >= 0) {
      eventfd_t count = 0;
      eventfd_read(event_, &count);
      io_uring_get_events(&ring_);
    }
    constexpr int kTurns = 16;  // libuv's own handles wait meanwhile
    for (int i = 0; i < kTurns && drain() > 0; ++i) submit();
  }

  void submit() {
    // DEFER_TASKRUN runs the kernel's part of a completion only when asked for.
    const int result = way_ == Way::uv_polls_event ? io_uring_submit_and_get_events(&ring_) : io_uring_submit(&ring_);
    if (result < 0 && result != -EINTR && result != -EBUSY) fail("submit", -result);
  }

  void ring_waits() {
    const bool with_uv = way_ != Way::ring_alone;
    if (with_uv) turn_uv();
    while (!traffic_.finished()) {
      const std::int64_t until = std::min(uv_due_ns_, traffic_.stopping() ? kNever : stop_ns_);
      const std::int64_t wait = std::clamp<std::int64_t>(until - now_ns(), 0, 1'000'000'000);
      __kernel_timespec timeout{.tv_sec = wait / 1'000'000'000, .tv_nsec = wait % 1'000'000'000};
      io_uring_cqe* first = nullptr;
      const int result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
      if (result < 0 && result != -ETIME && result != -EINTR) fail("wait", -result);
      drain();
      if (with_uv && (uv_ready_ || now_ns() >= uv_due_ns_)) turn_uv();
      stop_when_due();
    }
  }

  void turn_uv() {
    uv_ready_ = false;
    uv_run(&uv.loop(), UV_RUN_NOWAIT);
    const int timeout_ms = uv_backend_timeout(&uv.loop());
    uv_due_ns_ = timeout_ms < 0 ? kNever : now_ns() + std::int64_t{timeout_ms} * 1'000'000;
    if (uv_armed_) return;
    uv_armed_ = true;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    PAPILIO_ASSERT(entry != nullptr);
    if (way_ == Way::ring_multishot) {
      io_uring_prep_poll_multishot(entry, uv_backend_fd(&uv.loop()), POLLIN);
    } else {
      io_uring_prep_poll_add(entry, uv_backend_fd(&uv.loop()), POLLIN);
    }
    io_uring_sqe_set_data64(entry, kTagUv);
  }

  // Everything that is complete; how many that was.
  unsigned drain() {
    io_uring_cqe* completion = nullptr;
    unsigned count = 0;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      const std::uint64_t tag = io_uring_cqe_get_data64(completion);
      const int result = completion->res;
      if (tag == kTagUv) {
        uv_ready_ = true;
        uv_armed_ = (completion->flags & IORING_CQE_F_MORE) != 0;
      }
      io_uring_cqe_seen(&ring_, completion);
      if (tag != kTagUv) traffic_.completed(tag, result);
      ++count;
    }
    return count;
  }

  void stop_when_due() {
    if (!traffic_.stopping() && now_ns() >= stop_ns_) traffic_.stop();
  }

  Way way_;
  io_uring ring_{};
  int event_ = -1;
  Traffic traffic_;
  std::int64_t stop_ns_ = 0;
  std::int64_t uv_due_ns_ = kNever;
  bool uv_ready_ = false;
  bool uv_armed_ = false;
};

// --- Measuring
// --------------------------------------------------------------------------------------------------------

struct Sample {
  double rate = 0;  // round trips per second, or GB per second
  double cpu = 0;   // of the measured thread: microseconds per round trip, or seconds per GB
  double wake_median_us = 0;
  double wake_p99_us = 0;
  double wakes_per_s = 0;
  double ticks_per_s = 0;
};

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto place = values.begin() + std::llround(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

Sample measure(Way way, Workload workload, Placement placement, double seconds) {
  const SocketPair sockets = connect_over_loopback();
  Sample sample;
  std::thread other([&] {
    place(placement, true);
    partner(sockets.theirs, workload);
  });
  {
    Loop loop(way, sockets.ours, workload);
    if (way != Way::ring_alone) loop.uv.start_waker(placement);
    const double cpu_before = thread_cpu_seconds();
    const std::int64_t start = now_ns();
    loop.run(start + static_cast<std::int64_t>(seconds * 1e9));
    const double taken = static_cast<double>(now_ns() - start) / 1e9;
    const double cpu = thread_cpu_seconds() - cpu_before;
    const double amount = workload == Workload::ping_pong
                              ? loop.traffic().rounds()
                              : loop.traffic().rounds() * static_cast<double>(kStreamBytes) / 1e9;
    sample.rate = amount / taken;
    sample.cpu = workload == Workload::ping_pong ? cpu / amount * 1e6 : cpu / amount;
    sample.wake_median_us = quantile(loop.uv.wake_delays_us(), 0.5);
    sample.wake_p99_us = quantile(loop.uv.wake_delays_us(), 0.99);
    sample.wakes_per_s = static_cast<double>(loop.uv.wake_delays_us().size()) / taken;
    sample.ticks_per_s = loop.uv.ticks() / taken;
  }
  close(sockets.ours);  // resets the connection, should the partner wait for room to send
  other.join();
  return sample;
}

double median_of(const std::vector<Sample>& samples, double Sample::*field) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const Sample& sample : samples) values.push_back(sample.*field);
  return quantile(std::move(values), 0.5);
}

using Samples = std::array<std::array<std::vector<Sample>, kWays.size()>, kWorkloads.size()>;

void print_table(Workload workload, const std::array<std::vector<Sample>, kWays.size()>& by_way) {
  const bool ping_pong = workload == Workload::ping_pong;
  std::printf("\n%s\n", ping_pong ? "ping-pong of 64 B" : "stream, received 256 KiB at a time");
  std::printf("%-34s %12s %6s %17s %12s %6s %9s %9s %8s %8s\n", "", ping_pong ? "round trip/s" : "GB/s", "ratio",
              "min .. max", ping_pong ? "CPU us/trip" : "CPU s/GB", "ratio", "wake us", "p99", "wakes/s", "ticks/s");
  const auto reference = static_cast<std::size_t>(std::find(kWays.begin(), kWays.end(), kReference) - kWays.begin());
  for (std::size_t i = 0; i < kWays.size(); ++i) {
    const std::vector<Sample>& samples = by_way[i];
    const auto [least, most] = std::minmax_element(samples.begin(), samples.end(),
                                                   [](const Sample& a, const Sample& b) { return a.rate < b.rate; });
    const int digits = ping_pong ? 0 : 2;
    const auto ratio = [&](double Sample::*field) {
      return median_of(samples, field) / median_of(by_way[reference], field);
    };
    std::printf("%-34s %12.*f %6.3f %7.*f .. %6.*f %12.3f %6.3f %9.1f %9.1f %8.0f %8.0f\n", to_string(kWays[i]), digits,
                median_of(samples, &Sample::rate), ratio(&Sample::rate), digits, least->rate, digits, most->rate,
                median_of(samples, &Sample::cpu), ratio(&Sample::cpu), median_of(samples, &Sample::wake_median_us),
                median_of(samples, &Sample::wake_p99_us), median_of(samples, &Sample::wakes_per_s),
                median_of(samples, &Sample::ticks_per_s));
  }
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0.25;
  int repetitions = 5;
  Placement placement = Placement::same;
  const std::map<std::string, Placement> placements = {
      {"apart", Placement::apart}, {"same", Placement::same}, {"free", Placement::free}};
  CLI::App app{
      "Which should wait on the other in one thread, io_uring or libuv? Medians of interleaved repetitions; "
      "ratios are to way (a)."};
  app.set_version_flag("--version", "two_waits " PAPILIO_VERSION);
  app.add_option("--seconds", seconds, "of one measurement")->check(CLI::Range(0.01, 60.0))->capture_default_str();
  app.add_option("--repetitions", repetitions, "of each")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--placement", placement, "the partner's CPU and ours: same (default), apart, or free")
      ->transform(CLI::CheckedTransformer(placements).description("apart|same|free"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  place(placement, false);
  Samples samples;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    for (std::size_t turn = 0; turn < kWays.size(); ++turn) {
      const std::size_t way = (turn + static_cast<std::size_t>(repetition)) % kWays.size();
      for (std::size_t workload = 0; workload < kWorkloads.size(); ++workload) {
        samples[workload][way].push_back(measure(kWays[way], kWorkloads[workload], placement, seconds));
      }
    }
  }
  std::printf("medians of %d interleaved repetitions of %g s; TCP over loopback, cubic; CPUs %s\n", repetitions,
              seconds, to_string(placement));
  for (std::size_t workload = 0; workload < kWorkloads.size(); ++workload) {
    print_table(kWorkloads[workload], samples[workload]);
  }
  return 0;
}
