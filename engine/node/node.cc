#include "engine/node/node.hpp"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/units.hpp"
#include "engine/core/conduct.hpp"
#include "engine/node/ban_keeper.hpp"
#include "engine/node/ban_store.hpp"
#include "engine/node/device_keeper.hpp"
#include "engine/node/engine.hpp"
#include "engine/node/evidence_keeper.hpp"
#include "engine/node/gatekeeper.hpp"
#include "engine/node/group.hpp"
#include "engine/node/round_record.hpp"
#include "engine/node/state_directory.hpp"
#include "kernels/cuda.h"
#include "kernels/ops.h"
#include "transport/identity.hpp"
#include "transport/io.hpp"
#include "transport/secure_io.hpp"

namespace papilio {

namespace {

using node::Engine;
using node::Group;
using node::Peer;

// How long a departure may take: goodbyes are small, and a peer that does not take one is not waited for.
constexpr Duration kLeavePatience = std::chrono::milliseconds(1500);

core::WallTime wall_now() { return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()); }

// What a node kept from earlier runs; nothing without a state directory.
struct Kept {
  std::optional<node::StateDirectory> directory;
  std::optional<node::BanStore> store;
  std::optional<transport::Identity> identity;  // what is signed with; none without security
  std::vector<core::ConductRecord> records;
};

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

std::string out_of_step_words(const GroupProgress& progress, const char* bound) {
  return "the group is at epoch " + std::to_string(progress.epoch) + ", this node at " +
         std::to_string(progress.local_epoch) + ", and the group's state did not come within " + bound +
         ": start all nodes of a run together";
}

Result<std::unique_ptr<kernels::Device>> make_device(const DeviceSpan& span, std::function<void()> wake) {
  return kernels::cuda::make_device(span.data, span.elements,
                                    {.after = static_cast<kernels::cuda::Stream>(span.stream)}, std::move(wake));
}

// Slabs that the GPU cannot reach by itself are used all the same, with a copy in between.
transport::PageCallbacks pages_for_gpu() {
  return {.on_mapped = [](std::span<std::byte> pages) -> std::string {
            const Status pinned = kernels::cuda::register_pinned(pages);
            return pinned ? "" : pinned.error().message;
          },
          .on_unmapping = [](std::span<std::byte> pages) { kernels::cuda::unregister_pinned(pages); }};
}

struct AllReduceCall {
  std::span<float> gradient;
  kernels::DeviceGradient* device = nullptr;  // whose host copy it is
  double weight = 0;
  std::promise<RoundReport> promise;
  TimePoint deadline = kNever;  // until a round is announced
};

// What the trainer's thread and the loop's thread share, under one mutex that neither holds while it waits or works.
struct Exchange {
  std::mutex mutex;
  std::condition_variable changed;
  // trainer -> loop
  std::uint64_t samples = 0;
  std::optional<ModelDigest> model;
  std::optional<std::uint64_t> adopted_epoch;
  std::optional<AllReduceCall> call;
  bool cancel = false;
  bool stop = false;
  // loop -> trainer
  GroupProgress progress;
  bool group_is_complete = false;
  bool out_of_step = false;
  std::vector<node::RefusalCount> refused;  // by this node
  std::vector<std::string> refusals;        // which address refused this node for what it is, and why
  std::vector<std::string> unanswered;      // addresses
  std::vector<std::string> bans;            // which address refuses this node for now, or is refused, and why
};

class LoopNode final : public Node, private node::EngineEvents {
 public:
  LoopNode(NodeConfig config, std::unique_ptr<transport::Io> io, std::string transport_note, node::MeshConfig mesh,
           const node::RoundDriverConfig& rounds, const node::GroupConfig& group, Kept kept,
           node::Gatekeeper gatekeeper)
      : config_(std::move(config)),
        transport_note_(std::move(transport_note)),
        id_(mesh.self),
        identity_(std::move(kept.identity)),
        io_(std::move(io)),
        engine_(*io_, std::move(mesh), rounds, *this),
        group_(engine_, signing(group)),
        gatekeeper_(std::move(gatekeeper)),
        conduct_({.slow_must_requalify = !config_.admission.judges.empty()}),
        state_directory_(std::move(kept.directory)) {
    exchange_.progress.members = 1;
    conduct_.load(wall_now(), kept.records);
    std::vector<core::ConductRecord> oldest_first = kept.records;
    std::sort(oldest_first.begin(), oldest_first.end(),
              [](const auto& one, const auto& other) { return one.banned_since < other.banned_since; });
    for (const core::ConductRecord& record : oldest_first) banned_.push_back(record.peer);
    tell_bans();
    if (kept.store) keeper_.emplace(std::move(*kept.store), kept.records, *io_);
    write_down();
    if (!config_.evidence_dir.empty()) {
      evidence_.emplace(config_.evidence_dir, config_.evidence_files, identity_.value());
    }
  }

  LoopNode(const LoopNode&) = delete;
  LoopNode& operator=(const LoopNode&) = delete;
  ~LoopNode() override {
    stop();
    if (thread_.joinable()) thread_.join();
  }

  Status launch() {
    if (auto started = engine_.start(); !started) return started.error();
    if (const auto address = engine_.mesh().listen_address()) listen_address_ = address->to_string();
    thread_ = std::thread([this] { run(); });
    return Done{};
  }

  // ---- the trainer's side

  [[nodiscard]] PeerId id() const override { return id_; }
  [[nodiscard]] std::string listen_address() const override { return listen_address_; }
  [[nodiscard]] std::string transport() const override { return transport_note_; }

  Status wait_for_group() override {
    std::unique_lock lock(exchange_.mutex);
    // One peer that differs is that peer's trouble, and the others may still come; all of them, this node's.
    const auto nobody_wants_us = [&] {
      return exchange_.progress.members <= 1 && !exchange_.refusals.empty() &&
             exchange_.refusals.size() >= config_.peers.size();
    };
    const auto settled = [&] {
      return (exchange_.group_is_complete && !exchange_.out_of_step) || exchange_.stop || nobody_wants_us();
    };
    const bool in_time = exchange_.changed.wait_for(lock, config_.join_timeout, settled);
    std::string refused;
    for (const std::string& refusal : exchange_.refusals) refused += (refused.empty() ? "" : "; ") + refusal;
    if (nobody_wants_us()) return usage_error(refused);
    if (exchange_.stop) return runtime_error("stopped while waiting for the group");
    if (in_time) return Done{};
    if (exchange_.out_of_step) return runtime_error(out_of_step_words(exchange_.progress, "join-timeout"));
    std::string banned;
    for (const std::string& ban : exchange_.bans) banned += "; " + ban;
    std::string missing;
    for (const std::string& address : exchange_.unanswered) missing += " " + address;
    return runtime_error(
        "only " + std::to_string(exchange_.progress.members) + " of " + std::to_string(config_.group_size) +
        " members are here after join-timeout (" + std::to_string(static_cast<int>(to_seconds(config_.join_timeout))) +
        " s)" + (refused.empty() ? "" : "; " + refused) + banned +
        (missing.empty() ? "" : "; no answer from" + missing) + ": check that they run and can be reached");
  }

  void add_samples(std::uint64_t samples) override {
    if (samples == 0) return;
    {
      const std::lock_guard lock(exchange_.mutex);
      exchange_.samples += samples;
    }
    io_->wake();
  }

  [[nodiscard]] GroupProgress progress() const override {
    const std::lock_guard lock(exchange_.mutex);
    return exchange_.progress;
  }

  [[nodiscard]] std::vector<node::RefusalCount> refusals() const override {
    const std::lock_guard lock(exchange_.mutex);
    return exchange_.refused;
  }

  GroupProgress wait_for_round(Duration timeout) override {
    std::unique_lock lock(exchange_.mutex);
    exchange_.changed.wait_for(lock, timeout, [&] { return exchange_.progress.round_open || exchange_.progress.left; });
    return exchange_.progress;
  }

  std::future<RoundReport> all_reduce(std::span<float> gradient, double weight) override {
    return begin_call(gradient.size(), weight, [&](AllReduceCall& call) -> Status {
      call.gradient = gradient;
      return Done{};
    });
  }

  std::future<RoundReport> all_reduce(const DeviceSpan& gradient, double weight) override {
    return begin_call(gradient.elements, weight, [&](AllReduceCall& call) -> Status {
      auto loaded = devices_.load(gradient);
      if (!loaded) return runtime_error("all_reduce: " + loaded.error().message);
      call.device = *loaded;
      call.gradient = call.device->host_copy();
      return Done{};
    });
  }

  void cancel() override {
    {
      const std::lock_guard lock(exchange_.mutex);
      exchange_.cancel = true;
    }
    io_->wake();
  }

  void report_model_digest(std::uint64_t epoch, std::uint64_t digest) override {
    {
      const std::lock_guard lock(exchange_.mutex);
      exchange_.model = ModelDigest{epoch, digest};
    }
    io_->wake();
  }

  void adopt_epoch(std::uint64_t epoch) override {
    {
      const std::lock_guard lock(exchange_.mutex);
      exchange_.adopted_epoch = epoch;
    }
    io_->wake();
  }

  void stop() override {
    {
      const std::lock_guard lock(exchange_.mutex);
      exchange_.stop = true;
      exchange_.progress.left = true;
    }
    exchange_.changed.notify_all();
    io_->wake();
  }

 private:
  static constexpr const char* kStopped = "all_reduce: the node was stopped";

  // `find_gradient`: fills in where it is.
  template <typename FindGradient>
  std::future<RoundReport> begin_call(std::uint64_t elements, double weight, FindGradient find_gradient) {
    AllReduceCall call{.gradient = {}, .weight = weight, .promise = {}};
    std::future<RoundReport> future = call.promise.get_future();
    RoundReport refused;
    Status status = call_is_valid(elements, weight);
    if (status) status = reserve_round();
    if (status) {
      status = find_gradient(call);
      refused.gpu_refused = !status;
      if (status) status = numbers_are_good(call.gradient, weight);
      const std::lock_guard lock(exchange_.mutex);
      if (status && exchange_.stop) status = usage_error(kStopped);
      if (status) {
        exchange_.call = std::move(call);
        io_->wake();
        return future;
      }
      round_in_flight_ = false;
    }
    refused.error = status.error().message;
    call.promise.set_value(std::move(refused));
    return future;
  }

  [[nodiscard]] Status call_is_valid(std::uint64_t elements, double weight) const {
    if (elements != config_.elements) {
      return usage_error("all_reduce: the gradient has " + std::to_string(elements) +
                         " elements, the node was started for " + std::to_string(config_.elements));
    }
    if (!core::weight_is_valid(weight)) {
      return usage_error("all_reduce: weight " + text_of(weight) +
                         " is not between 1e-9 and 1e9; pass the number of samples behind the gradient");
    }
    return Done{};
  }

  // From here on the gradient is this call's, so that looking at it is no race with a round in flight.
  Status reserve_round() {
    const std::lock_guard lock(exchange_.mutex);
    if (round_in_flight_) return usage_error("all_reduce: a round is in flight already; wait for its future");
    if (exchange_.stop) return usage_error(kStopped);
    round_in_flight_ = true;
    return Done{};
  }

  // What the others would cut this node off for.
  static Status numbers_are_good(std::span<const float> gradient, double weight) {
    const float limit = core::largest_element(static_cast<float>(weight));
    if (kernels::all_within(gradient, limit)) return Done{};
    const std::size_t element = kernels::first_not_within(gradient, limit);
    PAPILIO_ASSERT_VALUES(element < gradient.size(), element, gradient.size());
    return runtime_error("all_reduce: element " + std::to_string(element) + " of the gradient is " +
                         text_of(static_cast<double>(gradient[element])) + "; with weight " + text_of(weight) +
                         " only finite values up to " + text_of(static_cast<double>(limit)) +
                         " can be averaged: leave this gradient out, or lower the learning rate");
  }

  // ---- the loop's side

  void run() {
    pthread_setname_np(pthread_self(), "papilio-loop");
    while (take_commands()) {
      take_cleared();
      drop_banned();
      group_.act(io_->now());
      join_round();  // after it: nothing would wake a lone node that has just announced a round
      publish();
      engine_.turn(std::min(call_ ? call_->deadline : kNever, group_.next_deadline(io_->now())));
    }
    if (call_ && !joined_) fail_call("the node was stopped before a round began");
    // Ends a round in flight, and only then answers its caller: until then the gradient is the engine's.
    engine_.leave("leaving", kLeavePatience);
  }

  // False when it is time to leave.
  bool take_commands() {
    const std::lock_guard lock(exchange_.mutex);
    // Before the samples: these are of the epoch that it brings.
    if (const auto epoch = std::exchange(exchange_.adopted_epoch, {})) adopt(*epoch);
    if (exchange_.samples > 0) group_.add_samples(std::exchange(exchange_.samples, 0));
    if (exchange_.model) {
      group_.report_model(exchange_.model->epoch, exchange_.model->digest);
      exchange_.model.reset();
    }
    if (exchange_.call) {
      call_ = std::move(exchange_.call);
      exchange_.call.reset();
      call_->deadline = saturating_add(io_->now(), config_.round_timeout);
      group_.handle_round_wanted(io_->now());
    }
    if (std::exchange(exchange_.cancel, false)) cancel_ = true;
    return !exchange_.stop;
  }

  void adopt(std::uint64_t epoch) {
    if (engine_.rounds().in_round() || epoch <= group_.progress(io_->now()).local_epoch) return;
    group_.handle_state_taken(io_->now(), epoch);
    engine_.rounds().skip_rounds_to(epoch);  // round numbers are one ahead of epochs
    spdlog::info("goes on from epoch {}", epoch);
  }

  void join_round() {
    if (std::exchange(cancel_, false)) {
      if (call_ && !joined_) fail_call("canceled before a round began");
      engine_.cancel_round();
    }
    if (!call_ || joined_) return;
    if (group_.open_round()) {
      joined_ = true;
      call_->deadline = kNever;
      engine_.begin_round(*group_.open_round(), call_->gradient, call_->weight, call_->device);
      engine_.rounds().finish_if_over();
    } else if (io_->now() >= call_->deadline) {
      fail_call(group_.is_out_of_step()
                    ? out_of_step_words(group_.progress(io_->now()), "the round timeout")
                    : "no round was agreed on within the round timeout: is the group's target batch reached?");
    }
  }

  void fail_call(std::string error) {
    RoundReport report;
    report.error = std::move(error);
    report.canceled = true;
    answer_call(std::move(report));
  }

  void answer_call(RoundReport report) {
    PAPILIO_ASSERT(call_.has_value());
    std::promise<RoundReport> promise = std::move(call_->promise);
    call_.reset();
    joined_ = false;
    publish();
    {
      const std::lock_guard lock(exchange_.mutex);
      round_in_flight_ = false;
    }
    promise.set_value(std::move(report));
  }

  void publish() {
    GroupProgress progress = group_.progress(io_->now());
    progress.round_open = progress.round_open && !joined_;
    const bool complete = progress.members >= config_.group_size;
    {
      const std::lock_guard lock(exchange_.mutex);
      progress.left = exchange_.stop;
      exchange_.progress = progress;
      exchange_.group_is_complete = exchange_.group_is_complete || complete;
      exchange_.out_of_step = group_.is_out_of_step();
      const std::uint64_t refusals = engine_.mesh().total_refusals();
      if (std::exchange(refusals_told_, refusals) != refusals) exchange_.refused = engine_.mesh().refusals();
      if (!exchange_.group_is_complete) {
        exchange_.unanswered = engine_.mesh().unanswered();
        exchange_.bans = engine_.mesh().bans();
      }
    }
    exchange_.changed.notify_all();
  }

  // ---- who offends

  void on_offence(Peer& peer, core::Offence offence, const std::string& evidence) override {
    judge(peer.id, to_hex(peer.id) + " (" + peer.address + ")", offence, evidence);
  }

  void judge(const PeerId& peer, const std::string& who, core::Offence offence, const std::string& evidence) {
    const core::Judgement judgement = conduct_.handle_offence(wall_now(), peer, offence, evidence);
    if (judgement.kind == core::Judgement::Kind::ban) {
      spdlog::warn("{} banned until {} ({}: {})", who, core::to_text(judgement.until), to_string(offence), evidence);
      to_drop_.push_back(peer);
      std::erase(banned_, peer);
      banned_.push_back(peer);
      tell_bans();
    } else if (judgement.kind == core::Judgement::Kind::strike) {
      spdlog::info("{} has {} strikes, {} make a ban ({}: {})", who, judgement.strikes, judgement.strikes_to_ban,
                   to_string(offence), evidence);
    }
    write_down();
  }

  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override {
    return gatekeeper_.objection_to(wall_now(), peer, conduct_);
  }

  node::Welcome judge_hello(const transport::Hello& hello) override {
    node::Welcome welcome = gatekeeper_.judge(wall_now(), hello, conduct_);
    write_down();
    return welcome;
  }

  std::vector<std::vector<std::byte>> own_certificates() override {
    return gatekeeper_.own_certificates(io_->now(), wall_now());
  }

  void drop_banned() {
    for (const PeerId& id : std::exchange(to_drop_, {})) {
      Peer* const peer = engine_.mesh().find(id);
      if (peer != nullptr) engine_.mesh().drop(*peer, "banned");
    }
  }

  // `bans clear` was here.
  void take_cleared() {
    if (!keeper_) return;
    for (const PeerId& peer : keeper_->take_cleared()) {
      if (conduct_.clear(wall_now(), peer)) spdlog::info("{}: its bans and strikes were cleared", to_hex(peer));
      tell_bans();
    }
    write_down();
  }

  void write_down() {
    while (auto change = conduct_.poll_change(wall_now())) {
      if (keeper_) keeper_->save(std::move(*change));
    }
  }

  // Who did well is forgiven by and by; and the report tells who is banned.
  void judge_round(RoundReport& report) {
    const core::WallTime now = wall_now();
    for (PeerReport& peer : report.peers) {
      peer.banned = conduct_.is_banned(now, peer.peer);
      const bool took_part = peer.peer != id_ && peer.contributions_in + peer.averages_in > 0;
      if (took_part && !peer.cut_off && !peer.banned && !report.canceled) conduct_.handle_good_round(now, peer.peer);
      if (peer.peer != id_) say_timers(report.round, peer);
    }
    write_down();
    tell_bans();
  }

  // To the group: bans that are over count no longer.
  void tell_bans() {
    std::erase_if(banned_, [&](const PeerId& peer) { return !conduct_.is_banned(wall_now(), peer); });
    group_.handle_bans(banned_);
  }

  static void say_timers(RoundId round, const PeerReport& peer) {
    spdlog::debug(
        "round {}, {}: round trip {:.1f} ms, first shard after {:.0f} ms, longest gap {:.0f} ms, {:.0f} kB/s, "
        "{:.0f} ms behind (limit {:.0f} ms){}{}; -1: not known",
        round, to_hex(peer.peer), peer.round_trip_ms, peer.first_shard_ms, peer.longest_gap_ms,
        peer.rate_bytes_per_s < 0 ? -1 : peer.rate_bytes_per_s / 1e3, peer.lag_ms, peer.limit_ms,
        peer.cut_off ? "; cut off: " : "", peer.reason);
  }

  void on_peer_joined(Peer& peer) override {
    spdlog::info("{} joined from {} ({} flow{})", to_hex(peer.id), peer.address, peer.flows.size(),
                 peer.flows.size() == 1 ? "" : "s");
    tell_bans();  // it may be over
    group_.handle_peer_joined(io_->now(), peer);
  }

  void on_peer_left(Peer& peer, node::PeerLeft how, const std::string& why) override {
    if (how == node::PeerLeft::goodbye) {
      spdlog::info("{} left: {}", to_hex(peer.id), why);
    } else {
      spdlog::warn("{} ({}) lost: {}", to_hex(peer.id), peer.address, why);
    }
    group_.handle_peer_left(io_->now(), peer);
  }

  void on_control(Peer& peer, const transport::Header& header) override {
    // Banned in this turn, and dropped in the next: what it still said is not to bind this node.
    if (std::find(to_drop_.begin(), to_drop_.end(), peer.id) != to_drop_.end()) return;
    const auto evidence = group_.handle_control(io_->now(), peer, header);
    if (evidence) on_offence(peer, core::Offence::protocol, *evidence);
    judge_rosters();
  }

  // What signatures prove against proposers.
  void judge_rosters() {
    while (const auto proof = group_.poll_double_commit()) {
      const core::Proposal& proposal = proof->first.commit.proposal;
      const PeerId& proposer = proposal.ballot.proposer;
      keep("double", proposal.round, proposer, "proof", node::kDoubleCommitDomain, node::encode(*proof));
      judge(proposer, to_hex(proposer), core::Offence::protocol,
            "committed one proposal for round " + std::to_string(proposal.round) + " in two ways, both signed");
    }
    if (const auto roster = group_.poll_left_out()) {
      const core::Proposal& proposal = roster->commit.proposal;
      spdlog::warn("round {} began without this node, although it had agreed: {} proposed it", proposal.round,
                   to_hex(proposal.ballot.proposer));
      keep("left-out", proposal.round, id_, "roster", node::kRosterDomain,
           node::encode(node::RosterRecord{group_.run(), *roster}));
    }
  }

  void keep(const char* kind, RoundId round, const PeerId& whose, const char* ending, std::string_view domain,
            std::vector<std::byte> body) {
    if (!evidence_) return;
    char name[64];
    std::snprintf(name, sizeof(name), "%s-%08llu-%s.%s", kind, static_cast<unsigned long long>(round),
                  to_hex(whose).c_str(), ending);
    evidence_->save(name, domain, std::move(body));
  }

  void on_round_over(RoundReport report) override {
    judge_round(report);
    report.left_out = group_.is_alone();
    if (evidence_ && group_.open_round()) {
      keep("round", report.round, id_, "report", node::kRoundReportDomain,
           node::encode(node::round_record_of(group_.run(), group_.open_round()->group, group_.open_roster(), report,
                                              wall_now().time_since_epoch().count())));
    }
    group_.handle_round_over(io_->now(), report);
    group_.act(io_->now());
    answer_call(std::move(report));
  }

  [[nodiscard]] node::GroupConfig signing(node::GroupConfig group) const {
    group.identity = identity_ ? &*identity_ : nullptr;
    return group;
  }

  void on_refused(const transport::Address& address, const std::string& why) override {
    std::string refusal = address.to_string() + " refuses this node: " + why;
    spdlog::error("{}", refusal);
    {
      const std::lock_guard lock(exchange_.mutex);
      std::vector<std::string>& known = exchange_.refusals;
      if (std::find(known.begin(), known.end(), refusal) == known.end()) known.push_back(std::move(refusal));
    }
    exchange_.changed.notify_all();
  }

  const NodeConfig config_;
  const std::string transport_note_;
  const PeerId id_;
  const std::optional<transport::Identity> identity_;
  std::string listen_address_;
  mutable Exchange exchange_;
  bool round_in_flight_ = false;  // under exchange_.mutex

  // The loop's own.
  std::unique_ptr<transport::Io> io_;
  // The trainer's, while it has reserved a round that the loop does not know of yet.
  node::DeviceKeeper devices_{make_device, [this] { io_->wake(); }};
  Engine engine_;
  Group group_;
  std::optional<AllReduceCall> call_;
  bool joined_ = false;
  bool cancel_ = false;
  std::uint64_t refusals_told_ = 0;
  node::Gatekeeper gatekeeper_;
  core::Conduct conduct_;
  std::vector<PeerId> to_drop_;  // banned in this turn
  std::vector<PeerId> banned_;   // by this node, each once, the latest last
  std::optional<node::StateDirectory> state_directory_;
  std::optional<node::BanKeeper> keeper_;
  std::optional<node::EvidenceKeeper> evidence_;

  std::thread thread_;
};

// ---- configuration

Result<std::uint64_t> random_number() {
  std::uint64_t value = 0;
  if (getrandom(&value, sizeof(value), 0) != sizeof(value)) return runtime_error("the system gives no random numbers");
  return value;
}

Result<Kept> open_state(const std::string& path) {
  Kept kept;
  if (path.empty()) return Result<Kept>(std::move(kept));
  auto directory = node::StateDirectory::open(path);
  if (!directory) return directory.error();
  auto store = node::BanStore::open(path);
  if (!store) return store.error();
  auto records = store->load();
  if (!records) return records.error();
  kept.directory.emplace(std::move(*directory));
  kept.store.emplace(std::move(*store));
  kept.records = std::move(*records);
  return Result<Kept>(std::move(kept));
}

Status check(const NodeConfig& config) {
  if (config.role == Role::validator) {
    return usage_error("role: validator is not part of rounds yet: use miner or client");
  }
  if (config.role == Role::miner && config.listen.empty()) {
    return usage_error("listen: a miner needs an address to listen on, such as 0.0.0.0:31337; or use role client");
  }
  if (config.role == Role::client && config.peers.empty()) {
    return usage_error("peer: a client needs at least one address to dial");
  }
  if (config.run_id.empty() || config.run_id.size() > 256) {
    return usage_error("run-id: '" + config.run_id.substr(0, 32) + "' must have 1 to 256 characters");
  }
  if (config.elements > kMaximumElements) {
    return usage_error("elements: " + std::to_string(config.elements) + " is above the maximum " +
                       std::to_string(kMaximumElements));
  }
  if (config.flows > kMaximumFlows) {
    return usage_error("flows: " + std::to_string(config.flows) + " is above the maximum " +
                       std::to_string(kMaximumFlows));
  }
  if (config.group_size > kMaximumMembers || config.peers.size() >= kMaximumMembers) {
    return usage_error("group-size: a group has at most " + std::to_string(kMaximumMembers) + " members");
  }
  if (config.chunk_bytes != 0 && (config.chunk_bytes < kMinimumChunkBytes || config.chunk_bytes > kMaximumChunkBytes ||
                                  (config.chunk_bytes & (config.chunk_bytes - 1)) != 0)) {
    return usage_error("chunk-bytes: " + std::to_string(config.chunk_bytes) + " is not a power of two from 64K to 4M");
  }
  if (config.round_timeout < std::chrono::milliseconds(10) || config.round_timeout > std::chrono::hours(24)) {
    return usage_error("round-timeout: '" + format_duration(config.round_timeout) + "' is not a time from 10ms to 24h");
  }
  if (auto format = node::parse_format_choice(config.codec); !format) return format.error();
  if (!core::norm_action_of(config.norm_policy)) {
    return usage_error("norm-policy: '" + config.norm_policy + "' is no policy: use off, clip or refuse");
  }
  if (!(config.norm_limit >= core::kMinimumNormLimit && config.norm_limit <= core::kMaximumNormLimit)) {
    return usage_error("norm-limit: " + text_of(config.norm_limit) + " is not a factor from 1 to 1e6");
  }
  if (!config.evidence_dir.empty()) {
    if (config.admission.security == node::Security::none) {
      return usage_error("evidence-dir: '" + config.evidence_dir +
                         "': evidence takes signatures, which security none leaves out: use tls, or keep none");
    }
    if (auto checked = node::EvidenceKeeper::check_directory(config.evidence_dir); !checked) return checked;
  }
  if (config.evidence_files < 1) return usage_error("evidence-files: '0' keeps nothing: use 1 or more");
  if (auto checked = node::check(config.patience); !checked) return checked;
  if (auto checked = node::check(config.roster); !checked) return checked;
  return node::check(config.admission);
}

}  // namespace

Result<std::unique_ptr<Node>> Node::start(NodeConfig config) {
  if (auto checked = check(config); !checked) return checked.error();
  if (config.group_size == 0) config.group_size = static_cast<std::uint32_t>(1 + config.peers.size());

  node::MeshConfig mesh;
  auto seed = random_number();
  if (!seed) return seed.error();
  mesh.seed = *seed;
  mesh.fingerprint = config.fingerprint;
  mesh.run_id = config.run_id;
  mesh.role = static_cast<transport::WireRole>(config.role);
  mesh.elements = config.elements;
  mesh.flows = static_cast<std::uint16_t>(config.flows);
  mesh.handshake_timeout = config.connect_timeout;
  mesh.local_options = node::default_socket_options(true, config.congestion_control);
  mesh.remote_options = node::default_socket_options(false, config.congestion_control);
  if (!config.listen.empty()) {
    auto address = transport::Address::parse(config.listen);
    if (!address) return usage_error("listen: " + address.error().message);
    mesh.listen = *address;
  }
  for (const std::string& peer : config.peers) {
    auto address = transport::Address::parse(peer);
    if (!address) return usage_error("peer: " + address.error().message);
    mesh.peers.push_back(*address);
  }
  auto kept = open_state(config.state_dir);
  if (!kept) return kept.error();
  auto identity =
      kept->directory ? Result<transport::Identity>(kept->directory->identity()) : transport::Identity::generate();
  if (!identity) return identity.error();
  mesh.self = identity->id();
  node::Gatekeeper gatekeeper(config.admission, mesh.self, config.run_id, config.state_dir);
  if (config.rate_bytes_per_s == 0) config.rate_bytes_per_s = gatekeeper.own_rate_bytes_per_s();
  mesh.rate_bytes_per_s = config.rate_bytes_per_s;
  mesh.door = config.admission.door;
  mesh.idle_timeout = config.admission.idle_timeout;
  mesh.is_secure = config.admission.security == node::Security::tls;
  if (mesh.is_secure) kept->identity = *identity;
  node::RoundDriverConfig rounds;
  rounds.self = mesh.self;
  rounds.patience = config.patience;
  rounds.format = *node::parse_format_choice(config.codec);
  rounds.device_pages = pages_for_gpu();
  rounds.norms = {.action = *core::norm_action_of(config.norm_policy), .limit = config.norm_limit};
  const node::GroupConfig group{.self = mesh.self,
                                .fingerprint = config.fingerprint,
                                .role = mesh.role,
                                .elements = config.elements,
                                .target_batch = config.target_batch,
                                .rate_bytes_per_s = config.rate_bytes_per_s,
                                .chunk_bytes = config.chunk_bytes,
                                .round_timeout = config.round_timeout,
                                .run_id = config.run_id,
                                .instance = *seed,
                                .patience = config.roster};

  auto backend = transport::parse_io_backend(config.transport);
  if (!backend) return backend.error();
  std::string note;
  auto io = transport::make_io(*backend, &note);
  if (!io) return io.error();
  if (mesh.is_secure) {
    const transport::SecureOptions options{.handshake_bytes = config.admission.door.bytes_per_handshake};
    io = transport::make_secure_io(std::move(*io), *identity, options);
    if (!io) return io.error();
    note += ", TLS 1.3";
  } else {
    note += ", not encrypted";
  }
  auto node = std::make_unique<LoopNode>(std::move(config), std::move(*io), std::move(note), std::move(mesh), rounds,
                                         group, std::move(*kept), std::move(gatekeeper));
  if (auto launched = node->launch(); !launched) return launched.error();
  return std::unique_ptr<Node>(std::move(node));
}

Fingerprint model_fingerprint(std::string_view run_id, std::span<const ParameterShape> parameters) {
  // Lengths go in too, so that ("ab", "c") and ("a", "bc") differ.
  std::string text;
  const auto add = [&](std::string_view part) { text += std::to_string(part.size()) + ":" + std::string(part) + ";"; };
  add(run_id);
  for (const ParameterShape& parameter : parameters) {
    add(parameter.name);
    add(parameter.dtype);
    for (const std::int64_t extent : parameter.shape) add(std::to_string(extent));
    text += "|";
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return {hash.low64, hash.high64};
}

}  // namespace papilio
