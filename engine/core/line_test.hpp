// One test of one candidate's line, as the judge counts it: which phase it is, what counts in it and what does not, and
// what comes out. The judge believes only what it can check: up, random bytes that it chose arrived; down, the
// candidate names the hash of bytes that only who received them can know. Nothing in here is the candidate's word. A
// pure state machine: the shell moves the bytes and tells what time it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/time.hpp"
#include "engine/core/qualification.hpp"

namespace papilio::core {

struct LineTestConfig {
  // Shares of the time that there is. A line that is slow to get going (long round trips) needs the longer phases.
  double round_trip_share = 0.12, up_share = 0.31, down_share = 0.31;  // the rest: both at once
  // The first part of each phase does not count: connections find their rate, queues fill, what an earlier phase left
  // under way arrives.
  double warm_up_share = 0.4, round_trip_warm_up_share = 0.1;
  Duration ping_interval = std::chrono::milliseconds(10);
  // In a phase that should bring bytes, so long without any: the candidate is gone or plays dead.
  Duration stall = std::chrono::seconds(2);
  // Sent down and not yet receipted: past this the judge waits. More than any line in use has under way, and what
  // somebody can make the judge pour into the net who receives nothing.
  std::uint64_t most_unreceipted_bytes = std::uint64_t{64} << 20U;
};

enum class TestStage : std::uint8_t { round_trip, up, down, both, over };
[[nodiscard]] constexpr bool goes_up(TestStage stage) { return stage == TestStage::up || stage == TestStage::both; }
[[nodiscard]] constexpr bool goes_down(TestStage stage) { return stage == TestStage::down || stage == TestStage::both; }

// Payload bits per second.
struct PayloadRates {
  double up_bps = 0, down_bps = 0;
  double up_at_once_bps = 0, down_at_once_bps = 0;
};

class LineTest {
 public:
  struct Step {
    TestStage stage = TestStage::over;
    Duration duration{}, warm_up{};
  };

  // Data flows are numbered from 0. All frames of test data carry `payload_bytes`.
  LineTest(const LineTestConfig& config, std::size_t flows, std::size_t payload_bytes, TimePoint begin, TimePoint end);

  // ---- time. Before handle_time at or after next_deadline, tell settle() of every flow.

  [[nodiscard]] TimePoint next_deadline() const;
  // Of what was sent down on that flow, what the peer's kernel has not acknowledged yet.
  void settle(std::size_t flow, std::uint64_t unacknowledged_bytes);
  void handle_time(TimePoint now);
  // The stage that begins now, once each, `over` last.
  [[nodiscard]] std::optional<Step> poll_step();
  // Whether a ping leaves now, with this nonce.
  [[nodiscard]] bool poll_ping(TimePoint now, std::uint64_t nonce);

  // ---- what happens

  void handle_pong(TimePoint now, std::uint64_t nonce);
  // A frame of test data arrived; `genuine`: it is what the candidate was to send.
  void handle_up(TimePoint now, bool genuine);
  [[nodiscard]] bool may_send_down() const;
  // The number of the next frame on that flow; it is being sent, and has this digest.
  [[nodiscard]] std::uint64_t next_down(std::size_t flow) const { return flows_[flow].begun; }
  void begin_down(std::size_t flow, std::uint64_t digest);
  // The kernel has taken it.
  void handle_down_sent(std::size_t flow);
  void handle_receipt(TimePoint now, std::size_t flow, std::uint64_t sequence, std::uint64_t digest);

  // ---- what comes out

  [[nodiscard]] TestStage stage() const { return stage_; }
  [[nodiscard]] bool is_over() const { return stage_ == TestStage::over; }
  // Why there are no figures; empty while there is no reason. A failed test is over.
  [[nodiscard]] const std::string& failure() const { return failure_; }
  [[nodiscard]] const PayloadRates& rates() const { return rates_; }
  [[nodiscard]] RoundTripFigures round_trips() const { return round_trip_figures(round_trips_); }
  // For people who watch: receipted or arrived so far in this test.
  [[nodiscard]] std::uint64_t up_bytes() const { return up_frames_ * payload_bytes_; }
  [[nodiscard]] std::uint64_t down_bytes() const { return receipted_frames_ * payload_bytes_; }

 private:
  struct DownFlow {
    std::uint64_t begun = 0, sent = 0, receipted = 0;  // frames
    std::uint64_t unacknowledged_bytes = 0;
    std::uint64_t counts_from = 0;      // frames before this one arrived before the window
    std::deque<std::uint64_t> digests;  // of the frames from `receipted` on
  };
  struct Ping {
    std::uint64_t nonce;
    TimePoint sent;
  };

  void fail(std::string why);
  void begin_stage(TestStage stage, TimePoint now);
  void open_window(TimePoint now);
  void close_window(TimePoint now);
  void check_progress(TimePoint now);
  void finish();
  [[nodiscard]] TimePoint end_of(TestStage stage) const { return ends_[static_cast<std::size_t>(stage)]; }

  LineTestConfig config_;
  std::size_t payload_bytes_;
  std::array<TimePoint, 4> ends_{};  // by TestStage
  TestStage stage_ = TestStage::round_trip;
  std::deque<Step> steps_;
  std::string failure_;

  TimePoint window_begins_;          // planned
  std::optional<TimePoint> window_;  // open since
  std::uint64_t up_frames_at_open_ = 0;
  TimePoint last_up_, last_down_;

  std::vector<DownFlow> flows_;
  std::uint64_t up_frames_ = 0, receipted_frames_ = 0, unreceipted_frames_ = 0;
  std::deque<Ping> pings_;  // not answered yet
  TimePoint next_ping_;
  std::vector<Duration> round_trips_;
  PayloadRates rates_;
};

}  // namespace papilio::core
