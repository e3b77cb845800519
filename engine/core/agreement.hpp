// Whether the members still hold the same. After a round everybody tells a digest; whoever differs from the majority
// has drifted apart from the run, and nothing else would show it: its rounds go on, only its gradients are of another
// model. Digests arrive one by one, so an epoch is judged when everybody expected has told, or at the latest when this
// node has gone on to the next. Used for models (told by the trainers) and for round results (told in Done frames).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/ids.hpp"

namespace papilio::core {

struct AgreementState {
  std::uint64_t epoch = 0;          // the latest that was judged
  std::uint32_t told = 0;           // members whose digest is known, this node included
  std::uint32_t differing = 0;      // of them, those whose digest is not this node's
  bool in_sync = true;              // this node holds what more than half of them hold (or nothing is known yet)
  std::uint64_t since = 0;          // the epoch from which on in_sync and out_of_sync have been as they are
  std::vector<PeerId> out_of_sync;  // sorted: who differs from the majority; without one, from this node
};

class Agreement {
 public:
  explicit Agreement(const PeerId& self) : self_(self) {}

  // ---- what happens
  // Who came through that epoch's round with this node, and can be expected to tell of it.
  void handle_round(std::uint64_t epoch, std::span<const PeerId> members);
  // Later epochs replace earlier ones; a second digest for the same epoch replaces the first.
  void handle_own(std::uint64_t epoch, std::uint64_t digest);
  void handle_peer(const PeerId& peer, std::uint64_t epoch, std::uint64_t digest);
  void handle_peer_left(const PeerId& peer);

  // ---- getters
  [[nodiscard]] const AgreementState& state() const { return state_; }
  // Once for every change of who is in sync with whom.
  std::optional<AgreementState> poll_change();

 private:
  struct Told {
    std::uint64_t epoch = 0;
    std::uint64_t digest = 0;
  };
  struct Member {
    PeerId peer;
    Told latest;
    std::optional<Told> before;  // neighbours are up to one epoch apart
  };

  [[nodiscard]] static const Told* at(const Member& member, std::uint64_t epoch);
  [[nodiscard]] bool everybody_told() const;
  void judge();

  PeerId self_;
  std::optional<Told> own_;
  std::vector<Member> members_;  // connected peers that ever told: bounded by the connections
  std::uint64_t expected_epoch_ = 0;
  std::vector<PeerId> expected_;
  AgreementState state_;
  bool changed_ = false;
};

}  // namespace papilio::core
