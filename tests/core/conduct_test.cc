// Strikes, bans, doubling and forgiveness, with every time given by hand; and that no crowd of new names washes out
// what is remembered of the old ones.
#include "engine/core/conduct.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace papilio::core {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using Kind = Judgement::Kind;

constexpr WallTime kStart{seconds(1'800'000'000)};

PeerId peer(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (8 * (7 - i)));
  return id;
}

std::vector<ConductChange> changes_of(Conduct& conduct, WallTime now) {
  std::vector<ConductChange> changes;
  while (auto change = conduct.poll_change(now)) changes.push_back(*change);
  return changes;
}

TEST(Offence, HasTheWordsOfTheRoundsPromisesAndIsReadBack) {
  EXPECT_EQ(to_string(Offence::wrong_model), "wrong-model");
  EXPECT_EQ(to_string(Offence::damaged_bytes), "damaged-bytes");
  for (std::size_t i = 0; i < kOffences; ++i) {
    const auto offence = static_cast<Offence>(i);
    EXPECT_EQ(offence_of(to_string(offence)), offence);
  }
  EXPECT_FALSE(offence_of("bad-hair").has_value());
  EXPECT_FALSE(offence_of("").has_value());
}

TEST(WallTime, IsReadableAndSortsAsText) {
  EXPECT_EQ(to_text(WallTime{}), "1970-01-01T00:00:00Z");
  EXPECT_EQ(to_text(WallTime(seconds(1'709'251'199))), "2024-02-29T23:59:59Z");
  EXPECT_EQ(to_text(kStart), "2027-01-15T08:00:00Z");
}

TEST(Conduct, WhatNoWorkingPeerDoesIsBannedAtOnce) {
  for (const Offence offence : {Offence::slow, Offence::wrong_model, Offence::non_finite, Offence::protocol}) {
    Conduct conduct;
    const Judgement judgement = conduct.handle_offence(kStart, peer(1), offence, "as seen");
    EXPECT_EQ(judgement.kind, Kind::ban) << to_string(offence);
    EXPECT_EQ(judgement.until, kStart + conduct.config().policies[static_cast<std::size_t>(offence)].first_ban);
    const ConductRecord* const ban = conduct.ban_of(kStart, peer(1));
    ASSERT_NE(ban, nullptr);
    EXPECT_EQ(ban->offence, offence);
    EXPECT_EQ(ban->evidence, "as seen");
    EXPECT_TRUE(conduct.is_banned(judgement.until - seconds(1), peer(1)));
    EXPECT_FALSE(conduct.is_banned(judgement.until, peer(1)));
    EXPECT_FALSE(conduct.is_banned(kStart, peer(2)));
  }
}

TEST(Conduct, WhatHappensToEverybodyIsBannedWhenItRepeats) {
  for (const Offence offence : {Offence::missing, Offence::wrong_group, Offence::wild_norm, Offence::damaged_bytes}) {
    Conduct conduct;
    for (std::uint32_t i = 1; i <= 2; ++i) {
      const Judgement judgement = conduct.handle_offence(kStart, peer(1), offence, "");
      EXPECT_EQ(judgement.kind, Kind::strike);
      EXPECT_EQ(judgement.strikes, 2 * i);
      EXPECT_EQ(judgement.strikes_to_ban, 6U);
      EXPECT_FALSE(conduct.is_banned(kStart, peer(1)));
    }
    EXPECT_EQ(conduct.handle_offence(kStart, peer(1), offence, "").kind, Kind::ban) << to_string(offence);
  }
  Conduct conduct;
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(conduct.handle_offence(kStart, peer(1), Offence::connection_lost, "").kind, Kind::strike);
  }
  EXPECT_EQ(conduct.handle_offence(kStart, peer(1), Offence::connection_lost, "").kind, Kind::ban);
}

TEST(Conduct, StrikesOfDifferentKindsAddUp) {
  Conduct conduct;
  EXPECT_EQ(conduct.handle_offence(kStart, peer(1), Offence::missing, "").strikes, 2U);
  EXPECT_EQ(conduct.handle_offence(kStart, peer(1), Offence::wild_norm, "").strikes, 4U);
  const Judgement judgement = conduct.handle_offence(kStart, peer(1), Offence::damaged_bytes, "");
  EXPECT_EQ(judgement.kind, Kind::ban);
  EXPECT_EQ(conduct.ban_of(kStart, peer(1))->offence, Offence::damaged_bytes);
}

TEST(Conduct, OffencesDuringABanChangeNothing) {
  Conduct conduct;
  const WallTime until = conduct.handle_offence(kStart, peer(1), Offence::slow, "first").until;
  const Judgement judgement = conduct.handle_offence(kStart + seconds(1), peer(1), Offence::protocol, "second");
  EXPECT_EQ(judgement.kind, Kind::nothing);
  EXPECT_EQ(judgement.until, until);
  EXPECT_EQ(conduct.ban_of(kStart + seconds(1), peer(1))->evidence, "first");
  EXPECT_EQ(conduct.ban_of(kStart + seconds(1), peer(1))->times_banned, 1U);
}

TEST(Conduct, BansDoubleUpToTheLongest) {
  Conduct conduct;
  WallTime now = kStart;
  seconds expected = minutes(2);
  for (int i = 0; i < 40; ++i) {
    const Judgement judgement = conduct.handle_offence(now, peer(1), Offence::slow, "");
    ASSERT_EQ(judgement.kind, Kind::ban);
    EXPECT_EQ(judgement.until - now, expected) << i;
    now = judgement.until;
    expected = std::min<seconds>(2 * expected, hours(24 * 7));
  }
  EXPECT_EQ(conduct.list(now).front().times_banned, 40U);
}

TEST(Conduct, TimeForgives) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::missing, "");  // 2 strikes
  EXPECT_EQ(conduct.list(kStart + minutes(30) - seconds(1)).front().strikes, 2U);
  EXPECT_EQ(conduct.list(kStart + minutes(30)).front().strikes, 1U);
  EXPECT_EQ(conduct.list(kStart + minutes(45)).front().strikes, 1U) << "asking does not start the time anew";
  EXPECT_TRUE(conduct.list(kStart + minutes(60)).empty());

  const WallTime first = conduct.handle_offence(kStart, peer(2), Offence::slow, "").until;
  const WallTime second = conduct.handle_offence(first, peer(2), Offence::slow, "").until;
  EXPECT_EQ(second - first, minutes(4));
  // A day after the end of the last ban one doubling is forgotten, the next a day later.
  const WallTime third_begin = second + hours(24);
  EXPECT_EQ(conduct.list(third_begin - seconds(1)).front().repeats, 2U);
  const WallTime third = conduct.handle_offence(third_begin, peer(2), Offence::slow, "").until;
  EXPECT_EQ(third - third_begin, minutes(4));
  EXPECT_TRUE(conduct.list(third + hours(48)).empty());
  EXPECT_EQ(conduct.handle_offence(third + hours(48), peer(2), Offence::slow, "").until,
            third + hours(48) + minutes(2));
}

TEST(Conduct, GoodRoundsForgive) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::missing, "");
  for (int i = 0; i < 9; ++i) conduct.handle_good_round(kStart, peer(1));
  EXPECT_EQ(conduct.list(kStart).front().strikes, 2U);
  conduct.handle_good_round(kStart, peer(1));
  EXPECT_EQ(conduct.list(kStart).front().strikes, 1U);
  // An offence in between: the count begins anew.
  for (int i = 0; i < 9; ++i) conduct.handle_good_round(kStart, peer(1));
  conduct.handle_offence(kStart, peer(1), Offence::connection_lost, "");
  for (int i = 0; i < 9; ++i) conduct.handle_good_round(kStart, peer(1));
  EXPECT_EQ(conduct.list(kStart).front().strikes, 2U);
  for (int i = 0; i < 11; ++i) conduct.handle_good_round(kStart, peer(1));
  EXPECT_TRUE(conduct.list(kStart).empty());

  const WallTime until = conduct.handle_offence(kStart, peer(1), Offence::slow, "").until;
  for (int i = 0; i < 499; ++i) conduct.handle_good_round(until, peer(1));
  EXPECT_EQ(conduct.list(until).front().repeats, 1U);
  conduct.handle_good_round(until, peer(1));
  EXPECT_TRUE(conduct.list(until).empty());
}

TEST(Conduct, AClockThatIsSetBackDoesNotMakeABanLonger) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::slow, "");
  conduct.handle_offence(kStart, peer(2), Offence::missing, "");
  const WallTime earlier = kStart - hours(24 * 365);
  EXPECT_TRUE(conduct.is_banned(earlier, peer(1)));
  EXPECT_TRUE(conduct.is_banned(earlier + minutes(2) - seconds(1), peer(1)));
  EXPECT_FALSE(conduct.is_banned(earlier + minutes(2), peer(1)));
  EXPECT_EQ(conduct.list(earlier).size(), 2U);
  EXPECT_TRUE(conduct.list(earlier + hours(48)).empty());
}

TEST(Conduct, EvidenceIsOneLineOfBoundedLength) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::protocol, "a\nb\x1b[2Jc" + std::string(1'000'000, 'x'));
  const std::string evidence = conduct.ban_of(kStart, peer(1))->evidence;
  EXPECT_EQ(evidence.size(), conduct.config().evidence_bytes);
  EXPECT_EQ(evidence.substr(0, 9), "a?b?[2Jcx");
}

TEST(Conduct, ClearingForgetsEverything) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::slow, "");
  conduct.handle_offence(kStart, peer(2), Offence::missing, "");
  EXPECT_TRUE(conduct.clear(kStart, peer(1)));
  EXPECT_FALSE(conduct.is_banned(kStart, peer(1)));
  EXPECT_EQ(conduct.list(kStart).size(), 1U);
  EXPECT_FALSE(conduct.clear(kStart, peer(1)));
  EXPECT_FALSE(conduct.clear(kStart, peer(3)));
  EXPECT_EQ(conduct.handle_offence(kStart, peer(1), Offence::slow, "").until, kStart + minutes(2)) << "not doubled";
}

TEST(Conduct, TheListBeginsWithTheLongestBan) {
  Conduct conduct;
  conduct.handle_offence(kStart, peer(1), Offence::missing, "");
  conduct.handle_offence(kStart, peer(2), Offence::slow, "");
  conduct.handle_offence(kStart, peer(3), Offence::protocol, "");
  conduct.handle_good_round(kStart, peer(4));
  const std::vector<ConductRecord> list = conduct.list(kStart);
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[0].peer, peer(3));
  EXPECT_EQ(list[1].peer, peer(2));
  EXPECT_EQ(list[2].peer, peer(1));
}

TEST(Conduct, WhatIsWrittenDownIsReadBack) {
  Conduct before;
  before.handle_good_round(kStart, peer(1));
  before.handle_offence(kStart, peer(1), Offence::slow, "it froze");
  before.handle_offence(kStart, peer(2), Offence::missing, "");
  before.handle_offence(kStart, peer(3), Offence::protocol, "it lied");
  std::vector<ConductRecord> written;
  for (const ConductChange& change : changes_of(before, kStart)) {
    ASSERT_TRUE(change.record.has_value());
    written.push_back(*change.record);
  }
  EXPECT_EQ(written.size(), 3U);
  EXPECT_TRUE(changes_of(before, kStart).empty());

  Conduct after;
  after.load(kStart + seconds(30), written);
  EXPECT_TRUE(changes_of(after, kStart).empty());
  EXPECT_EQ(after.list(kStart + seconds(30)), before.list(kStart + seconds(30)));
  EXPECT_EQ(after.ban_of(kStart + seconds(30), peer(1))->evidence, "it froze");
  // The next ban doubles as if nothing had happened in between.
  EXPECT_EQ(after.handle_offence(kStart + minutes(2), peer(1), Offence::slow, "").until, kStart + minutes(6));

  // Long after, nothing in it says anything any more: all of it is struck out.
  Conduct later;
  later.load(kStart + hours(24 * 30), written);
  const std::vector<ConductChange> struck = changes_of(later, kStart + hours(24 * 30));
  EXPECT_EQ(struck.size(), 3U);
  for (const ConductChange& change : struck) EXPECT_FALSE(change.record.has_value());
}

TEST(Conduct, RecordsThatNobodyCouldHaveWrittenAreBroughtWithinBounds) {
  ConductRecord record;
  record.peer = peer(1);
  record.strikes = std::numeric_limits<std::uint32_t>::max();
  record.repeats = std::numeric_limits<std::uint32_t>::max();
  record.banned_since = kStart;
  record.banned_until = kStart + hours(24 * 365 * 100);
  record.repeats_as_of = record.banned_until;
  Conduct conduct;
  conduct.load(kStart, {record, record});
  EXPECT_FALSE(conduct.is_banned(kStart + hours(24 * 7), peer(1)));
  const WallTime then = kStart + hours(24 * 8);
  EXPECT_EQ(conduct.handle_offence(then, peer(1), Offence::slow, "").until, then + hours(24 * 7));
}

// Where the run asks for certificates, time alone does not end what a ban for slowness has left.

ConductConfig with_certificates() {
  ConductConfig config;
  config.slow_must_requalify = true;
  return config;
}

TEST(Conduct, AfterABanForSlownessACertificateHasToBeNewer) {
  Conduct conduct(with_certificates());
  const WallTime until = conduct.handle_offence(kStart, peer(1), Offence::slow, "").until;
  for (const WallTime now : {kStart, until, until + hours(24 * 7)}) {
    EXPECT_EQ(conduct.requalify_since(now, peer(1)), kStart);
  }
  EXPECT_FALSE(conduct.is_banned(until, peer(1)));
  EXPECT_FALSE(conduct.handle_certificate(until, peer(1), kStart - seconds(1)));
  EXPECT_FALSE(conduct.handle_certificate(until, peer(1), kStart)) << "within the same second: who knows";
  EXPECT_EQ(conduct.requalify_since(until, peer(1)), kStart);
  EXPECT_TRUE(conduct.handle_certificate(until, peer(1), kStart + seconds(1)));
  EXPECT_EQ(conduct.requalify_since(until, peer(1)), std::nullopt);
  EXPECT_FALSE(conduct.handle_certificate(until, peer(1), kStart + seconds(2))) << "once";
}

TEST(Conduct, AFreshCertificateDoesNotEndTheBanItself) {
  Conduct conduct(with_certificates());
  const WallTime until = conduct.handle_offence(kStart, peer(1), Offence::slow, "").until;
  EXPECT_TRUE(conduct.handle_certificate(kStart + seconds(30), peer(1), kStart + seconds(20)));
  EXPECT_TRUE(conduct.is_banned(until - seconds(1), peer(1)));
  EXPECT_FALSE(conduct.is_banned(until, peer(1)));
}

TEST(Conduct, OtherOffencesAskForNoCertificateAndEndNoneThatIsOwed) {
  for (std::size_t i = 0; i < kOffences; ++i) {
    const auto offence = static_cast<Offence>(i);
    Conduct conduct(with_certificates());
    while (conduct.handle_offence(kStart, peer(1), offence, "").kind == Kind::strike) {
      ASSERT_EQ(conduct.requalify_since(kStart, peer(1)), std::nullopt) << to_string(offence);
    }
    EXPECT_EQ(conduct.requalify_since(kStart, peer(1)).has_value(), offence == Offence::slow) << to_string(offence);
    // A ban for slowness, and then one for this.
    const WallTime slow_until = conduct.handle_offence(kStart, peer(2), Offence::slow, "").until;
    while (conduct.handle_offence(slow_until, peer(2), offence, "").kind == Kind::strike) {
    }
    EXPECT_EQ(conduct.requalify_since(slow_until + hours(24), peer(2)), offence == Offence::slow ? slow_until : kStart)
        << to_string(offence);
  }
}

TEST(Conduct, NeitherTimeNorGoodRoundsNorARestartForgiveTheCertificate) {
  Conduct conduct(with_certificates());
  conduct.handle_offence(kStart, peer(1), Offence::slow, "it dripped");
  const WallTime last = kStart + conduct.config().requalify_fades - seconds(1);
  EXPECT_EQ(conduct.list(last).size(), 1U) << "strikes and doublings faded long ago";
  for (int i = 0; i < 1000; ++i) conduct.handle_good_round(last, peer(1));
  EXPECT_EQ(conduct.requalify_since(last, peer(1)), kStart);
  std::vector<ConductRecord> written;
  for (const ConductChange& change : changes_of(conduct, last)) written.push_back(*change.record);
  ASSERT_EQ(written.size(), 1U);
  Conduct after(with_certificates());
  after.load(last, written);
  EXPECT_TRUE(changes_of(after, last).empty()) << "nothing to strike out";
  EXPECT_EQ(after.requalify_since(last, peer(1)), kStart);
  // When no certificate from before counts any more, there is nothing left to remember.
  EXPECT_GT(conduct.config().requalify_fades, kLongestCertificate);
  EXPECT_EQ(after.requalify_since(last + seconds(1), peer(1)), std::nullopt);
  Conduct later(with_certificates());
  later.load(last + seconds(1), written);
  const std::vector<ConductChange> struck = changes_of(later, last + seconds(1));
  ASSERT_EQ(struck.size(), 1U);
  EXPECT_FALSE(struck.front().record.has_value());
}

TEST(Conduct, TheCertificateIsWrittenDownAndTheOwnerMayForgiveIt) {
  Conduct conduct(with_certificates());
  const WallTime until = conduct.handle_offence(kStart, peer(1), Offence::slow, "").until;
  conduct.handle_offence(kStart, peer(2), Offence::slow, "");
  changes_of(conduct, until);
  conduct.handle_certificate(until, peer(1), kStart + seconds(1));
  std::vector<ConductChange> changes = changes_of(conduct, until);
  ASSERT_EQ(changes.size(), 1U);
  ASSERT_TRUE(changes.front().record.has_value()) << "the doubling is still to be remembered";
  EXPECT_EQ(changes.front().record->requalify_since, std::nullopt);
  EXPECT_TRUE(conduct.clear(until + hours(24 * 8), peer(2)));
  EXPECT_EQ(conduct.requalify_since(until, peer(2)), std::nullopt);
}

TEST(Conduct, WhereTheRunAsksForNoCertificatesNothingOfThatIsKept) {
  Conduct strict(with_certificates());
  const WallTime until = strict.handle_offence(kStart, peer(1), Offence::slow, "").until;
  const std::vector<ConductRecord> written = strict.list(kStart);
  Conduct lenient;
  lenient.load(kStart, written);
  EXPECT_EQ(lenient.requalify_since(kStart, peer(1)), std::nullopt);
  const std::vector<ConductChange> changes = changes_of(lenient, kStart);
  ASSERT_EQ(changes.size(), 1U) << "nor on disk";
  EXPECT_EQ(changes.front().record->requalify_since, std::nullopt);
  EXPECT_TRUE(lenient.list(until + hours(48)).empty());
  EXPECT_EQ(lenient.handle_offence(until, peer(1), Offence::slow, "").kind, Kind::ban);
  EXPECT_EQ(lenient.requalify_since(until, peer(1)), std::nullopt);
}

TEST(Conduct, AClockThatIsSetBackLeavesACertificateOfNowNewEnough) {
  Conduct conduct(with_certificates());
  conduct.handle_offence(kStart, peer(1), Offence::slow, "");
  const WallTime earlier = kStart - hours(24 * 365);
  EXPECT_EQ(conduct.requalify_since(earlier, peer(1)), earlier);
  EXPECT_TRUE(conduct.handle_certificate(earlier + minutes(3), peer(1), earlier + minutes(1)));
  // Also when it is noticed only after the ban.
  conduct.handle_offence(kStart, peer(2), Offence::slow, "");
  EXPECT_FALSE(conduct.is_banned(kStart + minutes(10), peer(2)));
  EXPECT_EQ(conduct.requalify_since(kStart - minutes(10), peer(2)), kStart - minutes(10));
}

TEST(Conduct, WhoOwesACertificateIsForgottenAfterWhoHasStrikesAndBeforeWhoIsBanned) {
  ConductConfig config = with_certificates();
  config.maximum_strangers = 2;
  Conduct conduct(config);
  // A day after the ban its doubling is forgotten: the certificate is all that is left.
  const WallTime later = conduct.handle_offence(kStart, peer(1), Offence::slow, "").until + hours(24);
  conduct.handle_offence(later, peer(2), Offence::connection_lost, "");
  EXPECT_TRUE(conduct.handle_offence(later, peer(3), Offence::missing, "").remembered) << "the fewer strikes go";
  EXPECT_EQ(conduct.requalify_since(later, peer(1)), kStart);
  EXPECT_TRUE(conduct.handle_offence(later, peer(4), Offence::protocol, "").remembered);
  EXPECT_EQ(conduct.requalify_since(later, peer(1)), kStart) << "the strikes went";
  EXPECT_TRUE(conduct.handle_offence(later, peer(5), Offence::protocol, "").remembered);
  EXPECT_EQ(conduct.requalify_since(later, peer(1)), std::nullopt) << "now all are banned";
}

TEST(Conduct, NewNamesDoNotWashOutOldOnes) {
  ConductConfig config;
  config.maximum_strangers = 50;
  config.maximum_acquaintances = 20;
  Conduct conduct(config);
  conduct.handle_good_round(kStart, peer(1));
  conduct.handle_offence(kStart, peer(1), Offence::slow, "an acquaintance");
  const WallTime twice = conduct.handle_offence(kStart, peer(2), Offence::protocol, "").until;
  conduct.handle_offence(kStart, peer(3), Offence::slow, "a stranger");
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    conduct.handle_offence(kStart, peer(100 + i), Offence::protocol, "a new name");
    ASSERT_LE(conduct.list(kStart).size(), 51U);
  }
  for (const std::uint64_t each : {1U, 2U, 3U}) EXPECT_TRUE(conduct.is_banned(kStart, peer(each))) << each;
  EXPECT_FALSE(conduct.handle_offence(kStart, peer(99'999), Offence::protocol, "").remembered);
  EXPECT_FALSE(conduct.is_banned(kStart, peer(99'999)));
  // A crowd of strikes gives way to a ban, and what is over gives way to what is not.
  EXPECT_EQ(conduct.list(kStart).size(), 51U);
  EXPECT_TRUE(conduct.handle_offence(twice, peer(4), Offence::slow, "").remembered);
  EXPECT_TRUE(conduct.is_banned(twice, peer(4)));
  // All that was written down is told to be struck out when it goes.
  std::size_t kept = 0;
  for (const ConductChange& change : changes_of(conduct, twice)) kept += change.record ? 1U : 0U;
  EXPECT_EQ(kept, conduct.list(twice).size());
}

TEST(Conduct, GoodPeersAreRememberedInBoundedMemory) {
  ConductConfig config;
  config.maximum_acquaintances = 10;
  Conduct conduct(config);
  conduct.handle_good_round(kStart, peer(1));
  conduct.handle_offence(kStart, peer(1), Offence::slow, "");
  for (std::uint64_t i = 0; i < 1000; ++i) conduct.handle_good_round(kStart + seconds(1), peer(100 + i));
  EXPECT_TRUE(conduct.is_banned(kStart + seconds(1), peer(1)));
  EXPECT_EQ(conduct.list(kStart + seconds(1)).size(), 1U);
  EXPECT_TRUE(conduct.handle_offence(kStart, peer(2), Offence::slow, "").remembered)
      << "strangers have room of their own";
}

}  // namespace
}  // namespace papilio::core
