// What every fuzz target has: the function that libFuzzer calls, seeds to begin with, and a way to say what is wrong
// that ends the program, because that is what libFuzzer takes for a finding. The same file is linked into a small
// program that replays the corpus, so that findings stay tests in builds of every compiler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace papilio::fuzz {

using Bytes = std::vector<std::byte>;

// Inputs that reach far into the target, made by the encoders of the tree itself: they follow every change of a format
// by themselves. Each target defines it.
std::vector<Bytes> seeds();

[[noreturn]] inline void broken(const char* condition, const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "fuzz: broken promise %s at %s:%d%s%s\n", condition, file, line, what.empty() ? "" : ": ",
               what.c_str());
  std::abort();
}

inline void append(Bytes& bytes, std::initializer_list<int> values) {
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
}
inline Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  append(bytes, values);
  return bytes;
}
inline Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

}  // namespace papilio::fuzz

// Also in builds without assertions of their own.
#define FUZZ_CHECK(condition) FUZZ_CHECK_SAID(condition, std::string())
#define FUZZ_CHECK_SAID(condition, what) \
  ((condition) ? static_cast<void>(0) : ::papilio::fuzz::broken(#condition, __FILE__, __LINE__, what))

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
