#include "tests/training/fake_node.hpp"

#include <algorithm>

#include "engine/base/assert.hpp"

namespace papilio::training {

class FakeGroup::Member final : public Node {
 public:
  Member(FakeGroup& group, std::uint32_t slot) : group_(group) { id_.bytes[0] = static_cast<std::uint8_t>(slot); }

  PeerId id() const override { return id_; }
  std::string listen_address() const override { return "fake:" + std::to_string(id_.bytes[0]); }
  std::string transport() const override { return "fake"; }
  Status wait_for_group() override { return Done{}; }

  void add_samples(std::uint64_t samples) override {
    const std::lock_guard lock(group_.mutex_);
    samples_ += samples;
    group_.changed_.notify_all();
  }

  GroupProgress progress() const override {
    const std::lock_guard lock(group_.mutex_);
    return progress_locked();
  }

  [[nodiscard]] std::vector<node::RefusalCount> refusals() const override { return {}; }
  GroupProgress wait_for_round(Duration timeout) override {
    std::unique_lock lock(group_.mutex_);
    group_.changed_.wait_for(lock, timeout, [this] { return left_ || group_.round_open(); });
    return progress_locked();
  }

  std::future<RoundReport> all_reduce(std::span<float> gradient, double weight) override {
    const std::lock_guard lock(group_.mutex_);
    PAPILIO_ASSERT(!waiting_ && weight > 0);
    gradient_ = gradient;
    weight_ = weight;
    promise_ = std::promise<RoundReport>();
    auto future = promise_.get_future();
    waiting_ = true;
    if (left_) {
      end_alone("left");
    } else {
      group_.finish_round_if_all_are_here();
    }
    group_.changed_.notify_all();
    return future;
  }

  std::future<RoundReport> all_reduce(const DeviceSpan& gradient, double weight) override {
    const std::span<float> values(gradient.data, gradient.elements);
    const Gpu behaviour = next_gpu();
    if (behaviour == Gpu::good) return all_reduce(values, weight);
    if (behaviour == Gpu::is_lost) {
      host_values_.assign(values.begin(), values.end());
      std::fill(values.begin(), values.end(), -12345.0F);
      return all_reduce(std::span(host_values_), weight);
    }
    RoundReport report;
    report.error = "no GPU";
    report.gpu_refused = true;
    std::promise<RoundReport> refused;
    refused.set_value(report);
    return refused.get_future();
  }

  void cancel() override {
    const std::lock_guard lock(group_.mutex_);
    if (waiting_) end_alone("");
  }

  void adopt_epoch(std::uint64_t) override {}  // its group has one epoch
  void report_model_digest(std::uint64_t, std::uint64_t digest) override {
    const std::lock_guard lock(group_.mutex_);
    digests_.push_back(digest);
  }

  void stop() override {
    const std::lock_guard lock(group_.mutex_);
    left_ = true;
    if (waiting_) end_alone("");
    group_.finish_round_if_all_are_here();
    group_.changed_.notify_all();
  }

 private:
  friend class FakeGroup;

  Gpu next_gpu() {
    const std::lock_guard lock(group_.mutex_);
    if (gpu_.empty()) return Gpu::good;
    const Gpu next = gpu_.front();
    gpu_.erase(gpu_.begin());
    return next;
  }

  GroupProgress progress_locked() const {
    GroupProgress progress;
    progress.epoch = group_.epoch_;
    progress.local_epoch = group_.epoch_;
    progress.local_samples = samples_;
    progress.group_samples = group_.group_samples();
    progress.total_samples = group_.total_samples_;
    progress.round_open = group_.round_open();
    progress.left = left_;
    for (const auto& member : group_.members_) {
      if (member->left_) continue;
      ++progress.members;
      const bool both = !digests_.empty() && !member->digests_.empty();
      if (both && digests_.back() == member->digests_.back()) ++progress.in_agreement;
    }
    return progress;
  }

  void end_alone(std::string error) {
    RoundReport report;
    report.canceled = true;
    report.error = std::move(error);
    waiting_ = false;
    promise_.set_value(std::move(report));
  }

  FakeGroup& group_;
  PeerId id_;
  bool left_ = false;
  std::uint64_t samples_ = 0;
  std::vector<std::uint64_t> digests_;
  bool waiting_ = false;
  std::span<float> gradient_;
  double weight_ = 0;
  std::promise<RoundReport> promise_;
  std::vector<Gpu> gpu_;
  std::vector<float> host_values_;
};

FakeGroup::FakeGroup(std::uint32_t members, std::uint64_t target_batch) : target_batch_(target_batch) {
  for (std::uint32_t slot = 0; slot < members; ++slot) members_.push_back(std::make_unique<Member>(*this, slot));
}

FakeGroup::~FakeGroup() = default;

Node& FakeGroup::node(std::uint32_t slot) { return *members_.at(slot); }

std::vector<std::uint64_t> FakeGroup::digests(std::uint32_t slot) {
  const std::lock_guard lock(mutex_);
  return members_.at(slot)->digests_;
}

void FakeGroup::fail_rounds(std::uint32_t count, std::string reason) {
  const std::lock_guard lock(mutex_);
  failures_left_ = count;
  failure_ = std::move(reason);
}

void FakeGroup::set_gpu(std::uint32_t slot, std::vector<Gpu> rounds) {
  const std::lock_guard lock(mutex_);
  members_.at(slot)->gpu_ = std::move(rounds);
}

std::uint64_t FakeGroup::rounds() {
  const std::lock_guard lock(mutex_);
  return epoch_;
}

// The last one to come averages for all: sum(w_i * g_i) / sum(w_i) in double, in the order of the slots.
void FakeGroup::finish_round_if_all_are_here() {
  std::vector<Member*> present;
  for (const auto& member : members_) {
    if (member->left_) continue;
    if (!member->waiting_) return;
    present.push_back(member.get());
  }
  if (present.empty()) return;

  RoundReport report;
  report.epoch = epoch_;
  report.members = static_cast<std::uint32_t>(present.size());
  if (failures_left_ > 0) {
    --failures_left_;
    report.error = failure_;
  } else {
    double weights = 0;
    for (const Member* member : present) weights += member->weight_;
    for (std::size_t i = 0; i < present[0]->gradient_.size(); ++i) {
      double sum = 0;
      for (const Member* member : present) sum += member->weight_ * static_cast<double>(member->gradient_[i]);
      for (Member* member : present) member->gradient_[i] = static_cast<float>(sum / weights);
    }
    report.coverage = 1;
    report.samples = static_cast<std::uint64_t>(weights);
    total_samples_ += report.samples;
    ++epoch_;
    for (const auto& member : members_) member->samples_ = 0;
  }
  for (Member* member : present) {
    member->waiting_ = false;
    const bool is_in_host_memory = member->gradient_.data() == member->host_values_.data();
    report.host_values = is_in_host_memory ? member->gradient_ : std::span<float>();
    member->promise_.set_value(report);
  }
}

std::uint64_t FakeGroup::group_samples() const {
  std::uint64_t sum = 0;
  for (const auto& member : members_) sum += member->samples_;
  return sum;
}

bool FakeGroup::round_open() const {
  return group_samples() >= target_batch_ ||
         std::any_of(members_.begin(), members_.end(), [](const auto& member) { return member->waiting_; });
}

}  // namespace papilio::training
