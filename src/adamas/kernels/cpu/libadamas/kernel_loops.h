// The table of one instruction set: included by kernel_*.cpp, each of which names it in ADAMAS_KERNEL.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FMA__)
#error "libadamas must be compiled without fast-math and without fused multiply-add: it promises the bits of rule.py"
#endif

#include "codes.h"
#include "fused.h"
#include "int8.h"
#include "kernel.h"
#include "reductions.h"
#include "rule_loops.h"
#include "sums.h"

namespace adamas {
namespace {

template <class T>
constexpr Loops<T> all() {
#define ADAMAS_VARIANTS(F) \
  {{update<T, F, false, false>, update<T, F, false, true>}, {update<T, F, true, false>, update<T, F, true, true>}}
#define ADAMAS_DECOUPLED(R) {{reduce<T, R, false, false>, nullptr}, {reduce<T, R, true, false>, nullptr}}
  return {{ADAMAS_VARIANTS(kAdam), ADAMAS_VARIANTS(kAmsgrad), ADAMAS_VARIANTS(kNesterov), ADAMAS_VARIANTS(kScheduleFree),
           ADAMAS_VARIANTS(kRectified), ADAMAS_VARIANTS(kAdamax), ADAMAS_VARIANTS(kAdopt), ADAMAS_VARIANTS(kCautious)},
          {ADAMAS_DECOUPLED(kRms), ADAMAS_DECOUPLED(kTrust),
           {{reduce<T, kAgreement, false, false>, reduce<T, kAgreement, false, true>},
            {reduce<T, kAgreement, true, false>, reduce<T, kAgreement, true, true>}}},
          squares<T>,
          count<T>,
          update_and_count<T>,
          average<T>};
#undef ADAMAS_VARIANTS
#undef ADAMAS_DECOUPLED
}

}  // namespace

const Kernel ADAMAS_KERNEL = {all<float>(),
                              all<double>(),
                              {{decode_bfloat16, encode_bfloat16<false>},
                               {decode_bfloat16, encode_bfloat16<true>},
                               {decode_float16, encode_float16<false>},
                               {decode_float16, encode_float16<true>},
                               {decode_int8<true>, encode_int8<true>},
                               {decode_int8<false>, encode_int8<false>},
                               {decode_split, encode_split}},
                              {{fused<InBfloat16, false, false>, fused<InBfloat16, false, true>},
                               {fused<InBfloat16, true, false>, fused<InBfloat16, true, true>}},
                              {{fused<InInt8, false, false>, fused<InInt8, false, true>},
                               {fused<InInt8, true, false>, fused<InInt8, true, true>}},
                              fused<InInt8, false, false, true>};

}  // namespace adamas
