// Robust averages (kernels/robust.h) by Highway (kernels/simd_common.h): many coordinates at once, each lane its own.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd_robust.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/robust.h"
#include "kernels/scalar.h"
#include "kernels/simd_common.h"

HWY_BEFORE_NAMESPACE();
namespace papilio::kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

void trimmed_mean(Contributions contributions, std::size_t trim, float* out, std::size_t count) {
  scalar::trimmed_mean(contributions, trim, {out, count});
}
void median(Contributions contributions, float* out, std::size_t count) { scalar::median(contributions, {out, count}); }
double squared_distance(const float* values, const float* centre, std::size_t count) {
  return scalar::squared_distance({values, count}, {centre, count});
}
void move_centre(Contributions contributions, const float* factors, float* centre, std::size_t count) {
  scalar::move_centre(contributions, {factors, contributions.size()}, {centre, count});
}

#else

constexpr std::size_t kFloats = hn::MaxLanes(Floats());

// Integers in the order of the floats, and back.
HWY_INLINE Integer turned(Integer bits) {
  return hn::Xor(bits, hn::And(hn::ShiftRight<31>(bits), hn::Set(Integers(), 0x7fffffff)));
}

// Batcher's merge exchange (Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2M): which places are
// compared does not depend on the values, so that all lanes are sorted at once.
HWY_INLINE void sort_lanes(Integer* keys, std::size_t count) {
  std::size_t top = 1;
  while (2 * top < count) top *= 2;
  for (std::size_t p = top; p > 0; p /= 2) {
    std::size_t q = top, remainder = 0, distance = p;
    while (true) {
      for (std::size_t i = 0; i + distance < count; ++i) {
        if ((i & p) != remainder) continue;
        const Integer a = keys[i], b = keys[i + distance];
        keys[i] = hn::Min(a, b);
        keys[i + distance] = hn::Max(a, b);
      }
      if (q == p) break;
      distance = q - p;
      q /= 2;
      remainder = p;
    }
  }
}

// One vector of coordinates, sorted, as floats.
HWY_INLINE void load_sorted(Contributions contributions, std::size_t element, std::size_t used, Float* sorted) {
  Integer keys[kMaximumMembers];
  const std::size_t count = contributions.size();
  for (std::size_t i = 0; i < count; ++i) {
    const float* from = contributions[i].data() + element;
    const Float value =
        used == kFloats ? hn::LoadU(Floats(), from) : hn::Load(Floats(), Padded<float, kFloats>(from, used).values);
    keys[i] = turned(hn::BitCast(Integers(), value));
  }
  sort_lanes(keys, count);
  for (std::size_t i = 0; i < count; ++i) sorted[i] = hn::BitCast(Floats(), turned(keys[i]));
}

HWY_INLINE void store(Float value, float* to, std::size_t used) {
  if (used == kFloats) {
    hn::StoreU(value, Floats(), to);
  } else {
    Padded<float, kFloats> last(to, 0);
    hn::Store(value, Floats(), last.values);
    last.copy_to(to, used);
  }
}

void trimmed_mean(Contributions contributions, std::size_t trim, float* out, std::size_t count) {
  const std::size_t end = contributions.size() - trim;
  const Float divisor = hn::Set(Floats(), static_cast<float>(end - trim));
  Float sorted[kMaximumMembers];
  for (std::size_t element = 0; element < count; element += kFloats) {
    const std::size_t used = HWY_MIN(kFloats, count - element);
    load_sorted(contributions, element, used, sorted);
    Float sum = hn::Zero(Floats());
    for (std::size_t i = trim; i < end; ++i) sum = hn::Add(sum, sorted[i]);
    store(hn::Div(sum, divisor), out + element, used);
  }
}

void median(Contributions contributions, float* out, std::size_t count) {
  const std::size_t middle = contributions.size() / 2;
  const Float half = hn::Set(Floats(), 0.5F);
  Float sorted[kMaximumMembers];
  for (std::size_t element = 0; element < count; element += kFloats) {
    const std::size_t used = HWY_MIN(kFloats, count - element);
    load_sorted(contributions, element, used, sorted);
    Float value = sorted[middle];
    if (contributions.size() % 2 == 0) value = hn::Add(hn::Mul(half, sorted[middle - 1]), hn::Mul(half, value));
    store(value, out + element, used);
  }
}

double squared_distance(const float* values, const float* centre, std::size_t count) {
  SquareSums squares;
  HWY_ALIGN float differences[SquareSums::kLanes];
  std::size_t i = 0;
  for (; i + SquareSums::kLanes <= count; i += SquareSums::kLanes) {
    for (std::size_t k = 0; k < SquareSums::kLanes; k += kFloats) {
      const Float value = hn::LoadU(Floats(), values + i + k), origin = hn::LoadU(Floats(), centre + i + k);
      hn::Store(hn::Sub(value, origin), Floats(), differences + k);
    }
    squares.add(differences);
  }
  for (std::size_t k = 0; k < SquareSums::kLanes; ++k) {
    differences[k] = i + k < count ? values[i + k] - centre[i + k] : 0.0F;
  }
  squares.add(differences);
  return squares.total();
}

void move_centre(Contributions contributions, const float* factors, float* centre, std::size_t count) {
  const Float divisor = hn::Set(Floats(), static_cast<float>(contributions.size()));
  std::size_t element = 0;
  for (; element + kFloats <= count; element += kFloats) {
    const Float origin = hn::LoadU(Floats(), centre + element);
    Float moved = hn::Zero(Floats());
    for (std::size_t i = 0; i < contributions.size(); ++i) {
      const Float difference = hn::Sub(hn::LoadU(Floats(), contributions[i].data() + element), origin);
      moved = hn::Add(moved, hn::Mul(difference, hn::Set(Floats(), factors[i])));
    }
    hn::StoreU(hn::Add(origin, hn::Div(moved, divisor)), Floats(), centre + element);
  }
  for (; element < count; ++element) {
    float moved = 0;
    for (std::size_t i = 0; i < contributions.size(); ++i) {
      moved += (contributions[i].data()[element] - centre[element]) * factors[i];
    }
    centre[element] += moved / static_cast<float>(contributions.size());
  }
}

#endif

}  // namespace papilio::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <array>

#include "engine/base/assert.hpp"

namespace papilio::kernels {
namespace {

HWY_EXPORT(trimmed_mean);
HWY_EXPORT(median);
HWY_EXPORT(squared_distance);
HWY_EXPORT(move_centre);

void check(Contributions contributions, std::size_t elements) {
  PAPILIO_ASSERT_VALUES(!contributions.empty() && contributions.size() <= kMaximumMembers, contributions.size(), 0);
  for (const auto& each : contributions) PAPILIO_ASSERT_VALUES(each.size() == elements, each.size(), elements);
}

}  // namespace

void trimmed_mean(Contributions contributions, std::size_t trim, std::span<float> out) {
  check(contributions, out.size());
  PAPILIO_ASSERT_VALUES(2 * trim < contributions.size(), trim, contributions.size());
  HWY_DYNAMIC_DISPATCH(trimmed_mean)(contributions, trim, out.data(), out.size());
}

void median(Contributions contributions, std::span<float> out) {
  check(contributions, out.size());
  HWY_DYNAMIC_DISPATCH(median)(contributions, out.data(), out.size());
}

void centred_clipping(Contributions contributions, float radius, std::size_t iterations, std::span<float> centre) {
  check(contributions, centre.size());
  PAPILIO_ASSERT(radius >= 0);
  std::array<float, kMaximumMembers> factors{};
  for (std::size_t iteration = 0; iteration < iterations; ++iteration) {
    for (std::size_t i = 0; i < contributions.size(); ++i) {
      const double squares =
          HWY_DYNAMIC_DISPATCH(squared_distance)(contributions[i].data(), centre.data(), centre.size());
      factors[i] = scalar::clipping_factor(squares, radius);
    }
    HWY_DYNAMIC_DISPATCH(move_centre)(contributions, factors.data(), centre.data(), centre.size());
  }
}

}  // namespace papilio::kernels

#endif
