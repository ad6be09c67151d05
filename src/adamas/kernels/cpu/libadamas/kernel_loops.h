// The loops. Included by one kernel_*.cpp per instruction set, which names it in ADAMAS_KERNEL; the compiler vectorises.
// Only + - * / sqrt, comparisons and selections, in the order of adamas/rule.py: update.
#include <cmath>
#include <limits>

#include "kernel.h"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FMA__)
#error "libadamas must be compiled without fast-math and without fused multiply-add: it promises the bits of rule.py"
#endif

namespace adamas {
namespace {

// A moment below the smallest normal number is stored as 0; NaN stays.
template <class T>
inline T flush(T x) {
  return std::fabs(x) < std::numeric_limits<T>::min() ? T(0) : x;
}

// Elements that one turn of the outer loop takes, and how far ahead of it memory is asked for. The hardware's own
// prefetching stops at each page of five streams: asking brings the step from 0.84 to 1.00 of a plain loop over the same
// memory (two cores of a Sapphire Rapids Xeon, 16 M float32, medians of 40 interleaved runs, 2026-11; 256 and 1024 ahead
// are the same, 2048 is 0.92, and strips of 256 elements 0.91).
constexpr int64_t kStrip = 64;
constexpr int64_t kAhead = 512;
// The same for a sum of squares, into the blocks that follow: 1.18 ms for 8 M float32 instead of 1.81 (one core of the same
// machine, medians of 60 interleaved runs, 2026-11-22; 256 and 512 ahead 1.36, 2048 and 4096 1.15).
constexpr int64_t kAheadSquares = 1024;

// Not std::min: a weak symbol compiled for AVX2 here could be the one that the linker keeps for everybody.
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
inline void ask(const T* x, int64_t begin, int64_t end) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = begin; i < end; i += line) __builtin_prefetch(x + i, 1);
}

// adamas.rule.update
template <class T, bool kClipped, bool kCoupled, bool kAmsgrad>
void update(const Numbers<T>& s, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v,
            T* __restrict vmax, int64_t n) {
  const Numbers<T> c = s;
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    const int64_t end = least(n, begin + kStrip);
    const int64_t from = begin + kAhead, to = least(n, from + kStrip);
    ask(p, from, to);
    ask(g, from, to);
    ask(m, from, to);
    ask(v, from, to);
    if (kAmsgrad) ask(vmax, from, to);
    for (int64_t i = begin; i < end; ++i) {
      T gi = c.grad_scale * g[i];
      if (kClipped) gi = gi > c.clip ? c.clip : gi < -c.clip ? -c.clip : gi;
      if (kCoupled) gi = gi + c.coupled * p[i];
      const T mi = flush(m[i] + c.c1 * (gi - m[i]));
      const T vi = flush(v[i] + c.c2 * (gi * gi - v[i]));
      T w = vi;
      if (kAmsgrad) {
        const T corrected = vi * c.r2;
        const T largest = vmax[i];
        w = flush((largest > corrected) | (largest != largest) ? largest : corrected);
        vmax[i] = w;
      }
      m[i] = mi;
      v[i] = vi;
      p[i] = c.keep * p[i] - c.alpha * (mi / (std::sqrt(w + c.eps_root) + c.eps));
    }
  }
}

// Float64 squares in 16 lanes, element i in lane i mod 16; the lanes are combined by halving.
template <class T>
double squares(const T* __restrict g, int64_t n) {
  double lane[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t at = 0; at < 16; at += 64 / sizeof(T)) __builtin_prefetch(g + i + kAheadSquares + at);
    for (int l = 0; l < 16; ++l) {
      const double x = static_cast<double>(g[i + l]);
      lane[l] += x * x;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    const double x = static_cast<double>(g[i]);
    lane[l] += x * x;
  }
  for (int width = 8; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

template <class T>
constexpr Loops<T> all() {
  return {{{{update<T, false, false, false>, update<T, false, false, true>},
            {update<T, false, true, false>, update<T, false, true, true>}},
           {{update<T, true, false, false>, update<T, true, false, true>},
            {update<T, true, true, false>, update<T, true, true, true>}}},
          squares<T>};
}

}  // namespace

const Kernel ADAMAS_KERNEL = {all<float>(), all<double>()};

}  // namespace adamas
