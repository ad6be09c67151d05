#define ADAMAS_KERNEL kSse
#include "kernel_loops.h"
