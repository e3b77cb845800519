#include "engine/training/trainer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/training/fake_node.hpp"

namespace papilio::training {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kContext = 16;

ModelSettings tiny_model() {
  return {.name = "tiny", .layers = 1, .width = 32, .heads = 2, .context = kContext, .seed = 7};
}

const Corpus& corpus() {
  static const Corpus loaded = Corpus::load_default(kContext).value();
  return loaded;
}

std::unique_ptr<Learner> make_learner() {
  const OptimiserSettings optimiser{.learning_rate = 3e-3, .warmup_steps = 5};
  return Learner::create(tiny_model(), optimiser, corpus().symbols().size()).value();
}

class Recorder final : public TrainerEvents {
 public:
  void on_progress(std::uint64_t, const GroupProgress& progress) override {
    ++looks;
    if (on_look) on_look(progress);
  }
  void on_round(const RoundLine& line) override { lines.push_back(line); }
  void on_failed_round(std::uint64_t, const std::string&) override { ++failed_rounds; }

  std::function<void(const GroupProgress&)> on_look;
  std::uint64_t looks = 0;
  std::uint64_t failed_rounds = 0;
  std::vector<RoundLine> lines;
};

// One member's run: its learner, its trainer and what came out.
struct Member {
  std::unique_ptr<Learner> learner = make_learner();
  Recorder recorder;
  std::optional<Result<bool>> end;

  void train(Node& node, const TrainerSettings& settings) {
    Trainer trainer(*learner, corpus(), node, settings, recorder);
    end = trainer.run();
  }
  [[nodiscard]] bool finished() const { return end && end->ok() && **end; }
};

// As many trainers as `settings`, each in its thread, over one exact group.
std::vector<Member> train_together(FakeGroup& group, const std::vector<TrainerSettings>& settings) {
  std::vector<Member> runs(settings.size());
  std::vector<std::thread> threads;
  for (std::uint32_t slot = 0; slot < runs.size(); ++slot) {
    threads.emplace_back([&, slot] { runs[slot].train(group.node(slot), settings[slot]); });
  }
  for (std::thread& thread : threads) thread.join();
  return runs;
}

std::vector<TrainerSettings> even_settings(std::uint32_t slots, std::uint64_t steps, std::uint64_t batch, bool exact) {
  std::vector<TrainerSettings> all;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    all.push_back({.steps = steps,
                   .target_batch = batch,
                   .micro_batch = 4,
                   .seed = 3,
                   .slot = slot,
                   .slots = slots,
                   .exact_shares = exact});
  }
  return all;
}

// The group's loss of one round: every member's, weighted by its samples.
double group_loss(const std::vector<Member>& runs, std::size_t round) {
  double sum = 0, samples = 0;
  for (const Member& run : runs) {
    const RoundLine& line = run.recorder.lines.at(round);
    sum += line.loss * static_cast<double>(line.samples);
    samples += static_cast<double>(line.samples);
  }
  return sum / samples;
}

// The same sums in another order: roundings differ, and AdamW divides by the square root of tiny second moments, which
// magnifies them. Over 20 steps with losses of 2 to 5 nats the largest difference seen is 2.1e-7, less than one unit in
// the last place of such a float; this leaves room for machines whose kernels add in yet another order.
constexpr double kTolerance = 1e-5;
constexpr std::uint64_t kSteps = 20;

void expect_group_follows_single_process(const std::vector<TrainerSettings>& settings) {
  const std::uint64_t batch = settings[0].target_batch;
  FakeGroup alone(1, batch);
  const auto single = train_together(alone, even_settings(1, kSteps, batch, true));
  FakeGroup group(static_cast<std::uint32_t>(settings.size()), batch);
  const auto together = train_together(group, settings);

  for (const Member& run : together) {
    ASSERT_TRUE(run.finished());
    ASSERT_EQ(run.recorder.lines.size(), kSteps);
    EXPECT_EQ(run.learner->digest(), together[0].learner->digest());
  }
  ASSERT_TRUE(single[0].finished());
  for (std::size_t round = 0; round < kSteps; ++round) {
    EXPECT_NEAR(group_loss(together, round), group_loss(single, round), kTolerance) << "round " << round;
    EXPECT_EQ(together[0].recorder.lines[round].global_samples, batch);
  }
  EXPECT_LT(group_loss(single, kSteps - 1), group_loss(single, 0) - 0.5);
}

// A learner whose gradient is on a GPU, as far as anybody can tell who sees it through the interface only.
class LearnerOnGpu final : public Learner {
 public:
  explicit LearnerOnGpu(std::unique_ptr<Learner> inner) : inner_(std::move(inner)) {}
  const std::vector<Parameter>& parameters() const override { return inner_->parameters(); }
  std::size_t context() const override { return inner_->context(); }
  Result<double> accumulate(std::span<const std::int64_t> inputs, std::span<const std::int64_t> targets,
                            std::size_t samples) override {
    return inner_->accumulate(inputs, targets, samples);
  }
  std::span<float> gradient() override {
    copies_out += 1;
    const std::span<float> values = inner_->gradient();
    host_.assign(values.begin(), values.end());
    return host_;
  }
  std::optional<DeviceSpan> device_gradient() override {
    return DeviceSpan{.data = inner_->gradient().data(), .elements = inner_->gradient().size()};
  }
  Status set_gradient(std::span<const float> values) override {
    copies_in += 1;
    std::copy(values.begin(), values.end(), inner_->gradient().begin());
    return Done{};
  }
  void clear_gradient() override { inner_->clear_gradient(); }
  void scale_gradient(float factor) override { inner_->scale_gradient(factor); }
  Status step() override { return inner_->step(); }
  std::uint64_t digest() const override { return inner_->digest(); }

  int copies_out = 0;
  int copies_in = 0;

 private:
  std::unique_ptr<Learner> inner_;
  std::vector<float> host_;
};

// On the GPU, lost in the second round, refused from the fourth on: the model is the CPU's, bit for bit.
TEST(AGradientOnAGpu, TrainsTheSameModelWhateverTheGpuDoes) {
  constexpr std::uint64_t kRounds = 6;
  FakeGroup on_cpu(2, 16);
  const auto wanted = train_together(on_cpu, even_settings(2, kRounds, 16, true));
  using Gpu = FakeGroup::Gpu;
  struct Case {
    std::vector<Gpu> rounds;
    int copies_out, copies_in;
  };
  for (const Case& each :
       {Case{{}, 0, 0}, Case{{Gpu::good, Gpu::is_lost}, 0, 1},
        Case{{Gpu::good, Gpu::is_lost, Gpu::good, Gpu::refuses}, 3, 4}, Case{{Gpu::refuses}, 6, 6}}) {
    FakeGroup group(2, 16);
    group.set_gpu(0, each.rounds);
    Member runs[2];
    auto on_gpu = std::make_unique<LearnerOnGpu>(make_learner());
    const LearnerOnGpu& learner = *on_gpu;
    runs[0].learner = std::move(on_gpu);
    const auto settings = even_settings(2, kRounds, 16, true);
    std::thread other([&] { runs[1].train(group.node(1), settings[1]); });
    runs[0].train(group.node(0), settings[0]);
    other.join();
    for (const Member& run : runs) {
      ASSERT_TRUE(run.finished());
      EXPECT_EQ(run.learner->digest(), wanted[0].learner->digest());
    }
    EXPECT_EQ(learner.copies_out, each.copies_out);
    EXPECT_EQ(learner.copies_in, each.copies_in);
  }
}

TEST(AGradientOnAGpu, NeedsALibTorchWithCuda) {
  ModelSettings settings = tiny_model();
  settings.device = "cuda";
  const auto learner = Learner::create(settings, {}, corpus().symbols().size());
  if (learner) {
    EXPECT_TRUE((*learner)->device_gradient().has_value());
    EXPECT_EQ((*learner)->digest(), make_learner()->digest());
  } else {
    EXPECT_THAT(learner.error().message, HasSubstr("--device: LibTorch finds no GPU here"));
  }
  EXPECT_FALSE(make_learner()->device_gradient().has_value());
}

TEST(Equality, FourNodesFollowOneProcessWithTheSameBatch) {
  expect_group_follows_single_process(even_settings(4, kSteps, 32, true));
}

TEST(Equality, FourNodesWithUnequalWeightsFollowOneProcess) {
  auto settings = even_settings(4, kSteps, 32, true);
  settings[0].share = Share{0, 1};
  settings[1].share = Share{1, 17};
  settings[2].share = Share{18, 5};
  settings[3].share = Share{23, 9};
  expect_group_follows_single_process(settings);
}

TEST(Equality, ABatchThatDoesNotDivideEvenly) {
  expect_group_follows_single_process(even_settings(3, kSteps, 23, true));
}

TEST(Equality, RepeatsBitForBit) {
  std::vector<std::uint64_t> digests;
  for (int repeat = 0; repeat < 2; ++repeat) {
    FakeGroup group(3, 12);
    digests.push_back(train_together(group, even_settings(3, 5, 12, true))[0].learner->digest());
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST(FreeRunning, EverybodyStepsTogetherAndTheBatchIsReached) {
  FakeGroup group(4, 32);
  const auto runs = train_together(group, even_settings(4, 6, 32, false));
  for (const Member& run : runs) {
    ASSERT_TRUE(run.finished());
    ASSERT_EQ(run.recorder.lines.size(), 6U);
    EXPECT_EQ(run.learner->digest(), runs[0].learner->digest());
    for (const RoundLine& line : run.recorder.lines) {
      EXPECT_GE(line.samples, 1U);
      EXPECT_GE(line.global_samples, 32U);
      EXPECT_EQ(line.members, 4U);
    }
  }
  EXPECT_THAT(group.digests(2), ::testing::SizeIs(6));
  EXPECT_EQ(group.digests(2), group.digests(3));
}

TEST(FreeRunning, OneNodeNeverTakesMoreThanTheWholeBatch) {
  FakeGroup group(2, 8);
  // Slot 1 is there but works at nothing: what slot 0 contributes is bounded, and the round opens without the other.
  std::thread idle([&] {
    std::vector<float> zeros(make_learner()->gradient().size());
    Node& node = group.node(1);
    while (!node.wait_for_round(std::chrono::seconds(60)).round_open) {
    }
    node.all_reduce(zeros, 1).wait();
  });
  auto settings = even_settings(2, 1, 8, false)[0];
  settings.micro_batch = 3;
  Member run;
  run.train(group.node(0), settings);
  idle.join();
  ASSERT_TRUE(run.finished());
  EXPECT_EQ(run.recorder.lines[0].samples, 8U);
}

TEST(ExactShares, TheOthersTakeOverTheSamplesOfAMemberThatLeft) {
  FakeGroup group(3, 12);
  group.node(2).stop();
  const auto settings = even_settings(3, 2, 12, true);
  const auto runs = train_together(group, {settings[0], settings[1]});
  for (const Member& run : runs) {
    ASSERT_TRUE(run.finished());
    for (const RoundLine& line : run.recorder.lines) EXPECT_GE(line.global_samples, 12U);
  }
}

TEST(Stop, EndsTheRunWithoutAnotherStep) {
  FakeGroup group(1, 1'000'000);
  Member run;
  const std::uint64_t before = run.learner->digest();
  TrainerSettings settings{.steps = 1000, .target_batch = 1'000'000, .micro_batch = 2};
  Trainer trainer(*run.learner, corpus(), group.node(0), settings, run.recorder);
  run.recorder.on_look = [&](const GroupProgress&) {
    if (run.recorder.looks == 3) trainer.request_stop();
  };
  const auto end = trainer.run();
  ASSERT_TRUE(end.ok()) << end.error().message;
  EXPECT_FALSE(*end);
  EXPECT_EQ(run.recorder.looks, 3U);
  EXPECT_EQ(run.learner->digest(), before);
}

TEST(Stop, EndsAWaitForOthersWhoNeverCome) {
  FakeGroup group(2, 8);
  Member run;
  auto settings = even_settings(2, 3, 8, true)[0];
  Trainer trainer(*run.learner, corpus(), group.node(0), settings, run.recorder);
  std::promise<void> share_done;
  run.recorder.on_look = [&, told = false](const GroupProgress& progress) mutable {
    if (progress.local_samples == 4 && !std::exchange(told, true)) share_done.set_value();
  };
  std::thread stopper([&] {
    share_done.get_future().wait();
    trainer.request_stop();
  });
  const auto end = trainer.run();
  stopper.join();
  ASSERT_TRUE(end.ok());
  EXPECT_FALSE(*end);
  EXPECT_TRUE(run.recorder.lines.empty());
}

TEST(Stop, TheOthersGoOn) {
  FakeGroup group(3, 12);
  auto settings = even_settings(3, 8, 12, false);
  settings[1].steps = 3;
  std::vector<Member> runs(3);
  std::vector<std::thread> threads;
  for (std::uint32_t slot = 0; slot < 3; ++slot) {
    threads.emplace_back([&, slot] {
      runs[slot].train(group.node(slot), settings[slot]);
      group.node(slot).stop();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(runs[1].recorder.lines.size(), 3U);
  EXPECT_EQ(runs[0].recorder.lines.size(), 8U);
  EXPECT_EQ(runs[0].learner->digest(), runs[2].learner->digest());
  EXPECT_EQ(runs[0].recorder.lines.back().members, 2U);
}

TEST(FailedRounds, AreTriedAgain) {
  FakeGroup group(1, 4);
  group.fail_rounds(2, "no route to anybody");
  Member run;
  run.train(group.node(0), even_settings(1, 2, 4, true)[0]);
  ASSERT_TRUE(run.finished());
  EXPECT_EQ(run.recorder.failed_rounds, 2U);
  EXPECT_EQ(run.recorder.lines.size(), 2U);
}

TEST(FailedRounds, ThreeInARowEndTheRunWithTheReason) {
  FakeGroup group(1, 4);
  group.fail_rounds(100, "no route to anybody");
  Member run;
  run.train(group.node(0), even_settings(1, 2, 4, true)[0]);
  ASSERT_FALSE(run.end->ok());
  EXPECT_EQ(run.end->error().kind, ErrorKind::runtime);
  EXPECT_THAT(run.end->error().message, HasSubstr("no route to anybody"));
}

TEST(Loss, NotANumberEndsTheRunInsteadOfSpreading) {
  FakeGroup group(1, 4);
  Member run;
  std::ranges::fill(run.learner->gradient(), std::numeric_limits<float>::quiet_NaN());
  ASSERT_TRUE(run.learner->step().ok());  // the model is ruined now
  run.train(group.node(0), even_settings(1, 2, 4, true)[0]);
  ASSERT_FALSE(run.end->ok());
  EXPECT_THAT(run.end->error().message, HasSubstr("--learning-rate"));
  EXPECT_EQ(group.rounds(), 0U);
}

}  // namespace
}  // namespace papilio::training
