// A gradient on a device, in whatever ways this machine has: always on the stand-in for a device, and on the GPU, with
// batches large and small, where there is one. All must do what the scalar reference does, bit for bit, and lose
// nothing when the device is lost at any moment. Then the GPU's kernels one by one, over the lengths, alignments and
// values where vector code goes wrong.
#include "kernels/cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "bench/order_stream.h"
#include "engine/base/random.hpp"
#include "kernels/cuda_launch.h"
#include "kernels/device.h"
#include "kernels/host_device.h"
#include "kernels/order_queue.h"
#include "kernels/scalar.h"

namespace papilio::kernels {
namespace {

using bench::Bell;
using bench::time_now;

// Under a sanitizer, too, whatever is slow then.
constexpr Duration kLong = std::chrono::seconds(20);
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

enum class Draw { ordinary, denormal, huge, any_bits };
constexpr Draw kDraws[] = {Draw::ordinary, Draw::denormal, Draw::huge, Draw::any_bits};

float draw(Random& random, Draw kind) {
  const auto sign_and_part = static_cast<float>(2 * random.uniform() - 1);
  switch (kind) {
    case Draw::ordinary: return sign_and_part * 3;
    case Draw::denormal: return sign_and_part * 4 * std::numeric_limits<float>::min();
    case Draw::huge: return sign_and_part * kMost;
    case Draw::any_bits: break;  // infinities and NaNs among them
  }
  static constexpr std::uint32_t kSpecial[] = {0,           0x80000000U, 0x7f800000U, 0xff800000U, 0x7fc00000U,
                                               0x7f800001U, 0x7f7fffffU, 0x477fefffU, 0x477ff000U, 1};
  if (random.chance(0.1)) return std::bit_cast<float>(kSpecial[random.below(std::size(kSpecial))]);
  return std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
}
std::vector<float> draw(Random& random, Draw kind, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = draw(random, kind);
  return values;
}

std::vector<std::byte> encoded(Codec codec, std::span<const float> values) {
  std::vector<std::byte> bytes(encoded_bytes(codec, values.size()));
  scalar::encode(codec, values, bytes);
  return bytes;
}

// Equal bits; any NaN equals any other.
::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> wanted) {
  if (got.size() != wanted.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(wanted[i])) continue;
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(wanted[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << " of " << got.size() << ": " << got[i] << ", wanted " << wanted[i];
    }
  }
  return ::testing::AssertionSuccess();
}
::testing::AssertionResult same_bytes(std::span<const std::byte> got, std::span<const std::byte> wanted) {
  if (got.size() != wanted.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] != wanted[i]) {
      return ::testing::AssertionFailure() << "byte " << i << " of " << got.size() << ": " << static_cast<int>(got[i])
                                           << ", wanted " << static_cast<int>(wanted[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

// ---- a gradient on a device

// A kind of device under test, and what plays its memory.
struct Backend {
  std::string name;
  bool is_gpu = false;
  cuda::DeviceConfig gpu;
};
void PrintTo(const Backend& backend, std::ostream* out) { *out << backend.name; }

std::vector<Backend> backends() {
  std::vector<Backend> all = {{.name = "host", .is_gpu = false, .gpu = {}}};
  if (!cuda::availability().usable) return all;
  all.push_back({.name = "gpu", .is_gpu = true, .gpu = {}});
  all.push_back({.name = "gpu_in_small_batches", .is_gpu = true, .gpu = {.batch_bytes = 9000, .batches = 2}});
  all.push_back({.name = "gpu_one_by_one", .is_gpu = true, .gpu = {.batch_bytes = 1, .batches = 5}});
  return all;
}

// The gradient under test with its device, and slabs that outlive it.
class Bench {
 public:
  Bench(const Backend& backend, const std::vector<float>& start, HostDeviceConfig config = {}, std::size_t open = 2)
      : backend_(backend) {
    const auto wake = [this] { bell_.ring(); };
    std::unique_ptr<Device> device;
    if (backend.is_gpu) {
      auto memory = cuda::Memory::allocate(cuda::Place::device, start.size() * sizeof(float));
      EXPECT_TRUE(memory.ok());
      gpu_memory_ = std::move(*memory);
      EXPECT_TRUE(cuda::copy(gpu_memory_.data(), start.data(), start.size() * sizeof(float)).ok());
      auto made = cuda::make_device(gpu_memory_.as<float>(), start.size(), backend.gpu, wake);
      EXPECT_TRUE(made.ok());
      device = std::move(*made);
    } else {
      host_memory_ = start;
      device = std::make_unique<HostDevice>(host_memory_, config, wake);
    }
    auto made = DeviceGradient::make(std::move(device), start.size(), kLong);
    EXPECT_TRUE(made.ok());
    gradient_ = std::move(*made);
    EXPECT_TRUE(gradient_->reserve(open, 4096).ok());
  }
  ~Bench() { gradient_.reset(); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  DeviceGradient& gradient() { return *gradient_; }

  // Every order's completion, in the order in which they came, unless the device fails first.
  std::vector<ChunkCompletion> finish() {
    std::vector<ChunkCompletion> all;
    while (true) {
      const std::uint64_t rung = bell_.rung();
      for (const ChunkCompletion& each : gradient_->take_completions(time_now())) all.push_back(each);
      if (gradient_->in_flight() == 0 || gradient_->failure()) return all;
      bell_.wait_for_more_than(rung, gradient_->deadline());
    }
  }

  // What the device itself holds.
  std::vector<float> device_values() {
    if (!backend_.is_gpu) return host_memory_;
    std::vector<float> values(gpu_memory_.size() / sizeof(float));
    EXPECT_TRUE(cuda::copy(values.data(), gpu_memory_.data(), gpu_memory_.size()).ok());
    return values;
  }

 private:
  Backend backend_;
  Bell bell_;
  cuda::Memory gpu_memory_;
  std::vector<float> host_memory_;
  std::unique_ptr<DeviceGradient> gradient_;
};

// Memory for slabs, pinned where there is a GPU.
class PinnedPages {
 public:
  explicit PinnedPages(std::size_t bytes)
      : begin_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))), bytes_(bytes) {
    EXPECT_EQ(cuda::register_pinned({begin_, bytes_}).ok(), cuda::availability().usable);
  }
  ~PinnedPages() {
    cuda::unregister_pinned({begin_, bytes_});
    std::free(begin_);
  }
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;
  // Now and then at an odd address.
  std::span<std::byte> take(std::size_t bytes) {
    used_ = (used_ + 255) / 256 * 256 + (++taken_ % 3 == 0 ? 1 : 0);
    EXPECT_LE(used_ + bytes, bytes_);
    used_ += bytes;
    return {begin_ + used_ - bytes, bytes};
  }

 private:
  std::byte* begin_;
  std::size_t bytes_, used_ = 0, taken_ = 0;
};

// A round's orders for one gradient, and what they must do to it.
struct Course {
  struct Chunk {
    std::size_t begin = 0, count = 0;
  };
  std::vector<float> start;
  std::vector<ChunkOrder> orders;
  std::vector<std::span<std::byte>> slabs;  // that the orders read and write
  std::unique_ptr<PinnedPages> pages;
};

// Carries an order out on the CPU, as the owner does after a failure.
NumberFault carry_out(const ChunkOrder& order, std::span<float> gradient) {
  const std::span<float> values = gradient.subspan(order.begin, order.count);
  switch (order.kind) {
    case ChunkOrder::Kind::load:
    case ChunkOrder::Kind::upload: return NumberFault::none;
    case ChunkOrder::Kind::encode: scalar::encode(order.codec, values, order.out); return NumberFault::none;
    case ChunkOrder::Kind::accumulate:
      return scalar::accumulate_checked(values, order.own_scale, order.weight, order.codec, order.in,
                                        order.inverse_total, order.limit);
    case ChunkOrder::Kind::finalise:
      if (order.out.empty()) {
        scalar::finalise(values, order.inverse_total);
      } else {
        scalar::finalise_and_encode(values, order.inverse_total, order.codec, order.out);
      }
      return NumberFault::none;
    case ChunkOrder::Kind::write: return scalar::decode(order.codec, order.in, values, order.limit);
  }
  return NumberFault::none;
}

// Four chunks of uneven sizes, at uneven places: the first two are averaged here (one ends with its last contribution,
// one is finalised and encoded), the others go out and come back. Contributions of the two interleave.
Course course(Codec codec, std::uint64_t seed) {
  Random random(seed);
  Course made;
  const Course::Chunk chunks[] = {{0, 4096}, {4096, 1037}, {5133, 2048}, {7181, 1}};
  made.start = draw(random, Draw::ordinary, 7182 + 3);
  made.pages = std::make_unique<PinnedPages>(std::size_t{1} << 19U);
  const auto contribution = [&](const Course::Chunk& chunk) {
    const std::vector<std::byte> bytes = encoded(codec, draw(random, Draw::ordinary, chunk.count));
    made.slabs.push_back(made.pages->take(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), made.slabs.back().begin());
    return std::span<const std::byte>(made.slabs.back());
  };
  const auto room = [&](const Course::Chunk& chunk) {
    made.slabs.push_back(made.pages->take(encoded_bytes(codec, chunk.count)));
    return made.slabs.back();
  };
  const auto order = [&](ChunkOrder::Kind kind, const Course::Chunk& chunk) -> ChunkOrder& {
    made.orders.push_back({.kind = kind,
                           .tag = made.orders.size(),
                           .begin = chunk.begin,
                           .count = chunk.count,
                           .codec = codec,
                           .limit = 100});
    return made.orders.back();
  };
  using Kind = ChunkOrder::Kind;
  for (const Course::Chunk& chunk : chunks) order(Kind::load, chunk);
  for (const Course::Chunk& chunk : {chunks[2], chunks[3]}) order(Kind::encode, chunk).out = room(chunk);
  constexpr int kContributors = 5;
  for (int i = 0; i < kContributors; ++i) {
    for (const Course::Chunk& chunk : {chunks[0], chunks[1]}) {
      ChunkOrder& each = order(Kind::accumulate, chunk);
      each.in = contribution(chunk);
      each.own_scale = i == 0 ? 3.0F : 1.0F;
      each.weight = static_cast<float>(1 + random.below(9));
      if (i + 1 == kContributors && chunk.begin == 0) {
        each.inverse_total = 1.0F / 17;
        each.last = true;
      }
    }
    if (i == 2) {
      for (const Course::Chunk& chunk : {chunks[3], chunks[2]}) order(Kind::write, chunk).in = contribution(chunk);
    }
  }
  ChunkOrder& finalise = order(Kind::finalise, chunks[1]);
  finalise.out = room(chunks[1]);
  finalise.inverse_total = 1.0F / 13;
  order(Kind::finalise, chunks[0]).out = room(chunks[0]);
  return made;
}

class OnDevice : public ::testing::TestWithParam<Backend> {};

TEST_P(OnDevice, DoesWhatTheScalarReferenceDoes) {
  for (const Codec codec : kCodecs) {
    Course here = course(codec, 5), wanted = course(codec, 5);
    Bench bench(GetParam(), here.start);
    for (const ChunkOrder& order : here.orders) bench.gradient().submit(time_now(), order);
    EXPECT_EQ(bench.finish().size(), here.orders.size());
    EXPECT_FALSE(bench.gradient().failure());
    for (const ChunkOrder& order : wanted.orders) EXPECT_EQ(carry_out(order, wanted.start), NumberFault::none);
    const std::size_t ends = 7182;
    EXPECT_TRUE(same_bits(bench.gradient().host_copy().first(ends), std::span(wanted.start).first(ends)))
        << to_string(codec);
    EXPECT_TRUE(same_bits(bench.device_values(), wanted.start)) << to_string(codec);
    for (std::size_t i = 0; i < here.slabs.size(); ++i) {
      EXPECT_TRUE(same_bytes(here.slabs[i], wanted.slabs[i])) << to_string(codec) << ", slab " << i;
    }
  }
}

// Whenever the owner stops: what was completed and what the CPU does instead add up to the same.
TEST_P(OnDevice, CanBeTakenBackAfterAnyOrder) {
  const Codec codec = Codec::int8;
  Course wanted = course(codec, 6);
  for (const ChunkOrder& order : wanted.orders) EXPECT_EQ(carry_out(order, wanted.start), NumberFault::none);
  for (std::size_t stop = 4; stop <= wanted.orders.size(); ++stop) {
    Course here = course(codec, 6);
    Bench bench(GetParam(), here.start);
    for (std::size_t i = 0; i < stop; ++i) {
      bench.gradient().submit(time_now(), here.orders[i]);
      if (i == 3) {
        EXPECT_EQ(bench.finish().size(), 4U);
      }
    }
    for (const ChunkOrder& order : bench.gradient().take_back(kLong).orders)
      carry_out(order, bench.gradient().host_copy());
    for (std::size_t i = stop; i < here.orders.size(); ++i) carry_out(here.orders[i], bench.gradient().host_copy());
    EXPECT_TRUE(same_bits(bench.gradient().host_copy().first(7182), std::span(wanted.start).first(7182))) << stop;
    for (std::size_t i = 0; i < here.slabs.size(); ++i) EXPECT_TRUE(same_bytes(here.slabs[i], wanted.slabs[i])) << stop;
  }
}

TEST_P(OnDevice, BadPayloadsChangeNothing) {
  Random random(8);
  for (const Codec codec : kCodecs) {
    const std::size_t count = 3000;
    const std::vector<float> start = draw(random, Draw::ordinary, count);
    std::vector<std::vector<std::byte>> payloads;
    std::vector<NumberFault> faults;
    const auto add = [&](std::vector<float> values, std::size_t at, float bad) {
      values[at] = bad;
      payloads.push_back(encoded(codec, values));
      faults.push_back(scalar::check_encoded(codec, payloads.back(), count, 100));
    };
    const std::vector<float> values = draw(random, Draw::ordinary, count);
    for (const std::size_t at : {std::size_t{0}, std::size_t{1500}, count - 1}) {
      add(values, at, kInfinity);
      add(values, at, std::nanf(""));
      add(values, at, 1000);
    }
    add(values, 7, 0.5F);
    EXPECT_EQ(faults.back(), NumberFault::none);
    payloads.push_back(std::vector<std::byte>(encoded_bytes(codec, count) - 1));
    faults.push_back(NumberFault::bad_length);
    if (codec == Codec::int8) {
      payloads.push_back(encoded(codec, values));
      payloads.back()[4 * int8_blocks(count) + 700] = std::byte{0x80};
      faults.push_back(NumberFault::bad_value);
      payloads.push_back(encoded(codec, values));
      payloads.back()[4] |= std::byte{1};
      faults.push_back(NumberFault::bad_scale);
    }
    Bench bench(GetParam(), start);
    ChunkOrder order{
        .kind = ChunkOrder::Kind::load, .tag = 1000, .begin = 0, .count = count, .codec = codec, .limit = 100};
    bench.gradient().submit(time_now(), order);
    std::size_t given = 1;
    for (std::size_t i = 0; i < payloads.size(); ++i) {
      order.tag = i;
      order.in = payloads[i];
      order.kind = i % 2 == 0 ? ChunkOrder::Kind::accumulate : ChunkOrder::Kind::write;
      if (faults[i] == NumberFault::none) continue;
      bench.gradient().submit(time_now(), order);
      given += 1;
    }
    const std::vector<ChunkCompletion> completions = bench.finish();
    EXPECT_EQ(completions.size(), given) << to_string(codec);
    for (const ChunkCompletion& each : completions) {
      if (each.tag == 1000) continue;
      EXPECT_EQ(each.fault, faults[each.tag]) << to_string(codec) << ", payload " << each.tag;
    }
    EXPECT_TRUE(same_bits(bench.device_values(), start)) << to_string(codec);
    EXPECT_TRUE(bench.gradient().take_back(kLong).orders.empty());
    EXPECT_TRUE(same_bits(bench.gradient().host_copy(), start)) << to_string(codec);
  }
}

TEST_P(OnDevice, AnEmptyGradientAndEmptyChunksAreFine) {
  Bench bench(GetParam(), {});
  bench.gradient().submit(time_now(), {.kind = ChunkOrder::Kind::load, .tag = 3});
  const auto completions = bench.finish();
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].tag, 3U);
}

// Sums are under way for a chunk when its average comes from elsewhere.
void upload_over_sums(Bench& bench, bool take_back) {
  constexpr std::size_t kBegin = 100, kCount = 3000;
  DeviceGradient& gradient = bench.gradient();
  gradient.submit(time_now(), {.kind = ChunkOrder::Kind::load, .begin = 0, .count = gradient.elements()});
  static_cast<void>(bench.finish());
  Random random(3);
  const std::vector<std::byte> contribution = encoded(Codec::fp32, draw(random, Draw::ordinary, kCount));
  const std::vector<float> average = draw(random, Draw::ordinary, kCount);
  std::vector<float> wanted(gradient.host_copy().begin(), gradient.host_copy().end());
  std::copy(average.begin(), average.end(), wanted.begin() + kBegin);
  for (std::uint64_t tag : {1, 2}) {
    gradient.submit(time_now(), {.kind = ChunkOrder::Kind::accumulate,
                                 .tag = tag,
                                 .begin = kBegin,
                                 .count = kCount,
                                 .in = contribution,
                                 .limit = 100});
  }
  std::copy(average.begin(), average.end(), gradient.host_copy().begin() + kBegin);
  gradient.submit(time_now(), {.kind = ChunkOrder::Kind::upload, .tag = 3, .begin = kBegin, .count = kCount});
  std::vector<ChunkCompletion> done;
  if (!take_back) done = bench.finish();
  if (take_back || gradient.failure()) {
    EXPECT_TRUE(gradient.take_back(kLong).orders.empty());
    for (const ChunkCompletion& each : gradient.take_completions(time_now())) done.push_back(each);
  } else {
    EXPECT_TRUE(same_bits(bench.device_values(), wanted));
  }
  std::uint64_t tags = 0;
  for (const ChunkCompletion& each : done) tags += each.tag;
  EXPECT_EQ(done.size(), 3U);
  EXPECT_EQ(tags, 6U);
  EXPECT_TRUE(same_bits(gradient.host_copy(), wanted));
}

TEST_P(OnDevice, WhatItsOwnerChangesReplacesWhatWasUnderWay) {
  Random random(8);
  const std::vector<float> start = draw(random, Draw::ordinary, 5000);
  for (const bool take_back : {false, true}) {
    Bench bench(GetParam(), start);
    upload_over_sums(bench, take_back);
  }
}

// A chunk has a sum that is not final when its average comes as an order, or the device's own values are asked for.
TEST_P(OnDevice, WhatIsWrittenCountsAndNoSumBeforeIt) {
  using Kind = ChunkOrder::Kind;
  constexpr std::size_t kBegin = 100, kCount = 3000;
  Random random(8);
  const std::vector<float> start = draw(random, Draw::ordinary, 5000);
  const std::vector<std::byte> contribution = encoded(Codec::fp32, draw(random, Draw::ordinary, kCount));
  const std::vector<std::byte> average = encoded(Codec::fp32, draw(random, Draw::ordinary, kCount));
  const std::vector<std::byte> bad = encoded(Codec::fp32, std::vector<float>(kCount, kInfinity));
  for (const bool waits : {false, true}) {
    for (const std::vector<std::pair<Kind, bool>>& after :
         std::vector<std::vector<std::pair<Kind, bool>>>{{{Kind::write, true}},
                                                         {{Kind::write, false}},
                                                         {{Kind::load, true}},
                                                         {{Kind::write, true}, {Kind::accumulate, true}},
                                                         {{Kind::write, false}, {Kind::accumulate, true}},
                                                         {{Kind::upload, true}, {Kind::accumulate, true}}}) {
      Bench bench(GetParam(), start);
      DeviceGradient& gradient = bench.gradient();
      gradient.submit(time_now(), {.kind = Kind::load, .begin = 0, .count = gradient.elements()});
      static_cast<void>(bench.finish());
      std::vector<float> wanted = start;
      const auto give = [&](Kind kind, bool is_good) {
        ChunkOrder order{.kind = kind, .begin = kBegin, .count = kCount, .limit = 100};
        if (kind == Kind::accumulate) order.in = contribution;
        if (kind == Kind::write) order.in = is_good ? average : bad;
        if (kind == Kind::upload) std::fill_n(gradient.host_copy().begin() + kBegin, kCount, 2.5F);
        if (kind == Kind::upload) std::fill_n(wanted.begin() + kBegin, kCount, 2.5F);
        gradient.submit(time_now(), order);
        carry_out(order, wanted);
        if (waits) static_cast<void>(bench.finish());
      };
      give(Kind::accumulate, true);
      give(Kind::accumulate, true);
      for (const auto& [kind, is_good] : after) give(kind, is_good);
      if (!waits) static_cast<void>(bench.finish());
      EXPECT_TRUE(gradient.take_back(kLong).orders.empty());
      EXPECT_TRUE(same_bits(gradient.host_copy(), wanted)) << "after a sum: " << static_cast<int>(after[0].first);
    }
  }
}

// Of chunks of two sizes, with no more memory than both need.
TEST(MemoryForChunks, IsFoundAgainEveryRound) {
  constexpr std::size_t kChunks[] = {1000, 400};
  const std::vector<float> start(1400, 1.0F);
  const std::size_t bytes = (1400 + 128 + std::size_t{2 * 1000 + 2 * 400}) * sizeof(float);
  Bell bell;
  std::vector<float> memory = start;
  auto gradient = std::move(*DeviceGradient::make(
      std::make_unique<HostDevice>(memory, HostDeviceConfig{.pinned_bytes = bytes}, [&] { bell.ring(); }), 1400));
  const std::vector<std::byte> payload(4000);
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(gradient->reserve(1, 1000).ok()) << "in round " << round;
    ASSERT_TRUE(gradient->reserve(2, 400).ok()) << "in round " << round;
    const Status carried = bench::carry_through(*gradient, bell, 4, 4, [&](std::size_t i) {
      const std::size_t which = (i + static_cast<std::size_t>(round)) % 2;
      return ChunkOrder{.kind = ChunkOrder::Kind::accumulate,
                        .begin = which * 1000,
                        .count = kChunks[which],
                        .in = std::span(payload).first(4 * kChunks[which]),
                        .limit = 1,
                        .last = i >= 2};
    });
    ASSERT_TRUE(carried.ok()) << carried.error().message << " in round " << round;
  }
}

// Nobody rings for what the device was never given.
TEST(APayloadOfTheWrongLength, IsAnsweredAtOnce) {
  Bench bench({.name = "host", .is_gpu = false, .gpu = {}}, std::vector<float>(100, 1.0F));
  DeviceGradient& gradient = bench.gradient();
  const std::vector<std::byte> payload(399);
  gradient.submit(time_now(), {.kind = ChunkOrder::Kind::write, .tag = 7, .begin = 0, .count = 100, .in = payload});
  EXPECT_EQ(gradient.in_flight(), 0U);
  ASSERT_LE(gradient.deadline(), time_now());
  const auto completions = gradient.take_completions(time_now());
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].tag, 7U);
  EXPECT_EQ(completions[0].fault, NumberFault::bad_length);
  EXPECT_FALSE(gradient.failure());
  EXPECT_EQ(gradient.deadline(), kNever);
}

INSTANTIATE_TEST_SUITE_P(Here, OnDevice, ::testing::ValuesIn(backends()),
                         [](const auto& each) { return each.param.name; });

// ---- failures, which the stand-in has at will

void fails_and_goes_on(HostDeviceConfig config, Codec codec, const std::string& label, std::size_t open = 2) {
  Course here = course(codec, 9), wanted = course(codec, 9);
  for (const ChunkOrder& order : wanted.orders) EXPECT_EQ(carry_out(order, wanted.start), NumberFault::none);
  Bench bench({.name = "host", .is_gpu = false, .gpu = {}}, here.start, config, open);
  std::vector<bool> done(here.orders.size());
  const auto note = [&](const std::vector<ChunkCompletion>& completions) {
    for (const ChunkCompletion& each : completions) {
      EXPECT_FALSE(done[each.tag]) << label;
      done[each.tag] = true;
    }
  };
  for (std::size_t i = 0; i < 4; ++i) bench.gradient().submit(time_now(), here.orders[i]);
  note(bench.finish());
  for (std::size_t i = 4; i < here.orders.size(); ++i) bench.gradient().submit(time_now(), here.orders[i]);
  note(bench.finish());
  EXPECT_TRUE(bench.gradient().failure().has_value()) << label;
  const std::vector<ChunkOrder> rest = bench.gradient().take_back(kLong).orders;
  note(bench.gradient().take_completions(time_now()));
  for (const ChunkOrder& order : rest) {
    EXPECT_FALSE(done[order.tag]) << label;
    done[order.tag] = true;
    carry_out(order, bench.gradient().host_copy());
  }
  EXPECT_EQ(std::count(done.begin(), done.end(), true), static_cast<std::ptrdiff_t>(done.size())) << label;
  EXPECT_TRUE(same_bits(bench.gradient().host_copy().first(7182), std::span(wanted.start).first(7182))) << label;
  for (std::size_t i = 0; i < here.slabs.size(); ++i) EXPECT_TRUE(same_bytes(here.slabs[i], wanted.slabs[i])) << label;
}

TEST(LosingADevice, AtAnyOrderLosesNothing) {
  for (const Codec codec : {Codec::fp32, Codec::int8}) {
    const std::size_t orders = course(codec, 9).orders.size();
    for (std::uint64_t at = 4; at < orders; ++at) {
      for (const std::size_t lanes : {1, 3, 8}) {
        const std::string label = std::string(to_string(codec)) + ", at order " + std::to_string(at);
        fails_and_goes_on({.lanes = lanes, .lose_at = at}, codec, label + ", lost");
        // What was done before counts, even if nobody had said so yet.
        for (const std::size_t late : {1, 2, 5}) {
          fails_and_goes_on({.lanes = lanes, .lose_at = at, .notices_late = late}, codec, label + ", lost unheard");
        }
        fails_and_goes_on({.lanes = lanes, .refuse_from = at}, codec, label + ", refused");
      }
    }
  }
}

TEST(LosingADevice, WhatItsOwnerChangedStays) {
  Random random(8);
  const std::vector<float> start = draw(random, Draw::ordinary, 5000);
  for (std::uint64_t at = 1; at < 5; ++at) {
    for (const HostDeviceConfig& config : {HostDeviceConfig{.lose_at = at}, HostDeviceConfig{.refuse_from = at}}) {
      Bench bench({.name = "host", .is_gpu = false, .gpu = {}}, start, config);
      upload_over_sums(bench, false);
    }
  }
}

TEST(LosingADevice, MemoryThatRunsOutIsAFailureLikeAnyOther) {
  for (const std::size_t open : {0, 1}) fails_and_goes_on({}, Codec::fp32, std::to_string(open), open);
  HostDevice none({}, {.pinned_bytes = 3}, nullptr);
  const auto refused = none.allocate_pinned(4);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("no memory"), std::string::npos);
}

// ---- a device that stops without a word

constexpr Duration kSoon = std::chrono::milliseconds(50);

// A gradient on a stand-in whose thread outlives it.
struct StallingDevice {
  std::vector<float> memory;
  Bell bell;
  HostDevice* device = nullptr;  // it is never destroyed once it has been left alone
  std::unique_ptr<DeviceGradient> gradient;

  StallingDevice(std::vector<float> start, std::size_t lanes, std::uint64_t stall_at, Duration patience = kSoon,
                 std::size_t notices_late = 0)
      : memory(std::move(start)) {
    auto made = std::make_unique<HostDevice>(
        memory, HostDeviceConfig{.lanes = lanes, .stall_at = stall_at, .notices_late = notices_late},
        [this] { bell.ring(); });
    device = made.get();
    gradient = std::move(*DeviceGradient::make(std::move(made), memory.size(), patience));
    EXPECT_TRUE(gradient->reserve(2, 4096).ok());
  }
};

// A round with a device that stalls at `at`: it is given up in time, the CPU does the rest, and when the device wakes
// up long after and does all that it had been told, that changes nothing any more.
void stalls_and_goes_on(std::uint64_t at, std::size_t lanes, Codec codec, std::size_t late, const std::string& label) {
  Course here = course(codec, 9), wanted = course(codec, 9);
  for (const ChunkOrder& order : wanted.orders) EXPECT_EQ(carry_out(order, wanted.start), NumberFault::none);
  StallingDevice stalling(here.start, lanes, at, kSoon, late);
  DeviceGradient& gradient = *stalling.gradient;
  std::vector<bool> done(here.orders.size());
  const auto note = [&](const std::vector<ChunkCompletion>& completions) {
    for (const ChunkCompletion& each : completions) {
      EXPECT_FALSE(done[each.tag]) << label;
      done[each.tag] = true;
    }
  };
  // The owner's clock stands still until the device is known to have stopped.
  const TimePoint start = TimePoint{} + std::chrono::hours(1);
  for (std::size_t i = 0; i < 4; ++i) gradient.submit(start, here.orders[i]);
  while (gradient.in_flight() > 0) {
    const std::uint64_t rung = stalling.bell.rung();
    note(gradient.take_completions(start));
    if (gradient.in_flight() > 0) stalling.bell.wait_for_more_than(rung, kNever);
  }
  EXPECT_EQ(gradient.deadline(), kNever) << label;
  for (std::size_t i = 4; i < here.orders.size(); ++i) gradient.submit(start, here.orders[i]);
  stalling.device->wait_until_stalled();
  note(gradient.take_completions(start));
  EXPECT_EQ(gradient.deadline(), start + kSoon) << label;
  note(gradient.take_completions(start + kSoon - Duration(1)));
  EXPECT_FALSE(gradient.failure()) << label;
  note(gradient.take_completions(start + kSoon));
  ASSERT_TRUE(gradient.failure().has_value()) << label;
  EXPECT_NE(gradient.failure()->message.find("has completed nothing for 0.0"), std::string::npos)
      << gradient.failure()->message;
  EXPECT_EQ(gradient.deadline(), kNever) << label;
  const DeviceGradient::TakenBack back = gradient.take_back();
  EXPECT_FALSE(back.stopped) << label;
  EXPECT_EQ(gradient.device(), nullptr) << label;
  note(gradient.take_completions(time_now()));
  const std::uint64_t rung = stalling.bell.rung();
  // Where the device may write stays away from everything else.
  std::vector<std::vector<std::byte>> other_places;
  std::vector<std::size_t> moved;
  for (ChunkOrder order : back.orders) {
    EXPECT_FALSE(done[order.tag]) << label;
    done[order.tag] = true;
    if (!order.out.empty()) {
      const auto slab = std::find_if(here.slabs.begin(), here.slabs.end(),
                                     [&](const auto& each) { return each.data() == order.out.data(); });
      moved.push_back(static_cast<std::size_t>(slab - here.slabs.begin()));
      other_places.emplace_back(order.out.size());
      order.out = other_places.back();
    }
    carry_out(order, gradient.host_copy());
  }
  EXPECT_EQ(std::count(done.begin(), done.end(), true), static_cast<std::ptrdiff_t>(done.size())) << label;
  stalling.device->resume();
  stalling.device->wait_until_idle();
  EXPECT_TRUE(same_bits(gradient.host_copy().first(7182), std::span(wanted.start).first(7182))) << label;
  EXPECT_EQ(stalling.bell.rung(), rung) << label << ": woken by a device that was left alone";
  for (std::size_t i = 0; i < moved.size(); ++i) {
    EXPECT_TRUE(same_bytes(other_places[i], wanted.slabs[moved[i]])) << label;
  }
}

TEST(AStalledDevice, AtAnyOrderIsGivenUpInTimeAndChangesNothingLater) {
  const std::size_t orders = course(Codec::int8, 9).orders.size();
  for (std::uint64_t at = 4; at < orders; ++at) {
    const std::size_t lanes = 1 + at % 3;
    for (const std::size_t late : {0, 1, 2, 5}) {
      stalls_and_goes_on(at, lanes, Codec::int8, late,
                         "at order " + std::to_string(at) + ", heard of " + std::to_string(late) + " later");
    }
  }
}

TEST(AStalledDevice, ThatIsOnlySlowIsNotGivenUp) {
  Course here = course(Codec::fp32, 9);
  StallingDevice slow(here.start, 2, 2);
  for (const ChunkOrder& order : here.orders) slow.gradient->submit(TimePoint{}, order);
  EXPECT_TRUE(slow.gradient->take_completions(TimePoint{} + kSoon - Duration(1)).size() <= 2);
  EXPECT_FALSE(slow.gradient->failure());
  slow.device->resume();
  slow.device->wait_until_idle();
  // Late, but there: what has been done is looked at before the clock.
  EXPECT_GE(slow.gradient->take_completions(TimePoint{} + 2 * kSoon).size(), here.orders.size() - 2);
  EXPECT_FALSE(slow.gradient->failure());
  EXPECT_TRUE(slow.gradient->take_back().stopped);
}

TEST(AStalledDevice, DoesNotKeepItsOwnerFromGoing) {
  StallingDevice stalling(std::vector<float>(100, 1.0F), 1, 0);
  stalling.gradient->submit(time_now(), {.kind = ChunkOrder::Kind::load, .tag = 0, .begin = 0, .count = 100});
  stalling.gradient.reset();
  stalling.device->resume();
  stalling.device->wait_until_idle();
}

// As a round of a large model gives them: many more at once than a device takes.
TEST(ManyOrders, AreCarriedThroughAndTheOwnerNeverSleepsTooLong) {
  constexpr std::size_t kChunks = 300, kElements = 64, kContributions = 8;
  for (const std::size_t lanes : {1, 3, 6}) {
    std::vector<float> memory(kChunks * kElements, 1.0F);
    const std::vector<std::byte> payload = encoded(Codec::fp32, std::vector<float>(kElements, 1.0F));
    Bell bell;
    auto gradient = std::move(*DeviceGradient::make(
        std::make_unique<HostDevice>(memory, HostDeviceConfig{.lanes = lanes}, [&] { bell.ring(); }), memory.size()));
    EXPECT_TRUE(gradient->reserve(kChunks, kElements).ok());
    const auto order_of = [&](std::size_t i) {
      const bool last = i >= kChunks * (kContributions - 1);
      return ChunkOrder{.kind = ChunkOrder::Kind::accumulate,
                        .tag = i,
                        .begin = i % kChunks * kElements,
                        .count = kElements,
                        .in = payload,
                        .inverse_total = last ? 1.0F / 3 : 1.0F,
                        .limit = 1e30F,
                        .last = last};
    };
    for (const std::size_t most : {std::size_t{1}, 3 * lanes, kChunks * kContributions}) {
      std::fill(memory.begin(), memory.end(), 1.0F);
      for (int pass = 0; pass < 3; ++pass) {
        const Status carried = bench::carry_through(*gradient, bell, kChunks * kContributions, most, order_of);
        ASSERT_TRUE(carried.ok()) << carried.error().message;
        EXPECT_EQ(gradient->in_flight(), 0U);
      }
      for (const float value : gradient->host_copy()) {
        ASSERT_FLOAT_EQ(value, 1.0F / 27 + 8 * (1.0F / 27 + 1.0F / 9 + 1.0F / 3));
      }
    }
  }
}

TEST(ManyOrders, EndWithAnErrorWhenTheDeviceStops) {
  // Long enough for a thread that other programs keep from running, and no longer.
  StallingDevice stalling(std::vector<float>(100, 1.0F), 1, 500, std::chrono::milliseconds(500));
  const std::vector<std::byte> payload = encoded(Codec::fp32, std::vector<float>(100, 0.0F));
  const Status carried = bench::carry_through(*stalling.gradient, stalling.bell, 1000, 12, [&](std::size_t i) {
    return ChunkOrder{
        .kind = ChunkOrder::Kind::accumulate, .tag = i, .begin = 0, .count = 100, .in = payload, .limit = 1};
  });
  ASSERT_FALSE(carried.ok());
  EXPECT_NE(carried.error().message.find("the first: accumulate 500 of 100 elements"), std::string::npos)
      << carried.error().message;
  EXPECT_NE(carried.error().message.find("stalled"), std::string::npos) << carried.error().message;
  EXPECT_FALSE(stalling.gradient->take_back().stopped);
  stalling.device->resume();
  stalling.device->wait_until_idle();
}

// ---- what is given to a GPU at a time

Device::Task task_of(std::uint64_t tag, std::size_t lane, ChunkOrder::Kind kind = ChunkOrder::Kind::accumulate,
                     Codec codec = Codec::fp32, std::size_t count = 25) {
  static const std::vector<std::byte> payload(1000);
  return {.order = {.kind = kind,
                    .tag = tag,
                    .count = count,
                    .codec = codec,
                    .in = std::span(payload).first(encoded_bytes(codec, count))},
          .lane = lane};
}
std::vector<std::uint64_t> tags_of(const std::vector<Device::Task>& tasks) {
  std::vector<std::uint64_t> tags;
  for (const Device::Task& task : tasks) tags.push_back(task.order.tag);
  return tags;
}
using Tags = std::vector<std::uint64_t>;

TEST(OrdersInBatches, GoTogetherWhereTheyAreAlikeAndEachIsAloneInItsLane) {
  using Kind = ChunkOrder::Kind;
  OrderQueue queue(100'000, 32);
  queue.push(task_of(0, 1));
  queue.push(task_of(1, 2));
  queue.push(task_of(2, 1));                                 // behind 0
  queue.push(task_of(3, 3, Kind::write));                    // reduced in the same way
  queue.push(task_of(4, 4, Kind::finalise));                 // not
  queue.push(task_of(5, 4));                                 // behind 4
  queue.push(task_of(6, 5, Kind::accumulate, Codec::bf16));  // another codec
  queue.push(task_of(7, 63, Kind::load));                    // no payload
  queue.push(task_of(8, 6));
  EXPECT_EQ(tags_of(queue.take()), (Tags{0, 1, 3, 8}));
  EXPECT_EQ(tags_of(queue.take()), (Tags{2}));  // 5 waits for 4
  EXPECT_EQ(tags_of(queue.take()), (Tags{4}));
  EXPECT_EQ(tags_of(queue.take()), (Tags{5}));
  EXPECT_EQ(tags_of(queue.take()), (Tags{6}));
  EXPECT_EQ(tags_of(queue.take()), (Tags{7}));
  EXPECT_TRUE(queue.empty());
}

TEST(OrdersInBatches, AreLimitedInBytesAndNumberButOneIsAlwaysTaken) {
  OrderQueue queue(250, 3);
  for (std::uint64_t i = 0; i < 2; ++i) queue.push(task_of(i, i));
  EXPECT_FALSE(queue.has_a_full_batch());
  queue.push(task_of(2, 2));
  EXPECT_TRUE(queue.has_a_full_batch());  // 300 bytes
  EXPECT_EQ(tags_of(queue.take()), (Tags{0, 1}));
  EXPECT_FALSE(queue.has_a_full_batch());
  for (std::uint64_t i = 3; i < 6; ++i) queue.push(task_of(i, i, ChunkOrder::Kind::accumulate, Codec::fp32, 1));
  EXPECT_TRUE(queue.has_a_full_batch());
  EXPECT_EQ(tags_of(queue.take()), (Tags{2, 3, 4}));
  queue.push(task_of(6, 5, ChunkOrder::Kind::accumulate, Codec::fp32, 200));
  EXPECT_EQ(tags_of(queue.take()), (Tags{5}));
  EXPECT_EQ(tags_of(queue.take()), (Tags{6}));  // more than fits
  queue.push(task_of(7, 7));
  queue.clear();
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.has_a_full_batch());
}

// Whatever comes: nothing is lost, and nothing overtakes in its lane.
TEST(OrdersInBatches, KeepTheOrderInEveryLane) {
  Random random(31);
  for (int round = 0; round < 200; ++round) {
    OrderQueue queue(100 + random.below(2000), 1 + random.below(32));
    std::vector<std::uint64_t> next_in(64);
    std::uint64_t pushed = 0, taken = 0;
    std::vector<std::uint64_t> next_out(64);
    const std::size_t lanes = 1 + random.below(64);
    while (taken < 300) {
      if (pushed < 300 && random.chance(0.8)) {
        const std::size_t lane = random.below(lanes);
        queue.push(task_of(next_in[lane]++, lane, static_cast<ChunkOrder::Kind>(random.below(5)),
                           static_cast<Codec>(random.below(4)), 1 + random.below(100)));
        pushed += 1;
      } else {
        const auto batch = queue.take();
        EXPECT_EQ(batch.empty(), pushed == taken);
        for (const Device::Task& task : batch) EXPECT_EQ(task.order.tag, next_out[task.lane]++);
        taken += batch.size();
      }
    }
    EXPECT_TRUE(queue.empty());
    EXPECT_FALSE(queue.has_a_full_batch());
  }
}

// ---- what a machine says of its GPU

TEST(Availability, SaysInWordsWhatThereIs) {
  const cuda::Availability& here = cuda::availability();
  RecordProperty("gpu", here.text);
  EXPECT_EQ(here.text.starts_with("no GPU: "), !here.usable) << here.text;
  EXPECT_EQ(here.text.find('\n'), std::string::npos);
}

TEST(Availability, WithoutAGpuEverythingIsRefusedInTheSameWords) {
  if (cuda::availability().usable) return;
  const std::string& why = cuda::availability().text;
  EXPECT_EQ(cuda::Memory::allocate(cuda::Place::device, 10).error().message, why);
  EXPECT_EQ(cuda::Memory::allocate(cuda::Place::pinned, 10).error().message, why);
  EXPECT_EQ(cuda::make_device(nullptr, 10, {}, nullptr).error().message, why);
  EXPECT_EQ(cuda::make_stream().error().message, why);
  std::vector<std::byte> page(4096);
  EXPECT_EQ(cuda::register_pinned(page).error().message, why);
  cuda::unregister_pinned(page);
}

// ---- the kernels one by one

// One instance where there is a GPU, and none where there is not.
class OnGpu : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto made = cuda::make_stream();
    ASSERT_TRUE(made.ok());
    stream_ = *made;
    words_ = allocate(4096);
    ASSERT_TRUE(cuda::fill_later(words_.data(), 0, words_.size(), stream_).ok());
    auto pinned = cuda::Memory::allocate(cuda::Place::pinned, 4096);
    ASSERT_TRUE(pinned.ok());
    pinned_ = std::move(*pinned);
  }
  void TearDown() override { cuda::destroy_stream(stream_); }

  static cuda::Memory allocate(std::size_t bytes) {
    auto memory = cuda::Memory::allocate(cuda::Place::device, bytes);
    EXPECT_TRUE(memory.ok());
    return memory.ok() ? std::move(*memory) : cuda::Memory();
  }
  [[nodiscard]] unsigned long long* verdicts() const { return words_.as<unsigned long long>() + 8; }
  [[nodiscard]] std::uint32_t* faults_of_tasks() const { return pinned_.as<std::uint32_t>() + 64; }

  // The fault that was found.
  NumberFault reduce(Codec codec, const cuda::ReduceTask& task) {
    cuda::Batch<cuda::ReduceTask> batch{.count = 1};
    batch.task[0] = task;
    batch.task[0].verdict = verdicts();
    batch.task[0].ticket = std::exchange(ticket_, ticket_ + cuda::kTicketStep);
    batch.task[0].fault = faults_of_tasks();
    *faults_of_tasks() = 0xffffffffU;
    EXPECT_EQ(cuda::launch_reduce(codec, batch, stream_), 0);
    EXPECT_TRUE(cuda::wait_for(stream_).ok());
    EXPECT_NE(*faults_of_tasks(), 0xffffffffU);
    return cuda::fault_of(*faults_of_tasks());
  }
  void encode(Codec codec, const cuda::EncodeTask& task) {
    cuda::Batch<cuda::EncodeTask> batch{.count = 1};
    batch.task[0] = task;
    EXPECT_EQ(cuda::launch_encode(codec, batch, stream_), 0);
    EXPECT_TRUE(cuda::wait_for(stream_).ok());
  }

  cuda::Stream stream_ = nullptr;
  cuda::Memory words_, pinned_;
  unsigned long long ticket_ = cuda::kTicketStep;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OnGpu);
INSTANTIATE_TEST_SUITE_P(Here, OnGpu,
                         ::testing::ValuesIn(cuda::availability().usable ? std::vector<std::string>{"gpu"}
                                                                         : std::vector<std::string>{}),
                         [](const auto& each) { return each.param; });

// Bytes in device memory, `offset` behind a 256-byte boundary, with guards on both sides.
class Placed {
 public:
  Placed(std::span<const std::byte> bytes, std::size_t offset) : size_(bytes.size()), begin_(kGuards + offset) {
    content_.assign(begin_ + size_ + kGuards, kGuard);
    std::copy(bytes.begin(), bytes.end(), content_.begin() + static_cast<std::ptrdiff_t>(begin_));
    auto memory = cuda::Memory::allocate(cuda::Place::device, content_.size());
    EXPECT_TRUE(memory.ok());
    memory_ = std::move(*memory);
    EXPECT_TRUE(cuda::copy(memory_.data(), content_.data(), content_.size()).ok());
  }
  Placed(std::span<const float> values, std::size_t offset) : Placed(std::as_bytes(values), offset * sizeof(float)) {}
  [[nodiscard]] std::byte* bytes() const { return memory_.data() + begin_; }
  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(bytes()); }
  // What is there now, checking that nothing beside it changed.
  std::vector<std::byte> read() {
    EXPECT_TRUE(cuda::copy(content_.data(), memory_.data(), content_.size()).ok());
    for (std::size_t i = 0; i < content_.size(); ++i) {
      if (i >= begin_ && i < begin_ + size_) continue;
      EXPECT_EQ(content_[i], kGuard) << "beside, at " << i << " of " << size_;
    }
    return {content_.begin() + static_cast<std::ptrdiff_t>(begin_),
            content_.begin() + static_cast<std::ptrdiff_t>(begin_ + size_)};
  }
  std::vector<float> read_floats() {
    const std::vector<std::byte> bytes = read();
    std::vector<float> values(bytes.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

 private:
  static constexpr std::size_t kGuards = 256;
  static constexpr std::byte kGuard{0xa5};
  std::size_t size_, begin_;
  std::vector<std::byte> content_;
  cuda::Memory memory_;
};

struct Shape {
  std::size_t length, payload_offset, values_offset;
};
// PAPILIO_FEW_SHAPES leaves the long ones out, for runs under tools that make everything slow.
bool few_shapes() {
  static const bool few = std::getenv("PAPILIO_FEW_SHAPES") != nullptr;
  return few;
}
std::vector<Shape> shapes() {
  std::vector<Shape> all;
  if (few_shapes()) return {{0, 0, 0}, {1, 0, 0}, {257, 0, 0}, {1027, 0, 0}, {515, 4, 0}, {515, 1, 3}, {9000, 16, 4}};
  for (const std::size_t length :
       {0, 1, 2, 3, 4, 5, 7, 31, 33, 127, 255, 256, 257, 511, 513, 1000, 4096, 4099, 65537, 300'001}) {
    all.push_back({length, 0, 0});
  }
  for (const std::size_t length : {5, 256, 1023, 70'000}) {
    all.push_back({length, 0, 1});  // floats that are not on 16 bytes
    all.push_back({length, 4, 0});
    all.push_back({length, 2, 3});
    all.push_back({length, 1, 2});   // payloads at odd addresses
    all.push_back({length, 16, 4});  // aligned, but not at the start
  }
  return all;
}
std::string label_of(Codec codec, Draw kind, const Shape& shape) {
  return std::string(to_string(codec)) + ", values " + std::to_string(static_cast<int>(kind)) + ", length " +
         std::to_string(shape.length) + ", offsets " + std::to_string(shape.payload_offset) + " and " +
         std::to_string(shape.values_offset);
}

// What a peer may send: encoded, or any bytes at all.
std::vector<std::byte> payload_of(Random& random, Codec codec, Draw kind, std::size_t length) {
  return encoded(codec, draw(random, kind, length));
}

TEST_P(OnGpu, ReductionsMatchTheScalarReference) {
  Random random(21);
  for (const Codec codec : kCodecs) {
    for (const Draw kind : kDraws) {
      for (const Shape& shape : shapes()) {
        const std::string label = label_of(codec, kind, shape);
        const std::vector<float> start = draw(random, Draw::ordinary, shape.length);
        const std::vector<std::byte> bytes = payload_of(random, codec, kind, shape.length);
        const float own_scale = random.chance(0.5) ? 1.0F : draw(random, Draw::ordinary);
        const float weight = draw(random, Draw::ordinary), inverse = random.chance(0.5) ? 1.0F : 0.37F;
        const float limit = random.chance(0.8) ? kMost : 2.0F;
        for (const bool replace : {false, true}) {
          std::vector<float> wanted = start;
          const NumberFault fault =
              replace ? scalar::decode(codec, bytes, wanted, limit)
                      : scalar::accumulate_checked(wanted, own_scale, weight, codec, bytes, inverse, limit);
          Placed values(start, shape.values_offset), payload(bytes, shape.payload_offset);
          const cuda::ReduceTask task{.in = payload.bytes(),
                                      .values = values.floats(),
                                      .count = shape.length,
                                      .own_scale = own_scale,
                                      .weight = weight,
                                      .inverse_total = inverse,
                                      .limit = limit,
                                      .replace = replace};
          ASSERT_EQ(reduce(codec, task), fault) << label;
          ASSERT_TRUE(same_bits(values.read_floats(), wanted)) << label << ", replace " << replace;
          ASSERT_TRUE(same_bytes(payload.read(), bytes)) << label;
        }
      }
    }
  }
}

// Of all sizes and at all places, good and bad, in one launch: nobody gets what is another's.
TEST_P(OnGpu, ManyTasksInOneLaunchAreAsManyLaunches) {
  Random random(25);
  for (const Codec codec : kCodecs) {
    std::vector<Placed> values, payloads;
    std::vector<std::vector<float>> wanted;
    std::vector<NumberFault> faults;
    cuda::Batch<cuda::ReduceTask> batch;
    for (; batch.count < cuda::kMostTasks; ++batch.count) {
      const std::size_t length = batch.count % 5 == 0 ? 5000 + random.below(20'000) : random.below(2000);
      const std::vector<float> start = draw(random, Draw::ordinary, length);
      const std::vector<std::byte> bytes =
          payload_of(random, codec, batch.count % 3 == 0 ? Draw::any_bits : Draw::ordinary, length);
      values.emplace_back(start, random.below(3));
      payloads.emplace_back(bytes, random.below(3));
      batch.task[batch.count] = {.in = payloads.back().bytes(),
                                 .values = values.back().floats(),
                                 .count = length,
                                 .weight = draw(random, Draw::ordinary),
                                 .limit = 3.0F,
                                 .replace = random.chance(0.3),
                                 .verdict = verdicts() + batch.count,
                                 .ticket = ticket_,
                                 .fault = faults_of_tasks() + batch.count};
      const cuda::ReduceTask& task = batch.task[batch.count];
      wanted.push_back(start);
      faults.push_back(task.replace ? scalar::decode(codec, bytes, wanted.back(), 3)
                                    : scalar::accumulate_checked(wanted.back(), 1, task.weight, codec, bytes, 1, 3));
    }
    ticket_ += cuda::kTicketStep;
    ASSERT_EQ(cuda::launch_reduce(codec, batch, stream_), 0);
    ASSERT_TRUE(cuda::wait_for(stream_).ok());
    for (std::size_t i = 0; i < cuda::kMostTasks; ++i) {
      EXPECT_EQ(cuda::fault_of(faults_of_tasks()[i]), faults[i]) << to_string(codec) << ", task " << i;
      EXPECT_TRUE(same_bits(values[i].read_floats(), wanted[i])) << to_string(codec) << ", task " << i;
    }
  }
}

// Reductions of the same values right behind one another, with nothing in between that would let one finish before the
// next: that a kernel may begin early must not show.
TEST_P(OnGpu, ReductionsBehindOneAnotherAreInOrder) {
  Random random(26);
  for (const Codec codec : kCodecs) {
    for (const std::size_t length : {std::size_t{300}, std::size_t{70'000}, std::size_t{2'000'000}}) {
      if (few_shapes() && length > 300) continue;
      const std::vector<float> start = draw(random, Draw::ordinary, length);
      const std::vector<std::byte> good = payload_of(random, codec, Draw::ordinary, length);
      std::vector<float> spoilt = draw(random, Draw::ordinary, length);
      spoilt.back() = kInfinity;
      Placed values(start, 0), payloads[2] = {{good, 0}, {encoded(codec, spoilt), 0}}, stage(good, 0);
      std::vector<float> wanted = start;
      for (int i = 0; i < 24; ++i) {
        const float weight = draw(random, Draw::ordinary);
        const std::size_t which = random.chance(0.3) ? 1 : 0;
        ASSERT_TRUE(cuda::copy_later(stage.bytes(), payloads[which].bytes(), good.size(), stream_).ok());
        cuda::Batch<cuda::ReduceTask> batch{.count = 1};
        batch.task[0] = {.in = stage.bytes(),
                         .values = values.floats(),
                         .count = length,
                         .own_scale = 0.5F,
                         .weight = weight,
                         .limit = kMost,
                         .verdict = verdicts(),
                         .ticket = std::exchange(ticket_, ticket_ + cuda::kTicketStep)};
        ASSERT_EQ(cuda::launch_reduce(codec, batch, stream_), 0);
        if (which == 0) {
          ASSERT_EQ(scalar::accumulate_checked(wanted, 0.5F, weight, codec, good, 1, kMost), NumberFault::none);
        }
      }
      ASSERT_TRUE(cuda::wait_for(stream_).ok());
      EXPECT_TRUE(same_bits(values.read_floats(), wanted)) << to_string(codec) << ", length " << length;
    }
  }
}

TEST_P(OnGpu, EncodingMatchesTheScalarReference) {
  Random random(22);
  for (const Codec codec : kCodecs) {
    for (const Draw kind : kDraws) {
      for (const Shape& shape : shapes()) {
        const std::string label = label_of(codec, kind, shape);
        const std::vector<float> start = draw(random, kind, shape.length);
        const std::vector<float> rest = draw(random, Draw::ordinary, shape.length);
        const std::vector<std::byte> blank(encoded_bytes(codec, shape.length), std::byte{0x11});
        std::vector<std::byte> wanted = blank;

        Placed plain(start, shape.values_offset), plain_out(blank, shape.payload_offset);
        encode(codec, {.values = plain.floats(), .out = plain_out.bytes(), .count = shape.length});
        scalar::encode(codec, start, wanted);
        ASSERT_TRUE(same_bytes(plain_out.read(), wanted)) << label;
        ASSERT_TRUE(same_bits(plain.read_floats(), start)) << label;

        Placed residual(rest, shape.values_offset), fed_out(blank, shape.payload_offset);
        encode(
            codec,
            {.values = plain.floats(), .residual = residual.floats(), .out = fed_out.bytes(), .count = shape.length});
        std::vector<float> left = rest;
        scalar::encode_with_feedback(codec, start, left, wanted);
        if (codec != Codec::fp32 || kind != Draw::any_bits) {  // which NaN a sum is is left open
          ASSERT_TRUE(same_bytes(fed_out.read(), wanted)) << label << ", feedback";
        }
        ASSERT_TRUE(same_bits(residual.read_floats(), left)) << label << ", residual";

        Placed final_values(start, shape.values_offset), final_out(blank, shape.payload_offset);
        const float factor = 0.3F;
        encode(codec, {.values = final_values.floats(),
                       .decoded = final_values.floats(),
                       .out = final_out.bytes(),
                       .count = shape.length,
                       .scaled = true,
                       .factor = factor});
        std::vector<float> held = start;
        scalar::finalise_and_encode(held, factor, codec, wanted);
        if (codec != Codec::fp32 || kind != Draw::any_bits) {
          ASSERT_TRUE(same_bytes(final_out.read(), wanted)) << label << ", finalised";
        }
        ASSERT_TRUE(same_bits(final_values.read_floats(), held)) << label << ", finalised";
      }
    }
  }
}

// All that bf16 and fp16 can say, both ways.
TEST_P(OnGpu, EveryHalfIsDecodedAndEncodedAlike) {
  for (const Codec codec : {Codec::bf16, Codec::fp16}) {
    std::vector<std::byte> all(2 * 65536);
    std::vector<float> wanted;
    for (std::uint32_t half = 0; half < 65536; ++half) {
      const auto bits = static_cast<std::uint16_t>(half);
      std::memcpy(all.data() + std::size_t{2} * half, &bits, 2);
      wanted.push_back(codec == Codec::bf16 ? scalar::float_from_bf16(bits) : scalar::float_from_fp16(bits));
    }
    Placed payload(all, 0), values(std::vector<float>(65536, 7.0F), 0);
    // Unchecked: infinities and NaNs too.
    cuda::Batch<cuda::ReduceTask> batch{.count = 1};
    batch.task[0] = {.in = payload.bytes(), .values = values.floats(), .count = 65536, .replace = true};
    ASSERT_EQ(cuda::launch_reduce(codec, batch, stream_), 0);
    ASSERT_TRUE(cuda::wait_for(stream_).ok());
    EXPECT_TRUE(same_bits(values.read_floats(), wanted)) << to_string(codec);
  }
}

// Hostile payloads: random bytes, and honest ones with a few bytes changed.
TEST_P(OnGpu, TheSameFaultsAreFoundAsByTheScalarReference) {
  Random random(23);
  for (const Codec codec : kCodecs) {
    for (int i = 0; i < 300; ++i) {
      const std::size_t length = 1 + random.below(3000);
      std::vector<std::byte> bytes = payload_of(random, codec, Draw::ordinary, length);
      const std::size_t changes = i % 3 == 0 ? bytes.size() : random.below(4);
      for (std::size_t k = 0; k < changes; ++k)
        bytes[random.below(bytes.size())] = static_cast<std::byte>(random.next());
      const float limit = i % 2 == 0 ? 3.0F : 1e30F;
      Placed payload(bytes, random.below(3)), values(std::vector<float>(length, 1.0F), 0);
      const cuda::ReduceTask task{
          .in = payload.bytes(), .values = values.floats(), .count = length, .limit = limit, .replace = true};
      ASSERT_EQ(reduce(codec, task), scalar::check_encoded(codec, bytes, length, limit))
          << to_string(codec) << ", try " << i;
    }
  }
}

TEST_P(OnGpu, NormsFollowTheScalarReference) {
  Random random(24);
  const cuda::Memory partial = allocate(cuda::kNormBlocks * sizeof(cuda::NormResult));
  for (const Draw kind : kDraws) {
    for (const Shape& shape : shapes()) {
      const std::vector<float> start = draw(random, kind, shape.length);
      Placed values(start, shape.values_offset);
      cuda::NormResult results[2];
      for (cuda::NormResult& result : results) {
        ASSERT_EQ(cuda::launch_norm(values.floats(), shape.length, partial.as<cuda::NormResult>(),
                                    words_.as<cuda::Scratch>(), pinned_.as<cuda::NormResult>(), stream_),
                  0);
        ASSERT_TRUE(cuda::wait_for(stream_).ok());
        result = *pinned_.as<cuda::NormResult>();
      }
      const Inspection wanted = scalar::inspect(start);
      ASSERT_EQ(results[0].largest_bits < 0x7f800000U, wanted.finite) << shape.length;
      if (!wanted.finite) continue;
      EXPECT_EQ(std::bit_cast<float>(results[0].largest_bits), wanted.largest);
      EXPECT_NEAR(results[0].sum_of_squares, wanted.sum_of_squares, 1e-12 * wanted.sum_of_squares);
      EXPECT_EQ(results[0].sum_of_squares, results[1].sum_of_squares);  // the same bits each time
    }
  }
}

TEST_P(OnGpu, MemoryThatIsNotThereIsAnErrorAndNoMore) {
  const auto refused = cuda::Memory::allocate(cuda::Place::device, std::size_t{1} << 42U);
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.error().message.starts_with("out of GPU memory")) << refused.error().message;
  EXPECT_TRUE(cuda::Memory::allocate(cuda::Place::device, 1000).ok());
}

TEST_P(OnGpu, MemoryOfOthersCanBePinned) {
  const std::size_t bytes = std::size_t{1} << 20U;
  auto* const pages = static_cast<std::byte*>(std::aligned_alloc(4096, bytes));
  const std::span<std::byte> region(pages, bytes);
  EXPECT_TRUE(cuda::register_pinned(region).ok());
  const auto twice = cuda::register_pinned(region);
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message.find("pinning"), std::string::npos);
  cuda::unregister_pinned(region);
  std::free(pages);
}

// In a process of its own, as a GPU that is lost stays lost.
TEST_P(OnGpu, LostForGoodIsNoticedAndNothingIsLost) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Bell bell;
        auto device = cuda::make_device(reinterpret_cast<float*>(4096), 100, {}, [&] { bell.ring(); });
        auto gradient = DeviceGradient::make(std::move(*device), 100);
        static_cast<void>((*gradient)->reserve(1, 100));
        std::fill_n((*gradient)->host_copy().data(), 100, 5.0F);
        const std::vector<std::byte> bytes(400);
        (*gradient)->submit(time_now(),
                            {.kind = ChunkOrder::Kind::accumulate, .tag = 7, .begin = 0, .count = 100, .in = bytes});
        while (!(*gradient)->failure()) {
          const std::uint64_t rung = bell.rung();
          static_cast<void>((*gradient)->take_completions(time_now()));
          if (!(*gradient)->failure()) bell.wait_for_more_than(rung, (*gradient)->deadline());
        }
        const auto orders = (*gradient)->take_back().orders;
        const bool intact = (*gradient)->host_copy()[99] == 5.0F && orders.size() == 1 && orders[0].tag == 7;
        std::fprintf(stderr, "%s\n", (*gradient)->failure()->message.c_str());
        std::_Exit(intact ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "the GPU failed while carrying out an order");
}

}  // namespace
}  // namespace papilio::kernels
