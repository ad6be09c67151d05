"""The tables of both READMEs, made from the committed results: `python -m benchmarks readme` puts them there."""

from __future__ import annotations

import json
import re
from typing import Any

from benchmarks.harness import ROOT

READMES = ("README.md", "README.zh-CN.md")
SECTION = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


def section() -> str:
    """What stands between the two comments in each README, whatever its language."""
    step, fit = (json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()) for name in ("step", "fit"))
    machine = step["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join(
        [
            "",
            f"{machine['date']}, {machine['processor']}, {machine['cores']} cores; "
            f"Python {machine['python']}, {packages}",
            "",
            *_table("Adam, one step", step["cases"]),
            "",
            *_table("Adam, a training", fit["cases"]),
            "",
            "",
        ]
    )


def write() -> None:
    """Put the section into the READMEs."""
    text = section()
    for name in READMES:
        (ROOT / name).write_text(SECTION.sub(lambda _: text, (ROOT / name).read_text()))


def _table(title: str, cases: list[dict[str, Any]]) -> list[str]:
    head = " | ".join(f"{case['case']}: {case['unit']}" for case in cases)
    lines = [f"| {title} | {head} |", "| --- |" + " ---: |" * len(cases)]
    for peers in zip(*(case["rows"] for case in cases), strict=True):
        name = peers[0]["peer"]
        name = f"**{name}**" if name.startswith("adamas") else name
        lines.append(f"| {name} | " + " | ".join(_figure(peer["figure"]) for peer in peers) + " |")
    return lines


def _figure(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
