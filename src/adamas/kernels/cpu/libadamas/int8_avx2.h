// Whole groups of int8 in AVX2: to the bit what int8.h does with lanes of 32 bits, in lanes of 8 and 16 bits where the
// numbers fit, which are four and two times as many. Included by int8.h.
//
// int8 is limited by arithmetic, and AVX2 has three vector operations a cycle: with some 20 fewer for each 8 elements than
// a compiler finds, a step takes 3.3 instead of 4.0 cycles a parameter (fused.h says where and how that was measured).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace adamas {
namespace {

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline void store(void* at, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), x); }

// z has no more than 16 bits, so it is found in lanes of 16: its bits are U + unit k + (coarse - 1) unit min(k, knee).
template <bool kSigned>
inline void decode_whole(const uint8_t* __restrict codes, float scale, float* __restrict x) {
  using G = Grid<kSigned>;
  constexpr int kUnit = 1 << (G::kShift - 16);
  const __m256i weights = _mm256_set1_epi16(((G::kCoarse - 1) * kUnit << 8) | kUnit);  // of pairs of k and min(k, knee)
  const __m256i start = _mm256_set1_epi16(G::kBitsOfU >> 16), knee = _mm256_set1_epi8(G::kKnee);
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);  // unpacking works within halves
  const __m256 u = _mm256_set1_ps(G::kU), s = _mm256_set1_ps(scale), sign = _mm256_set1_ps(-0.0f);
  for (int64_t i = 0; i < kGroup; i += 32) {
    const __m256i code = _mm256_permutevar8x32_epi32(load(codes + i), order);
    const __m256i k = kSigned ? _mm256_abs_epi8(code) : code, least = _mm256_min_epu8(k, knee);
    const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_unpacklo_epi8(k, least), weights), start);
    const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_unpackhi_epi8(k, least), weights), start);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i z[4] = {_mm256_unpacklo_epi16(zero, low), _mm256_unpackhi_epi16(zero, low),
                          _mm256_unpacklo_epi16(zero, high), _mm256_unpackhi_epi16(zero, high)};
    for (int64_t j = 0; j < 4; ++j) {
      __m256 value = _mm256_mul_ps(_mm256_sub_ps(_mm256_castsi256_ps(z[j]), u), s);
      if (kSigned) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i + 8 * j));
        value = _mm256_xor_ps(value, _mm256_and_ps(_mm256_castsi256_ps(_mm256_cvtepi8_epi32(eight)), sign));
      }
      _mm256_storeu_ps(x + i + 8 * j, value);
    }
  }
}

// The largest magnitude of each of eight groups.
template <bool kSigned>
inline __m256i eight_tops(const float* __restrict x) {
  const __m256i magnitude = _mm256_set1_epi32(kMagnitude);
  const auto one = [&](int64_t k) {
    const float* group = x + k * kGroup;
    __m256i top = kSigned ? _mm256_and_si256(load(group), magnitude) : load(group);
    for (int64_t i = 8; i < kGroup; i += 8)
      top = kSigned ? _mm256_max_epi32(top, _mm256_and_si256(load(group + i), magnitude))
                    : _mm256_max_epu32(top, load(group + i));
    return kSigned ? top : _mm256_and_si256(top, magnitude);
  };
  const auto two = [&](int64_t k) {
    const __m256i a = one(k), b = one(k + 1);
    return _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  };
  const auto four = [&](int64_t k) {
    const __m256i a = two(k), b = two(k + 2);
    return _mm256_max_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  };
  const __m256i a = four(0), b = four(4);
  return _mm256_max_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

// Codes of one group without numbers above its scale. r: random bits of its first eight elements; returned for the next.
template <bool kSigned>
inline __m256i encode_whole(const float* __restrict x, float inverse, uint8_t* __restrict codes, __m256i r, __m256i stride) {
  using G = Grid<kSigned>;
  // With b for U + i: y + U = max(b, F b - (F - 1) (U + (K << 20))), modulo 2^32. U is taken off when 20 bits are.
  constexpr uint32_t kBend = (G::kCoarse - 1) * (static_cast<uint32_t>(G::kBitsOfU) + (G::kKnee << 20));
  const __m256i bend = _mm256_set1_epi32(static_cast<int32_t>(kBend)), start = _mm256_set1_epi16(G::kBitsOfU >> 20);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing works within halves
  const __m256 scaling = _mm256_set1_ps(inverse), u = _mm256_set1_ps(G::kU), sign = _mm256_set1_ps(-0.0f);
  const auto eight = [&](int64_t i) {
    const __m256 number = _mm256_loadu_ps(x + i), size = kSigned ? _mm256_andnot_ps(sign, number) : number;
    const __m256i b = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(size, scaling), u));
    const __m256i y = _mm256_max_epi32(b, _mm256_sub_epi32(_mm256_slli_epi32(b, kSigned ? 1 : 2), bend));
    const __m256i code = _mm256_srli_epi32(_mm256_add_epi32(y, _mm256_srli_epi32(r, 12)), 20);
    r = _mm256_add_epi32(r, stride);
    return code;
  };
  const auto sixteen = [&](int64_t i) {
    const __m256i a = eight(i), b = eight(i + 8);
    return _mm256_sub_epi16(_mm256_packs_epi32(a, b), start);
  };
  for (int64_t i = 0; i < kGroup; i += 32) {
    const __m256i low = sixteen(i), high = sixteen(i + 16);
    // The numbers' bits, saturated: what remains says whether they are negative, 0 or positive.
    const __m256i a = _mm256_packs_epi32(load(x + i), load(x + i + 8));
    const __m256i b = _mm256_packs_epi32(load(x + i + 16), load(x + i + 24));
    const __m256i code =
        kSigned ? _mm256_packs_epi16(_mm256_sign_epi16(low, a), _mm256_sign_epi16(high, b))
                : _mm256_max_epu8(_mm256_packus_epi16(low, high),
                                  _mm256_min_epu8(_mm256_packus_epi16(a, b), _mm256_set1_epi8(1)));
    store(codes + i, _mm256_permutevar8x32_epi32(code, order));
  }
  return r;
}

// Eight whole groups; false, with nothing written, where one has numbers above the largest scale.
template <bool kSigned>
inline bool encode_eight(const float* __restrict x, uint8_t* __restrict codes, float* __restrict scales, Noise noise) {
  const __m256i tops = eight_tops<kSigned>(x);
  const __m256i above = _mm256_cmpgt_epi32(tops, _mm256_set1_epi32(kMostScale));
  if (!_mm256_testz_si256(above, above)) return false;
  const __m256i found = _mm256_max_epi32(tops, _mm256_set1_epi32(Grid<kSigned>::kLeast));
  store(scales, _mm256_andnot_si256(_mm256_cmpeq_epi32(tops, _mm256_setzero_si256()), found));
  alignas(32) float inverses[8];
  _mm256_store_ps(inverses, _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_castsi256_ps(found)));
  const __m256i stride = _mm256_set1_epi32(static_cast<int32_t>(noise.stride));
  __m256i r = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int32_t>(noise.first)),
                               _mm256_mullo_epi32(stride, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
  for (int64_t k = 0; k < 8; ++k)
    r = encode_whole<kSigned>(x + k * kGroup, inverses[k], codes + k * kGroup, r, _mm256_slli_epi32(stride, 3));
  return true;
}

}  // namespace
}  // namespace adamas
