// The text that a run learns: any file, taken byte by byte, with the bytes that occur in it as the model's alphabet.
// Loading checks everything that could otherwise fail in the middle of a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.hpp"

namespace papilio::training {

// Bytes are what the corpus is made of, so there are never more symbols than this.
inline constexpr std::size_t kMaximumSymbols = 256;

class Corpus {
 public:
  // Reads the file whole. `context` is the model's window in symbols: a window and the symbol after it must fit, so
  // the file needs at least context + 1 bytes. Errors (missing, unreadable, not a file, empty, too small) name the
  // path, the value and the remedy.
  static Result<Corpus> load(const std::string& path, std::size_t context);

  // Real text that every Debian machine has: the licences of the package base-files (essential, never absent), about
  // 220 KB of English prose, joined in a fixed order.
  static Result<Corpus> load_default(std::size_t context);

  // The same from bytes in memory; `name` appears in errors.
  static Result<Corpus> from_bytes(std::string name, std::span<const std::uint8_t> bytes, std::size_t context);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::size_t size() const { return tokens_.size(); }
  [[nodiscard]] std::size_t context() const { return context_; }
  // The bytes that occur, ascending; a token is an index into this.
  [[nodiscard]] std::span<const std::uint8_t> symbols() const { return symbols_; }
  // Places where a window and its successor symbol fit: offsets 0 to windows() - 1.
  [[nodiscard]] std::size_t windows() const { return tokens_.size() - context_; }

  // Copies the window at `offset`: `inputs` gets context tokens, `targets` the same moved on by one.
  void window(std::size_t offset, std::span<std::int64_t> inputs, std::span<std::int64_t> targets) const;

 private:
  Corpus() = default;

  std::string name_;
  std::size_t context_ = 0;
  std::vector<std::uint8_t> tokens_;
  std::vector<std::uint8_t> symbols_;
};

}  // namespace papilio::training
