// The NumPy shim: hands arrays to libadamas. No arithmetic.
//
// It is called once a step with every array, so it reads array headers directly (NumPy's C API): the buffer protocol
// costs 0.2 us an array, as much as the step itself for 500 tensors of 1000. Gradients may be tensors as well (tensors.h).
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>
//
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "libadamas/adamas.h"
#include "tensors.h"

namespace nb = nanobind;

namespace {

using Rule = std::vector<int32_t>;  // adamas.rule.Rule, in its order
constexpr int64_t kNumbers = sizeof(adamas_hyper) / sizeof(double);

adamas_rule as_rule(const Rule& r) {
  adamas_rule rule;
  if (r.size() * sizeof(int32_t) != sizeof rule) throw std::invalid_argument("give every switch of adamas_rule");
  std::memcpy(&rule, r.data(), sizeof rule);
  return rule;
}

adamas_hyper as_hyper(const std::vector<double>& numbers) {
  adamas_hyper hyper;
  if (numbers.size() != kNumbers) throw std::invalid_argument("give every number of adamas_hyper");
  std::memcpy(&hyper, numbers.data(), sizeof hyper);
  return hyper;
}

struct Interval {
  const char* begin;
  const char* end;
};

PyArrayObject* as_array(PyObject* object) {
  return PyArray_Check(object) ? reinterpret_cast<PyArrayObject*>(object) : nullptr;
}

class Plan {
 public:
  // Everything has been checked by adamas.kernels.arrays; what can change later is checked again in every step.
  // slots[s][i] and scales[s][i] (or None) are tensor i's; everything else is as adamas_plan_create takes it.
  Plan(Rule rule, nb::list params, nb::list slots, nb::list scales, std::vector<uint64_t> keys, int dtype,
       std::vector<int32_t> formats, int weights, bool average, int64_t verify, uint64_t seed)
      : rule_(as_rule(rule)) {
    const adamas_settings settings{rule_, dtype, weights, average, verify, seed};
    const int32_t own = adamas_rule_slots(&rule_);
    const size_t n = nb::len(params), n_slots = nb::len(slots);
    const size_t extra = (weights == ADAMAS_WEIGHTS_SPLIT ? 1 : 0) + (average ? 1 : 0);
    if (own < 0 || formats.size() != n * static_cast<size_t>(own) || n_slots != static_cast<size_t>(own) + extra ||
        nb::len(scales) != n_slots || keys.size() != n || n == 0)
      throw std::invalid_argument("Plan: rule, formats, slots, names and parameters do not belong together");
    carries_ = static_cast<size_t>(adamas_rule_carries(&rule_));
    masked_ = nb::module_::import_("numpy.ma").attr("MaskedArray");
    for (nb::handle p : params) params_.push_back(nb::borrow<nb::object>(p));
    type_ = PyArray_TYPE(as_array(params_[0].ptr()));  // ml_dtypes' number of bfloat16 is given at run time
    code_ = dtype == ADAMAS_BFLOAT16 ? adamas::kBfloat : adamas::kFloat;
    bits_ = static_cast<uint8_t>(8 * PyArray_ITEMSIZE(as_array(params_[0].ptr())));
    std::vector<int64_t> sizes;
    for (const auto& p : params_) sizes.push_back(PyArray_SIZE(as_array(p.ptr())));
    buffers_.resize(n);
    for (size_t s = 0; s < n_slots; ++s) {
      const auto of_slot = nb::borrow<nb::list>(slots[s]), of_scale = nb::borrow<nb::list>(scales[s]);
      if (nb::len(of_slot) != n || nb::len(of_scale) != n) throw std::invalid_argument("Plan: one slot for each tensor");
      for (size_t i = 0; i < n; ++i) {
        buffers_[i].slots[s] = keep(of_slot[i]);
        if (!of_scale[i].is_none()) buffers_[i].scales[s] = static_cast<float*>(keep(of_scale[i]));
      }
    }
    const char* error = nullptr;
    plan_ = adamas_plan_create(&settings, static_cast<int64_t>(n), sizes.data(), formats.data(), keys.data(), &error);
    if (!plan_) throw std::invalid_argument(error);
    for (size_t i = 0; i < n; ++i) like_.push_back(as_array(nb::handle(nb::borrow<nb::list>(slots[0])[i]).ptr()));
    step_.resize(n);
    active_.resize(n);
    t_.resize(n);
    rows_.resize(n);
    carry_.resize(n * ADAMAS_MAX_CARRIES);
    gradients_.reserve(n);
  }
  ~Plan() { adamas_plan_destroy(plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // (-1, norm) after a step, or where the norm was checked and is not finite; (i, 0) and nothing touched where tensor i's
  // arrays need a closer look; (-2, 0) where another thread is in the middle of a step; (-3 - i, norm) after a step in
  // which tensor i's was computed twice and gave two results. No signal handler of Python runs between the arrays' change
  // and that of `taken`, `carry` and `statistics`.
  std::tuple<int64_t, double> step(nb::list grads, nb::handle t, nb::handle table, nb::handle rows, double grad_scale,
                                   int32_t clip, double bound, bool check, std::optional<double> squares,
                                   nb::handle taken, nb::handle carry, double average_decay,
                                   nb::handle statistics) {
    Turn turn(this);
    if (!turn.mine) return {-2, 0.0};
    const size_t n = params_.size();
    const int64_t* t_all = data<int64_t>(t, NPY_INT64, n);
    const auto* lines = data<adamas_hyper>(table, NPY_DOUBLE, 0);
    const int32_t* rows_all = rows.is_none() ? nullptr : data<int32_t>(rows, NPY_INT32, n);
    PyArrayObject* lines_array = as_array(table.ptr());
    if (PyArray_NDIM(lines_array) != 2 || PyArray_DIM(lines_array, 1) != kNumbers || PyArray_DIM(lines_array, 0) < 1)
      throw std::invalid_argument("step: table is float64[rows, 10], and has at least one row");
    const int64_t n_lines = PyArray_DIM(lines_array, 0);
    auto* taken_all = written<int64_t>(taken, NPY_INT64, n);
    auto* carry_all = written<double>(carry, NPY_DOUBLE, n * carries_);
    auto* statistics_all = written<double>(statistics, NPY_DOUBLE, n * ADAMAS_STATISTICS);
    if (carries_ && !carry_all) throw std::invalid_argument("step: the rule carries numbers: give carry");
    const int64_t clash = collect(grads);
    if (clash >= 0) return {clash, 0.0};
    for (size_t k = 0; k < count_; ++k) {
      const auto i = static_cast<size_t>(active_[k]);
      if (rows_all && (rows_all[i] < 0 || rows_all[i] >= n_lines)) throw std::invalid_argument("step: no such row");
      t_[k] = t_all[i];
      rows_[k] = rows_all ? rows_all[i] : 0;
      if (t_[k] < 1) throw std::invalid_argument("step: t must be at least 1");
      if (carries_)
        adamas_rule_carry_on(&rule_, lines + rows_[k], t_[k], carry_all + i * carries_, &carry_[k * ADAMAS_MAX_CARRIES]);
    }

    double norm = 0.0;
    int64_t status = -1;
    {
      nb::gil_scoped_release unlocked;
      begin(lines);
      // The global norm is of all tensors of an optimizer, and `squares` may know it already; each tensor's own is not.
      if (clip == ADAMAS_CLIP_NORM || (!squares && (check || clip > ADAMAS_CLIP_NORM))) run(ADAMAS_PHASE_NORM);
      norm = adamas_set_gradients(plan_, grad_scale, clip, bound, squares.value_or(0.0));
      // A square of float32 overflows from 2^64 on (kernels.reference.norm_limit).
      const double limit = type_ == NPY_DOUBLE ? HUGE_VAL : 0x1p64;
      if (check && !squares && !(norm < limit)) return {-1, norm};
      if (adamas_rule_reduces(&rule_)) run(ADAMAS_PHASE_REDUCE);
      adamas_set_extras(plan_, statistics_all != nullptr, average_decay);
      const double differing = run(ADAMAS_PHASE_UPDATE);
      if (differing > 0) status = -3 - active_[static_cast<size_t>(differing) - 1];
      if (taken_all)
        for (size_t k = 0; k < count_; ++k) taken_all[active_[k]] = t_[k];
      for (size_t k = 0; k < count_ && carries_; ++k)
        std::copy_n(&carry_[k * ADAMAS_MAX_CARRIES], carries_, carry_all + static_cast<size_t>(active_[k]) * carries_);
      for (size_t k = 0; k < count_ && statistics_all; ++k)
        std::copy_n(adamas_statistics(plan_) + k * ADAMAS_STATISTICS, ADAMAS_STATISTICS,
                    statistics_all + static_cast<size_t>(active_[k]) * ADAMAS_STATISTICS);
    }
    return {status, norm};
  }

  // Does what `step` does before it writes anything: -1, or the status that it would return.
  int64_t ready(nb::list grads, std::vector<Plan*> others) {
    Turn turn(this);
    if (!turn.mine) return -2;
    const int64_t clash = collect(grads);
    if (clash >= 0) return clash;
    for (Plan* other : others) {
      Turn theirs(other);
      if (!theirs.mine) return -2;
      if (other->remember()) return 0;
      for (size_t k = 0; k < count_; ++k)
        if (other->overlaps(static_cast<const char*>(step_[k].g), bytes(active_[k]))) return active_[k];
      for (const Interval& own : written_)
        if (other->overlaps(own.begin, static_cast<size_t>(own.end - own.begin))) return 0;
    }
    return -1;
  }

  // Writes each tensor's sum of squares to `found`, where its gradient is not None. Returns what `step` does first.
  int64_t squares(nb::list grads, nb::handle found) {
    Turn turn(this);
    if (!turn.mine) return -2;
    auto* sums = const_cast<double*>(data<double>(found, NPY_DOUBLE, params_.size()));
    const int64_t clash = collect(grads);
    if (clash >= 0) return clash;
    std::fill(t_.begin(), t_.end(), 1);
    std::fill(rows_.begin(), rows_.end(), 0);
    nb::gil_scoped_release unlocked;
    const adamas_hyper unused{};
    begin(&unused);
    run(ADAMAS_PHASE_NORM);
    for (size_t k = 0; k < count_; ++k) sums[active_[k]] = adamas_squares(plan_)[k];
    return -1;
  }

 private:
  struct Turn {
    Plan* plan;
    bool mine;
    explicit Turn(Plan* p) : plan(p), mine(!p->busy_.exchange(true)) {}
    ~Turn() {
      if (!mine) return;
      plan->gradients_.clear();
      plan->busy_.store(false);
    }
  };

  // The buffers of the tensors that have a gradient. Returns -1, or i where tensor i's arrays need a closer look.
  int64_t collect(nb::list grads) {
    const size_t n = params_.size();
    if (nb::len(grads) != n) throw std::invalid_argument("step: one gradient or None for each parameter");
    count_ = 0;
    for (size_t i = 0; i < n; ++i) {
      PyObject* g = PyList_GET_ITEM(grads.ptr(), static_cast<Py_ssize_t>(i));
      if (g == Py_None) continue;
      const void* values = fits(i, g);
      if (!values) return static_cast<int64_t>(i);
      gradients_.push_back(nb::borrow<nb::object>(g));
      adamas_buffers& b = step_[count_] = buffers_[i];
      b.p = PyArray_DATA(as_array(params_[i].ptr()));
      b.g = values;
      active_[count_++] = static_cast<int64_t>(i);
    }
    if (remember()) return clash_;
    for (size_t k = 0; k < count_; ++k)
      if (overlaps(static_cast<const char*>(step_[k].g), bytes(active_[k]))) return active_[k];
    return -1;
  }

  void begin(const adamas_hyper* lines) {
    const bool all = count_ == params_.size();
    if (adamas_begin(plan_, static_cast<int64_t>(count_), all ? nullptr : active_.data(), step_.data(), t_.data(), lines,
                     rows_.data(), carry_.data()) < 0)
      throw std::invalid_argument("step: t must be at least 1");
  }

  double run(int32_t phase) {
    adamas_run_all(plan_, phase);
    return adamas_finish(plan_, phase);
  }

  template <class T>
  const T* data(nb::handle object, int type, size_t size) {
    PyArrayObject* array = as_array(object.ptr());
    if (!array || PyArray_TYPE(array) != type || !PyArray_IS_C_CONTIGUOUS(array) ||
        (size && static_cast<size_t>(PyArray_SIZE(array)) != size))
      throw std::invalid_argument("step: t and taken are int64[n], table float64[rows, 10], rows int32[n] or None, "
                                  "carry float64[n, carries], statistics float64[n, 4]");
    return static_cast<const T*>(PyArray_DATA(array));
  }

  // The same of an array that the step writes, or NULL for None.
  template <class T>
  T* written(nb::handle object, int type, size_t size) {
    if (object.is_none()) return nullptr;
    T* found = const_cast<T*>(data<T>(object, type, size));
    if (!PyArray_ISWRITEABLE(as_array(object.ptr())))
      throw std::invalid_argument("step: taken, carry and statistics are written, and one was given read-only");
    return found;
  }

  void* keep(nb::handle array) {
    kept_.push_back(nb::borrow<nb::object>(array));
    return PyArray_DATA(as_array(array.ptr()));
  }

  size_t bytes(int64_t i) const {
    return static_cast<size_t>(PyArray_NBYTES(as_array(params_[static_cast<size_t>(i)].ptr())));
  }

  bool plain(PyArrayObject* array) const {
    return PyArray_TYPE(array) == type_ && PyArray_ISCARRAY_RO(array);  // aligned, native byte order, C-contiguous
  }

  bool masked(PyObject* array) const {
    return !PyArray_CheckExact(array) && PyType_IsSubtype(Py_TYPE(array), reinterpret_cast<PyTypeObject*>(masked_.ptr()));
  }

  // Where the values of a gradient are, NULL where it or its parameter needs a closer look.
  const void* fits(size_t i, PyObject* object) {
    PyArrayObject* p = as_array(params_[i].ptr());
    // A parameter may have been resized in place since; its first slot still has the shape that the plan was made for.
    if (!plain(p) || !PyArray_ISWRITEABLE(p) || !same_shape(p, PyArray_NDIM(like_[i]), PyArray_DIMS(like_[i])))
      return nullptr;
    if (PyArrayObject* g = as_array(object))
      return plain(g) && !masked(object) && same_shape(p, PyArray_NDIM(g), PyArray_DIMS(g)) ? PyArray_DATA(g) : nullptr;
    adamas::Tensor g;
    if (!reader_.read(object, g) || g.device != adamas::kOnCpu || g.code != code_ || g.bits != bits_ || g.lanes != 1 ||
        !g.contiguous() || !same_shape(p, g.ndim, g.shape))
      return nullptr;
    return PyArray_SIZE(p) ? g.begin() : PyArray_DATA(p);  // that of nothing may be NULL
  }

  template <class Size>
  static bool same_shape(PyArrayObject* p, int ndim, const Size* shape) {
    return PyArray_NDIM(p) == ndim && std::equal(shape, shape + ndim, PyArray_DIMS(p));
  }

  // Keeps the sorted intervals of everything that is written; made anew when a parameter has moved. True on a clash.
  bool remember() {
    bool moved = written_.empty();
    for (size_t i = 0; i < params_.size(); ++i) {
      void* p = PyArray_DATA(as_array(params_[i].ptr()));
      moved = moved || p != buffers_[i].p;
      buffers_[i].p = p;
    }
    if (!moved) return false;
    written_.clear();
    for (size_t i = 0; i < params_.size(); ++i) {
      const size_t size = bytes(static_cast<int64_t>(i));
      if (!size) continue;
      const char* p = static_cast<const char*>(buffers_[i].p);
      written_.push_back({p, p + size});
    }
    for (const nb::object& object : kept_) {
      PyArrayObject* array = as_array(object.ptr());
      const char* begin = static_cast<const char*>(PyArray_DATA(array));
      if (PyArray_NBYTES(array) > 0) written_.push_back({begin, begin + PyArray_NBYTES(array)});
    }
    std::sort(written_.begin(), written_.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < written_.size(); ++i)
      if (written_[i].begin < written_[i - 1].end) {
        written_.clear();
        clash_ = 0;
        return true;
      }
    return false;
  }

  bool overlaps(const char* begin, size_t size) const {
    if (!size) return false;
    auto after = std::lower_bound(written_.begin(), written_.end(), begin + size,
                                  [](const Interval& a, const char* end) { return a.begin < end; });
    return after != written_.begin() && (after - 1)->end > begin;
  }

  adamas_plan* plan_ = nullptr;
  adamas_rule rule_;
  size_t carries_ = 0;
  int type_ = 0;
  uint8_t code_ = 0, bits_ = 0;  // the same of a tensor
  adamas::Reader reader_{true};
  int64_t clash_ = 0;
  size_t count_ = 0;  // tensors of the step under way
  nb::object masked_;  // numpy.ma.MaskedArray
  std::vector<nb::object> params_, kept_, gradients_;  // kept: slots and their scales
  std::vector<PyArrayObject*> like_;                   // the first slot of each tensor
  std::vector<adamas_buffers> buffers_, step_;
  std::vector<int64_t> active_, t_;
  std::vector<int32_t> rows_;
  std::vector<double> carry_;  // of the active tensors, after the step
  std::vector<Interval> written_;
  std::atomic<bool> busy_{false};
};

// The parameters of a torch optimizer and what it keeps of them, as they were when this was made. Whoever makes it keeps
// all of these objects alive: Python could not free a cycle through references that are held here.
class Watch {
 public:
  // params: a list for each group. state: optimizer.state, a dict of dicts.
  Watch(nb::list params, nb::dict state) {
    for (nb::handle group : params)
      for (nb::handle p : nb::borrow<nb::list>(group)) params_.push_back(now(p.ptr()));
    PyObject *p, *own, *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(state.ptr(), &at, &p, &own);) {
      if (!PyDict_Check(own)) continue;
      states_.push_back({own, {}});
      for (Py_ssize_t in = 0; PyDict_Next(own, &in, &key, &value);) states_.back().values.push_back(now(value));
    }
  }

  // The gradients of the parameters, None where there is none; or None where parameters or state are not the same objects,
  // with the same values, in the same memory.
  nb::object gradients(nb::list params, nb::dict state) {
    size_t i = 0;
    for (nb::handle group : params)
      for (nb::handle p : nb::borrow<nb::list>(group))
        if (i == params_.size() || !is(p.ptr(), params_[i++])) return nb::none();
    if (i != params_.size() || !same(state)) return nb::none();
    static PyObject* const name = PyUnicode_InternFromString("grad");
    auto found = nb::steal<nb::list>(PyList_New(static_cast<Py_ssize_t>(i)));
    for (i = 0; i < params_.size(); ++i) {
      PyObject* p = params_[i].object;
      PyObject* g = adamas::torch().reads(Py_TYPE(p)) ? adamas::torch().gradient(p) : nullptr;
      if (!g) g = PyObject_GetAttr(p, name);
      if (!g) throw nb::python_error();
      PyList_SET_ITEM(found.ptr(), static_cast<Py_ssize_t>(i), g);
    }
    return found;
  }

 private:
  struct Known {
    PyObject* object;
    const char* begin;
  };
  struct State {
    PyObject* dict;
    std::vector<Known> values;
  };

  bool same(nb::dict state) {
    PyObject *p, *own, *key, *value;
    size_t i = 0;
    for (Py_ssize_t at = 0; PyDict_Next(state.ptr(), &at, &p, &own);) {
      if (!PyDict_Check(own)) continue;
      if (i == states_.size()) return false;
      const State& known = states_[i++];
      if (own != known.dict || PyDict_GET_SIZE(own) != static_cast<Py_ssize_t>(known.values.size())) return false;
      size_t k = 0;
      for (Py_ssize_t in = 0; PyDict_Next(own, &in, &key, &value);)
        if (!is(value, known.values[k++])) return false;
    }
    return i == states_.size();
  }

  Known now(PyObject* object) { return {object, begin(object)}; }
  bool is(PyObject* object, const Known& known) {
    return object == known.object && begin(object) == known.begin;
  }
  const char* begin(PyObject* object) {
    adamas::Tensor tensor;
    return reader_.read(object, tensor) ? tensor.begin() : nullptr;
  }

  std::vector<Known> params_;
  std::vector<State> states_;
  adamas::Reader reader_{false};
};

}  // namespace

static int load_numpy() {
  import_array1(-1);
  return 0;
}

NB_MODULE(_shim, m) {
  if (load_numpy() < 0) throw nb::python_error();
  nb::set_leak_warnings(false);  // plans of optimizers that torch's hooks hold live until the process has ended
  m.attr("abi") = adamas_abi();
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<Rule, nb::list, nb::list, nb::list, std::vector<uint64_t>, int, std::vector<int32_t>, int, bool, int64_t,
                    uint64_t>(),
           nb::arg("rule"), nb::arg("params"), nb::arg("slots"), nb::arg("scales"), nb::arg("keys"), nb::arg("dtype"),
           nb::arg("formats"), nb::arg("weights"), nb::arg("average"), nb::arg("verify"), nb::arg("seed"))
      .def("step", &Plan::step, nb::arg("grads"), nb::arg("t"), nb::arg("table"), nb::arg("rows").none(),
           nb::arg("grad_scale"), nb::arg("clip"), nb::arg("bound"), nb::arg("check"), nb::arg("squares").none(),
           nb::arg("taken").none(), nb::arg("carry").none(), nb::arg("average_decay"),
           nb::arg("statistics").none())
      .def("ready", &Plan::ready, nb::arg("grads"), nb::arg("others"))
      .def("squares", &Plan::squares, nb::arg("grads"), nb::arg("found"));
  nb::class_<Watch>(m, "Watch")
      .def(nb::init<nb::list, nb::dict>(), nb::arg("params"), nb::arg("state"))
      .def("gradients", &Watch::gradients, nb::arg("params"), nb::arg("state"));
  m.def("use_torch", [](nb::handle tensor, uintptr_t view, uintptr_t gradient, uintptr_t changed) {
    adamas::torch() = {tensor.is_none() ? nullptr : reinterpret_cast<PyTypeObject*>(tensor.ptr()),
                       reinterpret_cast<adamas::View>(view), reinterpret_cast<PyObject* (*)(PyObject*)>(gradient),
                       reinterpret_cast<void (*)(PyObject*)>(changed)};
  }, nb::arg("tensor").none(), nb::arg("view"), nb::arg("gradient"), nb::arg("changed"));
  m.def("changed", [](nb::list tensors) {
    if (!adamas::torch().tensor) return false;
    adamas::torch().changed(tensors.ptr());
    return true;
  });
  m.def("reads", [](nb::handle type) {
    return PyType_Check(type.ptr()) && adamas::find_view(reinterpret_cast<PyTypeObject*>(type.ptr()), true) != nullptr;
  });
  m.def("build_info", &adamas_build_info);
  m.def("set_threads", &adamas_set_threads);
  m.def("get_threads", &adamas_get_threads);
  m.def("set_isa", &adamas_set_isa);
  m.def("get_isa", &adamas_get_isa);
  m.def("scalars", [](Rule rule, std::vector<double> numbers, int64_t t, double grad_scale, double clip,
                      std::vector<double> carry) {
    const adamas_rule r = as_rule(rule);
    const adamas_hyper hyper = as_hyper(numbers);
    std::vector<double> s(sizeof(adamas_scalars) / sizeof(double));
    adamas_rule_scalars(&r, &hyper, t, grad_scale, clip, carry.data(), reinterpret_cast<adamas_scalars*>(s.data()));
    return s;
  });
  m.def("carry_on", [](Rule rule, std::vector<double> numbers, int64_t t, std::vector<double> before) {
    const adamas_rule r = as_rule(rule);
    const adamas_hyper hyper = as_hyper(numbers);
    std::vector<double> after(before.size());
    adamas_rule_carry_on(&r, &hyper, t, before.data(), after.data());
    return after;
  });
  m.def("clip_factor", &adamas_clip_factor);
}
