#include "tools/verify/evidence.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/core/conduct.hpp"
#include "engine/node/certificate.hpp"
#include "tools/node/text.hpp"
#include "transport/socket.hpp"

namespace papilio::tools {
namespace {

using nlohmann::ordered_json;
using node::MemberRecord;
using node::RoundRecord;
using node::SignedCommit;

constexpr std::size_t kAllDigits = 64;

// Signed by strangers, and perhaps meant for a terminal.
std::string harmless(std::string text) {
  for (char& each : text) {
    if (each < ' ' || each > '~') each = '?';
  }
  return text;
}

std::string hex(std::uint64_t value) { return hexadecimal(value, 16); }
std::string hex(const Fingerprint& fingerprint) { return hex(fingerprint.high) + hex(fingerprint.low); }
std::string date(std::int64_t seconds) {
  // What is beyond any date is told as a number.
  constexpr std::int64_t kLast = 253'402'300'799;  // the end of the year 9999
  if (seconds < 0 || seconds > kLast) return std::to_string(seconds) + " s after 1970";
  return core::to_text(core::WallTime(std::chrono::seconds(seconds)));
}

std::string mega(std::uint64_t bps) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f Mbit/s", static_cast<double>(bps) / 1e6);
  return text;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

double milliseconds_of(Duration duration) { return to_seconds(duration) * 1e3; }

// Reads the body by its domain; what does not hold inside, or that it cannot be read.
std::string judge_body(const transport::Statement& statement, std::span<const std::byte> bytes,
                       Evidence::Content& content) {
  const auto take = [&](auto parsed, auto objection_to_it) -> std::string {
    if (!parsed) return "its content cannot be read: it is malformed, or of a newer version";
    const std::optional<std::string> objection = objection_to_it(*parsed);
    content = std::move(*parsed);
    return objection.value_or("");
  };
  const auto by_signer = [&](const auto& record) { return node::objection_to(record, statement.signer_id()); };
  if (statement.domain == node::kRoundReportDomain) {
    return take(node::parse_round_record(statement.body), by_signer);
  }
  if (statement.domain == node::kRosterDomain) return take(node::parse_roster_record(statement.body), by_signer);
  if (statement.domain == node::kDoubleCommitDomain)
    return take(node::parse_double_commit(statement.body),
                [](const node::DoubleCommit& record) { return node::objection_to(record); });
  if (statement.domain == node::kCertificateDomain) {
    auto figures = node::read_certificate(bytes);
    if (!figures) return figures.error().message;
    content = std::move(*figures);
    return {};
  }
  return "it is signed, but of a kind that is not known here: '" + harmless(statement.domain) + "'";
}

std::string kind_of(const Evidence& evidence) {
  if (!evidence.statement) return "no statement";
  const std::string& domain = evidence.statement->domain;
  if (domain == node::kRoundReportDomain) return "round report";
  if (domain == node::kRosterDomain) return "roster";
  if (domain == node::kDoubleCommitDomain) return "double commit";
  if (domain == node::kCertificateDomain) return "certificate";
  return "unknown statement";
}

// ---- for people

std::string line(const char* name, const std::string& text) {
  char heading[16];
  std::snprintf(heading, sizeof(heading), "  %-9s ", name);
  return heading + text + "\n";
}

std::string describe(const node::RunName& run) {
  return line("run", "'" + harmless(run.run_id) + "', fingerprint " + hex(run.fingerprint));
}

std::string describe(const SignedCommit& roster) {
  const core::Proposal& proposal = roster.commit.proposal;
  std::string text =
      line("roster", "round " + std::to_string(proposal.round) + ", attempt " +
                         std::to_string(proposal.ballot.attempt) + " by " + to_hex(proposal.ballot.proposer) + ", " +
                         std::to_string(roster.consents.size()) + " of " + std::to_string(proposal.members.size()) +
                         " members, group " + hex(core::group_hash(core::roster_of(roster.commit))));
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    if ((roster.commit.mask & coverage_of(member)) != 0) continue;
    text += line("without", to_hex(proposal.members[member].peer));
  }
  return text;
}

std::string describe(const MemberRecord& member, bool is_signer) {
  std::string text = to_hex(member.peer) + (is_signer ? " (the signer)" : "") + "  in " +
                     std::to_string(member.chunks_with_it) + " chunks of the result";
  if (!is_signer) {
    text += "; gave " + std::to_string(member.contributions_in) + " contributions";
    if (member.contributions_clipped > 0) text += " (" + std::to_string(member.contributions_clipped) + " scaled down)";
    text += " and " + std::to_string(member.averages_in) + " averages";
  }
  if (member.digest) text += ", told " + hex(*member.digest);
  if (member.cut_off) text += "; CUT OFF: " + harmless(member.reason);
  if (member.banned) text += "; BANNED";
  if (!member.evidence.empty()) text += " (" + harmless(member.evidence) + ")";
  return line("member", text);
}

std::string describe(const RoundRecord& record, const PeerId& signer) {
  std::string text = describe(record.run);
  text += line("round", std::to_string(record.round) + ", epoch " + std::to_string(record.epoch) + ", group " +
                            hex(record.group) + ", ended " + date(record.ended_at) + " after " +
                            number(record.seconds) + " s" + (record.canceled ? ", canceled" : "") +
                            (record.left_out ? ", the others began it without the signer" : ""));
  text += record.roster ? describe(*record.roster) : line("roster", "none: the signer was alone");
  text += line("result", hex(record.digest) + ", " + std::to_string(record.local_chunks) + " of " +
                             std::to_string(record.chunks) + " chunks local, coverage " +
                             number(100 * record.coverage) + "%, " + std::to_string(record.samples) + " samples");
  for (const MemberRecord& member : record.members) text += describe(member, member.peer == signer);
  return text;
}

std::string describe(const core::Qualification& figures) {
  std::string text = line("subject", to_hex(figures.subject, kAllDigits));
  text += line("run", figures.run_id.empty() ? "any" : "'" + harmless(figures.run_id) + "'");
  text += line("line", "up " + mega(figures.up_bps) + ", down " + mega(figures.down_bps) + ", round trip " +
                           number(milliseconds_of(figures.round_trip_median)) + " ms (p99 " +
                           number(milliseconds_of(figures.round_trip_p99)) + " ms), jitter " +
                           number(milliseconds_of(figures.jitter)) + " ms, " + std::to_string(figures.retransmits) +
                           " retransmits");
  return text + line("valid", core::to_text(figures.issued) + " to " + core::to_text(figures.expires));
}

struct Describe {
  PeerId signer;
  std::string operator()(const std::monostate&) const { return {}; }
  std::string operator()(const RoundRecord& record) const { return describe(record, signer); }
  std::string operator()(const node::RosterRecord& record) const {
    return describe(record.run) + describe(record.roster) +
           line("says", "that the signer had agreed to this proposal, and was left out");
  }
  std::string operator()(const node::DoubleCommit& record) const {
    return describe(record.run) + describe(record.first) + describe(record.second) +
           line("says", to_hex(record.first.commit.proposal.ballot.proposer) + " committed one proposal in two ways");
  }
  std::string operator()(const core::Qualification& figures) const { return describe(figures); }
};

// ---- as JSON

ordered_json document_of(const SignedCommit& roster) {
  const core::Proposal& proposal = roster.commit.proposal;
  ordered_json members = ordered_json::array();
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    const core::RosterEntry& entry = proposal.members[member];
    members.push_back({{"peer", to_hex(entry.peer, kAllDigits)},
                       {"rate_bytes_per_s", entry.rate_bytes_per_s},
                       {"reduces", entry.reduces},
                       {"in", (roster.commit.mask & coverage_of(member)) != 0}});
  }
  return {{"round", proposal.round},
          {"epoch", proposal.epoch},
          {"attempt", proposal.ballot.attempt},
          {"proposer", to_hex(proposal.ballot.proposer, kAllDigits)},
          {"group", hex(core::group_hash(core::roster_of(roster.commit)))},
          {"mask", hex(roster.commit.mask)},
          {"chunk_bytes", proposal.chunk_bytes},
          {"timeout_ms", proposal.timeout_ms},
          {"members", members}};
}

ordered_json document_of(const MemberRecord& member) {
  return {{"peer", to_hex(member.peer, kAllDigits)},
          {"contributions_in", member.contributions_in},
          {"contributions_clipped", member.contributions_clipped},
          {"averages_in", member.averages_in},
          {"chunks_with_it", member.chunks_with_it},
          {"bytes_in", member.bytes_in},
          {"bytes_out", member.bytes_out},
          {"cut_off", member.cut_off},
          {"banned", member.banned},
          {"reason", harmless(member.reason)},
          {"evidence", harmless(member.evidence)},
          {"digest", member.digest ? ordered_json(hex(*member.digest)) : ordered_json()}};
}

ordered_json document_of(const node::RunName& run) {
  return {{"run_id", harmless(run.run_id)}, {"fingerprint", hex(run.fingerprint)}};
}

struct ContentDocument {
  ordered_json operator()(const std::monostate&) const { return {}; }
  ordered_json operator()(const RoundRecord& record) const {
    ordered_json document = document_of(record.run);
    document.update({{"round", record.round},
                     {"epoch", record.epoch},
                     {"group", hex(record.group)},
                     {"digest", hex(record.digest)},
                     {"chunks", record.chunks},
                     {"local_chunks", record.local_chunks},
                     {"coverage", record.coverage},
                     {"samples", record.samples},
                     {"seconds", record.seconds},
                     {"ended_at", date(record.ended_at)},
                     {"canceled", record.canceled},
                     {"left_out", record.left_out}});
    document["roster"] = record.roster ? document_of(*record.roster) : ordered_json();
    document["members"] = ordered_json::array();
    for (const MemberRecord& member : record.members) document["members"].push_back(document_of(member));
    return document;
  }
  ordered_json operator()(const node::RosterRecord& record) const {
    ordered_json document = document_of(record.run);
    document["roster"] = document_of(record.roster);
    return document;
  }
  ordered_json operator()(const node::DoubleCommit& record) const {
    ordered_json document = document_of(record.run);
    document["rosters"] = {document_of(record.first), document_of(record.second)};
    return document;
  }
  ordered_json operator()(const core::Qualification& figures) const {
    return {{"subject", to_hex(figures.subject, kAllDigits)},
            {"run_id", harmless(figures.run_id)},
            {"up_bps", figures.up_bps},
            {"down_bps", figures.down_bps},
            {"round_trip_median_ms", milliseconds_of(figures.round_trip_median)},
            {"round_trip_p99_ms", milliseconds_of(figures.round_trip_p99)},
            {"jitter_ms", milliseconds_of(figures.jitter)},
            {"retransmits", figures.retransmits},
            {"issued", core::to_text(figures.issued)},
            {"expires", core::to_text(figures.expires)}};
  }
};

}  // namespace

Result<Evidence> read_evidence(const std::string& file) {
  // A pipe that nobody writes to is no reason to wait.
  const transport::Descriptor opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::vector<std::byte> bytes(transport::kMaximumStatementBytes + 1);
  const ssize_t got = opened.valid() ? ::read(opened.get(), bytes.data(), bytes.size()) : -1;
  if (got < 0) {
    return runtime_error("'" + file + "' cannot be read (" + std::strerror(errno) +
                         "): name files that a node kept in its evidence-dir, or certificates");
  }
  bytes.resize(static_cast<std::size_t>(got));
  return judge_evidence(file, bytes);
}

Evidence judge_evidence(const std::string& file, std::span<const std::byte> bytes) {
  Evidence evidence{.file = file, .statement = transport::parse_statement(bytes), .content = {}, .objection = {}};
  if (!evidence.statement) {
    evidence.objection = "it is no signed statement, or a damaged one";
    return evidence;
  }
  evidence.objection = judge_body(*evidence.statement, bytes, evidence.content);
  if (!evidence.statement->is_genuine()) {
    evidence.objection = "the signature does not hold: it was changed, or somebody else made it";
  }
  return evidence;
}

std::string describe(const Evidence& evidence) {
  std::string text = harmless(evidence.file) + ": " + kind_of(evidence) + ", " +
                     (evidence.is_genuine() ? "genuine" : "NOT GENUINE: " + harmless(evidence.objection)) + "\n";
  if (!evidence.statement) return text;
  const PeerId signer = evidence.statement->signer_id();
  text += line("signer", to_hex(signer, kAllDigits) + (evidence.is_genuine() ? "" : " (as it says)"));
  text += line("key", transport::to_hex(evidence.statement->signer));
  return text + std::visit(Describe{signer}, evidence.content);
}

ordered_json document_of(const Evidence& evidence) {
  ordered_json document = {{"file", harmless(evidence.file)},
                           {"kind", kind_of(evidence)},
                           {"genuine", evidence.is_genuine()},
                           {"objection", harmless(evidence.objection)}};
  document["signer"] =
      evidence.statement ? ordered_json(to_hex(evidence.statement->signer_id(), kAllDigits)) : ordered_json();
  document["key"] = evidence.statement ? ordered_json(transport::to_hex(evidence.statement->signer)) : ordered_json();
  document["content"] = std::visit(ContentDocument{}, evidence.content);
  return document;
}

}  // namespace papilio::tools
