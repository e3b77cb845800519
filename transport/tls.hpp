// One TLS 1.3 connection (RFC 8446) as bytes in, bytes out: ciphertext that arrived goes in, plaintext comes out where
// the owner wants it, and the other way round. No socket, no clock of its own, no thread. Both sides show a self-signed
// certificate over their node's Ed25519 key and prove that they hold the key; nobody else's word is asked for, so there
// is no authority to trust or to bribe. OpenSSL does all of the cryptography.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/base/result.hpp"
#include "transport/identity.hpp"

struct ssl_st;
struct ssl_ctx_st;
struct x509_store_ctx_st;

namespace papilio::transport {

// Plaintext bytes of one full record.
inline constexpr std::size_t kTlsRecordBytes = std::size_t{16} << 10U;

// What all connections of one node share: its key, its certificate, what it accepts.
class TlsContext {
 public:
  static Result<TlsContext> create(const Identity& identity);

 private:
  friend class TlsSession;
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  explicit TlsContext(ssl_ctx_st* context) : context_(context) {}

  std::unique_ptr<ssl_ctx_st, Free> context_;
};

enum class TlsSide : std::uint8_t { dialler, acceptor };

enum class TlsOutcome : std::uint8_t {
  done,
  wants_input,  // all that came in is used up
  ended,        // the other side said that it sends no more
  failed,       // see failure(); output() may hold a last word to the other side
};

class TlsSession {
 public:
  // AES-GCM keys are good for 2^24.5 full records (RFC 8446, section 5.5); they are changed long before.
  static constexpr std::uint64_t kRecordsPerKey = std::uint64_t{1} << 22U;

  TlsSession(const TlsContext& context, TlsSide side, std::uint64_t records_per_key = kRecordsPerKey);
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;
  ~TlsSession();

  // Ciphertext that came in. The bytes stay where they are until input_left() is 0, which has to be so before the call.
  void give_input(std::span<const std::byte> ciphertext);
  [[nodiscard]] std::size_t input_left() const { return input_.size(); }

  // Until done. What output() holds has to be sent whatever comes out.
  TlsOutcome shake_hands();
  [[nodiscard]] bool is_established() const { return established_; }

  // Only when established. Decrypts into `into` (not empty); done with `bytes` > 0, not necessarily all of it.
  TlsOutcome read(std::span<std::byte> into, std::size_t& bytes);
  // Plaintext is at hand without further input.
  [[nodiscard]] bool has_plaintext() const;
  // Only when established. Encrypts all of it and appends it to output(): done, or failed.
  TlsOutcome write(std::span<const std::byte> plaintext);
  // No more will be sent: appends the last record to output().
  void end();

  // Ciphertext to be sent, in order. The owner takes it away by swapping or clearing.
  [[nodiscard]] std::vector<std::byte>& output() { return output_; }

  // The key that the other side has proved to hold. Only when established.
  [[nodiscard]] const PublicKey& peer_key() const { return peer_key_; }
  // Why it failed, for people; lives as long as the program.
  [[nodiscard]] std::string_view failure() const { return failure_; }
  // A record did not authenticate: the bytes were changed on their way, or made up.
  [[nodiscard]] bool is_damaged() const { return damaged_; }

 private:
  struct Bio;  // the OpenSSL end of input_ and output_
  struct Free {
    void operator()(ssl_st* session) const;
  };

  static int check_certificate(x509_store_ctx_st* store, void*);
  TlsOutcome outcome_of(int result);
  TlsOutcome fail_to_write(int result);
  void note_failure();

  std::unique_ptr<ssl_st, Free> session_;
  std::span<const std::byte> input_;
  std::vector<std::byte> output_;
  PublicKey peer_key_{};
  std::string_view objection_;  // to the other side's certificate
  std::string_view failure_;
  std::uint64_t records_per_key_;
  std::uint64_t records_ = 0;  // sent under the current key
  bool established_ = false;
  bool failed_ = false;
  bool damaged_ = false;

  friend class TlsContext;
};

// The first bytes of a connection can be TLS's (a handshake record), and are not, say, a frame without encryption.
[[nodiscard]] bool looks_like_tls(std::span<const std::byte> first_bytes);

}  // namespace papilio::transport
