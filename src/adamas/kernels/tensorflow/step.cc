// One optimizer step as a TensorFlow op: variables and gradients become pointers, libadamas does the arithmetic.
//
// A step either happens whole or leaves everything as it was: every check and every allocation comes before the first
// write. Each variable's lock is held in address order, as TensorFlow's own training ops do, and a buffer that
// somebody else can see (a read tensor, a checkpoint being written) is copied first and the copy is changed.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "adamas.h"
#include "arguments.h"
#include "library.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "variables.h"

namespace {

using tensorflow::DataType;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;

// What tells one plan of a kernel from another: the sizes of its tensors, and what their random numbers are drawn from.
struct Tensors {
  std::vector<int64_t> sizes;
  std::vector<uint64_t> keys;
  bool operator==(const Tensors& other) const { return sizes == other.sizes && keys == other.keys; }
};

// Plans that no step is using. A step takes one out, or makes one, and puts it back: steps of different optimizers
// may share this kernel and run at once, and steps of one optimizer wait for each other at its variables' locks.
class Plans {
 public:
  ~Plans() {
    for (auto& entry : idle_) api_->plan_destroy(entry.second);
  }

  // formats: one for each slot of the rule, the same for all tensors.
  adamas_plan* Take(const Api* api, const adamas_settings& settings, const std::vector<int32_t>& formats,
                    const Tensors& tensors, const char** error) {
    {
      tsl::mutex_lock lock(mutex_);
      api_ = api;
      for (auto entry = idle_.begin(); entry != idle_.end(); ++entry) {
        if (entry->first == tensors) {
          adamas_plan* plan = entry->second;
          idle_.erase(entry);
          return plan;
        }
      }
    }
    std::vector<int32_t> all;
    for (size_t i = 0; i < tensors.sizes.size(); ++i) all.insert(all.end(), formats.begin(), formats.end());
    return api->plan_create(&settings, static_cast<int64_t>(tensors.sizes.size()), tensors.sizes.data(), all.data(),
                            tensors.keys.data(), error);
  }

  void Put(Tensors tensors, adamas_plan* plan) {
    constexpr size_t kKept = 8;
    adamas_plan* dropped = nullptr;
    {
      tsl::mutex_lock lock(mutex_);
      if (idle_.size() == kKept) {
        dropped = idle_.front().second;
        idle_.erase(idle_.begin());
      }
      idle_.emplace_back(std::move(tensors), plan);
    }
    if (dropped != nullptr) api_->plan_destroy(dropped);
  }

 private:
  tsl::mutex mutex_;
  const Api* api_ = nullptr;
  std::vector<std::pair<Tensors, adamas_plan*>> idle_;
};

// One phase of all chunks, on TensorFlow's threads. `cycles` is what an element costs when memory is the limit;
// TensorFlow runs work of less than about 100,000 cycles inline.
void Run(const Api* api, Pool* pool, adamas_plan* plan, int32_t phase, int64_t chunks, int64_t cycles, int64_t total) {
  if (chunks == 0) return;
  pool->ParallelFor(chunks, std::max<int64_t>(1, cycles * total / chunks), [=](int64_t begin, int64_t end) {
    api->run(plan, phase, begin, end);
  });
}

// 28 bytes at about 15 GB/s and 3 GHz; 16 at most; 4 bytes.
constexpr int64_t kUpdateCycles = 6, kReduceCycles = 3, kNormCycles = 1;

class AdamasStepOp : public OpKernel {
 public:
  explicit AdamasStepOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    int64_t seed, verify;
    OP_REQUIRES_OK(ctx, step_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("n", &n_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("param_tensors", &param_tensors_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("slot_variables", &slot_variables_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scale_variables", &scale_variables_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("formats", &formats_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("weights", &settings_.weights));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("seed", &seed));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("measure", &measure_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("limit", &limit_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("tell", &statistics_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("verify", &verify));
    settings_.verify = verify;
    settings_.rule = step_.rule;
    settings_.dtype = Dtype(step_.dtype);
    settings_.seed = static_cast<uint64_t>(seed);
    slots_ = step_.slots + (settings_.weights == ADAMAS_WEIGHTS_SPLIT ? 1 : 0);
    scales_ = static_cast<int>(std::count(formats_.begin(), formats_.end(), ADAMAS_FORMAT_INT8));
    OP_REQUIRES(ctx, formats_.size() == static_cast<size_t>(step_.slots) && slots_ <= ADAMAS_MAX_SLOTS,
                absl::InvalidArgumentError("give one format for each slot"));
    OP_REQUIRES(ctx,
                (slot_variables_ == slots_ && scale_variables_ == scales_) ||
                    (slot_variables_ == slots_ * n_ && scale_variables_ == scales_ * n_),
                absl::InvalidArgumentError("give one variable for each slot, or one for each slot and parameter"));
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const DataType dtype = step_.dtype;
    OP_REQUIRES(ctx, api->rule_slots(&step_.rule) == step_.slots,
                absl::InvalidArgumentError("the rule keeps another number of slots"));

    const int grads = param_tensors_ + slot_variables_ + scale_variables_, rest = grads + n_;
    Numbers numbers;
    OP_REQUIRES_OK(ctx, numbers.Read(ctx, rest, step_));
    const Tensor& rows = ctx->input(rest + 3);
    const Tensor& offsets = ctx->input(rest + 4);
    const Tensor& keys = ctx->input(rest + 5);
    const Tensor& known = ctx->input(rest + 6);
    const Tensor& carry = ctx->input(rest + 7);
    OP_REQUIRES(ctx, known.NumElements() == 1, absl::InvalidArgumentError("squares must have one element"));
    OP_REQUIRES(ctx, rows.NumElements() == n_ && offsets.NumElements() == n_ && keys.NumElements() == n_,
                absl::InvalidArgumentError("rows, offsets and keys must have one entry per variable"));
    OP_REQUIRES(ctx, carry.NumElements() <= ADAMAS_MAX_CARRIES,
                absl::InvalidArgumentError("carry has more numbers than a rule carries"));
    std::vector<double> carries(static_cast<size_t>(n_) * ADAMAS_MAX_CARRIES);  // the same for each variable
    for (int64_t i = 0; i < n_ * carry.NumElements(); ++i) {
      carries[i / carry.NumElements() * ADAMAS_MAX_CARRIES + i % carry.NumElements()] =
          carry.flat<double>()(i % carry.NumElements());
    }
    std::vector<adamas_hyper> table;  // each line, and the same without decay
    for (const adamas_hyper& line : numbers.lines) {
      table.insert(table.end(), {line, line});
      table.back().weight_decay = 0.0;
    }
    const int32_t* row = rows.flat<int32_t>().data();
    for (int i = 0; i < n_; ++i) {
      OP_REQUIRES(ctx, row[i] >= 0 && row[i] < static_cast<int64_t>(table.size()),
                  absl::InvalidArgumentError(absl::StrCat("variable ", i, ": numbers has no line for its row")));
    }

    auto handles = Handles(ctx, 0, param_tensors_);
    const auto kept = Handles(ctx, param_tensors_, grads);
    OP_REQUIRES(ctx,
                handles.size() == static_cast<size_t>(n_) &&
                    kept.size() == static_cast<size_t>(slot_variables_ + scale_variables_),
                absl::InvalidArgumentError("give one handle for each variable"));
    handles.insert(handles.end(), kept.begin(), kept.end());
    Held held(ctx, handles);  // the parameters, then the variables of the slots, then those of their scales
    OP_REQUIRES_OK(ctx, held.status());

    Tensors tensors;
    int64_t total = 0;
    const int64_t* offset = offsets.flat<int64_t>().data();
    for (int i = 0; i < n_; ++i) {
      const Tensor* p = held[i]->tensor();
      const Tensor& g = ctx->input(grads + i);
      OP_REQUIRES(ctx, p->dtype() == dtype && g.dtype() == dtype,
                  absl::InvalidArgumentError(absl::StrCat("variable ", i, " is ", DataTypeString(p->dtype()),
                                                          " and its gradient ", DataTypeString(g.dtype()),
                                                          "; both must be ", DataTypeString(dtype))));
      OP_REQUIRES(ctx, p->shape() == g.shape(),
                  absl::InvalidArgumentError(absl::StrCat("variable ", i, " has the shape ", p->shape().DebugString(),
                                                          " and its gradient ", g.shape().DebugString())));
      tensors.sizes.push_back(p->NumElements());
      tensors.keys.push_back(static_cast<uint64_t>(keys.flat<int64_t>()(i)));
      total += p->NumElements();
      OP_REQUIRES_OK(ctx, Check(held, i, offset[i], p->NumElements()));
    }

    Tensor *taken, *fault, *statistics;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &taken));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {}, &fault));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(2, {statistics_ ? n_ : 0, ADAMAS_STATISTICS}, &statistics));
    Pool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    OP_REQUIRES_OK(ctx, held.Own(ctx, pool));

    std::vector<adamas_buffers> buffers(n_);
    for (int i = 0; i < n_; ++i) {
      buffers[i].p = held[i]->tensor()->data();
      buffers[i].g = ctx->input(grads + i).data();
      for (int s = 0, scale = 0; s < slots_; ++s) {
        const Tensor* slot = held[Slot(s, i)]->tensor();
        buffers[i].slots[s] = static_cast<char*>(slot->data()) + DataTypeSize(slot->dtype()) * offset[i];
        if (Format(s) == ADAMAS_FORMAT_INT8) {
          buffers[i].scales[s] = held[Scale(scale++, i)]->tensor()->flat<float>().data() + offset[i] / kScaled;
        }
      }
    }

    const char* error = "no reason given";
    adamas_plan* plan = plans_.Take(api, settings_, formats_, tensors, &error);
    OP_REQUIRES(ctx, plan != nullptr, absl::InternalError(absl::StrCat("libadamas made no plan: ", error)));
    const std::vector<int64_t> steps(n_, numbers.t);
    const int64_t chunks = api->begin(plan, n_, nullptr, buffers.data(), steps.data(), table.data(), row,
                                      carry.NumElements() > 0 ? carries.data() : nullptr);
    bool steps_now = chunks >= 0;
    double differing = 0.0;
    if (steps_now) {
      const double squares = measure_ ? 0.0 : known.flat<double>()(0);
      double norm = api->set_gradients(plan, numbers.grad_scale, ADAMAS_CLIP_NONE, 0.0, squares);
      if (measure_ || step_.clip == ADAMAS_CLIP_NORM) {
        Run(api, pool, plan, ADAMAS_PHASE_NORM, chunks, kNormCycles, total);
        api->finish(plan, ADAMAS_PHASE_NORM);
      }
      const double own = api->set_gradients(plan, numbers.grad_scale, step_.clip, numbers.bound, squares);
      if (measure_) norm = own;
      steps_now = limit_ == 0.0f || norm < static_cast<double>(limit_);
    }
    if (steps_now) {
      api->set_extras(plan, statistics_, 1.0);
      if (api->rule_reduces(&step_.rule) > 0) {
        Run(api, pool, plan, ADAMAS_PHASE_REDUCE, chunks, kReduceCycles, total);
        api->finish(plan, ADAMAS_PHASE_REDUCE);
      }
      Run(api, pool, plan, ADAMAS_PHASE_UPDATE, chunks, kUpdateCycles, total);
      differing = api->finish(plan, ADAMAS_PHASE_UPDATE);
      if (statistics_) std::copy_n(api->statistics(plan), n_ * ADAMAS_STATISTICS, statistics->flat<double>().data());
    } else {
      std::fill_n(statistics->flat<double>().data(), statistics->NumElements(), 0.0);
    }
    taken->scalar<bool>()() = steps_now;
    fault->scalar<int64_t>()() = static_cast<int64_t>(differing) - 1;
    plans_.Put(std::move(tensors), plan);
    OP_REQUIRES(ctx, chunks >= 0, absl::InvalidArgumentError("libadamas refused the step: a number is out of range"));
  }

 private:
  static constexpr int64_t kScaled = 64;  // elements with one scale

  // Where slot s, and scale s, of variable i are in the list of variables.
  int Slot(int s, int i) const { return n_ + (slot_variables_ == slots_ ? s : s * n_ + i); }
  int Scale(int s, int i) const { return n_ + slot_variables_ + (scale_variables_ == scales_ ? s : s * n_ + i); }

  // How slot s is stored; the correction of a split weight is a plain array.
  int32_t Format(int s) const { return s < step_.slots ? formats_[s] : ADAMAS_FORMAT_NATIVE; }

  // Whether the slots of variable i, of `size` elements, are where they should be.
  absl::Status Check(const Held& held, int i, int64_t offset, int64_t size) const {
    const DataType wide = step_.dtype == tensorflow::DT_DOUBLE ? tensorflow::DT_DOUBLE : tensorflow::DT_FLOAT;
    for (int s = 0, scale = 0; s < slots_; ++s) {
      const Tensor* slot = held[Slot(s, i)]->tensor();
      const bool codes = Format(s) == ADAMAS_FORMAT_INT8;
      const bool bytes = slot->dtype() == tensorflow::DT_INT8 || (codes && slot->dtype() == tensorflow::DT_UINT8);
      if (codes || s == step_.slots ? !bytes
                                    : slot->dtype() != (Format(s) == ADAMAS_FORMAT_BFLOAT16 ? tensorflow::DT_BFLOAT16
                                                                                           : wide)) {
        return absl::InvalidArgumentError(absl::StrCat("slot ", s, " is stored in another dtype than the step's"));
      }
      if (offset < 0 || offset > slot->NumElements() - size) {
        return absl::InvalidArgumentError(absl::StrCat("variable ", i, " lies outside slot ", s));
      }
      if (!codes) continue;
      const Tensor* scales = held[Scale(scale++, i)]->tensor();
      if (scales->dtype() != tensorflow::DT_FLOAT || offset % kScaled != 0 ||
          offset / kScaled > scales->NumElements() - (size + kScaled - 1) / kScaled) {
        return absl::InvalidArgumentError(absl::StrCat("variable ", i, " lies outside the scales of slot ", s));
      }
    }
    return absl::OkStatus();
  }

  Step step_;
  adamas_settings settings_{};
  std::vector<int32_t> formats_;
  int n_ = 0, slot_variables_ = 0, scale_variables_ = 0, param_tensors_ = 0;
  int slots_ = 0, scales_ = 0;  // of a parameter
  bool measure_ = false, statistics_ = false;
  float limit_ = 0.0f;
  Plans plans_;
};

// The sum of the squares of some tensors of any floating dtypes, to the bit that a step of them computes.
class AdamasSquaresOp : public OpKernel {
 public:
  explicit AdamasSquaresOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::vector<DataType> types;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("types", &types));
    for (size_t i = 0; i < types.size(); ++i) {
      members_[types[i]].push_back(static_cast<int>(i));
      plans_[types[i]];
    }
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    Tensor* squares;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &squares));
    std::vector<double> each(ctx->num_inputs());
    for (auto& [dtype, members] : members_) OP_REQUIRES_OK(ctx, Add(ctx, api, dtype, members, each));
    double sum = 0.0;
    for (double own : each) sum += own;  // in the order of the tensors
    squares->scalar<double>()() = sum;
  }

 private:
  // Writes the sum of each tensor of one dtype.
  absl::Status Add(OpKernelContext* ctx, const Api* api, DataType dtype, const std::vector<int>& members,
                   std::vector<double>& each) {
    const auto n = static_cast<int64_t>(members.size());
    Tensors tensors;
    std::vector<adamas_buffers> buffers(n);
    int64_t total = 0;
    for (int64_t k = 0; k < n; ++k) {
      const Tensor& tensor = ctx->input(members[k]);
      tensors.sizes.push_back(tensor.NumElements());
      buffers[k].g = tensor.data();
      total += tensor.NumElements();
    }
    tensors.keys.resize(n);
    // Any rule will do: no parameter is touched.
    const adamas_settings settings{{ADAMAS_EPS_KERAS}, Dtype(dtype)};
    const adamas_hyper table{};
    const std::vector<int64_t> steps(n, 1);
    const char* error = "no reason given";
    const std::vector<int32_t> formats(api->rule_slots(&settings.rule), ADAMAS_FORMAT_NATIVE);
    Plans& plans = plans_.at(dtype);
    adamas_plan* plan = plans.Take(api, settings, formats, tensors, &error);
    if (plan == nullptr) return absl::InternalError(absl::StrCat("libadamas made no plan: ", error));
    const int64_t chunks = api->begin(plan, n, nullptr, buffers.data(), steps.data(), &table, nullptr, nullptr);
    Run(api, ctx->device()->tensorflow_cpu_worker_threads()->workers, plan, ADAMAS_PHASE_NORM, chunks, kNormCycles,
        total);
    api->finish(plan, ADAMAS_PHASE_NORM);
    for (int64_t k = 0; k < n; ++k) each[members[k]] = api->squares(plan)[k];
    plans.Put(std::move(tensors), plan);
    return absl::OkStatus();
  }

  std::map<DataType, std::vector<int>> members_;
  std::map<DataType, Plans> plans_;
};

// The numbers that a rule carries from step to step, after a step. Nothing is written.
class AdamasCarryOnOp : public OpKernel {
 public:
  explicit AdamasCarryOnOp(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, ReadRule(ctx, &rule_)); }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    Numbers numbers;
    OP_REQUIRES_OK(ctx, numbers.Read(ctx, 0, Step()));
    const Tensor& carry = ctx->input(3);
    const int64_t count = carry.NumElements();
    OP_REQUIRES(ctx, count <= ADAMAS_MAX_CARRIES, absl::InvalidArgumentError("a rule carries fewer numbers"));
    Tensor* result;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, carry.shape(), &result));
    double before[ADAMAS_MAX_CARRIES] = {}, after[ADAMAS_MAX_CARRIES] = {};
    std::copy_n(carry.flat<double>().data(), count, before);
    api->rule_carry_on(&rule_, numbers.lines.data(), numbers.t, before, after);
    std::copy_n(after, count, result->flat<double>().data());
  }

 private:
  adamas_rule rule_{};
};

REGISTER_OP("AdamasCarryOn")
    .Input("lr: L")
    .Input("iterations: int64")
    .Input("numbers: float64")
    .Input("carry: float64")
    .Output("after: float64")
    .Attr("L: {float, double}")
    .Attr("rule: list(int)")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_KERNEL_BUILDER(Name("AdamasCarryOn").Device(tensorflow::DEVICE_CPU), AdamasCarryOnOp);

REGISTER_OP("AdamasSquares")
    .Input("tensors: types")
    .Output("squares: float64")
    .Attr("types: list({float, double, bfloat16, half}) >= 1")
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_KERNEL_BUILDER(Name("AdamasSquares").Device(tensorflow::DEVICE_CPU), AdamasSquaresOp);

REGISTER_OP("AdamasStep")
    .Input("params: param_tensors * resource")  // n handles in all: one a tensor, or packed (see engines.py)
    .Input("slots: slot_variables * resource")    // in an arena, or one for each parameter; slot by slot
    .Input("scales: scale_variables * resource")  // of the slots in int8, likewise
    .Input("grads: grad_types")
    .Input("lr: L")
    .Input("iterations: int64")
    .Input("numbers: float64")  // see arguments.h
    .Input("rows: int32")       // a tensor: twice its line of numbers; 1 more if it does not decay
    .Input("offsets: int64")    // a tensor: where its moments begin in its slot variables
    .Input("keys: int64")       // a tensor: of its name (adamas.formats.name_key)
    .Input("squares: float64")  // of all gradients that a global norm counts; not read with measure
    .Input("carry: float64")    // the numbers that the rule carries, after this step
    .Output("taken: bool")          // whether the step was taken; nothing has changed where not
    .Output("fault: int64")         // which variable's step was computed twice and gave two results; -1
    .Output("statistics: float64")  // [n, 4], adamas_statistics, where they are asked for; 0 where it was not taken
    .Attr("n: int >= 1")
    .Attr("param_tensors: int >= 1")
    .Attr("k: int >= 1")
    .Attr("slot_variables: int >= 1")
    .Attr("scale_variables: int >= 0")
    .Attr("formats: list(int)")  // ADAMAS_FORMAT_..., of each slot of the rule
    .Attr("weights: int")        // ADAMAS_WEIGHTS_...
    .Attr("seed: int")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("L: {float, double}")
    .Attr("grad_types: list(type) >= 1")
    .Attr("unscale: bool")  // whether gradients are multiplied by grad_scale
    .Attr("clip: int")      // ADAMAS_CLIP_...
    .Attr("measure: bool")  // whether the global norm is of the gradients of this call, and found here
    .Attr("limit: float")   // the step is taken only where the global norm is below it; 0: in any case
    .Attr("tell: bool")  // whether statistics are asked for
    .Attr("verify: int")    // as adamas_settings has it
    .Attr("rule: list(int)")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      int64_t n;
      bool statistics;
      TF_RETURN_IF_ERROR(c->GetAttr("n", &n));
      TF_RETURN_IF_ERROR(c->GetAttr("tell", &statistics));
      c->set_output(0, c->Scalar());
      c->set_output(1, c->Scalar());
      c->set_output(2, c->Matrix(statistics ? n : 0, ADAMAS_STATISTICS));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("AdamasStep").Device(tensorflow::DEVICE_CPU), AdamasStepOp);

}  // namespace
