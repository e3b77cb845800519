// The last line of a terminal, rewritten in place, with whole lines above it; where there is no terminal, whole lines
// only. What several programs show while they work.
#pragma once

#include <cstdio>
#include <string>

namespace papilio::tools {

class StatusLine {
 public:
  // On a terminal, log lines take the place of what is rewritten from now on.
  explicit StatusLine(std::FILE* out);

  [[nodiscard]] bool is_terminal() const { return is_terminal_; }
  // In place of what stood there; cut to the terminal's width. Nothing without a terminal.
  void rewrite(const std::string& text);
  // A whole line: in place of what is rewritten, or below it.
  enum class Place : bool { instead, below };
  void say(const std::string& text, Place place);

 private:
  std::FILE* out_;
  bool is_terminal_;
  bool is_open_ = false;
};

// `done`: 0 to 1.
[[nodiscard]] std::string progress_bar(double done, std::size_t width);

}  // namespace papilio::tools
