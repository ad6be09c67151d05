"""Compiles the handler of XLA's typed FFI (step.cc) on the user's machine; see `adamas.kernels.build`.

XLA's interface for it is plain C and versioned, but the headers are jaxlib's, so it is built against the jaxlib that is
installed, on first use. It takes about 3 s.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib.metadata import version
from pathlib import Path

import jax

from adamas.errors import KernelError
from adamas.kernels import build as shims
from adamas.kernels.build import Recipe

_SOURCE = Path(__file__).with_name("step.cc")


def build(cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> Path:
    """Build the handler for the installed jaxlib, unless it is built already, and return the file.

    Args:
        cache, compiler: see `adamas.kernels.build.build`.

    Raises:
        KernelError: there is no compiler, it failed, or the folder is not safe to load code from.
    """
    if sys.platform == "win32":
        raise KernelError("the handler is not built on Windows; the array expression is used instead")
    return shims.build(recipe(), cache, compiler)


def existing(cache: str | os.PathLike[str] | None = None) -> Path | None:
    """A handler that was built earlier for the installed jaxlib, or None; builds nothing.

    Raises:
        KernelError: the folder or the file is not safe to load code from.
    """
    return shims.existing(recipe(), cache)


@functools.cache
def recipe() -> Recipe:
    """How the handler is built for the installed jaxlib."""
    jaxlib = version("jaxlib")
    return Recipe(
        what="JAX handler",
        whose=f"jaxlib {jaxlib}",
        takes="3 s",
        prefix=f"jax-{jaxlib}",
        source=_SOURCE,
        beside=(),
        identity=(jaxlib,),
        flags=lambda: ["-std=c++17", "-isystem", jax.ffi.include_dir()],
    )
