// What the simulator sees after every event, and what it makes of it.
#include <algorithm>
#include <utility>

#include "tools/sim/world.hpp"

namespace papilio::sim {

void World::look_at(Host& host) {
  look_at_deeds(host);
  look_at_byte_faults();
  look_at_links(host);
  look_at_offences(host);
  for (const RoundReport& report : std::exchange(host.finished, {})) {
    if (!failure_.empty()) return;
    finish_round(host, report);
  }
  if (failure_.empty() && host.engine().rounds().round() != nullptr) look_at_round(host);
}

void World::look_at_links(Host& host) {
  const std::uint32_t number = host.number();
  for (const PeerId& peer : std::exchange(host.joined, {})) {
    const std::uint32_t other = host_of_.at(peer);
    note("host %u has host %u", number, other);
    if (scenario_.hosts[number].stranger != scenario_.hosts[other].stranger) {
      return fail("host " + std::to_string(number) + " joined host " + std::to_string(other) +
                  ", which is none of its group");
    }
    links_.join(number, other);
  }
  for (const PeerId& peer : std::exchange(host.lost, {})) {
    const std::uint32_t other = host_of_.at(peer);
    note("host %u has lost host %u", number, other);
    links_.lose(number, other);
    for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
      const ByteFaultPlan& plan = scenario_.byte_faults[i];
      const bool is_theirs = (plan.from == number && plan.to == other) || (plan.from == other && plan.to == number);
      if (is_theirs && byte_faults_[i].struck) byte_faults_[i].noticed = true;
    }
  }
}

// What it did to its frames, before anybody can have received them.
void World::look_at_deeds(const Host& host) {
  const std::uint32_t number = host.number();
  if (tamperers_[number] == nullptr) return;
  const Tamperer::Deeds deeds = tamperers_[number]->take_deeds();
  if (deeds.lied && !states_[number].hostile) {
    note("host %u lies", number);
    make_hostile(number);
  }
  if (deeds.equivocated) states_[number].equivocates = true;
  for (const RoundState& round : rounds_) {
    if (deeds.equivocated && !round.is_over) round.check->handle_equivocation(number);
  }
  for (const Tamperer::Disguise& each : deeds.disguises) {
    RoundState& round = rounds_[each.round];
    if (!round.is_over) round.check->handle_disguise(number, each.to, each.chunk, each.is_disguised);
  }
  for (const std::size_t index : deeds.triggered) schedule(now(), {.kind = ActionKind::mishap, .index = index});
}

void World::look_at_byte_faults() {
  for (std::size_t i = 0; i < byte_faults_.size(); ++i) {
    const ByteFaultPlan& plan = scenario_.byte_faults[i];
    if (byte_faults_[i].struck || network_.planned_faults(plan.from, plan.to) > 0) continue;
    byte_faults_[i].struck = true;
    note("the byte faults from host %u to host %u have struck", plan.from, plan.to);
  }
}

// Promise 5, also of what a host remembers when the round is over.
void World::look_at_offences(Host& host) {
  for (const auto& [peer, offence] : std::exchange(host.offences, {})) {
    const std::uint32_t other = host_of_.at(peer);
    note("host %u holds against host %u: %s", host.number(), other, offence.c_str());
    // It is about the round that the host is in, or has just ended.
    const std::optional<std::size_t>& index = states_[host.number()].round;
    if (!index || rounds_[*index].is_over) continue;
    if (std::string wrong = rounds_[*index].check->check_offence(host.number(), other, offence); !wrong.empty()) {
      return fail(wrong);
    }
  }
}

void World::look_at_round(const Host& host) {
  const core::Round& round = *host.engine().rounds().round();
  round.check_invariants();
  HostState& state = states_[host.number()];
  for (MemberIndex member = 0; member < state.contributions_at_cut_off.size(); ++member) {
    std::int64_t& count = state.contributions_at_cut_off[member];
    if (round.is_live(member)) {
      count = -1;  // or it came back
    } else if (count < 0) {
      count = round.contributions_in(member);
    }
  }
  // One that believes in another roster has another plan.
  state.settled.resize(round.plan().chunk_count());
  for (ChunkIndex chunk = 0; chunk < state.settled.size(); ++chunk) {
    const Coverage now_settled = round.coverage(chunk);
    if (state.settled[chunk] != 0 && now_settled != state.settled[chunk]) {
      return fail("promise 4: host " + std::to_string(host.number()) + ": chunk " + std::to_string(chunk) +
                  " was final, and its contributors changed");
    }
    state.settled[chunk] = now_settled;
  }
}

// Nothing was counted of a member after it was cut off, and all that was counted before still is.
void World::check_promise_4(const Host& host, const RoundReport& report) {
  const HostState& state = states_[host.number()];
  const std::string whose = "round " + std::to_string(report.round) + ", host " + std::to_string(host.number());
  for (MemberIndex member = 0; member < report.peers.size(); ++member) {
    const std::int64_t then = state.contributions_at_cut_off[member];
    if (then < 0 || static_cast<std::uint64_t>(then) == report.peers[member].contributions_in) continue;
    return fail("promise 4: " + whose + ": contributions of a member that was cut off were counted");
  }
  for (ChunkIndex chunk = 0; chunk < std::min(state.settled.size(), report.chunks.size()); ++chunk) {
    if (state.settled[chunk] == 0 || state.settled[chunk] == report.chunks[chunk]) continue;
    return fail("promise 4: " + whose + ": chunk " + std::to_string(chunk) + " was final, and is something else now");
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

// Unjust bans are found by their offences.
bool World::want_link(std::uint32_t one, std::uint32_t other) const {
  const auto is_well = [&](std::uint32_t host) {
    return hosts_[host]->state == Host::State::running && !states_[host].slow && !states_[host].hostile;
  };
  const bool both_clients = scenario_.hosts[one].client && scenario_.hosts[other].client;
  if (!is_well(one) || !is_well(other) || both_clients || links_.are_apart(one, other)) return false;
  return !hosts_[one]->bans(hosts_[other]->id()) && !hosts_[other]->bans(hosts_[one]->id());
}

std::optional<std::pair<std::uint32_t, std::uint32_t>> World::missing_link() const {
  for (std::uint32_t one = 0; one < scenario_.members; ++one) {
    for (std::uint32_t other = one + 1; other < scenario_.members; ++other) {
      if (!links_.are_linked(one, other) && want_link(one, other)) return std::pair{one, other};
    }
  }
  return std::nullopt;
}

}  // namespace papilio::sim
