// How far the group is: who has worked through how many samples of which epoch, whether the target batch is reached,
// who is out of step, and who still holds the same model. Peers tell it what they please, so every number of theirs is
// bounded before it counts, the group's epoch is one that more than half of the members have reached, and memory is
// fixed at construction.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/time.hpp"

namespace papilio {

struct ProgressConfig {
  // Samples of the whole group that make one epoch. 0: no target, rounds are opened by somebody else.
  std::uint64_t target_batch = 0;
  // Samples that one peer may report towards one epoch; more is not believed. 0: 16 times the target batch (one fast
  // peer may overshoot while the round gathers, but not by orders of magnitude), without a target 2^32.
  std::uint64_t maximum_samples = 0;
  // A peer not heard of for this long is not counted as being in agreement. Several reports' worth, so that one lost
  // connection and its redial do not show.
  Duration stale_after = std::chrono::seconds(60);
  // Peers remembered at once, those that left included (their samples stay counted).
  std::uint32_t maximum_peers = 1024;
};

// What a model's parameters hashed to after the optimiser step that ended `epoch - 1` and began `epoch`.
struct ModelDigest {
  std::uint64_t epoch = 0;
  std::uint64_t digest = 0;
  bool operator==(const ModelDigest&) const = default;
};

// One peer's word about itself, as it crosses the wire.
struct ProgressReport {
  std::uint64_t epoch = 0;          // rounds completed
  std::uint64_t samples = 0;        // towards that epoch
  std::uint64_t total_samples = 0;  // since it joined the run, those towards the current epoch included
  std::optional<ModelDigest> model;
  bool operator==(const ProgressReport&) const = default;
};

// What became of a report. All but `accepted` leave everything as it was.
enum class ReportVerdict : std::uint8_t {
  accepted,
  epoch_went_back,    // rounds do not un-happen; a restarted peer has left first
  samples_went_back,  // fewer samples in the same epoch, or fewer in total
  too_many_samples,   // more towards one epoch than configured
  total_too_small,    // samples exceed total_samples
  model_from_future,  // a digest of an epoch that the peer has not reached
  too_many_peers,     // no room for another connected peer
};
[[nodiscard]] std::string_view to_string(ReportVerdict verdict);

// Where a member is, seen from the group's epoch. During a round neighbours differ by one: that is in step.
enum class Standing : std::uint8_t { in_step, behind, ahead };

class Progress {
 public:
  explicit Progress(ProgressConfig config);

  // --- what happens here ---
  // The local trainer worked through more samples towards the local epoch.
  void handle_samples(std::uint64_t samples);
  // A round ended, or state was taken over from the group: this node is now at `epoch`, later than before. Samples
  // start from zero.
  void handle_epoch(std::uint64_t epoch);
  // This node's model as it is at `model.epoch`. A second one for the same epoch replaces the first.
  void handle_model(ModelDigest model);

  // --- what peers do ---
  ReportVerdict handle_report(TimePoint now, const PeerId& id, const ProgressReport& report);
  // It counts towards nothing any more but the total; when it reports again it starts afresh. Unknown peers are fine.
  void handle_peer_left(const PeerId& id);

  // --- getters ---
  // What to tell the others about this node.
  [[nodiscard]] ProgressReport local_report() const;
  [[nodiscard]] std::uint64_t local_epoch() const { return local_.epoch; }
  [[nodiscard]] std::uint64_t local_samples() const { return local_.samples; }
  // Connected peers that have reported, and this node.
  [[nodiscard]] std::uint32_t members() const;
  // The highest epoch that more than half of the members have reached: a minority cannot push it up or hold it back.
  [[nodiscard]] std::uint64_t group_epoch() const;
  // Samples of the members at the local epoch towards it, this node's included.
  [[nodiscard]] std::uint64_t group_samples() const;
  // Samples of all that ever reported, as far as known here.
  [[nodiscard]] std::uint64_t total_samples() const;
  [[nodiscard]] bool target_reached() const;

  [[nodiscard]] Standing local_standing() const { return standing_of(local_.epoch); }
  // None if the peer is not a member.
  [[nodiscard]] std::optional<Standing> standing(const PeerId& id) const;
  // The epoch that the peer is at. None if it is not a member.
  [[nodiscard]] std::optional<std::uint64_t> epoch_of(const PeerId& peer) const;
  // Members, this node included, whose epoch is more than one from the group's.
  [[nodiscard]] std::uint32_t out_of_sync() const;
  // Members that hold the same model as this node, itself included, compared at the latest epoch of which both have
  // told the digest. 0 as long as this node has told none.
  [[nodiscard]] std::uint32_t in_agreement(TimePoint now) const;

 private:
  // The two latest digests: neighbours are up to one epoch apart, so two are needed to find one in common.
  class Models {
   public:
    void remember(ModelDigest model);
    void clear() { *this = Models(); }
    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] ModelDigest latest() const { return kept_[0]; }
    [[nodiscard]] bool agrees_with(const Models& other) const;

   private:
    std::array<ModelDigest, 2> kept_{};  // later epoch first
    std::uint32_t count_ = 0;
  };
  struct Peer {
    PeerId id;
    bool present = false;
    std::uint64_t epoch = 0, samples = 0, total_samples = 0;
    TimePoint heard{};
    Models models;
  };

  [[nodiscard]] ReportVerdict judge(const Peer* known, const ProgressReport& report) const;
  [[nodiscard]] Standing standing_of(std::uint64_t epoch) const;
  [[nodiscard]] std::size_t place_of(const PeerId& id) const;
  [[nodiscard]] const Peer* find(const PeerId& id) const;
  bool make_room();
  void check_invariants() const;

  ProgressConfig config_;
  ProgressReport local_;
  Models local_models_;
  std::vector<Peer> peers_;              // sorted by id; capacity fixed at construction
  std::uint64_t forgotten_samples_ = 0;  // totals of peers whose entries are gone or began afresh
};

}  // namespace papilio
