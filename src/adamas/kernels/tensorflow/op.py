"""Loads the TensorFlow ops and binds them to libadamas, once per process."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

from adamas.errors import KernelError
from adamas.kernels import cpu
from adamas.kernels.tensorflow.build import build

_lock = threading.Lock()
_ops: Any = None
_why_not: str | None = None


def load(cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> Any:
    """The ops as a module of Python functions (`adamas_step`, `adamas_rows`, ...); built first if need be.

    A failure is remembered for the life of the process, so that a broken compiler is not run at every step; a call
    with arguments tries again.

    Raises:
        KernelError: it cannot be built, loaded or bound; the message says why.
    """
    global _ops, _why_not
    with _lock:
        if _ops is not None:
            return _ops
        if _why_not is not None and cache is None and compiler is None:
            raise KernelError(_why_not)
        try:
            _ops = _load(cache, compiler)
        except KernelError as error:
            _why_not = str(error)
            raise
        _why_not = None
        return _ops


def why_not() -> str | None:
    """Why the op cannot serve here, or None where it can; builds it if need be."""
    try:
        load()
    except KernelError as error:
        return str(error)
    return None


def _load(cache: str | os.PathLike[str] | None, compiler: str | None) -> Any:
    if reason := cpu.why_not():
        raise KernelError(reason)
    library = str(cpu.library_path())
    path = str(build(cache, compiler))
    import tensorflow as tf

    try:
        module = tf.load_op_library(path)
    except (tf.errors.OpError, OSError) as error:
        raise KernelError(f"TensorFlow cannot load {path}: {error}; remove the file to build it again") from error
    bind = ctypes.CDLL(path).adamas_tensorflow_bind
    bind.restype, bind.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    if problem := bind(os.fsencode(library)):
        raise KernelError(f"the TensorFlow op cannot use {library}: {problem.decode()}; reinstall adamas")
    for name in ("AdamasStep", "AdamasSquares", "AdamasCarryOn", "AdamasRows", "AdamasRowsStep", "AdamasRowsSettle"):
        tf.no_gradient(name)
    return module
