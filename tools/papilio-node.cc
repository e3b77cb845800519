// papilio-node: one peer of a run. Reads the settings, builds the model and the engine's node, trains, tells.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#include "engine/node/node.hpp"
#include "engine/training/corpus.hpp"
#include "engine/training/learner.hpp"
#include "engine/training/trainer.hpp"
#include "kernels/cuda.h"
#include "tools/common/command_line.hpp"
#include "tools/node/bans.hpp"
#include "tools/node/display.hpp"
#include "tools/node/id.hpp"
#include "tools/node/outcome.hpp"
#include "tools/node/settings.hpp"
#include "tools/node/signals.hpp"
#include "tools/node/text.hpp"

namespace papilio::tools {
namespace {

using SteadyClock = std::chrono::steady_clock;

// How long the members' digests of the last step may take to arrive.
constexpr auto kAgreementWait = std::chrono::seconds(1);
constexpr auto kAgreementLook = std::chrono::milliseconds(10);

class Run final : public training::TrainerEvents {
 public:
  Run(const CommandLine& command_line, NodeSettings& settings)
      : command_line_(command_line),
        settings_(settings),
        display_(command_line.out(), settings.steps, settings.target_batch) {}

  // From start to end; the error is the process's.
  Status run();
  // From the signal thread: leaves the group and ends run().
  void request_stop();
  Status write_json() { return command_line_.write_json(outcome_.document()); }
  void finish(const Status& status);

  void on_progress(std::uint64_t step, const GroupProgress& progress) override {
    note_agreement(progress);
    display_.show_progress(step, progress);
  }
  void on_round(const training::RoundLine& line) override {
    outcome_.add_round(line);
    outcome_.set_seconds(seconds());
    display_.show_round(line);
  }
  void on_failed_round(std::uint64_t epoch, const std::string& reason) override {
    spdlog::warn("the round of epoch {} could not run ({}); trying again", epoch, reason);
  }
  void on_gpu_refused(const std::string& reason) override {
    spdlog::warn("gradients go through host memory from now on ({})", reason);
  }

 private:
  Status train(training::Learner& learner, const training::Corpus& corpus);
  void wait_for_agreement(Node& node);
  // Who left sees nobody any more: what counts is how it was before.
  void note_agreement(const GroupProgress& progress) {
    if (!progress.left) outcome_.set_agreement(progress);
  }
  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(SteadyClock::now() - begin_).count(); }

  const CommandLine& command_line_;
  const NodeSettings& settings_;
  Display display_;
  Outcome outcome_;
  SteadyClock::time_point begin_ = SteadyClock::now();
  std::atomic<bool> stop_requested_{false};
  std::mutex node_mutex_;
  Node* node_ = nullptr;  // while there is one
};

Status Run::run() {
  auto model = training::resolve_model(model_settings_of(settings_));
  if (!model) return model.error();
  auto corpus = settings_.data.empty() ? training::Corpus::load_default(model->context)
                                       : training::Corpus::load(settings_.data, model->context);
  if (!corpus) return corpus.error();
  spdlog::info("corpus {}: {} bytes, {} different", corpus->name(), corpus->size(), corpus->symbols().size());

  auto learner = training::Learner::create(*model, optimiser_settings_of(settings_), corpus->symbols().size());
  if (!learner) return learner.error();
  if (settings_.device == "cuda") spdlog::info("gradients are averaged on: {}", kernels::cuda::availability().text);
  // The learner outlives the node, which may hold its gradient until it has left.
  return train(**learner, *corpus);
}

Status Run::train(training::Learner& learner, const training::Corpus& corpus) {
  const std::uint64_t parameters = learner.gradient().size();
  const Fingerprint fingerprint = fingerprint_of(settings_, learner, corpus.symbols());
  spdlog::info("model {}: {} parameters, initial values {}, fingerprint {}", settings_.model, parameters,
               hexadecimal(learner.digest(), 16), hexadecimal(fingerprint.high, 16) + hexadecimal(fingerprint.low, 16));
  if (stop_requested_) return Done{};
  auto started = Node::start(node_config_of(settings_, fingerprint, parameters));
  if (!started) return started.error();
  const std::unique_ptr<Node> node = std::move(started).value();
  outcome_.set_node(to_hex(node->id(), 64), node->transport(), parameters, learner.digest());
  spdlog::info("peer {} over {}{}", to_hex(node->id()), node->transport(),
               settings_.listen.empty() ? "" : ", listening on " + node->listen_address());
  {
    const std::lock_guard lock(node_mutex_);
    node_ = node.get();
  }
  // A signal before this line found no node to stop.
  if (stop_requested_) node->stop();

  Status status = node->wait_for_group();
  if (status && !stop_requested_) {
    begin_ = SteadyClock::now();
    training::Trainer trainer(learner, corpus, *node, trainer_settings_of(settings_, node->id()), *this);
    try {
      auto ended = trainer.run();
      if (!ended) status = ended.error();
      if (ended && *ended) wait_for_agreement(*node);
    } catch (const std::bad_alloc&) {
      status = runtime_error("not enough memory to train with --batch " + std::to_string(settings_.batch) +
                             " and --model " + settings_.model + "; choose a smaller batch or a smaller model");
    }
    outcome_.set_seconds(seconds());
    note_agreement(node->progress());
  }
  outcome_.set_refusals(node->refusals());
  {
    const std::lock_guard lock(node_mutex_);
    node_ = nullptr;
  }
  if (stop_requested_) return Done{};  // what failed, failed because we left
  return status;
}

// The others may still be at their last step. Bounded: a member that never tells is not worth waiting for.
void Run::wait_for_agreement(Node& node) {
  const auto give_up = SteadyClock::now() + kAgreementWait;
  for (;;) {
    const GroupProgress progress = node.progress();
    if (progress.left || progress.in_agreement >= progress.members || SteadyClock::now() >= give_up) return;
    std::this_thread::sleep_for(kAgreementLook);
  }
}

void Run::request_stop() {
  spdlog::info("leaving the group");
  stop_requested_ = true;
  const std::lock_guard lock(node_mutex_);
  if (node_ != nullptr) node_->stop();
}

void Run::finish(const Status& status) {
  if (!status) outcome_.set_error(status.error().message);
  if (status) display_.say(outcome_.summary());
}

int main_of_node(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "bans") return main_of_bans(argc - 1, argv + 1);
  if (argc > 1 && std::string_view(argv[1]) == "id") return main_of_id(argc - 1, argv + 1);
  CommandLine command_line(node_manual_page());
  NodeSettings settings;
  add_node_options(command_line, settings);
  if (const auto code = command_line.parse(argc, argv)) return *code;
  if (Status valid = validate(settings); !valid) return command_line.fail(valid.error());

  // A peer that hangs up in the middle of a write is a value, not the end of this process.
  std::signal(SIGPIPE, SIG_IGN);
  Run run(command_line, settings);
  const auto end_now = [&run] {
    const Status written = run.write_json();
    ::_exit(written ? kExitDone : kExitRuntime);
  };
  Status status = Done{};
  {
    const SignalWatcher signals([&run] { run.request_stop(); }, end_now);
    status = run.run();
  }
  run.finish(status);
  if (const Status written = run.write_json(); !written && status) status = written;
  return status ? static_cast<int>(kExitDone) : command_line.fail(status.error());
}

}  // namespace
}  // namespace papilio::tools

int main(int argc, char** argv) { return papilio::tools::main_of_node(argc, argv); }
