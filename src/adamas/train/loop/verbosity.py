"""What `fit` prints: a bar at a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from adamas.errors import ArgumentError

BAR = 24  # characters
# Redrawing more often than the eye sees costs small models more than their training: an epoch can last 2 ms.
REDRAW = 0.1  # seconds


class Display:
    """Writes the progress of a training.

    Args:
        verbose: 0 nothing; 1 a bar that is redrawn, then a line an epoch; 2 a line an epoch; "auto" 1 if `stream` is a
            terminal, else 2.
        epochs, steps: the total number of epochs, and of steps in each, None if that is not known.
        stream: where to; None: standard output.

    Raises:
        ArgumentError: verbose is none of these.
    """

    def __init__(self, verbose: int | str, epochs: int, steps: int | None, stream: TextIO | None = None):
        if verbose not in (0, 1, 2, "auto"):
            raise ArgumentError(f"verbose={verbose!r}: give 'auto', 0 (nothing), 1 (a bar) or 2 (a line an epoch)")
        self._stream = stream if stream is not None else sys.stdout
        if verbose == "auto":
            verbose = 1 if self._stream.isatty() else 2
        self.verbose = int(verbose)
        self._epochs, self._steps = epochs, steps
        self._done, self._began, self._drawn = 0, 0.0, 0.0
        self._open = False  # whether a bar stands on the current line

    def begin(self, epoch: int, steps: int | None = None) -> None:
        """An epoch, counted from 0, begins; it has so many steps, if that is known by now."""
        self._steps = steps or self._steps
        self._done, self._began = 0, time.perf_counter()
        self._head = f"epoch {epoch + 1}/{self._epochs}"

    def step(self, steps: int) -> None:
        """So many steps have been done since the last call."""
        self._done += steps
        now = time.perf_counter()
        if self.verbose == 1 and now - self._drawn >= REDRAW and now - self._began >= REDRAW:
            self._stream.write(f"\r{self._head} {self._bar()}")
            self._stream.flush()
            self._drawn, self._open = now, True

    def _bar(self) -> str:
        if self._steps is None:
            return f"{self._done} steps"
        filled = min(BAR, BAR * self._done // self._steps)
        return f"[{'#' * filled}{'.' * (BAR - filled)}] {self._done}/{self._steps}"

    def end(self, logs: dict[str, Any]) -> None:
        """The epoch has ended with these numbers."""
        if not self.verbose:
            return
        numbers = " - ".join(f"{name}: {_short(value)}" for name, value in sorted(logs.items()))
        self.close()
        self._stream.write(f"{self._head} - {time.perf_counter() - self._began:.2f}s - {numbers}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave no half-drawn bar behind."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
