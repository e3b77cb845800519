#include "tools/sim/world.hpp"

#include <algorithm>
#include <cstdarg>
#include <utility>

#include "tools/sim/host_config.hpp"

namespace papilio::sim {

namespace {

// Far beyond what any scenario needs: an engine that spins, or a run without end.
constexpr std::uint64_t kMostTurnsPerInstant = 10'000;
constexpr std::uint64_t kMostInstants = 20'000'000;

}  // namespace

void Tally::add(const Tally& other) {
  rounds += other.rounds;
  chunks += other.chunks;
  local_chunks += other.local_chunks;
  coverage += other.coverage;
  longest_timeout = std::max(longest_timeout, other.longest_timeout);
}

Outcome run_scenario(const Scenario& scenario, std::FILE* journal) {
  auto world = std::make_unique<World>(scenario, journal);
  world->run();
  Outcome outcome = world->outcome();
  // Its hosts may be in any state, and taking them apart could abort before the failure is told.
  if (!outcome.failure.empty()) static_cast<void>(world.release());
  return outcome;
}

World::World(const Scenario& scenario, std::FILE* journal)
    : scenario_(scenario),
      journal_(journal),
      network_(scenario.seed, scenario.network),
      links_(static_cast<std::uint32_t>(scenario.hosts.size())) {
  set_tamperers();
  for (std::uint32_t number = 0; number < scenario_.hosts.size(); ++number) {
    const HostPlan& plan = scenario_.hosts[number];
    network_.set_host_rates(number, plan.up_bytes_per_s, plan.down_bytes_per_s);
    hosts_.push_back(
        std::make_unique<Host>(network_, number, mesh_config(scenario_, number), driver_config(scenario_, number)));
    host_of_[hosts_.back()->id()] = number;
    if (plan.first_round == 0) hosts_.back()->start();
  }
  states_.resize(hosts_.size());
  byte_faults_.resize(scenario_.byte_faults.size());
  for (const ByteFaultPlan& plan : scenario_.byte_faults) {
    network_.plan_fault(plan.fault, plan.from, plan.to, plan.at_byte);
  }
}

void World::set_tamperers() {
  tamperers_.resize(scenario_.hosts.size());
  for (std::uint32_t host = 0; host < scenario_.hosts.size(); ++host) {
    std::vector<LiePlan> lies;
    for (const LiePlan& plan : scenario_.lies) {
      if (plan.host == host) lies.push_back(plan);
    }
    std::vector<Tamperer::Trigger> triggers;
    for (std::size_t i = 0; i < scenario_.mishaps.size(); ++i) {
      const MishapPlan& plan = scenario_.mishaps[i];
      if (plan.host != host || plan.trigger.count == 0) continue;
      const bool ends = plan.mishap == Mishap::crash || plan.mishap == Mishap::vanish;
      triggers.push_back({.index = i, .round = plan.round, .frame = plan.trigger, .ends = ends});
    }
    const Stranger stranger = scenario_.hosts[host].stranger;
    const bool is_silly = stranger == Stranger::babbling || stranger == Stranger::mute;
    if (lies.empty() && triggers.empty() && !is_silly) continue;
    tamperers_[host] = std::make_unique<Tamperer>(Random::mix(scenario_.seed ^ (host + 101)), host, stranger,
                                                  std::move(lies), std::move(triggers));
    network_.set_tamperer(host, tamperers_[host].get());
  }
}

Outcome World::outcome() const {
  return {.rounds = rounds_ended_,
          .events = network_.event_count(),
          .hash = Random::mix(hash_ ^ network_.log_hash()),
          .faults = scenario_.faults,
          .tally = tally_,
          .failure = failure_};
}

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
      std::string busy;
      for (const auto& host : hosts_) {
        if (!host->runs() || (!host->is_ready() && host->next_deadline() > now())) continue;
        busy += " " + std::to_string(host->number()) + (host->is_ready() ? " (events)" : "") +
                (host->engine().rounds().next_deadline() <= now() ? " (round)" : "") +
                (host->engine().mesh().next_deadline() <= now() ? " (links)" : "");
      }
      fail("the hosts find something to do for ever, while no time passes:" + busy);
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
      case ActionKind::nothing: break;  // a time to look again
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
    if (host->state == Host::State::leaving) check_leaving(*host);
    if (!failure_.empty()) return;
  }
}

// Promise 7: nothing outlives it.
void World::check_leaving(Host& host) {
  const std::string name = "host " + std::to_string(host.number());
  if (!host.engine().mesh().is_closed()) {
    if (now() >= states_[host.number()].leave_by) fail(name + " does not get away: a connection stays open");
    return;
  }
  host.engine().cancel_round();
  look_at(host);
  if (!failure_.empty()) return;
  if (std::string left = host.dissolve(); !left.empty()) fail("promise 7: " + name + " has left, and " + left);
  links_.forget(host.number());
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
