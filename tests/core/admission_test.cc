// Whom the door lets in: every refusal and its opposite, each limit from both sides and to the second, several judges,
// and drawn certificates against a plain reading of the rules.
#include "engine/core/admission.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "tests/seeds.hpp"

namespace papilio::core {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr WallTime kNow{seconds(1'800'000'000)};
constexpr std::uint64_t kMegabit = 1'000'000;

PeerId peer(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (8 * (7 - i)));
  return id;
}

const PeerId kSelf = peer(1), kPeer = peer(2), kJudge = peer(100), kOtherJudge = peer(101);

AdmissionPolicy policy() {
  AdmissionPolicy policy;
  policy.self = kSelf;
  policy.run_id = "run";
  policy.judges = {kJudge};
  return policy;
}

Qualification certificate() {
  Qualification certificate;
  certificate.subject = kPeer;
  certificate.judge = kJudge;
  certificate.run_id = "run";
  certificate.up_bps = 200 * kMegabit;
  certificate.down_bps = 300 * kMegabit;
  certificate.round_trip_median = milliseconds(20);
  certificate.issued = kNow - hours(1);
  certificate.expires = kNow + hours(23);
  return certificate;
}

AdmissionDecision decide(const std::vector<Qualification>& certificates, WallTime now = kNow,
                         const AdmissionPolicy& rules = policy(), std::optional<WallTime> requalify_since = {},
                         Visitor role = Visitor::miner) {
  return Admission(rules).decide(
      now, {.id = kPeer, .role = role, .certificates = certificates, .requalify_since = requalify_since});
}

AdmissionDecision decide(const Qualification& certificate, WallTime now = kNow, const AdmissionPolicy& rules = policy(),
                         std::optional<WallTime> requalify_since = {}) {
  return decide(std::vector{certificate}, now, rules, requalify_since);
}

void expect_refused(const AdmissionDecision& decision, Refused reason, const std::vector<std::string>& parts = {}) {
  ASSERT_FALSE(decision.ok());
  EXPECT_EQ(to_string(decision.refusal.reason), to_string(reason)) << decision.refusal.why;
  for (const std::string& part : parts) {
    EXPECT_NE(decision.refusal.why.find(part), std::string::npos) << part << " in: " << decision.refusal.why;
  }
}

// ---- names

TEST(Admission, NobodyIsLetInUnderOnesOwnId) {
  const auto refused = Admission(policy()).objection_to(kSelf, nullptr);
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->reason, Refused::own_id);
  EXPECT_NE(refused->why.find("state-dir"), std::string::npos);
  EXPECT_FALSE(Admission(policy()).objection_to(kPeer, nullptr).has_value());
}

TEST(Admission, ListsAreHeeded) {
  AdmissionPolicy rules = policy();
  rules.denied = {kPeer};
  EXPECT_EQ(Admission(rules).objection_to(kPeer, nullptr)->reason, Refused::denied);
  EXPECT_FALSE(Admission(rules).objection_to(peer(3), nullptr).has_value());
  rules.denied.clear();
  rules.allowed.emplace();  // nobody
  EXPECT_EQ(Admission(rules).objection_to(kPeer, nullptr)->reason, Refused::not_allowed);
  rules.allowed->insert(kPeer);
  EXPECT_FALSE(Admission(rules).objection_to(kPeer, nullptr).has_value());
  EXPECT_EQ(Admission(rules).objection_to(peer(3), nullptr)->reason, Refused::not_allowed);
  rules.denied = {kPeer};
  EXPECT_EQ(Admission(rules).objection_to(kPeer, nullptr)->reason, Refused::denied) << "no wins over yes";
}

TEST(Admission, TheBannedAreToldWhyAndUntilWhen) {
  ConductConfig config;
  config.slow_must_requalify = true;
  Conduct conduct(config);
  conduct.handle_offence(kNow, kPeer, Offence::slow, "3.1 MB/s of 12");
  conduct.handle_offence(kNow, peer(3), Offence::protocol, "it lied");
  const Admission admission(policy());
  const auto slow = admission.objection_to(kPeer, conduct.ban_of(kNow, kPeer));
  ASSERT_TRUE(slow.has_value());
  EXPECT_EQ(slow->reason, Refused::banned);
  EXPECT_EQ(slow->until, kNow + minutes(2));
  EXPECT_EQ(slow->why,
            "until 2027-01-15T08:02:00Z (slow: 3.1 MB/s of 12), and then only with a certificate issued after "
            "2027-01-15T08:00:00Z; qualify anew (papilio-qualify)");
  EXPECT_EQ(admission.objection_to(peer(3), conduct.ban_of(kNow, peer(3)))->why,
            "until 2027-01-15T09:00:00Z (protocol: it lied)");
  EXPECT_FALSE(admission.objection_to(kPeer, conduct.ban_of(kNow + minutes(2), kPeer)).has_value());
  AdmissionPolicy open = policy();
  open.judges.clear();
  EXPECT_EQ(Admission(open).objection_to(kPeer, conduct.ban_of(kNow, kPeer))->why.find("certificate"),
            std::string::npos);
}

// ---- certificates

TEST(Admission, WithoutJudgesNothingIsAskedForAndNothingIsKnown) {
  AdmissionPolicy rules = policy();
  rules.judges.clear();
  for (const auto& brought : {std::vector<Qualification>(), std::vector{certificate()}}) {
    const AdmissionDecision decision = decide(brought, kNow, rules, kNow);
    ASSERT_TRUE(decision.ok());
    EXPECT_EQ(decision.admitted->rate_bytes_per_s, 0U);
    EXPECT_EQ(decision.admitted->until, std::nullopt);
    EXPECT_EQ(decision.admitted->issued, std::nullopt);
  }
}

TEST(Admission, WhoTakesPartInRoundsNeedsACertificate) {
  for (const Visitor role : {Visitor::miner, Visitor::client}) {
    expect_refused(decide(std::vector<Qualification>(), kNow, policy(), {}, role), Refused::no_certificate,
                   {to_hex(kJudge, 16), "papilio-qualify", "--certificate"});
  }
  EXPECT_TRUE(decide(std::vector<Qualification>(), kNow, policy(), kNow, Visitor::validator).ok());
}

TEST(Admission, TheWeakerDirectionOfTheCertificateIsWhatCounts) {
  const AdmissionDecision decision = decide(certificate());
  ASSERT_TRUE(decision.ok()) << decision.refusal.why;
  EXPECT_EQ(decision.admitted->rate_bytes_per_s, 200 * kMegabit / 8);
  EXPECT_EQ(decision.admitted->round_trip, milliseconds(20));
  EXPECT_EQ(decision.admitted->issued, kNow - hours(1));
  Qualification other = certificate();
  std::swap(other.up_bps, other.down_bps);
  EXPECT_EQ(decide(other).admitted->rate_bytes_per_s, 200 * kMegabit / 8);
}

TEST(Admission, SomebodyElsesCertificateIsNone) {
  Qualification stolen = certificate();
  stolen.subject = peer(3);
  expect_refused(decide(stolen), Refused::certificate_of_another, {to_hex(peer(3), 16), to_hex(kPeer, 16)});
}

TEST(Admission, ACertificateIsForItsRunOrForAny) {
  Qualification other = certificate();
  other.run_id = "walk\n\x1b[2J";
  expect_refused(decide(other), Refused::certificate_of_another_run, {"'walk??[2J'", "'run'"});
  other.run_id = "";
  EXPECT_TRUE(decide(other).ok());
}

TEST(Admission, OnlyTrustedJudgesCount) {
  Qualification other = certificate();
  other.judge = kOtherJudge;
  expect_refused(decide(other), Refused::judge_not_trusted, {to_hex(kOtherJudge, 16), to_hex(kJudge, 16)});
  other.judge = kPeer;
  expect_refused(decide(other), Refused::judge_not_trusted);
}

TEST(Admission, ExpiryIsToTheSecondAndUntilSaysTheSame) {
  for (const seconds skew : {seconds(0), seconds(300)}) {
    AdmissionPolicy rules = policy();
    rules.clock_skew = skew;
    const Qualification one = certificate();
    const WallTime end = one.expires + skew;
    const AdmissionDecision decision = decide(one, end - seconds(1), rules);
    ASSERT_TRUE(decision.ok());
    EXPECT_EQ(decision.admitted->until, end);
    expect_refused(decide(one, end, rules), Refused::certificate_expired, {to_text(one.expires), to_text(end)});
  }
}

TEST(Admission, ValidityBeginsToTheSecond) {
  for (const seconds skew : {seconds(0), seconds(300)}) {
    AdmissionPolicy rules = policy();
    rules.clock_skew = skew;
    const Qualification one = certificate();
    EXPECT_TRUE(decide(one, one.issued - skew, rules).ok());
    expect_refused(decide(one, one.issued - skew - seconds(1), rules), Refused::certificate_not_yet_valid,
                   {to_text(one.issued), "clock"});
  }
}

TEST(Admission, NoCertificateCountsForEver) {
  Qualification one = certificate();
  one.expires = WallTime::max();
  const WallTime end = one.issued + kLongestCertificate + policy().clock_skew;
  const AdmissionDecision decision = decide(one, end - seconds(1));
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision.admitted->until, end);
  expect_refused(decide(one, end), Refused::certificate_expired, {"30 days"});
}

TEST(Admission, TimesThatNoClockShowsAreAnsweredAsAnyOther) {
  for (const WallTime issued : {WallTime::min(), WallTime::max(), WallTime{}, kNow}) {
    for (const WallTime expires : {WallTime::min(), WallTime::max(), WallTime{}, kNow + hours(1)}) {
      Qualification one = certificate();
      one.issued = issued;
      one.expires = expires;
      EXPECT_EQ(decide(one).ok(), issued == kNow && expires > kNow);
    }
  }
}

TEST(Admission, MinimaFromBothSides) {
  const LineRequirement minimum = policy().minimum;
  Qualification one = certificate();
  one.up_bps = minimum.up_bps;
  one.down_bps = minimum.down_bps;
  one.round_trip_median = minimum.round_trip;
  EXPECT_TRUE(decide(one).ok());
  one.up_bps -= 1;
  const AdmissionDecision up = decide(one);
  expect_refused(up, Refused::below_minimum, {"up ", "below the 100 Mbit/s needed", "papilio-qualify"});
  ASSERT_EQ(up.refusal.shortfalls.size(), 1U);
  EXPECT_EQ(up.refusal.shortfalls.front().figure, Shortfall::Figure::up);
  EXPECT_EQ(up.refusal.shortfalls.front().has, minimum.up_bps - 1);
  EXPECT_EQ(up.refusal.shortfalls.front().needs, minimum.up_bps);
  one.up_bps += 1;
  one.down_bps -= 40 * kMegabit;
  expect_refused(decide(one), Refused::below_minimum, {"down 60.0 Mbit/s (40.0 Mbit/s below the 100 Mbit/s needed)"});
  one.down_bps = minimum.down_bps;
  one.round_trip_median += milliseconds(50);
  const AdmissionDecision late = decide(one);
  expect_refused(late, Refused::below_minimum, {"round trip 250 ms (50.0 ms above the 200 ms allowed)"});
  one.up_bps = one.down_bps = 0;
  EXPECT_EQ(decide(one).refusal.shortfalls.size(), 3U);
}

TEST(Admission, ABanForSlownessAsksForANewerCertificate) {
  const WallTime since = kNow - minutes(10);
  Qualification one = certificate();
  one.issued = since;
  expect_refused(decide(one, kNow, policy(), since), Refused::certificate_not_fresh,
                 {to_text(since), "ban for slowness", "qualify anew"});
  EXPECT_TRUE(decide(one).ok()) << "where it was not banned";
  one.issued = since + seconds(1);
  EXPECT_TRUE(decide(one, kNow, policy(), since).ok());
}

// As the shell uses the two together.
TEST(Admission, RequalificationFromBanToPardon) {
  ConductConfig config;
  config.slow_must_requalify = true;
  Conduct conduct(config);
  const Admission admission(policy());
  const Qualification old = certificate();
  const WallTime over = conduct.handle_offence(kNow, kPeer, Offence::slow, "").until;
  EXPECT_TRUE(admission.objection_to(kPeer, conduct.ban_of(over - seconds(1), kPeer)).has_value());
  EXPECT_FALSE(admission.objection_to(kPeer, conduct.ban_of(over, kPeer)).has_value());
  expect_refused(decide(old, over, policy(), conduct.requalify_since(over, kPeer)), Refused::certificate_not_fresh);
  Qualification fresh = old;
  fresh.issued = over - seconds(30);
  const AdmissionDecision decision =
      decide(std::vector{old, fresh}, over, policy(), conduct.requalify_since(over, kPeer));
  ASSERT_TRUE(decision.ok());
  EXPECT_TRUE(conduct.handle_certificate(over, kPeer, *decision.admitted->issued));
  EXPECT_EQ(conduct.requalify_since(over, kPeer), std::nullopt);
}

// ---- several

TEST(Admission, SeveralJudgesHaveToBeDifferentOnes) {
  AdmissionPolicy rules = policy();
  rules.judges = {kJudge, kOtherJudge};
  rules.judges_needed = 2;
  Qualification first = certificate(), second = certificate();
  expect_refused(decide(std::vector{first, second}, kNow, rules), Refused::too_few_judges, {"of 1 trusted", "needs 2"});
  second.judge = kOtherJudge;
  second.up_bps = 150 * kMegabit;
  second.round_trip_median = milliseconds(30);
  second.expires = kNow + hours(2);
  second.issued = kNow - hours(2);
  for (const auto& brought : {std::vector{first, second}, std::vector{second, first}}) {
    const AdmissionDecision decision = decide(brought, kNow, rules);
    ASSERT_TRUE(decision.ok());
    EXPECT_EQ(decision.admitted->rate_bytes_per_s, 150 * kMegabit / 8) << "what both vouch for";
    EXPECT_EQ(decision.admitted->round_trip, milliseconds(30));
    EXPECT_EQ(decision.admitted->until, second.expires + rules.clock_skew) << "the earlier";
    EXPECT_EQ(decision.admitted->issued, second.issued) << "the older";
  }
  second.up_bps = 50 * kMegabit;
  expect_refused(decide(std::vector{first, second}, kNow, rules), Refused::too_few_judges,
                 {"of the others, ", "up 50.0 Mbit/s"});
  rules.judges_needed = 1;
  EXPECT_TRUE(decide(std::vector{first, second}, kNow, rules).ok());
}

TEST(Admission, OfOneJudgeTheBestCounts) {
  Qualification slow = certificate(), fast = certificate();
  fast.up_bps = fast.down_bps = 900 * kMegabit;
  for (const auto& brought : {std::vector{slow, fast}, std::vector{fast, slow}}) {
    EXPECT_EQ(decide(brought).admitted->rate_bytes_per_s, 900 * kMegabit / 8);
  }
  fast.expires = kNow - hours(1);
  EXPECT_EQ(decide(std::vector{fast, slow}).admitted->rate_bytes_per_s, 200 * kMegabit / 8);
}

TEST(Admission, OfSeveralThatDoNotCountTheClosestIsNamed) {
  Qualification other = certificate(), expired = certificate(), below = certificate();
  other.subject = peer(3);
  expired.expires = kNow - hours(2);
  below.up_bps = 1;
  expect_refused(decide(std::vector{other, expired}), Refused::certificate_expired);
  expect_refused(decide(std::vector{expired, other}), Refused::certificate_expired);
  expect_refused(decide(std::vector{below, expired, other}), Refused::below_minimum);
}

// ---- what users say

TEST(Admission, ChecksWhatItIsGiven) {
  const auto message_of = [](auto change) {
    AdmissionPolicy rules = policy();
    change(rules);
    const Status checked = check(rules);
    return checked ? std::string() : checked.error().message;
  };
  EXPECT_EQ(message_of([](AdmissionPolicy&) {}), "");
  EXPECT_NE(message_of([](AdmissionPolicy& rules) { rules.judges_needed = 0; }), "");
  EXPECT_EQ(message_of([](AdmissionPolicy& rules) { rules.judges_needed = 2; }),
            "judges-needed: '2' is more than the 1 judges that are named; name more, or need fewer");
  EXPECT_EQ(message_of([](AdmissionPolicy& rules) { rules.judges.clear(); }), "");
  EXPECT_EQ(message_of([](AdmissionPolicy& rules) { rules.clock_skew = hours(24); }), "");
  EXPECT_NE(message_of([](AdmissionPolicy& rules) { rules.clock_skew = hours(24) + seconds(1); }), "");
  EXPECT_NE(message_of([](AdmissionPolicy& rules) { rules.clock_skew = seconds(-1); }), "");
  EXPECT_NE(message_of([](AdmissionPolicy& rules) { rules.minimum.round_trip = Duration(0); }), "");
  EXPECT_EQ(message_of([](AdmissionPolicy& rules) { rules.minimum.round_trip = Duration(1); }), "");
}

TEST(Admission, EveryReasonHasAName) {
  for (std::size_t i = 0; i < kRefusals; ++i) EXPECT_FALSE(to_string(static_cast<Refused>(i)).empty());
}

// ---- drawn

// The rules once more, each by itself.
bool counts(const Qualification& one, const AdmissionPolicy& rules, WallTime now, std::optional<WallTime> since) {
  return one.subject == kPeer && (one.run_id.empty() || one.run_id == rules.run_id) &&
         rules.judges.count(one.judge) == 1 && one.issued - rules.clock_skew <= now &&
         now < one.expires + rules.clock_skew && now < one.issued + kLongestCertificate + rules.clock_skew &&
         (!since || one.issued > *since) && one.up_bps >= rules.minimum.up_bps &&
         one.down_bps >= rules.minimum.down_bps && one.round_trip_median <= rules.minimum.round_trip;
}

Qualification drawn(Random& random) {
  Qualification one = certificate();
  if (random.chance(0.1)) one.subject = peer(3);
  one.judge = peer(100 + random.below(4));
  if (random.chance(0.2)) one.run_id = random.chance(0.5) ? "" : "walk";
  one.up_bps = (95 + random.below(30)) * kMegabit;
  one.down_bps = (95 + random.below(30)) * kMegabit;
  one.round_trip_median = milliseconds(180 + random.below(25));
  one.issued = kNow - seconds(random.below(20)) + seconds(random.below(6));
  one.expires = one.issued + seconds(random.below(40));
  return one;
}

TEST(Admission, DrawnCertificatesMatchTheRules) {
  const std::uint64_t drawn_seeds = seeds(6000);
  std::uint64_t admitted = 0, refused = 0;
  for (std::uint64_t seed = 0; seed < drawn_seeds; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    AdmissionPolicy rules = policy();
    rules.judges = {peer(100), peer(101), peer(102)};
    rules.judges_needed = 1 + static_cast<std::uint32_t>(random.below(3));
    rules.clock_skew = seconds(random.below(4));
    std::vector<Qualification> brought(random.below(9));
    for (Qualification& each : brought) each = drawn(random);
    std::optional<WallTime> since;
    if (random.chance(0.3)) since = kNow - seconds(random.below(20));
    std::map<PeerId, std::uint64_t> best;  // of each judge
    for (const Qualification& each : brought) {
      if (!counts(each, rules, kNow, since)) continue;
      best[each.judge] = std::max(best[each.judge], std::min(each.up_bps, each.down_bps));
    }
    const AdmissionDecision decision = decide(brought, kNow, rules, since);
    ASSERT_EQ(decision.ok(), best.size() >= rules.judges_needed) << decision.refusal.why;
    (decision.ok() ? admitted : refused) += 1;
    if (!decision.ok()) {
      EXPECT_FALSE(decision.refusal.why.empty());
      continue;
    }
    std::vector<std::uint64_t> rates;
    rates.reserve(best.size());
    for (const auto& [judge, rate] : best) rates.push_back(rate);
    std::sort(rates.rbegin(), rates.rend());
    EXPECT_EQ(decision.admitted->rate_bytes_per_s, rates[rules.judges_needed - 1] / 8);
    // It is true until then, with the same figures; and its certificates are as fresh as it says.
    const AdmissionDecision last = decide(brought, *decision.admitted->until - seconds(1), rules, since);
    ASSERT_TRUE(last.ok());
    EXPECT_GE(last.admitted->rate_bytes_per_s, decision.admitted->rate_bytes_per_s);
    EXPECT_TRUE(!since || *decision.admitted->issued > *since);
  }
  EXPECT_GT(admitted, drawn_seeds / 12);
  EXPECT_GT(refused, drawn_seeds / 12);
}

}  // namespace
}  // namespace papilio::core
