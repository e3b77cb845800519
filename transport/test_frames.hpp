// What a candidate and a judge say to each other during a qualification test (docs/qualification.md), as plain data.
// Apart from the other frames because nodes in a round have no use for them: there each one is a violation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"

namespace papilio::transport {

// Of one TestReceipts frame.
inline constexpr std::size_t kMaximumReceipts = 256;
// Of one certificate; a name of a run of 256 bytes included, it has some 700.
inline constexpr std::size_t kMaximumCertificateBytes = 1024;

struct TestRequest {
  PeerId peer;
  std::string run_id;
  std::uint32_t duration_ms = 0;
  std::uint16_t flows = 1;
  std::uint16_t flow = 0;
  std::uint64_t session = 0;
  std::string software;
};

enum class TestWaitReason : std::uint8_t { queued = 0, busy = 1, too_often = 2, wrong_run = 3, bad_request = 4 };
struct TestWait {
  TestWaitReason reason = TestWaitReason::busy;
  std::uint32_t position = 0;
  std::uint32_t retry_after_ms = 0;
  std::string detail;
};

enum class TestPhaseKind : std::uint8_t { join = 0, round_trip = 1, up = 2, down = 3, both = 4, over = 5 };
struct TestPhase {
  TestPhaseKind kind = TestPhaseKind::join;
  std::uint32_t duration_ms = 0;
  std::uint32_t warm_up_ms = 0;
  std::uint64_t session = 0;
  std::uint16_t flows = 1;
  std::uint32_t payload_bytes = 0;
  std::uint64_t up_key_low = 0, up_key_high = 0;
};

struct TestData {
  std::uint64_t sequence = 0;
};

struct TestReceipt {
  std::uint64_t digest = 0;
  std::uint64_t sequence = 0;
  std::uint32_t flow = 0;
};
struct TestReceipts {
  std::vector<TestReceipt> receipts;  // 1 to kMaximumReceipts
};

struct TestPing {
  std::uint64_t nonce = 0;
};

struct TestTally {
  std::uint64_t up_bps = 0, down_bps = 0;
};

struct TestVerdict {
  std::string failure;
  std::uint64_t up_bps = 0, down_bps = 0;
  std::uint64_t up_at_once_bps = 0, down_at_once_bps = 0;
  std::uint64_t up_payload_bps = 0, down_payload_bps = 0;
  std::uint64_t round_trip_min_ns = 0, round_trip_median_ns = 0, round_trip_p99_ns = 0, jitter_ns = 0;
  std::uint32_t pings = 0;
  std::uint64_t retransmits = 0;
  std::uint32_t segment_bytes = 0;
  std::vector<std::byte> certificate;  // at most kMaximumCertificateBytes
  std::string note;
};

}  // namespace papilio::transport
