#include "engine/core/progress.hpp"

#include <algorithm>
#include <limits>

#include "engine/base/assert.hpp"

namespace papilio {
namespace {

// Totals are sums of strangers' numbers: they stick at the top instead of wrapping.
std::uint64_t saturating_sum(std::uint64_t a, std::uint64_t b) {
  return a > std::numeric_limits<std::uint64_t>::max() - b ? std::numeric_limits<std::uint64_t>::max() : a + b;
}

std::uint64_t default_maximum_samples(std::uint64_t target_batch) {
  constexpr std::uint64_t kWithoutTarget = std::uint64_t{1} << 32U;
  if (target_batch == 0) return kWithoutTarget;
  return target_batch > std::numeric_limits<std::uint64_t>::max() / 16 ? target_batch : 16 * target_batch;
}

}  // namespace

std::string_view to_string(ReportVerdict verdict) {
  switch (verdict) {
    case ReportVerdict::accepted: return "accepted";
    case ReportVerdict::epoch_went_back: return "its epoch went back";
    case ReportVerdict::samples_went_back: return "its samples went back";
    case ReportVerdict::too_many_samples: return "more samples towards one epoch than believable";
    case ReportVerdict::total_too_small: return "more samples towards its epoch than in total";
    case ReportVerdict::model_from_future: return "a model digest of an epoch that it has not reached";
    case ReportVerdict::too_many_peers: return "no room for another peer";
  }
  return "unknown";
}

Progress::Progress(ProgressConfig config) : config_(config) {
  if (config_.maximum_samples == 0) config_.maximum_samples = default_maximum_samples(config_.target_batch);
  peers_.reserve(config_.maximum_peers);
}

void Progress::handle_samples(std::uint64_t samples) {
  local_.samples = saturating_sum(local_.samples, samples);
  local_.total_samples = saturating_sum(local_.total_samples, samples);
}

void Progress::handle_epoch(std::uint64_t epoch) {
  PAPILIO_ASSERT_VALUES(epoch > local_.epoch, epoch, local_.epoch);
  local_.epoch = epoch;
  local_.samples = 0;
}

void Progress::handle_model(ModelDigest model) {
  PAPILIO_ASSERT_VALUES(model.epoch <= local_.epoch, model.epoch, local_.epoch);
  local_models_.remember(model);
}

ReportVerdict Progress::handle_report(TimePoint now, const PeerId& id, const ProgressReport& report) {
  const Peer* known = find(id);
  const ReportVerdict verdict = judge(known != nullptr && known->present ? known : nullptr, report);
  if (verdict != ReportVerdict::accepted) return verdict;
  if (known == nullptr && !make_room()) return ReportVerdict::too_many_peers;

  auto place = peers_.begin() + static_cast<std::ptrdiff_t>(place_of(id));
  if (known == nullptr) {
    place = peers_.insert(place, Peer{.id = id});
  } else if (!place->present && report.total_samples < place->total_samples) {
    // It came back without its memory: what it did before stays done.
    forgotten_samples_ = saturating_sum(forgotten_samples_, place->total_samples);
  }
  place->present = true;
  place->epoch = report.epoch;
  place->samples = report.samples;
  place->total_samples = report.total_samples;
  place->heard = now;
  if (report.model) place->models.remember(*report.model);
  check_invariants();
  return ReportVerdict::accepted;
}

// `known`: the peer's last report, if it has been connected since.
ReportVerdict Progress::judge(const Peer* known, const ProgressReport& report) const {
  if (report.samples > config_.maximum_samples) return ReportVerdict::too_many_samples;
  if (report.samples > report.total_samples) return ReportVerdict::total_too_small;
  if (report.model && report.model->epoch > report.epoch) return ReportVerdict::model_from_future;
  if (known == nullptr) return ReportVerdict::accepted;
  if (report.epoch < known->epoch) return ReportVerdict::epoch_went_back;
  const bool same_epoch = report.epoch == known->epoch;
  if (same_epoch && report.samples < known->samples) return ReportVerdict::samples_went_back;
  if (report.total_samples < known->total_samples) return ReportVerdict::samples_went_back;
  return ReportVerdict::accepted;
}

// Room for one more entry, if need be that of the absent peer with the fewest samples to its name.
bool Progress::make_room() {
  if (peers_.size() < config_.maximum_peers) return true;
  auto least = peers_.end();
  for (auto peer = peers_.begin(); peer != peers_.end(); ++peer) {
    if (peer->present) continue;
    if (least == peers_.end() || peer->total_samples < least->total_samples) least = peer;
  }
  if (least == peers_.end()) return false;
  forgotten_samples_ = saturating_sum(forgotten_samples_, least->total_samples);
  peers_.erase(least);
  return true;
}

void Progress::handle_peer_left(const PeerId& id) {
  const std::size_t place = place_of(id);
  if (place == peers_.size() || peers_[place].id != id || !peers_[place].present) return;
  peers_[place].present = false;
  peers_[place].samples = 0;
  peers_[place].models.clear();
  check_invariants();
}

ProgressReport Progress::local_report() const {
  ProgressReport report = local_;
  if (!local_models_.empty()) report.model = local_models_.latest();
  return report;
}

std::uint32_t Progress::members() const {
  return 1 + static_cast<std::uint32_t>(
                 std::count_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.present; }));
}

std::uint64_t Progress::group_epoch() const {
  const std::uint32_t count = members();
  const auto reached_by_most = [&](std::uint64_t epoch) {
    std::uint32_t reached = local_.epoch >= epoch ? 1 : 0;
    for (const Peer& peer : peers_) reached += peer.present && peer.epoch >= epoch ? 1 : 0;
    return 2 * reached > count;
  };
  std::uint64_t high = local_.epoch;
  for (const Peer& peer : peers_) {
    if (peer.present) high = std::max(high, peer.epoch);
  }
  // Bisection instead of sorting a copy: no allocation, and done at once when the members agree, as nearly always.
  std::uint64_t low = reached_by_most(local_.epoch) ? local_.epoch : 0;
  if (reached_by_most(high)) return high;
  while (high - low > 1) {  // most have reached low, but not high
    const std::uint64_t middle = low + (high - low) / 2;
    (reached_by_most(middle) ? low : high) = middle;
  }
  return low;
}

std::uint64_t Progress::group_samples() const {
  std::uint64_t sum = local_.samples;
  for (const Peer& peer : peers_) {
    if (peer.present && peer.epoch == local_.epoch) sum = saturating_sum(sum, peer.samples);
  }
  return sum;
}

std::uint64_t Progress::total_samples() const {
  std::uint64_t sum = saturating_sum(local_.total_samples, forgotten_samples_);
  for (const Peer& peer : peers_) sum = saturating_sum(sum, peer.total_samples);
  return sum;
}

bool Progress::target_reached() const { return config_.target_batch > 0 && group_samples() >= config_.target_batch; }

Standing Progress::standing_of(std::uint64_t epoch) const {
  const std::uint64_t group = group_epoch();
  if (epoch < group && group - epoch > 1) return Standing::behind;
  if (epoch > group && epoch - group > 1) return Standing::ahead;
  return Standing::in_step;
}

std::optional<std::uint64_t> Progress::epoch_of(const PeerId& peer) const {
  const Peer* known = find(peer);
  if (known == nullptr || !known->present) return std::nullopt;
  return known->epoch;
}

std::optional<Standing> Progress::standing(const PeerId& id) const {
  const Peer* peer = find(id);
  if (peer == nullptr || !peer->present) return std::nullopt;
  return standing_of(peer->epoch);
}

std::uint32_t Progress::out_of_sync() const {
  const std::uint64_t group = group_epoch();
  const auto far_off = [group](std::uint64_t epoch) { return std::max(epoch, group) - std::min(epoch, group) > 1; };
  std::uint32_t count = far_off(local_.epoch) ? 1 : 0;
  for (const Peer& peer : peers_) count += peer.present && far_off(peer.epoch) ? 1 : 0;
  return count;
}

std::uint32_t Progress::in_agreement(TimePoint now) const {
  if (local_models_.empty()) return 0;
  std::uint32_t count = 1;
  for (const Peer& peer : peers_) {
    const bool fresh = peer.present && now - peer.heard <= config_.stale_after;
    count += fresh && peer.models.agrees_with(local_models_) ? 1 : 0;
  }
  return count;
}

// Where the peer is in peers_, or where it belongs.
std::size_t Progress::place_of(const PeerId& id) const {
  const auto before = [](const Peer& peer, const PeerId& other) { return peer.id < other; };
  return static_cast<std::size_t>(std::lower_bound(peers_.begin(), peers_.end(), id, before) - peers_.begin());
}

const Progress::Peer* Progress::find(const PeerId& id) const {
  const std::size_t place = place_of(id);
  return place < peers_.size() && peers_[place].id == id ? &peers_[place] : nullptr;
}

void Progress::Models::remember(ModelDigest model) {
  for (std::uint32_t i = 0; i < count_; ++i) {
    if (kept_[i].epoch == model.epoch) {
      kept_[i] = model;
      return;
    }
  }
  if (count_ == 0 || model.epoch > kept_[0].epoch) {
    kept_[1] = kept_[0];
    kept_[0] = model;
  } else if (count_ == 1 || model.epoch > kept_[1].epoch) {
    kept_[1] = model;
  } else {
    return;  // older than both
  }
  count_ = std::min<std::uint32_t>(count_ + 1, 2);
}

bool Progress::Models::agrees_with(const Models& other) const {
  for (std::uint32_t i = 0; i < count_; ++i) {
    for (std::uint32_t j = 0; j < other.count_; ++j) {
      if (kept_[i].epoch == other.kept_[j].epoch) return kept_[i].digest == other.kept_[j].digest;
    }
  }
  return false;
}

void Progress::check_invariants() const {
  PAPILIO_ASSERT_VALUES(peers_.size() <= config_.maximum_peers, peers_.size(), config_.maximum_peers);
  PAPILIO_ASSERT(
      std::is_sorted(peers_.begin(), peers_.end(), [](const Peer& a, const Peer& b) { return a.id < b.id; }));
}

}  // namespace papilio
