// Headers of every type, filled in from the fuzzer's bytes: for targets that speak the protocol to what they test, and
// for seeds of those that read it.
#pragma once

#include <vector>

#include "engine/base/limits.hpp"
#include "tests/fuzz/draws.hpp"
#include "transport/frame.hpp"

namespace papilio::fuzz {

inline constexpr std::uint32_t kHeaderTypes = std::variant_size_v<transport::Header>;

inline transport::Bits draw_bits(Draws& draws) {
  transport::Bits bits(draws.below(6));
  for (std::uint64_t& word : bits) word = draws.number();
  return bits;
}

inline transport::Propose draw_proposal(Draws& draws, std::uint32_t peers) {
  transport::Propose propose{.round = draws.number(),
                             .epoch = draws.number(),
                             .members = {},
                             .chunk_bytes = 1U << (14 + draws.below(12)),
                             .timeout_ms = draws.number32(),
                             .attempt = draws.number32(),
                             .proposer = draws.peer(peers)};
  propose.members.resize(draws.below(8));
  for (transport::RosterMember& member : propose.members) {
    member = {draws.peer(peers), draws.number(), draws.byte() < 0xc0};
  }
  return propose;
}

inline std::vector<std::vector<std::byte>> draw_certificates(Draws& draws) {
  std::vector<std::vector<std::byte>> certificates(draws.byte() < 0xe0 ? 0 : draws.below(4));
  for (std::vector<std::byte>& each : certificates) {
    const auto bytes = draws.take(draws.number() % 1100);  // beyond what is taken
    each.assign(bytes.begin(), bytes.end());
  }
  return certificates;
}

// The header of that type (its place in the variant), whose peers are mostly among the first `peers`.
inline transport::Header draw_header(Draws& draws, std::uint32_t type, std::uint32_t peers) {
  using namespace transport;
  constexpr std::size_t kText = 600;  // beyond what is taken
  switch (static_cast<FrameType>(type % kHeaderTypes + 1)) {
    case FrameType::hello:
      return Hello{.peer = draws.peer(peers),
                   .fingerprint = {draws.number(), draws.number()},
                   .run_id = draws.text(kText),
                   .role = static_cast<WireRole>(draws.byte()),
                   .session = draws.number(),
                   .flow = draws.byte(),
                   .flows = draws.byte(),
                   .listen = draws.text(kText),
                   .rate_bytes_per_s = draws.number(),
                   .elements = draws.number(),
                   .software = draws.text(kText),
                   .certificates = draw_certificates(draws)};
    case FrameType::refusal:
      return Refusal{static_cast<RefusalReason>(draws.byte()), draws.text(kText), draws.peer(peers)};
    case FrameType::goodbye: return Goodbye{draws.text(kText)};
    case FrameType::progress: {
      transport::Progress progress{.epoch = draws.number(),
                                   .samples = draws.number(),
                                   .total_samples = draws.number(),
                                   .digest_epoch = draws.number(),
                                   .model_digest = draws.number(),
                                   .banned = {}};
      progress.banned.resize(draws.below(6));
      for (PeerId& peer : progress.banned) peer = draws.peer(peers);
      return progress;
    }
    case FrameType::propose: return draw_proposal(draws, peers);
    case FrameType::contribution:
      return Contribution{.round = draws.number(),
                          .checksum = draws.number(),
                          .chunk = draws.number32(),
                          .weight = static_cast<float>(draws.real()),
                          .codec = static_cast<Codec>(draws.below(6)),
                          .model = draws.number(),
                          .group = draws.number(),
                          .compression = static_cast<Compression>(draws.below(3))};
    case FrameType::average:
      return Average{.round = draws.number(),
                     .checksum = draws.number(),
                     .coverage = draws.number(),
                     .chunk = draws.number32(),
                     .total_weight = static_cast<float>(draws.real()),
                     .codec = static_cast<Codec>(draws.below(6)),
                     .model = draws.number(),
                     .group = draws.number(),
                     .reducer = draws.number32(),
                     .compression = static_cast<Compression>(draws.below(3))};
    case FrameType::done: return transport::Done{draws.number(), draws.number()};
    case FrameType::ready: return Ready{draws.byte()};
    case FrameType::suspect: return Suspect{draws.number(), draws.byte(), draws.chance()};
    case FrameType::takeover: return Takeover{draws.number(), draws.byte(), draws.byte()};
    case FrameType::holdings:
      return Holdings{draws.number(), draws.byte(), draws.byte(), draw_bits(draws), draw_bits(draws)};
    case FrameType::wanted: return Wanted{draws.number(), draws.byte(), draw_bits(draws), draw_bits(draws)};
    case FrameType::resume: return Resume{draws.number(), draws.number()};
    case FrameType::pulse: return Pulse{draws.number(), draws.number()};
    case FrameType::ack:
      return Ack{.round = draws.number(),
                 .attempt = draws.number32(),
                 .proposer = draws.peer(peers),
                 .answer = static_cast<RosterAnswer>(draws.byte()),
                 .promised_attempt = draws.number32(),
                 .promised_proposer = draws.peer(peers),
                 .epoch = draws.number()};
    case FrameType::commit: {
      Propose proposal = draw_proposal(draws, peers);
      return Commit{std::move(proposal), draws.number()};
    }
    case FrameType::test_request:
      return TestRequest{.peer = draws.peer(peers),
                         .run_id = draws.text(kText),
                         .duration_ms = draws.number32(),
                         .flows = draws.byte(),
                         .flow = draws.byte(),
                         .session = draws.number(),
                         .software = draws.text(kText)};
    case FrameType::test_wait:
      return TestWait{static_cast<TestWaitReason>(draws.byte()), draws.number32(), draws.number32(), draws.text(kText)};
    case FrameType::test_phase:
      return TestPhase{.kind = static_cast<TestPhaseKind>(draws.byte()),
                       .duration_ms = draws.number32(),
                       .warm_up_ms = draws.number32(),
                       .session = draws.number(),
                       .flows = draws.byte(),
                       .payload_bytes = draws.number32(),
                       .up_key_low = draws.number(),
                       .up_key_high = draws.number()};
    case FrameType::test_data: return TestData{draws.number()};
    case FrameType::test_receipts: {
      TestReceipts receipts;
      receipts.receipts.resize(draws.below(8));
      for (TestReceipt& each : receipts.receipts) each = {draws.number(), draws.number(), draws.number32()};
      return receipts;
    }
    case FrameType::test_ping: return TestPing{draws.number()};
    case FrameType::test_tally: return TestTally{draws.number(), draws.number()};
    case FrameType::test_verdict:
      return TestVerdict{.failure = draws.text(kText), .up_bps = draws.number(), .note = draws.text(kText)};
  }
  return Goodbye{};
}

// A header of every type that a node takes, as bytes.
inline std::vector<transport::HeaderBytes> sample_headers() {
  using namespace transport;
  PeerId peer;
  peer.bytes.fill(1);
  const Propose proposal{.round = 1,
                         .epoch = 0,
                         .members = {{peer, 1000, true}, {peer, 0, false}},
                         .chunk_bytes = 65536,
                         .timeout_ms = 30'000,
                         .attempt = 1,
                         .proposer = peer};
  const std::vector<Header> headers = {
      Hello{.peer = peer,
            .run_id = "papilio",
            .listen = "127.0.0.1:7001",
            .software = "papilio",
            .certificates = {std::vector<std::byte>(16)}},
      Refusal{RefusalReason::busy, "no", peer},
      Goodbye{"done"},
      transport::Progress{.epoch = 1, .samples = 2, .total_samples = 3, .banned = {peer}},
      proposal,
      Contribution{.round = 1, .weight = 1},
      Average{.round = 1, .coverage = 3, .total_weight = 2},
      transport::Done{1, 2},
      Ready{1},
      Suspect{1, 1, true},
      Takeover{1, 1, 1},
      Holdings{1, 1, 1, {5}, {6, 7}},
      Wanted{1, 1, {5}, {6}},
      Resume{1, 2},
      Pulse{1, 3},
      Ack{.round = 1, .attempt = 1, .proposer = peer},
      Commit{proposal, 3},
      TestRequest{.peer = peer, .run_id = "papilio", .software = "papilio"},
      TestWait{.detail = "later"},
      TestPhase{.payload_bytes = 65536},
      TestData{1},
      TestReceipts{{{1, 2, 3}}},
      TestPing{1},
      TestTally{1, 2},
      TestVerdict{.failure = "no", .certificate = std::vector<std::byte>(16), .note = "why"},
  };
  static_assert(kHeaderTypes == 25, "a sample of every type");
  std::vector<HeaderBytes> encoded(headers.size());
  for (std::size_t i = 0; i < headers.size(); ++i) {
    const bool carries_payload = std::holds_alternative<Contribution>(headers[i]) ||
                                 std::holds_alternative<Average>(headers[i]) ||
                                 std::holds_alternative<TestData>(headers[i]);
    encode_frame_header(headers[i], carries_payload ? 64 : 0, encoded[i]);
  }
  return encoded;
}

// As a liar would who knows the format: preamble and checksum are what they have to be for these bytes, whatever else
// they say.
inline void make_sound(std::span<std::byte> header) {
  constexpr std::byte kStart[] = {std::byte{'P'}, std::byte{'P'}, std::byte{'L'}, std::byte{'1'}};
  if (header.size() < transport::kFrameHeadBytes || header.size() > kMaximumHeaderBytes) return;
  std::copy(std::begin(kStart), std::end(kStart), header.begin());
  header[4] = static_cast<std::byte>(static_cast<std::uint8_t>(header[4]) % (kHeaderTypes + 1));
  header[5] = static_cast<std::byte>(transport::kProtocolVersion);
  const auto words = static_cast<std::uint16_t>(header.size() / 8);
  std::memcpy(&header[6], &words, sizeof(words));
  transport::seal_frame_header(header);
}

}  // namespace papilio::fuzz
