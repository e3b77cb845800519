// What this node remembers of the faults of others, and what follows from it: strikes that add up to a ban, bans that
// double for those who come back to offend again, and forgiveness by time and good rounds. A pure state machine: the
// shell tells what happened and what time it is, asks who is banned, and writes down what changed.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"

namespace papilio::core {

// Seconds since 1970, UTC: bans outlive the process, so their time has to mean the same after a restart. That clock may
// be set back; see Conduct. Nothing in the core can read it.
using WallTime = std::chrono::sys_seconds;

// 2026-01-31T23:59:59Z, for logs, tables and peers.
[[nodiscard]] std::string to_text(WallTime time);

// A qualification certificate counts for no longer than this, whatever it says: lines change, and after so long nobody
// needs to remember who has to bring a newer one.
inline constexpr std::chrono::seconds kLongestCertificate = std::chrono::hours(24 * 30);

// What a peer did wrong, in the words of a round's promises.
enum class Offence : std::uint8_t {
  missing,          // it is in the round and sent nothing
  connection_lost,  // in the middle of a round
  slow,             // frozen, dripping, or below what it qualified for
  wrong_model,      // shards of another model or shape
  wrong_group,      // shards of another group
  non_finite,       // NaN or infinity among its values
  wild_norm,        // values far larger than everybody else's
  protocol,         // what no correct peer sends
  damaged_bytes,    // a payload that does not match its checksum
};
inline constexpr std::size_t kOffences = 9;
[[nodiscard]] std::string_view to_string(Offence offence);
// None if no offence is called that.
[[nodiscard]] std::optional<Offence> offence_of(std::string_view text);

// What an offence costs who commits it: strikes, and the length of the first ban where they were the last ones missing.
struct OffencePolicy {
  std::uint32_t strikes = 0;  // strikes_to_ban or more: banned at once
  std::chrono::seconds first_ban{0};
};

// docs/bans.md tells what each constant costs and buys.
struct ConductConfig {
  // Strikes that make a ban.
  std::uint32_t strikes_to_ban = 6;
  // By Offence. What no working peer can do by accident is banned at once. What happens to everybody now and then costs
  // strikes: of lost connections (cheap for the others, since a cut-off follows within a round trip) six, of the rest
  // three. First bans are short where the cause may go away by itself (doubling takes care of the others), longer
  // where somebody has to mend something, and longest where no working program would do it.
  std::array<OffencePolicy, kOffences> policies = {{
      {2, std::chrono::minutes(2)},   // missing
      {1, std::chrono::minutes(2)},   // connection_lost
      {6, std::chrono::minutes(2)},   // slow
      {6, std::chrono::minutes(10)},  // wrong_model
      {2, std::chrono::minutes(10)},  // wrong_group
      {6, std::chrono::minutes(10)},  // non_finite
      {2, std::chrono::minutes(10)},  // wild_norm
      {6, std::chrono::hours(1)},     // protocol
      {2, std::chrono::minutes(10)},  // damaged_bytes
  }};
  // No ban is longer, however often it doubled: even a machine that was broken for months may come back mended.
  std::chrono::seconds longest_ban = std::chrono::hours(24 * 7);
  // One strike is forgotten after each of these without a new one. Longer than rounds take, or a peer that spoils every
  // round would be forgiven between two.
  std::chrono::seconds strike_fades = std::chrono::minutes(30);
  // Rounds done well that take one strike off.
  std::uint32_t good_rounds_per_strike = 10;
  // One doubling is forgotten after each of these outside of a ban and without an offence.
  std::chrono::seconds repeat_fades = std::chrono::hours(24);
  // Rounds done well that take one doubling off, once no strike is left.
  std::uint32_t good_rounds_per_repeat = 500;
  // Whether who was banned for slowness has to bring a fresh certificate (docs/admission.md): where the run asks for
  // certificates. Otherwise time alone ends those bans, too.
  bool slow_must_requalify = false;
  // That is forgotten when no certificate counts any more that could have been issued before; a day for clocks that
  // differ.
  std::chrono::seconds requalify_fades = kLongestCertificate + std::chrono::hours(24);
  // Bytes of evidence kept per peer; a line on a screen or two.
  std::size_t evidence_bytes = 240;
  // Peers remembered that completed a round with this node at least once, and peers that never did. Apart, so that
  // somebody who makes up new names as fast as they are banned pushes out only others of his kind. A record takes some
  // 400 bytes.
  std::size_t maximum_acquaintances = 1024;
  std::size_t maximum_strangers = 1024;
};

// All that is remembered of one peer, as it is written down.
struct ConductRecord {
  PeerId peer;
  bool acquainted = false;  // completed a round with this node at least once
  std::uint32_t strikes = 0;
  WallTime strikes_as_of{};  // when the last one came or faded
  std::uint32_t times_banned = 0;
  std::uint32_t repeats = 0;           // bans not forgiven yet: the next is 2^repeats times the first
  WallTime repeats_as_of{};            // when the last one was over or was forgiven
  std::uint32_t good_rounds = 0;       // since the last strike or repeat went
  Offence offence = Offence::missing;  // the last that counted; during a ban, what it is for
  std::string evidence;                // of that
  WallTime offended_at{};              // where nothing counts against it: when it was here last
  WallTime banned_since{}, banned_until{};
  // When its last ban for slowness began, until it brought a certificate that is newer, whatever else it did since.
  std::optional<WallTime> requalify_since;

  bool operator==(const ConductRecord&) const = default;
  [[nodiscard]] bool is_banned(WallTime now) const { return now < banned_until; }
  // Anything that could count against it.
  [[nodiscard]] bool is_clean(WallTime now) const {
    return strikes == 0 && repeats == 0 && !requalify_since && !is_banned(now);
  }
};

// What an offence led to.
struct Judgement {
  enum class Kind : std::uint8_t {
    nothing,  // it is banned already, and what was on its way when it was banned does not count twice
    strike,
    ban,
  };
  Kind kind = Kind::nothing;
  std::uint32_t strikes = 0, strikes_to_ban = 0;  // strike
  WallTime until{};                               // ban, nothing: the end of the ban
  bool remembered = true;                         // false: no room, and everybody in the table did worse
};

// A record to write down, or one to strike out.
struct ConductChange {
  PeerId peer;
  std::optional<ConductRecord> record;  // none: strike it out
};

class Conduct {
 public:
  explicit Conduct(ConductConfig config = {});

  // ---- what happens
  // What was written down earlier, at the start. Records that no longer say anything are struck out.
  void load(WallTime now, const std::vector<ConductRecord>& records);
  // `evidence`: for people. What is not printable ASCII is replaced, what is too long is cut.
  Judgement handle_offence(WallTime now, const PeerId& peer, Offence offence, std::string_view evidence);
  // It contributed or reduced, and nobody had to cut it off.
  void handle_good_round(WallTime now, const PeerId& peer);
  // It was let in with a certificate of that time. True if that was what a ban for slowness had left to ask for.
  bool handle_certificate(WallTime now, const PeerId& peer, WallTime issued);
  // As if it had never offended. False if it had not.
  bool clear(WallTime now, const PeerId& peer);

  // ---- getters
  // None if it is not banned; else why and until when. Valid until the next call. Where the clock was set back to
  // before a ban began, the ban begins anew: it lasts as long as it was to last, and not for ever.
  [[nodiscard]] const ConductRecord* ban_of(WallTime now, const PeerId& peer);
  [[nodiscard]] bool is_banned(WallTime now, const PeerId& peer) { return ban_of(now, peer) != nullptr; }
  // Where it was banned for slowness and has not shown a newer certificate yet: what its certificates have to be issued
  // after. The same during the ban and when it is over.
  [[nodiscard]] std::optional<WallTime> requalify_since(WallTime now, const PeerId& peer);
  // Everybody of whom there is something to say: the banned first, those with the longest way to go at the top.
  [[nodiscard]] std::vector<ConductRecord> list(WallTime now);
  [[nodiscard]] const ConductConfig& config() const { return config_; }

  // ---- what to write down
  // The next record that changed since it was last asked for.
  std::optional<ConductChange> poll_change(WallTime now);

 private:
  using Records = std::map<PeerId, ConductRecord>;  // a tree: names are chosen by strangers, and so would hashes be

  void settle(WallTime now, ConductRecord& record) const;
  Judgement judge(WallTime now, ConductRecord& record, Offence offence) const;
  // False where it is less harmful than everybody whose place it could take.
  bool keep(WallTime now, const ConductRecord& record);
  bool make_room(WallTime now, const ConductRecord& newcomer);
  void make_acquaintance(WallTime now, ConductRecord& record);

  ConductConfig config_;
  Records records_;
  std::size_t acquaintances_ = 0;  // among records_
  std::set<PeerId> changed_;
};

}  // namespace papilio::core
