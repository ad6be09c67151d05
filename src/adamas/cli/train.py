"""`adamas train`."""

from __future__ import annotations

from typing import Any

import click

from adamas.cli.app import next_steps, quoted
from adamas.cli.options import Count, Name, Number
from adamas.train.choices import INITS, OPTIMIZERS, PROGRAMS, TASKS


@click.command("train", short_help="Train a small network, alone or against another optimizer.")
@click.argument("data")
@click.option("--against", type=Name(OPTIMIZERS), help="Compare with this optimizer, both tuned equally.")
@click.option("--optimizer", type=Name(OPTIMIZERS), default="adam", show_default=True, help="What trains the network.")
@click.option(
    "--lr", type=Number(above=0), help="Learning rate [0.001; sgd: 0.01]. With --against: the middle of five."
)
@click.option("--weight-decay", type=Number(least=0), help="Decoupled decay; biases are left out [0; adamw: 0.004].")
@click.option("--epochs", type=Count(), help="Passes over the training rows [30; up to 100 for small data].")
@click.option("--batch-size", type=Count(), help="Rows a step [32; less for small data].")
@click.option(
    "--init",
    type=Name(INITS),
    default="glorot_uniform",
    show_default=True,
    help=f"Initial weights: {', '.join(INITS)}.",
)
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Of split, weights and order of rows.")
@click.option("--task", type=Name(TASKS), default="auto", show_default=True, help="What y is.")
@click.option("--program", type=Name(PROGRAMS), default="auto", show_default=True, help="How steps are compiled.")
@click.option("--threads", type=Count(), help="CPU threads [all that this process may use].")
@click.option("--out", default="runs", show_default=True, help="Folder of all runs.")
@click.option("--name", help="Of this run [date, time, data and optimizer].")
@click.option("--json", "machine", is_flag=True, help="One JSON object a line, for machines.")
def command(data: str, machine: bool, **options: Any) -> None:
    """Train a small network on DATA and judge it on rows it never saw.

    DATA is one of the real sets that ship inside scikit-learn (digits, iris, wine, breast_cancer, diabetes, linnerud),
    or a .npz file with x and y.
    """
    from adamas.cli.screen import screen
    from adamas.train.runs.config import Config

    config = Config.parse(settings(data, **options))
    with screen(machine) as listener:
        if config.against is None:
            from adamas.train.runs.job import run

            made = run(config, listener)
            listener.trained(made)
        else:
            from adamas.compare.pair import against

            comparison = against(config, listener)
            made = comparison.run
            listener.compared(comparison)
    if not machine:
        latest = made.path.parent / "latest"
        held_out = quoted("adamas", "evaluate", latest, data)
        next_steps(
            held_out,
            quoted("adamas", "predict", latest, data, "-o", "predictions.csv"),
            quoted("cat", latest / "report.md"),
        )


def settings(
    data: str,
    *,
    against: str | None,
    optimizer: str,
    lr: float | None,
    weight_decay: float | None,
    epochs: int | None,
    batch_size: int | None,
    init: str,
    seed: int,
    task: str,
    program: str,
    threads: int | None,
    out: str,
    name: str | None,
) -> dict[str, Any]:
    """The options as values for `Config.parse`."""
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    return {
        "data": data,
        "task": task,
        "seed": seed,
        "model": {"init": init},
        "optimizer": {"name": optimizer, "learning_rate": lr, **decay},
        "training": {"epochs": epochs, "batch_size": batch_size, "program": program, "threads": threads},
        "against": None if against is None else {"name": against, **decay},
        "out": out,
        "name": name,
    }
