// What a kernel is: a table of small loops, compiled once per instruction set by kernel_*.cpp; the compiler vectorises.
//
// The rule, the storage and the statistics are separate loops, so that variants of the rule, formats of the slots and
// dtypes of the parameter add up and do not multiply: staged.cpp runs them one after the other over pieces that stay in
// the L1 cache. Where everything is stored in the dtype that the rule computes in, a rule's loop runs on the arrays
// themselves, and is all there is.
#pragma once

#include <cstdint>

#include "adamas.h"
#include "random.h"

namespace adamas {

// adamas.rule.Scalars, rounded once to the dtype that the rule computes in.
template <class T>
struct Numbers {
  T grad_scale, clip, coupled, c1, c2, r2, eps_root, alpha, eps, keep, gain, shrink, mean, pull, adaptive, limit, unit;
};

// One step of n elements, in place. slots: in the order of adamas.rule.Rule.slots. reach: how far from here the arrays go
// on, n or more; memory is asked for within it.
template <class T>
using Update = void (*)(const Numbers<T>& s, T* p, const T* g, T* const* slots, int64_t n, int64_t reach);
// Sum of squares of at most one block.
template <class T>
using Squares = double (*)(const T* g, int64_t n);

// Statistics of a block while its pieces are added: sums of g^2, (p - before)^2 and p^2, element i of the block in lane
// i mod 16, and how many w are below `bound`.
struct Tally {
  double lanes[3][16];
  int64_t below;
};
// Adds n elements, of which the first belongs to lane 0. g: NULL where its squares are known.
template <class T>
using Count = void (*)(Tally& tally, const T* g, const T* before, const T* p, const T* w, T bound, int64_t n);
// `rule`, and the statistics of its n elements. squares: of the gradient, too; root: the slot of w.
template <class T>
using UpdateAndCount = void (*)(Update<T> rule, const Numbers<T>& s, T* p, const T* g, T* const* slots, int64_t n,
                                int64_t reach, Tally& tally, bool squares, int32_t root, T bound);
// average <- average + share (p - average)
template <class T>
using Average = void (*)(T* average, const T* p, T share, int64_t n);

// Of n elements, of which the first belongs to lane 0, adds the squares of the arrays of adamas.rule.reduction.
template <class T>
using Reduce = void (*)(const Numbers<T>& s, const T* p, const T* g, T* const* slots, int64_t n, int64_t reach,
                        double (*lanes)[16]);

// The lines of adamas.rule.reduction, likewise.
enum Reduction { kRms, kTrust, kAgreement, kReductions };

// The lines of adamas.rule.update that differ by more than numbers.
enum Formula { kAdam, kAmsgrad, kNesterov, kScheduleFree, kRectified, kAdamax, kAdopt, kCautious, kFormulas };

template <class T>
struct Loops {
  Update<T> update[kFormulas][2][2];  // [formula][clipped by value][coupled decay]
  Reduce<T> reduce[kReductions][2][2];  // the same; decay is decoupled but for kAgreement
  Squares<T> squares;
  Count<T> count;
  UpdateAndCount<T> update_and_count;
  Average<T> average;
};

// How numbers that the rule computes in float32 are stored; docs/formats.md defines it. The forms that do not say
// "Nearest" round stochastically. Beside the values of int8 lie their scales, beside those of kSplit the corrections.
enum Form : int32_t {
  kNative = -1,  // float32 or float64, as computed: no loop needed
  kBfloat16,
  kBfloat16Nearest,
  kFloat16,
  kFloat16Nearest,
  kSigned8,
  kUnsigned8,
  kSplit,
  kForms
};

constexpr int64_t kGroup = 64;  // elements in int8 that share a scale

struct Code {
  void (*decode)(const void* values, const void* beside, float* x, int64_t n, int64_t reach);
  void (*encode)(const float* x, void* values, void* beside, Noise noise, int64_t n);
};

// One step of Adam that decodes the slots of `stored` itself; the new ones are left in `slots`, to be encoded.
using Fused = void (*)(const Numbers<float>& s, float* p, const float* g, const adamas_buffers& stored,
                       float* const* slots, int64_t n, int64_t reach);

struct Kernel {
  Loops<float> f32;
  Loops<double> f64;
  Code codes[kForms];
  Fused bfloat16[2][2], int8[2][2];  // both moments so; [clipped by value][coupled decay]
  Fused int8_plain;                  // neither, grad_scale 1, eps_root 0
};

template <class T>
const Loops<T>& loops(const Kernel& k);
template <>
inline const Loops<float>& loops<float>(const Kernel& k) { return k.f32; }
template <>
inline const Loops<double>& loops<double>(const Kernel& k) { return k.f64; }

// The loops of the instruction set that was asked for, else of the best that the processor has.
const Kernel& chosen_kernel();

extern const Kernel kScalar;
#if defined(__x86_64__)
extern const Kernel kSse;
extern const Kernel kAvx2;
#elif defined(__aarch64__)
extern const Kernel kNeon;
#endif

}  // namespace adamas
