// What others said, for logs, tables and terminals.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace papilio {

// Nothing in it may move a terminal's cursor or begin a new line: what is not printable ASCII is replaced, what is
// longer than so many bytes is cut.
[[nodiscard]] inline std::string one_line(std::string_view text, std::size_t bytes = 400) {
  std::string line(text.substr(0, bytes));
  for (char& each : line) {
    if (each < ' ' || each > '~') each = '?';
  }
  return line;
}

}  // namespace papilio
