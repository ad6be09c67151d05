// A step in stages: decode, rule, average, statistics, encode, one loop after the other over pieces of a few hundred
// elements that stay in the L1 cache. For everything that is not float32 or float64 throughout.
#pragma once

#include <cstdint>

#include "adamas.h"
#include "kernel.h"
#include "storage.h"

namespace adamas {

// The step of one tensor. T: what the rule computes in.
template <class T>
struct Job {
  const Kernel* kernel;
  const Storage* storage;
  adamas_buffers buffers;  // of the whole tensor
  Update<T> rule;
  Reduce<T> reduce;        // of a rule that reduces,
  bool reads_parameter, reads_slot[ADAMAS_MAX_SLOTS];  // and what it reads
  Fused fused;             // the same with its decoding, or NULL
  Numbers<T> numbers;
  uint64_t key;            // of seed, name and step
  T share;                 // of the weights in their average
  T bound;                 // statistics: second moments below it are counted,
  int32_t root;            // of this slot,
  bool squares;            // and squares of the gradient are added up
};

// Elements [begin, end) of the tensor; begin is a multiple of ADAMAS_BLOCK. statistics: ADAMAS_STATISTICS numbers for each
// block from begin's on, or NULL.
template <class T>
void staged(const Job<T>& job, int64_t begin, int64_t end, double* statistics);

// The phase REDUCE of the same elements: adds up to sums[0 .. reduces) for each block from begin's on.
template <class T>
void staged_sums(const Job<T>& job, int32_t reduces, int64_t begin, int64_t end, double* sums);

// `staged`, with each piece computed twice from the same inputs. False where two results differ.
template <class T>
bool staged_twice(const Job<T>& job, int64_t begin, int64_t end, double* statistics);

}  // namespace adamas
