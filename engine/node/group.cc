#include "engine/node/group.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/core/partition.hpp"

namespace papilio::node {

void Group::add_samples(std::uint64_t samples) {
  progress_.handle_samples(samples);
  changed_ = true;
}

void Group::report_model(std::uint64_t epoch, std::uint64_t digest) {
  progress_.handle_model({epoch, digest});
  changed_ = true;
}

void Group::handle_round_over(TimePoint now, const RoundReport& report) {
  open_round_.reset();
  round_wanted_ = false;
  progress_.handle_epoch(report.epoch + 1);
  epoch_began_ = now;
  changed_ = true;
  if (next_start_ && next_start_->epoch == progress_.local_epoch()) open(*next_start_);
  next_start_.reset();
}

void Group::handle_peer_joined(Peer& peer) { engine_.mesh().send_control(peer, wire_report()); }

void Group::handle_peer_left(Peer& peer) { progress_.handle_peer_left(peer.id); }

transport::Progress Group::wire_report() const {
  const ProgressReport report = progress_.local_report();
  return {.epoch = report.epoch,
          .samples = report.samples,
          .total_samples = report.total_samples,
          .digest_epoch = report.model ? report.model->epoch : ~std::uint64_t{0},
          .model_digest = report.model ? report.model->digest : 0};
}

void Group::handle_control(TimePoint now, Peer& peer, const transport::Header& header) {
  if (const auto* start = std::get_if<transport::RoundStart>(&header)) return handle_round_start(peer, *start);
  const auto* wire = std::get_if<transport::Progress>(&header);
  if (wire == nullptr) return;
  ProgressReport report{
      .epoch = wire->epoch, .samples = wire->samples, .total_samples = wire->total_samples, .model = {}};
  if (wire->digest_epoch != ~std::uint64_t{0}) report.model = ModelDigest{wire->digest_epoch, wire->model_digest};
  const ReportVerdict verdict = progress_.handle_report(now, peer.id, report);
  if (verdict != ReportVerdict::accepted) {
    spdlog::warn("{} ({}): progress report disregarded: {}", to_hex(peer.id), peer.address, to_string(verdict));
  }
}

void Group::handle_round_start(Peer& peer, const transport::RoundStart& start) {
  const auto refuse = [&](const char* why) {
    spdlog::warn("{} ({}): announcement of round {} disregarded: {}", to_hex(peer.id), peer.address, start.round, why);
  };
  // The announcing peer may be done with the round that is still in flight here.
  const bool is_next = open_round_ && start.epoch == progress_.local_epoch() + 1;
  if (!is_next && start.epoch != progress_.local_epoch()) return refuse("it is of another epoch");
  if (start.round != start.epoch + 1) return refuse("round and epoch do not match");
  if (open_round_ && !is_next) return;  // known already
  std::vector<PeerId> ids;
  for (const transport::RosterMember& member : start.members) ids.push_back(member.peer);
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) return refuse("its roster names a peer twice");
  if (!std::binary_search(ids.begin(), ids.end(), config_.self)) return refuse("this node is not in its roster");
  if (!std::binary_search(ids.begin(), ids.end(), peer.id)) return refuse("the announcing peer is not in its roster");
  if (is_next) {
    next_start_ = start;
  } else {
    open(start);
  }
}

void Group::open(const transport::RoundStart& start) {
  open_round_ = RoundSpec{.round = start.round,
                          .epoch = start.epoch,
                          .members = start.members,
                          .chunk_bytes = start.chunk_bytes,
                          .timeout = std::chrono::milliseconds(start.timeout_ms)};
}

// Everybody in step has reported this epoch: nobody is still busy with the round before.
bool Group::everybody_arrived() const {
  for (const auto& peer : engine_.mesh().peers()) {
    const auto epoch = progress_.epoch_of(peer->id);
    if (epoch && *epoch + 1 == progress_.local_epoch()) return false;
  }
  return true;
}

// The lowest id among the miners that are here and at this epoch announces.
bool Group::may_announce(TimePoint now) const {
  if (config_.role != transport::WireRole::miner || open_round_ || engine_.rounds().in_round()) return false;
  for (const auto& peer : engine_.mesh().peers()) {
    const bool at_this_epoch = progress_.epoch_of(peer->id) == progress_.local_epoch();
    if (peer->role == transport::WireRole::miner && peer->id < config_.self && at_this_epoch) return false;
  }
  const bool wanted = config_.target_batch > 0 ? progress_.target_reached() : round_wanted_;
  return wanted && (everybody_arrived() || now >= saturating_add(epoch_began_, kArrivalGrace));
}

TimePoint Group::next_deadline(TimePoint now) const {
  const TimePoint grace_over = saturating_add(epoch_began_, kArrivalGrace);
  return now < grace_over ? grace_over : kNever;
}

void Group::announce() {
  RoundSpec spec;
  spec.epoch = progress_.local_epoch();
  spec.round = spec.epoch + 1;
  spec.timeout = config_.round_timeout;
  spec.members.push_back({.peer = config_.self, .rate_bytes_per_s = config_.rate_bytes_per_s, .reduces = true});
  for (const auto& peer : engine_.mesh().peers()) {
    if (peer->role == transport::WireRole::validator) continue;
    // Others would only be waited for: they have a round to finish, or a model to fetch.
    if (progress_.epoch_of(peer->id) != spec.epoch || spec.members.size() >= kMaximumMembers) continue;
    spec.members.push_back({.peer = peer->id,
                            .rate_bytes_per_s = peer->rate_bytes_per_s,
                            .reduces = peer->role == transport::WireRole::miner});
  }
  std::sort(spec.members.begin(), spec.members.end(),
            [](const auto& left, const auto& right) { return left.peer < right.peer; });
  std::uint64_t slowest = 0;
  bool all_local = true;
  std::uint32_t reducers = 0;
  for (const transport::RosterMember& member : spec.members) {
    reducers += member.reduces ? 1U : 0U;
    const Peer* const peer = engine_.mesh().find(member.peer);
    all_local = all_local && (peer == nullptr || peer->is_local_host);
    if (member.rate_bytes_per_s > 0 && (slowest == 0 || member.rate_bytes_per_s < slowest)) {
      slowest = member.rate_bytes_per_s;
    }
  }
  const double rate = slowest > 0 ? static_cast<double>(slowest) : (all_local ? 0 : kAssumedRemoteRate);
  spec.chunk_bytes =
      config_.chunk_bytes != 0 ? config_.chunk_bytes : choose_chunk_bytes(config_.elements, reducers, rate);

  const transport::RoundStart start{
      .round = spec.round,
      .epoch = spec.epoch,
      .members = spec.members,
      .chunk_bytes = static_cast<std::uint32_t>(spec.chunk_bytes),
      .timeout_ms = static_cast<std::uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(spec.timeout).count())};
  for (const transport::RosterMember& member : spec.members) {
    if (Peer* const peer = engine_.mesh().find(member.peer)) engine_.mesh().send_control(*peer, start);
  }
  open_round_ = std::move(spec);
}

void Group::act(TimePoint now) {
  if (std::exchange(changed_, false)) {
    const transport::Progress report = wire_report();
    for (const auto& peer : engine_.mesh().peers()) engine_.mesh().send_control(*peer, report);
  }
  if (may_announce(now)) announce();
}

bool Group::is_out_of_step() const { return progress_.group_epoch() > progress_.local_epoch() + 1; }

GroupProgress Group::progress(TimePoint now) const {
  GroupProgress progress;
  progress.epoch = progress_.group_epoch();
  progress.local_epoch = progress_.local_epoch();
  progress.local_samples = progress_.local_samples();
  progress.group_samples = progress_.group_samples();
  progress.total_samples = progress_.total_samples();
  progress.members = static_cast<std::uint32_t>(engine_.mesh().peers().size() + 1);
  progress.round_open = open_round_.has_value();
  progress.in_agreement = progress_.in_agreement(now);
  return progress;
}

}  // namespace papilio::node
