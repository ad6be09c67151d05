// Bytes to int32 lanes and back. Included by codes.h.
//
// The compiler's own way is right everywhere. On AVX2 it takes 9 shuffles to widen 32 bytes and 12 operations to narrow
// them, and int8 is limited by arithmetic: with 4 and 4 the step takes 4.2 instead of 4.6 cycles a parameter (fused.h says
// where and how that was measured).
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace adamas {
namespace {

template <bool kSigned>
inline void widen_bytes(const uint8_t* __restrict bytes, int32_t* __restrict lanes, int64_t n) {
  int64_t i = 0;
#if defined(__AVX2__)
  for (; i + 8 <= n; i += 8) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + i),
                        kSigned ? _mm256_cvtepi8_epi32(eight) : _mm256_cvtepu8_epi32(eight));
  }
#endif
  for (; i < n; ++i) lanes[i] = kSigned ? static_cast<int8_t>(bytes[i]) : bytes[i];
}

// Lanes within -128 ... 127 (signed) or 0 ... 255.
template <bool kSigned>
inline void narrow_bytes(const int32_t* __restrict lanes, uint8_t* __restrict bytes, int64_t n) {
  int64_t i = 0;
#if defined(__AVX2__)
  const auto four = [lanes](int64_t at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes + at)); };
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing works within halves
  for (; i + 32 <= n; i += 32) {
    const __m256i low = _mm256_packs_epi32(four(i), four(i + 8)), high = _mm256_packs_epi32(four(i + 16), four(i + 24));
    const __m256i packed = kSigned ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + i), _mm256_permutevar8x32_epi32(packed, order));
  }
#endif
  for (; i < n; ++i) bytes[i] = static_cast<uint8_t>(lanes[i]);
}

}  // namespace
}  // namespace adamas
