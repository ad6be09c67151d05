"""The report: one table a loop, how its numbers were taken, what is missing and why, and a verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from adamas.explain.measure import AFTER, BEFORE, FIT, Comparison
from adamas.explain.record import Record

_GAIN = 1.05  # medians of a few seconds on a busy machine differ by less
_WIDTH = 100
# Others of the same class may have been replaced.
_UNSEEN = {
    "keras": "one of them took no step",
    "torch": "of one of them no step was seen: it took none, or torch.compile compiled them",
}


class Report:
    """What a person and a machine read about a run of a script."""

    def __init__(self, script: str, status: int, seconds: float, record: Record) -> None:
        self.script, self.status, self.seconds = script, status, seconds
        self.loops: list[Comparison] = []
        self.problems: list[str] = []
        self.verdict: list[str] = []
        self._record = record
        self.replaced = {f"{u.name} by {u.by}" for u in record.used if u.why_not is None and u.by}
        self.left = dict(record.left)
        self.counted: list[str] = []

    def finish(self) -> None:
        """Works out shares and the verdict."""
        for used in self._record.used:
            if used.why_not is not None:
                self.left[used.name] = used.why_not
            elif not used.by:
                self.left.setdefault(used.name, _UNSEEN[used.framework])
        for loop in self.loops:
            loop.share = loop.seconds / self.seconds if self.seconds else 0.0
        if not self.loops:
            self.counted = list(self._counted())
        self.verdict = list(self._conclude())

    def data(self) -> dict[str, Any]:
        """Everything, in seconds."""
        return {
            "script": self.script,
            "status": self.status,
            "seconds": self.seconds,
            "replaced": sorted(self.replaced),
            "left": self.left,
            "counted": self.counted,
            "loops": [asdict(loop) for loop in self.loops],
            "problems": self.problems,
            "verdict": self.verdict,
        }

    def text(self) -> str:
        """For people."""
        lines = ["", f"adamas explain {self.script}: {time(self.seconds)}, exit status {self.status}"]
        for line in sorted(self.replaced):
            lines += _wrap(f"replaced: {line}")
        for name, why in self.left.items():
            lines += _wrap(f"left as it is: {name}: {why}")
        for line in (*self.counted, *self.problems):
            lines += _wrap(line)
        for loop in self.loops:
            lines += ["", *_table(loop)]
        lines.append("")
        for line in self.verdict:
            lines += _wrap(line)
        return "\n".join(lines)

    def _counted(self) -> Iterator[str]:
        for used in self._record.used:
            if used.steps.calls:
                yield f"{used.name}: {used.steps.calls:,} steps from Python took {time(used.steps.seconds)}"
        for fit in self._record.fits:
            yield f"model.fit of {fit.name!r}: {fit.steps:,} steps, {time(fit.span.seconds)}"
        for function in self._record.functions:
            span = function.span
            yield f"{function.name}, compiled: {span.calls:,} calls, {time(span.seconds)}"

    def _conclude(self) -> Iterator[str]:
        if self.status != 0:
            yield "No verdict: the script did not end well."
            return
        if not self.replaced and not any(FIT in loop.total for loop in self.loops):
            yield "No gain: no Adam or AdamW was stepped that Adamas could replace."
            return
        for loop in self.loops:
            if AFTER in loop.total and BEFORE in loop.total:
                yield f"{loop.what}, only the optimizer replaced: {_gain(loop, AFTER)}."
            if FIT in loop.total:
                once = sum(loop.each[BEFORE].values()) / max(sum(loop.each[FIT].values()), 1e-9)
                yield (
                    f"{loop.what}, by adamas.train.fit, compiling included: {_gain(loop, FIT)}; once compiled, a step "
                    f"is {once:.2f} times as fast."
                )
        if not self.loops:
            yield "No gain: nothing was stepped often enough to be measured."


def _gain(loop: Comparison, column: str) -> str:
    gain = loop.total[BEFORE] / max(loop.total[column], 1e-9)
    return f"{gain:.2f} times as fast" if gain >= _GAIN else f"no gain ({gain:.2f} times as fast)"


def _table(loop: Comparison) -> Iterator[str]:
    share = f", {loop.share:.0%} of the script" if loop.share else ""
    yield f"{loop.what}: {loop.steps:,} steps, {time(loop.seconds)}{share}"
    columns = [c for c in (BEFORE, AFTER, FIT) if c in loop.each]
    rows: list[list[str]] = []
    if columns:
        rows.append(["", *columns])
        parts = list(dict.fromkeys(part for c in columns for part in loop.each[c]))
        sums = {c: sum(loop.each[c].values()) for c in columns}
        for part in [p for p in parts if p != "one step"]:
            cells = []
            for c in columns:
                seconds = loop.each[c].get(part)
                cells.append("" if seconds is None else f"{time(seconds)} {seconds / max(sums[c], 1e-12):4.0%}")
            rows.append([f"  {part}", *cells])
        rows.append(["  one step", *(f"{time(sums[c])}     " for c in columns)])
        for name, once in (("starting a fit", loop.start), ("compiling, once", loop.once)):
            if any(seconds > 0 for seconds in once.values()):
                rows.append([f"  {name}", *(f"{time(once[c])}     " if c in once else "" for c in columns)])
        rows.append(
            [f"  all {loop.steps:,}", *(f"{time(loop.total[c])}     " if c in loop.total else "" for c in columns)]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "   ".join(cells).rstrip()
    for column in columns:
        yield from _wrap(f"  {column}: {loop.names.get(column, column)}")
    if loop.total:
        ran = AFTER if AFTER in loop.each else BEFORE
        yield from _wrap(
            f"  how: the time of all steps was measured in the script for {ran!r} and computed from it for the others; "
            + "; ".join(loop.how)
        )
    for what, why in loop.missing.items():
        yield from _wrap(f"  not measured: {what}: {why}")


def time(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _wrap(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
