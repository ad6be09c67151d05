"""The picture of `scaling`, made from its committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Text stays text, and the same results give the same file.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "adamas", "font.size": 9.0}


def scaling(content: dict[str, Any], path: Path) -> None:
    """One panel for each group of cases: a line for each row, over the sizes that are the groups' cases."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in content["cases"]:
        groups.setdefault(case["group"], []).append(case)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        for axes, (group, cases) in zip(panels, groups.items(), strict=True):
            lines: dict[str, list[tuple[int, float]]] = {}
            for case in cases:
                for row in case["rows"]:
                    lines.setdefault(row["peer"], []).append((int(case["key"].rpartition("-")[2]), row["figure"]))
            for peer, points in lines.items():
                ours = peer.startswith("adamas")
                style = {"limit": "k:"}.get(peer, "o-" if ours else "s--")
                axes.loglog(*zip(*points, strict=True), style, label=peer, markersize=3, linewidth=1.4 if ours else 1.0)
            axes.set(title=group, ylabel=cases[0]["unit"])
            axes.grid(True, which="major", alpha=0.3)
            axes.legend(fontsize=7, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
