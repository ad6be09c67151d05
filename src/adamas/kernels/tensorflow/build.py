"""Compiles the TensorFlow ops (ops.cc) on the user's machine: `adamas.kernels.build` says where they are kept.

TensorFlow promises no stable C++ interface from one version to the next and its C interface cannot write to variables,
so the op is built against the TensorFlow that is installed, on first use. It takes about 10 s.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from adamas.errors import KernelError, MissingExtraError
from adamas.kernels import build as shims
from adamas.kernels.build import Recipe

_SOURCE = Path(__file__).with_name("ops.cc")  # includes the others
_BESIDE = ("arguments.h", "rows.cc", "step.cc", "variables.h")


def build(cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> Path:
    """Build the op for the installed TensorFlow, unless it is built already, and return the file.

    Args:
        cache, compiler: see `adamas.kernels.build.build`.

    Raises:
        KernelError: there is no compiler, it failed, or the folder is not safe to load code from.
    """
    if sys.platform == "win32":
        raise KernelError("TensorFlow loads no custom ops on Windows; TensorFlow's own operations are used instead")
    return shims.build(recipe(), cache, compiler)


def existing(cache: str | os.PathLike[str] | None = None) -> Path | None:
    """An op that was built earlier for the installed TensorFlow, or None; builds nothing.

    Raises:
        KernelError: the folder or the file is not safe to load code from.
    """
    return shims.existing(recipe(), cache)


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingExtraError("TensorFlow is not installed; pip install 'adamas[tensorflow]'") from error
    return tf


@functools.cache
def recipe() -> Recipe:
    """How the op is built for the installed TensorFlow."""
    tf = _tensorflow()
    version = tf.version
    own = [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")]
    return Recipe(
        what="TensorFlow op",
        whose=f"TensorFlow {version.VERSION}",
        takes="10 s",
        prefix=f"tensorflow-{version.VERSION}",
        source=_SOURCE,
        beside=[_SOURCE.with_name(name) for name in _BESIDE],
        identity=(f"{version.VERSION} {version.GIT_VERSION} {version.COMPILER_VERSION}", " ".join(own)),
        flags=lambda: ["-isystem", tf.sysconfig.get_include(), *own],
        link=tf.sysconfig.get_link_flags,
    )
