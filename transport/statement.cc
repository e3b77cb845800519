#include "transport/statement.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "engine/base/assert.hpp"
#include "statements_generated.h"

namespace papilio::transport {
namespace {

constexpr std::size_t kMaximumDomainBytes = 64;

// Of FlatBuffers: it reads 64-bit fields where they lie, so untrusted bytes go to aligned memory first.
constexpr std::size_t kAlignment = 16;

}  // namespace

Statement make_statement(const Identity& signer, std::string_view domain, std::span<const std::byte> body) {
  return Statement{.domain = std::string(domain),
                   .body = {body.begin(), body.end()},
                   .signer = signer.public_key(),
                   .signature = signer.sign(domain, body)};
}

std::vector<std::byte> encode(const Statement& statement) {
  PAPILIO_ASSERT(!statement.domain.empty() && statement.domain.size() <= kMaximumDomainBytes);
  flatbuffers::FlatBufferBuilder builder(1024);
  const auto domain = builder.CreateString(statement.domain);
  builder.ForceVectorAlignment(statement.body.size(), 1, kAlignment);  // bodies are FlatBuffers themselves
  const auto body =
      builder.CreateVector(reinterpret_cast<const std::uint8_t*>(statement.body.data()), statement.body.size());
  wire::Key key;
  std::memcpy(&key, statement.signer.data(), sizeof(key));
  wire::Seal seal;
  std::memcpy(&seal, statement.signature.data(), sizeof(seal));
  builder.Finish(wire::CreateStatement(builder, domain, body, &key, &seal), wire::StatementIdentifier());
  PAPILIO_ASSERT_VALUES(builder.GetSize() <= kMaximumStatementBytes, builder.GetSize(), kMaximumStatementBytes);
  const auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  return {bytes.begin(), bytes.end()};
}

std::optional<Statement> parse_statement(std::span<const std::byte> bytes) {
  if (bytes.size() < 2 * sizeof(std::uint32_t) || bytes.size() > kMaximumStatementBytes) return std::nullopt;
  struct alignas(kAlignment) Block {
    std::byte bytes[kAlignment];
  };
  std::vector<Block> aligned((bytes.size() + kAlignment - 1) / kAlignment);
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(aligned.data());
  flatbuffers::Verifier verifier(begin, bytes.size());
  if (!verifier.VerifyBuffer<wire::Statement>(wire::StatementIdentifier())) return std::nullopt;
  const wire::Statement* const table = wire::GetStatement(begin);
  if (table->domain() == nullptr || table->body() == nullptr || table->signer() == nullptr ||
      table->seal() == nullptr || table->domain()->size() == 0 || table->domain()->size() > kMaximumDomainBytes) {
    return std::nullopt;
  }
  Statement statement;
  statement.domain = table->domain()->str();
  const auto body = std::as_bytes(std::span(table->body()->data(), table->body()->size()));
  statement.body.assign(body.begin(), body.end());
  std::memcpy(statement.signer.data(), table->signer(), statement.signer.size());
  std::memcpy(statement.signature.data(), table->seal(), statement.signature.size());
  return statement;
}

}  // namespace papilio::transport
