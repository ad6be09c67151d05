// The loops of adamas.rule.reduction: what is added up over a tensor before it is stepped. Included by kernel_loops.h.
// Only + - * / sqrt, comparisons and selections, in the order of rule.py; nothing is written.
#pragma once

#include "kernel.h"
#include "memory.h"
#include "numeric.h"
#include "rule_loops.h"
#include "sums.h"

namespace adamas {
namespace {

template <class T, Reduction kReduction, bool kClipped, bool kCoupled>
void reduce(const Numbers<T>& s, const T* __restrict p, const T* __restrict g, T* const* slots, int64_t n,
            int64_t reach, double (*lanes)[16]) {
  constexpr bool kNeedsP = kReduction == kTrust || kCoupled;
  constexpr bool kNeedsM = kReduction != kRms, kNeedsV = kReduction != kAgreement;
  const Numbers<T> c = s;
  const T *__restrict const m = slots[0], *__restrict const v = slots[1];
  T x[kStrip];  // values and their squares are two loops, which the compiler vectorises one by one
  for (int64_t i = 0; i < n; i += kStrip) {
    const int64_t strip = least(kStrip, n - i);
    ask(g, i, reach);
    if (kNeedsP) ask(p, i, reach);
    if (kNeedsM) ask(m, i, reach);
    if (kNeedsV) ask(v, i, reach);
    for (int64_t j = 0; j < strip; ++j) {
      const T gi = gradient<T, kClipped, kCoupled>(c, g[i + j], kCoupled ? p[i + j] : T(0));
      const T mi = kNeedsM ? flush(m[i + j] + c.c1 * (gi - m[i + j])) : T(0);
      const T vi = kNeedsV ? flush(v[i + j] + c.c2 * (gi * gi - v[i + j])) : T(0);
      if (kReduction == kRms) {
        const T root = std::sqrt(vi);
        x[j] = gi / (root <= c.eps ? c.eps : root);
      } else if (kReduction == kTrust) {
        x[j] = c.alpha * (mi / (std::sqrt(vi + c.eps_root) + c.eps)) + c.shrink * p[i + j];
      } else {
        x[j] = against(mi, gi) ? T(0) : T(1);
      }
    }
    if (kReduction == kTrust) add_squares<false>(lanes[0], p + i, strip);
    add_squares<false>(lanes[kReduction == kTrust ? 1 : 0], x, strip);
  }
}

}  // namespace
}  // namespace adamas
