#include "transport/tls.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/assert.hpp"

namespace papilio::transport {
namespace {

using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

// A key does not age, and neither does the certificate that only carries it: RFC 5280, section 4.1.2.5, has this date
// for what never ends. Whom to let in for how long is decided elsewhere (bans, qualification).
Certificate make_certificate(const Identity& identity) {
  Certificate certificate(X509_new(), X509_free);
  X509* const x509 = certificate.get();
  bool good = x509 != nullptr && X509_set_version(x509, X509_VERSION_3) == 1 &&
              ASN1_INTEGER_set(X509_get_serialNumber(x509), 1) == 1 &&
              ASN1_TIME_set_string(X509_getm_notBefore(x509), "19700101000000Z") == 1 &&
              ASN1_TIME_set_string(X509_getm_notAfter(x509), "99991231235959Z") == 1;
  if (good) {
    X509_NAME* const name = X509_get_subject_name(x509);
    good = X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("papilio"), -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(x509, name) == 1 && X509_set_pubkey(x509, identity.key()) == 1 &&
           X509_sign(x509, identity.key(), nullptr) > 0;
  }
  if (!good) certificate.reset();
  return certificate;
}

// What is wrong with a certificate as such; empty: it is a node's.
std::string_view objection_to(X509* certificate) {
  if (certificate == nullptr) return "it shows no certificate";
  EVP_PKEY* const key = X509_get0_pubkey(certificate);
  if (key == nullptr || EVP_PKEY_is_a(key, "ED25519") != 1) return "its certificate is not over an Ed25519 key";
  if (X509_verify(certificate, key) != 1) return "its certificate is forged: it is not signed with its own key";
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0) return "its certificate is not valid yet";
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0) return "its certificate has expired";
  return {};
}

// In words that say what to do where there is something to do; else OpenSSL's own, which are constants, too.
std::string_view words_for(unsigned long error) {
  if (ERR_GET_LIB(error) != ERR_LIB_SSL) return "the TLS handshake failed";
  switch (ERR_GET_REASON(error)) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return "it shows no certificate";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_WRONG_SSL_VERSION: return "what it sends is not TLS";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: return "it does not speak TLS 1.3";
    case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
    case SSL_R_SSLV3_ALERT_BAD_RECORD_MAC: return "a record was changed on its way";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: return "it does not take this node's certificate";
    default: break;
  }
  const char* const words = ERR_reason_error_string(error);
  return words != nullptr ? words : "the TLS handshake failed";
}

}  // namespace

// ---- what all connections share

void TlsContext::Free::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

Result<TlsContext> TlsContext::create(const Identity& identity) {
  TlsContext context(SSL_CTX_new(TLS_method()));
  const Certificate certificate = make_certificate(identity);
  SSL_CTX* const ctx = context.context_.get();
  // AES-GCM where the processor has instructions for it; elsewhere ChaCha20 is faster.
#if defined(__x86_64__)
  const bool has_aes = __builtin_cpu_supports("aes") != 0;
#else
  const bool has_aes = true;
#endif
  const char* const suites = has_aes ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
                                     : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
  const bool good =
      ctx != nullptr && certificate != nullptr && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_ciphersuites(ctx, suites) == 1 && SSL_CTX_set1_sigalgs_list(ctx, "ed25519") == 1 &&
      SSL_CTX_set1_groups_list(ctx, "X25519") == 1 && SSL_CTX_use_certificate(ctx, certificate.get()) == 1 &&
      SSL_CTX_use_PrivateKey(ctx, identity.key()) == 1 && SSL_CTX_set_num_tickets(ctx, 0) == 1;
  if (!good) {
    ERR_clear_error();
    return runtime_error(
        "TLS cannot be set up: this OpenSSL lacks TLS 1.3, Ed25519 or X25519 (or forbids them in its "
        "configuration); OpenSSL 3.0 has them, and --security none goes without");
  }
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_cert_list(ctx, 4096);
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(ctx, TlsSession::check_certificate, nullptr);
  return Result<TlsContext>(std::move(context));
}

// ---- between OpenSSL and the two buffers

struct TlsSession::Bio {
  static TlsSession& session_of(BIO* bio) { return *static_cast<TlsSession*>(BIO_get_data(bio)); }

  static int read(BIO* bio, char* into, int most) {
    std::span<const std::byte>& input = session_of(bio).input_;
    BIO_clear_retry_flags(bio);
    if (input.empty()) {
      BIO_set_retry_read(bio);
      return -1;
    }
    const std::size_t bytes = std::min(input.size(), static_cast<std::size_t>(std::max(most, 0)));
    std::memcpy(into, input.data(), bytes);
    input = input.subspan(bytes);
    return static_cast<int>(bytes);
  }

  static int write(BIO* bio, const char* from, int bytes) {
    std::vector<std::byte>& output = session_of(bio).output_;
    const auto* const begin = reinterpret_cast<const std::byte*>(from);
    output.insert(output.end(), begin, begin + bytes);
    return bytes;
  }

  static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  static int create(BIO* bio) {
    BIO_set_init(bio, 1);
    return 1;
  }

  static BIO_METHOD* method() {
    static BIO_METHOD* const made = [] {
      BIO_METHOD* const method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "papilio");
      PAPILIO_ASSERT(method != nullptr);
      BIO_meth_set_read(method, read);
      BIO_meth_set_write(method, write);
      BIO_meth_set_ctrl(method, control);
      BIO_meth_set_create(method, create);
      return method;
    }();
    return made;
  }
};

// ---- one connection

void TlsSession::Free::operator()(ssl_st* session) const { SSL_free(session); }

TlsSession::TlsSession(const TlsContext& context, TlsSide side, std::uint64_t records_per_key)
    : session_(SSL_new(context.context_.get())), records_per_key_(records_per_key) {
  BIO* const bio = BIO_new(Bio::method());
  PAPILIO_ASSERT(session_ != nullptr && bio != nullptr);
  BIO_set_data(bio, this);
  SSL_set_bio(session_.get(), bio, bio);
  SSL_set_app_data(session_.get(), this);
  side == TlsSide::dialler ? SSL_set_connect_state(session_.get()) : SSL_set_accept_state(session_.get());
}

TlsSession::~TlsSession() = default;

int TlsSession::check_certificate(x509_store_ctx_st* store, void*) {
  const auto* const ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto& session = *static_cast<TlsSession*>(SSL_get_app_data(ssl));
  session.objection_ = objection_to(X509_STORE_CTX_get0_cert(store));
  if (session.objection_.empty()) return 1;
  X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
  return 0;
}

void TlsSession::give_input(std::span<const std::byte> ciphertext) {
  PAPILIO_ASSERT_VALUES(input_.empty(), input_.size(), 0);
  input_ = ciphertext;
}

TlsOutcome TlsSession::shake_hands() {
  if (failed_) return TlsOutcome::failed;
  if (established_) return TlsOutcome::done;
  ERR_clear_error();
  const int result = SSL_do_handshake(session_.get());
  if (result != 1) return outcome_of(result);
  EVP_PKEY* const key = X509_get0_pubkey(SSL_get0_peer_certificate(session_.get()));
  std::size_t bytes = peer_key_.size();
  // check_certificate let nothing else pass.
  PAPILIO_ASSERT(key != nullptr && EVP_PKEY_get_raw_public_key(key, peer_key_.data(), &bytes) == 1);
  established_ = true;
  return TlsOutcome::done;
}

TlsOutcome TlsSession::read(std::span<std::byte> into, std::size_t& bytes) {
  PAPILIO_ASSERT(established_);
  bytes = 0;
  if (failed_) return TlsOutcome::failed;
  ERR_clear_error();
  const int result = SSL_read_ex(session_.get(), into.data(), into.size(), &bytes);
  return result == 1 ? TlsOutcome::done : outcome_of(result);
}

bool TlsSession::has_plaintext() const { return SSL_pending(session_.get()) > 0; }

TlsOutcome TlsSession::write(std::span<const std::byte> plaintext) {
  PAPILIO_ASSERT(established_);
  if (failed_) return TlsOutcome::failed;
  ERR_clear_error();
  while (!plaintext.empty()) {
    if (records_ >= records_per_key_) {
      if (SSL_key_update(session_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return fail_to_write(0);
      records_ = 0;
    }
    std::size_t bytes = 0;
    const int result =
        SSL_write_ex(session_.get(), plaintext.data(), std::min(plaintext.size(), kTlsRecordBytes), &bytes);
    if (result != 1) return fail_to_write(result);
    plaintext = plaintext.subspan(bytes);
    records_ += 1;
  }
  return TlsOutcome::done;
}

void TlsSession::end() {
  if (failed_ || !established_) return;
  ERR_clear_error();
  SSL_shutdown(session_.get());
  ERR_clear_error();
}

TlsOutcome TlsSession::outcome_of(int result) {
  switch (SSL_get_error(session_.get(), result)) {
    case SSL_ERROR_WANT_READ: return TlsOutcome::wants_input;
    case SSL_ERROR_ZERO_RETURN: return TlsOutcome::ended;
    default: note_failure(); return TlsOutcome::failed;
  }
}

// OpenSSL writes nothing while it has the beginning of a handshake message and waits for the rest. No node sends one in
// two records; who does would keep this one waiting for ever.
TlsOutcome TlsSession::fail_to_write(int result) {
  if (outcome_of(result) == TlsOutcome::failed) return TlsOutcome::failed;
  failed_ = true;
  failure_ = "it left a handshake message unfinished";
  return TlsOutcome::failed;
}

void TlsSession::note_failure() {
  failed_ = true;
  const unsigned long error = ERR_peek_error();
  failure_ = !objection_.empty() ? objection_ : words_for(error);
  const int reason = ERR_GET_REASON(error);
  damaged_ = established_ &&
             (reason == SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC || reason == SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
  ERR_clear_error();
}

bool looks_like_tls(std::span<const std::byte> first_bytes) {
  constexpr std::array<std::byte, 2> kHandshakeRecord{std::byte{0x16}, std::byte{0x03}};
  const std::size_t bytes = std::min(first_bytes.size(), kHandshakeRecord.size());
  return std::equal(first_bytes.begin(), first_bytes.begin() + static_cast<std::ptrdiff_t>(bytes),
                    kHandshakeRecord.begin());
}

}  // namespace papilio::transport
