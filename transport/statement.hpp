// A signed statement: bytes, what they are (the domain), who says so, and the signature that anybody can check without
// ever having talked to the signer. Certificates, rosters and round reports are all kept and passed on in this one
// form.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/identity.hpp"

namespace papilio::transport {

// Of one statement as bytes; what is longer is not looked at.
inline constexpr std::size_t kMaximumStatementBytes = std::size_t{64} << 10U;

struct Statement {
  std::string domain;  // 1 to 64 bytes, like "papilio certificate 1"
  std::vector<std::byte> body;
  PublicKey signer{};
  Signature signature{};

  [[nodiscard]] PeerId signer_id() const { return peer_id_of(signer); }
  [[nodiscard]] bool is_genuine() const { return verify(signer, domain, body, signature); }
};

[[nodiscard]] Statement make_statement(const Identity& signer, std::string_view domain,
                                       std::span<const std::byte> body);

// At most kMaximumStatementBytes; a body too long for that is a bug of ours and aborts.
[[nodiscard]] std::vector<std::byte> encode(const Statement& statement);
// Any bytes: nothing where they are no statement, whatever they are. Says nothing about the signature.
[[nodiscard]] std::optional<Statement> parse_statement(std::span<const std::byte> bytes);

}  // namespace papilio::transport
