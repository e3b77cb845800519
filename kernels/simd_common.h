// What the vector code of the simd_*.cc files shares. Highway includes each of those files once per instruction set,
// with HWY_NAMESPACE a different one each time, and this with it.
//
// Rules that keep the results the same on every machine: no fused multiply-add (Mul, then Add; the compiler gets
// -ffp-contract=off); no operation whose rounding Highway leaves open; minima and maxima as integers. The SCALAR target
// has no vectors: there, every operation is its reference.
#if defined(PAPILIO_KERNELS_SIMD_COMMON) == defined(HWY_TARGET_TOGGLE)
#ifdef PAPILIO_KERNELS_SIMD_COMMON
#undef PAPILIO_KERNELS_SIMD_COMMON
#else
#define PAPILIO_KERNELS_SIMD_COMMON
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace papilio::kernels::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Integers = hn::RebindToSigned<Floats>;
using Doubles = hn::Repartition<double, Floats>;
using Float = hn::Vec<Floats>;
using Integer = hn::Vec<Integers>;
using Double = hn::Vec<Doubles>;

// Without the sign, the order of the bit patterns is the order of the magnitudes, with infinity and every NaN on top.
HWY_INLINE Integer magnitude_bits(Float value) {
  return hn::And(hn::BitCast(Integers(), value), hn::Set(Integers(), 0x7fffffff));
}

// An array that a last, short piece is brought to full width in: whoever works on it needs no code for the rest.
template <typename T, std::size_t count>
struct Padded {
  HWY_ALIGN T values[count] = {};

  HWY_INLINE Padded(const void* from, std::size_t used) {
    if (used > 0) memcpy(values, from, used * sizeof(T));
  }
  HWY_INLINE void copy_to(void* to, std::size_t used) const {
    if (used > 0) memcpy(to, values, used * sizeof(T));
  }
};

// kInspectionLanes sums of squares, in as many vectors as that takes, and their sum folded in halves.
struct SquareSums {
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kPerVector = hn::MaxLanes(Doubles());
  static constexpr std::size_t kVectors = kLanes / kPerVector;

  HWY_INLINE SquareSums() {
    for (Double& sum : sums) sum = hn::Zero(Doubles());
  }
  // Of the next 16 floats.
  HWY_INLINE void add(const float* values) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      const Double value = hn::PromoteTo(Doubles(), hn::LoadU(hn::Rebind<float, Doubles>(), values + i * kPerVector));
      sums[i] = hn::Add(sums[i], hn::Mul(value, value));
    }
  }
  HWY_INLINE double total() const {
    HWY_ALIGN double lanes[kLanes];
    for (std::size_t i = 0; i < kVectors; ++i) hn::Store(sums[i], Doubles(), lanes + i * kPerVector);
    for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
      for (std::size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    }
    return lanes[0];
  }

  Double sums[kVectors];
};

#endif

}  // namespace papilio::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
