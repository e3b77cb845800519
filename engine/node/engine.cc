#include "engine/node/engine.hpp"

#include <algorithm>
#include <utility>

namespace papilio::node {

void EngineEvents::on_offence(Peer& /*peer*/, core::Offence /*offence*/, const std::string& /*evidence*/) {}

std::optional<transport::Refusal> EngineEvents::objection_to_peer(const PeerId& /*peer*/) { return std::nullopt; }

Welcome EngineEvents::judge_hello(const transport::Hello& /*hello*/) { return {}; }

std::vector<std::vector<std::byte>> EngineEvents::own_certificates() { return {}; }

Engine::Engine(transport::Io& io, MeshConfig mesh, RoundDriverConfig rounds, EngineEvents& events)
    : io_(io), events_(events), mesh_(io, std::move(mesh), *this), rounds_(io, mesh_, rounds, *this) {}

void Engine::begin_round(const RoundSpec& spec, std::span<float> gradient, double weight,
                         kernels::DeviceGradient* device) {
  rounds_.begin(spec, gradient, weight, device);
}

void Engine::cancel_round() {
  rounds_.cancel();
  rounds_.finish_if_over();
}

void Engine::turn(TimePoint until) {
  io_.run_once(std::min(until, next_deadline()));
  handle_time(io_.now());
}

TimePoint Engine::next_deadline() const { return std::min(mesh_.next_deadline(), rounds_.next_deadline()); }

void Engine::handle_time(TimePoint now) {
  if (now >= mesh_.next_deadline()) mesh_.handle_time(now);
  rounds_.handle_time(now);
}

void Engine::leave(const std::string& reason, Duration patience) {
  // The goodbye first: ending the round cuts links that may still carry its memory, and the others would see a fault.
  mesh_.leave(reason);
  const TimePoint deadline = saturating_add(io_.now(), patience);
  while (!mesh_.is_closed()) {
    if (io_.now() >= deadline) mesh_.abort_all();
    turn(std::min(deadline, saturating_add(io_.now(), std::chrono::milliseconds(100))));
  }
  cancel_round();
}

void Engine::on_peer_joined(Peer& peer) {
  rounds_.handle_peer_joined(peer);
  events_.on_peer_joined(peer);
}

void Engine::on_peer_left(Peer& peer, PeerLeft how, const std::string& why) {
  rounds_.handle_peer_left(peer, how, why);
  if (how == PeerLeft::protocol_violation) events_.on_offence(peer, core::Offence::protocol, why);
  if (how == PeerLeft::damaged) events_.on_offence(peer, core::Offence::damaged_bytes, why);
  events_.on_peer_left(peer, how, why);
}

void Engine::on_control(Peer& peer, const transport::Header& header) {
  if (rounds_.handle_control(peer, header)) return;
  events_.on_control(peer, header);
}

transport::PayloadDecision Engine::on_shard_header(Peer& peer, transport::Flow& flow, const transport::Header& header,
                                                   std::size_t payload_bytes) {
  return rounds_.handle_shard_header(peer, flow, header, payload_bytes);
}

void Engine::on_shard(Peer& peer, const transport::Header& header, transport::Slab payload, std::size_t payload_bytes) {
  rounds_.handle_shard(peer, header, std::move(payload), payload_bytes);
}

bool Engine::next_shard(Peer& peer, transport::OutgoingFrame& frame) { return rounds_.next_shard(peer, frame); }

void Engine::on_shard_out(Peer* peer, std::uint64_t tag, bool sent) { rounds_.handle_shard_out(peer, tag, sent); }

void Engine::on_flow_gone(transport::Flow& flow) { rounds_.handle_flow_gone(flow); }

void Engine::on_refused(const transport::Address& address, const std::string& why) { events_.on_refused(address, why); }

void Engine::on_offence(Peer& peer, core::Offence offence, const std::string& evidence) {
  events_.on_offence(peer, offence, evidence);
}

std::optional<transport::Refusal> Engine::objection_to_peer(const PeerId& peer) {
  return events_.objection_to_peer(peer);
}

Welcome Engine::judge_hello(const transport::Hello& hello) { return events_.judge_hello(hello); }

std::vector<std::vector<std::byte>> Engine::own_certificates() { return events_.own_certificates(); }

void Engine::on_round_over(RoundReport report) { events_.on_round_over(std::move(report)); }

}  // namespace papilio::node
