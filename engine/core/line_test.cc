#include "engine/core/line_test.hpp"

#include <algorithm>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/units.hpp"

namespace papilio::core {
namespace {

TestStage after(TestStage stage) { return static_cast<TestStage>(static_cast<std::uint8_t>(stage) + 1); }

Duration share_of(Duration whole, double share) { return from_seconds(to_seconds(whole) * share); }

}  // namespace

LineTest::LineTest(const LineTestConfig& config, std::size_t flows, std::size_t payload_bytes, TimePoint begin,
                   TimePoint end)
    : config_(config), payload_bytes_(payload_bytes), flows_(flows) {
  PAPILIO_ASSERT(flows > 0 && payload_bytes > 0 && end > begin);
  PAPILIO_ASSERT(config.round_trip_share + config.up_share + config.down_share < 1 && config.warm_up_share < 1);
  const Duration whole = end - begin;
  ends_[0] = begin + share_of(whole, config.round_trip_share);
  ends_[1] = ends_[0] + share_of(whole, config.up_share);
  ends_[2] = ends_[1] + share_of(whole, config.down_share);
  ends_[3] = end;
  begin_stage(TestStage::round_trip, begin);
}

void LineTest::fail(std::string why) {
  if (stage_ == TestStage::over) return;
  failure_ = std::move(why);
  stage_ = TestStage::over;
  steps_.push_back({});
}

// ---- time

void LineTest::begin_stage(TestStage stage, TimePoint now) {
  stage_ = stage;
  if (stage == TestStage::over) {
    steps_.push_back({});
    return;
  }
  const Duration duration = std::max<Duration>(end_of(stage) - now, Duration{1});
  const Duration warm_up =
      share_of(duration, stage == TestStage::round_trip ? config_.round_trip_warm_up_share : config_.warm_up_share);
  steps_.push_back({.stage = stage, .duration = duration, .warm_up = warm_up});
  window_begins_ = now + warm_up;
  window_.reset();
  last_up_ = last_down_ = next_ping_ = now;
}

TimePoint LineTest::next_deadline() const {
  if (is_over()) return kNever;
  TimePoint next = window_ ? end_of(stage_) : std::min(window_begins_, end_of(stage_));
  if (stage_ == TestStage::round_trip) next = std::min(next, next_ping_);
  if (goes_up(stage_)) next = std::min(next, last_up_ + config_.stall);
  if (goes_down(stage_)) next = std::min(next, last_down_ + config_.stall);
  return next;
}

void LineTest::settle(std::size_t flow, std::uint64_t unacknowledged_bytes) {
  flows_[flow].unacknowledged_bytes = unacknowledged_bytes;
}

void LineTest::handle_time(TimePoint now) {
  if (is_over()) return;
  check_progress(now);
  if (is_over()) return;
  // A loop that slept through a whole window has measured nothing.
  if (!window_ && now >= end_of(stage_)) return fail("the judge was too busy to measure: try again later");
  if (!window_ && now >= window_begins_) open_window(now);
  if (now < end_of(stage_)) return;
  close_window(now);
  if (is_over()) return;
  begin_stage(after(stage_), now);
  if (is_over()) finish();
}

void LineTest::check_progress(TimePoint now) {
  const std::string text = human_duration(config_.stall);
  if (goes_up(stage_) && now - last_up_ >= config_.stall) {
    return fail("nothing came up for " + text + ": the line is dead, or the candidate stopped sending");
  }
  if (goes_down(stage_) && now - last_down_ >= config_.stall) {
    return fail("no receipt for " + text + ": the line is dead, or the candidate stopped reading");
  }
}

// What counts from here on. Down, whoever withholds receipts during the warm-up to hand them in now gains nothing: what
// his kernel has acknowledged by now had arrived before, whenever the receipt comes.
void LineTest::open_window(TimePoint now) {
  window_ = now;
  up_frames_at_open_ = up_frames_;
  for (DownFlow& flow : flows_) {
    const std::uint64_t under_way = (flow.unacknowledged_bytes + payload_bytes_ - 1) / payload_bytes_;
    const std::uint64_t settled = flow.sent > under_way ? flow.sent - under_way : 0;
    flow.counts_from = std::max(flow.receipted, settled);
  }
}

void LineTest::close_window(TimePoint now) {
  const double seconds = to_seconds(now - *window_);
  if (stage_ == TestStage::round_trip) {
    if (round_trips_.empty()) fail("no answer to any ping within " + human_duration(now - *window_));
    return;
  }
  if (seconds <= 0) return fail("the judge was too busy to measure: try again later");
  std::uint64_t down_frames = 0;
  for (const DownFlow& flow : flows_) {
    if (flow.receipted > flow.counts_from) down_frames += flow.receipted - flow.counts_from;
  }
  const auto rate_bps = [&](std::uint64_t frames) {
    return static_cast<double>(frames) * static_cast<double>(payload_bytes_) * 8 / seconds;
  };
  const double up_bps = rate_bps(up_frames_ - up_frames_at_open_), down_bps = rate_bps(down_frames);
  if (stage_ == TestStage::up) rates_.up_bps = up_bps;
  if (stage_ == TestStage::down) rates_.down_bps = down_bps;
  if (stage_ == TestStage::both) {
    rates_.up_at_once_bps = up_bps;
    rates_.down_at_once_bps = down_bps;
  }
}

void LineTest::finish() {
  if (rates_.up_bps <= 0) failure_ = "nothing came up in the time that counted";
  if (rates_.down_bps <= 0) failure_ = "nothing went down in the time that counted";
}

std::optional<LineTest::Step> LineTest::poll_step() {
  if (steps_.empty()) return std::nullopt;
  const Step step = steps_.front();
  steps_.pop_front();
  return step;
}

// ---- round trips

bool LineTest::poll_ping(TimePoint now, std::uint64_t nonce) {
  if (stage_ != TestStage::round_trip || now < next_ping_) return false;
  next_ping_ = now + config_.ping_interval;
  pings_.push_back({.nonce = nonce, .sent = now});
  return true;
}

void LineTest::handle_pong(TimePoint now, std::uint64_t nonce) {
  if (is_over()) return;
  if (pings_.empty() || pings_.front().nonce != nonce) return fail("an answer to a ping that was never sent");
  const TimePoint sent = pings_.front().sent;
  pings_.pop_front();
  // Of an idle line only: what is answered later waited behind test data.
  if (stage_ == TestStage::round_trip && sent >= window_begins_) round_trips_.push_back(now - sent);
}

// ---- up

void LineTest::handle_up(TimePoint now, bool genuine) {
  if (is_over()) return;
  if (!genuine)
    return fail("what came up is not the random data that were asked for: something made them up on the way");
  up_frames_ += 1;
  last_up_ = now;
}

// ---- down

bool LineTest::may_send_down() const {
  return goes_down(stage_) && (unreceipted_frames_ + 1) * payload_bytes_ <= config_.most_unreceipted_bytes;
}

void LineTest::begin_down(std::size_t flow, std::uint64_t digest) {
  PAPILIO_ASSERT(may_send_down());
  flows_[flow].digests.push_back(digest);
  unreceipted_frames_ += 1;
  flows_[flow].begun += 1;
}

void LineTest::handle_down_sent(std::size_t flow) { flows_[flow].sent += 1; }

void LineTest::handle_receipt(TimePoint now, std::size_t flow, std::uint64_t sequence, std::uint64_t digest) {
  if (is_over()) return;
  if (flow >= flows_.size()) return fail("a receipt for a connection that is not there");
  DownFlow& down = flows_[flow];
  if (down.digests.empty() || sequence != down.receipted) {
    return fail("a receipt for data that were not sent, or out of turn");
  }
  if (digest != down.digests.front()) return fail("a wrong receipt: the data did not arrive as they were sent");
  down.digests.pop_front();
  down.receipted += 1;
  receipted_frames_ += 1;
  unreceipted_frames_ -= 1;
  last_down_ = now;
}

}  // namespace papilio::core
