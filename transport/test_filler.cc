#include "transport/test_filler.hpp"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"

namespace papilio::transport {
namespace {

// The counter block: flow, sequence, and 32 bits that the cipher counts up. A payload is far shorter than 2^32 blocks.
constexpr std::size_t kBlockBytes = 16;
static_assert(kMaximumPayloadBytes / kBlockBytes < std::uint64_t{1} << 32U);

}  // namespace

FillerKey random_filler_key() { return {random_number(), random_number()}; }

std::uint64_t random_number() {
  std::uint64_t number = 0;
  PAPILIO_ASSERT(RAND_bytes(reinterpret_cast<unsigned char*>(&number), sizeof(number)) == 1);
  return number;
}

TestFiller::TestFiller(const FillerKey& key) : cipher_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {
  PAPILIO_ASSERT(cipher_ != nullptr);
  static_assert(sizeof(FillerKey) == kBlockBytes);
  PAPILIO_ASSERT(EVP_EncryptInit_ex(cipher_.get(), EVP_aes_128_ctr(), nullptr,
                                    reinterpret_cast<const unsigned char*>(key.data()), nullptr) == 1);
}

void TestFiller::fill(std::uint32_t flow, std::uint64_t sequence, std::span<std::byte> out) {
  PAPILIO_ASSERT_VALUES(out.size() <= kMaximumPayloadBytes, out.size(), kMaximumPayloadBytes);
  std::array<unsigned char, kBlockBytes> counter{};
  std::memcpy(counter.data(), &flow, sizeof(flow));
  std::memcpy(counter.data() + sizeof(flow), &sequence, sizeof(sequence));
  PAPILIO_ASSERT(EVP_EncryptInit_ex(cipher_.get(), nullptr, nullptr, nullptr, counter.data()) == 1);
  std::fill(out.begin(), out.end(), std::byte{0});  // the keystream is what it makes of zeros
  auto* const bytes = reinterpret_cast<unsigned char*>(out.data());
  int written = 0;
  PAPILIO_ASSERT(EVP_EncryptUpdate(cipher_.get(), bytes, &written, bytes, static_cast<int>(out.size())) == 1);
  PAPILIO_ASSERT_VALUES(static_cast<std::size_t>(written) == out.size(), written, out.size());
}

}  // namespace papilio::transport
