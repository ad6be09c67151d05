// Plans, steps and phases: everything of libadamas but the loops and the threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "adamas.h"
#include "environment.h"
#include "kernel.h"
#include "pool.h"
#include "scalars.h"

namespace adamas {
namespace {

// Elements a chunk holds at least, a multiple of the block: small enough to share 500 tensors of 1000 out among many
// threads, large enough that its start costs nothing (16384 elements: 3% slower on one large tensor).
constexpr int64_t kChunk = 8 * ADAMAS_BLOCK;

struct Segment {
  int64_t active;  // position in the step's list of active tensors
  int64_t begin, end;
  int64_t block;   // where its block partials start
};

// The tensors of a step cut into chunks: tensors are cut at blocks, small ones share a chunk.
struct Chunks {
  std::vector<Segment> segments;
  std::vector<int64_t> starts;         // chunk c is segments[starts[c]] ... segments[starts[c + 1] - 1]
  std::vector<int64_t> blocks;         // per active tensor: its first block partial; one past the end closes the list

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }

  void cut(const std::vector<int64_t>& sizes, const std::vector<int64_t>& active) {
    segments.clear();
    starts.assign(1, 0);
    blocks.clear();
    int64_t held = 0, block = 0;
    for (size_t k = 0; k < active.size(); ++k) {
      const int64_t size = sizes[active[k]];
      blocks.push_back(block);
      for (int64_t begin = 0; begin < size;) {
        const int64_t end = std::min(size, begin + kChunk);
        segments.push_back({static_cast<int64_t>(k), begin, end, block + begin / ADAMAS_BLOCK});
        held += end - begin;
        begin = end;
        if (held >= kChunk) {
          starts.push_back(static_cast<int64_t>(segments.size()));
          held = 0;
        }
      }
      block += (size + ADAMAS_BLOCK - 1) / ADAMAS_BLOCK;
    }
    if (held > 0) starts.push_back(static_cast<int64_t>(segments.size()));
    blocks.push_back(block);
  }
};

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

struct adamas_plan {
  adamas_rule rule;
  int32_t dtype;
  std::vector<int64_t> sizes;
  std::vector<int64_t> everything;  // 0, 1, ..., n - 1
  Chunks all;
  // The step under way.
  const Kernel* kernel = nullptr;
  const Chunks* chunks = nullptr;
  std::vector<int64_t> active;      // of the last step that was not of all tensors
  Chunks some;                      // their chunks
  std::vector<adamas_buffers> buffers;
  std::vector<adamas_scalars> numbers;
  bool clipped = false;             // by value, to `bound`
  double bound = 0.0;
  std::vector<double> scales;       // per active tensor: multiplies its gradient
  std::vector<double> partials;     // per block: sum of squares
  std::vector<double> tensors;      // per active tensor
  double total = 0.0;

  template <class T>
  void norm(int64_t begin, int64_t end) {
    for (int64_t i = chunks->starts[begin]; i < chunks->starts[end]; ++i) {
      const Segment& segment = chunks->segments[i];
      const T* g = static_cast<const T*>(buffers[segment.active].g);
      double* out = &partials[segment.block];
      for (int64_t at = segment.begin; at < segment.end; at += ADAMAS_BLOCK)
        *out++ = loops<T>(*kernel).squares(g + at, std::min<int64_t>(ADAMAS_BLOCK, segment.end - at));
    }
  }

  template <class T>
  void update(int64_t begin, int64_t end) {
    for (int64_t i = chunks->starts[begin]; i < chunks->starts[end]; ++i) {
      const Segment& segment = chunks->segments[i];
      const adamas_buffers& b = buffers[segment.active];
      const adamas_scalars& s = numbers[segment.active];
      const Numbers<T> r = rounded<T>(s, scales[segment.active], bound);
      const int64_t at = segment.begin;
      const bool amsgrad = rule.amsgrad != ADAMAS_AMSGRAD_OFF;
      T* const vmax = amsgrad ? static_cast<T*>(b.slots[2]) + at : nullptr;
      loops<T>(*kernel).update[clipped][s.coupled != 0.0][amsgrad](
          r, static_cast<T*>(b.p) + at, static_cast<const T*>(b.g) + at, static_cast<T*>(b.slots[0]) + at,
          static_cast<T*>(b.slots[1]) + at, vmax, segment.end - at);
    }
  }
};

extern "C" {

int32_t adamas_abi(void) { return ADAMAS_ABI; }

const char* adamas_build_info(void) { return ADAMAS_BUILD_INFO; }

int32_t adamas_rule_slots(const adamas_rule* rule) {
  const bool legal = rule && rule->eps_mode >= 0 && rule->eps_mode <= 1 && rule->decay >= 0 && rule->decay <= 1 &&
                     rule->amsgrad >= 0 && rule->amsgrad <= 2 && rule->maximize >= 0 && rule->maximize <= 1 &&
                     rule->nesterov >= 0 && rule->nesterov <= 2 && rule->schedule_free >= 0 && rule->schedule_free <= 1 &&
                     !(rule->eps_mode == ADAMAS_EPS_KERAS && rule->amsgrad == ADAMAS_AMSGRAD_CORRECTED) &&
                     !(rule->nesterov != ADAMAS_NESTEROV_OFF && rule->amsgrad != ADAMAS_AMSGRAD_OFF) &&
                     !(rule->schedule_free && (rule->decay != ADAMAS_DECAY_DECOUPLED ||
                                               rule->amsgrad != ADAMAS_AMSGRAD_OFF ||
                                               rule->nesterov != ADAMAS_NESTEROV_OFF));
  if (!legal) return -1;
  return rule->amsgrad == ADAMAS_AMSGRAD_OFF ? 2 : 3;
}

int32_t adamas_rule_carries(const adamas_rule* rule) {
  return rule->schedule_free ? 2 : rule->nesterov == ADAMAS_NESTEROV_SCHEDULED ? 1 : 0;
}

void adamas_rule_carry_on(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t, const double* before,
                          double* after) {
  Ieee ieee;
  carry_on(*rule, *hyper, t, before, after);
}

void adamas_rule_scalars(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t, double grad_scale,
                         double clip, const double* carry, adamas_scalars* out) {
  Ieee ieee;
  *out = scalars(*rule, *hyper, t, grad_scale, clip, carry);
}

double adamas_clip_factor(int32_t clip, double norm, double bound) {
  Ieee ieee;
  return clip_factor(clip, norm, bound);
}

adamas_plan* adamas_plan_create(const adamas_rule* rule, int32_t dtype, const int32_t* formats, int64_t n,
                                const int64_t* sizes, const uint64_t* keys, uint64_t seed, const char** error) {
  (void)keys;  // native storage does not round
  (void)seed;
  auto refuse = [&](const char* why) {
    if (error) *error = why;
    return nullptr;
  };
  const int32_t slots = adamas_rule_slots(rule);
  if (slots < 0) return refuse("no such rule");
  if (rule->nesterov != ADAMAS_NESTEROV_OFF || rule->schedule_free) return refuse("no loop for this rule yet");
  if (dtype != ADAMAS_FLOAT32 && dtype != ADAMAS_FLOAT64) return refuse("dtype must be float32 or float64");
  for (int32_t s = 0; s < slots; ++s)
    if (formats[s] != ADAMAS_FORMAT_NATIVE) return refuse("no such format");
  if (n < 0) return refuse("a negative number of tensors");
  for (int64_t i = 0; i < n; ++i)
    if (sizes[i] < 0) return refuse("a negative size");
  try {
    auto plan = std::make_unique<adamas_plan>();
    plan->rule = *rule;
    plan->dtype = dtype;
    plan->sizes.assign(sizes, sizes + n);
    plan->everything.resize(n);
    for (int64_t i = 0; i < n; ++i) plan->everything[i] = i;
    plan->all.cut(plan->sizes, plan->everything);
    plan->buffers.resize(n);
    plan->numbers.resize(n);
    plan->scales.resize(n);
    plan->tensors.resize(n);
    // No step needs more than one of all tensors, so none allocates, and none can fail half-way.
    plan->active.reserve(n);
    plan->some.segments.reserve(plan->all.segments.size());
    plan->some.starts.reserve(plan->all.segments.size() + 1);
    plan->some.blocks.reserve(n + 1);
    plan->partials.reserve(plan->all.blocks.back());
    return plan.release();
  } catch (const std::bad_alloc&) {
    return refuse("out of memory");
  }
}

void adamas_plan_destroy(adamas_plan* plan) { delete plan; }

int64_t adamas_begin(adamas_plan* plan, int64_t n_active, const int64_t* active, const adamas_buffers* buffers,
                     const int64_t* t, const adamas_hyper* table, const int32_t* rows, const double* carry) {
  const int64_t n = static_cast<int64_t>(plan->sizes.size());
  const int64_t count = active ? n_active : n;
  if (count < 0 || count > n) return -1;
  const int32_t carries = adamas_rule_carries(&plan->rule);
  if (carries && !carry) return -1;
  for (int64_t k = 0; k < count; ++k) {
    if (t[k] < 1 || (rows && rows[k] < 0)) return -1;
    if (active && (active[k] < 0 || active[k] >= n || (k > 0 && active[k] <= active[k - 1]))) return -1;
  }
  if (!active) {
    plan->chunks = &plan->all;
  } else {
    if (plan->some.starts.empty() || !std::equal(active, active + count, plan->active.begin(), plan->active.end())) {
      plan->active.assign(active, active + count);
      plan->some.cut(plan->sizes, plan->active);
    }
    plan->chunks = &plan->some;
  }
  std::copy(buffers, buffers + count, plan->buffers.begin());
  Ieee ieee;
  for (int64_t k = 0; k < count; ++k) {
    const int32_t row = rows ? rows[k] : 0;
    const double* own = carries ? carry + k * ADAMAS_MAX_CARRIES : nullptr;
    const bool same = k > 0 && t[k] == t[k - 1] && row == (rows ? rows[k - 1] : 0) &&
                      (!carries || std::equal(own, own + carries, own - ADAMAS_MAX_CARRIES));
    plan->numbers[k] = same ? plan->numbers[k - 1] : scalars(plan->rule, table[row], t[k], 1.0, 0.0, own);
  }
  plan->partials.resize(plan->chunks->blocks.back());
  plan->clipped = false;
  plan->total = 0.0;
  std::fill(plan->scales.begin(), plan->scales.begin() + count, 1.0);
  plan->kernel = &chosen_kernel();
  return plan->chunks->count();
}

double adamas_set_gradients(adamas_plan* plan, double grad_scale, int32_t clip, double bound, double others) {
  Ieee ieee;
  const size_t count = plan->chunks->blocks.size() - 1;
  const double norm = std::fabs(grad_scale) * std::sqrt(plan->total + others);
  plan->clipped = clip == ADAMAS_CLIP_VALUE;
  plan->bound = bound;
  if (clip == ADAMAS_CLIP_NORM) {
    for (size_t k = 0; k < count; ++k) {
      const double own = std::fabs(grad_scale) * std::sqrt(plan->tensors[k]);
      plan->scales[k] = grad_scale * clip_factor(clip, own, bound);
    }
    return norm;
  }
  if (clip == ADAMAS_CLIP_GLOBAL_NORM || clip == ADAMAS_CLIP_TORCH) grad_scale *= clip_factor(clip, norm, bound);
  std::fill(plan->scales.begin(), plan->scales.begin() + count, grad_scale);
  return norm;
}

void adamas_run(adamas_plan* plan, int32_t phase, int64_t begin, int64_t end) {
  Ieee ieee;
  const bool single = plan->dtype == ADAMAS_FLOAT32;
  if (phase == ADAMAS_PHASE_UPDATE) {
    single ? plan->update<float>(begin, end) : plan->update<double>(begin, end);
  } else if (phase == ADAMAS_PHASE_NORM) {
    single ? plan->norm<float>(begin, end) : plan->norm<double>(begin, end);
  }
}

void adamas_run_all(adamas_plan* plan, int32_t phase) {
  struct Context { adamas_plan* plan; int32_t phase; } context{plan, phase};
  parallel(plan->chunks->count(), [](void* c, int64_t begin, int64_t end) {
    auto* context = static_cast<Context*>(c);
    adamas_run(context->plan, context->phase, begin, end);
  }, &context);
}

double adamas_finish(adamas_plan* plan, int32_t phase) {
  if (phase != ADAMAS_PHASE_NORM) return 0.0;
  Ieee ieee;
  plan->total = 0.0;
  const std::vector<int64_t>& blocks = plan->chunks->blocks;
  for (size_t k = 0; k + 1 < blocks.size(); ++k) {
    plan->tensors[k] = 0.0;
    for (int64_t b = blocks[k]; b < blocks[k + 1]; ++b) plan->tensors[k] += plan->partials[b];
    plan->total += plan->tensors[k];
  }
  return plan->total;
}

const double* adamas_squares(const adamas_plan* plan) { return plan->tensors.data(); }

void adamas_set_threads(int32_t n) { set_threads(n); }
int32_t adamas_get_threads(void) { return get_threads(); }

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
