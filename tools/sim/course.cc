// The course of events: links, then round after round, then everybody leaves.
#include <algorithm>
#include <utility>

#include "engine/core/roster.hpp"
#include "tools/sim/host_config.hpp"
#include "tools/sim/world.hpp"

namespace papilio::sim {

namespace {

// Virtual time: until members that lost each other have dialled again, a dead handshake and the longest wait included.
constexpr Duration kLinkPatience = std::chrono::seconds(45);
constexpr Duration kLeavePatience = std::chrono::seconds(3);
constexpr Duration kChatterInterval = std::chrono::seconds(1);
// Members that are well begin within a twentieth of the timeout, and a little later where they had to wait for the end
// of the round before.
constexpr double kLate = 0.051;
constexpr double kTooLate = 0.2;
// The part of the timeout after which reducers stop waiting; where nothing goes wrong nobody has to.
constexpr double kReduceBy = 0.6;

}  // namespace

void World::coordinate() {
  switch (stage_) {
    case Stage::linking: return link_up();
    case Stage::rounding:
      if (!all_rounds_over()) return;
      if (next_round_ < scenario_.rounds.size()) {
        stage_ = Stage::linking;
        return coordinate();
      }
      if (actions_.empty()) begin_leaving();
      return;
    case Stage::leaving:
      if (std::all_of(hosts_.begin(), hosts_.end(), [](const auto& host) {
            return host->state == Host::State::gone || host->state == Host::State::off;
          })) {
        stage_ = Stage::over;
      }
      return;
    case Stage::over: return;
  }
}

void World::link_up() {
  if (open_scheduled_) return;
  const bool is_last = next_round_ + 1 == scenario_.rounds.size();
  if (is_last && next_round_ > 0 && !actions_.empty()) return;  // let all mishaps happen, and end
  const auto missing = missing_link();
  if (!missing) {
    missing_since_.clear();
    link_by_ = kNever;
    open_scheduled_ = true;
    return schedule(now() + scenario_.rounds[next_round_].pause,
                    {.kind = ActionKind::open_round, .index = next_round_});
  }
  // Each pair has its own time: another may have been missing before it, or a ban may have excused it until now.
  std::erase_if(missing_since_, [&](const auto& each) {
    const auto& [one, other] = each.first;
    return links_.are_linked(one, other) || !want_link(one, other);
  });
  link_by_ = missing_since_.try_emplace(*missing, now()).first->second + kLinkPatience;
  if (now() < link_by_) return chatter();
  fail("hosts " + std::to_string(missing->first) + " and " + std::to_string(missing->second) +
       " do not find each other, though nothing is in their way");
}

// Between rounds nodes tell each other their progress. Here they do so where it matters: who finds a link dead that
// nothing went over for long.
void World::chatter() {
  if (now() < chatter_at_) return;
  chatter_at_ = now() + kChatterInterval;
  schedule(chatter_at_, {.kind = ActionKind::nothing});
  for (const auto& host : hosts_) {
    if (host->state == Host::State::running) host->say_progress();
  }
}

bool World::all_rounds_over() const {
  return std::all_of(rounds_.begin(), rounds_.end(), [](const RoundState& round) { return round.is_over; });
}

// ---- opening a round

void World::open_round(std::size_t index) {
  open_scheduled_ = false;
  if (index != next_round_) return;
  next_round_ = index + 1;
  stage_ = Stage::rounding;

  const std::vector<std::uint32_t> roster = draw_up_roster(index);
  const bool any_reducer =
      std::any_of(roster.begin(), roster.end(), [&](std::uint32_t host) { return !scenario_.hosts[host].client; });
  for (std::uint32_t host = 0; index > 0 && host < scenario_.members; ++host) {
    if (scenario_.hosts[host].first_round == index) start_again(host);
  }
  if (!any_reducer) {
    next_round_ = scenario_.rounds.size();
    return;
  }
  note("round %zu opens for %zu members", index + 1, roster.size());
  RoundState round;
  round.check = std::make_unique<RoundCheck>(spec_of(index, roster), roster, scenario_.elements, now());
  round.opened = now();
  round.done.assign(roster.size(), false);
  note_disturbances(index, *round.check);
  if (!anything_went_wrong_ && scenario_.is_calm()) {
    for (const std::uint32_t host : roster) check_pool(*hosts_[host]);
  }
  rounds_.push_back(std::move(round));
  schedule_round(index, roster);
}

// In the order of their names, as the members themselves would.
std::vector<std::uint32_t> World::draw_up_roster(std::size_t index) {
  std::vector<std::uint32_t> roster;
  for (std::uint32_t host = 0; host < scenario_.members; ++host) {
    const bool was_there = scenario_.hosts[host].first_round < std::max<std::size_t>(1, index);
    if (hosts_[host]->is_there() || (scenario_.roster_keeps_dead && was_there)) roster.push_back(host);
  }
  std::sort(roster.begin(), roster.end(),
            [&](auto one, auto other) { return hosts_[one]->id() < hosts_[other]->id(); });
  return roster;
}

namespace {

// As the group does once the roster is agreed on.
void seal(node::RoundSpec& spec) {
  core::Roster roster{.round = spec.round,
                      .epoch = spec.epoch,
                      .members = {},
                      .chunk_bytes = static_cast<std::uint32_t>(spec.chunk_bytes),
                      .timeout_ms = 1};
  for (const transport::RosterMember& member : spec.members) {
    roster.members.push_back(
        {.peer = member.peer, .rate_bytes_per_s = member.rate_bytes_per_s, .reduces = member.reduces});
  }
  spec.model = core::model_hash({.low = 1, .high = 2}, spec.epoch);
  spec.group = core::group_hash(roster);
}

}  // namespace

node::RoundSpec World::spec_of(std::size_t index, const std::vector<std::uint32_t>& roster) const {
  node::RoundSpec spec{.round = index + 1,
                       .epoch = index,
                       .members = {},
                       .chunk_bytes = scenario_.chunk_bytes,
                       .timeout = scenario_.timeout};
  for (const std::uint32_t host : roster) {
    spec.members.push_back({.peer = hosts_[host]->id(),
                            .rate_bytes_per_s = scenario_.hosts[host].announced_rate,
                            .reduces = !scenario_.hosts[host].client});
  }
  seal(spec);
  return spec;
}

// What is wrong with the members from the start.
void World::note_disturbances(std::size_t index, RoundCheck& check) const {
  const auto is_disturbed_elsewhere = [&](std::uint32_t host) {
    return std::any_of(rounds_.begin(), rounds_.end(), [&](const RoundState& other) {
      return !other.is_over && other.check->member_of(host) != node::kNotAMember && other.check->is_disturbed(host);
    });
  };
  for (const std::uint32_t host : check.hosts()) {
    const BeginPlan& begin = scenario_.rounds[index].members[host];
    const HostState& state = states_[host];
    const bool is_late = begin.never || begin.after > times(scenario_.timeout, kLate);
    const bool is_odd = begin.poison != Poison::none || begin.other_epoch || begin.other_roster;
    const bool runs = hosts_[host]->state == Host::State::running || state.stalled;
    const bool is_well = runs && !state.slow && !state.hostile;
    if (is_late || is_odd || !is_well || is_disturbed_elsewhere(host)) check.disturb_host(host, now());
    if (!hosts_[host]->is_there()) check.handle_death(host);
    if (begin.other_roster || state.equivocates) check.handle_equivocation(host);
    if (begin.other_epoch) check.handle_other_model(host);
    for (const std::uint32_t other : check.hosts()) {
      if (host >= other) continue;
      const bool both_clients = scenario_.hosts[host].client && scenario_.hosts[other].client;
      const bool are_strange = !both_clients && !links_.are_linked(host, other);
      if (are_strange || links_.are_apart(host, other)) {
        check.disturb_pair(host, other, now());
        if (was_parted_) check.handle_partition();  // not all have found each other again
      }
    }
  }
  for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
    const ByteFaultPlan& plan = scenario_.byte_faults[i];
    if (!byte_faults_[i].noticed) check.disturb_pair(plan.from, plan.to, now());
  }
}

void World::schedule_round(std::size_t index, const std::vector<std::uint32_t>& roster) {
  const std::vector<BeginPlan>& begins = scenario_.rounds[index].members;
  for (const std::uint32_t host : roster) {
    if (begins[host].never && !begins[host].skips) {
      mark_done(host, index);
    } else {
      schedule(now() + begins[host].after, {.kind = ActionKind::begin_round, .host = host, .index = index});
    }
  }
  for (std::size_t i = 0; i < scenario_.mishaps.size(); ++i) {
    const MishapPlan& plan = scenario_.mishaps[i];
    if (plan.round != index || plan.trigger.count > 0) continue;
    schedule(now() + plan.after, {.kind = ActionKind::mishap, .index = i});
  }
  if (scenario_.period > Duration::zero() && next_round_ + 1 < scenario_.rounds.size()) {
    open_scheduled_ = true;
    schedule(now() + scenario_.period, {.kind = ActionKind::open_round, .index = next_round_});
  }
}

// ---- a member's round

void World::begin_waiting(std::uint32_t number) {
  HostState& state = states_[number];
  if (!hosts_[number]->is_there() || state.frozen_for_good) {
    for (const std::size_t index : std::exchange(state.waiting, {})) mark_done(number, index);
  }
  while (failure_.empty() && hosts_[number]->state == Host::State::running && !state.round && !state.waiting.empty()) {
    const std::size_t index = state.waiting.front();
    state.waiting.pop_front();
    begin_round(number, index);
  }
}

void World::begin_round(std::uint32_t number, std::size_t index) {
  Host& host = *hosts_[number];
  HostState& state = states_[number];
  RoundState& round = rounds_[index];
  // Its machine was switched off since the round opened, and is not of it any more.
  if (round.is_over || round.done[round.check->member_of(number)]) return;
  const BeginPlan& plan = scenario_.rounds[index].members[number];
  if (plan.never) {
    note("host %u skips round %zu", number, index + 1);
    host.turn();
    host.engine().rounds().skip_rounds_to(index + 1);
    mark_done(number, index);
    return look_at(host);
  }
  if (round.check->spec().round <= host.engine().rounds().last_round()) return mark_done(number, index);
  if (now() > round.opened + times(scenario_.timeout, kTooLate)) round.check->disturb_host(number, now());
  note("host %u begins round %zu", number, index + 1);
  const std::vector<float> gradient = draw_gradient(scenario_, number, index);
  round.check->handle_begin(number, gradient, plan.weight,
                            {.codec = node::kernel_codec(scenario_.hosts[number].format.codec),
                             .residual = host.engine().rounds().residual()});
  state.round = index;
  state.deadline = now() + scenario_.timeout;
  state.contributions_at_cut_off.assign(round.check->hosts().size(), -1);
  state.settled.assign(round.check->plan().chunk_count(), 0);
  if (tamperers_[number] != nullptr) {
    tamperers_[number]->begin_round(static_cast<std::uint32_t>(index), index + 1, round.check->plan(),
                                    round.check->hosts(), gradient);
  }
  node::RoundSpec spec = round.check->spec();
  if (plan.other_epoch) spec.epoch += 1000;
  if (plan.other_roster) std::reverse(spec.members.begin(), spec.members.end());
  seal(spec);
  if (plan.poison != Poison::none || plan.other_epoch || plan.other_roster) make_hostile(number);
  host.begin(spec, gradient, plan.weight);
  look_at(host);
}

void World::finish_round(Host& host, const RoundReport& report) {
  HostState& state = states_[host.number()];
  if (!state.round || report.round != *state.round + 1) return fail("promise 1: a round ended twice");
  const std::size_t index = *state.round;
  note("host %u ends round %zu: coverage %.3f, %llu local chunks%s", host.number(), index + 1, report.coverage,
       static_cast<unsigned long long>(report.local_chunks), report.canceled ? ", canceled" : "");
  for (const PeerReport& peer : report.peers) {
    if (peer.cut_off) note("  host %u: cut off: %s", host_of_.at(peer.peer), peer.reason.c_str());
  }
  RoundCheck& check = *rounds_[index].check;
  if (std::string wrong = check.check_end(host.number(), report, host.gradient()); !wrong.empty()) return fail(wrong);
  check_promise_4(host, report);
  if (check.is_calm() && report.seconds >= kReduceBy * to_seconds(scenario_.timeout)) {
    return fail("round " + std::to_string(report.round) + ", host " + std::to_string(host.number()) + ": took " +
                std::to_string(report.seconds) + " s though nothing went wrong: somebody waited for nothing");
  }
  if (!check.is_disturbed(host.number())) {
    tally_.add({.rounds = 1,
                .chunks = report.chunks.size(),
                .local_chunks = report.local_chunks,
                .coverage = report.coverage,
                .longest_timeout = report.seconds / to_seconds(scenario_.timeout)});
  }
  for (const Coverage coverage : report.chunks) fold(coverage);
  fold(report.digest);
  fold(static_cast<std::uint64_t>(now().time_since_epoch().count()));
  host.use_gradient();
  rounds_ended_ += 1;
  state.round.reset();
  state.deadline = kNever;
  mark_done(host.number(), index);
  // Not here: the engine is in the middle of its turn's checks.
  schedule(now(), {.kind = ActionKind::begin_waiting, .host = host.number()});
}

void World::mark_done(std::uint32_t host, std::size_t index) {
  RoundState& round = rounds_[index];
  const MemberIndex member = round.is_over ? node::kNotAMember : round.check->member_of(host);
  if (member == node::kNotAMember) return;
  round.done[member] = true;
  round.is_over = std::find(round.done.begin(), round.done.end(), false) == round.done.end();
  if (round.is_over) round.check.reset();
}

void World::mark_all_done(std::uint32_t host) {
  for (std::size_t index = 0; index < rounds_.size(); ++index) mark_done(host, index);
}

void World::begin_leaving() {
  note("everybody leaves");
  stage_ = Stage::leaving;
  for (const auto& host : hosts_) {
    if (host->state == Host::State::frozen) kill(host->number(), transport::SimDeath::silent);
    if (host->state != Host::State::running) continue;
    host->leave("done");
    host->state = Host::State::leaving;
    states_[host->number()].leave_by = now() + kLeavePatience;
  }
}

void World::leave(std::uint32_t number) {
  Host& host = *hosts_[number];
  host.leave("has seen enough");
  host.state = Host::State::leaving;
  states_[number].leave_by = now() + kLeavePatience;
  for (std::size_t round = 0; round < rounds_.size(); ++round) {
    if (states_[number].round != round) mark_done(number, round);
  }
  look_at(host);
}

}  // namespace papilio::sim
