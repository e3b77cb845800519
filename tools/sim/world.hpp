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
#include "tools/sim/links.hpp"
#include "tools/sim/round_check.hpp"
#include "tools/sim/scenario.hpp"
#include "tools/sim/tamperer.hpp"
#include "transport/sim_io.hpp"

namespace papilio::sim {

// What the rounds came to for the members that nothing befell, summed over members.
struct Tally {
  std::uint64_t rounds = 0;
  std::uint64_t chunks = 0, local_chunks = 0;
  double coverage = 0;         // sum of the rounds'
  double longest_timeout = 0;  // of a round, as part of its timeout

  void add(const Tally& other);
};

struct Outcome {
  std::uint64_t rounds = 0;  // rounds that members ended, summed over members
  std::uint64_t events = 0;  // of the network
  std::uint64_t hash = 0;    // over everything that happened and all that was reported
  std::uint64_t faults = 0;  // what was drawn, by bit of Faults
  Tally tally;
  std::string failure;  // empty: all promises were kept
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
  enum class ActionKind : std::uint8_t { open_round, begin_round, begin_waiting, mishap, end_mishap, nothing };
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
    TimePoint leave_by = kNever;
    std::vector<std::int64_t> contributions_at_cut_off;  // by member; negative: not cut off
    std::vector<Coverage> settled;                       // by chunk, what was final at the last look
    bool slow = false;
    bool stalled = false;  // frozen, for so short a time that nobody may mind
    bool frozen_for_good = false;
    bool hostile = false;      // did something to the others that they may remember
    bool equivocates = false;  // told them different things
  };
  // A planned byte fault goes through these.
  struct ByteFaultState {
    bool struck = false;
    bool noticed = false;  // the link was lost after it struck
  };

  // ---- the loop (world.cc)
  void set_tamperers();
  bool turn_hosts();
  void turn_host(Host& host);
  void run_actions();
  void advance_clock();
  void check_instant();
  void check_leaving(Host& host);

  // ---- the course of events (course.cc)
  void coordinate();
  void link_up();
  void chatter();
  void open_round(std::size_t index);
  [[nodiscard]] std::vector<std::uint32_t> draw_up_roster(std::size_t index);
  [[nodiscard]] node::RoundSpec spec_of(std::size_t index, const std::vector<std::uint32_t>& roster) const;
  void note_disturbances(std::size_t index, RoundCheck& check) const;
  void schedule_round(std::size_t index, const std::vector<std::uint32_t>& roster);
  void begin_waiting(std::uint32_t host);
  void begin_round(std::uint32_t host, std::size_t index);
  void finish_round(Host& host, const RoundReport& report);
  void mark_done(std::uint32_t host, std::size_t index);
  void mark_all_done(std::uint32_t host);
  [[nodiscard]] bool all_rounds_over() const;
  void begin_leaving();

  // ---- what goes wrong (mishaps.cc)
  void disturb(std::uint32_t host);
  void make_hostile(std::uint32_t host);
  void strike(std::size_t index);
  void freeze(const MishapPlan& plan);
  void partition(const MishapPlan& plan);
  void leave(std::uint32_t host);
  void end_mishap(const MishapPlan& plan);
  void kill(std::uint32_t host, transport::SimDeath death);
  void start_again(std::uint32_t host);

  // ---- watching (watch.cc)
  void look_at(Host& host);
  void look_at_links(Host& host);
  void look_at_deeds(const Host& host);
  void look_at_byte_faults();
  void look_at_offences(Host& host);
  void look_at_round(const Host& host);
  void check_promise_4(const Host& host, const RoundReport& report);
  void check_pool(const Host& host);
  // Both run, can reach each other, and one of them dials the other.
  [[nodiscard]] bool want_link(std::uint32_t one, std::uint32_t other) const;
  [[nodiscard]] std::optional<std::pair<std::uint32_t, std::uint32_t>> missing_link() const;
  void fail(const std::string& what);
  void note(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void fold(std::uint64_t value) { hash_ = Random::mix(hash_ ^ value); }
  void schedule(TimePoint time, const Action& action) { actions_.emplace(time, action); }
  [[nodiscard]] TimePoint now() const { return network_.now(); }

  const Scenario scenario_;
  std::FILE* const journal_;
  transport::SimNetwork network_;
  std::vector<std::unique_ptr<Tamperer>> tamperers_;  // by host; null: it sends what its engine says
  std::vector<std::unique_ptr<Host>> hosts_;
  std::vector<HostState> states_;
  std::vector<RoundState> rounds_;
  std::vector<ByteFaultState> byte_faults_;
  std::map<PeerId, std::uint32_t> host_of_;
  Links links_;
  std::multimap<TimePoint, Action> actions_;
  Stage stage_ = Stage::linking;
  std::size_t next_round_ = 0;
  bool open_scheduled_ = false;
  std::map<std::pair<std::uint32_t, std::uint32_t>, TimePoint> missing_since_;  // links that somebody waits for
  TimePoint link_by_ = kNever;
  TimePoint chatter_at_{};
  bool anything_went_wrong_ = false;
  bool was_parted_ = false;
  std::uint64_t rounds_ended_ = 0;
  Tally tally_;
  std::uint64_t hash_ = 0;
  std::string failure_;
};

}  // namespace papilio::sim
