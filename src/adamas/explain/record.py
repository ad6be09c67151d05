"""What happened in the script: which optimizers, how many steps, in which loops, for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["eager", "graph", "xla"]


def name_of(kind: type) -> str:
    """An optimizer's class as its users write it."""
    for module, public in (("keras.", "keras.optimizers"), ("torch.optim", "torch.optim")):
        if kind.__module__.startswith(module):
            return f"{public}.{kind.__name__}"
    return kind.__qualname__


@dataclass
class Span:
    """Calls of one kind: their number, seconds, and the first one apart, which compiles or allocates."""

    calls: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    began: float = 0.0
    first_ended: float = 0.0
    ended: float = 0.0

    def add(self, began: float, ended: float) -> None:
        """One call more."""
        if not self.calls:
            self.began, self.first_ended, self.first_seconds = began, ended, ended - began
        self.calls += 1
        self.seconds += ended - began
        self.ended = ended

    @property
    def after_first(self) -> tuple[int, float]:
        """Calls, and seconds from the end of the first one to that of the last; of all, where there was but one."""
        return (self.calls - 1, self.ended - self.first_ended) if self.calls > 1 else (self.calls, self.seconds)


@dataclass(eq=False)
class Used:
    """An optimizer that the script made, and its steps.

    name      the class, as its users write it
    why_not   why the original was left in place; None where Adamas stepped
    by        what stepped, and why that
    steps     its steps called from Python
    traced    how it was traced into compiled functions: "graph" or "xla"
    clone     what measure/ needs to make an equal one; None before the first step
    counted   all its steps, those in compiled functions too; None where that is `steps.calls`
    """

    name: str
    framework: Literal["keras", "torch"]
    why_not: str | None = None
    by: str = ""
    steps: Span = field(default_factory=Span)
    traced: Mode | None = None
    clone: Any = None
    counted: Any = None
    in_fit: bool = False


@dataclass(eq=False)
class Fits:
    """The calls of `fit` of one Keras model; `kept` is the model and the arguments of its last call, for measuring."""

    of: Any
    name: str
    kept: tuple[Any, dict[str, Any]] | None = None
    used: Used | None = None
    span: Span = field(default_factory=Span)
    steps: int = 0
    epochs: int = 0


@dataclass(eq=False)
class Functions:
    """The calls of one compiled function (`tf.function`) that steps an optimizer."""

    name: str
    used: Used
    span: Span = field(default_factory=Span)


class Record:
    """Everything that is remembered of a run of a script."""

    def __init__(self) -> None:
        self.used: list[Used] = []
        self.left: dict[str, str] = {}  # what is not Adamas' business, and why
        self.fits: list[Fits] = []
        self.functions: list[Functions] = []
        self.recording = True
        self.substituting = True
        self.traces: list[Used] = []  # optimizers traced since the outermost compiled function was entered
        self._began = time.perf_counter()
        self._stopped = 0.0

    def now(self) -> float:
        """Seconds of the script: the time that Adamas needs to import and to build itself is not among them."""
        return time.perf_counter() - self._began - self._stopped

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stops the clock."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stopped += time.perf_counter() - began

    def leave(self, name: str, why: str) -> None:
        """Remembers that something of the script is left as it is."""
        self.left.setdefault(name, " ".join(why.split()))

    @contextmanager
    def paused(self, *, substituting: bool) -> Iterator[None]:
        """Records nothing for a while."""
        before = self.recording, self.substituting
        self.recording, self.substituting = False, substituting
        try:
            yield
        finally:
            self.recording, self.substituting = before
