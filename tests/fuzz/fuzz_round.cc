// One member's round under any sequence of what a shell may tell it: shards, words and losses from members that say
// anything, at any time. It keeps its invariants, has always something sensible to do next, and is over at its
// deadline.
#include <deque>
#include <utility>

#include "engine/core/round.hpp"
#include "tests/fuzz/draws.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{seconds(100)};
constexpr Duration kTimeout = seconds(30);

class Shell {
 public:
  explicit Shell(Draws& draws) : draws_(draws), round_(config_from(draws), plan_) { now_ = kStart; }

  void run() {
    settle();
    while (!draws_.is_empty() && !round_.is_over()) {
      step();
      settle();
    }
    if (draws_.chance()) round_.cancel();
    settle();
    now_ = std::max(now_, kStart + kTimeout);
    tell_time();
    while (work()) {
    }
    settle();
    expect_over();
  }

 private:
  RoundConfig config_from(Draws& draws) {
    const std::uint32_t members = 1 + (draws.byte() < 0xf0 ? draws.below(5) : draws.below(kMaximumMembers));
    std::vector<PlanMember> plan_members(members);
    RoundConfig config{.round = 7,
                       .self = draws.below(members),
                       .weight = draws.chance() ? 1.0 : 3.0,
                       .start = kStart,
                       .reduce_by = kStart + seconds(18),
                       .settle_by = kStart + seconds(25),
                       .deadline = kStart + kTimeout,
                       .reducers = 0,
                       .averages_first = draws.chance()};
    const std::uint8_t clients = draws.byte();
    for (MemberIndex member = 0; member < members; ++member) {
      plan_members[member].reduces = clients < 0x80 || (clients >> (member % 7) & 1U) != 0;
      if (draws.byte() >= 0xf0) plan_members[member].rate = static_cast<double>(draws.number() % 1'000'000'000'000U);
      if (plan_members[member].reduces) config.reducers |= coverage_of(member);
      config.rates.push_back(plan_members[member].rate);
    }
    plan_ = PartitionPlan::make(draws.number() % 300, plan_members, draws.chance() ? 16 : 64);
    return config;
  }

  MemberIndex other() {
    const MemberIndex member = draws_.below(round_.members());
    return member == self() ? (member + 1) % round_.members() : member;
  }
  [[nodiscard]] MemberIndex self() const { return round_.config().self; }
  ChunkIndex chunk() {
    const std::uint64_t any = draws_.number();
    const ChunkIndex count = plan_.chunk_count();
    return any >= 0xe0 || count == 0 ? static_cast<ChunkIndex>(any) : static_cast<ChunkIndex>(any % count);
  }
  std::uint64_t elements(ChunkIndex chunk) {
    const bool is_right = draws_.byte() < 0xf8 && chunk < plan_.chunk_count();
    return is_right ? plan_.chunk(chunk).size : draws_.number();
  }
  double weight() { return draws_.byte() < 0xf0 ? 1.0 : draws_.real(); }
  ChunkBits bits() {
    ChunkBits bits(draws_.byte() % 4);
    for (std::uint64_t& word : bits) word = draws_.number();
    return bits;
  }

  void step() {
    const std::uint32_t what = draws_.below(17);
    if (round_.members() == 1 && what < 11) return;
    switch (what) {
      case 0: return contribute();
      case 1: return average();
      case 2: return round_.handle_done(other());
      case 3: {
        const MemberIndex from = other();
        const MemberIndex member = draws_.below(round_.members() + 1);
        return judge(from, round_.handle_suspect(from, member, draws_.chance()));
      }
      case 4: {
        const MemberIndex from = other(), part = draws_.below(round_.members() + 1);
        return judge(from, round_.handle_takeover(from, part, draws_.below(round_.members() + 1)));
      }
      case 5: {
        const MemberIndex from = other(), part = draws_.below(round_.members());
        const std::uint32_t distance = draws_.below(round_.members());
        const ChunkBits held = bits();
        return judge(from, round_.handle_holdings(from, part, distance, held, bits()));
      }
      case 6: {
        const MemberIndex from = other(), part = draws_.below(round_.members());
        const ChunkBits contributions = bits();
        return judge(from, round_.handle_wanted(from, part, contributions, bits()));
      }
      case 7: return cut_off(other(), static_cast<CutOff>(1 + draws_.below(static_cast<int>(CutOff::wild_norm))));
      case 8: static_cast<void>(round_.handle_resumed(other())); return;
      case 9: return observe();
      case 10: {
        const MemberIndex to = other();
        if (const auto order = round_.poll_send(to)) sending_.emplace_back(to, *order);
        return;
      }
      case 11:
        if (sending_.empty()) return;
        round_.handle_sent(sending_.front().first, sending_.front().second);
        return sending_.pop_front();
      case 12: static_cast<void>(work()); return;
      case 13:
        while (work()) {
        }
        return;
      case 14: now_ += milliseconds(50) * draws_.byte(); return tell_time();
      case 15: now_ = std::max(now_, std::min(round_.next_deadline(), kStart + kTimeout)); return tell_time();
      default:
        if (draws_.byte() > 0xf8) round_.cancel();
    }
  }

  void contribute() {
    const MemberIndex from = other();
    const ChunkIndex index = chunk();
    const double its_weight = weight();
    const Verdict verdict = round_.check_contribution(from, index, its_weight, elements(index));
    FUZZ_CHECK(!to_string(verdict).empty());
    if (verdict != Verdict::accept) return judge(from, verdict);
    const auto reduction = round_.handle_contribution(from, index, its_weight);
    FUZZ_CHECK(reduction.has_value());
    FUZZ_CHECK(reduction->inverse_total > 0 && reduction->weight > 0);
    jobs_.push_back(index);
    if (draws_.chance()) static_cast<void>(work());
  }
  void average() {
    const MemberIndex from = other();
    const ChunkIndex index = chunk();
    const MemberIndex reducer = draws_.byte() < 0xc0 ? from : draws_.below(round_.members() + 1);
    Coverage coverage = draws_.number();
    if (draws_.chance() && reducer < kMaximumMembers) coverage |= coverage_of(reducer);
    const double total = weight();
    const Verdict verdict = round_.check_average(from, index, reducer, coverage, total, elements(index));
    FUZZ_CHECK(!to_string(verdict).empty());
    if (verdict != Verdict::accept) return judge(from, verdict);
    FUZZ_CHECK(round_.handle_average(from, index, reducer, coverage, total));
    FUZZ_CHECK(round_.coverage(index) == coverage && round_.reducer(index) == reducer);
  }
  // As the shell does with who says what no member may say.
  void judge(MemberIndex from, Verdict verdict) {
    if (is_violation(verdict)) cut_off(from, CutOff::protocol);
  }
  void cut_off(MemberIndex member, CutOff reason) {
    round_.handle_cut_off(member, reason);
    std::erase_if(sending_, [&](const auto& each) { return each.first == member; });
  }
  void observe() {
    const MemberIndex member = other();
    Lateness& lateness = round_.lateness();
    switch (draws_.below(5)) {
      case 0: return lateness.handle_bytes(member, now_, draws_.number() % (std::uint64_t{1} << 50U));
      case 1: return lateness.handle_heard(member, now_);
      case 2: return lateness.handle_round_trip(member, milliseconds(draws_.byte()));
      case 3: return lateness.handle_waiting(member, draws_.number());
      default: return lateness.handle_held_back(member, draws_.chance());
    }
  }
  bool work() {
    if (jobs_.empty()) return false;
    round_.handle_reduced(jobs_.front());
    jobs_.pop_front();
    take_finalisations();
    return true;
  }
  void take_finalisations() {
    while (const auto order = round_.poll_finalisation()) {
      FUZZ_CHECK(order->inverse_total > 0);
      jobs_.push_back(order->chunk);
    }
  }
  void tell_time() {
    // Those who are lost over it are dated at the next call, and so on; but not for ever.
    for (std::uint32_t times = 0; times == 0 || (round_.next_deadline() <= now_ && jobs_.empty()); ++times) {
      FUZZ_CHECK(times < 3 * kMaximumMembers);
      round_.handle_time(now_);
      settle();
    }
  }
  // After every event, as a shell does.
  void settle() {
    take_finalisations();
    for (std::uint32_t notices = 0; const auto notice = round_.poll_notice(); ++notices) {
      FUZZ_CHECK(notices < 100'000);
      FUZZ_CHECK(!to_string(notice->kind).empty());
      FUZZ_CHECK(notice->to == kEverybody || notice->to < round_.members());
      if (notice->kind != Notice::Kind::cut_off) continue;
      FUZZ_CHECK(round_.cut_off(notice->member) != CutOff::none && !round_.is_live(notice->member));
      std::erase_if(sending_, [&](const auto& each) { return each.first == notice->member; });
    }
    round_.check_invariants();
    FUZZ_CHECK((round_.waiting_for() & ~round_.live()) == 0);
  }
  void expect_over() {
    FUZZ_CHECK(round_.is_over() && round_.is_settled() && round_.next_deadline() == kNever);
    const Coverage everybody = round_.members() == kMaximumMembers ? ~Coverage{0} : coverage_of(round_.members()) - 1;
    for (ChunkIndex index = 0; index < plan_.chunk_count(); ++index) {
      const Coverage coverage = round_.coverage(index);
      FUZZ_CHECK((coverage & ~everybody) == 0);
      FUZZ_CHECK(coverage == 0 || (coverage & coverage_of(round_.reducer(index))) != 0);
    }
    for (MemberIndex member = 0; member < round_.members(); ++member) {
      if (member != self()) FUZZ_CHECK(!round_.poll_send(member));
    }
  }

  Draws& draws_;
  PartitionPlan plan_;
  Round round_;
  TimePoint now_{};
  std::deque<ChunkIndex> jobs_;  // what a kernel was asked for
  std::deque<std::pair<MemberIndex, SendOrder>> sending_;
};

}  // namespace

std::vector<Bytes> seeds() {
  // Three members of which everybody contributes and averages, one that is lost, and time that passes.
  Bytes usual = {std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0},  std::byte{1},
                 std::byte{0}, std::byte{0}, std::byte{0}, std::byte{48}, std::byte{0}};
  for (std::uint8_t chunk = 0; chunk < 12; ++chunk) {
    for (const std::uint8_t from : {std::uint8_t{1}, std::uint8_t{2}}) {
      const std::uint8_t contribution[] = {0, from, chunk, 0, 0, 1};
      const std::uint8_t average[] = {1, from, chunk, 0, 7, 1, 0, 0};
      const auto part = std::as_bytes(chunk < 4 ? std::span<const std::uint8_t>(contribution) : average);
      usual.insert(usual.end(), part.begin(), part.end());
    }
  }
  Bytes lost = usual;
  for (const int event :
       {7, 1, 0, 14, 20, 14, 20, 4, 2, 1, 1, 5, 2, 1, 1, 1, 5, 1, 3, 6, 2, 0, 1, 9, 1, 9, 8, 1, 15, 15}) {
    lost.push_back(static_cast<std::byte>(event));
  }
  return {usual, lost};
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::Shell(draws).run();
  return 0;
}
