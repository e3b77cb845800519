// What a node writes down, and signs, of a round: what it began with, what came out, and what it saw of every member;
// and, beside reports, rosters that left the signer out and proposers that said two things. These are the bodies of
// statements (transport/statement.hpp). Reading them back takes any bytes, and what does not fit together inside is
// told, so that a tool without a network can judge them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/node/certificate.hpp"
#include "engine/node/node.hpp"
#include "engine/node/roster_seals.hpp"
#include "engine/node/signed_roster.hpp"

namespace papilio::node {

inline constexpr std::string_view kRoundReportDomain = "papilio round report 1";
inline constexpr std::string_view kRosterDomain = "papilio roster 1";
inline constexpr std::string_view kDoubleCommitDomain = "papilio double commit 1";

// Texts are cut to this when they are written down.
inline constexpr std::size_t kMaximumReasonBytes = 64;
inline constexpr std::size_t kMaximumEvidenceBytes = 240;

struct MemberRecord {
  PeerId peer;
  std::uint64_t contributions_in = 0;
  std::uint64_t contributions_clipped = 0;
  std::uint64_t averages_in = 0;
  std::uint64_t chunks_with_it = 0;  // averages in the signer's result that hold its gradient
  std::uint64_t bytes_in = 0, bytes_out = 0;
  bool cut_off = false;
  bool banned = false;
  std::string reason;
  std::string evidence;
  std::optional<std::uint64_t> digest;  // as it told the signer
  bool operator==(const MemberRecord&) const = default;
};

struct RoundRecord {
  RunName run;
  RoundId round = 0;
  std::uint64_t epoch = 0;
  std::uint64_t group = 0;
  std::optional<SignedCommit> roster;  // none: the signer was alone
  std::uint64_t digest = 0;
  std::vector<MemberRecord> members;
  std::uint64_t chunks = 0, local_chunks = 0;
  double coverage = 0;
  std::uint64_t samples = 0;
  double seconds = 0;
  std::int64_t ended_at = 0;  // seconds since 1970
  bool canceled = false, left_out = false;
  bool operator==(const RoundRecord&) const = default;
};

// Of a round that began without its signer, which says that it had agreed.
struct RosterRecord {
  RunName run;
  SignedCommit roster;
};

// `roster`: with what it began; null: this node was alone in it.
[[nodiscard]] RoundRecord round_record_of(const RunName& run, std::uint64_t group, const SignedCommit* roster,
                                          const RoundReport& report, std::int64_t ended_at);

// Bodies. They fit into a statement, whatever is in them.
[[nodiscard]] std::vector<std::byte> encode(const RoundRecord& record);
[[nodiscard]] std::vector<std::byte> encode(const RosterRecord& record);
[[nodiscard]] std::vector<std::byte> encode(const DoubleCommit& record);

// Any bytes: nothing where they are not that.
[[nodiscard]] std::optional<RoundRecord> parse_round_record(std::span<const std::byte> body);
[[nodiscard]] std::optional<RosterRecord> parse_roster_record(std::span<const std::byte> body);
[[nodiscard]] std::optional<DoubleCommit> parse_double_commit(std::span<const std::byte> body);

// What does not hold or fit inside a body that `signer` signed; nothing if all does.
[[nodiscard]] std::optional<std::string> objection_to(const RoundRecord& record, const PeerId& signer);
[[nodiscard]] std::optional<std::string> objection_to(const RosterRecord& record, const PeerId& signer);
[[nodiscard]] std::optional<std::string> objection_to(const DoubleCommit& record);

}  // namespace papilio::node
