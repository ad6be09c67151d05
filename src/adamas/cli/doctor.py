"""`adamas doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("doctor", short_help="Say what is installed, which kernels serve, and why not.")
@click.option("--build", is_flag=True, help="Build the TensorFlow op now, so that no training waits for it.")
@click.option("--json", "machine", is_flag=True, help="One JSON object, for machines.")
def command(build: bool, machine: bool) -> None:
    """Say what is installed, which kernels serve, and why not."""
    from adamas.train.diagnosis import diagnose

    found = diagnose(build=build)
    if machine:
        click.echo(json.dumps(asdict(found), default=str))
        return
    here = found.machine
    rows = [
        ("machine", f"{here['processor']}; {here['cores_usable']} of {here['cores']} cores usable"),
        ("system", f"{here['system']}; Python {here['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)),
        ("absent", ", ".join(name for name, version in found.versions.items() if not version) or "none"),
        ("kernel", found.kernel),
    ]
    if found.native:
        sets = ", ".join(found.instruction_sets)
        rows += [
            ("libadamas", f"{found.library}"),
            ("built with", found.build),
            ("loops", f"{found.instruction_set} (this processor and build have {sets}); {found.threads} threads"),
        ]
    else:
        rows.append(("libadamas", f"NO: {found.native_problem}"))
    rows.append(("TensorFlow op", str(found.op) if found.op else f"NO: {found.op_problem}"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
