// A broken invariant of our own stops the process with file, line and the values involved: going on would average
// wrong numbers into other people's models. Never use these on what a peer or a user sent.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace papilio::detail {

[[noreturn]] inline void assertion_failed(const char* condition, const char* file, int line, std::int64_t left = 0,
                                          std::int64_t right = 0) {
  std::fprintf(stderr, "papilio: broken invariant %s at %s:%d (values %lld, %lld)\n", condition, file, line,
               static_cast<long long>(left), static_cast<long long>(right));
  std::abort();
}

}  // namespace papilio::detail

#define PAPILIO_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::papilio::detail::assertion_failed(#condition, __FILE__, __LINE__))

// The same, printing two integers that explain the failure.
#define PAPILIO_ASSERT_VALUES(condition, left, right)                                                                 \
  ((condition) ? static_cast<void>(0)                                                                                 \
               : ::papilio::detail::assertion_failed(#condition, __FILE__, __LINE__, static_cast<std::int64_t>(left), \
                                                     static_cast<std::int64_t>(right)))
