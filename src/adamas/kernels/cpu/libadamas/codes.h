// How numbers that are computed in float32 are stored between steps: a decode and an encode for each `Form`.
// docs/formats.md is the definition, and its names are used here; int8 has int8.h. Included by kernel_loops.h.
//
// Written in lanes of int32 and float32, so that it vectorises. `mag` is the bits of |x| as an integer, which orders
// magnitudes as the numbers do, with infinity and then NaN above them.
#pragma once

#include <cstdint>

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

}  // namespace
}  // namespace adamas
