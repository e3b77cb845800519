// The signatures that one node's rosters need, beside the core that knows nothing of keys: it signs what the core
// acknowledges, keeps what members answered to this node's own proposal until the core commits it, looks through every
// commit once however many pass it on, and notices a proposer that commits one proposal in two ways. Without an
// identity it signs nothing and asks for nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/roster.hpp"
#include "engine/node/signed_roster.hpp"

namespace papilio::node {

// Proof that its proposer said two things.
struct DoubleCommit {
  RunName run;
  SignedCommit first, second;
};

class RosterSeals {
 public:
  // Commits of one epoch from one peer that are looked through; correct peers pass on a few, and each costs a tenth of
  // a millisecond per member.
  static constexpr std::uint32_t kMostLookedAt = 32;
  // Signatures of one epoch that are looked at in commits without this node, whoever sent them: keys to sign them with
  // can be made up, and so can peers to send them. 15 of 64 members, where correct peers pass on one or two.
  static constexpr std::size_t kMostForeignSignatures = 1024;
  // Peers that are counted apart, and proposers that are remembered for having said two things.
  static constexpr std::size_t kMostRemembered = 256;
  // Commits without this node that are kept to be passed on.
  static constexpr std::size_t kMostForeign = 16;
  // Commits with this node, by one proposer that says many things, that are taken before anything is decided.
  static constexpr std::ptrdiff_t kMostOfDoubleTongued = 4;

  // `identity`: outlives this, or null.
  RosterSeals(const transport::Identity* identity, RunName run) : identity_(identity), run_(std::move(run)) {}

  [[nodiscard]] bool is_on() const { return identity_ != nullptr; }
  [[nodiscard]] const RunName& run() const { return run_; }

  // ---- answers
  [[nodiscard]] transport::Consent sign(const core::Proposal& proposal) const;
  // An acknowledgement of this node's own proposal: kept, or what is wrong with it.
  std::optional<std::string> take(const core::Proposal& own, const PeerId& from,
                                  const std::optional<transport::Consent>& consent);

  // ---- commits
  enum class Finding : std::uint8_t {
    holds,
    does_not_hold,  // `objection` says why
    contradicts,    // signed, and so was another: poll_double_commit tells
    passed_over,    // nothing depends on it, or too many came from that peer
  };
  struct Look {
    Finding finding = Finding::holds;
    std::string objection;
    // `contradicts`: it may still be taken. It names this node, which others then count on, and nothing is decided.
    bool may_be_taken = false;
  };
  // `is_news`: the core would look further at it.
  Look look(const PeerId& from, const SignedCommit& told, bool is_news);
  // The same of one that names this node, which acknowledged no such thing in this life: only whether it did in another
  // one. Never kept.
  Look look_unasked(const PeerId& from, const SignedCommit& told);
  // Whether it names this node; one that holds has its own consent, then.
  [[nodiscard]] bool names_own(const core::Commit& commit) const;
  // With its signatures: one of this node's own proposals, or one that was found to hold. Nothing for others.
  [[nodiscard]] const SignedCommit* seal(const core::Commit& commit);
  // Proposers that contradicted themselves, each once per round.
  [[nodiscard]] std::optional<DoubleCommit> poll_double_commit();

  // Commits of earlier rounds than the last one are forgotten.
  void handle_epoch(std::uint64_t epoch);

 private:
  struct Own {
    core::Proposal proposal;
    std::map<PeerId, transport::Consent> consents;
  };

  [[nodiscard]] const SignedCommit* find(const core::Commit& commit) const;
  [[nodiscard]] bool spend_look(const PeerId& from);
  [[nodiscard]] bool spend_signatures(const core::Commit& commit);
  [[nodiscard]] bool may_still_be_taken(const core::Commit& commit) const;
  void keep(const SignedCommit& commit);

  const transport::Identity* identity_;
  RunName run_;
  std::optional<Own> own_;
  std::vector<SignedCommit> held_;  // oldest first
  std::map<PeerId, std::uint32_t> looked_at_;
  std::size_t foreign_signatures_ = 0;  // looked at in this epoch
  struct DoubleTongued {
    PeerId proposer;
    RoundId round = 0;
    bool operator==(const DoubleTongued&) const = default;
  };
  std::vector<DoubleTongued> double_tongued_;
  std::vector<DoubleCommit> double_commits_;
};

}  // namespace papilio::node
