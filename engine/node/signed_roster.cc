#include "engine/node/signed_roster.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include "engine/base/assert.hpp"

namespace papilio::node {
namespace {

template <typename Integer>
void append(std::vector<std::byte>& bytes, Integer value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i) & 0xffU));
}

void append(std::vector<std::byte>& bytes, const std::array<std::uint8_t, 32>& value) {
  const auto view = std::as_bytes(std::span(value));
  bytes.insert(bytes.end(), view.begin(), view.end());
}

std::vector<std::byte> commit_bytes(std::span<const std::byte> consent, Coverage mask) {
  std::vector<std::byte> bytes;
  append(bytes, transport::sha256(consent));
  append(bytes, mask);
  return bytes;
}

std::optional<std::string> objection_to_consent(std::span<const std::byte> bytes, const PeerId& member,
                                                const transport::Consent& consent) {
  if (transport::peer_id_of(consent.key) != member) return "the key given for " + to_hex(member) + " is not its own";
  if (transport::verify(consent.key, kConsentDomain, bytes, consent.signature)) return std::nullopt;
  return "the signature of " + to_hex(member) + " does not hold";
}

}  // namespace

std::vector<std::byte> consent_bytes(const RunName& run, const core::Proposal& proposal) {
  std::vector<std::byte> bytes;
  append(bytes, transport::sha256(std::as_bytes(std::span(run.run_id))));
  append(bytes, run.fingerprint.low);
  append(bytes, run.fingerprint.high);
  append(bytes, proposal.round);
  append(bytes, proposal.epoch);
  append(bytes, proposal.ballot.attempt);
  append(bytes, proposal.instance);
  append(bytes, proposal.ballot.proposer.bytes);
  append(bytes, proposal.chunk_bytes);
  append(bytes, proposal.timeout_ms);
  append(bytes, static_cast<std::uint32_t>(proposal.members.size()));
  for (const core::RosterEntry& member : proposal.members) {
    append(bytes, member.peer.bytes);
    append(bytes, member.rate_bytes_per_s);
    append(bytes, static_cast<std::uint8_t>(member.reduces ? 1 : 0));
  }
  return bytes;
}

std::vector<std::byte> commit_bytes(const RunName& run, const core::Commit& commit) {
  return commit_bytes(consent_bytes(run, commit.proposal), commit.mask);
}

transport::Consent make_consent(const transport::Identity& identity, const RunName& run,
                                const core::Proposal& proposal) {
  return {.key = identity.public_key(), .signature = identity.sign(kConsentDomain, consent_bytes(run, proposal))};
}

transport::Signature make_seal(const transport::Identity& proposer, const RunName& run, const core::Commit& commit) {
  return proposer.sign(kCommitDomain, commit_bytes(run, commit));
}

std::optional<std::string> objection_to(const RunName& run, const core::Proposal& proposal, const PeerId& member,
                                        const transport::Consent& consent) {
  return objection_to_consent(consent_bytes(run, proposal), member, consent);
}

std::optional<std::string> objection_to(const RunName& run, const SignedCommit& told, const SignedCommit* held,
                                        std::span<const PeerId> first) {
  const core::Commit& commit = told.commit;
  PAPILIO_ASSERT(core::judge(commit) == core::RosterVerdict::accepted);
  if (told.consents.empty()) return "it is not signed";
  if (told.consents.size() != static_cast<std::size_t>(std::popcount(commit.mask))) {
    return std::to_string(told.consents.size()) + " signatures for " + std::to_string(std::popcount(commit.mask)) +
           " members";
  }
  const std::vector<std::byte> bytes = consent_bytes(run, commit.proposal);
  const transport::PublicKey* proposer_key = nullptr;
  std::size_t next = 0;
  // The proposer's first: without it, whoever sent this made it up.
  for (MemberIndex member = 0; member < commit.proposal.members.size(); ++member) {
    if ((commit.mask & coverage_of(member)) == 0) continue;
    if (commit.proposal.members[member].peer == commit.proposal.ballot.proposer)
      proposer_key = &told.consents[next].key;
    next += 1;
  }
  if (transport::peer_id_of(*proposer_key) != commit.proposal.ballot.proposer) {
    return "the key given for its proposer is not its own";
  }
  const bool seal_is_known = held != nullptr && held->seal == told.seal;
  if (!seal_is_known && !transport::verify(*proposer_key, kCommitDomain, commit_bytes(bytes, commit.mask), told.seal)) {
    return "its proposer's signature does not hold";
  }
  const auto comes_first = [&](const PeerId& member) {
    return member == commit.proposal.ballot.proposer || std::find(first.begin(), first.end(), member) != first.end();
  };
  for (const bool is_first_pass : {true, false}) {
    next = 0;
    for (MemberIndex member = 0; member < commit.proposal.members.size(); ++member) {
      if ((commit.mask & coverage_of(member)) == 0) continue;
      const std::size_t at = next++;
      const PeerId& peer = commit.proposal.members[member].peer;
      if (comes_first(peer) != is_first_pass) continue;
      if (held != nullptr && held->consents[at] == told.consents[at]) continue;
      if (auto objection = objection_to_consent(bytes, peer, told.consents[at])) return objection;
    }
  }
  return std::nullopt;
}

bool contradict(const core::Commit& one, const core::Commit& other) {
  const core::Proposal& first = one.proposal;
  const core::Proposal& second = other.proposal;
  return first.round == second.round && first.ballot == second.ballot && first.instance == second.instance &&
         one != other;
}

}  // namespace papilio::node
