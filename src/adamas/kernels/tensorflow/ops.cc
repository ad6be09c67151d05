// The TensorFlow ops, as one translation unit: TensorFlow's headers take longer to compile than all that is below.
//
// Built on the user's machine against the installed TensorFlow (see build.py), so it must hold no arithmetic: all of
// that is in libadamas.
#include "library.h"
#include "rows.cc"
#include "step.cc"

// Loads libadamas from `path` for every step from now on. NULL, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* adamas_tensorflow_bind(const char* path) {
  return Bind(path);
}
