// A finding has to repeat: what OpenSSL draws, for handshakes and for test data, comes out the same for every input.
// OpenSSL keeps this door open for tests of its own, and calls it deprecated.
#pragma once

#include <openssl/rand.h>

#include "engine/base/random.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
inline Random& entropy() {
  static Random random(1);
  return random;
}
inline int draw_entropy(unsigned char* out, int count) {
  for (int i = 0; i < count; ++i) out[i] = static_cast<unsigned char>(entropy().next());
  return 1;
}
// Before each input.
inline void repeat_randomness() {
  static const RAND_METHOD method = {nullptr, draw_entropy, nullptr, nullptr, draw_entropy, nullptr};
  static const bool is_set = RAND_set_rand_method(&method) == 1;
  FUZZ_CHECK(is_set);
  entropy() = Random(1);
}
#pragma GCC diagnostic pop

}  // namespace papilio::fuzz
