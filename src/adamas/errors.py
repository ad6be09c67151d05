"""Every error that Adamas raises on purpose.

    AdamasError
    ├── ArgumentError      (ValueError)    a setting outside what is allowed
    ├── ArrayError         (ValueError)    an array that cannot take part: shape, dtype, layout, overlap
    ├── UnsupportedError   (TypeError)     something real that Adamas does not do; names what does
    ├── GradientError      (ValueError)    a gradient that is not the derivative of its function
    ├── NonFiniteError     (FloatingPointError)  a gradient with NaN or infinity, where that is to be raised
    ├── StateError         (ValueError)    an optimizer state or checkpoint that does not fit
    ├── DataError          (ValueError)    a data set that cannot be trained on or predicted from
    ├── RunError           (RuntimeError)  a run folder that is missing, unfinished or damaged
    ├── BenchmarkError     (RuntimeError)  something that could not be measured, or would compare what is not the same
    ├── KernelError        (RuntimeError)  a kernel was asked for that cannot serve here; says why
    │   └── FaultError                     a block that was computed twice gave two results: faulty hardware
    └── MissingExtraError  (ImportError)   an optional package is absent; names the extra to install

A message says what was given, what is allowed and what to do next.
Nothing has been changed when one of them is raised, but for FaultError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING


class AdamasError(Exception):
    """Base class: `except adamas.AdamasError` catches everything that is raised on purpose."""

    if not TYPE_CHECKING:
        # TensorFlow's autograph keeps the class of an error that is raised in a tf.function only if this is so.
        __init__ = Exception.__init__


class ArgumentError(AdamasError, ValueError):
    """A setting is outside what is allowed."""


class ArrayError(AdamasError, ValueError):
    """An array cannot take part: wrong shape, dtype or layout, read-only, or overlapping."""


class UnsupportedError(AdamasError, TypeError):
    """The request makes sense, but Adamas does not serve it; the message names what does."""


class GradientError(AdamasError, ValueError):
    """A gradient is not the derivative of the function; the message names the tensor and the element."""


class NonFiniteError(AdamasError, FloatingPointError):
    """A gradient holds NaN or infinity, and the optimizer was made with nonfinite="raise"."""


class StateError(AdamasError, ValueError):
    """An optimizer state or checkpoint does not fit the optimizer or is damaged."""


class DataError(AdamasError, ValueError):
    """A data set is missing, empty, malformed or does not fit the model."""


class RunError(AdamasError, RuntimeError):
    """A run folder is missing, unfinished or damaged."""


class BenchmarkError(AdamasError, RuntimeError):
    """A benchmark's worker has ended, or what it would compare is not the same."""


class KernelError(AdamasError, RuntimeError):
    """A kernel was asked for that cannot serve here; the message says why."""


class FaultError(KernelError):
    """A block was computed twice and gave two results: this machine is faulty. The step has been taken."""


class MissingExtraError(AdamasError, ImportError):
    """An optional package is not installed; the message names the extra."""


@contextmanager
def extra(adapter: str, name: str, *packages: str) -> Iterator[None]:
    """In it an adapter imports what it stands on; what is installed and broken raises what it raises.

    Raises:
        MissingExtraError: one of the packages is not installed; names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingExtraError(f"{adapter} needs {error.name}: pip install 'adamas[{name}]' ({error})") from error
