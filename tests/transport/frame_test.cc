// Headers as bytes: everything that is written is read back, and nothing that was damaged, cut short or made up is
// taken for a header.
#include "transport/frame.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::transport {
namespace {

PeerId peer(int number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number));
  return id;
}

Hello hello() {
  return {.peer = peer(7),
          .fingerprint = {.low = 1, .high = ~std::uint64_t{0}},
          .run_id = "a run",
          .role = WireRole::client,
          .session = 0x0123456789abcdefU,
          .flow = 3,
          .flows = 4,
          .listen = "[::1]:31337",
          .rate_bytes_per_s = 25'000'000,
          .elements = kMaximumElements,
          .software = "papilio test"};
}

Propose propose(std::size_t members) {
  Propose start{.round = 9,
                .epoch = 8,
                .members = {},
                .chunk_bytes = kMinimumChunkBytes,
                .timeout_ms = 30000,
                .attempt = 3,
                .proposer = peer(0)};
  for (std::size_t i = 0; i < members; ++i) {
    start.members.push_back({.peer = peer(static_cast<int>(i)), .rate_bytes_per_s = i * 1000, .reduces = i % 3 != 0});
  }
  return start;
}

Ack ack() {
  return {.round = 9,
          .attempt = 3,
          .proposer = peer(1),
          .answer = RosterAnswer::withdrawn,
          .promised_attempt = 4,
          .promised_proposer = peer(2),
          .epoch = 8};
}

Consent consent_of(std::size_t number) {
  Consent consent;
  consent.key.fill(static_cast<std::uint8_t>(number));
  consent.signature.fill(static_cast<std::uint8_t>(number + 1));
  return consent;
}

Ack signed_ack() {
  Ack answer = ack();
  answer.answer = RosterAnswer::acknowledged;
  answer.consent = consent_of(3);
  return answer;
}

Commit signed_commit(std::size_t members) {
  Commit commit{.proposal = propose(members), .mask = ~std::uint64_t{0}};
  commit.proposal.instance = 77;
  for (std::size_t member = 0; member < members; ++member) commit.consents.push_back(consent_of(member));
  commit.seal.fill(9);
  return commit;
}

TestRequest request() {
  return {.peer = peer(7),
          .run_id = "a run",
          .duration_ms = 9500,
          .flows = 4,
          .flow = 4,
          .session = 77,
          .software = "papilio test"};
}

TestReceipts receipts(std::size_t count) {
  TestReceipts all;
  for (std::size_t i = 0; i < count; ++i) {
    all.receipts.push_back({.digest = i * 77, .sequence = i, .flow = static_cast<std::uint32_t>(i % 4)});
  }
  return all;
}

TestVerdict verdict() {
  return {.failure = "none",
          .up_bps = 1,
          .down_bps = 2,
          .up_at_once_bps = 3,
          .down_at_once_bps = 4,
          .up_payload_bps = 5,
          .down_payload_bps = 6,
          .round_trip_min_ns = 7,
          .round_trip_median_ns = 8,
          .round_trip_p99_ns = 9,
          .jitter_ns = 10,
          .pings = 11,
          .retransmits = 12,
          .segment_bytes = 13,
          .certificate = std::vector<std::byte>(kMaximumCertificateBytes, std::byte{14}),
          .note = "note"};
}

// One of each type, and the large ones.
std::vector<Header> every_header() {
  return {hello(),
          Refusal{.reason = RefusalReason::wrong_model, .detail = "other parameters"},
          Goodbye{"done"},
          Progress{.epoch = 1, .samples = 2, .total_samples = 3, .digest_epoch = 4, .model_digest = 5},
          propose(2),
          Contribution{.round = 5,
                       .checksum = 0xfeedU,
                       .chunk = 6,
                       .weight = 1.5F,
                       .codec = Codec::int8,
                       .compression = Compression::zstd},
          Average{.round = 5,
                  .checksum = 0xbeefU,
                  .coverage = ~Coverage{0},
                  .chunk = ~ChunkIndex{0},
                  .total_weight = 64,
                  .codec = Codec::bf16,
                  .model = 77,
                  .group = ~std::uint64_t{0},
                  .reducer = 63,
                  .compression = Compression::zstd},
          Done{~RoundId{0}, 5},
          Ready{16},
          ack(),
          Commit{.proposal = propose(2), .mask = 3},
          signed_ack(),
          signed_commit(2),
          signed_commit(kMaximumMembers),
          propose(1),
          propose(kMaximumMembers),
          Commit{.proposal = propose(kMaximumMembers), .mask = ~std::uint64_t{0}},
          request(),
          TestWait{.reason = TestWaitReason::too_often, .position = 3, .retry_after_ms = 45000, .detail = "later"},
          TestPhase{.kind = TestPhaseKind::both,
                    .duration_ms = 2600,
                    .warm_up_ms = 1000,
                    .session = 77,
                    .flows = 4,
                    .payload_bytes = 32768,
                    .up_key_low = 1,
                    .up_key_high = ~std::uint64_t{0}},
          TestData{5},
          receipts(1),
          receipts(kMaximumReceipts),
          TestPing{~std::uint64_t{0}},
          TestTally{.up_bps = 1, .down_bps = 2},
          verdict()};
}

HeaderBytes encode(const Header& header, std::size_t payload_bytes = 0) {
  HeaderBytes bytes(7, std::byte{0xff});  // what was in there before does not matter
  encode_frame_header(header, payload_bytes, bytes);
  return bytes;
}

std::size_t payload_for(const Header& header) {
  const FrameType type = type_of(header);
  const bool carries = type == FrameType::contribution || type == FrameType::average || type == FrameType::test_data;
  return carries ? 65536 : 0;
}

// As a flow does it: the head first, then, only if its sizes are credible, the whole header.
FrameFault fault_of(std::span<const std::byte> bytes) {
  const FrameSizes sizes = parse_frame_head(bytes.first(kFrameHeadBytes));
  if (sizes.fault != FrameFault::none) return sizes.fault;
  if (sizes.header_bytes > bytes.size()) return FrameFault::bad_length;  // a flow would wait for the rest
  return parse_frame_header(bytes.first(sizes.header_bytes)).fault;
}

bool equal(const Header& one, const Header& other) { return encode(one) == encode(other); }

TEST(Frame, EveryHeaderComesBack) {
  for (const Header& header : every_header()) {
    const HeaderBytes bytes = encode(header, payload_for(header));
    ASSERT_GE(bytes.size(), kFrameHeadBytes);
    ASSERT_EQ(bytes.size() % 8, 0U);
    const FrameSizes sizes = parse_frame_head(std::span(bytes).first(kFrameHeadBytes));
    ASSERT_EQ(sizes.fault, FrameFault::none) << to_string(sizes.fault);
    EXPECT_EQ(sizes.type, type_of(header));
    EXPECT_EQ(sizes.header_bytes, bytes.size());
    EXPECT_EQ(sizes.payload_bytes, payload_for(header));
    const ParsedHeader parsed = parse_frame_header(bytes);
    ASSERT_EQ(parsed.fault, FrameFault::none) << to_string(parsed.fault);
    EXPECT_TRUE(equal(parsed.header, header)) << header.index();
  }
}

TEST(Frame, EveryFieldComesBack) {
  const auto parse = [](const Header& header) {
    return parse_frame_header(encode(header, payload_for(header))).header;
  };
  const auto greeting = std::get<Hello>(parse(hello()));
  EXPECT_EQ(greeting.peer, peer(7));
  EXPECT_EQ(greeting.fingerprint, hello().fingerprint);
  EXPECT_EQ(greeting.run_id, "a run");
  EXPECT_EQ(greeting.role, WireRole::client);
  EXPECT_EQ(greeting.session, 0x0123456789abcdefU);
  EXPECT_EQ(greeting.flow, 3);
  EXPECT_EQ(greeting.flows, 4);
  EXPECT_EQ(greeting.listen, "[::1]:31337");
  EXPECT_EQ(greeting.rate_bytes_per_s, 25'000'000U);
  EXPECT_EQ(greeting.elements, kMaximumElements);
  EXPECT_EQ(greeting.software, "papilio test");
  const auto start = std::get<Propose>(parse(propose(kMaximumMembers)));
  ASSERT_EQ(start.members.size(), kMaximumMembers);
  EXPECT_EQ(start.round, 9U);
  EXPECT_EQ(start.epoch, 8U);
  EXPECT_EQ(start.chunk_bytes, kMinimumChunkBytes);
  EXPECT_EQ(start.timeout_ms, 30000U);
  EXPECT_EQ(start.attempt, 3U);
  EXPECT_EQ(start.proposer, peer(0));
  EXPECT_EQ(start.members[63].peer, peer(63));
  EXPECT_EQ(start.members[62].rate_bytes_per_s, 62000U);
  EXPECT_FALSE(start.members[63].reduces);
  EXPECT_TRUE(start.members[62].reduces);
  const auto answer = std::get<Ack>(parse(ack()));
  EXPECT_EQ(answer.round, 9U);
  EXPECT_EQ(answer.attempt, 3U);
  EXPECT_EQ(answer.proposer, peer(1));
  EXPECT_EQ(answer.answer, RosterAnswer::withdrawn);
  EXPECT_EQ(answer.promised_attempt, 4U);
  EXPECT_EQ(answer.promised_proposer, peer(2));
  EXPECT_EQ(answer.epoch, 8U);
  const auto commit = std::get<Commit>(parse(Commit{.proposal = propose(3), .mask = 5}));
  EXPECT_EQ(commit.mask, 5U);
  EXPECT_EQ(commit.proposal.members.size(), 3U);
  EXPECT_EQ(commit.proposal.proposer, peer(0));
  const auto average = std::get<Average>(parse(every_header()[6]));
  EXPECT_EQ(average.coverage, ~Coverage{0});
  EXPECT_EQ(average.chunk, ~ChunkIndex{0});
  EXPECT_EQ(average.total_weight, 64);
  EXPECT_EQ(average.codec, Codec::bf16);
  EXPECT_EQ(average.reducer, 63U);
  EXPECT_EQ(average.compression, Compression::zstd);
  EXPECT_EQ(average.model, 77U);
  EXPECT_EQ(average.group, ~std::uint64_t{0});
  const auto contribution = std::get<Contribution>(parse(every_header()[5]));
  EXPECT_EQ(contribution.round, 5U);
  EXPECT_EQ(contribution.checksum, 0xfeedU);
  EXPECT_EQ(contribution.chunk, 6U);
  EXPECT_EQ(contribution.weight, 1.5F);
  EXPECT_EQ(contribution.codec, Codec::int8);
  EXPECT_EQ(contribution.compression, Compression::zstd);
}

TEST(Frame, EveryFieldOfATestComesBack) {
  const auto parse = [](const Header& header) {
    return parse_frame_header(encode(header, payload_for(header))).header;
  };
  const auto asked = std::get<TestRequest>(parse(request()));
  EXPECT_EQ(asked.peer, peer(7));
  EXPECT_EQ(asked.run_id, "a run");
  EXPECT_EQ(asked.duration_ms, 9500U);
  EXPECT_EQ(asked.flows, 4);
  EXPECT_EQ(asked.flow, 4);
  EXPECT_EQ(asked.session, 77U);
  const auto told = std::get<TestVerdict>(parse(verdict()));
  EXPECT_EQ(told.failure, "none");
  EXPECT_EQ(told.up_bps, 1U);
  EXPECT_EQ(told.down_bps, 2U);
  EXPECT_EQ(told.up_at_once_bps, 3U);
  EXPECT_EQ(told.down_at_once_bps, 4U);
  EXPECT_EQ(told.up_payload_bps, 5U);
  EXPECT_EQ(told.down_payload_bps, 6U);
  EXPECT_EQ(told.round_trip_min_ns, 7U);
  EXPECT_EQ(told.round_trip_median_ns, 8U);
  EXPECT_EQ(told.round_trip_p99_ns, 9U);
  EXPECT_EQ(told.jitter_ns, 10U);
  EXPECT_EQ(told.pings, 11U);
  EXPECT_EQ(told.retransmits, 12U);
  EXPECT_EQ(told.segment_bytes, 13U);
  EXPECT_EQ(told.certificate, verdict().certificate);
  EXPECT_EQ(told.note, "note");
  const auto signed_for = std::get<TestReceipts>(parse(receipts(kMaximumReceipts)));
  ASSERT_EQ(signed_for.receipts.size(), kMaximumReceipts);
  EXPECT_EQ(signed_for.receipts[201].digest, 201U * 77);
  EXPECT_EQ(signed_for.receipts[201].sequence, 201U);
  EXPECT_EQ(signed_for.receipts[201].flow, 1U);
}

TEST(Frame, TestsKeepToTheirLimits) {
  const auto fault = [](const Header& header) { return fault_of(encode(header, payload_for(header))); };
  EXPECT_EQ(fault(receipts(0)), FrameFault::bad_table);
  EXPECT_EQ(fault(receipts(kMaximumReceipts + 1)), FrameFault::bad_table);
  TestRequest asked = request();
  asked.flows = kMaximumFlows;
  EXPECT_EQ(fault(asked), FrameFault::none);
  asked.flows = kMaximumFlows + 1;
  EXPECT_EQ(fault(asked), FrameFault::bad_table);
  asked = request();
  asked.flow = 5;  // of 4
  EXPECT_EQ(fault(asked), FrameFault::bad_table);
  TestPhase phase{.payload_bytes = kMaximumPayloadBytes};
  EXPECT_EQ(fault(phase), FrameFault::none);
  phase.payload_bytes += 1;
  EXPECT_EQ(fault(phase), FrameFault::bad_table);
  phase.payload_bytes = 0;
  EXPECT_EQ(fault(phase), FrameFault::bad_table);
  TestVerdict told = verdict();
  told.certificate.push_back({});
  EXPECT_EQ(fault(told), FrameFault::bad_table);
  told = verdict();
  told.jitter_ns = std::uint64_t{1} << 63U;
  EXPECT_EQ(fault(told), FrameFault::bad_table);
}

TEST(Frame, OnlyFramesOfATestAreOfATest) {
  EXPECT_TRUE(is_of_test(TestRequest{}));
  EXPECT_TRUE(is_of_test(TestData{}));
  EXPECT_TRUE(is_of_test(TestVerdict{}));
  EXPECT_FALSE(is_of_test(Commit{}));
  EXPECT_FALSE(is_of_test(Hello{}));
}

TEST(Frame, TheTypeIsTheAlternative) {
  EXPECT_EQ(type_of(Hello{}), FrameType::hello);
  EXPECT_EQ(type_of(Propose{}), FrameType::propose);
  EXPECT_EQ(type_of(Average{}), FrameType::average);
  EXPECT_EQ(type_of(Ready{}), FrameType::ready);
  EXPECT_EQ(type_of(Ack{}), FrameType::ack);
  EXPECT_EQ(type_of(Commit{}), FrameType::commit);
  EXPECT_EQ(type_of(TestRequest{}), FrameType::test_request);
  EXPECT_EQ(type_of(TestData{}), FrameType::test_data);
  EXPECT_EQ(type_of(TestVerdict{}), FrameType::test_verdict);
}

TEST(Frame, EveryFlippedBitIsRefused) {
  for (const Header& header : every_header()) {
    const HeaderBytes whole = encode(header, payload_for(header));
    for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
      HeaderBytes bytes = whole;
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      EXPECT_NE(fault_of(bytes), FrameFault::none) << "header " << header.index() << ", bit " << bit;
    }
  }
}

TEST(Frame, EveryTruncationIsRefused) {
  for (const Header& header : every_header()) {
    const HeaderBytes whole = encode(header, payload_for(header));
    for (std::size_t cut = 0; cut < whole.size(); ++cut) {
      // The stream went on with something else: zeros, or the beginning of the next frame.
      for (const bool zeros : {true, false}) {
        HeaderBytes bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut));
        const HeaderBytes next = zeros ? HeaderBytes(whole.size()) : whole;
        bytes.insert(bytes.end(), next.begin(), next.end());
        bytes.resize(whole.size());
        if (bytes == whole) continue;  // only padding was cut
        EXPECT_NE(fault_of(bytes), FrameFault::none) << "header " << header.index() << ", cut at " << cut;
      }
    }
  }
}

void put(HeaderBytes& bytes, std::size_t offset, auto value) { std::memcpy(&bytes[offset], &value, sizeof(value)); }

TEST(Frame, SizesAreRefusedFromTheHeadAlone) {
  const auto head_fault = [](const HeaderBytes& bytes) { return parse_frame_head(bytes).fault; };
  const HeaderBytes shard = encode(Contribution{}, 1);
  const auto with_payload = [&](std::uint32_t payload) {
    HeaderBytes bytes = shard;
    put(bytes, 8, payload);
    return head_fault(bytes);
  };
  EXPECT_EQ(with_payload(1), FrameFault::none);
  EXPECT_EQ(with_payload(0), FrameFault::bad_length);
  EXPECT_EQ(with_payload(static_cast<std::uint32_t>(kMaximumPayloadBytes)), FrameFault::none);
  EXPECT_EQ(with_payload(static_cast<std::uint32_t>(kMaximumPayloadBytes + 1)), FrameFault::bad_length);
  EXPECT_EQ(with_payload(~std::uint32_t{0}), FrameFault::bad_length);
  const auto with_words = [&](std::uint16_t words) {
    HeaderBytes bytes = shard;
    put(bytes, 6, words);
    return head_fault(bytes);
  };
  EXPECT_EQ(with_words(kFrameHeadBytes / 8), FrameFault::none);
  EXPECT_EQ(with_words(kFrameHeadBytes / 8 - 1), FrameFault::bad_length);
  EXPECT_EQ(with_words(0), FrameFault::bad_length);
  EXPECT_EQ(with_words(kMaximumHeaderBytes / 8), FrameFault::none);
  EXPECT_EQ(with_words(kMaximumHeaderBytes / 8 + 1), FrameFault::bad_length);
  EXPECT_EQ(with_words(0xffff), FrameFault::bad_length);
}

TEST(Frame, OnlyShardsCarryPayload) {
  for (const Header& header : every_header()) {
    HeaderBytes bytes = encode(header, payload_for(header));
    put(bytes, 8, std::uint32_t{4096});
    const bool may = payload_for(header) > 0;
    EXPECT_EQ(parse_frame_head(bytes).fault, may ? FrameFault::none : FrameFault::bad_length) << header.index();
    put(bytes, 8, std::uint32_t{0});
    EXPECT_EQ(parse_frame_head(bytes).fault, may ? FrameFault::bad_length : FrameFault::none) << header.index();
  }
}

TEST(Frame, OtherProtocolsVersionsAndTypesAreToldApart) {
  const auto text_fault = [](std::string_view text) {
    HeaderBytes bytes(kFrameHeadBytes, std::byte{' '});
    std::memcpy(bytes.data(), text.data(), std::min(text.size(), bytes.size()));
    return parse_frame_head(bytes).fault;
  };
  EXPECT_EQ(text_fault("GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8\r\n\r\n"), FrameFault::not_papilio);
  EXPECT_EQ(text_fault("SSH-2.0-OpenSSH_9.2\r\n"), FrameFault::not_papilio);
  EXPECT_EQ(text_fault("\x16\x03\x01\x02"), FrameFault::encrypted);
  EXPECT_EQ(text_fault("\x16\x02\x01\x02"), FrameFault::not_papilio);
  EXPECT_EQ(text_fault("PPL0"), FrameFault::not_papilio);
  EXPECT_EQ(parse_frame_head(HeaderBytes(kFrameHeadBytes)).fault, FrameFault::not_papilio);
  HeaderBytes bytes = encode(Goodbye{"x"});
  for (int version = 0; version < 256; ++version) {
    put(bytes, 5, static_cast<std::uint8_t>(version));
    EXPECT_EQ(parse_frame_head(bytes).fault,
              version == kProtocolVersion ? FrameFault::none : FrameFault::protocol_version);
  }
  bytes = encode(Goodbye{"x"});
  for (int type = 0; type < 256; ++type) {
    put(bytes, 4, static_cast<std::uint8_t>(type));
    const FrameFault fault = parse_frame_head(bytes).fault;
    EXPECT_EQ(fault == FrameFault::unknown_type, type < 1 || type > static_cast<int>(FrameType::test_verdict)) << type;
  }
}

TEST(Frame, FieldsOutOfRangeAreRefusedThoughTheChecksumIsRight) {
  const auto fault = [](const Header& header) { return fault_of(encode(header, payload_for(header))); };
  Hello greeting = hello();
  greeting.flows = kMaximumFlows;
  EXPECT_EQ(fault(greeting), FrameFault::none);
  greeting.flows = kMaximumFlows + 1;
  EXPECT_EQ(fault(greeting), FrameFault::bad_table);
  greeting = hello();
  greeting.flow = greeting.flows;
  EXPECT_EQ(fault(greeting), FrameFault::bad_table);
  greeting = hello();
  greeting.flow = greeting.flows = 0;
  EXPECT_EQ(fault(greeting), FrameFault::bad_table);
  greeting = hello();
  greeting.role = static_cast<WireRole>(3);
  EXPECT_EQ(fault(greeting), FrameFault::bad_table);
  greeting = hello();
  greeting.run_id = std::string(512, 'x');
  EXPECT_EQ(fault(greeting), FrameFault::none);
  greeting.run_id += 'x';
  EXPECT_EQ(fault(greeting), FrameFault::bad_table);

  EXPECT_EQ(fault(propose(0)), FrameFault::bad_table);
  EXPECT_EQ(fault(propose(kMaximumMembers)), FrameFault::none);
  EXPECT_EQ(fault(propose(kMaximumMembers + 1)), FrameFault::bad_table);
  for (const std::size_t bytes :
       {kMinimumChunkBytes / 2, kMaximumChunkBytes * 2, kMinimumChunkBytes + 1, std::size_t{0}}) {
    Propose start = propose(2);
    start.chunk_bytes = static_cast<std::uint32_t>(bytes);
    EXPECT_EQ(fault(start), FrameFault::bad_table) << bytes;
  }
  Propose start = propose(2);
  start.timeout_ms = 0;
  EXPECT_EQ(fault(start), FrameFault::bad_table);

  Ack answer = ack();
  answer.answer = static_cast<RosterAnswer>(10);
  EXPECT_EQ(fault(answer), FrameFault::bad_table);
  EXPECT_EQ(fault(Commit{.proposal = propose(kMaximumMembers + 1), .mask = 1}), FrameFault::bad_table);

  EXPECT_EQ(fault(Contribution{.codec = static_cast<Codec>(4)}), FrameFault::bad_table);
  EXPECT_EQ(fault(Average{.codec = static_cast<Codec>(255)}), FrameFault::bad_table);
  EXPECT_EQ(fault(Contribution{.compression = static_cast<Compression>(2)}), FrameFault::bad_table);
  EXPECT_EQ(fault(Average{.compression = static_cast<Compression>(255)}), FrameFault::bad_table);
  // A reason that this build does not know is still a refusal.
  const Header unknown = Refusal{.reason = static_cast<RefusalReason>(200), .detail = "new"};
  const ParsedHeader parsed = parse_frame_header(encode(unknown));
  ASSERT_EQ(parsed.fault, FrameFault::none);
  EXPECT_EQ(std::get<Refusal>(parsed.header).reason, RefusalReason::unspecified);
}

// With as many members and signatures as there can be, it is read back as it was; with one more it is not read.
TEST(Frame, SignaturesOfRostersTravel) {
  Commit commit = signed_commit(kMaximumMembers);
  const HeaderBytes bytes = encode(commit);
  EXPECT_LE(bytes.size(), kMaximumHeaderBytes);
  const ParsedHeader parsed = parse_frame_header(bytes);
  ASSERT_EQ(parsed.fault, FrameFault::none);
  const Commit& read = std::get<Commit>(parsed.header);
  EXPECT_EQ(read.consents, commit.consents);
  EXPECT_EQ(read.seal, commit.seal);
  EXPECT_EQ(read.proposal.instance, 77U);
  commit.consents.push_back(consent_of(64));
  EXPECT_EQ(fault_of(encode(commit)), FrameFault::bad_table);

  Ack answer{.round = 1, .attempt = 1, .consent = consent_of(3)};
  const ParsedHeader parsed_answer = parse_frame_header(encode(answer));
  ASSERT_EQ(parsed_answer.fault, FrameFault::none);
  EXPECT_EQ(std::get<Ack>(parsed_answer.header).consent, answer.consent);
  answer.consent.reset();
  EXPECT_FALSE(std::get<Ack>(parse_frame_header(encode(answer)).header).consent);
}

// Elements of eight bytes that lie across their alignment pass the verifier, and could not be read as they lie.
TEST(Frame, VectorsAcrossTheirAlignmentAreRefused) {
  constexpr std::uint64_t kWord = 0x0123456789abcdefU;
  HeaderBytes bytes = encode(Wanted{.round = 1, .part = 1, .contributions = {kWord, kWord}, .averages = {}});
  ASSERT_EQ(fault_of(bytes), FrameFault::none);
  const auto word = std::as_bytes(std::span(&kWord, 1));
  const auto found = std::search(bytes.begin(), bytes.end(), word.begin(), word.end());
  ASSERT_NE(found, bytes.end());
  const auto elements = static_cast<std::size_t>(found - bytes.begin());
  const std::size_t vector = elements - sizeof(std::uint32_t);
  int moved = 0;
  for (std::size_t at = kPreambleBytes; at < vector; at += sizeof(std::uint32_t)) {
    std::uint32_t offset = 0;
    std::memcpy(&offset, &bytes[at], sizeof(offset));
    if (at + offset != vector) continue;
    offset += sizeof(std::uint32_t);
    std::memcpy(&bytes[at], &offset, sizeof(offset));
    moved += 1;
  }
  ASSERT_EQ(moved, 1);
  const std::uint32_t one_word = 1;
  std::memcpy(&bytes[elements], &one_word, sizeof(one_word));
  seal_frame_header(bytes);
  EXPECT_EQ(fault_of(bytes), FrameFault::bad_table);
  // Without elements a vector lies anywhere.
  for (const Bits& bits : {Bits(), Bits{1}, Bits{1, 2, 3}}) {
    EXPECT_EQ(fault_of(encode(Wanted{.round = 1, .part = 1, .contributions = bits, .averages = {}})), FrameFault::none);
    EXPECT_EQ(fault_of(encode(Wanted{.round = 1, .part = 1, .contributions = {}, .averages = bits})), FrameFault::none);
    EXPECT_EQ(fault_of(encode(Holdings{.round = 1, .part = 1, .distance = 1, .held = {}, .spent = bits})),
              FrameFault::none);
  }
}

// Words for people are cut to what the other side takes: a refusal must not be refused itself.
TEST(Frame, LongExplanationsAreCutNotRefused) {
  const std::string long_text(5000, 'y');
  const ParsedHeader refusal = parse_frame_header(encode(Refusal{RefusalReason::wrong_run, long_text}));
  ASSERT_EQ(refusal.fault, FrameFault::none);
  EXPECT_EQ(std::get<Refusal>(refusal.header).detail, long_text.substr(0, 512));
  const ParsedHeader goodbye = parse_frame_header(encode(Goodbye{long_text}));
  ASSERT_EQ(goodbye.fault, FrameFault::none);
  EXPECT_EQ(std::get<Goodbye>(goodbye.header).reason, long_text.substr(0, 512));
}

TEST(Frame, RandomBytesAreNeverAHeader) {
  Random random(11);
  HeaderBytes bytes(kMaximumHeaderBytes);
  for (int i = 0; i < 100'000; ++i) {
    for (std::size_t word = 0; word < 48; ++word) put(bytes, word * 8, random.next());
    put(bytes, 0, std::uint32_t{0x314c5050});  // so that they get further than the magic
    if (i % 2 == 0) put(bytes, 4, static_cast<std::uint16_t>(0x0101 + random.below(17)));
    if (i % 4 == 0) put(bytes, 6, static_cast<std::uint16_t>(16 + random.below(32)));
    if (i % 4 == 0) put(bytes, 8, random.chance(0.5) ? std::uint32_t{0} : std::uint32_t{4096});
    EXPECT_NE(fault_of(bytes), FrameFault::none) << i;
  }
}

// Damage behind a right checksum: what only somebody who means it can make. Nothing may be read out of bounds (the
// sanitizer builds watch), whatever the table says.
TEST(Frame, TablesWithARightChecksumAndRandomDamageAreSafe) {
  Random random(12);
  for (const Header& header : every_header()) {
    const HeaderBytes whole = encode(header, payload_for(header));
    for (int i = 0; i < 2000; ++i) {
      HeaderBytes bytes = whole;
      for (std::uint64_t n = 1 + random.below(4); n > 0; --n) {
        bytes[kPreambleBytes + random.below(bytes.size() - kPreambleBytes)] =
            static_cast<std::byte>(random.next() & 255U);
      }
      seal_frame_header(bytes);
      const FrameFault fault = fault_of(bytes);
      EXPECT_TRUE(fault == FrameFault::none || fault == FrameFault::bad_table) << to_string(fault);
    }
    // And one type's table under another's name.
    for (std::uint8_t type = 1; type <= 17; ++type) {
      HeaderBytes bytes = whole;
      put(bytes, 4, type);
      put(bytes, 8, type == 6 || type == 7 ? std::uint32_t{64} : std::uint32_t{0});
      seal_frame_header(bytes);
      const FrameFault fault = fault_of(bytes);
      EXPECT_TRUE(fault == FrameFault::none || fault == FrameFault::bad_table) << to_string(fault);
    }
  }
}

}  // namespace
}  // namespace papilio::transport
