"""One training run from a configuration to a complete folder: what `adamas train` does without `--against`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adamas.errors import ArgumentError
from adamas.train.runs import artifacts, environment, models, report, score
from adamas.train.runs.config import Config, Optimizer
from adamas.train.runs.curves import draw
from adamas.train.runs.folder import RunFolder
from adamas.train.runs.outcome import Outcome
from adamas.train.runs.progress import Epoch, Listener
from adamas.train.runs.resolve import DEFAULT_RATES, Prepared, prepare
from adamas.train.runs.trained import Run

if TYPE_CHECKING:
    from adamas.train.runs.trainer import Trainer


@dataclass
class Job:
    """A run in the making: prepared data, its folder, and the listener. Shared with the comparison."""

    prepared: Prepared
    folder: RunFolder
    listener: Listener
    first: Trainer

    def hear(self, epoch: Epoch) -> None:
        """Writes an epoch into the run and tells the listener."""
        self.folder.metric(artifacts.epoch_line(epoch))
        self.listener.epoch(epoch)

    @property
    def parameters(self) -> int:
        """Of the network."""
        return int(self.first.model.count_params())

    def second(self, settings: Optimizer) -> Trainer:
        """The same network with another optimizer, at the same initial weights."""
        from adamas.train.runs.trainer import Trainer

        return Trainer(self.prepared, settings)

    def train(self, trainer: Trainer, learning_rate: float) -> Outcome:
        """Trains in full, telling the listener."""
        epochs = self.prepared.epochs
        self.listener.training(trainer.settings.name, learning_rate, epochs)
        return trainer.train(learning_rate, epochs, "train", self.hear)

    def test(self, trainer: Trainer, outcome: Outcome) -> score.Score:
        """Judges the best weights on the test rows."""
        rows = self.prepared.split.test
        outputs = trainer.outputs(outcome.best_weights, self.prepared.x[rows])
        if self.prepared.task == "classification":
            return score.classification(outputs, self.prepared.y[rows])
        return score.regression(self.prepared.spec.restore(outputs), self.truth(), self.prepared.spec)

    def truth(self) -> Any:
        """The answers of the test rows: places of labels, or numbers in the units of the data."""
        rows = self.prepared.split.test
        if self.prepared.task == "classification":
            return self.prepared.y[rows]
        return self.prepared.spec.numbers(self.prepared.data)[rows]

    def baseline(self) -> dict[str, float]:
        """What no learning gives on the test rows."""
        return score.baseline(self.prepared.spec, self.prepared.y[self.prepared.split.train], self.truth())

    def record(self) -> dict[str, Any]:
        """What run.json says of every run."""
        prepared = self.prepared
        return {
            "data": prepared.config.data,
            "fingerprint": prepared.data.fingerprint,
            "task": prepared.task,
            "rows": {part: len(getattr(prepared.split, part)) for part in ("train", "validation", "test")},
            "seed": prepared.config.seed,
        }


@contextmanager
def begin(config: Config, listener: Listener, label: Callable[[Prepared], str]) -> Iterator[Job]:
    """Checks everything, makes the run's folder and starts TensorFlow; the folder stays unfinished unless finished.

    Raises:
        AdamasError: what is wrong with the configuration, the data or the place; before the folder is made, where
            it can be known by then.
    """
    prepared = prepare(config)
    listener.prepared(prepared)
    with RunFolder(config.out, config.name, label(prepared)) as folder:
        asked = config.training.threads is not None
        threads = environment.start_tensorflow(prepared.config.training.threads or 1, asked=asked)
        prepared = prepared.with_training(threads=threads)
        from adamas.train.runs.trainer import Trainer

        trainer = Trainer(prepared, prepared.config.optimizer)
        prepared = prepared.with_training(program=trainer.program)
        listener.model(trainer.model.count_params(), trainer.program, threads)
        artifacts.save_setup(folder, prepared, threads)
        yield Job(prepared, folder, listener, trainer)


def run(config: Config | dict[str, Any], listener: Listener | None = None) -> Run:
    """Trains the network that the configuration describes and judges it on rows it never saw.

    Two runs of one configuration on one machine give the same weights to the bit.

    Args:
        config: a Config, or its values as a dictionary, for example `{"data": "digits", "training": {"epochs": 5}}`.
        listener: hears epochs as they end; None: silence.

    Returns:
        The complete run; its folder is `config.out`/`config.name`.

    Raises:
        ArgumentError: a setting is out of range or unknown, or asks for a comparison (`adamas.compare.against`).
        DataError: the data cannot be trained on, or no learning rate gave a finite loss.
        RunError: the folder cannot be written.

    Example:
        >>> from adamas.train import run
        >>> run({"data": "iris", "training": {"epochs": 3}, "out": "/tmp/adamas-doc"}).record["task"]
        'classification'
    """
    config = Config.parse(config) if isinstance(config, dict) else config
    if config.against is not None:
        raise ArgumentError("this configuration compares two optimizers; give it to adamas.compare.against")
    with begin(config, listener or Listener(), lambda p: f"{label_of(p)}-{config.optimizer.name}") as job:
        prepared = job.prepared
        trainer, parameters = job.first, job.parameters
        outcome = job.train(trainer, prepared.config.optimizer.learning_rate or DEFAULT_RATES[config.optimizer.name])
        test, base = job.test(trainer, outcome).numbers, job.baseline()
        verdict = report.alone(prepared, outcome, parameters, test, base)
        artifacts.save_side(job.folder, trainer, outcome)
        title = f"{models.describe(outcome.optimizer)} on {label_of(prepared)}"
        job.folder.write("curves.png", draw([outcome], title))
        rows = [(title.split(" on ")[0], test), (report.nothing_learned(prepared), base)]
        sections = [("On the test rows", report.score_table(rows))]
        job.folder.write("report.md", report.page(job.folder.path, title, verdict, sections, prepared, parameters))
        path = job.folder.finish(
            {
                "kind": "train",
                **job.record(),
                "result": artifacts.side_record(outcome, test),
                "baseline": base,
                "verdict": verdict,
            }
        )
    return Run.open(path)


def label_of(prepared: Prepared) -> str:
    """The data's name without folder and suffix, fit for a folder's name."""
    stem = prepared.config.data.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".npz")
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in stem)[:60] or "data"
