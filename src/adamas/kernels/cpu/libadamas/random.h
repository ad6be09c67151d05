// The random bits of stochastic rounding: a function of (seed, name, step, slot, element) only; docs/formats.md defines it.
#pragma once

#include <cstdint>

namespace adamas {

// Element i of a piece has the bits first + i stride. Their upper 21 bits are uniform and pairwise independent within a
// block over (stride, offset) (Dietzfelbinger 1996), for one addition an element.
struct Noise {
  uint32_t first, stride;
};

namespace {

// A key that has taken one more number in (the finaliser of splitmix64; Steele, Lea & Flood 2014).
inline uint64_t absorb(uint64_t key, uint64_t number) {
  uint64_t z = (key ^ number) + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The bits from an element of a block on. word: the block's, absorb(key, block).
inline Noise noise_from(uint64_t word, int64_t element) {
  const uint32_t stride = static_cast<uint32_t>(word), offset = static_cast<uint32_t>(word >> 32);
  return {stride * static_cast<uint32_t>(element) + offset, stride};
}

}  // namespace
}  // namespace adamas
