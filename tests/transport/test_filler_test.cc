// What a qualification test sends: the same for who has the key, and nothing to anybody else.
#include "transport/test_filler.hpp"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <cstring>
#include <set>
#include <vector>

namespace papilio::transport {
namespace {

std::vector<std::byte> filled(TestFiller& filler, std::uint32_t flow, std::uint64_t sequence, std::size_t bytes) {
  std::vector<std::byte> out(bytes, std::byte{0x5a});  // what was there before does not matter
  filler.fill(flow, sequence, out);
  return out;
}

TEST(TestFillerTest, BothSidesSayTheSame) {
  const FillerKey key = random_filler_key();
  TestFiller one(key), other(key);
  for (const std::size_t bytes : {1U, 15U, 16U, 17U, 1000U, 32768U}) {
    EXPECT_EQ(filled(one, 3, 1'000'000, bytes), filled(other, 3, 1'000'000, bytes));
  }
  // Whatever was asked for before.
  filled(one, 1, 1, 77);
  EXPECT_EQ(filled(one, 3, 5, 100), filled(other, 3, 5, 100));
}

TEST(TestFillerTest, EveryKeyFlowAndFrameIsAnother) {
  const FillerKey key{1, 2};
  std::set<std::vector<std::byte>> seen;
  for (const FillerKey& each : {key, FillerKey{1, 3}, FillerKey{0, 2}}) {
    TestFiller filler(each);
    for (std::uint32_t flow = 0; flow < 4; ++flow) {
      for (std::uint64_t sequence = 0; sequence < 50; ++sequence) seen.insert(filled(filler, flow, sequence, 32));
    }
  }
  EXPECT_EQ(seen.size(), 3 * 4 * 50);
}

// Block i of frame (flow, sequence) is the encryption of flow, sequence and i: asked of the cipher itself.
TEST(TestFillerTest, IsTheKeystreamOfAesInCounterMode) {
  const FillerKey key{0x0706050403020100U, 0x0f0e0d0c0b0a0908U};
  TestFiller filler(key);
  const std::vector<std::byte> bytes = filled(filler, 7, 0x0123456789abcdefU, 48);
  EVP_CIPHER_CTX* const cipher = EVP_CIPHER_CTX_new();
  ASSERT_EQ(EVP_EncryptInit_ex(cipher, EVP_aes_128_ecb(), nullptr, reinterpret_cast<const unsigned char*>(key.data()),
                               nullptr),
            1);
  for (unsigned char block = 0; block < 3; ++block) {
    const unsigned char counter[16] = {7, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, block};
    unsigned char expected[32];
    int written = 0;
    ASSERT_EQ(EVP_EncryptUpdate(cipher, expected, &written, counter, 16), 1);
    EXPECT_EQ(std::memcmp(expected, bytes.data() + std::size_t{16} * block, 16), 0) << int{block};
  }
  EVP_CIPHER_CTX_free(cipher);
}

}  // namespace
}  // namespace papilio::transport
