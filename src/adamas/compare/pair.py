"""Two optimizers on one task, tuned equally: what `adamas train DATA --against sgd` does.

Both start from the same weights, see the same examples in the same order, and may try the same number of learning
rates on the validation rows. The best rate of each is trained in full, and the weights of its best epoch (lowest
validation loss) are judged on test rows that nothing before has looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adamas.compare import paired, report
from adamas.errors import ArgumentError, DataError
from adamas.train.runs import artifacts, models
from adamas.train.runs.config import Config, Optimizer
from adamas.train.runs.curves import draw
from adamas.train.runs.job import Job, begin, label_of
from adamas.train.runs.outcome import Outcome
from adamas.train.runs.progress import Listener, Trial
from adamas.train.runs.score import Score
from adamas.train.runs.trained import Run

if TYPE_CHECKING:
    from adamas.train.runs.trainer import Trainer


@dataclass(frozen=True)
class Side:
    """One optimizer's half: its trials, its training in full, and its score on the test rows."""

    trials: tuple[Trial, ...]
    outcome: Outcome
    score: Score

    @property
    def name(self) -> str:
        """As a reader knows it."""
        return models.describe(self.outcome.optimizer)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate was the smallest or the largest tried, so that a better one may lie beyond."""
        rates = [t.learning_rate for t in self.trials]
        return len(rates) > 1 and self.outcome.learning_rate in (min(rates), max(rates))


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    run      the complete run; its model is the first side's
    sides    the optimizer and the one it was compared with
    paired   the two on the same test rows
    verdict  five lines
    baseline what no learning gives
    """

    run: Run
    sides: tuple[Side, Side]
    paired: paired.Paired
    verdict: tuple[str, ...]
    baseline: dict[str, float]


def against(config: Config | dict[str, Any], listener: Listener | None = None) -> Comparison:
    """Trains two optimizers with the same tuning budget and judges both on the same test rows.

    Args:
        config: a Config with `against`, or its values as a dictionary.
        listener: hears trials and epochs as they end; None: silence.

    Raises:
        ArgumentError: a setting is out of range or unknown, or there is no `against`.
        DataError: the data cannot be trained on, or no learning rate of a side gave a finite loss.
        RunError: the folder cannot be written.

    Example:
        >>> from adamas.compare import against
        >>> found = against(
        ...     {"data": "iris", "against": {"name": "sgd"}, "training": {"epochs": 3}, "out": "/tmp/adamas-doc"}
        ... )
        >>> [side.name for side in found.sides]
        ['Adam', 'SGD']
    """
    config = Config.parse(config) if isinstance(config, dict) else config
    if config.against is None:
        raise ArgumentError("there is nothing to compare with; say against which optimizer, or call adamas.train.run")
    first, second = config.optimizer.name, config.against.name
    with begin(config, listener or Listener(), lambda p: f"{label_of(p)}-{first}-against-{second}") as job:
        prepared = job.prepared
        resolved = prepared.config
        trainers = [job.first, job.second(resolved.against or config.against)]
        parameters = job.parameters
        trials = [_tune(job, trainer) for trainer in trainers]
        found = []
        for trainer, tried, under in zip(trainers, trials, ("", artifacts.AGAINST), strict=True):
            outcome = job.train(trainer, _best(tried, trainer.settings).learning_rate)
            artifacts.save_side(job.folder, trainer, outcome, under)
            found.append(Side(tried, outcome, job.test(trainer, outcome)))
        sides = (found[0], found[1])
        test = paired.compare_labels if prepared.task == "classification" else paired.compare_errors
        chance = test(sides[0].score.row_error, sides[1].score.row_error)
        base = job.baseline()
        verdict = report.verdict(prepared, sides, chance, base)
        title = f"{sides[0].name} against {sides[1].name} on {label_of(prepared)}"
        job.folder.write("curves.png", draw([s.outcome for s in sides], title))
        page = report.page(job.folder.path, title, verdict, prepared, sides, base, parameters)
        job.folder.write("report.md", page)
        path = job.folder.finish(
            {
                "kind": "against",
                **job.record(),
                "result": _record(sides[0]),
                "against": _record(sides[1]),
                "paired": {"better": chance.better, "worse": chance.worse, "p_value": chance.p_value},
                "baseline": base,
                "verdict": verdict,
            }
        )
    return Comparison(Run.open(path), sides, chance, tuple(verdict), base)


def _tune(job: Job, trainer: Trainer) -> tuple[Trial, ...]:
    """Tries each learning rate from the start; one that diverges counts as infinitely bad."""
    tuning = job.prepared.config.tuning
    rates = (tuning.learning_rates or {})[trainer.settings.name]
    epochs = tuning.epochs or job.prepared.epochs
    name = trainer.settings.name
    job.listener.tuning(name, len(rates), epochs)
    trials = []
    for rate in rates:
        try:
            best = trainer.train(rate, epochs, "tune", job.hear).best_epoch
            trial = Trial(name, rate, best.epoch, best.val_loss, best.val_metric, best.metric_name)
        except DataError:
            trial = Trial(name, rate, 0, math.inf, math.nan, "")
        job.listener.tried(trial)
        trials.append(trial)
    return tuple(trials)


def _best(trials: tuple[Trial, ...], settings: Optimizer) -> Trial:
    """The lowest validation loss; of equals the smaller rate."""
    best = min(trials, key=lambda t: (t.val_loss, t.learning_rate))
    if math.isinf(best.val_loss):
        raise DataError(
            f"{models.describe(settings)} reached a finite validation loss with none of its learning rates "
            f"({', '.join(f'{t.learning_rate:g}' for t in trials)}); give smaller ones"
        )
    return best


def _record(side: Side) -> dict[str, Any]:
    trials = [
        {"learning_rate": t.learning_rate, "epoch": t.epoch, "val_loss": _finite(t.val_loss)} for t in side.trials
    ]
    return {**artifacts.side_record(side.outcome, side.score.numbers), "trials": trials}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
