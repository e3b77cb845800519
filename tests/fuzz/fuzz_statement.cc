// Signed statements: any bytes. What is taken for one says the same when it is written down again, and no damage to a
// genuine one stays genuine.
#include <algorithm>

#include "tests/fuzz/fuzz_target.hpp"
#include "transport/statement.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;

const Identity& signer() {
  static const Identity identity = Identity::from_seed(SecretSeed{1, 2, 3});
  return identity;
}

Statement genuine() { return make_statement(signer(), "papilio fuzz 1", bytes_of("what is said")); }

bool say_the_same(const Statement& one, const Statement& other) {
  return one.domain == other.domain && one.body == other.body && one.signer == other.signer &&
         one.signature == other.signature;
}

}  // namespace

std::vector<Bytes> seeds() {
  Statement empty = genuine();
  empty.body.clear();
  Statement long_one = genuine();
  long_one.domain = std::string(64, 'd');
  long_one.body.resize(1000);
  return {encode(genuine()), encode(empty), encode(long_one)};
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  const auto parsed = parse_statement(std::as_bytes(std::span(data, size)));
  if (!parsed) return 0;
  FUZZ_CHECK(!parsed->domain.empty() && parsed->body.size() <= size);
  // A body may lie over other parts of the same bytes: written down again it needs its own.
  if (parsed->body.size() + 1024 > kMaximumStatementBytes) return 0;
  const auto again = parse_statement(encode(*parsed));
  FUZZ_CHECK(again && say_the_same(*parsed, *again));
  // Checking a signature takes as long as reading a hundred statements: only where it might hold.
  if (parsed->signer != signer().public_key()) return 0;
  static const Statement original = genuine();
  FUZZ_CHECK(parsed->is_genuine() == say_the_same(*parsed, original));
  return 0;
}
