#include "rules.h"

#include "environment.h"
#include "scalars.h"

using namespace adamas;

extern "C" {

int32_t adamas_rule_slots(const adamas_rule* rule) {
  const bool legal = rule && rule->eps_mode >= 0 && rule->eps_mode <= 1 && rule->decay >= 0 && rule->decay <= 1 &&
                     rule->amsgrad >= 0 && rule->amsgrad <= 2 && rule->maximize >= 0 && rule->maximize <= 1 &&
                     rule->nesterov >= 0 && rule->nesterov <= 2 && rule->schedule_free >= 0 && rule->schedule_free <= 1 &&
                     !(rule->eps_mode == ADAMAS_EPS_KERAS && rule->amsgrad == ADAMAS_AMSGRAD_CORRECTED) &&
                     !(rule->nesterov != ADAMAS_NESTEROV_OFF && rule->amsgrad != ADAMAS_AMSGRAD_OFF) &&
                     !(rule->schedule_free && (rule->decay != ADAMAS_DECAY_DECOUPLED ||
                                               rule->amsgrad != ADAMAS_AMSGRAD_OFF ||
                                               rule->nesterov != ADAMAS_NESTEROV_OFF));
  if (!legal) return -1;
  return rule->amsgrad == ADAMAS_AMSGRAD_OFF ? 2 : 3;
}

int32_t adamas_rule_carries(const adamas_rule* rule) {
  return rule->schedule_free ? 2 : rule->nesterov == ADAMAS_NESTEROV_SCHEDULED ? 1 : 0;
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
