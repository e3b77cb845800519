#include "transport/statement.hpp"

#include <bit>

#include "engine/base/assert.hpp"
#include "statements_generated.h"
#include "transport/verified_table.hpp"

namespace papilio::transport {
namespace {

constexpr std::size_t kMaximumDomainBytes = 64;

// Of FlatBuffers, for the bodies, which are FlatBuffers themselves.
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
  builder.ForceVectorAlignment(statement.body.size(), 1, kAlignment);
  const auto body =
      builder.CreateVector(reinterpret_cast<const std::uint8_t*>(statement.body.data()), statement.body.size());
  const auto key = std::bit_cast<wire::Key>(statement.signer);
  const auto seal = std::bit_cast<wire::Seal>(statement.signature);
  builder.Finish(wire::CreateStatement(builder, domain, body, &key, &seal), wire::StatementIdentifier());
  PAPILIO_ASSERT_VALUES(builder.GetSize() <= kMaximumStatementBytes, builder.GetSize(), kMaximumStatementBytes);
  const auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  return {bytes.begin(), bytes.end()};
}

std::optional<Statement> parse_statement(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaximumStatementBytes) return std::nullopt;
  const VerifiedTable<wire::Statement> verified(bytes, wire::StatementIdentifier());
  const wire::Statement* const table = verified.get();
  if (table == nullptr) return std::nullopt;
  if (table->domain() == nullptr || table->body() == nullptr || table->signer() == nullptr ||
      table->seal() == nullptr || table->domain()->size() == 0 || table->domain()->size() > kMaximumDomainBytes) {
    return std::nullopt;
  }
  Statement statement;
  statement.domain = table->domain()->str();
  const auto body = std::as_bytes(std::span(table->body()->data(), table->body()->size()));
  statement.body.assign(body.begin(), body.end());
  statement.signer = std::bit_cast<PublicKey>(*table->signer());
  statement.signature = std::bit_cast<Signature>(*table->seal());
  return statement;
}

}  // namespace papilio::transport
