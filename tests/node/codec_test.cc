// Shards in every codec over real sockets: values within the codec's bound of a float64 reference, the same bits at all
// members, nothing lost over rounds; a reducer that dies; and payloads that no encoder writes, from a peer that lies.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/node/codec_choice.hpp"
#include "engine/node/engine.hpp"
#include "kernels/ops.h"
#include "transport/io.hpp"

namespace papilio::node {
namespace {

using std::chrono::seconds;
using transport::Codec;
using transport::Compression;
using transport::Header;
using Bytes = std::vector<std::byte>;

constexpr Duration kBound = seconds(60);
constexpr std::size_t kChunkBytes = kMinimumChunkBytes;
constexpr std::uint64_t kChunk = kChunkBytes / sizeof(float);  // elements
constexpr Fingerprint kModel{.low = 17, .high = 4};

PeerId id_of(std::size_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

// Within [-1, 1).
float input(RoundId round, std::size_t member, std::uint64_t element) {
  const std::uint64_t bits = Random::mix((round << 40U) + (std::uint64_t{member} << 32U) + element);
  return static_cast<float>(static_cast<double>(bits >> 11U) * 0x1.0p-52 - 1);
}

// How far an average of such inputs may be off: contributions and their average are rounded, and each may carry what
// rounding took in the round before.
double bound_of(Codec codec) { return 4 * 1.02 * kernels::error_bound(kernel_codec(codec), 1, 1) + 1e-6; }

struct Member final : EngineEvents {
  void on_peer_joined(Peer&) override {}
  void on_peer_left(Peer&, PeerLeft, const std::string& why) override { lost.push_back(why); }
  void on_control(Peer&, const Header&) override {}
  void on_round_over(RoundReport each) override { report = std::move(each); }
  void on_refused(const transport::Address&, const std::string&) override {}

  std::unique_ptr<Engine> engine;
  bool is_dead = false;
  std::optional<RoundReport> report;
  std::vector<std::string> lost;  // why
  std::vector<float> gradient;
  ShardFormat format;
  double weight = 1;
  bool is_client = false;
};

class CodecTest : public testing::TestWithParam<transport::IoBackend> {
 protected:
  CodecTest() { io_ = std::move(transport::make_io(GetParam(), nullptr)).value(); }
  ~CodecTest() override { dissolve(); }
  void dissolve() {
    for (const auto& member : members_) {
      member->engine->leave("the test is over", seconds(5));
      member->is_dead = false;
    }
    EXPECT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
    members_.clear();
  }

  using Setting = std::function<void(std::size_t, Member&, RoundDriverConfig&)>;
  void make_group(std::size_t count, const Setting& setting) {
    for (std::size_t index = 0; index < count; ++index) {
      Member& member = *members_.emplace_back(std::make_unique<Member>());
      MeshConfig mesh;
      mesh.self = id_of(index);
      mesh.fingerprint = kModel;
      mesh.run_id = "test";
      mesh.listen = transport::Address::parse("127.0.0.1:0").value();
      mesh.local_options = default_socket_options(true, "");
      mesh.seed = index;
      RoundDriverConfig rounds;
      rounds.self = mesh.self;
      setting(index, member, rounds);
      rounds.format = member.format;
      EngineEvents& events = member;
      member.engine = std::make_unique<Engine>(*io_, mesh, rounds, events);
      ASSERT_TRUE(member.engine->start().ok());
      for (std::size_t j = 0; j < index; ++j) member.engine->mesh().add_address(address_of(j));
    }
    ASSERT_TRUE(run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [&](const auto& each) { return each->engine->mesh().peers().size() + 1 == count; });
    }));
  }
  transport::Address address_of(std::size_t index) { return *members_[index]->engine->mesh().listen_address(); }

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

  // `roster`: members of the round, of which the first are engines. `inputs`: which round's; 0: this one's.
  void begin(RoundId round, std::uint64_t elements, std::size_t roster, RoundId inputs = 0) {
    RoundSpec spec{.round = round, .epoch = round, .members = {}, .chunk_bytes = kChunkBytes, .timeout = seconds(50)};
    for (std::size_t i = 0; i < roster; ++i) {
      spec.members.push_back({.peer = id_of(i), .reduces = i >= members_.size() || !members_[i]->is_client});
    }
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& each = *members_[i];
      each.report.reset();
      each.gradient.resize(elements);
      for (std::uint64_t k = 0; k < elements; ++k) each.gradient[k] = input(inputs == 0 ? round : inputs, i, k);
      each.engine->begin_round(spec, each.gradient, each.weight);
    }
  }
  [[nodiscard]] bool everybody_is_done() {
    return run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [](const auto& each) { return each->is_dead || each->report.has_value(); });
    });
  }
  void all_reduce(RoundId round, std::uint64_t elements, RoundId inputs = 0) {
    begin(round, elements, members_.size(), inputs);
    ASSERT_TRUE(everybody_is_done());
  }

  // The exact average of these members' inputs.
  double reference(RoundId round, std::uint64_t element, Coverage coverage) const {
    double sum = 0, total = 0;
    for (std::size_t j = 0; j < members_.size(); ++j) {
      if ((coverage >> j & 1U) == 0) continue;
      sum += members_[j]->weight * double{input(round, j, element)};
      total += members_[j]->weight;
    }
    return sum / total;
  }
  // Every chunk of every living member is what its report says, and what the others have.
  void expect_right(RoundId round, double bound) {
    const Member* first = nullptr;
    for (const auto& member : members_) {
      if (member->is_dead) continue;
      if (first == nullptr) first = member.get();
      EXPECT_EQ(member->report->digest, first->report->digest);
      EXPECT_TRUE(
          std::ranges::equal(std::as_bytes(std::span(member->gradient)), std::as_bytes(std::span(first->gradient))));
    }
    const RoundReport& report = *first->report;
    std::uint64_t wrong = 0;
    for (std::size_t chunk = 0; chunk < report.chunks.size(); ++chunk) {
      const std::uint64_t end =
          chunk + 1 < report.chunks.size() ? report.chunk_begins[chunk + 1] : first->gradient.size();
      for (std::uint64_t i = report.chunk_begins[chunk]; i < end; ++i) {
        const double wanted = reference(round, i, report.chunks[chunk]);
        wrong += report.chunks[chunk] != 0 && std::abs(double{first->gradient[i]} - wanted) <= bound ? 0U : 1U;
      }
    }
    EXPECT_EQ(wrong, 0U);
  }

  std::unique_ptr<transport::Io> io_;
  std::vector<std::unique_ptr<Member>> members_;
};

std::vector<transport::IoBackend> backends() {
  std::vector<transport::IoBackend> list = {transport::IoBackend::uv};
  if (transport::make_io(transport::IoBackend::uring, nullptr).ok()) list.push_back(transport::IoBackend::uring);
  return list;
}
std::string name_of(const testing::TestParamInfo<transport::IoBackend>& backend) {
  return backend.param == transport::IoBackend::uring ? "uring" : "uv";
}
INSTANTIATE_TEST_SUITE_P(Backends, CodecTest, testing::ValuesIn(backends()), name_of);

std::vector<ShardFormat> every_format() {
  std::vector<ShardFormat> formats;
  for (const std::string& text : format_choices()) {
    if (const FormatChoice format = parse_format_choice(text).value()) formats.push_back(*format);
  }
  return formats;
}

TEST(ShardFormats, AreReadAsTheyAreWritten) {
  EXPECT_EQ(every_format().size(), 8U);
  EXPECT_EQ(parse_format_choice("auto").value(), std::nullopt);
  EXPECT_EQ(parse_format_choice("int8+zstd").value(), (ShardFormat{Codec::int8, Compression::zstd}));
  EXPECT_FALSE(parse_format_choice("mp3").ok());
  EXPECT_FALSE(parse_format_choice("auto+zstd").ok());
}

// Costs of a machine whose coders take a nanosecond for a byte of gradient, or next to nothing.
CoderCosts costs(double seconds_per_byte) {
  CoderCosts all;
  all.seconds_per_byte.fill(seconds_per_byte);
  return all;
}

TEST(FastestCodec, FollowsTheLineAndTheCoders) {
  EXPECT_EQ(fastest_codec(25e6, costs(1e-9)), Codec::int8);
  EXPECT_EQ(fastest_codec(900e6, costs(1e-9)), Codec::fp32);  // the coder would take as long as the line
  EXPECT_EQ(fastest_codec(900e6, costs(1e-10)), Codec::int8);
  EXPECT_EQ(fastest_codec(100e9, costs(1e-10)), Codec::fp32);
  const ZstdTrial halved{.ratio = 0.5, .seconds_per_byte = 1e-9}, useless{.ratio = 0.97, .seconds_per_byte = 1e-9};
  EXPECT_TRUE(zstd_pays(25e6, Codec::int8, costs(1e-10), halved));
  EXPECT_FALSE(zstd_pays(25e6, Codec::int8, costs(1e-10), useless));
  EXPECT_FALSE(zstd_pays(1e9, Codec::int8, costs(1e-10), halved));
  for (const double each : coder_costs().seconds_per_byte) EXPECT_LT(each, 1e-6);
}

TEST_P(CodecTest, EveryFormatIsWithinItsBoundAndTheSameForAll) {
  constexpr double kWeights[] = {1, 2.5, 0.25, 40};
  for (const ShardFormat& format : every_format()) {
    SCOPED_TRACE(to_string(format));
    dissolve();
    make_group(4, [&](std::size_t index, Member& member, RoundDriverConfig&) {
      member.format = format;
      member.weight = kWeights[index];
      member.is_client = index == 3;
    });
    RoundId round = 0;
    for (const std::uint64_t elements :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{257}, 5 * kChunk + 13, 5 * kChunk + 13}) {
      all_reduce(++round, elements);
      expect_right(round, bound_of(format.codec));
      for (const auto& member : members_) EXPECT_EQ(member->report->coverage, 1);
    }
  }
}

TEST_P(CodecTest, EveryMemberMaySendInAnother) {
  const std::vector<ShardFormat> formats = every_format();
  make_group(5, [&](std::size_t index, Member& member, RoundDriverConfig&) { member.format = formats[index * 5 % 8]; });
  for (RoundId round = 1; round <= 3; ++round) {
    all_reduce(round, 7 * kChunk + 1);
    expect_right(round, bound_of(Codec::int8));
  }
}

TEST_P(CodecTest, BytesOnTheWireAreThoseOfTheCodec) {
  constexpr std::uint64_t kElements = 6 * kChunk;
  for (const Codec codec : {Codec::bf16, Codec::fp16, Codec::int8}) {
    dissolve();
    make_group(3, [&](std::size_t, Member& member, RoundDriverConfig&) { member.format = {codec}; });
    all_reduce(1, kElements);
    // Two thirds of the gradient go out as contributions, one third twice as averages.
    EXPECT_EQ(members_[0]->report->bytes_sent, 4 * kernels::encoded_bytes(kernel_codec(codec), 2 * kChunk));
  }
}

// With error feedback the mean over rounds of what arrives goes to the exact average; without, it stays off by what
// rounding takes from the same values every time.
TEST_P(CodecTest, NothingIsLostOverRounds) {
  constexpr std::uint64_t kElements = 2 * kChunk;
  constexpr RoundId kRounds = 32;
  double worst[2] = {};
  for (const bool feedback : {true, false}) {
    dissolve();
    make_group(2, [&](std::size_t, Member& member, RoundDriverConfig& rounds) {
      member.format = {Codec::int8};
      rounds.error_feedback = feedback;
    });
    std::vector<double> sum(kElements);
    for (RoundId round = 1; round <= kRounds; ++round) {
      all_reduce(round, kElements, 1);
      for (std::uint64_t i = 0; i < kElements; ++i) sum[i] += double{members_[0]->gradient[i]} / kRounds;
    }
    for (std::uint64_t i = 0; i < kElements; ++i) {
      worst[feedback ? 0 : 1] = std::max(worst[feedback ? 0 : 1], std::abs(sum[i] - reference(1, i, 3)));
    }
  }
  const double once = kernels::error_bound(kernels::Codec::int8, 1, 1);
  EXPECT_LT(worst[0], 2 * 1.02 * once / kRounds);
  EXPECT_GT(worst[1], once / 2);
}

TEST_P(CodecTest, AChunkThatEndsLocalIsTheCallersOwnBitForBit) {
  make_group(3, [](std::size_t, Member& member, RoundDriverConfig&) { member.format = {Codec::int8}; });
  constexpr std::uint64_t kElements = 6 * kChunk;
  all_reduce(1, kElements);  // so that rounding owes something
  begin(2, kElements, 3);
  for (const auto& member : members_) member->engine->cancel_round();
  ASSERT_TRUE(everybody_is_done());
  for (std::size_t index = 0; index < 3; ++index) {
    const Member& each = *members_[index];
    for (std::size_t chunk = 0; chunk < each.report->chunks.size(); ++chunk) {
      if (each.report->chunks[chunk] != 0 && each.report->chunks[chunk] != coverage_of(static_cast<MemberIndex>(index)))
        continue;
      for (std::uint64_t i = chunk * kChunk; i < (chunk + 1) * kChunk; ++i) {
        ASSERT_EQ(each.gradient[i], input(2, index, i));
      }
    }
  }
}

// A successor asks for the contributions again and passes averages on that it holds only decoded.
TEST_P(CodecTest, AReducerThatDiesAtAnyPointLeavesEqualModels) {
  for (const ShardFormat format : {ShardFormat{Codec::int8}, ShardFormat{Codec::bf16, Compression::zstd}}) {
    for (std::uint64_t after = 0; after < 9; after += 2) {
      SCOPED_TRACE(to_string(format) + ", after " + std::to_string(after) + " chunks");
      dissolve();
      make_group(4, [&](std::size_t, Member& member, RoundDriverConfig&) { member.format = format; });
      begin(1, 16 * kChunk, 4);
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
      expect_right(1, bound_of(format.codec));
    }
  }
}

TEST_P(CodecTest, TheNormPolicyLooksAtDecodedValues) {
  make_group(4, [](std::size_t index, Member& member, RoundDriverConfig& rounds) {
    member.format = {index == 1 ? Codec::fp16 : Codec::int8};
    rounds.norms = {.action = core::NormAction::clip, .limit = 4};
  });
  all_reduce(1, 8 * kChunk);
  expect_right(1, bound_of(Codec::int8));
}

// ---- what a liar sends

// A connection of a member that is no engine: it sends what the test wants.
class Liar final : private transport::FlowEvents {
 public:
  explicit Liar(PeerId self) : self_(self), flow_(*this) {}

  void dial(transport::Io& io, const transport::Address& address) { flow_.dial(io, address, {}); }
  void send(const Header& header, Bytes payload) {
    transport::HeaderBytes bytes;
    transport::encode_frame_header(header, payload.size(), bytes);
    outbox_.emplace_back(std::move(bytes), std::move(payload));
    flow_.wake_sender();
  }
  void abort() { flow_.abort(); }

 private:
  void on_flow_connected(transport::Flow&) override {
    flow_.send_control(transport::Hello{.peer = self_, .fingerprint = kModel, .run_id = "test", .flows = 1});
  }
  transport::PayloadDecision on_payload_header(transport::Flow&, const Header&, std::size_t) override { return {}; }
  void on_frame(transport::Flow&, const Header& header, transport::Slab, std::size_t) override {
    if (!std::holds_alternative<transport::Hello>(header)) return;
    flow_.send_control(transport::Ready{1});
    linked_ = true;
  }
  bool next_frame(transport::Flow&, transport::OutgoingFrame& frame) override {
    if (outbox_.empty() || !linked_) return false;
    std::tie(frame.header, payload_) = std::move(outbox_.front());
    outbox_.pop_front();
    frame.payload = payload_;
    frame.mode = transport::WriteMode::copy;
    return true;
  }
  void on_frame_sent(transport::Flow&, std::uint64_t) override {}
  void on_flow_failed(transport::Flow&, const transport::FlowFailure&) override {}
  void on_flow_closed(transport::Flow&) override {}

  PeerId self_;
  transport::Flow flow_;
  bool linked_ = false;
  std::deque<std::pair<transport::HeaderBytes, Bytes>> outbox_;
  Bytes payload_;
};

Bytes encoded(Codec codec, std::size_t elements = kChunk, float scale = 1) {
  std::vector<float> values(elements);
  for (std::size_t i = 0; i < elements; ++i) values[i] = scale * input(1, 2, i);
  Bytes bytes(kernels::encoded_bytes(kernel_codec(codec), elements));
  kernels::encode(kernel_codec(codec), values, bytes);
  return bytes;
}
Bytes compressed(Codec codec, const Bytes& bytes) {
  Bytes frame(bytes.size() + 1024);
  frame.resize(kernels::compress(bytes, kernel_codec(codec), 1, frame));
  return frame;
}
template <typename Value>
Bytes with(Bytes bytes, std::size_t at, Value value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
  return bytes;
}

struct Lie {
  std::string name;
  Codec codec = Codec::fp32;
  Compression compression = Compression::none;
  Bytes payload;
  std::string reason;  // for which its sender is cut off
  std::string words;   // what is said of it
};

std::vector<Lie> every_lie() {
  const Bytes int8 = encoded(Codec::int8), bf16 = encoded(Codec::bf16), fp16 = encoded(Codec::fp16);
  // Of numbers that can be compressed, most being 0.
  const auto sparse = [](std::size_t elements) {
    std::vector<float> values(elements);
    for (std::size_t i = 0; i < elements; i += 9) values[i] = input(1, 2, i);
    Bytes bytes(kernels::encoded_bytes(kernels::Codec::int8, elements));
    kernels::encode(kernels::Codec::int8, values, bytes);
    return bytes;
  };
  const Bytes frame = compressed(Codec::int8, sparse(kChunk));
  const std::size_t quants = kernels::int8_blocks(kChunk) * sizeof(float);
  Bytes longer = int8, shorter = int8, trailing = frame, cut(frame.begin(), frame.end() - 7), noise(300);
  longer.push_back({});
  shorter.pop_back();
  trailing.push_back(std::byte{7});
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<std::byte>(Random::mix(i));
  constexpr auto kNone = Compression::none;
  constexpr auto kZstd = Compression::zstd;
  return {
      {"a codec that does not exist", static_cast<Codec>(9), kNone, int8, "protocol", "malformed"},
      {"a compression that does not exist", Codec::int8, static_cast<Compression>(2), int8, "protocol", "malformed"},
      {"int8, a byte too long", Codec::int8, kNone, longer, "wrong-model", "bytes of int8"},
      {"int8, a byte too short", Codec::int8, kNone, shorter, "wrong-model", "bytes of int8"},
      {"fp16 named fp32", Codec::fp32, kNone, fp16, "wrong-model", "bytes of fp32"},
      {"compressed to more than it was", Codec::int8, kZstd, longer, "wrong-model", "bytes of int8+zstd"},
      {"a scale that is NaN", Codec::int8, kNone, with(int8, 4, std::nanf("")), "non-finite", "block 1"},
      {"an infinite scale", Codec::int8, kNone, with(int8, 0, HUGE_VALF), "non-finite", "block 0"},
      {"a negative scale", Codec::int8, kNone, with(int8, 0, -0.5F), "protocol", "block 0"},
      {"a scale with too many bits", Codec::int8, kNone, with(int8, 8, 0.1F), "protocol", "block 2"},
      {"a scale beyond all limits", Codec::int8, kNone, with(int8, 0, 0x1p+121F), "non-finite", "largest"},
      {"the byte -128", Codec::int8, kNone, with(int8, quants + 700, std::int8_t{-128}), "protocol", "block 2"},
      {"bf16 infinity", Codec::bf16, kNone, with(bf16, 2 * 77, std::uint16_t{0x7f80}), "non-finite", "element 77 "},
      {"bf16 NaN", Codec::bf16, kNone, with(bf16, 0, std::uint16_t{0xffc1}), "non-finite", "element 0 "},
      {"fp16 NaN", Codec::fp16, kNone, with(fp16, 2 * (kChunk - 1), std::uint16_t{0x7e00}), "non-finite", "is nan"},
      {"no frame", Codec::int8, kZstd, noise, "protocol", "compressed"},
      {"half a frame", Codec::int8, kZstd, cut, "protocol", "compressed"},
      {"a frame and a byte", Codec::int8, kZstd, trailing, "protocol", "compressed"},
      {"a frame of 64 MiB", Codec::int8, kZstd, compressed(Codec::fp32, Bytes(64U << 20U)), "protocol", "compressed"},
      {"a frame of one byte less", Codec::int8, kZstd, compressed(Codec::int8, sparse(kChunk - 1)), "protocol",
       "compressed"},
      {"a frame of a bad scale", Codec::int8, kZstd, compressed(Codec::int8, with(sparse(kChunk), 4, std::nanf(""))),
       "non-finite", "block 1"},
  };
}

TEST_P(CodecTest, WhatNoEncoderWritesIsRefusedWithAReasonAndTheRoundCompletes) {
  for (const bool is_average : {false, true}) {
    for (const Lie& lie : every_lie()) {
      SCOPED_TRACE(lie.name + (is_average ? ", as an average" : ", as a contribution"));
      dissolve();
      make_group(2, [](std::size_t, Member& member, RoundDriverConfig&) { member.format = {Codec::int8}; });
      std::deque<Liar> liars;
      for (std::size_t i = 0; i < 2; ++i) liars.emplace_back(id_of(2)).dial(*io_, address_of(i));
      ASSERT_TRUE(run_until([&] {
        return members_[0]->engine->mesh().peers().size() == 2 && members_[1]->engine->mesh().peers().size() == 2;
      }));
      begin(1, 6 * kChunk, 3);
      const std::uint64_t checksum = kernels::checksum(lie.payload);
      if (is_average) {
        liars[0].send(transport::Average{.round = 1,
                                         .checksum = checksum,
                                         .coverage = 7,
                                         .chunk = 4,
                                         .total_weight = 3,
                                         .codec = lie.codec,
                                         .reducer = 2,
                                         .compression = lie.compression},
                      lie.payload);
      } else {
        liars[0].send(transport::Contribution{.round = 1,
                                              .checksum = checksum,
                                              .chunk = 0,
                                              .weight = 1,
                                              .codec = lie.codec,
                                              .compression = lie.compression},
                      lie.payload);
      }
      ASSERT_TRUE(run_until([&] { return !members_[0]->lost.empty(); }));
      EXPECT_NE(members_[0]->lost[0].find(lie.words), std::string::npos) << members_[0]->lost[0];
      liars[1].abort();
      ASSERT_TRUE(everybody_is_done());
      EXPECT_EQ(members_[0]->report->peers[2].reason, lie.reason);
      EXPECT_EQ(members_[0]->report->peers[1].reason, "");
      for (const Coverage coverage : members_[0]->report->chunks) EXPECT_EQ(coverage, 3U);
      expect_right(1, bound_of(Codec::int8));
      for (Liar& liar : liars) liar.abort();
    }
  }
}

}  // namespace
}  // namespace papilio::node
