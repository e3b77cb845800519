// Every kind of state that a round can be in against everything that can happen to it, as a table that is checked in:
// a change of the machine shows as a change of the table, which somebody has to look at. PAPILIO_REWRITE_SNAPSHOTS=1 in
// the environment writes it anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/round.hpp"

namespace papilio::core {
namespace {

using std::chrono::seconds;

// Four members with parts of two chunks each; this one is member 1, its own chunks are 2 and 3.
constexpr MemberIndex kMembers = 4;
constexpr MemberIndex kSelf = 1;
constexpr std::uint64_t kElements = 32;
constexpr std::size_t kChunkBytes = 16;
constexpr TimePoint kStart{seconds(100)};
constexpr TimePoint kReduceBy{seconds(106)};
constexpr TimePoint kSettleBy{seconds(108)};
constexpr TimePoint kDeadline{seconds(110)};

Round make_round(bool client) {
  std::vector<PlanMember> members(kMembers);
  members[kSelf].reduces = !client;
  RoundConfig config{.round = 7, .self = kSelf, .weight = 1};
  config.start = kStart;
  config.reduce_by = kReduceBy;
  config.settle_by = kSettleBy;
  config.deadline = kDeadline;
  config.reducers = client ? 0b1101 : 0b1111;
  return {config, PartitionPlan::make(kElements, members, kChunkBytes)};
}

// ---- a round in words

// Bits 0 and 2 of four: `0.2.`.
std::string bits_text(Coverage bits, MemberIndex count = kMembers) {
  std::string text;
  for (MemberIndex i = 0; i < count; ++i) text += (bits >> i & 1U) != 0 ? static_cast<char>('0' + i) : '.';
  return text;
}

std::string words_text(const ChunkBits& bits) { return bits.empty() ? "-" : bits_text(bits.front(), 2); }

std::string time_text(TimePoint time) {
  return time == kNever ? "never" : std::to_string((time - kStart) / std::chrono::milliseconds(1)) + " ms";
}

std::string text_of(const Notice& notice) {
  std::string text(to_string(notice.kind));
  text += notice.to == kEverybody ? " to all" : " to " + std::to_string(notice.to);
  switch (notice.kind) {
    case Notice::Kind::suspect: return text + (notice.withdrawn ? " not " : " ") + std::to_string(notice.member);
    case Notice::Kind::cut_off: return "cut off " + std::to_string(notice.member);
    case Notice::Kind::done: return text;
    default: break;
  }
  text += " part " + std::to_string(notice.part);
  if (notice.kind != Notice::Kind::wanted) text += " distance " + std::to_string(notice.distance);
  if (notice.kind == Notice::Kind::takeover) return text;
  return text + " " + words_text(notice.first) + " " + words_text(notice.second);
}

// What it would send now, one member after the other; on a copy, because asking changes it.
std::string sends_text(Round round, MemberIndex to) {
  std::string text;
  while (const std::optional<SendOrder> order = round.poll_send(to)) {
    text += (text.empty() ? "" : " ") + std::string(order->kind == ShardKind::average ? "a" : "c") +
            std::to_string(order->chunk);
  }
  return text;
}

std::string finalisations_text(Round round) {
  std::string text;
  while (const std::optional<Finalisation> order = round.poll_finalisation()) {
    text += (text.empty() ? "" : " ") + std::to_string(order->chunk) + (order->scale ? " scaled" : " as it is");
  }
  return text;
}

std::string notices_text(Round round) {
  std::string text;
  while (const std::optional<Notice> notice = round.poll_notice())
    text += (text.empty() ? "" : ", ") + text_of(*notice);
  return text;
}

using Facts = std::vector<std::pair<std::string, std::string>>;

Facts facts_of(const Round& round) {
  Facts facts;
  std::string flags;
  const auto flag = [&](bool is_so, const char* name) {
    if (is_so) flags += (flags.empty() ? "" : " ") + std::string(name);
  };
  flag(round.is_settled(), "settled");
  flag(round.is_over(), "over");
  flag(round.was_canceled(), "canceled");
  flag(round.is_in_trouble(), "in-trouble");
  facts.emplace_back("round", flags);
  facts.emplace_back("wakes", time_text(round.next_deadline()));
  for (ChunkIndex chunk = 0; chunk < round.plan().chunk_count(); ++chunk) {
    const Coverage coverage = round.coverage(chunk);
    facts.emplace_back("chunk " + std::to_string(chunk),
                       coverage == 0 ? "" : bits_text(coverage) + " by " + std::to_string(round.reducer(chunk)));
  }
  std::string holders;
  for (MemberIndex part = 0; part < kMembers; ++part) holders += std::to_string(round.holder(part));
  facts.emplace_back("holders", holders);
  facts.emplace_back("waits for", bits_text(round.waiting_for()));
  for (MemberIndex member = 0; member < kMembers; ++member) {
    if (member == kSelf) continue;
    const std::string name = std::to_string(member);
    std::string text = round.is_live(member) ? "live" : "gone";
    if (round.cut_off(member) != CutOff::none) text += " (" + std::string(to_string(round.cut_off(member))) + ")";
    text +=
        ", gave " + std::to_string(round.contributions_in(member)) + "+" + std::to_string(round.averages_in(member));
    if (round.times_resumed(member) > 0) text += ", resumed " + std::to_string(round.times_resumed(member));
    if (!round.has_released(member)) text += ", reads here";
    if (round.may_resume(member)) text += ", may resume";
    facts.emplace_back("member " + name, text);
    facts.emplace_back("sends " + name, sends_text(round, member));
  }
  facts.emplace_back("finalises", finalisations_text(round));
  facts.emplace_back("says", notices_text(round));
  return facts;
}

// ---- what happens

// Shells read notices at once; a matrix of what is still to be said would say everything twice.
void listen(Round& round) {
  while (round.poll_notice()) {
  }
}

std::string contribute(Round& round, MemberIndex from, ChunkIndex chunk, double weight = 2,
                       std::uint64_t elements = 4) {
  const Verdict verdict = round.check_contribution(from, chunk, weight, elements);
  if (verdict != Verdict::accept) return std::string(to_string(verdict));
  const std::optional<Reduction> reduction = round.handle_contribution(from, chunk, weight);
  EXPECT_TRUE(reduction.has_value());
  return reduction->last ? "accept, last" : "accept";
}

std::string average(Round& round, MemberIndex from, ChunkIndex chunk, MemberIndex reducer, Coverage coverage = 0b1111) {
  const Verdict verdict = round.check_average(from, chunk, reducer, coverage, 7, 4);
  const bool taken = round.handle_average(from, chunk, reducer, coverage, 7);
  EXPECT_EQ(taken, verdict == Verdict::accept);
  return std::string(to_string(verdict));
}

std::string verdict_text(Verdict verdict) { return std::string(to_string(verdict)); }

// The kernel takes all that there is to send to the member.
std::string send_all(Round& round, MemberIndex to) {
  while (const std::optional<SendOrder> order = round.poll_send(to)) round.handle_sent(to, *order);
  return {};
}

struct Event {
  std::string name;
  std::function<std::string(Round&)> happen;
};

std::vector<Event> shard_events() {
  return {
      {"contribution 0 to chunk 2", [](Round& round) { return contribute(round, 0, 2); }},
      {"contribution 2 to chunk 2", [](Round& round) { return contribute(round, 2, 2); }},
      {"contribution 3 to chunk 3", [](Round& round) { return contribute(round, 3, 3); }},
      {"contribution 2 to chunk 0", [](Round& round) { return contribute(round, 2, 0); }},
      {"contribution 0 to chunk 9", [](Round& round) { return contribute(round, 0, 9); }},
      {"contribution 0 without weight", [](Round& round) { return contribute(round, 0, 2, 0); }},
      {"contribution 0 of another size", [](Round& round) { return contribute(round, 0, 2, 2, 5); }},
      {"average 0 of chunk 0", [](Round& round) { return average(round, 0, 0, 0); }},
      {"average 2 of chunk 4", [](Round& round) { return average(round, 2, 4, 2); }},
      {"average 0 of chunk 4 by 2", [](Round& round) { return average(round, 0, 4, 2); }},
      {"average 3 of chunk 4 by 3", [](Round& round) { return average(round, 3, 4, 3); }},
      {"average 2 of chunk 2", [](Round& round) { return average(round, 2, 2, 2); }},
      {"average 0 of chunk 1 without 0", [](Round& round) { return average(round, 0, 1, 0, 0b1110); }},
      {"average 0 of chunk 1 with a fifth", [](Round& round) { return average(round, 0, 1, 0, 0b11111); }},
      {"sends to 0", [](Round& round) { return send_all(round, 0); }},
      {"sends to 2", [](Round& round) { return send_all(round, 2); }},
  };
}

std::vector<Event> member_events() {
  const auto cut_off = [](MemberIndex member, CutOff reason) {
    return [=](Round& round) {
      round.handle_cut_off(member, reason);
      return std::string();
    };
  };
  const auto done = [](MemberIndex member) {
    return [=](Round& round) {
      round.handle_done(member);
      return std::string();
    };
  };
  const auto suspect = [](MemberIndex from, MemberIndex member, bool withdrawn) {
    return [=](Round& round) { return verdict_text(round.handle_suspect(from, member, withdrawn)); };
  };
  return {
      {"done 0", done(0)},
      {"done 2", done(2)},
      {"loses 0", cut_off(0, CutOff::connection_lost)},
      {"loses 2", cut_off(2, CutOff::connection_lost)},
      {"goodbye of 2", cut_off(2, CutOff::departed)},
      {"2 is slow", cut_off(2, CutOff::slow)},
      {"2 breaks the protocol", cut_off(2, CutOff::protocol)},
      {"2 comes back", [](Round& round) { return std::string(round.handle_resumed(2) ? "goes on" : "may not"); }},
      {"0 suspects 2", suspect(0, 2, false)},
      {"3 suspects 2", suspect(3, 2, false)},
      {"0 suspects 2 no more", suspect(0, 2, true)},
      {"0 suspects this one", suspect(0, kSelf, false)},
      {"0 suspects itself", suspect(0, 0, false)},
  };
}

std::vector<Event> authority_events() {
  const auto takeover = [](MemberIndex from, MemberIndex part, std::uint32_t distance) {
    return [=](Round& round) { return verdict_text(round.handle_takeover(from, part, distance)); };
  };
  const auto holdings = [](MemberIndex from, MemberIndex part, std::uint32_t distance, ChunkBits held,
                           ChunkBits spent) {
    return [=](Round& round) { return verdict_text(round.handle_holdings(from, part, distance, held, spent)); };
  };
  const auto wanted = [](MemberIndex from, MemberIndex part, ChunkBits contributions, ChunkBits averages) {
    return [=](Round& round) { return verdict_text(round.handle_wanted(from, part, contributions, averages)); };
  };
  return {
      {"3 takes over part 2", takeover(3, 2, 1)},
      {"2 takes over this one's part", takeover(2, 1, 1)},
      {"3 takes over part 2 from too far", takeover(3, 2, 3)},
      {"3 takes over part 9", takeover(3, 9, 1)},
      {"2 holds nothing of part 0", holdings(2, 0, 1, {0}, {0})},
      {"3 holds chunk 0 of part 0", holdings(3, 0, 1, {1}, {1})},
      {"3 holds more than there is of part 0", holdings(3, 0, 1, {15}, {0})},
      {"2 wants contributions to part 2", wanted(2, 2, {3}, {0})},
      {"0 wants averages of part 1", wanted(0, 1, {0}, {3})},
      {"0 wants averages of part 2", wanted(0, 2, {0}, {3})},
      {"0 wants more than there is of part 1", wanted(0, 1, {0}, {15})},
  };
}

std::vector<Event> own_events() {
  const auto time = [](TimePoint now) {
    return [=](Round& round) {
      round.handle_time(now);
      return std::string();
    };
  };
  return {
      {"a second later", time(kStart + seconds(1))},
      {"time to reduce", time(kReduceBy)},
      {"time to settle", time(kSettleBy)},
      {"the deadline", time(kDeadline)},
      {"cancel",
       [](Round& round) {
         round.cancel();
         return std::string();
       }},
  };
}

std::vector<Event> all_events() {
  std::vector<Event> events;
  for (std::vector<Event> (*group)() : {shard_events, member_events, authority_events, own_events}) {
    for (Event& event : group()) events.push_back(std::move(event));
  }
  return events;
}

// ---- states

struct State {
  std::string name;
  Round round;
  std::optional<ChunkIndex> in_flight;  // a kernel is at work on it
};

Round fresh() { return make_round(false); }

Round contributing() {
  Round round = fresh();
  for (const MemberIndex member : {0U, 2U, 3U}) send_all(round, member);
  return round;
}

// One of two own chunks has one contribution.
Round partly_reduced() {
  Round round = contributing();
  contribute(round, 0, 2);
  round.handle_reduced(2);
  return round;
}

Round reducing_the_last() {
  Round round = partly_reduced();
  contribute(round, 2, 2);
  round.handle_reduced(2);
  contribute(round, 3, 2);
  return round;
}

Round own_part_averaged() {
  Round round = contributing();
  for (const ChunkIndex chunk : {2U, 3U}) {
    for (const MemberIndex member : {0U, 2U, 3U}) {
      contribute(round, member, chunk);
      round.handle_reduced(chunk);
    }
  }
  for (const MemberIndex member : {0U, 2U, 3U}) send_all(round, member);
  return round;
}

Round all_settled() {
  Round round = own_part_averaged();
  for (const MemberIndex member : {0U, 2U, 3U}) {
    for (const ChunkIndex chunk : {2 * member, 2 * member + 1}) average(round, member, chunk, member);
  }
  listen(round);
  return round;
}

Round one_is_not_done() {
  Round round = all_settled();
  round.handle_done(0);
  round.handle_done(3);
  return round;
}

Round over() {
  Round round = one_is_not_done();
  round.handle_done(2);
  return round;
}

Round canceled() {
  Round round = partly_reduced();
  round.cancel();
  listen(round);
  return round;
}

Round past(TimePoint time) {
  Round round = partly_reduced();
  round.handle_time(time);
  listen(round);
  return round;
}

Round lost_a_reducer() {
  Round round = partly_reduced();
  average(round, 2, 4, 2);
  round.handle_cut_off(2, CutOff::connection_lost);
  listen(round);
  return round;
}

Round lost_for_good() {
  Round round = partly_reduced();
  round.handle_cut_off(2, CutOff::protocol);
  listen(round);
  return round;
}

Round came_back() {
  Round round = lost_a_reducer();
  round.handle_resumed(2);
  listen(round);
  return round;
}

Round others_lost_a_reducer() {
  Round round = partly_reduced();
  round.handle_suspect(0, 2, false);
  round.handle_suspect(3, 2, false);
  listen(round);
  return round;
}

Round succeeded_by_another() {
  Round round = lost_a_reducer();
  round.handle_suspect(0, 2, false);
  round.handle_suspect(3, 2, false);
  round.handle_takeover(3, 2, 1);
  listen(round);
  return round;
}

// Part 0 goes to the first live member after it: this one.
Round took_over() {
  Round round = partly_reduced();
  round.handle_cut_off(0, CutOff::connection_lost);
  round.handle_suspect(2, 0, false);
  round.handle_suspect(3, 0, false);
  listen(round);
  return round;
}

Round decided() {
  Round round = took_over();
  round.handle_holdings(2, 0, 1, {0}, {0});
  round.handle_holdings(3, 0, 1, {1}, {1});
  listen(round);
  return round;
}

Round succeeded_itself() {
  Round round = partly_reduced();
  round.handle_suspect(0, kSelf, false);
  round.handle_takeover(2, kSelf, 1);
  listen(round);
  return round;
}

Round alone() {
  Round round = partly_reduced();
  for (const MemberIndex member : {0U, 2U, 3U}) round.handle_cut_off(member, CutOff::connection_lost);
  listen(round);
  return round;
}

std::vector<State> all_states() {
  return {
      {"fresh", fresh(), {}},
      {"contributing: its contributions are out", contributing(), {}},
      {"partly reduced: one contribution to one own chunk is in", partly_reduced(), {}},
      {"reducing: the last contribution to an own chunk is being added", reducing_the_last(), 2},
      {"own part averaged and sent", own_part_averaged(), {}},
      {"all settled, nobody else is done", all_settled(), {}},
      {"all settled, one is not done", one_is_not_done(), {}},
      {"over", over(), {}},
      {"canceled", canceled(), {}},
      {"past the time to reduce", past(kReduceBy), {}},
      {"past the time to settle", past(kSettleBy), {}},
      {"past the deadline", past(kDeadline), {}},
      {"lost a reducer", lost_a_reducer(), {}},
      {"lost a reducer for what it did", lost_for_good(), {}},
      {"a lost reducer came back", came_back(), {}},
      {"others lost a reducer", others_lost_a_reducer(), {}},
      {"another member took over a lost reducer's part", succeeded_by_another(), {}},
      {"took over a lost reducer's part", took_over(), {}},
      {"took over, and knows who holds what", decided(), {}},
      {"another member took over its part", succeeded_itself(), {}},
      {"alone", alone(), {}},
      {"client: its own part is empty", make_round(true), {}},
  };
}

// ---- the table

std::string cell(const State& state, const Event& event) {
  Round round = state.round;
  const Facts before = facts_of(round);
  std::string text = event.happen(round);
  round.check_invariants();
  const Facts after = facts_of(round);
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (after[i] == before[i]) continue;
    text += (text.empty() ? "" : "; ") + after[i].first + ": " + (after[i].second.empty() ? "-" : after[i].second);
  }
  return text;
}

std::string row(const State& state, const std::vector<Event>& events) {
  std::ostringstream text;
  text << "== " << state.name << "\n";
  for (const auto& [key, value] : facts_of(state.round)) {
    if (!value.empty()) text << key << ": " << value << "\n";
  }
  std::string nothing;
  for (const Event& event : events) {
    const std::string effect = cell(state, event);
    if (effect.empty()) {
      nothing += (nothing.empty() ? "" : ", ") + event.name;
    } else {
      text << "  " << event.name << " -> " << effect << "\n";
    }
  }
  if (!nothing.empty()) text << "  nothing comes of: " << nothing << "\n";
  return text.str();
}

std::string matrix() {
  std::string text =
      "Member 1 of 4, whose chunks are 2 and 3. Below each state: what can happen, and what is different then.\n";
  for (const State& state : all_states()) {
    std::vector<Event> events = all_events();
    if (state.in_flight) {
      events.push_back({"the kernel has finished", [&](Round& round) {
                          round.handle_reduced(*state.in_flight);
                          return std::string();
                        }});
    }
    text += "\n" + row(state, events);
  }
  return text;
}

TEST(RoundMatrix, IsAsCheckedIn) {
  const std::string now = matrix();
  const char* const rewrite = std::getenv("PAPILIO_REWRITE_SNAPSHOTS");
  if (rewrite != nullptr && std::string(rewrite) == "1") {
    std::ofstream(PAPILIO_ROUND_MATRIX) << now;
    return;
  }
  std::ifstream file(PAPILIO_ROUND_MATRIX);
  ASSERT_TRUE(file.is_open()) << "cannot read " << PAPILIO_ROUND_MATRIX
                              << "; set PAPILIO_REWRITE_SNAPSHOTS=1 to write it";
  const std::string then{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::istringstream now_lines(now), then_lines(then);
  std::string now_line, then_line, state;
  while (std::getline(now_lines, now_line)) {
    std::getline(then_lines, then_line);
    if (now_line.starts_with("==")) state = now_line;
    ASSERT_EQ(now_line, then_line) << "in state " << state
                                   << "; if that is meant, set PAPILIO_REWRITE_SNAPSHOTS=1 to write the table anew";
  }
  EXPECT_EQ(now, then) << "the table that is checked in goes on";
}

// Whatever happens in whatever state, twice, in any order: the machine stays in order.
TEST(RoundMatrix, EventsInPairsBreakNoInvariant) {
  const std::vector<Event> events = all_events();
  for (const State& state : all_states()) {
    for (const Event& first : events) {
      for (const Event& second : events) {
        Round round = state.round;
        first.happen(round);
        round.check_invariants();
        second.happen(round);
        round.check_invariants();
      }
    }
  }
}

}  // namespace
}  // namespace papilio::core
