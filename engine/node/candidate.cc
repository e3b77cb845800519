#include "engine/node/candidate.hpp"

#include <algorithm>
#include <utility>

#include "engine/base/text.hpp"
#include "engine/base/units.hpp"
#include "engine/node/certificate.hpp"
#include "kernels/ops.h"

namespace papilio::node {
namespace {

using transport::Flow;
using transport::Header;
using transport::TestPhaseKind;
using transport::TestWaitReason;

// What a judge may ask this node to keep memory for, per flow.
constexpr std::size_t kLargestPayloadBytes = std::size_t{1} << 20U;
// Of the whole time, for the verdict's way back through what is still under way.
constexpr double kVerdictShare = 0.04;
// For the verdict, once data flows end.
constexpr Duration kVerdictPatience = std::chrono::seconds(3);

bool sends(TestPhaseKind kind) { return kind == TestPhaseKind::up || kind == TestPhaseKind::both; }

std::string seconds_text(std::uint32_t milliseconds) { return human_duration(std::chrono::milliseconds(milliseconds)); }

}  // namespace

Candidate::Candidate(transport::Io& io, CandidateConfig config, CandidateEvents* events)
    : io_(io), config_(std::move(config)), events_(events) {
  PAPILIO_ASSERT(config_.flows >= 1 && config_.flows <= kMaximumFlows);
}

Candidate::~Candidate() { PAPILIO_ASSERT_VALUES(connections_.empty(), connections_.size(), 0); }

void Candidate::start() {
  started_ = io_.now();
  heard();
  dial(0);
  control_ = &connections_.front();
}

void Candidate::dial(std::uint16_t number) {
  Connection& connection = connections_.emplace_back(static_cast<FlowEvents&>(*this));
  connection.position = std::prev(connections_.end());
  connection.number = number;
  connection.flow.context = &connection;
  connection.payload.resize(number > 0 ? phase_.payload_bytes : 0);
  connection.flow.dial(io_, config_.judge, config_.socket);
}

void Candidate::on_flow_connected(Flow& flow) {
  const auto& connection = *static_cast<Connection*>(flow.context);
  if (done_) return;
  const Duration left =
      config_.duration - (io_.now() - started_) - from_seconds(to_seconds(config_.duration) * kVerdictShare);
  const auto left_ms = std::chrono::floor<std::chrono::milliseconds>(left).count();
  flow.send_control(
      transport::TestRequest{.peer = config_.self,
                             .run_id = config_.run_id,
                             .duration_ms = static_cast<std::uint32_t>(std::max<std::int64_t>(left_ms, 0)),
                             .flows = config_.flows,
                             .flow = connection.number,
                             .session = phase_.session,
                             .software = "papilio " PAPILIO_VERSION});
}

// ---- what the judge says

// However much a judge talks, it does not hold a candidate for longer.
TimePoint Candidate::over_by() const {
  if (queued_until_ != kNever) return queued_until_;
  return saturating_add(started_, config_.duration + config_.patience);
}

void Candidate::heard() { deadline_ = std::min(saturating_add(io_.now(), config_.patience), over_by()); }

void Candidate::on_frame(Flow& flow, const Header& header, transport::Slab payload, std::size_t payload_bytes) {
  Connection& connection = *static_cast<Connection*>(flow.context);
  if (done_) return;
  heard();
  if (const auto* const data = std::get_if<transport::TestData>(&header)) {
    receipts_.push_back({.digest = kernels::checksum(payload.bytes().first(payload_bytes)),
                         .sequence = data->sequence,
                         .flow = connection.index()});
    if (receipts_.size() >= transport::kMaximumReceipts) flush_receipts();
    return;
  }
  if (&connection == control_) {
    if (const auto* const ping = std::get_if<transport::TestPing>(&header)) return control_->flow.send_control(*ping);
    if (const auto* const wait = std::get_if<transport::TestWait>(&header)) return handle_wait(*wait);
    if (const auto* const phase = std::get_if<transport::TestPhase>(&header)) return handle_phase(*phase);
    if (const auto* const verdict = std::get_if<transport::TestVerdict>(&header)) return handle_verdict(*verdict);
    if (const auto* const tally = std::get_if<transport::TestTally>(&header)) {
      if (events_ != nullptr) events_->on_tally(*tally);
      return;
    }
    if (const auto* const refusal = std::get_if<transport::Refusal>(&header)) {
      return finish("the judge refused: " + one_line(refusal->detail));
    }
  }
  finish("the judge sent what has no place in a test: is it a judge?");
}

void Candidate::handle_wait(const transport::TestWait& wait) {
  if (joined_) return finish("the judge sent what has no place in a test: is it a judge?");
  if (wait.reason == TestWaitReason::queued) {
    if (queued_until_ == kNever) {
      queued_until_ = saturating_add(io_.now(), config_.patience_in_queue);
      before_queue_ = io_.now() - started_;
    }
    heard();
    if (events_ != nullptr) events_->on_waiting(wait);
    return;
  }
  result_.refusal = wait;
  finish("the judge refused: " + one_line(wait.detail) +
         (wait.retry_after_ms > 0 ? "; try again in " + seconds_text(wait.retry_after_ms) : ""));
}

void Candidate::handle_phase(const transport::TestPhase& phase) {
  if (phase.kind == TestPhaseKind::join) {
    if (joined_) return finish("the judge began a second test: is it a judge?");
    return join(phase);
  }
  if (!joined_ || phase.payload_bytes != phase_.payload_bytes || phase.session != phase_.session) {
    return finish("the judge changed its mind in the middle of a test: is it a judge?");
  }
  phase_ = phase;
  if (sends(phase.kind) && !up_) up_.emplace(transport::FillerKey{phase.up_key_low, phase.up_key_high});
  if (events_ != nullptr) events_->on_phase(phase);
  for (Connection& each : connections_) each.flow.wake_sender();
}

void Candidate::join(const transport::TestPhase& phase) {
  if (phase.payload_bytes > kLargestPayloadBytes || phase.flows != config_.flows) {
    return finish("the judge asks for " + std::to_string(phase.flows) + " flows with frames of " +
                  std::to_string(phase.payload_bytes) + " bytes, which was not agreed");
  }
  auto slabs = transport::SlabPool::make(phase.payload_bytes, config_.flows);
  if (!slabs) return finish(slabs.error().message);
  slabs_.emplace(std::move(*slabs));
  joined_ = true;
  // The wait for its turn does not count.
  if (queued_until_ != kNever) started_ = io_.now() - before_queue_;
  queued_until_ = kNever;
  heard();
  phase_ = phase;
  if (events_ != nullptr) events_->on_phase(phase);
  for (std::uint16_t number = 1; number <= config_.flows; ++number) dial(number);
}

void Candidate::handle_verdict(const transport::TestVerdict& verdict) {
  result_.took = io_.now() - started_;
  for (const Connection& each : connections_) {
    if (each.flow.is_open()) result_.retransmits_up += each.flow.info().retransmits;
  }
  if (const auto* const key = control_->flow.peer_key()) result_.judge = transport::peer_id_of(*key);
  if (!verdict.failure.empty()) return finish("the test failed: " + one_line(verdict.failure));
  result_.verdict = verdict;
  result_.verdict.note = one_line(verdict.note);
  finish(objection_to_certificate(verdict));
}

// A certificate that says something else than the verdict would be found out at the first node's door, much later.
std::string Candidate::objection_to_certificate(const transport::TestVerdict& verdict) {
  if (verdict.certificate.empty()) return {};
  auto read = read_certificate(verdict.certificate);
  if (!read) return "the judge sent a certificate that is none: " + read.error().message;
  if (read->subject != config_.self || !result_.judge || read->judge != *result_.judge) {
    return "the judge sent a certificate of somebody else";
  }
  if (read->up_bps != verdict.up_bps || read->down_bps != verdict.down_bps ||
      static_cast<std::uint64_t>(read->round_trip_median.count()) != verdict.round_trip_median_ns) {
    return "the judge's certificate holds other figures than its verdict";
  }
  result_.certificate = std::move(*read);
  return {};
}

// ---- data

transport::PayloadDecision Candidate::on_payload_header(Flow& flow, const Header& header, std::size_t payload_bytes) {
  Connection& connection = *static_cast<Connection*>(flow.context);
  if (done_) return {};
  const auto* const data = std::get_if<transport::TestData>(&header);
  if (data == nullptr || connection.number == 0 || payload_bytes != phase_.payload_bytes ||
      data->sequence != connection.down_sequence) {
    finish("the judge sent what has no place in a test: is it a judge?");
    return {};
  }
  connection.down_sequence += 1;
  transport::Slab slab = slabs_->take();
  PAPILIO_ASSERT(slab);  // one per flow
  return {.verdict = transport::PayloadVerdict::accept, .slab = std::move(slab)};
}

bool Candidate::next_frame(Flow& flow, transport::OutgoingFrame& frame) {
  Connection& connection = *static_cast<Connection*>(flow.context);
  if (done_ || connection.number == 0 || !sends(phase_.kind)) return false;
  up_->fill(connection.index(), connection.up_sequence, connection.payload);
  transport::encode_frame_header(transport::TestData{connection.up_sequence}, connection.payload.size(), frame.header);
  frame.payload = connection.payload;
  frame.mode = transport::WriteMode::copy;
  connection.up_sequence += 1;
  return true;
}

// All of one turn in one frame: on an asymmetric line, receipts must not crowd out what goes up.
void Candidate::flush_receipts() {
  if (receipts_.empty() || done_) return;
  control_->flow.send_control(transport::TestReceipts{std::exchange(receipts_, {})});
}

// ---- the end

void Candidate::on_flow_failed(Flow& flow, const transport::FlowFailure& failure) {
  const Connection& connection = *static_cast<Connection*>(flow.context);
  if (done_) return;
  result_.retransmits_up += flow.info().retransmits;
  const std::string judge = config_.judge.to_string();
  if (failure.is_protocol_violation()) {
    return finish(judge + " does not speak as a judge does (" + failure.to_string() +
                  "): is it one, and of the same version?");
  }
  if (connection.number > 0 && control_->flow.is_open()) {
    // So a test ends, and the verdict comes on the control flow, behind what is still under way. Before the first phase
    // the judge says what is wrong only when he has waited for all data flows.
    if (lost_.empty()) lost_ = failure.to_string();
    const bool measures = phase_.kind != TestPhaseKind::join;
    deadline_ = std::min(deadline_, saturating_add(io_.now(), measures ? kVerdictPatience : config_.patience));
    return;
  }
  finish(joined_ ? "the connection to the judge at " + judge + " was lost: " + failure.to_string()
                 : "no judge at " + judge + " (" + failure.to_string() +
                       "): is papilio-qualify serve running there, with the same --security?");
}

void Candidate::on_flow_closed(Flow& flow) {
  const Connection& connection = *static_cast<Connection*>(flow.context);
  if (&connection == control_) control_ = nullptr;
  connections_.erase(connection.position);
}

void Candidate::cancel(const std::string& why) { finish(why); }

void Candidate::finish(std::string failure) {
  if (done_) return;
  done_ = true;
  deadline_ = kNever;
  result_.failure = std::move(failure);
  for (Connection& each : connections_) each.flow.abort();
}

void Candidate::turn(TimePoint until) {
  io_.run_once(std::min(until, next_deadline()));
  handle_time(io_.now());
}

void Candidate::handle_time(TimePoint now) {
  if (done_) return;
  flush_receipts();
  if (now < deadline_) return;
  const std::string judge = config_.judge.to_string();
  if (now >= queued_until_) {
    return finish("still not this node's turn after " + human_duration(config_.patience_in_queue) +
                  ": try again later, or another judge");
  }
  if (now >= over_by()) {
    return finish("the judge at " + judge + " has come to no end in " +
                  human_duration(config_.duration + config_.patience) + ": ask another");
  }
  if (!lost_.empty()) return finish("a connection to the judge at " + judge + " was lost: " + lost_);
  finish("the judge at " + judge + " has been silent for " + human_duration(config_.patience) +
         (joined_ ? ": it is gone, or the line is dead" : ": is anybody there, and is the port open?"));
}

}  // namespace papilio::node
