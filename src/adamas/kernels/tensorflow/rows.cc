// Sparse gradients as TensorFlow ops: steps of some rows of a variable (adamas/kernels/rows.py has the mathematics).
//
//     AdamasRows        the distinct rows of a sparse gradient and the gradient of each; writes nothing, so that every
//                       index has been checked before any variable of the step is written
//     AdamasRowsStep    the step of these rows
//     AdamasRowsSettle  the moments of rows that missed steps, decayed to the present
#include <algorithm>
#include <cstdint>
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
using tensorflow::TensorShape;

// Cycles that a row costs where memory is the limit: to find it in each of the moments, and 6 an element as in step.cc.
inline int64_t RowCycles(int64_t width) { return 1000 + 6 * width; }

class AdamasRowsOp : public OpKernel {
 public:
  explicit AdamasRowsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("count", &count_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("norm", &norm_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const Tensor& indices = ctx->input(0);
    const Tensor& values = ctx->input(1);
    OP_REQUIRES(ctx, indices.dims() == 1 && values.dims() >= 1 && values.dim_size(0) == indices.dim_size(0),
                absl::InvalidArgumentError(absl::StrCat("a sparse gradient has indices of the shape ",
                                                        indices.shape().DebugString(), " and values of the shape ",
                                                        values.shape().DebugString())));
    const int64_t n = indices.dim_size(0);
    Tensor rows, order, ends;
    for (Tensor* tensor : {&rows, &order, &ends}) {
      OP_REQUIRES_OK(ctx, ctx->allocate_temp(tensorflow::DT_INT64, TensorShape({n}), tensor));
    }
    const bool narrow = indices.dtype() == tensorflow::DT_INT32;
    const auto at = [](Tensor& tensor) { return static_cast<int64_t*>(tensor.data()); };
    const int64_t found = api->rows_sort(narrow ? 4 : 8, indices.data(), n, count_, at(rows), at(order), at(ends));
    OP_REQUIRES(ctx, found != ADAMAS_ROWS_NO_MEMORY, absl::ResourceExhaustedError("no memory to sort the rows"));
    OP_REQUIRES(ctx, found >= 0,
                absl::InvalidArgumentError(absl::StrCat(
                    "index ", narrow ? indices.flat<int32_t>()(-1 - found) : indices.flat<int64_t>()(-1 - found),
                    " at position ", -1 - found, " of a sparse gradient: the variable has the rows 0 to ", count_ - 1)));

    TensorShape shape = values.shape();
    shape.set_dim(0, found);
    Tensor *distinct, *sums, *squares;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({found}), &distinct));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, shape, &sums));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(2, TensorShape({}), &squares));
    std::copy_n(at(rows), found, at(*distinct));
    const int64_t width = n == 0 ? 0 : values.NumElements() / n;
    const int32_t dtype = Dtype(values.dtype());
    Pool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(found, 100 + 2 * width, [&](int64_t begin, int64_t end) {
      api->rows_sum(dtype, values.data(), width, at(order), at(ends), begin, end, sums->data());
    });
    squares->scalar<double>()() = norm_ ? api->rows_squares(dtype, sums->data(), at(rows), found, width) : 0.0;
  }

 private:
  int64_t count_ = 0;
  bool norm_ = false;
};

class AdamasRowsStepOp : public OpKernel {
 public:
  explicit AdamasRowsStepOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, step_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("row", &row_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const int k = step_.slots;
    OP_REQUIRES(ctx, api->rule_slots(&step_.rule) == k,
                absl::InvalidArgumentError("the rule keeps another number of slots"));
    const Tensor& rows = ctx->input(k + 2);
    const Tensor& sums = ctx->input(k + 3);
    Numbers numbers;
    OP_REQUIRES_OK(ctx, numbers.Read(ctx, k + 4, step_));
    const Tensor& squares = ctx->input(k + 7);
    OP_REQUIRES(ctx, squares.NumElements() == 1, absl::InvalidArgumentError("squares must have one element"));
    OP_REQUIRES(ctx, row_ < 2 * static_cast<int64_t>(numbers.lines.size()),
                absl::InvalidArgumentError("numbers has no line for the variable's row"));
    adamas_hyper hyper = numbers.lines[row_ / 2];
    if (row_ % 2 == 1) hyper.weight_decay = 0.0;
    const adamas_scaling scaling = {numbers.grad_scale, step_.clip, numbers.bound, squares.flat<double>()(0)};

    const auto handles = Handles(ctx, 0, k + 2);
    OP_REQUIRES(ctx, handles.size() == static_cast<size_t>(k) + 2, absl::InvalidArgumentError("one handle an input"));
    Held held(ctx, handles);  // the parameter, its moments, the clock of its rows
    OP_REQUIRES_OK(ctx, held.status());
    const Tensor* p = held[0]->tensor();
    OP_REQUIRES(ctx, p->dtype() == step_.dtype && p->dims() >= 1,
                absl::InvalidArgumentError("rows of a variable of another dtype, or of a scalar"));
    for (int s = 1; s <= k; ++s) {
      OP_REQUIRES(ctx, held[s]->tensor()->dtype() == step_.dtype && held[s]->tensor()->shape() == p->shape(),
                  absl::InvalidArgumentError("a moment does not have its variable's dtype and shape"));
    }
    const int64_t count = p->dim_size(0);
    const Tensor* seen = held[k + 1]->tensor();
    OP_REQUIRES(ctx, seen->dtype() == tensorflow::DT_INT32 && seen->NumElements() == count + 1,
                absl::InvalidArgumentError("the clock of the rows does not belong to the variable"));
    TensorShape wanted = p->shape();
    wanted.set_dim(0, rows.NumElements());
    OP_REQUIRES(ctx, sums.shape() == wanted && sums.dtype() == step_.dtype,
                absl::InvalidArgumentError(absl::StrCat("the variable has the shape ", p->shape().DebugString(),
                                                        " and its sparse gradient ", sums.shape().DebugString())));
    const int64_t n = rows.NumElements();
    const int64_t* row = rows.flat<int64_t>().data();
    for (int64_t i = 0; i < n; ++i) {
      OP_REQUIRES(ctx, row[i] >= 0 && row[i] < count && (i == 0 || row[i] > row[i - 1]),
                  absl::InvalidArgumentError("rows must be of the variable, and increase"));
    }

    Pool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    OP_REQUIRES_OK(ctx, held.Own(ctx, pool));
    int32_t* clock = held[k + 1]->tensor()->flat<int32_t>().data();
    adamas_table table{held[0]->tensor()->data(), {}, clock, clock[count], p->NumElements() / std::max<int64_t>(count, 1)};
    for (int s = 0; s < k; ++s) table.slots[s] = held[s + 1]->tensor()->data();
    pool->ParallelFor(n, RowCycles(table.width), [&](int64_t begin, int64_t end) {
      api->rows_update(&step_.rule, Dtype(step_.dtype), &table, row, sums.data(), &hyper, numbers.t, &scaling,
                       begin, end);
    });
    clock[count] = static_cast<int32_t>(static_cast<uint32_t>(table.clock) + 1);
  }

 private:
  Step step_;
  int row_ = 0;
};

class AdamasRowsSettleOp : public OpKernel {
 public:
  explicit AdamasRowsSettleOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("lines", &lines_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Api* api;
    OP_REQUIRES_OK(ctx, Library(&api));
    const int last = ctx->num_inputs() - 1;
    const Tensor& numbers = ctx->input(last);
    const auto handles = Handles(ctx, 0, last);
    OP_REQUIRES(ctx, handles.size() == 3 * lines_.size(),
                absl::InvalidArgumentError("give m, v and the clock of each variable, and its line of numbers"));
    for (size_t i = 0; i < lines_.size(); ++i) {
      OP_REQUIRES(ctx, lines_[i] >= 0 && (lines_[i] + 1) * kNumbers <= numbers.NumElements(),
                  absl::InvalidArgumentError("numbers has no such line"));
      const double* betas = numbers.flat<double>().data() + lines_[i] * kNumbers + 2;
      OP_REQUIRES_OK(ctx, Settle(ctx, api, {handles[3 * i], handles[3 * i + 1], handles[3 * i + 2]}, betas));
    }
  }

 private:
  static absl::Status Settle(OpKernelContext* ctx, const Api* api,
                             const std::vector<const tensorflow::ResourceHandle*>& handles, const double* betas) {
    Held held(ctx, handles);
    TF_RETURN_IF_ERROR(held.status());
    const Tensor *m = held[0]->tensor(), *v = held[1]->tensor(), *seen = held[2]->tensor();
    const DataType dtype = m->dtype();
    if ((dtype != tensorflow::DT_FLOAT && dtype != tensorflow::DT_DOUBLE) || v->dtype() != dtype || m->dims() < 1 ||
        v->shape() != m->shape() || seen->dtype() != tensorflow::DT_INT32 ||
        seen->NumElements() != m->dim_size(0) + 1) {
      return absl::InvalidArgumentError("the moments and the clock of the rows do not belong together");
    }
    const int64_t count = m->dim_size(0), width = m->NumElements() / std::max<int64_t>(count, 1);
    if (seen->flat<int32_t>()(count) == 0) return absl::OkStatus();  // settled
    Pool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    TF_RETURN_IF_ERROR(held.Own(ctx, pool));
    int32_t* clock = held[2]->tensor()->flat<int32_t>().data();
    const adamas_table table{
        nullptr, {held[0]->tensor()->data(), held[1]->tensor()->data()}, clock, clock[count], width};
    pool->ParallelFor(count, RowCycles(width), [&](int64_t begin, int64_t end) {
      api->rows_settle(Dtype(dtype), &table, betas[0], betas[1], begin, end);
    });
    clock[count] = 0;
    return absl::OkStatus();
  }

  std::vector<int64_t> lines_;
};

REGISTER_OP("AdamasRows")
    .Input("indices: I")
    .Input("values: T")
    .Output("rows: int64")
    .Output("sums: T")
    .Output("squares: double")  // 0 where the attribute does not ask for them
    .Attr("count: int >= 0")
    .Attr("norm: bool")
    .Attr("I: {int32, int64}")
    .Attr("T: {float, double}")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("AdamasRowsStep")
    .Input("param: resource")
    .Input("slots: k * resource")
    .Input("seen: resource")
    .Input("rows: int64")
    .Input("sums: T")
    .Input("lr: L")
    .Input("iterations: int64")
    .Input("numbers: double")  // as for AdamasStep
    .Input("squares: double")  // of what is clipped by its norm: this gradient, or all gradients of the step
    .Attr("k: int >= 1")
    .Attr("T: {float, double}")
    .Attr("L: {float, double}")
    .Attr("row: int >= 0")  // as an entry of AdamasStep's rows
    .Attr("unscale: bool")
    .Attr("clip: int")
    .Attr("rule: list(int)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

REGISTER_OP("AdamasRowsSettle")
    .Input("moments: count * resource")  // m, v and the clock of each variable: one handle a tensor, or packed
    .Input("numbers: double")            // as for AdamasStep
    .Attr("count: int >= 1")
    .Attr("lines: list(int)")  // of numbers, one for each variable
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

REGISTER_KERNEL_BUILDER(Name("AdamasRows").Device(tensorflow::DEVICE_CPU), AdamasRowsOp);
REGISTER_KERNEL_BUILDER(Name("AdamasRowsStep").Device(tensorflow::DEVICE_CPU), AdamasRowsStepOp);
REGISTER_KERNEL_BUILDER(Name("AdamasRowsSettle").Device(tensorflow::DEVICE_CPU), AdamasRowsSettleOp);

}  // namespace
