// What stands between a host of the simulator and its network where the host is not what its engine is: a member that
// lies in its frames, one that ends or slows down at a certain frame, a stranger that does not even speak the protocol.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/core/partition.hpp"
#include "tools/sim/scenario.hpp"
#include "transport/frame.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

class Tamperer final : public transport::SimTamperer {
 public:
  // A trigger's index is the caller's. `ends`: neither that frame nor anything after it leaves the host.
  struct Trigger {
    std::size_t index = 0;
    std::uint32_t round = 0;
    FrameTrigger frame;
    bool ends = false;
  };
  Tamperer(std::uint64_t seed, std::uint32_t host, Stranger stranger, std::vector<LiePlan> lies,
           std::vector<Trigger> triggers)
      : random_(seed), host_(host), stranger_(stranger), lies_(std::move(lies)), triggers_(std::move(triggers)) {}

  // `hosts`: by member of the round. `gradient`: what this host puts in.
  void begin_round(std::uint32_t round, RoundId id, const PartitionPlan& plan, std::span<const std::uint32_t> hosts,
                   std::span<const float> gradient);
  // The host was started again: it sends.
  void restart() { ended_ = false; }

  // Its contribution to that chunk went to that host as one of another model or group; or, later, as what it is.
  struct Disguise {
    std::uint32_t round = 0, to = 0;
    ChunkIndex chunk = 0;
    bool is_disguised = true;
  };
  // What happened since the last look: whether it lied, whether it gave two accounts of the same thing (of which others
  // can only know the one that they saw), and which triggers went off.
  struct Deeds {
    bool lied = false;
    bool equivocated = false;
    std::vector<Disguise> disguises;
    std::vector<std::size_t> triggered;
  };
  [[nodiscard]] Deeds take_deeds() { return std::exchange(deeds_, {}); }

  void on_write(std::uint32_t to, std::vector<std::byte>& bytes) override;

 private:
  using Bytes = std::vector<std::byte>;

  void handle_shard(std::uint32_t to, transport::Header& header, std::size_t header_bytes, Bytes& bytes);
  void lie(Lie kind, std::uint32_t to, transport::Header& header, std::size_t header_bytes, Bytes& bytes);
  void lie_in_header(Lie kind, std::uint32_t to, transport::Header& header, Bytes& bytes);
  void write_number(transport::Header& header, float value, Bytes& bytes);
  void lie_in_frame(Lie kind, std::size_t header_bytes, Bytes& bytes);
  void lie_in_control(Lie kind, Bytes& bytes);
  [[nodiscard]] float false_weight(std::uint32_t to, float weight);
  void send_unasked(std::uint32_t to, transport::Header& header, Bytes& bytes);
  [[nodiscard]] Bytes garbage(std::uint64_t least, std::uint64_t most);
  [[nodiscard]] std::uint32_t plausible_distance(MemberIndex part);
  [[nodiscard]] MemberIndex any_member() { return static_cast<MemberIndex>(random_.below(hosts_.size())); }

  Random random_;
  const std::uint32_t host_;
  const Stranger stranger_;
  const std::vector<LiePlan> lies_;
  std::vector<Trigger> triggers_;  // that have not gone off
  bool ended_ = false;
  Deeds deeds_;
  // The round that the host began last.
  std::uint32_t round_ = 0;
  RoundId round_id_ = 0;
  PartitionPlan plan_;
  std::vector<std::uint32_t> hosts_;
  std::vector<float> gradient_;
  std::array<std::uint32_t, 2> shards_{};  // that it sent: contributions, averages
  std::uint64_t contributed_to_ = 0;       // by bit of host
  bool disguised_any_ = false;
};

}  // namespace papilio::sim
