// Training over the engine itself: several nodes of one process on the loopback, real sockets, both backends. What
// trainer_test.cc shows with an exact fake has to hold here too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/node/node.hpp"
#include "engine/training/trainer.hpp"
#include "kernels/ops.h"

namespace papilio::training {
namespace {

constexpr std::size_t kContext = 16;
constexpr std::uint64_t kSteps = 20;
constexpr std::uint64_t kBatch = 32;
// As in trainer_test.cc; the engine sums in float and in the order of arrival, so there is one more source of rounding.
constexpr double kTolerance = 1e-4;

const Corpus& corpus() {
  static const Corpus loaded = Corpus::load_default(kContext).value();
  return loaded;
}

std::unique_ptr<Learner> make_learner() {
  const ModelSettings model{.name = "tiny", .layers = 1, .width = 32, .heads = 2, .context = kContext, .seed = 7};
  return Learner::create(model, {.learning_rate = 3e-3, .warmup_steps = 5}, corpus().symbols().size()).value();
}

Fingerprint fingerprint_of(const Learner& learner) {
  std::vector<ParameterShape> shapes;
  for (const Parameter& parameter : learner.parameters()) shapes.push_back({parameter.name, parameter.shape});
  return model_fingerprint("real-nodes-test", shapes);
}

struct Recorder final : TrainerEvents {
  void on_progress(std::uint64_t, const GroupProgress&) override {}
  void on_round(const RoundLine& line) override { lines.push_back(line); }
  void on_failed_round(std::uint64_t, const std::string& reason) override { ADD_FAILURE() << reason; }
  std::vector<RoundLine> lines;
};

struct Member {
  std::unique_ptr<Learner> learner = make_learner();  // outlives the node
  std::unique_ptr<Node> node;
  Recorder recorder;
  std::optional<Result<bool>> end;
};

// The first node listens on a port that the system chooses; every later one dials all before it.
std::vector<Member> start_group(std::uint32_t count, const std::string& transport, bool last_is_client,
                                const std::string& codec = "fp32") {
  std::vector<Member> members(count);
  std::vector<std::string> addresses;
  for (std::uint32_t slot = 0; slot < count; ++slot) {
    NodeConfig config;
    config.run_id = "real-nodes-test";
    config.fingerprint = fingerprint_of(*members[slot].learner);
    const bool client = last_is_client && slot + 1 == count;
    config.role = client ? Role::client : Role::miner;
    if (!client) config.listen = "127.0.0.1:0";
    config.peers = addresses;
    config.group_size = count;
    config.elements = members[slot].learner->gradient().size();
    config.target_batch = kBatch;
    config.transport = transport;
    config.codec = codec;
    auto node = Node::start(config);
    EXPECT_TRUE(node.ok()) << node.error().message;
    if (!node) return {};
    members[slot].node = std::move(node).value();
    if (!client) addresses.push_back(members[slot].node->listen_address());
  }
  return members;
}

void train_together(std::vector<Member>& members, const std::vector<Share>& shares, std::uint64_t steps = kSteps) {
  std::vector<std::thread> threads;
  for (std::uint32_t slot = 0; slot < members.size(); ++slot) {
    threads.emplace_back([&, slot] {
      Member& member = members[slot];
      const auto count = static_cast<std::uint32_t>(members.size());
      TrainerSettings settings{.steps = steps,
                               .target_batch = kBatch,
                               .micro_batch = 4,
                               .seed = 3,
                               .slot = slot,
                               .slots = count,
                               .exact_shares = true};
      settings.share = shares.empty() ? share_of(kBatch, slot, count) : shares[slot];
      if (Status here = member.node->wait_for_group(); !here) {
        member.end = Result<bool>(here.error());
        return;
      }
      member.end = Trainer(*member.learner, corpus(), *member.node, settings, member.recorder).run();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

double group_loss(const std::vector<Member>& members, std::size_t round) {
  double sum = 0, samples = 0;
  for (const Member& member : members) {
    const RoundLine& line = member.recorder.lines.at(round);
    sum += line.loss * static_cast<double>(line.samples);
    samples += static_cast<double>(line.samples);
  }
  return sum / samples;
}

// One process taking the whole batch, without any engine.
std::vector<double> losses_of_single_process() {
  const auto learner = make_learner();
  const Sampler sampler(3, corpus().windows(), kBatch, 0, 1, share_of(kBatch, 0, 1));
  std::vector<double> losses;
  std::vector<std::int64_t> inputs(kBatch * kContext), targets(kBatch * kContext);
  for (std::uint64_t epoch = 0; epoch < kSteps; ++epoch) {
    for (std::uint64_t row = 0; row < kBatch; ++row) {
      corpus().window(sampler.offset(sampler.index(epoch, row)), std::span(inputs).subspan(row * kContext, kContext),
                      std::span(targets).subspan(row * kContext, kContext));
    }
    learner->clear_gradient();
    losses.push_back(learner->accumulate(inputs, targets, kBatch).value() / static_cast<double>(kBatch));
    learner->scale_gradient(1.0F / static_cast<float>(kBatch));
    EXPECT_TRUE(learner->step().ok());
  }
  return losses;
}

void expect_group_follows_single_process(std::vector<Member> members, const std::vector<Share>& shares) {
  ASSERT_FALSE(members.empty());
  train_together(members, shares);
  const std::vector<double> single = losses_of_single_process();
  for (const Member& member : members) {
    ASSERT_TRUE(member.end && member.end->ok()) << member.end->error().message;
    ASSERT_TRUE(**member.end);
    ASSERT_EQ(member.recorder.lines.size(), kSteps);
    EXPECT_EQ(member.learner->digest(), members[0].learner->digest());
    for (const RoundLine& line : member.recorder.lines) {
      EXPECT_EQ(line.local_chunks, 0U);
      EXPECT_DOUBLE_EQ(line.coverage, 1.0);
      EXPECT_EQ(line.global_samples, kBatch);
      EXPECT_TRUE(line.cut_off.empty());
    }
  }
  for (std::size_t round = 0; round < kSteps; ++round) {
    EXPECT_NEAR(group_loss(members, round), single[round], kTolerance) << "round " << round;
  }
}

class RealNodes : public ::testing::TestWithParam<std::string> {};

TEST_P(RealNodes, FourFollowOneProcessWithTheSameBatch) {
  expect_group_follows_single_process(start_group(4, GetParam(), false), {});
}

TEST_P(RealNodes, FourWithUnequalWeightsFollowOneProcess) {
  expect_group_follows_single_process(start_group(4, GetParam(), false), {{0, 1}, {1, 17}, {18, 5}, {23, 9}});
}

TEST_P(RealNodes, AClientCountsLikeTheOthers) {
  expect_group_follows_single_process(start_group(3, GetParam(), true), {});
}

TEST_P(RealNodes, TwoThreeFiveAndEight) {
  for (const std::uint32_t count : {2U, 3U, 5U, 8U}) {
    SCOPED_TRACE(count);
    expect_group_follows_single_process(start_group(count, GetParam(), false), {});
  }
}

// The mean loss of the group over the last fifth of its rounds: single rounds scatter with their samples.
double final_loss(const std::string& transport, const std::string& codec, std::uint64_t steps) {
  std::vector<Member> members = start_group(4, transport, false, codec);
  train_together(members, {}, steps);
  double sum = 0;
  const std::uint64_t last = steps / 5;
  for (std::uint64_t round = steps - last; round < steps; ++round) sum += group_loss(members, round);
  for (const Member& member : members) {
    EXPECT_EQ(member.learner->digest(), members[0].learner->digest()) << codec;
    for (const RoundLine& line : member.recorder.lines) EXPECT_EQ(line.local_chunks, 0U);
  }
  return sum / static_cast<double>(last);
}

TEST_P(RealNodes, EncodedGradientsReachTheLossOfExactOnes) {
  constexpr std::uint64_t kManySteps = 120;
  const double exact = final_loss(GetParam(), "fp32", kManySteps);
  EXPECT_LT(exact, 0.8 * std::log(static_cast<double>(corpus().symbols().size())));  // it learns
  for (const char* codec : {"int8", "int8+zstd", "bf16"}) {
    EXPECT_NEAR(final_loss(GetParam(), codec, kManySteps), exact, 0.02 * exact) << codec;
  }
}

// The stated bounds hold on a real gradient, whose blocks are far from alike.
TEST(RealGradients, AreWithinTheCodecsBounds) {
  const auto learner = make_learner();
  const Sampler sampler(3, corpus().windows(), kBatch, 0, 1, share_of(kBatch, 0, 1));
  std::vector<std::int64_t> inputs(kContext), targets(kContext);
  for (std::uint64_t row = 0; row < 8; ++row) {
    corpus().window(sampler.offset(sampler.index(0, row)), inputs, targets);
    ASSERT_TRUE(learner->accumulate(inputs, targets, 1).ok());
  }
  const std::span<const float> gradient = learner->gradient();
  for (const kernels::Codec codec : kernels::kCodecs) {
    std::vector<std::byte> bytes(kernels::encoded_bytes(codec, gradient.size()));
    std::vector<float> decoded(gradient.size());
    kernels::encode(codec, gradient, bytes);
    ASSERT_EQ(kernels::decode(codec, bytes, decoded, std::numeric_limits<float>::max()), kernels::NumberFault::none);
    std::uint64_t beyond = 0;
    for (std::size_t begin = 0; begin < gradient.size(); begin += kernels::kInt8Block) {
      const std::size_t end = std::min(begin + kernels::kInt8Block, gradient.size());
      float largest = 0;
      for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(gradient[i]));
      for (std::size_t i = begin; i < end; ++i) {
        const double error = std::abs(static_cast<double>(decoded[i]) - static_cast<double>(gradient[i]));
        beyond += error <= kernels::error_bound(codec, gradient[i], largest) ? 0U : 1U;
      }
    }
    EXPECT_EQ(beyond, 0U) << kernels::to_string(codec);
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, RealNodes, ::testing::Values("uv", "uring"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace papilio::training
