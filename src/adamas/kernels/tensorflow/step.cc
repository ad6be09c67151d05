// One optimizer step as a TensorFlow op: variables and gradients become pointers, libadamas does the arithmetic.
//
// A step either happens whole or leaves everything as it was: every check and every allocation comes before the first
// write. Each variable's lock is held in address order, as TensorFlow's own training ops do, and a buffer that
// somebody else can see (a read tensor, a checkpoint being written) is copied first and the copy is changed.
#include <algorithm>
#include <cstdint>
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

// Plans that no step is using. A step takes one out, or makes one, and puts it back: steps of different optimizers
// may share this kernel and run at once, and steps of one optimizer wait for each other at its variables' locks.
class Plans {
 public:
  ~Plans() {
    for (auto& entry : idle_) api_->plan_destroy(entry.second);
  }

  adamas_plan* Take(const Api* api, const adamas_rule& rule, int32_t dtype, const std::vector<int64_t>& sizes,
                    const char** error) {
    {
      tsl::mutex_lock lock(mutex_);
      api_ = api;
      for (auto entry = idle_.begin(); entry != idle_.end(); ++entry) {
        if (entry->first == sizes) {
          adamas_plan* plan = entry->second;
          idle_.erase(entry);
          return plan;
        }
      }
    }
    const adamas_settings settings{rule, dtype, ADAMAS_WEIGHTS_NEAREST, 0, 0, 0};
    const std::vector<uint64_t> keys(sizes.size(), 0);  // native storage draws no random numbers
    return api->plan_create(&settings, static_cast<int64_t>(sizes.size()), sizes.data(), nullptr, keys.data(), error);
  }

  void Put(std::vector<int64_t> sizes, adamas_plan* plan) {
    constexpr size_t kKept = 8;
    adamas_plan* dropped = nullptr;
    {
      tsl::mutex_lock lock(mutex_);
      if (idle_.size() == kKept) {
        dropped = idle_.front().second;
        idle_.erase(idle_.begin());
      }
      idle_.emplace_back(std::move(sizes), plan);
    }
    if (dropped != nullptr) api_->plan_destroy(dropped);
  }

 private:
  tsl::mutex mutex_;
  const Api* api_ = nullptr;
  std::vector<std::pair<std::vector<int64_t>, adamas_plan*>> idle_;
};

// One phase of all chunks, on TensorFlow's threads. `cycles` is what an element costs when memory is the limit;
// TensorFlow runs work of less than about 100,000 cycles inline.
void Run(const Api* api, Pool* pool, adamas_plan* plan, int32_t phase, int64_t chunks, int64_t cycles, int64_t total) {
  if (chunks == 0) return;
  pool->ParallelFor(chunks, std::max<int64_t>(1, cycles * total / chunks), [=](int64_t begin, int64_t end) {
    api->run(plan, phase, begin, end);
  });
}

// 28 bytes at about 15 GB/s and 3 GHz; 4 bytes.
constexpr int64_t kUpdateCycles = 6, kNormCycles = 1;

class AdamasStepOp : public OpKernel {
 public:
  explicit AdamasStepOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, step_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("n", &n_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("param_tensors", &param_tensors_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("slot_variables", &slot_variables_));
    OP_REQUIRES(ctx, slot_variables_ == step_.slots || slot_variables_ == step_.slots * n_,
                absl::InvalidArgumentError("give one variable for each slot, or one for each slot and parameter"));
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const int k = step_.slots;
    const DataType dtype = step_.dtype;
    OP_REQUIRES(ctx, api->rule_slots(&step_.rule) == k,
                absl::InvalidArgumentError("the rule keeps another number of slots"));

    const int grads = param_tensors_ + slot_variables_, rest = grads + n_;
    Numbers numbers;
    OP_REQUIRES_OK(ctx, numbers.Read(ctx, rest, step_));
    const Tensor& rows = ctx->input(rest + 3);
    const Tensor& offsets = ctx->input(rest + 4);
    const Tensor& others = ctx->input(rest + 5);
    OP_REQUIRES(ctx, others.NumElements() == 1, absl::InvalidArgumentError("others must have one element"));
    OP_REQUIRES(ctx, rows.NumElements() == n_ && offsets.NumElements() == n_,
                absl::InvalidArgumentError("rows and offsets must have one entry per variable"));
    adamas_hyper table[2] = {numbers.hyper, numbers.hyper};
    table[1].weight_decay = 0.0;
    const int32_t* row = rows.flat<int32_t>().data();
    for (int i = 0; i < n_; ++i) {
      OP_REQUIRES(ctx, row[i] == 0 || row[i] == 1,
                  absl::InvalidArgumentError(absl::StrCat("variable ", i, ": rows are 0 (decays) or 1 (does not)")));
    }

    auto handles = Handles(ctx, 0, param_tensors_);
    const auto slots = Handles(ctx, param_tensors_, grads);
    OP_REQUIRES(ctx, handles.size() == static_cast<size_t>(n_) && slots.size() == static_cast<size_t>(slot_variables_),
                absl::InvalidArgumentError("give one handle for each variable"));
    handles.insert(handles.end(), slots.begin(), slots.end());
    Held held(ctx, handles);  // the parameters, then the variables of the slots
    OP_REQUIRES_OK(ctx, held.status());

    std::vector<int64_t> sizes(n_);
    int64_t total = 0;
    const int64_t* offset = offsets.flat<int64_t>().data();
    for (int i = 0; i < slot_variables_; ++i) {
      OP_REQUIRES(ctx, held[n_ + i]->tensor()->dtype() == dtype,
                  absl::InvalidArgumentError(absl::StrCat("slot variable ", i, " has another dtype than the step")));
    }
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
      sizes[i] = p->NumElements();
      total += sizes[i];
      for (int s = 0; s < k; ++s) {
        OP_REQUIRES(ctx, offset[i] >= 0 && offset[i] <= held[Slot(s, i)]->tensor()->NumElements() - sizes[i],
                    absl::InvalidArgumentError(absl::StrCat("variable ", i, " lies outside slot ", s)));
      }
    }

    Tensor* squares;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &squares));
    Pool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    OP_REQUIRES_OK(ctx, held.Own(ctx, pool));

    std::vector<adamas_buffers> buffers(n_);
    const size_t width = tensorflow::DataTypeSize(dtype);
    for (int i = 0; i < n_; ++i) {
      buffers[i].p = held[i]->tensor()->data();
      buffers[i].g = ctx->input(grads + i).data();
      for (int s = 0; s < ADAMAS_MAX_SLOTS; ++s) {
        buffers[i].slots[s] =
            s < k ? static_cast<char*>(held[Slot(s, i)]->tensor()->data()) + width * offset[i] : nullptr;
      }
    }

    const char* error = "no reason given";
    adamas_plan* plan = plans_.Take(api, step_.rule, Dtype(dtype), sizes, &error);
    OP_REQUIRES(ctx, plan != nullptr, absl::InternalError(absl::StrCat("libadamas made no plan: ", error)));
    const std::vector<int64_t> steps(n_, numbers.t);
    const int64_t chunks = api->begin(plan, n_, nullptr, buffers.data(), steps.data(), table, row, nullptr);
    double sum = 0.0;
    if (chunks >= 0) {
      if (step_.clip > ADAMAS_CLIP_VALUE) {
        Run(api, pool, plan, ADAMAS_PHASE_NORM, chunks, kNormCycles, total);
        sum = api->finish(plan, ADAMAS_PHASE_NORM);
      }
      api->set_gradients(plan, numbers.grad_scale, step_.clip, numbers.bound, others.flat<double>()(0));
      Run(api, pool, plan, ADAMAS_PHASE_UPDATE, chunks, kUpdateCycles, total);
      api->finish(plan, ADAMAS_PHASE_UPDATE);
    }
    squares->scalar<double>()() = sum;
    plans_.Put(std::move(sizes), plan);
    OP_REQUIRES(ctx, chunks >= 0, absl::InvalidArgumentError("libadamas refused the step: a number is out of range"));
  }

 private:
  // Where slot s of variable i is in the list of variables.
  int Slot(int s, int i) const { return n_ + (slot_variables_ == step_.slots ? s : s * n_ + i); }

  Step step_;
  int n_ = 0, slot_variables_ = 0, param_tensors_ = 0;
  Plans plans_;
};

// The sum of the squares of some tensors, to the bit that a step of them computes.
class AdamasSquaresOp : public OpKernel {
 public:
  explicit AdamasSquaresOp(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype_)); }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const int n = ctx->num_inputs();
    std::vector<int64_t> sizes(n);
    std::vector<adamas_buffers> buffers(n);
    int64_t total = 0;
    for (int i = 0; i < n; ++i) {
      sizes[i] = ctx->input(i).NumElements();
      buffers[i].g = ctx->input(i).data();
      total += sizes[i];
    }
    Tensor* squares;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &squares));
    // Any rule will do: no parameter is touched.
    const adamas_rule rule{ADAMAS_EPS_KERAS, ADAMAS_DECAY_DECOUPLED, ADAMAS_AMSGRAD_OFF, 0};
    const adamas_hyper table{};
    const std::vector<int64_t> steps(n, 1);
    const char* error = "no reason given";
    adamas_plan* plan = plans_.Take(api, rule, Dtype(dtype_), sizes, &error);
    OP_REQUIRES(ctx, plan != nullptr, absl::InternalError(absl::StrCat("libadamas made no plan: ", error)));
    const int64_t chunks = api->begin(plan, n, nullptr, buffers.data(), steps.data(), &table, nullptr, nullptr);
    Run(api, ctx->device()->tensorflow_cpu_worker_threads()->workers, plan, ADAMAS_PHASE_NORM, chunks, kNormCycles,
        total);
    squares->scalar<double>()() = api->finish(plan, ADAMAS_PHASE_NORM);
    plans_.Put(std::move(sizes), plan);
  }

 private:
  DataType dtype_ = tensorflow::DT_FLOAT;
  Plans plans_;
};

REGISTER_OP("AdamasSquares")
    .Input("tensors: n * T")
    .Output("squares: float64")
    .Attr("n: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_KERNEL_BUILDER(Name("AdamasSquares").Device(tensorflow::DEVICE_CPU), AdamasSquaresOp);

REGISTER_OP("AdamasStep")
    .Input("params: param_tensors * resource")  // n handles in all: one a tensor, or packed (see engines.py)
    .Input("slots: slot_variables * resource")
    .Input("grads: grad_types")
    .Input("lr: L")
    .Input("iterations: int64")
    .Input("numbers: float64")  // beta1, beta2, eps, eps_root, weight_decay, grad_scale, the bound of each kind of clip
    .Input("rows: int32")       // a tensor: 0 decays, 1 does not
    .Input("offsets: int64")    // a tensor: where its moments begin in its slot variables
    .Input("others: float64")   // sum of squares of gradients that a global norm counts and other calls step
    .Output("squares: float64")  // that of the gradients of this call, where they are clipped by a norm; else 0
    .Attr("n: int >= 1")
    .Attr("param_tensors: int >= 1")
    .Attr("k: int >= 1")
    .Attr("slot_variables: int >= 1")
    .Attr("T: {float, double}")
    .Attr("L: {float, double}")
    .Attr("grad_types: list(type) >= 1")
    .Attr("unscale: bool")  // whether gradients are multiplied by grad_scale
    .Attr("clip: int")      // ADAMAS_CLIP_...
    .Attr("rule: list(int)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_KERNEL_BUILDER(Name("AdamasStep").Device(tensorflow::DEVICE_CPU), AdamasStepOp);

}  // namespace
