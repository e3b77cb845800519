// A judge and candidates on a simulated network: minutes of testing in moments, every line as wished, and hosts that
// lie, freeze and vanish.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/node/candidate.hpp"
#include "engine/node/certificate.hpp"
#include "engine/node/judge.hpp"
#include "transport/secure_io.hpp"
#include "transport/sim_io.hpp"

namespace papilio::node {

inline constexpr std::uint32_t kJudgeHost = 1;
inline constexpr std::uint16_t kJudgePort = 31400;
inline const core::WallTime kToday{std::chrono::hours(24) * 20'000};

inline transport::Identity identity_of_host(std::uint32_t host) {
  return transport::Identity::from_seed({static_cast<std::uint8_t>(host), 1});
}

// A connection to the judge by somebody who follows no protocol.
class Stranger final : public transport::FlowEvents {
 public:
  Stranger(transport::Io& io, std::vector<transport::Header> words) : words_(std::move(words)), flow_(*this) {
    flow_.dial(io, transport::Address::simulated(kJudgeHost, kJudgePort), {});
  }
  void say(const transport::Header& header) { flow_.send_control(header); }
  void leave() { flow_.abort(); }
  [[nodiscard]] bool is_closed() const { return closed_; }
  template <typename Frame>
  [[nodiscard]] const Frame* heard() const {
    for (const transport::Header& each : heard_) {
      if (const auto* const frame = std::get_if<Frame>(&each)) return frame;
    }
    return nullptr;
  }

 private:
  void on_flow_connected(transport::Flow& flow) override {
    for (const transport::Header& word : words_) flow.send_control(word);
  }
  transport::PayloadDecision on_payload_header(transport::Flow&, const transport::Header&, std::size_t) override {
    return {};
  }
  void on_frame(transport::Flow&, const transport::Header& header, transport::Slab, std::size_t) override {
    heard_.push_back(header);
  }
  bool next_frame(transport::Flow&, transport::OutgoingFrame&) override { return false; }
  void on_frame_sent(transport::Flow&, std::uint64_t) override {}
  void on_flow_failed(transport::Flow&, const transport::FlowFailure&) override {}
  void on_flow_closed(transport::Flow&) override { closed_ = true; }

  std::vector<transport::Header> words_, heard_;
  bool closed_ = false;
  transport::Flow flow_;
};

struct WorldOptions {
  double up_bps = 100e6, down_bps = 100e6;
  Duration round_trip = std::chrono::milliseconds(10);
  bool encrypted = false;
  Duration duration = std::chrono::seconds(4);
  std::function<void(JudgeConfig&)> judge = [](JudgeConfig&) {};
};

class QualifyWorld final : private CandidateEvents {
 public:
  explicit QualifyWorld(const WorldOptions& options) : options_(options), network_(1, sim_options(options)) {
    judge_io_ = make_io(kJudgeHost);
    JudgeConfig config;
    config.listen = transport::Address::simulated(kJudgeHost, kJudgePort);
    config.identity = &judge_identity_;
    config.desk.every = Duration::zero();
    config.wall_now = [] { return kToday; };
    options.judge(config);
    judge_.emplace(*judge_io_, config);
    EXPECT_TRUE(judge_->start());
  }
  ~QualifyWorld() {
    for (auto& each : strangers_) each->leave();
    for (auto& [host, candidate] : candidates_) candidate->cancel("the world ends");
    if (judge_) judge_->leave("the world ends");
    const TimePoint bound = network_.now() + std::chrono::seconds(30);
    EXPECT_TRUE(run_until([&] { return is_quiet(); }, bound));
    candidates_.clear();
    strangers_.clear();
    judge_.reset();
  }

  Candidate& add_candidate(std::uint32_t host, const std::function<void(CandidateConfig&)>& change = {}) {
    CandidateConfig config;
    config.judge = transport::Address::simulated(kJudgeHost, kJudgePort);
    config.self = identity_of_host(host).id();
    config.duration = options_.duration;
    if (change) change(config);
    io_of(host).run_once(network_.now());  // what time it is
    auto& added = candidates_.emplace_back(
        host, std::make_unique<Candidate>(io_of(host), config, static_cast<CandidateEvents*>(this)));
    added.second->start();
    return *added.second;
  }
  Stranger& add_stranger(std::uint32_t host, std::vector<transport::Header> words) {
    return *strangers_.emplace_back(std::make_unique<Stranger>(io_of(host), std::move(words)));
  }
  transport::Io& io_of(std::uint32_t host) {
    for (auto& [number, io] : hosts_) {
      if (number == host) return *io;
    }
    hosts_.emplace_back(host, make_io(host));
    network_.set_host_rates(host, static_cast<std::uint64_t>(options_.up_bps / 8),
                            static_cast<std::uint64_t>(options_.down_bps / 8));
    return *hosts_.back().second;
  }

  // False after a minute of the world's time.
  bool run_until(const std::function<bool()>& done) {
    return run_until(done, network_.now() + std::chrono::minutes(1));
  }
  bool run_until(const std::function<bool()>& done, TimePoint bound) {
    while (network_.now() < bound) {
      turn_everybody();
      if (done()) return true;
      TimePoint next = std::min(bound, network_.next_event_time());
      if (judge_) next = std::min(next, judge_->next_deadline());
      for (const auto& [host, candidate] : candidates_) next = std::min(next, candidate->next_deadline());
      network_.advance_to(std::max(next, network_.now()));
    }
    return done();
  }
  bool run_until_done(const Candidate& candidate) {
    return run_until([&] { return candidate.is_done(); });
  }
  void run_for(Duration duration) {
    static_cast<void>(run_until([] { return false; }, network_.now() + duration));
  }
  // To what the last phase says that any candidate heard of.
  bool run_until_phase(transport::TestPhaseKind kind) {
    return run_until([&] { return !phases.empty() && phases.back().kind == kind; });
  }
  void kill_judge(transport::SimDeath death) {
    network_.kill_host(kJudgeHost, death);
    judge_->turn(network_.now());
    judge_->abort_all();
    judge_.reset();
  }

  transport::SimNetwork& network() { return network_; }
  Judge& judge() { return *judge_; }
  [[nodiscard]] const transport::Identity& judge_identity() const { return judge_identity_; }

  std::vector<transport::TestPhase> phases;
  std::vector<transport::TestWait> waits;
  std::size_t tallies = 0;

 private:
  static transport::SimOptions sim_options(const WorldOptions& options) {
    transport::SimOptions sim;
    sim.latency = options.round_trip / 2;
    sim.jitter = Duration::zero();
    // As kernels size buffers: what is under way, and as much again.
    const double under_way = std::max(options.up_bps, options.down_bps) / 8 * to_seconds(options.round_trip);
    sim.buffer_bytes = std::max(std::size_t{48} << 10U, static_cast<std::size_t>(under_way / 2));
    sim.largest_segment_bytes = std::size_t{options.up_bps > 500e6 ? 64U : 16U} << 10U;
    sim.odd_segment_chance = 0.05;
    return sim;
  }
  std::unique_ptr<transport::Io> make_io(std::uint32_t host) {
    auto io = network_.make_host(host);
    if (!options_.encrypted) return io;
    auto secure =
        transport::make_secure_io(std::move(io), host == kJudgeHost ? judge_identity_ : identity_of_host(host));
    EXPECT_TRUE(secure);
    return std::move(*secure);
  }
  void turn_everybody() {
    const TimePoint now = network_.now();
    for (bool ran = true; ran;) {
      ran = false;
      if (judge_ && (network_.is_ready(kJudgeHost) || now >= judge_->next_deadline())) {
        judge_->turn(now);
        ran = network_.is_ready(kJudgeHost);
      }
      for (auto& [host, candidate] : candidates_) {
        if (!network_.is_ready(host) && now < candidate->next_deadline()) continue;
        candidate->turn(now);
        ran = ran || network_.is_ready(host);
      }
      for (auto& [host, io] : hosts_) {
        if (!network_.is_ready(host)) continue;
        io->run_once(now);
        ran = true;
      }
    }
  }
  [[nodiscard]] bool is_quiet() const {
    return (!judge_ || (judge_->is_closed() && judge_io_->open_handles() == 0)) &&
           std::all_of(candidates_.begin(), candidates_.end(), [](auto& each) { return each.second->is_closed(); }) &&
           std::all_of(strangers_.begin(), strangers_.end(), [](auto& each) { return each->is_closed(); });
  }

  void on_waiting(const transport::TestWait& wait) override { waits.push_back(wait); }
  void on_phase(const transport::TestPhase& phase) override { phases.push_back(phase); }
  void on_tally(const transport::TestTally&) override { tallies += 1; }

  WorldOptions options_;
  transport::SimNetwork network_;
  transport::Identity judge_identity_ = transport::Identity::from_seed({99});
  std::unique_ptr<transport::Io> judge_io_;
  std::deque<std::pair<std::uint32_t, std::unique_ptr<transport::Io>>> hosts_;
  std::optional<Judge> judge_;
  std::vector<std::pair<std::uint32_t, std::unique_ptr<Candidate>>> candidates_;
  std::vector<std::unique_ptr<Stranger>> strangers_;
};

}  // namespace papilio::node
