"""Kinds of values on the command line: each says what was given and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import click


class Name(click.ParamType[str]):
    """One of a few names; the nearest is suggested."""

    name = "name"

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self.names:
            return str(value)
        near = difflib.get_close_matches(str(value), self.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return self.fail(f"{value!r}: {hint}give one of {', '.join(self.names)}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        whole = "|".join(self.names)
        return whole if len(whole) < 40 else "NAME"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class Number(click.ParamType[float]):
    """A finite number above `above`, or at least `least`."""

    name = "number"

    def __init__(self, *, above: float | None = None, least: float | None = None) -> None:
        self.above, self.least = above, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        allowed = f"above {self.above:g}" if self.above is not None else f"of at least {self.least:g}"
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        low = (self.above is not None and number <= self.above) or (self.least is not None and number < self.least)
        if not math.isfinite(number) or low:
            self.fail(f"{value!r}: give a finite number {allowed}", param, ctx)
        return number


class Count(click.ParamType[int]):
    """A whole number of at least `least`."""

    name = "count"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        if number < self.least:
            self.fail(f"{value!r}: give a whole number of at least {self.least}", param, ctx)
        return number
