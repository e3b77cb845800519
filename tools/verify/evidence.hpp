// One file of evidence as papilio-verify sees it: whatever bytes it holds, who signed them, what they say, and what
// does not hold about them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>

#include "engine/base/result.hpp"
#include "engine/core/qualification.hpp"
#include "engine/node/round_record.hpp"
#include "transport/statement.hpp"

namespace papilio::tools {

struct Evidence {
  using Content =
      std::variant<std::monostate, node::RoundRecord, node::RosterRecord, node::DoubleCommit, core::Qualification>;

  std::string file;
  std::optional<transport::Statement> statement;  // none: the bytes are none
  Content content;                                // none: its kind is not known here, or its body cannot be read
  std::string objection;                          // what does not hold; empty: genuine

  [[nodiscard]] bool is_genuine() const { return objection.empty(); }
};

// The error is that the file cannot be read.
[[nodiscard]] Result<Evidence> read_evidence(const std::string& file);
// Whatever the bytes are.
[[nodiscard]] Evidence judge_evidence(const std::string& file, std::span<const std::byte> bytes);

// For people: several lines, each with an end. What others wrote is made harmless to a terminal.
[[nodiscard]] std::string describe(const Evidence& evidence);
[[nodiscard]] nlohmann::ordered_json document_of(const Evidence& evidence);

}  // namespace papilio::tools
