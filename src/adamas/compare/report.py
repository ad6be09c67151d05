"""The words and tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adamas.compare.paired import LEVEL, Paired
from adamas.train.runs.report import nothing_learned, number, plural, score_table, table
from adamas.train.runs.report import page as train_page
from adamas.train.runs.resolve import Prepared

if TYPE_CHECKING:
    from adamas.compare.pair import Side

# `adamas compare` is not in this version, so the line also says what to do without it.
CAUTION = (
    "This is tuned equally, one seed; for a verdict use compare "
    "(several seeds, in a later version; until then repeat with other --seed)."
)


def verdict(prepared: Prepared, sides: tuple[Side, Side], chance: Paired, base: dict[str, float]) -> list[str]:
    """Five lines: who won or that nobody did, how sure, how they were tuned, what no learning gives, the caution."""
    first, second = sides
    epochs = prepared.config.tuning.epochs or prepared.epochs
    edges = [s.name for s in sides if s.at_edge]
    edge = f"; {' and '.join(edges)}'s best rate is at the edge of those tried" if edges else ""
    return [
        _headline(sides, chance),
        _row_by_row(prepared, sides, chance),
        f"Same initial weights, same order of examples; best of {len(first.trials)} learning rates each, "
        f"{plural(epochs, 'epoch')} each, on the validation rows: {_took(first)}, {_took(second)}{edge}.",
        f"Lowest validation loss: {_reached(first)}, {_reached(second)}; without learning "
        f"({nothing_learned(prepared)}) test {_judged(base)}.",
        CAUTION,
    ]


def page(
    folder: Path,
    title: str,
    lines: Sequence[str],
    prepared: Prepared,
    sides: tuple[Side, Side],
    base: dict[str, float],
    parameters: int,
) -> str:
    """report.md of a comparison."""
    scores = [(s.name, s.score.numbers) for s in sides] + [(nothing_learned(prepared), base)]
    trials = [
        [s.name, f"{t.learning_rate:g}", _loss(t.val_loss), str(t.epoch or "-"), "**best**" if _chosen(s, i) else ""]
        for s in sides
        for i, t in enumerate(s.trials)
    ]
    training = [
        [s.name, f"{o.learning_rate:g}", number(o.best_epoch.val_loss), str(o.best), f"{o.seconds:.2f}"]
        for s, o in ((s, s.outcome) for s in sides)
    ]
    sections = [
        ("On the test rows", score_table(scores)),
        (
            "Trained in full",
            table(["optimizer", "learning rate", "validation loss", "best epoch", "seconds"], training),
        ),
        ("Tuning", table(["optimizer", "learning rate", "lowest validation loss", "at epoch", ""], trials)),
    ]
    return train_page(folder, title, lines, sections, prepared, parameters)


def _headline(sides: tuple[Side, Side], chance: Paired) -> str:
    first, second = sides
    numbers = [s.score.numbers for s in sides]
    said = f"{first.name} {_judged(numbers[0])}, {second.name} {_judged(numbers[1])} on {first.score.rows:,} test rows"
    if chance.better == chance.worse == 0:
        return f"No difference: {said}."
    if not chance.clear:
        return f"Too close to call: {said}."
    ahead = first if _mean(first) < _mean(second) else second
    return f"{ahead.name} is ahead: {said}."


def _row_by_row(prepared: Prepared, sides: tuple[Side, Side], chance: Paired) -> str:
    first, second = sides
    if chance.better == chance.worse == 0:
        return "Row by row they do equally well: this test set cannot tell them apart."
    p = f"p = {chance.p_value:.2g}" if chance.p_value >= 0.001 else "p < 0.001"
    if prepared.task == "classification":
        counts = f"{first.name} alone is right on {chance.better} of them, {second.name} alone on {chance.worse}"
        test = "McNemar, exact"
    else:
        counts = f"{first.name} is nearer on {chance.better} of them, {second.name} on {chance.worse}"
        test = "paired permutation"
    return f"{counts}: by chance {p} ({test}; clear at {LEVEL})."


def _took(side: Side) -> str:
    return f"{side.name} took {side.outcome.learning_rate:g}"


def _mean(side: Side) -> float:
    return float(side.score.row_error.mean())


def _judged(numbers: dict[str, float]) -> str:
    if "accuracy" in numbers:
        return f"accuracy {number(numbers['accuracy'], 'accuracy')}"
    return f"RMSE {number(numbers['rmse'])}"


def _reached(side: Side) -> str:
    best = side.outcome.best_epoch
    return f"{side.name} {number(best.val_loss)} at epoch {best.epoch} of {best.epochs}"


def _loss(value: float) -> str:
    return number(value) if math.isfinite(value) else "diverged"


def _chosen(side: Side, place: int) -> bool:
    return side.trials[place].learning_rate == side.outcome.learning_rate
