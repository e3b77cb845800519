#include "engine/node/round_record.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "engine/base/assert.hpp"
#include "statements_generated.h"
#include "transport/statement.hpp"
#include "transport/verified_table.hpp"

namespace papilio::node {
namespace {

using Builder = flatbuffers::FlatBufferBuilder;

// Tables, offsets and the statement around them: more than FlatBuffers takes for any of these.
constexpr std::size_t kMemberOverheadBytes = 160;
constexpr std::size_t kFixedBytes = 2048;
constexpr std::size_t kRosterBytes =
    kFixedBytes + kMaximumMembers * (sizeof(wire::RosterEntry) + sizeof(wire::Consent));
constexpr std::size_t kMemberBytes =
    kMemberOverheadBytes + sizeof(wire::Named) + kMaximumReasonBytes + kMaximumEvidenceBytes;
static_assert(kFixedBytes + kMaximumRunIdBytes + kRosterBytes + kMaximumMembers * kMemberBytes <=
              transport::kMaximumStatementBytes);
static_assert(kFixedBytes + kMaximumRunIdBytes + 2 * kRosterBytes <= transport::kMaximumStatementBytes);

std::string cut(std::string_view text, std::size_t most) { return std::string(text.substr(0, most)); }

std::vector<std::byte> bytes_of(const Builder& builder) {
  const auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  return {bytes.begin(), bytes.end()};
}

auto build(Builder& builder, const SignedCommit& roster) {
  const core::Proposal& proposal = roster.commit.proposal;
  std::vector<wire::RosterEntry> members;
  for (const core::RosterEntry& each : proposal.members) {
    members.emplace_back(std::bit_cast<wire::Named>(each.peer), each.rate_bytes_per_s, each.reduces);
  }
  std::vector<wire::Consent> consents;
  for (const transport::Consent& each : roster.consents) {
    consents.push_back(std::bit_cast<wire::Consent>(each));
  }
  const auto wire_members = builder.CreateVectorOfStructs(members);
  const auto wire_consents = builder.CreateVectorOfStructs(consents);
  const auto proposer = std::bit_cast<wire::Named>(proposal.ballot.proposer);
  const auto seal = std::bit_cast<wire::Seal>(roster.seal);
  return wire::CreateSignedRoster(builder, proposal.round, proposal.epoch, proposal.ballot.attempt, proposal.instance,
                                  &proposer, wire_members, proposal.chunk_bytes, proposal.timeout_ms,
                                  roster.commit.mask, wire_consents, &seal);
}

auto build(Builder& builder, const MemberRecord& member) {
  const auto reason = builder.CreateString(cut(member.reason, kMaximumReasonBytes));
  const auto evidence = builder.CreateString(cut(member.evidence, kMaximumEvidenceBytes));
  const auto peer = std::bit_cast<wire::Named>(member.peer);
  wire::MemberRecordBuilder record(builder);
  record.add_peer(&peer);
  record.add_contributions_in(member.contributions_in);
  record.add_contributions_clipped(member.contributions_clipped);
  record.add_averages_in(member.averages_in);
  record.add_chunks_with_it(member.chunks_with_it);
  record.add_bytes_in(member.bytes_in);
  record.add_bytes_out(member.bytes_out);
  record.add_cut_off(member.cut_off);
  record.add_banned(member.banned);
  record.add_reason(reason);
  record.add_evidence(evidence);
  if (member.digest) record.add_digest(*member.digest);
  return record.Finish();
}

bool is_short(const flatbuffers::String* text, std::size_t most) { return text == nullptr || text->size() <= most; }
std::string text_of(const flatbuffers::String* text) { return text == nullptr ? std::string() : text->str(); }

template <typename Table, typename Read>
auto read_table(std::span<const std::byte> body, Read read) -> decltype(read(std::declval<const Table&>())) {
  if (body.size() > transport::kMaximumStatementBytes) return std::nullopt;
  const transport::VerifiedTable<Table> verified(body);
  if (verified.get() == nullptr) return std::nullopt;
  return read(*verified.get());
}

// What the verifier leaves open: an offset that was made up may point between two words.
template <typename Struct>
bool is_aligned(const flatbuffers::Vector<const Struct*>& structs) {
  return reinterpret_cast<std::uintptr_t>(structs.Data()) % alignof(Struct) == 0;
}

// Whether the form of it is possible is looked at here, so that whoever has it may compute with it.
std::optional<SignedCommit> read_roster(const wire::SignedRoster* table) {
  if (table == nullptr || table->proposer() == nullptr || table->members() == nullptr || table->consents() == nullptr ||
      table->seal() == nullptr || table->members()->size() > kMaximumMembers ||
      table->consents()->size() > kMaximumMembers || !is_aligned(*table->members())) {
    return std::nullopt;
  }
  SignedCommit roster;
  roster.commit.mask = table->mask();
  core::Proposal& proposal = roster.commit.proposal;
  proposal.round = table->round();
  proposal.epoch = table->epoch();
  proposal.ballot = {table->attempt(), std::bit_cast<PeerId>(*table->proposer())};
  proposal.instance = table->instance();
  proposal.chunk_bytes = table->chunk_bytes();
  proposal.timeout_ms = table->timeout_ms();
  for (const wire::RosterEntry* each : *table->members()) {
    proposal.members.push_back({std::bit_cast<PeerId>(each->peer()), each->rate_bytes_per_s(), each->reduces()});
  }
  for (const wire::Consent* each : *table->consents()) {
    roster.consents.push_back(std::bit_cast<transport::Consent>(*each));
  }
  roster.seal = std::bit_cast<transport::Signature>(*table->seal());
  if (core::judge(roster.commit) != core::RosterVerdict::accepted) return std::nullopt;
  return roster;
}

template <typename Table>
std::optional<RunName> read_run(const Table& table) {
  if (!is_short(table.run_id(), kMaximumRunIdBytes)) return std::nullopt;
  return RunName{text_of(table.run_id()), {table.fingerprint_low(), table.fingerprint_high()}};
}

std::optional<MemberRecord> read_member(const wire::MemberRecord& table) {
  if (table.peer() == nullptr || !is_short(table.reason(), kMaximumReasonBytes) ||
      !is_short(table.evidence(), kMaximumEvidenceBytes)) {
    return std::nullopt;
  }
  MemberRecord member;
  member.peer = std::bit_cast<PeerId>(*table.peer());
  member.contributions_in = table.contributions_in();
  member.contributions_clipped = table.contributions_clipped();
  member.averages_in = table.averages_in();
  member.chunks_with_it = table.chunks_with_it();
  member.bytes_in = table.bytes_in();
  member.bytes_out = table.bytes_out();
  member.cut_off = table.cut_off();
  member.banned = table.banned();
  member.reason = text_of(table.reason());
  member.evidence = text_of(table.evidence());
  if (const auto digest = table.digest()) member.digest = *digest;
  return member;
}

std::optional<RoundRecord> read_round(const wire::RoundRecord& table) {
  const auto run = read_run(table);
  if (!run || table.members() == nullptr || table.members()->size() > kMaximumMembers) return std::nullopt;
  RoundRecord record;
  record.run = *run;
  record.round = table.round();
  record.epoch = table.epoch();
  record.group = table.group();
  if (table.roster() != nullptr) {
    record.roster = read_roster(table.roster());
    if (!record.roster) return std::nullopt;
  }
  record.digest = table.digest();
  for (const wire::MemberRecord* each : *table.members()) {
    const auto member = read_member(*each);
    if (!member) return std::nullopt;
    record.members.push_back(*member);
  }
  record.chunks = table.chunks();
  record.local_chunks = table.local_chunks();
  record.coverage = table.coverage();
  record.samples = table.samples();
  record.seconds = table.seconds();
  record.ended_at = table.ended_at();
  record.canceled = table.canceled();
  record.left_out = table.left_out();
  return record;
}

}  // namespace

RoundRecord round_record_of(const RunName& run, std::uint64_t group, const SignedCommit* roster,
                            const RoundReport& report, std::int64_t ended_at) {
  RoundRecord record{.run = run,
                     .round = report.round,
                     .epoch = report.epoch,
                     .group = group,
                     .roster = roster != nullptr ? std::optional(*roster) : std::nullopt,
                     .digest = report.digest,
                     .members = {},
                     .chunks = report.chunks.size(),
                     .local_chunks = report.local_chunks,
                     .coverage = report.coverage,
                     .samples = report.samples,
                     .seconds = report.seconds,
                     .ended_at = ended_at,
                     .canceled = report.canceled,
                     .left_out = report.left_out};
  for (MemberIndex index = 0; index < report.peers.size(); ++index) {
    const PeerReport& peer = report.peers[index];
    const auto holds_it = [&](Coverage coverage) { return (coverage & coverage_of(index)) != 0; };
    record.members.push_back({.peer = peer.peer,
                              .contributions_in = peer.contributions_in,
                              .contributions_clipped = peer.contributions_clipped,
                              .averages_in = peer.averages_in,
                              .chunks_with_it = static_cast<std::uint64_t>(
                                  std::count_if(report.chunks.begin(), report.chunks.end(), holds_it)),
                              .bytes_in = peer.bytes_in,
                              .bytes_out = peer.bytes_out,
                              .cut_off = peer.cut_off,
                              .banned = peer.banned,
                              .reason = cut(peer.reason, kMaximumReasonBytes),
                              .evidence = cut(peer.evidence, kMaximumEvidenceBytes),
                              .digest = peer.digest});
  }
  return record;
}

std::vector<std::byte> encode(const RoundRecord& record) {
  PAPILIO_ASSERT_VALUES(record.members.size() <= kMaximumMembers, record.members.size(), kMaximumMembers);
  Builder builder(4096);
  const auto run_id = builder.CreateString(cut(record.run.run_id, kMaximumRunIdBytes));
  flatbuffers::Offset<wire::SignedRoster> roster;
  if (record.roster) roster = build(builder, *record.roster);
  std::vector<flatbuffers::Offset<wire::MemberRecord>> members;
  for (const MemberRecord& member : record.members) members.push_back(build(builder, member));
  const auto wire_members = builder.CreateVector(members);
  builder.Finish(wire::CreateRoundRecord(builder, run_id, record.run.fingerprint.low, record.run.fingerprint.high,
                                         record.round, record.epoch, record.group, roster, record.digest, wire_members,
                                         record.chunks, record.local_chunks, record.coverage, record.samples,
                                         record.seconds, record.ended_at, record.canceled, record.left_out));
  return bytes_of(builder);
}

std::vector<std::byte> encode(const RosterRecord& record) {
  Builder builder(4096);
  const auto run_id = builder.CreateString(cut(record.run.run_id, kMaximumRunIdBytes));
  const auto roster = build(builder, record.roster);
  builder.Finish(
      wire::CreateRosterRecord(builder, run_id, record.run.fingerprint.low, record.run.fingerprint.high, roster));
  return bytes_of(builder);
}

std::vector<std::byte> encode(const DoubleCommit& record) {
  Builder builder(4096);
  const auto run_id = builder.CreateString(cut(record.run.run_id, kMaximumRunIdBytes));
  const auto first = build(builder, record.first);
  const auto second = build(builder, record.second);
  builder.Finish(wire::CreateDoubleCommit(builder, run_id, record.run.fingerprint.low, record.run.fingerprint.high,
                                          first, second));
  return bytes_of(builder);
}

std::optional<RoundRecord> parse_round_record(std::span<const std::byte> body) {
  return read_table<wire::RoundRecord>(body, read_round);
}

std::optional<RosterRecord> parse_roster_record(std::span<const std::byte> body) {
  return read_table<wire::RosterRecord>(body, [](const wire::RosterRecord& table) -> std::optional<RosterRecord> {
    const auto run = read_run(table);
    const auto roster = read_roster(table.roster());
    if (!run || !roster) return std::nullopt;
    return RosterRecord{*run, *roster};
  });
}

std::optional<DoubleCommit> parse_double_commit(std::span<const std::byte> body) {
  return read_table<wire::DoubleCommit>(body, [](const wire::DoubleCommit& table) -> std::optional<DoubleCommit> {
    const auto run = read_run(table);
    const auto first = read_roster(table.first());
    const auto second = read_roster(table.second());
    if (!run || !first || !second) return std::nullopt;
    return DoubleCommit{*run, *first, *second};
  });
}

std::optional<std::string> objection_to(const RoundRecord& record, const PeerId& signer) {
  const auto is_signer = [&](const MemberRecord& each) { return each.peer == signer; };
  if (std::none_of(record.members.begin(), record.members.end(), is_signer))
    return "its signer is not among its members";
  if (!std::isfinite(record.coverage) || !std::isfinite(record.seconds)) return "its figures are not numbers";
  if (!record.roster) {
    if (record.members.size() == 1) return std::nullopt;
    return "it tells of other members, but holds no roster that they signed";
  }
  if (auto objection = objection_to(record.run, *record.roster)) return "its roster: " + *objection;
  const core::Roster roster = core::roster_of(record.roster->commit);
  if (roster.round != record.round || roster.epoch != record.epoch || core::group_hash(roster) != record.group) {
    return "its roster is of another round or group";
  }
  const bool members_match =
      std::equal(roster.members.begin(), roster.members.end(), record.members.begin(), record.members.end(),
                 [](const core::RosterEntry& entry, const MemberRecord& member) { return entry.peer == member.peer; });
  return members_match ? std::nullopt : std::optional<std::string>("its members are not those of its roster");
}

std::optional<std::string> objection_to(const RosterRecord& record, const PeerId& signer) {
  const auto is_signer = [&](const core::RosterEntry& entry) { return entry.peer == signer; };
  const core::Proposal& proposal = record.roster.commit.proposal;
  const core::Roster roster = core::roster_of(record.roster.commit);
  if (std::none_of(proposal.members.begin(), proposal.members.end(), is_signer) ||
      std::any_of(roster.members.begin(), roster.members.end(), is_signer)) {
    return "its signer was not left out of what was proposed";
  }
  return objection_to(record.run, record.roster);
}

std::optional<std::string> objection_to(const DoubleCommit& record) {
  if (!contradict(record.first.commit, record.second.commit)) return "its two rosters do not contradict each other";
  if (auto objection = objection_to(record.run, record.first)) return "the first roster: " + *objection;
  if (auto objection = objection_to(record.run, record.second)) return "the second roster: " + *objection;
  return std::nullopt;
}

}  // namespace papilio::node
