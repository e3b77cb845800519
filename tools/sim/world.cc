#include "tools/sim/world.hpp"

#include <algorithm>
#include <bit>
#include <cstdarg>

#include "engine/base/assert.hpp"

namespace papilio::sim {

namespace {

constexpr std::uint16_t kPort = 7000;
// Virtual time: until members that lost each other have dialled again, a dead handshake and the longest wait included.
constexpr Duration kLinkPatience = std::chrono::seconds(25);
constexpr Duration kLeavePatience = std::chrono::seconds(3);
// Far beyond what any scenario needs: an engine that spins, or a run without end.
constexpr std::uint64_t kMostTurnsPerInstant = 10'000;
constexpr std::uint64_t kMostInstants = 20'000'000;

std::uint64_t bit(std::uint32_t host) { return std::uint64_t{1} << host; }

PeerId peer_id(std::uint64_t seed, std::uint32_t host) {
  Random random(Random::mix(seed) + host);
  PeerId id;
  for (std::uint8_t& byte : id.bytes) byte = static_cast<std::uint8_t>(random.below(256));
  return id;
}

std::vector<float> draw_gradient(std::uint64_t seed, std::uint32_t host, std::size_t round, std::uint64_t elements) {
  Random random(Random::mix(seed + 1) ^ Random::mix((std::uint64_t{host} << 32U) + round + 1));
  const float scale = random.chance(0.5) ? 1.0F : static_cast<float>(1e-3 + 1e3 * random.uniform());
  std::vector<float> gradient(elements);
  for (float& value : gradient) value = scale * static_cast<float>(random.uniform() - 0.5);
  for (float& value : gradient) {
    if (random.chance(0.01)) value = -0.0F;
  }
  return gradient;
}

node::MeshConfig mesh_config(const Scenario& scenario, std::uint32_t number) {
  const HostPlan& plan = scenario.hosts[number];
  node::MeshConfig mesh;
  mesh.self = peer_id(scenario.seed, number);
  mesh.fingerprint = {.low = plan.stranger ? std::uint64_t{666} : 1, .high = 2};
  mesh.run_id = "simulated";
  mesh.role = plan.client ? transport::WireRole::client : transport::WireRole::miner;
  mesh.elements = scenario.elements;
  mesh.rate_bytes_per_s = plan.announced_rate;
  mesh.flows = plan.flows;
  mesh.one_machine = scenario.one_machine;
  mesh.seed = Random::mix(scenario.seed ^ (number + 1));
  if (!plan.client) mesh.listen = transport::Address::simulated(number, kPort);
  for (std::uint32_t other = 0; other < scenario.hosts.size(); ++other) {
    const bool dials = scenario.everybody_dials || plan.client || plan.stranger || other < number;
    if (other == number || scenario.hosts[other].client || !dials) continue;
    mesh.peers.push_back(transport::Address::simulated(other, kPort));
  }
  return mesh;
}

node::RoundDriverConfig driver_config(const Scenario& scenario, std::uint32_t number) {
  node::RoundDriverConfig rounds;
  rounds.self = peer_id(scenario.seed, number);
  rounds.pool_bytes_limit = scenario.pool_bytes_limit;
  rounds.borrow = scenario.borrow;
  rounds.order = scenario.averages_first ? core::RoundOrder::averages_first : core::RoundOrder::contributions_first;
  return rounds;
}

}  // namespace

Outcome run_scenario(const Scenario& scenario, std::FILE* journal) {
  auto world = std::make_unique<World>(scenario, journal);
  world->run();
  Outcome outcome = world->outcome();
  // Its hosts may be in any state, and taking them apart could abort before the failure is told.
  if (!outcome.failure.empty()) static_cast<void>(world.release());
  return outcome;
}

World::World(const Scenario& scenario, std::FILE* journal)
    : scenario_(scenario), journal_(journal), network_(scenario.seed, scenario.network) {
  for (std::uint32_t number = 0; number < scenario_.hosts.size(); ++number) {
    const HostPlan& plan = scenario_.hosts[number];
    network_.set_host_rates(number, plan.up_bytes_per_s, plan.down_bytes_per_s);
    hosts_.push_back(
        std::make_unique<Host>(network_, number, mesh_config(scenario_, number), driver_config(scenario_, number)));
    host_of_[hosts_.back()->id()] = number;
    PAPILIO_ASSERT(hosts_.back()->start().ok());
  }
  states_.resize(hosts_.size());
  links_.assign(hosts_.size(), 0);
  byte_faults_.resize(scenario_.byte_faults.size());
  for (const ByteFaultPlan& plan : scenario_.byte_faults) {
    network_.plan_fault(plan.fault, plan.from, plan.to, plan.at_byte);
  }
}

Outcome World::outcome() const {
  return {.rounds = rounds_ended_,
          .events = network_.event_count(),
          .hash = Random::mix(hash_ ^ network_.log_hash()),
          .failure = failure_};
}

// ---- the loop

void World::run() {
  for (std::uint64_t instants = 0; stage_ != Stage::over && failure_.empty(); ++instants) {
    if (instants > kMostInstants) return fail("the run does not come to an end");
    run_actions();
    while (failure_.empty() && turn_hosts()) {
    }
    const auto action_due = [&] { return !actions_.empty() && actions_.begin()->first <= now(); };
    if (action_due()) continue;
    check_instant();
    if (!failure_.empty()) return;
    const Stage before = stage_;
    coordinate();
    if (stage_ == before && !action_due()) advance_clock();
  }
}

bool World::turn_hosts() {
  for (std::uint64_t turns = 0;; ++turns) {
    bool any = false;
    for (const auto& host : hosts_) {
      if (!host->runs() || (!host->is_ready() && host->next_deadline() > now())) continue;
      turn_host(*host);
      if (!failure_.empty()) return false;
      any = true;
    }
    if (!any) return false;
    if (turns > kMostTurnsPerInstant) {
      fail("the hosts find something to do for ever, while no time passes");
      return false;
    }
  }
}

void World::turn_host(Host& host) {
  host.turn();
  look_at(host);
}

void World::run_actions() {
  while (failure_.empty() && !actions_.empty() && actions_.begin()->first <= now()) {
    const Action action = actions_.begin()->second;
    actions_.erase(actions_.begin());
    switch (action.kind) {
      case ActionKind::open_round: open_round(action.index); break;
      case ActionKind::begin_round:
        states_[action.host].waiting.push_back(action.index);
        begin_waiting(action.host);
        break;
      case ActionKind::begin_waiting: begin_waiting(action.host); break;
      case ActionKind::mishap: strike(action.index); break;
      case ActionKind::end_mishap: end_mishap(scenario_.mishaps[action.index]); break;
    }
  }
}

void World::advance_clock() {
  TimePoint next = std::min(network_.next_event_time(), link_by_);
  if (!actions_.empty()) next = std::min(next, actions_.begin()->first);
  for (const auto& host : hosts_) {
    if (host->runs()) next = std::min(next, host->next_deadline());
  }
  if (next == kNever) return fail("nothing is under way and nobody waits for anything, yet the run is not over");
  network_.advance_to(std::max(next, now()));
}

// Once everything that can happen now has happened.
void World::check_instant() {
  for (const auto& host : hosts_) {
    const HostState& state = states_[host->number()];
    if (host->state == Host::State::running && state.round && now() >= state.deadline) {
      fail("promise 1: host " + std::to_string(host->number()) + " is still in round " +
           std::to_string(*state.round + 1) + " at its deadline");
    }
    if (host->state != Host::State::leaving) continue;
    if (host->engine().mesh().is_closed()) {
      host->engine().cancel_round();
      look_at(*host);
      if (!failure_.empty()) return;
      if (std::string left = host->dissolve(); !left.empty()) {
        fail("promise 7: host " + std::to_string(host->number()) + " has left, and " + left);
      }
      links_[host->number()] = 0;
    } else if (now() >= state.leave_by) {
      fail("host " + std::to_string(host->number()) + " does not get away: a connection stays open");
    }
  }
}

// ---- the course of events

void World::coordinate() {
  switch (stage_) {
    case Stage::linking: {
      if (open_scheduled_) return;
      const bool is_last = next_round_ + 1 == scenario_.rounds.size();
      if (is_last && next_round_ > 0 && !actions_.empty()) return;  // let all mishaps happen, and end
      const auto missing = missing_link();
      if (!missing) {
        link_by_ = kNever;
        open_scheduled_ = true;
        return schedule(now() + scenario_.rounds[next_round_].pause,
                        {.kind = ActionKind::open_round, .index = next_round_});
      }
      if (link_by_ == kNever) link_by_ = now() + kLinkPatience;
      if (now() >= link_by_) {
        fail("hosts " + std::to_string(missing->first) + " and " + std::to_string(missing->second) +
             " do not find each other, though nothing is in their way");
      }
      return;
    }
    case Stage::rounding:
      if (!all_rounds_over()) return;
      if (next_round_ < scenario_.rounds.size()) {
        stage_ = Stage::linking;
        return coordinate();
      }
      if (actions_.empty()) begin_leaving();
      return;
    case Stage::leaving:
      if (std::none_of(hosts_.begin(), hosts_.end(),
                       [](const auto& host) { return host->state != Host::State::gone; })) {
        stage_ = Stage::over;
      }
      return;
    case Stage::over: return;
  }
}

bool World::all_rounds_over() const {
  return std::all_of(rounds_.begin(), rounds_.end(), [](const RoundState& round) { return round.is_over; });
}

void World::open_round(std::size_t index) {
  open_scheduled_ = false;
  if (index != next_round_) return;
  next_round_ = index + 1;
  stage_ = Stage::rounding;

  std::vector<std::uint32_t> roster;
  bool any_reducer = false;
  for (std::uint32_t host = 0; host < scenario_.members; ++host) {
    if (!hosts_[host]->is_there() && !scenario_.roster_keeps_dead) continue;
    roster.push_back(host);
    any_reducer |= !scenario_.hosts[host].client;
  }
  if (!any_reducer) {
    next_round_ = scenario_.rounds.size();
    return;
  }
  std::sort(roster.begin(), roster.end(),
            [&](auto one, auto other) { return hosts_[one]->id() < hosts_[other]->id(); });
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
  note("round %zu opens for %zu members", index + 1, roster.size());
  RoundState round;
  round.check = std::make_unique<RoundCheck>(spec, roster, scenario_.elements);
  round.opened = now();
  round.done.assign(roster.size(), false);
  const auto is_disturbed_elsewhere = [&](std::uint32_t host) {
    return std::any_of(rounds_.begin(), rounds_.end(), [&](const RoundState& other) {
      return !other.is_over && other.check->member_of(host) != node::kNotAMember && other.check->is_disturbed(host);
    });
  };
  const std::vector<BeginPlan>& begins = scenario_.rounds[index].members;
  for (const std::uint32_t host : roster) {
    const bool is_late = begins[host].never || begins[host].after > from_seconds(0.051 * to_seconds(scenario_.timeout));
    const bool is_well = hosts_[host]->state == Host::State::running && !states_[host].slow;
    if (is_late || !is_well || is_disturbed_elsewhere(host)) round.check->disturb_host(host);
    for (const std::uint32_t other : roster) {
      if (host < other && want_link(host, other) && !are_linked(host, other)) round.check->disturb_pair(host, other);
      if (host < other && are_apart(host, other)) round.check->disturb_pair(host, other);
    }
  }
  for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
    if (!byte_faults_[i].noticed) round.check->disturb_pair(scenario_.byte_faults[i].from, scenario_.byte_faults[i].to);
  }
  if (!anything_went_wrong_ && scenario_.is_calm()) {
    for (const std::uint32_t host : roster) check_pool(*hosts_[host]);
  }
  rounds_.push_back(std::move(round));
  for (const std::uint32_t host : roster) {
    if (begins[host].never && !begins[host].skips) {
      mark_done(host, index);
    } else {
      schedule(now() + begins[host].after, {.kind = ActionKind::begin_round, .host = host, .index = index});
    }
  }
  for (std::size_t i = 0; i < scenario_.mishaps.size(); ++i) {
    if (scenario_.mishaps[i].round != index) continue;
    schedule(now() + scenario_.mishaps[i].after, {.kind = ActionKind::mishap, .index = i});
  }
  if (scenario_.period > Duration::zero() && next_round_ + 1 < scenario_.rounds.size()) {
    open_scheduled_ = true;
    schedule(now() + scenario_.period, {.kind = ActionKind::open_round, .index = next_round_});
  }
}

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
  const BeginPlan& plan = scenario_.rounds[index].members[number];
  if (plan.never) {
    note("host %u skips round %zu", number, index + 1);
    host.turn();
    host.engine().rounds().skip_rounds_to(index + 1);
    mark_done(number, index);
    return look_at(host);
  }
  if (round.check->spec().round <= host.engine().rounds().last_round()) return mark_done(number, index);
  if (now() > round.opened + from_seconds(0.2 * to_seconds(scenario_.timeout))) round.check->disturb_host(number);
  note("host %u begins round %zu", number, index + 1);
  const std::vector<float> gradient = draw_gradient(scenario_.seed, number, index, scenario_.elements);
  round.check->handle_begin(number, gradient, plan.weight);
  state.round = index;
  state.deadline = now() + scenario_.timeout;
  state.contributions_at_cut_off.assign(round.check->hosts().size(), -1);
  host.begin(round.check->spec(), gradient, plan.weight);
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
  const MemberIndex self = check.member_of(host.number());
  for (MemberIndex member = 0; member < check.hosts().size(); ++member) {
    const std::int64_t then = state.contributions_at_cut_off[member];
    if (member == self || then < 0 || static_cast<std::uint64_t>(then) == report.peers[member].contributions_in)
      continue;
    return fail("promise 4: round " + std::to_string(report.round) + ", host " + std::to_string(host.number()) +
                ": contributions of a member that was cut off were counted");
  }
  // 0.6 of the timeout is when reducers stop waiting: nobody had to.
  if (check.is_calm() && report.seconds >= 0.6 * to_seconds(scenario_.timeout)) {
    return fail("round " + std::to_string(report.round) + ", host " + std::to_string(host.number()) + ": took " +
                std::to_string(report.seconds) + " s though nothing went wrong: somebody waited for nothing");
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

// ---- what goes wrong

void World::disturb(std::uint32_t host) {
  anything_went_wrong_ = true;
  for (const RoundState& round : rounds_) {
    if (!round.is_over) round.check->disturb_host(host);
  }
}

void World::strike(std::size_t index) {
  const MishapPlan& plan = scenario_.mishaps[index];
  Host& host = *hosts_[plan.host];
  if (host.state != Host::State::running) return;
  note("host %u %s", plan.host, std::string(to_string(plan.mishap)).c_str());
  if (plan.mishap != Mishap::partition) disturb(plan.host);
  switch (plan.mishap) {
    case Mishap::crash: return kill(plan.host, transport::SimDeath::reset);
    case Mishap::vanish: return kill(plan.host, transport::SimDeath::silent);
    case Mishap::freeze:
      network_.freeze_host(plan.host);
      host.state = Host::State::frozen;
      states_[plan.host].frozen_for_good = plan.lasts < Duration::zero();
      if (states_[plan.host].frozen_for_good) return mark_all_done(plan.host);
      break;
    case Mishap::partition: {
      anything_went_wrong_ = true;
      other_side_ = plan.others;
      std::vector<std::uint32_t> here, there;
      for (std::uint32_t member = 0; member < scenario_.members; ++member) {
        ((other_side_ & bit(member)) != 0 ? there : here).push_back(member);
      }
      network_.partition(here, there);
      for (const RoundState& round : rounds_) {
        if (round.is_over) continue;
        for (const std::uint32_t one : here) {
          for (const std::uint32_t other : there) round.check->disturb_pair(one, other);
        }
      }
      break;
    }
    case Mishap::slow:
      states_[plan.host].slow = true;
      network_.set_host_rates(plan.host, plan.bytes_per_s, plan.bytes_per_s);
      return;
    case Mishap::goodbye:
      host.engine().mesh().leave("has seen enough");
      host.state = Host::State::leaving;
      states_[plan.host].leave_by = now() + kLeavePatience;
      for (std::size_t round = 0; round < rounds_.size(); ++round) {
        if (states_[plan.host].round != round) mark_done(plan.host, round);
      }
      return look_at(host);
    case Mishap::cancel:
      if (!states_[plan.host].round) return;
      host.turn();
      host.engine().cancel_round();
      return look_at(host);
  }
  schedule(now() + plan.lasts, {.kind = ActionKind::end_mishap, .index = index});
}

void World::end_mishap(const MishapPlan& plan) {
  if (plan.mishap == Mishap::partition) {
    note("the partition heals");
    network_.heal();
    other_side_ = 0;
    return;
  }
  if (hosts_[plan.host]->state != Host::State::frozen) return;
  note("host %u thaws", plan.host);
  network_.thaw_host(plan.host);
  hosts_[plan.host]->state = Host::State::running;
  turn_host(*hosts_[plan.host]);
  begin_waiting(plan.host);
}

void World::kill(std::uint32_t host, transport::SimDeath death) {
  hosts_[host]->die(death);
  states_[host].round.reset();
  states_[host].waiting.clear();
  links_[host] = 0;
  mark_all_done(host);
}

void World::begin_leaving() {
  note("everybody leaves");
  stage_ = Stage::leaving;
  for (const auto& host : hosts_) {
    if (host->state == Host::State::frozen) kill(host->number(), transport::SimDeath::silent);
    if (host->state != Host::State::running) continue;
    host->engine().mesh().leave("done");
    host->state = Host::State::leaving;
    states_[host->number()].leave_by = now() + kLeavePatience;
  }
}

// ---- checks

void World::look_at(Host& host) {
  const std::uint32_t number = host.number();
  for (const PeerId& peer : std::exchange(host.joined, {})) {
    const std::uint32_t other = host_of_.at(peer);
    note("host %u has host %u", number, other);
    if (scenario_.hosts[number].stranger != scenario_.hosts[other].stranger) {
      return fail("host " + std::to_string(number) + " joined host " + std::to_string(other) + ", of another model");
    }
    if (!scenario_.hosts[other].stranger) links_[number] |= bit(other);
  }
  look_at_byte_faults();
  for (const PeerId& peer : std::exchange(host.lost, {})) {
    const std::uint32_t other = host_of_.at(peer);
    note("host %u has lost host %u", number, other);
    if (!scenario_.hosts[other].stranger) links_[number] &= ~bit(other);
    for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
      const ByteFaultPlan& plan = scenario_.byte_faults[i];
      const bool is_theirs = (plan.from == number && plan.to == other) || (plan.from == other && plan.to == number);
      if (is_theirs && byte_faults_[i].struck) byte_faults_[i].noticed = true;
    }
  }
  for (const RoundReport& report : std::exchange(host.finished, {})) {
    finish_round(host, report);
    if (!failure_.empty()) return;
  }
  if (host.engine().rounds().round() == nullptr) return;
  host.engine().rounds().round()->check_invariants();
  watch_cut_offs(host);
}

void World::watch_cut_offs(const Host& host) {
  const core::Round& round = *host.engine().rounds().round();
  std::vector<std::int64_t>& counts = states_[host.number()].contributions_at_cut_off;
  for (MemberIndex member = 0; member < counts.size(); ++member) {
    if (counts[member] < 0 && round.cut_off(member) != core::CutOff::none)
      counts[member] = round.contributions_in(member);
  }
}

// Between two rounds in which nothing goes wrong.
void World::check_pool(const Host& host) {
  const transport::SlabPool* const pool = host.engine().rounds().pool();
  if (pool == nullptr) return;
  if (pool->available() != pool->capacity()) {
    return fail("promise 7: host " + std::to_string(host.number()) + " holds " +
                std::to_string(pool->capacity() - pool->available()) + " slabs between two rounds");
  }
  const std::size_t most = std::max(scenario_.pool_bytes_limit, 2 * pool->slab_bytes());
  if (pool->capacity() * std::min(pool->slab_bytes(), scenario_.chunk_bytes) > most) {
    fail("promise 7: the pool of host " + std::to_string(host.number()) + " is beyond its limit");
  }
}

void World::look_at_byte_faults() {
  for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
    const ByteFaultPlan& plan = scenario_.byte_faults[i];
    if (byte_faults_[i].struck || network_.planned_faults(plan.from, plan.to) > 0) continue;
    byte_faults_[i].struck = true;
    note("the byte fault from host %u to host %u strikes", plan.from, plan.to);
  }
}

bool World::are_linked(std::uint32_t one, std::uint32_t other) const {
  return (links_[one] & bit(other)) != 0 && (links_[other] & bit(one)) != 0;
}

bool World::are_apart(std::uint32_t one, std::uint32_t other) const {
  return other_side_ != 0 && ((other_side_ & bit(one)) != 0) != ((other_side_ & bit(other)) != 0);
}

bool World::want_link(std::uint32_t one, std::uint32_t other) const {
  const auto is_well = [&](std::uint32_t host) {
    return hosts_[host]->state == Host::State::running && !states_[host].slow;
  };
  const bool both_clients = scenario_.hosts[one].client && scenario_.hosts[other].client;
  return is_well(one) && is_well(other) && !both_clients && !are_apart(one, other);
}

std::optional<std::pair<std::uint32_t, std::uint32_t>> World::missing_link() const {
  for (std::uint32_t one = 0; one < scenario_.members; ++one) {
    for (std::uint32_t other = one + 1; other < scenario_.members; ++other) {
      if (!are_linked(one, other) && want_link(one, other)) return std::pair{one, other};
    }
  }
  return std::nullopt;
}

void World::fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = what;
  note("FAILED: %s", what.c_str());
}

void World::note(const char* format, ...) {
  if (journal_ == nullptr) return;
  std::fprintf(journal_, "%12.6f s  ", to_seconds(now().time_since_epoch()));
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(journal_, format, arguments);
  va_end(arguments);
  std::fputc('\n', journal_);
}

}  // namespace papilio::sim
