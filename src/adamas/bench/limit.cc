// What this machine can do: Adam's traffic with almost no arithmetic, and its clock. Built by limit.py.
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

static void pass(float* p, const float* g, float* m, float* v, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    m[i] += 0.1f * (g[i] - m[i]);
    v[i] += 0.001f * (g[i] * g[i] - v[i]);
    p[i] -= 0.001f * m[i] * v[i];
  }
}

// Seconds of one pass over n elements, 28 bytes each, by `threads` threads, the caller included. Starting the threads
// is counted: microseconds, beside milliseconds where the limit matters.
extern "C" double limit(float* p, const float* g, float* m, float* v, int64_t n, int32_t threads) {
  const auto start = Clock::now();
  std::vector<std::thread> others;
  for (int32_t k = 1; k < threads; ++k)
    others.emplace_back(pass, p, g, m, v, n * k / threads, n * (k + 1) / threads);
  pass(p, g, m, v, 0, n / threads);
  for (auto& other : others) other.join();
  return since(start);
}

// Seconds of n additions, of which each waits for the one before it: one cycle each on every processor of these years.
// The empty instructions keep the compiler from adding them up itself, and the term from becoming a constant, which
// some processors add without a cycle.
extern "C" double additions(int64_t n) {
  uint64_t sum = 0, term = 3;
  asm volatile("" : "+r"(term));
  const auto start = Clock::now();
  for (int64_t i = 0; i < n; i += 16)
    for (int j = 0; j < 16; ++j) {
      sum += term;
      asm volatile("" : "+r"(sum));
    }
  return since(start);
}
