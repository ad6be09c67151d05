#include "scalars.h"

#include <cmath>
#include <initializer_list>

namespace adamas {

double power(double x, int64_t n) {
  double result = 1.0;
  for (; n; n >>= 1) {
    if (n & 1) result *= x;
    x *= x;
  }
  return result;
}

namespace {

// adamas.scalars.fade
double fade(double x) {
  x = x < 65536.0 ? x : 65536.0;
  const double whole = std::floor(x);
  const double y = (x - whole) * -0.040821994520255166;
  double series = 1.0 / 40320.0;
  for (const double factorial : {5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0}) series = series * y + 1.0 / factorial;
  return power(0.96, static_cast<int64_t>(whole)) * series;
}

// mu_t of a scheduled Nesterov momentum
double momentum(const adamas_hyper& h, double t) { return h.beta1 * (1.0 - 0.5 * fade(t * h.momentum_decay)); }

// lr_t and w_t of schedule-free
double warmed(const adamas_hyper& h, double t) { return h.lr * (t / (t < h.warmup_steps ? h.warmup_steps : t)); }
double weight(const adamas_hyper& h, double t, double lr_max) {
  return power(t, static_cast<int64_t>(h.r)) * power(lr_max, static_cast<int64_t>(h.weight_lr_power));
}

}  // namespace

void carry_on(const adamas_rule& rule, const adamas_hyper& h, int64_t t, const double* before, double* after) {
  const double step = static_cast<double>(t);
  if (rule.nesterov == ADAMAS_NESTEROV_SCHEDULED) after[0] = before[0] * momentum(h, step);
  if (rule.schedule_free) {
    const double lr = warmed(h, step);
    const double lr_max = lr > before[1] ? lr : before[1];
    after[0] = before[0] + weight(h, step, lr_max);
    after[1] = lr_max;
  }
}

adamas_scalars scalars(const adamas_rule& rule, const adamas_hyper& h, int64_t t, double grad_scale, double clip,
                       const double* carry) {
  const double step = static_cast<double>(t);
  const double power1 = power(h.beta1, t);
  const double bc1 = 1.0 - power1;
  const double power2 = power(h.beta2, t);
  const double bc2 = 1.0 - power2;
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
  s.gain = s.shrink = s.mean = s.pull = s.limit = 0.0;
  s.adaptive = 1.0;
  s.unit = 0.0;
  if (rule.nesterov != ADAMAS_NESTEROV_OFF) {
    const bool scheduled = rule.nesterov == ADAMAS_NESTEROV_SCHEDULED;
    const double mu = scheduled ? momentum(h, step) : h.beta1;
    const double following = scheduled ? momentum(h, static_cast<double>(t + 1)) : h.beta1;
    const double product = scheduled ? carry[0] : power1;
    s.alpha = h.lr * root2 * (following / (1.0 - product * following));
    s.gain = h.lr * root2 * ((1.0 - mu) / (1.0 - product));
  }
  if (rule.schedule_free) {
    const double lr = warmed(h, step);
    s.alpha = lr * root2;
    s.shrink = lr * h.weight_decay;
    s.mean = weight(h, step, carry[1]) / (carry[0] > 0.0 ? carry[0] : 1.0);
    s.pull = 1.0 - h.beta1 * (1.0 - s.mean);
  }
  if (rule.clip_update) {
    s.unit = root2;
    s.shrink = h.lr * h.weight_decay;
  }
  if (rule.trust_ratio != ADAMAS_TRUST_OFF) {
    s.unit = h.lr;
    s.shrink = rule.trust_ratio == ADAMAS_TRUST_WITH_DECAY ? h.lr * h.weight_decay : 0.0;
  }
  if (rule.infinity) {
    s.alpha = h.lr / bc1;
    s.r2 = h.beta2;
    s.eps_root = paper ? h.eps : 0.0;
    s.eps = paper ? 0.0 : h.eps;
  }
  if (rule.adopt) {
    s.alpha = h.lr;
    s.eps_root = 0.0;
    s.eps = h.eps;
    s.limit = std::sqrt(std::sqrt(step - 1.0));
    if (!(s.limit > 0.0)) s.c2 = s.keep = 1.0;
  }
  if (rule.rectify) {
    const double limit = 2.0 / (1.0 - h.beta2) - 1.0;
    const double rho = limit - 2.0 * step * power2 / bc2;
    if (rho > 5.0) {
      s.alpha = s.alpha * std::sqrt((rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho));
    } else {
      s.alpha = h.lr / bc1;
      s.adaptive = 0.0;
    }
  }
  return s;
}

adamas_scalars rescaled(const adamas_rule& rule, const adamas_scalars& before, double n, const double* sums) {
  adamas_scalars s = before;
  const bool decayed_first = rule.trust_ratio == ADAMAS_TRUST_WITHOUT_DECAY;
  double factor;
  if (rule.clip_update) {
    const double rms = s.unit * std::sqrt(sums[0] / (n > 0.0 ? n : 1.0));
    factor = 1.0 / (rms <= 1.0 ? 1.0 : rms);
  } else if (rule.cautious) {
    const double share = sums[0] / (n > 0.0 ? n : 1.0);
    factor = 1.0 / (share <= 1e-3 ? 1e-3 : share);
  } else {
    const double kept = decayed_first ? s.keep : 1.0;
    const double of_p = std::sqrt(kept * kept * sums[0]), of_step = std::sqrt(sums[1]);
    factor = of_p <= 0.0 || of_step <= 0.0 ? 1.0 : s.unit * of_p / of_step;
  }
  s.alpha = s.alpha * factor;
  if (!rule.cautious && !decayed_first) s.keep = 1.0 - s.shrink * factor;
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
