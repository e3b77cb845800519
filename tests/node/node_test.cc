// Whole nodes as a trainer sees them: what becomes of its call when it stops the node at an awkward moment.
#include "engine/node/node.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda.h"

namespace papilio {
namespace {

using std::chrono::seconds;

constexpr seconds kBound{60};
constexpr std::uint64_t kElements = 1U << 20U;

std::unique_ptr<Node> start(std::vector<std::string> peers) {
  NodeConfig config;
  config.listen = "127.0.0.1:0";
  config.peers = std::move(peers);
  config.group_size = 2;
  config.elements = kElements;
  config.target_batch = 2;
  auto node = Node::start(std::move(config));
  EXPECT_TRUE(node.ok());
  return std::move(*node);
}

struct Pair {
  Pair() : one(start({})), other(start({one->listen_address()})) {
    EXPECT_TRUE(one->wait_for_group().ok());
    EXPECT_TRUE(other->wait_for_group().ok());
    one->add_samples(1);
    other->add_samples(1);
    EXPECT_TRUE(one->wait_for_round(kBound).round_open);
    EXPECT_TRUE(other->wait_for_round(kBound).round_open);
  }

  // `one` is in the round: it waits for the contributions of `other`.
  std::future<RoundReport> enter_alone() {
    std::future<RoundReport> averaged = one->all_reduce(gradient, 1);
    while (one->progress().round_open) std::this_thread::yield();
    return averaged;
  }

  std::vector<float> gradient = std::vector<float>(kElements, 1.5F);
  std::unique_ptr<Node> one, other;
};

// Where there is a GPU; elsewhere the call says why there is none, and costs nothing.
TEST(Node, AGradientOnAGpuIsAveragedThereOrTheCallSaysWhyNot) {
  Pair pair;
  const std::vector<float> others(kElements, 3.5F);
  std::vector<float> gradient = others;
  DeviceSpan span{.data = gradient.data(), .elements = kElements};
  auto memory = kernels::cuda::Memory::allocate(kernels::cuda::Place::device, kElements * sizeof(float));
  if (memory) {
    ASSERT_TRUE(kernels::cuda::copy(memory->data(), others.data(), memory->size()).ok());
    span.data = memory->as<float>();
  }
  std::future<RoundReport> averaged = pair.other->all_reduce(span, 1);
  if (!memory) {
    const RoundReport report = averaged.get();
    EXPECT_EQ(report.error, "all_reduce: " + kernels::cuda::availability().text);
    EXPECT_TRUE(report.gpu_refused);
    EXPECT_EQ(gradient, others);
    averaged = pair.other->all_reduce(gradient, 1);
  }
  const RoundReport one = pair.one->all_reduce(pair.gradient, 1).get();
  ASSERT_EQ(averaged.wait_for(kBound), std::future_status::ready);
  const RoundReport report = averaged.get();
  EXPECT_EQ(report.error, "");
  EXPECT_TRUE(report.host_values.empty());
  EXPECT_EQ(report.digest, one.digest);
  if (memory) {
    ASSERT_TRUE(kernels::cuda::copy(gradient.data(), memory->data(), memory->size()).ok());
  }
  EXPECT_EQ(gradient, std::vector<float>(kElements, 2.5F));
  EXPECT_EQ(pair.gradient, gradient);
}

TEST(Node, StoppedAmidARoundItReportsAndLeaves) {
  Pair pair;
  std::future<RoundReport> averaged = pair.enter_alone();
  pair.one->stop();
  ASSERT_EQ(averaged.wait_for(kBound), std::future_status::ready);
  const RoundReport report = averaged.get();
  EXPECT_EQ(report.error, "");
  EXPECT_TRUE(report.canceled);
  EXPECT_EQ(report.members, 2U);
  for (const Coverage coverage : report.chunks) EXPECT_LE(std::popcount(coverage), 1) << "nobody else's is in it";
  EXPECT_EQ(pair.gradient, std::vector<float>(kElements, 1.5F));
  pair.one.reset();

  std::vector<float> gradient(kElements, 2.5F);
  std::future<RoundReport> alone = pair.other->all_reduce(gradient, 1);
  ASSERT_EQ(alone.wait_for(kBound), std::future_status::ready);
  const RoundReport rest = alone.get();
  EXPECT_EQ(rest.error, "");
  ASSERT_EQ(rest.peers.size(), 2U);
  for (const PeerReport& peer : rest.peers) EXPECT_FALSE(peer.banned);
}

TEST(Node, DestroyedAmidARoundItAnswersFirst) {
  Pair pair;
  std::future<RoundReport> averaged = pair.enter_alone();
  pair.one.reset();
  ASSERT_EQ(averaged.wait_for(seconds(0)), std::future_status::ready);
  EXPECT_TRUE(averaged.get().canceled);
}

TEST(Node, CanceledAmidARoundItGoesOn) {
  Pair pair;
  std::future<RoundReport> averaged = pair.enter_alone();
  pair.one->cancel();
  ASSERT_EQ(averaged.wait_for(kBound), std::future_status::ready);
  EXPECT_TRUE(averaged.get().canceled);
  EXPECT_EQ(pair.one->progress().local_epoch, 1U);
  EXPECT_FALSE(pair.one->progress().left);
}

TEST(Node, StoppedBeforeARoundItSaysSo) {
  const std::unique_ptr<Node> node = start({});
  std::vector<float> gradient(kElements, 1.5F);
  node->stop();
  const RoundReport report = node->all_reduce(gradient, 1).get();
  EXPECT_NE(report.error.find("stopped"), std::string::npos) << report.error;
}

}  // namespace
}  // namespace papilio
