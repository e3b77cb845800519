// What members sign about a roster, so that nobody can be named who did not agree, and nobody who passes a commit on
// can change it: each member signs the proposal that it acknowledges, and the proposer signs which of them it
// committed. Both are over bytes that everybody makes anew from what it knows, so they hold for this run, model, round
// and attempt only.
//
// The bytes (integers little-endian). A consent, domain "papilio roster consent 1": SHA-256 of the run's id;
// fingerprint, u64 low and high; u64 round; u64 epoch; u32 attempt; u64 instance; the proposer's id; u32 chunk bytes;
// u32 timeout in ms; u32 number of members, and for each its id, u64 rate in bytes/s, u8 1 if it reduces. A commit,
// domain "papilio roster commit 1": SHA-256 of those bytes; u64 mask.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/core/roster.hpp"
#include "transport/frame.hpp"
#include "transport/identity.hpp"

namespace papilio::node {

inline constexpr std::string_view kConsentDomain = "papilio roster consent 1";
inline constexpr std::string_view kCommitDomain = "papilio roster commit 1";

// What signatures hold for.
struct RunName {
  std::string run_id;
  Fingerprint fingerprint;
  bool operator==(const RunName&) const = default;
};

struct SignedCommit {
  core::Commit commit;
  std::vector<transport::Consent> consents;  // of the members in the mask, in order
  transport::Signature seal{};               // the proposer's
  bool operator==(const SignedCommit&) const = default;
};

[[nodiscard]] std::vector<std::byte> consent_bytes(const RunName& run, const core::Proposal& proposal);
[[nodiscard]] std::vector<std::byte> commit_bytes(const RunName& run, const core::Commit& commit);

[[nodiscard]] transport::Consent make_consent(const transport::Identity& identity, const RunName& run,
                                              const core::Proposal& proposal);
[[nodiscard]] transport::Signature make_seal(const transport::Identity& proposer, const RunName& run,
                                             const core::Commit& commit);

// What is wrong with a signature; nothing if nothing is.
[[nodiscard]] std::optional<std::string> objection_to(const RunName& run, const core::Proposal& proposal,
                                                      const PeerId& member, const transport::Consent& consent);
// The same of all of a commit, whose form core::judge accepts. `held`: the same commit as it was found good before, or
// null; what is equal to it is not looked at again. It stops at the first thing that is wrong; right after the
// proposer's signatures, those of `first` are looked at.
[[nodiscard]] std::optional<std::string> objection_to(const RunName& run, const SignedCommit& commit,
                                                      const SignedCommit* held = nullptr,
                                                      std::span<const PeerId> first = {});

// Whether these are two words of one proposer, in one life, about the same attempt: no correct one gives two. Their
// signatures are looked at elsewhere.
[[nodiscard]] bool contradict(const core::Commit& one, const core::Commit& other);

}  // namespace papilio::node
