// TorchScript models from a file. The only test with LibTorch in it: it has to make such files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/training/learner.hpp"

namespace papilio::training {
namespace {

using ::testing::HasSubstr;

class ScriptModel : public ::testing::Test {
 protected:
  ~ScriptModel() override { ::unlink(path_.c_str()); }

  // A bigram model: logits of the next symbol from the present one alone.
  void save(torch::ScalarType type, bool trainable, const std::string& forward) {
    torch::jit::Module module("Bigram");
    module.register_parameter("table", torch::full({11, 11}, 0.5, torch::dtype(type).requires_grad(trainable)), false);
    module.define("def forward(self, tokens):\n  return " + forward + "\n");
    module.save(path_);
  }
  Result<std::unique_ptr<Learner>> load() {
    const auto settings = resolve_model({.name = path_, .context = 8});
    EXPECT_TRUE(settings.ok());
    return Learner::create(*settings, {.learning_rate = 0.1, .warmup_steps = 0}, 11);
  }
  void expect_refused(const std::string& what) {
    const auto learner = load();
    ASSERT_FALSE(learner.ok());
    EXPECT_EQ(learner.error().kind, ErrorKind::usage);
    EXPECT_THAT(learner.error().message, ::testing::AllOf(HasSubstr(path_), HasSubstr(what)));
  }

 private:
  std::string path_ = ::testing::TempDir() + "papilio-" + std::to_string(::getpid()) + ".pt";
};

constexpr const char* kLookUp = "self.table[tokens]";

TEST_F(ScriptModel, LearnsThroughTheFlatGradient) {
  save(torch::kFloat32, true, kLookUp);
  auto learner = load();
  ASSERT_TRUE(learner.ok()) << learner.error().message;
  EXPECT_EQ(learner.value()->gradient().size(), 121U);
  EXPECT_EQ(learner.value()->parameters()[0].name, "table");
  const std::vector<std::int64_t> inputs = {0, 1, 2, 3, 4, 5, 6, 7}, targets = {1, 2, 3, 4, 5, 6, 7, 8};
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    learner.value()->clear_gradient();
    last = *learner.value()->accumulate(inputs, targets, 1);
    if (step == 0) first = last;
    ASSERT_TRUE(learner.value()->step().ok());
  }
  EXPECT_LT(last, first / 2);
}

TEST_F(ScriptModel, WithoutTrainableParametersIsRefused) {
  save(torch::kFloat32, false, kLookUp);
  expect_refused("no trainable parameters");
}

TEST_F(ScriptModel, WithOtherPrecisionIsRefused) {
  save(torch::kFloat64, true, kLookUp);
  expect_refused("float32");
}

TEST_F(ScriptModel, WithLogitsOfAnotherShapeIsRefused) {
  save(torch::kFloat32, true, "self.table[tokens].sum(1)");
  expect_refused("[1, 11]");
}

TEST_F(ScriptModel, ThatFailsIsRefusedWithItsOwnWords) {
  save(torch::kFloat32, true, "self.table[tokens].view(7, 7)");
  expect_refused("cannot be used");
}

}  // namespace
}  // namespace papilio::training
