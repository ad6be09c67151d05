// Adam that decodes its moments itself, where both are in bfloat16 or both in int8: decoding fills the time in which the
// rule waits for its roots and quotients. To the bit what the loops of rule_loops.h and codes.h give one after the other.
//
// The whole step in the L2 cache takes 2.4 instead of 2.7 cycles a parameter in bfloat16, 3.3 instead of 3.4 in int8 (one
// core of a Sapphire Rapids Xeon at 3 GHz, minima of interleaved runs, 2026-11-23). Included by kernel_loops.h.
#pragma once

#include "codes.h"
#include "int8.h"
#include "kernel.h"
#include "memory.h"
#include "rule_loops.h"

namespace adamas {
namespace {

static_assert(kStrip == kGroup, "a strip is one group of int8");

// How a moment is read, a strip at a time.
template <bool kSigned>
struct InBfloat16 {
  const uint16_t* values;

  InBfloat16(const void* v, const float*) : values(static_cast<const uint16_t*>(v)) {}
  void ask_ahead(int64_t i, int64_t reach) const { ask(values, i, reach); }
  void decode(int64_t i, float* x, int64_t n) const { widen(values + i, x, n); }
};

template <bool kSigned>
struct InInt8 {
  const uint8_t* codes;
  const float* scales;

  InInt8(const void* v, const float* s) : codes(static_cast<const uint8_t*>(v)), scales(s) {}
  void ask_ahead(int64_t i, int64_t reach) const { ask(codes, i, reach); }
  void decode(int64_t i, float* x, int64_t n) const { decode_group<kSigned>(codes + i, scales[i / kGroup], x, n); }
};

// The numbers of a plain step as constants: the compiler leaves out what they do not change (x * 1 and x + -0 are x).
inline Numbers<float> plain(Numbers<float> c) {
  c.grad_scale = 1.0f;
  c.eps_root = -0.0f;
  return c;
}

template <template <bool> class In, bool kClipped, bool kCoupled, bool kPlain = false>
void fused(const Numbers<float>& s, float* p, const float* g, const adamas_buffers& stored, float* const* slots, int64_t n,
           int64_t reach) {
  const Numbers<float> c = kPlain ? plain(s) : s;
  const In<true> m(stored.slots[0], stored.scales[0]);
  const In<false> v(stored.slots[1], stored.scales[1]);
  float *const mi = slots[0], *const vi = slots[1];
  const auto strip = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
    m.decode(i, mi + i, count);
    v.decode(i, vi + i, count);
    adam<float, kAdam, kClipped, kCoupled>(c, p + i, g + i, mi + i, vi + i, nullptr, count);
  };
  int64_t i = 0;
  for (; i + kStrip <= n; i += kStrip) {
    ask(p, i, reach);
    ask(g, i, reach);
    m.ask_ahead(i, reach);
    v.ask_ahead(i, reach);
    strip(i, kStrip);
  }
  if (i < n) strip(i, n - i);
}

}  // namespace
}  // namespace adamas
