// The loops of the rules: adamas.rule.update, elementwise. Included by kernel_loops.h.
// Only + - * / sqrt, comparisons and selections, in the order of rule.py.
#pragma once

#include "kernel.h"
#include "numeric.h"

namespace adamas {
namespace {

// Elements that one turn of the outer loop takes, and how far ahead of it memory is asked for. The hardware's own
// prefetching stops at each page of five streams: asking brings the step from 0.84 to 1.00 of a plain loop over the same
// memory (two cores of a Sapphire Rapids Xeon, 16 M float32, medians of 40 interleaved runs, 2026-11; 256 and 1024 ahead
// are the same, 2048 is 0.92, and strips of 256 elements 0.91).
constexpr int64_t kStrip = 64;
constexpr int64_t kAhead = 512;

template <class T>
inline void ask(const T* x, int64_t begin, int64_t end) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = begin; i < end; i += line) __builtin_prefetch(x + i, 1);
}

template <class T, bool kClipped, bool kCoupled>
inline T gradient(const Numbers<T>& c, T g, T p) {
  T gi = c.grad_scale * g;
  if (kClipped) gi = gi > c.clip ? c.clip : gi < -c.clip ? -c.clip : gi;
  if (kCoupled) gi = gi + c.coupled * p;
  return gi;
}

template <class T, Formula kFormula, bool kClipped, bool kCoupled>
inline void adam(const Numbers<T>& s, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v,
                 T* __restrict vmax, int64_t n) {
  const Numbers<T> c = s;
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    const int64_t end = least(n, begin + kStrip);
    const int64_t from = begin + kAhead, to = least(n, from + kStrip);
    ask(p, from, to);
    ask(g, from, to);
    ask(m, from, to);
    ask(v, from, to);
    if (kFormula == kAmsgrad) ask(vmax, from, to);
    for (int64_t i = begin; i < end; ++i) {
      const T gi = gradient<T, kClipped, kCoupled>(c, g[i], p[i]);
      const T mi = flush(m[i] + c.c1 * (gi - m[i]));
      const T vi = flush(v[i] + c.c2 * (gi * gi - v[i]));
      T w = vi;
      if (kFormula == kAmsgrad) {
        const T corrected = vi * c.r2;
        const T largest = vmax[i];
        w = flush((largest > corrected) | (largest != largest) ? largest : corrected);
        vmax[i] = w;
      }
      m[i] = mi;
      v[i] = vi;
      T root = std::sqrt(w + c.eps_root) + c.eps;
      if (kFormula == kRectified) root = c.adaptive > T(0) ? root : T(1);
      p[i] = c.keep * p[i] - (kFormula == kNesterov ? (c.alpha * mi + c.gain * gi) / root : c.alpha * (mi / root));
    }
  }
}

template <class T, bool kClipped>
inline void schedule_free(const Numbers<T>& s, T* __restrict p, const T* __restrict g, T* __restrict v,
                          T* __restrict z, int64_t n) {
  const Numbers<T> c = s;
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    const int64_t end = least(n, begin + kStrip);
    const int64_t from = begin + kAhead, to = least(n, from + kStrip);
    ask(p, from, to);
    ask(g, from, to);
    ask(v, from, to);
    ask(z, from, to);
    for (int64_t i = begin; i < end; ++i) {
      const T gi = gradient<T, kClipped, false>(c, g[i], p[i]);
      const T vi = flush(v[i] + c.c2 * (gi * gi - v[i]));
      const T step = c.alpha * (gi / (std::sqrt(vi + c.eps_root) + c.eps)) + c.shrink * p[i];
      v[i] = vi;
      p[i] = p[i] + c.mean * (z[i] - p[i]) - c.pull * step;
      z[i] = z[i] - step;
    }
  }
}

template <class T, Formula kFormula, bool kClipped, bool kCoupled>
void update(const Numbers<T>& s, T* p, const T* g, T* const* slots, int64_t n) {
  if constexpr (kFormula == kScheduleFree)
    schedule_free<T, kClipped>(s, p, g, slots[0], slots[1], n);  // its decay is decoupled always
  else
    adam<T, kFormula, kClipped, kCoupled>(s, p, g, slots[0], slots[1], kFormula == kAmsgrad ? slots[2] : nullptr, n);
}

}  // namespace
}  // namespace adamas
