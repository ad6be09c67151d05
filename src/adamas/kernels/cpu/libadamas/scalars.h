// The scalars of a step, in float64 as rule.py computes them, and rounded for the loops.
#pragma once

#include <cstdint>

#include "adamas.h"
#include "kernel.h"

namespace adamas {

// adamas.scalars.power
double power(double x, int64_t n);

// adamas.scalars.carry_on
void carry_on(const adamas_rule& rule, const adamas_hyper& h, int64_t t, const double* before, double* after);

// adamas.scalars.eps_bound
inline double eps_bound(const adamas_rule& rule, const adamas_scalars& s) {
  return rule.infinity ? s.eps + 2.0 * s.eps_root : s.eps * s.eps - s.eps_root;
}

// adamas.scalars.scalars
adamas_scalars scalars(const adamas_rule& rule, const adamas_hyper& h, int64_t t, double grad_scale, double clip,
                       const double* carry);

// adamas.scalars.rescaled
adamas_scalars rescaled(const adamas_rule& rule, const adamas_scalars& before, double n, const double* sums);

// adamas.rule.clip_factor
double clip_factor(int32_t clip, double norm, double bound);

template <class T>
Numbers<T> rounded(const adamas_scalars& s, double grad_scale, double clip) {
  return {T(s.grad_scale * grad_scale), T(clip),    T(s.coupled), T(s.c1),  T(s.c2), T(s.r2),
          T(s.eps_root),                T(s.alpha), T(s.eps),     T(s.keep), T(s.gain), T(s.shrink),
          T(s.mean),                    T(s.pull),  T(s.adaptive), T(s.limit), T(s.unit)};
}

}  // namespace adamas
