// The bytes that a qualification test sends: the keystream of AES-128 in counter mode, which nothing on the way can
// compress and nobody without the key can foresee. Whoever has the key can say for every frame what is in it, so that
// the judge can check what comes up without having it sent twice.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

struct evp_cipher_ctx_st;  // OpenSSL's

namespace papilio::transport {

using FillerKey = std::array<std::uint64_t, 2>;

// From the system's randomness; aborts where it gives none.
[[nodiscard]] FillerKey random_filler_key();
[[nodiscard]] std::uint64_t random_number();

class TestFiller {
 public:
  explicit TestFiller(const FillerKey& key);

  // The payload of frame `sequence` of that flow.
  void fill(std::uint32_t flow, std::uint64_t sequence, std::span<std::byte> out);

 private:
  std::unique_ptr<evp_cipher_ctx_st, void (*)(evp_cipher_ctx_st*)> cipher_;
};

}  // namespace papilio::transport
