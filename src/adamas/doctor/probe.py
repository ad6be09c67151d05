"""One framework, tried in a process of its own: frameworks crash, hang or conflict with each other on import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from adamas.errors import AdamasError
from adamas.kernels import build as shims
from adamas.kernels import cpu, reference
from adamas.rule import PRESETS

FRAMEWORKS = ("numpy", "tensorflow", "torch", "jax")
_LIMIT = 120.0  # seconds; importing TensorFlow takes 3 to 20
_BUILDING = 900.0


def probe(name: str, build: bool = False, python: str = sys.executable, limit: float | None = None) -> dict[str, Any]:
    """What a process of its own found out about a framework.

    Args:
        name: one of `FRAMEWORKS`.
        build: build its shim now, if it has one and that is not built.
        python: the interpreter.
        limit: seconds, after which it is given up.

    Returns:
        "version"   of the framework
        "seconds"   that its import took
        "kernels"   the name of each kernel: None, or why it cannot serve; the first that can is the one that does
        "devices"   that it sees, where it says
        "built"     whether its shim over libadamas is built; None where it needs none
        "exact"     whether a step gave the bits of the reference; None where none was taken
        "problem"   why there is nothing of this: what it died of, in one line
    """
    limit = limit or (_BUILDING if build else _LIMIT)
    command = [python, "-c", f"from adamas.doctor.probe import main; main({name!r}, {build!r})"]
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": "tensorflow"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=variables)
    except subprocess.TimeoutExpired:
        return {"problem": f"gave no answer within {limit:.0f} s"}
    lines = ended.stdout.splitlines()
    if ended.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = ([line for line in ended.stderr.splitlines() if line.strip()] or ["it printed nothing"])[-1].strip()
    if ended.returncode < 0:
        return {"problem": f"crashed with {signal.Signals(-ended.returncode).name}: {last}"}
    return {"problem": last}


def _numpy(build: bool) -> dict[str, Any]:
    from adamas.numpy import Adam

    p = _start()
    optimizer = Adam([p], lr=0.5)
    for gradient in _gradients():
        optimizer.step([gradient])
    return {
        "version": np.__version__,
        "kernels": {"cpu": cpu.why_not(), "reference": None},
        "built": None,
        "exact": _same(p),
    }


def _tensorflow(build: bool) -> dict[str, Any]:
    import tensorflow as tf

    from adamas.kernels.tensorflow import build as builder
    from adamas.kernels.tensorflow import op
    from adamas.tensorflow import Adam

    reason, built = _shim(build, builder, op)
    found: dict[str, Any] = {
        "version": tf.__version__,
        "kernels": {"native": reason, "xla": None},
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "built": built,
        "exact": None,
    }
    if built and reason is None:
        variable = tf.Variable(_start())
        optimizer = Adam(0.5)
        for gradient in _gradients():
            optimizer.apply([tf.constant(gradient)], [variable])
        found["exact"] = _same(variable.numpy(), "keras.Adam")
    return found


def _torch(build: bool) -> dict[str, Any]:
    import torch

    from adamas.kernels.torch import build as builder
    from adamas.torch import Adam

    reader = None
    if build:
        try:
            builder.build()
        except AdamasError as error:
            reader = str(error)
    p = torch.nn.Parameter(torch.tensor(_start()))
    optimizer = Adam([p], lr=0.5)
    for gradient in _gradients():
        p.grad = torch.tensor(gradient)
        optimizer.step()
    cuda = [f"cuda:{i} (torch.optim serves it)" for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "kernels": {"cpu": cpu.why_not(), "reference": None},
        "devices": ["cpu", *cuda],
        "built": builder.existing() is not None,
        "reader": reader,
        "exact": _same(p.detach().numpy()),
    }


def _jax(build: bool) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from adamas.jax import adam
    from adamas.kernels.jax import build as builder
    from adamas.kernels.jax import op

    reason, built = _shim(build, builder, op)
    found: dict[str, Any] = {
        "version": jax.__version__,
        "kernels": {"native": reason, "xla": None},
        "devices": [str(device) for device in jax.devices()],
        "built": built,
        "exact": None,
    }
    if built and reason is None and jax.default_backend() == "cpu":
        params, optimizer = jnp.asarray(_start()), adam(0.5, kernel="native")
        state = optimizer.init(params)
        for gradient in _gradients():
            params, state = optimizer.step(params, jnp.asarray(gradient), state)
        found["exact"] = _same(np.asarray(params))
    return found


_PROBES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "numpy": _numpy,
    "tensorflow": _tensorflow,
    "torch": _torch,
    "jax": _jax,
}


def _shim(build: bool, builder: Any, op: Any) -> tuple[str | None, bool]:
    """Why the native kernel of a framework cannot serve, and whether its shim is built: only if `build` says so."""
    if (reason := cpu.why_not()) is not None:
        return f"it is a shim over libadamas, and {reason}", False
    try:
        if not build and builder.existing() is None:
            if shims.find_compiler() is None:
                return "its shim is not built, and there is no C++ compiler", False
            return None, False
    except AdamasError as error:
        return str(error), False
    problem: str | None = op.why_not()
    return problem, problem is None


def _start() -> np.ndarray:
    return np.linspace(-3.0, 5.0, 1001, dtype=np.float32)


def _gradients() -> list[np.ndarray]:
    return [np.sin(_start() * t) for t in (1, 2, 3)]


def _same(found: np.ndarray, preset: str = "torch.Adam") -> bool:
    """Whether these are the bits that the reference in NumPy gives, after the gradients above."""
    rule, hyper = PRESETS[preset]
    p, m, v = _start(), *np.zeros((2, 1001), np.float32)
    plan = reference.Plan(rule, ["p"], [p], [[m], [v]])
    for t, gradient in enumerate(_gradients(), 1):
        plan.step([gradient], np.array([t]), np.array([astuple(replace(hyper, lr=0.5))]))
    return found.tobytes() == p.tobytes()


def main(name: str, build: bool) -> None:
    """The process of `probe`: the last line that it prints is what it found, as JSON."""
    began = time.perf_counter()
    found = _PROBES[name](build)
    print(json.dumps({**found, "seconds": round(time.perf_counter() - began, 2), "problem": None}))
