// int8: codes that count steps on a grid of floats z = |x| / scale + u with few bits, from u on. Included by kernel_loops.h.
#pragma once

#include <cstdint>

#include "codes.h"
#include "kernel.h"
#include "memory.h"
#include "numeric.h"
#include "random.h"

namespace adamas {
namespace {

template <bool kSigned>
struct Grid;
template <>
struct Grid<true> {
  static constexpr float kU = 0x1p-12f;
  static constexpr int32_t kBitsOfU = 115 << 23, kKnee = 66, kCoarse = 2, kLast = 127, kShift = 19,
                           kLeast = (127 - 111) << 23;
};
template <>
struct Grid<false> {
  static constexpr float kU = 0x1p-19f;
  static constexpr int32_t kBitsOfU = 108 << 23, kKnee = 118, kCoarse = 4, kLast = 255, kShift = 18,
                           kLeast = (127 - 104) << 23;
};
constexpr int32_t kMostScale = 0x7F700000;

}  // namespace
}  // namespace adamas

#if defined(__AVX2__)
#include "int8_avx2.h"
#endif

namespace adamas {
namespace {

template <bool kSigned>
inline void decode_group(const uint8_t* __restrict codes, float scale, float* __restrict x, int64_t n) {
  using G = Grid<kSigned>;
#if defined(__AVX2__)
  if (n == kGroup) return decode_whole<kSigned>(codes, scale, x);
#endif
  for (int64_t i = 0; i < n; ++i) {
    const int32_t code = kSigned ? static_cast<int8_t>(codes[i]) : codes[i], size = code < 0 ? -code : code;
    // k + (coarse - 1) min(k, knee) steps
    const int32_t steps = smaller(size * G::kCoarse, size + (G::kCoarse - 1) * G::kKnee);
    const float z = bits<float>((steps << G::kShift) + G::kBitsOfU);
    const float value = (z - G::kU) * scale;
    x[i] = kSigned ? bits<float>(bits<int32_t>(value) ^ (code & ~kMagnitude)) : value;
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
    const int32_t at = bits<int32_t>(bits<float>(mag) * inverse + G::kU) - G::kBitsOfU;
    const int32_t y = larger(at, G::kCoarse * at - kBend);
    int32_t c = (y + uppermost(20, first + ramp[i])) >> 20;
    if (kBeyond) c = smaller(c, G::kLast);
    const int32_t sign = all >> 31;
    code[i] = kSigned ? (c ^ sign) - sign : larger(c, smaller(mag, 1));
  }
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(code[i]);
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
#if defined(__AVX2__)
  if (n == 8 * kGroup && encode_eight<kSigned>(x, codes, scales, noise)) return;
#endif
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
