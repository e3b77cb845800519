// Who a node is: an Ed25519 key pair (RFC 8032) that nobody gave it and nobody can take away. The peer's id is the hash
// of its public key, so whoever proves to hold the key is that peer, and no list of names is needed. Everything that a
// node signs carries a domain in front, so that a signature made for one purpose says nothing in another.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"

struct evp_pkey_st;  // OpenSSL's

namespace papilio::transport {

using PublicKey = std::array<std::uint8_t, 32>;
using Signature = std::array<std::uint8_t, 64>;
using SecretSeed = std::array<std::uint8_t, 32>;

using Sha256 = std::array<std::uint8_t, 32>;
[[nodiscard]] Sha256 sha256(std::span<const std::byte> bytes);

// SHA-256 of the 32 bytes of the key.
[[nodiscard]] PeerId peer_id_of(const PublicKey& key);

// Whether `signature` is of that key's owner over that message, made for that domain. For signatures that strangers
// hand over: anything that is not one is false, never an error.
[[nodiscard]] bool verify(const PublicKey& key, std::string_view domain, std::span<const std::byte> message,
                          const Signature& signature);

// 64 hexadecimal digits, and back; nothing if it is not that.
[[nodiscard]] std::string to_hex(const PublicKey& key);
[[nodiscard]] std::optional<PeerId> peer_id_from_hex(std::string_view text);

class Identity {
 public:
  // A new key from the system's randomness.
  static Result<Identity> generate();
  // The key of a seed: for simulated hosts and tests, where a run has to repeat.
  static Identity from_seed(const SecretSeed& seed);
  // The key in that file (PEM, PKCS #8), or a new one, written there for its owner's eyes only (0600), whole or not at
  // all. A file that others can read or that is no Ed25519 key is an error that says what to do: nothing is
  // overwritten.
  static Result<Identity> load_or_create(const std::string& path);

  [[nodiscard]] const PeerId& id() const { return id_; }
  [[nodiscard]] const PublicKey& public_key() const { return public_key_; }
  [[nodiscard]] Signature sign(std::string_view domain, std::span<const std::byte> message) const;
  // For OpenSSL; lives as long as the identity or a copy of it.
  [[nodiscard]] evp_pkey_st* key() const { return key_.get(); }

 private:
  explicit Identity(evp_pkey_st* key);

  std::shared_ptr<evp_pkey_st> key_;  // never changes
  PublicKey public_key_{};
  PeerId id_;
};

}  // namespace papilio::transport
