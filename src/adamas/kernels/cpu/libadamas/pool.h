// Our own threads, for callers that bring none (NumPy, torch). Nobody spins; a forked child starts its own.
#pragma once

#include <cstdint>

namespace adamas {

using Task = void (*)(void* context, int64_t begin, int64_t end);

// Calls task(context, i, i + 1) once for each i in [0, count), on the pool and the calling thread.
// A caller that finds the pool in use works alone.
void parallel(int64_t count, Task task, void* context);

// The caller included. 0: as many as affinity and cgroup quota allow.
void set_threads(int n);
int get_threads();

}  // namespace adamas
