// The loops beside the rule: sums of squares, statistics, the average of the weights. Included by kernel_loops.h.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernel.h"
#include "memory.h"
#include "numeric.h"

namespace adamas {
namespace {

// How far ahead memory is asked for, into the blocks that follow: for the L1 cache, and for the L2 cache. Cycles a
// parameter that come from memory (one core of a Sapphire Rapids Xeon, minimum of 25 interleaved passes over 8 M float32,
// 2026-11-23): 1.30 without, 0.86 with the first alone (512 and 2048 ahead are the same), 0.74 with both.
constexpr int64_t kAheadSquares = 1024, kFarAheadSquares = 4096;

template <class T>
inline void ask_for_squares(const T* x) {
  for (int64_t i = 0; i < 16; i += 64 / sizeof(T)) {
    __builtin_prefetch(x + i + kAheadSquares);
    __builtin_prefetch(x + i + kFarAheadSquares, 0, 2);
  }
}

// Adds the squares of x in float64 to 16 lanes, element i to lane i mod 16. kAsk: memory is asked for ahead.
template <bool kAsk, class T>
inline void add_squares(double* __restrict lanes, const T* __restrict x, int64_t n) {
  double lane[16];
  for (int l = 0; l < 16; ++l) lane[l] = lanes[l];
  const int64_t whole = n - n % 16;
  for (int64_t i = 0; i < whole; i += 16) {
    if (kAsk) ask_for_squares(x + i);
    for (int l = 0; l < 16; ++l) lane[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  for (int64_t i = whole; i < n; ++i) lane[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int l = 0; l < 16; ++l) lanes[l] = lane[l];
}

#if defined(__AVX2__)
// The same: gcc 12 makes the last four lanes of it one by one, in 9 instead of 5 cycles a turn.
template <bool kAsk>
inline void add_squares(double* __restrict lanes, const float* __restrict x, int64_t n) {
  __m256d lane[4];
  for (int k = 0; k < 4; ++k) lane[k] = _mm256_loadu_pd(lanes + 4 * k);
  const int64_t whole = n - n % 16;
  for (int64_t i = 0; i < whole; i += 16) {
    if (kAsk) ask_for_squares(x + i);
    for (int k = 0; k < 4; ++k) {
      const __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * k));
      lane[k] = _mm256_add_pd(lane[k], _mm256_mul_pd(wide, wide));
    }
  }
  for (int k = 0; k < 4; ++k) _mm256_storeu_pd(lanes + 4 * k, lane[k]);
  for (int64_t i = whole; i < n; ++i) lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
}
#endif

// The lanes are combined by halving.
template <class T>
double squares(const T* __restrict g, int64_t n) {
  double lane[16] = {};
  add_squares<true>(lane, g, n);
  for (int width = 8; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

// Calls each(i, n) for strips from element i on; the compiler knows how long whole ones are.
template <class Each>
inline void in_strips(int64_t n, Each each) {
  int64_t i = 0;
  for (; i + kStrip <= n; i += kStrip) each(i, kStrip);
  if (i < n) each(i, n - i);
}

// Statistics of at most a strip. change: p - before.
template <class T>
inline __attribute__((always_inline)) void tell(Tally& tally, const T* g, const T* change, const T* p, const T* w, T bound,
                                                int64_t n) {
  if (g) add_squares<false>(tally.lanes[0], g, n);
  add_squares<false>(tally.lanes[1], change, n);
  add_squares<false>(tally.lanes[2], p, n);
  int32_t below = 0;
  for (int64_t i = 0; i < n; ++i) below += w[i] < bound ? 1 : 0;
  tally.below += below;
}

template <class T>
void count(Tally& tally, const T* g, const T* before, const T* p, const T* w, T bound, int64_t n) {
  T change[kStrip];
  in_strips(n, [&](int64_t i, int64_t strip) __attribute__((always_inline)) {
    for (int64_t j = 0; j < strip; ++j) change[j] = p[i + j] - before[i + j];
    tell(tally, g ? g + i : nullptr, change, p + i, w + i, bound, strip);
  });
}

// Strip by strip, so that memory comes that was asked for while squares are added up: 3.5 instead of 4.5 cycles a
// parameter from memory, where the rule alone takes 3.15.
template <class T>
void update_and_count(Update<T> rule, const Numbers<T>& s, T* p, const T* g, T* const* slots, int64_t n, int64_t reach,
                      Tally& tally, bool squares, int32_t root, T bound) {
  T change[kStrip];
  T* at[ADAMAS_MAX_SLOTS];
  in_strips(n, [&](int64_t i, int64_t strip) __attribute__((always_inline)) {
    for (int32_t k = 0; k < ADAMAS_MAX_SLOTS; ++k) at[k] = slots[k] ? slots[k] + i : nullptr;
    for (int64_t j = 0; j < strip; ++j) change[j] = p[i + j];
    rule(s, p + i, g + i, at, strip, reach - i);
    for (int64_t j = 0; j < strip; ++j) change[j] = p[i + j] - change[j];
    tell(tally, squares ? g + i : nullptr, change, p + i, at[root], bound, strip);
  });
}

template <class T>
void average(T* __restrict average, const T* __restrict p, T share, int64_t n) {
  in_strips(n, [&](int64_t begin, int64_t strip) __attribute__((always_inline)) {
    ask(average, begin, begin + kAhead + kStrip);
    for (int64_t i = begin; i < begin + strip; ++i) average[i] = average[i] + share * (p[i] - average[i]);
  });
}

}  // namespace
}  // namespace adamas
