// Seeded randomness: every random choice of the engine that a replay must repeat comes from one of these.
#pragma once

#include <cstdint>

namespace papilio {

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). Small state, every
// seed is good, and the same numbers on every platform (std::distribution types promise no such thing).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15U); }

  // Uniform in [0, bound), bound > 0. The bias of the multiplication is below 2^-32 for bounds under 2^32.
  std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64U);
  }

  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }

  bool chance(double probability) { return uniform() < probability; }

  // The finaliser alone: a hash of 64 bits to 64 bits, for values addressed by a counter.
  static constexpr std::uint64_t mix(std::uint64_t value) {
    value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
    value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
    return value ^ (value >> 31U);
  }

 private:
  __extension__ using Wide = unsigned __int128;

  std::uint64_t state_;
};

}  // namespace papilio
