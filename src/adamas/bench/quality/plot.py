"""The quality table as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adamas.bench.quality.report import signed
from adamas.errors import MissingExtraError

COLOURS = {"alike": "#1b7837", "not shown": "#b8860b", "different": "#b2182b"}
EDGE = 1.0  # in spreads: a difference beyond is written at the edge


def check() -> None:
    """Whether pictures can be drawn, asked before anything is trained.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"--plot draws with matplotlib, which cannot be imported ({error}): pip install 'adamas[train]', or leave "
            "--plot out"
        ) from error


def draw(data: dict[str, Any], path: Path) -> None:
    """The intervals of every task and storage beside the margin, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    tasks = data["tasks"]
    names = [row["name"] for row in tasks[0]["storages"][1:]]
    # The same data give the same bytes; texts stay texts.
    with matplotlib.rc_context({"svg.hashsalt": "adamas", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(2.6 + 1.5 * len(tasks), 1.2 + 0.28 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for panel, task in zip(panels, tasks, strict=True):
            panel.axvspan(-0.5, 0.5, color="#e8e8e8", zorder=0)
            panel.axvline(0, color="#888888", linewidth=0.8, zorder=1)
            for place, row in enumerate(task["storages"][1:]):
                _interval(panel, place, row, task["spread"])
            panel.set_xlim(-EDGE, EDGE)
            panel.set_title(task["task"].replace(", ", "\n") + f"\n{task['seeds']} seeds", fontsize=9)
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.tick_params(left=False)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel("held-out loss minus float32's, in spreads of float32; 95%, paired by seed", fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _interval(panel: Any, place: int, row: dict[str, Any], spread: float) -> None:
    colour = COLOURS[row["verdict"]]
    if row["mean"] is None:
        panel.text(0, place, "diverged", color=colour, ha="center", va="center")
        return
    mean, low, high = (row[key] / spread for key in ("mean", "low", "high"))
    if mean > EDGE:
        panel.text(0.95 * EDGE, place, f"{signed(mean)} →", color=colour, ha="right", va="center")
        return
    if mean < -EDGE:
        panel.text(-0.95 * EDGE, place, f"← {signed(mean)}", color=colour, ha="left", va="center")
        return
    panel.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    panel.plot([mean], [place], "o", color=colour, markersize=3)
