// papilio-qualify: finds out whether a machine's line is good enough for a run before it costs a round. `serve` is the
// judge, `run` the candidate, `show` reads the certificate that a judge signed.

#include <algorithm>
#include <csignal>
#include <string>

#include "engine/base/limits.hpp"
#include "engine/base/units.hpp"
#include "engine/node/certificate.hpp"
#include "tools/common/command_line.hpp"
#include "tools/qualify/run.hpp"
#include "tools/qualify/serve.hpp"
#include "tools/qualify/show.hpp"

namespace papilio::qualify {
namespace {

void add_line_options(CLI::App& command, LineOptions& options) {
  tools::add_text(command, "--state-dir", options.state_dir, "DIR",
                  "where the identity is kept (identity.pem, made if missing) and certificates go; without it the "
                  "identity is for this process only");
  tools::add_text(command, "--run-id", options.run_id, "NAME", "the run that certificates are for; without it: any");
  tools::add_choice(command, "--security", options.security, {"tls", "none"},
                    "none: for closed networks; then nobody knows whom he tests, and nothing is signed");
  tools::add_choice(command, "--transport", options.transport, {"auto", "uring", "uv"}, "the Io backend");
  tools::add_text(command, "--congestion-control", options.congestion_control, "NAME",
                  "TCP congestion control of what is sent (default: the system's)");
}

CLI::App& add_serve(tools::CommandLine& line, ServeOptions& options) {
  CLI::App& command = line.add_command(
      "serve",
      {.name = "papilio-qualify serve",
       .summary = "tests the lines of those who ask, and signs what it measured",
       .synopsis = {"--listen ADDRESS:PORT [OPTIONS]"},
       .description =
           "A judge. It tests one candidate at a time and lets a few others wait; it limits how often it tests one "
           "peer, one address, and all together, and never dials anybody. It certifies figures, whatever they are: "
           "the nodes of a run compare them with what the run asks for. With --min-up, --min-down or --max-rtt it "
           "signs nothing below that.\n\nIts own line has to be better than the best that it is to measure: nobody "
           "can be told more than the judge's line carries. docs/qualification.md says what a certificate is worth.",
       .not_so = {},
       .examples = {"papilio-qualify serve --listen 0.0.0.0:31400 --state-dir judge"}});
  add_line_options(command, options.line);
  tools::add_address(command, "--listen", options.listen, "where candidates come")->required();
  tools::add_rate(command, "--min-up", options.minimum.up_bps, "certify nobody who sends slower");
  tools::add_rate(command, "--min-down", options.minimum.down_bps, "certify nobody who receives slower");
  tools::add_duration(command, "--max-rtt", options.minimum.round_trip, "certify nobody who is further away");
  tools::add_duration(command, "--valid-for", options.valid_for, "until a certificate expires");
  tools::add_duration(command, "--every", options.desk.every, "between two tests of one peer, or two of one address");
  tools::add_duration(command, "--shortest", options.shortest_test,
                      "that a test may take: who asks for less is refused; the longer, the less a burst counts");
  tools::add_duration(command, "--longest", options.longest_test, "that a test may take");
  return command;
}

// Below this the phases are too short to tell anything.
constexpr Duration kLeastTest = std::chrono::milliseconds(1500);

struct ServeCounts {
  std::uint64_t at_once = core::TestDeskConfig{}.at_once;
  std::uint64_t waiting = core::TestDeskConfig{}.waiting;
  std::uint64_t per_hour = core::TestDeskConfig{}.per_hour;
};

Status check(ServeOptions& options, const ServeCounts& counts, bool shortest_is_given) {
  options.desk.at_once = counts.at_once;
  options.desk.waiting = counts.waiting;
  options.desk.per_hour = counts.per_hour;
  if (options.desk.every > std::chrono::hours(1)) {
    return usage_error("--every " + format_duration(options.desk.every) +
                       ": a judge remembers for an hour; give at "
                       "most 1h");
  }
  if (options.valid_for < std::chrono::seconds(1) || options.valid_for > std::chrono::hours(24 * 366)) {
    return usage_error("--valid-for " + format_duration(options.valid_for) + ": give 1s to 8784h (366 days)");
  }
  if (options.longest_test < std::chrono::seconds(2) || options.longest_test > std::chrono::minutes(10)) {
    return usage_error("--longest " + format_duration(options.longest_test) + ": give 2s to 10m");
  }
  if (!shortest_is_given) options.shortest_test = std::min(options.shortest_test, options.longest_test);
  if (options.shortest_test < kLeastTest || options.shortest_test > options.longest_test) {
    return usage_error("--shortest " + format_duration(options.shortest_test) + ": give " +
                       format_duration(kLeastTest) + " to --longest (" + format_duration(options.longest_test) + ")");
  }
  return Done{};
}

CLI::App& add_run(tools::CommandLine& line, RunOptions& options) {
  CLI::App& command = line.add_command(
      "run",
      {.name = "papilio-qualify run",
       .summary = "has this machine's line tested, and says whether it will do",
       .synopsis = {"--peer ADDRESS:PORT [--peer ADDRESS:PORT ...] [OPTIONS]"},
       .description =
           "Asks a judge for a test: round trips on the idle line, then as much as goes up, as much as goes down, and "
           "both at once. The judge counts, and only what arrived and was checked. Rates are those of the line, "
           "headers of TCP, IP and Ethernet included, as lines are sold.\n\nSeveral judges test one after the other, "
           "each for --seconds; every one that has a verdict has to be content. Rates and round trips are then "
           "medians (the lower of two), of the rest the worst.\n\nEach judge's certificate goes to "
           "DIR/certificates/. reduce_gbs in the JSON is how fast this machine adds up contributions: its own word, "
           "in no certificate.",
       .not_so = "the line does not do",
       .examples = {"papilio-qualify run --peer judge.example:31400 --state-dir state",
                    "papilio-qualify run --peer 10.0.0.1:31400 --min-up 50Mbps --max-rtt 80ms --json -"}});
  add_line_options(command, options.line);
  tools::add_addresses(command, "--peer", options.peers, "a judge; once for each")->required();
  tools::add_text(command, "--seconds", options.seconds, "SECONDS",
                  "for each judge, connecting included; a judge may ask for more than 4 s of test");
  tools::add_rate(command, "--min-up", options.requirement.up_bps, "what has to go up");
  tools::add_rate(command, "--min-down", options.requirement.down_bps, "what has to come down");
  tools::add_duration(command, "--max-rtt", options.requirement.round_trip, "that a round trip may take");
  tools::add_number(command, "--margin", options.margin, 0, 10,
                    "how much better than that it has to be: 0.05 asks for 5% more");
  tools::add_count(command, "--flows", options.flows, 1, kMaximumFlows, "connections that carry test data");
  tools::add_duration(command, "--patience", options.patience_in_queue, "for one's turn at a busy judge");
  return command;
}

Status check(RunOptions& options) {
  const bool bare = options.seconds.find_first_not_of("0123456789.") == std::string::npos;
  auto duration = parse_duration(options.seconds + (bare ? "s" : ""));
  if (!duration) return usage_error("--seconds: " + duration.error().message);
  options.duration = *duration;
  if (options.duration < std::chrono::seconds(2) || options.duration > std::chrono::minutes(10)) {
    return usage_error("--seconds " + options.seconds + ": give 2 to 600");
  }
  if (options.line.run_id.size() > node::kMaximumRunIdBytes) {
    return usage_error("--run-id: longer than " + std::to_string(node::kMaximumRunIdBytes) + " bytes");
  }
  return Done{};
}

int main_of_qualify(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  tools::CommandLine line({.name = "papilio-qualify",
                           .summary = "tests whether a line is good enough to take part",
                           .synopsis = {"serve --listen ADDRESS:PORT [OPTIONS]",
                                        "run --peer ADDRESS:PORT [--peer ...] [OPTIONS]", "show FILE"},
                           .description = "A judge measures a candidate's line and signs what it measured. See "
                                          "papilio-qualify serve --help, run --help and show --help.",
                           .not_so = "the line does not do, or the certificate is no good",
                           .examples = {"papilio-qualify serve --listen 0.0.0.0:31400 --state-dir judge",
                                        "papilio-qualify run --peer judge.example:31400 --state-dir state",
                                        "papilio-qualify show state/certificates/0123456789abcdef.certificate"}});
  line.app().require_subcommand(1);
  ServeOptions serve_options;
  ServeCounts counts;
  CLI::App& serve_command = add_serve(line, serve_options);
  tools::add_count(serve_command, "--at-once", counts.at_once, 1, 16, "tests at the same time; they share the line");
  tools::add_count(serve_command, "--waiting", counts.waiting, 0, 64, "candidates that wait for their turn");
  tools::add_count(serve_command, "--per-hour", counts.per_hour, 1, 100000, "tests in any hour");
  tools::add_count(serve_command, "--tests", serve_options.most_tests, 0, 1000000, "ends after so many; 0: never");
  RunOptions run_options;
  CLI::App& run_command = add_run(line, run_options);
  std::string file;
  CLI::App& show_command = line.add_command(
      "show", {.name = "papilio-qualify show",
               .summary = "says what a certificate holds and whether it is genuine",
               .synopsis = {"FILE"},
               .description = "Checks that the judge named in it signed it and that it has not expired. Whether that "
                              "judge is to be believed is for who trusts it to know.",
               .not_so = "the certificate is not genuine or not valid now",
               .examples = {"papilio-qualify show state/certificates/0123456789abcdef.certificate"}});
  show_command.add_option("FILE", file, "a certificate")->required();
  if (const auto code = line.parse(argc, argv)) return *code;

  Result<int> done = static_cast<int>(tools::kExitDone);
  if (serve_command.parsed()) {
    Status served = check(serve_options, counts, serve_command.count("--shortest") > 0);
    if (served) served = serve(serve_options, line);
    if (!served) done = served.error();
  } else if (run_command.parsed()) {
    const Status checked = check(run_options);
    done = checked ? run(run_options, line) : Result<int>(checked.error());
  } else {
    done = show(file, line);
  }
  return done ? *done : line.fail(done.error());
}

}  // namespace
}  // namespace papilio::qualify

int main(int argc, char** argv) { return papilio::qualify::main_of_qualify(argc, argv); }
