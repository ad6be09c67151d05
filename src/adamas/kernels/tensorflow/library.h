// libadamas as the ops call it: `adamas_tensorflow_bind` (ops.cc) loads it from wherever it is installed, so that the
// cached ops depend on adamas.h and on TensorFlow, and on no path.
#pragma once

#include <dlfcn.h>

#include <atomic>

#include "adamas.h"

namespace {

struct Api {
  decltype(&adamas_abi) abi;
  decltype(&adamas_rule_slots) rule_slots;
  decltype(&adamas_rule_carry_on) rule_carry_on;
  decltype(&adamas_plan_create) plan_create;
  decltype(&adamas_plan_destroy) plan_destroy;
  decltype(&adamas_begin) begin;
  decltype(&adamas_set_gradients) set_gradients;
  decltype(&adamas_run) run;
  decltype(&adamas_finish) finish;
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

}  // namespace
