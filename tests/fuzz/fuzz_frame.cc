// The parser of frames: any bytes. What it takes encodes to a header that reads the same.
#include "tests/fuzz/frames.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;

// Two vectors of a table may be the same bytes on the wire; written down again they are two, and may be too long.
bool fits_when_encoded(const Header& header) {
  const auto words = [](const Bits& one, const Bits& other) { return one.size() + other.size() < 8000; };
  if (const auto* holdings = std::get_if<Holdings>(&header)) return words(holdings->held, holdings->spent);
  if (const auto* wanted = std::get_if<Wanted>(&header)) return words(wanted->contributions, wanted->averages);
  if (const auto* hello = std::get_if<Hello>(&header)) return hello->certificates.size() <= kMaximumCertificates;
  return true;
}

void try_header(std::span<const std::byte> bytes, std::size_t payload_bytes) {
  const ParsedHeader parsed = parse_frame_header(bytes);
  FUZZ_CHECK(!to_string(parsed.fault).empty());
  if (parsed.fault != FrameFault::none || !fits_when_encoded(parsed.header)) return;
  HeaderBytes once, twice;
  encode_frame_header(parsed.header, payload_bytes, once);
  const FrameSizes sizes = parse_frame_head(once);
  FUZZ_CHECK(sizes.fault == FrameFault::none && sizes.header_bytes == once.size());
  FUZZ_CHECK(sizes.payload_bytes == payload_bytes && sizes.type == type_of(parsed.header));
  const ParsedHeader again = parse_frame_header(once);
  FUZZ_CHECK(again.fault == FrameFault::none);
  encode_frame_header(again.header, payload_bytes, twice);
  FUZZ_CHECK(once == twice);
}

}  // namespace

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (const HeaderBytes& header : sample_headers()) {
    Bytes seed = {std::byte{1}};
    seed.insert(seed.end(), header.begin(), header.end());
    all.push_back(std::move(seed));
  }
  return all;
}

}  // namespace papilio::fuzz

// The first byte: whether preamble and checksum are set right.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  if (size < 1 + kPreambleBytes) return 0;
  const bool is_sealed = (data[0] & 1U) != 0;
  const auto all = std::as_bytes(std::span(data, size)).subspan(1);
  HeaderBytes bytes(all.begin(), all.end());  // aligned, as a flow has it
  if (is_sealed) {
    bytes.resize(std::min(bytes.size() / 8 * 8, papilio::kMaximumHeaderBytes));
    make_sound(bytes);
    if (bytes.size() < kPreambleBytes) return 0;
  }
  const FrameSizes sizes = parse_frame_head(bytes);
  FUZZ_CHECK(!to_string(sizes.fault).empty());
  if (sizes.fault != FrameFault::none) return 0;
  FUZZ_CHECK(sizes.header_bytes >= kFrameHeadBytes && sizes.header_bytes <= papilio::kMaximumHeaderBytes);
  FUZZ_CHECK(sizes.payload_bytes <= papilio::kMaximumPayloadBytes);
  if (sizes.header_bytes > bytes.size()) return 0;
  try_header(std::span(bytes).first(sizes.header_bytes), sizes.payload_bytes);
  return 0;
}
