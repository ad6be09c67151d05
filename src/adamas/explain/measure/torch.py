"""A loop with `torch.optim`: its step on copies of the parameters, by torch and by Adamas."""

from __future__ import annotations

import math
from typing import Any

import torch

from adamas.explain.measure import AFTER, BEFORE, Comparison, medians, room_for, turns
from adamas.explain.record import Record, Used
from adamas.explain.replace.torch import own_step
from adamas.torch import Stepper


def measure(record: Record, seconds: float) -> list[Comparison]:
    """What can be said of each optimizer's loop; `seconds` is for all of them."""
    loops = [used for used in record.used if used.framework == "torch" and used.steps.calls]
    loops.sort(key=lambda used: -used.steps.seconds)
    return [_compare(record, used, seconds / len(loops)) for used in loops]


def _compare(record: Record, used: Used, seconds: float) -> Comparison:
    steps, lasted = used.steps.after_first
    found = Comparison(f"the loop around {used.name}, after its first step", steps, lasted)
    found.names = {BEFORE: used.name, AFTER: used.by if used.why_not is None else "the same"}
    if used.why_not is not None:
        found.missing["the step with Adamas"] = used.why_not
        return found
    sizes = [math.prod(shape) * dtype.itemsize for _, group in used.clone for shape, dtype in group]
    problem = room_for(10 * sum(sizes))
    if problem is None:
        with record.paused(substituting=False):
            stock, ours = _copy(used), _copy(used)
            stepper = Stepper()
            times = medians(turns({BEFORE: own_step(stock), AFTER: lambda: stepper.step(ours)}, seconds))
        found.add_loop(times)
        found.how.append(
            f"the step alone, on copies of the script's {len(sizes)} parameters with gradients of random numbers, by "
            "turns, median"
        )
    else:
        found.missing["the step before and after"] = problem
    return found


def _copy(used: Used) -> Any:
    """An optimizer with the script's settings over new parameters of the same shapes, each with a gradient."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for settings, shapes in used.clone:
        params = []
        for shape, dtype in shapes:
            params.append(torch.nn.Parameter(0.1 * torch.randn(shape, dtype=dtype, generator=generator)))
            params[-1].grad = 0.01 * torch.randn(shape, dtype=dtype, generator=generator)
        if params:
            groups.append({**settings, "params": params})
    return getattr(torch.optim, used.name.rpartition(".")[2])(groups)
