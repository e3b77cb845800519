// Payloads: any bytes in any codec, and as compressed frames (tests/kernels/hostile.h says what must hold), and what a
// node makes of them for a chunk of its own.
#include "engine/node/shard_coder.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/kernels/hostile.h"

namespace papilio::fuzz {
namespace {

constexpr std::uint64_t kElements = 700;

// As a chunk's payload: unpacked only to exactly what is due.
void try_as_shard(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const auto first = static_cast<std::uint8_t>(bytes[0]);
  const node::ShardFormat format{static_cast<transport::Codec>(first & 3U),
                                 static_cast<transport::Compression>(first >> 2U & 1U)};
  bytes = bytes.subspan(1);
  static const PartitionPlan plan = PartitionPlan::make(kElements, std::vector<PlanMember>(2), 1024);
  std::vector<float> gradient(kElements, 0.5F);
  node::ShardCoder coder(node::ShardCoder::Config{});
  coder.begin(plan, 0, gradient, std::vector<node::ShardFormat>(2), {});
  const ChunkIndex chunk = first % plan.chunk_count();
  const kernels::Codec codec = node::kernel_codec(format.codec);
  const std::uint64_t size = plan.chunk(chunk).size;
  const bool fits = coder.elements_in(format, chunk, bytes.size()) == size;
  if (format.compression == transport::Compression::none) {
    FUZZ_CHECK(fits == (bytes.size() == kernels::encoded_bytes(codec, size)));
  } else if (fits) {
    std::span<const std::byte> unpacked;
    const kernels::NumberFault fault = coder.unpack(format, chunk, bytes, unpacked);
    FUZZ_CHECK(fault != kernels::NumberFault::none || unpacked.size() == kernels::encoded_bytes(codec, size));
    FUZZ_CHECK(fault == kernels::NumberFault::none || unpacked.empty());
  }
  coder.end();
}

}  // namespace

// Every codec's payload of a few hundred numbers, plain and compressed.
std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  std::vector<float> values(300);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17) * 0.25F - 2;
  for (const kernels::Codec codec : kernels::kCodecs) {
    Bytes payload(kernels::encoded_bytes(codec, values.size()));
    kernels::encode(codec, values, payload);
    Bytes frame(2 * payload.size() + 100);
    frame.resize(kernels::compress(payload, codec, 1, frame));
    for (const Bytes& bytes : {payload, frame}) {
      Bytes seed = {static_cast<std::byte>(codec), static_cast<std::byte>(values.size() % 256),
                    static_cast<std::byte>(values.size() / 256)};
      seed.insert(seed.end(), bytes.begin(), bytes.end());
      all.push_back(std::move(seed));
    }
    Bytes compressed = all[all.size() - 1];
    compressed[0] |= std::byte{0x80};
    all.push_back(std::move(compressed));
  }
  return all;
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const std::string wrong = papilio::kernels::try_hostile_bytes(bytes);
  FUZZ_CHECK_SAID(wrong.empty(), wrong);
  papilio::fuzz::try_as_shard(bytes);
  return 0;
}
