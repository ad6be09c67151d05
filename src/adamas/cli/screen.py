"""What a person or a machine sees of a job: a progress bar and coloured lines, plain lines, or JSON lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from adamas.train.runs import models, report
from adamas.train.runs.artifacts import epoch_line
from adamas.train.runs.progress import Epoch, Listener, Trial
from adamas.train.runs.resolve import Prepared

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from adamas.compare.pair import Comparison
    from adamas.train.runs.trained import Run


class Output(Listener):
    """A listener that also shows the end of a job."""

    def trained(self, run: Run) -> None:
        """A run of one optimizer is complete."""

    def compared(self, comparison: Comparison) -> None:
        """A comparison is complete."""


@contextmanager
def screen(machine: bool) -> Iterator[Output]:
    """The output that fits: JSON for machines, a progress bar at a terminal, plain lines elsewhere."""
    if machine:
        yield JsonLines()
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
        from rich.text import Text

        class Count(MofNCompleteColumn):
            """5/30; nothing where nobody knows of how many."""

            def render(self, task: Task) -> Text:
                return Text() if task.total is None else super().render(task)

        console = Console(highlight=False, emoji=False)
        columns = (TextColumn("{task.description}"), BarColumn(24), Count(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            yield Lines(progress)
    else:
        yield Lines(None)


class Lines(Output):
    """Lines for a person; with `progress`, a bar below them."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._trials: list[Trial] = []
        self._rates = 0

    def prepared(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._say(f"[bold]{prepared.config.data}[/]", f": {report.sizes(prepared)}")
        self._start("starting TensorFlow", None)

    def model(self, parameters: int, program: str, threads: int) -> None:
        self._say("", f"{report.network(self._prepared, parameters)}; {program}, {report.plural(threads, 'thread')}")

    def tuning(self, optimizer: str, rates: int, epochs: int) -> None:
        self._trials, self._rates = [], rates
        name = models.NAMES[optimizer]
        what = f"{report.plural(rates, 'learning rate')}, {report.plural(epochs, 'epoch')} each"
        self._say(f"\n[bold]{name}[/]", f": {what}, on the validation rows")
        self._start(f"tuning {name}", rates * epochs)

    def tried(self, trial: Trial) -> None:
        self._trials.append(trial)
        if len(self._trials) == self._rates:
            best = min(self._trials, key=lambda t: (t.val_loss, t.learning_rate))
            for one in self._trials:
                self._say("", _trial(one), "[green]  <- best[/]" if one is best else "")

    def training(self, optimizer: str, learning_rate: float, epochs: int) -> None:
        name = models.NAMES[optimizer]
        self._say(f"\n[bold]{name}[/]", f": training with learning rate {learning_rate:g}")
        self._start(f"training {name}", epochs)

    def epoch(self, epoch: Epoch) -> None:
        if epoch.phase == "train":
            width, name = len(str(epoch.epochs)), epoch.metric_name  # 79 columns with 100 epochs and accuracies
            self._say(
                "",
                f"epoch {epoch.epoch:>{width}}/{epoch.epochs}  loss {epoch.loss:.4f} {name} {epoch.metric:.4f}  "
                f"val_loss {epoch.val_loss:.4f} val_{name} {epoch.val_metric:.4f}",
            )
        if self._progress is not None and self._bar is not None:
            self._progress.advance(self._bar)

    def trained(self, run: Run) -> None:
        self._stop()
        self._say("")
        for line in run.record["verdict"][:2]:
            self._say("", line)
        self._say("", run.record["verdict"][-1])
        self._where(run)

    def compared(self, comparison: Comparison) -> None:
        self._stop()
        self._say("")
        head, *rows = _table(comparison)
        self._say(f"[bold]{head}[/]")
        for row in rows:
            self._say("", row)
        self._say("")
        for line in comparison.verdict[:2]:
            self._say("", line)
        self._say(f"[yellow]{comparison.verdict[-1]}[/]")
        self._where(comparison.run)

    def _where(self, run: Run) -> None:
        self._say("\n[bold]Run[/]", f": {run.path}", whole=True)

    def _start(self, what: str, total: int | None) -> None:
        if self._progress is not None:
            self._stop()
            self._bar = self._progress.add_task(what, total=total)

    def _stop(self) -> None:
        if self._progress is not None and self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None

    def _say(self, marked: str, plain: str = "", after: str = "", *, whole: bool = False) -> None:
        """One line: `marked` and `after` hold our own markup, `plain` may hold anything.

        A terminal that is too narrow gets it in several, broken between words unless it is to be copied `whole`.
        """
        from rich.markup import escape
        from rich.text import Text

        if self._progress is not None:
            self._progress.console.print(marked + escape(plain) + after, soft_wrap=whole)
        else:
            click.echo(Text.from_markup(marked + escape(plain) + after, emoji=False).plain)


class JsonLines(Output):
    """One JSON object a line, `event` first."""

    def prepared(self, prepared: Prepared) -> None:
        rows = {part: len(getattr(prepared.split, part)) for part in ("train", "validation", "test")}
        self._emit("data", data=prepared.config.data, task=prepared.task, rows=rows)

    def model(self, parameters: int, program: str, threads: int) -> None:
        self._emit("model", parameters=parameters, program=program, threads=threads)

    def tried(self, trial: Trial) -> None:
        loss = trial.val_loss if math.isfinite(trial.val_loss) else None
        self._emit(
            "trial", optimizer=trial.optimizer, learning_rate=trial.learning_rate, epoch=trial.epoch, val_loss=loss
        )

    def epoch(self, epoch: Epoch) -> None:
        self._emit("epoch", **epoch_line(epoch))

    def trained(self, run: Run) -> None:
        self._emit("complete", path=str(run.path), **run.record)

    def compared(self, comparison: Comparison) -> None:
        self.trained(comparison.run)

    def _emit(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}))


def _trial(trial: Trial) -> str:
    if math.isinf(trial.val_loss):
        return f"  lr {trial.learning_rate:<8g} diverged"
    return (
        f"  lr {trial.learning_rate:<8g} val_loss {trial.val_loss:.4f}  val_{trial.metric_name} {trial.val_metric:.4f}"
        f"  at epoch {trial.epoch}"
    )


def _table(comparison: Comparison) -> list[str]:
    """Test numbers of both sides and of no learning, in aligned columns."""
    numbers = [side.score.numbers for side in comparison.sides]
    names = [name for name in numbers[0] if " " not in name]
    rows = [["", "lr", "best epoch", "val_loss", *(f"test {name.replace('_', ' ')}" for name in names)]]
    for side in comparison.sides:
        best = side.outcome.best_epoch
        test = [report.number(side.score.numbers[name], name) for name in names]
        rows.append([side.name, f"{side.outcome.learning_rate:g}", str(best.epoch), f"{best.val_loss:.4f}", *test])
    base = comparison.baseline
    rows.append(["no learning", "", "", "", *(report.number(base[n], n) if n in base else "" for n in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
