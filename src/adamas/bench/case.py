"""What a case is: one job that every row does, and what is demanded of the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

Rounds = list[dict[str, float]]  # for each round, what each row measured
CLOCK = "clock"  # a row that is not shown: seconds of additions that wait for each other, a cycle each
ADDITIONS = 10_000_000  # of one run of it


class Figure(Protocol):
    """A number from the rounds of one case."""

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it needs."""
        ...

    def __call__(self, rounds: Rounds) -> float: ...


@dataclass(frozen=True)
class Ratio:
    """How many times as long `slow` takes as `fast`: taken in each round first, then the median."""

    slow: str
    fast: str

    @property
    def rows(self) -> tuple[str, ...]:
        return (self.slow, self.fast)

    def __call__(self, rounds: Rounds) -> float:
        return median(times[self.slow] / times[self.fast] for times in rounds)


@dataclass(frozen=True)
class Scaled:
    """`factor` times what a row measured: the median of the rounds, or another of them."""

    row: str
    factor: float
    of: Callable[[Iterable[float]], float] = median

    @property
    def rows(self) -> tuple[str, ...]:
        return (self.row,)

    def __call__(self, rounds: Rounds) -> float:
        return self.factor * self.of(values[self.row] for values in rounds)


@dataclass(frozen=True)
class Cycles:
    """Cycles of a row, times `factor`."""

    row: str
    factor: float

    @property
    def rows(self) -> tuple[str, ...]:
        return (self.row, CLOCK)

    def __call__(self, rounds: Rounds) -> float:
        return self.factor * median(values[self.row] * ADDITIONS / values[CLOCK] for values in rounds)


@dataclass(frozen=True)
class Target:
    """A demand on one case: the figure `value(rounds)` must reach `at_least` (or stay `at_most`)."""

    text: str
    value: Figure
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, rounds: Rounds) -> dict[str, Any]:
        """{"target", "bound", "figure", "met"}; figure and met are None where a row was not measured."""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        if not all(row in values for row in self.value.rows for values in rounds):
            return {"target": self.text, "bound": bound, "figure": None, "met": None}
        figure = self.value(rounds)
        met = (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)
        return {"target": self.text, "bound": bound, "figure": figure, "met": met}


@dataclass(frozen=True)
class Case:
    """One job that all rows do, what it measures means (`figure`, in `unit`), and what is demanded."""

    key: str  # what `--only` calls it
    name: str
    arguments: dict[str, Any]
    unit: str
    figure: Callable[[float], float]
    ours: str
    targets: tuple[Target, ...] = ()
    group: str = ""  # cases of one group, with fewer rows, are shown in one table: a column each
    rows: tuple[str, ...] = ()  # the rows that take part; none: all
    parameters: int = 0  # of a step: how many numbers it changes
    needs: int = 0  # bytes of memory, roughly; the case is left out where there is less
    large: bool = False  # one row at a time is in memory, built anew in each round
    measures: str = "seconds"  # or "bytes"
    base: Callable[[str], str] | None = None  # the row that a row is compared with; None: `ours`, for every row
