"""`adamas bench quality`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from adamas.cli.bench import Words
from adamas.cli.options import Count, Number


@click.command("quality", short_help="whether trainings end as well in fewer bits, paired by seed")
@click.option("--seeds", type=Count(least=5), help="For each task.  [default: each task's own number]")
@click.option("--only", type=Words(), default="", metavar="KEY,...", help="Tasks, by their keys in the JSON.")
@click.option("--scale", type=Number(above=0), default=1.0, show_default=True, help="At most 1: shortens trainings.")
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False), help="Write every final loss there, too."
)
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False), help="Draw the intervals there, as SVG.")
def command(seeds: int | None, only: tuple[str, ...], scale: float, json_file: str | None, plot: str | None) -> None:
    """Train small models on real data with moments and weights in each format, and compare the final losses.

    Everything is paired by seed: same first weights, same batches. The 95% interval of the difference to float32 must
    lie inside half of float32's spread over the seeds. It takes up to half an hour on two cores. The table goes to
    standard output, in Markdown; progress to standard error.
    """
    from adamas.bench.quality.plot import check, draw
    from adamas.bench.quality.run import quality

    if plot is not None:
        check()
    report = quality(seeds=seeds, scale=scale, tasks=only, say=lambda text: click.echo(text, err=True))
    if json_file is not None:
        Path(json_file).write_text(json.dumps(report.data, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(report.data, Path(plot))
    click.echo(report.text(), nl=False)
