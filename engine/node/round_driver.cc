#include "engine/node/round_driver.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/core/mutation.hpp"
#include "engine/node/codec_choice.hpp"
#include "kernels/ops.h"

namespace papilio::node {

using core::CutOff;
using core::mutated;
using core::Mutation;
using core::ShardKind;
using core::Verdict;
using transport::PayloadVerdict;

namespace {

// A tag names a shard in flight: its kind and chunk. One round at a time, and none ends with shards in flight.
std::uint64_t tag_of(const core::SendOrder& order) {
  return (std::uint64_t{order.chunk} << 1U) | (order.kind == ShardKind::average ? 1U : 0U);
}
core::SendOrder order_of(std::uint64_t tag) {
  return {(tag & 1U) != 0 ? ShardKind::average : ShardKind::contribution, static_cast<ChunkIndex>(tag >> 1U)};
}

// What every shard says about where it belongs.
struct Belonging {
  RoundId round = 0;
  std::uint64_t model = 0;
  std::uint64_t group = 0;
};
Belonging belonging_of(const transport::Header& header) {
  const auto read = [](const auto& shard) { return Belonging{shard.round, shard.model, shard.group}; };
  if (const auto* contribution = std::get_if<transport::Contribution>(&header)) return read(*contribution);
  return read(std::get<transport::Average>(header));
}

// Of words about rounds; 0 for other frames.
RoundId round_of_word(const transport::Header& header) {
  return std::visit(
      [](const auto& word) -> RoundId {
        using Word = std::decay_t<decltype(word)>;
        if constexpr (std::is_same_v<Word, transport::Done> || std::is_same_v<Word, transport::Resume> ||
                      std::is_same_v<Word, transport::Suspect> || std::is_same_v<Word, transport::Takeover> ||
                      std::is_same_v<Word, transport::Holdings> || std::is_same_v<Word, transport::Wanted> ||
                      std::is_same_v<Word, transport::Pulse>) {
          return word.round;
        } else {
          return 0;
        }
      },
      header);
}

std::uint64_t payload_received(const Peer& peer) {
  std::uint64_t bytes = 0;
  for (const transport::Flow* flow : peer.flows) bytes += flow->payload_received();
  return bytes;
}

// What came since the last call: on the line, and as bytes of gradient. The shards that are under way count as the
// bytes that came of them: too little until they are whole, so that nothing that came is ever taken back.
std::pair<std::uint64_t, std::uint64_t> take_progress(Peer& peer) {
  PeerProgress& progress = peer.progress;
  const std::uint64_t received = payload_received(peer);
  const std::uint64_t wire = received - std::min(received, progress.payload_before);
  const std::uint64_t gradient = progress.gradient_of_whole + wire - std::min(wire, progress.whole_shards);
  // A flow that was lost takes its count along.
  const std::uint64_t wire_told = std::exchange(progress.payload_told, std::max(progress.payload_told, wire));
  const std::uint64_t told = std::exchange(progress.gradient_told, std::max(progress.gradient_told, gradient));
  return {progress.payload_told - wire_told, progress.gradient_told - told};
}

core::Offence offence_of(CutOff reason) {
  switch (reason) {
    case CutOff::wrong_model: return core::Offence::wrong_model;
    case CutOff::wrong_group: return core::Offence::wrong_group;
    case CutOff::damaged_bytes: return core::Offence::damaged_bytes;
    case CutOff::slow: return core::Offence::slow;
    case CutOff::never_started: return core::Offence::missing;
    case CutOff::non_finite: return core::Offence::non_finite;
    case CutOff::wild_norm: return core::Offence::wild_norm;
    default: return core::Offence::protocol;
  }
}

// Of plain fp32: slabs are page-aligned.
std::span<const float> floats_of(std::span<const std::byte> payload) {
  return {reinterpret_cast<const float*>(payload.data()), payload.size() / sizeof(float)};
}

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

const char* kind_of(const transport::Contribution&) { return "contribution"; }
const char* kind_of(const transport::Average&) { return "average"; }

// The largest |value| that may come in.
float limit_of(transport::Codec codec, float limit) {
  return codec == transport::Codec::fp32 ? limit : limit * kRoundingRoom;
}

double norm_of(std::span<const float> values) { return std::sqrt(kernels::inspect(values).sum_of_squares); }

ShardFormat format_of(const transport::Contribution& shard) { return {shard.codec, shard.compression}; }
ShardFormat format_of(const transport::Average& shard) { return {shard.codec, shard.compression}; }
ShardFormat format_of_shard(const transport::Header& header) {
  if (const auto* contribution = std::get_if<transport::Contribution>(&header)) return format_of(*contribution);
  return format_of(std::get<transport::Average>(header));
}

ChunkIndex chunk_of(const transport::Header& header) {
  if (const auto* contribution = std::get_if<transport::Contribution>(&header)) return contribution->chunk;
  return std::get<transport::Average>(header).chunk;
}

Role role_of(transport::WireRole role) { return static_cast<Role>(role); }

}  // namespace

RoundDriver::RoundDriver(transport::Io& io, Mesh& mesh, RoundDriverConfig config, RoundDriverEvents& events)
    : io_(io),
      mesh_(mesh),
      config_(std::move(config)),
      events_(events),
      norms_(config_.norms),
      coder_({.error_feedback = config_.error_feedback}) {}

std::span<float> RoundDriver::chunk_values(ChunkIndex chunk) const {
  const Range range = round_->plan().chunk(chunk);
  return gradient_.subspan(range.begin, range.size);
}

// One for every flow that can be in the middle of a payload, and two to spare: the CPU's sums are done at once. A
// device holds what it needs to be busy.
std::size_t RoundDriver::slabs_needed(std::size_t chunk_bytes) const {
  constexpr std::size_t kDeviceBytes = std::size_t{24} << 20U;
  std::size_t slabs = 2;
  for (const auto& peer : mesh_.peers()) slabs += peer->flows.size();
  return slabs + (device_ != nullptr ? kDeviceBytes / chunk_bytes : 0);
}

void RoundDriver::ensure_pool(std::size_t chunk_bytes) {
  std::erase_if(old_pools_, [](const auto& pool) { return pool->available() == pool->capacity(); });
  const std::size_t most = std::max<std::size_t>(2, config_.pool_bytes_limit / chunk_bytes);
  const std::size_t wanted = std::min(slabs_needed(chunk_bytes), most);
  const bool is_known = pool_is_known_ || device_ == nullptr;
  if (pool_ != nullptr && pool_->slab_bytes() >= chunk_bytes && pool_->capacity() >= wanted && is_known) return;
  pool_is_known_ = device_ != nullptr;
  auto made = transport::SlabPool::make(chunk_bytes, std::min(std::bit_ceil(wanted), most),
                                        pool_is_known_ ? config_.device_pages : transport::PageCallbacks{});
  PAPILIO_ASSERT(made.ok());  // sizes are within the limits; only a machine without memory fails here
  if (!made->notes().empty()) spdlog::info("{}", made->notes());
  if (pool_ != nullptr) old_pools_.push_back(std::move(pool_));
  pool_ = std::make_unique<transport::SlabPool>(std::move(*made));
}

// ---- a round's life

void RoundDriver::begin(const RoundSpec& spec, std::span<float> gradient, double weight,
                        kernels::DeviceGradient* device) {
  PAPILIO_ASSERT(!round_);
  PAPILIO_ASSERT(device == nullptr || (device->in_flight() == 0 && device->host_copy().data() == gradient.data()));
  PAPILIO_ASSERT_VALUES(spec.round > last_round_, spec.round, last_round_);
  spec_ = spec;
  if (!mutated(Mutation::mixed_rounds))
    last_round_ = spec.round - 1;  // shards of rounds that this node sat out may still be waiting
  gradient_ = gradient;
  device_ = device;
  host_values_ = {};
  began_ = io_.now();
  ensure_pool(spec.chunk_bytes);

  std::vector<PlanMember> plan_members;
  MemberIndex self = kNotAMember;
  bool any_local = false;
  member_peers_.assign(spec.members.size(), nullptr);
  member_reports_.assign(spec.members.size(), {});
  for (MemberIndex member = 0; member < spec.members.size(); ++member) {
    const transport::RosterMember& each = spec.members[member];
    plan_members.push_back({.reduces = each.reduces, .rate = static_cast<double>(each.rate_bytes_per_s)});
    PeerReport& report = member_reports_[member];
    report.peer = each.peer;
    if (each.peer == config_.self) {
      self = member;
      continue;
    }
    Peer* const peer = mesh_.find(each.peer);
    member_peers_[member] = peer;
    if (peer == nullptr) continue;
    peer->member = member;
    peer->progress = {.payload_before = payload_received(*peer)};
    report.address = peer->address;
    report.role = role_of(peer->role);
    any_local |= peer->is_local_host;
  }
  PAPILIO_ASSERT(self != kNotAMember);

  core::RoundConfig config;
  config.round = spec.round;
  config.self = self;
  config.weight = static_cast<float>(weight);  // as the others read it from the shards
  config.start = began_;
  config.deadline = saturating_add(began_, spec.timeout);
  config.reduce_by =
      saturating_add(began_, from_seconds(to_seconds(spec.timeout) * config_.patience.reduce_by_fraction));
  config.settle_by =
      saturating_add(began_, from_seconds(to_seconds(spec.timeout) * config_.patience.settle_by_fraction));
  config.patience = config_.patience.members;
  config.patience.lateness = scaled(config_.patience.members.lateness, room_for_graces(spec.timeout));
  for (const PlanMember& member : plan_members) config.rates.push_back(member.rate);
  next_pulse_ = saturating_add(began_, pulse_interval());
  config.reducers = 0;
  for (MemberIndex member = 0; member < spec.members.size(); ++member) {
    if (spec.members[member].reduces) config.reducers |= coverage_of(member);
  }
  borrow_ = config_.borrow;
  if (borrow_ == Borrow::automatic) {
    borrow_ = gradient.size_bytes() >= config_.borrow_from_bytes ? Borrow::everything : Borrow::nothing;
  }
  if (device_ != nullptr) borrow_ = Borrow::nothing;        // pages that a driver has made are not for pipes
  if (mesh_.config().is_secure) borrow_ = Borrow::nothing;  // what leaves is ciphertext
  borrow_averages_ = any_local && borrow_ == Borrow::everything;
  config.averages_first =
      config_.order == core::RoundOrder::averages_first || (config_.order == core::RoundOrder::automatic && any_local);
  round_.emplace(config, PartitionPlan::make(gradient.size(), plan_members, spec.chunk_bytes));
  chunk_checksums_.assign(round_->plan().chunk_count(), 0);
  begin_coding(plan_members);
  if (device_ != nullptr) {
    // For every chunk that this member sums up, and as many again that others leave behind; where memory is short, it
    // is the orders that will say so.
    const PartitionPlan& plan = round_->plan();
    static_cast<void>(
        device_->reserve(std::min<std::size_t>(plan.chunk_count(), 2 * plan.chunks(self)), plan.chunk_elements()));
  }
  if (norms_.is_on()) {
    const double squares = kernels::inspect(gradient).sum_of_squares;
    const double rms = gradient.empty() ? 0 : std::sqrt(squares / static_cast<double>(gradient.size()));
    norms_.begin(self, round_->members(), round_->plan().chunk_count(), rms);
  }
  for (MemberIndex member = 0; member < spec.members.size(); ++member) {
    if (member != self && member_peers_[member] == nullptr && round_->owe_each_other(member)) {
      round_->handle_cut_off(member, CutOff::connection_lost);
    }
  }
  std::vector<EarlyFrame> early = std::exchange(early_, {});
  for (EarlyFrame& each : early) handle_control(*each.peer, each.header);
  act();
  resume_held();
  resume_starved();
}

void RoundDriver::begin_coding(std::span<const PlanMember> members) {
  const MemberIndex self = round_->config().self;
  const FormatChoice choice = spec_.exact ? ShardFormat{} : config_.format;
  std::vector<ShardFormat> links(members.size(), choice.value_or(ShardFormat{}));
  ShardFormat averages = links[self];
  double slowest = std::numeric_limits<double>::infinity();
  for (MemberIndex member = 0; !choice && member < members.size(); ++member) {
    const Peer* const peer = member_peers_[member];
    if (peer == nullptr || peer->is_local_host) continue;
    const double rate = line_rate(member, members);
    links[member].codec = fastest_codec(rate, coder_costs());
    slowest = std::min(slowest, rate);
  }
  if (std::isfinite(slowest)) {
    averages.codec = fastest_codec(slowest, coder_costs());
    // Tried where a trial is nothing beside the round.
    constexpr double kLongRoundS = 0.1;
    const bool is_long = static_cast<double>(gradient_.size_bytes()) / slowest > kLongRoundS;
    const std::span<const float> sample = gradient_.first(std::min(gradient_.size(), round_->plan().chunk_elements()));
    const ZstdTrial trial = is_long ? try_zstd(sample, averages.codec, coder_.zstd_level()) : ZstdTrial{};
    const auto compressed_if = [](bool pays) {
      return pays ? transport::Compression::zstd : transport::Compression::none;
    };
    averages.compression = compressed_if(is_long && zstd_pays(slowest, averages.codec, coder_costs(), trial));
    for (MemberIndex member = 0; member < members.size(); ++member) {
      if (links[member].codec == averages.codec) links[member].compression = averages.compression;
    }
  }
  coder_.begin(round_->plan(), self, gradient_, std::move(links), averages);
}

// What this node's line carries each way when all its links are busy: as its connection to that member measured it, or
// else as the two announced it, or else as is usual between hosts.
double RoundDriver::line_rate(MemberIndex member, std::span<const PlanMember> members) const {
  double measured = 0;
  for (const transport::Flow* flow : member_peers_[member]->flows) {
    measured += static_cast<double>(flow->info().delivery_rate_bytes_per_s);
  }
  if (measured > 0) return measured * static_cast<double>(members.size() - 1);
  const double own = members[round_->config().self].rate, other = members[member].rate;
  const double announced = own > 0 && other > 0 ? std::min(own, other) : std::max(own, other);
  return announced > 0 ? announced : kAssumedRemoteRate;
}

void RoundDriver::cancel() {
  if (!round_) return;
  const Coverage told = round_->live();
  round_->cancel();
  if (device_ != nullptr) give_up_device("the round was canceled");  // whoever cancels does not wait
  run_finalisations();
  const transport::Suspect giving_up{.round = spec_.round, .member = round_->config().self, .withdrawn = false};
  for (MemberIndex member = 0; member < member_peers_.size(); ++member) {
    Peer* const peer = member_peers_[member];
    if (peer != nullptr && (told & coverage_of(member)) != 0) mesh_.send_control(*peer, giving_up);
  }
}

void RoundDriver::act() {
  for (std::size_t member = 0; round_->is_in_trouble() && member < member_peers_.size(); ++member) {
    if (member_peers_[member] != nullptr) resume_link(*member_peers_[member]);
  }
  run_finalisations();
  deliver_notices();
  wake_senders();
}

void RoundDriver::skip_rounds_to(RoundId round) {
  if (round_ || round <= last_round_) return;
  last_round_ = round;
  std::erase_if(early_, [&](const EarlyFrame& each) { return round_of_word(each.header) <= round; });
  resume_held();
}

TimePoint RoundDriver::next_deadline() const {
  TimePoint next = kNever;
  if (round_ && !round_->is_over()) {
    next = std::min(round_->next_deadline(), next_pulse_);
  } else if (round_ && shards_in_flight_ == 0 && !device_is_busy()) {
    next = io_.now();  // over since begin(): no event will come
  } else if (round_ && io_.now() < round_->config().deadline) {
    next = round_->config().deadline;
  }
  if (device_ != nullptr) next = std::min(next, device_->failure() ? io_.now() : device_->deadline());
  if (device_is_busy()) next = std::min(next, round_->config().deadline);
  for (const HeldFlow& held : held_) next = std::min(next, saturating_add(held.since, config_.hold_timeout));
  return next;
}

void RoundDriver::handle_time(TimePoint now) {
  if (device_ != nullptr) take_from_device(now);
  if (round_) {
    const bool is_due = now >= round_->next_deadline();
    if (now >= round_->lateness().next_tick()) feed_timers(now);
    if (now >= next_pulse_) send_pulses(now);
    round_->handle_time(now);
    if (is_due) act();
  }
  give_up_held(now);
  finish_if_over();
}

// Only these shards are disregarded: that a peer is ahead, or says so, must not move this node's own count of rounds.
void RoundDriver::give_up_held(TimePoint now) {
  const auto first_expired = std::partition(held_.begin(), held_.end(), [&](const HeldFlow& held) {
    return now < saturating_add(held.since, config_.hold_timeout);
  });
  const std::vector<HeldFlow> expired(first_expired, held_.end());
  held_.erase(first_expired, held_.end());
  for (const HeldFlow& held : expired) {
    giving_up_ = held.flow;
    held.flow->resume();
    giving_up_ = nullptr;
  }
}

void RoundDriver::finish_if_over() {
  if (!round_ || !round_->is_over()) return;
  if (device_is_busy()) return;  // with the last averages
  if (shards_in_flight_ > 0) {
    // Nothing more is wanted by anybody, yet the kernel still reads from the gradient. As a rule the news that it is
    // done comes next (a reducer's answer may overtake it); where it has not by the deadline, the link is stuck.
    if (!round_->was_canceled() && io_.now() < round_->config().deadline) return;
    for (MemberIndex member = 0; member < member_peers_.size(); ++member) {
      Peer* const peer = member_peers_[member];
      if (peer != nullptr && member_reports_[member].shards_in_flight > 0) {
        mesh_.drop(*peer, "the round ended while its connection was stuck");
      }
    }
    return;
  }
  feed_timers(io_.now());
  drop_unreleased();
  RoundReport report = make_report();
  last_round_ = spec_.round;
  coder_.end();
  round_.reset();
  gradient_ = {};
  device_ = nullptr;
  PAPILIO_ASSERT_VALUES(ordered_.empty(), ordered_.size(), spec_.round);
  for (const auto& peer : mesh_.peers()) peer->member = kNotAMember;
  member_peers_.clear();
  resume_held();  // late shards of this round; shards of later ones are asked about again and held
  resume_starved();
  events_.on_round_over(std::move(report));
}

// Peers that may still read borrowed bytes while the trainer is about to change them: cut, so that what they read from
// the dead connection fails its checksum instead of being averaged.
void RoundDriver::drop_unreleased() {
  if (borrow_ == Borrow::nothing) return;
  for (MemberIndex member = 0; member < member_peers_.size(); ++member) {
    Peer* const peer = member_peers_[member];
    if (peer == nullptr || !peer->is_local_host) continue;
    const CutOff reason = round_->cut_off(member);
    const bool stuck = reason != CutOff::none && reason != CutOff::contributions_missing;
    const bool unreleased = borrow_averages_ && !round_->has_released(member);
    if (stuck || unreleased || round_->was_canceled()) mesh_.drop(*peer, "it may still read this round's memory");
  }
}

// Of a round whose chunks are all settled.
std::uint64_t RoundDriver::digest() {
  for (ChunkIndex chunk = 0; chunk < chunk_checksums_.size(); ++chunk) {
    if (round_->coverage(chunk) != 0 || chunk_checksums_[chunk] != 0) continue;
    chunk_checksums_[chunk] = kernels::checksum(std::as_bytes(chunk_values(chunk)));
  }
  return kernels::checksum(std::as_bytes(std::span(chunk_checksums_)));
}

RoundReport RoundDriver::make_report() {
  RoundReport report;
  const PartitionPlan& plan = round_->plan();
  report.round = spec_.round;
  report.epoch = spec_.epoch;
  report.seconds = to_seconds(io_.now() - began_);
  report.members = round_->members();
  report.canceled = round_->was_canceled();
  report.host_values = host_values_;
  double weight_most = round_->config().weight;
  double covered = 0;
  report.chunks.reserve(plan.chunk_count());
  for (ChunkIndex chunk = 0; chunk < plan.chunk_count(); ++chunk) {
    const Coverage coverage = round_->coverage(chunk);
    report.chunks.push_back(coverage);
    report.chunk_begins.push_back(plan.chunk(chunk).begin);
    report.reducers.push_back(coverage != 0 ? round_->reducer(chunk) : kNotAMember);
    covered += static_cast<double>(plan.chunk(chunk).size) * std::popcount(coverage) / round_->members();
    if (coverage == 0) {
      report.local_chunks += 1;
    } else {
      weight_most = std::max(weight_most, static_cast<double>(round_->total_weight(chunk)));
    }
  }
  report.coverage = plan.elements() > 0 ? covered / static_cast<double>(plan.elements()) : 1;
  report.digest = digest();
  report.samples = static_cast<std::uint64_t>(std::llround(weight_most));
  for (MemberIndex member = 0; member < round_->members(); ++member) {
    PeerReport& peer = member_reports_[member];
    peer.weight = round_->announced_weight(member);
    peer.contributions_in = round_->contributions_in(member);
    peer.averages_in = round_->averages_in(member);
    peer.times_resumed = round_->times_resumed(member);
    const core::TimerReport timers = round_->lateness().report(member, io_.now());
    peer.round_trip_ms = timers.round_trip_ms;
    peer.first_shard_ms = timers.first_shard_ms;
    peer.longest_gap_ms = timers.longest_gap_ms;
    peer.rate_bytes_per_s = timers.rate_bytes_per_s;
    peer.lag_ms = timers.lag_ms;
    peer.limit_ms = timers.limit_ms;
    peer.cut_off = round_->cut_off(member) != CutOff::none;
    if (peer.cut_off) peer.reason = to_string(round_->cut_off(member));
    report.bytes_received += peer.bytes_in;
    report.bytes_sent += peer.bytes_out;
    report.peers.push_back(peer);
  }
  return report;
}

// ---- what peers send

transport::PayloadDecision RoundDriver::handle_shard_header(Peer& peer, transport::Flow& flow,
                                                            const transport::Header& header,
                                                            std::size_t payload_bytes) {
  const auto [round, model, group] = belonging_of(header);
  if (round <= last_round_) return {};
  if (!round_ || round > spec_.round) {
    if (giving_up_ == &flow) return {};
    held_.push_back({.flow = &flow, .round = round, .since = io_.now()});
    return {.verdict = PayloadVerdict::hold, .slab = {}};
  }
  if (peer.member == kNotAMember) return {};
  if (model != spec_.model) {
    violate(peer, CutOff::wrong_model, "a shard of another model or epoch");
    return {};
  }
  if (group != spec_.group) {
    violate(peer, CutOff::wrong_group, "a shard of another group");
    return {};
  }

  Verdict verdict = Verdict::accept;
  const std::uint64_t elements = coder_.elements_in(format_of_shard(header), chunk_of(header), payload_bytes);
  if (const auto* contribution = std::get_if<transport::Contribution>(&header)) {
    verdict = round_->check_contribution(peer.member, contribution->chunk, contribution->weight, elements);
  } else {
    const auto& average = std::get<transport::Average>(header);
    verdict = round_->check_average(peer.member, average.chunk, average.reducer, average.coverage, average.total_weight,
                                    elements);
  }
  if (verdict == Verdict::bad_size) {
    violate(peer, CutOff::wrong_model,
            "a shard that is " + std::string(to_string(verdict)) + ": " + std::to_string(payload_bytes) + " bytes of " +
                to_string(format_of_shard(header)) + " for " +
                std::to_string(round_->plan().chunk(chunk_of(header)).size) + " elements");
    return {};
  }
  if (is_violation(verdict)) {
    violate(peer, CutOff::protocol, "a shard that is " + std::string(to_string(verdict)));
    return {};
  }
  if (verdict != Verdict::accept) return {};
  transport::Slab slab = pool_->take();
  if (!slab) {
    starved_.push_back(&flow);
    return {.verdict = PayloadVerdict::hold, .slab = {}};
  }
  return {.verdict = PayloadVerdict::accept, .slab = std::move(slab)};
}

void RoundDriver::handle_shard(Peer& peer, const transport::Header& header, transport::Slab slab,
                               std::size_t payload_bytes) {
  const bool is_of_this_round =
      round_ && (belonging_of(header).round == spec_.round || mutated(Mutation::mixed_rounds));
  if (is_of_this_round && peer.member != kNotAMember) {
    const std::span<const std::byte> payload = slab.bytes().first(payload_bytes);
    member_reports_[peer.member].bytes_in += payload_bytes;
    peer.progress.whole_shards += payload_bytes;
    peer.progress.gradient_of_whole += round_->plan().chunk(chunk_of(header)).size * sizeof(float);
    if (const auto* contribution = std::get_if<transport::Contribution>(&header)) {
      handle_contribution(peer, *contribution, payload, slab);
    } else {
      handle_average(peer, std::get<transport::Average>(header), payload);
    }
  }
  slab.release();
  resume_starved();
}

void RoundDriver::handle_contribution(Peer& peer, const transport::Contribution& header,
                                      std::span<const std::byte> payload, transport::Slab& slab) {
  const std::uint64_t elements = coder_.elements_in(format_of(header), header.chunk, payload.size());
  // Settled meanwhile: the sender may have its average already and its bytes may have changed on the way. No fault.
  if (round_->check_contribution(peer.member, header.chunk, header.weight, elements) != Verdict::accept) return;
  const std::optional<Numbers> numbers =
      good_numbers(peer, header, payload, limit_of(header.codec, core::largest_element(header.weight)));
  float scale = 1;
  if (!numbers || !norm_is_good(peer, header, *numbers, scale)) return;
  const std::optional<core::Reduction> reduction =
      round_->handle_contribution(peer.member, header.chunk, header.weight);
  PAPILIO_ASSERT(reduction.has_value());
  const float weight = reduction->weight * scale;  // of the values; the total counts the whole weight
  if (device_ != nullptr) return order_sum(header.chunk, *reduction, weight, header.codec, numbers->bytes, slab);
  kernels::accumulate_accepted(chunk_values(header.chunk), reduction->own_scale, weight, kernel_codec(header.codec),
                               numbers->bytes, reduction->last ? reduction->inverse_total : 1);
  round_->handle_reduced(header.chunk);
  if (reduction->last) {
    finish_average(header.chunk, false);
    deliver_notices();
    wake_senders();
  }
}

// Looks at a payload before any of it is used: a sum lies in the caller's gradient and nothing can be taken back.
// Decodes it only where somebody wants to see the numbers one by one. None: it is not as it should be, and its sender
// was cut off.
template <typename Shard>
std::optional<RoundDriver::Numbers> RoundDriver::good_numbers(Peer& peer, const Shard& header,
                                                              std::span<const std::byte> payload, float limit) {
  using kernels::NumberFault;
  const kernels::Codec codec = kernel_codec(header.codec);
  const std::size_t elements = chunk_values(header.chunk).size();
  const bool is_packed = header.compression != transport::Compression::none;
  kernels::Arrival arrival;
  if (is_packed) {
    arrival.checksum = kernels::checksum(payload);
  } else {
    arrival = kernels::checksum_and_check(codec, payload, elements, limit);
  }
  if (arrival.checksum != header.checksum && !mutated(Mutation::skipped_checksum)) {
    handle_damaged(peer, header);
    return std::nullopt;
  }
  Numbers numbers{.bytes = payload, .values = {}};
  if (is_packed) {
    arrival.fault = coder_.unpack(format_of(header), header.chunk, payload, numbers.bytes);
    if (arrival.fault == NumberFault::none) {
      arrival.fault = kernels::check_encoded(codec, numbers.bytes, elements, limit);
    }
  }
  if (arrival.fault != NumberFault::none && (!mutated(Mutation::unchecked_numbers) || numbers.bytes.empty())) {
    const NumberComplaint complaint = describe(arrival.fault, codec, numbers.bytes, elements, limit);
    violate(peer, complaint.is_about_values ? CutOff::non_finite : CutOff::protocol,
            complaint.where + "its " + kind_of(header) + " of chunk " + std::to_string(header.chunk) + complaint.what);
    return std::nullopt;
  }
  if (header.codec == transport::Codec::fp32) {
    numbers.values = floats_of(numbers.bytes);
  } else if (norms_.is_on()) {
    numbers.values = coder_.decode(header.codec, numbers.bytes, elements);
  }
  return numbers;
}

void RoundDriver::handle_damaged(Peer& peer, const transport::Contribution& header) {
  constexpr const char* kWhat = "a contribution whose bytes do not match their checksum";
  // It may have gone by reference, and an average from elsewhere came over it before it was read here: no fault of its
  // sender. Over a new connection it sends what it still has to give, and this time a copy.
  const bool may_be_changed = peer.is_local_host && format_of(header).is_plain();
  if (may_be_changed && round_->times_resumed(peer.member) == 0) return mesh_.drop(peer, kWhat);
  violate(peer, CutOff::damaged_bytes, kWhat);
}

void RoundDriver::handle_damaged(Peer& peer, const transport::Average&) {
  violate(peer, CutOff::damaged_bytes, "an average whose bytes do not match their checksum");
}

// The norm policy, on decoded values. False: its sender was cut off. `scale`: what is made of them.
bool RoundDriver::norm_is_good(Peer& peer, const transport::Contribution& header, const Numbers& numbers,
                               float& scale) {
  if (!norms_.is_on()) return true;
  const double norm = norm_of(numbers.values);
  if (!norms_.knows_own(header.chunk)) norms_.handle_own(header.chunk, norm_of(chunk_values(header.chunk)));
  const core::NormVerdict verdict = norms_.judge(peer.member, header.chunk, numbers.values.size(), norm);
  if (verdict.action == core::NormAction::off) return true;
  const std::string what = "a contribution to chunk " + std::to_string(header.chunk) + " whose norm is " +
                           text_of(norm) + ", more than " + text_of(norms_.config().limit) + " times the group's " +
                           text_of(verdict.group_norm);
  if (verdict.action == core::NormAction::refuse) {
    violate(peer, CutOff::wild_norm, what);
    return false;
  }
  PeerReport& report = member_reports_[peer.member];
  if (report.contributions_clipped == 0) {
    spdlog::warn("{} ({}): clipped, like further ones of this round: {}", to_hex(peer.id), peer.address, what);
  }
  report.contributions_clipped += 1;
  scale = static_cast<float>(verdict.scale);
  return true;
}

bool RoundDriver::norm_is_good(Peer& peer, const transport::Average& header, const Numbers& numbers) {
  if (!norms_.is_on()) return true;
  const double norm = norm_of(numbers.values);
  const double own = norm_of(chunk_values(header.chunk));
  if (!norms_.average_is_wild(numbers.values.size(), own, norm)) return true;
  violate(peer, CutOff::wild_norm,
          "its average of chunk " + std::to_string(header.chunk) + " has norm " + text_of(norm) +
              ", this node's own gradient there " + text_of(own));
  return false;
}

// A large gradient is out of the cache long before anybody reads this chunk again; a small one stays there.
void RoundDriver::write_average(ChunkIndex chunk, transport::Codec codec, const Numbers& numbers) {
  const std::span<float> values = chunk_values(chunk);
  if (numbers.values.empty()) {
    kernels::decode_accepted(kernel_codec(codec), numbers.bytes, values);
  } else if (gradient_.size_bytes() >= config_.stream_from_bytes) {
    kernels::copy_streaming(std::as_writable_bytes(values), std::as_bytes(numbers.values));
  } else {
    std::memcpy(values.data(), numbers.values.data(), values.size_bytes());
  }
  if (device_ != nullptr) upload(chunk);
}

void RoundDriver::handle_average(Peer& peer, const transport::Average& header, std::span<const std::byte> payload) {
  const std::uint64_t elements = coder_.elements_in(format_of(header), header.chunk, payload.size());
  if (round_->check_average(peer.member, header.chunk, header.reducer, header.coverage, header.total_weight,
                            elements) != Verdict::accept) {
    return;
  }
  if (mutated(Mutation::written_before_check) && header.codec == transport::Codec::fp32) {
    write_average(header.chunk, header.codec, {.bytes = payload, .values = floats_of(payload)});
  }
  const std::optional<Numbers> numbers =
      good_numbers(peer, header, payload, limit_of(header.codec, core::kLargestAverage));
  if (!numbers || !norm_is_good(peer, header, *numbers)) return;
  round_->handle_average(peer.member, header.chunk, header.reducer, header.coverage, header.total_weight);
  coder_.handle_average(header.chunk, header.codec, (header.coverage & coverage_of(round_->config().self)) != 0,
                        round_->is_spent(header.chunk));
  if (!mutated(Mutation::unwritten_average)) write_average(header.chunk, header.codec, *numbers);
  // Of the codec's bytes: whether they came compressed is between the two ends of a link.
  chunk_checksums_[header.chunk] =
      header.compression == transport::Compression::none ? header.checksum : kernels::checksum(numbers->bytes);
  deliver_notices();
  if (round_->is_in_trouble()) wake_senders();  // it may be one that others have asked for
}

// ---- what members tell each other

MemberIndex RoundDriver::member_of(const PeerId& id) const {
  for (MemberIndex member = 0; member < spec_.members.size(); ++member) {
    if (spec_.members[member].peer == id) return member;
  }
  return kNotAMember;
}

// A link that came (back) during a round: the other side may be in it, too.
void RoundDriver::handle_peer_joined(Peer& peer) {
  if (!round_) return tell_given_up(peer);
  const MemberIndex member = member_of(peer.id);
  if (member == kNotAMember || member == round_->config().self) return;
  peer.member = member;
  peer.progress = {};
  member_peers_[member] = &peer;
  member_reports_[member].address = peer.address;
  member_reports_[member].role = role_of(peer.role);
  resume_link(peer);
}

// Others may be in the round that this node is through with: they need not wait.
void RoundDriver::tell_given_up(Peer& peer) {
  if (spec_.round == 0 || spec_.round != last_round_ || member_of(peer.id) == kNotAMember) return;
  mesh_.send_control(peer,
                     transport::Suspect{.round = spec_.round, .member = member_of(config_.self), .withdrawn = false});
}

// Both sides say that they are in the round; who has heard it goes on. Not before the round allows it.
void RoundDriver::resume_link(Peer& peer) {
  if (!round_->may_resume(peer.member)) return;
  const bool is_new = !round_->is_live(peer.member);
  if (is_new && peer.resume_told != spec_.round) tell_resume(peer);
  if (peer.resume_heard != spec_.round) return;
  peer.resume_heard = 0;
  if (peer.resume_told != spec_.round) tell_resume(peer);
  round_->handle_resumed(peer.member);
  spdlog::info("{} ({}): goes on with round {}", to_hex(peer.id), peer.address, spec_.round);
}

void RoundDriver::tell_resume(Peer& peer) {
  peer.resume_told = spec_.round;
  mesh_.send_control(peer, transport::Resume{.round = spec_.round, .group = spec_.group});
}

void RoundDriver::handle_resume(Peer& peer, const transport::Resume& resume) {
  if (resume.group != spec_.group) return;
  peer.resume_heard = spec_.round;
  resume_link(peer);
}

bool RoundDriver::handle_control(Peer& peer, const transport::Header& header) {
  const RoundId round = round_of_word(header);
  if (round == 0) return false;
  if (round <= last_round_) return true;
  if (!round_ || round > spec_.round) return keep_for_later(peer, header);
  if (peer.member == kNotAMember) return true;
  round_->lateness().handle_heard(peer.member, io_.now());
  const Verdict verdict = handle_notice(peer, header);
  if (is_violation(verdict)) {
    violate(peer, CutOff::protocol, "word about a part that is " + std::string(to_string(verdict)));
  }
  // The words of every round make nothing possible that was not before.
  if (!std::holds_alternative<transport::Done>(header) && !std::holds_alternative<transport::Pulse>(header)) act();
  return true;
}

// Others may be in the round already, and each word is said only once. Holdings answer what this node said in a round;
// pulses are said again.
bool RoundDriver::keep_for_later(Peer& peer, const transport::Header& header) {
  constexpr std::size_t kMostPerPeer = std::size_t{4} * kMaximumMembers;
  constexpr std::size_t kMost = std::size_t{4} * kMostPerPeer;  // of a group of 64 that has begun before this node
  constexpr std::size_t kMostWords = 512;                       // two bits of 32,768 chunks
  if (std::holds_alternative<transport::Pulse>(header) || std::holds_alternative<transport::Holdings>(header))
    return true;
  const auto kept = std::count_if(early_.begin(), early_.end(), [&](const auto& each) { return each.peer == &peer; });
  const auto* const wanted = std::get_if<transport::Wanted>(&header);
  const std::size_t words = wanted != nullptr ? wanted->contributions.size() + wanted->averages.size() : 0;
  if (static_cast<std::size_t>(kept) < kMostPerPeer && early_.size() < kMost && words <= kMostWords) {
    early_.push_back({.peer = &peer, .header = header});
  }
  return true;
}

Verdict RoundDriver::handle_notice(Peer& peer, const transport::Header& header) {
  const MemberIndex from = peer.member;
  if (const auto* done = std::get_if<transport::Done>(&header)) {
    member_reports_[from].digest = done->digest;
    round_->handle_done(from);
  } else if (const auto* pulse = std::get_if<transport::Pulse>(&header)) {
    round_->lateness().handle_waiting(from, pulse->waiting_for);
  } else if (const auto* resume = std::get_if<transport::Resume>(&header)) {
    handle_resume(peer, *resume);
  } else if (const auto* suspect = std::get_if<transport::Suspect>(&header)) {
    return round_->handle_suspect(from, suspect->member, suspect->withdrawn);
  } else if (const auto* takeover = std::get_if<transport::Takeover>(&header)) {
    return round_->handle_takeover(from, takeover->part, takeover->distance);
  } else if (const auto* holdings = std::get_if<transport::Holdings>(&header)) {
    return round_->handle_holdings(from, holdings->part, holdings->distance, holdings->held, holdings->spent);
  } else if (const auto* wanted = std::get_if<transport::Wanted>(&header)) {
    return round_->handle_wanted(from, wanted->part, wanted->contributions, wanted->averages);
  }
  return Verdict::accept;
}

void RoundDriver::deliver_notices() {
  while (const std::optional<core::Notice> notice = round_->poll_notice()) tell(*notice);
}

void RoundDriver::tell(const core::Notice& notice) {
  using Kind = core::Notice::Kind;
  spdlog::debug("round {}, member {}: tells {} {} (member {}, part {}, distance {})", spec_.round,
                round_->config().self, notice.to == core::kEverybody ? "all" : std::to_string(notice.to),
                to_string(notice.kind), notice.member, notice.part, notice.distance);
  transport::Header header;
  switch (notice.kind) {
    case Kind::suspect:
      header = transport::Suspect{.round = spec_.round, .member = notice.member, .withdrawn = notice.withdrawn};
      break;
    case Kind::takeover:
      header = transport::Takeover{.round = spec_.round, .part = notice.part, .distance = notice.distance};
      break;
    case Kind::holdings:
      header = transport::Holdings{.round = spec_.round,
                                   .part = notice.part,
                                   .distance = notice.distance,
                                   .held = notice.first,
                                   .spent = notice.second};
      break;
    case Kind::wanted:
      header = transport::Wanted{
          .round = spec_.round, .part = notice.part, .contributions = notice.first, .averages = notice.second};
      break;
    case Kind::done: header = transport::Done{.round = spec_.round, .digest = digest()}; break;
    case Kind::cut_off: return cut_link(notice);
  }
  for (MemberIndex member = 0; member < member_peers_.size(); ++member) {
    Peer* const peer = member_peers_[member];
    const bool is_for_it = notice.to == core::kEverybody ? round_->is_live(member) : notice.to == member;
    if (peer != nullptr && is_for_it) mesh_.send_control(*peer, header);
  }
}

void RoundDriver::cut_link(const core::Notice& notice) {
  const CutOff reason = round_->cut_off(notice.member);
  if (!notice.evidence.empty()) member_reports_[notice.member].evidence = notice.evidence;
  Peer* const peer = member_peers_[notice.member];
  if (peer == nullptr) return;
  const std::string why = notice.evidence.empty() ? std::string(to_string(reason)) : notice.evidence;
  spdlog::warn("{} ({}): cut off in round {}: {}{}", to_hex(peer->id), peer->address, spec_.round, why,
               notice.evidence.empty() || notice.is_sure ? "" : "; it may as well be this node's own line");
  // What others say, or what may be this node's own doing, is no offence; nor is it to lack what a third one withholds.
  // Where the graces were cut short to fit the round, they are too short to ban anybody by.
  const bool is_offence = notice.is_sure && !notice.evidence.empty() && room_for_graces(spec_.timeout) == 1;
  if (is_offence) events_.on_offence(*peer, offence_of(reason), why + " in round " + std::to_string(spec_.round));
  mesh_.drop(*peer, "cut off: " + why);
}

// Bytes are counted on the connections, so that those of an unfinished shard are seen as well.
void RoundDriver::feed_timers(TimePoint now) {
  core::Lateness& lateness = round_->lateness();
  for (MemberIndex member = 0; member < member_peers_.size(); ++member) {
    Peer* const peer = member_peers_[member];
    if (peer == nullptr || peer->flows.empty()) continue;
    const auto [wire, gradient] = take_progress(*peer);
    if (gradient > 0) lateness.handle_bytes(member, now, gradient);
    lateness.handle_wire_bytes(member, wire);
    const Duration round_trip = peer->flows.front()->info().round_trip;
    if (round_trip > Duration::zero()) lateness.handle_round_trip(member, round_trip);
    // That there is no room is this node's doing; that a shard is of a round to come is its sender's.
    lateness.handle_held_back(member, std::any_of(starved_.begin(), starved_.end(), [&](transport::Flow* flow) {
                                return std::find(peer->flows.begin(), peer->flows.end(), flow) != peer->flows.end();
                              }));
  }
}

Duration RoundDriver::pulse_interval() const {
  return from_seconds(to_seconds(config_.patience.pulse_interval) * room_for_graces(spec_.timeout));
}

void RoundDriver::send_pulses(TimePoint now) {
  next_pulse_ = saturating_add(now, pulse_interval());
  if (round_->is_over()) return;
  const transport::Pulse pulse{.round = spec_.round, .waiting_for = round_->waiting_for()};
  // By index: a flow that fails while it sends changes the list.
  // NOLINTNEXTLINE(modernize-loop-convert)
  for (std::size_t member = 0; member < member_peers_.size(); ++member) {
    if (member_peers_[member] != nullptr) mesh_.send_control(*member_peers_[member], pulse);
  }
}

void RoundDriver::handle_peer_left(Peer& peer, PeerLeft how, const std::string& why) {
  std::erase_if(early_, [&](const EarlyFrame& each) { return each.peer == &peer; });
  if (!round_ || peer.member == kNotAMember) return;
  const MemberIndex member = peer.member;
  member_peers_[member] = nullptr;
  const CutOff reason = how == PeerLeft::goodbye              ? CutOff::departed
                        : how == PeerLeft::protocol_violation ? CutOff::protocol
                        : how == PeerLeft::damaged            ? CutOff::damaged_bytes
                                                              : CutOff::connection_lost;
  if (round_->is_live(member)) member_reports_[member].evidence = why;
  round_->handle_cut_off(member, reason);
  act();
}

void RoundDriver::violate(Peer& peer, CutOff reason, const std::string& what) {
  spdlog::warn("{} ({}): cut off ({}): {}", to_hex(peer.id), peer.address, to_string(reason), what);
  member_reports_[peer.member].evidence = what;
  round_->handle_cut_off(peer.member, reason);
  events_.on_offence(peer, offence_of(reason), what + " in round " + std::to_string(spec_.round));
  mesh_.drop(peer, what);
  act();
}

// ---- what goes out

bool RoundDriver::next_shard(Peer& peer, transport::OutgoingFrame& frame) {
  if (!round_ || peer.member == kNotAMember) return false;
  const std::optional<core::SendOrder> order = round_->poll_send(peer.member);
  if (!order) return false;
  const std::optional<ShardCoder::Encoded> encoded = coder_.take(peer.member, *order);
  const ShardFormat format = encoded ? encoded->format : ShardFormat{};
  const std::span<const std::byte> payload = encoded ? encoded->payload : std::as_bytes(chunk_values(order->chunk));
  const bool is_average = order->kind == ShardKind::average;
  if (is_average) {
    transport::encode_frame_header(
        transport::Average{.round = spec_.round,
                           .checksum = encoded ? encoded->checksum : chunk_checksums_[order->chunk],
                           .coverage = round_->coverage(order->chunk),
                           .chunk = order->chunk,
                           .total_weight = round_->total_weight(order->chunk),
                           .codec = format.codec,
                           .model = spec_.model,
                           .group = spec_.group,
                           .reducer = round_->reducer(order->chunk),
                           .compression = format.compression},
        payload.size(), frame.header);
  } else {
    transport::encode_frame_header(
        transport::Contribution{.round = spec_.round,
                                .checksum = encoded ? encoded->checksum : kernels::checksum(payload),
                                .chunk = order->chunk,
                                .weight = static_cast<float>(round_->config().weight),
                                .codec = format.codec,
                                .model = spec_.model,
                                .group = spec_.group,
                                .compression = format.compression},
        payload.size(), frame.header);
  }
  frame.payload = payload;
  // With trouble about, an average may come before the one that the bytes were sent to has read them.
  const bool borrow = !encoded && peer.is_local_host && !round_->is_in_trouble() &&
                      (is_average ? borrow_averages_ : borrow_ != Borrow::nothing);
  frame.mode = borrow ? transport::WriteMode::borrow : transport::WriteMode::copy;
  frame.tag = tag_of(*order);
  shards_in_flight_ += 1;
  member_reports_[peer.member].shards_in_flight += 1;
  member_reports_[peer.member].bytes_out += payload.size();
  return true;
}

void RoundDriver::handle_shard_out(Peer* peer, std::uint64_t tag, bool sent) {
  PAPILIO_ASSERT(round_.has_value() && shards_in_flight_ > 0 && peer != nullptr && peer->member != kNotAMember);
  shards_in_flight_ -= 1;
  member_reports_[peer->member].shards_in_flight -= 1;
  coder_.release(order_of(tag));
  if (sent) round_->handle_sent(peer->member, order_of(tag));
}

void RoundDriver::run_finalisations() {
  while (const std::optional<core::Finalisation> order = round_->poll_finalisation()) {
    if (order->scale && device_ != nullptr) {
      this->order({.kind = kernels::ChunkOrder::Kind::finalise, .inverse_total = order->inverse_total},
                  {.chunk = order->chunk, .is_sum = true, .ends = true, .slab = {}});
      continue;
    }
    if (order->scale) kernels::finalise(chunk_values(order->chunk), order->inverse_total);
    round_->handle_reduced(order->chunk);
    // Alone it stays what it is, to the last bit.
    finish_average(order->chunk, !order->scale);
  }
}

void RoundDriver::finish_average(ChunkIndex chunk, bool alone) {
  chunk_checksums_[chunk] = coder_.finish_average(chunk, alone);
  if (device_ != nullptr && !alone && coder_.rounds_averages()) upload(chunk);
}

// ---- what a device does

void RoundDriver::order(kernels::ChunkOrder what, DeviceOrder then) {
  const Range range = round_->plan().chunk(then.chunk);
  what.tag = ++last_tag_;
  what.begin = range.begin;
  what.count = range.size;
  ordered_.emplace(what.tag, std::move(then));
  device_->submit(io_.now(), what);
}

void RoundDriver::order_sum(ChunkIndex chunk, const core::Reduction& reduction, float weight, transport::Codec codec,
                            std::span<const std::byte> bytes, transport::Slab& slab) {
  const std::span<std::byte> place = slab.bytes();
  if (bytes.data() != place.data()) {  // it came compressed, and that is not needed any more
    PAPILIO_ASSERT_VALUES(bytes.size() <= place.size(), bytes.size(), place.size());
    std::memcpy(place.data(), bytes.data(), bytes.size());
  }
  order({.kind = kernels::ChunkOrder::Kind::accumulate,
         .codec = kernel_codec(codec),
         .in = place.first(bytes.size()),
         .own_scale = reduction.own_scale,
         .weight = weight,
         .inverse_total = reduction.last ? reduction.inverse_total : 1,
         .limit = std::numeric_limits<float>::max(),  // the CPU has looked, while it read the checksum
         .last = reduction.last},
        {.chunk = chunk, .is_sum = true, .ends = reduction.last, .slab = std::move(slab)});
}

void RoundDriver::upload(ChunkIndex chunk) {
  order({.kind = kernels::ChunkOrder::Kind::upload}, {.chunk = chunk, .slab = {}});
}

void RoundDriver::take_from_device(TimePoint now) {
  const std::vector<kernels::ChunkCompletion> completions = device_->take_completions(now);
  act_on_ordered(completions);
  if (device_ == nullptr) return;
  const bool refused = std::any_of(completions.begin(), completions.end(),
                                   [](const auto& each) { return each.fault != kernels::NumberFault::none; });
  if (device_->failure()) {
    give_up_device(device_->failure()->message);
  } else if (device_is_busy() && now >= round_->config().deadline) {
    give_up_device("it was not done by the round's deadline");
  } else if (refused) {
    give_up_device("it takes what the host has for no numbers");
  }
}

// True: it was a sum.
bool RoundDriver::handle_ordered(const kernels::ChunkCompletion& completion) {
  const auto done = ordered_.extract(completion.tag);
  PAPILIO_ASSERT_VALUES(!done.empty(), completion.tag, last_tag_);
  DeviceOrder& order = done.mapped();
  order.slab.release();
  if (!order.is_sum) return false;
  // The CPU found the same payload well.
  PAPILIO_ASSERT_VALUES(completion.fault == kernels::NumberFault::none, completion.tag, order.chunk);
  round_->handle_reduced(order.chunk);
  if (order.ends) finish_average(order.chunk, false);
  return true;
}

void RoundDriver::act_on_ordered(const std::vector<kernels::ChunkCompletion>& completions) {
  if (completions.empty()) return;
  bool any_sum = false;
  for (const kernels::ChunkCompletion& each : completions) any_sum |= handle_ordered(each);
  if (any_sum) act();
  resume_starved();
}

// The orders that it did not carry out are carried out here, so that afterwards all is as if the CPU had done
// everything.
void RoundDriver::give_up_device(const std::string& why) {
  kernels::DeviceGradient& device = *std::exchange(device_, nullptr);
  const kernels::DeviceGradient::TakenBack back = device.take_back();
  spdlog::warn("round {}: the GPU is given up ({}){}; the CPU carries out {} orders of its and goes on", spec_.round,
               why, back.stopped ? "" : ", and it does not stop", back.orders.size());
  gradient_ = device.host_copy();
  host_values_ = gradient_;
  coder_.move_gradient(gradient_);
  std::vector<kernels::ChunkCompletion> completions = device.take_completions(io_.now());
  for (const kernels::ChunkOrder& order : back.orders) {
    const std::span<float> values = gradient_.subspan(order.begin, order.count);
    if (order.kind == kernels::ChunkOrder::Kind::finalise) {
      kernels::finalise(values, order.inverse_total);
    } else {
      PAPILIO_ASSERT(order.kind == kernels::ChunkOrder::Kind::accumulate);
      kernels::accumulate_accepted(values, order.own_scale, order.weight, order.codec, order.in, order.inverse_total);
    }
    completions.push_back({.tag = order.tag, .fault = kernels::NumberFault::none});
  }
  if (!back.stopped) {
    // It may still read there, so the slabs stay where they are as long as the process lives.
    static auto* const left_alone = new std::vector<std::unique_ptr<transport::SlabPool>>;
    left_alone->push_back(std::move(pool_));
    ensure_pool(spec_.chunk_bytes);
  }
  act_on_ordered(completions);
  PAPILIO_ASSERT_VALUES(ordered_.empty(), ordered_.size(), spec_.round);
}

void RoundDriver::wake_senders() {
  // By index: a sender that fails may end the round, and with it this list.
  // NOLINTNEXTLINE(modernize-loop-convert)
  for (std::size_t member = 0; member < member_peers_.size(); ++member) {
    if (member_peers_[member] != nullptr) mesh_.wake_sender(*member_peers_[member]);
  }
}

// ---- flows that wait

void RoundDriver::resume_held() {
  std::vector<HeldFlow> held = std::exchange(held_, {});
  for (const HeldFlow& each : held) each.flow->resume();
}

void RoundDriver::resume_starved() {
  if (starved_.empty()) return;
  std::vector<transport::Flow*> starved = std::exchange(starved_, {});
  for (transport::Flow* flow : starved) flow->resume();
}

void RoundDriver::handle_flow_gone(transport::Flow& flow) {
  std::erase_if(held_, [&](const HeldFlow& held) { return held.flow == &flow; });
  std::erase(starved_, &flow);
  resume_starved();  // the slab of a half payload came back
}

}  // namespace papilio::node
