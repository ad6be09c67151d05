#include "rules.h"

#include "environment.h"
#include "scalars.h"

using namespace adamas;

extern "C" {

int32_t adamas_rule_slots(const adamas_rule* rule) {
  const auto among = [](int32_t given, int32_t most) { return given >= 0 && given <= most; };
  const bool legal =
      rule && among(rule->eps_mode, 1) && among(rule->decay, 1) && among(rule->amsgrad, 2) && among(rule->maximize, 1) &&
      among(rule->nesterov, 2) && among(rule->schedule_free, 1) && among(rule->rectify, 1) &&
      among(rule->infinity, 1) && among(rule->adopt, 1) && among(rule->clip_update, 1) &&
      among(rule->trust_ratio, 2) && among(rule->cautious, 1) &&
      !(rule->eps_mode == ADAMAS_EPS_KERAS && rule->amsgrad == ADAMAS_AMSGRAD_CORRECTED) &&
      (rule->amsgrad > 0) + (rule->nesterov > 0) + rule->schedule_free + rule->rectify + rule->infinity + rule->adopt +
              rule->clip_update + (rule->trust_ratio > 0) + rule->cautious <= 1 &&
      !((rule->schedule_free || rule->clip_update || rule->trust_ratio) && rule->decay != ADAMAS_DECAY_DECOUPLED) &&
      !(rule->adopt && rule->eps_mode != ADAMAS_EPS_PAPER);
  if (!legal) return -1;
  return rule->amsgrad == ADAMAS_AMSGRAD_OFF ? 2 : 3;
}

int32_t adamas_rule_carries(const adamas_rule* rule) {
  return rule->schedule_free ? 2 : rule->nesterov == ADAMAS_NESTEROV_SCHEDULED ? 1 : 0;
}

int32_t adamas_rule_reduces(const adamas_rule* rule) {
  return rule->trust_ratio != ADAMAS_TRUST_OFF ? 2 : rule->clip_update + rule->cautious;
}

void adamas_rule_carry_on(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t, const double* before,
                          double* after) {
  Ieee ieee;
  carry_on(*rule, *hyper, t, before, after);
}

void adamas_rule_scalars(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t, double grad_scale,
                         double clip, const double* carry, adamas_scalars* out) {
  Ieee ieee;
  *out = scalars(*rule, *hyper, t, grad_scale, clip, carry);
}

double adamas_clip_factor(int32_t clip, double norm, double bound) {
  Ieee ieee;
  return clip_factor(clip, norm, bound);
}
}
