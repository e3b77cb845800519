#include "engine/core/conduct.hpp"

#include <algorithm>
#include <tuple>

#include "engine/base/assert.hpp"
#include "engine/base/text.hpp"

namespace papilio::core {
namespace {

constexpr std::array<std::string_view, kOffences> kNames = {"missing",     "connection-lost", "slow",
                                                            "wrong-model", "wrong-group",     "non-finite",
                                                            "wild-norm",   "protocol",        "damaged-bytes"};

// Whole periods between two times; the earlier moves on by them, so that the rest counts the next time.
std::uint32_t periods_gone(WallTime& since, WallTime now, std::chrono::seconds period) {
  if (now <= since || period <= std::chrono::seconds::zero()) return 0;
  const auto count = (now - since) / period;
  since += count * period;
  return static_cast<std::uint32_t>(std::min<std::int64_t>(count, UINT32_MAX));
}

std::uint32_t minus(std::uint32_t value, std::uint32_t taken) { return value - std::min(value, taken); }

// What would be lost by forgetting it; the more, the later it is forgotten.
auto harm_of(const ConductRecord& record, WallTime now) {
  return std::tuple(record.is_banned(now), record.requalify_since.has_value(), record.repeats, record.strikes);
}

// With leading zeros; a year may have more digits.
std::string digits(std::int64_t value, std::size_t width) {
  const std::string text = std::to_string(value);
  return std::string(width - std::min(width, text.size()), '0') + text;
}

}  // namespace

std::string to_text(WallTime time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  return digits(int{date.year()}, 4) + "-" + digits(unsigned{date.month()}, 2) + "-" + digits(unsigned{date.day()}, 2) +
         "T" + digits(clock.hours().count(), 2) + ":" + digits(clock.minutes().count(), 2) + ":" +
         digits(clock.seconds().count(), 2) + "Z";
}

std::string_view to_string(Offence offence) { return kNames.at(static_cast<std::size_t>(offence)); }

std::optional<Offence> offence_of(std::string_view text) {
  const auto* const found = std::find(kNames.begin(), kNames.end(), text);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Offence>(found - kNames.begin());
}

Conduct::Conduct(ConductConfig config) : config_(config) {
  PAPILIO_ASSERT(config_.strikes_to_ban > 0);
  PAPILIO_ASSERT(config_.good_rounds_per_strike > 0 && config_.good_rounds_per_repeat > 0);
}

// ---- what happens

void Conduct::load(WallTime now, const std::vector<ConductRecord>& records) {
  for (ConductRecord record : records) {
    record.strikes = std::min(record.strikes, config_.strikes_to_ban - 1);
    record.banned_until = std::min(record.banned_until, record.banned_since + config_.longest_ban);
    record.evidence = one_line(record.evidence, config_.evidence_bytes);
    const bool owes_nothing_now = record.requalify_since && !config_.slow_must_requalify;
    if (owes_nothing_now) record.requalify_since.reset();
    settle(now, record);
    const bool says_something = !record.is_clean(now) && records_.count(record.peer) == 0 && keep(now, record);
    if (says_something && !owes_nothing_now) {
      changed_.erase(record.peer);  // it is written down already
    } else {
      changed_.insert(record.peer);
    }
  }
}

Judgement Conduct::handle_offence(WallTime now, const PeerId& peer, Offence offence, std::string_view evidence) {
  const auto found = records_.find(peer);
  ConductRecord record;
  record.peer = peer;
  if (found != records_.end()) {
    settle(now, found->second);
    record = found->second;
  }
  if (record.is_banned(now)) return {.kind = Judgement::Kind::nothing, .until = record.banned_until};
  record.offence = offence;
  record.evidence = one_line(evidence, config_.evidence_bytes);
  record.offended_at = now;
  record.good_rounds = 0;
  Judgement judgement = judge(now, record, offence);
  judgement.remembered = keep(now, record);
  return judgement;
}

Judgement Conduct::judge(WallTime now, ConductRecord& record, Offence offence) const {
  const OffencePolicy& policy = config_.policies[static_cast<std::size_t>(offence)];
  record.strikes = std::min(record.strikes + policy.strikes, config_.strikes_to_ban);
  record.strikes_as_of = now;
  record.repeats_as_of = now;
  if (record.strikes < config_.strikes_to_ban) {
    return {.kind = Judgement::Kind::strike, .strikes = record.strikes, .strikes_to_ban = config_.strikes_to_ban};
  }
  std::chrono::seconds length = std::min(policy.first_ban, config_.longest_ban);
  for (std::uint32_t i = 0; i < record.repeats && length < config_.longest_ban; ++i) {
    length = std::min(2 * length, config_.longest_ban);
  }
  record.strikes = 0;  // paid for with the ban
  record.times_banned += 1;
  record.repeats += 1;
  record.banned_since = now;
  record.banned_until = now + length;
  record.repeats_as_of = record.banned_until;
  if (offence == Offence::slow && config_.slow_must_requalify) record.requalify_since = now;
  return {.kind = Judgement::Kind::ban, .strikes_to_ban = config_.strikes_to_ban, .until = record.banned_until};
}

void Conduct::handle_good_round(WallTime now, const PeerId& peer) {
  const auto found = records_.find(peer);
  if (found == records_.end()) {
    ConductRecord record;
    record.peer = peer;
    record.acquainted = true;
    record.offended_at = now;
    keep(now, record);
    return;
  }
  ConductRecord& record = found->second;
  settle(now, record);
  make_acquaintance(now, record);
  if (record.is_clean(now)) {
    record.offended_at = now;  // of those who are clean, whoever was here least recently is forgotten first
    return;
  }
  record.good_rounds += 1;
  if (record.strikes > 0 && record.good_rounds >= config_.good_rounds_per_strike) {
    record.strikes -= 1;
  } else if (record.strikes == 0 && record.good_rounds >= config_.good_rounds_per_repeat) {
    record.repeats = minus(record.repeats, 1);
  } else {
    return;
  }
  record.good_rounds = 0;
  changed_.insert(peer);
}

// A stranger's record moves to the acquaintances, if there is room for it.
void Conduct::make_acquaintance(WallTime now, ConductRecord& record) {
  if (record.acquainted) return;
  ConductRecord acquainted = record;
  acquainted.acquainted = true;
  if (!make_room(now, acquainted)) return;
  record.acquainted = true;
  acquaintances_ += 1;
  changed_.insert(record.peer);
}

bool Conduct::handle_certificate(WallTime now, const PeerId& peer, WallTime issued) {
  const std::optional<WallTime> since = requalify_since(now, peer);
  if (!since || issued <= *since) return false;
  records_.at(peer).requalify_since.reset();
  changed_.insert(peer);
  return true;
}

bool Conduct::clear(WallTime now, const PeerId& peer) {
  const auto found = records_.find(peer);
  if (found == records_.end()) return false;
  settle(now, found->second);
  const bool was_clean = found->second.is_clean(now);
  ConductRecord clean;
  clean.peer = peer;
  clean.acquainted = found->second.acquainted;
  clean.offended_at = now;
  found->second = clean;
  changed_.insert(peer);
  return !was_clean;
}

// ---- getters

const ConductRecord* Conduct::ban_of(WallTime now, const PeerId& peer) {
  const auto found = records_.find(peer);
  if (found == records_.end()) return nullptr;
  settle(now, found->second);
  return found->second.is_banned(now) ? &found->second : nullptr;
}

std::optional<WallTime> Conduct::requalify_since(WallTime now, const PeerId& peer) {
  const auto found = records_.find(peer);
  if (found == records_.end()) return std::nullopt;
  settle(now, found->second);
  return found->second.requalify_since;
}

std::vector<ConductRecord> Conduct::list(WallTime now) {
  std::vector<ConductRecord> all;
  for (auto& [peer, record] : records_) {
    settle(now, record);
    if (!record.is_clean(now)) all.push_back(record);
  }
  std::sort(all.begin(), all.end(), [now](const ConductRecord& left, const ConductRecord& right) {
    const auto key = [now](const ConductRecord& record) {
      return std::tuple(record.is_banned(now), record.is_banned(now) ? record.banned_until : record.offended_at,
                        record.peer);
    };
    return key(left) > key(right);
  });
  return all;
}

// ---- what to write down

std::optional<ConductChange> Conduct::poll_change(WallTime now) {
  if (changed_.empty()) return std::nullopt;
  ConductChange change{.peer = *changed_.begin(), .record = std::nullopt};
  changed_.erase(changed_.begin());
  const auto found = records_.find(change.peer);
  if (found != records_.end() && !found->second.is_clean(now)) change.record = found->second;
  return change;
}

// ---- inside

// What time alone has changed.
void Conduct::settle(WallTime now, ConductRecord& record) const {
  if (now < record.banned_since && record.is_banned(now)) {
    record.banned_until = now + (record.banned_until - record.banned_since);
    record.banned_since = now;
    record.repeats_as_of = record.banned_until;
  }
  if (record.requalify_since) {
    // A certificate of now has to be able to be newer.
    record.requalify_since = std::min(*record.requalify_since, now);
    if (now - *record.requalify_since >= config_.requalify_fades) record.requalify_since.reset();
  }
  if (record.is_banned(now)) return;
  record.strikes_as_of = std::min(record.strikes_as_of, now);
  record.repeats_as_of = std::min(record.repeats_as_of, now);
  record.strikes = minus(record.strikes, periods_gone(record.strikes_as_of, now, config_.strike_fades));
  record.repeats = minus(record.repeats, periods_gone(record.repeats_as_of, now, config_.repeat_fades));
}

bool Conduct::keep(WallTime now, const ConductRecord& record) {
  const auto found = records_.find(record.peer);
  if (found != records_.end()) {
    PAPILIO_ASSERT(found->second.acquainted == record.acquainted);
    found->second = record;
  } else {
    if (!make_room(now, record)) return false;
    records_.emplace(record.peer, record);
    acquaintances_ += record.acquainted ? 1U : 0U;
  }
  if (!record.is_clean(now)) changed_.insert(record.peer);
  return true;
}

// Among those of the newcomer's kind. Whoever did as much harm as the newcomer stays: new names are to be had for
// nothing, and must not wash out the old ones.
bool Conduct::make_room(WallTime now, const ConductRecord& newcomer) {
  const std::size_t strangers = records_.size() - acquaintances_;
  if (newcomer.acquainted ? acquaintances_ < config_.maximum_acquaintances : strangers < config_.maximum_strangers) {
    return true;
  }
  auto most_harmless = records_.end();
  for (auto each = records_.begin(); each != records_.end(); ++each) {
    if (each->second.acquainted != newcomer.acquainted) continue;
    settle(now, each->second);
    const auto key = [now](const ConductRecord& record) {
      return std::tuple(harm_of(record, now), record.offended_at);
    };
    if (most_harmless == records_.end() || key(each->second) < key(most_harmless->second)) most_harmless = each;
  }
  if (most_harmless == records_.end()) return false;
  const ConductRecord& victim = most_harmless->second;
  if (!victim.is_clean(now) && harm_of(victim, now) >= harm_of(newcomer, now)) return false;
  acquaintances_ -= victim.acquainted ? 1U : 0U;
  changed_.insert(victim.peer);
  records_.erase(most_harmless);
  return true;
}

}  // namespace papilio::core
