// The loop that makes a node learn: draw samples, add up their gradient until the group's batch is full, have the
// engine average it, take the optimiser's step, tell the others the model's digest. It sees the engine through
// engine/node/node.hpp only, and every wait in it has an end.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/node/node.hpp"
#include "engine/training/corpus.hpp"
#include "engine/training/learner.hpp"
#include "engine/training/sampler.hpp"

namespace papilio::training {

struct TrainerSettings {
  std::uint64_t steps = 100;        // rounds to take part in
  std::uint64_t target_batch = 64;  // samples of the whole group per round; as in NodeConfig
  std::uint64_t micro_batch = 8;    // samples per forward and backward pass
  std::uint64_t seed = 1;           // of the sample order; the same on all nodes
  std::uint32_t slot = 0;           // which of the group's `slots` stretches of the batch is this node's
  std::uint32_t slots = 1;
  // True: every node takes exactly its share and then waits, so that a run repeats bit for bit; while a member is
  // missing, the others take its samples over. False: every node takes what it can until the group's batch is full.
  bool exact_shares = false;
  std::optional<Share> share;  // instead of share_of(target_batch, slot, slots); the shares of all nodes tile the batch
  Duration round_timeout = std::chrono::seconds(30);  // as in NodeConfig
};

// One round as a user sees it.
struct RoundLine {
  std::uint64_t step = 0;            // of this node, counted from 1
  std::uint64_t epoch = 0;           // of the group
  double loss = 0;                   // mean over this node's samples, before the step; nats per symbol
  std::uint64_t samples = 0;         // this node's in the round
  std::uint64_t global_samples = 0;  // all members' in the round
  std::uint64_t total_samples = 0;   // all members' since the start of the run
  double seconds = 0;                // of the all-reduce
  double step_seconds = 0;           // from the first sample to the end of the optimiser's step
  std::uint64_t bytes_sent = 0, bytes_received = 0;
  std::uint32_t members = 0;
  double coverage = 0;
  std::uint64_t local_chunks = 0;
  std::vector<PeerReport> peers;    // the others, with what their timers say
  std::vector<PeerReport> cut_off;  // those of them that were
  std::uint32_t banned = 0;         // of the members: banned by this node when the round was over
  std::uint64_t model_digest = 0;   // after the step
};

// Called on the trainer's thread.
class TrainerEvents {
 public:
  virtual ~TrainerEvents() = default;
  // After every micro-batch, and while waiting a few times a second.
  virtual void on_progress(std::uint64_t step, const GroupProgress& progress) = 0;
  virtual void on_round(const RoundLine& line) = 0;
  // A round that could not run at all; the trainer tries again.
  virtual void on_failed_round(std::uint64_t epoch, const std::string& reason) = 0;
  // The model is on a GPU, and its gradient goes through host memory from now on.
  virtual void on_gpu_refused(const std::string& /*reason*/) {}
};

class Trainer {
 public:
  // All references must outlive the trainer, and the learner must outlive the node (the engine may hold its gradient).
  // settings.micro_batch > 0, slot < slots, target_batch >= slots; the corpus' context is the learner's.
  Trainer(Learner& learner, const Corpus& corpus, Node& node, const TrainerSettings& settings, TrainerEvents& events);

  // Trains until `steps` rounds are done (true) or the node left (false). Errors: the loss became infinite or NaN, the
  // model failed, three rounds in a row could not run, or the engine broke its promise of a deadline.
  Result<bool> run();

  // From any thread: ends run() after the micro-batch in progress, without another step. Makes the node leave.
  void request_stop();

 private:
  enum class RoundEnd { stepped, failed, left };

  Result<RoundEnd> train_round();
  Status collect_samples();
  Status take_micro_batch(std::uint64_t allowed);
  [[nodiscard]] bool wants_more(const GroupProgress& progress) const;
  [[nodiscard]] std::uint64_t samples_allowed(const GroupProgress& progress) const;
  std::future<RoundReport> begin_average();
  Status take_average(const RoundReport& report);
  [[nodiscard]] bool leaving(const GroupProgress& progress) const;

  Learner& learner_;
  const Corpus& corpus_;
  Node& node_;
  TrainerSettings settings_;
  TrainerEvents& events_;
  Sampler sampler_;
  std::vector<std::int64_t> inputs_, targets_;
  std::uint64_t steps_done_ = 0;
  std::uint64_t total_samples_ = 0;
  std::string last_failure_;
  bool through_host_ = false;       // though the model is on a GPU
  std::span<float> host_gradient_;  // then
  // Of the round in progress.
  std::uint64_t epoch_ = 0;
  std::uint64_t samples_ = 0;
  double loss_sum_ = 0;
  std::atomic<bool> stop_requested_{false};
};

}  // namespace papilio::training
