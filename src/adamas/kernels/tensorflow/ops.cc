// The TensorFlow ops, as one translation unit: TensorFlow's headers take longer to compile than all that is below.
//
// Built on the user's machine against the installed TensorFlow (see build.py), so it must hold no arithmetic: all of
// that is in libadamas.
#include <memory>

#include "library.h"
#include "rows.cc"
#include "step.cc"

// Loads libadamas from `path` for every step from now on. NULL, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* adamas_tensorflow_bind(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  auto api = std::make_unique<Api>();
  if (!Find(library, "adamas_abi", &api->abi) || api->abi() != ADAMAS_ABI) {
    return "libadamas has another interface version than this op was built for";
  }
  if (!Find(library, "adamas_rule_slots", &api->rule_slots) ||
      !Find(library, "adamas_rule_carry_on", &api->rule_carry_on) ||
      !Find(library, "adamas_plan_create", &api->plan_create) ||
      !Find(library, "adamas_plan_destroy", &api->plan_destroy) || !Find(library, "adamas_begin", &api->begin) ||
      !Find(library, "adamas_set_gradients", &api->set_gradients) ||
      !Find(library, "adamas_run", &api->run) || !Find(library, "adamas_finish", &api->finish) ||
      !Find(library, "adamas_rows_sort", &api->rows_sort) || !Find(library, "adamas_rows_sum", &api->rows_sum) ||
      !Find(library, "adamas_rows_squares", &api->rows_squares) ||
      !Find(library, "adamas_rows_update", &api->rows_update) ||
      !Find(library, "adamas_rows_settle", &api->rows_settle)) {
    return "libadamas lacks a function of its interface";
  }
  const Api* expected = nullptr;
  if (bound.compare_exchange_strong(expected, api.get(), std::memory_order_release)) {
    api.release();  // for the life of the process: kernels may still run while it ends
  }
  return nullptr;
}
