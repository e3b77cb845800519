#include "tools/sim/host.hpp"

#include <utility>

namespace papilio::sim {

Host::Host(transport::SimNetwork& network, std::uint32_t number, const node::MeshConfig& mesh,
           const node::RoundDriverConfig& rounds)
    : network_(network),
      number_(number),
      id_(mesh.self),
      io_(network.make_host(number)),
      engine_(std::make_unique<node::Engine>(*io_, mesh, rounds, static_cast<node::EngineEvents&>(*this))) {}

Status Host::start() { return engine_->start(); }

void Host::turn() {
  engine_->turn(network_.now());
  deadline_ = engine_->next_deadline();
}

void Host::begin(const node::RoundSpec& spec, std::span<const float> gradient, double weight) {
  turn();  // so that its Io knows what time it is
  gradient_.assign(gradient.begin(), gradient.end());
  engine_->begin_round(spec, gradient_, weight);
  deadline_ = engine_->next_deadline();
}

void Host::die(transport::SimDeath death) {
  network_.kill_host(number_, death);
  engine_->mesh().abort_all();
  io_->run_once(network_.now());
  engine_.reset();
  io_.reset();
  state = State::gone;
  deadline_ = kNever;
}

std::string Host::dissolve() {
  if (engine_->rounds().in_round()) return "a round is still in flight";
  const transport::SlabPool* const pool = engine_->rounds().pool();
  if (pool != nullptr && pool->available() != pool->capacity()) {
    return std::to_string(pool->capacity() - pool->available()) + " slabs are still taken";
  }
  io_->run_once(network_.now());  // the listener's end
  if (io_->open_handles() != 0) return std::to_string(io_->open_handles()) + " handles are still open";
  engine_.reset();
  io_.reset();
  state = State::gone;
  deadline_ = kNever;
  return {};
}

}  // namespace papilio::sim
