"""Are these the gradients of this function? A check by central differences, in float64.

For one element x of a parameter, with F(h) = (f(x + h) - f(x)) / h forwards, B(h) = (f(x) - f(x - h)) / h backwards and
D = (F + B) / 2,

    D(h) = f'(x) + h^2 f'''(x) / 6 + O(h^4) + rounding

The value measured is D(h/2). Its tolerance is not chosen but computed, for each element, as the sum of

1. Truncation: 2 |D(h) - D(h/2)|. For a smooth f the error of D(h/2) is a third of that difference.
2. Kinks: K = |2 (F - B)(h/2) - (F - B)(h)|, which is O(h^3) for a smooth f. For a kink of jump a (ReLU, |x|) at a
   distance c <= h/2 from x, D(h/2) is wrong by a (1/2 - c/h), while |D(h) - D(h/2)| = a c / 2h and K = a |1 - 3c/h|;
   the first plus half the second is never less than the error, and twice that is allowed.
3. Rounding of f: (8 s + 8 s) / h, where s is the standard deviation of f's rounding error. It is measured with a
   difference table (More & Wild, "Estimating Computational Noise", SIAM J. Sci. Comput. 33, 2011): at 8 points so close
   together that f is a straight line, the high differences of f are noise alone. At least one unit in the last place.
   An f that computes in float32 is constant there and would seem to have none: it is refused, because it is also
   constant over a distance in which its slope says that it changes by 64 units in the last place.
4. Rounding of the gradient: 128 u times the tensor's largest, where u is the unit roundoff of its dtype (2^-24, 2^-53).
   The rounding error of a sum of n similar products is near sqrt(n) u times their size; that is n = 16,000.

The points x + h and x - h are rounded before f sees them, and their rounded difference is divided by, so h itself
brings no error. An element whose tolerance is so wide that a real mistake would pass (a kink nearby, an f that is noisy
because it computes in float32) is not counted as checked but as `uncertain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adamas.errors import ArgumentError, ArrayError, GradientError

_STEP = 2.0**-16  # h, about u^(1/3): its truncation, h^2, and its rounding, u / h, are of one size
_NOISE_STEP = 2.0**-40  # between the points of the difference table
_NOISE_POINTS = 8
_SIGMAS = 8.0
_GRADIENT_ROUNDINGS = 128.0
_JUDGED = 1e-3  # a tolerance up to this part of the tensor's largest gradient shows a mistake that matters


@dataclass(frozen=True)
class WrongElement:
    """One element whose gradient is not the derivative."""

    tensor: str
    index: tuple[int, ...]
    given: float
    measured: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"tensor {self.tensor!r}, element {list(self.index)}: the gradient given is {self.given:.9g}, "
            f"the derivative measured is {self.measured:.9g} +- {self.tolerance:.2g}"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found.

    wrong      the elements that differ by more than their tolerance, worst first
    checked    how many elements were compared
    uncertain  how many more were looked at but could not be judged: a kink nearby, or f too noisy
    largest    the largest difference of a checked element, in units of its tolerance; at most 1 if all is well
    """

    wrong: tuple[WrongElement, ...]
    checked: int
    uncertain: int
    largest: float

    @property
    def ok(self) -> bool:
        """Whether no element is wrong."""
        return not self.wrong


def check_gradients(
    f: Callable[[Any], Any],
    params: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    grads: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    *,
    samples: int = 64,
    seed: int = 0,
    raises: bool = True,
) -> GradientReport:
    """Compare gradients with central differences of the function, in float64.

    Args:
        f: takes parameters in the container that `params` is, and returns the loss, one number. It is called with
            float64 copies of the parameters, 4 times for each element looked at, and has to compute in float64 from
            them (NumPy does, also with float32 data) and to give the same result each time (fix its random seeds).
        params: list, tuple or dict of float32 or float64 arrays. They are not changed.
        grads: the gradients to check, taken at `params`: the same names or order, and the same shapes.
        samples: elements looked at in each tensor: all of a smaller tensor; of a larger one, half are those with the
            largest gradient and half a random choice.
        seed: of that choice.
        raises: raise on a wrong element; False to get it in the report instead.

    Returns:
        A `GradientReport`.

    Raises:
        GradientError: an element is wrong (unless `raises` is False); names the tensor and the element, the value
            given, the value measured and its tolerance.
        ArgumentError: f does not return one finite float64 number, differs from call to call, or is so noisy or full of
            kinks that no element could be judged.
        ArrayError: the gradients do not fit the parameters.

    The tolerance is computed for each element, not chosen: see the top of this file.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import check_gradients
        >>> w = np.array([1.0, 2.0, 3.0])
        >>> check_gradients(lambda p: (p["w"] ** 3).sum(), {"w": w}, {"w": 3 * w**2}).ok
        True
    """
    if not isinstance(samples, int) or samples < 1:
        raise ArgumentError(f"samples={samples!r}: give an integer of at least 1")
    names, given = _matched(params, grads)
    values = [np.array(param, np.float64, order="C") for param in _values(params)]
    function = _Function(f, params, names, values)
    rng = np.random.default_rng(seed)
    wrong: list[tuple[float, WrongElement]] = []
    checked = uncertain = 0
    largest = 0.0
    for name, value, grad in zip(names, values, given, strict=True):
        flat, gradient = value.reshape(-1), np.asarray(grad, np.float64).reshape(-1)
        if not flat.size:
            continue
        scale = float(np.max(np.abs(gradient), where=np.isfinite(gradient), initial=0.0))
        own = _GRADIENT_ROUNDINGS * float(np.finfo(grad.dtype).eps) / 2 * scale
        chosen = _chosen(gradient, samples, rng).tolist()
        slopes = [function.slopes(flat, i) for i in chosen]
        noise = function.noise(flat, rng)
        steepest = max(range(len(slopes)), key=lambda k: abs(slopes[k].measured))
        function.check_precision(name, flat, chosen[steepest], slopes[steepest])
        for i, slope in zip(chosen, slopes, strict=True):
            measured, bend, rounding = slope.measured, slope.truncation + slope.kink, 2 * _SIGMAS * noise / slope.step
            tolerance = bend + rounding + own
            sharp = tolerance <= _JUDGED * max(scale, abs(measured))
            precise = bend <= rounding and noise <= 2.0**-40 * abs(function.base)  # good enough to see a 0 as 0
            if not (sharp or precise):
                uncertain += 1
                continue
            checked += 1
            error = abs(float(gradient[i]) - measured)
            excess = error / tolerance if math.isfinite(error) else math.inf
            largest = max(largest, excess)
            if excess > 1.0:
                index = tuple(int(k) for k in np.unravel_index(i, value.shape))
                wrong.append((excess, WrongElement(name, index, float(gradient[i]), measured, tolerance)))
    if uncertain and not checked:
        raise ArgumentError(
            f"none of {uncertain} elements could be judged: f has a kink at each, or is too noisy; "
            "give parameters away from its kinks, and compute in float64 in f"
        )
    wrong.sort(key=lambda pair: -pair[0])
    report = GradientReport(tuple(element for _, element in wrong), checked, uncertain, largest)
    if raises and not report.ok:
        more = f" ({len(wrong) - 1} more of {checked} elements checked are wrong)" if len(wrong) > 1 else ""
        raise GradientError(f"{report.wrong[0]}{more}; correct the gradient, or the function")
    return report


class _Slope(NamedTuple):
    """D(h/2) by one element, h, and the first two terms of its tolerance."""

    measured: float
    step: float
    truncation: float
    kink: float


class _Function:
    """f at parameters of which one element at a time is moved."""

    def __init__(self, f: Callable[[Any], Any], params: Any, names: list[str], values: list[np.ndarray]) -> None:
        self._f = f
        if isinstance(params, Mapping):
            self._point: Any = dict(zip(names, values, strict=True))
        else:
            self._point = tuple(values) if isinstance(params, tuple) else list(values)
        self.base = self()
        if not math.isfinite(self.base):
            raise ArgumentError(f"f is {self.base} at these parameters; a gradient can be checked where it is finite")
        if self() != self.base:
            raise ArgumentError(
                "f gives different results for the same parameters; fix its random seeds and its data, and let it "
                "leave the parameters alone"
            )

    def __call__(self) -> float:
        with np.errstate(all="ignore"):  # a point beside the given one may overflow; its element is then uncertain
            result = self._f(self._point)
        array = np.asarray(result)
        if array.shape != () or array.dtype.kind not in "fiu":
            raise ArgumentError(
                f"f returned {array.dtype}{list(array.shape)}; it must return one real number, the loss"
            )
        if array.dtype.kind == "f" and array.dtype.itemsize < 8:
            raise ArgumentError(
                f"f returned {array.dtype} and the check needs float64; compute in the dtype of its parameters in f"
            )
        return float(array)

    def noise(self, flat: np.ndarray, rng: np.random.Generator) -> float:
        """The standard deviation of f's rounding error where this tensor is moved."""
        start = flat.copy()
        direction = rng.choice([-_NOISE_STEP, _NOISE_STEP], flat.size) * np.maximum(1.0, np.abs(start))
        results = []
        for k in range(_NOISE_POINTS):
            flat[:] = start + k * direction
            results.append(self())
        flat[:] = start
        table, estimates = np.array(results), [float(np.spacing(abs(self.base)))]
        for k in range(1, _NOISE_POINTS - 1):
            with np.errstate(all="ignore"):  # infinite where f overflows beside the given point
                table = np.diff(table)
            largest = float(np.max(np.abs(table))) or 1.0  # whose square may overflow
            if not math.isfinite(largest):
                return math.inf
            if k >= 3:
                gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
                estimates.append(largest * math.sqrt(gamma * float(np.mean((table / largest) ** 2))))
        return max(estimates)

    def check_precision(self, name: str, flat: np.ndarray, i: int, slope: _Slope) -> None:
        """f must change where its slope says so; one that computes in fewer digits does not."""
        x = float(flat[i])
        change = 64.0 * float(np.spacing(abs(self.base)))
        near_a_kink = not slope.truncation + slope.kink < abs(slope.measured) / 2  # f may be flat here; or it is NaN
        if near_a_kink or abs(slope.measured) * slope.step / 2 <= change:
            return
        distance = max(change / abs(slope.measured), 4.0 * float(np.spacing(abs(x))))
        results = []
        for moved in (x - distance, x + distance):  # on one side of a kink it may be constant
            flat[i] = moved
            results.append(self())
        flat[i] = x
        if results[0] == results[1] == self.base:
            raise ArgumentError(
                f"f has a slope by tensor {name!r} and does not change over a small distance, so it computes in less "
                "than float64; compute in the dtype of its parameters in f"
            )

    def slopes(self, flat: np.ndarray, i: int) -> _Slope:
        """The derivative by element i."""
        x = float(flat[i])
        h = _STEP * max(1.0, abs(x))
        slopes = []
        for step in (h, h / 2):
            above, below = x + step, x - step
            flat[i] = above
            f_above = self()
            flat[i] = below
            f_below = self()
            flat[i] = x
            slopes.append(((f_above - self.base) / (above - x), (self.base - f_below) / (x - below)))
        (forward, backward), (forward_half, backward_half) = slopes
        measured = (forward_half + backward_half) / 2
        truncation = 2 * abs((forward + backward) / 2 - measured)
        kink = abs(2 * (forward_half - backward_half) - (forward - backward))
        return _Slope(measured, h, truncation, kink)


def _chosen(gradient: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    if gradient.size <= samples:
        return np.arange(gradient.size)
    largest = np.argpartition(-np.abs(gradient), samples // 2)[: samples // 2]
    others = np.setdiff1d(np.arange(gradient.size), largest)
    return np.sort(np.concatenate([largest, rng.choice(others, samples - len(largest), replace=False)]))


def _matched(params: Any, grads: Any) -> tuple[list[str], list[np.ndarray]]:
    """The names of the parameters, and the gradients in their order."""
    if isinstance(params, Mapping) != isinstance(grads, Mapping):
        raise ArgumentError("give params and grads in the same kind of container, both by name or both in order")
    names = [str(name) for name in params] if isinstance(params, Mapping) else [str(i) for i in range(len(params))]
    if len(grads) != len(names) or (isinstance(params, Mapping) and set(grads) != set(params)):
        given = sorted(map(str, grads)) if isinstance(grads, Mapping) else len(grads)
        raise ArrayError(f"there are gradients {given} for parameters {names}; give one for each")
    ordered = [grads[name] for name in params] if isinstance(params, Mapping) else list(grads)
    for name, param, grad in zip(names, _values(params), ordered, strict=True):
        for what, array in (("parameter", param), ("gradient", grad)):
            if not isinstance(array, np.ndarray) or array.dtype.name not in ("float32", "float64"):
                kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise ArrayError(f"tensor {name!r}: the {what} is {kind}; give an array of float32 or float64")
        if grad.shape != param.shape:
            raise ArrayError(f"tensor {name!r}: the gradient has shape {grad.shape} and the parameter {param.shape}")
    return names, ordered


def _values(params: Any) -> list[np.ndarray]:
    return list(params.values()) if isinstance(params, Mapping) else list(params)
