#include "engine/training/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>

#include "engine/base/assert.hpp"

namespace papilio::training {
namespace {

using SteadyClock = std::chrono::steady_clock;

// How often a waiting trainer looks up: for the display, and for members that left.
constexpr Duration kLookUp = std::chrono::milliseconds(250);
// A round ends by its deadline, for every live member, always. Longer than that plus this is a bug of the engine.
constexpr Duration kDeadlineMargin = std::chrono::seconds(10);
// One failed round may be a moment without a network; this many in a row are not.
constexpr int kFailedRoundsInARow = 3;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

RoundLine line_of(const RoundReport& report, const PeerId& self) {
  RoundLine line;
  line.epoch = report.epoch;
  line.global_samples = report.samples;
  line.seconds = report.seconds;
  line.bytes_sent = report.bytes_sent;
  line.bytes_received = report.bytes_received;
  line.members = report.members;
  line.coverage = report.coverage;
  line.local_chunks = report.local_chunks;
  for (const PeerReport& peer : report.peers) {
    if (peer.peer != self) line.peers.push_back(peer);
    if (peer.cut_off) line.cut_off.push_back(peer);
    if (peer.banned) line.banned += 1;
  }
  return line;
}

}  // namespace

Trainer::Trainer(Learner& learner, const Corpus& corpus, Node& node, const TrainerSettings& settings,
                 TrainerEvents& events)
    : learner_(learner),
      corpus_(corpus),
      node_(node),
      settings_(settings),
      events_(events),
      sampler_(settings.seed, corpus.windows(), settings.target_batch, settings.slot, settings.slots,
               settings.share.value_or(share_of(settings.target_batch, settings.slot, settings.slots))) {
  PAPILIO_ASSERT(settings.micro_batch > 0);
  PAPILIO_ASSERT_VALUES(corpus.context() == learner.context(), corpus.context(), learner.context());
}

Result<bool> Trainer::run() {
  epoch_ = node_.progress().epoch;
  int failed_in_a_row = 0;
  while (steps_done_ < settings_.steps) {
    auto end = train_round();
    if (!end) return end.error();
    if (*end == RoundEnd::left) return false;
    failed_in_a_row = *end == RoundEnd::failed ? failed_in_a_row + 1 : 0;
    if (failed_in_a_row == kFailedRoundsInARow) {
      return runtime_error("gave up after " + std::to_string(failed_in_a_row) +
                           " rounds in a row that could not run (the last: " + last_failure_ +
                           "); check that the other nodes are reachable and of the same run");
    }
  }
  return true;
}

void Trainer::request_stop() {
  stop_requested_.store(true);
  node_.stop();
}

Result<Trainer::RoundEnd> Trainer::train_round() {
  const auto begin = SteadyClock::now();
  if (auto collected = collect_samples(); !collected) return collected.error();
  if (leaving(node_.progress())) return RoundEnd::left;

  const double loss = loss_sum_ / static_cast<double>(samples_);
  if (!std::isfinite(loss)) {
    return runtime_error("the loss became " + std::to_string(loss) + " in epoch " + std::to_string(epoch_) +
                         "; lower --learning-rate");
  }
  learner_.scale_gradient(1.0F / static_cast<float>(samples_));

  std::future<RoundReport> averaged = begin_average();
  if (averaged.wait_for(settings_.round_timeout + kDeadlineMargin) != std::future_status::ready) {
    return runtime_error("the engine did not end the round of epoch " + std::to_string(epoch_) + " within " +
                         std::to_string(to_seconds(settings_.round_timeout + kDeadlineMargin)) +
                         " s; this is a bug of Papilio, please report it with the log");
  }
  const RoundReport report = averaged.get();
  if (leaving(node_.progress())) return RoundEnd::left;  // its average may lack those that would have come
  if (!report.error.empty()) {
    last_failure_ = report.error;
    events_.on_failed_round(epoch_, report.error);
    return RoundEnd::failed;
  }

  if (auto taken = take_average(report); !taken) return taken.error();
  if (auto stepped = learner_.step(); !stepped) return stepped.error();
  RoundLine line = line_of(report, node_.id());
  line.step = ++steps_done_;
  line.loss = loss;
  line.samples = samples_;
  total_samples_ += report.samples;
  line.total_samples = total_samples_;
  line.model_digest = learner_.digest();
  line.step_seconds = seconds_since(begin);
  node_.report_model_digest(report.epoch, line.model_digest);
  epoch_ = report.epoch + 1;
  events_.on_round(line);
  return RoundEnd::stepped;
}

// On the GPU, if it is there, for as long as the engine can; else in host memory.
std::future<RoundReport> Trainer::begin_average() {
  const auto weight = static_cast<double>(samples_);
  const std::optional<DeviceSpan> on_device = through_host_ ? std::nullopt : learner_.device_gradient();
  if (on_device) {
    std::future<RoundReport> averaged = node_.all_reduce(*on_device, weight);
    if (averaged.wait_for(Duration::zero()) != std::future_status::ready) return averaged;
    RoundReport report = averaged.get();
    if (!report.gpu_refused) {
      std::promise<RoundReport> over;
      over.set_value(std::move(report));
      return over.get_future();
    }
    through_host_ = true;
    events_.on_gpu_refused(report.error);
  }
  host_gradient_ = learner_.gradient();
  return node_.all_reduce(host_gradient_, weight);
}

// To where the optimiser reads it.
Status Trainer::take_average(const RoundReport& report) {
  if (!report.host_values.empty()) return learner_.set_gradient(report.host_values);
  if (through_host_) return learner_.set_gradient(host_gradient_);
  return Done{};
}

// Takes samples until the round is open. Ends at the latest after this node's own work plus one round's timeout: then
// it calls the round itself, and the round's deadline settles who is in it.
Status Trainer::collect_samples() {
  learner_.clear_gradient();
  samples_ = 0;
  loss_sum_ = 0;
  std::optional<SteadyClock::time_point> patience_ends;
  for (;;) {
    const GroupProgress progress = node_.progress();
    if (leaving(progress)) return Done{};
    if (wants_more(progress)) {
      if (auto taken = take_micro_batch(samples_allowed(progress)); !taken) return taken;
      events_.on_progress(steps_done_ + 1, node_.progress());
      continue;
    }
    if (progress.round_open) return Done{};
    const auto now = SteadyClock::now();
    if (!patience_ends) patience_ends = now + settings_.round_timeout;
    if (now >= *patience_ends) return Done{};
    events_.on_progress(steps_done_ + 1, node_.wait_for_round(std::min<Duration>(kLookUp, *patience_ends - now)));
  }
}

// A node without samples when the round opens computes one micro-batch first: a weight of zero is nobody's opinion.
bool Trainer::wants_more(const GroupProgress& progress) const {
  if (samples_ == 0) return true;
  if (settings_.exact_shares && samples_ < sampler_.share().count) return true;
  return !progress.round_open && samples_ < samples_allowed(progress);
}

// More than the whole batch from one node would only make it the group's dictator; exactly the share, as long as
// everybody is there to do theirs.
std::uint64_t Trainer::samples_allowed(const GroupProgress& progress) const {
  const std::uint64_t share = std::max<std::uint64_t>(sampler_.share().count, 1);
  const bool only_the_share = settings_.exact_shares && (samples_ < share || progress.members >= settings_.slots);
  return only_the_share ? share : settings_.target_batch;
}

Status Trainer::take_micro_batch(std::uint64_t allowed) {
  PAPILIO_ASSERT_VALUES(samples_ < allowed, samples_, allowed);
  const std::uint64_t count = std::min(settings_.micro_batch, allowed - samples_);
  const std::size_t context = corpus_.context();
  inputs_.resize(count * context);
  targets_.resize(count * context);
  for (std::uint64_t row = 0; row < count; ++row) {
    const std::size_t offset = sampler_.offset(sampler_.index(epoch_, samples_ + row));
    corpus_.window(offset, std::span(inputs_).subspan(row * context, context),
                   std::span(targets_).subspan(row * context, context));
  }
  auto loss = learner_.accumulate(inputs_, targets_, count);
  if (!loss) return loss.error();
  loss_sum_ += *loss;
  samples_ += count;
  node_.add_samples(count);
  return Done{};
}

bool Trainer::leaving(const GroupProgress& progress) const { return progress.left || stop_requested_.load(); }

}  // namespace papilio::training
