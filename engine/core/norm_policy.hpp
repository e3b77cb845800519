// Optional judgement over contributions whose numbers are finite and yet wild: a reducer compares each one's L2 norm
// with the group's, chunk by chunk, and scales it down (clip) or cuts its sender off (refuse) where it is larger than
// `limit` times the group's. Bounding norms is known from Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor
// Federated Learning?" (2019); clipping against a robust centre from Karimireddy, He, Jaggi, "Learning from History for
// Byzantine Robust Optimization" (ICML 2021). Ours differs in that it judges each contribution as it arrives, because
// sums grow in place and nothing is kept: so it must not matter who comes first.
//
// The yardstick is the lower median over all members of the roster, where those that have not been heard of yet count
// as this member itself, which is the one it can trust. As long as fewer than half of the members lie, the median then
// lies between the smallest and the largest norm of the honest ones, in whatever order they arrive: two liars that come
// first are outvoted by those that are still to come. It is never below what this member's gradient has per chunk on
// the whole, so that a chunk in which most have (almost) nothing, such as rare words of an embedding, condemns nobody.
//
// An average is never scaled, since all members must hold the same bytes, but refused where its norm is more than
// limit^2 times this member's own. As long as honest norms are within the limit of each other, no honest average is: it
// is within the limit of the group's norm, which is within the limit of this member's. This catches the reducer whose
// own gradient exploded, which nobody else can take out of its part.
//
// What it bounds: no contribution moves a chunk by more than limit times the group's norm times its share of the
// weight. What it does not: a wrong direction within that norm, small lies over many rounds, half or more of the
// members lying together, and a reducer whose false averages are of a likely size.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"

namespace papilio::core {

enum class NormAction : std::uint8_t { off, clip, refuse };
[[nodiscard]] std::string_view to_string(NormAction action);
// Nothing for a word that is none of them.
[[nodiscard]] std::optional<NormAction> norm_action_of(std::string_view word);

// Norms of honest members differ, for one by the samples behind them: of pure noise, one sample has 8 times the norm of
// the mean of 64.
inline constexpr double kDefaultNormLimit = 8;
// Below 1 half of the honest members would be clipped; above this float32 has no say.
inline constexpr double kMinimumNormLimit = 1, kMaximumNormLimit = 1e6;

struct NormPolicyConfig {
  NormAction action = NormAction::off;
  double limit = kDefaultNormLimit;  // times the group's norm; kMinimumNormLimit to kMaximumNormLimit
};

struct NormVerdict {
  NormAction action = NormAction::off;  // off: take it as it is
  double scale = 1;                     // clip: times this, between 0 and 1
  double group_norm = 0;                // what it was held against
};

class NormPolicy {
 public:
  explicit NormPolicy(const NormPolicyConfig& config);

  [[nodiscard]] bool is_on() const { return config_.action != NormAction::off; }
  [[nodiscard]] const NormPolicyConfig& config() const { return config_; }

  // A round begins. `usual_rms`: the root mean square over this member's whole gradient.
  void begin(MemberIndex self, std::uint32_t members, std::uint32_t chunks, double usual_rms);

  // This member's own norm in a chunk: to be told before the chunk's first contribution is judged, and before that is
  // added to it.
  [[nodiscard]] bool knows_own(ChunkIndex chunk) const { return norm(chunk, self_) >= 0; }
  void handle_own(ChunkIndex chunk, double norm);

  // Judges, and counts, a member's contribution to a chunk of so many elements.
  NormVerdict judge(MemberIndex from, ChunkIndex chunk, std::uint64_t elements, double norm);

  // Judges an average of so many elements that would replace values with `own_norm`.
  [[nodiscard]] bool average_is_wild(std::uint64_t elements, double own_norm, double norm) const;

 private:
  [[nodiscard]] double norm(ChunkIndex chunk, MemberIndex member) const {
    return norms_[std::size_t{chunk} * members_ + member];
  }
  // Of a chunk with so many elements, by this member's gradient as a whole.
  [[nodiscard]] double usual_norm(std::uint64_t elements) const;
  [[nodiscard]] double median(ChunkIndex chunk) const;

  NormPolicyConfig config_;
  MemberIndex self_ = 0;
  std::uint32_t members_ = 0;
  double usual_rms_ = 0;
  std::vector<double> norms_;  // by chunk and member; negative: not heard of
};

}  // namespace papilio::core
