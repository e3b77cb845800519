// Certificates: read back as signed, refused when anything about them is not as the judge signed it, and kept in files
// that are whole or not there.
#include "engine/node/certificate.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "transport/statement.hpp"

namespace papilio::node {
namespace {

using core::Qualification;
using transport::Identity;

const Identity& judge() {
  static const Identity identity = Identity::from_seed({7});
  return identity;
}

core::WallTime day(int number) { return core::WallTime(std::chrono::hours(24) * number); }

Qualification figures() {
  return {.subject = Identity::from_seed({9}).id(),
          .judge = judge().id(),
          .run_id = "a run",
          .up_bps = 201'000'000,
          .down_bps = 49'500'000,
          .round_trip_median = std::chrono::microseconds(40'200),
          .round_trip_p99 = std::chrono::microseconds(41'700),
          .jitter = std::chrono::microseconds(300),
          .retransmits = 17,
          .issued = day(20'000),
          .expires = day(20'007),
          .up_at_once_bps = 190'000'000,
          .down_at_once_bps = 48'000'000};
}

void expect_equal(const Qualification& one, const Qualification& other) {
  EXPECT_EQ(one.subject, other.subject);
  EXPECT_EQ(one.judge, other.judge);
  EXPECT_EQ(one.run_id, other.run_id);
  EXPECT_EQ(one.up_bps, other.up_bps);
  EXPECT_EQ(one.down_bps, other.down_bps);
  EXPECT_EQ(one.round_trip_median, other.round_trip_median);
  EXPECT_EQ(one.round_trip_p99, other.round_trip_p99);
  EXPECT_EQ(one.jitter, other.jitter);
  EXPECT_EQ(one.retransmits, other.retransmits);
  EXPECT_EQ(one.issued, other.issued);
  EXPECT_EQ(one.expires, other.expires);
  EXPECT_EQ(one.up_at_once_bps, other.up_at_once_bps);
  EXPECT_EQ(one.down_at_once_bps, other.down_at_once_bps);
}

// A body signed in the right domain whatever it says.
std::vector<std::byte> sign_body(const Identity& signer, std::span<const std::byte> body,
                                 std::string_view domain = kCertificateDomain) {
  return transport::encode(transport::make_statement(signer, domain, body));
}

std::vector<std::byte> body_of(const std::vector<std::byte>& certificate) {
  return transport::parse_statement(certificate)->body;
}

class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "papilio-certificate-XXXXXX").string()) {
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(CertificateTest, IsReadBackAsSigned) {
  const auto read = read_certificate(sign_certificate(judge(), figures()));
  ASSERT_TRUE(read) << read.error().message;
  expect_equal(*read, figures());
}

TEST(CertificateTest, ForAnyRunAndOfTheLongestName) {
  Qualification any = figures();
  for (const std::size_t length : {std::size_t{0}, kMaximumRunIdBytes}) {
    any.run_id.assign(length, 'r');
    const auto read = read_certificate(sign_certificate(judge(), any));
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->run_id, any.run_id);
  }
  any.run_id.assign(kMaximumRunIdBytes + 1, 'r');
  EXPECT_DEATH(static_cast<void>(sign_certificate(judge(), any)), "parse_body");
}

TEST(CertificateTest, ThatExpiresBeforeItWasIssuedIsNone) {
  Qualification odd = figures();
  odd.expires = odd.issued + std::chrono::seconds(1);
  EXPECT_TRUE(read_certificate(sign_certificate(judge(), odd)));
  odd.expires = odd.issued;
  EXPECT_DEATH(static_cast<void>(sign_certificate(judge(), odd)), "parse_body");
}

TEST(CertificateTest, OfAnotherKindIsRefused) {
  const std::vector<std::byte> body = body_of(sign_certificate(judge(), figures()));
  ASSERT_TRUE(read_certificate(sign_body(judge(), body)));
  const auto read = read_certificate(sign_body(judge(), body, "papilio roster 1"));
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find("another kind"), std::string::npos) << read.error().message;
}

TEST(CertificateTest, SignedBySomebodyElseIsRefused) {
  // Mallory signs the figures of the judge's certificate with his own key.
  const Identity mallory = Identity::from_seed({66});
  const auto read = read_certificate(sign_body(mallory, body_of(sign_certificate(judge(), figures()))));
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find(to_hex(mallory.id())), std::string::npos) << read.error().message;
  // Or puts the judge's key over his own signature.
  transport::Statement statement = *transport::parse_statement(sign_certificate(judge(), figures()));
  statement.signature = mallory.sign(statement.domain, statement.body);
  EXPECT_FALSE(read_certificate(transport::encode(statement)));
}

TEST(CertificateTest, DamagedBytesNeverSayAnythingElse) {
  const std::vector<std::byte> bytes = sign_certificate(judge(), figures());
  Random random(3);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::vector<std::byte> damaged = bytes;
    damaged[i] ^= static_cast<std::byte>(1 + random.below(255));
    if (const auto read = read_certificate(damaged)) expect_equal(*read, figures());
  }
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    if (const auto read = read_certificate(std::span(bytes).first(length))) expect_equal(*read, figures());
  }
}

// What a judge that wants to do harm may sign: no crash, and only what is within bounds is read.
TEST(CertificateTest, MalformedBodiesOfAJudgeAreRefused) {
  const std::vector<std::byte> body = body_of(sign_certificate(judge(), figures()));
  Random random(4);
  EXPECT_FALSE(read_certificate(sign_body(judge(), {})));
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> odd = body;
    for (std::uint64_t n = 1 + random.below(4); n > 0; --n)
      odd[random.below(odd.size())] = std::byte(random.below(256));
    odd.resize(1 + random.below(odd.size()));
    const auto read = read_certificate(sign_body(judge(), odd));
    if (!read) {
      refused += 1;
      continue;
    }
    EXPECT_LT(read->issued, read->expires);
    EXPECT_LE(read->run_id.size(), kMaximumRunIdBytes);
  }
  EXPECT_GT(refused, 1000);
}

TEST(CertificateTest, FilesAreWholeAndReplaceOlderOnes) {
  const Folder folder;
  const std::string path = certificate_path(folder.path(), judge().id());
  ASSERT_TRUE(write_certificate(path, sign_certificate(judge(), figures())));
  Qualification later = figures();
  later.up_bps = 7;
  ASSERT_TRUE(write_certificate(path, sign_certificate(judge(), later)));
  const auto loaded = load_certificate(path);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(read_certificate(*loaded)->up_bps, 7);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

TEST(CertificateTest, WhereNothingCanBeWrittenNothingIsLeft) {
  const Folder folder;
  const std::string path = certificate_path(folder.path() + "/none", judge().id());
  const Status written = write_certificate(path, sign_certificate(judge(), figures()));
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message.find("none"), std::string::npos) << written.error().message;
  const auto loaded = load_certificate(path);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find(path), std::string::npos) << loaded.error().message;
}

TEST(CertificateTest, FilesAreReadUpToTheLongestStatement) {
  const Folder folder;
  const std::string path = folder.path() + "/long";
  std::ofstream(path) << std::string(transport::kMaximumStatementBytes, 'x');
  EXPECT_TRUE(load_certificate(path));
  std::ofstream(path) << std::string(transport::kMaximumStatementBytes + 1, 'x');
  EXPECT_FALSE(load_certificate(path));
}

TEST(CertificateTest, AllThatAreKeptTheLastToExpireFirst) {
  const Folder folder;
  std::vector<std::string> objections;
  EXPECT_TRUE(load_certificates(folder.path(), objections).empty());
  for (std::uint8_t number = 1; number <= 3; ++number) {
    const Identity signer = Identity::from_seed({number});
    Qualification each = figures();
    each.judge = signer.id();
    each.expires = day(20'000 + (number == 2 ? 9 : number));
    ASSERT_TRUE(write_certificate(certificate_path(folder.path(), signer.id()), sign_certificate(signer, each)));
  }
  std::ofstream(folder.path() + "/certificates/odd.certificate") << "nonsense";
  std::ofstream(folder.path() + "/certificates/notes.txt") << "not looked at";
  const auto kept = load_certificates(folder.path(), objections);
  ASSERT_EQ(kept.size(), 3);
  EXPECT_EQ(kept[0].figures.judge, Identity::from_seed({2}).id());
  EXPECT_EQ(kept[1].figures.judge, Identity::from_seed({3}).id());
  ASSERT_EQ(objections.size(), 1);
  EXPECT_NE(objections[0].find("odd.certificate"), std::string::npos);
}

}  // namespace
}  // namespace papilio::node
