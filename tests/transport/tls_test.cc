// What a peer that has a key and writes its own records can do to the other end: everything else of TLS is tested as an
// Io, by the conformance suite.
#include "transport/tls.hpp"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

namespace papilio::transport {
namespace {

using Bytes = std::vector<std::byte>;

// HKDF-Expand-Label (RFC 8446, section 7.1) with SHA-256 and no context.
std::vector<unsigned char> expand_label(const std::vector<unsigned char>& secret, const std::string& label,
                                        std::size_t length) {
  const std::string full = "tls13 " + label;
  std::vector<unsigned char> info{static_cast<unsigned char>(length >> 8U), static_cast<unsigned char>(length),
                                  static_cast<unsigned char>(full.size())};
  info.insert(info.end(), full.begin(), full.end());
  info.push_back(0);
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  std::string digest = "SHA256";
  std::vector<unsigned char> key = secret, out(length);
  EVP_KDF* const kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  EVP_KDF_CTX* const context = EVP_KDF_CTX_new(kdf);
  const std::array<OSSL_PARAM, 5> parameters{
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.data(), key.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()), OSSL_PARAM_construct_end()};
  EXPECT_EQ(EVP_KDF_derive(context, out.data(), length, parameters.data()), 1);
  EVP_KDF_CTX_free(context);
  EVP_KDF_free(kdf);
  return out;
}

// A dialler that uses OpenSSL for the handshake and then writes its records by itself.
class RawPeer {
 public:
  RawPeer() {
    key_ = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
    certificate_ = X509_new();
    X509_set_version(certificate_, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), 3600);
    X509_set_pubkey(certificate_, key_);
    X509_sign(certificate_, key_, nullptr);
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_ciphersuites(context_, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_use_certificate(context_, certificate_);
    SSL_CTX_use_PrivateKey(context_, key_);
    SSL_CTX_set_keylog_callback(context_, [](const SSL* ssl, const char* line) {
      static_cast<RawPeer*>(SSL_get_app_data(ssl))->note_secret(line);
    });
    session_ = SSL_new(context_);
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(session_, in_, out_);
    SSL_set_app_data(session_, this);
    SSL_set_connect_state(session_);
  }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;
  ~RawPeer() {
    SSL_free(session_);
    SSL_CTX_free(context_);
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }

  void shake_hands(TlsSession& with) {
    for (int i = 0; i < 4; ++i) {
      SSL_do_handshake(session_);
      feed(with, take());
      with.shake_hands();
      Bytes& answer = with.output();
      if (!answer.empty()) BIO_write(in_, answer.data(), static_cast<int>(answer.size()));
      answer.clear();
    }
    ASSERT_TRUE(SSL_is_init_finished(session_));
    ASSERT_TRUE(with.is_established());
  }

  // One record under this side's key, of that content type.
  Bytes record(std::vector<unsigned char> content, unsigned char type) {
    const auto key = expand_label(secret_, "key", 16);
    auto nonce = expand_label(secret_, "iv", 12);
    nonce[11] = static_cast<unsigned char>(nonce[11] ^ sequence_++);
    content.push_back(type);
    const std::size_t length = content.size() + 16;
    std::vector<unsigned char> out(5 + length);
    const std::array<unsigned char, 5> head{23, 3, 3, static_cast<unsigned char>(length >> 8U),
                                            static_cast<unsigned char>(length)};
    std::copy(head.begin(), head.end(), out.begin());
    EVP_CIPHER_CTX* const cipher = EVP_CIPHER_CTX_new();
    int written = 0;
    EVP_EncryptInit_ex(cipher, EVP_aes_128_gcm(), nullptr, key.data(), nonce.data());
    EVP_EncryptUpdate(cipher, nullptr, &written, out.data(), 5);
    EVP_EncryptUpdate(cipher, out.data() + 5, &written, content.data(), static_cast<int>(content.size()));
    EVP_EncryptFinal_ex(cipher, out.data() + 5 + written, &written);
    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, 16, out.data() + 5 + content.size());
    EVP_CIPHER_CTX_free(cipher);
    const auto bytes = std::as_bytes(std::span(out));
    return {bytes.begin(), bytes.end()};
  }

  // The session has used up what it was given, or is past that.
  static void feed(TlsSession& session, Bytes bytes) {
    static Bytes kept;
    kept = std::move(bytes);
    if (!kept.empty()) session.give_input(kept);
  }

 private:
  void note_secret(const std::string& line) {
    constexpr std::string_view kLabel = "CLIENT_TRAFFIC_SECRET_0 ";
    if (line.rfind(kLabel, 0) != 0) return;
    const auto bytes = peer_id_from_hex(line.substr(line.rfind(' ') + 1));
    ASSERT_TRUE(bytes);
    secret_.assign(bytes->bytes.begin(), bytes->bytes.end());
  }
  Bytes take() {
    Bytes bytes(BIO_ctrl_pending(out_));
    if (!bytes.empty()) BIO_read(out_, bytes.data(), static_cast<int>(bytes.size()));
    return bytes;
  }

  EVP_PKEY* key_ = nullptr;
  X509* certificate_ = nullptr;
  SSL_CTX* context_ = nullptr;
  SSL* session_ = nullptr;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
  std::vector<unsigned char> secret_;
  unsigned char sequence_ = 0;
};

constexpr unsigned char kHandshake = 22, kApplicationData = 23;

class TlsRecords : public testing::Test {
 protected:
  void SetUp() override { peer_.shake_hands(session_); }
  TlsOutcome read(const Bytes& record, std::string* text = nullptr) {
    RawPeer::feed(session_, record);
    std::array<std::byte, 64> into;
    std::size_t bytes = 0;
    const TlsOutcome outcome = session_.read(into, bytes);
    if (text != nullptr) text->assign(reinterpret_cast<const char*>(into.data()), bytes);
    return outcome;
  }
  TlsOutcome write(std::string_view words) { return session_.write(std::as_bytes(std::span(words))); }

  TlsContext context_ = TlsContext::create(Identity::from_seed({9})).value();
  TlsSession session_{context_, TlsSide::acceptor};
  RawPeer peer_;
};

TEST_F(TlsRecords, AreReadIfTheyAreRight) {
  std::string text;
  EXPECT_EQ(read(peer_.record({'o', 'k'}, kApplicationData), &text), TlsOutcome::done);
  EXPECT_EQ(text, "ok");
  EXPECT_EQ(write("good"), TlsOutcome::done);
}

TEST_F(TlsRecords, AnUnfinishedHandshakeMessageEndsTheConnectionInsteadOfHoldingIt) {
  // The head of a KeyUpdate, without its body.
  EXPECT_EQ(read(peer_.record({24, 0, 0, 1}, kHandshake)), TlsOutcome::wants_input);
  EXPECT_EQ(write("is anybody there?"), TlsOutcome::failed);
  EXPECT_EQ(session_.failure(), "it left a handshake message unfinished");
  EXPECT_EQ(write("still?"), TlsOutcome::failed);
  EXPECT_EQ(read({}), TlsOutcome::failed);
}

TEST_F(TlsRecords, AWholeChangeOfKeysIsFollowed) {
  EXPECT_EQ(read(peer_.record({24, 0, 0, 1, 0}, kHandshake)), TlsOutcome::wants_input);
  EXPECT_EQ(write("go on"), TlsOutcome::done);
}

TEST_F(TlsRecords, AChangedBitIsDamage) {
  Bytes record = peer_.record({'o', 'k'}, kApplicationData);
  record[7] ^= std::byte{1};
  EXPECT_EQ(read(record), TlsOutcome::failed);
  EXPECT_TRUE(session_.is_damaged());
  EXPECT_EQ(session_.failure(), "a record was changed on its way");
}

}  // namespace
}  // namespace papilio::transport
