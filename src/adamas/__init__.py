"""Adamas: Adam for deep learning, from the update rule to a served model.

The library is one optimizer for several frameworks, and a training loop:

    from adamas.numpy import Adam, AdamW            NumPy arrays, updated in place
    from adamas.keras import Adam, AdamW            Keras 3
    from adamas.tensorflow import Adam, AdamW       tf.Variables in a loop of your own
    from adamas.torch import Adam, AdamW            PyTorch on the CPU
    from adamas.train import fit                    model.fit, many times faster
    from adamas.bench import bench                  what a step costs here, beside its peers

`import adamas` loads NumPy and the standard library only; a framework is loaded with the module that needs it. Read
`adamas.rule` for the mathematics.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adamas.errors import (
        AdamasError,
        ArgumentError,
        ArrayError,
        BenchmarkError,
        DataError,
        FaultError,
        GradientError,
        KernelError,
        MissingExtraError,
        NonFiniteError,
        RunError,
        StateError,
        UnsupportedError,
    )
    from adamas.kernels.cpu import get_instruction_set, get_threads, set_instruction_set, set_threads
    from adamas.rule import PRESETS, Hyper, Rule

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AdamasError",
    "ArgumentError",
    "ArrayError",
    "BenchmarkError",
    "DataError",
    "FaultError",
    "GradientError",
    "Hyper",
    "KernelError",
    "MissingExtraError",
    "NonFiniteError",
    "Rule",
    "RunError",
    "StateError",
    "UnsupportedError",
    "__version__",
    "get_instruction_set",
    "get_threads",
    "set_instruction_set",
    "set_threads",
]

_HOMES = {
    "PRESETS": "adamas.rule",
    "Hyper": "adamas.rule",
    "Rule": "adamas.rule",
    "get_instruction_set": "adamas.kernels.cpu",
    "get_threads": "adamas.kernels.cpu",
    "set_instruction_set": "adamas.kernels.cpu",
    "set_threads": "adamas.kernels.cpu",
}
# `adamas.numpy` works after `import adamas` alone, as `adamas.keras` does where Keras is installed.
_MODULES = (
    "bench citation compare doctor errors formats gradients groups jax kernels keras numpy rule state tensorflow torch"
    " train"
).split()


def __getattr__(name: str) -> Any:
    """PEP 562: a public name is imported when it is first used."""
    if name in _MODULES:
        return import_module(f"adamas.{name}")
    if name in __all__:
        value = getattr(import_module(_HOMES.get(name, "adamas.errors")), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'adamas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
