#include "transport/statement.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::transport {
namespace {

const Identity& judge() {
  static const Identity identity = Identity::from_seed({7});
  return identity;
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST(StatementTest, IsReadBackAndGenuine) {
  const Statement statement = make_statement(judge(), "papilio test 1", bytes_of("so it is"));
  const auto parsed = parse_statement(encode(statement));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->domain, "papilio test 1");
  EXPECT_EQ(parsed->body, statement.body);
  EXPECT_EQ(parsed->signer_id(), judge().id());
  EXPECT_TRUE(parsed->is_genuine());
}

TEST(StatementTest, OfOtherWordsOrSomebodyElseIsNotGenuine) {
  const Statement statement = make_statement(judge(), "papilio test 1", bytes_of("so it is"));
  Statement changed = statement;
  changed.body.back() ^= std::byte{1};
  EXPECT_FALSE(changed.is_genuine());
  changed = statement;
  changed.domain = "papilio test 2";
  EXPECT_FALSE(changed.is_genuine());
  changed = statement;
  changed.signer = Identity::from_seed({8}).public_key();
  EXPECT_FALSE(changed.is_genuine());
}

TEST(StatementTest, AsLargeAsAllowedAndNotAByteMore) {
  std::vector<std::byte> bytes = encode(make_statement(judge(), "d", std::vector<std::byte>(60000)));
  EXPECT_TRUE(parse_statement(bytes));
  bytes.resize(kMaximumStatementBytes);
  EXPECT_TRUE(parse_statement(bytes));
  bytes.resize(kMaximumStatementBytes + 1);
  EXPECT_FALSE(parse_statement(bytes));
}

// Every byte changed, every length cut, from every alignment: no crash, and nothing changed passes for genuine.
TEST(StatementTest, DamagedBytesAreNeverGenuine) {
  const Statement statement = make_statement(judge(), "papilio test 1", bytes_of("so it is"));
  const std::vector<std::byte> bytes = encode(statement);
  Random random(1);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::vector<std::byte> damaged = bytes;
    damaged[i] ^= static_cast<std::byte>(1 + random.below(255));
    const auto parsed = parse_statement(damaged);
    if (!parsed || !parsed->is_genuine()) continue;
    // Padding, or a vtable that happens to say the same.
    EXPECT_EQ(parsed->domain, statement.domain);
    EXPECT_EQ(parsed->body, statement.body);
    EXPECT_EQ(parsed->signer, statement.signer);
  }
  std::vector<std::byte> shifted(bytes.size() + 1);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    std::memcpy(shifted.data() + 1, bytes.data(), length);
    const auto parsed = parse_statement(std::span(shifted).subspan(1, length));
    if (!parsed || !parsed->is_genuine()) continue;
    EXPECT_EQ(parsed->body, statement.body);
  }
}

}  // namespace
}  // namespace papilio::transport
