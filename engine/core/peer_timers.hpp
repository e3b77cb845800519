// Who holds the round up. A member that is frozen, slow or dripping costs all others time, and one that is merely
// unlucky must not be blamed for it: both are settled here, from bytes and times alone, in two small pieces. PeerTimers
// is what is known about one peer in one round. Lateness holds the timers of all peers and names those that are late,
// by four rules, each of which asks first whether the fault could be this node's own:
//
//   never started  no payload came by first_shard_grace.
//   stalled        it owes something, and not one byte, not even a pulse, came for stall_grace.
//   slow           it lags behind the group AND it sends too little. Lag: how long ago the median peer was where this
//                  peer is now; too much is more than median + mads * MAD of the lags that are usual, between lag_floor
//                  and lag_ceiling. Too little: less than 1/slack of what it qualified for and of what the group does.
//   crawling       it owes what depends on nobody else, and sends less than the minimum rate over a whole window.
//
// Progress is compared with progress and not with a clock, so a line that is slow for all makes nobody lag. The rate is
// what keeps one gap from being a fault; the lag is what keeps a trickle, or one shard per timeout, from being none.
//
// A peer's clocks stand still while the wait is not its doing: before its first shard, while this node does not read
// from it, while this process was frozen or its line down, and, for a reducer whose own contributions are in, while it
// waits for a member that owes contributions here too or may still be sending at its announced rate. Silence or
// slowness of so many that this node is no longer with the majority is taken for this node's own line.
//
// Median and median absolute deviation stand where mean and standard deviation might, because up to half of the group
// can be wrong without moving them (Hampel, "The influence curve and its role in robust estimation", 1974).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"

namespace papilio::core {

// Every constant with its unit and reason; what each costs and buys is in docs/timers.md.
struct LatenessConfig {
  // From the round's start to a peer's first payload byte. Members enter a round when their trainer has finished its
  // batch: a few seconds apart is usual.
  Duration first_shard_grace = std::chrono::seconds(5);
  // Silence of a peer that owes something. Eight pulses' worth: longer than a route change or a burst of lost packets
  // (TCP tries again after 0.2, 0.6, 1.4 s), short beside a round of several seconds.
  Duration stall_grace = std::chrono::seconds(2);
  // Added to both graces as long as this node is not with the majority: its own line may come back, and cutting off
  // most of the group ends the round. Nothing is added in a group of two.
  Duration minority_patience = std::chrono::seconds(4);
  // Over which rates are measured. At least twice stall_grace, so that a gap that is forgiven leaves half of the rate.
  Duration window = std::chrono::seconds(4);
  // A rate below 1/slack of what is expected is too little. 4 is two for the forgiven gap times two for uneven shares
  // of a line that several connections fill. For those that announced no rate, twice as much.
  double slack = 4;
  // Median absolute deviations above the median lag that are still usual. 6 MAD are 4 standard deviations.
  double mads = 6;
  // Lags below this never count: above stall_grace, so that one forgiven gap is not a lag.
  Duration lag_floor = std::chrono::seconds(3);
  // Lags above this always count, however uneven the group: what a coalition of slow members can stretch the limit to.
  Duration lag_ceiling = std::chrono::seconds(10);
  // Of a whole member, shared among its connections to the others: 2 Mbit/s. Less is no use to a round even if it is
  // what the member announced; and with one peer alone, whose rate nobody measured, there is nothing else to compare.
  double minimum_rate_bytes_per_s = 250e3;
  // A reducer that says it waits is believed for this many times the time that the slowest member's announced rate
  // needs for the whole round.
  double announced_margin = 1.5;
  // After that, the part of the time by which its lag grows as long as it says so: the one it waits for may be late to
  // it alone, and then it needs longer than lag_floor to find out and to catch up.
  double waiting_share = 1.0 / 3;
  // How often judge() wants to be asked. A call that comes more than stall_grace / 2 late means that this process was
  // frozen or starved itself.
  Duration tick = std::chrono::milliseconds(100);
};

// Names the constant, its value and the remedy.
[[nodiscard]] Status check(const LatenessConfig& config);

// What a peer has not yet given to this node.
enum class Owes : std::uint8_t {
  nothing,        // not judged any more
  done,           // only its word that it is through: judged by silence alone
  averages_only,  // may have to wait for others
  contributions,  // depends on nobody else; it may owe averages as well
};

enum class LateReason : std::uint8_t { first_shard, stalled, slow };
[[nodiscard]] std::string_view to_string(LateReason reason);

// One peer that should be cut off, and the numbers that say so.
struct LateMember {
  MemberIndex member = 0;
  LateReason reason = LateReason::stalled;
  // False: it may as well be this node's own line, or there is nobody to compare with. Cut it off, do not ban it.
  bool sure = true;
  Duration silent{};                // since anything came from it
  Duration lag{};                   // behind the median peer
  Duration limit{};                 // of `silent` or `lag`, whichever the reason is about
  double rate_bytes_per_s = 0;      // of payload, over the window
  double expected_bytes_per_s = 0;  // the least that would have been enough; 0 where the reason is not about rates
};
// For reports and bans: `slow: 31 kB/s (at least 1500 kB/s expected), 3.2 s behind (limit 3.0 s)`.
[[nodiscard]] std::string describe(const LateMember& late);

// Bytes of payload over a sliding window, in a ring of buckets: no allocation, constant work per event.
class RateWindow {
 public:
  void add(Duration bucket, TimePoint now, std::uint64_t bytes);
  // Bytes that came from `from` on. Where `from` lies within a bucket, the whole bucket counts: the peer's favour.
  [[nodiscard]] std::uint64_t bytes_since(Duration bucket, TimePoint from, TimePoint now) const;

  static constexpr std::int64_t kBuckets = 16;

 private:
  std::array<std::uint64_t, kBuckets + 1> bytes_{};  // the one being filled, and kBuckets full ones
  std::int64_t newest_ = -1;                         // number of the bucket being filled, counted from time zero
};

// What is known about one peer in one round.
struct PeerTimers {
  std::optional<Duration> round_trip;     // smoothed
  std::optional<TimePoint> first_shard;   // the first payload byte
  std::optional<TimePoint> last_payload;  // the latest one
  std::optional<TimePoint> heard;         // any byte, a pulse included
  std::optional<TimePoint> finished;      // it owes nothing any more
  Duration longest_gap{};                 // between payload bytes, while it owed some
  std::uint64_t received_bytes = 0;       // payload, as bytes of gradient
  std::uint64_t wire_bytes = 0;           // the same as it came over the line; 0: as many
  std::uint64_t expected_bytes = 0;
  RateWindow window;
  Duration lag{};    // behind the median peer, without what was forgiven
  Duration limit{};  // of the lag, at the last judgement

  [[nodiscard]] double progress() const;
  // Bytes of gradient for each that came over the line. Rates of lines are multiplied with it: all other rates here are
  // of gradient, so that who encodes it in fewer bytes is not taken for slower than who does not.
  [[nodiscard]] double expansion() const;
};

// The same for people and metrics. What is not known is negative.
struct TimerReport {
  double round_trip_ms = -1;
  double first_shard_ms = -1;  // from the round's start
  double longest_gap_ms = 0;
  double rate_bytes_per_s = 0;  // on the line, from its first byte to its last, or to now while it owes something
  double lag_ms = 0;
  double limit_ms = 0;
};

class Lateness {
 public:
  // `members`: of the round, this node (`self`) included; 1 to kMaximumMembers. The configuration must pass check().
  Lateness(const LatenessConfig& config, std::uint32_t members, MemberIndex self, TimePoint start);

  // ---- commands
  // Payload bytes that the member is to send to this node in this round, and the rate each way that it qualified for
  // (0: unknown). Call it for every member before the round; for `self` only the rate counts. Called again where duties
  // move to a successor: the member's clocks then start anew from where it is.
  void expect(MemberIndex member, std::uint64_t contribution_bytes, std::uint64_t average_bytes,
              double qualified_rate_bytes_per_s);
  // A member of which bytes are expected owes contributions, or else averages, from the start.
  void set_owes(MemberIndex member, Owes owes, TimePoint now);
  // Whether the member took over what another one had to average. It stops waiting for answers by itself, so that it
  // says it waits makes its lag no smaller.
  void set_succeeds(MemberIndex member, bool succeeds) { peers_[member].succeeds = succeeds; }

  // ---- events
  // Payload, those of unfinished shards included, counted as bytes of gradient whatever it was encoded in.
  void handle_bytes(MemberIndex member, TimePoint now, std::uint64_t bytes);
  // How much of what was told just now went over the line. Never called: all of it.
  void handle_wire_bytes(MemberIndex member, std::uint64_t bytes) { peers_[member].timers.wire_bytes += bytes; }
  // A pulse or control frame.
  void handle_heard(MemberIndex member, TimePoint now);
  void handle_round_trip(MemberIndex member, Duration round_trip);
  // The members whose contributions it says it lacks. What has come does not go: nobody begins to wait again, except
  // where expect() gave it new duties.
  void handle_waiting(MemberIndex member, Coverage waiting_for) { peers_[member].waiting_for &= waiting_for; }
  void handle_finished(MemberIndex member, TimePoint now) { set_owes(member, Owes::nothing, now); }
  // Whether this node leaves the member's bytes unread because it has no room for them.
  void handle_held_back(MemberIndex member, bool held_back) { peers_[member].held_back = held_back; }
  // Cut off or left: neither judged nor compared with.
  void handle_gone(MemberIndex member) { peers_[member].gone = true; }
  // It is connected again: its clocks start anew from where it is.
  void handle_back(MemberIndex member);

  // ---- what to do next
  // Who is late. Valid until the next call; a member is named again each time until handle_gone.
  [[nodiscard]] std::span<const LateMember> judge(TimePoint now);
  [[nodiscard]] TimePoint next_tick() const { return saturating_add(judged_, config_.tick); }

  // ---- getters
  [[nodiscard]] const PeerTimers& timers(MemberIndex member) const { return peers_[member].timers; }
  [[nodiscard]] Owes owes(MemberIndex member) const { return peers_[member].owes; }
  [[nodiscard]] TimerReport report(MemberIndex member, TimePoint now) const;

 private:
  struct Peer {
    PeerTimers timers;
    std::uint64_t contribution_bytes = 0, average_bytes = 0;
    double qualified_rate = 0;
    double contribution_rate = 0;  // average until it owed no contributions any more; 0 before that
    Owes owes = Owes::nothing;
    TimePoint owes_since{};               // contributions, where not from the start
    Coverage waiting_for = ~Coverage{0};  // until it says otherwise
    bool waited = false;                  // at the last judgement
    bool succeeds = false;
    bool gone = false;
    bool held_back = false;
    bool reassessed = false;     // expect() was called within the round
    Duration forgiven{};         // of its lag behind the median
    TimePoint accountable_from;  // since when every moment without its bytes is its own doing
  };
  // Of this call of judge().
  struct Group {
    std::uint32_t peers = 0;            // live ones
    std::uint32_t started = 0;          // that have sent payload
    std::uint32_t unstarted = 0;        // that owe something and have not
    std::uint32_t talking = 0;          // heard of just now
    std::uint32_t silent = 0;           // that owe something and were not
    std::uint32_t crawling = 0;         // below the minimum rate
    std::uint32_t sending_little = 0;   // below what they qualified for and what the group does
    std::uint32_t lacking_own = 0;      // that say they lack this node's contributions
    Coverage live = 0;                  // this node included
    Coverage owing_contributions = 0;   // live ones
    Duration limit{};                   // of lags
    double median_rate = 0;             // bytes per second so far, towards this node
    double median_unhindered_rate = 0;  // the same without the time spent waiting for others
    TimePoint announced_end;            // when a round at announced rates is over; start: no rate is known
  };

  [[nodiscard]] bool is_judged(const Peer& peer) const { return !peer.gone && peer.owes != Owes::nothing; }
  // Two pulses' worth.
  [[nodiscard]] Duration talking_within() const { return config_.stall_grace / 4; }
  void forgive_frozen(TimePoint now);
  [[nodiscard]] bool notice_own_line(TimePoint now, const Group& group);
  [[nodiscard]] Group survey(TimePoint now) const;
  void note_median_progress(TimePoint now);
  void update_lags(TimePoint now, Group& group, bool own_absence);
  void update_lag(Peer& peer, TimePoint now, double share) const;
  [[nodiscard]] std::optional<LateMember> judge_peer(MemberIndex member, TimePoint now, const Group& group) const;
  [[nodiscard]] std::optional<LateMember> judge_start(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] std::optional<LateMember> judge_silence(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] std::optional<LateMember> judge_wait(Duration waited, Duration grace, LateReason reason, bool majority,
                                                     const Group& group) const;
  [[nodiscard]] std::optional<LateMember> judge_rate(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] static bool has_yet_to_start(const Peer& peer);
  [[nodiscard]] bool is_excused(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] bool says_it_waits(const Peer& peer) const;
  [[nodiscard]] Duration silence(const Peer& peer, TimePoint now) const;
  [[nodiscard]] static double progress_of(const Peer& peer);
  [[nodiscard]] Duration lag_behind_median(const Peer& peer, TimePoint now) const;
  [[nodiscard]] double recent_rate(const Peer& peer, TimePoint now) const;
  [[nodiscard]] double average_rate(const Peer& peer, TimePoint now) const;
  [[nodiscard]] double unhindered_rate(const Peer& peer, TimePoint now) const;
  [[nodiscard]] double qualified_share(const Peer& peer) const;
  [[nodiscard]] double group_share(const Peer& peer, const Group& group) const;
  [[nodiscard]] bool sends_too_little(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] double minimum_share(const Peer& peer, const Group& group) const;
  [[nodiscard]] bool is_crawling(const Peer& peer, TimePoint now, const Group& group) const;
  [[nodiscard]] Duration announced_round() const;

  static constexpr std::uint32_t kProgressSteps = 256;

  LatenessConfig config_;
  MemberIndex self_;
  TimePoint start_;
  TimePoint started_waiting_;  // start_, moved by the times at which this process was frozen
  TimePoint judged_;           // the last call of judge()
  std::optional<TimePoint> line_down_since_;
  std::vector<Peer> peers_;  // self_ included, never judged
  // When the median peer first had i / kProgressSteps of what it owes; kNever: not yet. Indexed by progress instead of
  // by time, so that it never overflows and a lookup needs no search.
  std::array<TimePoint, kProgressSteps + 1> median_reached_;
  std::array<LateMember, kMaximumMembers> late_;
};

}  // namespace papilio::core
