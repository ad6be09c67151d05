// Reads torch's tensors for the shim of NumPy arrays (kernels/cpu/tensors.h): what DLPack's exchange does, in a tenth of
// the time, and the gradients of parameters. No arithmetic.
#include <torch/csrc/autograd/python_variable.h>

#include "tensors.h"

namespace {

// The kind and size of an element as DLPack spells it; {255, 0} for what is not stepped here.
std::pair<uint8_t, uint8_t> element(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return {adamas::kFloat, 32};
    case at::kDouble: return {adamas::kFloat, 64};
    case at::kHalf: return {adamas::kFloat, 16};
    case at::kBFloat16: return {adamas::kBfloat, 16};
    default: return {255, 0};
  }
}

}  // namespace

extern "C" {

// adamas::View
int adamas_torch_view(void* object, adamas::Tensor* out) {
  try {
    const at::Tensor& tensor = THPVariable_Unpack(static_cast<PyObject*>(object));
    if (tensor.layout() != at::kStrided || !tensor.has_storage() || tensor.is_neg()) return -1;
    const auto [code, bits] = element(tensor.scalar_type());
    // The sizes belong to the tensor, which outlives this view of it.
    *out = {const_cast<void*>(tensor.const_data_ptr()), tensor.is_cpu() ? adamas::kOnCpu : 0, 0,
            static_cast<int32_t>(tensor.dim()), code, bits, 1, const_cast<int64_t*>(tensor.sizes().data()),
            const_cast<int64_t*>(tensor.strides().data()), 0};
    return 0;
  } catch (...) {
    return -1;
  }
}

// A new reference to what parameter.grad is; NULL where Python is to find out.
PyObject* adamas_torch_gradient(PyObject* parameter) {
  try {
    const at::Tensor& tensor = THPVariable_Unpack(parameter);
    return tensor.is_leaf() ? THPVariable_Wrap(tensor.grad()) : nullptr;
  } catch (...) {
    return nullptr;
  }
}

// What torch.autograd.graph.increment_version does, for a list of tensors.
void adamas_torch_changed(PyObject* tensors) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tensors); ++i) {
    const at::Tensor& tensor = THPVariable_Unpack(PyList_GET_ITEM(tensors, i));
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  }
}
}
