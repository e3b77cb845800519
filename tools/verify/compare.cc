#include "tools/verify/compare.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "engine/core/roster.hpp"
#include "tools/node/text.hpp"

namespace papilio::tools {
namespace {

using node::RoundRecord;
using node::SignedCommit;

constexpr std::size_t kIdDigits = 8;

// A report with its signer.
struct Witness {
  const Evidence* evidence = nullptr;
  const RoundRecord* record = nullptr;
  PeerId signer;
};

// A roster that some file holds.
struct Held {
  const Evidence* evidence = nullptr;
  const SignedCommit* roster = nullptr;
};

struct OneRound {
  std::string run_id;
  RoundId round = 0;
  std::vector<Witness> witnesses;
  std::vector<Held> rosters;
};

using RoundKey = std::tuple<std::string, Fingerprint, RoundId>;

std::string hex(std::uint64_t value) { return hexadecimal(value, 16); }

class Comparison {
 public:
  explicit Comparison(const OneRound& round) : round_(round) {}

  std::vector<Contradiction> run() {
    compare_rosters();
    for (std::size_t one = 0; one < round_.witnesses.size(); ++one) {
      for (std::size_t other = one + 1; other < round_.witnesses.size(); ++other) {
        compare(round_.witnesses[one], round_.witnesses[other]);
      }
    }
    compare_members();
    return std::move(found_);
  }

 private:
  void add(std::string what, std::vector<std::string> files) {
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    found_.push_back({round_.run_id, round_.round, std::move(what), std::move(files)});
  }

  // Each pair of words once, however many files hold it.
  void compare_rosters() {
    std::vector<Held> distinct;
    for (const Held& held : round_.rosters) {
      const auto is_same = [&](const Held& each) { return each.roster->commit == held.roster->commit; };
      if (std::none_of(distinct.begin(), distinct.end(), is_same)) distinct.push_back(held);
    }
    for (std::size_t one = 0; one < distinct.size(); ++one) {
      for (std::size_t other = one + 1; other < distinct.size(); ++other) {
        compare(distinct[one], distinct[other]);
      }
    }
  }

  void compare(const Held& one, const Held& other) {
    const core::Commit& first = one.roster->commit;
    const core::Commit& second = other.roster->commit;
    const std::vector<std::string> files = {one.evidence->file, other.evidence->file};
    const std::string proposer = to_hex(first.proposal.ballot.proposer, kIdDigits);
    if (node::contradict(first, second)) {
      add(proposer + " committed attempt " + std::to_string(first.proposal.ballot.attempt) +
              " in two ways and signed both: members " + hex(first.mask) + " and " + hex(second.mask),
          files);
      return;
    }
    add("it began with different rosters: of " + std::to_string(one.roster->consents.size()) + " members by " +
            proposer + ", and of " + std::to_string(other.roster->consents.size()) + " by " +
            to_hex(second.proposal.ballot.proposer, kIdDigits),
        files);
  }

  void compare(const Witness& one, const Witness& other) {
    const std::vector<std::string> files = {one.evidence->file, other.evidence->file};
    if (one.signer == other.signer) {
      if (*one.record != *other.record) add(to_hex(one.signer, kIdDigits) + " says two different things of it", files);
      return;
    }
    if (one.record->group != other.record->group) return;  // said of the rosters
    if (one.record->digest != other.record->digest) {
      add("results differ: " + to_hex(one.signer, kIdDigits) + " ended with " + hex(one.record->digest) + ", " +
              to_hex(other.signer, kIdDigits) + " with " + hex(other.record->digest),
          files);
    }
    compare_told(one, other, files);
    compare_told(other, one, files);
  }

  // What one member told another at the time, and what it signs.
  void compare_told(const Witness& listener, const Witness& teller, const std::vector<std::string>& files) {
    for (const node::MemberRecord& member : listener.record->members) {
      if (member.peer != teller.signer || !member.digest || *member.digest == teller.record->digest) continue;
      add(to_hex(teller.signer, kIdDigits) + " signs the result " + hex(teller.record->digest) + ", but told " +
              to_hex(listener.signer, kIdDigits) + " " + hex(*member.digest),
          files);
    }
  }

  // Whom some cut off and others counted in.
  void compare_members() {
    std::map<std::pair<std::uint64_t, PeerId>, std::pair<std::vector<const Witness*>, std::vector<const Witness*>>>
        said;
    for (const Witness& witness : round_.witnesses) {
      for (const node::MemberRecord& member : witness.record->members) {
        if (member.peer == witness.signer) continue;
        auto& [cut_off, counted_in] = said[{witness.record->group, member.peer}];
        if (member.cut_off) {
          cut_off.push_back(&witness);
        } else if (member.contributions_in + member.averages_in + member.chunks_with_it > 0) {
          counted_in.push_back(&witness);
        }
      }
    }
    for (const auto& [key, sides] : said) {
      const auto& [cut_off, counted_in] = sides;
      if (cut_off.empty() || counted_in.empty()) continue;
      std::vector<std::string> files;
      for (const auto* side : {&cut_off, &counted_in}) {
        for (const Witness* witness : *side) files.push_back(witness->evidence->file);
      }
      add(to_hex(key.second, kIdDigits) + " was cut off by " + names(cut_off) + ", and counted in by " +
              names(counted_in),
          std::move(files));
    }
  }

  static std::string names(const std::vector<const Witness*>& witnesses) {
    std::string text;
    for (const Witness* witness : witnesses) {
      text += (text.empty() ? "" : " ") + to_hex(witness->signer, kIdDigits);
    }
    return text;
  }

  const OneRound& round_;
  std::vector<Contradiction> found_;
};

}  // namespace

std::vector<Contradiction> contradictions_among(std::span<const Evidence> evidence) {
  std::map<RoundKey, OneRound> rounds;
  const auto round_of = [&](const node::RunName& run, RoundId round) -> OneRound& {
    OneRound& found = rounds[{run.run_id, run.fingerprint, round}];
    found.run_id = run.run_id;
    found.round = round;
    return found;
  };
  for (const Evidence& each : evidence) {
    if (!each.is_genuine()) continue;
    if (const auto* record = std::get_if<RoundRecord>(&each.content)) {
      OneRound& round = round_of(record->run, record->round);
      round.witnesses.push_back({&each, record, each.statement->signer_id()});
      if (record->roster) round.rosters.push_back({&each, &*record->roster});
    } else if (const auto* roster = std::get_if<node::RosterRecord>(&each.content)) {
      round_of(roster->run, roster->roster.commit.proposal.round).rosters.push_back({&each, &roster->roster});
    } else if (const auto* both = std::get_if<node::DoubleCommit>(&each.content)) {
      OneRound& round = round_of(both->run, both->first.commit.proposal.round);
      round.rosters.push_back({&each, &both->first});
      round.rosters.push_back({&each, &both->second});
    }
  }
  std::vector<Contradiction> found;
  for (const auto& [key, round] : rounds) {
    for (Contradiction& each : Comparison(round).run()) found.push_back(std::move(each));
  }
  return found;
}

}  // namespace papilio::tools
