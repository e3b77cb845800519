#include "transport/identity.hpp"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/base/assert.hpp"
#include "transport/draft_file.hpp"
#include "transport/socket.hpp"

namespace papilio::transport {
namespace {

constexpr std::size_t kLargestKeyFile = std::size_t{16} << 10U;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Digest = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

// The domain with its length in front, then the message: no domain can be taken for another one and part of a message.
std::vector<std::uint8_t> to_be_signed(std::string_view domain, std::span<const std::byte> message) {
  PAPILIO_ASSERT_VALUES(domain.size() < 256, domain.size(), 256);
  std::vector<std::uint8_t> bytes;
  bytes.reserve(1 + domain.size() + message.size());
  bytes.push_back(static_cast<std::uint8_t>(domain.size()));
  bytes.insert(bytes.end(), domain.begin(), domain.end());
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(message.data());
  bytes.insert(bytes.end(), begin, begin + message.size());
  return bytes;
}

std::string quoted(const std::string& path) { return "key file '" + path + "'"; }

Error failed(const std::string& path, const std::string& doing) {
  return runtime_error(quoted(path) + " cannot be " + doing + " (" + std::strerror(errno) +
                       "): name a place that is yours, on a disk with room");
}

// A key file with a passphrase must not ask for it on the terminal of whoever started the node.
int no_passphrase(char*, int, int, void*) { return -1; }

// What is wrong with who may read the file; empty if nothing.
std::string objection_to_mode(const std::string& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) return quoted(path) + " is not a plain file";
  if (status.st_uid != ::geteuid()) {
    return quoted(path) + " belongs to user " + std::to_string(status.st_uid) + ", this node runs as user " +
           std::to_string(::geteuid()) + ": whoever owns the file is the node; run as its owner, or name another";
  }
  const unsigned mode = status.st_mode & 0777U;
  if ((mode & 077U) == 0) return {};
  char octal[8];
  std::snprintf(octal, sizeof(octal), "%04o", mode);
  return quoted(path) + " can be used by others (mode " + octal +
         "): whoever reads it can pose as this node. If nobody has, " +
         "'chmod 600' it; otherwise remove it and go on under a new id";
}

}  // namespace

Sha256 sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  SHA256(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), hash.data());
  return hash;
}

PeerId peer_id_of(const PublicKey& key) { return {sha256(std::as_bytes(std::span(key)))}; }

bool verify(const PublicKey& key, std::string_view domain, std::span<const std::byte> message,
            const Signature& signature) {
  const Key public_key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, key.data(), key.size()), EVP_PKEY_free);
  const Digest context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!public_key || !context) return false;
  if (EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, public_key.get()) != 1) return false;
  const std::vector<std::uint8_t> bytes = to_be_signed(domain, message);
  return EVP_DigestVerify(context.get(), signature.data(), signature.size(), bytes.data(), bytes.size()) == 1;
}

std::string to_hex(const PublicKey& key) { return papilio::to_hex(PeerId{key}, 2 * key.size()); }

std::optional<PeerId> peer_id_from_hex(std::string_view text) {
  PeerId id;
  if (text.size() != 2 * id.bytes.size()) return std::nullopt;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char digit = text[i];
    unsigned value = 0;
    if (digit >= '0' && digit <= '9') {
      value = static_cast<unsigned>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      value = static_cast<unsigned>(digit - 'a') + 10;
    } else {
      return std::nullopt;
    }
    id.bytes[i / 2] = static_cast<std::uint8_t>(id.bytes[i / 2] << 4U | value);
  }
  return id;
}

Identity::Identity(evp_pkey_st* key) : key_(key, EVP_PKEY_free) {
  std::size_t bytes = public_key_.size();
  PAPILIO_ASSERT(EVP_PKEY_get_raw_public_key(key, public_key_.data(), &bytes) == 1);
  PAPILIO_ASSERT_VALUES(bytes == public_key_.size(), bytes, public_key_.size());
  id_ = peer_id_of(public_key_);
}

Result<Identity> Identity::generate() {
  EVP_PKEY* const key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  if (key == nullptr) return runtime_error("no Ed25519 key could be made: this OpenSSL does not offer it");
  return Identity(key);
}

Identity Identity::from_seed(const SecretSeed& seed) {
  EVP_PKEY* const key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, seed.data(), seed.size());
  PAPILIO_ASSERT(key != nullptr);
  return Identity(key);
}

Signature Identity::sign(std::string_view domain, std::span<const std::byte> message) const {
  const std::vector<std::uint8_t> bytes = to_be_signed(domain, message);
  const Digest context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  Signature signature{};
  std::size_t size = signature.size();
  PAPILIO_ASSERT(context != nullptr);
  PAPILIO_ASSERT(EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1);
  PAPILIO_ASSERT(EVP_DigestSign(context.get(), signature.data(), &size, bytes.data(), bytes.size()) == 1);
  return signature;
}

namespace {

Result<Key> read_key(int file, const std::string& path) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return failed(path, "read");
  if (const std::string objection = objection_to_mode(path, status); !objection.empty()) {
    return usage_error(objection);
  }
  std::string text(kLargestKeyFile + 1, '\0');
  const ssize_t got = ::pread(file, text.data(), text.size(), 0);
  if (got < 0) return failed(path, "read");
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(got)), BIO_free);
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr), EVP_PKEY_free);
  OPENSSL_cleanse(text.data(), text.size());
  if (key && EVP_PKEY_is_a(key.get(), "ED25519") == 1) return Result<Key>(std::move(key));
  return usage_error(quoted(path) +
                     " holds no Ed25519 private key (PEM, without a passphrase): put it back from a copy, or "
                     "remove it and go on under a new id");
}

// The whole file under its name, or nothing; and never over a file that is there.
Status write_key(const Identity& identity, const std::string& path) {
  const Bio bio(BIO_new(BIO_s_mem()), BIO_free);
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), identity.key(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return runtime_error(quoted(path) + ": OpenSSL cannot write the key down");
  }
  char* text = nullptr;
  const long bytes = BIO_get_mem_data(bio.get(), &text);
  const std::string draft = path + ".new";
  const bool written = write_draft(draft, std::as_bytes(std::span(text, static_cast<std::size_t>(bytes))), 0600) &&
                       ::link(draft.c_str(), path.c_str()) == 0;
  const int error = errno;
  OPENSSL_cleanse(text, static_cast<std::size_t>(bytes));
  ::unlink(draft.c_str());
  errno = error;
  if (!written) return failed(path, "written");
  return Done{};
}

}  // namespace

Result<Identity> Identity::load_or_create(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.valid()) {
    auto key = read_key(file.get(), path);
    if (!key) return key.error();
    return Identity(key->release());
  }
  if (errno != ENOENT) return failed(path, "read");
  auto identity = generate();
  if (!identity) return identity.error();
  if (auto written = write_key(*identity, path); !written) return written.error();
  return identity;
}

}  // namespace papilio::transport
