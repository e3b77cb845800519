#include "tools/sim/faults.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <utility>

#include "engine/base/assert.hpp"
#include "tools/sim/scenario.hpp"

namespace papilio::sim {

namespace {

constexpr std::array<FaultProfile, kFaults> kProfiles{{
    {Faults::none, "none", "nothing goes wrong: nobody may be cut off, coverage is full"},
    {Faults::honest, "honest", "jitter, uneven lines, stalls below the grace: nobody may be cut off or blamed"},
    {Faults::absent, "absent", "machines that are started only when a later round opens"},
    {Faults::never_starts, "never-starts", "members that are in the roster and never begin"},
    {Faults::late, "late", "members begin a round long after the others, after its deadline, or never"},
    {Faults::connection_lost, "connection-lost", "connections are lost at a random byte, some again and again"},
    {Faults::frozen, "frozen", "processes stand still: for good, or to thaw within the round or after it"},
    {Faults::crash, "crash", "processes end in the middle of a round; their connections are reset"},
    {Faults::silent, "silent", "machines lose their power: nothing is heard of them any more"},
    {Faults::restart, "restart", "processes end, and start again with the same name and an empty memory"},
    {Faults::crawl, "crawl", "a machine's line drops to a trickle"},
    {Faults::drip, "drip", "a machine sends about one shard per second"},
    {Faults::slow_reducer, "slow-reducer", "a member contributes in time, and its averages come in a trickle"},
    {Faults::dead_reducer, "dead-reducer", "a member contributes, and its averages stop coming"},
    {Faults::wrong_model, "wrong-model", "nodes of another model dial in"},
    {Faults::wrong_header, "wrong-header", "a member's shards say that they are of another model"},
    {Faults::wrong_epoch, "wrong-epoch", "a member takes part with another epoch's gradient"},
    {Faults::wrong_group, "wrong-group", "shards of another group, or of a member that believes in another roster"},
    {Faults::wrong_round, "wrong-round", "shards of rounds that are over or not there yet"},
    {Faults::non_finite, "non-finite", "NaN and infinity, in gradients and on the wire"},
    {Faults::wild_norm, "wild-norm", "gradients that are finite and far too large"},
    {Faults::bad_weight, "bad-weight", "weights that are zero, negative, NaN, huge, or not what they were before"},
    {Faults::bad_shard, "bad-shard", "shards that are duplicate, out of range, unasked, or of the wrong size"},
    {Faults::malformed, "malformed", "frames that are no frames"},
    {Faults::damaged_bytes, "damaged-bytes", "bytes between two members arrive changed"},
    {Faults::truncate, "truncate", "a connection ends early, and only its reader is told"},
    {Faults::everybody_gone, "everybody-gone", "all members but one disappear in one round"},
    {Faults::refused, "refused", "dialling in: other models, runs, sizes and protocols, and some that say nothing"},
    {Faults::partition, "partition", "nothing passes between two halves of the group for a while"},
    {Faults::goodbye, "goodbye", "members leave in the middle of a round"},
    {Faults::cancel, "cancel", "members cancel their round"},
    {Faults::liar, "liar", "false suspicions, takeovers, holdings, wishes and ends of rounds"},
    {Faults::pairs, "pairs", "five peers and the seven named pairs of faults, one pair per seed in turn"},
    {Faults::mixed, "mixed", "any of these, several at once"},
}};

// What `mixed` draws from: everything that can be combined.
constexpr std::size_t kFirstMixed = static_cast<std::size_t>(Faults::absent);
constexpr std::size_t kLastMixed = static_cast<std::size_t>(Faults::liar);

// What a member may stand still without being blamed for it, with room to spare below every grace.
constexpr Duration kHarmlessStall = std::chrono::milliseconds(1200);

class FaultDrawer {
 public:
  FaultDrawer(Random& random, Scenario& scenario, Duration usual)
      : random_(random), scenario_(scenario), usual_(usual) {}

  void draw(Faults faults) {
    scenario_.add_fault(faults);
    switch (faults) {
      case Faults::none:
      case Faults::pairs: return;
      case Faults::honest: return stalls();
      case Faults::absent: return absent();
      case Faults::never_starts: return never_starts();
      case Faults::late: return late();
      case Faults::connection_lost: return connection_lost();
      case Faults::frozen: return freeze();
      case Faults::crash: return mishap(Mishap::crash);
      case Faults::silent: return mishap(Mishap::vanish);
      case Faults::restart: return restart();
      case Faults::crawl: return crawl();
      case Faults::drip: return drip();
      case Faults::slow_reducer: return slow_reducer();
      case Faults::dead_reducer: return dead_reducer();
      case Faults::wrong_model: return stranger(Stranger::of_another_model);
      case Faults::wrong_header: return lie({Lie::model});
      case Faults::wrong_epoch: return other_epoch();
      case Faults::wrong_group: return wrong_group();
      case Faults::wrong_round: return lie({Lie::round_ahead, Lie::round_behind});
      case Faults::non_finite: return random_.chance(0.5) ? lie({Lie::not_finite}) : poison(false);
      case Faults::wild_norm: return poison(true);
      case Faults::bad_weight: return lie({Lie::weight});
      case Faults::bad_shard:
        return lie({Lie::duplicate, Lie::out_of_range, Lie::unasked, Lie::bad_size, Lie::bad_coverage});
      case Faults::malformed:
        return lie({Lie::magic, Lie::version, Lie::unknown_type, Lie::oversize, Lie::header_checksum, Lie::table,
                    Lie::garbage});
      case Faults::damaged_bytes:
        return random_.chance(0.7) ? byte_fault(transport::SimFault::corrupt) : lie({Lie::payload_checksum});
      case Faults::truncate: return byte_fault(transport::SimFault::truncate);
      case Faults::everybody_gone: return everybody_gone();
      case Faults::refused: return stranger(static_cast<Stranger>(1 + random_.below(5)));
      case Faults::partition: return partition();
      case Faults::goodbye: return mishap(Mishap::goodbye);
      case Faults::cancel: return mishap(Mishap::cancel);
      case Faults::liar:
        return lie({Lie::early_done, Lie::false_suspect, Lie::false_takeover, Lie::false_holdings, Lie::false_wanted,
                    Lie::false_resume, Lie::false_pulse});
      case Faults::mixed: return draw(kProfiles[kFirstMixed + random_.below(kLastMixed - kFirstMixed + 1)].faults);
    }
  }

 private:
  std::uint32_t any_member() { return static_cast<std::uint32_t>(random_.below(scenario_.members)); }
  std::uint32_t any_reducer() {
    for (;;) {
      const std::uint32_t host = any_member();
      if (!scenario_.hosts[host].client) return host;
    }
  }
  // The last round shows whether the group recovered: nothing new goes wrong in it.
  std::uint32_t any_round() {
    const std::size_t most = std::max<std::size_t>(1, scenario_.rounds.size() - 1);
    return static_cast<std::uint32_t>(random_.below(most));
  }
  Duration any_time() {
    return random_.chance(0.8) ? uniform(random_, Duration::zero(), usual_)
                               : uniform(random_, Duration::zero(), scenario_.timeout);
  }
  MishapPlan& plan(Mishap kind, std::uint32_t host) {
    return scenario_.mishaps.emplace_back(
        MishapPlan{.mishap = kind, .round = any_round(), .after = any_time(), .trigger = {}, .host = host});
  }

  void mishap(Mishap kind) { plan(kind, any_member()); }

  void freeze() {
    MishapPlan& frozen = plan(Mishap::freeze, any_member());
    if (random_.chance(0.7)) frozen.lasts = uniform(random_, Duration::zero(), times(scenario_.timeout, 2));
  }

  void restart() {
    MishapPlan& killed = plan(random_.chance(0.7) ? Mishap::crash : Mishap::vanish, any_member());
    killed.lasts = uniform(random_, Duration::zero(), times(scenario_.timeout, random_.chance(0.5) ? 0.2 : 1.5));
  }

  void crawl() {
    MishapPlan& slow = plan(Mishap::slow, any_member());
    slow.up_bytes_per_s = slow.down_bytes_per_s = log_uniform(random_, 20, 20e3);
  }

  void drip() { plan(Mishap::slow, any_member()).up_bytes_per_s = scenario_.chunk_bytes + 128; }

  FrameTrigger nth_average() {
    return {.averages = true, .count = static_cast<std::uint32_t>(1 + random_.below(random_.chance(0.5) ? 3 : 20))};
  }

  void slow_reducer() {
    MishapPlan& slow = plan(Mishap::slow, any_reducer());
    slow.trigger = nth_average();
    slow.up_bytes_per_s = log_uniform(random_, 20, 20e3);
  }

  // It ends, or stops sending averages and goes on with everything else.
  void dead_reducer() {
    const std::uint32_t host = any_reducer();
    if (random_.chance(0.5)) {
      plan(random_.chance(0.7) ? Mishap::crash : Mishap::vanish, host).trigger = nth_average();
    } else {
      scenario_.lies.push_back(
          {.lie = Lie::withheld, .host = host, .round = any_round(), .first = nth_average(), .count = kAllFrames});
    }
  }

  void partition() {
    if (scenario_.members < 2 || std::exchange(partitioned_, true)) return;  // healing heals all: one at a time
    MishapPlan& cut = plan(Mishap::partition, any_member());
    cut.lasts = uniform(random_, Duration::zero(), times(scenario_.timeout, 1.5));
    cut.others = some_others(cut.host);
  }

  std::uint64_t some_others(std::uint32_t host) {
    const std::uint64_t everybody =
        scenario_.members == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << scenario_.members) - 1;
    return random_.next() & everybody & ~(std::uint64_t{1} << host);
  }

  // One stall per round at most: two in a row are one long one.
  void stalls() {
    scenario_.network.jitter = times(scenario_.network.latency, 3 * random_.uniform());
    for (std::uint32_t round = 0; round < scenario_.rounds.size(); ++round) {
      if (random_.chance(0.3)) continue;
      MishapPlan stall{.mishap = random_.chance(0.6) ? Mishap::freeze : Mishap::partition,
                       .round = round,
                       .after = uniform(random_, Duration::zero(), usual_),
                       .trigger = {},
                       .host = any_member()};
      stall.harmless = true;
      stall.lasts = uniform(random_, Duration::zero(), kHarmlessStall);
      if (stall.mishap == Mishap::partition) stall.others = some_others(stall.host);
      scenario_.mishaps.push_back(stall);
    }
  }

  void absent() {
    HostPlan& host = scenario_.hosts[any_member()];
    host.first_round = 1 + any_round();
  }

  void never_starts() { scenario_.rounds[any_round()].members[any_member()].never = true; }

  void late() {
    BeginPlan& begin = scenario_.rounds[any_round()].members[any_member()];
    begin.never = random_.chance(0.3);
    begin.skips = random_.chance(0.5);
    begin.after = uniform(random_, times(scenario_.timeout, 0.3), times(scenario_.timeout, 2.5));
  }

  // From a round on, to the end: a model does not mend itself.
  void other_epoch() {
    const std::uint32_t host = any_member();
    for (std::size_t round = any_round(); round < scenario_.rounds.size(); ++round) {
      scenario_.rounds[round].members[host].other_epoch = true;
    }
  }

  void wrong_group() {
    if (random_.chance(0.6)) return lie({Lie::group});
    scenario_.rounds[any_round()].members[any_member()].other_roster = true;
  }

  void poison(bool finite) {
    BeginPlan& begin = scenario_.rounds[any_round()].members[any_member()];
    begin.poison = finite ? Poison::huge : random_.chance(0.5) ? Poison::not_a_number : Poison::infinite;
  }

  void lie(std::initializer_list<Lie> choice) {
    LiePlan plan{.lie = choice.begin()[random_.below(choice.size())], .host = any_member(), .round = any_round()};
    plan.first = {.averages = random_.chance(0.4),
                  .count = static_cast<std::uint32_t>(1 + random_.below(random_.chance(0.5) ? 3 : 30))};
    if (plan.lie == Lie::bad_coverage) plan.first.averages = true;
    if (plan.lie == Lie::weight || plan.lie == Lie::unasked) plan.first.averages = false;
    plan.count = random_.chance(0.5) ? 1 : random_.chance(0.5) ? 3 : kAllFrames;
    scenario_.lies.push_back(plan);
  }

  void byte_fault(transport::SimFault fault) {
    if (scenario_.members < 2) return;
    ByteFaultPlan plan{.fault = fault, .from = any_member(), .to = any_member(), .at_byte = 0};
    if (plan.from == plan.to || !pairs_.insert(std::minmax(plan.from, plan.to)).second) return;
    plan.at_byte = any_byte();
    scenario_.byte_faults.push_back(plan);
  }

  std::uint64_t any_byte() {
    const double per_round = static_cast<double>(scenario_.elements * sizeof(float)) * 2 / scenario_.members + 1000;
    const double rounds = static_cast<double>(scenario_.rounds.size());
    return random_.chance(0.2) ? random_.below(500) : random_.below(static_cast<std::uint64_t>(per_round * rounds));
  }

  void connection_lost() {
    const std::size_t before = scenario_.byte_faults.size();
    byte_fault(transport::SimFault::reset);
    if (scenario_.byte_faults.size() == before || random_.chance(0.6)) return;
    ByteFaultPlan again = scenario_.byte_faults.back();
    for (std::uint64_t more = 1 + random_.below(4); more > 0; --more) {
      again.at_byte = any_byte();
      if (random_.chance(0.5)) std::swap(again.from, again.to);
      scenario_.byte_faults.push_back(again);
    }
  }

  void everybody_gone() {
    const std::uint32_t survivor = any_member();
    const std::uint32_t round = any_round();
    for (std::uint32_t host = 0; host < scenario_.members; ++host) {
      constexpr std::array kWays{Mishap::crash, Mishap::vanish, Mishap::freeze, Mishap::goodbye};
      if (host != survivor) plan(kWays[random_.below(kWays.size())], host).round = round;
    }
  }

  void stranger(Stranger kind) {
    HostPlan host = scenario_.hosts.front();
    host.client = random_.chance(0.5);
    host.first_round = 0;
    host.stranger = kind;
    if (scenario_.hosts.size() < scenario_.members + 3) scenario_.hosts.push_back(host);
  }

  Random& random_;
  Scenario& scenario_;
  Duration usual_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> pairs_;
  bool partitioned_ = false;
};

}  // namespace

std::span<const FaultProfile> fault_profiles() { return kProfiles; }

std::string_view to_string(Faults faults) {
  const FaultProfile& profile = kProfiles[static_cast<std::size_t>(faults)];
  PAPILIO_ASSERT(profile.faults == faults);
  return profile.name;
}

std::optional<Faults> faults_of(std::string_view name) {
  for (const FaultProfile& profile : kProfiles) {
    if (profile.name == name) return profile.faults;
  }
  return std::nullopt;
}

std::uint64_t log_uniform(Random& random, double least, double most) {
  return static_cast<std::uint64_t>(least * std::pow(most / least, random.uniform()));
}

Duration uniform(Random& random, Duration least, Duration most) {
  return least + Duration(random.below(static_cast<std::uint64_t>((most - least).count()) + 1));
}

void draw_faults(Random& random, Faults faults, Duration usual, Scenario& scenario) {
  FaultDrawer drawer(random, scenario, usual);
  const bool once = faults == Faults::everybody_gone || faults == Faults::honest;
  const std::uint64_t count = faults == Faults::mixed ? random.below(5) : once ? 1 : 1 + random.below(3);
  scenario.add_fault(faults);
  for (std::uint64_t i = 0; i < count; ++i) drawer.draw(faults);
}

}  // namespace papilio::sim
