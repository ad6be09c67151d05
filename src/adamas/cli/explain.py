"""`adamas explain`."""

from __future__ import annotations

import signal
import sys

import click

from adamas.cli.options import Number


@click.command(
    "explain",
    short_help="Run a script with Adamas in place, and say what that changes.",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)
@click.option("--seconds", type=Number(above=0), default=6.0, show_default=True, help="To measure after the script.")
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False), help="Write the report there, too."
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(seconds: float, json_file: str | None, script: str, arguments: tuple[str, ...]) -> int:
    """Run SCRIPT, unedited, with ARGUMENTS, and report where its time goes.

    Where that gives the same results, adamas.keras steps in the place of keras.optimizers.Adam and its family, and
    adamas.torch in the place of torch.optim's. Afterwards the script's steps and loops are measured with and without,
    and model.fit against adamas.train.fit. The report goes to standard error; the exit status is the script's.

    `python -m adamas SCRIPT` is the same.
    """
    from adamas.explain import explain

    # The script meets signals as under `python script.py`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__
    return explain(script, arguments, seconds=seconds, json_file=json_file)
