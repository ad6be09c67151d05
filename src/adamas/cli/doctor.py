"""`adamas doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("doctor", short_help="Say what is installed, which kernels serve, and why not.")
@click.option("--build", is_flag=True, help="Build the shims of TensorFlow, torch and JAX now.")
@click.option("--clear", is_flag=True, help="Remove the shims that were built, of all versions, first.")
@click.option("--json", "machine", is_flag=True, help="One JSON object, for machines.")
def command(build: bool, clear: bool, machine: bool) -> None:
    """Say what is installed, which kernels serve each framework, why others cannot, and what does not go together.

    Each framework is tried in a process of its own. Without --build and --clear nothing is changed.
    """
    from adamas.doctor import diagnose
    from adamas.errors import KernelError

    removed = []
    if clear:
        from adamas.kernels import build as shims

        removed = [str(path) for path in shims.clear()]
    found = diagnose(build=build)
    if machine:
        facts = {**asdict(found), "conflicts": [conflict._asdict() for conflict in found.conflicts]}
        click.echo(json.dumps({**facts, "removed": removed}, default=str))
    else:
        if clear:
            click.echo(f"removed {len(removed)} shims\n")
        click.echo(str(found))
    failed = [
        f"{name}: {reason}"
        for name, own in found.frameworks.items()
        for reason in (*(own.get("kernels", {}).values() if name != "torch" else ()), own.get("reader"))
        if build and reason is not None and name in ("tensorflow", "jax", "torch")
    ]
    if failed:
        raise KernelError("; ".join(failed))
