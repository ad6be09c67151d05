// Which kernel serves: the choice of instruction set.
#include <atomic>
#include <vector>

#include "adamas.h"
#include "kernel.h"

namespace adamas {
namespace {

struct Isa {
  int32_t id;
  const Kernel* kernel;
};

// Best last.
std::vector<Isa> usable() {
  std::vector<Isa> found{{ADAMAS_ISA_SCALAR, &kScalar}};
#if defined(__x86_64__)
  found.push_back({ADAMAS_ISA_SSE, &kSse});
  if (__builtin_cpu_supports("avx2")) found.push_back({ADAMAS_ISA_AVX2, &kAvx2});
#elif defined(__aarch64__)
  found.push_back({ADAMAS_ISA_NEON, &kNeon});
#endif
  return found;
}

const std::vector<Isa>& isas() {
  static const auto* found = new std::vector<Isa>(usable());  // never destroyed: a daemon thread may outlive `exit`
  return *found;
}

std::atomic<const Isa*> g_isa{nullptr};

const Isa& isa() {
  const Isa* chosen = g_isa.load();
  return chosen ? *chosen : isas().back();
}

}  // namespace

const Kernel& chosen_kernel() { return *isa().kernel; }

}  // namespace adamas

using namespace adamas;

extern "C" {

int32_t adamas_set_isa(int32_t id) {
  if (id == ADAMAS_ISA_AUTO) {
    g_isa.store(nullptr);
    return 0;
  }
  for (const Isa& candidate : isas())
    if (candidate.id == id) {
      g_isa.store(&candidate);
      return 0;
    }
  return -1;
}

int32_t adamas_get_isa(void) { return isa().id; }
}
