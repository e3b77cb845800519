#include "engine/core/norm_policy.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"

namespace papilio::core {

namespace {

constexpr double kNotHeardOf = -1;

}  // namespace

std::string_view to_string(NormAction action) {
  switch (action) {
    case NormAction::off: return "off";
    case NormAction::clip: return "clip";
    case NormAction::refuse: return "refuse";
  }
  return "unknown";
}

std::optional<NormAction> norm_action_of(std::string_view word) {
  for (const NormAction action : {NormAction::off, NormAction::clip, NormAction::refuse}) {
    if (to_string(action) == word) return action;
  }
  return std::nullopt;
}

NormPolicy::NormPolicy(const NormPolicyConfig& config) : config_(config) {
  PAPILIO_ASSERT(config.limit >= kMinimumNormLimit && config.limit <= kMaximumNormLimit);
}

void NormPolicy::begin(MemberIndex self, std::uint32_t members, std::uint32_t chunks, double usual_rms) {
  PAPILIO_ASSERT_VALUES(self < members && members <= kMaximumMembers, self, members);
  self_ = self;
  members_ = members;
  usual_rms_ = usual_rms;
  norms_.assign(is_on() ? std::size_t{chunks} * members : 0, kNotHeardOf);
}

void NormPolicy::handle_own(ChunkIndex chunk, double norm) {
  PAPILIO_ASSERT(norm >= 0);
  norms_[std::size_t{chunk} * members_ + self_] = norm;
}

NormVerdict NormPolicy::judge(MemberIndex from, ChunkIndex chunk, std::uint64_t elements, double norm) {
  PAPILIO_ASSERT_VALUES(is_on() && from < members_ && from != self_, from, members_);
  PAPILIO_ASSERT(knows_own(chunk) && norm >= 0);
  norms_[std::size_t{chunk} * members_ + from] = norm;
  NormVerdict verdict;
  verdict.group_norm = std::max(median(chunk), usual_norm(elements));
  const double most = config_.limit * verdict.group_norm;
  // Where this member and the median have nothing at all, there is no yardstick.
  if (norm <= most || verdict.group_norm == 0) return verdict;
  verdict.action = config_.action;
  verdict.scale = config_.action == NormAction::clip ? most / norm : 1;
  return verdict;
}

bool NormPolicy::average_is_wild(std::uint64_t elements, double own_norm, double norm) const {
  const double likely = std::max(own_norm, usual_norm(elements));
  return is_on() && likely > 0 && norm > config_.limit * config_.limit * likely;
}

double NormPolicy::usual_norm(std::uint64_t elements) const {
  return usual_rms_ * std::sqrt(static_cast<double>(elements));
}

// The lower one of an even number: a liar needs to be one of more than half to raise it.
double NormPolicy::median(ChunkIndex chunk) const {
  std::array<double, kMaximumMembers> sorted{};
  const double own = norm(chunk, self_);
  for (MemberIndex member = 0; member < members_; ++member) {
    const double heard = norm(chunk, member);
    sorted[member] = heard >= 0 ? heard : own;
  }
  const auto middle = sorted.begin() + (members_ - 1) / 2;
  std::nth_element(sorted.begin(), middle, sorted.begin() + members_);
  return *middle;
}

}  // namespace papilio::core
