// Rosters under any sequence of what peers may say and a shell may tell: proposals, answers and commits, forged ones
// among them, peers that come and go, and time. What is decided is a roster that this node agreed to.
#include <optional>

#include "engine/core/roster.hpp"
#include "tests/fuzz/draws.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kPeers = 5;  // known by name; the first is this node

PeerId id_of(std::uint32_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

class Shell {
 public:
  explicit Shell(Draws& draws)
      : draws_(draws),
        rostering_({.self = id_of(0),
                    .is_miner = (is_miner_ = draws.byte() < 0xe0),
                    .rate_bytes_per_s = 1000,
                    .elements = draws.number() % kMaximumElements}) {
    for (std::uint32_t number = 1; number < kPeers; ++number) {
      rostering_.handle_peer(now_,
                             {.id = id_of(number), .is_miner = number != 4, .rate_bytes_per_s = 1000, .epoch = 0});
    }
  }

  void run() {
    settle();
    while (!draws_.is_empty()) {
      step();
      settle();
    }
  }

 private:
  PeerId peer() { return draws_.peer(kPeers); }
  void step() {
    switch (draws_.below(13)) {
      case 0: {
        const PeerId from = peer();
        return judge(rostering_.handle_proposal(now_, from, good_proposal(from)));
      }
      case 1: {
        const PeerId from = peer();
        return judge(rostering_.handle_proposal(now_, from, any_proposal()));
      }
      case 2: return answer();
      case 3: return commit();
      case 4: {
        RosterPeer told{.id = peer(),
                        .is_miner = draws_.byte() < 0xd0,
                        .takes_part = draws_.byte() < 0xe0,
                        .rate_bytes_per_s = draws_.byte() < 0xe0 ? 1000 : draws_.number() % (kMaximumRate + 1),
                        .is_local_host = draws_.chance(),
                        .epoch = std::nullopt,
                        .banned = {}};
        if (draws_.byte() < 0xf0) told.epoch = draws_.byte() < 0xc0 ? rostering_.epoch() : draws_.number();
        told.banned.resize(draws_.byte() < 0xe0 ? 0 : draws_.below(4));
        for (PeerId& each : told.banned) each = peer();
        return rostering_.handle_peer(now_, told);
      }
      case 5: {  // nobody is linked to itself
        const PeerId gone = peer();
        if (gone != id_of(0)) rostering_.handle_peer_left(now_, gone);
        return;
      }
      case 6: return rostering_.handle_due(now_, draws_.byte() < 0xe0);
      case 7: now_ += milliseconds(20) * draws_.byte(); return tell_time();
      case 8:
        if (rostering_.next_deadline() != kNever) now_ = std::max(now_, rostering_.next_deadline());
        return tell_time();
      case 9: {
        std::vector<PeerId> banned(draws_.below(3));
        for (PeerId& each : banned) each = peer();
        return rostering_.handle_bans(banned);
      }
      case 10: {
        std::vector<PeerId> lost(draws_.below(3));
        for (PeerId& each : lost) each = peer();
        const std::uint64_t beyond = draws_.byte() < 0xf0 ? 1 : 1 + draws_.number() / 2;
        if (rostering_.epoch() > (std::uint64_t{1} << 62U)) return;
        return rostering_.handle_epoch(now_, rostering_.epoch() + beyond, lost);
      }
      default: return agree();
    }
  }

  // A proposal that this node could well accept.
  Proposal good_proposal(const PeerId& proposer) {
    Proposal proposal{.round = rostering_.epoch() + 1,
                      .epoch = rostering_.epoch(),
                      .ballot = {1 + draws_.number32() % 300, proposer},
                      .members = {},
                      .chunk_bytes = 65536,
                      .timeout_ms = 1000};
    const std::uint8_t without = draws_.byte() < 0xc0 ? 0 : draws_.byte();
    for (std::uint32_t number = 0; number < kPeers; ++number) {
      if ((without >> number & 1U) != 0) continue;
      proposal.members.push_back({id_of(number), 1000, number == 0 ? is_miner_ : number != 4});
    }
    return proposals_.emplace_back(std::move(proposal));
  }
  Proposal any_proposal() {
    Proposal proposal = draws_.chance() && !proposals_.empty() ? proposals_.back() : good_proposal(peer());
    switch (draws_.below(7)) {
      case 0: proposal.round = draws_.number(); break;
      case 1: proposal.epoch = draws_.number(); break;
      case 2: proposal.ballot = {draws_.number32(), peer()}; break;
      case 3: proposal.chunk_bytes = draws_.number32(); break;
      case 4: proposal.timeout_ms = draws_.number32(); break;
      case 5: proposal.epoch = rostering_.epoch() + 1, proposal.round = proposal.epoch + 1; break;
      default:
        proposal.members.resize(draws_.below(kMaximumMembers + 6));
        for (RosterEntry& member : proposal.members) member = {peer(), draws_.number(), draws_.chance()};
        if (draws_.chance()) {
          std::sort(proposal.members.begin(), proposal.members.end(),
                    [](const auto& one, const auto& other) { return one.peer < other.peer; });
        }
    }
    return proposals_.emplace_back(std::move(proposal));
  }
  Proposal some_proposal() {
    if (own_ && draws_.chance()) return *own_;
    return proposals_.empty() ? good_proposal(peer()) : proposals_[draws_.byte() % proposals_.size()];
  }
  void answer() {
    const PeerId from = peer();
    const Proposal proposal = some_proposal();
    RosterAnswer answer{.round = proposal.round,
                        .ballot = proposal.ballot,
                        .answer = static_cast<Answer>(draws_.below(static_cast<int>(kLastAnswer) + 1)),
                        .promised = {draws_.number32(), peer()},
                        .epoch = draws_.number()};
    if (draws_.byte() >= 0xf0) answer.round = draws_.number();
    FUZZ_CHECK(!to_string(answer.answer).empty());
    judge(rostering_.handle_answer(now_, from, answer));
  }
  void commit() {
    const PeerId from = peer();
    Commit commit{.proposal = some_proposal(), .mask = draws_.byte() < 0xc0 ? 31 : draws_.number()};
    if (draws_.byte() >= 0xf0) commit.proposal = any_proposal();
    judge(rostering_.handle_commit(now_, from, commit));
  }
  // Everybody acknowledges what this node has proposed.
  void agree() {
    if (!own_ || !rostering_.is_proposing()) return;
    const Proposal proposal = *own_;
    for (const RosterEntry& member : proposal.members) {
      judge(rostering_.handle_answer(now_, member.peer, {.round = proposal.round, .ballot = proposal.ballot}));
    }
  }
  static void judge(RosterVerdict verdict) { FUZZ_CHECK(!to_string(verdict).empty()); }

  void tell_time() {
    for (std::uint32_t times = 0; times == 0 || rostering_.next_deadline() <= now_; ++times) {
      FUZZ_CHECK(times < 100);  // it would spin
      rostering_.handle_time(now_);
      settle();
    }
  }
  void settle() {
    for (std::uint32_t messages = 0; const auto message = rostering_.poll_message(); ++messages) {
      FUZZ_CHECK(messages < 1000 && !message->to.empty());
      for (const PeerId& to : message->to) FUZZ_CHECK(to != id_of(0));
      if (const auto* proposal = std::get_if<Proposal>(&message->content)) {
        FUZZ_CHECK(is_miner_ && proposal->ballot.proposer == id_of(0) && proposal->epoch == rostering_.epoch());
        own_ = *proposal;
      }
    }
    if (proposals_.size() > 64) proposals_.erase(proposals_.begin(), proposals_.begin() + 32);
    const auto& decided = rostering_.decided();
    if (!decided) return;
    const Roster roster = roster_of(*decided);
    FUZZ_CHECK(decided->proposal.epoch == rostering_.epoch() && roster.round == rostering_.epoch() + 1);
    FUZZ_CHECK(!roster.members.empty() && roster.members.size() <= kMaximumMembers);
    FUZZ_CHECK(group_hash(roster) == group_hash(roster_of(*decided)));
    bool names_self = false;
    for (const RosterEntry& member : roster.members) {
      names_self |= member.peer == id_of(0) && member.reduces == is_miner_ && member.rate_bytes_per_s == 1000;
      FUZZ_CHECK(member.rate_bytes_per_s <= kMaximumRate);
    }
    FUZZ_CHECK(names_self);
  }

  Draws& draws_;
  TimePoint now_{seconds(10)};
  bool is_miner_ = true;
  Rostering rostering_;
  std::vector<Proposal> proposals_;  // of others, said or not
  std::optional<Proposal> own_;      // the latest
};

}  // namespace

std::vector<Bytes> seeds() {
  return {
      bytes_of({0, 100, 6, 0, 8, 12}),                                          // it proposes, and all agree
      bytes_of({0, 100, 0, 1, 0, 0, 3, 1, 0, 0, 0, 0, 10, 0, 0}),               // another's proposal, committed
      bytes_of({0, 100, 0, 1, 0, 0, 0, 2, 5, 0, 8, 3, 2, 1, 0, 0}),             // bound to one while another asks
      bytes_of({0, 100, 6, 0, 8, 2, 1, 0, 1, 1, 1, 0, 2, 2, 0, 2, 7, 100, 8}),  // outbid, and again
      bytes_of({0, 100, 0, 1, 0, 0, 5, 1, 7, 100, 4, 1, 0, 0, 0, 0, 0, 0, 0}),  // the proposer is lost, and back
  };
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::Shell(draws).run();
  return 0;
}
