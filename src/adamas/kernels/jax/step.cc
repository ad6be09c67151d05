// One optimizer step as a handler of XLA's typed FFI: buffers become pointers, libadamas does the arithmetic.
//
// Built on the user's machine against the installed jaxlib's headers (see build.py), so it must hold no arithmetic: all
// of that is in libadamas. XLA calls it from any thread, and several at once.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "adamas.h"
#include "library.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Integers = ffi::Span<const int32_t>;
using Longs = ffi::Span<const int64_t>;

constexpr size_t kFields = sizeof(adamas_hyper) / sizeof(double);
constexpr size_t kScaled = 64;  // elements with one scale of int8

// What tells one plan from another.
struct Key {
  adamas_settings settings{};
  std::vector<int64_t> sizes;
  std::vector<int32_t> formats;
  std::vector<uint64_t> names;

  bool operator==(const Key& other) const {
    return std::memcmp(&settings.rule, &other.settings.rule, sizeof settings.rule) == 0 &&
           settings.dtype == other.settings.dtype && settings.weights == other.settings.weights &&
           settings.seed == other.settings.seed && sizes == other.sizes && formats == other.formats &&
           names == other.names;
  }
};

// Plans that no step is using. A step takes one out, or makes one, and puts it back; those that were not used for
// longest go first.
class Plans {
 public:
  adamas_plan* Take(const Api* api, const Key& key, const char** error) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto entry = idle_.rbegin(); entry != idle_.rend(); ++entry) {
        if (entry->first == key) {
          adamas_plan* plan = entry->second;
          idle_.erase(std::next(entry).base());
          return plan;
        }
      }
    }
    return api->plan_create(&key.settings, static_cast<int64_t>(key.sizes.size()), key.sizes.data(),
                            key.formats.data(), key.names.data(), error);
  }

  void Put(const Api* api, Key key, adamas_plan* plan) {
    constexpr size_t kKept = 32;
    adamas_plan* dropped = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (idle_.size() == kKept) {
        dropped = idle_.front().second;
        idle_.erase(idle_.begin());
      }
      idle_.emplace_back(std::move(key), plan);
    }
    if (dropped != nullptr) api->plan_destroy(dropped);
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<Key, adamas_plan*>> idle_;
};

Plans& plans() {
  static Plans* all = new Plans;  // for the life of the process: handlers may still run while it ends
  return *all;
}

ffi::Error Refuse(std::string why) { return ffi::Error::InvalidArgument("adamas step: " + why); }

// The 64-bit word whose halves, the lower one first, are an entry of a uint32 array.
template <class T>
T Word(const ffi::AnyBuffer& halves, size_t i) {
  static_assert(sizeof(T) == 8, "two halves");
  T word;
  std::memcpy(&word, static_cast<const char*>(halves.untyped_data()) + 8 * i, 8);
  return word;
}

bool Number(const ffi::AnyBuffer& scalar, double* value) {
  if (scalar.element_count() != 1) return false;
  if (scalar.element_type() == ffi::F32) {
    *value = static_cast<double>(*scalar.typed_data<float>());
  } else if (scalar.element_type() == ffi::F64) {
    *value = *scalar.typed_data<double>();
  } else {
    return false;
  }
  return true;
}

int32_t Dtype(ffi::DataType dtype) {
  switch (dtype) {
    case ffi::F32: return ADAMAS_FLOAT32;
    case ffi::F64: return ADAMAS_FLOAT64;
    case ffi::BF16: return ADAMAS_BFLOAT16;
    case ffi::F16: return ADAMAS_FLOAT16;
    default: return -1;
  }
}

// Arguments: the table of numbers, the step count, whether to step at all, what the rule carries, seed and names, numbers
// that replace those of the table, n parameters, n gradients, the arrays of state. Results: the parameters and the arrays
// of state, in place, and what the rule carries.
//
//   rule     every switch, in the order of adamas_rule
//   weights  ADAMAS_WEIGHTS_...
//   traced   which field of adamas_hyper each number that replaces one is
//   rows     of each parameter, its row of the table
//   formats  of each parameter and slot, ADAMAS_FORMAT_...
//   places   of each parameter and slot: an array of the state, the first element in it; the same for its scales, or -1
ffi::Error Step(ffi::RemainingArgs args, ffi::RemainingRets rets, Integers formats, Longs places, Integers rows,
                Integers rule, Integers traced, int32_t weights) {
  const Api* api = bound.load(std::memory_order_acquire);
  if (api == nullptr) return Refuse("not bound to libadamas: import adamas.jax first");
  constexpr size_t kHead = 5;
  const size_t n = rows.size(), first = kHead + traced.size();
  if (n == 0 || rule.size() * sizeof(int32_t) != sizeof(adamas_rule)) return Refuse("another interface");
  if (args.size() < first + 2 * n || rets.size() + kHead + traced.size() + n != args.size() + 1)
    return Refuse("the number of arguments");
  const size_t arrays = args.size() - first - 2 * n;
  const auto argument = [&](size_t i) { return *args.get<ffi::AnyBuffer>(i); };
  const auto result = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };

  Key key;
  std::memcpy(&key.settings.rule, rule.begin(), sizeof(adamas_rule));
  const int32_t slots = api->rule_slots(&key.settings.rule), carries = api->rule_carries(&key.settings.rule);
  const int32_t all = slots + (weights == ADAMAS_WEIGHTS_SPLIT ? 1 : 0);
  if (slots < 0 || formats.size() != n * slots || places.size() != 4 * n * all) return Refuse("the layout");

  const ffi::AnyBuffer table = argument(0), count = argument(1), ok = argument(2), carry = argument(3);
  const ffi::AnyBuffer names = argument(4);
  const size_t lines = table.element_count() / (2 * kFields);
  if (lines == 0 || table.element_count() != 2 * kFields * lines || count.element_type() != ffi::S32 ||
      count.element_count() != 1 || ok.element_type() != ffi::PRED ||
      carry.element_count() != 2 * static_cast<size_t>(carries) ||
      (names.element_count() != 0 && names.element_count() != 2 * (n + 1)))
    return Refuse("the numbers of a step");
  std::vector<adamas_hyper> hypers(lines);
  std::memcpy(hypers.data(), table.untyped_data(), lines * sizeof(adamas_hyper));
  for (size_t k = 0; k < traced.size(); ++k) {
    double value;
    if (static_cast<size_t>(traced[k]) >= kFields || !Number(argument(kHead + k), &value))
      return Refuse("a number that is no float32 or float64 scalar");
    constexpr size_t kDecay = offsetof(adamas_hyper, weight_decay) / sizeof(double);
    // Row 1 is of what does not decay.
    for (size_t line = 0; line < lines; ++line)
      if (line == 0 || static_cast<size_t>(traced[k]) != kDecay)
        reinterpret_cast<double*>(&hypers[line])[traced[k]] = value;
  }
  const int64_t t = static_cast<int64_t>(*count.typed_data<int32_t>()) + 1;
  if (t < 1) return Refuse("the step count is below 0");

  key.settings.dtype = Dtype(argument(first).element_type());
  key.settings.weights = weights;
  key.settings.seed = names.element_count() ? Word<uint64_t>(names, 0) : 0;
  key.formats.assign(formats.begin(), formats.end());
  key.sizes.resize(n);
  key.names.resize(n);
  std::vector<adamas_buffers> buffers(n);
  std::vector<std::pair<char*, ffi::AnyBuffer>> kept;
  kept.reserve(arrays);
  for (size_t a = 0; a < arrays; ++a) {
    const ffi::AnyBuffer array = result(n + a);
    if (array.untyped_data() != argument(first + 2 * n + a).untyped_data()) return Refuse("state is not in place");
    kept.emplace_back(static_cast<char*>(array.untyped_data()), array);
  }
  // Where an array of a parameter begins; NULL where it does not fit.
  const auto place = [&](int64_t array, int64_t offset, int64_t size) -> char* {
    if (array < 0 || array >= static_cast<int64_t>(arrays) || offset < 0) return nullptr;
    const ffi::AnyBuffer& own = kept[array].second;
    if (offset + size > static_cast<int64_t>(own.element_count())) return nullptr;
    return kept[array].first + offset * static_cast<int64_t>(ffi::ByteWidth(own.element_type()));
  };
  for (size_t i = 0; i < n; ++i) {
    const ffi::AnyBuffer p = result(i), g = argument(first + n + i);
    const int64_t size = static_cast<int64_t>(p.element_count());
    if (rows[i] < 0 || static_cast<size_t>(rows[i]) >= lines || p.element_type() != g.element_type() ||
        Dtype(p.element_type()) != key.settings.dtype || g.element_count() != p.element_count() ||
        p.untyped_data() != argument(first + i).untyped_data())
      return Refuse("parameter " + std::to_string(i) + " and its gradient");
    key.sizes[i] = size;
    if (names.element_count()) key.names[i] = Word<uint64_t>(names, i + 1);
    buffers[i].p = p.untyped_data();
    buffers[i].g = g.untyped_data();
    for (int32_t s = 0; s < all; ++s) {
      const int64_t* where = &places[4 * (i * all + s)];
      buffers[i].slots[s] = place(where[0], where[1], size);
      const bool codes = s < slots && formats[i * slots + s] == ADAMAS_FORMAT_INT8;
      if (codes)
        buffers[i].scales[s] =
            reinterpret_cast<float*>(place(where[2], where[3], (size + kScaled - 1) / static_cast<int64_t>(kScaled)));
      if (buffers[i].slots[s] == nullptr || (codes && buffers[i].scales[s] == nullptr))
        return Refuse("what is kept of parameter " + std::to_string(i));
    }
  }

  double after[ADAMAS_MAX_CARRIES] = {};
  if (carries) std::memcpy(after, carry.untyped_data(), sizeof(double) * carries);
  if (*static_cast<const uint8_t*>(ok.untyped_data())) {
    if (carries) {
      double before[ADAMAS_MAX_CARRIES];
      std::copy_n(after, ADAMAS_MAX_CARRIES, before);
      api->rule_carry_on(&key.settings.rule, &hypers[0], t, before, after);
    }
    std::vector<double> carried;
    for (size_t i = 0; carries && i < n; ++i) carried.insert(carried.end(), after, after + ADAMAS_MAX_CARRIES);
    const std::vector<int64_t> steps(n, t);
    const char* error = "no reason given";
    adamas_plan* plan = plans().Take(api, key, &error);
    if (plan == nullptr) return Refuse(std::string("libadamas made no plan: ") + error);
    const int64_t chunks = api->begin(plan, static_cast<int64_t>(n), nullptr, buffers.data(), steps.data(),
                                      hypers.data(), rows.begin(), carries ? carried.data() : nullptr);
    if (chunks >= 0) {
      api->run_all(plan, ADAMAS_PHASE_UPDATE);
      api->finish(plan, ADAMAS_PHASE_UPDATE);
    }
    plans().Put(api, std::move(key), plan);
    if (chunks < 0) return Refuse("libadamas refused it: a number is out of range");
  }
  if (carries) std::memcpy(result(n + arrays).untyped_data(), after, sizeof(double) * carries);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adamas_jax_step, Step,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int32_t>>("formats")
                                  .Attr<ffi::Span<const int64_t>>("places")
                                  .Attr<ffi::Span<const int32_t>>("rows")
                                  .Attr<ffi::Span<const int32_t>>("rule")
                                  .Attr<ffi::Span<const int32_t>>("traced")
                                  .Attr<int32_t>("weights"));

// Loads libadamas from `path` for every step from now on. NULL, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* adamas_jax_bind(const char* path) { return Bind(path); }
