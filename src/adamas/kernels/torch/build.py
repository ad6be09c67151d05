"""Compiles what reads torch's tensors (tensors.cc) on the user's machine; see `adamas.kernels.build`.

torch promises no stable C++ interface from one version to the next, so it is built against the torch that is installed.
It takes about 15 s.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import sysconfig
from pathlib import Path

import torch

from adamas.errors import KernelError
from adamas.kernels import build as shims
from adamas.kernels import cpu
from adamas.kernels.build import Recipe

_SOURCE = Path(__file__).with_name("tensors.cc")


def build(cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> Path:
    """Build it for the installed torch, unless it is built already, and return the file.

    Args:
        cache, compiler: see `adamas.kernels.build.build`.

    Raises:
        KernelError: there is no compiler, it failed, or the folder is not safe to load code from.
    """
    if sys.platform == "win32":
        raise KernelError("what reads torch's tensors is not built on Windows; they are read through DLPack")
    return shims.build(recipe(), cache, compiler)


def existing(cache: str | os.PathLike[str] | None = None) -> Path | None:
    """What was built earlier for the installed torch, or None; builds nothing.

    Raises:
        KernelError: the folder or the file is not safe to load code from.
    """
    return shims.existing(recipe(), cache)


def use(path: str | os.PathLike[str]) -> None:
    """Read torch's tensors with a file that `build` or `existing` returned, in this process.

    Raises:
        KernelError: it cannot be loaded.
    """
    try:
        library = ctypes.CDLL(os.fspath(path))
        functions = [library[f"adamas_torch_{name}"] for name in ("view", "gradient", "changed")]
    except (OSError, AttributeError) as error:
        raise KernelError(f"what reads torch's tensors cannot be loaded: {error}; build it again") from error
    cpu.use_torch(torch.Tensor, *(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))


@functools.cache
def recipe() -> Recipe:
    """How it is built for the installed torch."""
    folder = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    python = sysconfig.get_paths()["include"]
    return Recipe(
        what="reader of torch's tensors",
        whose=f"torch {torch.__version__}",
        takes="15 s",
        prefix=f"torch-{torch.__version__.partition('+')[0]}",
        source=_SOURCE,
        beside=[cpu.include_dir().with_name("tensors.h")],
        identity=(torch.__version__, str(torch.version.git_version), str(abi), str(sys.implementation.cache_tag)),
        flags=lambda: [
            "-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
            *("-isystem", str(folder / "include")),
            *("-isystem", str(folder / "include" / "torch" / "csrc" / "api" / "include")),
            *("-isystem", python),
            f"-I{cpu.include_dir().parent}",
        ],
        link=lambda: [
            f"-L{folder / 'lib'}", "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{folder / 'lib'}",
        ],
    )  # fmt: skip
