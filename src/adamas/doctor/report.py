"""The facts as text, for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from adamas.doctor.diagnosis import Diagnosis

_WIDTH = 110


def text(found: Diagnosis) -> str:
    """One line a fact, and at the end what does not go together."""
    here, engine = found.machine, found.libadamas
    quota = "" if here["quota"] is None else f", {here['quota']:g} granted by the control group"
    rows = [
        ("machine", f"{here['processor']}; {here['cores_usable']} of {here['cores']} cores usable{quota}"),
        ("system", f"{here['system']}; Python {here['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)),
        ("absent", ", ".join(name for name, version in found.versions.items() if not version) or "none"),
    ]
    if engine["problem"] is None:
        rows += [
            ("libadamas", engine["library"]),
            ("built with", engine["build"]),
            (
                "loops",
                f"{engine['instruction_set']} (this processor and build have {', '.join(engine['instruction_sets'])}); "
                f"{engine['threads']} threads",
            ),
        ]
    else:
        rows.append(("libadamas", f"NO: {engine['problem']}"))
    compiler = found.compiler
    rows.append(("compiler", f"NO: {compiler['problem']}" if compiler["problem"] else _both(compiler)))
    rows.append(("shims", _cache(found.cache)))
    for name, own in found.frameworks.items():
        rows += _framework(name, own)
    if found.keras is not None:
        rows.append(("keras", f"{found.versions['keras']} on {found.keras}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    if found.conflicts:
        lines += ["", "known conflicts:"]
        for problem, remedy in found.conflicts:
            lines += textwrap.wrap(problem, _WIDTH, initial_indent="- ", subsequent_indent="  ")
            lines += textwrap.wrap(f"remedy: {remedy}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _both(compiler: Mapping[str, Any]) -> str:
    return f"{compiler['command']}: {compiler['version']}"


def _cache(cache: Mapping[str, Any]) -> str:
    if cache["problem"]:
        return f"NO: {cache['problem']}"
    files, size = cache["files"], sum(cache["files"].values())
    return f"{cache['folder']}: {len(files)} built, {size / 1e6:.1f} MB"


def _framework(name: str, own: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for what serves, and one for each kernel that cannot."""
    if own["problem"]:
        return [(name, f"NO: {own['problem']}")]
    serving = [kernel for kernel, reason in own["kernels"].items() if reason is None]
    what = f"{own['version']}: kernel {serving[0]}" if serving else f"{own['version']}: NO kernel"
    if own["built"] is False and serving[:1] == ["native"]:
        what += ", not built yet: the first step does it in some seconds, or `adamas doctor --build` now"
    if own["built"] is False and name == "torch":
        what += ", steps of many small tensors are faster after `adamas doctor --build`"
    if own["exact"] is not None:
        what += ", the bits of the reference" if own["exact"] else ", NOT THE BITS OF THE REFERENCE: please report it"
    if own.get("devices"):
        what += f"; {', '.join(own['devices'])}"
    rows = [(name, f"{what} ({own['seconds']:.1f} s)")]
    rows += [("", f"not {kernel}: {reason}") for kernel, reason in own["kernels"].items() if reason is not None]
    return rows
