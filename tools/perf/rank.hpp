// One rank of the all-reduce benchmark: an Engine on the calling thread, linked to all other ranks of a fixed world.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/node/engine.hpp"

namespace papilio::perf {

struct WorldOptions {
  std::uint32_t ranks = 0;
  bool several_hosts = false;
  transport::IoBackend backend = transport::IoBackend::automatic;
  std::string congestion_control;                // empty: cubic towards the local host, the system's default elsewhere
  std::uint16_t flows = 0;                       // 0: the engine's choice
  std::uint64_t chunk_bytes = 0;                 // 0: the engine's choice
  std::vector<std::uint64_t> rates_bytes_per_s;  // by rank; empty: all alike
  std::vector<double> weights;                   // by rank
  std::uint32_t clients = 0;                     // the last ranks reduce nothing
  core::RoundOrder order = core::RoundOrder::automatic;
  std::optional<node::Borrow> borrow;
  node::FormatChoice format = node::ShardFormat{};
  bool error_feedback = true;
  bool is_secure = false;
  std::uint64_t socket_buffer_bytes = 0;         // 0: the engine's choice
  Duration timeout = std::chrono::seconds(120);  // of one round, and of connecting
};

class Rank final : private node::EngineEvents {
 public:
  static Result<std::unique_ptr<Rank>> make(const WorldOptions& world, std::uint32_t rank, const std::string& listen);
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;
  ~Rank();

  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] const std::string& backend_note() const { return backend_note_; }
  // Dials the ranks below this one; the others dial it. `addresses` by rank. Returns when all are linked.
  Status connect(const std::vector<std::string>& addresses);
  // One weighted all-reduce of `values` with everybody.
  Result<RoundReport> all_reduce(std::span<float> values);
  // Every rank's `values`, concatenated in rank order (through an all-reduce, so it is a barrier too).
  Result<std::vector<float>> gather(const std::vector<float>& values);
  void leave();

 private:
  Rank(WorldOptions world, std::uint32_t rank) : world_(std::move(world)), rank_(rank) {}

  void on_peer_joined(node::Peer&) override {}
  void on_peer_left(node::Peer& peer, node::PeerLeft how, const std::string& why) override;
  void on_control(node::Peer&, const transport::Header&) override {}
  void on_round_over(RoundReport report) override { report_ = std::move(report); }
  void on_refused(const transport::Address& address, const std::string& why) override;
  [[nodiscard]] node::RoundSpec next_spec(std::uint64_t elements, bool everybody_alike);

  WorldOptions world_;
  std::uint32_t rank_;
  std::vector<PeerId> ids_;  // by rank
  std::string backend_note_;
  std::unique_ptr<transport::Io> io_;
  std::unique_ptr<node::Engine> engine_;
  std::optional<RoundReport> report_;
  std::string failure_;
  RoundId round_ = 0;
};

}  // namespace papilio::perf
