#include "engine/node/group.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/core/partition.hpp"

namespace papilio::node {
namespace {

core::RosterConfig roster_config_of(const GroupConfig& config) {
  core::RosterConfig roster = config.patience.agreement;
  roster.self = config.self;
  roster.instance = config.instance;
  roster.is_miner = config.role == transport::WireRole::miner;
  roster.rate_bytes_per_s = std::min(config.rate_bytes_per_s, core::kMaximumRate);
  roster.elements = config.elements;
  roster.chunk_bytes = config.chunk_bytes;
  roster.round_timeout = config.round_timeout;
  return roster;
}

// ---- between the core's words and the wire's

transport::Propose to_wire(const core::Proposal& proposal) {
  transport::Propose wire{.round = proposal.round,
                          .epoch = proposal.epoch,
                          .members = {},
                          .chunk_bytes = proposal.chunk_bytes,
                          .timeout_ms = proposal.timeout_ms,
                          .attempt = proposal.ballot.attempt,
                          .proposer = proposal.ballot.proposer,
                          .instance = proposal.instance};
  for (const core::RosterEntry& each : proposal.members) {
    wire.members.push_back({each.peer, each.rate_bytes_per_s, each.reduces});
  }
  return wire;
}

core::Proposal from_wire(const transport::Propose& wire) {
  core::Proposal proposal{.round = wire.round,
                          .epoch = wire.epoch,
                          .ballot = {wire.attempt, wire.proposer},
                          .members = {},
                          .chunk_bytes = wire.chunk_bytes,
                          .timeout_ms = wire.timeout_ms,
                          .instance = wire.instance};
  for (const transport::RosterMember& each : wire.members) {
    proposal.members.push_back({each.peer, each.rate_bytes_per_s, each.reduces});
  }
  return proposal;
}

static_assert(static_cast<int>(core::kLastAnswer) == static_cast<int>(transport::RosterAnswer::incomplete));

transport::Ack to_wire(const core::RosterAnswer& answer) {
  return {.round = answer.round,
          .attempt = answer.ballot.attempt,
          .proposer = answer.ballot.proposer,
          .answer = static_cast<transport::RosterAnswer>(answer.answer),
          .promised_attempt = answer.promised.attempt,
          .promised_proposer = answer.promised.proposer,
          .epoch = answer.epoch};
}

core::RosterAnswer from_wire(const transport::Ack& wire) {
  return {.round = wire.round,
          .ballot = {wire.attempt, wire.proposer},
          .answer = static_cast<core::Answer>(wire.answer),
          .promised = {wire.promised_attempt, wire.promised_proposer},
          .epoch = wire.epoch};
}

transport::Commit to_wire(const core::Commit& commit) {
  return {.proposal = to_wire(commit.proposal), .mask = commit.mask};
}
SignedCommit from_wire(const transport::Commit& wire) {
  return {.commit = {from_wire(wire.proposal), wire.mask}, .consents = wire.consents, .seal = wire.seal};
}

std::string names_of(const std::vector<PeerId>& peers) {
  std::string text;
  for (const PeerId& peer : peers) text += (text.empty() ? "" : " ") + to_hex(peer);
  return text;
}

}  // namespace

Group::Group(Engine& engine, const GroupConfig& config)
    : engine_(engine),
      config_(config),
      progress_({config.target_batch}),
      rostering_(roster_config_of(config)),
      seals_(config.identity, {config.run_id, config.fingerprint}),
      models_(config.self),
      results_(config.self) {
  PAPILIO_ASSERT(config.identity == nullptr || config.identity->id() == config.self);
}

// ---- what happens here

void Group::add_samples(std::uint64_t samples) {
  progress_.handle_samples(samples);
  changed_ = true;
}

void Group::report_model(std::uint64_t epoch, std::uint64_t digest) {
  progress_.handle_model({epoch, digest});
  models_.handle_own(epoch, digest);
  changed_ = true;
}

void Group::handle_round_wanted(TimePoint now) {
  if (!round_wanted_since_) round_wanted_since_ = now;
}

void Group::handle_bans(std::vector<PeerId> banned) {
  if (banned.size() > kMaximumMembers) banned.erase(banned.begin(), banned.end() - kMaximumMembers);
  if (banned == banned_) return;
  banned_ = std::move(banned);
  rostering_.handle_bans(banned_);
  changed_ = true;
}

void Group::handle_round_over(TimePoint now, const RoundReport& report) {
  if (alone_) alone_->wait_until = saturating_add(now, config_.round_timeout);
  open_round_.reset();
  round_wanted_since_.reset();
  has_fresh_state_ = false;
  was_in_a_round_ = true;
  progress_.handle_epoch(report.epoch + 1);
  epoch_began_ = now;
  changed_ = true;
  std::vector<PeerId> lost, came_through;
  for (const PeerReport& peer : report.peers) {
    (peer.cut_off && peer.peer != config_.self ? lost : came_through).push_back(peer.peer);
  }
  rostering_.handle_epoch(now, report.epoch + 1, lost);
  seals_.handle_epoch(report.epoch + 1);
  for (Heard& heard : heard_) {  // they spoke to the round
    if (std::find(lost.begin(), lost.end(), heard.peer) == lost.end()) heard.when = now;
  }
  std::erase_if(came_through, [&](const PeerId& peer) { return engine_.mesh().find(peer) == nullptr; });
  models_.handle_round(report.epoch, came_through);
  results_.handle_own(report.epoch, report.digest);
  for (const PeerReport& peer : report.peers) {
    if (peer.peer != config_.self && peer.digest) results_.handle_peer(peer.peer, report.epoch, *peer.digest);
  }
}

void Group::handle_state_taken(TimePoint now, std::uint64_t epoch) {
  open_round_.reset();
  alone_.reset();
  has_fresh_state_ = true;
  was_in_a_round_ = true;
  progress_.handle_epoch(epoch);
  rostering_.handle_epoch(now, epoch);
  seals_.handle_epoch(epoch);
  epoch_began_ = now;
  changed_ = true;
}

// ---- what peers do

void Group::handle_peer_joined(TimePoint now, Peer& peer) {
  note_heard(now, peer);
  tell_roster(now, peer);
  engine_.mesh().send_control(peer, wire_report());
}

void Group::handle_peer_left(TimePoint now, Peer& peer) {
  std::erase_if(heard_, [&](const Heard& heard) { return heard.peer == peer.id; });
  progress_.handle_peer_left(peer.id);
  rostering_.handle_peer_left(now, peer.id);
  models_.handle_peer_left(peer.id);
  results_.handle_peer_left(peer.id);
}

transport::Progress Group::wire_report() const {
  const ProgressReport report = progress_.local_report();
  return {.epoch = report.epoch,
          .samples = report.samples,
          .total_samples = report.total_samples,
          .digest_epoch = report.model ? report.model->epoch : ~std::uint64_t{0},
          .model_digest = report.model ? report.model->digest : 0,
          .banned = banned_};
}

std::optional<std::string> Group::handle_control(TimePoint now, Peer& peer, const transport::Header& header) {
  note_heard(now, peer);
  if (const auto* progress = std::get_if<transport::Progress>(&header)) {
    handle_progress(now, peer, *progress);
  } else if (const auto* propose = std::get_if<transport::Propose>(&header)) {
    return judge(now, peer, "proposal", rostering_.handle_proposal(now, peer.id, from_wire(*propose)));
  } else if (const auto* ack = std::get_if<transport::Ack>(&header)) {
    return handle_answer(now, peer, *ack);
  } else if (const auto* commit = std::get_if<transport::Commit>(&header)) {
    return handle_commit(now, peer, *commit);
  }
  return std::nullopt;
}

void Group::handle_progress(TimePoint now, Peer& peer, const transport::Progress& wire) {
  if (peer.role == transport::WireRole::validator) return;  // whoever is in no round has no say in when they begin
  ProgressReport report{.epoch = wire.epoch, .samples = wire.samples, .total_samples = wire.total_samples, .model = {}};
  if (wire.digest_epoch != ~std::uint64_t{0}) report.model = ModelDigest{wire.digest_epoch, wire.model_digest};
  const ReportVerdict verdict = progress_.handle_report(now, peer.id, report);
  if (verdict != ReportVerdict::accepted) {
    if (log_limit_.admit(now, "progress reports disregarded")) {
      spdlog::warn("{} ({}): progress report disregarded: {}", to_hex(peer.id), peer.address, to_string(verdict));
    }
    return;
  }
  for (Heard& heard : heard_) {
    if (heard.peer == peer.id) heard.banned = wire.banned;
  }
  if (report.model) models_.handle_peer(peer.id, report.model->epoch, report.model->digest);
  tell_roster(now, peer);
}

std::optional<std::string> Group::judge(TimePoint now, const Peer& peer, const char* what,
                                        core::RosterVerdict verdict) {
  using core::RosterVerdict;
  if (verdict == RosterVerdict::accepted || verdict == RosterVerdict::known) return std::nullopt;
  return disregard(now, peer, what, std::string(to_string(verdict)), core::is_violation(verdict));
}

std::optional<std::string> Group::disregard(TimePoint now, const Peer& peer, const char* what, const std::string& why,
                                            bool is_violation) {
  const auto level = is_violation ? spdlog::level::warn : spdlog::level::debug;
  if (level == spdlog::level::debug || log_limit_.admit(now, "words about rosters disregarded")) {
    spdlog::log(level, "{} ({}): {} for round {} disregarded: {}", to_hex(peer.id), peer.address, what,
                rostering_.epoch() + 1, why);
  }
  if (!is_violation) return std::nullopt;
  return std::string(what) + ": " + why;
}

// ---- signatures

std::optional<std::string> Group::handle_answer(TimePoint now, Peer& peer, const transport::Ack& wire) {
  const core::RosterAnswer answer = from_wire(wire);
  const core::Proposal* const own = rostering_.proposing();
  const bool is_consent = seals_.is_on() && answer.answer == core::Answer::acknowledged && own != nullptr &&
                          own->round == answer.round && own->ballot == answer.ballot;
  if (is_consent) {
    if (const auto objection = seals_.take(*own, peer.id, wire.consent)) {
      return disregard(now, peer, "answer", *objection, true);
    }
  }
  return judge(now, peer, "answer", rostering_.handle_answer(now, peer.id, answer));
}

std::optional<std::string> Group::handle_commit(TimePoint now, Peer& peer, const transport::Commit& wire) {
  using core::RosterVerdict;
  using Finding = RosterSeals::Finding;
  const SignedCommit told = from_wire(wire);
  RosterVerdict verdict = rostering_.judge_commit(peer.id, told.commit);
  const bool is_news = verdict == RosterVerdict::accepted;
  if (seals_.is_on() && (is_news || verdict == RosterVerdict::known || verdict == RosterVerdict::other_epoch)) {
    const bool is_unasked =
        is_news && seals_.names_own(told.commit) && !rostering_.has_acknowledged(told.commit.proposal);
    const RosterSeals::Look look =
        is_unasked ? seals_.look_unasked(peer.id, told) : seals_.look(peer.id, told, is_news);
    // Whoever passes on a commit has looked through it before.
    if (look.finding == Finding::does_not_hold) return disregard(now, peer, "commit", look.objection, true);
    // Its signature shows that this node did acknowledge, before it was started anew.
    if (is_unasked) return judge(now, peer, "commit", RosterVerdict::not_acknowledged);
    if (look.finding != Finding::holds && !look.may_be_taken) return std::nullopt;
  }
  if (is_news) verdict = rostering_.handle_commit(now, peer.id, told.commit);
  if (seals_.is_on() && verdict == RosterVerdict::left_out) note_left_out(told);
  return judge(now, peer, "commit", verdict);
}

std::optional<DoubleCommit> Group::poll_double_commit() {
  while (auto proof = seals_.poll_double_commit()) {
    const bool is_ours = seals_.names_own(proof->first.commit) || seals_.names_own(proof->second.commit);
    if (is_ours || engine_.mesh().find(proof->first.commit.proposal.ballot.proposer) != nullptr) return proof;
  }
  return std::nullopt;
}

// Others pass it on as well: told once.
void Group::note_left_out(const SignedCommit& told) {
  const core::Proposal& proposal = told.commit.proposal;
  const core::Proposal* const agreed = rostering_.acknowledged(proposal.ballot);
  if (agreed == nullptr || *agreed != proposal || last_left_out_ == proposal.round) return;
  last_left_out_ = proposal.round;
  left_out_of_ = told;
}

std::optional<transport::Header> Group::signed_header(const core::Proposal& proposal) { return to_wire(proposal); }

std::optional<transport::Header> Group::signed_header(const core::RosterAnswer& answer) {
  transport::Ack wire = to_wire(answer);
  if (!seals_.is_on() || answer.answer != core::Answer::acknowledged) return wire;
  const core::Proposal* const proposal = rostering_.acknowledged(answer.ballot);
  if (proposal == nullptr || proposal->round != answer.round) return std::nullopt;  // of an epoch that is over
  wire.consent = seals_.sign(*proposal);
  return wire;
}

std::optional<transport::Header> Group::signed_header(const core::Commit& commit) {
  transport::Commit wire = to_wire(commit);
  if (!seals_.is_on()) return wire;
  const SignedCommit* const sealed = seals_.seal(commit);
  if (sealed == nullptr) return std::nullopt;  // one of many, and not kept: somebody else passes it on
  wire.consents = sealed->consents;
  wire.seal = sealed->seal;
  return wire;
}

const SignedCommit* Group::open_roster() {
  const auto& decided = rostering_.decided();
  const bool is_signed = seals_.is_on() && open_round_ && !alone_ && decided;
  return is_signed ? seals_.seal(*decided) : nullptr;
}

// ---- who is here

void Group::tell_roster(TimePoint now, const Peer& peer) {
  const auto heard =
      std::find_if(heard_.begin(), heard_.end(), [&](const Heard& each) { return each.peer == peer.id; });
  const bool is_silent = heard != heard_.end() && heard->is_silent;
  rostering_.handle_peer(now, {.id = peer.id,
                               .is_miner = peer.role == transport::WireRole::miner,
                               .takes_part = peer.role != transport::WireRole::validator && !is_silent,
                               .rate_bytes_per_s = std::min(peer.rate_bytes_per_s, core::kMaximumRate),
                               .is_local_host = peer.is_local_host,
                               .epoch = progress_.epoch_of(peer.id),
                               .banned = heard != heard_.end() ? heard->banned : std::vector<PeerId>()});
}

void Group::note_heard(TimePoint now, const Peer& peer) {
  const auto found =
      std::find_if(heard_.begin(), heard_.end(), [&](const Heard& heard) { return heard.peer == peer.id; });
  if (found == heard_.end()) {
    heard_.push_back({.peer = peer.id, .when = now});
    return;
  }
  found->when = now;
  if (!std::exchange(found->is_silent, false)) return;
  spdlog::info("{} ({}) speaks again", to_hex(peer.id), peer.address);
  tell_roster(now, peer);
}

// Its connection stands, but nothing comes: frozen, or behind a dead line. Nobody waits for it.
void Group::note_silence(TimePoint now) {
  if (engine_.rounds().in_round()) return;  // words queue behind shards, and the round has timers of its own
  for (Heard& heard : heard_) {
    if (heard.is_silent || now < saturating_add(heard.when, config_.patience.silent_after)) continue;
    const Peer* const peer = engine_.mesh().find(heard.peer);
    if (peer == nullptr) continue;
    heard.is_silent = true;
    spdlog::warn("{} ({}) has been silent for {:.0f} s: not counted on until it speaks", to_hex(peer->id),
                 peer->address, to_seconds(config_.patience.silent_after));
    tell_roster(now, *peer);
  }
}

// ---- rounds

// Without enough samples a round is still due when a trainer has long done what it may.
bool Group::is_due(TimePoint now) const {
  if (open_round_ || engine_.rounds().in_round() || is_out_of_step() || alone_) return false;
  if (config_.target_batch > 0 && progress_.target_reached()) return true;
  if (!round_wanted_since_) return false;
  const Duration patience = config_.target_batch > 0 ? rostering_.config().propose_grace : Duration::zero();
  return now >= saturating_add(*round_wanted_since_, patience);
}

void Group::act(TimePoint now) {
  note_silence(now);
  look_for_others(now);
  rostering_.handle_due(now, is_due(now));
  rostering_.handle_time(now);
  if (std::exchange(changed_, false) || now >= next_report_) {
    next_report_ = saturating_add(now, config_.patience.report_interval);
    const transport::Progress report = wire_report();
    for (const auto& peer : engine_.mesh().peers()) engine_.mesh().send_control(*peer, report);
  }
  send_roster_messages();
  open_what_is_decided();
  open_round_alone();
  say_changes();
  say_unwritten(now);
}

TimePoint Group::next_deadline(TimePoint now) const {
  TimePoint next = std::min({next_report_, rostering_.next_deadline(), log_limit_.next_deadline()});
  if (alone_) next = std::min(next, alone_->wait_until);
  if (round_wanted_since_ && config_.target_batch > 0) {
    const TimePoint due = saturating_add(*round_wanted_since_, rostering_.config().propose_grace);
    if (now < due) next = std::min(next, due);
  }
  return next;
}

void Group::send_roster_messages() {
  while (const auto message = rostering_.poll_message()) {
    const auto header = std::visit([&](const auto& content) { return signed_header(content); }, message->content);
    if (!header) continue;
    for (const PeerId& id : message->to) {
      if (Peer* const peer = engine_.mesh().find(id)) engine_.mesh().send_control(*peer, *header);
    }
  }
}

void Group::open_what_is_decided() {
  const auto& decided = rostering_.decided();
  if (!decided || open_round_ || decided->proposal.epoch != progress_.local_epoch()) return;
  alone_.reset();
  open(core::roster_of(*decided), decided->proposal.ballot);
}

void Group::open(const core::Roster& roster, const core::Ballot& ballot) {
  RoundSpec spec{.round = roster.round,
                 .epoch = roster.epoch,
                 .members = {},
                 .chunk_bytes = roster.chunk_bytes,
                 .timeout = std::chrono::milliseconds(roster.timeout_ms),
                 .model = core::model_hash(config_.fingerprint, roster.epoch),
                 .group = core::group_hash(roster)};
  for (const core::RosterEntry& each : roster.members) {
    spec.members.push_back({each.peer, each.rate_bytes_per_s, each.reduces});
  }
  spdlog::debug("round {}: {} members, group {:016x}, attempt {} by {}", spec.round, spec.members.size(), spec.group,
                ballot.attempt, to_hex(ballot.proposer));
  open_round_ = std::move(spec);
}

// The others began this round without this node, or are through with it. Waiting would not bring it back, and whoever
// is more than a round behind is in none any more; so this is a round that it is alone in, as behind a line that was
// cut for so long.
void Group::open_round_alone() {
  if (!config_.goes_on_alone || has_fresh_state_ || open_round_ || engine_.rounds().in_round() || rostering_.decided())
    return;
  const std::uint64_t epoch = progress_.local_epoch();
  const bool just_missed_it = was_in_a_round_ && progress_.group_epoch() == epoch + 1;
  if (!rostering_.is_left_out() && !just_missed_it) return;
  spdlog::warn(
      "the others began round {} without this node: it keeps its own gradient for that round and is in the next one, "
      "its model a step apart from theirs; if that comes often, look at its line and at who has banned it, and if "
      "models differ for long, restart it from a copy of another member's state",
      epoch + 1);
  const std::size_t chunk_bytes =
      config_.chunk_bytes != 0 ? config_.chunk_bytes : choose_chunk_bytes(config_.elements, 1, 0);
  alone_ = Alone{};
  // A client is its own reducer here, since there is no other.
  open({.round = epoch + 1,
        .epoch = epoch,
        .members = {{.peer = config_.self, .rate_bytes_per_s = config_.rate_bytes_per_s, .reduces = true}},
        .chunk_bytes = static_cast<std::uint32_t>(chunk_bytes),
        .timeout_ms =
            static_cast<std::uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(config_.round_timeout).count())},
       {.attempt = 0, .proposer = config_.self});
}

// After a round alone this node is ahead of those that are still in it. They take it along as soon as they are through;
// a round of its own before that would only put it further ahead.
void Group::look_for_others(TimePoint now) {
  if (!alone_ || open_round_ || engine_.rounds().in_round()) return;
  if (progress_.group_epoch() >= progress_.local_epoch() || now >= alone_->wait_until) alone_.reset();
}

void Group::say_unwritten(TimePoint now) {
  while (const auto left_out = log_limit_.poll(now)) {
    spdlog::warn("{} more {} within {:.0f} s", left_out->lines, left_out->kind,
                 to_seconds(log_limit_.config().interval));
  }
}

// ---- standing

bool Group::is_out_of_step() const {
  if (open_round_ || rostering_.decided()) return false;
  if (rostering_.is_left_out() || progress_.group_epoch() > progress_.local_epoch()) return true;
  if (was_in_a_round_) return false;
  // A newcomer takes the word of half: beside a single member there is no majority to see.
  std::size_t told = 0, ahead = 0;
  for (const Heard& heard : heard_) {
    const auto epoch = progress_.epoch_of(heard.peer);
    told += epoch ? 1U : 0U;
    ahead += epoch && *epoch > progress_.local_epoch() ? 1U : 0U;
  }
  return ahead > 0 && 2 * ahead >= told;
}

std::optional<StateWanted> Group::state_wanted() const {
  using Why = StateWanted::Why;
  std::uint64_t epoch = progress_.local_epoch();
  for (const Heard& heard : heard_) epoch = std::max(epoch, progress_.epoch_of(heard.peer).value_or(0));
  const std::uint64_t group = std::max(progress_.group_epoch(), progress_.local_epoch());
  if (is_out_of_step()) {
    if (rostering_.is_left_out() && group == progress_.local_epoch()) return StateWanted{Why::left_out, group + 1};
    return StateWanted{Why::behind, group > progress_.local_epoch() ? group : epoch};
  }
  if (!models_.state().in_sync) return StateWanted{Why::diverged, group};
  return std::nullopt;
}

void Group::say_changes() {
  const auto wanted = state_wanted();
  const auto why = wanted ? std::optional(wanted->why) : std::nullopt;
  if (std::exchange(said_, why) != why && wanted) {
    if (wanted->why == StateWanted::Why::behind) {
      spdlog::warn("the group is at epoch {}, this node at {}: it is in no round until it has the group's state",
                   wanted->epoch, progress_.local_epoch());
    } else if (wanted->why == StateWanted::Why::left_out) {
      spdlog::warn("the others began round {} without this node: it is in no round until it has the group's state",
                   rostering_.epoch() + 1);
    }
  }
  if (const auto change = models_.poll_change()) {
    if (!change->in_sync) {
      spdlog::warn(
          "this node's model differs from {} of {} members since epoch {}: its gradients are of another model "
          "than theirs; restart it with the others, or let it fetch the group's state",
          change->differing, change->told, change->since);
    } else if (!change->out_of_sync.empty()) {
      spdlog::warn("the models of {} of {} members differ from the majority's since epoch {}: {}",
                   change->out_of_sync.size(), change->told, change->since, names_of(change->out_of_sync));
    } else {
      spdlog::info("all {} members hold the same model again, since epoch {}", change->told, change->since);
    }
  }
  if (const auto change = results_.poll_change(); change && change->differing > 0) {
    spdlog::warn(
        "the result of round {} differs from that of {} of {} members: some chunks are local at one and "
        "averaged at another",
        change->epoch + 1, change->differing, change->told);
  }
}

// A peer that will be in the next round, as far as can be told: not one that waits for state, or says nothing.
bool Group::is_counted_on(TimePoint now, const Heard& heard) const {
  const auto epoch = progress_.epoch_of(heard.peer);
  if (!epoch || heard.is_silent) return false;
  if (*epoch >= progress_.local_epoch()) return true;
  return *epoch + 1 == progress_.local_epoch() && now < saturating_add(epoch_began_, rostering_.config().arrival_grace);
}

GroupProgress Group::progress(TimePoint now) const {
  GroupProgress progress;
  progress.epoch = progress_.group_epoch();
  progress.local_epoch = progress_.local_epoch();
  progress.local_samples = progress_.local_samples();
  progress.group_samples = progress_.group_samples();
  progress.total_samples = progress_.total_samples();
  progress.members = 1;
  for (const Heard& heard : heard_) progress.members += is_counted_on(now, heard) ? 1U : 0U;
  progress.round_open = open_round_.has_value();
  progress.in_agreement = progress_.in_agreement(now);
  progress.in_sync = models_.state().in_sync;
  progress.out_of_sync = static_cast<std::uint32_t>(models_.state().out_of_sync.size());
  if (const auto wanted = state_wanted()) {
    progress.waits_for_state = wanted->why != StateWanted::Why::diverged;
    if (progress.waits_for_state) progress.epoch = wanted->epoch;
  }
  return progress;
}

}  // namespace papilio::node
