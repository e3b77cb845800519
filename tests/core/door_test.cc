// The door from both sides of every limit; crowds that leave room for everybody else; big groups behind one address;
// and drawn sequences against a plain count of what is open.
#include "engine/core/door.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "engine/base/random.hpp"
#include "tests/seeds.hpp"

namespace papilio::core {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{seconds(1000)};

AddressBlock address(std::uint32_t number) {
  return AddressBlock::of_ipv4({11, static_cast<std::uint8_t>(number >> 16U), static_cast<std::uint8_t>(number >> 8U),
                                static_cast<std::uint8_t>(number)});
}

PeerId peer(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
  return id;
}

// Limits so far apart that one is met at a time.
DoorConfig roomy() {
  DoorConfig config;
  config.elsewhere = {.connections = 100'000, .handshakes = 100'000, .attempts_at_once = 100'000, .attempts_per_s = 1};
  config.local_host = config.elsewhere;
  config.handshakes_per_connection = 0;
  config.connections_per_peer = 100'000;
  config.connections_in_total = config.handshakes_in_total = config.blocks = 1'000'000;
  return config;
}

Visit admitted(Door& door, TimePoint now, const AddressBlock& from) {
  const DoorAnswer answer = door.handle_opened(now, from);
  EXPECT_EQ(answer.verdict, DoorVerdict::welcome) << to_string(answer.verdict);
  return answer.visit;
}

Visit established(Door& door, TimePoint now, const AddressBlock& from) {
  const Visit visit = admitted(door, now, from);
  door.handle_established(visit);
  return visit;
}

// How many of so many get in, and what the others are told.
std::uint32_t crowd(Door& door, TimePoint now, const AddressBlock& from, std::uint32_t count,
                    std::vector<Visit>* visits = nullptr) {
  std::uint32_t in = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const DoorAnswer answer = door.handle_opened(now, from);
    EXPECT_EQ(answer.verdict == DoorVerdict::welcome, answer.visit != 0);
    if (answer.visit == 0) continue;
    in += 1;
    if (visits != nullptr) visits->push_back(answer.visit);
  }
  return in;
}

TEST(AddressBlock, IsWhatAStrangerCannotChoose) {
  EXPECT_EQ(AddressBlock::of_ipv4({10, 0, 0, 1}), AddressBlock::of_ipv4({10, 0, 0, 1}));
  EXPECT_NE(AddressBlock::of_ipv4({10, 0, 0, 1}), AddressBlock::of_ipv4({10, 0, 0, 2}));
  std::array<std::uint8_t, 16> six = {0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const AddressBlock block = AddressBlock::of_ipv6(six);
  for (std::size_t i = 0; i < six.size(); ++i) {
    std::array<std::uint8_t, 16> other = six;
    other[i] ^= 1;
    EXPECT_EQ(AddressBlock::of_ipv6(other) == block, i >= 8) << i;
  }
}

TEST(AddressBlock, MappedIsTheSameAsPlainAndTheLocalHostIsOne) {
  EXPECT_EQ(AddressBlock::of_ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}),
            AddressBlock::of_ipv4({10, 0, 0, 1}));
  for (const AddressBlock& local : {AddressBlock::of_ipv4({127, 0, 0, 1}), AddressBlock::of_ipv4({127, 255, 3, 4}),
                                    AddressBlock::of_ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}),
                                    AddressBlock::of_ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1})}) {
    EXPECT_EQ(local, AddressBlock::local_host());
    EXPECT_TRUE(local.is_local_host());
  }
  EXPECT_FALSE(AddressBlock::of_ipv4({126, 0, 0, 1}).is_local_host());
  EXPECT_FALSE(AddressBlock::of_ipv6({}).is_local_host());
  EXPECT_NE(AddressBlock::of_ipv6({}), AddressBlock::local_host());
}

TEST(Door, ConnectionsOfOneAddress) {
  DoorConfig config = roomy();
  config.elsewhere.connections = 3;
  config.local_host.connections = 5;
  Door door(config);
  std::vector<Visit> visits;
  EXPECT_EQ(crowd(door, kStart, address(1), 3, &visits), 3U);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_here);
  EXPECT_EQ(crowd(door, kStart, address(2), 4), 3U);
  EXPECT_EQ(crowd(door, kStart, AddressBlock::local_host(), 6), 5U);
  // Established ones count, too.
  for (const Visit each : visits) door.handle_established(each);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_here);
  door.handle_closed(visits.front());
  admitted(door, kStart, address(1));
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_here);
  EXPECT_EQ(door.count_of(DoorVerdict::too_many_here), 5U);
  EXPECT_EQ(door.count_of(DoorVerdict::welcome), 12U);
}

TEST(Door, HandshakesOfOneAddress) {
  DoorConfig config = roomy();
  config.elsewhere.handshakes = 2;
  config.local_host.handshakes = 4;
  Door door(config);
  std::vector<Visit> visits;
  EXPECT_EQ(crowd(door, kStart, address(1), 3, &visits), 2U);
  EXPECT_EQ(door.count_of(DoorVerdict::too_many_handshakes), 1U);
  EXPECT_EQ(crowd(door, kStart, AddressBlock::local_host(), 5), 4U);
  door.handle_established(visits[0]);
  EXPECT_EQ(crowd(door, kStart, address(1), 2), 1U);
  door.handle_closed(visits[1]);
  EXPECT_EQ(crowd(door, kStart, address(1), 2), 1U);
  door.handle_closed(visits[0]);  // was none any more
  EXPECT_EQ(crowd(door, kStart, address(1), 1), 0U);
}

TEST(Door, EstablishedConnectionsMayBringMore) {
  DoorConfig config = roomy();
  config.elsewhere.handshakes = 2;
  config.handshakes_per_connection = 3;
  Door door(config);
  const Visit first = established(door, kStart, address(1));
  EXPECT_EQ(crowd(door, kStart, address(1), 10), 5U);
  EXPECT_EQ(crowd(door, kStart, address(2), 10), 2U) << "not others";
  door.handle_closed(first);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_handshakes);
}

TEST(Door, InTotalAnAddressMayHoldAsManyAsAreLeft) {
  DoorConfig config = roomy();
  config.connections_in_total = 16;
  Door door(config);
  EXPECT_EQ(crowd(door, kStart, address(1), 100), 8U);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_in_total);
  EXPECT_EQ(crowd(door, kStart, address(2), 100), 4U);
  EXPECT_EQ(crowd(door, kStart, address(3), 100), 2U);
  // Who has nothing yet gets in until there is no room at all.
  EXPECT_EQ(crowd(door, kStart, address(4), 100), 1U);
  const Visit last = admitted(door, kStart, address(5));
  EXPECT_EQ(door.connections(), 16U);
  const std::size_t remembered = door.blocks();
  EXPECT_EQ(door.handle_opened(kStart, address(6)).verdict, DoorVerdict::too_many_in_total);
  EXPECT_EQ(door.blocks(), remembered) << "and is not even remembered";
  door.handle_closed(last);
  admitted(door, kStart, address(6));
}

TEST(Door, WhereHandshakesFillTheRoomTheLargestCrowdMakesRoomWithItsOldest) {
  DoorConfig config = roomy();
  config.handshakes_in_total = 4;
  Door door(config);
  std::vector<Visit> visits;
  EXPECT_EQ(crowd(door, kStart, address(1), 100, &visits), 4U);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_many_handshakes_in_total);
  for (std::size_t i = 0; i < 2; ++i) {
    const DoorAnswer answer = door.handle_opened(kStart, address(2));
    EXPECT_EQ(answer.verdict, DoorVerdict::welcome);
    EXPECT_EQ(answer.displaced, visits[i]);
    EXPECT_EQ(door.handshakes(), 4U);
    EXPECT_EQ(door.connections(), 5 + i) << "until it is closed";
  }
  EXPECT_EQ(door.handle_opened(kStart, address(2)).verdict, DoorVerdict::too_many_handshakes_in_total) << "2 and 2";
  door.handle_closed(visits[0]);
  door.handle_closed(visits[1]);
  EXPECT_EQ(door.connections(), 4U);
  EXPECT_EQ(door.handle_opened(kStart, address(3)).displaced, visits[2]) << "of two like crowds, the older";
  door.handle_closed(visits[2]);
  const Visit established_by_1 = visits[3];
  door.handle_established(established_by_1);
  const DoorAnswer answer = door.handle_opened(kStart, address(1));
  EXPECT_EQ(answer.verdict, DoorVerdict::welcome);
  EXPECT_EQ(answer.displaced, Visit{0}) << "there was room";
  // Established ones are not displaced.
  for (std::uint32_t other = 10; other < 100; ++other) {
    const DoorAnswer next = door.handle_opened(kStart, address(other));
    ASSERT_NE(next.displaced, established_by_1);
    ASSERT_NE(next.displaced, Visit{0});
    door.handle_closed(next.displaced);
  }
  EXPECT_EQ(door.handshakes(), 4U);
}

TEST(Door, AttemptsRefillWithTime) {
  DoorConfig config = roomy();
  config.elsewhere.attempts_at_once = 5;
  config.elsewhere.attempts_per_s = 2;
  config.local_host.attempts_at_once = 50;
  Door door(config);
  EXPECT_EQ(crowd(door, kStart, address(1), 10), 5U);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_often);
  EXPECT_EQ(crowd(door, kStart, address(2), 10), 5U);
  EXPECT_EQ(crowd(door, kStart, AddressBlock::local_host(), 100), 50U);
  EXPECT_EQ(door.handle_opened(kStart + milliseconds(499), address(1)).verdict, DoorVerdict::too_often);
  EXPECT_EQ(crowd(door, kStart + milliseconds(500), address(1), 2), 1U);
  EXPECT_EQ(crowd(door, kStart + seconds(3600), address(1), 10), 5U) << "no more are saved up";
  EXPECT_EQ(crowd(door, kStart, address(1), 10), 0U) << "time that goes back brings none";
  EXPECT_EQ(crowd(door, kStart + seconds(3601), address(1), 10), 2U) << "and takes none";
}

TEST(Door, WhatIsRefusedForOtherReasonsIsAnAttempt) {
  DoorConfig config = roomy();
  config.elsewhere.attempts_at_once = 5;
  config.elsewhere.connections = 1;
  Door door(config);
  const Visit visit = admitted(door, kStart, address(1));
  EXPECT_EQ(crowd(door, kStart, address(1), 4), 0U);
  EXPECT_EQ(door.count_of(DoorVerdict::too_many_here), 4U);
  door.handle_closed(visit);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_often);
}

TEST(Door, ConnectionsOfOnePeer) {
  DoorConfig config = roomy();
  config.connections_per_peer = 2;
  Door door(config);
  std::vector<Visit> visits;
  for (std::uint32_t i = 0; i < 4; ++i) visits.push_back(admitted(door, kStart, address(i)));
  EXPECT_EQ(door.handle_authenticated(visits[0], peer(1)), DoorVerdict::welcome);
  EXPECT_EQ(door.handle_authenticated(visits[1], peer(1)), DoorVerdict::welcome);
  EXPECT_EQ(door.handle_authenticated(visits[2], peer(1)), DoorVerdict::too_many_of_peer) << "from wherever";
  EXPECT_EQ(door.handle_authenticated(visits[3], peer(2)), DoorVerdict::welcome);
  door.handle_closed(visits[2]);  // did not count
  EXPECT_EQ(door.handle_authenticated(admitted(door, kStart, address(7)), peer(1)), DoorVerdict::too_many_of_peer);
  door.handle_closed(visits[0]);
  EXPECT_EQ(door.handle_authenticated(admitted(door, kStart, address(8)), peer(1)), DoorVerdict::welcome);
  EXPECT_EQ(door.count_of(DoorVerdict::too_many_of_peer), 2U);
}

TEST(Door, BytesBeforeTheHandshakeIsOver) {
  DoorConfig config = roomy();
  config.bytes_per_handshake = 8192;
  Door door(config);
  const Visit one = admitted(door, kStart, address(1));
  EXPECT_EQ(door.handle_bytes(one, 8000), DoorVerdict::welcome);
  EXPECT_EQ(door.handle_bytes(one, 192), DoorVerdict::welcome);
  EXPECT_EQ(door.handle_bytes(one, 1), DoorVerdict::too_many_bytes);
  EXPECT_EQ(door.handle_bytes(one, UINT64_MAX), DoorVerdict::too_many_bytes);
  const Visit two = admitted(door, kStart, address(1));
  door.handle_established(two);
  EXPECT_EQ(door.handle_bytes(two, UINT64_MAX), DoorVerdict::welcome);
  EXPECT_EQ(door.count_of(DoorVerdict::too_many_bytes), 2U);
}

TEST(Door, RemembersSoManyAddressesAndForgetsThoseWithNothingOpenFirst) {
  DoorConfig config = roomy();
  config.elsewhere.attempts_at_once = 2;
  config.elsewhere.attempts_per_s = 1e-6;
  config.connections_in_total = config.blocks = 10;
  Door door(config);
  const Visit open = admitted(door, kStart, address(0));
  door.handle_closed(admitted(door, kStart, address(1)));
  door.handle_closed(admitted(door, kStart, address(1)));
  for (std::uint32_t i = 2; i < 10; ++i) door.handle_closed(admitted(door, kStart, address(i)));
  EXPECT_EQ(door.blocks(), 10U);
  // It was here just now, though in vain.
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_often);
  for (std::uint32_t i = 10; i < 18; ++i) door.handle_closed(admitted(door, kStart, address(i)));
  EXPECT_EQ(door.blocks(), 10U);
  EXPECT_EQ(door.handle_opened(kStart, address(1)).verdict, DoorVerdict::too_often) << "still remembered";
  for (std::uint32_t i = 100; i < 10'100; ++i) door.handle_closed(admitted(door, kStart, address(i)));
  EXPECT_EQ(door.blocks(), 10U);
  door.handle_closed(admitted(door, kStart, address(1)));  // forgotten
  admitted(door, kStart, address(0));
  EXPECT_EQ(door.handle_opened(kStart, address(0)).verdict, DoorVerdict::too_often) << "never while something is open";
  door.handle_closed(open);
}

// ---- the defaults

TEST(Door, DefaultsLetAWholeGroupBehindOneAddressInAtOnce) {
  for (const AddressBlock& from : {AddressBlock::local_host(), address(1)}) {
    Door door;
    std::vector<Visit> first;
    EXPECT_EQ(crowd(door, kStart, from, kMaximumMembers - 1, &first), kMaximumMembers - 1);
    for (std::size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(door.handle_authenticated(first[i], peer(i)), DoorVerdict::welcome);
      door.handle_established(first[i]);
    }
    // All further flows before any of them is done.
    std::vector<Visit> further;
    const std::uint32_t rest = (kMaximumMembers - 1) * (kMaximumFlows - 1);
    EXPECT_EQ(crowd(door, kStart, from, rest, &further), rest);
    for (std::size_t i = 0; i < further.size(); ++i) {
      EXPECT_EQ(door.handle_authenticated(further[i], peer(i / (kMaximumFlows - 1))), DoorVerdict::welcome);
      door.handle_established(further[i]);
    }
    // And a few links anew while the old ones are not known to be gone.
    EXPECT_EQ(crowd(door, kStart, from, 8 * kMaximumFlows), 8 * kMaximumFlows);
  }
}

TEST(Door, TenThousandLeftOpenByOneAddressCostNobodyElseAnything) {
  Door door;
  const DoorConfig config;
  EXPECT_EQ(crowd(door, kStart, address(1), 10'000), config.elsewhere.handshakes);
  // Also if they are kept up for a while.
  for (int i = 0; i < 100; ++i) crowd(door, kStart + i * milliseconds(100), address(1), 100);
  EXPECT_EQ(door.connections(), config.elsewhere.handshakes);
  const TimePoint then = kStart + seconds(10);
  for (std::uint32_t other = 2; other < 65; ++other) {
    established(door, then, address(other));
    EXPECT_EQ(crowd(door, then, address(other), kMaximumFlows - 1), kMaximumFlows - 1) << other;
  }
}

TEST(Door, ACrowdThatProvesNamesIsHeldToItsShare) {
  Door door;
  std::uint32_t in = 0;
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    const DoorAnswer answer = door.handle_opened(kStart + i * milliseconds(100), address(1));
    if (answer.verdict != DoorVerdict::welcome) continue;
    EXPECT_EQ(door.handle_authenticated(answer.visit, peer(i)), DoorVerdict::welcome);
    door.handle_established(answer.visit);
    in += 1;
  }
  EXPECT_EQ(in, DoorConfig().elsewhere.connections);
}

TEST(Door, ManyAddressesTogetherLeaveRoomForWhoHasNothingYet) {
  Door door;
  for (std::uint32_t i = 0; i < 100; ++i) {
    for (std::uint32_t j = 0; j < 200; ++j) {
      const DoorAnswer answer = door.handle_opened(kStart, address(i));
      if (answer.displaced != 0) door.handle_closed(answer.displaced);
    }
  }
  EXPECT_EQ(door.handshakes(), DoorConfig().handshakes_in_total);
  // An honest peer behind its own address makes a link in spite of them, and they cannot hinder it.
  const AddressBlock honest = AddressBlock::of_ipv4({12, 0, 0, 1});
  std::vector<Visit> link;
  for (std::uint32_t i = 0; i < kMaximumFlows; ++i) {
    const DoorAnswer answer = door.handle_opened(kStart, honest);
    ASSERT_EQ(answer.verdict, DoorVerdict::welcome);
    door.handle_closed(answer.displaced);
    link.push_back(answer.visit);
    for (std::uint32_t j = 0; j < 100; ++j) {
      const DoorAnswer other = door.handle_opened(kStart, address(j));
      if (other.displaced == 0) continue;
      ASSERT_NE(other.displaced, answer.visit);
      door.handle_closed(other.displaced);
    }
  }
  for (const Visit each : link) door.handle_established(each);
}

// ---- what users say

TEST(Door, ChecksWhatItIsGiven) {
  EXPECT_TRUE(check(DoorConfig()).ok());
  const auto message_of = [](auto change) {
    DoorConfig config;
    change(config);
    const Status checked = check(config);
    return checked ? std::string() : checked.error().message;
  };
  EXPECT_EQ(message_of([](DoorConfig& each) { each.elsewhere.connections = 0; }),
            "connections: '0' is not a number from 1 to 1048576");
  EXPECT_EQ(message_of([](DoorConfig& each) { each.elsewhere.connections = 1; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.local_host.handshakes = 0; }).find("local-handshakes: '0'"),
            std::string::npos);
  EXPECT_NE(message_of([](DoorConfig& each) { each.elsewhere.attempts_at_once = 0; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.elsewhere.attempts_per_s = 0; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.elsewhere.attempts_per_s = 0.0 / 0.0; }), "");
  EXPECT_EQ(message_of([](DoorConfig& each) { each.elsewhere.attempts_per_s = 0.01; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.connections_per_peer = 0; }), "");
  EXPECT_EQ(message_of([](DoorConfig& each) { each.handshakes_per_connection = 0; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.handshakes_in_total = 1U << 20U | 1U; }), "");
  EXPECT_EQ(message_of([](DoorConfig& each) { each.handshakes_in_total = 1U << 20U; }), "");
  EXPECT_EQ(message_of([](DoorConfig& each) { each.blocks = each.connections_in_total; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) {
              each.blocks = each.connections_in_total - 1;
            }).find("must be at least connections-in-total (8192)"),
            std::string::npos);
  EXPECT_EQ(message_of([](DoorConfig& each) { each.bytes_per_handshake = 8192; }), "");
  EXPECT_NE(message_of([](DoorConfig& each) { each.bytes_per_handshake = 8191; }), "");
}

TEST(Door, SaysWhichLimitAndItsValue) {
  const Door door;
  for (std::size_t i = 0; i < kDoorVerdicts; ++i) {
    const auto verdict = static_cast<DoorVerdict>(i);
    EXPECT_FALSE(to_string(verdict).empty());
    if (verdict == DoorVerdict::welcome) continue;
    EXPECT_NE(door.explain(verdict, address(1)).find("--door-"), std::string::npos) << to_string(verdict);
  }
  EXPECT_EQ(door.explain(DoorVerdict::too_many_here, address(1)),
            "too many connections from one address (--door-connections 1280)");
  EXPECT_EQ(door.explain(DoorVerdict::too_many_here, AddressBlock::local_host()),
            "too many connections from one address (--door-local-connections 4096)");
}

// ---- drawn

// Everything that is open, and nothing else.
struct Counted {
  struct Guest {
    std::uint32_t address = 0;
    std::optional<std::uint64_t> peer;
    bool established = false;
    bool displaced = false;

    [[nodiscard]] bool is_handshake() const { return !established && !displaced; }
  };
  std::map<Visit, Guest> guests;

  template <typename Predicate>
  [[nodiscard]] std::uint64_t count(Predicate predicate) const {
    return static_cast<std::uint64_t>(
        std::count_if(guests.begin(), guests.end(), [&](const auto& each) { return predicate(each.second); }));
  }
  [[nodiscard]] std::uint64_t raw_of(std::uint32_t address) const {
    return count([&](const Guest& guest) { return guest.address == address && guest.is_handshake(); });
  }
  // Beyond those that the established of that address may bring.
  [[nodiscard]] std::uint64_t surplus_of(std::uint32_t address) const {
    const std::uint64_t established =
        count([&](const Guest& guest) { return guest.address == address && guest.established; });
    const std::uint64_t raw = raw_of(address);
    return raw - std::min(raw, per_connection * established);
  }
  [[nodiscard]] std::set<std::uint32_t> addresses() const {
    std::set<std::uint32_t> all;
    for (const auto& [visit, guest] : guests) all.insert(guest.address);
    return all;
  }
  [[nodiscard]] std::uint64_t surplus() const {
    std::uint64_t sum = 0;
    for (const std::uint32_t address : addresses()) sum += surplus_of(address);
    return sum;
  }
  [[nodiscard]] std::uint64_t largest_crowd() const {
    std::uint64_t largest = 0;
    for (const std::uint32_t address : addresses()) largest = std::max(largest, surplus_of(address));
    return largest;
  }
  std::uint64_t per_connection = 0;
};

void expect_verdict_is_due(const DoorConfig& config, const Counted& counted, std::uint32_t from,
                           const DoorAnswer& answer) {
  const std::uint64_t all = counted.guests.size();
  const std::uint64_t here = counted.count([&](const auto& guest) { return guest.address == from; });
  const std::uint64_t raw_here = counted.raw_of(from);
  const std::uint64_t done_here =
      counted.count([&](const auto& guest) { return guest.address == from && guest.established; });
  const std::uint64_t earned = config.handshakes_per_connection * done_here;
  const std::uint64_t may_shake = config.elsewhere.handshakes + earned;
  const bool is_largest = counted.surplus_of(from) >= counted.largest_crowd();
  const bool is_full = counted.surplus() >= config.handshakes_in_total && raw_here >= earned;
  switch (answer.verdict) {
    case DoorVerdict::too_many_here: EXPECT_EQ(here, config.elsewhere.connections); break;
    case DoorVerdict::too_many_handshakes: EXPECT_GE(raw_here, may_shake); break;
    case DoorVerdict::too_many_in_total: EXPECT_GE(here + all, config.connections_in_total); break;
    case DoorVerdict::too_many_handshakes_in_total: EXPECT_TRUE(is_full && is_largest); break;
    case DoorVerdict::welcome:
      EXPECT_LT(here, config.elsewhere.connections);
      EXPECT_LT(raw_here, may_shake);
      EXPECT_LT(here + all, config.connections_in_total);
      EXPECT_EQ(answer.displaced != 0, is_full);
      if (answer.displaced == 0) break;
      EXPECT_FALSE(is_largest);
      EXPECT_TRUE(counted.guests.at(answer.displaced).is_handshake());
      EXPECT_EQ(counted.surplus_of(counted.guests.at(answer.displaced).address), counted.largest_crowd());
      break;
    default: EXPECT_EQ(answer.verdict, DoorVerdict::too_often); break;
  }
}

DoorConfig drawn_config(Random& random) {
  DoorConfig config;
  const auto draw = [&](std::uint64_t most) { return static_cast<std::uint32_t>(1 + random.below(most)); };
  config.elsewhere = {.connections = draw(20),
                      .handshakes = draw(10),
                      .attempts_at_once = draw(30),
                      .attempts_per_s = 1 + 100 * random.uniform()};
  config.handshakes_per_connection = draw(4) - 1;
  config.connections_per_peer = draw(10);
  config.connections_in_total = draw(60);
  config.handshakes_in_total = draw(40);
  config.blocks = config.connections_in_total + draw(10) - 1;
  return config;
}

TEST(Door, DrawnSequencesMatchAPlainCount) {
  for (std::uint64_t seed = 0; seed < seeds(60); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const DoorConfig config = drawn_config(random);
    Door door(config);
    Counted counted;
    counted.per_connection = config.handshakes_per_connection;
    TimePoint now = kStart;
    for (int step = 0; step < 3000; ++step) {
      now += milliseconds(random.below(40));
      const std::uint64_t kind = random.below(10);
      if (kind < 5 || counted.guests.empty()) {
        const auto from = static_cast<std::uint32_t>(random.below(80));
        const DoorAnswer answer = door.handle_opened(now, address(from));
        expect_verdict_is_due(config, counted, from, answer);
        if (answer.displaced != 0) counted.guests.at(answer.displaced).displaced = true;
        if (answer.visit != 0) {
          ASSERT_TRUE(counted.guests.emplace(answer.visit, Counted::Guest{.address = from}).second);
        }
      } else {
        auto chosen = counted.guests.begin();
        std::advance(chosen, random.below(counted.guests.size()));
        Counted::Guest& guest = chosen->second;
        if (kind < 7 && !guest.peer && guest.is_handshake()) {
          const std::uint64_t name = random.below(6);
          const bool room =
              counted.count([&](const auto& each) { return each.peer == name; }) < config.connections_per_peer;
          const DoorVerdict verdict = door.handle_authenticated(chosen->first, peer(name));
          ASSERT_EQ(verdict == DoorVerdict::welcome, room);
          if (room) guest.peer = name;
        } else if (kind < 8 && guest.peer && guest.is_handshake()) {
          door.handle_established(chosen->first);
          guest.established = true;
        } else {
          door.handle_closed(chosen->first);
          counted.guests.erase(chosen);
        }
      }
      ASSERT_EQ(door.connections(), counted.guests.size());
      ASSERT_EQ(door.handshakes(), counted.count([](const auto& guest) { return guest.is_handshake(); }));
      ASSERT_LE(door.blocks(), config.blocks);
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
}

}  // namespace
}  // namespace papilio::core
