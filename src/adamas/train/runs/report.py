"""The page a run ends with: first screen the verdict in five lines, then what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adamas.train.runs import models
from adamas.train.runs.outcome import Outcome
from adamas.train.runs.resolve import Prepared

FILES = {
    "config.yaml": "every setting; it reproduces the run",
    "environment.json": "versions, machine, threads",
    "preprocess.json": "how rows become the network's inputs, fitted on the training rows",
    "rows.npz": "row numbers of the training, validation and test parts",
    "metrics.jsonl": "one line an epoch, tuning included",
    "model.keras": "the network with its best weights, for `keras.saving.load_model`; takes preprocessed rows",
    "best.weights.h5, last.weights.h5": "weights after the best epoch (lowest validation loss) and after the last",
    "optimizer.safetensors": "the optimizer's state after the last epoch, for `adamas.state.load`",
    "optimizer.npz": "SGD's momenta after the last epoch, by Keras path",
    "against/": "the same for the other optimizer",
    "run.json": "the numbers on this page, for machines",
}


def number(value: float, name: str = "") -> str:
    """A measured number as a reader wants it: 97.5% for accuracy, else four digits, or all before the point."""
    if name.endswith("accuracy"):
        return f"{100 * value:.1f}%"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def sizes(prepared: Prepared) -> str:
    """The data in one line."""
    spec, split = prepared.spec, prepared.split
    what = f"{spec.outputs} classes" if spec.task == "classification" else plural(spec.outputs, "target")
    return (
        f"{len(prepared.data):,} rows, {plural(spec.inputs, 'column')}, {what}; {len(split.train):,} train, "
        f"{len(split.validation):,} choose (validation), {len(split.test):,} judge (test)"
    )


def network(prepared: Prepared, parameters: int) -> str:
    """The network in a few words."""
    widths = [prepared.spec.inputs, *(prepared.config.model.hidden or ()), prepared.spec.outputs]
    return f"mlp {'-'.join(map(str, widths))}, {parameters:,} parameters, {prepared.config.model.init} weights"


def alone(
    prepared: Prepared, outcome: Outcome, parameters: int, test: dict[str, float], base: dict[str, float]
) -> list[str]:
    """The verdict of a run of one optimizer, five lines."""
    best, name = outcome.best_epoch, models.describe(outcome.optimizer)
    judged = len(prepared.split.test)
    return [
        f"{name} reaches {_headline(test)} on the {judged:,} test rows, which it never saw.",
        f"Without learning: {_headline(base)} ({nothing_learned(prepared)}).",
        f"Best epoch {best.epoch} of {best.epochs} (validation loss {number(best.val_loss)}): its weights are kept.",
        f"{network(prepared, parameters)}; learning rate {outcome.learning_rate:g}; {outcome.seconds:.1f} s.",
        "One seed, one split: another split of the same rows would move these numbers.",
    ]


def page(
    folder: Path,
    title: str,
    verdict: Sequence[str],
    sections: Sequence[tuple[str, str]],
    prepared: Prepared,
    parameters: int,
) -> str:
    """report.md: title, verdict, picture, the sections, and what every run has."""
    config = prepared.config
    training = config.training
    setup = [
        f"- Data: {config.data}: {sizes(prepared)}; seed {config.seed}.",
        f"- Network: {network(prepared, parameters)}.",
        f"- Training: {plural(prepared.epochs, 'epoch')}, batch size {training.batch_size}, program "
        f"{training.program}, {plural(training.threads or 1, 'thread')}.",
    ]
    if prepared.task == "regression":
        setup.append("- Losses are of standardised targets; test numbers are in the units of the data.")
    present = {name: what for name, what in FILES.items() if _present(folder, name)}
    parts = [
        f"# {title}\n",
        *(f"{i}. {line}" for i, line in enumerate(verdict, 1)),
        "\n![loss and metric by epoch](curves.png)\n",
    ]
    for heading, body in (*sections, ("Set-up", "\n".join(setup) + "\n")):
        parts.append(f"## {heading}\n\n{body}")
    parts.append("## Files\n\n" + table(["file", "holds"], [[f"`{n}`", what] for n, what in present.items()]))
    return "\n".join(parts)


def score_table(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """Test numbers, one line for each name."""
    names = list(rows[0][1])
    return table(["test", *names], [[who, *(number(n[k], k) if k in n else "" for k in names)] for who, n in rows])


def nothing_learned(prepared: Prepared) -> str:
    """What the baseline does."""
    return "always the most frequent class" if prepared.task == "classification" else "always the training mean"


def _headline(numbers: dict[str, float]) -> str:
    if "accuracy" in numbers:
        return f"accuracy {number(numbers['accuracy'], 'accuracy')}"
    return f"RMSE {number(numbers['rmse'])}, MAE {number(numbers['mae'])}, R2 {numbers['r2']:.3f}"


def plural(n: int, word: str) -> str:
    """A count with its noun."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _present(folder: Path, name: str) -> bool:
    if name in ("run.json", "curves.png"):
        return True
    return any((folder / part.rstrip("/")).exists() for part in name.split(", "))
