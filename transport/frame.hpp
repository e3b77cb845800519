// Framing: turns typed headers into bytes and checked bytes into typed headers. A frame is
//
//   preamble (16 bytes) | FlatBuffers table | zero padding | payload
//
// preamble, little-endian: u32 magic "PPL1", u8 type, u8 protocol version, u16 header words of 8 bytes (preamble, table
// and padding together, at least 128 bytes), u32 payload bytes, u32 checksum of the header (low half of XXH3-64 over
// bytes 0..11 and 16..end). The header is at least 128 bytes so that a reader can ask for the next one together with
// the rest of a payload without ever reading into the next payload. Sizes are checked before anything is allocated, the
// table is verified before anything is read from it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/limits.hpp"
#include "transport/identity.hpp"
#include "transport/test_frames.hpp"

namespace papilio::transport {

inline constexpr std::uint8_t kProtocolVersion = 2;
inline constexpr std::size_t kPreambleBytes = 16;
inline constexpr std::size_t kFrameHeadBytes = 128;  // what is read first of every frame

enum class FrameType : std::uint8_t {
  hello = 1,
  refusal = 2,
  goodbye = 3,
  progress = 4,
  propose = 5,
  contribution = 6,
  average = 7,
  done = 8,
  ready = 9,
  suspect = 10,
  takeover = 11,
  holdings = 12,
  wanted = 13,
  resume = 14,
  pulse = 15,
  ack = 16,
  commit = 17,
  test_request = 18,
  test_wait = 19,
  test_phase = 20,
  test_data = 21,
  test_receipts = 22,
  test_ping = 23,
  test_tally = 24,
  test_verdict = 25,
};

enum class WireRole : std::uint8_t { miner = 0, client = 1, validator = 2 };

enum class RefusalReason : std::uint8_t {
  unspecified = 0,
  protocol_version = 1,
  wrong_run = 2,
  wrong_model = 3,
  same_peer = 4,
  too_many = 5,
  banned = 6,
  busy = 7,
  security = 8,
  wrong_identity = 9,
  not_allowed = 10,
  not_qualified = 11,
};
inline constexpr std::size_t kRefusalReasons = 12;
[[nodiscard]] std::string_view to_string(RefusalReason reason);

// Of one hello.
inline constexpr std::size_t kMaximumCertificates = 8;

enum class Codec : std::uint8_t { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3 };
enum class Compression : std::uint8_t { none = 0, zstd = 1 };

// The headers, as plain data; schemas/frames.fbs says what the fields mean.
struct Hello {
  PeerId peer;
  Fingerprint fingerprint;
  std::string run_id;
  WireRole role = WireRole::miner;
  std::uint64_t session = 0;
  std::uint16_t flow = 0;
  std::uint16_t flows = 1;
  std::string listen;
  std::uint64_t rate_bytes_per_s = 0;
  std::uint64_t elements = 0;
  std::string software;
  std::vector<std::vector<std::byte>> certificates = {};  // statements; at most kMaximumCertificates
};
struct Refusal {
  RefusalReason reason = RefusalReason::unspecified;
  std::string detail;
  PeerId peer{};  // who refuses; nobody: it does not say
};
struct Goodbye {
  std::string reason;
};
struct Progress {
  std::uint64_t epoch = 0;
  std::uint64_t samples = 0;
  std::uint64_t total_samples = 0;
  std::uint64_t digest_epoch = 0;
  std::uint64_t model_digest = 0;
  std::vector<PeerId> banned = {};  // at most kMaximumMembers
};
struct RosterMember {
  PeerId peer;
  std::uint64_t rate_bytes_per_s = 0;
  bool reduces = true;
};
struct Propose {
  RoundId round = 0;
  std::uint64_t epoch = 0;
  std::vector<RosterMember> members;
  std::uint32_t chunk_bytes = 0;
  std::uint32_t timeout_ms = 0;
  std::uint32_t attempt = 0;
  PeerId proposer;
  std::uint64_t instance = 0;
};
struct Contribution {
  RoundId round = 0;
  std::uint64_t checksum = 0;
  ChunkIndex chunk = 0;
  float weight = 0;
  Codec codec = Codec::fp32;
  std::uint64_t model = 0;
  std::uint64_t group = 0;
  Compression compression = Compression::none;
};
struct Average {
  RoundId round = 0;
  std::uint64_t checksum = 0;
  Coverage coverage = 0;
  ChunkIndex chunk = 0;
  float total_weight = 0;
  Codec codec = Codec::fp32;
  std::uint64_t model = 0;
  std::uint64_t group = 0;
  MemberIndex reducer = 0;
  Compression compression = Compression::none;
};
struct Done {
  RoundId round = 0;
  std::uint64_t digest = 0;
};

struct Ready {
  std::uint16_t flows = 1;
};

// Bit i % 64 of word i / 64.
using Bits = std::vector<std::uint64_t>;

struct Suspect {
  RoundId round = 0;
  MemberIndex member = 0;
  bool withdrawn = false;
};
struct Takeover {
  RoundId round = 0;
  MemberIndex part = 0;
  std::uint32_t distance = 0;
};
struct Holdings {
  RoundId round = 0;
  MemberIndex part = 0;
  std::uint32_t distance = 0;
  Bits held;
  Bits spent;
};
struct Wanted {
  RoundId round = 0;
  MemberIndex part = 0;
  Bits contributions;
  Bits averages;
};
struct Resume {
  RoundId round = 0;
  std::uint64_t group = 0;
};
struct Pulse {
  RoundId round = 0;
  std::uint64_t waiting_for = 0;
};

enum class RosterAnswer : std::uint8_t {
  acknowledged = 0,
  promised_higher = 1,
  busy = 2,
  other_epoch = 3,
  wrong_entry = 4,
  too_far_ahead = 5,
  left_out = 6,
  withdrawn = 7,
  no_credit = 8,
  incomplete = 9,
};
// A signature, and the key that the signer's id is the hash of.
struct Consent {
  PublicKey key{};
  Signature signature{};
  bool operator==(const Consent&) const = default;
};
struct Ack {
  RoundId round = 0;
  std::uint32_t attempt = 0;
  PeerId proposer;
  RosterAnswer answer = RosterAnswer::acknowledged;
  std::uint32_t promised_attempt = 0;
  PeerId promised_proposer;
  std::uint64_t epoch = 0;
  std::optional<Consent> consent = {};
};
struct Commit {
  Propose proposal;
  std::uint64_t mask = 0;
  std::vector<Consent> consents = {};  // none: not signed
  Signature seal{};                    // means nothing then
};

// Alternatives in the order of FrameType, so that index() + 1 is the type.
using Header = std::variant<Hello, Refusal, Goodbye, Progress, Propose, Contribution, Average, Done, Ready, Suspect,
                            Takeover, Holdings, Wanted, Resume, Pulse, Ack, Commit, TestRequest, TestWait, TestPhase,
                            TestData, TestReceipts, TestPing, TestTally, TestVerdict>;
[[nodiscard]] FrameType type_of(const Header& header);
// Of a qualification test: nothing that belongs into a round.
[[nodiscard]] bool is_of_test(const Header& header);

// A header in wire form, kept by value: small headers (all that carry payload) need no allocation of their own.
using HeaderBytes = std::vector<std::byte>;

// Writes header and preamble into `out` (replacing what it held; capacity is reused).
void encode_frame_header(const Header& header, std::size_t payload_bytes, HeaderBytes& out);

// Writes the checksum that belongs to the rest of an encoded header. For tests and the simulator, whose liars must get
// past it.
void seal_frame_header(std::span<std::byte> header);

// What is wrong with bytes that a peer sent.
enum class FrameFault : std::uint8_t {
  none,
  not_papilio,       // magic differs: another protocol
  encrypted,         // TLS, where nothing was to be encrypted
  protocol_version,  // a version this build does not speak
  unknown_type,
  bad_length,    // header or payload beyond the limits, or not of this type
  bad_checksum,  // damaged header
  bad_table,     // the FlatBuffer does not verify or lacks a required field
};
[[nodiscard]] std::string_view to_string(FrameFault fault);

// From the first kFrameHeadBytes of a frame: its sizes, checked against the limits.
struct FrameSizes {
  FrameFault fault = FrameFault::none;
  FrameType type = FrameType::hello;
  std::size_t header_bytes = 0;
  std::size_t payload_bytes = 0;
};
[[nodiscard]] FrameSizes parse_frame_head(std::span<const std::byte> head);

// The whole header, header_bytes long. Only contributions, averages and test data may carry payload.
struct ParsedHeader {
  FrameFault fault = FrameFault::none;
  Header header;
};
[[nodiscard]] ParsedHeader parse_frame_header(std::span<const std::byte> bytes);

}  // namespace papilio::transport
