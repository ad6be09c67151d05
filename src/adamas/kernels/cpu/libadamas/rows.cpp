// Sparse gradients: steps of some rows of a table. The mathematics is adamas/kernels/rows.py.
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "adamas.h"
#include "environment.h"
#include "kernel.h"
#include "numeric.h"
#include "rules.h"
#include "scalars.h"

namespace adamas {
namespace {

// Elements of a row that are taken through all of its loops at once: five streams of float64 stay in the L1 cache.
constexpr int64_t kPiece = 512;
// Rows that memory is asked for ahead of the one that is computed, and how much of each. 10,000 random rows of 5 M x 32
// float32 take 3.8 ms of one core without it, 1.9 so (4 and 16 ahead are the same; Sapphire Rapids, 2026-11).
constexpr int64_t kRowsAhead = 8;
constexpr int64_t kBytesAhead = 256;

struct Entry {
  int64_t row, position;
};

// Least significant digit first: equal rows stay in the order in which they came.
void sort_by_row(std::vector<Entry>& entries, std::vector<Entry>& other, int64_t count) {
  constexpr int kBits = 11;
  constexpr int64_t kDigits = int64_t{1} << kBits;
  for (int shift = 0; shift < 63 && ((count - 1) >> shift) != 0; shift += kBits) {
    int64_t starts[kDigits] = {};
    for (const Entry& e : entries) ++starts[(e.row >> shift) & (kDigits - 1)];
    int64_t start = 0;
    for (int64_t& digit : starts) {
      const int64_t n = digit;
      digit = start;
      start += n;
    }
    for (const Entry& e : entries) other[starts[(e.row >> shift) & (kDigits - 1)]++] = e;
    entries.swap(other);
  }
}

template <class Index>
int64_t sort_rows(const Index* indices, int64_t n, int64_t count, int64_t* rows, int64_t* order, int64_t* ends) {
  for (int64_t i = 0; i < n; ++i)
    if (indices[i] < 0 || static_cast<int64_t>(indices[i]) >= count) return -1 - i;
  std::vector<Entry> entries(n), other(n);
  for (int64_t i = 0; i < n; ++i) entries[i] = {static_cast<int64_t>(indices[i]), i};
  const auto smaller = [](const Entry& a, const Entry& b) { return a.row < b.row; };
  if (!std::is_sorted(entries.begin(), entries.end(), smaller)) sort_by_row(entries, other, count);
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || entries[i].row != entries[i - 1].row) rows[found++] = entries[i].row;
    order[i] = entries[i].position;
    ends[found - 1] = i + 1;
  }
  return found;
}

template <class T>
void add_up(const T* values, int64_t width, const int64_t* order, const int64_t* ends, int64_t begin, int64_t end,
            T* sums) {
  for (int64_t k = begin; k < end; ++k) {
    const int64_t first = k == 0 ? 0 : ends[k - 1];
    for (int64_t at = 0; at < width; at += kPiece) {
      const int64_t n = std::min(kPiece, width - at);
      T* __restrict sum = sums + k * width + at;
      std::copy_n(values + order[first] * width + at, n, sum);
      for (int64_t e = first + 1; e < ends[k]; ++e) {
        const T* __restrict value = values + order[e] * width + at;
        for (int64_t i = 0; i < n; ++i) sum[i] = sum[i] + value[i];
      }
    }
  }
}

// adamas.kernels.reference.sum_of_squares of the whole table's gradient: the rows that are not here add exact zeros.
template <class T>
double squares(const T* sums, const int64_t* rows, int64_t n, int64_t width) {
  double total = 0.0, lane[16] = {};
  int64_t block = -1;
  const auto close = [&] {
    for (int half = 8; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
    total += lane[0];
    std::fill(lane, lane + 16, 0.0);
  };
  for (int64_t k = 0; k < n; ++k) {
    const T* x = sums + k * width;
    for (int64_t at = rows[k] * width, last = at + width; at < last;) {
      if (at / ADAMAS_BLOCK != block) {
        if (block >= 0) close();
        block = at / ADAMAS_BLOCK;
      }
      const int64_t end = std::min(last, (block + 1) * ADAMAS_BLOCK);
      for (; at < end && (at % 16 != 0 || end - at < 16); ++at, ++x) lane[at % 16] += double(*x) * double(*x);
      for (; end - at >= 16; at += 16, x += 16)
        for (int l = 0; l < 16; ++l) lane[l] += double(x[l]) * double(x[l]);
    }
  }
  if (block >= 0) close();
  return total;
}

// Both moments in one loop: after a loop over m alone, v's loads would wait for m's stores wherever the two arrays lie at
// the same distance from a page's start.
template <class T>
void decay(T* __restrict m, T* __restrict v, T factor1, T factor2, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T mi = flush(m[i] * factor1), vi = flush(v[i] * factor2);
    m[i] = mi;
    v[i] = vi;
  }
}

// beta1^k and beta2^k; neighbours were often silent for as long.
template <class T>
class Factors {
 public:
  Factors(double beta1, double beta2) : beta1_(beta1), beta2_(beta2) {}
  void set(uint32_t k) {
    if (k == k_) return;
    k_ = k;
    m = T(power(beta1_, k));
    v = T(power(beta2_, k));
  }
  T m = T(1), v = T(1);

 private:
  double beta1_, beta2_;
  uint32_t k_ = 0;
};

// The steps that a row missed. The clock may wrap around.
inline uint32_t silence(const adamas_table& table, int64_t row) {
  return static_cast<uint32_t>(table.clock) - static_cast<uint32_t>(table.seen[row]);
}

template <class T>
void update_rows(const adamas_rule& rule, const adamas_table& table, const int64_t* rows, const T* sums,
                 const adamas_hyper& hyper, int64_t t, const adamas_scaling& scaling, int64_t begin, int64_t end) {
  const adamas_scalars s = scalars(rule, hyper, t, 1.0, 0.0, nullptr);
  const double norm = std::fabs(scaling.grad_scale) * std::sqrt(scaling.squares);
  const double scale = scaling.grad_scale * clip_factor(scaling.clip, norm, scaling.bound);
  const Numbers<T> numbers = rounded<T>(s, scale, scaling.bound);
  const bool amsgrad = rule.amsgrad != ADAMAS_AMSGRAD_OFF;
  const Update<T> update = rule_loop(loops<T>(chosen_kernel()), rule, scaling.clip == ADAMAS_CLIP_VALUE, s.coupled != 0.0);
  const int64_t width = table.width;
  T* const streams[] = {static_cast<T*>(table.p), static_cast<T*>(table.slots[0]), static_cast<T*>(table.slots[1]),
                        amsgrad ? static_cast<T*>(table.slots[2]) : nullptr};
  // Inlined by force: gcc takes a function that only asks for memory to do nothing, and drops its calls.
  const auto ask = [&](int64_t row) __attribute__((always_inline)) {
    const int64_t ahead = std::min<int64_t>(width, kBytesAhead / sizeof(T));
    __builtin_prefetch(table.seen + row, 1);
    for (const T* stream : streams)
      for (int64_t i = 0; stream && i < ahead; i += 64 / sizeof(T)) __builtin_prefetch(stream + row * width + i, 1);
  };
  Factors<T> factors(hyper.beta1, hyper.beta2);
  for (int64_t k = begin; k < std::min(end, begin + kRowsAhead); ++k) ask(rows[k]);
  for (int64_t k = begin; k < end; ++k) {
    if (k + kRowsAhead < end) ask(rows[k + kRowsAhead]);
    const int64_t row = rows[k];
    const uint32_t silent = silence(table, row);
    factors.set(silent);
    for (int64_t at = 0; at < width; at += kPiece) {
      const int64_t n = std::min(kPiece, width - at), here = row * width + at;
      T* const slots[] = {streams[1] + here, streams[2] + here, amsgrad ? streams[3] + here : nullptr};
      if (silent) decay(slots[0], slots[1], factors.m, factors.v, n);
      update(numbers, streams[0] + here, sums + k * width + at, slots, n, n);
    }
    table.seen[row] = static_cast<int32_t>(static_cast<uint32_t>(table.clock) + 1);
  }
}

template <class T>
void settle_rows(const adamas_table& table, double beta1, double beta2, int64_t begin, int64_t end) {
  Factors<T> factors(beta1, beta2);
  for (int64_t row = begin; row < end; ++row) {
    const uint32_t silent = silence(table, row);
    table.seen[row] = 0;
    if (!silent) continue;
    factors.set(silent);
    const int64_t at = row * table.width;
    decay(static_cast<T*>(table.slots[0]) + at, static_cast<T*>(table.slots[1]) + at, factors.m, factors.v, table.width);
  }
}

}  // namespace
}  // namespace adamas

using namespace adamas;

extern "C" {

int64_t adamas_rows_sort(int32_t index_bytes, const void* indices, int64_t n, int64_t count, int64_t* rows,
                         int64_t* order, int64_t* ends) {
  try {
    return index_bytes == 4 ? sort_rows(static_cast<const int32_t*>(indices), n, count, rows, order, ends)
                            : sort_rows(static_cast<const int64_t*>(indices), n, count, rows, order, ends);
  } catch (const std::bad_alloc&) {
    return ADAMAS_ROWS_NO_MEMORY;
  }
}

void adamas_rows_sum(int32_t dtype, const void* values, int64_t width, const int64_t* order, const int64_t* ends,
                     int64_t begin, int64_t end, void* sums) {
  Ieee ieee;
  if (dtype == ADAMAS_FLOAT32)
    add_up(static_cast<const float*>(values), width, order, ends, begin, end, static_cast<float*>(sums));
  else
    add_up(static_cast<const double*>(values), width, order, ends, begin, end, static_cast<double*>(sums));
}

double adamas_rows_squares(int32_t dtype, const void* sums, const int64_t* rows, int64_t n, int64_t width) {
  Ieee ieee;
  return dtype == ADAMAS_FLOAT32 ? squares(static_cast<const float*>(sums), rows, n, width)
                                 : squares(static_cast<const double*>(sums), rows, n, width);
}

void adamas_rows_update(const adamas_rule* rule, int32_t dtype, const adamas_table* table, const int64_t* rows,
                        const void* sums, const adamas_hyper* hyper, int64_t t, const adamas_scaling* scaling,
                        int64_t begin, int64_t end) {
  Ieee ieee;
  if (dtype == ADAMAS_FLOAT32)
    update_rows(*rule, *table, rows, static_cast<const float*>(sums), *hyper, t, *scaling, begin, end);
  else
    update_rows(*rule, *table, rows, static_cast<const double*>(sums), *hyper, t, *scaling, begin, end);
}

void adamas_rows_settle(int32_t dtype, const adamas_table* table, double beta1, double beta2, int64_t begin,
                        int64_t end) {
  Ieee ieee;
  if (dtype == ADAMAS_FLOAT32)
    settle_rows<float>(*table, beta1, beta2, begin, end);
  else
    settle_rows<double>(*table, beta1, beta2, begin, end);
}
}
