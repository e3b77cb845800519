#include "engine/training/learner.hpp"

#include <dlfcn.h>
#include <torch/script.h>
#include <torch/torch.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/random.hpp"
#include "engine/training/page_memory.hpp"

namespace papilio::training {
namespace {

using torch::Tensor;
namespace nn = torch::nn;

// What both kinds of model come down to.
class Model {
 public:
  virtual ~Model() = default;
  // Tokens [samples, context] of int64 to logits [samples, context, symbols].
  virtual Tensor logits(const Tensor& tokens) = 0;
  virtual std::vector<std::pair<std::string, Tensor>> named_parameters() = 0;
  virtual void move_to(torch::Device device) = 0;
};

// One pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).
struct BlockImpl : nn::Module {
  BlockImpl(std::int64_t width, std::int64_t head_count)
      : heads(head_count),
        attention_norm(register_module("attention_norm", nn::LayerNorm(nn::LayerNormOptions({width})))),
        query_key_value(register_module("query_key_value", nn::Linear(width, 3 * width))),
        attention_out(register_module("attention_out", nn::Linear(width, width))),
        mlp_norm(register_module("mlp_norm", nn::LayerNorm(nn::LayerNormOptions({width})))),
        mlp_in(register_module("mlp_in", nn::Linear(width, 4 * width))),
        mlp_out(register_module("mlp_out", nn::Linear(4 * width, width))) {}

  // `mask`: [context, context], minus infinity where a symbol would look into the future.
  Tensor forward(const Tensor& x, const Tensor& mask) {
    const Tensor attended = x + attention_out(attend(attention_norm(x), mask));
    return attended + mlp_out(torch::gelu(mlp_in(mlp_norm(attended))));
  }

  Tensor attend(const Tensor& x, const Tensor& mask) {
    const std::int64_t samples = x.size(0), context = x.size(1), width = x.size(2);
    // [3, samples, heads, context, width / heads]
    const Tensor split = query_key_value(x).view({samples, context, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
    const double scale = 1.0 / std::sqrt(static_cast<double>(width / heads));
    const Tensor scores = torch::matmul(split[0] * scale, split[1].transpose(-2, -1)) + mask;
    const Tensor mixed = torch::matmul(torch::softmax(scores, -1), split[2]);
    return mixed.transpose(1, 2).reshape({samples, context, width});
  }

  std::int64_t heads;
  nn::LayerNorm attention_norm;
  nn::Linear query_key_value;
  nn::Linear attention_out;
  nn::LayerNorm mlp_norm;
  nn::Linear mlp_in;
  nn::Linear mlp_out;
};
TORCH_MODULE(Block);

// The decoder-only transformer of Radford et al. (GPT-2, 2019) over single bytes: learned positions, pre-norm blocks, a
// last norm, and a head that is the token embedding transposed (Press and Wolf, "Using the output embedding to improve
// language models", EACL 2017).
struct TransformerImpl : nn::Module {
  TransformerImpl(const ModelSettings& settings, std::int64_t symbols)
      : tokens_embedding(register_module("tokens", nn::Embedding(symbols, std::int64_t{settings.width}))),
        positions(register_parameter("positions",
                                     torch::empty({std::int64_t{settings.context}, std::int64_t{settings.width}}))) {
    for (std::uint32_t i = 0; i < settings.layers; ++i) {
      blocks.push_back(register_module("block" + std::to_string(i), Block(settings.width, settings.heads)));
    }
    last_norm = register_module("last_norm", nn::LayerNorm(nn::LayerNormOptions({std::int64_t{settings.width}})));
    const std::int64_t context = settings.context;
    mask = torch::full({context, context}, -std::numeric_limits<float>::infinity()).triu(1);
    set_initial_values(settings);
  }

  Tensor forward(const Tensor& tokens) {
    Tensor x = tokens_embedding(tokens) + positions;
    for (Block& block : blocks) x = block(x, mask);
    return torch::linear(last_norm(x), tokens_embedding->weight);
  }

  // Uniform values from our own generator: integers scaled by powers of two and one multiplication have the same bits
  // on every machine, which normal numbers through a vectorised or a library logarithm do not.
  void set_initial_values(const ModelSettings& settings) {
    torch::NoGradGuard no_gradient;
    Random random(settings.seed);
    // What a block adds is scaled down by depth, so that the residual stream keeps its size (GPT-2).
    const double depth_scale = 1.0 / std::sqrt(2.0 * settings.layers);
    for (auto& item : named_parameters()) {
      const std::string& name = item.key();
      Tensor& parameter = item.value();
      if (name.ends_with("bias")) {
        parameter.zero_();
      } else if (name.find("norm") != std::string::npos) {
        parameter.fill_(1);
      } else {
        // Found by trying, for the fewest steps to a given loss: near-silent blocks let the embeddings speak first.
        double deviation = 0.05;
        if (parameter.dim() == 2 && name.starts_with("block")) {
          deviation = 1 / std::sqrt(static_cast<double>(parameter.size(1)));
        }
        if (name.ends_with("_out.weight")) deviation *= 0.1 * depth_scale;
        fill_uniform(parameter, deviation, random);
      }
    }
  }

  static void fill_uniform(Tensor& parameter, double deviation, Random& random) {
    PAPILIO_ASSERT(parameter.is_contiguous());
    const double half_width = std::sqrt(3.0) * deviation;
    float* values = parameter.data_ptr<float>();
    for (std::int64_t i = 0; i < parameter.numel(); ++i) {
      values[i] = static_cast<float>((2 * random.uniform() - 1) * half_width);
    }
  }

  nn::Embedding tokens_embedding;
  Tensor positions;
  std::vector<Block> blocks;
  nn::LayerNorm last_norm{nullptr};
  Tensor mask;
};
TORCH_MODULE(Transformer);

class BuiltInModel final : public Model {
 public:
  BuiltInModel(const ModelSettings& settings, std::size_t symbols)
      : transformer_(settings, static_cast<std::int64_t>(symbols)) {}
  Tensor logits(const Tensor& tokens) override { return transformer_->forward(tokens); }
  std::vector<std::pair<std::string, Tensor>> named_parameters() override {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& item : transformer_->named_parameters()) all.emplace_back(item.key(), item.value());
    return all;
  }
  void move_to(torch::Device device) override { transformer_->to(device); }

 private:
  Transformer transformer_;
};

class ScriptModel final : public Model {
 public:
  explicit ScriptModel(const std::string& path) : module_(torch::jit::load(path)) { module_.train(); }
  Tensor logits(const Tensor& tokens) override { return module_.forward({tokens}).toTensor(); }
  std::vector<std::pair<std::string, Tensor>> named_parameters() override {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& item : module_.named_parameters()) all.emplace_back(item.name, item.value);
    return all;
  }
  void move_to(torch::Device device) override { module_.to(device); }

 private:
  torch::jit::Module module_;
};

// LibTorch does not tell OpenBLAS, which has threads of its own: with several nodes on one machine they fight over the
// cores, and alone they are no faster at these sizes. Another BLAS has no such symbol.
void use_one_blas_thread() {
  using SetThreads = void (*)(int);
  if (void* symbol = ::dlsym(RTLD_DEFAULT, "openblas_set_num_threads")) reinterpret_cast<SetThreads>(symbol)(1);
}

// LibTorch's messages carry a stack trace; users get the first line.
std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  const std::size_t end = text.find('\n');
  return end == std::string::npos ? text : text.substr(0, end);
}

class TorchLearner final : public Learner {
 public:
  TorchLearner(std::unique_ptr<Model> model, const ModelSettings& settings, const OptimiserSettings& optimiser,
               std::size_t symbols)
      : model_(std::move(model)),
        device_(settings.device == "cuda" ? torch::Device(torch::kCUDA, 0) : torch::Device(torch::kCPU)),
        context_(settings.context),
        symbols_(symbols),
        optimiser_settings_(optimiser) {
    // Initial values are drawn on the CPU, and are the same everywhere.
    if (device_.is_cuda()) model_->move_to(device_);
    for (auto& [name, value] : model_->named_parameters()) {
      all_values_.push_back(value);
      if (!value.requires_grad()) continue;
      parameters_.push_back({name, value.sizes().vec()});
      values_.push_back(value);
    }
  }

  // What can be wrong with a file that somebody else made; a model of ours passes trivially.
  Status check(const std::string& name) {
    if (values_.empty()) {
      return usage_error("--model: " + name + " has no trainable parameters; save it with requires_grad set");
    }
    for (std::size_t i = 0; i < values_.size(); ++i) {
      if (values_[i].scalar_type() == torch::kFloat32 && values_[i].device() == device_) continue;
      return usage_error("model: parameter " + parameters_[i].name + " of " + name + " is " +
                         std::string(torch::toString(values_[i].scalar_type())) + " on " + values_[i].device().str() +
                         "; save the model with float32 parameters on the CPU");
    }
    const torch::NoGradGuard no_gradient;
    const auto context = static_cast<std::int64_t>(context_);
    const Tensor answer = model_->logits(torch::zeros({1, context}, torch::kInt64).to(device_));
    if (answer.dim() == 3 && answer.size(0) == 1 && answer.size(1) == context &&
        answer.size(2) >= static_cast<std::int64_t>(symbols_)) {
      return Done{};
    }
    std::string shape;
    for (const std::int64_t size : answer.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    return usage_error("--model: " + name + " answers tokens [1, " + std::to_string(context) + "] with logits [" +
                       shape + "]; they have to be [1, " + std::to_string(context) + ", V] with V at least " +
                       std::to_string(symbols_) + ", the symbols of the corpus");
  }

  // Gives the gradients one home and the optimiser its parameters.
  Status prepare() {
    std::size_t total = 0;
    for (const Tensor& value : values_) total += static_cast<std::size_t>(value.numel());
    memory_.emplace(total);
    if (!memory_->ok()) {
      return runtime_error("no memory for a gradient of " + std::to_string(total) + " values; choose a smaller model");
    }
    host_ = torch::from_blob(memory_->floats().data(), {static_cast<std::int64_t>(total)}, torch::kFloat32);
    flat_ = device_.is_cuda() ? torch::zeros_like(host_, torch::TensorOptions().device(device_)) : host_;
    std::int64_t begin = 0;
    for (Tensor& value : values_) {
      value.mutable_grad() = flat_.narrow(0, begin, value.numel()).view(value.sizes());
      begin += value.numel();
    }
    optimiser_ = std::make_unique<torch::optim::AdamW>(
        values_,
        torch::optim::AdamWOptions(optimiser_settings_.learning_rate).weight_decay(optimiser_settings_.weight_decay));
    return Done{};
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  std::size_t context() const override { return context_; }

  Result<double> accumulate(std::span<const std::int64_t> inputs, std::span<const std::int64_t> targets,
                            std::size_t samples) override {
    PAPILIO_ASSERT(samples > 0);
    PAPILIO_ASSERT_VALUES(inputs.size() == samples * context_, inputs.size(), samples * context_);
    PAPILIO_ASSERT_VALUES(targets.size() == inputs.size(), targets.size(), inputs.size());
    // Per thread in some builds of LibTorch: several nodes of one process would fight over the cores.
    torch::set_num_threads(1);
    try {
      const Tensor logits = model_->logits(view_of(inputs, samples).to(device_));
      const Tensor wanted = view_of(targets, samples).to(device_).flatten();
      const Tensor mean = nn::functional::cross_entropy(logits.flatten(0, 1), wanted);
      const Tensor loss = mean * static_cast<double>(samples);
      loss.backward();
      return loss.item<double>();
    } catch (const std::exception& error) {
      return runtime_error("the model failed: " + first_line(error));
    }
  }

  std::span<float> gradient() override {
    if (device_.is_cuda()) host_.copy_(flat_);
    return memory_->floats();
  }
  std::optional<DeviceSpan> device_gradient() override {
    if (!device_.is_cuda()) return std::nullopt;
    // Everything here runs in LibTorch's default stream, which is CUDA's.
    return DeviceSpan{.data = flat_.data_ptr<float>(), .elements = memory_->floats().size()};
  }
  Status set_gradient(std::span<const float> values) override {
    PAPILIO_ASSERT_VALUES(values.size() == memory_->floats().size(), values.size(), memory_->floats().size());
    try {
      // from_blob wants a pointer to mutable memory; nothing writes through it.
      flat_.copy_(torch::from_blob(const_cast<float*>(values.data()), host_.sizes(), torch::kFloat32));
    } catch (const std::exception& error) {
      return runtime_error("the averaged gradient cannot be put where the model is: " + first_line(error));
    }
    return Done{};
  }
  void clear_gradient() override { flat_.zero_(); }
  void scale_gradient(float factor) override { flat_.mul_(factor); }

  Status step() override {
    check_views();
    ++steps_;
    const auto warmup = static_cast<double>(optimiser_settings_.warmup_steps);
    const double warm = warmup > 0 ? std::min(1.0, static_cast<double>(steps_) / warmup) : 1.0;
    for (auto& group : optimiser_->param_groups()) {
      static_cast<torch::optim::AdamWOptions&>(group.options()).lr(optimiser_settings_.learning_rate * warm);
    }
    try {
      optimiser_->step();
    } catch (const std::exception& error) {
      return runtime_error("the optimiser failed: " + first_line(error));
    }
    return Done{};
  }

  std::uint64_t digest() const override {
    XXH3_state_t* state = XXH3_createState();
    PAPILIO_ASSERT(state != nullptr);
    XXH3_64bits_reset(state);
    for (const Tensor& value : all_values_) {
      const Tensor plain = value.detach().to(torch::kCPU).contiguous();
      XXH3_64bits_update(state, plain.data_ptr(), plain.nbytes());
    }
    const std::uint64_t digest = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return digest;
  }

 private:
  Tensor view_of(std::span<const std::int64_t> tokens, std::size_t samples) const {
    // from_blob wants a pointer to mutable memory; nothing writes through it.
    return torch::from_blob(const_cast<std::int64_t*>(tokens.data()),
                            {static_cast<std::int64_t>(samples), static_cast<std::int64_t>(context_)}, torch::kInt64);
  }

  // Autograd adds into an existing gradient in place. Were it ever to replace one, the engine would average memory
  // that the optimiser does not read.
  void check_views() const {
    const float* expected = flat_.data_ptr<float>();
    for (const Tensor& value : values_) {
      PAPILIO_ASSERT(value.grad().defined() && value.grad().data_ptr<float>() == expected);
      expected += value.numel();
    }
  }

  std::unique_ptr<Model> model_;
  torch::Device device_;
  std::size_t context_;
  std::size_t symbols_;
  OptimiserSettings optimiser_settings_;
  std::vector<Parameter> parameters_;
  std::vector<Tensor> values_;      // trained, in the order of parameters_
  std::vector<Tensor> all_values_;  // frozen ones too
  std::optional<PageMemory> memory_;
  Tensor host_;  // memory_, as LibTorch sees it
  Tensor flat_;  // host_, or on the GPU
  std::unique_ptr<torch::optim::AdamW> optimiser_;
  std::uint64_t steps_ = 0;
};

}  // namespace

Result<std::unique_ptr<Learner>> Learner::create(const ModelSettings& settings, const OptimiserSettings& optimiser,
                                                 std::size_t symbols) {
  PAPILIO_ASSERT(symbols > 0 && settings.context > 0);
  if (settings.device == "cuda" && !torch::cuda::is_available()) {
    return usage_error("--device: LibTorch finds no GPU here, or is built without CUDA; use cpu");
  }
  torch::set_num_threads(1);
  use_one_blas_thread();
  try {
    std::unique_ptr<Model> model;
    if (settings.name.ends_with(".pt")) {
      model = std::make_unique<ScriptModel>(settings.name);
    } else {
      PAPILIO_ASSERT(settings.heads > 0 && settings.layers > 0 && settings.width % settings.heads == 0);
      model = std::make_unique<BuiltInModel>(settings, symbols);
    }
    auto learner = std::make_unique<TorchLearner>(std::move(model), settings, optimiser, symbols);
    if (auto checked = learner->check(settings.name); !checked) return checked.error();
    if (auto prepared = learner->prepare(); !prepared) return prepared.error();
    return std::unique_ptr<Learner>(std::move(learner));
  } catch (const std::exception& error) {
    return usage_error("--model: " + settings.name + " cannot be used (" + first_line(error) +
                       "); name a TorchScript file that takes tokens [B, T], or tiny, small or base");
  }
}

}  // namespace papilio::training
