#define ADAMAS_KERNEL kScalar
#include "kernel_loops.h"
