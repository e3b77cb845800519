// Evidence as bytes and files: every field of what is signed counts, whatever bytes come are judged, reports contradict
// each other where they do, and files are kept whole, bounded, and without anybody waiting for them.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/node/evidence_keeper.hpp"
#include "engine/node/round_record.hpp"
#include "tools/verify/compare.hpp"
#include "tools/verify/evidence.hpp"

namespace papilio::node {
namespace {

using tools::Evidence;
using tools::judge_evidence;
using transport::Identity;

const RunName kRun{"evidence", {1, 2}};

// In order of their ids, as members are.
const std::vector<Identity>& identities() {
  static const std::vector<Identity> made = [] {
    std::vector<Identity> all;
    for (std::uint32_t number = 0; number < kMaximumMembers; ++number) {
      all.push_back(Identity::from_seed({static_cast<std::uint8_t>(number), 1}));
    }
    std::sort(all.begin(), all.end(), [](const Identity& one, const Identity& other) { return one.id() < other.id(); });
    return all;
  }();
  return made;
}

// Of the first `members`, proposed by the first of them; the mask as given.
SignedCommit roster_of_first(std::uint32_t members, Coverage mask, RoundId round = 12) {
  SignedCommit roster;
  core::Proposal& proposal = roster.commit.proposal;
  proposal = {.round = round,
              .epoch = round - 1,
              .ballot = {2, identities()[0].id()},
              .members = {},
              .chunk_bytes = 65536,
              .timeout_ms = 1000,
              .instance = 5};
  for (std::uint32_t number = 0; number < members; ++number) {
    proposal.members.push_back({identities()[number].id(), 1000 + number, true});
  }
  roster.commit.mask = mask;
  for (std::uint32_t number = 0; number < members; ++number) {
    if ((mask & coverage_of(number)) == 0) continue;
    roster.consents.push_back(make_consent(identities()[number], kRun, proposal));
  }
  roster.seal = make_seal(identities()[0], kRun, roster.commit);
  return roster;
}

RoundRecord record_of(std::uint32_t members, RoundId round = 12) {
  const Coverage all = members == 64 ? ~Coverage{0} : coverage_of(members) - 1;
  RoundRecord record{.run = kRun,
                     .round = round,
                     .epoch = round - 1,
                     .group = 0,
                     .roster = roster_of_first(members, all, round),
                     .digest = 77,
                     .members = {},
                     .chunks = 10,
                     .local_chunks = 1,
                     .coverage = 0.9,
                     .samples = 64,
                     .seconds = 0.5,
                     .ended_at = 1'800'000'000};
  record.group = core::group_hash(core::roster_of(record.roster->commit));
  for (std::uint32_t number = 0; number < members; ++number) {
    record.members.push_back({.peer = identities()[number].id(),
                              .contributions_in = 3,
                              .averages_in = 4,
                              .chunks_with_it = 9,
                              .bytes_in = 100,
                              .bytes_out = 200,
                              .reason = "",
                              .evidence = "",
                              .digest = 77});
  }
  return record;
}

std::vector<std::byte> file_of(const RoundRecord& record, std::uint32_t signer = 0) {
  return transport::encode(transport::make_statement(identities()[signer], kRoundReportDomain, encode(record)));
}

// ---- signatures under rosters

TEST(SignedRoster, EveryFieldIsSigned) {
  const core::Proposal proposal = roster_of_first(3, 7).commit.proposal;
  const transport::Consent consent = make_consent(identities()[1], kRun, proposal);
  ASSERT_EQ(objection_to(kRun, proposal, identities()[1].id(), consent), std::nullopt);
  for (const auto& change : std::vector<void (*)(core::Proposal&)>{
           [](core::Proposal& each) { each.round += 1; }, [](core::Proposal& each) { each.epoch += 1; },
           [](core::Proposal& each) { each.ballot.attempt += 1; },
           [](core::Proposal& each) { each.ballot.proposer = identities()[1].id(); },
           [](core::Proposal& each) { each.instance += 1; }, [](core::Proposal& each) { each.chunk_bytes *= 2; },
           [](core::Proposal& each) { each.timeout_ms += 1; }, [](core::Proposal& each) { each.members.pop_back(); },
           [](core::Proposal& each) { std::swap(each.members[0], each.members[1]); },
           [](core::Proposal& each) { each.members[2].rate_bytes_per_s += 1; },
           [](core::Proposal& each) { each.members[2].reduces = false; },
           [](core::Proposal& each) { each.members[2].peer = identities()[3].id(); }}) {
    core::Proposal other = proposal;
    change(other);
    EXPECT_NE(objection_to(kRun, other, identities()[1].id(), consent), std::nullopt);
  }
  EXPECT_NE(objection_to({"evidencf", kRun.fingerprint}, proposal, identities()[1].id(), consent), std::nullopt);
  EXPECT_NE(objection_to({kRun.run_id, {1, 3}}, proposal, identities()[1].id(), consent), std::nullopt);
  EXPECT_NE(objection_to({kRun.run_id, {2, 2}}, proposal, identities()[1].id(), consent), std::nullopt);
  EXPECT_NE(objection_to(kRun, proposal, identities()[2].id(), consent), std::nullopt);
}

TEST(SignedRoster, ACommitHoldsAsAWholeOrNotAtAll) {
  for (const std::uint32_t members : {1U, 3U, 64U}) {
    const SignedCommit good = roster_of_first(members, members == 64 ? ~Coverage{0} : coverage_of(members) - 1);
    EXPECT_EQ(objection_to(kRun, good), std::nullopt);
    for (std::size_t at : {std::size_t{0}, good.consents.size() - 1}) {
      SignedCommit bad = good;
      bad.consents[at].signature[9] ^= 1;
      EXPECT_NE(objection_to(kRun, bad), std::nullopt);
      EXPECT_NE(objection_to(kRun, bad, &good), std::nullopt);
      bad = good;
      bad.consents[at].key[9] ^= 1;
      EXPECT_NE(objection_to(kRun, bad), std::nullopt);
      EXPECT_NE(objection_to(kRun, bad, &good), std::nullopt);
    }
    SignedCommit bad = good;
    bad.seal[0] ^= 1;
    EXPECT_NE(objection_to(kRun, bad, &good), std::nullopt);
    bad = good;
    bad.consents.push_back(good.consents[0]);
    EXPECT_NE(objection_to(kRun, bad), std::nullopt);
  }
  // A seal for one mask is none for another.
  SignedCommit fewer = roster_of_first(3, 3);
  EXPECT_EQ(objection_to(kRun, fewer), std::nullopt);
  fewer.seal = roster_of_first(3, 7).seal;
  EXPECT_NE(objection_to(kRun, fewer), std::nullopt);
}

// ---- seals

TEST(RosterSeals, OnePeerIsLookedThroughSoOften) {
  RosterSeals seals(&identities()[1], kRun);
  const PeerId from = identities()[2].id();
  for (std::uint32_t times = 0; times < RosterSeals::kMostLookedAt; ++times) {
    SignedCommit false_one = roster_of_first(3, 7);
    false_one.commit.proposal.ballot.attempt = 10 + times;
    EXPECT_EQ(seals.look(from, false_one, true).finding, RosterSeals::Finding::does_not_hold);
  }
  const SignedCommit good = roster_of_first(3, 7);
  EXPECT_EQ(seals.look(from, good, true).finding, RosterSeals::Finding::passed_over);
  EXPECT_EQ(seals.look(identities()[0].id(), good, true).finding, RosterSeals::Finding::holds);
  EXPECT_EQ(seals.look(from, good, true).finding, RosterSeals::Finding::holds);  // known by now, and free
}

// However many names they come under, there is one budget for what is not about this node.
TEST(RosterSeals, SignaturesInOthersCommitsAreCountedTogether) {
  RosterSeals seals(&identities()[1], kRun);
  const SignedCommit own = roster_of_first(3, 7);
  SignedCommit foreign = roster_of_first(64, ~Coverage{0} & ~Coverage{2});
  const SignedCommit sound = foreign;
  const std::size_t sized = foreign.consents.size() + 1;
  for (std::size_t times = 0; times < RosterSeals::kMostForeignSignatures / sized; ++times) {
    foreign.commit.proposal.ballot.attempt = 10 + static_cast<std::uint32_t>(times);
    EXPECT_EQ(seals.look(identities()[2 + times].id(), foreign, true).finding, RosterSeals::Finding::does_not_hold);
  }
  EXPECT_EQ(seals.look(identities()[60].id(), sound, true).finding, RosterSeals::Finding::passed_over);
  EXPECT_EQ(seals.look(identities()[60].id(), own, true).finding, RosterSeals::Finding::holds);
  seals.handle_epoch(12);  // looked through again: the same attempt as the other
  EXPECT_EQ(seals.look(identities()[60].id(), sound, true).finding, RosterSeals::Finding::contradicts);
}

// Of what this node never acknowledged only its own signature is looked at.
TEST(RosterSeals, WhatThisNodeDidNotAcknowledgeIsNotLookedThrough) {
  RosterSeals seals(&identities()[1], kRun);
  SignedCommit told = roster_of_first(3, 7);
  told.consents[2].signature[0] ^= 1;
  EXPECT_EQ(seals.look_unasked(identities()[0].id(), told).finding, RosterSeals::Finding::passed_over);
  told.consents[1].signature[0] ^= 1;
  EXPECT_EQ(seals.look_unasked(identities()[0].id(), told).finding, RosterSeals::Finding::does_not_hold);
  told.consents.erase(told.consents.begin() + 1);
  EXPECT_EQ(seals.look_unasked(identities()[0].id(), told).finding, RosterSeals::Finding::does_not_hold);
  EXPECT_EQ(seals.seal(told.commit), nullptr);
}

TEST(RosterSeals, OthersCommitsDoNotPushOutThisNodesOwn) {
  RosterSeals seals(&identities()[1], kRun);
  const SignedCommit own = roster_of_first(3, 7);
  ASSERT_EQ(seals.look(identities()[0].id(), own, true).finding, RosterSeals::Finding::holds);
  std::vector<SignedCommit> foreign;
  for (std::uint32_t times = 0; times <= RosterSeals::kMostForeign; ++times) {
    SignedCommit each = roster_of_first(1, 1);
    each.commit.proposal.ballot.attempt = 10 + times;
    each.consents = {make_consent(identities()[0], kRun, each.commit.proposal)};
    each.seal = make_seal(identities()[0], kRun, each.commit);
    ASSERT_EQ(seals.look(identities()[0].id(), each, true).finding, RosterSeals::Finding::holds);
    foreign.push_back(each);
  }
  ASSERT_NE(seals.seal(own.commit), nullptr);
  EXPECT_EQ(*seals.seal(own.commit), own);
  EXPECT_EQ(seals.seal(foreign.front().commit), nullptr);
  EXPECT_NE(seals.seal(foreign.back().commit), nullptr);
  seals.handle_epoch(12);
  EXPECT_NE(seals.seal(own.commit), nullptr);
  seals.handle_epoch(13);
  EXPECT_EQ(seals.seal(own.commit), nullptr);
}

TEST(RosterSeals, AProposerThatContradictsItselfIsToldOnce) {
  RosterSeals seals(&identities()[1], kRun);
  const PeerId from = identities()[2].id();
  EXPECT_EQ(seals.look(from, roster_of_first(3, 7), true).finding, RosterSeals::Finding::holds);
  EXPECT_EQ(seals.look(from, roster_of_first(3, 5), false).finding, RosterSeals::Finding::contradicts);
  EXPECT_EQ(seals.look(from, roster_of_first(3, 3), false).finding, RosterSeals::Finding::passed_over);
  EXPECT_EQ(seals.look(from, roster_of_first(3, 1), true).finding, RosterSeals::Finding::passed_over);
  // It names this node, and nothing is decided: others begin with it.
  EXPECT_EQ(seals.look(from, roster_of_first(3, 3), true).finding, RosterSeals::Finding::holds);
  EXPECT_NE(seals.seal(roster_of_first(3, 3).commit), nullptr);
  const auto proof = seals.poll_double_commit();
  ASSERT_TRUE(proof.has_value());
  EXPECT_EQ(objection_to(*proof), std::nullopt);
  EXPECT_FALSE(seals.poll_double_commit().has_value());
}

// Acknowledging again and again costs its receiver nothing, and changes nothing.
TEST(RosterSeals, TheFirstAnswerCounts) {
  RosterSeals seals(&identities()[0], kRun);
  const SignedCommit expected = roster_of_first(2, 3);
  const core::Proposal& own = expected.commit.proposal;
  transport::Consent consent = make_consent(identities()[1], kRun, own);
  EXPECT_NE(seals.take(own, identities()[1].id(), std::nullopt), std::nullopt);
  consent.signature[0] ^= 1;
  EXPECT_NE(seals.take(own, identities()[1].id(), consent), std::nullopt);
  consent.signature[0] ^= 1;
  EXPECT_EQ(seals.take(own, identities()[1].id(), consent), std::nullopt);
  consent.signature[0] ^= 1;
  EXPECT_EQ(seals.take(own, identities()[1].id(), consent), std::nullopt);
  ASSERT_NE(seals.seal(expected.commit), nullptr);
  EXPECT_EQ(*seals.seal(expected.commit), expected);
}

// ---- records

TEST(RoundRecords, AreReadBackAsTheyWere) {
  RoundRecord record = record_of(3);
  record.members[1].cut_off = record.members[1].banned = true;
  record.members[1].reason = "slow";
  record.members[1].evidence = "31 kB/s";
  record.members[1].digest.reset();
  record.members[1].contributions_clipped = 1;
  record.members[2].digest = 0;
  record.canceled = record.left_out = true;
  const auto read = parse_round_record(encode(record));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(*read, record);
  EXPECT_EQ(objection_to(*read, identities()[2].id()), std::nullopt);
  record.roster.reset();
  record.members.resize(1);
  const auto alone = parse_round_record(encode(record));
  ASSERT_TRUE(alone.has_value());
  EXPECT_EQ(*alone, record);
  EXPECT_EQ(objection_to(*alone, identities()[0].id()), std::nullopt);
  EXPECT_NE(objection_to(*alone, identities()[1].id()), std::nullopt);
}

// All that a report can hold fits into a statement; texts are cut, on both sides of the limit.
TEST(RoundRecords, TheLargestFits) {
  RoundRecord record = record_of(kMaximumMembers);
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  record.run.run_id = std::string(kMaximumRunIdBytes, 'r');
  for (MemberRecord& member : record.members) {
    member = {.peer = member.peer,
              .contributions_in = kMost,
              .contributions_clipped = kMost,
              .averages_in = kMost,
              .chunks_with_it = kMost,
              .bytes_in = kMost,
              .bytes_out = kMost,
              .cut_off = true,
              .banned = true,
              .reason = std::string(kMaximumReasonBytes, 'a'),
              .evidence = std::string(kMaximumEvidenceBytes, 'b'),
              .digest = kMost};
  }
  record.members[0].reason += "too long";
  record.members[0].evidence += "too long";
  const std::vector<std::byte> file = file_of(record);
  EXPECT_LE(file.size(), transport::kMaximumStatementBytes);
  const auto statement = transport::parse_statement(file);
  ASSERT_TRUE(statement.has_value());
  const auto read = parse_round_record(statement->body);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->members[0].reason, std::string(kMaximumReasonBytes, 'a'));
  EXPECT_EQ(read->members[0].evidence, std::string(kMaximumEvidenceBytes, 'b'));
  EXPECT_EQ(read->members[63], record.members[63]);
  const Coverage all = ~Coverage{0};
  const DoubleCommit both{
      .run = record.run, .first = roster_of_first(64, all), .second = roster_of_first(64, all >> 1U)};
  EXPECT_LE(transport::encode(transport::make_statement(identities()[0], kDoubleCommitDomain, encode(both))).size(),
            transport::kMaximumStatementBytes);
}

// Signed again by its signer after each change, so that only what is inside can give it away.
TEST(RoundRecords, WhatDoesNotFitTogetherIsFound) {
  const PeerId signer = identities()[0].id();
  ASSERT_EQ(objection_to(record_of(3), signer), std::nullopt);
  for (const auto& change : std::vector<void (*)(RoundRecord&)>{
           [](RoundRecord& each) { each.round += 1; }, [](RoundRecord& each) { each.epoch += 1; },
           [](RoundRecord& each) { each.group += 1; }, [](RoundRecord& each) { each.run.run_id = "another"; },
           [](RoundRecord& each) { each.run.fingerprint.high += 1; }, [](RoundRecord& each) { each.roster.reset(); },
           [](RoundRecord& each) { each.members.pop_back(); },
           [](RoundRecord& each) { std::swap(each.members[0], each.members[1]); },
           [](RoundRecord& each) { each.members[1].peer = identities()[9].id(); },
           [](RoundRecord& each) { each.roster->commit.mask = 3; },
           [](RoundRecord& each) { each.roster->commit.proposal.members[1].rate_bytes_per_s = 1; },
           [](RoundRecord& each) { each.roster->consents[1].signature[1] ^= 1; },
           [](RoundRecord& each) { each.roster->seal[1] ^= 1; },
           [](RoundRecord& each) { each.seconds = std::numeric_limits<double>::quiet_NaN(); }}) {
    RoundRecord record = record_of(3);
    change(record);
    const Evidence evidence = judge_evidence("f", file_of(record));
    EXPECT_FALSE(evidence.is_genuine());
  }
  EXPECT_FALSE(judge_evidence("f", file_of(record_of(3), 5)).is_genuine());  // signed by somebody who was not there
}

// Every byte changed, every length cut: no crash, and nothing that was changed is genuine.
TEST(RoundRecords, DamagedBytesAreNeverGenuine) {
  const std::vector<std::byte> bytes = file_of(record_of(2));
  const auto before = transport::parse_statement(bytes);
  ASSERT_TRUE(judge_evidence("f", bytes).is_genuine());
  Random random(3);
  for (std::size_t at = 0; at < bytes.size(); at += 1 + random.below(3)) {
    std::vector<std::byte> damaged = bytes;
    damaged[at] ^= static_cast<std::byte>(1 + random.below(255));
    const Evidence evidence = judge_evidence("f", damaged);
    if (!evidence.is_genuine()) continue;
    // Padding between the fields of a statement is nobody's word.
    ASSERT_TRUE(evidence.statement.has_value());
    EXPECT_EQ(evidence.statement->body, before->body) << at;
    EXPECT_EQ(evidence.statement->signer, before->signer) << at;
  }
  for (std::size_t size = 0; size < bytes.size(); size += 1 + random.below(7)) {
    EXPECT_FALSE(judge_evidence("f", std::span(bytes).first(size)).is_genuine()) << size;
  }
}

// Damage to a body behind a right signature: what only its signer can make. Nothing is read out of bounds.
TEST(RoundRecords, SignedNonsenseIsSafe) {
  const std::vector<std::byte> round = encode(record_of(3));
  const std::vector<std::byte> roster = encode(RosterRecord{kRun, roster_of_first(3, 7)});
  const std::vector<std::byte> both = encode(DoubleCommit{kRun, roster_of_first(3, 7), roster_of_first(3, 5)});
  Random random(4);
  for (int times = 0; times < 20'000; ++times) {
    std::vector<std::byte> damaged = times % 3 == 0 ? round : (times % 3 == 1 ? roster : both);
    for (std::uint64_t n = 1 + random.below(4); n > 0; --n) {
      damaged[random.below(damaged.size())] = static_cast<std::byte>(random.next() & 255U);
    }
    if (random.chance(0.2)) damaged.resize(random.below(damaged.size()));
    static_cast<void>(parse_round_record(damaged));
    static_cast<void>(parse_roster_record(damaged));
    static_cast<void>(parse_double_commit(damaged));
  }
}

TEST(Verification, TellsWhatItIsWhateverItIs) {
  const Evidence report = judge_evidence("a.report", file_of(record_of(3)));
  EXPECT_TRUE(report.is_genuine()) << report.objection;
  EXPECT_NE(describe(report).find("round report, genuine"), std::string::npos);
  EXPECT_EQ(document_of(report)["content"]["round"], 12);
  EXPECT_EQ(document_of(report)["content"]["members"].size(), 3U);
  RoundRecord nasty = record_of(3);
  nasty.members[1].cut_off = true;
  nasty.members[1].reason = "\x1b[2J\xff";
  const Evidence tricky = judge_evidence("a\x1b.report", file_of(nasty));
  EXPECT_TRUE(tricky.is_genuine());
  EXPECT_EQ(describe(tricky).find('\x1b'), std::string::npos);
  EXPECT_NO_THROW(static_cast<void>(document_of(tricky).dump()));
  const auto of_kind = [](std::string_view domain, const std::vector<std::byte>& body) {
    return judge_evidence("f", transport::encode(transport::make_statement(identities()[1], domain, body)));
  };
  EXPECT_TRUE(of_kind(kRosterDomain, encode(RosterRecord{kRun, roster_of_first(3, 5)})).is_genuine());
  EXPECT_FALSE(of_kind(kRosterDomain, encode(RosterRecord{kRun, roster_of_first(3, 7)})).is_genuine());  // it is in it
  EXPECT_FALSE(of_kind(kRosterDomain, encode(RosterRecord{kRun, roster_of_first(1, 1)})).is_genuine());  // nobody asked
  EXPECT_TRUE(of_kind(kDoubleCommitDomain, encode(DoubleCommit{kRun, roster_of_first(3, 7), roster_of_first(3, 5)}))
                  .is_genuine());
  EXPECT_FALSE(of_kind(kDoubleCommitDomain, encode(DoubleCommit{kRun, roster_of_first(3, 7), roster_of_first(3, 7)}))
                   .is_genuine());
  EXPECT_FALSE(of_kind("papilio something 9", {}).is_genuine());
  EXPECT_FALSE(of_kind(kRoundReportDomain, encode(RosterRecord{kRun, roster_of_first(3, 5)})).is_genuine());
  EXPECT_FALSE(judge_evidence("f", {}).is_genuine());
  EXPECT_FALSE(tools::read_evidence("no such file").ok());
}

std::vector<std::string> contradictions(const std::vector<std::pair<RoundRecord, std::uint32_t>>& reports) {
  std::vector<Evidence> evidence;
  for (const auto& [record, signer] : reports) {
    evidence.push_back(judge_evidence(std::to_string(signer), file_of(record, signer)));
    EXPECT_TRUE(evidence.back().is_genuine()) << evidence.back().objection;
  }
  std::vector<std::string> words;
  for (const tools::Contradiction& each : tools::contradictions_among(evidence)) words.push_back(each.what);
  return words;
}

TEST(Verification, ReportsThatAgreeDoNotContradictEachOther) {
  EXPECT_TRUE(contradictions({{record_of(3), 0}, {record_of(3), 1}, {record_of(3), 2}}).empty());
  EXPECT_TRUE(contradictions({{record_of(3), 0}, {record_of(2, 13), 1}}).empty());
}

TEST(Verification, ContradictionsAreNamed) {
  const auto expect_one = [](const std::vector<std::string>& words, const std::string& part) {
    ASSERT_EQ(words.size(), 1U) << part;
    EXPECT_NE(words[0].find(part), std::string::npos) << words[0];
  };
  const RoundRecord one = record_of(3);
  RoundRecord other = record_of(3);
  other.digest = 78;
  other.members[0].digest = one.digest;
  RoundRecord told = one;
  told.members[1].digest = 78;  // by the other, so that only the results differ
  expect_one(contradictions({{told, 0}, {other, 1}}), "results differ");
  told = one;
  told.members[1].digest = 79;
  expect_one(contradictions({{told, 0}, {one, 1}}), "but told");
  RoundRecord cut = one;
  cut.members[2].cut_off = true;
  expect_one(contradictions({{cut, 0}, {one, 1}}), to_hex(identities()[2].id()) + " was cut off by");
  expect_one(contradictions({{one, 0}, {other, 0}}), "two different things");
  // Another mask of the same attempt, signed by its proposer.
  RoundRecord fewer = record_of(3);
  fewer.roster = roster_of_first(3, 3);
  fewer.members.pop_back();
  fewer.group = core::group_hash(core::roster_of(fewer.roster->commit));
  expect_one(contradictions({{one, 2}, {fewer, 1}}), "in two ways");
}

// ---- files

class EvidenceFiles : public ::testing::Test {
 protected:
  EvidenceFiles() {
    std::string pattern = ::testing::TempDir() + "papilio-evidence-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~EvidenceFiles() override { std::filesystem::remove_all(directory_); }
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& each : std::filesystem::directory_iterator(directory_)) names.push_back(each.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  void keep(std::size_t most, const std::vector<std::string>& names) {
    EvidenceKeeper keeper(directory_, most, identities()[0]);
    for (const std::string& name : names) keeper.save(name, kRoundReportDomain, encode(record_of(2)));
  }

  std::string directory_;
};

TEST_F(EvidenceFiles, AreWholeAndGenuineAndNeverOverwritten) {
  keep(100, {"round-1.report", "round-2.report"});
  keep(100, {"round-1.report", "round-1.report"});  // another life of the node
  EXPECT_EQ(files(),
            (std::vector<std::string>{"round-1-2.report", "round-1-3.report", "round-1.report", "round-2.report"}));
  for (const std::string& name : files()) {
    const auto evidence = tools::read_evidence(directory_ + "/" + name);
    ASSERT_TRUE(evidence.ok());
    EXPECT_TRUE(evidence->is_genuine()) << name << evidence->objection;
  }
}

// As many as allowed stay, and one more pushes out the oldest; what is not evidence is left alone.
TEST_F(EvidenceFiles, TheOldestGo) {
  const std::vector<std::string> others = {"a.report", "double-1.roster", "notes.txt", "round-.report",
                                           "round-x.report"};
  const auto with_others = [&](std::vector<std::string> names) {
    names.insert(names.end(), others.begin(), others.end());
    std::sort(names.begin(), names.end());
    return names;
  };
  for (const std::string& name : others) std::ofstream(directory_ + "/" + name) << "mine";
  keep(3, {"round-1-a.report", "round-2-b.report", "round-3-c.report"});
  EXPECT_EQ(files(), with_others({"round-1-a.report", "round-2-b.report", "round-3-c.report"}));
  // Those of an earlier life count, by their age.
  const auto now = std::filesystem::file_time_type::clock::now();
  std::filesystem::last_write_time(directory_ + "/round-3-c.report", now - std::chrono::hours(2));
  std::filesystem::last_write_time(directory_ + "/round-1-a.report", now - std::chrono::hours(1));
  keep(3, {"double-4-d.proof", "left-out-5-e.roster"});
  EXPECT_EQ(files(), with_others({"round-2-b.report", "double-4-d.proof", "left-out-5-e.roster"}));
}

// Two nodes, or two lives of one, may keep theirs in one directory: nobody touches the other's draft.
TEST_F(EvidenceFiles, DraftsAreOnesOwn) {
  const std::string draft = ".evidence-" + to_hex(identities()[1].id()) + "-" + std::to_string(::getpid()) + ".new";
  for (const std::string& name : {draft, std::string(".evidence.new")})
    std::ofstream(directory_ + "/" + name) << "half";
  keep(3, {"round-1-a.report"});
  std::vector<std::string> expected = {draft, ".evidence.new", "round-1-a.report"};
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(files(), expected);
}

// A draft that a crash left behind is no hindrance, and no evidence.
TEST_F(EvidenceFiles, WhatACrashLeftIsNoHindrance) {
  const std::string draft = ".evidence-" + to_hex(identities()[0].id()) + "-" + std::to_string(::getpid()) + ".new";
  std::ofstream(directory_ + "/" + draft) << "half a";
  keep(3, {"a.report"});
  EXPECT_EQ(files(), std::vector<std::string>{"a.report"});
}

TEST_F(EvidenceFiles, ADiskThatFailsCostsNothingElse) {
  const std::string gone = directory_ + "/gone";
  {
    EvidenceKeeper keeper(gone, 3, identities()[0]);
    for (int times = 0; times < 200; ++times) keeper.save("a.report", kRoundReportDomain, encode(record_of(2)));
    while (!keeper.is_failing()) std::this_thread::yield();
    // When the disk is back, what comes is kept again.
    ASSERT_TRUE(std::filesystem::create_directory(gone));
    keeper.save("b.report", kRoundReportDomain, encode(record_of(2)));
  }
  EXPECT_TRUE(std::filesystem::exists(gone + "/b.report"));
}

TEST_F(EvidenceFiles, TheDirectoryIsLookedAtBeforehand) {
  EXPECT_TRUE(EvidenceKeeper::check_directory(directory_).ok());
  const auto missing = EvidenceKeeper::check_directory(directory_ + "/not-there");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().kind, ErrorKind::usage);
  EXPECT_NE(missing.error().message.find("not-there"), std::string::npos);
  std::ofstream(directory_ + "/file") << "x";
  EXPECT_FALSE(EvidenceKeeper::check_directory(directory_ + "/file").ok());
}

}  // namespace
}  // namespace papilio::node
