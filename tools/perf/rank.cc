#include "tools/perf/rank.hpp"

#include <algorithm>
#include <utility>

#include "engine/base/random.hpp"
#include "transport/secure_io.hpp"

namespace papilio::perf {

namespace {

// Every rank knows every other's key, secret part and all: what encryption costs is measured, nothing is kept secret.
transport::Identity identity_of(std::uint32_t rank) {
  return transport::Identity::from_seed({static_cast<std::uint8_t>(rank >> 8U), static_cast<std::uint8_t>(rank), 0, 1});
}

}  // namespace

Result<std::unique_ptr<Rank>> Rank::make(const WorldOptions& world, std::uint32_t rank, const std::string& listen) {
  std::unique_ptr<Rank> self(new Rank(world, rank));
  auto io = transport::make_io(world.backend, &self->backend_note_);
  if (!io) return io.error();
  const transport::Identity identity = identity_of(rank);
  if (world.is_secure) {
    io = transport::make_secure_io(std::move(*io), identity);
    if (!io) return io.error();
  }
  self->io_ = std::move(*io);
  for (std::uint32_t other = 0; other < world.ranks; ++other) self->ids_.push_back(identity_of(other).id());
  auto address = transport::Address::parse(listen);
  if (!address) return address.error();

  node::MeshConfig mesh;
  mesh.self = identity.id();
  mesh.is_secure = world.is_secure;
  mesh.run_id = "papilio-perf";
  mesh.listen = *address;
  mesh.flows = world.flows;
  mesh.seed = Random::mix(rank) ^ static_cast<std::uint64_t>(self->io_->now().time_since_epoch().count());
  mesh.handshake_timeout = world.timeout;
  mesh.local_options = node::default_socket_options(true, world.congestion_control);
  mesh.remote_options = node::default_socket_options(false, world.congestion_control);
  if (world.socket_buffer_bytes != 0) {
    for (transport::SocketOptions* options : {&mesh.local_options, &mesh.remote_options}) {
      options->send_buffer_bytes = options->receive_buffer_bytes = world.socket_buffer_bytes;
    }
  }
  if (rank < world.rates_bytes_per_s.size()) mesh.rate_bytes_per_s = world.rates_bytes_per_s[rank];
  node::RoundDriverConfig rounds;
  rounds.self = mesh.self;
  rounds.order = world.order;
  rounds.format = world.format;
  rounds.error_feedback = world.error_feedback;
  if (world.borrow) rounds.borrow = *world.borrow;
  node::EngineEvents& events = *self;
  self->engine_ = std::make_unique<node::Engine>(*self->io_, mesh, rounds, events);
  if (auto started = self->engine_->start(); !started) return started.error();
  return self;
}

Rank::~Rank() {
  if (engine_ != nullptr) engine_->leave("", std::chrono::seconds(1));
}

std::uint16_t Rank::port() const { return engine_->mesh().listen_address()->port(); }

Status Rank::connect(const std::vector<std::string>& addresses) {
  for (std::uint32_t other = 0; other < rank_; ++other) {
    auto address = transport::Address::parse(addresses[other]);
    if (!address) return address.error();
    engine_->mesh().add_address(*address);
  }
  const TimePoint deadline = saturating_add(io_->now(), world_.timeout);
  while (engine_->mesh().peers().size() + 1 < world_.ranks) {
    if (io_->now() >= deadline || !failure_.empty()) {
      std::string missing;
      for (std::uint32_t other = 0; other < world_.ranks; ++other) {
        if (other != rank_ && engine_->mesh().find(ids_[other]) == nullptr) missing += " " + std::to_string(other);
      }
      return runtime_error("rank " + std::to_string(rank_) + " cannot reach rank" + missing +
                           (failure_.empty() ? "; are all ranks started with the same world order?" : ": " + failure_));
    }
    engine_->turn(deadline);
  }
  return Done{};
}

node::RoundSpec Rank::next_spec(std::uint64_t elements, bool everybody_alike) {
  node::RoundSpec spec;
  spec.round = ++round_;
  spec.epoch = round_;
  spec.timeout = world_.timeout;
  spec.exact = everybody_alike;
  double slowest = 0;
  for (std::uint32_t rank = 0; rank < world_.ranks; ++rank) {
    const bool reduces = everybody_alike || rank + world_.clients < world_.ranks;
    const std::uint64_t rate =
        !everybody_alike && rank < world_.rates_bytes_per_s.size() ? world_.rates_bytes_per_s[rank] : 0;
    spec.members.push_back({.peer = ids_[rank], .rate_bytes_per_s = rate, .reduces = reduces});
    if (rate > 0) slowest = slowest > 0 ? std::min(slowest, static_cast<double>(rate)) : static_cast<double>(rate);
  }
  if (slowest == 0 && world_.several_hosts) slowest = kAssumedRemoteRate;
  spec.chunk_bytes = world_.chunk_bytes != 0
                         ? world_.chunk_bytes
                         : choose_chunk_bytes(elements, world_.ranks - (everybody_alike ? 0 : world_.clients), slowest);
  return spec;
}

Result<RoundReport> Rank::all_reduce(std::span<float> values) {
  report_.reset();
  const double weight = rank_ < world_.weights.size() ? world_.weights[rank_] : 1;
  engine_->begin_round(next_spec(values.size(), false), values, weight);
  while (!report_) engine_->turn(kNever);
  if (report_->local_chunks > 0 || !failure_.empty()) {
    return runtime_error("rank " + std::to_string(rank_) + ": " + std::to_string(report_->local_chunks) +
                         " chunks were not averaged" + (failure_.empty() ? "" : ": " + failure_));
  }
  return std::move(*report_);
}

Result<std::vector<float>> Rank::gather(const std::vector<float>& values) {
  std::vector<float> all(values.size() * world_.ranks, 0.0F);
  std::copy(values.begin(), values.end(), all.begin() + static_cast<std::ptrdiff_t>(values.size() * rank_));
  report_.reset();
  engine_->begin_round(next_spec(all.size(), true), all, 1);
  while (!report_) engine_->turn(kNever);
  if (report_->local_chunks > 0) return runtime_error("a rank was lost" + (failure_.empty() ? "" : ": " + failure_));
  for (float& value : all) value *= static_cast<float>(world_.ranks);
  return all;
}

void Rank::leave() { engine_->leave("done", std::chrono::seconds(1)); }

void Rank::on_peer_left(node::Peer& peer, node::PeerLeft how, const std::string& why) {
  if (how == node::PeerLeft::goodbye) return;
  failure_ = "the connection to " + peer.address + " was lost: " + why;
}

void Rank::on_refused(const transport::Address& address, const std::string& why) {
  failure_ = address.to_string() + " refused: " + why;
}

}  // namespace papilio::perf
