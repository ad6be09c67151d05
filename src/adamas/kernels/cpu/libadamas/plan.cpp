// Plans, steps and phases: what a step is made of, and which loops do it.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "adamas.h"
#include "chunks.h"
#include "environment.h"
#include "kernel.h"
#include "pool.h"
#include "rules.h"
#include "scalars.h"
#include "staged.h"

using namespace adamas;

// The number of the "slot" whose random bits choose the blocks that are computed twice.
constexpr uint64_t kVerified = 254;

struct adamas_plan {
  adamas_settings settings;
  Form gradients = kNative;
  std::vector<Storage> storage;     // per tensor
  std::vector<int64_t> sizes;
  std::vector<uint64_t> names;      // per tensor: the key of seed and name
  std::vector<int64_t> everything;  // 0, 1, ..., n - 1
  Chunks all;
  // The step under way.
  const Kernel* kernel = nullptr;
  const Chunks* chunks = nullptr;
  std::vector<int64_t> active;      // of the last step that was not of all tensors
  Chunks some;                      // their chunks
  std::vector<adamas_buffers> buffers;
  std::vector<adamas_scalars> numbers;
  std::vector<uint64_t> keys;       // per active tensor: of seed, name and step
  bool clipped = false;             // by value, to `bound`
  double bound = 0.0;
  std::vector<double> scales;       // per active tensor: multiplies its gradient
  std::vector<double> partials;     // per block: sum of squares
  std::vector<double> tensors;      // per active tensor
  double total = 0.0;
  bool summed = false;              // the phase NORM has run
  bool counting = false;            // statistics
  int32_t reduces = 0;              // sums of the rule,
  std::vector<double> sums;         // per block
  double average_share = 0.0;
  std::vector<double> tallies;      // ADAMAS_STATISTICS per block,
  std::vector<double> statistics;   // and per active tensor
  std::atomic<int64_t> differing{0};  // 1 + a tensor whose step had two results

  template <class T>
  void norm(int64_t begin, int64_t end);
  template <class T>
  void reduce(int64_t begin, int64_t end);
  template <class T>
  void update(int64_t begin, int64_t end);
  // Of the k-th active tensor: its position among all.
  int64_t tensor(int64_t k) const { return chunks == &all ? k : active[k]; }

 private:
  template <class T>
  Job<T> job(int64_t k) const;
  template <class T>
  void step(const Job<T>& job, const Segment& segment, int64_t begin, int64_t end, bool twice);
};

template <class T>
void adamas_plan::norm(int64_t begin, int64_t end) {
  T decoded[ADAMAS_BLOCK];
  for (int64_t i = chunks->starts[begin]; i < chunks->starts[end]; ++i) {
    const Segment& segment = chunks->segments[i];
    double* out = &partials[segment.block];
    for (int64_t at = segment.begin; at < segment.end; at += ADAMAS_BLOCK) {
      const int64_t n = std::min<int64_t>(ADAMAS_BLOCK, segment.end - at);
      const void* g = static_cast<const char*>(buffers[segment.active].g) + at * (gradients == kNative ? sizeof(T) : 2);
      if constexpr (std::is_same<T, float>::value) {
        if (gradients != kNative) {
          kernel->codes[gradients].decode(g, nullptr, decoded, n, segment.end - at);
          g = decoded;
        }
      }
      *out++ = loops<T>(*kernel).squares(static_cast<const T*>(g), n);
    }
  }
}

namespace {

// The loop that decodes the moments itself, or NULL (fused.h).
template <class T>
Fused fused_loop(const Kernel& kernel, const adamas_rule& rule, const Storage& storage, const Numbers<T>& c, bool clipped,
                 bool coupled) {
  if (formula(rule) != kAdam) return nullptr;
  if (storage.slot[0] == kBfloat16 && storage.slot[1] == kBfloat16) return kernel.bfloat16[clipped][coupled];
  if (storage.slot[0] == kSigned8 && storage.slot[1] == kUnsigned8) {
    const bool plain = !clipped && !coupled && c.grad_scale == 1 && c.eps_root == 0;
    return plain ? kernel.int8_plain : kernel.int8[clipped][coupled];
  }
  return nullptr;
}

}  // namespace

template <class T>
Job<T> adamas_plan::job(int64_t k) const {
  const adamas_scalars& s = numbers[k];
  Job<T> job;
  job.kernel = kernel;
  job.storage = &storage[tensor(k)];
  job.buffers = buffers[k];
  job.rule = rule_loop(loops<T>(*kernel), settings.rule, clipped, s.coupled != 0.0);
  if (reduces) {
    const Reduction what = reduction(settings.rule);
    job.reduce = loops<T>(*kernel).reduce[what][clipped][s.coupled != 0.0];
    job.reads_parameter = reads_parameter(what, s.coupled != 0.0);
    for (int32_t i = 0; i < job.storage->slots; ++i) job.reads_slot[i] = reads_slot(what, i);
  }
  job.numbers = rounded<T>(s, scales[k], bound);
  job.fused = fused_loop(*kernel, settings.rule, *job.storage, job.numbers, clipped, s.coupled != 0.0);
  job.key = keys[k];
  job.share = T(average_share);
  job.bound = T(eps_bound(settings.rule, s));
  job.root = root_slot(settings.rule);
  job.squares = !summed;
  return job;
}

template <class T>
void adamas_plan::reduce(int64_t begin, int64_t end) {
  for (int64_t i = chunks->starts[begin]; i < chunks->starts[end]; ++i) {
    const Segment& segment = chunks->segments[i];
    staged_sums(job<T>(segment.active), reduces, segment.begin, segment.end, &sums[reduces * segment.block]);
  }
}

// Elements [begin, end) of a segment.
template <class T>
void adamas_plan::step(const Job<T>& job, const Segment& segment, int64_t begin, int64_t end, bool twice) {
  const int64_t block = segment.block + (begin - segment.begin) / ADAMAS_BLOCK;
  double* counts = counting ? &tallies[ADAMAS_STATISTICS * block] : nullptr;
  if (twice) {
    if (!staged_twice(job, begin, end, counts)) differing.store(1 + segment.active);
  } else if (counts || job.storage->average >= 0 || !job.storage->native()) {
    staged(job, begin, end, counts);
  } else {
    T* slots[ADAMAS_MAX_SLOTS];
    for (int32_t s = 0; s < job.storage->slots; ++s) slots[s] = static_cast<T*>(job.buffers.slots[s]) + begin;
    job.rule(job.numbers, static_cast<T*>(job.buffers.p) + begin, static_cast<const T*>(job.buffers.g) + begin, slots,
             end - begin, end - begin);
  }
}

template <class T>
void adamas_plan::update(int64_t begin, int64_t end) {
  for (int64_t i = chunks->starts[begin]; i < chunks->starts[end]; ++i) {
    const Segment& segment = chunks->segments[i];
    const Job<T> own = job<T>(segment.active);
    int64_t from = segment.begin;  // what is not computed twice is done in ranges as long as can be
    if (settings.verify > 0) {
      const uint64_t key = absorb(own.key, kVerified);
      for (int64_t at = segment.begin; at < segment.end; at += ADAMAS_BLOCK) {
        if (absorb(key, static_cast<uint64_t>(at / ADAMAS_BLOCK)) % static_cast<uint64_t>(settings.verify)) continue;
        const int64_t to = std::min<int64_t>(at + ADAMAS_BLOCK, segment.end);
        if (from < at) step(own, segment, from, at, false);
        step(own, segment, at, to, true);
        from = to;
      }
    }
    if (from < segment.end) step(own, segment, from, segment.end, false);
  }
}

namespace {

// How the parameters and gradients of a plan are stored, and its extra slots. Returns what is wrong, or NULL.
const char* choose_forms(const adamas_settings& settings, Storage* storage) {
  const bool half = settings.dtype == ADAMAS_FLOAT16, low = half || settings.dtype == ADAMAS_BFLOAT16;
  storage->slots = adamas_rule_slots(&settings.rule);
  if (storage->slots < 0) return "no such rule";
  if (settings.dtype < ADAMAS_FLOAT32 || settings.dtype > ADAMAS_FLOAT16)
    return "dtype must be float32, float64, bfloat16 or float16";
  if (settings.average < 0 || settings.average > 1) return "average must be 0 or 1";
  if (settings.verify < 0) return "verify must be at least 0";
  storage->width = settings.dtype == ADAMAS_FLOAT64 ? 8 : 4;
  if (low) storage->p = storage->g = half ? kFloat16Nearest : kBfloat16Nearest;
  int32_t next = storage->slots;
  switch (settings.weights) {
    case ADAMAS_WEIGHTS_NEAREST: break;
    case ADAMAS_WEIGHTS_STOCHASTIC:
      if (!low) return "only bfloat16 and float16 weights are rounded stochastically";
      storage->p = half ? kFloat16 : kBfloat16;
      break;
    case ADAMAS_WEIGHTS_SPLIT:
      if (settings.dtype != ADAMAS_BFLOAT16) return "only bfloat16 weights are split";
      storage->p = kSplit;
      storage->correction = next++;
      break;
    default: return "no such way to store weights";
  }
  if (settings.average) storage->average = next++;
  return nullptr;
}

// How the slots of one tensor are stored.
const char* choose_forms(const adamas_settings& settings, const int32_t* formats, Storage* storage) {
  for (int32_t s = 0; s < storage->slots; ++s) {
    const Kind kind = slot_kind(settings.rule, s);
    switch (formats ? formats[s] : ADAMAS_FORMAT_NATIVE) {
      case ADAMAS_FORMAT_NATIVE: storage->slot[s] = kNative; continue;
      case ADAMAS_FORMAT_BFLOAT16: storage->slot[s] = kBfloat16; break;
      case ADAMAS_FORMAT_INT8: storage->slot[s] = kind == Kind::kSigned ? kSigned8 : kUnsigned8; break;
      default: return "no such format";
    }
    if (settings.dtype == ADAMAS_FLOAT64) return "the slots of float64 parameters are float64";
    if (kind == Kind::kWeight) return "a slot that holds weights is not stored below float32";
  }
  return nullptr;
}

}  // namespace

extern "C" {

int32_t adamas_abi(void) { return ADAMAS_ABI; }

const char* adamas_build_info(void) { return ADAMAS_BUILD_INFO; }

adamas_plan* adamas_plan_create(const adamas_settings* settings, int64_t n, const int64_t* sizes, const int32_t* formats,
                                const uint64_t* keys, const char** error) {
  auto refuse = [&](const char* why) -> adamas_plan* {
    if (error) *error = why;
    return nullptr;
  };
  Storage storage;
  if (const char* why = choose_forms(*settings, &storage)) return refuse(why);
  if (n < 0) return refuse("a negative number of tensors");
  for (int64_t i = 0; i < n; ++i)
    if (sizes[i] < 0) return refuse("a negative size");
  try {
    auto plan = std::make_unique<adamas_plan>();
    plan->settings = *settings;
    plan->gradients = storage.g;
    plan->reduces = adamas_rule_reduces(&settings->rule);
    for (int64_t i = 0; i < n; ++i) {
      if (const char* why = choose_forms(*settings, formats ? formats + i * storage.slots : nullptr, &storage))
        return refuse(why);
      plan->storage.push_back(storage);
    }
    plan->sizes.assign(sizes, sizes + n);
    plan->names.resize(n);
    for (int64_t i = 0; i < n; ++i) plan->names[i] = absorb(absorb(0, settings->seed), keys[i]);
    plan->everything.resize(n);
    for (int64_t i = 0; i < n; ++i) plan->everything[i] = i;
    plan->all.cut(plan->sizes, plan->everything);
    plan->buffers.resize(n);
    plan->numbers.resize(n);
    plan->keys.resize(n);
    plan->scales.resize(n);
    plan->tensors.resize(n);
    plan->statistics.resize(ADAMAS_STATISTICS * n);
    // No step needs more than one of all tensors, so none allocates, and none can fail half-way.
    plan->active.reserve(n);
    plan->some.segments.reserve(plan->all.segments.size());
    plan->some.starts.reserve(plan->all.segments.size() + 1);
    plan->some.blocks.reserve(n + 1);
    plan->partials.reserve(plan->all.blocks.back());
    plan->sums.resize(plan->reduces * plan->all.blocks.back());
    plan->tallies.resize(ADAMAS_STATISTICS * plan->all.blocks.back());
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
  const int32_t carries = adamas_rule_carries(&plan->settings.rule);
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
    plan->numbers[k] = same ? plan->numbers[k - 1] : scalars(plan->settings.rule, table[row], t[k], 1.0, 0.0, own);
    plan->keys[k] = absorb(plan->names[active ? active[k] : k], static_cast<uint64_t>(t[k]));
  }
  plan->partials.resize(plan->chunks->blocks.back());
  plan->clipped = false;
  plan->total = 0.0;
  plan->summed = false;
  plan->counting = false;
  plan->average_share = 0.0;
  plan->differing.store(0);
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

void adamas_set_extras(adamas_plan* plan, int32_t statistics, double average_decay) {
  plan->counting = statistics != 0;
  plan->average_share = 1.0 - average_decay;
}

void adamas_run(adamas_plan* plan, int32_t phase, int64_t begin, int64_t end) {
  Ieee ieee;
  const bool single = plan->settings.dtype != ADAMAS_FLOAT64;
  if (phase == ADAMAS_PHASE_UPDATE) {
    single ? plan->update<float>(begin, end) : plan->update<double>(begin, end);
  } else if (phase == ADAMAS_PHASE_REDUCE) {
    single ? plan->reduce<float>(begin, end) : plan->reduce<double>(begin, end);
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
  Ieee ieee;
  const std::vector<int64_t>& blocks = plan->chunks->blocks;
  if (phase == ADAMAS_PHASE_UPDATE) {
    for (size_t k = 0; plan->counting && k + 1 < blocks.size(); ++k) {
      double* sums = &plan->statistics[ADAMAS_STATISTICS * k];
      std::fill_n(sums, ADAMAS_STATISTICS, 0.0);
      for (int64_t b = blocks[k]; b < blocks[k + 1]; ++b)
        for (int i = 0; i < ADAMAS_STATISTICS; ++i) sums[i] += plan->tallies[ADAMAS_STATISTICS * b + i];
      if (plan->summed) sums[0] = plan->tensors[k];
    }
    return static_cast<double>(plan->differing.load());
  }
  if (phase == ADAMAS_PHASE_REDUCE) {
    for (size_t k = 0; k + 1 < blocks.size(); ++k) {
      double sums[ADAMAS_MAX_SUMS] = {};
      for (int64_t b = blocks[k]; b < blocks[k + 1]; ++b)
        for (int32_t i = 0; i < plan->reduces; ++i) sums[i] += plan->sums[plan->reduces * b + i];
      const double n = static_cast<double>(plan->sizes[plan->tensor(static_cast<int64_t>(k))]);
      plan->numbers[k] = rescaled(plan->settings.rule, plan->numbers[k], n, sums);
    }
    return 0.0;
  }
  plan->total = 0.0;
  for (size_t k = 0; k + 1 < blocks.size(); ++k) {
    plan->tensors[k] = 0.0;
    for (int64_t b = blocks[k]; b < blocks[k + 1]; ++b) plan->tensors[k] += plan->partials[b];
    plan->total += plan->tensors[k];
  }
  plan->summed = true;
  return plan->total;
}

const double* adamas_squares(const adamas_plan* plan) { return plan->tensors.data(); }
const double* adamas_statistics(const adamas_plan* plan) { return plan->statistics.data(); }

void adamas_set_threads(int32_t n) { set_threads(n); }
int32_t adamas_get_threads(void) { return get_threads(); }

}
