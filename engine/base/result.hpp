// What peers, users and the operating system do wrong is a value, not an exception: every fallible public function
// returns a Result, whose Error names what was wrong, with which value, and what to do about it.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "engine/base/assert.hpp"

namespace papilio {

// Which of the process exit codes of the command-line contract an error maps to.
enum class ErrorKind {
  usage,    // wrong flags, configuration or input: exit 2
  runtime,  // the machine, the network or a peer failed us: exit 3
};

struct Error {
  ErrorKind kind = ErrorKind::runtime;
  std::string message;
};

[[nodiscard]] inline Error usage_error(std::string message) { return {ErrorKind::usage, std::move(message)}; }
[[nodiscard]] inline Error runtime_error(std::string message) { return {ErrorKind::runtime, std::move(message)}; }

// A value or an Error. Reading the wrong alternative is a bug of ours and aborts.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  [[nodiscard]] T& value() & {
    PAPILIO_ASSERT(ok());
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] const T& value() const& {
    PAPILIO_ASSERT(ok());
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T&& value() && {
    PAPILIO_ASSERT(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  [[nodiscard]] const Error& error() const {
    PAPILIO_ASSERT(!ok());
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<T, Error> state_;
};

struct Done {};
using Status = Result<Done>;

}  // namespace papilio
