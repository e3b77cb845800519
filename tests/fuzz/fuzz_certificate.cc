// Judges' certificates: any bytes, and any body under a judge's genuine signature. What is taken can be signed again
// and reads the same.
#include "engine/node/certificate.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "transport/statement.hpp"

namespace papilio::fuzz {
namespace {

using core::Qualification;
using core::WallTime;
using std::chrono::seconds;

const transport::Identity& judge() {
  static const transport::Identity identity = transport::Identity::from_seed(transport::SecretSeed{4, 5, 6});
  return identity;
}

Qualification sample() {
  return {.subject = judge().id(),
          .judge = judge().id(),
          .run_id = "papilio",
          .up_bps = 100'000'000,
          .down_bps = 200'000'000,
          .round_trip_median = std::chrono::milliseconds(20),
          .round_trip_p99 = std::chrono::milliseconds(40),
          .jitter = std::chrono::milliseconds(1),
          .retransmits = 7,
          .issued = WallTime(seconds(1'800'000'000)),
          .expires = WallTime(seconds(1'800'086'400)),
          .up_at_once_bps = 90'000'000,
          .down_at_once_bps = 190'000'000};
}

bool say_the_same(const Qualification& one, const Qualification& other) {
  return one.subject == other.subject && one.judge == other.judge && one.run_id == other.run_id &&
         one.up_bps == other.up_bps && one.down_bps == other.down_bps && one.jitter == other.jitter &&
         one.round_trip_median == other.round_trip_median && one.round_trip_p99 == other.round_trip_p99 &&
         one.retransmits == other.retransmits && one.issued == other.issued && one.expires == other.expires &&
         one.up_at_once_bps == other.up_at_once_bps && one.down_at_once_bps == other.down_at_once_bps;
}

void try_certificate(std::span<const std::byte> bytes) {
  const auto read = node::read_certificate(bytes);
  if (!read) return FUZZ_CHECK(!read.error().message.empty());
  FUZZ_CHECK(read->issued < read->expires && read->round_trip_median >= Duration::zero());
  FUZZ_CHECK(!core::to_text(read->expires).empty());
  if (read->judge != judge().id()) return;
  const auto again = node::read_certificate(node::sign_certificate(judge(), *read));
  FUZZ_CHECK(again && say_the_same(*again, *read));
}

}  // namespace

std::vector<Bytes> seeds() {
  const Bytes certificate = node::sign_certificate(judge(), sample());
  const Bytes body = transport::parse_statement(certificate)->body;
  std::vector<Bytes> all;
  for (const auto& [start, rest] : {std::pair{std::byte{0}, certificate}, std::pair{std::byte{1}, body}}) {
    Bytes seed = {start};
    seed.insert(seed.end(), rest.begin(), rest.end());
    all.push_back(std::move(seed));
  }
  return all;
}

}  // namespace papilio::fuzz

// The first byte: whether the rest is a certificate, or a body that is still to be signed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  constexpr std::size_t kMostBytes = 8192;
  if (size < 1 || size > kMostBytes) return 0;
  const auto rest = std::as_bytes(std::span(data, size)).subspan(1);
  if ((data[0] & 1U) == 0) {
    try_certificate(rest);
  } else {
    const auto statement = papilio::transport::make_statement(judge(), papilio::node::kCertificateDomain, rest);
    try_certificate(papilio::transport::encode(statement));
  }
  return 0;
}
