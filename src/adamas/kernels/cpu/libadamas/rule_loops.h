// The loops of the rules: adamas.rule.update, elementwise. Included by kernel_loops.h.
// Only + - * / sqrt, comparisons and selections, in the order of rule.py.
#pragma once

#include "kernel.h"
#include "memory.h"
#include "numeric.h"

namespace adamas {
namespace {

// A maximum that propagates NaN.
template <class T>
inline T largest(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}

template <class T>
inline T clamp(T x, T bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}

template <class T, bool kClipped, bool kCoupled>
inline T gradient(const Numbers<T>& c, T g, T p) {
  T gi = c.grad_scale * g;
  if (kClipped) gi = clamp(gi, c.clip);
  if (kCoupled) gi = gi + c.coupled * p;
  return gi;
}

// Whether the two have not the same sign, 0 having none; never where m is NaN. Selections, because gcc vectorises them;
// a condition made of four comparisons takes ten times as long.
template <class T>
inline bool against(T m, T g) {
  return (g <= T(0) ? g < T(0) ? -m : T(0) : m) <= T(0);
}

// Adam, AMSGrad, NAdam, RAdam, Adamax and cautious Adam.
template <class T, Formula kFormula, bool kClipped, bool kCoupled>
inline void adam(const Numbers<T>& c, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v,
                 T* __restrict vmax, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gi = gradient<T, kClipped, kCoupled>(c, g[i], p[i]);
    const T mi = flush(m[i] + c.c1 * (gi - m[i]));
    T vi = flush(v[i] + c.c2 * (gi * gi - v[i]));
    if (kFormula == kAdamax) vi = flush(largest(c.r2 * v[i], std::fabs(gi) + c.eps_root));
    T w = vi;
    if (kFormula == kAmsgrad) {
      w = flush(largest(vmax[i], vi * c.r2));
      vmax[i] = w;
    }
    m[i] = mi;
    v[i] = vi;
    T root = (kFormula == kAdamax ? w : std::sqrt(w + c.eps_root)) + c.eps;
    if (kFormula == kRectified) root = c.adaptive > T(0) ? root : T(1);
    T u = mi;
    if (kFormula == kCautious) u = against(mi, gi) ? T(0) : mi;
    p[i] = c.keep * p[i] - (kFormula == kNesterov ? (c.alpha * mi + c.gain * gi) / root : c.alpha * (u / root));
  }
}

template <class T, bool kClipped, bool kCoupled>
inline void adopt(const Numbers<T>& c, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v,
                  int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gi = gradient<T, kClipped, kCoupled>(c, g[i], p[i]);
    const T normalised = clamp(gi / largest(std::sqrt(v[i]), c.eps), c.limit);
    const T mi = flush(m[i] + c.c1 * (normalised - m[i]));
    m[i] = mi;
    v[i] = flush(v[i] + c.c2 * (gi * gi - v[i]));
    p[i] = c.keep * p[i] - c.alpha * mi;
  }
}

template <class T, bool kClipped>
inline void schedule_free(const Numbers<T>& c, T* __restrict p, const T* __restrict g, T* __restrict v,
                          T* __restrict z, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gi = gradient<T, kClipped, false>(c, g[i], p[i]);
    const T vi = flush(v[i] + c.c2 * (gi * gi - v[i]));
    const T step = c.alpha * (gi / (std::sqrt(vi + c.eps_root) + c.eps)) + c.shrink * p[i];
    v[i] = vi;
    p[i] = p[i] + c.mean * (z[i] - p[i]) - c.pull * step;
    z[i] = z[i] - step;
  }
}

template <class T, Formula kFormula, bool kClipped, bool kCoupled>
void update(const Numbers<T>& s, T* p, const T* g, T* const* slots, int64_t n, int64_t reach) {
  const Numbers<T> c = s;
  T *const a = slots[0], *const b = slots[1], *const vmax = kFormula == kAmsgrad ? slots[2] : nullptr;
  for (int64_t i = 0; i < n; i += kStrip) {
    const int64_t strip = least(kStrip, n - i);
    ask(p, i, reach);
    ask(g, i, reach);
    ask(a, i, reach);
    ask(b, i, reach);
    if (kFormula == kAmsgrad) ask(vmax, i, reach);
    if constexpr (kFormula == kScheduleFree)
      schedule_free<T, kClipped>(c, p + i, g + i, a + i, b + i, strip);  // its decay is decoupled always
    else if constexpr (kFormula == kAdopt)
      adopt<T, kClipped, kCoupled>(c, p + i, g + i, a + i, b + i, strip);
    else
      adam<T, kFormula, kClipped, kCoupled>(c, p + i, g + i, a + i, b + i, vmax ? vmax + i : nullptr, strip);
  }
}

}  // namespace
}  // namespace adamas
