// What only the simulated network promises: exact replay, faults on command, rates and latencies as set.
#include "transport/sim_io.hpp"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::transport {
namespace {

using Bytes = std::vector<std::byte>;

Bytes numbered_bytes(std::size_t count) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(Random::mix(i));
  return bytes;
}

// Sends a message when connected and reads as much as comes, until the end.
class Talker : public StreamEvents {
 public:
  explicit Talker(const Bytes& message) : message_(message) {}
  virtual ~Talker() = default;

  void adopt(Stream& stream) {
    stream_ = &stream;
    stream.set_events(*this);
    talk();
  }
  void on_connected(Stream& stream) override {
    stream_ = &stream;
    talk();
  }
  void on_read(Stream&, std::size_t bytes) override {
    received.insert(received.end(), buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(bytes));
    listen();
  }
  void on_written(Stream&) override { written = true; }
  void on_failed(Stream& stream, IoStatus how) override {
    failed = true;
    status = how;
    stream.close();
  }
  void on_closed(Stream&) override { stream_ = nullptr; }
  void hang_up() {
    if (stream_ != nullptr) stream_->close();
  }

  Bytes received;
  bool written = false, failed = false;
  IoStatus status;

 private:
  void talk() {
    listen();
    if (message_.empty()) return;
    const WriteBuffer all = message_;
    stream_->write({&all, 1}, WriteMode::copy);
  }
  void listen() {
    const ReadBuffer into = buffer_;
    stream_->read({&into, 1}, 1);
  }

  const Bytes& message_;
  Stream* stream_ = nullptr;
  std::array<std::byte, 5000> buffer_{};
};

class Answerer final : public ListenerEvents {
 public:
  explicit Answerer(const Bytes& message) : message_(message) {}
  void on_accepted(Stream& stream) override {
    talkers.push_back(std::make_unique<Talker>(message_));
    talkers.back()->adopt(stream);
  }
  std::vector<std::unique_ptr<Talker>> talkers;

 private:
  const Bytes& message_;
};

void run(SimNetwork& network, TimePoint until = kNever) {
  for (;;) {
    if (network.run_ready_hosts()) continue;
    if (network.next_event_time() > until || !network.step()) break;
  }
  if (until != kNever) network.advance_to(until);
}

// Host 1 listens on port 7, host 2 dials it; both say `up` and `down`.
struct Pair {
  explicit Pair(const SimOptions& options = {}, std::uint64_t seed = 1, std::size_t bytes = 100000)
      : up(numbered_bytes(bytes)),
        down(numbered_bytes(bytes / 2)),
        network(seed, options),
        server(network.make_host(1)),
        client(network.make_host(2)),
        answerer(down),
        dialler(up) {
    EXPECT_TRUE(server->listen(Address::simulated(1, 7), {}, answerer).ok());
  }
  void dial() { client->connect(Address::simulated(1, 7), {}, dialler); }
  Talker& far() { return *answerer.talkers.at(0); }

  Bytes up, down;
  SimNetwork network;
  std::unique_ptr<Io> server, client;
  Answerer answerer;
  Talker dialler;
};

TEST(SimIo, SameSeedSameRunOtherSeedOtherRun) {
  SimOptions options;
  options.jitter = std::chrono::milliseconds(3);
  options.faults = {.reset_chance = 0.2, .corrupt_chance = 0.2, .truncate_chance = 0.2, .refuse_chance = 0.1};
  const auto run_seed = [&](std::uint64_t seed) {
    SimNetwork network(seed, options);
    constexpr std::uint32_t kHosts = 6;
    const Bytes message = numbered_bytes(300000);
    std::vector<std::unique_ptr<Io>> hosts;
    std::vector<std::unique_ptr<Answerer>> answerers;
    std::vector<std::unique_ptr<Talker>> diallers;
    for (std::uint32_t host = 0; host < kHosts; ++host) {
      hosts.push_back(network.make_host(host));
      answerers.push_back(std::make_unique<Answerer>(message));
      EXPECT_TRUE(hosts.back()->listen(Address::simulated(host, 7), {}, *answerers.back()).ok());
    }
    for (std::uint32_t from = 0; from < kHosts; ++from) {
      for (std::uint32_t to = 0; to < from; ++to) {
        diallers.push_back(std::make_unique<Talker>(message));
        hosts[from]->connect(Address::simulated(to, 7), {}, *diallers.back());
      }
    }
    run(network);
    EXPECT_GT(network.event_count(), 100U);
    return network.log_hash();
  };
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::uint64_t first = run_seed(seed);
    EXPECT_EQ(run_seed(seed), first) << "seed " << seed;
    EXPECT_NE(run_seed(seed + 1000), first) << "seed " << seed;
  }
}

TEST(SimIo, LatencyAndRateAreAsSet) {
  SimOptions options{.latency = std::chrono::milliseconds(20), .jitter = {}};
  Pair pair(options, 1, 10'000'000);
  pair.network.set_host_rates(2, 1'000'000, 0);
  const TimePoint start = pair.network.now();
  pair.dial();
  run(pair.network, start + std::chrono::milliseconds(39));
  EXPECT_TRUE(pair.dialler.received.empty());
  run(pair.network, start + std::chrono::seconds(9));
  EXPECT_LT(pair.far().received.size(), 9'000'000U);
  EXPECT_GT(pair.far().received.size(), 8'500'000U);
  run(pair.network, start + std::chrono::milliseconds(10'500));
  EXPECT_TRUE(pair.far().received == pair.up);
}

TEST(SimIo, DownRateBindsTheSumOfAllSenders) {
  SimOptions options{.latency = std::chrono::milliseconds(1)};
  const Bytes message = numbered_bytes(1'000'000), nothing;
  SimNetwork network(3, options);
  network.set_host_rates(0, 0, 1'000'000);
  Answerer answerer(nothing);
  std::vector<std::unique_ptr<Io>> hosts;
  std::vector<std::unique_ptr<Talker>> talkers;
  hosts.push_back(network.make_host(0));
  EXPECT_TRUE(hosts[0]->listen(Address::simulated(0, 7), {}, answerer).ok());
  for (std::uint32_t host = 1; host <= 4; ++host) {
    hosts.push_back(network.make_host(host));
    talkers.push_back(std::make_unique<Talker>(message));
    hosts.back()->connect(Address::simulated(0, 7), {}, *talkers.back());
  }
  const auto total = [&] {
    std::size_t bytes = 0;
    for (const auto& talker : answerer.talkers) bytes += talker->received.size();
    return bytes;
  };
  const TimePoint start = network.now();
  run(network, start + std::chrono::seconds(2));
  EXPECT_GT(total(), 1'900'000U);
  EXPECT_LE(total(), 2'000'000U);
  run(network, start + std::chrono::seconds(5));
  EXPECT_EQ(total(), 4'000'000U);
  for (const auto& talker : answerer.talkers) EXPECT_TRUE(talker->received == message);
}

TEST(SimIo, ResetAtAByte) {
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{54321}, std::uint64_t{99999}}) {
    Pair pair;
    pair.network.plan_fault(SimFault::reset, 2, 1, at);
    pair.dial();
    run(pair.network);
    EXPECT_TRUE(pair.far().failed && pair.dialler.failed);
    EXPECT_EQ(pair.far().status.code, IoCode::reset);
    EXPECT_EQ(pair.dialler.status.code, IoCode::reset);
    EXPECT_EQ(pair.far().received.size(), at);
    EXPECT_FALSE(pair.dialler.written);
  }
}

TEST(SimIo, PlannedFaultBeyondTheLastByteDoesNotStrike) {
  Pair pair;
  pair.network.plan_fault(SimFault::reset, 2, 1, 100000);
  pair.dial();
  run(pair.network);
  EXPECT_FALSE(pair.far().failed || pair.dialler.failed);
  EXPECT_EQ(pair.far().received, pair.up);
}

TEST(SimIo, CorruptsExactlyOneByte) {
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{70000}, std::uint64_t{99999}}) {
    Pair pair;
    pair.network.plan_fault(SimFault::corrupt, 2, 1, at);
    pair.dial();
    run(pair.network);
    ASSERT_EQ(pair.far().received.size(), pair.up.size());
    for (std::size_t i = 0; i < pair.up.size(); ++i) {
      ASSERT_EQ(pair.far().received[i] != pair.up[i], i == at) << "byte " << i;
    }
    EXPECT_EQ(pair.dialler.received, pair.down);
  }
}

TEST(SimIo, TruncatesAtAByte) {
  Pair pair;
  pair.network.plan_fault(SimFault::truncate, 2, 1, 500);
  pair.dial();
  run(pair.network);
  EXPECT_EQ(pair.far().received, Bytes(pair.up.begin(), pair.up.begin() + 500));
  EXPECT_EQ(pair.far().status.code, IoCode::closed_by_peer);
  EXPECT_TRUE(pair.dialler.written) << "the writer is not told";
}

// Sends each write twice, or not at all.
class Meddler final : public SimTamperer {
 public:
  explicit Meddler(bool swallows) : swallows_(swallows) {}
  void on_write(std::uint32_t to, Bytes& bytes) override {
    EXPECT_EQ(to, 1U);
    if (swallows_) return bytes.clear();
    const Bytes copy = bytes;
    bytes.insert(bytes.end(), copy.begin(), copy.end());
  }

 private:
  bool swallows_;
};

TEST(SimIo, ATampererDecidesWhatIsSent) {
  for (const bool swallows : {false, true}) {
    Meddler meddler(swallows);
    Pair pair;
    pair.network.set_tamperer(2, &meddler);
    pair.dial();
    run(pair.network);
    EXPECT_TRUE(pair.dialler.written) << "the writer is not told";
    EXPECT_EQ(pair.dialler.received, pair.down) << "of its own host only";
    Bytes expected = swallows ? Bytes() : pair.up;
    if (!swallows) expected.insert(expected.end(), pair.up.begin(), pair.up.end());
    EXPECT_EQ(pair.far().received, expected);
  }
}

TEST(SimIo, RefusesOnCommand) {
  Pair pair;
  pair.network.refuse_connections(1, true);
  pair.dial();
  run(pair.network);
  EXPECT_EQ(pair.dialler.status.code, IoCode::refused);
  pair.network.refuse_connections(1, false);
  Talker again(pair.up);
  pair.client->connect(Address::simulated(1, 7), {}, again);
  run(pair.network);
  EXPECT_EQ(again.received, pair.down);
}

TEST(SimIo, UnknownHostsAreUnreachable) {
  Pair pair;
  for (const Address& address :
       {Address::simulated(5, 7), Address::simulated(~0U, 7), Address::parse("127.0.0.1:7").value()}) {
    Talker lost(pair.up);
    pair.client->connect(address, {}, lost);
    run(pair.network);
    EXPECT_EQ(lost.status.code, IoCode::unreachable);
  }
  EXPECT_EQ(pair.client->open_handles(), 0U);
}

TEST(SimIo, AKilledHostsPeersSeeResets) {
  Pair pair;
  pair.dial();
  run(pair.network);
  pair.network.kill_host(1, SimDeath::reset);
  run(pair.network);
  EXPECT_TRUE(pair.dialler.failed);
  EXPECT_EQ(pair.dialler.status.code, IoCode::reset);
  EXPECT_FALSE(pair.far().failed) << "the dead are told nothing";
  pair.server.reset();
  // And it can come back.
  pair.server = pair.network.make_host(1);
  Answerer reborn(pair.down);
  EXPECT_TRUE(pair.server->listen(Address::simulated(1, 7), {}, reborn).ok());
  Talker again(pair.up);
  pair.client->connect(Address::simulated(1, 7), {}, again);
  run(pair.network);
  EXPECT_EQ(again.received, pair.down);
  again.hang_up();
  run(pair.network);
}

TEST(SimIo, ASilentDeathIsSilent) {
  Pair pair({}, 1, 5'000'000);
  pair.dial();
  run(pair.network, pair.network.now() + std::chrono::milliseconds(5));
  pair.network.kill_host(1, SimDeath::silent);
  const std::size_t before = pair.dialler.received.size();
  run(pair.network, pair.network.now() + std::chrono::seconds(10));
  EXPECT_FALSE(pair.dialler.failed);
  EXPECT_FALSE(pair.dialler.written);
  EXPECT_LT(pair.dialler.received.size(), pair.down.size());
  EXPECT_GE(pair.dialler.received.size(), before);
  Talker lost(pair.up);
  pair.client->connect(Address::simulated(1, 7), {}, lost);
  run(pair.network, pair.network.now() + std::chrono::seconds(10));
  EXPECT_FALSE(lost.failed) << "dialling the dead waits until the caller gives up";
  // Once it is back, its kernel knows nothing of the old connection.
  pair.server.reset();
  pair.server = pair.network.make_host(1);
}

TEST(SimIo, AFrozenHostHoldsUpItsPeersAndGoesOn) {
  Pair pair({}, 1, 5'000'000);
  pair.dial();
  run(pair.network, pair.network.now() + std::chrono::milliseconds(5));
  pair.network.freeze_host(1);
  run(pair.network, pair.network.now() + std::chrono::seconds(5));
  EXPECT_FALSE(pair.dialler.written || pair.dialler.failed);
  pair.network.thaw_host(1);
  run(pair.network);
  EXPECT_TRUE(pair.far().received == pair.up);
  EXPECT_TRUE(pair.dialler.received == pair.down);
}

TEST(SimIo, APartitionHealsWithoutLossOrDisorder) {
  Pair pair({.jitter = std::chrono::milliseconds(4)}, 1, 5'000'000);
  pair.dial();
  for (int i = 0; i < 10; ++i) {
    run(pair.network, pair.network.now() + std::chrono::milliseconds(3));
    const std::uint32_t one[] = {1}, two[] = {2};
    pair.network.partition(one, two);
    run(pair.network, pair.network.now() + std::chrono::seconds(1));
    EXPECT_FALSE(pair.dialler.failed);
    pair.network.heal();
  }
  run(pair.network);
  EXPECT_TRUE(pair.far().received == pair.up);
  EXPECT_TRUE(pair.dialler.received == pair.down);
}

TEST(SimIo, ThousandsOfRoundsReuseTheirConnections) {
  Pair pair({}, 1, 2000);
  for (int i = 0; i < 3000; ++i) {
    Talker talker(pair.up);
    pair.client->connect(Address::simulated(1, 7), {}, talker);
    run(pair.network);
    ASSERT_EQ(talker.received, pair.down);
    ASSERT_EQ(pair.answerer.talkers.back()->received, pair.up);
    talker.hang_up();
    run(pair.network);
    ASSERT_EQ(pair.client->open_handles(), 0U);
    ASSERT_EQ(pair.server->open_handles(), 1U);
  }
}

}  // namespace
}  // namespace papilio::transport
