// Small exact things that several files compute with. Local to each file that includes them: a function that the linker
// shares could be the one that was compiled for AVX2, and would stop older processors.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace adamas {
namespace {

// A moment below the smallest normal number is stored as 0; NaN stays.
template <class T>
inline T flush(T x) {
  return std::fabs(x) < std::numeric_limits<T>::min() ? T(0) : x;
}

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The same bits as another type.
template <class To, class From>
inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits() changes the type, not the size");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

}  // namespace
}  // namespace adamas
