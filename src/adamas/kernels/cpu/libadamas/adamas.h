/* libadamas: the Adam family on CPUs, behind a plain C interface.
 *
 * Make a plan (rule, dtype, formats of the slots, tensors). For each step: `begin` says which tensors take part, where
 * their buffers are and with which numbers; `run` does one phase over a range of chunks, from any thread, each chunk
 * once; `finish` ends the phase. `run_all` is `run` over every chunk on the library's own pool.
 *
 * The mathematics is src/adamas/rule.py; every result here equals its result bit for bit, whatever the instruction
 * set, the number of threads, the order of the chunks and the caller's floating-point environment.
 *
 * A plan serves one step at a time: callers serialise begin ... finish. Two plans are independent.
 * Nothing here calls back or throws; memory is allocated when a plan is created, and by `rows_sort`, only; threads are
 * started by `run_all`.
 */
#ifndef ADAMAS_H
#define ADAMAS_H

#include <stdint.h>

#if defined(_WIN32)
#define ADAMAS_API __declspec(dllexport)
#else
#define ADAMAS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ADAMAS_ABI 10           /* changes with every change of this file that callers can see */
#define ADAMAS_MAX_SLOTS 6     /* the rule's, then `correction`, then `average` (adamas_settings) */
#define ADAMAS_MAX_SUMS 2       /* float64 sums over a tensor that a rule needs before it steps it */
#define ADAMAS_MAX_CARRIES 2   /* float64 numbers that a rule carries from step to step beside a tensor */
#define ADAMAS_BLOCK 4096      /* elements; sums are defined over blocks, and chunks are cut at them */

/* dtype of parameters and gradients; the last two are computed in float32 */
enum { ADAMAS_FLOAT32 = 0, ADAMAS_FLOAT64 = 1, ADAMAS_BFLOAT16 = 2, ADAMAS_FLOAT16 = 3 };
/* How a slot of the rule is stored (docs/formats.md): as it is computed, float32 or float64; in bfloat16; in int8 codes
 * of groups of 64 elements, a float32 scale for each. */
enum { ADAMAS_FORMAT_NATIVE = 0, ADAMAS_FORMAT_BFLOAT16 = 1, ADAMAS_FORMAT_INT8 = 2 };
/* How a bfloat16 or float16 parameter is rounded; SPLIT is for bfloat16 and keeps 8 more bits in the slot `correction`. */
enum { ADAMAS_WEIGHTS_NEAREST = 0, ADAMAS_WEIGHTS_STOCHASTIC = 1, ADAMAS_WEIGHTS_SPLIT = 2 };
enum { ADAMAS_EPS_PAPER = 0, ADAMAS_EPS_KERAS = 1 };
enum { ADAMAS_DECAY_DECOUPLED = 0, ADAMAS_DECAY_COUPLED = 1 };
enum { ADAMAS_AMSGRAD_OFF = 0, ADAMAS_AMSGRAD_RAW = 1, ADAMAS_AMSGRAD_CORRECTED = 2 };
enum { ADAMAS_NESTEROV_OFF = 0, ADAMAS_NESTEROV_CONSTANT = 1, ADAMAS_NESTEROV_SCHEDULED = 2 };
enum { ADAMAS_TRUST_OFF = 0, ADAMAS_TRUST_WITH_DECAY = 1, ADAMAS_TRUST_WITHOUT_DECAY = 2 };
enum { ADAMAS_ISA_AUTO = -1, ADAMAS_ISA_SCALAR = 0, ADAMAS_ISA_SSE = 1, ADAMAS_ISA_AVX2 = 2, ADAMAS_ISA_NEON = 3 };

/* adamas.rule.Clip: how gradients are clipped. NORM, GLOBAL_NORM and TORCH need the phase NORM. */
enum {
  ADAMAS_CLIP_NONE = 0,
  ADAMAS_CLIP_VALUE = 1,
  ADAMAS_CLIP_NORM = 2,
  ADAMAS_CLIP_GLOBAL_NORM = 3,
  ADAMAS_CLIP_TORCH = 4
};

/* Phases of a step. NORM comes first, and only where a norm of the gradients is asked for; REDUCE after set_gradients, and
 * only with a rule that reduces, where UPDATE needs it. */
enum {
  ADAMAS_PHASE_NORM = 0,   /* sum of squares of the gradients; finish returns it (float64) */
  ADAMAS_PHASE_REDUCE = 2, /* the sums of adamas.rule.reduction; finish changes the step's numbers by them, returns 0 */
  ADAMAS_PHASE_UPDATE = 1  /* parameters and slots change in place; finish returns 0, or 1 + k where the step of the
                              k-th active tensor was computed twice and gave two results (adamas_settings.verify) */
};

/* adamas.rule.Rule, Hyper and Scalars, in the same order */
typedef struct {
  int32_t eps_mode, decay, amsgrad, maximize, nesterov, schedule_free, rectify, infinity, adopt, clip_update,
          trust_ratio, cautious;
} adamas_rule;
typedef struct {
  double lr, beta1, beta2, eps, eps_root, weight_decay, momentum_decay, warmup_steps, r, weight_lr_power;
} adamas_hyper;
typedef struct {
  double grad_scale, clip, coupled, c1, c2, r2, eps_root, alpha, eps, keep, gain, shrink, mean, pull,
         adaptive, limit, unit;
} adamas_scalars;
/* What a plan is made for. */
typedef struct {
  adamas_rule rule;
  int32_t dtype;
  int32_t weights;  /* NEAREST for float32 and float64, which are not rounded */
  int32_t average;  /* 1: one more slot, the average of the weights, float32 or float64 */
  int64_t verify;   /* N: about one block in N is computed twice and compared; 0: none */
  uint64_t seed;    /* of stochastic rounding, with the tensors' keys */
} adamas_settings;
/* One tensor's buffers for one step: `size` elements each, and scales of int8 slots, one for each 64 elements or part of
 * it (else NULL). g is read, everything else written (NORM reads only g; REDUCE writes nothing). */
typedef struct {
  void* p;
  const void* g;
  void* slots[ADAMAS_MAX_SLOTS];
  float* scales[ADAMAS_MAX_SLOTS];
} adamas_buffers;

typedef struct adamas_plan adamas_plan;

ADAMAS_API int32_t adamas_abi(void);
ADAMAS_API const char* adamas_build_info(void);               /* compiler and flags, one line */

/* How many slots the rule keeps, or -1 for an illegal rule. */
ADAMAS_API int32_t adamas_rule_slots(const adamas_rule* rule);
/* How many numbers the rule carries beside each tensor: 0 to ADAMAS_MAX_CARRIES. */
ADAMAS_API int32_t adamas_rule_carries(const adamas_rule* rule);
/* How many sums over a tensor the rule needs before it steps it, 0 to ADAMAS_MAX_SUMS: above 0, run the phase REDUCE. */
ADAMAS_API int32_t adamas_rule_reduces(const adamas_rule* rule);
/* adamas.scalars.carry_on, to the bit: those numbers after step t, from those before it. */
ADAMAS_API void adamas_rule_carry_on(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t,
                                     const double* before, double* after);
/* adamas.scalars.scalars, to the bit. carry: what carry_on gave for this step; NULL where the rule carries nothing. */
ADAMAS_API void adamas_rule_scalars(const adamas_rule* rule, const adamas_hyper* hyper, int64_t t, double grad_scale,
                                    double clip, const double* carry, adamas_scalars* out);
/* adamas.rule.clip_factor, to the bit: what gradients of this norm are multiplied by. */
ADAMAS_API double adamas_clip_factor(int32_t clip, double norm, double bound);

/* n tensors of sizes[i] >= 0 elements. formats[i * slots + s]: of tensor i's slot s, of as many slots as the rule keeps
 * (NULL: all native; those of float64 parameters are). keys: one per tensor, drawn from its name
 * (adamas.formats.name_key). NULL on error, with *error set to a static message. */
ADAMAS_API adamas_plan* adamas_plan_create(const adamas_settings* settings, int64_t n, const int64_t* sizes,
                                           const int32_t* formats, const uint64_t* keys, const char** error);
ADAMAS_API void adamas_plan_destroy(adamas_plan* plan);

/* Begin a step of the tensors active[0..n_active) (NULL: all, n_active ignored), in increasing order.
 * buffers, t and rows have one entry per active tensor; t >= 1 is that tensor's step; rows (NULL: all 0) picks its
 * line of `table`. carry[k * ADAMAS_MAX_CARRIES ...] is what carry_on gave for active tensor k's step (NULL where the
 * rule carries nothing). What is pointed to must stay until the update phase is finished, except t, rows, table, carry,
 * active, which are read here. Returns the number of chunks, or -1 on an illegal argument. */
ADAMAS_API int64_t adamas_begin(adamas_plan* plan, int64_t n_active, const int64_t* active,
                                const adamas_buffers* buffers, const int64_t* t, const adamas_hyper* table,
                                const int32_t* rows, const double* carry);
/* What the phases REDUCE and UPDATE do to the gradients first: multiply by grad_scale (1/loss_scale; default 1), then clip by
 * `bound` (default: not at all). Call it after begin and before them; with a clip by norm, after finish(NORM).
 * others: the sum of squares, before grad_scale, of gradients that another call steps and a global norm counts too;
 * where the phase NORM did not run, of all.
 * Returns the global norm of the scaled gradients: 0 where the phase NORM did not run and others is 0. */
ADAMAS_API double adamas_set_gradients(adamas_plan* plan, double grad_scale, int32_t clip, double bound,
                                       double others);
/* What the update phase does beside the step; default: neither. Call it between begin and run(UPDATE). statistics: 1 to
 * collect them. average_decay: average <- average + (1 - average_decay) (p - average), with the new p before it is
 * rounded; give it in every step of a plan with an average. */
ADAMAS_API void adamas_set_extras(adamas_plan* plan, int32_t statistics, double average_decay);
/* One phase of the chunks [begin, end). Thread-safe over disjoint ranges. */
ADAMAS_API void adamas_run(adamas_plan* plan, int32_t phase, int64_t begin, int64_t end);
/* All chunks, on the library's pool and the calling thread. */
ADAMAS_API void adamas_run_all(adamas_plan* plan, int32_t phase);
/* Ends a phase; see the phases for what it returns. */
ADAMAS_API double adamas_finish(adamas_plan* plan, int32_t phase);
/* After finish(NORM): the sum of squares of each active tensor's gradient; valid until the next begin. */
ADAMAS_API const double* adamas_squares(const adamas_plan* plan);

/* After finish(UPDATE) of a step with statistics, ADAMAS_STATISTICS numbers for each active tensor: the sums of g^2 (as
 * read, before grad_scale), of (p_new - p_old)^2 and of p_new^2 (before p_new is rounded), and how many second moments w
 * are below adamas.scalars.eps_bound: eps decides the step. Summed as the phase NORM sums. Valid until the next begin. */
#define ADAMAS_STATISTICS 4
ADAMAS_API const double* adamas_statistics(const adamas_plan* plan);

/* Sparse gradients (adamas/kernels/rows.py): some rows of a table of `width` elements a row take a step, whose cost
 * does not depend on the other rows. A gradient is n rows of values, with the row of the table that each belongs to:
 *
 *     sort        which rows there are, each once
 *     sum         their gradients: the values of a row, added in the order in which they came
 *     squares     what clipping by a norm needs
 *     update      the step; a row that missed steps has its moments decayed first
 *     settle      decays every row that missed steps, so that the moments are those of a dense optimizer
 *
 * All but sort may be shared out among threads by ranges of rows; the caller moves the clock: after update by one, after
 * settle to 0. */
typedef struct {
  void* p;                         /* settle: not read */
  void* slots[ADAMAS_MAX_SLOTS];
  int32_t* seen;                   /* per row: what the clock was after its last step; 0 in a settled table */
  int32_t clock;                   /* the steps taken by this table since it was settled; may wrap around */
  int64_t width;
} adamas_table;

#define ADAMAS_ROWS_NO_MEMORY INT64_MIN
/* indices: n >= 0 numbers of index_bytes 4 or 8, from 0 to count - 1. Written, with room for n each: rows, the distinct
 * indices, increasing; order, the positions of the entries sorted by row, in the order given within one; ends, where
 * the entries of rows[k] end in `order`. Returns how many rows, or -1 - i where indices[i] is out of range, or
 * ADAMAS_ROWS_NO_MEMORY; nothing has been written then. */
ADAMAS_API int64_t adamas_rows_sort(int32_t index_bytes, const void* indices, int64_t n, int64_t count, int64_t* rows,
                                    int64_t* order, int64_t* ends);
/* sums[k * width ...] for rows k of [begin, end) of what `sort` found. */
ADAMAS_API void adamas_rows_sum(int32_t dtype, const void* values, int64_t width, const int64_t* order,
                                const int64_t* ends, int64_t begin, int64_t end, void* sums);
/* The sum of squares that the phase NORM would find in the dense gradient, to the bit. rows: increasing. */
ADAMAS_API double adamas_rows_squares(int32_t dtype, const void* sums, const int64_t* rows, int64_t n, int64_t width);
/* What is done to the gradients first, as adamas_set_gradients does it. squares: the sum of squares, before grad_scale,
 * of the gradient that is clipped by its norm, or of all gradients that are clipped by their global norm. */
typedef struct { double grad_scale; int32_t clip; double bound, squares; } adamas_scaling;
/* rows[begin ... end), each once, with the gradients `sums`, at step t >= 1. */
ADAMAS_API void adamas_rows_update(const adamas_rule* rule, int32_t dtype, const adamas_table* table,
                                   const int64_t* rows, const void* sums, const adamas_hyper* hyper, int64_t t,
                                   const adamas_scaling* scaling, int64_t begin, int64_t end);
/* The rows begin ... end - 1 of the table. */
ADAMAS_API void adamas_rows_settle(int32_t dtype, const adamas_table* table, double beta1, double beta2, int64_t begin,
                                   int64_t end);

/* Threads of the library's own pool, the caller included. n = 0: what affinity and cgroup quota allow. */
ADAMAS_API void adamas_set_threads(int32_t n);
ADAMAS_API int32_t adamas_get_threads(void);
/* Instruction set of every later step: AUTO is the best the processor has. Returns 0, or -1 if it cannot run here. */
ADAMAS_API int32_t adamas_set_isa(int32_t isa);
ADAMAS_API int32_t adamas_get_isa(void);

#ifdef __cplusplus
}
#endif
#endif
