"""The tables of both READMEs, made from the committed results: `python -m benchmarks readme` puts them there."""

from __future__ import annotations

import json
import re
from typing import Any

from benchmarks.harness import ROOT

READMES = ("README.md", "README.zh-CN.md")
SECTION = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


# The kinds that the READMEs show, with what stands above the names of the peers.
SHOWN = {"step": "Adam, one step", "train": "Adam, a training", "rows": "Adam, a step of rows"}


def section() -> str:
    """What stands between the two comments in each README, whatever its language."""
    contents = {kind: json.loads((ROOT / "benchmarks" / "results" / f"{kind}.json").read_text()) for kind in SHOWN}
    machine = contents["step"]["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        "",
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {packages}",
        "",
    ]
    for kind, title in SHOWN.items():
        lines += [*table(title, contents[kind]["cases"]), ""]
    return "\n".join([*lines, ""])


def write() -> None:
    """Put the section into the READMEs."""
    text = section()
    for name in READMES:
        (ROOT / name).write_text(SECTION.sub(lambda _: text, (ROOT / name).read_text()))


def table(title: str, cases: list[dict[str, Any]]) -> list[str]:
    """One row for each peer of any case, one column for each case."""
    head = " | ".join(f"{case['case']}: {case['unit']}" for case in cases)
    lines = [f"| {title} | {head} |", "| --- |" + " ---: |" * len(cases)]
    figures = [{row["peer"]: _figure(row["figure"]) for row in case["rows"]} for case in cases]
    for peer in dict.fromkeys(peer for case in figures for peer in case):
        name = f"**{peer}**" if peer.startswith("adamas") else peer
        lines.append(f"| {name} | " + " | ".join(case.get(peer, "") for case in figures) + " |")
    return lines


def _figure(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
