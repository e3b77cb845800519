#include "engine/core/peer_timers.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/base/assert.hpp"

namespace papilio::core {
namespace {

// Values of at most one per member, on the stack.
template <typename T>
class Sample {
 public:
  void add(T value) { values_[count_++] = value; }
  [[nodiscard]] std::uint32_t size() const { return count_; }
  // The upper of the two in the middle where the number is even: with one honest and one bad peer the better one is
  // the measure of both.
  T upper_median() { return nth(count_ / 2); }
  T median() { return nth((count_ - 1) / 2); }
  T upper_quartile() { return nth((count_ - 1) * 3 / 4); }

 private:
  T nth(std::uint32_t n) {
    PAPILIO_ASSERT_VALUES(n < count_, n, count_);
    std::nth_element(values_.begin(), values_.begin() + n, values_.begin() + count_);
    return values_[n];
  }

  std::array<T, kMaximumMembers> values_{};
  std::uint32_t count_ = 0;
};

// Whether those that behave, this node among them, outnumber those that do not. Then the fault is with the others.
bool is_majority(std::uint32_t good_peers, std::uint32_t bad_peers) { return good_peers + 1 > bad_peers; }

std::string decimal(double value, int digits) {
  std::array<char, 400> text;  // the longest double in this notation has 309 digits before its point
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, digits);
  return {text.data(), end.ptr};
}

std::string seconds_text(Duration duration) { return decimal(to_seconds(duration), 1) + " s"; }
std::string rate_text(double bytes_per_s) { return decimal(bytes_per_s / 1e3, 0) + " kB/s"; }

Duration scaled(Duration duration, double factor) { return from_seconds(to_seconds(duration) * factor); }

// What is usual is measured on those that send enough: suspects must not widen their own limit. Half of the group is
// ahead of its median and has no lag, so the median absolute deviation of such one-sided values is their upper
// quartile.
Duration lag_limit(Sample<Duration>& usual, const LatenessConfig& config) {
  if (usual.size() == 0) return config.lag_floor;
  const Duration spread = scaled(usual.upper_quartile(), config.mads);
  return std::clamp(usual.median() + spread, config.lag_floor, config.lag_ceiling);
}

}  // namespace

// ---- configuration and words

Status check(const LatenessConfig& config) {
  const auto wrong = [](const char* name, double value, const char* remedy) {
    return usage_error(std::string(name) + " is " + decimal(value, 3) + ": " + remedy);
  };
  const auto positive = [](Duration duration) { return duration > Duration::zero(); };
  if (!positive(config.stall_grace)) return wrong("stall_grace", to_seconds(config.stall_grace), "use more than 0 s");
  if (config.first_shard_grace < config.stall_grace) {
    return wrong("first_shard_grace", to_seconds(config.first_shard_grace), "use stall_grace or more");
  }
  if (config.minority_patience < Duration::zero()) {
    return wrong("minority_patience", to_seconds(config.minority_patience), "use 0 s or more");
  }
  if (config.window < 2 * config.stall_grace) {
    return wrong("window", to_seconds(config.window), "use twice stall_grace or more, or a forgiven gap looks slow");
  }
  if (!(config.slack >= 1 && std::isfinite(config.slack))) return wrong("slack", config.slack, "use 1 or more");
  if (!(config.mads >= 0 && std::isfinite(config.mads))) return wrong("mads", config.mads, "use 0 or more");
  if (config.lag_floor <= config.stall_grace) {
    return wrong("lag_floor", to_seconds(config.lag_floor), "use more than stall_grace, or a forgiven gap is a lag");
  }
  if (config.lag_ceiling < config.lag_floor) {
    return wrong("lag_ceiling", to_seconds(config.lag_ceiling), "use lag_floor or more");
  }
  if (!(config.minimum_rate_bytes_per_s >= 0 && std::isfinite(config.minimum_rate_bytes_per_s))) {
    return wrong("minimum_rate_bytes_per_s", config.minimum_rate_bytes_per_s, "use 0 or more");
  }
  if (!(config.announced_margin >= 1 && std::isfinite(config.announced_margin))) {
    return wrong("announced_margin", config.announced_margin, "use 1 or more");
  }
  if (!(config.waiting_share > 0 && config.waiting_share <= 1)) {
    return wrong("waiting_share", config.waiting_share, "use more than 0, at most 1");
  }
  if (!positive(config.tick) || config.tick > config.stall_grace / 4) {
    return wrong("tick", to_seconds(config.tick), "use more than 0 s, at most a quarter of stall_grace");
  }
  return Done{};
}

std::string_view to_string(LateReason reason) {
  switch (reason) {
    case LateReason::first_shard: return "never started";
    case LateReason::stalled: return "stalled";
    case LateReason::slow: return "slow";
  }
  return "unknown";
}

std::string describe(const LateMember& late) {
  std::string text(to_string(late.reason));
  switch (late.reason) {
    case LateReason::first_shard: text += ": no shard within " + seconds_text(late.limit); break;
    case LateReason::stalled:
      text += ": silent for " + seconds_text(late.silent) + " (limit " + seconds_text(late.limit) + ")";
      break;
    case LateReason::slow:
      text +=
          ": " + rate_text(late.rate_bytes_per_s) + " (at least " + rate_text(late.expected_bytes_per_s) + " expected)";
      if (late.lag <= late.limit) break;
      text += ", " + seconds_text(late.lag) + " behind (limit " + seconds_text(late.limit) + ")";
      break;
  }
  if (!late.sure) text += "; perhaps the fault of this node's own line";
  return text;
}

// ---- one peer

void RateWindow::add(Duration bucket, TimePoint now, std::uint64_t bytes) {
  const std::int64_t number = now.time_since_epoch() / bucket;
  if (number - newest_ > kBuckets) {
    bytes_.fill(0);
    newest_ = number;
  }
  while (newest_ < number) bytes_[static_cast<std::size_t>(++newest_ % (kBuckets + 1))] = 0;
  bytes_[static_cast<std::size_t>(newest_ % (kBuckets + 1))] += bytes;
}

std::uint64_t RateWindow::bytes_since(Duration bucket, TimePoint from, TimePoint now) const {
  const std::int64_t last = std::min(newest_, now.time_since_epoch() / bucket);
  const std::int64_t first = std::max(from.time_since_epoch() / bucket, newest_ - kBuckets);
  std::uint64_t sum = 0;
  for (std::int64_t number = std::max<std::int64_t>(first, 0); number <= last; ++number) {
    sum += bytes_[static_cast<std::size_t>(number % (kBuckets + 1))];
  }
  return sum;
}

double PeerTimers::progress() const {
  if (expected_bytes == 0) return 1;
  return std::min(1.0, static_cast<double>(received_bytes) / static_cast<double>(expected_bytes));
}

double PeerTimers::expansion() const {
  return wire_bytes == 0 ? 1 : static_cast<double>(received_bytes) / static_cast<double>(wire_bytes);
}

// ---- what is told

Lateness::Lateness(const LatenessConfig& config, std::uint32_t members, MemberIndex self, TimePoint start)
    : config_(config), self_(self), start_(start), started_waiting_(start), judged_(start), peers_(members) {
  PAPILIO_ASSERT_VALUES(members >= 1 && members <= kMaximumMembers, members, kMaximumMembers);
  PAPILIO_ASSERT_VALUES(self < members, self, members);
  PAPILIO_ASSERT(check(config).ok());
  for (Peer& peer : peers_) peer.accountable_from = start;
  median_reached_.fill(kNever);
  median_reached_[0] = start;
}

void Lateness::expect(MemberIndex member, std::uint64_t contribution_bytes, std::uint64_t average_bytes,
                      double qualified_rate_bytes_per_s) {
  Peer& peer = peers_[member];
  peer.qualified_rate = qualified_rate_bytes_per_s;
  if (member == self_) return;
  peer.contribution_bytes = contribution_bytes;
  peer.average_bytes = average_bytes;
  peer.timers.expected_bytes = contribution_bytes + average_bytes;
  const bool first_time = peer.owes == Owes::nothing && !peer.timers.finished;
  if (first_time) {
    peer.owes = contribution_bytes > 0 ? Owes::contributions : average_bytes > 0 ? Owes::averages_only : Owes::done;
  } else {
    peer.reassessed = true;
    peer.waiting_for = ~Coverage{0};
    if (peer.owes < Owes::averages_only && peer.timers.progress() < 1) peer.owes = Owes::averages_only;
    if (peer.owes != Owes::nothing) peer.timers.finished.reset();
  }
}

void Lateness::handle_back(MemberIndex member) {
  Peer& peer = peers_[member];
  peer.gone = false;
  peer.reassessed = true;
  peer.waiting_for = ~Coverage{0};
}

void Lateness::set_owes(MemberIndex member, Owes owes, TimePoint now) {
  Peer& peer = peers_[member];
  if (owes == peer.owes) return;
  if (peer.owes == Owes::contributions) peer.contribution_rate = average_rate(peer, now);
  if (owes == Owes::contributions) peer.owes_since = now;  // asked for by a successor
  peer.owes = owes;
  if (owes == Owes::nothing) {
    peer.timers.finished = now;
  } else {
    peer.timers.finished.reset();
  }
}

void Lateness::handle_bytes(MemberIndex member, TimePoint now, std::uint64_t bytes) {
  if (bytes == 0) return;
  Peer& peer = peers_[member];
  PeerTimers& timers = peer.timers;
  if (!timers.first_shard) timers.first_shard = now;
  if (timers.last_payload) timers.longest_gap = std::max(timers.longest_gap, now - *timers.last_payload);
  timers.last_payload = now;
  timers.received_bytes += bytes;
  timers.window.add(config_.window / RateWindow::kBuckets, now, bytes);
  handle_heard(member, now);
}

void Lateness::handle_heard(MemberIndex member, TimePoint now) {
  std::optional<TimePoint>& heard = peers_[member].timers.heard;
  heard = heard ? std::max(*heard, now) : now;
}

// RFC 6298's smoothing: an eighth of each new sample.
void Lateness::handle_round_trip(MemberIndex member, Duration round_trip) {
  std::optional<Duration>& smoothed = peers_[member].timers.round_trip;
  smoothed = smoothed ? *smoothed + (round_trip - *smoothed) / 8 : round_trip;
}

// ---- the judgement

std::span<const LateMember> Lateness::judge(TimePoint now) {
  const bool was_frozen = now - judged_ > config_.stall_grace / 2;
  if (was_frozen) forgive_frozen(now);
  judged_ = now;

  Group group = survey(now);
  const bool cut_off_itself = notice_own_line(now, group);
  note_median_progress(now);
  update_lags(now, group, was_frozen || cut_off_itself);

  std::size_t count = 0;
  for (MemberIndex member = 0; member < peers_.size(); ++member) {
    if (auto late = judge_peer(member, now, group)) late_[count++] = *late;
  }
  return {late_.data(), count};
}

// What came while this process was frozen waits in the kernel: all clocks of silence start anew.
void Lateness::forgive_frozen(TimePoint now) {
  started_waiting_ += now - judged_;
  line_down_since_.reset();
  for (Peer& peer : peers_) {
    if (peer.timers.heard) peer.timers.heard = now;
    if (peer.timers.last_payload) peer.timers.last_payload = now;
  }
}

// Whether so many are silent that it is this node's own line. When it comes back, what it kept from the others is
// forgiven them: a stall of theirs right after must not be added to it.
bool Lateness::notice_own_line(TimePoint now, const Group& group) {
  const bool down = group.peers > 1 && !is_majority(group.talking, group.silent);
  if (down && !line_down_since_) line_down_since_ = now - talking_within();
  if (!down && line_down_since_) {
    const Duration absence = now - *line_down_since_;
    started_waiting_ += absence;
    for (Peer& peer : peers_) {
      if (peer.timers.heard) peer.timers.heard = std::min(now, *peer.timers.heard + absence);
    }
    line_down_since_.reset();
  }
  return down;
}

Lateness::Group Lateness::survey(TimePoint now) const {
  Group group;
  group.live = coverage_of(self_);
  Sample<double> rates, unhindered_rates;
  TimePoint last_start = start_;
  for (MemberIndex member = 0; member < peers_.size(); ++member) {
    const Peer& peer = peers_[member];
    if (member == self_ || peer.gone) continue;
    group.live |= coverage_of(member);
    ++group.peers;
    const bool judged = is_judged(peer) && !peer.held_back;
    if (judged && has_yet_to_start(peer)) {
      ++group.unstarted;
    } else {
      ++group.started;
    }
    if (peer.timers.heard && silence(peer, now) <= talking_within()) {
      ++group.talking;
    } else if (peer.timers.heard && judged) {
      ++group.silent;
    }
    if ((peer.waiting_for & coverage_of(self_)) != 0) ++group.lacking_own;
    if (is_judged(peer) && peer.owes == Owes::contributions) group.owing_contributions |= coverage_of(member);
    if (peer.timers.first_shard) {
      rates.add(average_rate(peer, now));
      unhindered_rates.add(unhindered_rate(peer, now));
      last_start = std::max(last_start, *peer.timers.first_shard);
    }
  }
  if (rates.size() > 0) {
    group.median_rate = rates.upper_median();
    group.median_unhindered_rate = unhindered_rates.upper_median();
  }
  for (const Peer& peer : peers_) group.crawling += is_crawling(peer, now, group) ? 1 : 0;
  group.announced_end = saturating_add(last_start, scaled(announced_round(), config_.announced_margin));
  return group;
}

void Lateness::note_median_progress(TimePoint now) {
  Sample<double> progress;
  for (MemberIndex member = 0; member < peers_.size(); ++member) {
    const Peer& peer = peers_[member];
    if (member != self_ && !peer.gone && peer.timers.expected_bytes > 0) progress.add(progress_of(peer));
  }
  if (progress.size() == 0) return;
  const auto steps = static_cast<std::uint32_t>(progress.upper_median() * kProgressSteps);
  for (std::uint32_t step = steps; median_reached_[step] == kNever; --step) median_reached_[step] = now;
}

// Lags are what the peer fell behind the median while nothing excused it.
void Lateness::update_lags(TimePoint now, Group& group, bool own_absence) {
  Sample<Duration> usual;
  for (MemberIndex member = 0; member < peers_.size(); ++member) {
    Peer& peer = peers_[member];
    if (member == self_ || peer.gone) continue;
    PeerTimers& timers = peer.timers;
    if (peer.held_back && timers.heard) timers.heard = timers.last_payload = now;
    if (timers.last_payload && peer.owes > Owes::done) {
      timers.longest_gap = std::max(timers.longest_gap, now - *timers.last_payload);
    }
    const bool excused = own_absence || peer.reassessed || is_excused(peer, now, group);
    const bool waits = says_it_waits(peer);
    // What did not come while it waited is no measure of what it sends after.
    if (excused || (peer.waited && !waits)) peer.accountable_from = now;
    peer.waited = waits;
    peer.reassessed = false;
    if (peer.owes > Owes::done) {
      update_lag(peer, now, excused ? 0 : waits && !peer.succeeds ? config_.waiting_share : 1);
    }
    if (sends_too_little(peer, now, group)) {
      ++group.sending_little;
    } else {
      usual.add(timers.lag);
    }
  }
  group.limit = lag_limit(usual, config_);
  for (Peer& peer : peers_) peer.timers.limit = group.limit;
}

// The lag grows with `share` of the time that passes; what the peer catches up counts in full, and ends what was
// forgiven before.
void Lateness::update_lag(Peer& peer, TimePoint now, double share) const {
  const Duration behind = lag_behind_median(peer, now);
  const Duration growth = behind - peer.forgiven - peer.timers.lag;
  if (growth > Duration::zero()) peer.forgiven += scaled(growth, 1 - share);
  peer.forgiven = std::min(peer.forgiven, behind);
  peer.timers.lag = behind - peer.forgiven;
}

std::optional<LateMember> Lateness::judge_peer(MemberIndex member, TimePoint now, const Group& group) const {
  const Peer& peer = peers_[member];
  if (member == self_ || !is_judged(peer) || peer.held_back) return std::nullopt;
  std::optional<LateMember> late = judge_start(peer, now, group);
  if (!late) late = judge_silence(peer, now, group);
  if (!late) late = judge_rate(peer, now, group);
  if (!late) return std::nullopt;
  late->member = member;
  late->silent = peer.timers.heard ? silence(peer, now) : now - start_;
  late->lag = peer.timers.lag;
  late->rate_bytes_per_s = recent_rate(peer, now);
  return late;
}

std::optional<LateMember> Lateness::judge_start(const Peer& peer, TimePoint now, const Group& group) const {
  if (!has_yet_to_start(peer)) return std::nullopt;
  const TimePoint since = std::max(started_waiting_, peer.owes_since);
  return judge_wait(now - since, config_.first_shard_grace, LateReason::first_shard,
                    is_majority(group.started, group.unstarted), group);
}

std::optional<LateMember> Lateness::judge_silence(const Peer& peer, TimePoint now, const Group& group) const {
  if (!peer.timers.heard) return std::nullopt;
  return judge_wait(silence(peer, now), config_.stall_grace, LateReason::stalled,
                    is_majority(group.talking, group.silent), group);
}

// With the majority: late, and surely so. Without: perhaps this node's own line, so wait longer. With one peer alone
// nothing tells the two ends of the line apart, and there is no rest of a group that patience could save.
std::optional<LateMember> Lateness::judge_wait(Duration waited, Duration grace, LateReason reason, bool majority,
                                               const Group& group) const {
  const bool pair = group.peers == 1;
  const Duration limit = majority || pair ? grace : grace + config_.minority_patience;
  if (waited <= limit) return std::nullopt;
  return LateMember{.reason = reason, .sure = majority && !pair, .limit = limit};
}

std::optional<LateMember> Lateness::judge_rate(const Peer& peer, TimePoint now, const Group& group) const {
  const bool pair = group.peers == 1;
  LateMember late{.reason = LateReason::slow, .sure = !pair, .limit = group.limit};
  if (is_crawling(peer, now, group) && (pair || is_majority(group.peers - group.crawling, group.crawling))) {
    late.expected_bytes_per_s = minimum_share(peer, group);
    return late;
  }
  const bool lags = peer.timers.lag > group.limit && sends_too_little(peer, now, group);
  if (lags && (pair || is_majority(group.peers - group.sending_little, group.sending_little))) {
    late.expected_bytes_per_s = group_share(peer, group);
    return late;
  }
  return std::nullopt;
}

// ---- what the judgement rests on

bool Lateness::has_yet_to_start(const Peer& peer) {
  if (peer.owes == Owes::contributions) return !peer.timers.first_shard;
  return !peer.timers.heard;
}

// Whether it would be wrong to count any of this moment against the peer.
bool Lateness::is_excused(const Peer& peer, TimePoint now, const Group& group) const {
  if (peer.held_back || peer.owes < Owes::averages_only || has_yet_to_start(peer)) return true;
  if (!says_it_waits(peer)) return false;
  // The one it waits for is late here as well and will be judged here; or it is this node, which most wait for; or
  // somebody may be sending still, within the announced rates.
  if ((peer.waiting_for & group.owing_contributions) != 0) return true;
  if ((peer.waiting_for & coverage_of(self_)) != 0 && 2 * group.lacking_own > group.peers) return true;
  return now < group.announced_end;
}

// Only who owes nothing but averages can wait: its contributions depend on nobody. Where nothing else excuses it, the
// one it waits for may be late to it alone, or be known as gone only here: its lag grows more slowly, so that it finds
// out before it is blamed.
bool Lateness::says_it_waits(const Peer& peer) const {
  return peer.owes == Owes::averages_only && peer.waiting_for != 0;
}

Duration Lateness::silence(const Peer& peer, TimePoint now) const {
  return std::max(Duration::zero(), now - *peer.timers.heard);
}

// Bytes that came twice, after a new connection or from a relay, are no progress: who owes anything is not through.
double Lateness::progress_of(const Peer& peer) {
  constexpr double kAlmost = 1 - 1.0 / kProgressSteps;
  return peer.owes > Owes::done ? std::min(peer.timers.progress(), kAlmost) : peer.timers.progress();
}

Duration Lateness::lag_behind_median(const Peer& peer, TimePoint now) const {
  // One step further than the peer is, so that those within one step of each other are level.
  const auto step = static_cast<std::uint32_t>(progress_of(peer) * kProgressSteps) + 1;
  const TimePoint reached = median_reached_[std::min(step, kProgressSteps)];
  return reached == kNever ? Duration::zero() : now - reached;
}

double Lateness::recent_rate(const Peer& peer, TimePoint now) const {
  const TimePoint from = std::max(peer.accountable_from, now - config_.window);
  const double seconds = to_seconds(std::max(now - from, config_.tick));
  return static_cast<double>(peer.timers.window.bytes_since(config_.window / RateWindow::kBuckets, from, now)) /
         seconds;
}

// From its first byte to its last, or to now.
double Lateness::average_rate(const Peer& peer, TimePoint now) const {
  const PeerTimers& timers = peer.timers;
  if (!timers.first_shard) return 0;
  const Duration taken = (timers.progress() < 1 ? now : *timers.last_payload) - *timers.first_shard;
  return static_cast<double>(timers.received_bytes) / to_seconds(std::max(taken, config_.tick));
}

// As long as it owed contributions; after that it may have had to wait for others.
double Lateness::unhindered_rate(const Peer& peer, TimePoint now) const {
  return peer.contribution_rate > 0 ? peer.contribution_rate : average_rate(peer, now);
}

// What the line between the peer and this node should carry at the rates that both announced, shared among all
// connections; infinite where neither is known.
double Lateness::qualified_share(const Peer& peer) const {
  double rate = std::numeric_limits<double>::infinity();
  if (peer.qualified_rate > 0) rate = peer.qualified_rate;
  if (peers_[self_].qualified_rate > 0) rate = std::min(rate, peers_[self_].qualified_rate);
  return rate * peer.timers.expansion() / static_cast<double>(peers_.size() - 1);
}

// The rate below which a peer that lags is slow: 1/slack of what it qualified for, and of what the group manages
// towards this node, whichever is less. Who announced nothing is given more: the parts were not cut to its line, and
// nothing tells a slow line from an unlucky share of it. With neither known, the minimum for all.
double Lateness::group_share(const Peer& peer, const Group& group) const {
  const double share = qualified_share(peer);
  if (group.peers < 2) return std::isfinite(share) ? share / config_.slack : minimum_share(peer, group);
  const double usual = peer.qualified_rate > 0 ? group.median_unhindered_rate : group.median_rate / 2;
  return std::min(share, usual) / config_.slack;
}

// By the standard of group_share, over a time that was all its own and long enough to hold one forgiven gap.
bool Lateness::sends_too_little(const Peer& peer, TimePoint now, const Group& group) const {
  if (peer.owes < Owes::averages_only || now - peer.accountable_from < config_.lag_floor) return false;
  return recent_rate(peer, now) < group_share(peer, group);
}

// The rate below which a peer crawls, whatever the others do. Alone with this node it is held to what it announced.
double Lateness::minimum_share(const Peer& peer, const Group& group) const {
  const double minimum = config_.minimum_rate_bytes_per_s / static_cast<double>(peers_.size() - 1);
  const double share = qualified_share(peer) / config_.slack;
  return group.peers == 1 && std::isfinite(share) ? share : std::min(minimum, share);
}

bool Lateness::is_crawling(const Peer& peer, TimePoint now, const Group& group) const {
  if (!is_judged(peer) || peer.held_back || peer.owes < Owes::averages_only || has_yet_to_start(peer)) return false;
  if (says_it_waits(peer) || now - peer.accountable_from < config_.window) return false;
  return recent_rate(peer, now) < minimum_share(peer, group);
}

// The time that the slowest member's announced rate needs for all that it sends, which is as much as it receives: its
// contributions to the others' parts, and its own part's averages to each of them.
Duration Lateness::announced_round() const {
  std::uint64_t gradient = 0, own_part = 0;
  for (const Peer& peer : peers_) {
    gradient += peer.average_bytes;
    own_part = std::max(own_part, peer.contribution_bytes);
  }
  gradient += own_part;
  double slowest_s = 0;
  for (MemberIndex member = 0; member < peers_.size(); ++member) {
    const Peer& peer = peers_[member];
    if (peer.gone || peer.qualified_rate <= 0) continue;
    const std::uint64_t part = member == self_ ? own_part : peer.average_bytes;
    const double others = static_cast<double>(peers_.size() - 1);
    const double bytes = static_cast<double>(gradient - part) + others * static_cast<double>(part);
    slowest_s = std::max(slowest_s, bytes / peer.qualified_rate);
  }
  // A rate of next to nothing must not overflow a Duration; a day is longer than any round.
  return from_seconds(std::min(slowest_s, 86400.0));
}

TimerReport Lateness::report(MemberIndex member, TimePoint now) const {
  const PeerTimers& timers = peers_[member].timers;
  TimerReport report;
  if (timers.round_trip) report.round_trip_ms = to_milliseconds(*timers.round_trip);
  if (timers.first_shard) {
    report.first_shard_ms = to_milliseconds(*timers.first_shard - start_);
    const Duration taken = timers.finished.value_or(now) - *timers.first_shard;
    report.rate_bytes_per_s = static_cast<double>(timers.received_bytes) / timers.expansion() /
                              to_seconds(std::max(taken, Duration(std::chrono::milliseconds(1))));
  }
  report.longest_gap_ms = to_milliseconds(timers.longest_gap);
  report.lag_ms = to_milliseconds(timers.lag);
  report.limit_ms = to_milliseconds(timers.limit);
  return report;
}

}  // namespace papilio::core
