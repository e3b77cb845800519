#include "tools/qualify/run.hpp"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>
#include <utility>

#include "engine/base/units.hpp"
#include "engine/node/candidate.hpp"
#include "engine/node/certificate.hpp"
#include "tools/node/signals.hpp"
#include "tools/qualify/display.hpp"
#include "tools/qualify/reduce.hpp"

namespace papilio::qualify {
namespace {

using node::CandidateResult;

constexpr Duration kDisplayInterval = std::chrono::milliseconds(100);

// One judge's answer.
struct PeerVerdict {
  std::string address;
  CandidateResult result;
  core::Qualification figures;  // as the judge told them, certified or not
  std::vector<std::string> reasons, hints;
  std::string file, file_problem;
  [[nodiscard]] bool has_figures() const { return result.failure.empty(); }
};

double to_ms(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e6; }

core::Qualification figures_of(const transport::TestVerdict& verdict) {
  const auto duration = [](std::uint64_t nanoseconds) { return Duration(static_cast<std::int64_t>(nanoseconds)); };
  core::Qualification figures;
  figures.up_bps = verdict.up_bps;
  figures.down_bps = verdict.down_bps;
  figures.round_trip_median = duration(verdict.round_trip_median_ns);
  figures.round_trip_p99 = duration(verdict.round_trip_p99_ns);
  figures.jitter = duration(verdict.jitter_ns);
  figures.retransmits = verdict.retransmits;
  figures.up_at_once_bps = verdict.up_at_once_bps;
  figures.down_at_once_bps = verdict.down_at_once_bps;
  return figures;
}

class Runner final : private node::CandidateEvents {
 public:
  Runner(const RunOptions& options, const tools::CommandLine& line, transport::Identity identity,
         std::unique_ptr<transport::Io> io)
      : options_(options),
        line_(line),
        identity_(std::move(identity)),
        io_(std::move(io)),
        display_(line.out(), options.duration) {}

  void request_stop() {
    stop_ = true;
    io_->wake();
  }
  [[nodiscard]] bool was_stopped() const { return stop_; }

  // All judges in turn: two at once would share the line, and neither would see it whole.
  Status test(const std::vector<transport::Address>& judges) {
    io_->run_once(io_->now());  // what time it is
    started_ = io_->now();
    reduce_gbs_ = measure_reduce_gbs();
    for (std::size_t i = 0; i < judges.size() && !stop_; ++i) {
      verdicts_.push_back(test(judges[i], options_.peers[i]));
      tell(verdicts_.back());
    }
    return stop_ ? Status(runtime_error("interrupted before the test was over")) : Status(Done{});
  }

  [[nodiscard]] bool has_figures() const {
    return std::any_of(verdicts_.begin(), verdicts_.end(), [](const PeerVerdict& each) { return each.has_figures(); });
  }
  // Every judge that had a verdict has to be content: whose line is poor itself can only be left out by asking another.
  [[nodiscard]] bool is_qualified() const {
    return has_figures() && std::all_of(verdicts_.begin(), verdicts_.end(),
                                        [](const PeerVerdict& each) { return each.reasons.empty(); });
  }
  [[nodiscard]] std::string failures() const;
  // Certificates that could not be written.
  [[nodiscard]] std::string file_problems() const;
  void tell_verdict();
  [[nodiscard]] nlohmann::ordered_json to_json() const;

 private:
  PeerVerdict test(const transport::Address& judge, const std::string& address);
  void keep(PeerVerdict& verdict) const;
  void tell(const PeerVerdict& verdict);
  // Of all judges, with the judge's name where there are several.
  [[nodiscard]] std::vector<std::string> collect(std::vector<std::string> PeerVerdict::*field) const;
  template <typename Field>
  [[nodiscard]] std::uint64_t median_of(Field field) const;

  void on_waiting(const transport::TestWait& wait) override {
    waiting_ = true;
    display_.show_waiting(wait);
  }
  void on_phase(const transport::TestPhase& phase) override {
    // The wait for one's turn does not count.
    if (std::exchange(waiting_, false)) started_ = io_->now();
    display_.show_phase(phase);
  }
  void on_tally(const transport::TestTally& tally) override { display_.note_tally(tally); }

  const RunOptions& options_;
  const tools::CommandLine& line_;
  transport::Identity identity_;
  std::unique_ptr<transport::Io> io_;
  Display display_;
  std::atomic<bool> stop_ = false;
  bool waiting_ = false;
  TimePoint started_;
  double reduce_gbs_ = 0;
  std::vector<PeerVerdict> verdicts_;
};

PeerVerdict Runner::test(const transport::Address& judge, const std::string& address) {
  display_.begin(address);
  node::CandidateConfig config;
  config.judge = judge;
  config.socket = socket_options_of(options_.line);
  config.self = identity_.id();
  config.run_id = options_.line.run_id;
  config.flows = static_cast<std::uint16_t>(options_.flows);
  io_->run_once(io_->now());
  // What was measured before the first judge was asked is part of its time.
  config.duration = options_.duration - (verdicts_.empty() ? io_->now() - started_ : Duration::zero());
  config.patience_in_queue = options_.patience_in_queue;
  node::Candidate candidate(*io_, config, this);
  if (!verdicts_.empty()) started_ = io_->now();
  candidate.start();
  while (!candidate.is_done()) {
    if (stop_) candidate.cancel("interrupted");
    candidate.turn(io_->now() + kDisplayInterval);
    display_.show_time(io_->now() - started_);
  }
  while (!candidate.is_closed()) candidate.turn(kNever);  // kLongestLinger at most
  PeerVerdict verdict{.address = address, .result = candidate.result(), .figures = {}, .reasons = {}, .hints = {}};
  if (verdict.has_figures()) {
    verdict.figures = figures_of(verdict.result.verdict);
    verdict.reasons = core::shortfalls(verdict.figures, options_.requirement, options_.margin);
    verdict.hints = core::hints(verdict.figures);
    keep(verdict);
  }
  return verdict;
}

void Runner::keep(PeerVerdict& verdict) const {
  if (!verdict.result.certificate || options_.line.state_dir.empty()) return;
  const std::string path = node::certificate_path(options_.line.state_dir, verdict.result.certificate->judge);
  if (auto written = node::write_certificate(path, verdict.result.verdict.certificate); !written) {
    verdict.file_problem = written.error().message;
  } else {
    verdict.file = path;
  }
}

void Runner::tell(const PeerVerdict& verdict) {
  if (!verdict.has_figures()) return display_.say("  " + verdict.result.failure);
  const transport::TestVerdict& told = verdict.result.verdict;
  const auto rate = [](std::uint64_t bps) { return human_rate(static_cast<double>(bps)); };
  display_.say(fmt::format("  up {} (at once {}, payload {})", rate(told.up_bps), rate(told.up_at_once_bps),
                           rate(told.up_payload_bps)));
  display_.say(fmt::format("  down {} (at once {}, payload {})", rate(told.down_bps), rate(told.down_at_once_bps),
                           rate(told.down_payload_bps)));
  display_.say(fmt::format("  round trip {:.2f} ms (min {:.2f}, p99 {:.2f}, jitter {:.2f}), retransmits {}",
                           to_ms(told.round_trip_median_ns), to_ms(told.round_trip_min_ns),
                           to_ms(told.round_trip_p99_ns), to_ms(told.jitter_ns),
                           told.retransmits + verdict.result.retransmits_up));
  if (!verdict.file.empty()) {
    display_.say(
        fmt::format("  certificate until {}: {}", core::to_text(verdict.result.certificate->expires), verdict.file));
  } else if (verdict.result.certificate) {
    display_.say("  certificate not kept: " +
                 (verdict.file_problem.empty() ? "give --state-dir DIR" : verdict.file_problem));
  } else {
    display_.say("  no certificate: " + told.note);
  }
}

std::string Runner::failures() const {
  std::string all;
  for (const PeerVerdict& each : verdicts_) {
    if (!each.has_figures()) all += (all.empty() ? "" : "; ") + each.result.failure;
  }
  return all;
}

std::string Runner::file_problems() const {
  std::string all;
  for (const PeerVerdict& each : verdicts_) {
    if (!each.file_problem.empty()) all += (all.empty() ? "" : "; ") + each.file_problem;
  }
  return all;
}

std::vector<std::string> Runner::collect(std::vector<std::string> PeerVerdict::*field) const {
  std::vector<std::string> all;
  for (const PeerVerdict& each : verdicts_) {
    for (const std::string& text : each.*field) {
      all.push_back(verdicts_.size() > 1 ? each.address + ": " + text : text);
    }
  }
  return all;
}

void Runner::tell_verdict() {
  for (const std::string& hint : collect(&PeerVerdict::hints)) display_.say("  note: " + hint);
  display_.say(is_qualified() ? "QUALIFIED" : "NOT QUALIFIED");
  for (const std::string& reason : collect(&PeerVerdict::reasons)) display_.say("  " + reason);
}

// Of the judges that had a verdict; of an even number the lower of the two in the middle.
template <typename Field>
std::uint64_t Runner::median_of(Field field) const {
  std::vector<std::uint64_t> values;
  for (const PeerVerdict& each : verdicts_) {
    if (each.has_figures()) values.push_back(field(each.result.verdict));
  }
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[(values.size() - 1) / 2];
}

nlohmann::ordered_json Runner::to_json() const {
  using Verdict = transport::TestVerdict;
  nlohmann::ordered_json peers = nlohmann::ordered_json::array();
  std::uint64_t least_ns = std::numeric_limits<std::uint64_t>::max(), p99_ns = 0, retransmits = 0;
  for (const PeerVerdict& each : verdicts_) {
    nlohmann::ordered_json peer{{"peer", each.address}};
    if (each.result.judge) peer["judge"] = to_hex(*each.result.judge, 64);
    if (!each.has_figures()) {
      peer["failure"] = each.result.failure;
      if (each.result.refusal) peer["retry_after_s"] = each.result.refusal->retry_after_ms / 1e3;
      peers.push_back(std::move(peer));
      continue;
    }
    const Verdict& told = each.result.verdict;
    least_ns = std::min(least_ns, told.round_trip_min_ns);
    p99_ns = std::max(p99_ns, told.round_trip_p99_ns);
    retransmits += told.retransmits + each.result.retransmits_up;
    peer.update(nlohmann::ordered_json{
        {"qualified", each.reasons.empty()},
        {"up_bps", told.up_bps},
        {"down_bps", told.down_bps},
        {"at_once", {{"up_bps", told.up_at_once_bps}, {"down_bps", told.down_at_once_bps}}},
        {"payload", {{"up_bps", told.up_payload_bps}, {"down_bps", told.down_payload_bps}}},
        {"rtt_ms",
         {{"min", to_ms(told.round_trip_min_ns)},
          {"median", to_ms(told.round_trip_median_ns)},
          {"p99", to_ms(told.round_trip_p99_ns)}}},
        {"jitter_ms", to_ms(told.jitter_ns)},
        {"pings", told.pings},
        {"retransmits", {{"down", told.retransmits}, {"up_own_word", each.result.retransmits_up}}},
        {"segment_bytes", told.segment_bytes},
        {"seconds", to_seconds(each.result.took)},
        {"certified", each.result.certificate.has_value()},
        {"reasons", each.reasons},
        {"hints", each.hints}});
    if (each.result.certificate) peer["expires"] = core::to_text(each.result.certificate->expires);
    if (!each.file.empty()) peer["certificate"] = each.file;
    if (!each.file_problem.empty()) peer["certificate_problem"] = each.file_problem;
    if (!told.note.empty()) peer["note"] = told.note;
    peers.push_back(std::move(peer));
  }
  if (!has_figures()) least_ns = 0;
  return {{"qualified", is_qualified()},
          {"up_bps", median_of([](const Verdict& told) { return told.up_bps; })},
          {"down_bps", median_of([](const Verdict& told) { return told.down_bps; })},
          {"rtt_ms",
           {{"min", to_ms(least_ns)},
            {"median", to_ms(median_of([](const Verdict& told) { return told.round_trip_median_ns; }))},
            {"p99", to_ms(p99_ns)}}},
          {"jitter_ms", to_ms(median_of([](const Verdict& told) { return told.jitter_ns; }))},
          {"retransmits", retransmits},
          {"reduce_gbs", reduce_gbs_},
          {"reduce_is_own_word", true},
          {"reasons", collect(&PeerVerdict::reasons)},
          {"hints", collect(&PeerVerdict::hints)},
          {"id", to_hex(identity_.id(), 64)},
          {"run_id", options_.line.run_id},
          {"security", options_.line.security},
          {"flows", options_.flows},
          {"seconds", to_seconds(options_.duration)},
          {"peers", std::move(peers)}};
}

}  // namespace

Result<int> run(const RunOptions& options, const tools::CommandLine& line) {
  std::vector<transport::Address> judges;
  for (const std::string& text : options.peers) {
    auto address = transport::Address::parse(text);
    if (!address) return usage_error("--peer: " + address.error().message);
    judges.push_back(*address);
  }
  auto identity = identity_of(options.line);
  if (!identity) return identity.error();
  auto io = io_of(options.line, *identity);
  if (!io) return io.error();
  Runner runner(options, line, std::move(*identity), std::move(*io));
  Status tested = Done{};
  {
    const tools::SignalWatcher signals([&] { runner.request_stop(); }, [] { ::_exit(tools::kExitRuntime); });
    tested = runner.test(judges);
  }
  if (!tested) return tested.error();
  if (auto written = line.write_json(runner.to_json()); !written) return written.error();
  if (!runner.has_figures()) return runtime_error("no judge had a verdict: " + runner.failures());
  runner.tell_verdict();
  if (!runner.is_qualified()) return static_cast<int>(tools::kExitNotSo);
  // Whoever goes by the exit code would find out at the first node's door.
  if (const std::string problems = runner.file_problems(); !problems.empty()) {
    return runtime_error("the certificate is not kept: " + problems);
  }
  return static_cast<int>(tools::kExitDone);
}

}  // namespace papilio::qualify
