"""The limit of this machine: a plain loop with the traffic of Adam in float32, and the clock of a core."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adamas.kernels import cpu

SOURCE = Path(__file__).with_name("limit.cc")
CHUNK = 131072  # elements of the NumPy loop's pieces: the best of 4096 to 131072 (Xeon, 2 cores, 2 MiB of L2, 2026-11)
SMALL = 2**20  # elements up to which one thread may be faster, as none has to start
Floats = np.ndarray[Any, np.dtype[np.float32]]


def threads() -> int:
    """As many as our step has."""
    return cpu.get_threads() if cpu.why_not() is None else 1


@cache
def compiled() -> tuple[ctypes.CDLL | None, str]:
    """limit.cc as a library, or why there is none."""
    compiler = os.environ.get("CXX", "c++")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        command = [compiler, "-std=c++17", "-O3", "-march=native", "-ffp-contract=off"]
        command += ["-shared", "-fPIC", "-pthread", str(SOURCE), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(library)), ""
        except OSError as error:
            return None, f"{compiler}: {error.strerror or error}"
        except subprocess.CalledProcessError as error:
            return None, f"{compiler} fails: {(error.stderr.strip().splitlines() or [''])[0]}"


def clock() -> Callable[[int], float] | None:
    """Seconds of so many additions, one after another, uninterrupted; None without a compiler."""
    library, _ = compiled()
    if library is None:
        return None
    library.additions.restype = ctypes.c_double
    library.additions.argtypes = [ctypes.c_int64]
    pieces = 20  # another process may have the core for a while: the best piece counts
    return lambda count: pieces * min(float(library.additions(count // pieces)) for _ in range(pieces))


def limit(arrays: Sequence[Floats], workers: int) -> tuple[Callable[[], float], str]:
    """Seconds of one pass over p, g, m, v with so many threads; and what must be known of it."""
    library, why_not = compiled()
    size = arrays[0].size
    if library is None:
        return _with_numpy(arrays, workers), f"a loop in NumPy, somewhat slower than one in C++ ({why_not})"
    pointer = ctypes.POINTER(ctypes.c_float)
    library.limit.restype = ctypes.c_double
    library.limit.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_int32]
    flat = [array.ctypes.data_as(pointer) for array in arrays]

    def run() -> float:
        each = {1, workers} if size <= SMALL else {workers}
        return min(float(library.limit(*flat, size, count)) for count in each)

    return run, ""


def _with_numpy(arrays: Sequence[Floats], workers: int) -> Callable[[], float]:
    """The same bytes from memory, in pieces that stay in a cache: p, m, v are read and written, and g is read."""
    p, g, m, v = (array.reshape(-1) for array in arrays)
    size = p.size
    pool = ThreadPoolExecutor(max(1, workers - 1))

    def part(begin: int, end: int) -> None:
        for start in range(begin, end, CHUNK):
            piece = slice(start, min(start + CHUNK, end))
            for array in (m, v, p):
                np.maximum(array[piece], g[piece], out=array[piece])

    def run() -> float:
        start = time.perf_counter()
        others = [pool.submit(part, size * k // workers, size * (k + 1) // workers) for k in range(1, workers)]
        part(0, size // workers)
        for other in others:
            other.result()
        return time.perf_counter() - start

    return run
