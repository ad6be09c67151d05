// The floating-point environment of every kernel range: round to nearest, subnormals kept.
// TensorFlow's op threads, JAX's handlers and torch.set_flush_denormal run with subnormals flushed to zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#include <xmmintrin.h>
#define ADAMAS_X86 1
#endif

namespace adamas {

#if defined(ADAMAS_X86)
inline uint64_t control_get() { return _mm_getcsr(); }
inline void control_set(uint64_t word) { _mm_setcsr(static_cast<unsigned>(word)); }
constexpr uint64_t kIeee = 0x1F80;  // all exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero
#elif defined(__aarch64__)
inline uint64_t control_get() {
  uint64_t word;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
inline void control_set(uint64_t word) { asm volatile("msr fpcr, %0" ::"r"(word)); }
constexpr uint64_t kIeee = 0;
#else
#error "libadamas sets the floating-point control register itself and knows x86 and aarch64 only"
#endif

// Sets the environment and restores the caller's.
class Ieee {
 public:
  Ieee() : before_(control_get()) {
    if (before_ != kIeee) control_set(kIeee);
  }
  ~Ieee() {
    if (before_ != kIeee) control_set(before_);
  }
  Ieee(const Ieee&) = delete;
  Ieee& operator=(const Ieee&) = delete;

 private:
  uint64_t before_;
};

}  // namespace adamas
