// What the ops are told in one way: by their attributes, and by the inputs lr, iterations and numbers.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "library.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace {

inline int32_t Dtype(tensorflow::DataType dtype) {
  switch (dtype) {
    case tensorflow::DT_DOUBLE: return ADAMAS_FLOAT64;
    case tensorflow::DT_BFLOAT16: return ADAMAS_BFLOAT16;
    case tensorflow::DT_HALF: return ADAMAS_FLOAT16;
    default: return ADAMAS_FLOAT32;
  }
}

inline absl::Status Library(const Api** api) {
  *api = bound.load(std::memory_order_acquire);
  return *api ? absl::OkStatus()
              : absl::FailedPreconditionError("the op is not bound to libadamas: import adamas.tensorflow first");
}

inline absl::Status ReadRule(tensorflow::OpKernelConstruction* ctx, adamas_rule* rule) {
  std::vector<int32_t> switches;
  TF_RETURN_IF_ERROR(ctx->GetAttr("rule", &switches));
  if (switches.size() * sizeof(int32_t) != sizeof *rule) {
    return absl::InvalidArgumentError("rule: every switch, in the order of adamas_rule");
  }
  std::memcpy(rule, switches.data(), sizeof *rule);
  return absl::OkStatus();
}

// The attributes of an op that steps.
struct Step {
  int slots = 0;
  bool unscale = false;
  int32_t clip = ADAMAS_CLIP_NONE;
  tensorflow::DataType dtype = tensorflow::DT_FLOAT;
  adamas_rule rule{};

  absl::Status Read(tensorflow::OpKernelConstruction* ctx) {
    TF_RETURN_IF_ERROR(ctx->GetAttr("k", &slots));
    TF_RETURN_IF_ERROR(ctx->GetAttr("T", &dtype));
    TF_RETURN_IF_ERROR(ctx->GetAttr("unscale", &unscale));
    TF_RETURN_IF_ERROR(ctx->GetAttr("clip", &clip));
    TF_RETURN_IF_ERROR(ReadRule(ctx, &rule));
    if (slots > ADAMAS_MAX_SLOTS) return absl::InvalidArgumentError("more slots than libadamas knows");
    if (clip < ADAMAS_CLIP_NONE || clip > ADAMAS_CLIP_GLOBAL_NORM) {
      return absl::InvalidArgumentError("clip: none, by value, by norm or by global norm");
    }
    return absl::OkStatus();
  }
};

// A line of the input `numbers`, one for each group of variables: what the learning rate is multiplied by, what is added
// to that, adamas_hyper without lr; in the first line also grad_scale and the bound of each kind of clip (settings.py
// names them).
constexpr int64_t kNumbers = 15, kScale = 11;

// The inputs lr, iterations and numbers, which begin at `first`.
struct Numbers {
  int64_t t = 0;
  std::vector<adamas_hyper> lines;
  double grad_scale = 1.0, bound = 0.0;

  absl::Status Read(tensorflow::OpKernelContext* ctx, int first, const Step& step) {
    const tensorflow::Tensor &lr = ctx->input(first), &iterations = ctx->input(first + 1);
    const tensorflow::Tensor& numbers = ctx->input(first + 2);
    if (lr.NumElements() != 1 || iterations.NumElements() != 1 || numbers.dims() != 2 || numbers.dim_size(0) < 1 ||
        numbers.dim_size(1) != kNumbers) {
      return absl::InvalidArgumentError("lr and iterations have one element, numbers lines of fifteen");
    }
    t = iterations.flat<int64_t>()(0) + 1;
    if (t < 1) return absl::InvalidArgumentError("iterations must be at least 0");
    const double rate = lr.dtype() == tensorflow::DT_FLOAT ? static_cast<double>(lr.flat<float>()(0))
                                                           : lr.flat<double>()(0);
    const double* x = numbers.flat<double>().data();
    for (int64_t line = 0; line < numbers.dim_size(0); ++line) {
      const double* y = x + line * kNumbers;
      lines.push_back({y[0] * rate + y[1], y[2], y[3], y[4], y[5], y[6], y[7], y[8], y[9], y[10]});
    }
    grad_scale = step.unscale ? x[kScale] : 1.0;
    bound = step.clip == ADAMAS_CLIP_NONE ? 0.0 : x[kScale + step.clip];  // of this kind of clip
    return absl::OkStatus();
  }
};

}  // namespace
