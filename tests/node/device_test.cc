// Rounds of members whose gradients are on a device, over real sockets, with the thread that stands in for one and with
// a GPU where there is one: the same bits as from the CPU, whatever the device does and whenever it stops doing it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/node/device_keeper.hpp"
#include "engine/node/engine.hpp"
#include "kernels/cuda.h"
#include "kernels/host_device.h"
#include "transport/io.hpp"

namespace papilio::node {
namespace {

using kernels::HostDevice;
using kernels::HostDeviceConfig;
using std::chrono::milliseconds;
using std::chrono::seconds;
using transport::Codec;
using transport::Compression;

constexpr Duration kBound = seconds(60);
constexpr std::size_t kChunkBytes = kMinimumChunkBytes;
constexpr std::uint64_t kChunk = kChunkBytes / sizeof(float);  // elements

PeerId id_of(std::size_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

// Weights and values whose sums are exact, so that the order in which contributions come makes no difference.
float weight_of(std::size_t member) { return static_cast<float>(1U << (member % 2)); }
float input(RoundId round, std::size_t member, std::uint64_t element) {
  const std::uint64_t bits = Random::mix((round << 40U) + (std::uint64_t{member} << 32U) + element);
  return static_cast<float>(static_cast<int>(bits % 4001) - 2000) / 1024;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

struct Member final : EngineEvents {
  void on_peer_joined(Peer&) override {}
  void on_peer_left(Peer&, PeerLeft, const std::string&) override {}
  void on_control(Peer&, const transport::Header&) override {}
  void on_round_over(RoundReport each) override {
    report = std::move(each);
    if (is_on_gpu && report->host_values.empty()) {
      EXPECT_TRUE(kernels::cuda::copy(memory.data(), gpu.data(), gpu.size()).ok());
    }
  }
  void on_refused(const transport::Address&, const std::string&) override {}

  // Where the result is, as the report says.
  [[nodiscard]] std::span<const float> result() const {
    return report->host_values.empty() ? std::span<const float>(memory) : report->host_values;
  }

  std::vector<float> memory;  // of the device, or the gradient
  HostDevice* device = nullptr;
  bool is_on_gpu = false;
  kernels::cuda::Memory gpu;
  std::unique_ptr<DeviceKeeper> keeper;
  std::unique_ptr<Engine> engine;
  bool is_dead = false;
  std::optional<RoundReport> report;
};

class DeviceTest : public testing::TestWithParam<transport::IoBackend> {
 protected:
  DeviceTest() { io_ = std::move(transport::make_io(GetParam(), nullptr)).value(); }
  ~DeviceTest() override { dissolve(); }
  void dissolve() {
    for (const auto& member : members_) {
      member->engine->leave("the test is over", seconds(5));
      member->is_dead = false;
    }
    EXPECT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
    members_.clear();
  }

  void make_group(std::size_t count, ShardFormat format = {}) {
    for (std::size_t index = 0; index < count; ++index) {
      Member& member = *members_.emplace_back(std::make_unique<Member>());
      MeshConfig mesh;
      mesh.self = id_of(index);
      mesh.fingerprint = {.low = 17, .high = 4};
      mesh.run_id = "test";
      mesh.listen = transport::Address::parse("127.0.0.1:0").value();
      mesh.local_options = default_socket_options(true, "");
      mesh.seed = index;
      RoundDriverConfig rounds;
      rounds.self = mesh.self;
      rounds.format = format;
      rounds.device_pages.on_mapped = [](std::span<std::byte> pages) -> std::string {
        return kernels::cuda::register_pinned(pages) ? "" : "not pinned";
      };
      rounds.device_pages.on_unmapping = kernels::cuda::unregister_pinned;
      EngineEvents& events = member;
      member.engine = std::make_unique<Engine>(*io_, mesh, rounds, events);
      ASSERT_TRUE(member.engine->start().ok());
      for (std::size_t j = 0; j < index; ++j) {
        member.engine->mesh().add_address(*members_[j]->engine->mesh().listen_address());
      }
    }
    ASSERT_TRUE(run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [&](const auto& each) { return each->engine->mesh().peers().size() + 1 == count; });
    }));
  }

  // From the next round on, this member's gradients are on such a device.
  void give_device(std::size_t index, HostDeviceConfig config, DeviceKeeper::Patience patience = {}) {
    Member& member = *members_[index];
    const auto maker = [&member, config](const DeviceSpan& span, std::function<void()> wake) {
      auto device = std::make_unique<HostDevice>(std::span(span.data, span.elements), config, std::move(wake));
      member.device = device.get();
      return Result<std::unique_ptr<kernels::Device>>(std::move(device));
    };
    member.keeper = std::make_unique<DeviceKeeper>(
        maker, [this] { io_->wake(); }, patience);
  }

  void give_gpu(std::size_t index) {
    members_[index]->is_on_gpu = true;
    const auto maker = [](const DeviceSpan& span, std::function<void()> wake) {
      return kernels::cuda::make_device(span.data, span.elements, {}, std::move(wake));
    };
    members_[index]->keeper = std::make_unique<DeviceKeeper>(maker, [this] { io_->wake(); });
  }
  void give(std::size_t index, bool gpu) { gpu ? give_gpu(index) : give_device(index, {}); }

  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      TimePoint until = bound;
      for (const auto& member : members_) {
        if (!member->is_dead) until = std::min(until, member->engine->next_deadline());
      }
      io_->run_once(until);
      for (const auto& member : members_) {
        if (!member->is_dead) member->engine->handle_time(io_->now());
      }
    }
    return true;
  }

  void begin(RoundId round, std::uint64_t elements, Duration timeout = seconds(50)) {
    RoundSpec spec{.round = round, .epoch = round, .members = {}, .chunk_bytes = kChunkBytes, .timeout = timeout};
    for (std::size_t i = 0; i < members_.size(); ++i) spec.members.push_back({.peer = id_of(i), .reduces = true});
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& each = *members_[i];
      each.report.reset();
      each.memory.resize(elements);
      for (std::uint64_t k = 0; k < elements; ++k) each.memory[k] = input(round, i, k);
      if (each.keeper == nullptr) {
        each.engine->begin_round(spec, each.memory, weight_of(i));
        continue;
      }
      float* data = each.memory.data();
      if (each.is_on_gpu) {
        if (each.gpu.size() != elements * sizeof(float)) {
          auto made = kernels::cuda::Memory::allocate(kernels::cuda::Place::device, elements * sizeof(float));
          ASSERT_TRUE(made.ok());
          each.gpu = std::move(*made);
        }
        ASSERT_TRUE(kernels::cuda::copy(each.gpu.data(), data, elements * sizeof(float)).ok());
        data = each.gpu.as<float>();
      }
      const auto loaded = each.keeper->load({.data = data, .elements = elements});
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      each.engine->begin_round(spec, (*loaded)->host_copy(), weight_of(i), *loaded);
    }
  }
  [[nodiscard]] bool everybody_is_done() {
    return run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [](const auto& each) { return each->is_dead || each->report.has_value(); });
    });
  }
  void all_reduce(RoundId round, std::uint64_t elements, Duration timeout = seconds(50)) {
    begin(round, elements, timeout);
    ASSERT_TRUE(everybody_is_done());
  }

  // What a group without devices gets, round by round.
  std::vector<std::vector<float>> by_cpu(std::size_t members, RoundId rounds, std::uint64_t elements,
                                         ShardFormat format = {}) {
    dissolve();
    make_group(members, format);
    std::vector<std::vector<float>> results;
    for (RoundId round = 1; round <= rounds; ++round) {
      all_reduce(round, elements);
      results.push_back(members_[0]->memory);
    }
    dissolve();
    return results;
  }

  // Every chunk of every living member is the exact average of those that its report names, or its own.
  void expect_as_reported(RoundId round) {
    for (std::size_t index = 0; index < members_.size(); ++index) {
      const Member& member = *members_[index];
      if (member.is_dead) continue;
      const RoundReport& report = *member.report;
      const std::span<const float> result = member.result();
      std::uint64_t wrong = 0;
      for (std::size_t chunk = 0; chunk < report.chunks.size(); ++chunk) {
        const std::uint64_t end = chunk + 1 < report.chunks.size() ? report.chunk_begins[chunk + 1] : result.size();
        const Coverage coverage = report.chunks[chunk];
        const bool own = coverage == 0 || coverage == coverage_of(static_cast<MemberIndex>(index));
        double total = 0;
        for (std::size_t j = 0; j < members_.size(); ++j) total += (coverage >> j & 1U) != 0 ? weight_of(j) : 0;
        for (std::uint64_t i = report.chunk_begins[chunk]; i < end; ++i) {
          double sum = 0;
          for (std::size_t j = 0; j < members_.size(); ++j) {
            if ((coverage >> j & 1U) != 0) sum += double{weight_of(j)} * double{input(round, j, i)};
          }
          wrong += own ? (result[i] != input(round, index, i)) : (std::abs(double{result[i]} - sum / total) > 1e-6);
        }
      }
      EXPECT_EQ(wrong, 0U) << "member " << index;
    }
  }

  std::unique_ptr<transport::Io> io_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::vector<float>> left_;  // memory of devices that were left alone
};

std::vector<transport::IoBackend> backends() {
  std::vector<transport::IoBackend> list = {transport::IoBackend::uv};
  if (transport::make_io(transport::IoBackend::uring, nullptr).ok()) list.push_back(transport::IoBackend::uring);
  return list;
}
std::string name_of(const testing::TestParamInfo<transport::IoBackend>& backend) {
  return backend.param == transport::IoBackend::uring ? "uring" : "uv";
}
INSTANTIATE_TEST_SUITE_P(Backends, DeviceTest, testing::ValuesIn(backends()), name_of);

// What there is here: the stand-in, and the GPU.
std::vector<bool> gpu_or_not() {
  return kernels::cuda::availability().usable ? std::vector<bool>{false, true} : std::vector<bool>{false};
}

// Two members where it matters in which order they are added up.
TEST_P(DeviceTest, TheResultIsTheCpusBitForBit) {
  constexpr RoundId kRounds = 3;
  struct Case {
    std::size_t members;
    ShardFormat format;
    std::uint64_t elements = 9 * kChunk + 13;
  };
  for (const Case& each : {Case{3, {}}, Case{2, {Codec::bf16}}, Case{2, {Codec::int8}}, Case{2, {Codec::fp16}},
                           Case{2, {Codec::int8, Compression::zstd}}, Case{2, {Codec::fp32, Compression::zstd}},
                           Case{2, {}, 1}, Case{2, {}, 0}}) {
    const auto wanted = by_cpu(each.members, kRounds, each.elements, each.format);
    for (const bool gpu : gpu_or_not()) {
      for (const std::size_t with_device : {std::size_t{1}, each.members}) {
        SCOPED_TRACE(to_string(each.format) + ", " + std::to_string(with_device) + " of " +
                     std::to_string(each.members) + (gpu ? " on the GPU" : " on the stand-in"));
        dissolve();
        make_group(each.members, each.format);
        for (std::size_t i = 0; i < with_device; ++i) give(i, gpu);
        for (RoundId round = 1; round <= kRounds; ++round) {
          all_reduce(round, each.elements);
          for (const auto& member : members_) {
            EXPECT_TRUE(member->report->host_values.empty());
            EXPECT_TRUE(same_bits(member->memory, wanted[round - 1]));
            EXPECT_EQ(member->report->digest, members_[0]->report->digest);
            EXPECT_EQ(member->report->coverage, 1);
          }
        }
      }
    }
  }
}

// 1 order brings the gradient, then there are 8 sums and 8 averages that come back.
TEST_P(DeviceTest, ThatIsLostAtAnyOrderCostsNoRound) {
  constexpr std::uint64_t kElements = 12 * kChunk;
  constexpr std::uint64_t kOrders = 17;
  const std::vector<float> wanted = by_cpu(3, 1, kElements)[0];
  for (std::uint64_t at = 1; at < kOrders; ++at) {
    for (const HostDeviceConfig& config : {HostDeviceConfig{.lose_at = at}, HostDeviceConfig{.refuse_from = at}}) {
      SCOPED_TRACE((config.lose_at == at ? "lost at order " : "refused from order ") + std::to_string(at));
      dissolve();
      make_group(3);
      give_device(0, config);
      give_device(2, {});
      all_reduce(1, kElements);
      EXPECT_EQ(members_[0]->report->host_values.size(), kElements);
      EXPECT_TRUE(members_[1]->report->host_values.empty() && members_[2]->report->host_values.empty());
      for (const auto& member : members_) {
        EXPECT_TRUE(same_bits(member->result(), wanted));
        EXPECT_EQ(member->report->digest, members_[0]->report->digest);
        EXPECT_EQ(member->report->coverage, 1);
      }
    }
  }
}

TEST_P(DeviceTest, ThatIsLostWithCodecsAboutCostsNoRound) {
  constexpr std::uint64_t kElements = 8 * kChunk;
  for (const ShardFormat format : {ShardFormat{Codec::int8}, ShardFormat{Codec::bf16, Compression::zstd}}) {
    const std::vector<float> wanted = by_cpu(2, 1, kElements, format)[0];
    for (std::uint64_t at = 1; at < 13; ++at) {  // 4 sums, as many averages made and as many that come
      SCOPED_TRACE(to_string(format) + ", lost at order " + std::to_string(at));
      dissolve();
      make_group(2, format);
      give_device(0, {.lose_at = at});
      all_reduce(1, kElements);
      EXPECT_EQ(members_[0]->report->host_values.size(), kElements);
      for (const auto& member : members_) EXPECT_TRUE(same_bits(member->result(), wanted));
    }
  }
}

TEST_P(DeviceTest, TheNextRoundHasANewOne) {
  make_group(2);
  constexpr std::uint64_t kElements = 6 * kChunk;
  give_device(0, {.lose_at = 4});
  all_reduce(1, kElements);
  EXPECT_FALSE(members_[0]->report->host_values.empty());
  expect_as_reported(1);
  // The same keeper, whose next device is lost at the same order of its own.
  all_reduce(2, kElements);
  EXPECT_FALSE(members_[0]->report->host_values.empty());
  expect_as_reported(2);
}

// It wakes up after all is over, and does what it had been told, to memory that nobody looks at any more.
TEST_P(DeviceTest, ThatStopsWithoutAWordIsGivenUpInTime) {
  constexpr std::uint64_t kElements = 12 * kChunk;
  const std::vector<float> wanted = by_cpu(3, 1, kElements)[0];
  for (const std::uint64_t at : {1, 2, 5, 9, 16}) {
    SCOPED_TRACE("stopped at order " + std::to_string(at));
    dissolve();
    make_group(3);
    give_device(1, {.stall_at = at}, {.round = milliseconds(50)});
    all_reduce(1, kElements);
    EXPECT_EQ(members_[1]->report->host_values.size(), kElements);
    for (const auto& member : members_) EXPECT_TRUE(same_bits(member->result(), wanted));
    HostDevice& device = *members_[1]->device;  // left alone, it lives as long as the process
    device.resume();
    device.wait_until_idle();
    EXPECT_TRUE(same_bits(members_[1]->result(), wanted));
    left_.push_back(std::move(members_[1]->memory));
    members_[1]->memory.clear();
  }
}

TEST_P(DeviceTest, ThatStopsDoesNotKeepTheRoundBeyondItsDeadline) {
  constexpr std::uint64_t kElements = 12 * kChunk;
  for (const std::uint64_t at : {1, 5, 16}) {
    SCOPED_TRACE("stopped at order " + std::to_string(at));
    dissolve();
    make_group(3);
    give_device(1, {.stall_at = at}, {.round = seconds(1000)});
    const TimePoint start = io_->now();
    all_reduce(1, kElements, milliseconds(1500));
    EXPECT_LT(io_->now() - start, seconds(10));
    expect_as_reported(1);
    members_[1]->device->resume();
    members_[1]->device->wait_until_idle();
    expect_as_reported(1);
    left_.push_back(std::move(members_[1]->memory));
    members_[1]->memory.clear();
  }
}

TEST_P(DeviceTest, ACanceledRoundIsOverAtOnce) {
  make_group(2);
  give_device(0, {.stall_at = 1}, {.round = seconds(1000)});
  give_device(1, {});
  begin(1, 8 * kChunk);
  ASSERT_TRUE(run_until([&] { return members_[1]->engine->rounds().round()->coverage(7) != 0; }));
  members_[0]->engine->cancel_round();
  ASSERT_TRUE(members_[0]->report.has_value());
  EXPECT_TRUE(members_[0]->report->canceled);
  members_[0]->device->resume();
  members_[0]->device->wait_until_idle();
  ASSERT_TRUE(everybody_is_done());
  expect_as_reported(1);
  left_.push_back(std::move(members_[0]->memory));
  members_[0]->memory.clear();
}

// Its successors have sums under way for chunks whose averages may come from others after all.
TEST_P(DeviceTest, AReducerThatDiesAtAnyPointLeavesEqualModels) {
  for (std::uint64_t step = 0; step < 6 * gpu_or_not().size(); ++step) {
    const std::uint64_t after = step % 6 * 2;
    SCOPED_TRACE("after " + std::to_string(after) + " chunks" + (step < 6 ? "" : ", on the GPU"));
    dissolve();
    make_group(4);
    for (std::size_t i = 0; i < 4; ++i) give(i, step >= 6);
    begin(1, 16 * kChunk);
    ASSERT_TRUE(run_until([&] {
      const core::Round* const round = members_[3]->engine->rounds().round();
      if (round == nullptr) return true;
      std::uint64_t settled = 0;
      for (ChunkIndex chunk = 0; chunk < round->plan().chunk_count(); ++chunk) {
        settled += round->coverage(chunk) != 0 ? 1U : 0U;
      }
      return settled >= after;
    }));
    members_[3]->engine->mesh().abort_all();
    members_[3]->is_dead = true;
    ASSERT_TRUE(everybody_is_done());
    expect_as_reported(1);
    for (std::size_t i = 1; i < 3; ++i) EXPECT_TRUE(same_bits(members_[i]->memory, members_[0]->memory));
  }
}

// ---- before the round

TEST(LoadingAGradient, ThatFailsSaysWhy) {
  std::vector<float> memory(5000, 1.5F);
  const auto keeper_of = [&](HostDeviceConfig config) {
    return std::make_unique<DeviceKeeper>(
        [config](const DeviceSpan& span, std::function<void()> wake) {
          return Result<std::unique_ptr<kernels::Device>>(
              std::make_unique<HostDevice>(std::span(span.data, span.elements), config, std::move(wake)));
        },
        [] {}, DeviceKeeper::Patience{.load = milliseconds(50)});
  };
  const DeviceSpan span{.data = memory.data(), .elements = memory.size()};
  EXPECT_NE(keeper_of({.pinned_bytes = 100})->load(span).error().message.find("no memory"), std::string::npos);
  EXPECT_NE(keeper_of({.refuse_from = 0})->load(span).error().message.find("refused"), std::string::npos);
  EXPECT_NE(keeper_of({.lose_at = 0})->load(span).error().message.find("lost"), std::string::npos);
  auto good = keeper_of({});
  auto loaded = good->load(span);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ((*loaded)->host_copy()[4999], memory[4999]);
  const auto refusal = DeviceKeeper([](const DeviceSpan&, const std::function<void()>&)
                                        -> Result<std::unique_ptr<kernels::Device>> { return runtime_error("none"); },
                                    [] {})
                           .load(span);
  EXPECT_EQ(refusal.error().message, "none");
}

}  // namespace
}  // namespace papilio::node
