#include "tools/sim/host.hpp"

#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/random.hpp"

namespace papilio::sim {

void Host::start() {
  PAPILIO_ASSERT(engine_ == nullptr);
  mesh_.seed = Random::mix(mesh_.seed + 1);  // another process, other sessions
  io_ = network_.make_host(number_);
  engine_ = std::make_unique<node::Engine>(*io_, mesh_, rounds_, static_cast<node::EngineEvents&>(*this));
  PAPILIO_ASSERT(engine_->start().ok());
  state = State::running;
  deadline_ = network_.now();
}

void Host::turn() {
  // As Engine::turn, which would also ask how long to wait: here nobody does.
  io_->run_once(network_.now());
  engine_->handle_time(network_.now());
  drop_banned();
  deadline_ = engine_->next_deadline();
}

void Host::begin(const node::RoundSpec& spec, std::span<const float> gradient, double weight) {
  turn();  // so that its Io knows what time it is
  gradient_.assign(gradient.begin(), gradient.end());
  engine_->begin_round(spec, gradient_, weight);
  drop_banned();
  deadline_ = engine_->next_deadline();
}

void Host::say_progress() {
  std::vector<PeerId> peers;  // one that is lost over it leaves the list
  for (const auto& peer : engine_->mesh().peers()) peers.push_back(peer->id);
  for (const PeerId& id : peers) {
    if (node::Peer* const peer = engine_->mesh().find(id)) engine_->mesh().send_control(*peer, transport::Progress{});
  }
}

void Host::leave(const std::string& reason) {
  engine_->mesh().leave(reason);
  deadline_ = engine_->next_deadline();
}

void Host::die(transport::SimDeath death) {
  network_.kill_host(number_, death);
  engine_->mesh().abort_all();
  io_->run_once(network_.now());
  forget();
}

std::string Host::dissolve() {
  if (engine_->rounds().in_round()) return "a round is still in flight";
  const transport::SlabPool* const pool = engine_->rounds().pool();
  if (pool != nullptr && pool->available() != pool->capacity()) {
    return std::to_string(pool->capacity() - pool->available()) + " slabs are still taken";
  }
  io_->run_once(network_.now());  // the listener's end
  if (io_->open_handles() != 0) return std::to_string(io_->open_handles()) + " handles are still open";
  forget();
  return {};
}

void Host::on_offence(node::Peer& peer, core::Offence offence, const std::string& evidence) {
  offences.emplace_back(peer.id, std::string(to_string(offence)) + ": " + evidence);
  const core::Judgement judgement = conduct_.handle_offence(wall_now(), peer.id, offence, evidence);
  if (judgement.kind == core::Judgement::Kind::ban) to_drop_.push_back(peer.id);
}

std::optional<transport::Refusal> Host::objection_to_peer(const PeerId& peer) {
  if (!bans(peer)) return std::nullopt;
  return transport::Refusal{transport::RefusalReason::banned, "for what it did"};
}

void Host::drop_banned() {
  for (const PeerId& id : std::exchange(to_drop_, {})) {
    if (node::Peer* const peer = engine_->mesh().find(id)) engine_->mesh().drop(*peer, "banned");
  }
}

void Host::forget() {
  engine_.reset();
  io_.reset();
  finished.clear();
  joined.clear();
  lost.clear();
  offences.clear();
  to_drop_.clear();
  state = State::gone;
  deadline_ = kNever;
}

}  // namespace papilio::sim
