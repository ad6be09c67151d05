// What each rule of the family needs: its slots and their kinds (adamas.rule.Rule.slots), its loop.
#pragma once

#include "adamas.h"
#include "kernel.h"

namespace adamas {

enum class Kind { kSigned, kNonNegative, kWeight };

inline Formula formula(const adamas_rule& rule) {
  if (rule.schedule_free) return kScheduleFree;
  if (rule.nesterov != ADAMAS_NESTEROV_OFF) return kNesterov;
  if (rule.rectify) return kRectified;
  if (rule.infinity) return kAdamax;
  if (rule.adopt) return kAdopt;
  if (rule.cautious) return kCautious;
  return rule.amsgrad != ADAMAS_AMSGRAD_OFF ? kAmsgrad : kAdam;
}

// Of slot s: m, v and for AMSGrad the largest v; schedule-free v and z.
inline Kind slot_kind(const adamas_rule& rule, int32_t s) {
  if (rule.schedule_free) return s == 0 ? Kind::kNonNegative : Kind::kWeight;
  return s == 0 ? Kind::kSigned : Kind::kNonNegative;
}

// The slot whose root divides the step.
inline int32_t root_slot(const adamas_rule& rule) {
  const Formula f = formula(rule);
  return f == kAmsgrad ? 2 : f == kScheduleFree ? 0 : 1;
}

// What the phase REDUCE adds up; of a rule that reduces.
inline Reduction reduction(const adamas_rule& rule) {
  return rule.clip_update ? kRms : rule.cautious ? kAgreement : kTrust;
}

// Whether that reads the parameter, and slot s.
inline bool reads_parameter(Reduction what, bool coupled) { return what == kTrust || coupled; }
inline bool reads_slot(Reduction what, int32_t s) { return what == kTrust || s == (what == kRms ? 1 : 0); }

template <class T>
Update<T> rule_loop(const Loops<T>& loops, const adamas_rule& rule, bool clipped, bool coupled) {
  return loops.update[formula(rule)][clipped][coupled];
}

}  // namespace adamas
