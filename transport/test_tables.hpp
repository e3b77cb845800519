// The tables of a qualification test, written and read; a part of frame.cc that has its own place because of its
// length.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <span>
#include <string>

#include "frames_generated.h"
#include "transport/frame.hpp"

namespace papilio::transport::tables {

using Builder = flatbuffers::FlatBufferBuilder;

// Strings from peers are short: names and addresses. Longer ones are refused with the frame.
inline constexpr std::size_t kMaximumTextBytes = 512;
inline bool too_long(const flatbuffers::String* text) { return text != nullptr && text->size() > kMaximumTextBytes; }
inline std::string text_of(const flatbuffers::String* text) { return text == nullptr ? std::string() : text->str(); }

// The verifier sees to it that a vector's length is aligned; elements of eight bytes may still lie across. No encoder
// writes such a vector, but one without elements lies anywhere.
template <typename Element>
bool is_aligned(const flatbuffers::Vector<Element>* vector) {
  constexpr std::uintptr_t kAlignment = 8;
  return vector == nullptr || vector->size() == 0 || reinterpret_cast<std::uintptr_t>(vector->Data()) % kAlignment == 0;
}

// Explanations for people, which may quote what a peer sent: cut, so that a refusal is not refused for its length.
inline flatbuffers::Offset<flatbuffers::String> create_cut_text(Builder& builder, const std::string& text) {
  return builder.CreateString(text.data(), std::min(text.size(), kMaximumTextBytes));
}

inline wire::PeerId to_wire(const PeerId& peer) { return std::bit_cast<wire::PeerId>(peer); }
inline PeerId from_wire(const wire::PeerId& peer) { return std::bit_cast<PeerId>(peer); }

inline void build(Builder& builder, const TestRequest& request) {
  const auto run_id = create_cut_text(builder, request.run_id);
  const auto software = create_cut_text(builder, request.software);
  const wire::PeerId peer = to_wire(request.peer);
  builder.Finish(wire::CreateTestRequest(builder, &peer, run_id, request.duration_ms, request.flows, request.flow,
                                         request.session, software));
}

inline void build(Builder& builder, const TestWait& wait) {
  const auto detail = create_cut_text(builder, wait.detail);
  builder.Finish(wire::CreateTestWait(builder, static_cast<wire::TestWaitReason>(wait.reason), wait.position,
                                      wait.retry_after_ms, detail));
}

inline void build(Builder& builder, const TestPhase& phase) {
  builder.Finish(wire::CreateTestPhase(builder, static_cast<wire::TestPhaseKind>(phase.kind), phase.duration_ms,
                                       phase.warm_up_ms, phase.session, phase.flows, phase.payload_bytes,
                                       phase.up_key_low, phase.up_key_high));
}

inline void build(Builder& builder, const TestData& data) {
  builder.Finish(wire::CreateTestData(builder, data.sequence));
}

inline void build(Builder& builder, const TestReceipts& receipts) {
  std::vector<wire::TestReceipt> all;
  all.reserve(receipts.receipts.size());
  for (const TestReceipt& each : receipts.receipts) all.emplace_back(each.digest, each.sequence, each.flow);
  builder.Finish(wire::CreateTestReceipts(builder, builder.CreateVectorOfStructs(all)));
}

inline void build(Builder& builder, const TestPing& ping) { builder.Finish(wire::CreateTestPing(builder, ping.nonce)); }

inline void build(Builder& builder, const TestTally& tally) {
  builder.Finish(wire::CreateTestTally(builder, tally.up_bps, tally.down_bps));
}

inline void build(Builder& builder, const TestVerdict& verdict) {
  const auto failure = create_cut_text(builder, verdict.failure);
  const auto certificate = builder.CreateVector(reinterpret_cast<const std::uint8_t*>(verdict.certificate.data()),
                                                verdict.certificate.size());
  const auto note = create_cut_text(builder, verdict.note);
  builder.Finish(wire::CreateTestVerdict(builder, failure, verdict.up_bps, verdict.down_bps, verdict.up_at_once_bps,
                                         verdict.down_at_once_bps, verdict.up_payload_bps, verdict.down_payload_bps,
                                         verdict.round_trip_min_ns, verdict.round_trip_median_ns,
                                         verdict.round_trip_p99_ns, verdict.jitter_ns, verdict.pings,
                                         verdict.retransmits, verdict.segment_bytes, certificate, note));
}

inline bool read(const wire::TestRequest& table, Header& header) {
  if (table.peer() == nullptr || too_long(table.run_id()) || too_long(table.software())) return false;
  if (table.flows() < 1 || table.flows() > kMaximumFlows || table.flow() > table.flows()) return false;
  header = TestRequest{.peer = from_wire(*table.peer()),
                       .run_id = text_of(table.run_id()),
                       .duration_ms = table.duration_ms(),
                       .flows = table.flows(),
                       .flow = table.flow(),
                       .session = table.session(),
                       .software = text_of(table.software())};
  return true;
}

inline bool read(const wire::TestWait& table, Header& header) {
  if (table.reason() > wire::TestWaitReason::MAX || too_long(table.detail())) return false;
  header = TestWait{.reason = static_cast<TestWaitReason>(table.reason()),
                    .position = table.position(),
                    .retry_after_ms = table.retry_after_ms(),
                    .detail = text_of(table.detail())};
  return true;
}

inline bool read(const wire::TestPhase& table, Header& header) {
  if (table.kind() > wire::TestPhaseKind::MAX || table.flows() < 1 || table.flows() > kMaximumFlows) return false;
  if (table.payload_bytes() < 1 || table.payload_bytes() > kMaximumPayloadBytes) return false;
  header = TestPhase{.kind = static_cast<TestPhaseKind>(table.kind()),
                     .duration_ms = table.duration_ms(),
                     .warm_up_ms = table.warm_up_ms(),
                     .session = table.session(),
                     .flows = table.flows(),
                     .payload_bytes = table.payload_bytes(),
                     .up_key_low = table.up_key_low(),
                     .up_key_high = table.up_key_high()};
  return true;
}

inline bool read(const wire::TestData& table, Header& header) {
  header = TestData{table.sequence()};
  return true;
}

inline bool read(const wire::TestReceipts& table, Header& header) {
  if (table.receipts() == nullptr || table.receipts()->size() < 1 || table.receipts()->size() > kMaximumReceipts ||
      !is_aligned(table.receipts())) {
    return false;
  }
  TestReceipts all;
  all.receipts.reserve(table.receipts()->size());
  for (const wire::TestReceipt* each : *table.receipts()) {
    all.receipts.push_back({each->digest(), each->sequence(), each->flow()});
  }
  header = std::move(all);
  return true;
}

inline bool read(const wire::TestPing& table, Header& header) {
  header = TestPing{table.nonce()};
  return true;
}

inline bool read(const wire::TestTally& table, Header& header) {
  header = TestTally{table.up_bps(), table.down_bps()};
  return true;
}

inline bool read(const wire::TestVerdict& table, Header& header) {
  if (too_long(table.failure()) || too_long(table.note())) return false;
  constexpr auto kLongest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  for (const std::uint64_t time_ns :
       {table.round_trip_min_ns(), table.round_trip_median_ns(), table.round_trip_p99_ns(), table.jitter_ns()}) {
    if (time_ns > kLongest) return false;
  }
  TestVerdict verdict{.failure = text_of(table.failure()),
                      .up_bps = table.up_bps(),
                      .down_bps = table.down_bps(),
                      .up_at_once_bps = table.up_at_once_bps(),
                      .down_at_once_bps = table.down_at_once_bps(),
                      .up_payload_bps = table.up_payload_bps(),
                      .down_payload_bps = table.down_payload_bps(),
                      .round_trip_min_ns = table.round_trip_min_ns(),
                      .round_trip_median_ns = table.round_trip_median_ns(),
                      .round_trip_p99_ns = table.round_trip_p99_ns(),
                      .jitter_ns = table.jitter_ns(),
                      .pings = table.pings(),
                      .retransmits = table.retransmits(),
                      .segment_bytes = table.segment_bytes(),
                      .certificate = {},
                      .note = text_of(table.note())};
  if (table.certificate() != nullptr) {
    if (table.certificate()->size() > kMaximumCertificateBytes) return false;
    const auto bytes = std::as_bytes(std::span(table.certificate()->data(), table.certificate()->size()));
    verdict.certificate.assign(bytes.begin(), bytes.end());
  }
  header = std::move(verdict);
  return true;
}

}  // namespace papilio::transport::tables
