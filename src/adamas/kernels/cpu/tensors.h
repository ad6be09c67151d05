// Tensors of other frameworks, read where they are: DLPack's exchange between C libraries, which takes 65 ns a
// torch.Tensor where an array over its memory takes 750. torch offers it from 2.10 on.
#pragma once

#include <Python.h>

#include <cstdint>

namespace adamas {

// DLPack 1: https://dmlc.github.io/dlpack, DLTensor and DLPackExchangeAPI
struct Tensor {
  void* data;
  int32_t device, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; NULL: C-contiguous
  uint64_t offset;   // in bytes

  const char* begin() const { return static_cast<const char*>(data) + offset; }
  bool contiguous() const {
    int64_t wanted = 1;
    for (int32_t k = ndim; strides && k-- > 0; wanted *= shape[k]) {
      if (shape[k] == 0) return true;
      if (shape[k] != 1 && strides[k] != wanted) return false;
    }
    return true;
  }
};
constexpr int32_t kOnCpu = 1;
enum : uint8_t { kFloat = 2, kBfloat = 4 };

using View = int (*)(void* object, Tensor* tensor);  // 0, or -1 with an exception set

struct Exchange {
  uint32_t major, minor;
  void* previous;
  void* allocate;
  void* from_object;
  void* to_object;
  View view;
};

// What a shim that is built against torch itself offers (kernels/torch/tensors.cc): the same in a tenth of the time.
struct Torch {
  PyTypeObject* tensor = nullptr;                       // torch.Tensor
  View view = nullptr;
  PyObject* (*gradient)(PyObject* parameter) = nullptr;  // a new reference to what parameter.grad is, or NULL
  void (*changed)(PyObject* tensors) = nullptr;          // tells autograd that a list of tensors was written

  bool reads(PyTypeObject* type) const { return tensor && PyType_IsSubtype(type, tensor); }
};
inline Torch& torch() {
  static Torch found;
  return found;
}

// What reads tensors of this type, NULL where nothing does. `own`: not for a subclass, whose memory may be elsewhere.
inline View find_view(PyTypeObject* type, bool own) {
  if (own ? type == torch().tensor : torch().reads(type)) return torch().view;
  static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  PyObject* type_object = reinterpret_cast<PyObject*>(type);
  if (own && !(type->tp_dict && PyDict_Contains(type->tp_dict, name) == 1)) return nullptr;
  PyObject* capsule = PyObject_GetAttr(type_object, name);
  const auto* found =
      capsule ? static_cast<Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api")) : nullptr;
  Py_XDECREF(capsule);  // the table lives as long as its framework does
  PyErr_Clear();
  return found && found->major == 1 ? found->view : nullptr;
}

// Reads tensors; looks up what reads their type once for neighbours of one type.
class Reader {
 public:
  explicit Reader(bool own) : own_(own) {}

  bool read(PyObject* object, Tensor& tensor) {
    if (Py_TYPE(object) != type_) {
      type_ = Py_TYPE(object);
      view_ = find_view(type_, own_);
    }
    if (!view_) return false;
    if (view_(object, &tensor) == 0) return true;
    PyErr_Clear();  // DLPack's sets one
    return false;
  }

 private:
  bool own_;
  PyTypeObject* type_ = nullptr;
  View view_ = nullptr;
};

}  // namespace adamas
