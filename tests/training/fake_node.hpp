// A group of nodes without a network: the trainer's tests need an engine that averages exactly and at once, so that
// what they measure is the trainer. Each member is a Node for one thread; a round is a meeting of all present members.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/node/node.hpp"

namespace papilio::training {

class FakeGroup {
 public:
  FakeGroup(std::uint32_t members, std::uint64_t target_batch);
  ~FakeGroup();

  // The member in this slot; valid as long as the group.
  Node& node(std::uint32_t slot);
  // What the members reported, in order.
  std::vector<std::uint64_t> digests(std::uint32_t slot);
  // Makes the next `count` rounds fail for everybody with this reason.
  void fail_rounds(std::uint32_t count, std::string reason);
  // What becomes of gradients on this member's GPU, whose memory is the host's here: each as often as it is named, one
  // round after the other; after that all is well.
  enum class Gpu { good, refuses, is_lost };
  void set_gpu(std::uint32_t slot, std::vector<Gpu> rounds);
  // Rounds that were averaged.
  std::uint64_t rounds();

 private:
  class Member;

  void finish_round_if_all_are_here();
  [[nodiscard]] std::uint64_t group_samples() const;
  [[nodiscard]] bool round_open() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Member>> members_;
  std::uint64_t target_batch_;
  std::uint64_t epoch_ = 0;
  std::uint64_t total_samples_ = 0;
  std::uint32_t failures_left_ = 0;
  std::string failure_;
};

}  // namespace papilio::training
