// The machine's limit for Adam in float32: a plain loop with its traffic, 28 bytes an element, and almost no arithmetic.
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

static void pass(float* p, const float* g, float* m, float* v, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    m[i] += 0.1f * (g[i] - m[i]);
    v[i] += 0.001f * (g[i] * g[i] - v[i]);
    p[i] -= 0.001f * m[i] * v[i];
  }
}

// Seconds of one pass over n elements by `threads` threads, the caller included. Starting the threads is counted:
// microseconds, beside milliseconds where the limit matters.
extern "C" double limit(float* p, const float* g, float* m, float* v, int64_t n, int32_t threads) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int32_t k = 1; k < threads; ++k)
    others.emplace_back(pass, p, g, m, v, n * k / threads, n * (k + 1) / threads);
  pass(p, g, m, v, 0, n / threads);
  for (auto& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
