// Runs one scenario: hosts, network and clock in one thread, round after round, and after every event holds what it
// sees against the promises of ROUND.md. The same scenario gives the same run, to the last byte.
#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "tools/sim/host.hpp"
#include "tools/sim/round_check.hpp"
#include "tools/sim/scenario.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

struct Outcome {
  std::uint64_t rounds = 0;  // rounds that members ended, summed over members
  std::uint64_t events = 0;  // of the network
  std::uint64_t hash = 0;    // over everything that happened and all that was reported
  std::string failure;       // empty: all promises were kept
};

// `journal`: where to write what happens, line by line; null: nowhere.
[[nodiscard]] Outcome run_scenario(const Scenario& scenario, std::FILE* journal);

class World {
 public:
  World(const Scenario& scenario, std::FILE* journal);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  // Only after a run without failure: nothing can be taken for granted of hosts that broke a promise.
  ~World() = default;

  void run();
  [[nodiscard]] Outcome outcome() const;

 private:
  enum class Stage : std::uint8_t { linking, rounding, leaving, over };
  enum class ActionKind : std::uint8_t { open_round, begin_round, begin_waiting, mishap, end_mishap };
  struct Action {
    ActionKind kind;
    std::uint32_t host = 0;
    std::size_t index = 0;  // of the round, or of the mishap
  };
  struct RoundState {
    std::unique_ptr<RoundCheck> check;
    TimePoint opened{};
    bool is_over = false;
    std::vector<bool> done;  // by member: ended, or will not
  };
  struct HostState {
    std::optional<std::size_t> round;  // in flight
    std::deque<std::size_t> waiting;   // rounds to begin once that is over
    TimePoint deadline = kNever;       // of the round in flight
    TimePoint reduce_by = kNever;
    TimePoint leave_by = kNever;
    std::vector<std::int64_t> contributions_at_cut_off;  // by member; negative: not cut off
    bool slow = false;
    bool frozen_for_good = false;
  };
  // A planned byte fault goes through these.
  struct ByteFaultState {
    bool struck = false;
    bool noticed = false;  // the link was lost after it struck
  };

  // ---- the loop
  bool turn_hosts();
  void turn_host(Host& host);
  void run_actions();
  void advance_clock();
  void check_instant();

  // ---- the course of events
  void coordinate();
  void open_round(std::size_t index);
  void begin_waiting(std::uint32_t host);
  void begin_round(std::uint32_t host, std::size_t index);
  void finish_round(Host& host, const RoundReport& report);
  void mark_done(std::uint32_t host, std::size_t index);
  void mark_all_done(std::uint32_t host);
  [[nodiscard]] bool all_rounds_over() const;
  void strike(std::size_t index);
  void end_mishap(const MishapPlan& plan);
  void kill(std::uint32_t host, transport::SimDeath death);
  void begin_leaving();

  // ---- checks
  void look_at(Host& host);
  void watch_cut_offs(const Host& host);
  void check_pool(const Host& host);
  void look_at_byte_faults();
  [[nodiscard]] bool are_linked(std::uint32_t one, std::uint32_t other) const;
  [[nodiscard]] bool are_apart(std::uint32_t one, std::uint32_t other) const;
  // Both run, can reach each other, and one of them dials the other.
  [[nodiscard]] bool want_link(std::uint32_t one, std::uint32_t other) const;
  [[nodiscard]] std::optional<std::pair<std::uint32_t, std::uint32_t>> missing_link() const;
  void disturb(std::uint32_t host);
  void fail(const std::string& what);
  void note(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void fold(std::uint64_t value) { hash_ = Random::mix(hash_ ^ value); }
  void schedule(TimePoint time, const Action& action) { actions_.emplace(time, action); }
  [[nodiscard]] TimePoint now() const { return network_.now(); }

  const Scenario scenario_;
  std::FILE* const journal_;
  transport::SimNetwork network_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::vector<HostState> states_;
  std::vector<RoundState> rounds_;
  std::vector<ByteFaultState> byte_faults_;
  std::map<PeerId, std::uint32_t> host_of_;
  std::vector<std::uint64_t> links_;  // by member: the members that it is connected to, by bit
  std::multimap<TimePoint, Action> actions_;
  Stage stage_ = Stage::linking;
  std::size_t next_round_ = 0;
  bool open_scheduled_ = false;
  TimePoint link_by_ = kNever;
  std::uint64_t other_side_ = 0;  // of a partition, by bit; 0: there is none
  bool anything_went_wrong_ = false;
  std::uint64_t rounds_ended_ = 0;
  std::uint64_t hash_ = 0;
  std::string failure_;
};

}  // namespace papilio::sim
