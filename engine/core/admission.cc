#include "engine/core/admission.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "engine/base/assert.hpp"
#include "engine/base/text.hpp"
#include "engine/base/units.hpp"

namespace papilio::core {
namespace {

constexpr std::array<std::string_view, kRefusals> kNames = {"own-id",
                                                            "denied",
                                                            "not-allowed",
                                                            "banned",
                                                            "no-certificate",
                                                            "certificate-of-another",
                                                            "certificate-of-another-run",
                                                            "judge-not-trusted",
                                                            "certificate-expired",
                                                            "certificate-not-yet-valid",
                                                            "certificate-not-fresh",
                                                            "below-minimum",
                                                            "too-few-judges"};

constexpr std::size_t kShownDigits = 16;  // of ids, in sentences
constexpr std::size_t kShownRunId = 64;
constexpr std::chrono::seconds kMostSkew = std::chrono::hours(24);
// Times in certificates are anybody's numbers, and calendars end.
constexpr WallTime kFirstShown{}, kLastShown{std::chrono::seconds(253'402'300'799)};  // 9999-12-31T23:59:59Z

std::string text_of(WallTime time) { return to_text(std::clamp(time, kFirstShown, kLastShown)); }
std::string text_of(const PeerId& id) { return to_hex(id, kShownDigits); }

AdmissionRefusal refusal(Refused reason, std::string why) {
  return {.reason = reason, .why = std::move(why), .shortfalls = {}, .until = std::nullopt};
}

std::vector<Shortfall> shortfalls_of(const Qualification& certificate, const LineRequirement& minimum) {
  std::vector<Shortfall> all;
  all.reserve(3);
  if (certificate.up_bps < minimum.up_bps) {
    all.push_back({Shortfall::Figure::up, certificate.up_bps, minimum.up_bps});
  }
  if (certificate.down_bps < minimum.down_bps) {
    all.push_back({Shortfall::Figure::down, certificate.down_bps, minimum.down_bps});
  }
  if (certificate.round_trip_median > minimum.round_trip) {
    all.push_back({Shortfall::Figure::round_trip, static_cast<std::uint64_t>(certificate.round_trip_median.count()),
                   static_cast<std::uint64_t>(minimum.round_trip.count())});
  }
  return all;
}

std::string text_of(const Shortfall& shortfall) {
  if (shortfall.figure == Shortfall::Figure::round_trip) {
    const auto length = [](std::uint64_t nanoseconds) {
      return human_duration(Duration(static_cast<std::int64_t>(nanoseconds)));
    };
    return "round trip " + length(shortfall.has) + " (" + length(shortfall.has - shortfall.needs) + " above the " +
           length(shortfall.needs) + " allowed)";
  }
  const auto rate = [](std::uint64_t bps) { return human_rate(static_cast<double>(bps)); };
  return std::string(shortfall.figure == Shortfall::Figure::up ? "up " : "down ") + rate(shortfall.has) + " (" +
         rate(shortfall.needs - shortfall.has) + " below the " + rate(shortfall.needs) + " needed)";
}

std::uint64_t rate_bps(const Qualification& certificate) { return std::min(certificate.up_bps, certificate.down_bps); }

bool is_better(const Qualification& left, const Qualification& right) {
  return std::tuple(rate_bps(left), right.round_trip_median, left.expires) >
         std::tuple(rate_bps(right), left.round_trip_median, right.expires);
}

}  // namespace

std::string_view to_string(Refused reason) { return kNames.at(static_cast<std::size_t>(reason)); }

Status check(const AdmissionPolicy& policy) {
  if (policy.clock_skew < std::chrono::seconds::zero() || policy.clock_skew > kMostSkew) {
    return usage_error("clock-skew: '" + std::to_string(policy.clock_skew.count()) +
                       "s' is not a time from 0 to 24h; set the clocks right instead");
  }
  if (policy.judges_needed < 1) return usage_error("judges-needed: '0' is less than 1; leave out the judges instead");
  if (policy.requires_certificates() && policy.judges_needed > policy.judges.size()) {
    return usage_error("judges-needed: '" + std::to_string(policy.judges_needed) + "' is more than the " +
                       std::to_string(policy.judges.size()) + " judges that are named; name more, or need fewer");
  }
  if (policy.minimum.round_trip <= Duration::zero()) {
    return usage_error("max-rtt: '" + format_duration(policy.minimum.round_trip) +
                       "' is not more than nothing; write it like 200ms");
  }
  return Done{};
}

Admission::Admission(AdmissionPolicy policy) : policy_(std::move(policy)) { PAPILIO_ASSERT(check(policy_).ok()); }

std::optional<AdmissionRefusal> Admission::objection_to(const PeerId& id, const ConductRecord* ban) const {
  if (id == policy_.self) {
    return refusal(Refused::own_id, text_of(id) +
                                        " is this node's own id: it dialled itself, or its key was copied; give every "
                                        "node a state-dir of its own");
  }
  if (policy_.denied.count(id) != 0) {
    return refusal(Refused::denied, text_of(id) + " is on this node's deny list; ask its owner to take it off");
  }
  if (policy_.allowed && policy_.allowed->count(id) == 0) {
    return refusal(Refused::not_allowed,
                   text_of(id) + " is not on this node's allow list; ask its owner to add it (papilio-node id)");
  }
  if (ban == nullptr) return std::nullopt;
  AdmissionRefusal banned =
      refusal(Refused::banned, "until " + text_of(ban->banned_until) + " (" + std::string(to_string(ban->offence)) +
                                   ": " + ban->evidence + ")");
  if (ban->requalify_since && policy_.requires_certificates()) {
    banned.why += ", and then only with a certificate issued after " + text_of(*ban->requalify_since) +
                  "; qualify anew (papilio-qualify)";
  }
  banned.until = ban->banned_until;
  return banned;
}

std::optional<AdmissionRefusal> Admission::objection_to(WallTime now, const Candidate& candidate,
                                                        const Qualification& certificate) const {
  const auto wrong = [](Refused reason, std::string why) { return refusal(reason, std::move(why)); };
  if (certificate.subject != candidate.id) {
    return wrong(Refused::certificate_of_another, "the certificate is of peer " + text_of(certificate.subject) +
                                                      ", not of " + text_of(candidate.id) +
                                                      "; qualify with this node's own key (papilio-qualify)");
  }
  if (!certificate.run_id.empty() && certificate.run_id != policy_.run_id) {
    return wrong(Refused::certificate_of_another_run,
                 "the certificate is for run '" + one_line(certificate.run_id, kShownRunId) + "', this is run '" +
                     policy_.run_id + "'; qualify for this one (papilio-qualify)");
  }
  if (policy_.judges.count(certificate.judge) == 0) {
    return wrong(Refused::judge_not_trusted, "the certificate is signed by judge " + text_of(certificate.judge) +
                                                 ", whom this node does not trust; qualify with judge " +
                                                 text_of(*policy_.judges.begin()) + " (papilio-qualify)");
  }
  // Own times are moved, not those in the certificate: those may be any number.
  const WallTime early = now - policy_.clock_skew, late = now + policy_.clock_skew;
  if (certificate.issued > late) {
    return wrong(Refused::certificate_not_yet_valid, "the certificate is valid from " + text_of(certificate.issued) +
                                                         " on, here it is " + text_of(now) +
                                                         "; set the clock of whoever is wrong, or qualify anew");
  }
  if (certificate.expires <= early) {
    return wrong(Refused::certificate_expired, "the certificate expired at " + text_of(certificate.expires) +
                                                   ", here it is " + text_of(now) + "; qualify anew (papilio-qualify)");
  }
  if (certificate.issued <= early - kLongestCertificate) {
    return wrong(Refused::certificate_expired, "the certificate was issued at " + text_of(certificate.issued) +
                                                   ", which is more than " +
                                                   std::to_string(kLongestCertificate / std::chrono::hours(24)) +
                                                   " days ago; qualify anew (papilio-qualify)");
  }
  if (candidate.requalify_since && certificate.issued <= *candidate.requalify_since) {
    return wrong(Refused::certificate_not_fresh, "the certificate was issued at " + text_of(certificate.issued) +
                                                     ", the last ban for slowness began at " +
                                                     text_of(*candidate.requalify_since) +
                                                     "; qualify anew (papilio-qualify)");
  }
  const std::vector<Shortfall> shortfalls = shortfalls_of(certificate, policy_.minimum);
  if (shortfalls.empty()) return std::nullopt;
  std::string figures;
  for (const Shortfall& each : shortfalls) figures += (figures.empty() ? "" : ", ") + text_of(each);
  AdmissionRefusal below =
      wrong(Refused::below_minimum, "the line is below this run's minimum: " + figures +
                                        "; get a better line, free it of other traffic, and qualify anew "
                                        "(papilio-qualify)");
  below.shortfalls = shortfalls;
  return below;
}

AdmissionRefusal Admission::too_few(std::size_t good, std::optional<AdmissionRefusal> closest) const {
  if (good == 0 && closest) return std::move(*closest);
  if (good == 0) {
    return refusal(Refused::no_certificate, "no certificate was shown, this run asks for one of judge " +
                                                text_of(*policy_.judges.begin()) +
                                                "; qualify (papilio-qualify) and name it with --certificate FILE");
  }
  AdmissionRefusal answer =
      refusal(Refused::too_few_judges,
              "certificates of " + std::to_string(good) + " trusted judges count, this run needs " +
                  std::to_string(policy_.judges_needed) + "; qualify with more of them (papilio-qualify)");
  if (closest) answer.why += "; of the others, " + closest->why;
  return answer;
}

AdmissionDecision Admission::decide(WallTime now, const Candidate& candidate) const {
  if (!policy_.requires_certificates() || candidate.role == Visitor::validator) return {.admitted = Admitted{}};
  std::map<PeerId, const Qualification*> good;  // the best of each judge
  std::optional<AdmissionRefusal> closest;      // what came closest of what is wrong
  for (const Qualification& each : candidate.certificates) {
    std::optional<AdmissionRefusal> wrong = objection_to(now, candidate, each);
    if (!wrong) {
      const Qualification*& of_judge = good[each.judge];
      if (of_judge == nullptr || is_better(each, *of_judge)) of_judge = &each;
    } else if (!closest || wrong->reason > closest->reason) {
      closest = std::move(wrong);
    }
  }
  if (good.size() < policy_.judges_needed) {
    return {.admitted = std::nullopt, .refusal = too_few(good.size(), std::move(closest))};
  }
  std::vector<const Qualification*> best;
  best.reserve(good.size());
  for (const auto& [judge, certificate] : good) best.push_back(certificate);
  std::sort(best.begin(), best.end(), [](const auto* left, const auto* right) { return is_better(*left, *right); });
  best.resize(policy_.judges_needed);
  return {.admitted = admitted_with(best)};
}

// `best`: one of each judge that is needed, the best first. It counts until one of them is refused.
Admitted Admission::admitted_with(std::span<const Qualification* const> best) const {
  const Qualification& weakest = *best.back();
  Admitted admitted;
  admitted.rate_bytes_per_s = rate_bps(weakest) / 8;
  admitted.round_trip = weakest.round_trip_median;
  for (const Qualification* each : best) {
    // No sum overflows: issued is near now, or it would not count.
    const WallTime end = std::min({each->expires, each->issued + kLongestCertificate, kLastShown}) + policy_.clock_skew;
    admitted.until = std::min(admitted.until.value_or(end), end);
    admitted.issued = std::min(admitted.issued.value_or(each->issued), each->issued);
  }
  return admitted;
}

}  // namespace papilio::core
