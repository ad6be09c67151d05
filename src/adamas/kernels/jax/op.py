"""Loads the handler, binds it to libadamas and registers it with XLA, once per process."""

from __future__ import annotations

import ctypes
import os
import threading

import jax

from adamas.errors import KernelError
from adamas.kernels import cpu
from adamas.kernels.jax.build import build

TARGET = "adamas_step"
_lock = threading.Lock()
_loaded = False
_why_not: str | None = None


def load(cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> None:
    """Make the target `TARGET` callable on CPUs; build it first if need be.

    A failure is remembered for the life of the process, so that a broken compiler is not run at every trace; a call
    with arguments tries again.

    Raises:
        KernelError: it cannot be built, loaded or bound; the message says why.
    """
    global _loaded, _why_not
    with _lock:
        if _loaded:
            return
        if _why_not is not None and cache is None and compiler is None:
            raise KernelError(_why_not)
        try:
            _load(cache, compiler)
        except KernelError as error:
            _why_not = str(error)
            raise
        _loaded, _why_not = True, None


def why_not() -> str | None:
    """Why the handler cannot serve here, or None where it can; builds it if need be."""
    try:
        load()
    except KernelError as error:
        return str(error)
    return None


def _load(cache: str | os.PathLike[str] | None, compiler: str | None) -> None:
    if reason := cpu.why_not():
        raise KernelError(reason)
    library = str(cpu.library_path())
    path = build(cache, compiler)
    try:
        shim = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded: {error}; remove the file to build it again") from error
    bind = shim.adamas_jax_bind
    bind.restype, bind.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    if problem := bind(os.fsencode(library)):
        raise KernelError(f"the JAX handler cannot use {library}: {problem.decode()}; reinstall adamas")
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(shim.adamas_jax_step), platform="cpu")
