// What a round's results have to be, worked out from the inputs alone: the simulator notes what every member put in and
// what befell it, and holds each member's result and report against that. Knows nothing of networks or engines.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/core/partition.hpp"
#include "engine/node/node.hpp"
#include "engine/node/round_driver.hpp"

namespace papilio::sim {

class RoundCheck {
 public:
  // `hosts`: by member, which host it is; at most 64 hosts. Promises of ROUND.md are quoted by their numbers.
  RoundCheck(const node::RoundSpec& spec, std::vector<std::uint32_t> hosts, std::uint64_t elements);

  [[nodiscard]] const node::RoundSpec& spec() const { return spec_; }
  [[nodiscard]] const std::vector<std::uint32_t>& hosts() const { return hosts_; }
  // kNotAMember if it is not in the roster.
  [[nodiscard]] MemberIndex member_of(std::uint32_t host) const;
  [[nodiscard]] bool has_begun(std::uint32_t host) const {
    return !inputs_[member_of(host)].gradient.empty() || begun_[member_of(host)];
  }

  void handle_begin(std::uint32_t host, std::span<const float> gradient, double weight);
  // From here on nothing is expected of the host, or between the two hosts; nor was it before, in this round.
  void disturb_host(std::uint32_t host) { disturbed_hosts_ |= bit(host); }
  void disturb_pair(std::uint32_t one, std::uint32_t other);
  [[nodiscard]] bool is_calm() const { return calm_ && disturbed_hosts_ == 0; }
  [[nodiscard]] bool is_disturbed(std::uint32_t host) const { return (disturbed_hosts_ & bit(host)) != 0; }

  // Empty if all is well.
  [[nodiscard]] std::string check_end(std::uint32_t host, const RoundReport& report, std::span<const float> values);

 private:
  struct Input {
    std::vector<float> gradient;
    double weight = 0;
  };

  static std::uint64_t bit(std::uint32_t host) { return std::uint64_t{1} << host; }
  // Nothing went wrong that could keep one from the other.
  [[nodiscard]] bool are_well(MemberIndex one, MemberIndex other) const;
  [[nodiscard]] std::string check_report(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_expected(MemberIndex self, const RoundReport& report) const;
  [[nodiscard]] std::string check_chunk(MemberIndex self, ChunkIndex chunk, Coverage coverage,
                                        std::span<const float> values);
  [[nodiscard]] std::string check_average(ChunkIndex chunk, Coverage coverage, std::span<const float> values) const;
  [[nodiscard]] std::string check_digest(MemberIndex self, const RoundReport& report, std::span<const float> values);
  [[nodiscard]] std::string name(MemberIndex member) const;

  node::RoundSpec spec_;
  std::vector<std::uint32_t> hosts_;
  PartitionPlan plan_;
  std::vector<Input> inputs_;  // by member
  std::vector<bool> begun_;    // by member
  std::uint64_t disturbed_hosts_ = 0;
  std::vector<std::uint64_t> disturbed_pairs_;  // by host, bits of hosts
  bool calm_ = true;
  // The first average of each chunk that a member ended with; the others must hold the same.
  std::vector<Coverage> average_coverage_;
  std::vector<float> averages_;
  std::vector<MemberIndex> average_holder_;
  // The first member's result, for the digests.
  bool any_ended_ = false;
  MemberIndex first_ = 0;
  std::uint64_t first_digest_ = 0;
  std::vector<float> first_values_;
};

}  // namespace papilio::sim
