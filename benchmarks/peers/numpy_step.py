"""adamas.numpy, and the limit of the machine in the same process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import adamas.numpy
from adamas.kernels import cpu
from benchmarks.job import Job

SOURCE = Path(__file__).resolve().parents[1] / "limit.cpp"


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    grads = [0.01 * rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    optimizer = adamas.numpy.Adam(params, lr=1e-3)

    def ours() -> None:
        optimizer.step(grads)

    if len(params) == 1:  # over the very same memory: where an array lies makes a difference of its own
        (means,), (squares,) = optimizer._slots
        arrays = (params[0], grads[0], means, squares)
    else:
        size = sum(gradient.size for gradient in grads)
        arrays = tuple(np.full(size, 0.5, np.float32) for _ in range(4))
    return {"limit": lambda: Job(limit(arrays)), "adamas.numpy": lambda: Job(ours)}


def limit(arrays: tuple[np.ndarray, ...]) -> Callable[[], float]:
    """One pass of limit.cpp over p, g, m, v with as many threads as libadamas has."""
    threads, size = cpu.get_threads(), arrays[0].size
    function = _compile().limit
    function.restype = ctypes.c_double
    pointer = ctypes.POINTER(ctypes.c_float)
    function.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_int32]
    return lambda: float(function(*(a.ctypes.data_as(pointer) for a in arrays), size, threads))


def _compile() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O3", "-march=native", "-ffp-contract=off"]
        subprocess.run([*command, "-shared", "-fPIC", "-pthread", str(SOURCE), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
