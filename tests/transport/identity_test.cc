#include "transport/identity.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace papilio::transport {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

class IdentityFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "papilio-identity-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::string path(const char* name = "key.pem") const { return (directory_ / name).string(); }
  static std::string content(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  void write(const std::string& text, mode_t mode = 0600) const {
    std::ofstream(path()) << text;
    ASSERT_EQ(::chmod(path().c_str(), mode), 0);
  }

  std::filesystem::path directory_;
};

// RFC 8032, section 7.1, test 1 and 2.
TEST(IdentityTest, KeysAreThoseOfTheRfc) {
  SecretSeed seed{};
  const std::string seed_hex = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
  seed = peer_id_from_hex(seed_hex)->bytes;
  const Identity identity = Identity::from_seed(seed);
  EXPECT_EQ(to_hex(identity.public_key()), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
  // SHA-256 over those 32 bytes, by sha256sum.
  EXPECT_EQ(papilio::to_hex(identity.id(), 64), "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9");
}

TEST(IdentityTest, ASignatureIsGoodForItsMessageKeyAndDomainOnly) {
  const Identity one = Identity::from_seed({1});
  const Identity other = Identity::from_seed({2});
  const Signature signature = one.sign("roster", bytes_of("epoch 7"));
  EXPECT_TRUE(verify(one.public_key(), "roster", bytes_of("epoch 7"), signature));
  EXPECT_FALSE(verify(one.public_key(), "roster", bytes_of("epoch 8"), signature));
  EXPECT_FALSE(verify(other.public_key(), "roster", bytes_of("epoch 7"), signature));
  EXPECT_FALSE(verify(one.public_key(), "report", bytes_of("epoch 7"), signature));
  EXPECT_FALSE(verify(one.public_key(), "rosterepoch", bytes_of(" 7"), signature));
  for (std::size_t i = 0; i < signature.size(); ++i) {
    Signature damaged = signature;
    damaged[i] ^= 1U;
    EXPECT_FALSE(verify(one.public_key(), "roster", bytes_of("epoch 7"), damaged)) << i;
  }
}

TEST(IdentityTest, AKeyThatIsNoPointOnTheCurveVerifiesNothing) {
  PublicKey nonsense;
  nonsense.fill(0xff);
  EXPECT_FALSE(verify(nonsense, "roster", bytes_of("x"), Signature{}));
}

TEST(IdentityTest, HexIsReadBack) {
  const Identity identity = Identity::from_seed({3});
  const std::string text = papilio::to_hex(identity.id(), 64);
  EXPECT_EQ(peer_id_from_hex(text), identity.id());
  EXPECT_EQ(peer_id_from_hex(text.substr(1)), std::nullopt);
  EXPECT_EQ(peer_id_from_hex("g" + text.substr(1)), std::nullopt);
  EXPECT_EQ(peer_id_from_hex(""), std::nullopt);
}

TEST_F(IdentityFile, IsMadeOnceForItsOwnersEyesOnly) {
  const auto first = Identity::load_or_create(path());
  ASSERT_TRUE(first) << first.error().message;
  struct stat status {};
  ASSERT_EQ(::stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  EXPECT_FALSE(std::filesystem::exists(path("key.pem.new")));
  const auto second = Identity::load_or_create(path());
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(second->id(), first->id());
}

TEST_F(IdentityFile, ThatOthersCanReadIsRefused) {
  const auto made = Identity::load_or_create(path());
  ASSERT_TRUE(made);
  for (const mode_t mode : {0640U, 0604U, 0620U, 0644U}) {
    ASSERT_EQ(::chmod(path().c_str(), mode), 0);
    const auto again = Identity::load_or_create(path());
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().kind, ErrorKind::usage);
    EXPECT_NE(again.error().message.find("chmod 600"), std::string::npos) << again.error().message;
  }
  ASSERT_EQ(::chmod(path().c_str(), 0400), 0);
  EXPECT_TRUE(Identity::load_or_create(path()));
}

TEST_F(IdentityFile, ThatIsNoKeyIsLeftAsItIs) {
  for (const std::string text : {"", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}) {
    write(text);
    const auto loaded = Identity::load_or_create(path());
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find(path()), std::string::npos);
    EXPECT_EQ(content(path()), text);
  }
}

TEST_F(IdentityFile, OfAnotherKindOfKeyIsRefused) {
  // An X25519 key, as OpenSSL writes it.
  write(
      "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIHgsZjBP2ldJrYDaixqrSFfbK3ChBpoXLsNcnSJ+Ff1H\n-----END PRIVATE "
      "KEY-----\n");
  const auto loaded = Identity::load_or_create(path());
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("no Ed25519 private key"), std::string::npos) << loaded.error().message;
}

TEST_F(IdentityFile, InADirectoryThatIsNotThereNamesIt) {
  const auto loaded = Identity::load_or_create(path("missing/key.pem"));
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("missing/key.pem"), std::string::npos);
}

}  // namespace
}  // namespace papilio::transport
