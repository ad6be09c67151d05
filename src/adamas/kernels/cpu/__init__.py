"""The CPU kernel: libadamas (C++), and its shim for NumPy arrays.

`libadamas/adamas.h` is the interface; `rule_loops.h` beside it has the loops of the rules, `codes.h` and `int8.h` those
of the formats, `staged.cpp` what runs them one after the other. The library is one shared file that the TensorFlow op
loads too, so threads, instruction sets and flags exist once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adamas.errors import ArgumentError, FaultError, KernelError
from adamas.formats import Blocks, Stored, name_key
from adamas.formats import arrays as stored_arrays
from adamas.kernels import arrays
from adamas.kernels.reference import TWO_RESULTS, ieee, norm_limit
from adamas.rule import Clip, Rule

try:
    import adamas.kernels.cpu._shim as _shim  # `from ... import` would blame a circular import for a missing file
except ImportError as error:  # installed where no C++ compiler was found, or built for another Python
    _shim = None  # type: ignore[assignment]
    _why_not: str | None = f"libadamas is not in this installation ({error}); install a C++ compiler and reinstall"
else:
    _why_not = None

# adamas.h
_EPS_MODE = {"paper": 0, "keras": 1}
_DECAY = {"decoupled": 0, "coupled": 1}
_AMSGRAD = {"off": 0, "raw": 1, "corrected": 2}
_NESTEROV = {"off": 0, "constant": 1, "scheduled": 2}
_TRUST_RATIO = {"off": 0, "with_decay": 1, "without_decay": 2}
_DTYPE = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2}
WEIGHTS = {"nearest": 0, "stochastic": 1, "split": 2}
_CLIP = {"value": 1, "norm": 2, "global_norm": 3, "torch": 4}
_ISA = {"scalar": 0, "sse": 1, "avx2": 2, "neon": 3}
_ISA_NAMES = {code: name for name, code in _ISA.items()}


def why_not() -> str | None:
    """Why this kernel cannot serve here, or None where it can."""
    return _why_not


def include_dir() -> Path:
    """The folder with `adamas.h`."""
    return Path(__file__).parent / "libadamas"


def library_path() -> Path:
    """The shared library.

    Raises:
        KernelError: it is not in this installation.
    """
    _require()
    beside = Path(_shim.__file__).parent  # in an editable install that is not this folder
    for name in ("libadamas.so", "libadamas.dylib"):
        if (beside / name).exists():
            return beside / name
    raise KernelError(f"no libadamas in {beside}; reinstall adamas")


def rule_codes(rule: Rule) -> tuple[int, ...]:
    """The rule as `adamas_rule` in adamas.h spells it."""
    return (
        _EPS_MODE[rule.eps_mode],
        _DECAY[rule.decay],
        _AMSGRAD[rule.amsgrad],
        int(rule.maximize),
        _NESTEROV[rule.nesterov],
        int(rule.schedule_free),
        int(rule.rectify),
        int(rule.infinity),
        int(rule.adopt),
        int(rule.clip_update),
        _TRUST_RATIO[rule.trust_ratio],
        int(rule.cautious),
    )


def clip_code(clip: Clip | None) -> int:
    """How gradients are clipped, as adamas.h spells it."""
    return 0 if clip is None else _CLIP[clip.kind]


class Plan:
    """A set of arrays that are stepped together in one native call; the interface is `kernels.reference.Plan`'s."""

    def __init__(
        self,
        rule: Rule,
        names: Sequence[str],
        params: Sequence[np.ndarray],
        slots: Sequence[Sequence[Stored]],
        seed: int = 0,
        formats: arrays.Formats = None,
        weights: str = "nearest",
        average: bool = False,
        verify: int = 0,
        rounding_names: Sequence[str] | None = None,
    ) -> None:
        _require()
        arrays.check_plan(rule, names, params, slots, formats, weights, average, verify)
        self._dtype = params[0].dtype if params else None
        self._names, self._params, self._slots = list(names), list(params), [list(slot) for slot in slots]
        self._plan, self._average = None, average
        self.limit = norm_limit(params)
        if names:
            native = ("float32",) * len(rule.slots)
            values = [[stored_arrays(x)[0] for x in slot] for slot in self._slots]
            scales = [[x.scales if isinstance(x, Blocks) else None for x in slot] for slot in self._slots]
            self._plan = _shim.Plan(
                rule_codes(rule),
                self._params,
                values,
                scales,
                [name_key(name) for name in rounding_names or names],
                _DTYPE[params[0].dtype.name],
                [FORMATS[name] for own in arrays.each(formats, len(names)) for name in own or native],
                WEIGHTS[weights],
                average,
                verify,
                seed % 2**64,
            )

    def step(
        self,
        grads: Sequence[np.ndarray | None],
        t: np.ndarray,
        table: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        grad_scale: float = 1.0,
        clip: Clip | None = None,
        check: bool = False,
        squares: float | None = None,
        taken: np.ndarray | None = None,
        carry: np.ndarray | None = None,
        average_decay: float | None = None,
        statistics: np.ndarray | None = None,
    ) -> float | None:
        """One step of every tensor that has a gradient, in place; see `kernels.reference.Plan.step`."""
        has_norm = check or (clip is not None and clip.kind in ("global_norm", "torch"))
        if (average_decay is not None) != self._average:
            raise ValueError(f"average_decay={average_decay!r} for a plan with average={self._average}")
        if squares is not None and has_norm:
            with ieee():
                norm = abs(grad_scale) * math.sqrt(squares)
            if check and not norm < self.limit:
                return norm
        if self._plan is None:
            return (norm if squares is not None else 0.0) if has_norm else None
        grads = grads if type(grads) is list else list(grads)
        kind, bound = clip_code(clip), 0.0 if clip is None else clip.bound
        decay = 1.0 if average_decay is None else average_decay
        status, own = self._plan.step(
            grads, t, table, rows, grad_scale, kind, bound, check, squares, taken, carry, decay, statistics
        )
        self._check(status, grads)
        return (own if squares is None else norm) if has_norm else None

    def ready(self, grads: Sequence[np.ndarray | None], others: Sequence[Plan] = ()) -> None:
        """What `step` checks first; see `kernels.reference.Plan.ready`."""
        if self._plan is None:
            return
        natives = [other._plan for other in others if other._plan is not None]
        status = self._plan.ready(grads if type(grads) is list else list(grads), natives)
        if status >= 0:
            arrays.check_step(self._names, self._params, self._slots, grads, self._dtype)
            arrays.check_beside([(plan._names, plan._params, plan._slots) for plan in (self, *others)], grads)
        self._check(status, grads)

    def squares(self, grads: Sequence[np.ndarray | None]) -> np.ndarray:
        """The sum of squares of each gradient; see `kernels.reference.Plan.squares`."""
        found = np.zeros(len(self._names), np.float64)
        if self._plan is not None:
            status = self._plan.squares(grads if type(grads) is list else list(grads), found)
            self._check(status, grads)
        return found

    def _check(self, status: int, grads: Sequence[np.ndarray | None]) -> None:
        """What the native call answered: -1 and -3 - i, where tensor i differs, are done; else nothing is touched."""
        if status == -1:
            return
        if status == -2:
            raise KernelError("another thread is in the middle of a step of this optimizer; take turns with a lock")
        if status <= -3:
            raise FaultError(TWO_RESULTS.format(self._names[-3 - status]))
        arrays.check_step(self._names, self._params, self._slots, grads, self._dtype)
        raise KernelError(f"libadamas refused the arrays of {self._names[status]!r} without a reason; please report it")


def reads(kind: type) -> bool:
    """Whether a step takes gradients of this type as they are, beside NumPy's arrays: tensors that DLPack's C exchange
    reads, such as those of torch from 2.10 on."""
    return _shim is not None and bool(_shim.reads(kind))


def use_torch(tensor: type | None, view: int = 0, gradient: int = 0, changed: int = 0) -> None:
    """From now on torch's tensors are read by these functions (kernels/torch/tensors.cc); None: by DLPack again."""
    _require()
    _shim.use_torch(tensor, view, gradient, changed)


def changed(tensors: list[Any]) -> bool:
    """Tell torch's autograd that these tensors were written; False where that is left to the caller."""
    return _shim is not None and bool(_shim.changed(tensors))


def watch(params: list[list[Any]], state: dict[Any, Any]) -> Any:
    """What finds out at each step whether an optimizer's tensors are those of the last: `adamas.torch.watch`."""
    _require()
    return _shim.Watch(params, state)


def set_threads(n: int | None) -> None:
    """Threads of libadamas' own pool, the calling one included; None for what affinity and cgroup quota allow.

    The results do not depend on it. TensorFlow's op uses TensorFlow's threads instead.

    Raises:
        ArgumentError: n is not a positive integer.
    """
    _require()
    if n is not None and not (isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 4096):
        raise ArgumentError(f"set_threads({n!r}): give an integer from 1 to 4096, or None for the automatic choice")
    _shim.set_threads(n or 0)


def get_threads() -> int:
    """How many threads the next step may use, the calling one included."""
    return 1 if _shim is None else _shim.get_threads()


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this build has and this processor runs, slowest first."""
    if _shim is None:
        return ()
    before = _shim.get_isa()
    found = tuple(name for name, code in _ISA.items() if _shim.set_isa(code) == 0)
    _shim.set_isa(before)
    return found


def set_instruction_set(name: str | None) -> None:
    """Force the loops of one instruction set ("scalar", "sse", "avx2", "neon"); None for the best there is.

    The results do not depend on it.

    Raises:
        ArgumentError: there is no such instruction set in this build or on this processor.
    """
    _require()
    if name is None:
        _shim.set_isa(-1)
    elif name not in _ISA or _shim.set_isa(_ISA[name]) != 0:
        raise ArgumentError(
            f"set_instruction_set({name!r}): here it is one of {', '.join(instruction_sets())}, or None"
        )


def get_instruction_set() -> str | None:
    """The instruction set of the next step; None without libadamas."""
    return None if _shim is None else _ISA_NAMES[_shim.get_isa()]


def build_info() -> str:
    """Compiler and flags that libadamas was built with."""
    _require()
    return str(_shim.build_info())


def _require() -> None:
    if _why_not:
        raise KernelError(_why_not)
