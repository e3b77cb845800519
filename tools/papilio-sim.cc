// papilio-sim: whole groups over a simulated network, one seed after the other, each held against the promises that a
// round makes. A seed that fails is printed with the command that replays it.

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/limits.hpp"
#include "tools/common/command_line.hpp"
#include "tools/sim/runner.hpp"
#include "tools/sim/scenario.hpp"
#include "tools/sim/world.hpp"

namespace papilio::sim {
namespace {

struct Options {
  std::string peers = "8";
  std::uint64_t seed = 1;
  std::uint64_t seeds = 100;
  std::uint64_t rounds = 0;
  std::uint64_t jobs = 1;
  std::string faults = "mixed";
  bool full_size = false;
  bool verbose = false;
};

constexpr std::size_t kShownFailures = 10;
constexpr std::uint64_t kMostSeed = std::uint64_t{1} << 62U;

std::string replay_command(const Options& options, std::uint64_t seed) {
  return "papilio-sim run --peers " + options.peers + " --faults " + options.faults +
         (options.full_size ? " --full-size" : "") +
         (options.rounds > 0 ? " --rounds " + std::to_string(options.rounds) : "") + " --seed " + std::to_string(seed) +
         " --seeds 1 --verbose";
}

std::string profiles_page() {
  std::string text = "Fault profiles:";
  for (const FaultProfile& profile : fault_profiles()) {
    text += "\n\n" + std::string(profile.name) + ": " + std::string(profile.explanation) + ".";
  }
  return text;
}

// "8", or "2-64": of the least and the most.
Result<std::pair<std::uint32_t, std::uint32_t>> parse_peers(const std::string& text) {
  const std::size_t dash = text.find('-');
  const auto number = [](std::string_view part) -> std::uint32_t {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size() ? value : 0;
  };
  const std::string_view all(text);
  const std::uint32_t least = number(all.substr(0, dash));
  const std::uint32_t most = dash == std::string::npos ? least : number(all.substr(dash + 1));
  if (least >= 1 && least <= most && most <= kMaximumMembers) return std::pair{least, most};
  return usage_error("--peers " + text + ": not a number of members; give one from 1 to " +
                     std::to_string(kMaximumMembers) + ", or a range of them such as 2-64");
}

nlohmann::ordered_json to_json(Faults faults, const FaultSummary& summary) {
  const Tally& tally = summary.tally;
  const auto per = [](double sum, std::uint64_t count) { return count == 0 ? 0.0 : sum / static_cast<double>(count); };
  return {{"faults", to_string(faults)},
          {"seeds", summary.seeds},
          {"failed", summary.failures},
          {"rounds", tally.rounds},
          {"coverage", per(tally.coverage, tally.rounds)},
          {"local", per(static_cast<double>(tally.local_chunks), tally.chunks)},
          {"longest_timeout", tally.longest_timeout}};
}

nlohmann::ordered_json to_json(const Options& options, const Summary& summary, double seconds) {
  nlohmann::ordered_json failures = nlohmann::ordered_json::array();
  for (const SeedFailure& failure : summary.failures) {
    failures.push_back(
        {{"seed", failure.seed}, {"what", failure.what}, {"replay", replay_command(options, failure.seed)}});
  }
  nlohmann::ordered_json document{{"seeds", summary.seeds}, {"failed", summary.failures.size()}};
  document["first_failed_seed"] = nullptr;
  if (!summary.failures.empty()) document["first_failed_seed"] = summary.failures.front().seed;
  document["rounds"] = summary.rounds;
  document["events"] = summary.events;
  document["seconds"] = seconds;
  const bool is_range = options.peers.find('-') != std::string::npos;
  document["peers"] =
      is_range ? nlohmann::ordered_json(options.peers) : nlohmann::ordered_json(std::stoul(options.peers));
  document["faults"] = options.faults;
  document["failures"] = failures;
  document["by_fault"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < kFaults; ++i) {
    if (summary.faults[i].seeds > 0) {
      document["by_fault"].push_back(to_json(static_cast<Faults>(i), summary.faults[i]));
    }
  }
  return document;
}

// What was left of the rounds for the members that nothing befell.
void print_by_fault(std::FILE* out, const Summary& summary) {
  std::fprintf(out, "%-16s %9s %7s %10s %9s %7s %8s\n", "seeds with", "seeds", "failed", "rounds", "coverage", "local",
               "longest");
  for (std::size_t i = 0; i < kFaults; ++i) {
    const FaultSummary& each = summary.faults[i];
    if (each.seeds == 0) continue;
    const double rounds = std::max(1.0, static_cast<double>(each.tally.rounds));
    const double chunks = std::max(1.0, static_cast<double>(each.tally.chunks));
    std::fprintf(out, "%-16s %9llu %7llu %10llu %8.2f%% %6.2f%% %7.0f%%\n",
                 std::string(to_string(static_cast<Faults>(i))).c_str(), static_cast<unsigned long long>(each.seeds),
                 static_cast<unsigned long long>(each.failures), static_cast<unsigned long long>(each.tally.rounds),
                 100 * each.tally.coverage / rounds, 100 * static_cast<double>(each.tally.local_chunks) / chunks,
                 100 * each.tally.longest_timeout);
  }
  std::fprintf(out,
               "rounds, mean coverage, local chunks and the longest round (of its timeout) are those of members that "
               "nothing befell\n");
}

void print_summary(std::FILE* out, const Options& options, const Summary& summary, double seconds) {
  for (std::size_t i = 0; i < std::min(kShownFailures, summary.failures.size()); ++i) {
    const SeedFailure& failure = summary.failures[i];
    std::fprintf(out, "seed %llu failed: %s\n", static_cast<unsigned long long>(failure.seed), failure.what.c_str());
  }
  if (summary.failures.size() > kShownFailures) {
    std::fprintf(out, "and %zu more\n", summary.failures.size() - kShownFailures);
  }
  if (summary.seeds > 1) print_by_fault(out, summary);
  std::fprintf(out, "%llu seeds, %zu failed; %llu rounds of members, %llu events, %.1f s\n",
               static_cast<unsigned long long>(summary.seeds), summary.failures.size(),
               static_cast<unsigned long long>(summary.rounds), static_cast<unsigned long long>(summary.events),
               seconds);
  if (summary.failures.empty()) return;
  std::fprintf(out, "replay the first with: %s\n", replay_command(options, summary.failures.front().seed).c_str());
}

void show_progress(const Options& options, const Summary& summary) {
  std::fprintf(stderr, "\r%llu of %llu seeds, %zu failed ", static_cast<unsigned long long>(summary.seeds),
               static_cast<unsigned long long>(options.seeds), summary.failures.size());
  if (summary.seeds >= options.seeds) std::fputc('\n', stderr);
}

// In this process, told line by line.
Summary run_verbosely(const Options& options, const Settings& settings, std::FILE* out) {
  Summary summary;
  for (std::uint64_t i = 0; i < options.seeds; ++i) {
    const Scenario scenario = draw_scenario(settings, options.seed + i);
    std::fputs(describe(scenario).c_str(), out);
    std::fflush(out);
    const Outcome outcome = run_scenario(scenario, out);
    summary.seeds += 1;
    summary.rounds += outcome.rounds;
    summary.events += outcome.events;
    if (!outcome.failure.empty()) summary.failures.push_back({options.seed + i, outcome.failure});
  }
  return summary;
}

int main_of_sim(int argc, char** argv) {
  tools::CommandLine line({.name = "papilio-sim",
                           .summary = "runs Papilio's groups over a simulated network and checks what a round promises",
                           .synopsis = {"run [OPTIONS]"},
                           .description = "Simulates groups. See papilio-sim run --help.",
                           .not_so = "a promise was broken",
                           .examples = {"papilio-sim run --peers 8 --seeds 1000"}});
  CLI::App& command = line.add_command(
      "run",
      {.name = "papilio-sim run",
       .summary = "runs one scenario per seed",
       .synopsis = {"[--peers N|N-M] [--seed S] [--seeds COUNT] [--faults PROFILE] [OPTIONS]"},
       .description =
           "Every seed is a scenario: a group of whole engines (core, framing, links) over a simulated network and "
           "clock, with sizes, weights, rates, delays, several rounds, and what goes wrong in them, all drawn from the "
           "seed. After every event the promises of a round are checked: it ends by its deadline; every chunk is the "
           "average over exactly the reported contributors, or the member's own gradient; members that hold the same "
           "chunk hold the same bytes; nobody that is well is cut off; nothing is left behind. The same seed is the "
           "same run, to the last byte.\n\n" +
           profiles_page(),
       .not_so = "a promise was broken: the first failing seed is printed, with the command that replays it",
       .examples = {"papilio-sim run --peers 8 --seeds 1000", "papilio-sim run --peers 5 --seeds 200 --faults crash",
                    "papilio-sim run --peers 2-64 --seeds 100000 --jobs 2",
                    "papilio-sim run --peers 8 --seed 4711 --seeds 1 --verbose"}});
  line.app().require_subcommand(1);

  Options options;
  std::vector<std::string> profiles;
  for (const FaultProfile& profile : fault_profiles()) profiles.emplace_back(profile.name);
  command.add_option("--peers", options.peers, "members of the group, 1 to 64, or a range: 2-64 draws for each seed")
      ->type_name("N")
      ->capture_default_str();
  tools::add_count(command, "--seed", options.seed, 0, kMostSeed, "the first seed");
  tools::add_count(command, "--seeds", options.seeds, 1, kMostSeed, "how many seeds, one after the other");
  tools::add_choice(command, "--faults", options.faults, profiles, "what goes wrong");
  tools::add_count(command, "--rounds", options.rounds, 0, 1000, "rounds of each group, 0: drawn, 2 to 4");
  tools::add_count(command, "--jobs", options.jobs, 1, 256, "processes that share the seeds");
  command.add_flag("--full-size", options.full_size, "the pairs profile with its tensors as given, not a 64th of them");
  command.add_flag("--verbose", options.verbose, "print each scenario and what happens in it");
  if (const auto code = line.parse(argc, argv)) return *code;
  // What engines say of misbehaving peers is of interest for a single seed only.
  if (!options.verbose) spdlog::set_level(spdlog::level::off);

  const auto peers = parse_peers(options.peers);
  if (!peers) return line.fail(peers.error());
  const Settings settings{.peers = peers->first,
                          .most_peers = peers->second,
                          .faults = *faults_of(options.faults),
                          .rounds = static_cast<std::uint32_t>(options.rounds),
                          .full_size = options.full_size};
  const auto started = std::chrono::steady_clock::now();
  Summary summary;
  if (options.verbose) {
    summary = run_verbosely(options, settings, line.out());
  } else {
    const SeedRange range{
        .first = options.seed, .count = options.seeds, .jobs = static_cast<std::uint32_t>(options.jobs)};
    const bool shows_progress = isatty(STDERR_FILENO) != 0;
    auto ran = run_seeds(settings, range, [&](const Summary& so_far) {
      if (shows_progress) show_progress(options, so_far);
    });
    if (!ran) return line.fail(ran.error());
    summary = std::move(*ran);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  print_summary(line.out(), options, summary, seconds);
  if (auto written = line.write_json(to_json(options, summary, seconds)); !written) return line.fail(written.error());
  return summary.failures.empty() ? tools::kExitDone : tools::kExitNotSo;
}

}  // namespace
}  // namespace papilio::sim

int main(int argc, char** argv) { return papilio::sim::main_of_sim(argc, argv); }
