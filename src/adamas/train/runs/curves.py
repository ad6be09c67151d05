"""The picture of a run: loss and metric by epoch, one colour for each optimizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adamas.train.runs import models
from adamas.train.runs.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fbf", "#d9600f")  # told apart with every common kind of colour blindness, and in grey
INK, FAINT = "#222222", "#d8d8d8"


def draw(outcomes: Sequence[Outcome], title: str) -> bytes:
    """A PNG of two panels, loss (logarithmic) and metric; training thin, validation thick, the best epoch a dot.

    Args:
        outcomes: one or two trainings.
        title: the headline, at most about 80 characters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, weight="bold")
    left, right = figure.subplots(1, 2)
    metric = outcomes[0].epochs[0].metric_name
    for outcome, colour in zip(outcomes, COLOURS, strict=False):
        name = models.describe(outcome.optimizer)
        epochs = [e.epoch for e in outcome.epochs]
        best = outcome.best_epoch
        for axes, train, validation, dot in (
            (left, [e.loss for e in outcome.epochs], [e.val_loss for e in outcome.epochs], best.val_loss),
            (right, [e.metric for e in outcome.epochs], [e.val_metric for e in outcome.epochs], best.val_metric),
        ):
            axes.plot(epochs, train, color=colour, linewidth=1.0, alpha=0.55, label=f"{name}, training")
            axes.plot(epochs, validation, color=colour, linewidth=2.0, label=f"{name}, validation")
            axes.plot([best.epoch], [dot], "o", color=colour, markersize=6, markeredgecolor="white")
    left.set_yscale("log")
    _finish(left, "loss" if metric == "accuracy" else "loss (standardised)")
    _finish(right, "accuracy" if metric == "accuracy" else "mean absolute error (standardised)")
    left.legend(frameon=False, fontsize=9, loc="upper right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _finish(axes: Axes, what: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.set_title(what, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_yscale() == "log":
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(which="both", labelsize=9, colors=INK, length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
