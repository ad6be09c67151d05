// The forms in which a plan's arrays are stored, and places in them.
#pragma once

#include <cstdint>

#include "adamas.h"
#include "kernel.h"

namespace adamas {

struct Storage {
  Form p = kNative, g = kNative;
  int32_t slots = 0;  // of the rule
  Form slot[ADAMAS_MAX_SLOTS];
  int32_t correction = -1, average = -1;  // where they are in adamas_buffers.slots; -1: the plan has none
  int64_t width = 4;                      // bytes of a number as it is computed

  // Whether the rule can work on the arrays themselves.
  bool native() const {
    bool all = p == kNative;
    for (int32_t s = 0; s < slots; ++s) all = all && slot[s] == kNative;
    return all;
  }

  int64_t bytes(Form form) const {
    return form == kNative ? width : form == kSigned8 || form == kUnsigned8 ? 1 : 2;
  }
};

// The same buffers from element `by` on, a multiple of kGroup.
inline adamas_buffers advanced(const Storage& storage, const adamas_buffers& b, int64_t by) {
  adamas_buffers next = b;
  next.p = static_cast<char*>(b.p) + by * storage.bytes(storage.p);
  next.g = static_cast<const char*>(b.g) + by * storage.bytes(storage.g);
  for (int32_t s = 0; s < storage.slots; ++s) {
    next.slots[s] = static_cast<char*>(b.slots[s]) + by * storage.bytes(storage.slot[s]);
    if (b.scales[s]) next.scales[s] = b.scales[s] + by / kGroup;
  }
  if (storage.correction >= 0) next.slots[storage.correction] = static_cast<char*>(b.slots[storage.correction]) + by;
  if (storage.average >= 0)
    next.slots[storage.average] = static_cast<char*>(b.slots[storage.average]) + by * storage.width;
  return next;
}

}  // namespace adamas
