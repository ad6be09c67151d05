// Memory is asked for ahead of the loops that read it.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace adamas {
namespace {

// Elements that one turn of a loop takes, and how far ahead of it memory is asked for. The hardware's own prefetching
// stops at each page of five streams: asking brings the step from 0.84 to 1.00 of a plain loop over the same memory (two
// cores of a Sapphire Rapids Xeon, 16 M float32, medians of 40 interleaved runs, 2026-11; 256 and 1024 ahead are the
// same, 2048 is 0.92, and strips of 256 elements 0.91).
constexpr int64_t kStrip = 64;
constexpr int64_t kAhead = 512;

// For the strip at `begin`: what is kAhead of it, within `reach`. A piece lies within a longer array, so that a loop over
// n elements may reach further than n.
template <class T>
inline void ask(const T* x, int64_t begin, int64_t reach) {
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t from = begin + kAhead, to = least(reach, from + kStrip);
  for (int64_t i = from; i < to; i += line) __builtin_prefetch(x + i, 1);
}

}  // namespace
}  // namespace adamas
