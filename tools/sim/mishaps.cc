// What goes wrong in a simulated group, when its time has come.
#include "tools/sim/world.hpp"

namespace papilio::sim {

void World::disturb(std::uint32_t host) {
  anything_went_wrong_ = true;
  for (const RoundState& round : rounds_) {
    if (!round.is_over) round.check->disturb_host(host, now());
  }
}

// Others remember what it did: nothing can be expected between them and it any more, in no round.
void World::make_hostile(std::uint32_t host) {
  states_[host].hostile = true;
  disturb(host);
}

void World::strike(std::size_t index) {
  const MishapPlan& plan = scenario_.mishaps[index];
  Host& host = *hosts_[plan.host];
  if (host.state != Host::State::running || stage_ == Stage::leaving) return;
  note("host %u %s", plan.host, std::string(to_string(plan.mishap)).c_str());
  if (plan.mishap != Mishap::partition && !plan.harmless) disturb(plan.host);
  switch (plan.mishap) {
    case Mishap::crash: kill(plan.host, transport::SimDeath::reset); break;
    case Mishap::vanish: kill(plan.host, transport::SimDeath::silent); break;
    case Mishap::freeze: freeze(plan); break;
    case Mishap::partition: partition(plan); break;
    case Mishap::slow: {
      const HostPlan& usual = scenario_.hosts[plan.host];
      states_[plan.host].slow = true;
      network_.set_host_rates(plan.host, plan.up_bytes_per_s > 0 ? plan.up_bytes_per_s : usual.up_bytes_per_s,
                              plan.down_bytes_per_s > 0 ? plan.down_bytes_per_s : usual.down_bytes_per_s);
      return;
    }
    case Mishap::goodbye: return leave(plan.host);
    case Mishap::cancel:
      if (!states_[plan.host].round) return;
      host.turn();
      host.engine().cancel_round();
      return look_at(host);
  }
  if (plan.lasts >= Duration::zero()) schedule(now() + plan.lasts, {.kind = ActionKind::end_mishap, .index = index});
}

void World::freeze(const MishapPlan& plan) {
  HostState& state = states_[plan.host];
  network_.freeze_host(plan.host);
  hosts_[plan.host]->state = Host::State::frozen;
  state.stalled = plan.harmless;
  state.frozen_for_good = plan.lasts < Duration::zero();
  if (state.frozen_for_good) mark_all_done(plan.host);
}

void World::partition(const MishapPlan& plan) {
  std::vector<std::uint32_t> here, there;
  for (std::uint32_t member = 0; member < scenario_.members; ++member) {
    ((plan.others & Links::bit(member)) != 0 ? there : here).push_back(member);
  }
  network_.partition(here, there);
  if (plan.harmless) return;
  anything_went_wrong_ = was_parted_ = true;
  links_.partition(plan.others);
  for (const RoundState& round : rounds_) {
    if (round.is_over) continue;
    round.check->handle_partition();
    for (const std::uint32_t one : here) {
      for (const std::uint32_t other : there) round.check->disturb_pair(one, other, now());
    }
  }
}

void World::end_mishap(const MishapPlan& plan) {
  Host& host = *hosts_[plan.host];
  if (plan.mishap == Mishap::partition) {
    note("the partition heals");
    network_.heal();
    return links_.heal();
  }
  if (plan.mishap != Mishap::freeze) return start_again(plan.host);
  if (host.state != Host::State::frozen) return;
  note("host %u thaws", plan.host);
  network_.thaw_host(plan.host);
  host.state = Host::State::running;
  states_[plan.host].stalled = false;
  turn_host(host);
  begin_waiting(plan.host);
}

void World::kill(std::uint32_t host, transport::SimDeath death) {
  hosts_[host]->die(death);
  states_[host].round.reset();
  states_[host].deadline = kNever;
  states_[host].waiting.clear();
  links_.forget(host);
  for (const RoundState& round : rounds_) {
    if (!round.is_over) round.check->handle_death(host);
  }
  mark_all_done(host);
}

// Its machine is switched on: the first time, or after it died. It is of no round until the next one opens.
void World::start_again(std::uint32_t host) {
  const Host::State state = hosts_[host]->state;
  if ((state != Host::State::gone && state != Host::State::off) || stage_ == Stage::leaving) return;
  note("host %u starts", host);
  if (tamperers_[host] != nullptr) tamperers_[host]->restart();
  hosts_[host]->start();
  look_at(*hosts_[host]);
}

}  // namespace papilio::sim
