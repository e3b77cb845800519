// Whom to let in, once it has proved who it is: not this node itself, not who is on the deny list or banned, only the
// allow list where there is one, and where the run has judges, only who holds certificates of enough of them that its
// line will do. Pure: the shell hands over certificates whose signatures hold and the time, and gets a decision that is
// true until a given moment, or a refusal with words for both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/core/conduct.hpp"
#include "engine/core/qualification.hpp"

namespace papilio::core {

// What somebody says it came for. What each has to show:
//   miner      it sends and receives everybody's gradients: all of it
//   client     the same, since a round waits for its contributions and for its averages: all of it
//   validator  rounds do not wait for it: no certificate. Who comes as one must not be put on a roster.
enum class Visitor : std::uint8_t { miner, client, validator };

struct AdmissionPolicy {
  PeerId self;
  std::string run_id;
  std::set<PeerId> denied;
  std::optional<std::set<PeerId>> allowed;  // only these; none: everybody
  // Whose certificates count. Any of them: certificates are required.
  std::set<PeerId> judges;
  // So many different ones have to have signed.
  std::uint32_t judges_needed = 1;
  LineRequirement minimum;
  // The clocks of judges and nodes may differ by so much, either way. Machines without time synchronisation drift by
  // seconds a day; more than minutes is a wrong setting.
  std::chrono::seconds clock_skew = std::chrono::minutes(5);

  [[nodiscard]] bool requires_certificates() const { return !judges.empty(); }
};

// Names the constant, its value and the remedy.
[[nodiscard]] Status check(const AdmissionPolicy& policy);

// Who asks to be let in.
struct Candidate {
  PeerId id;  // proved
  Visitor role = Visitor::miner;
  std::span<const Qualification> certificates;  // whose signatures hold
  // Its certificates have to be issued after this: Conduct::requalify_since.
  std::optional<WallTime> requalify_since;
};

enum class Refused : std::uint8_t {
  own_id,                      // it has this node's own key
  denied,                      // deny list
  not_allowed,                 // there is an allow list, and it is not on it
  banned,                      // by this node, for what it did
  no_certificate,              // the run has judges, and it brought nothing
  certificate_of_another,      // from here on: what was wrong with the best that it brought
  certificate_of_another_run,  //
  judge_not_trusted,           //
  certificate_expired,         //
  certificate_not_yet_valid,   //
  certificate_not_fresh,       // issued before its last ban for slowness began
  below_minimum,               // the run's
  too_few_judges,              // some are right, but not enough
};
inline constexpr std::size_t kRefusals = 13;
// As in metrics and logs: `below-minimum`.
[[nodiscard]] std::string_view to_string(Refused reason);

// One figure that is not enough.
struct Shortfall {
  enum class Figure : std::uint8_t { up, down, round_trip };
  Figure figure = Figure::up;
  std::uint64_t has = 0, needs = 0;  // bits per second, or nanoseconds
};

struct AdmissionRefusal {
  Refused reason = Refused::denied;
  std::string why;                    // one line for the log and for who is refused: the value, and what to do
  std::vector<Shortfall> shortfalls;  // below_minimum
  std::optional<WallTime> until;      // banned: ask again then
};

// What the node may count on, of a peer that is let in.
struct Admitted {
  // The weaker direction of the best certificate; where more than one judge is needed, what as many vouch for. 0: no
  // certificates are asked for, nothing is known.
  std::uint64_t rate_bytes_per_s = 0;
  Duration round_trip{};  // of the same certificate
  // When the certificates that this rests on begin to run out: ask again, or let it go, then. None: never.
  std::optional<WallTime> until;
  // The oldest of those certificates, for Conduct::handle_certificate.
  std::optional<WallTime> issued;
};

// One of the two.
struct AdmissionDecision {
  std::optional<Admitted> admitted;
  AdmissionRefusal refusal;  // where not admitted

  [[nodiscard]] bool ok() const { return admitted.has_value(); }
};

class Admission {
 public:
  explicit Admission(AdmissionPolicy policy);

  // What speaks against a peer of which no more is known than its id: asked as soon as it is proved, before its hello
  // is read. `ban`: Conduct::ban_of; null: none.
  [[nodiscard]] std::optional<AdmissionRefusal> objection_to(const PeerId& id, const ConductRecord* ban) const;
  // What speaks against letting it in, all things considered but its id (objection_to).
  [[nodiscard]] AdmissionDecision decide(WallTime now, const Candidate& candidate) const;

  [[nodiscard]] const AdmissionPolicy& policy() const { return policy_; }

 private:
  // What is wrong with one certificate; none: it counts.
  [[nodiscard]] std::optional<AdmissionRefusal> objection_to(WallTime now, const Candidate& candidate,
                                                             const Qualification& certificate) const;
  [[nodiscard]] AdmissionRefusal too_few(std::size_t good, std::optional<AdmissionRefusal> closest) const;
  [[nodiscard]] Admitted admitted_with(std::span<const Qualification* const> best) const;

  AdmissionPolicy policy_;
};

}  // namespace papilio::core
