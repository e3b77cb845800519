// One simulated machine: a whole node::Engine over an Io of the simulated network, its memory of who offended, and the
// trainer above it, played by the world. Engines have no way to vanish (they say goodbye); a simulated machine does,
// and it may be started again, with its name and nothing else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/conduct.hpp"
#include "engine/node/engine.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

class Host final : private node::EngineEvents {
 public:
  Host(transport::SimNetwork& network, std::uint32_t number, node::MeshConfig mesh, node::RoundDriverConfig rounds)
      : network_(network), number_(number), mesh_(std::move(mesh)), rounds_(rounds) {}
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  ~Host() = default;

  enum class State : std::uint8_t {
    off,  // not started yet
    running,
    frozen,
    leaving,
    gone,
  };
  State state = State::off;

  [[nodiscard]] std::uint32_t number() const { return number_; }
  [[nodiscard]] const PeerId& id() const { return mesh_.self; }
  [[nodiscard]] bool runs() const { return state == State::running || state == State::leaving; }
  [[nodiscard]] bool is_there() const { return state == State::running || state == State::frozen; }
  [[nodiscard]] bool is_ready() const { return network_.is_ready(number_); }
  [[nodiscard]] TimePoint next_deadline() const { return deadline_; }
  [[nodiscard]] node::Engine& engine() { return *engine_; }
  [[nodiscard]] const node::Engine& engine() const { return *engine_; }
  [[nodiscard]] std::span<const float> gradient() const { return gradient_; }

  // Switches it on: the first time, or after it died.
  void start();
  void turn();
  void begin(const node::RoundSpec& spec, std::span<const float> gradient, double weight);
  // To every peer.
  void say_progress();
  // Says goodbye; its connections are to end by themselves.
  void leave(const std::string& reason);
  // The round is over: the trainer takes the result and writes over the memory.
  void use_gradient() { std::fill(gradient_.begin(), gradient_.end(), -1e30F); }
  // Tears everything out, as the end of its process or power would, and forgets it.
  void die(transport::SimDeath death);
  // Its connections are gone. Empty if it left nothing behind.
  [[nodiscard]] std::string dissolve();

  [[nodiscard]] bool bans(const PeerId& peer) { return conduct_.is_banned(wall_now(), peer); }

  // What happened since the last look.
  std::vector<RoundReport> finished;
  std::vector<PeerId> joined, lost;
  std::vector<std::pair<PeerId, std::string>> offences;  // that its engine holds against others

 private:
  void on_peer_joined(node::Peer& peer) override { joined.push_back(peer.id); }
  void on_peer_left(node::Peer& peer, node::PeerLeft, const std::string&) override { lost.push_back(peer.id); }
  void on_control(node::Peer&, const transport::Header&) override {}
  void on_round_over(RoundReport report) override { finished.push_back(std::move(report)); }
  void on_refused(const transport::Address&, const std::string&) override {}
  void on_offence(node::Peer& peer, core::Offence offence, const std::string& evidence) override;
  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override;
  void drop_banned();
  // Simulated time, as wall time.
  [[nodiscard]] core::WallTime wall_now() const {
    return core::WallTime(std::chrono::duration_cast<std::chrono::seconds>(network_.now().time_since_epoch()));
  }
  void forget();

  transport::SimNetwork& network_;
  const std::uint32_t number_;
  node::MeshConfig mesh_;
  const node::RoundDriverConfig rounds_;
  std::unique_ptr<transport::Io> io_;
  std::unique_ptr<node::Engine> engine_;
  core::Conduct conduct_;        // outlives its process, as if it were on disk
  std::vector<PeerId> to_drop_;  // banned in this turn
  std::vector<float> gradient_;  // the same memory for every round, as a trainer's
  TimePoint deadline_ = kNever;
};

}  // namespace papilio::sim
