// The round's state machine, driven by a shell of a few lines: real floats, a network that is a list of messages, and
// every event followed by the machine's own check of its invariants. Single rules first, then whole groups, then groups
// in which everything goes wrong at random.
#include "engine/core/round.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "engine/base/limits.hpp"
#include "engine/base/random.hpp"

namespace papilio::core {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();
constexpr TimePoint kStart{seconds(100)};
constexpr TimePoint kReduceBy{seconds(106)};
constexpr TimePoint kSettleBy{seconds(108)};
constexpr TimePoint kDeadline{seconds(110)};

std::vector<PlanMember> everybody_reduces(std::uint32_t members) { return std::vector<PlanMember>(members); }

Coverage reducers_of(const std::vector<PlanMember>& members) {
  Coverage reducers = 0;
  for (MemberIndex i = 0; i < members.size(); ++i) reducers |= members[i].reduces ? coverage_of(i) : 0;
  return reducers;
}

// ---- a group in memory

struct WorldOptions {
  std::uint64_t elements = 64;
  std::vector<PlanMember> members = everybody_reduces(3);
  std::vector<double> weights = {};  // 1 where not given
  std::size_t chunk_bytes = 16;
  bool averages_first = true;
  bool lazy_kernel = false;  // reductions are finished some events after they were ordered
  std::uint64_t seed = 1;
};

struct Message {
  enum class Kind : std::uint8_t { contribution, average, notice };
  Kind kind = Kind::contribution;
  MemberIndex from = 0, to = 0;
  ChunkIndex chunk = 0;
  double weight = 0;  // the total of an average
  Coverage coverage = 0;
  MemberIndex reducer = 0;
  std::vector<float> values;
  Notice notice = {};
};

// One reduction or finalisation that a kernel was asked for.
struct Job {
  ChunkIndex chunk = 0;
  Reduction reduction;
  std::vector<float> values;  // empty: a finalisation
  Finalisation finalisation;
};

struct Member {
  Round round;
  double weight = 1;
  bool crashed = false;
  std::vector<float> original;
  std::vector<float> gradient;
  std::deque<Job> jobs;  // in order: a chunk's sum is added up in the order in which it was accepted
};

class World {
 public:
  explicit World(const WorldOptions& options)
      : options_(options),
        random_(options.seed),
        plan_(PartitionPlan::make(options.elements, options.members, options.chunk_bytes)) {
    for (MemberIndex i = 0; i < options.members.size(); ++i) {
      const RoundConfig config{.round = 7,
                               .self = i,
                               .weight = i < options.weights.size() ? options.weights[i] : 1.0,
                               .start = kStart,
                               .reduce_by = kReduceBy,
                               .settle_by = kSettleBy,
                               .deadline = kDeadline,
                               .reducers = reducers_of(options.members),
                               .averages_first = options.averages_first};
      std::vector<float> gradient(options.elements);
      for (float& value : gradient) value = static_cast<float>(random_.uniform() * 2 - 1);
      members_.push_back(Member{.round = Round(config, plan_),
                                .weight = config.weight,
                                .crashed = false,
                                .original = gradient,
                                .gradient = gradient,
                                .jobs = {}});
    }
  }

  Member& operator[](MemberIndex member) { return members_[member]; }
  [[nodiscard]] MemberIndex size() const { return static_cast<MemberIndex>(members_.size()); }
  [[nodiscard]] const PartitionPlan& plan() const { return plan_; }
  Random& random() { return random_; }
  std::vector<Message>& messages() { return messages_; }

  // What a shell does after each event: kernel work, then everything that may be sent.
  void pump(MemberIndex index) {
    Member& member = members_[index];
    if (member.crashed) return;
    order_finalisations(member);
    if (!options_.lazy_kernel) {
      while (!member.jobs.empty()) work_once(index);
    }
    while (const std::optional<Notice> notice = member.round.poll_notice()) tell(index, *notice);
    for (MemberIndex to = 0; to < size(); ++to) {
      if (to == index || !is_linked(index, to)) continue;
      while (const std::optional<SendOrder> order = member.round.poll_send(to)) {
        send(index, to, *order);
        member.round.handle_sent(to, *order);
      }
    }
    member.round.check_invariants();
  }

  void tell(MemberIndex from, const Notice& notice) {
    if (notice.kind == Notice::Kind::cut_off) return lose_link(from, notice.member);
    for (MemberIndex to = 0; to < size(); ++to) {
      const bool is_for_it = notice.to == kEverybody ? members_[from].round.is_live(to) : notice.to == to;
      if (to == from || !is_for_it || members_[to].crashed || !is_linked(from, to)) continue;
      messages_.push_back({.kind = Message::Kind::notice, .from = from, .to = to, .values = {}, .notice = notice});
    }
  }
  void pump_all() {
    for (MemberIndex i = 0; i < size(); ++i) pump(i);
  }

  // Delivers one message, whichever the seed picks.
  bool deliver_any() {
    if (messages_.empty()) return false;
    std::size_t pick = random_.below(messages_.size());
    // Shards may overtake each other on a link of several flows; what is told may not.
    for (std::size_t i = 0; messages_[pick].kind == Message::Kind::notice && i < pick; ++i) {
      const bool is_before = messages_[i].kind == Message::Kind::notice && messages_[i].from == messages_[pick].from &&
                             messages_[i].to == messages_[pick].to;
      if (is_before) pick = i;
    }
    const Message message = std::move(messages_[pick]);
    messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(pick));
    deliver(message);
    return true;
  }

  void deliver(const Message& message) {
    Member& member = members_[message.to];
    if (member.crashed) return;
    Round& round = member.round;
    if (message.kind == Message::Kind::notice) {
      const Verdict verdict = handle_notice(round, message.from, message.notice);
      EXPECT_FALSE(is_violation(verdict)) << to_string(verdict);
    } else if (message.kind == Message::Kind::contribution) {
      const Verdict verdict =
          round.check_contribution(message.from, message.chunk, message.weight, message.values.size());
      EXPECT_FALSE(is_violation(verdict)) << to_string(verdict);
      const auto reduction = round.handle_contribution(message.from, message.chunk, message.weight);
      EXPECT_EQ(reduction.has_value(), verdict == Verdict::accept);
      if (reduction) {
        member.jobs.push_back(
            {.chunk = message.chunk, .reduction = *reduction, .values = message.values, .finalisation = {}});
      }
    } else {
      const Verdict verdict = round.check_average(message.from, message.chunk, message.reducer, message.coverage,
                                                  message.weight, message.values.size());
      EXPECT_FALSE(is_violation(verdict)) << to_string(verdict);
      const bool taken =
          round.handle_average(message.from, message.chunk, message.reducer, message.coverage, message.weight);
      EXPECT_EQ(taken, verdict == Verdict::accept);
      if (taken) std::copy(message.values.begin(), message.values.end(), values_of(member, message.chunk));
    }
    round.check_invariants();
    pump(message.to);
  }

  // The kernel finishes what it was asked for first.
  bool work_once(MemberIndex index) {
    Member& member = members_[index];
    if (member.jobs.empty() || member.crashed) return false;
    const Job job = std::move(member.jobs.front());
    member.jobs.pop_front();
    float* sum = values_of(member, job.chunk);
    if (job.values.empty()) {
      for (std::uint64_t i = 0; job.finalisation.scale && i < plan_.chunk(job.chunk).size; ++i) {
        sum[i] *= job.finalisation.inverse_total;
      }
    } else {
      for (std::size_t i = 0; i < job.values.size(); ++i) {
        sum[i] = job.reduction.own_scale * sum[i] + job.reduction.weight * job.values[i];
        if (job.reduction.last) sum[i] *= job.reduction.inverse_total;
      }
    }
    member.round.handle_reduced(job.chunk);
    member.round.check_invariants();
    order_finalisations(member);
    return true;
  }

  void work_all() {
    for (MemberIndex i = 0; i < size(); ++i) {
      while (work_once(i)) {
      }
      pump(i);
    }
  }

  // Until nothing is on its way and nothing is being computed.
  void run() {
    pump_all();
    do {
      while (deliver_any()) {
      }
      work_all();
    } while (!messages_.empty());
  }

  // Long enough that nobody waits any more for those that were lost to come back.
  void run_beyond_grace() {
    run();
    handle_time(kStart + seconds(1));
    handle_time(kStart + seconds(2));
    run();
  }

  void cut_off(MemberIndex at, MemberIndex member, CutOff reason) {
    if (members_[at].crashed) return;
    std::erase_if(messages_, [&](const Message& each) { return each.from == member && each.to == at; });
    members_[at].round.handle_cut_off(member, reason);
    members_[at].round.check_invariants();
    pump(at);
  }

  void lose_link(MemberIndex one, MemberIndex other) {
    if (!is_linked(one, other)) return;
    unlinked_.insert(std::minmax(one, other));
    std::erase_if(messages_, [&](const Message& each) {
      return (each.from == one && each.to == other) || (each.from == other && each.to == one);
    });
    cut_off(one, other, CutOff::connection_lost);
    cut_off(other, one, CutOff::connection_lost);
  }
  void mend_link(MemberIndex one, MemberIndex other) {
    if (is_linked(one, other) || members_[one].crashed || members_[other].crashed) return;
    unlinked_.erase(std::minmax(one, other));
    const bool one_goes_on = members_[one].round.handle_resumed(other);
    const bool other_goes_on = members_[other].round.handle_resumed(one);
    if (!one_goes_on || !other_goes_on) {
      unlinked_.insert(std::minmax(one, other));
      if (one_goes_on) cut_off(one, other, CutOff::connection_lost);
      if (other_goes_on) cut_off(other, one, CutOff::connection_lost);
    }
    pump(one);
    pump(other);
  }
  [[nodiscard]] bool is_linked(MemberIndex one, MemberIndex other) const {
    return !unlinked_.contains(std::minmax(one, other));
  }

  void crash(MemberIndex member) {
    members_[member].crashed = true;
    std::erase_if(messages_, [&](const Message& each) { return each.to == member || each.from == member; });
    for (MemberIndex i = 0; i < size(); ++i) {
      if (i != member) cut_off(i, member, CutOff::connection_lost);
    }
  }

  void handle_time(TimePoint now) {
    for (MemberIndex i = 0; i < size(); ++i) {
      if (members_[i].crashed) continue;
      members_[i].round.handle_time(now);
      members_[i].round.check_invariants();
      pump(i);
    }
  }

  void cancel(MemberIndex member) {
    members_[member].round.cancel();
    members_[member].round.check_invariants();
    pump(member);
  }

  // ROUND.md's promises 1 to 3, for every member that is alive.
  void expect_promises() {
    for (MemberIndex i = 0; i < size(); ++i) {
      Member& member = members_[i];
      if (member.crashed) continue;
      EXPECT_TRUE(member.round.is_over()) << "member " << i;
      EXPECT_TRUE(member.round.is_settled());
      EXPECT_EQ(member.round.next_deadline(), kNever);
      for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) expect_chunk(i, chunk);
    }
  }

  void expect_everybody_averaged_everything() {
    const Coverage everybody = size() == kMaximumMembers ? ~Coverage{0} : coverage_of(size()) - 1;
    expect_promises();
    for (Member& member : members_) {
      for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
        EXPECT_EQ(member.round.coverage(chunk), everybody);
      }
      for (MemberIndex i = 0; i < size(); ++i) EXPECT_EQ(member.round.cut_off(i), CutOff::none);
    }
  }

  // Whoever lives has the same average of every chunk as the others that live, and is through.
  void expect_survivors_agree() {
    std::optional<MemberIndex> first;
    for (MemberIndex i = 0; i < size(); ++i) {
      if (members_[i].crashed) continue;
      EXPECT_TRUE(members_[i].round.is_over()) << "member " << i;
      if (!first) first = i;
      for (ChunkIndex chunk = 0; chunk < plan_.chunk_count(); ++chunk) {
        EXPECT_NE(members_[i].round.coverage(chunk), 0U) << "member " << i << ", chunk " << chunk;
        EXPECT_EQ(members_[i].round.coverage(chunk), members_[*first].round.coverage(chunk))
            << "members " << i << " and " << *first << ", chunk " << chunk;
      }
      EXPECT_EQ(members_[i].gradient, members_[*first].gradient) << "members " << i << " and " << *first;
    }
  }

  [[nodiscard]] bool is_local(MemberIndex member, ChunkIndex chunk) const {
    return members_[member].round.coverage(chunk) == 0;
  }

 private:
  float* values_of(Member& member, ChunkIndex chunk) { return member.gradient.data() + plan_.chunk(chunk).begin; }

  void order_finalisations(Member& member) {
    while (const std::optional<Finalisation> order = member.round.poll_finalisation()) {
      member.jobs.push_back({.chunk = order->chunk, .reduction = {}, .values = {}, .finalisation = *order});
    }
  }

  void send(MemberIndex from, MemberIndex to, const SendOrder& order) {
    Member& member = members_[from];
    const bool is_average = order.kind == ShardKind::average;
    const float* const begin = values_of(member, order.chunk);
    messages_.push_back({.kind = is_average ? Message::Kind::average : Message::Kind::contribution,
                         .from = from,
                         .to = to,
                         .chunk = order.chunk,
                         .weight = is_average ? member.round.total_weight(order.chunk) : member.weight,
                         .coverage = is_average ? member.round.coverage(order.chunk) : 0,
                         .reducer = is_average ? member.round.reducer(order.chunk) : 0,
                         .values = std::vector<float>(begin, begin + plan_.chunk(order.chunk).size)});
  }

  void expect_chunk(MemberIndex index, ChunkIndex chunk) {
    Member& member = members_[index];
    const Range range = plan_.chunk(chunk);
    const Coverage coverage = member.round.coverage(chunk);
    const float* const values = values_of(member, chunk);
    if (coverage == 0) {
      EXPECT_EQ(std::memcmp(values, &member.original[range.begin], range.size * sizeof(float)), 0)
          << "member " << index << ", local chunk " << chunk;
      return;
    }
    EXPECT_NE(coverage & coverage_of(member.round.reducer(chunk)), 0U);
    // The reducer's bytes, whether or not the reducer lived on: it wrote them before it sent them.
    Member& reducer = members_[member.round.reducer(chunk)];
    EXPECT_EQ(reducer.round.coverage(chunk), coverage);
    EXPECT_EQ(std::memcmp(values, values_of(reducer, chunk), range.size * sizeof(float)), 0);
    double total = 0;
    for (MemberIndex i = 0; i < size(); ++i) total += (coverage & coverage_of(i)) != 0 ? members_[i].weight : 0;
    for (std::uint64_t element = 0; element < range.size; ++element) {
      double sum = 0;
      for (MemberIndex i = 0; i < size(); ++i) {
        if ((coverage & coverage_of(i)) != 0) sum += members_[i].weight * members_[i].original[range.begin + element];
      }
      EXPECT_NEAR(values[element], sum / total, 2e-6 * size()) << "member " << index << ", chunk " << chunk;
    }
  }

  static Verdict handle_notice(Round& round, MemberIndex from, const Notice& notice) {
    switch (notice.kind) {
      case Notice::Kind::suspect: return round.handle_suspect(from, notice.member, notice.withdrawn);
      case Notice::Kind::takeover: return round.handle_takeover(from, notice.part, notice.distance);
      case Notice::Kind::holdings:
        return round.handle_holdings(from, notice.part, notice.distance, notice.first, notice.second);
      case Notice::Kind::wanted: return round.handle_wanted(from, notice.part, notice.first, notice.second);
      case Notice::Kind::done: round.handle_done(from); break;
      case Notice::Kind::cut_off: break;
    }
    return Verdict::accept;
  }

  WorldOptions options_;
  Random random_;
  PartitionPlan plan_;
  std::set<std::pair<MemberIndex, MemberIndex>> unlinked_;
  std::vector<Member> members_;
  std::vector<Message> messages_;
};

// ---- whole rounds without faults

TEST(Round, EveryGroupSizeAveragesEverything) {
  for (const std::uint32_t members : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U, 64U}) {
    World world({.elements = 1000, .members = everybody_reduces(members), .chunk_bytes = 64, .seed = members});
    world.run();
    world.expect_everybody_averaged_everything();
  }
}

TEST(Round, EverySizeFromNothingAverages) {
  for (const std::uint64_t elements : {0U, 1U, 2U, 3U, 4U, 5U, 127U}) {
    World world({.elements = elements, .members = everybody_reduces(5), .seed = elements + 1});
    world.run();
    world.expect_everybody_averaged_everything();
  }
}

TEST(Round, ASingleMemberKeepsItsGradientBitForBit) {
  World world({.elements = 100, .members = everybody_reduces(1), .weights = {0.3}});
  world.run();
  world.expect_everybody_averaged_everything();
  EXPECT_EQ(world[0].gradient, world[0].original);
}

TEST(Round, UnequalWeightsCount) {
  World world({.elements = 333, .members = everybody_reduces(4), .weights = {1, 1000, 0.125, 37}});
  world.run();
  world.expect_everybody_averaged_everything();
  EXPECT_EQ(world[0].round.total_weight(0), 1038.125F);
  EXPECT_EQ(world[0].round.announced_weight(1), 1000);
}

TEST(Round, AClientContributesAndReceives) {
  std::vector<PlanMember> members = everybody_reduces(4);
  members[1].reduces = false;
  World world({.elements = 200, .members = members, .weights = {1, 5, 2, 3}});
  world.run();
  world.expect_everybody_averaged_everything();
  EXPECT_EQ(world.plan().chunks(1), 0U);
}

TEST(Round, OnlyClientsHaveNothingToWaitFor) {
  World world({.elements = 200, .members = {{.reduces = false}, {.reduces = false}}});
  world.run();
  EXPECT_EQ(world.plan().chunk_count(), 0U);
  EXPECT_TRUE(world[0].round.is_over());
  EXPECT_EQ(world[0].gradient, world[0].original);
}

TEST(Round, AnyOrderOfDeliveryGivesTheSameRound) {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    std::vector<PlanMember> members = everybody_reduces(static_cast<std::uint32_t>(2 + seed % 5));
    if (seed % 3 == 0) members.back().reduces = false;
    World world({.elements = 150,
                 .members = members,
                 .weights = {1, 2, 3, 4, 5, 6},
                 .averages_first = seed % 4 < 2,
                 .lazy_kernel = seed % 8 < 4,
                 .seed = seed});
    world.run();
    world.expect_everybody_averaged_everything();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
}

// ---- single rules, on one member of three with four chunks each

class OneMember : public testing::Test {
 protected:
  static constexpr std::uint64_t kElements = 48;
  static constexpr std::uint64_t kChunk = 4;  // elements

  explicit OneMember(bool averages_first = true)
      : round_({.round = 1,
                .self = 0,
                .weight = 2,
                .start = kStart,
                .reduce_by = kReduceBy,
                .settle_by = kSettleBy,
                .deadline = kDeadline,
                .averages_first = averages_first},
               PartitionPlan::make(kElements, everybody_reduces(3), kChunk * sizeof(float))) {}
  ~OneMember() override { round_.check_invariants(); }

  void contribute(MemberIndex from, ChunkIndex chunk, double weight = 1) {
    ASSERT_TRUE(round_.handle_contribution(from, chunk, weight).has_value());
    round_.handle_reduced(chunk);
  }
  void contribute_all(MemberIndex from) {
    for (ChunkIndex chunk = 0; chunk < 4; ++chunk) contribute(from, chunk);
  }
  bool average(ChunkIndex chunk) {
    return round_.handle_average(round_.plan().reducer(chunk), chunk, round_.plan().reducer(chunk), 7, 4);
  }
  void average_all() {
    for (ChunkIndex chunk = 4; chunk < 12; ++chunk) ASSERT_TRUE(average(chunk));
  }
  std::vector<SendOrder> send_all(MemberIndex to) {
    std::vector<SendOrder> orders;
    while (const auto order = round_.poll_send(to)) {
      orders.push_back(*order);
      round_.handle_sent(to, *order);
    }
    return orders;
  }
  void wait_out_grace() {
    round_.handle_time(kStart + seconds(1));
    round_.handle_time(kStart + seconds(2));
  }
  std::vector<Notice> all_notices() {
    std::vector<Notice> notices;
    while (auto notice = round_.poll_notice()) notices.push_back(std::move(*notice));
    return notices;
  }
  bool says_done() {
    const std::vector<Notice> notices = all_notices();
    return std::any_of(notices.begin(), notices.end(), [](auto& each) { return each.kind == Notice::Kind::done; });
  }
  void finalise_all() {
    while (const auto order = round_.poll_finalisation()) round_.handle_reduced(order->chunk);
  }

  Round round_;
};

TEST_F(OneMember, ContributionsAreCheckedFromBothSidesOfEachLimit) {
  const auto check = [&](ChunkIndex chunk, double weight, std::uint64_t elements) {
    return round_.check_contribution(1, chunk, weight, elements);
  };
  EXPECT_EQ(check(0, 1, kChunk), Verdict::accept);
  EXPECT_EQ(check(3, 1, kChunk), Verdict::accept);
  EXPECT_EQ(check(4, 1, kChunk), Verdict::unasked);
  EXPECT_EQ(check(11, 1, kChunk), Verdict::unasked);
  EXPECT_EQ(check(12, 1, kChunk), Verdict::out_of_range);
  EXPECT_EQ(check(~ChunkIndex{0}, 1, kChunk), Verdict::out_of_range);
  EXPECT_EQ(check(0, 1, kChunk - 1), Verdict::bad_size);
  EXPECT_EQ(check(0, 1, kChunk + 1), Verdict::bad_size);
  EXPECT_EQ(check(0, 1, 0), Verdict::bad_size);
  EXPECT_EQ(check(0, kMaximumWeight, kChunk), Verdict::accept);
  EXPECT_EQ(check(0, std::nextafter(kMaximumWeight, kInfinity), kChunk), Verdict::bad_weight);
  EXPECT_EQ(check(0, kMinimumWeight, kChunk), Verdict::accept);
  EXPECT_EQ(check(0, std::nextafter(kMinimumWeight, 0), kChunk), Verdict::bad_weight);
  for (const double weight : {0.0, -0.0, -1.0, kInfinity, -kInfinity, kNotANumber}) {
    EXPECT_EQ(check(0, weight, kChunk), Verdict::bad_weight) << weight;
  }
}

TEST_F(OneMember, AMemberHasOneWeightPerRound) {
  contribute(1, 0, 3);
  EXPECT_EQ(round_.check_contribution(1, 1, 3, kChunk), Verdict::accept);
  EXPECT_EQ(round_.check_contribution(1, 1, 3.5, kChunk), Verdict::bad_weight);
  EXPECT_EQ(round_.check_contribution(2, 1, 3.5, kChunk), Verdict::accept);  // another member
}

TEST_F(OneMember, AContributionCountsOnce) {
  contribute(1, 0);
  EXPECT_EQ(round_.check_contribution(1, 0, 1, kChunk), Verdict::duplicate);
  EXPECT_FALSE(round_.handle_contribution(1, 0, 1).has_value());
  contribute(2, 0);  // settles the chunk
  EXPECT_EQ(round_.coverage(0), 7U);
  EXPECT_EQ(round_.check_contribution(1, 0, 1, kChunk), Verdict::duplicate);
  EXPECT_EQ(round_.contributions_in(1), 1U);
}

TEST_F(OneMember, TheKernelIsToldHowToSum) {
  auto first = round_.handle_contribution(1, 0, 3);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->own_scale, 2);  // this member's weight, once
  EXPECT_EQ(first->weight, 3);
  EXPECT_FALSE(first->last);
  auto second = round_.handle_contribution(2, 0, 5);  // ordered while the first is still being computed
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->own_scale, 1);
  EXPECT_TRUE(second->last);
  EXPECT_EQ(second->inverse_total, 0.1F);
  round_.handle_reduced(0);
  EXPECT_EQ(round_.coverage(0), 0U);  // not before all of it is in the sum
  round_.handle_reduced(0);
  EXPECT_EQ(round_.coverage(0), 7U);
  EXPECT_EQ(round_.total_weight(0), 10);
}

TEST_F(OneMember, AveragesAreCheckedFromBothSidesOfEachLimit) {
  const auto check = [&](MemberIndex from, ChunkIndex chunk, Coverage coverage, double total, std::uint64_t elements) {
    return round_.check_average(from, chunk, from, coverage, total, elements);
  };
  EXPECT_EQ(check(1, 4, 7, 4, kChunk), Verdict::accept);
  EXPECT_EQ(check(1, 7, 7, 4, kChunk), Verdict::accept);
  EXPECT_EQ(check(1, 8, 7, 4, kChunk), Verdict::unasked);  // member 2's
  EXPECT_EQ(check(1, 0, 7, 4, kChunk), Verdict::unasked);  // this member's own
  EXPECT_EQ(check(1, 12, 7, 4, kChunk), Verdict::out_of_range);
  EXPECT_EQ(check(1, 4, 7, 4, kChunk - 1), Verdict::bad_size);
  EXPECT_EQ(check(1, 4, 7, 4, kChunk + 1), Verdict::bad_size);
  EXPECT_EQ(check(1, 4, 2, 4, kChunk), Verdict::accept);        // the reducer alone
  EXPECT_EQ(check(1, 4, 0, 4, kChunk), Verdict::bad_coverage);  // nobody
  EXPECT_EQ(check(1, 4, 5, 4, kChunk), Verdict::bad_coverage);  // without the reducer
  EXPECT_EQ(check(1, 4, 8 | 7, 4, kChunk), Verdict::bad_coverage);
  EXPECT_EQ(check(1, 4, ~Coverage{0}, 4, kChunk), Verdict::bad_coverage);
  EXPECT_EQ(check(1, 4, 7, kMaximumWeight * kMaximumMembers, kChunk), Verdict::accept);
  EXPECT_EQ(check(1, 4, 7, std::nextafter(kMaximumWeight * kMaximumMembers, kInfinity), kChunk), Verdict::bad_weight);
  EXPECT_EQ(check(1, 4, 2, kMinimumWeight, kChunk), Verdict::accept);
  for (const double total : {0.0, -1.0, kInfinity, kNotANumber}) {
    EXPECT_EQ(check(1, 4, 7, total, kChunk), Verdict::bad_weight) << total;
  }
}

TEST_F(OneMember, AnAverageComesOnce) {
  EXPECT_TRUE(average(4));
  EXPECT_EQ(round_.coverage(4), 7U);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::duplicate);
  EXPECT_FALSE(average(4));
  EXPECT_EQ(round_.averages_in(1), 1U);
}

TEST_F(OneMember, ShardsOfAMemberThatWasCutOffAreLate) {
  round_.handle_cut_off(1, CutOff::connection_lost);
  EXPECT_EQ(round_.check_contribution(1, 0, 1, kChunk), Verdict::late);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::late);
  EXPECT_FALSE(round_.handle_contribution(1, 0, 1).has_value());
  EXPECT_FALSE(average(4));
  EXPECT_EQ(round_.coverage(4), 0U);
}

TEST_F(OneMember, AContributionAfterReduceByIsLateAndNoFault) {
  contribute(1, 0);
  round_.handle_time(kReduceBy - milliseconds(1));
  EXPECT_EQ(round_.check_contribution(2, 0, 1, kChunk), Verdict::accept);
  round_.handle_time(kReduceBy);
  EXPECT_EQ(round_.check_contribution(2, 0, 1, kChunk), Verdict::late);
  EXPECT_FALSE(is_violation(Verdict::late));
  finalise_all();
  EXPECT_EQ(round_.coverage(0), 3U);
  EXPECT_EQ(round_.coverage(1), 1U);
  EXPECT_EQ(round_.cut_off(1), CutOff::contributions_missing);
  EXPECT_EQ(round_.cut_off(2), CutOff::contributions_missing);
  EXPECT_TRUE(round_.is_live(1));  // its averages are still welcome
  EXPECT_TRUE(average(4));
  EXPECT_LE(round_.next_deadline(), kDeadline);
}

TEST_F(OneMember, WhoContributedInTimeIsNotBlamedAtReduceBy) {
  contribute_all(1);
  round_.handle_time(kReduceBy);
  EXPECT_EQ(round_.cut_off(1), CutOff::none);
  EXPECT_EQ(round_.cut_off(2), CutOff::contributions_missing);
}

TEST_F(OneMember, AtTheDeadlineMissingAveragesStayLocalAndTheCulpritIsNamed) {
  contribute_all(1);
  contribute_all(2);
  for (ChunkIndex chunk = 4; chunk < 8; ++chunk) ASSERT_TRUE(average(chunk));
  ASSERT_TRUE(average(8));
  round_.handle_time(kReduceBy);
  round_.handle_time(kDeadline - milliseconds(1));
  EXPECT_FALSE(round_.is_over());
  round_.handle_time(kDeadline);
  EXPECT_TRUE(round_.is_over());
  EXPECT_EQ(round_.cut_off(1), CutOff::none);
  EXPECT_EQ(round_.cut_off(2), CutOff::averages_missing);
  EXPECT_EQ(round_.coverage(8), 7U);
  EXPECT_EQ(round_.coverage(9), 0U);
  EXPECT_EQ(round_.next_deadline(), kNever);
}

TEST_F(OneMember, TheDeadlineAloneFinalisesToo) {  // the loop may have slept through reduce_by
  contribute(1, 0);
  round_.handle_time(kDeadline);
  EXPECT_FALSE(round_.is_over());  // the kernel still has to divide
  finalise_all();
  EXPECT_TRUE(round_.is_over());
  EXPECT_EQ(round_.coverage(0), 3U);
}

TEST_F(OneMember, CountedContributionsOutliveTheirSender) {
  contribute_all(1);
  contribute(2, 0);
  round_.handle_cut_off(1, CutOff::departed);
  EXPECT_EQ(round_.coverage(0), 7U);
  round_.handle_cut_off(2, CutOff::connection_lost);
  finalise_all();
  EXPECT_EQ(round_.coverage(0), 7U);
  EXPECT_EQ(round_.coverage(1), 3U);
  wait_out_grace();
  EXPECT_TRUE(round_.is_over());
  EXPECT_EQ(round_.cut_off(1), CutOff::departed);
}

TEST_F(OneMember, AReducerThatAMajorityHasLostIsReplaced) {
  ASSERT_TRUE(average(4));
  round_.handle_cut_off(1, CutOff::protocol);
  EXPECT_EQ(round_.coverage(4), 7U);  // arrived before: stays
  EXPECT_FALSE(round_.poll_send(1).has_value());
  EXPECT_EQ(round_.holder(1), 1U);  // one of two live members alone decides nothing
  EXPECT_EQ(round_.handle_takeover(2, 1, 1), Verdict::accept);
  EXPECT_EQ(round_.holder(1), 1U);
  EXPECT_EQ(round_.handle_suspect(2, 1, false), Verdict::accept);
  EXPECT_EQ(round_.holder(1), 2U);
  const std::vector<Notice> told = all_notices();
  ASSERT_EQ(told.size(), 3U);  // what is asked for first is answered last: the holdings are read off when they are sent
  EXPECT_EQ(told[0].kind, Notice::Kind::holdings);
  EXPECT_EQ(told[0].to, 2U);
  EXPECT_EQ(told[0].first, ChunkBits{1});
  EXPECT_EQ(told[0].second, ChunkBits{1});
  EXPECT_EQ(told[1].kind, Notice::Kind::suspect);
  EXPECT_EQ(told[2].kind, Notice::Kind::cut_off);

  EXPECT_EQ(round_.handle_wanted(2, 1, {0b1110}, {1}), Verdict::accept);
  const std::vector<SendOrder> orders = send_all(2);
  ASSERT_EQ(orders.size(), 8U);  // what it wants, then its own part's
  EXPECT_EQ(orders[0].kind, ShardKind::average);
  EXPECT_EQ(orders[0].chunk, 4U);
  for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(orders[i].chunk, 4 + i);
  EXPECT_TRUE(round_.handle_average(2, 5, 2, 5, 3));
  EXPECT_EQ(round_.reducer(5), 2U);
  EXPECT_EQ(round_.check_average(2, 6, 1, 7, 4, kChunk), Verdict::accept);  // passed on: member 1 had averaged it
}

// It was away when a majority lost it, and hears of it only from those that follow its successor.
TEST_F(OneMember, WhoWasReplacedWhileItWasAwayYieldsToAMajority) {
  EXPECT_EQ(round_.handle_takeover(1, 0, 1), Verdict::accept);
  EXPECT_EQ(round_.holder(0), 0U);  // one stranger's word is not enough
  EXPECT_EQ(round_.handle_takeover(2, 0, 1), Verdict::accept);
  EXPECT_EQ(round_.holder(0), 1U);
}

// Whoever claims a part and is then found out does not get it by the others' loss.
TEST_F(OneMember, AClaimGoesWithWhoMadeIt) {
  EXPECT_EQ(round_.handle_takeover(1, 0, 1), Verdict::accept);
  round_.handle_cut_off(1, CutOff::protocol);
  EXPECT_EQ(round_.holder(0), 0U);
}

TEST_F(OneMember, WhoComesBackHearsWhomThisMemberLost) {
  round_.handle_cut_off(1, CutOff::connection_lost);
  round_.handle_cut_off(2, CutOff::connection_lost);
  all_notices();
  EXPECT_TRUE(round_.handle_resumed(2));
  const std::vector<Notice> told = all_notices();
  EXPECT_TRUE(std::any_of(told.begin(), told.end(), [](const Notice& each) {
    return each.kind == Notice::Kind::suspect && each.to == 2 && each.member == 1 && !each.withdrawn;
  }));
}

// Members 1 and 2 have lost member 3, whose part this member takes over at once.
class Successor : public testing::Test {
 protected:
  Successor()
      : round_({.round = 1,
                .self = 0,
                .weight = 1,
                .start = kStart,
                .reduce_by = kReduceBy,
                .settle_by = kSettleBy,
                .deadline = kDeadline},
               PartitionPlan::make(16, everybody_reduces(4), 4 * sizeof(float))) {
    for (const MemberIndex member : {1U, 2U}) {
      EXPECT_TRUE(round_.handle_contribution(member, 0, 1).has_value());
      round_.handle_reduced(0);
      EXPECT_TRUE(round_.handle_average(member, member, member, 15, 4));
      hear(member);
    }
    round_.handle_cut_off(3, CutOff::connection_lost);
    for (const MemberIndex member : {1U, 2U}) round_.handle_suspect(member, 3, false);
    EXPECT_EQ(round_.holder(3), 0U);
    now_ = kStart + milliseconds(1);
    round_.handle_time(now_);
  }
  ~Successor() override { round_.check_invariants(); }

  void hear(MemberIndex member) { round_.lateness().handle_heard(member, now_); }
  // Until the successor's patience is at an end; everybody sends pulses.
  void wait() {
    for (int tick = 0; tick < 60; ++tick) {
      now_ += milliseconds(100);
      for (const MemberIndex member : {1U, 2U}) hear(member);
      round_.handle_time(now_);
    }
  }
  bool wants(MemberIndex of, bool averages) {
    bool found = false;
    while (const auto notice = round_.poll_notice()) {
      if (notice->kind != Notice::Kind::wanted || notice->to != of || notice->part != 3) continue;
      found |= !(averages ? notice->second : notice->first).empty();
    }
    return found;
  }

  TimePoint now_ = kStart;
  Round round_;
};

TEST_F(Successor, WaitsForAnswersOnlySoLong) {
  EXPECT_EQ(round_.handle_holdings(1, 3, 1, {}, {}), Verdict::accept);
  EXPECT_FALSE(wants(1, false));  // member 2 may hold the average
  wait();
  EXPECT_TRUE(wants(1, false));
  EXPECT_TRUE(round_.handle_contribution(1, 3, 1).has_value());
  round_.handle_reduced(3);
  while (const auto order = round_.poll_finalisation()) round_.handle_reduced(order->chunk);
  EXPECT_EQ(round_.coverage(3), 3U);
  EXPECT_EQ(round_.cut_off(2), CutOff::contributions_missing);
}

TEST_F(Successor, AsksTheNextWhereAnAverageIsWithheld) {
  EXPECT_EQ(round_.handle_holdings(1, 3, 1, {1}, {1}), Verdict::accept);
  EXPECT_EQ(round_.handle_holdings(2, 3, 1, {1}, {1}), Verdict::accept);
  EXPECT_TRUE(wants(1, true));
  wait();
  EXPECT_EQ(round_.cut_off(1), CutOff::averages_missing);
  EXPECT_TRUE(wants(2, true));
  EXPECT_TRUE(round_.handle_average(2, 3, 3, 15, 4));
  EXPECT_EQ(round_.reducer(3), 3U);
}

TEST_F(Successor, WhatIsFetchedIsOwedByNobodyElse) {
  EXPECT_EQ(round_.handle_holdings(1, 3, 1, {1}, {1}), Verdict::accept);
  EXPECT_EQ(round_.handle_holdings(2, 3, 1, {}, {}), Verdict::accept);
  round_.handle_done(2);
  now_ += milliseconds(100);
  round_.handle_time(now_);
  EXPECT_EQ(round_.lateness().owes(1), Owes::averages_only);
  EXPECT_EQ(round_.lateness().owes(2), Owes::nothing);
}

// One who claims to be the farthest of all must not keep the right one from its part.
TEST_F(Successor, AFalseClaimKeepsNobodyFromTheRightSuccessor) {
  Round round({.round = 1,
               .self = 4,
               .weight = 1,
               .start = kStart,
               .reduce_by = kReduceBy,
               .settle_by = kSettleBy,
               .deadline = kDeadline},
              PartitionPlan::make(20, everybody_reduces(5), 4 * sizeof(float)));
  EXPECT_EQ(round.handle_takeover(3, 0, 3), Verdict::accept);
  round.handle_cut_off(0, CutOff::connection_lost);
  for (const MemberIndex member : {1U, 2U}) round.handle_suspect(member, 0, false);
  EXPECT_EQ(round.handle_takeover(1, 0, 1), Verdict::accept);
  EXPECT_EQ(round.holder(0), 1U);
}

// Nor may one who says that it follows somebody farther on spoil the votes of the others.
TEST_F(Successor, OneVoteForAnotherSpoilsNoneOfTheRest) {
  Round round({.round = 1,
               .self = 0,
               .weight = 1,
               .start = kStart,
               .reduce_by = kReduceBy,
               .settle_by = kSettleBy,
               .deadline = kDeadline},
              PartitionPlan::make(20, everybody_reduces(5), 4 * sizeof(float)));
  EXPECT_EQ(round.handle_takeover(2, 0, 1), Verdict::accept);
  EXPECT_EQ(round.handle_takeover(4, 0, 3), Verdict::accept);
  EXPECT_EQ(round.handle_takeover(1, 0, 1), Verdict::accept);
  EXPECT_EQ(round.holder(0), 1U);
}

TEST_F(Successor, OneAnswerFromEachIsEnough) {
  EXPECT_EQ(round_.handle_holdings(1, 3, 1, {}, {}), Verdict::accept);
  EXPECT_EQ(round_.handle_holdings(1, 3, 1, {}, {}), Verdict::late);
}

// With next to nothing left until it settles, it still gives the others the time that is left until the deadline.
TEST_F(Successor, ThatComesJustBeforeSettlingHasTime) {
  Round round({.round = 1,
               .self = 0,
               .weight = 1,
               .start = kStart,
               .reduce_by = kReduceBy,
               .settle_by = kSettleBy,
               .deadline = kDeadline},
              PartitionPlan::make(16, everybody_reduces(4), 4 * sizeof(float)));
  round.handle_cut_off(3, CutOff::connection_lost);
  for (const MemberIndex member : {1U, 2U}) round.handle_suspect(member, 3, false);
  ASSERT_EQ(round.holder(3), 0U);
  round.handle_time(kSettleBy - milliseconds(1));
  round.handle_time(kSettleBy);
  round.handle_time(kSettleBy + milliseconds(100));
  EXPECT_EQ(round.handle_holdings(1, 3, 1, {1}, {1}), Verdict::accept);
  EXPECT_EQ(round.handle_holdings(2, 3, 1, {}, {}), Verdict::accept);
  bool is_fetched = false;
  while (const auto notice = round.poll_notice()) {
    is_fetched |= notice->kind == Notice::Kind::wanted && notice->to == 1 && !notice->second.empty();
  }
  EXPECT_TRUE(is_fetched);
}

// One early word of being through must not open the way for averages of anybody's making.
TEST_F(OneMember, WhoCannotBeDoneIsAskedForNothing) {
  round_.handle_done(1);
  for (int tick = 1; tick < 40; ++tick) {
    const TimePoint now = kStart + tick * milliseconds(100);
    for (const MemberIndex member : {1U, 2U}) round_.lateness().handle_heard(member, now);
    round_.handle_time(now);
  }
  for (const Notice& notice : all_notices()) EXPECT_NE(notice.kind, Notice::Kind::wanted);
  EXPECT_EQ(round_.check_average(1, 8, 2, 7, 4, kChunk), Verdict::unasked);
}

TEST_F(OneMember, ARelayThatDoesNotDeliverIsReplacedOnce) {
  Round round({.round = 1,
               .self = 0,
               .weight = 1,
               .start = kStart,
               .reduce_by = kReduceBy,
               .settle_by = kSettleBy,
               .deadline = kDeadline},
              PartitionPlan::make(20, everybody_reduces(5), 4 * sizeof(float)));
  round.handle_cut_off(1, CutOff::connection_lost);
  std::vector<MemberIndex> asked;
  for (TimePoint now = kStart; now < kStart + seconds(12); now += milliseconds(100)) {
    for (const MemberIndex member : {2U, 3U, 4U}) {
      round.lateness().handle_bytes(member, now, 1);
      round.lateness().handle_heard(member, now);
    }
    round.handle_time(now);
    while (const auto notice = round.poll_notice()) {
      if (notice->kind == Notice::Kind::wanted && notice->part == 1) asked.push_back(notice->to);
    }
  }
  EXPECT_EQ(asked, (std::vector<MemberIndex>{2, 3, 4}));
}

TEST_F(OneMember, AnAverageOfAReplacedReducerIsNotTaken) {
  EXPECT_EQ(round_.handle_takeover(2, 1, 1), Verdict::accept);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::accept);  // nobody else has lost it
  EXPECT_EQ(round_.handle_suspect(2, 1, false), Verdict::accept);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::accept);
  round_.handle_cut_off(1, CutOff::connection_lost);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::late);
  EXPECT_EQ(round_.check_average(2, 4, 1, 7, 4, kChunk), Verdict::accept);
}

TEST_F(OneMember, WordsAboutPartsAreChecked) {
  EXPECT_TRUE(is_violation(round_.handle_suspect(1, 3, false)));
  EXPECT_TRUE(is_violation(round_.handle_takeover(1, 3, 1)));
  EXPECT_TRUE(is_violation(round_.handle_takeover(1, 1, 0)));
  EXPECT_TRUE(is_violation(round_.handle_takeover(1, 1, 3)));
  EXPECT_TRUE(is_violation(round_.handle_holdings(1, 3, 1, {}, {})));
  EXPECT_TRUE(is_violation(round_.handle_holdings(1, 0, 1, {0, 0}, {})));
  EXPECT_TRUE(is_violation(round_.handle_wanted(1, 3, {}, {})));
  EXPECT_TRUE(is_violation(round_.handle_wanted(1, 0, {0, 0}, {})));
  for (int i = 0; i < 24; ++i) EXPECT_EQ(round_.handle_wanted(1, 0, {~std::uint64_t{0}}, {}), Verdict::accept);
  EXPECT_TRUE(is_violation(round_.handle_wanted(1, 0, {1}, {})));  // nobody needs so much
}

TEST_F(OneMember, AConnectionThatCameBackGoesOnAtWhatIsMissing) {
  contribute(1, 0);
  ASSERT_TRUE(average(4));
  round_.handle_cut_off(1, CutOff::connection_lost);
  EXPECT_EQ(round_.check_contribution(1, 1, 1, kChunk), Verdict::late);
  all_notices();
  EXPECT_TRUE(round_.handle_resumed(1));
  EXPECT_EQ(round_.cut_off(1), CutOff::none);
  EXPECT_EQ(round_.times_resumed(1), 1U);
  const std::vector<Notice> told = all_notices();
  ASSERT_EQ(told.size(), 3U);
  EXPECT_TRUE(told[0].withdrawn);
  EXPECT_EQ(told[1].kind, Notice::Kind::wanted);
  EXPECT_EQ(told[1].part, 0U);
  EXPECT_EQ(told[1].first, ChunkBits{0b1110});  // its contributions
  EXPECT_EQ(told[2].part, 1U);
  EXPECT_EQ(told[2].second, ChunkBits{0b1110});                          // its averages
  EXPECT_FALSE(round_.poll_send(1).has_value());                         // until it asks
  EXPECT_EQ(round_.check_contribution(1, 0, 1, kChunk), Verdict::late);  // sent twice: no fault
  contribute(1, 1);
}

TEST_F(OneMember, OneStrangersWordDoesNotTakeItsPartAway) {
  EXPECT_EQ(round_.handle_takeover(1, 0, 1), Verdict::accept);
  EXPECT_EQ(round_.holder(0), 0U);
  EXPECT_EQ(round_.check_contribution(2, 0, 1, kChunk), Verdict::accept);
  round_.handle_cut_off(2, CutOff::connection_lost);  // one of two: as much as most of the others
  EXPECT_EQ(round_.holder(0), 1U);
}

TEST_F(OneMember, WhoMisbehavedDoesNotComeBack) {
  round_.handle_cut_off(1, CutOff::protocol);
  EXPECT_FALSE(round_.handle_resumed(1));
  EXPECT_EQ(round_.cut_off(1), CutOff::protocol);
}

TEST_F(OneMember, WhoGivesTheRoundUpIsNotWaitedFor) {
  EXPECT_EQ(round_.handle_suspect(1, 1, false), Verdict::accept);
  EXPECT_FALSE(round_.is_live(1));
  EXPECT_EQ(round_.cut_off(1), CutOff::departed);
}

TEST_F(OneMember, WhatMostHaveLostStaysLostUntilItIsReplaced) {
  round_.handle_cut_off(1, CutOff::connection_lost);
  EXPECT_TRUE(round_.may_resume(1));
  EXPECT_EQ(round_.handle_suspect(2, 1, false), Verdict::accept);
  EXPECT_FALSE(round_.may_resume(1));
  EXPECT_EQ(round_.handle_takeover(2, 1, 1), Verdict::accept);
  EXPECT_TRUE(round_.handle_resumed(1));
  EXPECT_TRUE(round_.is_live(1));
  EXPECT_EQ(round_.holder(1), 2U);
}

TEST_F(OneMember, AnotherRelayIsAskedWhereTheFirstIsLost) {
  // With four members there are two to ask.
  Round round(
      {.round = 1, .self = 0, .start = kStart, .reduce_by = kReduceBy, .settle_by = kSettleBy, .deadline = kDeadline},
      PartitionPlan::make(kElements, everybody_reduces(5), kChunk * sizeof(float)));
  const auto asked = [&] {
    std::vector<MemberIndex> members;
    while (const auto notice = round.poll_notice()) {
      if (notice->kind == Notice::Kind::wanted) members.push_back(notice->to);
    }
    return members;
  };
  round.handle_cut_off(1, CutOff::connection_lost);
  round.handle_time(kStart + seconds(1));
  round.handle_time(kStart + seconds(2));
  EXPECT_EQ(asked(), std::vector<MemberIndex>{2});
  round.handle_cut_off(2, CutOff::protocol);
  round.handle_time(kStart + seconds(3));
  const std::vector<MemberIndex> then = asked();
  EXPECT_NE(std::find(then.begin(), then.end(), 3U), then.end());
}

TEST_F(OneMember, AnotherMemberIsAskedForTheAveragesOfAReducerThatOnlyThisOneHasLost) {
  round_.handle_cut_off(1, CutOff::connection_lost);
  round_.handle_time(kStart + seconds(1));
  all_notices();
  EXPECT_LE(round_.next_deadline(), kStart + milliseconds(1500));
  round_.handle_time(kStart + milliseconds(1500));
  const std::vector<Notice> told = all_notices();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].to, 2U);
  EXPECT_EQ(told[0].second, ChunkBits{0b1111});
  EXPECT_EQ(round_.check_average(2, 4, 1, 7, 4, kChunk), Verdict::accept);
}

TEST_F(OneMember, TheFewThatAreNotDoneAreNotWaitedForTooLong) {
  contribute_all(1);
  contribute_all(2);
  average_all();
  round_.handle_done(1);
  round_.handle_time(kStart + seconds(4));
  EXPECT_LE(round_.next_deadline(), kStart + milliseconds(7500));
  round_.handle_time(kStart + milliseconds(7499));
  EXPECT_FALSE(round_.is_over());
  round_.handle_time(kStart + milliseconds(7500));
  EXPECT_TRUE(round_.is_over());
  EXPECT_EQ(round_.cut_off(2), CutOff::not_done);
}

TEST_F(OneMember, ACutOffWhileTheKernelWorksWaitsForTheKernel) {
  ASSERT_TRUE(round_.handle_contribution(1, 0, 1).has_value());
  round_.handle_cut_off(2, CutOff::connection_lost);
  while (const auto order = round_.poll_finalisation()) {
    EXPECT_NE(order->chunk, 0U);  // its sum is being written
    round_.handle_reduced(order->chunk);
  }
  round_.handle_reduced(0);
  const auto order = round_.poll_finalisation();
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(order->chunk, 0U);
  EXPECT_TRUE(order->scale);
  EXPECT_EQ(order->inverse_total, static_cast<float>(1.0 / 3));
  round_.handle_reduced(0);
  EXPECT_EQ(round_.coverage(0), 3U);
}

TEST_F(OneMember, AloneAChunkIsNotTouched) {
  round_.handle_cut_off(1, CutOff::connection_lost);
  round_.handle_cut_off(2, CutOff::connection_lost);
  int count = 0;
  while (const auto order = round_.poll_finalisation()) {
    EXPECT_FALSE(order->scale);
    round_.handle_reduced(order->chunk);
    count += 1;
  }
  EXPECT_EQ(count, 4);
  EXPECT_FALSE(round_.is_over());  // they may come back
  wait_out_grace();
  EXPECT_TRUE(round_.is_over());
}

TEST_F(OneMember, AveragesGoFirstWhereConfigured) {
  contribute_all(1);
  contribute_all(2);
  const std::vector<SendOrder> orders = send_all(1);
  ASSERT_EQ(orders.size(), 8U);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(orders[i].kind, i < 4 ? ShardKind::average : ShardKind::contribution);
    EXPECT_EQ(orders[i].chunk, i);
  }
}

TEST_F(OneMember, ContributionsThatAreNoLongerWantedAreNotSent) {
  ASSERT_TRUE(average(4));
  ASSERT_TRUE(average(6));
  const std::vector<SendOrder> orders = send_all(1);
  ASSERT_EQ(orders.size(), 2U);
  EXPECT_EQ(orders[0].chunk, 5U);
  EXPECT_EQ(orders[1].chunk, 7U);
}

TEST_F(OneMember, CancelKeepsWhatIsAveragedAndLeavesTheRestLocal) {
  contribute(1, 0);
  contribute(2, 0);
  contribute(1, 1);
  ASSERT_TRUE(average(5));
  round_.cancel();
  EXPECT_TRUE(round_.was_canceled());
  finalise_all();
  EXPECT_TRUE(round_.is_over());
  EXPECT_EQ(round_.coverage(0), 7U);
  EXPECT_EQ(round_.coverage(1), 3U);
  EXPECT_EQ(round_.coverage(2), 1U);
  EXPECT_EQ(round_.coverage(4), 0U);
  EXPECT_EQ(round_.coverage(5), 7U);
  EXPECT_EQ(round_.check_contribution(2, 1, 1, kChunk), Verdict::late);
  EXPECT_EQ(round_.check_average(1, 4, 1, 7, 4, kChunk), Verdict::late);
  EXPECT_FALSE(round_.poll_send(1).has_value());
}

TEST_F(OneMember, TheWorldGoesOnAfterTheEnd) {
  round_.cancel();
  finalise_all();
  ASSERT_TRUE(round_.is_over());
  round_.cancel();
  round_.handle_cut_off(1, CutOff::connection_lost);
  round_.handle_time(kDeadline + seconds(1));
  round_.handle_done(2);
  EXPECT_FALSE(says_done());
  EXPECT_EQ(round_.cut_off(1), CutOff::none);  // the report is written
  EXPECT_TRUE(round_.is_over());
}

TEST_F(OneMember, ItSaysOnceThatItIsDone) {
  contribute_all(1);
  contribute_all(2);
  for (ChunkIndex chunk = 4; chunk < 11; ++chunk) ASSERT_TRUE(average(chunk));
  EXPECT_FALSE(says_done());  // one average is missing
  ASSERT_TRUE(average(11));
  EXPECT_TRUE(says_done());
  EXPECT_FALSE(says_done());
  send_all(1);
  send_all(2);
  EXPECT_FALSE(round_.is_over());  // the others may still need this member
  round_.handle_done(1);
  EXPECT_FALSE(round_.is_over());
  round_.handle_done(2);
  EXPECT_TRUE(round_.is_over());
}

class ContributionsFirst : public OneMember {
 protected:
  ContributionsFirst() : OneMember(false) {}
};

TEST_F(ContributionsFirst, ItWaitsForEveryReader) {
  contribute_all(1);
  contribute_all(2);
  average_all();
  const std::vector<SendOrder> orders = send_all(1);
  send_all(2);
  EXPECT_TRUE(std::all_of(orders.begin(), orders.end(), [](auto& each) { return each.kind == ShardKind::average; }));
  EXPECT_FALSE(round_.has_released(1));
  round_.handle_done(1);
  EXPECT_TRUE(round_.has_released(1));
  EXPECT_FALSE(round_.is_over());
  round_.handle_cut_off(2, CutOff::connection_lost);  // its reader is gone
  wait_out_grace();
  EXPECT_TRUE(round_.is_over());
}

TEST_F(ContributionsFirst, NoReaderHoldsItBeyondTheDeadline) {
  contribute_all(1);
  contribute_all(2);
  average_all();
  send_all(1);
  send_all(2);
  round_.handle_done(1);
  round_.handle_time(kDeadline);
  EXPECT_TRUE(round_.is_over());
  EXPECT_FALSE(round_.has_released(2));
  EXPECT_TRUE(round_.has_released(1));
}

TEST_F(ContributionsFirst, ContributionsGoFirstWhereConfigured) {
  contribute_all(1);
  contribute_all(2);
  const std::vector<SendOrder> orders = send_all(2);
  ASSERT_EQ(orders.size(), 8U);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(orders[i].kind, i < 4 ? ShardKind::contribution : ShardKind::average);
  }
}

TEST(RoundNames, EveryReasonAndVerdictHasItsOwn) {
  std::vector<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(CutOff::protocol); ++i) names.push_back(to_string(static_cast<CutOff>(i)));
  for (int i = 0; i <= static_cast<int>(Verdict::bad_coverage); ++i) {
    names.push_back(to_string(static_cast<Verdict>(i)));
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  EXPECT_EQ(std::count(names.begin(), names.end(), "unknown"), 0);
}

// ---- groups with faults

// After any number of deliveries, something happens; the round has to keep its promises whatever the stage was.
template <typename Fault>
void at_every_stage(WorldOptions options, const Fault& fault) {
  for (std::size_t stage = 0;; ++stage) {
    options.seed = stage;
    World world(options);
    if (stage > 0) world.pump_all();  // stage 0: before anything was sent
    std::size_t done = 0;
    while (done < stage && world.deliver_any()) done += 1;
    const bool ran_out = done < stage && stage > 1;
    fault(world);
    world.run();
    world.handle_time(kReduceBy);
    world.run();
    world.handle_time(kDeadline);
    world.run();
    world.expect_promises();
    ASSERT_FALSE(testing::Test::HasFailure()) << "stage " << stage;
    if (ran_out) return;
  }
}

TEST(RoundWithFaults, ACrashAtEveryStage) {
  for (const bool lazy : {false, true}) {
    at_every_stage({.elements = 40, .members = everybody_reduces(4), .lazy_kernel = lazy}, [](World& world) {
      world.crash(2);
      world.run_beyond_grace();
      world.expect_survivors_agree();
    });
  }
}

TEST(RoundWithFaults, AReducerAndItsSuccessorCrashAtEveryPairOfStages) {
  for (int between = 0; between < 24; ++between) {
    at_every_stage({.elements = 40, .members = everybody_reduces(5)}, [&](World& world) {
      world.crash(2);
      for (int i = 0; i < between; ++i) world.deliver_any();
      world.crash(3);
      world.run_beyond_grace();
      world.expect_survivors_agree();
    });
  }
}

TEST(RoundWithFaults, ALostLinkAtEveryStage) {
  at_every_stage({.elements = 40, .members = everybody_reduces(4)}, [](World& world) {
    world.lose_link(0, 3);
    world.run_beyond_grace();
    world.expect_survivors_agree();
  });
}

TEST(RoundWithFaults, ALinkThatIsMendedAtEveryStage) {
  for (int between = 0; between < 12; ++between) {
    at_every_stage({.elements = 40, .members = everybody_reduces(4)}, [&](World& world) {
      world.lose_link(0, 3);
      for (int i = 0; i < between; ++i) world.deliver_any();
      world.mend_link(0, 3);
      world.run_beyond_grace();
      world.expect_survivors_agree();
    });
  }
}

TEST(RoundWithFaults, AReducerThatAllHaveLostComesBackAtEveryStage) {
  for (int between = 0; between < 12; ++between) {
    at_every_stage({.elements = 40, .members = everybody_reduces(4)}, [&](World& world) {
      for (const MemberIndex other : {0U, 1U, 3U}) world.lose_link(2, other);
      for (int i = 0; i < between; ++i) world.deliver_any();
      for (const MemberIndex other : {0U, 1U, 3U}) world.mend_link(2, other);
    });
  }
}

TEST(RoundWithFaults, CancelAtEveryStage) {
  for (const bool lazy : {false, true}) {
    at_every_stage({.elements = 40, .members = everybody_reduces(3), .lazy_kernel = lazy},
                   [](World& world) { world.cancel(1); });
  }
}

TEST(RoundWithFaults, TheDeadlineAtEveryStage) {
  for (const bool lazy : {false, true}) {
    at_every_stage({.elements = 40, .members = everybody_reduces(3), .lazy_kernel = lazy},
                   [](World& world) { world.handle_time(kDeadline); });
  }
}

TEST(RoundWithFaults, ReduceByAtEveryStage) {
  at_every_stage({.elements = 40, .members = everybody_reduces(3)}, [](World& world) { world.handle_time(kReduceBy); });
}

TEST(RoundWithFaults, WithoutAContributionTheOthersAverageWithoutIt) {
  World world({.elements = 60, .members = everybody_reduces(3), .weights = {1, 2, 3}});
  world.pump_all();
  // Member 2's contributions never arrive; its averages could.
  std::erase_if(world.messages(), [](const Message& message) { return message.from == 2; });
  world.run();
  EXPECT_FALSE(world[0].round.is_over());
  world.handle_time(kReduceBy);
  world.run();
  world.expect_promises();
  EXPECT_EQ(world[0].round.cut_off(2), CutOff::contributions_missing);
  EXPECT_EQ(world[1].round.cut_off(2), CutOff::contributions_missing);
  for (ChunkIndex chunk = 0; chunk < world.plan().chunk_count(); ++chunk) {
    EXPECT_EQ(world[0].round.coverage(chunk), world.plan().reducer(chunk) == 2 ? 7U : 3U);
  }
}

TEST(RoundWithFaults, WhateverHappensARoundEndsByItsDeadline) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    Random random(seed);
    std::vector<PlanMember> members = everybody_reduces(static_cast<std::uint32_t>(1 + random.below(8)));
    for (PlanMember& member : members) member.reduces = !random.chance(0.15);
    const auto count = static_cast<MemberIndex>(members.size());
    World world({.elements = random.below(120),
                 .members = members,
                 .weights = {1, 0.5, 20, 3, 4, 5, 6, 7},
                 .averages_first = random.chance(0.5),
                 .lazy_kernel = random.chance(0.5),
                 .seed = seed});
    TimePoint now = kStart;
    world.pump_all();
    for (int event = 0; event < 200; ++event) {
      const auto one = static_cast<MemberIndex>(random.below(count));
      const auto other = static_cast<MemberIndex>(random.below(count));
      const double dice = random.uniform();
      if (dice < 0.80) {
        world.deliver_any();
      } else if (dice < 0.95) {
        world.work_once(one);
        world.pump(one);
      } else if (dice < 0.96 && one != other) {
        world.lose_link(one, other);
      } else if (dice > 0.975 && dice < 0.98 && one != other) {
        world.mend_link(one, other);
      } else if (dice < 0.965) {
        world.crash(one);
      } else if (dice < 0.97) {
        world.cancel(one);
      } else if (dice < 0.975 && one != other) {
        world.cut_off(one, other, CutOff::damaged_bytes);
      } else if (dice > 0.985) {
        now += milliseconds(random.below(400));
        world.handle_time(now);
      }
    }
    world.handle_time(kDeadline);
    world.work_all();
    world.expect_promises();
    // What is still on its way changes nothing any more.
    std::vector<std::vector<float>> before;
    for (MemberIndex i = 0; i < count; ++i) before.push_back(world[i].gradient);
    world.run();
    for (MemberIndex i = 0; i < count; ++i) EXPECT_EQ(world[i].gradient, before[i]);
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace papilio::core
