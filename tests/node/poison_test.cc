// Poisoned numbers over real sockets: NaN, infinities and values that would overflow, sent as contributions and as
// averages by a peer that lies on purpose and by an engine whose gradient exploded. None reaches anybody's gradient,
// the sender is cut off for what it did, and the others end with right averages.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
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
#include "engine/node/engine.hpp"
#include "kernels/ops.h"
#include "transport/io.hpp"

namespace papilio::node {
namespace {

using core::NormAction;
using std::chrono::seconds;
using transport::Header;

constexpr Duration kBound = seconds(60);
constexpr std::size_t kChunkBytes = kMinimumChunkBytes;
constexpr std::uint64_t kChunk = kChunkBytes / sizeof(float);  // elements
constexpr Fingerprint kModel{.low = 17, .high = 4};
constexpr std::size_t kMembers = 4;  // the last one is the bad one
constexpr std::size_t kBad = kMembers - 1;
constexpr ChunkIndex kChunksPerPart = 2;  // member m reduces chunks 2m and 2m + 1
constexpr std::uint64_t kElements = kMembers * kChunksPerPart * kChunk;
constexpr Coverage kEverybody = 15, kGoodOnes = 7;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

PeerId id_of(std::size_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

float input(std::size_t member, std::uint64_t element) {
  const std::uint64_t bits = Random::mix((std::uint64_t{member} << 32U) + element);
  return static_cast<float>(static_cast<double>(bits >> 11U) * 0x1.0p-52 - 1);
}

std::vector<std::byte> bytes_of(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

double norm_of(std::span<const float> values) { return std::sqrt(kernels::inspect(values).sum_of_squares); }

struct Member final : EngineEvents {
  void on_peer_joined(Peer&) override {}
  void on_peer_left(Peer&, PeerLeft, const std::string& why) override { lost.push_back(why); }
  void on_control(Peer&, const Header&) override {}
  void on_round_over(RoundReport each) override { report = std::move(each); }
  void on_refused(const transport::Address&, const std::string&) override {}

  std::unique_ptr<Engine> engine;
  std::optional<RoundReport> report;
  std::vector<std::string> lost;  // why
  std::vector<float> gradient;
};

// A connection of a member that is no engine: it sends what the test wants.
class Liar final : private transport::FlowEvents {
 public:
  Liar() : flow_(*this) {}

  void dial(transport::Io& io, const transport::Address& address) { flow_.dial(io, address, {}); }
  void contribute(ChunkIndex chunk, std::span<const float> values, float weight = 1) {
    const auto payload = bytes_of(values);
    send(transport::Contribution{.round = 1, .checksum = kernels::checksum(payload), .chunk = chunk, .weight = weight},
         payload);
  }
  void average(ChunkIndex chunk, std::span<const float> values) {
    const auto payload = bytes_of(values);
    transport::Average header{.round = 1, .checksum = kernels::checksum(payload)};
    header.coverage = kEverybody;
    header.chunk = chunk;
    header.total_weight = kMembers;
    header.reducer = kBad;
    send(header, payload);
  }
  void abort() { flow_.abort(); }
  [[nodiscard]] bool is_closed() const { return closed_; }

 private:
  void send(const Header& header, std::vector<std::byte> payload) {
    transport::HeaderBytes bytes;
    transport::encode_frame_header(header, payload.size(), bytes);
    outbox_.emplace_back(std::move(bytes), std::move(payload));
    flow_.wake_sender();
  }

  void on_flow_connected(transport::Flow&) override {
    flow_.send_control(transport::Hello{.peer = id_of(kBad), .fingerprint = kModel, .run_id = "test", .flows = 1});
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
  void on_flow_closed(transport::Flow&) override { closed_ = true; }

  transport::Flow flow_;
  bool linked_ = false, closed_ = false;
  std::deque<std::pair<transport::HeaderBytes, std::vector<std::byte>>> outbox_;
  std::vector<std::byte> payload_;
};

// Engines that are all linked, and where there is one engine less than members, a liar for the last. One round.
class Group {
 public:
  Group(transport::IoBackend backend, std::size_t engines, const core::NormPolicyConfig& norms = {}) {
    std::string why;
    io_ = std::move(transport::make_io(backend, &why)).value();
    for (std::size_t i = 0; i < engines; ++i) add_engine(i, norms);
    if (engines < kMembers) {
      for (const auto& member : members_) liars_.emplace_back().dial(*io_, address_of(*member));
    }
    linked_ = run_until([&] {
      return std::all_of(members_.begin(), members_.end(),
                         [](const auto& each) { return each->engine->mesh().peers().size() == kMembers - 1; });
    });
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    for (Liar& liar : liars_) liar.abort();
    for (const auto& member : members_) member->engine->leave("the test is over", seconds(5));
    EXPECT_TRUE(run_until([&] { return io_->open_handles() == 0; }));
  }

  [[nodiscard]] bool is_linked() const { return linked_; }
  [[nodiscard]] Member& member(std::size_t index) { return *members_[index]; }
  [[nodiscard]] Liar& liar(std::size_t towards) { return liars_[towards]; }
  [[nodiscard]] std::span<const float> chunk(std::size_t index, ChunkIndex chunk) {
    return std::span<const float>(member(index).gradient).subspan(chunk * kChunk, kChunk);
  }
  [[nodiscard]] const std::string& reason(std::size_t at) { return member(at).report->peers[kBad].reason; }

  // `change`: what is to be different from input() in the bad member's gradient, if that is an engine.
  void begin(const std::function<void(std::span<float>)>& change = {}, double bad_weight = 1) {
    RoundSpec spec{.round = 1, .epoch = 1, .members = {}, .chunk_bytes = kChunkBytes, .timeout = seconds(50)};
    for (std::size_t i = 0; i < kMembers; ++i) spec.members.push_back({.peer = id_of(i), .reduces = true});
    for (std::size_t i = 0; i < members_.size(); ++i) {
      std::vector<float>& gradient = member(i).gradient;
      gradient.resize(kElements);
      for (std::uint64_t k = 0; k < kElements; ++k) gradient[k] = input(i, k);
      if (i == kBad && change) change(gradient);
      member(i).engine->begin_round(spec, gradient, i == kBad ? bad_weight : 1.0);
    }
  }
  // For the good members; the bad one may have been shut out.
  [[nodiscard]] bool good_ones_are_done() {
    return run_until([&] {
      return std::all_of(members_.begin(), members_.begin() + kBad,
                         [](const auto& each) { return each->report.has_value(); });
    });
  }

  // A member's chunk is what its report says: its own values, or the average over honest inputs of those listed.
  void expect_as_reported(std::size_t index, ChunkIndex which) {
    const Coverage coverage = member(index).report->chunks[which];
    std::uint64_t wrong = 0;
    for (std::uint64_t i = which * kChunk; i < (which + 1) * kChunk; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < kMembers; ++j) sum += (coverage >> j & 1U) != 0 ? double{input(j, i)} : 0;
      const double wanted = coverage == 0 ? double{input(index, i)} : sum / std::popcount(coverage);
      wrong += std::abs(double{member(index).gradient[i]} - wanted) <= 1e-6 ? 0U : 1U;  // NaN is wrong, too
    }
    EXPECT_EQ(wrong, 0U) << "member " << index << ", chunk " << which << ", coverage " << coverage;
  }
  // Nothing of the bad member counts in this chunk, the good ones average it among themselves, and rightly.
  void expect_without_the_bad_one(ChunkIndex which) {
    for (std::size_t index = 0; index < kBad; ++index) {
      EXPECT_EQ(member(index).report->chunks[which], kGoodOnes);
      expect_as_reported(index, which);
    }
  }
  // Whoever sees a bad average says what is wrong with it. When two have, the reducer is condemned: the third may hear
  // of that before it has looked for itself.
  void expect_reducer_cut_off_for(const std::string& wanted) {
    int seen = 0;
    for (std::size_t index = 0; index < kBad; ++index) {
      seen += reason(index) == wanted ? 1 : 0;
      EXPECT_TRUE(reason(index) == wanted || reason(index) == "condemned") << reason(index);
    }
    EXPECT_GE(seen, 2);
  }

 private:
  void add_engine(std::size_t index, const core::NormPolicyConfig& norms) {
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
    rounds.norms = norms;
    EngineEvents& events = member;
    member.engine = std::make_unique<Engine>(*io_, mesh, rounds, events);
    EXPECT_TRUE(member.engine->start().ok());
    for (std::size_t j = 0; j < index; ++j) member.engine->mesh().add_address(address_of(*members_[j]));
  }
  static transport::Address address_of(Member& member) { return *member.engine->mesh().listen_address(); }

  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      TimePoint until = bound;
      for (const auto& member : members_) until = std::min(until, member->engine->next_deadline());
      io_->run_once(until);
      for (const auto& member : members_) member->engine->handle_time(io_->now());
    }
    return true;
  }

  std::unique_ptr<transport::Io> io_;
  std::vector<std::unique_ptr<Member>> members_;
  std::deque<Liar> liars_;  // one connection to every engine
  bool linked_ = false;
};

std::vector<float> honest(ChunkIndex chunk, std::size_t member = kBad) {
  std::vector<float> values(kChunk);
  for (std::uint64_t i = 0; i < kChunk; ++i) values[i] = input(member, chunk * kChunk + i);
  return values;
}
std::vector<float> honest_average(ChunkIndex chunk) {
  std::vector<float> values(kChunk);
  for (std::uint64_t i = 0; i < kChunk; ++i) {
    double sum = 0;
    for (std::size_t each = 0; each < kMembers; ++each) sum += double{input(each, chunk * kChunk + i)};
    values[i] = static_cast<float>(sum / kMembers);
  }
  return values;
}

struct Poison {
  float value = 0;
  std::uint64_t element = 0;
  float weight = 1;
};
// One bad element in the chunk, at its ends and between.
const std::vector<Poison> kPoisons = {
    {std::bit_cast<float>(0x7fc00000U), 0},
    {std::bit_cast<float>(0xff800001U), kChunk - 1},  // a signalling NaN
    {std::bit_cast<float>(0x7fffffffU), 12'345},
    {kInfinity, kChunk - 1},
    {-kInfinity, 0},
    {kLargest, 7},
    {-kLargest, 8},
};

class PoisonTest : public testing::TestWithParam<transport::IoBackend> {};

std::vector<transport::IoBackend> backends() {
  std::vector<transport::IoBackend> list = {transport::IoBackend::uv};
  if (transport::make_io(transport::IoBackend::uring, nullptr).ok()) list.push_back(transport::IoBackend::uring);
  return list;
}
INSTANTIATE_TEST_SUITE_P(Backends, PoisonTest, testing::ValuesIn(backends()),
                         [](const testing::TestParamInfo<transport::IoBackend>& backend) {
                           return backend.param == transport::IoBackend::uring ? "uring" : "uv";
                         });

// To every engine, the liar's first contribution is good and its second is not.
void expect_contribution_is_refused(Group& group, const Poison& poison) {
  group.begin();
  for (std::size_t i = 0; i < kBad; ++i) {
    const auto first = static_cast<ChunkIndex>(kChunksPerPart * i);
    group.liar(i).contribute(first, honest(first), poison.weight);
    std::vector<float> values = honest(first + 1);
    values[poison.element] = poison.value;
    group.liar(i).contribute(first + 1, values, poison.weight);
  }
  ASSERT_TRUE(group.good_ones_are_done());
  for (std::size_t i = 0; i < kBad; ++i) {
    EXPECT_EQ(group.reason(i), "non-finite");
    EXPECT_EQ(group.member(i).report->peers[kBad].contributions_in, 1U);
    const auto named = std::any_of(group.member(i).lost.begin(), group.member(i).lost.end(), [&](const auto& why) {
      return why.find("element " + std::to_string(poison.element) + " of its contribution of chunk " +
                      std::to_string(kChunksPerPart * i + 1)) != std::string::npos;
    });
    EXPECT_TRUE(named) << testing::PrintToString(group.member(i).lost);
    for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kBad; chunk += kChunksPerPart) {
      if (poison.weight == 1) {
        EXPECT_EQ(group.member(i).report->chunks[chunk], kEverybody);  // one before still counts
        group.expect_as_reported(i, chunk);
      }
    }
  }
  for (ChunkIndex part = 0; part < kMembers; ++part) group.expect_without_the_bad_one(kChunksPerPart * part + 1);
}

TEST_P(PoisonTest, AContributionNeverReachesAnAverage) {
  for (const Poison& poison : kPoisons) {
    SCOPED_TRACE(std::to_string(poison.value));
    Group group(GetParam(), kBad);
    ASSERT_TRUE(group.is_linked());
    expect_contribution_is_refused(group, poison);
    if (HasFatalFailure()) return;
  }
}

// Values that are finite, and with this weight would not stay so.
TEST_P(PoisonTest, WhatOnlyTheWeightWouldOverflowIsRefused) {
  for (const Poison& poison : std::vector<Poison>{
           {std::nextafter(core::kLargestTerm, kLargest), 5, 1},
           {std::nextafter(core::largest_element(1000), kLargest), 6, 1000},
           {-1e28F, 7, 1e9F},
           {std::nextafter(core::kLargestTerm, kLargest), 8, static_cast<float>(core::kMinimumWeight)},
       }) {
    SCOPED_TRACE(std::to_string(poison.weight));
    Group group(GetParam(), kBad);
    ASSERT_TRUE(group.is_linked());
    expect_contribution_is_refused(group, poison);
    if (HasFatalFailure()) return;
  }
}

TEST_P(PoisonTest, TheLargestThatIsAllowedIsAveraged) {
  for (const float weight : {1.0F, 1000.0F, 1e9F}) {
    Group group(GetParam(), kBad);
    ASSERT_TRUE(group.is_linked());
    group.begin();
    const float most = core::largest_element(weight);
    const std::vector<float> values(kChunk, -most);
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex k = 0; k < kChunksPerPart; ++k) {
        group.liar(i).contribute(static_cast<ChunkIndex>(kChunksPerPart * i + k), values, weight);
      }
      group.liar(i).average(kChunksPerPart * kBad, std::vector<float>(kChunk, core::kLargestAverage));
      group.liar(i).average(kChunksPerPart * kBad + 1, honest_average(kChunksPerPart * kBad + 1));
      group.liar(i).contribute(static_cast<ChunkIndex>(kElements), values, weight);  // ends its part in this
    }
    ASSERT_TRUE(group.good_ones_are_done());
    for (std::size_t i = 0; i < kBad; ++i) {
      const double wanted = -double{most} * double{weight} / (double{weight} + kBad);
      for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kBad; ++chunk) {
        EXPECT_EQ(group.member(i).report->chunks[chunk], kEverybody);
        for (const float value : group.chunk(i, chunk)) ASSERT_NEAR(double{value} / wanted, 1, 1e-5);
      }
      for (const float value : group.chunk(i, kChunksPerPart * kBad)) ASSERT_EQ(value, core::kLargestAverage);
      group.expect_as_reported(i, kChunksPerPart * kBad + 1);
    }
  }
}

// Everything that the liar contributes is right, and so is its first average.
TEST_P(PoisonTest, AnAverageIsNotWrittenOverTheLocalValues) {
  std::vector<Poison> poisons = kPoisons;
  poisons.push_back({std::nextafter(core::kLargestAverage, kLargest), 9});
  for (const Poison& poison : poisons) {
    SCOPED_TRACE(std::to_string(poison.value));
    Group group(GetParam(), kBad);
    ASSERT_TRUE(group.is_linked());
    group.begin();
    const ChunkIndex first = kChunksPerPart * kBad;
    std::vector<float> values = honest_average(first + 1);
    values[poison.element] = poison.value;
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex k = 0; k < kChunksPerPart; ++k) {
        const auto chunk = static_cast<ChunkIndex>(kChunksPerPart * i + k);
        group.liar(i).contribute(chunk, honest(chunk));
      }
      group.liar(i).average(first, honest_average(first));
      group.liar(i).average(first + 1, values);
    }
    ASSERT_TRUE(group.good_ones_are_done());
    group.expect_reducer_cut_off_for("non-finite");
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex chunk = 0; chunk <= first; ++chunk) {
        EXPECT_EQ(group.member(i).report->chunks[chunk], kEverybody);
        group.expect_as_reported(i, chunk);
      }
    }
    group.expect_without_the_bad_one(first + 1);
  }
}

// Not a liar but a member whose training went wrong: the engine trusts its caller here, the others do not.
TEST_P(PoisonTest, AnExplodedGradientStaysItsOwners) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), kInfinity, kLargest}) {
    Group group(GetParam(), kMembers);
    ASSERT_TRUE(group.is_linked());
    group.begin([&](std::span<float> gradient) { std::fill(gradient.begin(), gradient.end(), value); });
    ASSERT_TRUE(group.good_ones_are_done());
    for (std::size_t i = 0; i < kBad; ++i) EXPECT_EQ(group.reason(i), "non-finite");
    for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kMembers; ++chunk) group.expect_without_the_bad_one(chunk);
  }
}

// ---- the norm policy

TEST_P(PoisonTest, ANormPolicyChangesNothingAmongTheHonest) {
  for (const NormAction action : {NormAction::clip, NormAction::refuse}) {
    Group group(GetParam(), kMembers, {.action = action, .limit = 2});
    ASSERT_TRUE(group.is_linked());
    group.begin();
    ASSERT_TRUE(group.good_ones_are_done());
    for (std::size_t i = 0; i < kBad; ++i) {
      EXPECT_EQ(group.reason(i), "");
      EXPECT_EQ(group.member(i).report->peers[kBad].contributions_clipped, 0U);
      EXPECT_EQ(group.member(i).report->coverage, 1);
      for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kMembers; ++chunk) group.expect_as_reported(i, chunk);
    }
  }
}

void scale_up(std::span<float> gradient) {
  for (float& value : gradient) value *= 1e6F;
}

TEST_P(PoisonTest, WildContributionsAreRefused) {
  Group group(GetParam(), kMembers, {.action = NormAction::refuse, .limit = 4});
  ASSERT_TRUE(group.is_linked());
  group.begin(scale_up);
  ASSERT_TRUE(group.good_ones_are_done());
  for (std::size_t i = 0; i < kBad; ++i) EXPECT_EQ(group.reason(i), "wild-norm");
  for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kMembers; ++chunk) group.expect_without_the_bad_one(chunk);
}

// What is left of a wild contribution is `limit` times the group's norm in its own direction, and the average over all
// counts its whole weight.
TEST_P(PoisonTest, WildContributionsAreClipped) {
  for (const float weight : {1.0F, 100.0F}) {
    constexpr double kLimit = 4;
    Group group(GetParam(), kBad, {.action = NormAction::clip, .limit = kLimit});
    ASSERT_TRUE(group.is_linked());
    group.begin();
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex k = 0; k < kChunksPerPart; ++k) {
        const auto chunk = static_cast<ChunkIndex>(kChunksPerPart * i + k);
        std::vector<float> values = honest(chunk);
        scale_up(values);
        group.liar(i).contribute(chunk, values, weight);
      }
      for (ChunkIndex k = 0; k < kChunksPerPart; ++k) {
        group.liar(i).average(kChunksPerPart * kBad + k, honest_average(kChunksPerPart * kBad + k));
      }
      group.liar(i).contribute(static_cast<ChunkIndex>(kElements), honest(0), weight);  // ends its part in this
    }
    ASSERT_TRUE(group.good_ones_are_done());
    for (std::size_t i = 0; i < kBad; ++i) {
      EXPECT_EQ(group.member(i).report->peers[kBad].contributions_clipped, kChunksPerPart);
      for (ChunkIndex chunk = 0; chunk < kChunksPerPart * kBad; ++chunk) {
        EXPECT_EQ(group.member(i).report->chunks[chunk], kEverybody);
        // All norms are alike here, within a percent or so; which one is the median depends on who came first.
        const std::vector<float> wild = honest(chunk);
        const double factor = kLimit * norm_of(honest(chunk, 0)) / norm_of(wild);
        for (std::uint64_t k = 0; k < kChunk; ++k) {
          double sum = double{weight} * factor * double{wild[k]};
          for (std::size_t each = 0; each < kBad; ++each) sum += double{input(each, chunk * kChunk + k)};
          ASSERT_NEAR(double{group.chunk(i, chunk)[k]}, sum / (double{weight} + kBad), 0.1);
        }
        EXPECT_TRUE(std::ranges::equal(group.chunk(i, chunk), group.chunk(0, chunk)));
      }
    }
  }
}

// A member's own explosion is in the averages of its part, where nobody can take it out.
TEST_P(PoisonTest, AWildAverageIsRefused) {
  for (const NormAction action : {NormAction::clip, NormAction::refuse}) {
    Group group(GetParam(), kBad, {.action = action, .limit = 4});
    ASSERT_TRUE(group.is_linked());
    group.begin();
    const ChunkIndex first = kChunksPerPart * kBad;
    std::vector<float> wild = honest_average(first + 1);
    for (float& value : wild) value *= 64;  // 16 times the own norm is allowed; an average of 4 has about half of it
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex k = 0; k < kChunksPerPart; ++k) {
        const auto chunk = static_cast<ChunkIndex>(kChunksPerPart * i + k);
        group.liar(i).contribute(chunk, honest(chunk));
      }
      group.liar(i).average(first, honest_average(first));
      group.liar(i).average(first + 1, wild);
    }
    ASSERT_TRUE(group.good_ones_are_done());
    group.expect_reducer_cut_off_for("wild-norm");
    for (std::size_t i = 0; i < kBad; ++i) {
      for (ChunkIndex chunk = 0; chunk <= first; ++chunk) group.expect_as_reported(i, chunk);
    }
    group.expect_without_the_bad_one(first + 1);
  }
}

// ---- this node's own numbers

std::unique_ptr<Node> start_alone(std::uint64_t elements) {
  NodeConfig config;
  config.listen = "127.0.0.1:0";
  config.elements = elements;
  auto node = Node::start(config);
  EXPECT_TRUE(node.ok());
  return std::move(*node);
}

TEST(OwnNumbers, ABadGradientIsRefusedAtOnceAndUntouched) {
  constexpr std::size_t kCount = 1000;
  const std::unique_ptr<Node> node = start_alone(kCount);
  struct Case {
    float value;
    double weight;
    std::string text;
  };
  for (const Case& each : std::vector<Case>{{std::numeric_limits<float>::quiet_NaN(), 1, "is nan"},
                                            {kInfinity, 1, "is inf"},
                                            {-kInfinity, 1, "is -inf"},
                                            {kLargest, 1, "is 3.4028"},
                                            {1e28F, 1e9, "is 9.99999944e+27"}}) {
    std::vector<float> gradient(kCount, 1.5F);
    gradient[737] = each.value;
    gradient[900] = each.value;
    const std::vector<std::byte> before = bytes_of(gradient);
    const RoundReport report = node->all_reduce(gradient, each.weight).get();
    EXPECT_NE(report.error.find("element 737 of the gradient"), std::string::npos) << report.error;
    EXPECT_NE(report.error.find(each.text), std::string::npos) << report.error;
    EXPECT_EQ(bytes_of(gradient), before);
  }
  // And the next one is averaged: the refusals left nothing behind.
  std::vector<float> gradient(kCount, 1.5F);
  const RoundReport report = node->all_reduce(gradient, 3).get();
  EXPECT_EQ(report.error, "");
  EXPECT_EQ(report.coverage, 1);
}

TEST(OwnNumbers, WeightsFromBothSidesOfTheirLimits) {
  const std::unique_ptr<Node> node = start_alone(10);
  std::vector<float> gradient(10, 1.5F);
  for (const double weight : {1e-9, std::nextafter(1e-9, 1.0), 1e9, std::nextafter(1e9, 0.0), 0.1}) {
    EXPECT_EQ(node->all_reduce(gradient, weight).get().error, "") << weight;
    EXPECT_EQ(gradient, std::vector<float>(10, 1.5F));
  }
  for (const double weight : {0.0, -0.0, -1.0, 9e-10, 1.0001e9, std::numeric_limits<double>::infinity(),
                              -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::denorm_min(), std::numeric_limits<double>::max()}) {
    const std::string error = node->all_reduce(gradient, weight).get().error;
    EXPECT_NE(error.find("is not between 1e-9 and 1e9"), std::string::npos) << weight << ": " << error;
  }
}

TEST(OwnNumbers, APolicyThatIsNoneIsNamed) {
  NodeConfig config;
  config.listen = "127.0.0.1:0";
  config.norm_policy = "maybe";
  auto node = Node::start(config);
  ASSERT_FALSE(node.ok());
  EXPECT_NE(node.error().message.find("norm-policy: 'maybe'"), std::string::npos) << node.error().message;
  config.norm_policy = "clip";
  for (const double limit : {0.5, 2e6, std::numeric_limits<double>::quiet_NaN()}) {
    config.norm_limit = limit;
    node = Node::start(config);
    ASSERT_FALSE(node.ok());
    EXPECT_NE(node.error().message.find("norm-limit: "), std::string::npos) << node.error().message;
  }
}

}  // namespace
}  // namespace papilio::node
