// A node's whole networking and round logic on one thread, over any Io: what Node runs on its loop thread, what
// papilio-perf runs on its only thread, and what papilio-sim runs by the hundred over a simulated network.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/core/conduct.hpp"
#include "engine/node/mesh.hpp"
#include "engine/node/round_driver.hpp"
#include "transport/io.hpp"

namespace papilio::node {

class EngineEvents {
 public:
  virtual void on_peer_joined(Peer& peer) = 0;
  virtual void on_peer_left(Peer& peer, PeerLeft how, const std::string& why) = 0;
  // Progress and round-start frames.
  virtual void on_control(Peer& peer, const transport::Header& header) = 0;
  virtual void on_round_over(RoundReport report) = 0;
  virtual void on_refused(const transport::Address& address, const std::string& why) = 0;
  // A linked peer did what it may not. What this leads to is the owner's to judge; it must not drop the peer from here,
  // but after the turn. The engine has done what the round needs.
  virtual void on_offence(Peer& peer, core::Offence offence, const std::string& evidence);
  // Whether to refuse this peer at the door, and why.
  virtual std::optional<transport::Refusal> objection_to_peer(const PeerId& peer);
  // The same, once its hello is in and its id is welcome.
  virtual Welcome judge_hello(const transport::Hello& hello);
  virtual std::vector<std::vector<std::byte>> own_certificates();

 protected:
  ~EngineEvents() = default;
};

class Engine final : private MeshEvents, private RoundDriverEvents {
 public:
  Engine(transport::Io& io, MeshConfig mesh, RoundDriverConfig rounds, EngineEvents& events);

  Status start() { return mesh_.start(); }
  [[nodiscard]] Mesh& mesh() { return mesh_; }
  [[nodiscard]] const Mesh& mesh() const { return mesh_; }
  [[nodiscard]] RoundDriver& rounds() { return rounds_; }
  [[nodiscard]] const RoundDriver& rounds() const { return rounds_; }

  void begin_round(const RoundSpec& spec, std::span<float> gradient, double weight,
                   kernels::DeviceGradient* device = nullptr);
  void cancel_round();

  // One turn: waits for events until `until` or the engine's own next deadline, handles them and the time.
  void turn(TimePoint until);
  [[nodiscard]] TimePoint next_deadline() const;
  // The part of a turn that comes after the Io's events.
  void handle_time(TimePoint now);

  // Says goodbye and turns the loop until every connection is gone; after `patience` the rest is cut. A round in flight
  // is reported as canceled before this returns.
  void leave(const std::string& reason, Duration patience);

 private:
  void on_peer_joined(Peer& peer) override;
  void on_peer_left(Peer& peer, PeerLeft how, const std::string& why) override;
  void on_control(Peer& peer, const transport::Header& header) override;
  transport::PayloadDecision on_shard_header(Peer& peer, transport::Flow& flow, const transport::Header& header,
                                             std::size_t payload_bytes) override;
  void on_shard(Peer& peer, const transport::Header& header, transport::Slab payload,
                std::size_t payload_bytes) override;
  bool next_shard(Peer& peer, transport::OutgoingFrame& frame) override;
  void on_shard_out(Peer* peer, std::uint64_t tag, bool sent) override;
  void on_flow_gone(transport::Flow& flow) override;
  void on_refused(const transport::Address& address, const std::string& why) override;
  void on_round_over(RoundReport report) override;
  void on_offence(Peer& peer, core::Offence offence, const std::string& evidence) override;
  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override;
  Welcome judge_hello(const transport::Hello& hello) override;
  std::vector<std::vector<std::byte>> own_certificates() override;

  transport::Io& io_;
  EngineEvents& events_;
  Mesh mesh_;
  RoundDriver rounds_;
};

}  // namespace papilio::node
