// What a kernel is: one elementwise loop per variant, and one sum. Instantiated once per instruction set by kernel_*.cpp.
#pragma once

#include <cstdint>

namespace adamas {

// adamas.rule.Scalars, rounded once to the dtype of the parameter.
template <class T>
struct Numbers {
  T grad_scale, clip, coupled, c1, c2, r2, eps_root, alpha, eps, keep, gain, shrink, mean, pull;
};

template <class T>
using Update = void (*)(const Numbers<T>& s, T* p, const T* g, T* m, T* v, T* vmax, int64_t n);
// Sum of squares of at most one block.
template <class T>
using Squares = double (*)(const T* g, int64_t n);

template <class T>
struct Loops {
  Update<T> update[2][2][2];  // [clipped by value][coupled decay][AMSGrad]
  Squares<T> squares;
};

struct Kernel {
  Loops<float> f32;
  Loops<double> f64;
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
