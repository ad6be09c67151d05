"""The tables of both READMEs, made from the committed results: `python -m benchmarks readme` puts them there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from adamas.bench.report import wide

ROOT = Path(__file__).resolve().parents[1]
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
        lines += [*wide(title, contents[kind]["cases"], "adamas", units=True), ""]
    return "\n".join([*lines, ""])


def write() -> None:
    """Put the section into the READMEs."""
    text = section()
    for name in READMES:
        (ROOT / name).write_text(SECTION.sub(lambda _: text, (ROOT / name).read_text()))
