#include "engine/training/learner.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <memory>
#include <vector>

namespace papilio::training {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kSymbols = 11;

ModelSettings small_model(std::uint64_t seed = 1) {
  return {.name = "tiny", .layers = 1, .width = 16, .heads = 2, .context = 8, .seed = seed};
}

std::unique_ptr<Learner> make_learner(const ModelSettings& settings, const OptimiserSettings& optimiser = {}) {
  auto learner = Learner::create(settings, optimiser, kSymbols);
  EXPECT_TRUE(learner.ok()) << learner.error().message;
  return std::move(learner).value();
}

std::vector<std::int64_t> tokens(std::size_t samples, std::size_t context, std::int64_t start) {
  std::vector<std::int64_t> row(samples * context);
  for (std::size_t i = 0; i < row.size(); ++i)
    row[i] = (start + static_cast<std::int64_t>(i * i)) % static_cast<std::int64_t>(kSymbols);
  return row;
}

double train_once(Learner& learner, std::int64_t start) {
  learner.clear_gradient();
  const auto loss = learner.accumulate(tokens(2, 8, start), tokens(2, 8, start + 1), 2);
  EXPECT_TRUE(loss.ok());
  learner.scale_gradient(0.5F);
  EXPECT_TRUE(learner.step().ok());
  return *loss / 2;
}

TEST(Learner, EqualSeedsGiveEqualModelsAndOthersDoNot) {
  const auto first = make_learner(small_model()), second = make_learner(small_model()),
             other = make_learner(small_model(2));
  EXPECT_EQ(first->digest(), second->digest());
  EXPECT_NE(first->digest(), other->digest());
}

TEST(Learner, EqualStepsKeepModelsEqualAndEveryStepChangesThem) {
  const auto first = make_learner(small_model()), second = make_learner(small_model());
  for (std::int64_t step = 0; step < 5; ++step) {
    const std::uint64_t before = first->digest();
    train_once(*first, step);
    train_once(*second, step);
    EXPECT_EQ(first->digest(), second->digest());
    EXPECT_NE(first->digest(), before);
  }
  train_once(*first, 100);
  EXPECT_NE(first->digest(), second->digest());
}

TEST(Learner, FirstLossIsThatOfAGuess) {
  const auto learner = make_learner(small_model());
  EXPECT_NEAR(train_once(*learner, 0), std::log(static_cast<double>(kSymbols)), 0.2);
}

TEST(Learner, LossFallsOnWhatItSeesAgainAndAgain) {
  const auto learner = make_learner(small_model(), {.learning_rate = 0.01, .warmup_steps = 1});
  const double first = train_once(*learner, 0);
  double last = first;
  for (int step = 0; step < 60; ++step) last = train_once(*learner, 0);
  EXPECT_LT(last, first / 2);
}

TEST(Learner, GradientIsFlatPageAlignedAndAsLongAsTheParameters) {
  const auto learner = make_learner(small_model());
  std::size_t values = 0;
  for (const Parameter& parameter : learner->parameters()) {
    std::size_t count = 1;
    for (const std::int64_t size : parameter.shape) count *= static_cast<std::size_t>(size);
    values += count;
  }
  EXPECT_EQ(learner->gradient().size(), values);
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(learner->gradient().data()) % page, 0U);
}

TEST(Learner, GradientStaysInPlaceOverStepsAndSumsUpMicroBatches) {
  const auto learner = make_learner(small_model());
  const float* home = learner->gradient().data();
  for (std::int64_t step = 0; step < 3; ++step) {
    train_once(*learner, step);
    EXPECT_EQ(learner->gradient().data(), home);
  }
  learner->clear_gradient();
  EXPECT_TRUE(std::ranges::all_of(learner->gradient(), [](float value) { return value == 0; }));

  ASSERT_TRUE(learner->accumulate(tokens(2, 8, 0), tokens(2, 8, 1), 2).ok());
  const std::vector<float> once(learner->gradient().begin(), learner->gradient().end());
  EXPECT_TRUE(std::ranges::any_of(once, [](float value) { return value != 0; }));
  ASSERT_TRUE(learner->accumulate(tokens(2, 8, 0), tokens(2, 8, 1), 2).ok());
  for (std::size_t i = 0; i < once.size(); ++i) EXPECT_FLOAT_EQ(learner->gradient()[i], 2 * once[i]);
}

TEST(Learner, StepUsesWhatIsInTheFlatGradient) {
  const auto first = make_learner(small_model()), second = make_learner(small_model());
  std::ranges::fill(first->gradient(), 0.25F);
  ASSERT_TRUE(first->step().ok());
  EXPECT_NE(first->digest(), second->digest());
  std::ranges::fill(second->gradient(), 0.25F);
  ASSERT_TRUE(second->step().ok());
  EXPECT_EQ(first->digest(), second->digest());
}

// The loss of a sample is the sum of its positions'. If only the last position sees the last symbol, then what changing
// that symbol costs is the same whatever the other positions' targets are.
TEST(Learner, NoPositionSeesTheSymbolsAfterIt) {
  const auto learner = make_learner(small_model(), {.learning_rate = 0.02, .warmup_steps = 1});
  for (std::int64_t step = 0; step < 20; ++step) train_once(*learner, step);  // so that attention has opinions

  const auto loss = [&](std::int64_t last_input, std::int64_t early_target) {
    auto inputs = tokens(1, 8, 0), targets = tokens(1, 8, 1);
    inputs[7] = last_input;
    std::fill_n(targets.begin(), 7, early_target);
    return learner->accumulate(inputs, targets, 1).value() * 8;
  };
  EXPECT_GT(std::abs(loss(2, 3) - loss(9, 3)), 1e-3);  // it does matter
  EXPECT_NEAR(loss(2, 3) - loss(9, 3), loss(2, 8) - loss(9, 8), 1e-4);
}

void expect_refused(const ModelSettings& settings, const std::string& key, const std::string& value) {
  const auto resolved = resolve_model(settings);
  ASSERT_FALSE(resolved.ok());
  EXPECT_EQ(resolved.error().kind, ErrorKind::usage);
  EXPECT_THAT(resolved.error().message, AllOf(HasSubstr(key), HasSubstr(value)));
}

TEST(ModelSettings, PresetsFillInWhatIsNotGiven) {
  const auto small = resolve_model({});
  ASSERT_TRUE(small.ok());
  const auto learner = Learner::create(*small, {}, 90);
  ASSERT_TRUE(learner.ok());
  EXPECT_NEAR(static_cast<double>(learner.value()->gradient().size()), 1e6, 0.1e6);
  const auto narrow = resolve_model({.name = "base", .width = 96});
  ASSERT_TRUE(narrow.ok());
  EXPECT_EQ(narrow->width, 96U);
  EXPECT_EQ(narrow->layers, 6U);
}

TEST(ModelSettings, BadOnesAreRefusedWithKeyAndValue) {
  expect_refused({.name = "huge"}, "model", "huge");
  expect_refused({.name = "missing.pt"}, "model", "missing.pt");
  expect_refused({.heads = 5}, "heads", "5");
  expect_refused({.context = 70'000}, "context", "70000");
}

TEST(ModelSettings, AFileThatIsNoTorchScriptIsRefused) {
  const std::string path = ::testing::TempDir() + "papilio-not-a-model.pt";
  std::ofstream(path) << "this is no model";
  const auto settings = resolve_model({.name = path});
  ASSERT_TRUE(settings.ok());
  const auto learner = Learner::create(*settings, {}, kSymbols);
  ASSERT_FALSE(learner.ok());
  EXPECT_EQ(learner.error().kind, ErrorKind::usage);
  EXPECT_THAT(learner.error().message, HasSubstr(path));
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace papilio::training
