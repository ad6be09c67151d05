// Variables as the ops take them: each one's lock, and a buffer that nobody else sees.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

using Variables = std::vector<tensorflow::core::RefCountPtr<Var>>;

// The locks of a set of variables, each once, taken in increasing address order so that no two ops wait in a circle.
class Locks {
 public:
  explicit Locks(const Variables& variables) {
    held_.reserve(variables.size());
    for (const auto& variable : variables) held_.push_back(variable->mu());
    std::sort(held_.begin(), held_.end(), std::less<tsl::mutex*>());
    held_.erase(std::unique(held_.begin(), held_.end()), held_.end());
    for (tsl::mutex* mutex : held_) mutex->lock();
  }
  ~Locks() {
    for (tsl::mutex* mutex : held_) mutex->unlock();
  }
  size_t size() const { return held_.size(); }

 private:
  std::vector<tsl::mutex*> held_;
};

using Pool = tensorflow::thread::ThreadPool;

// Makes the variable the only holder of its buffer. Its lock must be held.
absl::Status Own(OpKernelContext* ctx, Pool* pool, Var* variable) {
  Tensor* tensor = variable->tensor();
  if (tensor->RefCountIsOne()) return absl::OkStatus();
  Tensor copy;
  TF_RETURN_IF_ERROR(ctx->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  char* to = static_cast<char*>(copy.data());
  const char* from = static_cast<const char*>(tensor->data());
  const int64_t bytes = static_cast<int64_t>(tensor->TotalBytes());
  constexpr int64_t kPiece = 1 << 20;
  pool->ParallelFor((bytes + kPiece - 1) / kPiece, kPiece, [=](int64_t begin, int64_t end) {
    const int64_t first = begin * kPiece;
    std::memcpy(to + first, from + first, std::min(bytes, end * kPiece) - first);
  });
  *tensor = copy;
  return absl::OkStatus();
}

// Some variables, one each, locked and initialised.
class Held {
 public:
  Held(OpKernelContext* ctx, const std::vector<const tensorflow::ResourceHandle*>& handles)
      : variables_(handles.size()), status_(Find(ctx, handles)) {
    if (!status_.ok()) return;
    locks_.emplace(variables_);
    if (locks_->size() != variables_.size()) {
      status_ = absl::InvalidArgumentError("a variable was given twice in one step");
    }
    for (size_t i = 0; i < variables_.size(); ++i) {
      if (!variables_[i]->is_initialized) {
        status_ = absl::FailedPreconditionError(absl::StrCat("variable ", i, " of the step is not initialised"));
      }
    }
  }
  const absl::Status& status() const { return status_; }
  Var* operator[](int i) const { return variables_[i].get(); }
  absl::Status Own(OpKernelContext* ctx, Pool* pool) {
    for (const auto& variable : variables_) TF_RETURN_IF_ERROR(::Own(ctx, pool, variable.get()));
    return absl::OkStatus();
  }

 private:
  absl::Status Find(OpKernelContext* ctx, const std::vector<const tensorflow::ResourceHandle*>& handles) {
    for (size_t i = 0; i < handles.size(); ++i) {
      TF_RETURN_IF_ERROR(tensorflow::LookupResource(ctx, *handles[i], &variables_[i]));
    }
    return absl::OkStatus();
  }

  Variables variables_;
  absl::Status status_;
  std::optional<Locks> locks_;
};

// The handles in the inputs first ... last - 1: one a tensor, or packed.
inline std::vector<const tensorflow::ResourceHandle*> Handles(OpKernelContext* ctx, int first, int last) {
  std::vector<const tensorflow::ResourceHandle*> found;
  for (int i = first; i < last; ++i) {
    const auto handles = ctx->input(i).flat<tensorflow::ResourceHandle>();
    for (int64_t j = 0; j < handles.size(); ++j) found.push_back(handles.data() + j);
  }
  return found;
}

}  // namespace
