// Runs rounds: turns frames into events of the core's round, and the core's answers into kernel work and frames. The
// gradient is averaged where it lies. Contributions to this node's part are received into slabs and accumulated onto
// it; averages of other parts are received into slabs, checked, and only then written over the local values, so that at
// any moment every chunk is whole: local or averaged.
//
// On the local host, shards go by reference (transport::WriteMode::borrow). A contribution's bytes change only when its
// average has come back, which shows that the reducer read them; an average's bytes change only after the round, which
// waits until every reader has said that it is done. Shards in another format than plain fp32 are copies that the
// ShardCoder makes.
//
// A gradient on a device (kernels/device.h) is averaged there, and everything that comes from or goes to others comes
// from and goes to its host copy. The device does the sums, some time later, and holds the slabs of their payloads
// until then; averages from others go to the host copy first and from there to the device. A device that fails is given
// up: the CPU carries out what the device did not, on the host copy, and the round goes on with that.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/core/conduct.hpp"
#include "engine/core/norm_policy.hpp"
#include "engine/core/partition.hpp"
#include "engine/core/round.hpp"
#include "engine/node/mesh.hpp"
#include "engine/node/node.hpp"
#include "engine/node/patience.hpp"
#include "engine/node/shard_coder.hpp"
#include "kernels/device.h"
#include "transport/slab_pool.hpp"

namespace papilio::node {

// What all members of a round have to agree on beforehand.
struct RoundSpec {
  RoundId round = 0;
  std::uint64_t epoch = 0;
  std::vector<transport::RosterMember> members;  // in roster order, this node included
  std::size_t chunk_bytes = 0;
  Duration timeout{};
  // In every shard, so that one of another model, epoch or roster is told apart.
  std::uint64_t model = 0;
  std::uint64_t group = 0;
  // This member sends plain fp32, whatever its configuration says.
  bool exact = false;
};

// Which shards go out by reference (transport::WriteMode::borrow) to peers on the local host. Mapping pages costs a
// fixed price per shard: worth it for large gradients.
enum class Borrow : std::uint8_t { automatic, nothing, contributions, everything };

struct RoundDriverConfig {
  PeerId self;
  std::size_t pool_bytes_limit = std::size_t{64} << 20U;
  RoundPatience patience;  // passes check()
  Borrow borrow = Borrow::automatic;
  // `automatic` borrows everything from this size of gradient on, and nothing below it.
  std::size_t borrow_from_bytes = std::size_t{4} << 20U;
  // Averages of gradients from this size on are written past the cache.
  std::size_t stream_from_bytes = std::size_t{8} << 20U;
  // How long shards of a round that has not begun here may wait before they are disregarded.
  Duration hold_timeout = std::chrono::seconds(120);
  core::RoundOrder order = core::RoundOrder::automatic;
  core::NormPolicyConfig norms;
  // What this member sends its shards in; it reads every format. None: to each other what is fastest on the way there,
  // and averages, which are the same for all, what is fastest on the slowest way.
  FormatChoice format = ShardFormat{};
  bool error_feedback = true;
  // Makes the slabs known to a device, once a gradient is on one.
  transport::PageCallbacks device_pages;
};

class RoundDriverEvents {
 public:
  virtual void on_round_over(RoundReport report) = 0;
  // What a member did wrong; its cut-off, where there is one, has happened.
  virtual void on_offence(Peer& peer, core::Offence offence, const std::string& evidence) = 0;

 protected:
  ~RoundDriverEvents() = default;
};

class RoundDriver {
 public:
  RoundDriver(transport::Io& io, Mesh& mesh, RoundDriverConfig config, RoundDriverEvents& events);

  // The gradient is the driver's until on_round_over. Members that are not connected are cut off at once.
  // Its elements are within core::largest_element(weight).
  // `device`: `gradient` is its host copy, and loaded; it has nothing to do, and it is the driver's, too.
  void begin(const RoundSpec& spec, std::span<float> gradient, double weight,
             kernels::DeviceGradient* device = nullptr);
  void cancel();
  [[nodiscard]] bool in_round() const { return round_.has_value(); }
  [[nodiscard]] RoundId last_round() const { return last_round_; }
  // Shards of rounds up to this one are disregarded from now on: this node is not part of them.
  void skip_rounds_to(RoundId round);

  [[nodiscard]] TimePoint next_deadline() const;
  void handle_time(TimePoint now);
  // Once a turn of the loop, after events: ends the round if it is over.
  void finish_if_over();

  // The mesh's events, passed on by its owner.
  void handle_peer_joined(Peer& peer);
  void handle_peer_left(Peer& peer, PeerLeft how, const std::string& why);
  // What members tell each other about a round. False: not a frame of that kind.
  bool handle_control(Peer& peer, const transport::Header& header);
  transport::PayloadDecision handle_shard_header(Peer& peer, transport::Flow& flow, const transport::Header& header,
                                                 std::size_t payload_bytes);
  void handle_shard(Peer& peer, const transport::Header& header, transport::Slab slab, std::size_t payload_bytes);
  bool next_shard(Peer& peer, transport::OutgoingFrame& frame);
  void handle_shard_out(Peer* peer, std::uint64_t tag, bool sent);
  void handle_flow_gone(transport::Flow& flow);

  // For the simulator's checks.
  [[nodiscard]] const core::Round* round() const { return round_ ? &*round_ : nullptr; }
  [[nodiscard]] const transport::SlabPool* pool() const { return pool_.get(); }
  // What rounding owes to the group's next rounds (ShardCoder).
  [[nodiscard]] std::span<const float> residual() const { return coder_.residual(); }
  [[nodiscard]] std::size_t starved_flows() const { return starved_.size(); }

 private:
  struct HeldFlow {
    transport::Flow* flow = nullptr;
    RoundId round = 0;
    TimePoint since{};
  };

  // The numbers of a payload.
  struct Numbers {
    std::span<const std::byte> bytes;  // of the codec
    std::span<const float> values;     // the same, decoded; empty: nobody needs them so
  };

  // What a device is doing for a chunk.
  struct DeviceOrder {
    ChunkIndex chunk = 0;
    bool is_sum = false;
    bool ends = false;     // the sum is the average
    transport::Slab slab;  // of its payload
  };

  struct EarlyFrame {
    Peer* peer = nullptr;
    transport::Header header;
  };

  [[nodiscard]] std::span<float> chunk_values(ChunkIndex chunk) const;
  [[nodiscard]] std::size_t slabs_needed(std::size_t chunk_bytes) const;
  void ensure_pool(std::size_t chunk_bytes);
  void begin_coding(std::span<const PlanMember> members);
  [[nodiscard]] double line_rate(MemberIndex member, std::span<const PlanMember> members) const;
  void give_up_held(TimePoint now);
  void resume_held();
  void resume_starved();
  void handle_contribution(Peer& peer, const transport::Contribution& header, std::span<const std::byte> payload,
                           transport::Slab& slab);
  void handle_average(Peer& peer, const transport::Average& header, std::span<const std::byte> payload);
  template <typename Shard>
  [[nodiscard]] std::optional<Numbers> good_numbers(Peer& peer, const Shard& header, std::span<const std::byte> payload,
                                                    float limit);
  [[nodiscard]] bool norm_is_good(Peer& peer, const transport::Contribution& header, const Numbers& numbers,
                                  float& scale);
  [[nodiscard]] bool norm_is_good(Peer& peer, const transport::Average& header, const Numbers& numbers);
  void handle_damaged(Peer& peer, const transport::Contribution& header);
  void handle_damaged(Peer& peer, const transport::Average& header);
  void write_average(ChunkIndex chunk, transport::Codec codec, const Numbers& numbers);
  void finish_average(ChunkIndex chunk, bool alone);
  void run_finalisations();
  void order(kernels::ChunkOrder what, DeviceOrder then);
  void order_sum(ChunkIndex chunk, const core::Reduction& reduction, float weight, transport::Codec codec,
                 std::span<const std::byte> bytes, transport::Slab& slab);
  void upload(ChunkIndex chunk);
  bool handle_ordered(const kernels::ChunkCompletion& completion);
  void act_on_ordered(const std::vector<kernels::ChunkCompletion>& completions);
  void take_from_device(TimePoint now);
  void give_up_device(const std::string& why);
  [[nodiscard]] bool device_is_busy() const { return device_ != nullptr && device_->in_flight() > 0; }
  void wake_senders();
  void violate(Peer& peer, core::CutOff reason, const std::string& what);
  void drop_unreleased();
  [[nodiscard]] MemberIndex member_of(const PeerId& id) const;
  void handle_resume(Peer& peer, const transport::Resume& resume);
  [[nodiscard]] core::Verdict handle_notice(Peer& peer, const transport::Header& header);
  bool keep_for_later(Peer& peer, const transport::Header& header);
  void tell_given_up(Peer& peer);
  void resume_link(Peer& peer);
  void tell_resume(Peer& peer);
  void tell(const core::Notice& notice);
  void cut_link(const core::Notice& notice);
  void feed_timers(TimePoint now);
  [[nodiscard]] Duration pulse_interval() const;
  void send_pulses(TimePoint now);
  void deliver_notices();
  // After any event that the round was told: computes, tells and sends what became possible.
  void act();
  [[nodiscard]] std::uint64_t digest();
  RoundReport make_report();

  transport::Io& io_;
  Mesh& mesh_;
  RoundDriverConfig config_;
  RoundDriverEvents& events_;
  std::unique_ptr<transport::SlabPool> pool_;
  std::vector<std::unique_ptr<transport::SlabPool>> old_pools_;  // until their last slab is back

  core::NormPolicy norms_;
  ShardCoder coder_;
  std::optional<core::Round> round_;
  RoundSpec spec_;
  std::span<float> gradient_;
  kernels::DeviceGradient* device_ = nullptr;               // none, or not any more: the CPU does everything
  std::span<const float> host_values_;                      // of a device that was given up
  std::unordered_map<std::uint64_t, DeviceOrder> ordered_;  // by tag
  std::uint64_t last_tag_ = 0;
  bool pool_is_known_ = false;  // to a device
  RoundId last_round_ = 0;
  TimePoint began_{};
  TimePoint next_pulse_ = kNever;
  Borrow borrow_ = Borrow::nothing;  // in this round; not automatic
  bool borrow_averages_ = false;
  std::vector<Peer*> member_peers_;  // by member; null: not connected, or this node
  std::vector<PeerReport> member_reports_;
  std::vector<std::uint64_t> chunk_checksums_;  // of the encoded average; 0 where local
  std::uint32_t shards_in_flight_ = 0;
  std::vector<HeldFlow> held_;             // their round has not begun here
  std::vector<EarlyFrame> early_;          // words about rounds that have not begun here
  transport::Flow* giving_up_ = nullptr;   // being resumed to be told that its shard is disregarded
  std::vector<transport::Flow*> starved_;  // no slab was free
};

}  // namespace papilio::node
