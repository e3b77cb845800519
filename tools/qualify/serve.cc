#include "tools/qualify/serve.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "engine/node/judge.hpp"
#include "tools/node/signals.hpp"

namespace papilio::qualify {
namespace {

constexpr Duration kLeavePatience = std::chrono::milliseconds(800);

nlohmann::ordered_json to_json(const node::TestOutcome& outcome) {
  nlohmann::ordered_json entry{{"peer", to_hex(outcome.candidate, 64)}, {"address", outcome.address}};
  if (!outcome.verdict.failure.empty()) {
    entry["failure"] = outcome.verdict.failure;
    return entry;
  }
  entry["up_bps"] = outcome.verdict.up_bps;
  entry["down_bps"] = outcome.verdict.down_bps;
  entry["rtt_ms"] = static_cast<double>(outcome.verdict.round_trip_median_ns) / 1e6;
  entry["certified"] = !outcome.verdict.certificate.empty();
  return entry;
}

void announce(const ServeOptions& options, const tools::CommandLine& line, const PeerId& id,
              const transport::Address& address) {
  std::fprintf(line.out(), "judge %s listens on %s%s\n", to_hex(id, 64).c_str(), address.to_string().c_str(),
               options.line.is_encrypted() ? "" : " (security none: no certificates)");
  if (options.line.state_dir.empty() && options.line.is_encrypted()) {
    std::fprintf(line.out(), "this id is gone with this process: give --state-dir DIR to keep it\n");
  }
  std::fflush(line.out());
}

}  // namespace

Status serve(const ServeOptions& options, const tools::CommandLine& line) {
  auto address = transport::Address::parse(options.listen);
  if (!address) return usage_error("--listen: " + address.error().message);
  auto identity = identity_of(options.line);
  if (!identity) return identity.error();
  auto io = io_of(options.line, *identity);
  if (!io) return io.error();

  node::JudgeConfig config;
  config.listen = *address;
  config.socket = socket_options_of(options.line);
  config.identity = &*identity;
  config.run_id = options.line.run_id;
  config.minimum = options.minimum;
  config.valid_for = std::chrono::ceil<std::chrono::seconds>(options.valid_for);
  config.desk = options.desk;
  config.shortest_test = options.shortest_test;
  config.longest_test = options.longest_test;
  config.wall_now = [] { return core::WallTime(std::chrono::seconds(wall_seconds())); };
  node::Judge judge(**io, std::move(config));
  if (auto started = judge.start(); !started) return started.error();
  std::atomic<bool> stop = false;
  nlohmann::ordered_json tests = nlohmann::ordered_json::array();
  std::uint64_t over = 0;
  {
    const tools::SignalWatcher signals(
        [&] {
          stop = true;
          (*io)->wake();
        },
        [] { ::_exit(tools::kExitDone); });
    announce(options, line, identity->id(), judge.listen_address());
    while (!stop && (options.most_tests == 0 || over < options.most_tests)) {
      judge.turn(kNever);
      for (const node::TestOutcome& outcome : judge.take_outcomes()) {
        over += 1;
        if (line.wants_json()) tests.push_back(to_json(outcome));
      }
    }
    judge.leave("the judge is being stopped");
    const TimePoint deadline = (*io)->now() + kLeavePatience;
    while (!judge.is_closed()) {
      if ((*io)->now() >= deadline) judge.abort_all();
      judge.turn((*io)->now() + std::chrono::milliseconds(50));
    }
  }
  return line.write_json({{"judge", to_hex(identity->id(), 64)}, {"tests", tests}});
}

}  // namespace papilio::qualify
