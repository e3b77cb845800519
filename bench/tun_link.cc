// A long-distance link on one machine: a star of TUN interfaces, one per network namespace, with this program in the
// middle. It exists because the kernel's own delay (netem) is often not built in, and because a delay in user space is
// the same on every machine. Every packet is delivered by its destination address after a fixed one-way delay; each
// host's downlink may have a rate with a bounded queue in front of it, and packets may be lost at random.
//
// One thread. A packet's delivery time is known when it is read: the downlink is a virtual clock (next_free_), so the
// times of one destination never decrease and a plain queue per destination is enough; no heap, no second pass.
// Uplinks are not shaped here: a token bucket of the kernel on the TUN interface does that (bench/links sets it up), so
// that the sender's TCP feels the back-pressure of a real interface.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/random.hpp"

namespace {

constexpr std::size_t kMaximumPacketBytes = std::size_t{66} << 10U;  // 64 KiB of IP and the offload header
constexpr int kReadsPerTurn = 64;  // per host, so that one busy uplink cannot delay the others' deliveries
constexpr std::int64_t kNever = INT64_MAX;

// What precedes each packet with IFF_VNET_HDR: struct virtio_net_hdr of linux/virtio_net.h, which is not valid C++.
struct OffloadHeader {
  std::uint8_t flags;
  std::uint8_t segmentation;  // 0: one packet as it is
  std::uint16_t header_bytes;
  std::uint16_t segment_bytes;
  std::uint16_t checksum_start;
  std::uint16_t checksum_offset;
};
static_assert(sizeof(OffloadHeader) == 10);

volatile sig_atomic_t stop_requested = 0;

struct HostOptions {
  std::string network_namespace;
  in_addr_t address = 0;
  double downlink_bps = 0;  // 0: unlimited
};

struct LinkOptions {
  std::vector<HostOptions> hosts;
  std::string interface = "eth0";
  double delay_ms = 0;
  double queue_ms = 50;
  double loss = 0;
  std::uint64_t seed = 1;
  bool offload = false;
};

struct Counters {
  std::uint64_t delivered_packets = 0;
  std::uint64_t delivered_bytes = 0;
  std::uint64_t lost = 0;            // at random, as asked for
  std::uint64_t queue_dropped = 0;   // the downlink's queue was full
  std::uint64_t buffer_dropped = 0;  // this program's memory was full: a figure above 0 means that it is too slow
  std::uint64_t write_failed = 0;
};

std::int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "tun_link: %s\n", message.c_str());
  std::exit(3);
}

// Packets in flight to one host, back to back in a circular buffer. A packet never wraps: the tail of the buffer is
// skipped where it is too short, so that each packet is one write.
class PacketQueue {
 public:
  explicit PacketQueue(std::size_t capacity_bytes)
      : capacity_(capacity_bytes), bytes_(std::make_unique_for_overwrite<std::byte[]>(capacity_bytes)) {}

  bool push(std::int64_t due_ns, const std::byte* packet, std::size_t size) {
    const std::size_t needed = (sizeof(Header) + size + alignof(Header) - 1) / alignof(Header) * alignof(Header);
    const std::size_t offset = tail_ % capacity_;
    const std::size_t skipped = capacity_ - offset < needed ? capacity_ - offset : 0;
    if (tail_ + skipped + needed - head_ > capacity_) return false;
    if (skipped > 0) {
      put_header(offset, {.due_ns = 0, .size = 0, .step = skipped});
      tail_ += skipped;
    }
    put_header(tail_ % capacity_, {.due_ns = due_ns, .size = size, .step = needed});
    std::memcpy(&bytes_[tail_ % capacity_ + sizeof(Header)], packet, size);
    tail_ += needed;
    return true;
  }

  // When the first packet is due, kNever if there is none.
  [[nodiscard]] std::int64_t due_ns() {
    drop_skipped();
    return head_ == tail_ ? kNever : header().due_ns;
  }
  [[nodiscard]] const std::byte* data() const { return &bytes_[head_ % capacity_ + sizeof(Header)]; }
  [[nodiscard]] std::size_t size() const { return header().size; }
  void pop() { head_ += header().step; }

 private:
  struct Header {
    std::int64_t due_ns;
    std::size_t size;  // 0: nothing here, go on at the start of the buffer
    std::size_t step;
  };

  // Every step is a multiple of the header's alignment but the remainder of the buffer may be shorter than a header.
  void put_header(std::size_t offset, Header header) {
    if (capacity_ - offset >= sizeof(Header)) std::memcpy(&bytes_[offset], &header, sizeof(header));
  }
  [[nodiscard]] Header header() const {
    Header header{};
    std::memcpy(&header, &bytes_[head_ % capacity_], sizeof(header));
    return header;
  }
  void drop_skipped() {
    if (head_ == tail_) return;
    const std::size_t left = capacity_ - head_ % capacity_;
    if (left < sizeof(Header)) {
      head_ += left;
    } else if (header().size == 0) {
      head_ += header().step;
    }
  }

  std::size_t capacity_;
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t head_ = 0;  // counted up for ever; the place is the remainder
  std::size_t tail_ = 0;
};

struct Host {
  HostOptions options;
  int descriptor = -1;
  std::int64_t next_free_ns = 0;  // when the downlink has sent all that was accepted so far
  PacketQueue queue;
};

// A TUN interface lives in the namespace in which /dev/net/tun is opened: go there, open, come back.
int open_tun(const LinkOptions& options, const HostOptions& host, int home_namespace) {
  const std::string path = "/run/netns/" + host.network_namespace;
  const int there = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (there < 0) fail("cannot open network namespace " + path + ": " + std::strerror(errno) + "; create it first");
  if (setns(there, CLONE_NEWNET) != 0) fail("cannot enter " + path + ": " + std::strerror(errno) + "; run as root");
  const int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) fail(std::string("cannot open /dev/net/tun: ") + std::strerror(errno) + "; load the tun module");
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TUN | IFF_NO_PI | (options.offload ? IFF_VNET_HDR : 0));
  options.interface.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(tun, TUNSETIFF, &request) != 0) {
    fail("cannot create interface " + options.interface + " in " + path + ": " + std::strerror(errno));
  }
  if (options.offload) {
    const unsigned offloads = TUN_F_CSUM | TUN_F_TSO4;
    if (ioctl(tun, TUNSETOFFLOAD, offloads) != 0) {
      fail(std::string("the kernel refuses segmentation offload: ") + std::strerror(errno) + "; drop --offload");
    }
  }
  if (setns(home_namespace, CLONE_NEWNET) != 0) fail(std::string("cannot return: ") + std::strerror(errno));
  close(there);
  return tun;
}

class Link {
 public:
  explicit Link(const LinkOptions& options)
      : options_(options), delay_ns_(std::llround(options.delay_ms * 1e6)), random_(options.seed) {
    const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0) fail(std::string("cannot open /proc/self/ns/net: ") + std::strerror(errno));
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    for (const HostOptions& host : options.hosts) {
      hosts_.push_back({host, open_tun(options, host, home), 0, PacketQueue(buffer_bytes(host))});
      epoll_event event{.events = EPOLLIN, .data = {.u64 = hosts_.size() - 1}};
      if (epoll_ctl(epoll_, EPOLL_CTL_ADD, hosts_.back().descriptor, &event) != 0) {
        fail(std::string("epoll refuses a TUN interface: ") + std::strerror(errno));
      }
    }
    close(home);
  }

  void run(const sigset_t& signals_while_waiting) {
    std::array<epoll_event, 64> events{};
    while (stop_requested == 0) {
      const std::int64_t wait_ns = earliest_due_ns() == kNever ? 1'000'000'000 : earliest_due_ns() - now_ns();
      const std::int64_t bounded_ns = std::clamp<std::int64_t>(wait_ns, 0, 1'000'000'000);
      const timespec timeout{.tv_sec = bounded_ns / 1'000'000'000, .tv_nsec = bounded_ns % 1'000'000'000};
      const int count =
          epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &timeout, &signals_while_waiting);
      if (count < 0 && errno != EINTR) fail(std::string("epoll_pwait2: ") + std::strerror(errno));
      deliver_due();
      for (int i = 0; i < count; ++i) read_from(hosts_[events[static_cast<std::size_t>(i)].data.u64]);
      deliver_due();
    }
  }

  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  // Room for everything that can be under way to one host at once, with room to spare for this program's own lateness.
  [[nodiscard]] std::size_t buffer_bytes(const HostOptions& host) const {
    const double bps = host.downlink_bps > 0 ? host.downlink_bps : 4e9;
    const double seconds = (options_.delay_ms + options_.queue_ms + 20) / 1e3;
    return std::size_t{4} * kMaximumPacketBytes + static_cast<std::size_t>(2 * bps / 8 * seconds) / 64 * 64;
  }

  [[nodiscard]] std::int64_t earliest_due_ns() {
    std::int64_t earliest = kNever;
    for (Host& host : hosts_) earliest = std::min(earliest, host.queue.due_ns());
    return earliest;
  }

  void read_from(Host& source) {
    const std::int64_t now = now_ns();
    for (int i = 0; i < kReadsPerTurn; ++i) {
      const ssize_t size = read(source.descriptor, packet_.data(), packet_.size());
      if (size <= 0) return;  // nothing more, or the interface is going down
      forward(static_cast<std::size_t>(size), now);
    }
  }

  void forward(std::size_t size, std::int64_t now) {
    const std::size_t ip = options_.offload ? sizeof(OffloadHeader) : 0;
    if (size < ip + 20 || std::to_integer<unsigned>(packet_[ip]) >> 4U != 4) return;  // only IPv4 is routed
    in_addr_t destination = 0;
    std::memcpy(&destination, &packet_[ip + 16], sizeof(destination));
    const auto host = std::find_if(hosts_.begin(), hosts_.end(),
                                   [&](const Host& candidate) { return candidate.options.address == destination; });
    if (host == hosts_.end()) return;
    if (options_.loss > 0 && random_.chance(options_.loss)) {
      ++counters_.lost;
      return;
    }
    const std::int64_t start = std::max(now, host->next_free_ns);
    if (host->options.downlink_bps > 0) {
      if (static_cast<double>(start - now) > options_.queue_ms * 1e6) {
        ++counters_.queue_dropped;
        return;
      }
      const double seconds = static_cast<double>(wire_bytes(size - ip)) * 8 / host->options.downlink_bps;
      host->next_free_ns = start + std::llround(seconds * 1e9);
    }
    const std::int64_t sent = host->options.downlink_bps > 0 ? host->next_free_ns : start;
    if (!host->queue.push(sent + delay_ns_, packet_.data(), size)) ++counters_.buffer_dropped;
  }

  // What the packet would take on the wire: a segment of up to 64 KiB stands for several packets, each with headers.
  [[nodiscard]] std::size_t wire_bytes(std::size_t ip_bytes) const {
    if (!options_.offload) return ip_bytes;
    OffloadHeader offload{};
    std::memcpy(&offload, packet_.data(), sizeof(offload));
    if (offload.segmentation == 0 || offload.segment_bytes == 0) return ip_bytes;
    const std::size_t tcp = 20U + 12;  // with the timestamp option, without IP options
    const std::size_t headers = 20 + tcp;
    if (ip_bytes <= headers) return ip_bytes;
    const std::size_t payload = ip_bytes - headers;
    return payload + (payload + offload.segment_bytes - 1) / offload.segment_bytes * headers;
  }

  void deliver_due() {
    const std::int64_t now = now_ns();
    for (Host& host : hosts_) {
      while (host.queue.due_ns() <= now) {
        const ssize_t written = write(host.descriptor, host.queue.data(), host.queue.size());
        if (written < 0) {
          ++counters_.write_failed;
        } else {
          ++counters_.delivered_packets;
          counters_.delivered_bytes += static_cast<std::uint64_t>(written);
        }
        host.queue.pop();
      }
    }
  }

  LinkOptions options_;
  std::int64_t delay_ns_;
  papilio::Random random_;
  int epoll_ = -1;
  std::vector<Host> hosts_;
  std::array<std::byte, kMaximumPacketBytes> packet_{};
  Counters counters_;
};

// NAMESPACE,ADDRESS[,DOWNLINK_BITS_PER_SECOND]
std::optional<HostOptions> parse_host(const std::string& text) {
  const std::vector<std::string> fields = CLI::detail::split(text, ',');
  if (fields.size() < 2 || fields.size() > 3 || fields[0].empty()) return std::nullopt;
  HostOptions host{.network_namespace = fields[0]};
  if (inet_pton(AF_INET, fields[1].c_str(), &host.address) != 1) return std::nullopt;
  if (fields.size() == 3 && (!CLI::detail::lexical_cast(fields[2], host.downlink_bps) || !(host.downlink_bps >= 0))) {
    return std::nullopt;
  }
  return host;
}

LinkOptions parse_options(int argc, char** argv) {
  LinkOptions options;
  std::vector<std::string> hosts;
  CLI::App app{
      "A star of TUN interfaces with delay, rate, queue and loss; prints `ready` once they exist. Ends on "
      "SIGINT or SIGTERM with its counters; the interfaces go with it."};
  app.set_version_flag("--version", "tun_link " PAPILIO_VERSION);
  app.add_option("--host", hosts, "NAMESPACE,IPV4[,DOWNLINK_BPS], once per host (two or more)")->required();
  app.add_option("--interface", options.interface, "name of the interface in each namespace")->capture_default_str();
  app.add_option("--delay-ms", options.delay_ms, "one-way delay")->check(CLI::Range(0.0, 10'000.0));
  app.add_option("--queue-ms", options.queue_ms, "most that a packet may wait for its downlink before it is dropped")
      ->check(CLI::Range(0.1, 10'000.0))
      ->capture_default_str();
  app.add_option("--loss", options.loss, "share of packets lost at random, 0 to 1")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.seed, "seed of the losses")->capture_default_str();
  app.add_flag("--offload", options.offload,
               "carry TCP segments of up to 64 KiB whole, as network cards do; a loss then takes the whole segment");
  try {
    app.parse(argc, argv);
    for (const std::string& text : hosts) {
      const std::optional<HostOptions> host = parse_host(text);
      if (!host) {
        throw CLI::ValidationError("--host", "`" + text + "` is not NAMESPACE,IPV4[,DOWNLINK_BPS], such as a,10.0.0.1");
      }
      options.hosts.push_back(*host);
    }
    if (options.hosts.size() < 2) throw CLI::ValidationError("--host", "give at least two");
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const LinkOptions options = parse_options(argc, argv);

  // Signals arrive only while waiting: none can slip in between the check of the flag and the wait.
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  sigdelset(&before, SIGINT);
  sigdelset(&before, SIGTERM);

  prctl(PR_SET_TIMERSLACK, 1UL);  // otherwise every delivery is up to 50 us late

  Link link(options);
  std::puts("ready");
  std::fflush(stdout);
  link.run(before);

  const Counters& counters = link.counters();
  std::printf("delivered %llu packets, %llu bytes; lost %llu, queue full %llu, buffer full %llu, write failed %llu\n",
              static_cast<unsigned long long>(counters.delivered_packets),
              static_cast<unsigned long long>(counters.delivered_bytes), static_cast<unsigned long long>(counters.lost),
              static_cast<unsigned long long>(counters.queue_dropped),
              static_cast<unsigned long long>(counters.buffer_dropped),
              static_cast<unsigned long long>(counters.write_failed));
  return 0;
}
