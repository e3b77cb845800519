// What a round's results have to be, worked out from the inputs alone: the simulator notes what every member put in and
// what befell it, and holds each member's result and report against that. Knows nothing of networks or engines.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/time.hpp"
#include "engine/core/partition.hpp"
#include "engine/node/node.hpp"
#include "engine/node/round_driver.hpp"
#include "kernels/codec.h"

namespace papilio::sim {

class RoundCheck {
 public:
  // `hosts`: by member, which host it is; at most 64 hosts. Promises of ROUND.md are quoted by their numbers.
  RoundCheck(const node::RoundSpec& spec, std::vector<std::uint32_t> hosts, std::uint64_t elements, TimePoint opened);

  [[nodiscard]] const node::RoundSpec& spec() const { return spec_; }
  [[nodiscard]] const std::vector<std::uint32_t>& hosts() const { return hosts_; }
  [[nodiscard]] const PartitionPlan& plan() const { return plan_; }
  // kNotAMember if it is not in the roster.
  [[nodiscard]] MemberIndex member_of(std::uint32_t host) const;

  // What it sends its shards in, and what its rounding owes from rounds before; empty: nothing.
  struct Encoding {
    kernels::Codec codec = kernels::Codec::fp32;
    std::span<const float> residual;
  };
  void handle_begin(std::uint32_t host, std::span<const float> gradient, double weight, const Encoding& encoding);
  // From here on nothing is expected of the host, or between the two hosts; nor was it before, in this round.
  void disturb_host(std::uint32_t host, TimePoint now);
  void disturb_pair(std::uint32_t one, std::uint32_t other, TimePoint now);
  // The group is, or comes from being, in two halves that do not hear each other: what each holds against the other is
  // nobody's fault, and promise 5 does not speak of it.
  void handle_partition() { is_parted_ = true; }
  // It takes part in nothing any more, so it does not hold anybody up with what it says either.
  void handle_death(std::uint32_t host) { dead_ |= bit(host); }
  // It told different members different things.
  void handle_equivocation(std::uint32_t host) { equivocators_ |= bit(host); }
  // It takes part with another model's gradient: the others may not count it.
  void handle_other_model(std::uint32_t host) { of_other_models_ |= bit(host); }
  // Its contribution to that chunk, to that host, says that it is of another model or group; or it does so no more.
  void handle_disguise(std::uint32_t host, std::uint32_t to, ChunkIndex chunk, bool is_disguised);
  [[nodiscard]] bool is_calm() const { return calm_ && disturbed_ == 0; }
  [[nodiscard]] bool is_disturbed(std::uint32_t host) const { return (disturbed_ & bit(host)) != 0; }

  // Empty if all is well.
  [[nodiscard]] std::string check_end(std::uint32_t host, const RoundReport& report, std::span<const float> values);
  // Whether that host may hold something against the other.
  [[nodiscard]] std::string check_offence(std::uint32_t by, std::uint32_t against, const std::string& offence) const;

 private:
  using HostBits = std::uint64_t;
  struct Input {
    std::vector<float> gradient;
    double weight = 0;
    bool begun = false;
    kernels::Codec codec = kernels::Codec::fp32;
    std::vector<float> residual;

    // How far the value that its contribution stands for may be from its gradient's; `largest`: of its block, both.
    [[nodiscard]] double owed(std::uint64_t element) const;
    [[nodiscard]] double largest(Range block) const;
    [[nodiscard]] double error(std::uint64_t element, double largest) const;
  };
  // One average of a chunk; there may be another where members could not hear each other.
  struct Average {
    MemberIndex reducer = 0;
    Coverage coverage = 0;
    Coverage holders = 0;
    std::vector<float> values;
  };
  struct Ended {
    MemberIndex member = 0;
    std::uint64_t digest = 0;
    std::uint64_t values_hash = 0;
  };

  static HostBits bit(std::uint32_t host) { return HostBits{1} << host; }
  [[nodiscard]] HostBits everybody() const;
  [[nodiscard]] HostBits reducers() const;
  [[nodiscard]] bool is_well(MemberIndex member) const { return !is_disturbed(hosts_[member]); }
  // Nothing went wrong that could keep one from the other.
  [[nodiscard]] bool is_isolated(MemberIndex member) const;
  [[nodiscard]] bool most_are_well() const;
  // After the last thing that went wrong, for successors to do their work before the deadline.
  [[nodiscard]] bool leaves_time() const;
  [[nodiscard]] bool are_well(MemberIndex one, MemberIndex other) const;
  [[nodiscard]] bool may_be_outvoted(MemberIndex member) const;
  [[nodiscard]] bool has_majority_against(MemberIndex member, HostBits outvoted) const;
  [[nodiscard]] MemberIndex successor(MemberIndex self, ChunkIndex chunk) const;

  [[nodiscard]] ChunkIndex first_lacking(MemberIndex self, MemberIndex member, const RoundReport& report) const;

  // Promise by promise; of the member whose round just ended. Empty if it was kept.
  [[nodiscard]] std::string check_report(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_peer_report(MemberIndex self, MemberIndex member, const RoundReport& report) const;
  [[nodiscard]] std::string check_local(MemberIndex self, ChunkIndex chunk, std::span<const float> values) const;
  [[nodiscard]] std::string check_strangers(MemberIndex self, ChunkIndex chunk, const Average& average) const;
  [[nodiscard]] std::string check_average(ChunkIndex chunk, const Average& average) const;
  [[nodiscard]] std::string check_block(Range block, ChunkIndex chunk, const Average& average,
                                        const std::vector<const Input*>& contributors, bool any_liar) const;
  [[nodiscard]] std::string check_same(ChunkIndex chunk, const Average& average) const;
  [[nodiscard]] std::string check_blame(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_coverage(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_successors(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_digest(MemberIndex self, const RoundReport& report, std::span<const float> values);

  [[nodiscard]] std::string check_chunk(MemberIndex self, ChunkIndex chunk, const RoundReport& report,
                                        std::span<const float> values);
  [[nodiscard]] std::string name(MemberIndex member) const;

  node::RoundSpec spec_;
  std::vector<std::uint32_t> hosts_;
  PartitionPlan plan_;
  TimePoint opened_;
  std::vector<Input> inputs_;      // by member
  HostBits disturbed_within_ = 0;  // the round; the others were so from its opening
  HostBits disturbed_ = 0, dead_ = 0, equivocators_ = 0, of_other_models_ = 0;
  std::set<std::tuple<MemberIndex, MemberIndex, ChunkIndex>> disguised_;  // contributor, reducer, chunk
  std::vector<HostBits> disturbed_pairs_;                                 // by host
  TimePoint last_disturbance_;
  bool calm_ = true;
  bool is_parted_ = false;
  std::vector<std::vector<Average>> averages_;  // by chunk, what members ended with
  std::vector<Ended> ended_;
  Coverage not_done_ = 0;  // whom members that ended left behind
};

}  // namespace papilio::sim
