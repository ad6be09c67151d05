"""`adamas evaluate`."""

from __future__ import annotations

import json

import click

from adamas.cli.app import next_steps, quoted
from adamas.cli.options import Name
from adamas.train.choices import PARTS


@click.command("evaluate", short_help="Judge a run's model on rows with answers.")
@click.argument("run")
@click.argument("data")
@click.option(
    "--part", type=Name(PARTS), default="auto", show_default=True, help="Of the run's own data; auto: its test rows."
)
@click.option("--json", "machine", is_flag=True, help="One JSON object, for machines.")
def command(run: str, data: str, part: str, machine: bool) -> None:
    """Judge the model of RUN (a folder, or runs/latest) on DATA, a built-in set or a .npz file with x and y.

    On the data that the run was trained on, its test rows are used: the model never saw them.
    """
    from adamas.train.runs.report import number
    from adamas.train.runs.trained import Run, evaluate

    opened = Run.open(run)
    found = evaluate(opened, data, part)  # type: ignore[arg-type]  # `Name` let only parts through
    numbers = found.score.numbers
    if machine:
        about = {"part": found.part, "seen": found.seen, "changed": found.changed, "rows": found.score.rows}
        click.echo(json.dumps({"run": str(opened.path), "data": data, **about, **numbers}))
        return
    which = "rows" if found.part == "all" else f"{found.part} rows"
    click.echo(f"{data}: {found.score.rows:,} {which}")
    width = max(map(len, numbers))
    for name, value in numbers.items():
        click.echo(f"  {name:<{width}}  {number(value, name)}")
    if found.seen:
        click.echo("The model was trained or chosen with some of these rows: expect worse on new ones.")
    if found.changed:
        click.echo("The data has changed since the run: the model may have been trained with some of these rows.")
    next_steps(quoted("adamas", "predict", run, data, "-o", "predictions.csv"))
