// Evidence of rounds: any bytes as the body of a report, a roster or a double commit, which its signer may have signed
// genuinely, with the signatures inside as they came or made good. What is taken is encoded again and reads the same;
// what its signatures say is asked of it as a node and a verifier ask.
#include <algorithm>
#include <array>

#include "engine/node/roster_seals.hpp"
#include "engine/node/round_record.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "transport/statement.hpp"

namespace papilio::fuzz {
namespace {

using node::RosterSeals;
using node::SignedCommit;

constexpr std::uint8_t kKinds = 3;

// In order of their ids, as members are.
const std::array<transport::Identity, 3>& members() {
  static const auto made = [] {
    std::array all = {transport::Identity::from_seed({1, 9}), transport::Identity::from_seed({2, 9}),
                      transport::Identity::from_seed({3, 9})};
    std::sort(all.begin(), all.end(), [](const auto& one, const auto& other) { return one.id() < other.id(); });
    return all;
  }();
  return made;
}

const node::RunName& run_name() {
  static const node::RunName run{"papilio", {1, 2}};
  return run;
}

const transport::Identity* member_called(const PeerId& id) {
  const auto found =
      std::find_if(members().begin(), members().end(), [&](const auto& each) { return each.id() == id; });
  return found == members().end() ? nullptr : &*found;
}

// As its members would have signed it; consents of others stay as they are.
void sign(const node::RunName& run, SignedCommit& roster) {
  const core::Proposal& proposal = roster.commit.proposal;
  std::vector<transport::Consent> consents;
  std::size_t next = 0;
  for (MemberIndex member = 0; member < proposal.members.size(); ++member) {
    if ((roster.commit.mask & coverage_of(member)) == 0) continue;
    const transport::Consent told = next < roster.consents.size() ? roster.consents[next] : transport::Consent{};
    next += 1;
    const transport::Identity* const known = member_called(proposal.members[member].peer);
    consents.push_back(known != nullptr ? node::make_consent(*known, run, proposal) : told);
  }
  roster.consents = std::move(consents);
  const transport::Identity* const proposer = member_called(proposal.ballot.proposer);
  if (proposer != nullptr) roster.seal = node::make_seal(*proposer, run, roster.commit);
}

SignedCommit roster_of(Coverage mask) {
  SignedCommit roster;
  core::Proposal& proposal = roster.commit.proposal;
  proposal = {.round = 12,
              .epoch = 11,
              .ballot = {2, members()[0].id()},
              .members = {},
              .chunk_bytes = 65536,
              .timeout_ms = 1000,
              .instance = 5};
  for (const transport::Identity& member : members()) proposal.members.push_back({member.id(), 1000, true});
  roster.commit.mask = mask;
  sign(run_name(), roster);
  return roster;
}

node::RoundRecord report() {
  node::RoundRecord record{.run = run_name(),
                           .round = 12,
                           .epoch = 11,
                           .group = 0,
                           .roster = roster_of(7),
                           .digest = 77,
                           .members = {},
                           .chunks = 10,
                           .local_chunks = 1,
                           .coverage = 0.9,
                           .samples = 64,
                           .seconds = 0.5,
                           .ended_at = 1'800'000'000};
  record.group = core::group_hash(core::roster_of(record.roster->commit));
  for (const transport::Identity& member : members()) {
    node::MemberRecord each;
    each.peer = member.id();
    each.reason = "slow";
    each.evidence = "31 kB/s";
    each.digest = 77;
    record.members.push_back(std::move(each));
  }
  return record;
}

// As a node looks at it, told by a peer: found good once, it is good again, and can be passed on.
void try_commit(const node::RunName& run, const SignedCommit& told) {
  if (core::judge(told.commit) != core::RosterVerdict::accepted) return;
  const bool holds = !node::objection_to(run, told);
  RosterSeals seals(&members()[1], run);
  const RosterSeals::Look first = seals.look(members()[2].id(), told, true);
  FUZZ_CHECK((first.finding == RosterSeals::Finding::holds) == holds);
  FUZZ_CHECK(holds == first.objection.empty());
  FUZZ_CHECK((seals.seal(told.commit) != nullptr) == holds ||
             told.commit.proposal.ballot.proposer == members()[1].id());
  if (holds) FUZZ_CHECK(seals.look(members()[2].id(), told, false).finding == RosterSeals::Finding::holds);
  if (seals.names_own(told.commit)) {
    const RosterSeals::Look unasked = seals.look_unasked(members()[2].id(), told);
    FUZZ_CHECK(unasked.finding != RosterSeals::Finding::holds);
    FUZZ_CHECK(!holds || unasked.finding == RosterSeals::Finding::passed_over);
  }
}

template <typename Record>
void try_read(const std::optional<Record>& read, std::optional<Record> (*parse)(std::span<const std::byte>)) {
  const auto bytes = node::encode(*read);
  const auto again = parse(bytes);
  FUZZ_CHECK(again && node::encode(*again) == bytes);
}

void try_body(std::uint8_t kind, std::span<const std::byte> body, bool is_made_good) {
  if (kind == 0) {
    auto read = node::parse_round_record(body);
    if (!read) return;
    try_read(read, node::parse_round_record);
    const bool has_commit = read->roster && core::judge(read->roster->commit) == core::RosterVerdict::accepted;
    if (is_made_good && has_commit) sign(read->run, *read->roster);
    for (const auto& member : members()) static_cast<void>(node::objection_to(*read, member.id()));
    if (read->roster) try_commit(read->run, *read->roster);
  } else if (kind == 1) {
    auto read = node::parse_roster_record(body);
    if (!read) return;
    try_read(read, node::parse_roster_record);
    if (is_made_good && core::judge(read->roster.commit) == core::RosterVerdict::accepted)
      sign(read->run, read->roster);
    for (const auto& member : members()) static_cast<void>(node::objection_to(*read, member.id()));
    try_commit(read->run, read->roster);
  } else {
    auto read = node::parse_double_commit(body);
    if (!read) return;
    try_read(read, node::parse_double_commit);
    for (SignedCommit* each : {&read->first, &read->second}) {
      if (is_made_good && core::judge(each->commit) == core::RosterVerdict::accepted) sign(read->run, *each);
      try_commit(read->run, *each);
    }
    const bool is_proof = !node::objection_to(*read);
    FUZZ_CHECK(!is_proof || node::contradict(read->first.commit, read->second.commit));
  }
}

constexpr std::array<std::string_view, kKinds> kDomains = {node::kRoundReportDomain, node::kRosterDomain,
                                                           node::kDoubleCommitDomain};

}  // namespace

std::vector<Bytes> seeds() {
  const std::array<Bytes, kKinds> bodies = {node::encode(report()),
                                            node::encode(node::RosterRecord{run_name(), roster_of(5)}),
                                            node::encode(node::DoubleCommit{run_name(), roster_of(7), roster_of(5)})};
  std::vector<Bytes> all;
  for (std::uint8_t kind = 0; kind < kKinds; ++kind) {
    const Bytes statement = transport::encode(transport::make_statement(members()[0], kDomains[kind], bodies[kind]));
    for (const auto& [how, rest] : {std::pair{0, bodies[kind]}, std::pair{1, bodies[kind]}, std::pair{2, statement}}) {
      Bytes seed = {static_cast<std::byte>(kind + kKinds * how)};
      seed.insert(seed.end(), rest.begin(), rest.end());
      all.push_back(std::move(seed));
    }
  }
  return all;
}

}  // namespace papilio::fuzz

// The first byte: of which kind the rest is, and whether it is a body, one whose rosters are to be signed anew and that
// is then signed as a whole, or a statement.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  constexpr std::size_t kMostBytes = 8192;
  if (size < 1 || size > kMostBytes) return 0;
  const std::uint8_t kind = data[0] % kKinds;
  const int how = data[0] / kKinds % 3;
  const auto rest = std::as_bytes(std::span(data, size)).subspan(1);
  if (how < 2) try_body(kind, rest, how == 1);
  if (how == 1) {
    const auto made = papilio::transport::make_statement(members()[0], kDomains[kind], rest);
    const auto read = papilio::transport::parse_statement(papilio::transport::encode(made));
    FUZZ_CHECK(read && read->body == made.body);
  } else if (how == 2) {
    const auto statement = papilio::transport::parse_statement(rest);
    if (statement) try_body(kind, statement->body, false);
  }
  return 0;
}
