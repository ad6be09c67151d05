#define ADAMAS_KERNEL kNeon
#include "kernel_loops.h"
