"""The mathematics of one step: start reading here.

Adam (Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1) keeps for each
element of a parameter p a running mean m of its gradient g and a running mean v of g^2. Step
t = 1, 2, ... is

    m  <- m + (1 - beta1) (g   - m)          first moment
    v  <- v + (1 - beta2) (g^2 - v)          second moment
    m^ =  m / (1 - beta1^t)                  both corrected for starting at zero
    v^ =  v / (1 - beta2^t)
    p  <- p - lr m^ / (sqrt(v^) + eps)

Every other member of the family here is a switch of `Rule`:

    decay    "coupled"    g <- g + weight_decay p, before the moments          (L2; torch.optim.Adam)
             "decoupled"  p <- p - lr weight_decay p, beside the update        (AdamW; Loshchilov & Hutter 2019)
    amsgrad  "raw"        v is replaced by the largest v so far                (Reddi et al. 2018; torch, Keras)
             "corrected"  v^ is replaced by the largest v^ so far              (optax)
    eps_mode "paper"      eps is added to the corrected root sqrt(v^)          (torch, optax)
             "keras"      eps is added to the uncorrected root sqrt(v)         (Keras, TensorFlow)
    maximize              g <- -g
    nesterov              NAdam (Dozat, "Incorporating Nesterov Momentum into Adam", 2016): m^ looks one step ahead,

                 m^ = mu_{t+1} m / (1 - M_t mu_{t+1}) + (1 - mu_t) g / (1 - M_t),    M_t = mu_1 mu_2 ... mu_t

             "scheduled"  mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)           (torch 4e-3, Keras 1)
             "constant"   mu_t = beta1                                             (optax)
    rectify               RAdam (Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2020): the step
                          times r_t, or without the root while rho_t <= 5; with rho = 2 / (1 - beta2) - 1

                 rho_t = rho - 2 t beta2^t / (1 - beta2^t)
                 r_t^2 = (rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t)
    infinity              Adamax (Kingma & Ba 2015, section 7): v <- max(beta2 v, |g| + eps) divides m^, neither rooted
                          nor corrected; with eps_mode "keras" eps is added to v where it divides
    adopt                 ADOPT (Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal
                          Rate", 2024, with the clipping of its authors): the gradient is divided by the root of the v
                          of the step before, so that the two do not depend on each other, and m is the mean of what
                          comes out; nothing is corrected. The first step sets v = g^2 and moves nothing.

                 n <- g / max(sqrt(v), eps), clipped to [-k_t, k_t],    k_t = (t - 1)^(1/4)
                 m <- m + (1 - beta1) (n - m),    p <- p - lr m,    then v <- v + (1 - beta2) (g^2 - v)
    clip_update           StableAdamW (Wortsman et al., "Stable and Low-Precision Training for Large-Scale
                          Vision-Language Models", 2023, Algorithm 2): where gradients are larger than v expects, lr is
                          smaller, for the decay too: lr / max(1, RMS_t), with the mean over all elements of a tensor

                 RMS_t^2 = mean(g^2 / max(v^, eps^2))
    trust_ratio           LAMB (You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 Minutes",
                          2020, Algorithm 2): the step r of a tensor is made as long as the tensor; as it is where one
                          of the two norms is 0

                 p <- p - lr |p| / |r| r

             "with_decay"     r = m^ / (sqrt(v^) + eps) + weight_decay p                                     (optax)
             "without_decay"  r = m^ / (sqrt(v^) + eps), after p <- p - lr weight_decay p                    (Keras)
    cautious              C-AdamW (Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
                          with the bound of its authors): only elements whose m has the sign of g move, by more the
                          fewer they are: lr / max(share, 1e-3), with their share of a tensor; the decay stays as it is

and `eps_root` is added inside the root (optax).

**What differs between these variants is settled in the scalars, on the host, in float64.** With
bc1 = 1 - beta1^t and bc2 = 1 - beta2^t the update is rearranged, exactly in real numbers, to

    lr m^ / (sqrt(v^ + eps_root) + eps)  =  alpha m / (sqrt(v + eps_root bc2) + eps sqrt(bc2))
    alpha = lr sqrt(bc2) / bc1

so that one elementwise formula, `update`, serves all of them, and each kernel is one loop; NAdam has a second factor,
`gain`, for the g beside m. A kernel is right when it gives the bits of `update`: only + - * / sqrt, comparisons and
selections, in the order written here.

**A rule that `reduces`** (clip_update, trust_ratio, cautious) looks at a whole tensor before it steps it. `reduction`
gives what it adds up the squares of, and `adamas.scalars.rescaled` turns the sums into other scalars for `update`.

**Schedule-free AdamW** (Defazio et al., "The Road Less Scheduled", 2024), `schedule_free`, needs no learning rate that
falls: it averages instead. Gradients are taken at y, z takes the steps, and x, which is evaluated, is their mean:

    z <- z - lr_t (g / (sqrt(v^) + eps) + weight_decay y)          lr_t = lr min(1, t / warmup_steps)
    x <- x + c_t (z - x)                                           c_t = w_t / (w_1 + ... + w_t)
    y =  beta1 x + (1 - beta1) z                                   w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power

The parameter holds y and the slot z; x need not be kept, since x = y + (1 - 1/beta1)(z - y) (`evaluation_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from adamas.errors import ArgumentError

EpsMode = Literal["paper", "keras"]
Decay = Literal["decoupled", "coupled"]
Amsgrad = Literal["off", "raw", "corrected"]
Nesterov = Literal["off", "constant", "scheduled"]
TrustRatio = Literal["off", "with_decay", "without_decay"]
Clipping = Literal["value", "norm", "global_norm", "torch"]


@dataclass(frozen=True)
class Slot:
    """One array of state that a rule keeps beside each parameter, of the parameter's shape.

    kind     "signed", "non-negative" or "weight": what a storage format may assume
    initial  "zero" or "parameter": the value before the first step
    """

    name: str
    kind: Literal["signed", "non-negative", "weight"]
    initial: Literal["zero", "parameter"] = "zero"


class Carry(NamedTuple):
    """A float64 that a rule carries from step to step beside each parameter, and its value before the first."""

    name: str
    initial: float


@dataclass(frozen=True)
class Rule:
    """Which number comes out of a step: the switches of the Adam family (see the top of this file).

    Frozen, and the same for every tensor of an optimizer; the numbers, which may differ from tensor to tensor
    and from step to step, are in `Hyper`.

    Raises:
        ArgumentError: a switch has no such setting, or two settings exclude each other.
    """

    eps_mode: EpsMode = "paper"
    decay: Decay = "decoupled"
    amsgrad: Amsgrad = "off"
    maximize: bool = False
    nesterov: Nesterov = "off"
    schedule_free: bool = False
    rectify: bool = False
    infinity: bool = False
    adopt: bool = False
    clip_update: bool = False
    trust_ratio: TrustRatio = "off"
    cautious: bool = False

    def __post_init__(self) -> None:
        _one_of("eps_mode", self.eps_mode, ("paper", "keras"))
        _one_of("decay", self.decay, ("decoupled", "coupled"))
        _one_of("amsgrad", self.amsgrad, ("off", "raw", "corrected"))
        _one_of("maximize", self.maximize, (False, True))
        _one_of("nesterov", self.nesterov, ("off", "constant", "scheduled"))
        _one_of("schedule_free", self.schedule_free, (False, True))
        _one_of("rectify", self.rectify, (False, True))
        _one_of("infinity", self.infinity, (False, True))
        _one_of("adopt", self.adopt, (False, True))
        _one_of("clip_update", self.clip_update, (False, True))
        _one_of("trust_ratio", self.trust_ratio, ("off", "with_decay", "without_decay"))
        _one_of("cautious", self.cautious, (False, True))
        if self.eps_mode == "keras" and self.amsgrad == "corrected":
            raise ArgumentError(
                "eps_mode='keras' adds eps to the uncorrected root, and amsgrad='corrected' keeps no uncorrected "
                "second moment; use amsgrad='raw' with it, as Keras does"
            )
        variants = {
            "amsgrad": self.amsgrad != "off",
            "nesterov": self.nesterov != "off",
            "schedule_free": self.schedule_free,
            "rectify": self.rectify,
            "infinity": self.infinity,
            "adopt": self.adopt,
            "clip_update": self.clip_update,
            "trust_ratio": self.trust_ratio != "off",
            "cautious": self.cautious,
        }
        chosen = [name for name, on in variants.items() if on]
        if len(chosen) > 1:
            raise ArgumentError(f"{chosen[0]} and {chosen[1]} exclude each other: no paper defines both; leave one out")
        for name in ("schedule_free", "clip_update", "trust_ratio"):
            if variants[name] and self.decay != "decoupled":
                raise ArgumentError(
                    f"{name}={getattr(self, name)!r} is defined for decay='decoupled' only, not 'coupled'"
                )
        if self.adopt and self.eps_mode != "paper":
            raise ArgumentError("adopt=True corrects no moment, so eps has one place: eps_mode='paper', not 'keras'")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The state kept for each parameter, in the order in which every kernel takes it."""
        v = Slot("v", "non-negative")
        if self.schedule_free:
            return (v, Slot("z", "weight", "parameter"))
        moments = (Slot("m", "signed"), v)
        return moments if self.amsgrad == "off" else (*moments, Slot("vmax", "non-negative"))

    @property
    def carries(self) -> tuple[Carry, ...]:
        """The numbers carried beside the slots: `carry_on` gives the next, `scalars` reads them."""
        if self.nesterov == "scheduled":
            return (Carry("mu_product", 1.0),)
        return (Carry("weight_sum", 0.0), Carry("lr_max", 0.0)) if self.schedule_free else ()

    @property
    def reduces(self) -> int:
        """How many sums over each tensor a step needs first: `reduction`, then `adamas.scalars.rescaled`."""
        return 2 if self.trust_ratio != "off" else int(self.clip_update or self.cautious)


@dataclass(frozen=True)
class Hyper:
    """The numbers of a step, in float64. Each tensor may have its own, and each step may bring new ones.

    lr               learning rate, at least 0
    beta1, beta2     decay rates of the moments, in [0, 1)
    eps              added to the root, at least 0
    eps_root         added inside the root, at least 0
    weight_decay     at least 0; coupled or decoupled as `Rule.decay` says
    momentum_decay   of nesterov="scheduled": at least 0
    warmup_steps     of schedule_free: a whole number, 0 for none
    r                of schedule_free: the power of t in the weights of the mean, a whole number from 0 to 16
    weight_lr_power  of schedule_free: the power of the largest lr in them, a whole number from 0 to 16

    The two powers are whole because only they have the same bits on every machine.

    Raises:
        ArgumentError: a number is not finite or outside its range.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    warmup_steps: float = 0.0
    r: float = 0.0
    weight_lr_power: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            try:
                number = float(value) if is_number(value) else math.nan
            except OverflowError:  # an integer beyond float64
                number = math.inf
            if name in ("r", "weight_lr_power"):
                if not (0.0 <= number <= 16.0 and number.is_integer()):
                    raise ArgumentError(f"{name}={value!r}: give a whole number from 0 to 16")
            elif name == "warmup_steps":
                if not (0.0 <= number < math.inf and number.is_integer()):
                    raise ArgumentError(f"{name}={value!r}: give a whole number of at least 0")
            elif name in ("beta1", "beta2"):
                if not 0.0 <= number < 1.0:
                    raise ArgumentError(f"{name}={value!r}: give a number in [0, 1)")
            elif not 0.0 <= number < math.inf:
                raise ArgumentError(f"{name}={value!r}: give a finite number of at least 0")
            object.__setattr__(self, name, number)  # a numpy.float32 would drag the scalars down to its precision


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped, after `grad_scale` has multiplied them; n is a norm of what came out of that.

    kind   "value"        each element to [-bound, bound]
           "norm"         each tensor, of norm n, is multiplied by bound / max(n, bound)
           "global_norm"  all, of norm n together, by bound min(1/n, 1/bound); by NaN where n is not finite
           "torch"        all, of norm n together, by min(1, bound / (n + 1e-6)): torch.nn.utils.clip_grad_norm_
    bound  above 0

    The first three are Keras' clipvalue, clipnorm and global_clipnorm. NaN stays NaN in all of them. Norms are roots of
    `adamas.kernels.reference.sum_of_squares`, in float64; a sum of float32 squares would overflow beyond 1.8e19.

    Raises:
        ArgumentError: no such kind, or a bound that is not above 0.
    """

    kind: Clipping
    bound: float

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, ("value", "norm", "global_norm", "torch"))
        if not (is_number(self.bound) and self.bound > 0.0):
            raise ArgumentError(f"bound={self.bound!r}: give a number above 0")
        object.__setattr__(self, "bound", float(self.bound))


def clip_factor(
    kind: Clipping, norm: Any, bound: Any, where: Any = lambda condition, a, b: a if condition else b
) -> Any:
    """What `Clip` multiplies gradients of this norm by; 1 for "value". float64: libadamas computes the same bits.

    `norm` and `bound` may be float64 scalars of an array module, with its `where`.
    """
    if kind == "norm":
        return bound / where(norm <= bound, bound, norm)
    if kind == "global_norm":
        return bound * (1.0 / where(norm <= bound, bound, norm)) + (norm - norm)
    if kind == "torch":
        factor = bound / (norm + 1e-6)
        return where(factor >= 1.0, 1.0, factor)
    return 1.0


class Scalars(NamedTuple):
    """What the elementwise formula needs to know of (rule, hyper, t), in this order in every kernel.

    grad_scale  multiplies g: -1 to maximize, 1/loss_scale to unscale, below 1 to clip by a norm
    clip        bounds |g| after that, where gradients are clipped by value
    coupled     weight_decay where it is coupled, else 0
    c1, c2      1 - beta1, 1 - beta2; the latter 1 in the first step of ADOPT
    r2          1/bc2 where AMSGrad keeps the corrected moment, beta2 for Adamax, else 1
    eps_root    inside the root, as the kernel's v needs it; for Adamax beside |g|
    alpha       step size
    eps         beside the root, as the kernel's v needs it
    keep        1 - lr weight_decay where decay is decoupled, but in the first step of ADOPT; else 1
    gain        NAdam: the step size of g beside that of m, else 0
    shrink      what decay takes of p where that changes with the step: schedule-free lr_t weight_decay, clip_update and
                trust_ratio "with_decay" lr weight_decay; else 0
    mean        schedule-free: c_t, the weight of z in x, else 0
    pull        schedule-free: 1 - beta1 (1 - c_t), the weight of z in y, else 0
    adaptive    RAdam: 0 while the root is left out of the step; else 1
    limit       ADOPT: (t - 1)^(1/4), which bounds the normalised gradient; else 0
    unit        what makes the sums of `reduction` those of the paper: clip_update sqrt(bc2), trust_ratio lr; else 0
    """

    grad_scale: Any
    clip: Any
    coupled: Any
    c1: Any
    c2: Any
    r2: Any
    eps_root: Any
    alpha: Any
    eps: Any
    keep: Any
    gain: Any
    shrink: Any
    mean: Any
    pull: Any
    adaptive: Any
    limit: Any
    unit: Any


def update(
    rule: Rule,
    p: Any,
    g: Any,
    slots: Sequence[Any],
    s: Scalars,
    *,
    coupled: bool,
    clipped: bool = False,
    tiny: Any,
    xp: Any = np,
) -> tuple[Any, tuple[Any, ...]]:
    """The elementwise formula: new parameter and new slots, as new arrays.

    It is the reference for every kernel, and with `xp` a module of array functions (`abs`, `sqrt`, `where`) other than
    NumPy it is the kernel for compilers of array expressions (XLA).

    Args:
        rule: the switches; they choose among the lines below.
        p, g: parameter and gradient, one shape, one dtype (float32 or float64).
        slots: one array per slot of the rule, of p's shape and dtype.
        s: the scalars, already rounded to p's dtype.
        coupled: whether a coupled decay is added to the gradient (`weight_decay` is not 0).
        clipped: whether elements of the gradient are clipped by value.
        tiny: smallest normal number of the dtype. A moment below it is stored as 0: left alone, the moments of a
            silent row would stay subnormal for ever, and slow.
        xp: the array module.
    """

    def flush(x: Any) -> Any:
        return _flush(x, tiny, xp)

    g = _gradient(p, g, s, coupled, clipped, xp)
    if rule.schedule_free:
        v, z = slots
        v = flush(v + s.c2 * (g * g - v))
        step = s.alpha * (g / (xp.sqrt(v + s.eps_root) + s.eps)) + s.shrink * p
        p = p + s.mean * (z - p) - s.pull * step
        return p, (v, z - step)
    m, v, *rest = slots
    if rule.adopt:
        m = flush(m + s.c1 * (_clamp(g / _largest(xp.sqrt(v), s.eps, xp), s.limit, xp) - m))
        return s.keep * p - s.alpha * m, (m, flush(v + s.c2 * (g * g - v)))
    m = flush(m + s.c1 * (g - m))
    if rule.infinity:
        v = flush(_largest(s.r2 * v, xp.abs(g) + s.eps_root, xp))
        return s.keep * p - s.alpha * (m / (v + s.eps)), (m, v)
    v = flush(v + s.c2 * (g * g - v))
    if rest:
        (vmax,) = rest
        w = flush(_largest(vmax, v * s.r2, xp))
        slots = (m, v, w)
    else:
        w = v
        slots = (m, v)
    root = xp.sqrt(w + s.eps_root) + s.eps
    if rule.rectify:
        root = xp.where(s.adaptive > 0, root, xp.zeros_like(root) + 1)
    if rule.cautious:
        m = xp.where(_against(m, g, xp), xp.zeros_like(m), m)
    step = s.alpha * (m / root) if rule.nesterov == "off" else (s.alpha * m + s.gain * g) / root
    return s.keep * p - step, slots


def reduction(
    rule: Rule,
    p: Any,
    g: Any,
    slots: Sequence[Any],
    s: Scalars,
    *,
    coupled: bool,
    clipped: bool = False,
    tiny: Any,
    xp: Any = np,
) -> tuple[Any, ...]:
    """What a rule that `reduces` adds up the squares of, over all elements of a tensor; nothing is changed.

    Args:
        rule, p, g, slots, s, coupled, clipped, tiny, xp: as for `update`.

    Returns:
        `rule.reduces` arrays, of the new moments and with eps as in `update`. clip_update: g / max(sqrt(v), eps).
        trust_ratio: p, and what the step would take from it without the ratio. cautious: 1 where an element moves.
    """
    g = _gradient(p, g, s, coupled, clipped, xp)
    m, v = slots
    if rule.cautious:
        m = _flush(m + s.c1 * (g - m), tiny, xp)
        return (xp.where(_against(m, g, xp), xp.zeros_like(m), xp.zeros_like(m) + 1),)
    v = _flush(v + s.c2 * (g * g - v), tiny, xp)
    if rule.clip_update:
        root = xp.sqrt(v)
        return (g / xp.where(root <= s.eps, s.eps, root),)
    m = _flush(m + s.c1 * (g - m), tiny, xp)
    return (p, s.alpha * (m / (xp.sqrt(v + s.eps_root) + s.eps)) + s.shrink * p)


def _gradient(p: Any, g: Any, s: Scalars, coupled: bool, clipped: bool, xp: Any) -> Any:
    """The gradient as the moments take it."""
    g = s.grad_scale * g
    if clipped:
        g = _clamp(g, s.clip, xp)
    return g + s.coupled * p if coupled else g


def _against(m: Any, g: Any, xp: Any) -> Any:
    """Where the two have not the same sign, 0 having none; never where m is NaN. Their product would underflow."""
    return xp.where(g <= 0, xp.where(g < 0, -m, xp.zeros_like(m)), m) <= 0


def _flush(x: Any, tiny: Any, xp: Any) -> Any:
    return xp.where(xp.abs(x) < tiny, xp.zeros_like(x), x)


def _clamp(x: Any, bound: Any, xp: Any) -> Any:
    """x within [-bound, bound]; NaN stays."""
    return xp.where(x > bound, bound, xp.where(x < -bound, -bound, x))


def _largest(a: Any, b: Any, xp: Any) -> Any:
    """A maximum that propagates NaN."""
    return xp.where((a > b) | (a != a), a, b)


def evaluation_weights(y: np.ndarray, z: np.ndarray, beta1: float) -> np.ndarray:
    """x of schedule_free, with which a model is evaluated: y + (1 - 1/beta1)(z - y), in float64, rounded to y's dtype.

    Args:
        y: the parameter as it is trained.
        z: its slot.
        beta1: above 0; of the last step.

    `training_weights` goes back. There and back, y changes by at most half a unit in the last place of its own and
    beta1 half units in the last place of x (in float64 by a few): each way rounds once.
    """
    if not beta1 > 0.0:
        raise ArgumentError(f"beta1={beta1!r}: without momentum y is z, and the mean cannot be found from it")
    return _towards(y, z, 1.0 - 1.0 / beta1)


def training_weights(x: np.ndarray, z: np.ndarray, beta1: float) -> np.ndarray:
    """y from x, the other way round: x + (1 - beta1)(z - x), in float64, rounded to x's dtype."""
    return _towards(x, z, 1.0 - beta1)


def _towards(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    wide = a.astype(np.float64)
    return np.asarray(wide + share * (b - wide), a.dtype)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise ArgumentError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")


def is_number(value: object) -> bool:
    """Whether it is a real number, of Python or of NumPy."""
    return isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)


class Preset(NamedTuple):
    """A peer's optimizer to the letter: its formula and its defaults."""

    rule: Rule
    hyper: Hyper


PRESETS: Mapping[str, Preset] = {
    # torch.optim 2.13
    "torch.Adam": Preset(Rule(decay="coupled"), Hyper()),
    "torch.AdamW": Preset(Rule(), Hyper(weight_decay=1e-2)),
    "torch.NAdam": Preset(Rule(decay="coupled", nesterov="scheduled"), Hyper(lr=2e-3)),
    "torch.Adamax": Preset(Rule(decay="coupled", infinity=True), Hyper(lr=2e-3)),
    "torch.RAdam": Preset(Rule(eps_mode="keras", decay="coupled", rectify=True), Hyper()),  # its eps is that of Keras
    # keras.optimizers 3.15; decay is decoupled in every Keras optimizer
    "keras.Adam": Preset(Rule(eps_mode="keras"), Hyper(eps=1e-7)),
    "keras.AdamW": Preset(Rule(eps_mode="keras"), Hyper(eps=1e-7, weight_decay=4e-3)),
    "keras.Adamax": Preset(Rule(eps_mode="keras", infinity=True), Hyper(eps=1e-7)),
    "keras.Lamb": Preset(Rule(trust_ratio="without_decay"), Hyper(eps=1e-7)),
    "keras.Nadam": Preset(Rule(nesterov="scheduled"), Hyper(eps=1e-7, momentum_decay=1.0)),
    # optimi 0.3; its learning rate has no default, 1e-3 is ours
    "optimi.StableAdamW": Preset(Rule(clip_update=True), Hyper(beta2=0.99, eps=1e-6, weight_decay=1e-2)),
    # optax 0.2.8; its learning rates have no default, 1e-3 is ours
    "optax.adam": Preset(Rule(), Hyper()),
    "optax.adamw": Preset(Rule(), Hyper(weight_decay=1e-4)),
    "optax.amsgrad": Preset(Rule(amsgrad="corrected"), Hyper()),
    "optax.nadam": Preset(Rule(nesterov="constant"), Hyper()),
    "optax.nadamw": Preset(Rule(nesterov="constant"), Hyper(weight_decay=1e-4)),
    "optax.adamax": Preset(Rule(infinity=True), Hyper()),
    "optax.adamaxw": Preset(Rule(infinity=True), Hyper(weight_decay=1e-4)),
    "optax.radam": Preset(Rule(rectify=True), Hyper()),
    "optax.lamb": Preset(Rule(trust_ratio="with_decay"), Hyper(eps=1e-6)),
    # torch-adopt 0.1, its authors' own; optax.contrib.adopt is the same without decay
    "adopt.ADOPT": Preset(Rule(decay="coupled", adopt=True), Hyper(beta2=0.9999, eps=1e-6)),
    # schedulefree 1.4, and optax.contrib.schedule_free_adamw but for its warmup: there step t takes the rate of step
    # t - 1, so the first moves nothing, while the weights of the mean are those of step t, as here
    "schedulefree.AdamWScheduleFree": Preset(Rule(schedule_free=True), Hyper(lr=2.5e-3)),
}
