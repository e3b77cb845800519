// The model, its gradient and its optimiser behind an interface without LibTorch: what a trainer needs, nothing else. A
// translation unit with torch.h takes a quarter of a minute to compile, so exactly one (learner.cc) has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/node/node.hpp"

namespace papilio::training {

// What the user asked for; zeros are filled in by resolve_model().
struct ModelSettings {
  std::string name = "small";  // tiny, small, base, or a TorchScript FILE.pt
  std::uint32_t layers = 0;    // transformer blocks
  std::uint32_t width = 0;     // of the residual stream
  std::uint32_t heads = 0;     // of attention; divides width
  std::uint32_t context = 0;   // symbols of one sample
  std::uint64_t seed = 1;      // of the initial values
  std::string device = "cpu";  // where the model computes: cpu, or cuda for LibTorch's first GPU
};

struct OptimiserSettings {
  double learning_rate = 2e-3;
  std::uint64_t warmup_steps = 20;  // the rate grows linearly over these
  double weight_decay = 0.01;
};

// The settings with every size filled in from the named preset. Errors name the key, the value and the remedy: unknown
// preset, file that is not there, sizes out of range, heads that do not divide the width, sizes given for a file.
Result<ModelSettings> resolve_model(ModelSettings settings);

// Name and shape of one trained parameter, in the order of the flat gradient.
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
};

class Learner {
 public:
  // `settings` as resolve_model() returned them; `symbols`: size of the alphabet, the last dimension of the logits.
  // Equal settings give bit-equal parameters on every machine. Errors: a TorchScript file that does not load, has no
  // trainable float32 parameters, or answers other than [batch, context, >= symbols].
  static Result<std::unique_ptr<Learner>> create(const ModelSettings& settings, const OptimiserSettings& optimiser,
                                                 std::size_t symbols);
  virtual ~Learner() = default;

  [[nodiscard]] virtual const std::vector<Parameter>& parameters() const = 0;
  [[nodiscard]] virtual std::size_t context() const = 0;

  // Adds the gradient of the sum of the samples' losses to the flat gradient. `inputs` and `targets` hold `samples`
  // rows of context() tokens. A sample's loss is the mean cross entropy over its symbols, in nats; returned is the sum
  // over the samples. Error: LibTorch failed (out of memory, a TorchScript model's own error).
  virtual Result<double> accumulate(std::span<const std::int64_t> inputs, std::span<const std::int64_t> targets,
                                    std::size_t samples) = 0;

  // Every trained parameter's gradient, one after the other, in page-aligned memory that stays where it is for the
  // learner's life. The parameters' own gradients are views of it: what the engine writes here is what step() uses.
  // In host memory: where the model is on a GPU this is a copy, as of this call, and set_gradient() brings it back.
  [[nodiscard]] virtual std::span<float> gradient() = 0;
  // Where it is, if that is on a GPU.
  [[nodiscard]] virtual std::optional<DeviceSpan> device_gradient() { return std::nullopt; }
  virtual Status set_gradient(std::span<const float> values) = 0;
  virtual void clear_gradient() = 0;
  // gradient *= factor: from a sum over samples to their mean.
  virtual void scale_gradient(float factor) = 0;

  // One AdamW step (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) with the present
  // gradient.
  virtual Status step() = 0;

  // XXH3 over the bytes of all parameters in order: equal for nodes that hold the same model.
  [[nodiscard]] virtual std::uint64_t digest() const = 0;
};

}  // namespace papilio::training
