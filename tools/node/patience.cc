#include "tools/node/patience.hpp"

#include <string>

namespace papilio::tools {
namespace {

constexpr const char* kPrefix = "--patience-";
constexpr const char* kGroup = "Patience";
constexpr const char* kRosterPrefix = "--roster-";
constexpr const char* kRosterGroup = "Roster";
constexpr double kLargestFactor = 1e6;

}  // namespace

node::RoundPatience PatienceSettings::patience() const {
  node::RoundPatience patience = constants;
  patience.members.lateness.minimum_rate_bytes_per_s = static_cast<double>(minimum_rate_bps) / 8;
  return patience;
}

void add_patience_options(CLI::App& app, PatienceSettings& settings) {
  node::RoundPatience& patience = settings.constants;
  core::Patience& members = patience.members;
  core::LatenessConfig& lateness = members.lateness;
  const auto duration = [&](const char* name, Duration& target, const char* description) {
    add_duration(app, std::string(kPrefix) + name, target, description)->group(kGroup);
  };
  const auto number = [&](const char* name, double& target, double most, const char* description) {
    add_number(app, std::string(kPrefix) + name, target, 0, most, description)->group(kGroup);
  };
  duration("first-shard-grace", lateness.first_shard_grace,
           "From a round's start to a member's first bytes; later, it is cut off. Trainers finish their batches a few "
           "seconds apart.");
  duration("stall-grace", lateness.stall_grace,
           "Silence of a member that owes something; longer, it is cut off. Bursts of lost packets take up to 1.4s.");
  duration("minority-patience", lateness.minority_patience,
           "Added to both as long as most of the group seems away: then it is rather this node's own line.");
  duration("window", lateness.window, "Time over which members' rates are measured. At least twice stall-grace.");
  number("slack", lateness.slack, kLargestFactor,
         "A member is slow that sends less than one part in so many of what it announced and of what the others do.");
  number("mads", lateness.mads, kLargestFactor,
         "Lags up to so many median absolute deviations above the median are usual.");
  duration("lag-floor", lateness.lag_floor, "Lags up to this are forgiven. More than stall-grace.");
  duration("lag-ceiling", lateness.lag_ceiling, "Lags beyond this never are, however uneven the group.");
  add_rate(app, std::string(kPrefix) + "minimum-rate", settings.minimum_rate_bps,
           "What a member must send in all, whatever it announced, to be of use to a round.")
      ->group(kGroup);
  number("announced-margin", lateness.announced_margin, kLargestFactor,
         "A reducer that says it waits is believed for so many times what the slowest announced rate needs.");
  number("waiting-share", lateness.waiting_share, 1, "After that, the part of the time by which its lag grows.");
  duration("tick", lateness.tick, "How often members are looked at. At most an eighth of stall-grace.");
  duration("pulse-interval", patience.pulse_interval,
           "How often this node tells the others that it is alive. At most an eighth of their stall-grace.");
  duration("resume-grace", members.resume_grace,
           "How long a lost reducer may take to come back before others are asked for its averages.");
  duration("linger-floor", members.linger_floor,
           "How long those who have everything wait for the few that have not, at least. Not below stall-grace.");
  number("linger-fraction", members.linger_fraction, kLargestFactor,
         "The same as a part of the round so far; the longer counts.");
  number("reduce-by-fraction", patience.reduce_by_fraction, 1,
         "Part of --round-timeout after which reducers finish with the contributions that they have.");
  number("settle-by-fraction", patience.settle_by_fraction, 1,
         "The same for successors, with the parts that they took over.");
}

void add_roster_options(CLI::App& app, node::RosterPatience& patience) {
  core::RosterConfig& agreement = patience.agreement;
  const auto duration = [&](const char* name, Duration& target, const char* description) {
    add_duration(app, std::string(kRosterPrefix) + name, target, description)->group(kRosterGroup);
  };
  duration("arrival-grace", agreement.arrival_grace,
           "How long after its own round a proposer waits for the others of that round to be done.");
  duration("propose-grace", agreement.propose_grace,
           "How long each miner is left to propose a roster before the next one in the order does.");
  duration("ack-grace", agreement.ack_grace,
           "How long answers to a proposal are waited for. At least four times what a message may take.");
  duration("lease", agreement.lease,
           "How long an answer binds this node to a proposer that says no more. At least twice ack-grace.");
  duration("settle-grace", agreement.settle_grace,
           "The same when the proposer's connection is lost: its last word may come through others.");
  duration("inclusion-patience", agreement.inclusion_patience,
           "How long proposals without a member that this node sees are refused. Alike on all nodes.");
  add_number(app, std::string(kRosterPrefix) + "attempts-at-once", agreement.attempts_at_once, 1, kLargestFactor,
             "Proposals that one miner may make for one round without a pause. Alike on all nodes.")
      ->group(kRosterGroup);
  duration("attempt-refill", agreement.attempt_refill, "How long until it may make one more. Alike on all nodes.");
  duration("report-interval", patience.report_interval, "Everybody says where it is at least this often.");
  duration("silent-after", patience.silent_after,
           "A peer that said nothing for this long is not counted on. At least twice report-interval.");
}

Status validate(const node::RosterPatience& patience) {
  if (auto checked = node::check(patience); !checked) return usage_error(kRosterPrefix + checked.error().message);
  return Done{};
}

Status validate(const PatienceSettings& settings) {
  if (auto checked = node::check(settings.patience()); !checked) return usage_error(kPrefix + checked.error().message);
  return Done{};
}

}  // namespace papilio::tools
