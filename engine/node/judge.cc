#include "engine/node/judge.hpp"

#include <netinet/in.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/base/units.hpp"
#include "engine/node/address_block.hpp"
#include "engine/node/certificate.hpp"
#include "kernels/ops.h"

namespace papilio::node {
namespace {

using core::LineTest;
using core::TestDesk;
using core::TestStage;
using transport::Flow;
using transport::Header;
using transport::TestPhaseKind;
using transport::TestWaitReason;

constexpr Duration kTallyInterval = std::chrono::milliseconds(250);
constexpr Duration kWaitingInterval = std::chrono::seconds(2);
// For the last words to leave; then the connection is cut.
constexpr Duration kClosingPatience = std::chrono::seconds(3);
// Of the frame that carries test data: its table is small.
constexpr std::size_t kDataHeaderBytes = transport::kFrameHeadBytes;

std::uint32_t to_ms(Duration duration) {
  const auto count = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  constexpr auto kMost = static_cast<std::int64_t>(std::numeric_limits<std::uint32_t>::max());
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(count, 0, kMost));
}

TestPhaseKind kind_of(TestStage stage) {
  switch (stage) {
    case TestStage::round_trip: return TestPhaseKind::round_trip;
    case TestStage::up: return TestPhaseKind::up;
    case TestStage::down: return TestPhaseKind::down;
    case TestStage::both: return TestPhaseKind::both;
    case TestStage::over: return TestPhaseKind::over;
  }
  return TestPhaseKind::over;
}

std::uint64_t to_bps(double rate) { return static_cast<std::uint64_t>(rate + 0.5); }

bool is_ipv6(const transport::Address& address) {
  if (address.family() != AF_INET6) return false;
  const auto* const socket = reinterpret_cast<const sockaddr_in6*>(address.data());
  return IN6_IS_ADDR_V4MAPPED(&socket->sin6_addr) == 0;
}

}  // namespace

Judge::Judge(transport::Io& io, JudgeConfig config)
    : io_(io), config_(std::move(config)), desk_(config_.desk), door_(config_.door), expected_(config_.payload_bytes) {}

Judge::~Judge() { PAPILIO_ASSERT_VALUES(guests_.empty(), guests_.size(), 0); }

Status Judge::start() {
  // A data flow reads into one slab at a time, and keeps it until it is closed: one for every connection that there may
  // be.
  auto slabs = transport::SlabPool::make(config_.payload_bytes, config_.door.connections_in_total);
  if (!slabs) return slabs.error();
  slabs_.emplace(std::move(*slabs));
  auto listening = io_.listen(config_.listen, config_.socket, *this);
  if (!listening) return listening.error();
  listener_ = *listening;
  return Done{};
}

// ---- connections

void Judge::on_accepted(transport::Stream& stream) {
  const transport::Address address = stream.peer_address();
  const core::AddressBlock block = address_block_of(address);
  const core::DoorAnswer answer = door_.handle_opened(io_.now(), block);
  if (answer.displaced != 0) {
    const auto displaced = std::find_if(guests_.begin(), guests_.end(),
                                        [&](const Guest& guest) { return guest.visit == answer.displaced; });
    if (displaced != guests_.end()) dismiss(*displaced);
  }
  if (answer.verdict != core::DoorVerdict::welcome) {
    if (may_say(to_string(answer.verdict))) {
      spdlog::warn("{}: refused: {}", address.to_string(), to_string(answer.verdict));
    }
    return transport::turn_away(stream);
  }
  Guest& guest = guests_.emplace_back(static_cast<FlowEvents&>(*this));
  guest.position = std::prev(guests_.end());
  guest.flow.context = &guest;
  guest.address = address.to_string();
  guest.block = block;
  guest.visit = answer.visit;
  guest.deadline = saturating_add(io_.now(), config_.patience);
  guest.flow.adopt(stream);
}

void Judge::on_flow_failed(Flow& flow, const transport::FlowFailure& failure) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.stage == Stage::closing) return;
  if (failure.is_protocol_violation() && may_say("not the protocol")) {
    spdlog::warn("{}: connection closed: {}", guest.address, failure.to_string());
  }
  const Stage stage = std::exchange(guest.stage, Stage::closing);
  if (stage == Stage::queued) leave_desk(guest);
  if (guest.session != nullptr) fail(*guest.session, "a connection was lost: " + failure.to_string());
}

void Judge::on_flow_closed(Flow& flow) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.session != nullptr) fail(*guest.session, "a connection was lost");
  door_.handle_closed(guest.visit);
  guests_.erase(guest.position);
}

// At once, without a word.
void Judge::dismiss(Guest& guest) {
  guest.stage = Stage::closing;
  guest.deadline = saturating_add(io_.now(), kClosingPatience);
  guest.flow.abort();
}

void Judge::violate(Guest& guest, const std::string& what) {
  if (guest.stage == Stage::closing) return;
  if (may_say("not the protocol")) spdlog::warn("{}: connection closed: {}", guest.address, what);
  if (guest.stage == Stage::queued) leave_desk(guest);
  const bool is_control = guest.stage == Stage::control;
  if (guest.session != nullptr) fail(*guest.session, what);
  if (!is_control) dismiss(guest);  // a control flow was told why, and ends after that
}

void Judge::leave_desk(Guest& guest) { desk_.handle_gone(io_.now(), guest.ticket); }

void Judge::refuse(Guest& guest, const transport::TestWait& wait) {
  if (may_say("refused")) spdlog::info("{} ({}): refused: {}", guest.address, to_hex(guest.peer), wait.detail);
  guest.stage = Stage::closing;
  guest.deadline = saturating_add(io_.now(), kClosingPatience);
  guest.flow.send_control(wait);
  guest.flow.close_after_sending();
}

// ---- requests

void Judge::handle_request(Guest& guest, const transport::TestRequest& request) {
  guest.peer = request.peer;
  guest.request = request;
  if (const auto* const key = guest.flow.peer_key(); key != nullptr && transport::peer_id_of(*key) != request.peer) {
    return refuse(guest, {.reason = TestWaitReason::bad_request,
                          .detail = "the id in the request is not that of the key that this connection proved"});
  }
  if (!config_.run_id.empty() && request.run_id != config_.run_id) {
    return refuse(guest,
                  {.reason = TestWaitReason::wrong_run,
                   .detail = "this judge is of the run '" + config_.run_id + "': ask with --run-id " + config_.run_id});
  }
  if (request.run_id.size() > kMaximumRunIdBytes) {
    return refuse(guest, {.reason = TestWaitReason::bad_request,
                          .detail = "the name of a run has at most " + std::to_string(kMaximumRunIdBytes) + " bytes"});
  }
  if (std::chrono::milliseconds(request.duration_ms) < config_.shortest_test) {
    return refuse(guest, {.reason = TestWaitReason::bad_request,
                          .detail = "a test takes at least " + human_duration(config_.shortest_test) +
                                    " after the connection stands: ask for more --seconds"});
  }
  guest.ticket = next_ticket_++;
  const TestDesk::Answer answer = desk_.handle_request(io_.now(), guest.ticket, guest.peer, guest.block);
  const std::uint32_t retry_after_ms = to_ms(answer.retry_after);
  switch (answer.kind) {
    case TestDesk::Kind::queued:
      guest.stage = Stage::queued;
      door_.handle_established(guest.visit);
      guest.deadline = io_.now();  // for the first word about its turn
      return begin_tests();
    case TestDesk::Kind::busy:
      return refuse(guest, {.reason = TestWaitReason::busy,
                            .retry_after_ms = retry_after_ms,
                            .detail = "the judge is busy: too many wait already"});
    case TestDesk::Kind::too_often:
      return refuse(guest, {.reason = TestWaitReason::too_often,
                            .retry_after_ms = retry_after_ms,
                            .detail = "tested a moment ago: this judge limits how often it tests one peer, one "
                                      "address, and all together"});
    case TestDesk::Kind::already_here:
      return refuse(guest, {.reason = TestWaitReason::busy,
                            .retry_after_ms = retry_after_ms,
                            .detail = "this peer waits or is being tested already"});
  }
}

void Judge::tell_waiting(Guest& guest, TimePoint now) {
  guest.deadline = saturating_add(now, kWaitingInterval);
  guest.told_position = desk_.position_of(guest.ticket);
  guest.flow.send_control(transport::TestWait{.reason = TestWaitReason::queued,
                                              .position = static_cast<std::uint32_t>(guest.told_position),
                                              .retry_after_ms = to_ms(desk_.wait_of(now, guest.ticket)),
                                              .detail = {}});
}

void Judge::begin_tests() {
  while (const auto ticket = desk_.poll_begin(io_.now())) {
    const auto found = std::find_if(guests_.begin(), guests_.end(), [&](const Guest& guest) {
      return guest.ticket == *ticket && guest.stage == Stage::queued;
    });
    PAPILIO_ASSERT(found != guests_.end());
    begin_test(*found);
  }
}

void Judge::begin_test(Guest& guest) {
  const TimePoint now = io_.now();
  Session& session = sessions_.emplace_back(transport::random_filler_key(), transport::random_filler_key());
  session.position = std::prev(sessions_.end());
  session.number = transport::random_number();
  session.control = &guest;
  session.flows.assign(guest.request.flows, nullptr);
  session.ends = now + std::min<Duration>(std::chrono::milliseconds(guest.request.duration_ms), config_.longest_test);
  session.join_by = now + std::min(config_.patience, (session.ends - now) / 2);
  guest.stage = Stage::control;
  guest.deadline = kNever;
  guest.session = &session;
  spdlog::info("{} ({}): test begins", guest.address, to_hex(guest.peer));
  say_phase(session, {.stage = TestStage::over, .duration = session.ends - now, .warm_up = {}});
}

void Judge::handle_join(Guest& guest, const transport::TestRequest& request) {
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [&](const Session& each) { return each.number == request.session; });
  if (found == sessions_.end()) return violate(guest, "a data flow for a test that is not under way");
  Session& session = *found;
  const auto* const key = guest.flow.peer_key();
  const auto* const control_key = session.control->flow.peer_key();
  const bool same_key = key == nullptr ? control_key == nullptr : control_key != nullptr && *key == *control_key;
  const std::size_t index = request.flow - std::size_t{1};
  if (!same_key || index >= session.flows.size() || session.flows[index] != nullptr || session.test) {
    return violate(guest, "a data flow that is not of this test's candidate");
  }
  // This process may have stood still for longer than the test was to take.
  if (io_.now() >= session.join_by) return violate(guest, "a data flow that came too late for its test");
  guest.peer = session.control->peer;
  guest.stage = Stage::data;
  door_.handle_established(guest.visit);
  guest.deadline = kNever;
  guest.session = &session;
  guest.index = index;
  guest.payload.resize(config_.payload_bytes);
  session.flows[index] = &guest;
  const bool all = std::all_of(session.flows.begin(), session.flows.end(), [](const Guest* each) { return each; });
  if (all) begin_measuring(session);
}

// ---- a test

void Judge::begin_measuring(Session& session) {
  const TimePoint now = io_.now();
  session.next_tally = now + kTallyInterval;
  session.last_tally = now;
  session.test.emplace(config_.test, session.flows.size(), config_.payload_bytes, now, session.ends);
  carry_on(session);
}

// What the test wants done. The session may be gone afterwards.
void Judge::carry_on(Session& session) {
  LineTest& test = *session.test;
  while (const auto step = test.poll_step()) {
    if (step->stage == TestStage::over) {
      return test.failure().empty() ? conclude(session, verdict_of(session)) : fail(session, test.failure());
    }
    say_phase(session, *step);
  }
  // Asked first, so that no random number is drawn for nothing.
  if (test.stage() == TestStage::round_trip && io_.now() >= test.next_deadline()) {
    const std::uint64_t nonce = transport::random_number();
    if (test.poll_ping(io_.now(), nonce)) session.control->flow.send_control(transport::TestPing{nonce});
  }
  wake_senders(session);
}

void Judge::say_phase(Session& session, const LineTest::Step& step) {
  transport::TestPhase phase{.kind = session.test ? kind_of(step.stage) : TestPhaseKind::join,
                             .duration_ms = to_ms(step.duration),
                             .warm_up_ms = to_ms(step.warm_up),
                             .session = session.number,
                             .flows = static_cast<std::uint16_t>(session.flows.size()),
                             .payload_bytes = static_cast<std::uint32_t>(config_.payload_bytes)};
  if (core::goes_up(step.stage)) {
    phase.up_key_low = session.up_key[0];
    phase.up_key_high = session.up_key[1];
  }
  session.control->flow.send_control(phase);
}

void Judge::wake_senders(Session& session) {
  if (!session.test->may_send_down()) return;
  for (Guest* const guest : session.flows) guest->flow.wake_sender();
}

void Judge::say_tally(Session& session, TimePoint now) {
  const double seconds = to_seconds(now - session.last_tally);
  const std::uint64_t up = session.test->up_bytes(), down = session.test->down_bytes();
  const auto rate = [&](std::uint64_t bytes) { return to_bps(static_cast<double>(bytes) * 8 / seconds); };
  session.control->flow.send_control(
      transport::TestTally{.up_bps = rate(up - session.tallied_up), .down_bps = rate(down - session.tallied_down)});
  session.tallied_up = up;
  session.tallied_down = down;
  session.last_tally = now;
  session.next_tally = now + kTallyInterval;
}

transport::PayloadDecision Judge::on_payload_header(Flow& flow, const Header& header, std::size_t payload_bytes) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.stage == Stage::closing) return {};
  const auto* const data = std::get_if<transport::TestData>(&header);
  if (data == nullptr || guest.stage != Stage::data || !guest.session->test ||
      guest.session->test->stage() == TestStage::round_trip) {
    violate(guest, "a payload that nobody asked for");
    return {};
  }
  if (payload_bytes != config_.payload_bytes || data->sequence != guest.up_sequence) {
    violate(guest, "test data of another length or number than was asked for");
    return {};
  }
  transport::Slab slab = slabs_->take();
  PAPILIO_ASSERT(slab);  // one for each that the door lets stand, and those that are being closed count
  return {.verdict = transport::PayloadVerdict::accept, .slab = std::move(slab)};
}

void Judge::on_frame(Flow& flow, const Header& header, transport::Slab payload, std::size_t payload_bytes) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.stage == Stage::closing) return;
  if (const auto* const request = std::get_if<transport::TestRequest>(&header);
      request != nullptr && guest.stage == Stage::awaiting_request) {
    return request->flow == 0 ? handle_request(guest, *request) : handle_join(guest, *request);
  }
  if (guest.stage == Stage::data && payload_bytes > 0) return handle_data(guest, payload.bytes().first(payload_bytes));
  if (guest.stage == Stage::control && guest.session != nullptr && guest.session->test) {
    if (const auto* const receipts = std::get_if<transport::TestReceipts>(&header)) {
      return handle_receipts(*guest.session, *receipts);
    }
    if (const auto* const pong = std::get_if<transport::TestPing>(&header)) {
      guest.session->test->handle_pong(io_.now(), pong->nonce);
      return carry_on(*guest.session);
    }
  }
  violate(guest, "a frame that has no place in a test, or not now");
}

void Judge::handle_data(Guest& guest, std::span<const std::byte> payload) {
  Session& session = *guest.session;
  session.up.fill(static_cast<std::uint32_t>(guest.index), guest.up_sequence, expected_);
  guest.up_sequence += 1;
  session.test->handle_up(io_.now(), std::memcmp(payload.data(), expected_.data(), expected_.size()) == 0);
  if (session.test->is_over()) carry_on(session);
}

void Judge::handle_receipts(Session& session, const transport::TestReceipts& receipts) {
  for (const transport::TestReceipt& each : receipts.receipts) {
    session.test->handle_receipt(io_.now(), each.flow, each.sequence, each.digest);
  }
  carry_on(session);
}

bool Judge::next_frame(Flow& flow, transport::OutgoingFrame& frame) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.stage != Stage::data || !guest.session->test || !guest.session->test->may_send_down()) return false;
  LineTest& test = *guest.session->test;
  const std::uint64_t sequence = test.next_down(guest.index);
  guest.session->down.fill(static_cast<std::uint32_t>(guest.index), sequence, guest.payload);
  test.begin_down(guest.index, kernels::checksum(guest.payload));
  transport::encode_frame_header(transport::TestData{sequence}, guest.payload.size(), frame.header);
  PAPILIO_ASSERT_VALUES(frame.header.size() == kDataHeaderBytes, frame.header.size(), kDataHeaderBytes);
  frame.payload = guest.payload;
  frame.mode = transport::WriteMode::copy;
  frame.tag = sequence;
  return true;
}

void Judge::on_frame_sent(Flow& flow, std::uint64_t) {
  Guest& guest = *static_cast<Guest*>(flow.context);
  if (guest.session != nullptr && guest.session->test) guest.session->test->handle_down_sent(guest.index);
}

// ---- the end of a test

transport::TestVerdict Judge::verdict_of(Session& session) const {
  const LineTest& test = *session.test;
  const core::PayloadRates& rates = test.rates();
  const core::RoundTripFigures round_trips = test.round_trips();
  transport::TestVerdict verdict;
  core::LineOverhead overhead{.encrypted = session.control->flow.peer_key() != nullptr};
  for (const Guest* const guest : session.flows) {
    const transport::StreamInfo info = guest->flow.info();
    verdict.retransmits += info.retransmits;
    overhead.segment_bytes = std::max(overhead.segment_bytes, info.segment_bytes);
    if (is_ipv6(guest->flow.peer_address())) overhead.packet_bytes = core::LineOverhead::kPacketBytesIpv6;
  }
  const double per_byte = overhead.line_bytes(config_.payload_bytes, config_.payload_bytes, kDataHeaderBytes) /
                          static_cast<double>(config_.payload_bytes);
  verdict.up_bps = to_bps(rates.up_bps * per_byte);
  verdict.down_bps = to_bps(rates.down_bps * per_byte);
  verdict.up_at_once_bps = to_bps(rates.up_at_once_bps * per_byte);
  verdict.down_at_once_bps = to_bps(rates.down_at_once_bps * per_byte);
  verdict.up_payload_bps = to_bps(rates.up_bps);
  verdict.down_payload_bps = to_bps(rates.down_bps);
  const auto nanoseconds = [](Duration duration) { return static_cast<std::uint64_t>(duration.count()); };
  verdict.round_trip_min_ns = nanoseconds(round_trips.minimum);
  verdict.round_trip_median_ns = nanoseconds(round_trips.median);
  verdict.round_trip_p99_ns = nanoseconds(round_trips.p99);
  verdict.jitter_ns = nanoseconds(round_trips.jitter);
  verdict.pings = static_cast<std::uint32_t>(round_trips.count);
  verdict.segment_bytes = overhead.segment_bytes;
  certify(session, verdict);
  return verdict;
}

void Judge::certify(Session& session, transport::TestVerdict& verdict) const {
  const Guest& control = *session.control;
  if (config_.identity == nullptr) {
    verdict.note = "this judge has no key and signs nothing";
    return;
  }
  if (control.flow.peer_key() == nullptr) {
    verdict.note = "without encryption the judge cannot know whom it tested, so it signs nothing: use --security tls";
    return;
  }
  const core::WallTime now = config_.wall_now();
  core::Qualification figures{.subject = control.peer,
                              .judge = config_.identity->id(),
                              .run_id = config_.run_id.empty() ? control.request.run_id : config_.run_id,
                              .up_bps = verdict.up_bps,
                              .down_bps = verdict.down_bps,
                              .round_trip_median = Duration(static_cast<std::int64_t>(verdict.round_trip_median_ns)),
                              .round_trip_p99 = Duration(static_cast<std::int64_t>(verdict.round_trip_p99_ns)),
                              .jitter = Duration(static_cast<std::int64_t>(verdict.jitter_ns)),
                              .retransmits = verdict.retransmits,
                              .issued = now,
                              .expires = now + config_.valid_for,
                              .up_at_once_bps = verdict.up_at_once_bps,
                              .down_at_once_bps = verdict.down_at_once_bps};
  if (const auto reasons = core::shortfalls(figures, config_.minimum, 0); !reasons.empty()) {
    verdict.note = "below what this judge certifies: " + reasons.front();
    return;
  }
  verdict.certificate = sign_certificate(*config_.identity, figures);
}

void Judge::fail(Session& session, const std::string& why) {
  transport::TestVerdict verdict;
  verdict.failure = why;
  conclude(session, std::move(verdict));
}

// Tells the candidate, who then closes everything. Data flows are cut at once: what is still under way on them, be it
// sent on after the end, would only keep the line from the verdict and from whoever is tested next.
void Judge::conclude(Session& session, transport::TestVerdict verdict) {
  Guest& control = *session.control;
  if (verdict.failure.empty()) {
    spdlog::info("{} ({}): up {}, down {}, round trip {}, {}", control.address, to_hex(control.peer),
                 human_rate(static_cast<double>(verdict.up_bps)), human_rate(static_cast<double>(verdict.down_bps)),
                 human_duration(Duration(static_cast<std::int64_t>(verdict.round_trip_median_ns))),
                 verdict.certificate.empty() ? "not certified" : "certified");
  } else {
    spdlog::warn("{} ({}): test failed: {}", control.address, to_hex(control.peer), verdict.failure);
  }
  outcomes_.push_back({.candidate = control.peer, .address = control.address, .verdict = verdict});
  for (Guest* const guest : session.flows) {
    if (guest == nullptr) continue;
    guest->session = nullptr;
    dismiss(*guest);
  }
  control.session = nullptr;
  if (control.stage != Stage::closing) {
    control.stage = Stage::closing;
    control.deadline = saturating_add(io_.now(), kClosingPatience);
    control.flow.send_control(verdict);
    control.flow.close_after_sending();
  }
  leave_desk(control);
  sessions_.erase(session.position);
}

// ---- time

void Judge::turn(TimePoint until) {
  io_.run_once(std::min(until, next_deadline()));
  handle_time(io_.now());
}

TimePoint Judge::next_deadline() const {
  TimePoint next = log_limit_.next_deadline();
  for (const Guest& guest : guests_) next = std::min(next, guest.deadline);
  for (const Session& session : sessions_) {
    next = std::min(next, session.test ? std::min(session.test->next_deadline(), session.next_tally) : session.join_by);
  }
  return next;
}

void Judge::handle_time(TimePoint now) {
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    Session& session = *next++;
    if (!session.test) {
      if (now >= session.join_by) fail(session, "the candidate's data flows did not come in time");
      continue;
    }
    if (now >= session.next_tally) say_tally(session, now);
    if (now < session.test->next_deadline()) continue;
    for (Guest* const guest : session.flows) {
      session.test->settle(guest->index, guest->flow.info().bytes_unacknowledged);
    }
    session.test->handle_time(now);
    carry_on(session);
  }
  if (listener_ != nullptr) begin_tests();
  for (auto next = guests_.begin(); next != guests_.end();) {
    Guest& guest = *next++;
    if (guest.stage == Stage::queued &&
        (now >= guest.deadline || desk_.position_of(guest.ticket) != guest.told_position)) {
      tell_waiting(guest, now);
    } else if (now >= guest.deadline && guest.stage == Stage::awaiting_request) {
      if (may_say("no request")) spdlog::warn("{}: connection closed: no request in time", guest.address);
      dismiss(guest);
    } else if (now >= guest.deadline) {
      guest.deadline = kNever;
      guest.flow.abort();
    }
  }
  while (const auto left_out = log_limit_.poll(now)) {
    spdlog::warn("{} more lines within {:.0f} s: {}", left_out->lines, to_seconds(log_limit_.config().interval),
                 left_out->kind);
  }
}

void Judge::leave(const std::string& reason) {
  if (listener_ == nullptr) return;
  std::exchange(listener_, nullptr)->close();
  while (!sessions_.empty()) fail(sessions_.front(), reason);
  for (Guest& guest : guests_) {
    if (guest.stage == Stage::queued) {
      leave_desk(guest);
      refuse(guest, {.reason = TestWaitReason::busy, .detail = reason});
    } else if (guest.stage == Stage::awaiting_request) {
      dismiss(guest);
    }
  }
}

void Judge::abort_all() {
  for (Guest& guest : guests_) dismiss(guest);
}

}  // namespace papilio::node
