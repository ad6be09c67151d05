#include "scalars.h"

#include <cmath>

namespace adamas {

double power(double x, int64_t n) {
  double result = 1.0;
  for (; n; n >>= 1) {
    if (n & 1) result *= x;
    x *= x;
  }
  return result;
}

adamas_scalars scalars(const adamas_rule& rule, const adamas_hyper& h, int64_t t, double grad_scale, double clip) {
  const double bc1 = 1.0 - power(h.beta1, t);
  const double bc2 = 1.0 - power(h.beta2, t);
  const bool corrected = rule.amsgrad == ADAMAS_AMSGRAD_CORRECTED;
  const bool paper = rule.eps_mode == ADAMAS_EPS_PAPER;
  const double root2 = corrected ? 1.0 : std::sqrt(bc2);
  adamas_scalars s;
  s.grad_scale = rule.maximize ? -grad_scale : grad_scale;
  s.clip = clip;
  s.coupled = rule.decay == ADAMAS_DECAY_COUPLED ? h.weight_decay : 0.0;
  s.c1 = 1.0 - h.beta1;
  s.c2 = 1.0 - h.beta2;
  s.r2 = corrected ? 1.0 / bc2 : 1.0;
  s.eps_root = paper && !corrected ? h.eps_root * bc2 : h.eps_root;
  s.alpha = h.lr * root2 / bc1;
  s.eps = paper ? h.eps * root2 : h.eps;
  s.keep = rule.decay == ADAMAS_DECAY_DECOUPLED ? 1.0 - h.lr * h.weight_decay : 1.0;
  return s;
}

double clip_factor(int32_t clip, double norm, double bound) {
  const double larger = norm <= bound ? bound : norm;
  if (clip == ADAMAS_CLIP_NORM) return bound / larger;
  if (clip == ADAMAS_CLIP_GLOBAL_NORM) return bound * (1.0 / larger) + (norm - norm);
  if (clip == ADAMAS_CLIP_TORCH) {
    const double factor = bound / (norm + 1e-6);
    return factor >= 1.0 ? 1.0 : factor;
  }
  return 1.0;
}

}  // namespace adamas
