// How numbers that are computed in float32 are stored between steps: a decode and an encode for each `Form`.
// docs/formats.md is the definition, and its names are used here. Included by kernel_loops.h.
//
// Written in lanes of int32 and float32, so that it vectorises. `mag` is the bits of |x| as an integer, which orders
// magnitudes as the numbers do, with infinity and then NaN above them.
#pragma once

#include <cstdint>

#include "bytes.h"
#include "kernel.h"
#include "memory.h"
#include "numeric.h"
#include "random.h"

namespace adamas {
namespace {

constexpr int32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;

inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

// The uppermost `count` random bits.
inline int32_t uppermost(int count, uint32_t r) { return static_cast<int32_t>(r >> (32 - count)); }

// ---- bfloat16: the upper half of a float32

inline void widen(const uint16_t* __restrict h, float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = bits<float>(static_cast<uint32_t>(h[i]) << 16);
}

void decode_bfloat16(const void* values, const void*, float* __restrict x, int64_t n, int64_t reach) {
  const uint16_t* __restrict h = static_cast<const uint16_t*>(values);
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    ask(h, begin, reach);
    widen(h + begin, x + begin, least(n - begin, kStrip));
  }
}

// What is added before the lower half is cut off: half a unit, ties to even; or random bits.
template <bool kNearest>
inline int32_t dither_bfloat16(int32_t mag, uint32_t r) {
  return kNearest ? 0x7FFF + ((mag >> 16) & 1) : uppermost(16, r);
}

template <bool kNearest>
void encode_bfloat16_any(const float* __restrict x, uint16_t* __restrict h, Noise noise, int64_t n) {
  uint32_t r = noise.first;
  for (int64_t i = 0; i < n; ++i, r += noise.stride) {
    const int32_t all = bits<int32_t>(x[i]), mag = all & kMagnitude;
    const int32_t up = smaller(mag, kInfinity) + dither_bfloat16<kNearest>(mag, r);
    const int32_t finite = kNearest ? up : smaller(up, kInfinity - 1);
    const int32_t special = mag > kInfinity ? 0x7FC00000 : kInfinity;
    h[i] = static_cast<uint16_t>(((all & ~kMagnitude) | (mag < kInfinity ? finite : special)) >> 16);
  }
}

// Numbers that no rounding carries to infinity need no selections, and nearly all pieces have no others.
template <bool kNearest>
void encode_bfloat16(const float* __restrict x, void* values, void*, Noise noise, int64_t n) {
  uint16_t* __restrict h = static_cast<uint16_t*>(values);
  uint32_t r = noise.first;
  int32_t top = 0;
  for (int64_t i = 0; i < n; ++i, r += noise.stride) {
    const int32_t all = bits<int32_t>(x[i]), mag = all & kMagnitude;
    top = larger(top, mag);
    h[i] = static_cast<uint16_t>((bits<uint32_t>(all) + bits<uint32_t>(dither_bfloat16<kNearest>(mag, r))) >> 16);
  }
  if (top > 0x7F7F0000) encode_bfloat16_any<kNearest>(x, h, noise, n);
}

// ---- float16

void decode_float16(const void* values, const void*, float* __restrict x, int64_t n, int64_t reach) {
  const uint16_t* __restrict h = static_cast<const uint16_t*>(values);
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    ask(h, begin, reach);
    for (int64_t i = begin; i < least(n, begin + kStrip); ++i) {
      const int32_t all = h[i], mag = all & 0x7FFF;
      const int32_t normal = (mag << 13) + (112 << 23) + (mag >= 0x7C00 ? 112 << 23 : 0);
      const int32_t subnormal = bits<int32_t>(static_cast<float>(mag) * 0x1p-24f);
      x[i] = bits<float>((mag < 0x400 ? subnormal : normal) | (all & 0x8000) << 16);
    }
  }
}

template <bool kNearest>
void encode_float16(const float* __restrict x, void* values, void*, Noise noise, int64_t n) {
  uint16_t* __restrict h = static_cast<uint16_t*>(values);
  constexpr int32_t kSmallest = 113 << 23;  // bits of 2^-14, the smallest normal float16
  uint32_t r = noise.first;
  for (int64_t i = 0; i < n; ++i, r += noise.stride) {
    const int32_t all = bits<int32_t>(x[i]), mag = all & kMagnitude;
    int32_t normal, subnormal, finite;
    if (kNearest) {  // adding 1/2 leaves multiples of 2^-24
      normal = ((mag + 0xFFF + ((mag >> 13) & 1)) >> 13) - (112 << 10);
      subnormal = bits<int32_t>(bits<float>(mag) + 0.5f) - bits<int32_t>(0.5f);
      finite = smaller(mag < kSmallest ? subnormal : normal, 0x7C00);
    } else {
      normal = ((mag + uppermost(13, r)) >> 13) - (112 << 10);
      subnormal = ((bits<int32_t>(bits<float>(mag) + 0x1p-14f) + uppermost(13, r)) >> 13) - (113 << 10);
      finite = smaller(mag < kSmallest ? subnormal : normal, 0x7BFF);
    }
    const int32_t special = mag > kInfinity ? 0x7E00 : 0x7C00;
    h[i] = static_cast<uint16_t>((mag < kInfinity ? finite : special) | ((all >> 16) & 0x8000));
  }
}

// ---- bfloat16 and an int8 correction: the 24 upper bits of a float32

void decode_split(const void* values, const void* beside, float* __restrict x, int64_t n, int64_t reach) {
  const uint16_t* __restrict hi = static_cast<const uint16_t*>(values);
  const int8_t* __restrict lo = static_cast<const int8_t*>(beside);
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    ask(hi, begin, reach);
    ask(lo, begin, reach);
    for (int64_t i = begin; i < least(n, begin + kStrip); ++i) {
      const int32_t all = hi[i];
      const int32_t mag = larger(((all & 0x7FFF) << 16) + lo[i] * 256, 0);
      x[i] = bits<float>(mag | (all & 0x8000) << 16);
    }
  }
}

void encode_split(const float* __restrict x, void* values, void* beside, Noise noise, int64_t n) {
  uint16_t* __restrict hi = static_cast<uint16_t*>(values);
  int8_t* __restrict lo = static_cast<int8_t*>(beside);
  uint32_t r = noise.first;
  for (int64_t i = 0; i < n; ++i, r += noise.stride) {
    const int32_t all = bits<int32_t>(x[i]), mag = all & kMagnitude;
    const int32_t special = mag > kInfinity ? 0x7FC000 : 0x7F8000;
    const int32_t finite = smaller((smaller(mag, kInfinity - 1) + uppermost(8, r)) >> 8, 0x7F7F7F);
    const int32_t number = mag < kInfinity ? finite : special;
    const int32_t upper = (number + 0x80) >> 8;
    hi[i] = static_cast<uint16_t>(upper | ((all >> 16) & 0x8000));
    lo[i] = static_cast<int8_t>(number - (upper << 8));
  }
}

// ---- int8: codes that count steps on a grid of floats z = |x| / scale + u with few bits, from u on

template <bool kSigned>
struct Grid;
template <>
struct Grid<true> {
  static constexpr float kU = 0x1p-12f;
  static constexpr int32_t kKnee = 66, kCoarse = 2, kLast = 127, kShift = 19, kLeast = (127 - 111) << 23;
};
template <>
struct Grid<false> {
  static constexpr float kU = 0x1p-19f;
  static constexpr int32_t kKnee = 118, kCoarse = 4, kLast = 255, kShift = 18, kLeast = (127 - 104) << 23;
};
constexpr int32_t kMostScale = 0x7F700000;

template <bool kSigned>
inline void decode_group(const uint8_t* __restrict codes, float scale, float* __restrict x, int64_t n) {
  using G = Grid<kSigned>;
  int32_t code[kGroup];
  widen_bytes<kSigned>(codes, code, n);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t size = code[i] < 0 ? -code[i] : code[i];
    // k + (coarse - 1) min(k, knee) steps
    const int32_t steps = smaller(size * G::kCoarse, size + (G::kCoarse - 1) * G::kKnee);
    const float z = bits<float>((steps << G::kShift) + bits<int32_t>(G::kU));
    const float value = (z - G::kU) * scale;
    x[i] = kSigned ? bits<float>(bits<int32_t>(value) ^ (code[i] & ~kMagnitude)) : value;
  }
}

// The largest magnitude of a group, as bits. What is never negative, nor -0, has no sign to take off but a NaN's.
template <bool kSigned>
inline int32_t top_of(const float* __restrict x, int64_t n) {
  if (kSigned) {
    int32_t top = 0;
    for (int64_t i = 0; i < n; ++i) top = larger(top, bits<int32_t>(x[i]) & kMagnitude);
    return top;
  }
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) top = bits<uint32_t>(x[i]) > top ? bits<uint32_t>(x[i]) : top;
  return static_cast<int32_t>(top & kMagnitude);
}

// A number that is not negative is not 0 unless its code is. Only numbers above their scale, the largest there is, could
// get a code beyond the last: kBeyond.
template <bool kSigned, bool kBeyond>
inline void encode_group(const float* __restrict x, float inverse, uint8_t* __restrict codes,
                         const uint32_t* __restrict ramp, uint32_t first, int64_t n) {
  using G = Grid<kSigned>;
  constexpr int32_t kBend = (G::kCoarse - 1) * G::kKnee << 20;
  int32_t code[kGroup];
  for (int64_t i = 0; i < n; ++i) {
    const int32_t all = bits<int32_t>(x[i]), mag = kSigned ? all & kMagnitude : all;
    const int32_t at = bits<int32_t>(bits<float>(mag) * inverse + G::kU) - bits<int32_t>(G::kU);
    const int32_t y = larger(at, G::kCoarse * at - kBend);
    int32_t c = (y + uppermost(20, first + ramp[i])) >> 20;
    if (kBeyond) c = smaller(c, G::kLast);
    const int32_t sign = all >> 31;
    code[i] = kSigned ? (c ^ sign) - sign : larger(c, smaller(mag, 1));
  }
  narrow_bytes<kSigned>(code, codes, n);
}

template <bool kSigned>
void decode_int8(const void* values, const void* beside, float* __restrict x, int64_t n, int64_t reach) {
  const uint8_t* codes = static_cast<const uint8_t*>(values);
  const float* scales = static_cast<const float*>(beside);
  int64_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    ask(codes, i, reach);
    decode_group<kSigned>(codes + i, *scales++, x + i, kGroup);
  }
  if (i < n) decode_group<kSigned>(codes + i, *scales, x + i, n - i);
}

// All scales first: the way from a group's numbers to its scale is long, and a loop over groups would wait for each (0.3
// cycles a parameter).
template <bool kSigned>
void encode_int8(const float* __restrict x, void* values, void* beside, Noise noise, int64_t n) {
  constexpr int64_t kGroups = ADAMAS_BLOCK / kGroup;
  uint8_t* codes = static_cast<uint8_t*>(values);
  float* scales = static_cast<float*>(beside);
  uint32_t ramp[kGroup];
  for (int64_t i = 0; i < kGroup; ++i) ramp[i] = static_cast<uint32_t>(i) * noise.stride;
  const int64_t whole = n / kGroup, groups = (n + kGroup - 1) / kGroup;
  int32_t tops[kGroups];
  float inverses[kGroups];
  for (int64_t k = 0; k < whole; ++k) tops[k] = top_of<kSigned>(x + k * kGroup, kGroup);
  if (whole < groups) tops[whole] = top_of<kSigned>(x + whole * kGroup, n - whole * kGroup);
  for (int64_t k = 0; k < groups; ++k) {
    const float scale = bits<float>(smaller(larger(tops[k], Grid<kSigned>::kLeast), kMostScale));
    inverses[k] = 1.0f / scale;
    scales[k] = bits<float>(tops[k] == 0 ? 0 : tops[k] < kInfinity ? bits<int32_t>(scale) : 0x7FC00000);
  }
  for (int64_t k = 0; k < groups; ++k) {
    const int64_t at = k * kGroup;
    const uint32_t first = noise.first + static_cast<uint32_t>(at) * noise.stride;
    if (tops[k] >= kInfinity)
      for (int64_t i = at; i < least(n, at + kGroup); ++i) codes[i] = 0;
    else if (k < whole && tops[k] <= kMostScale)
      encode_group<kSigned, false>(x + at, inverses[k], codes + at, ramp, first, kGroup);
    else
      encode_group<kSigned, true>(x + at, inverses[k], codes + at, ramp, first, least(n - at, kGroup));
  }
}

}  // namespace
}  // namespace adamas
