#define ADAMAS_KERNEL kAvx2
#include "kernel_loops.h"
