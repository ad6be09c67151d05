"""`adamas predict`."""

from __future__ import annotations

import click

from adamas.cli.app import next_steps, quoted


@click.command("predict", short_help="Write a run's answers for rows to a file.")
@click.argument("run")
@click.argument("data")
@click.option("-o", "--output", required=True, metavar="FILE", help="Ends in .csv or .npz.")
def command(run: str, data: str, output: str) -> None:
    """Write the answers of RUN's model for DATA to a file, in the order of the rows.

    RUN is a folder, or runs/latest. DATA is a built-in set or a .npz file with x. Labels come with a probability for
    each class; numbers are in the units of the data.
    """
    from adamas.train.runs.predictions import check_output, save_predictions
    from adamas.train.runs.trained import Run, predict

    check_output(output)
    opened = Run.open(run)
    predictions = predict(opened, data)
    path = save_predictions(predictions, output)
    what = "label and probabilities" if predictions.probabilities is not None else "numbers"
    click.echo(f"{path}: {what} for {len(predictions):,} rows")
    next_steps(
        quoted("head", path)
        if path.suffix == ".csv"
        else f"python -c \"import numpy; print(*numpy.load('{path}').items())\""
    )
