// libadamas as a shim calls it that was compiled on the user's machine: `Bind` loads it from wherever it is installed, so
// that the cached shims depend on adamas.h and on their framework, and on no path.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <memory>

#include "adamas.h"

namespace {

struct Api {
  decltype(&adamas_abi) abi;
  decltype(&adamas_rule_slots) rule_slots;
  decltype(&adamas_rule_carries) rule_carries;
  decltype(&adamas_rule_reduces) rule_reduces;
  decltype(&adamas_rule_carry_on) rule_carry_on;
  decltype(&adamas_plan_create) plan_create;
  decltype(&adamas_plan_destroy) plan_destroy;
  decltype(&adamas_begin) begin;
  decltype(&adamas_set_gradients) set_gradients;
  decltype(&adamas_set_extras) set_extras;
  decltype(&adamas_run) run;
  decltype(&adamas_run_all) run_all;
  decltype(&adamas_finish) finish;
  decltype(&adamas_squares) squares;
  decltype(&adamas_statistics) statistics;
  decltype(&adamas_rows_sort) rows_sort;
  decltype(&adamas_rows_sum) rows_sum;
  decltype(&adamas_rows_squares) rows_squares;
  decltype(&adamas_rows_update) rows_update;
  decltype(&adamas_rows_settle) rows_settle;
};

std::atomic<const Api*> bound{nullptr};

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Loads libadamas from `path` for every step from now on. NULL, or what went wrong.
inline const char* Bind(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  auto api = std::make_unique<Api>();
  if (!Find(library, "adamas_abi", &api->abi) || api->abi() != ADAMAS_ABI) {
    return "libadamas has another interface version than this was built for";
  }
  if (!Find(library, "adamas_rule_slots", &api->rule_slots) ||
      !Find(library, "adamas_rule_carries", &api->rule_carries) ||
      !Find(library, "adamas_rule_reduces", &api->rule_reduces) ||
      !Find(library, "adamas_rule_carry_on", &api->rule_carry_on) ||
      !Find(library, "adamas_plan_create", &api->plan_create) ||
      !Find(library, "adamas_plan_destroy", &api->plan_destroy) || !Find(library, "adamas_begin", &api->begin) ||
      !Find(library, "adamas_set_gradients", &api->set_gradients) ||
      !Find(library, "adamas_set_extras", &api->set_extras) || !Find(library, "adamas_run", &api->run) ||
      !Find(library, "adamas_run_all", &api->run_all) || !Find(library, "adamas_finish", &api->finish) ||
      !Find(library, "adamas_squares", &api->squares) || !Find(library, "adamas_statistics", &api->statistics) ||
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

}  // namespace
