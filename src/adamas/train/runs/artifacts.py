"""What a run keeps of a training: the model, its weights, and the optimizer's state."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adamas import state
from adamas.errors import RunError
from adamas.train.runs import environment, models
from adamas.train.runs.folder import RunFolder, write_file
from adamas.train.runs.outcome import Outcome
from adamas.train.runs.resolve import Prepared

if TYPE_CHECKING:
    from adamas.train.runs.trainer import Trainer

AGAINST = "against"  # the subfolder of the other side of a comparison


def save_setup(folder: RunFolder, prepared: Prepared, threads: int) -> None:
    """Writes what a run is made from, before it is trained: configuration, environment, preprocessing, rows."""
    folder.write("config.yaml", prepared.config.to_yaml())
    folder.write(
        "environment.json", _json({**environment.machine(), "threads": threads, "versions": environment.versions()})
    )
    folder.write("preprocess.json", _json(prepared.spec.to_json()))
    rows = io.BytesIO()
    np.savez_compressed(
        rows, **{part: getattr(prepared.split, part).astype(np.int64) for part in ("train", "validation", "test")}
    )
    folder.write("rows.npz", rows.getvalue())


def save_side(folder: RunFolder, trainer: Trainer, outcome: Outcome, under: str = "") -> None:
    """Writes model.keras (the best weights, not compiled), best and last weights, and the optimizer's state.

    Args:
        folder: of the run.
        trainer: as it stands at the end of the training that gave `outcome`.
        outcome: the training.
        under: a subfolder.

    Raises:
        RunError: nothing more can be written there.
    """
    place = folder.path / under
    try:
        place.mkdir(exist_ok=True)
        save_optimizer(place, trainer)
        model = models.build(trainer.prepared)
        model.set_weights(outcome.last_weights)
        model.save_weights(place / "last.weights.h5")
        model.set_weights(outcome.best_weights)
        model.save_weights(place / "best.weights.h5")
        model.save(place / "model.keras")
    except (OSError, RuntimeError) as error:  # h5py turns a full disk into either
        if isinstance(error, RunError):
            raise
        raise RunError(f"cannot write to {place}: {_reason(error)}") from error


def save_optimizer(place: Path, trainer: Trainer) -> None:
    """Writes the optimizer's state: `optimizer.safetensors` (adamas.state), or SGD's momenta as `optimizer.npz`."""
    if trainer.settings.name != "sgd":
        state.save(place / "optimizer.safetensors", trainer.optimizer)
        return
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {variable.path: np.array(variable) for variable in trainer.optimizer.variables}
    np.savez(buffer, **arrays)
    write_file(place / "optimizer.npz", buffer.getvalue())


def side_record(outcome: Outcome, test: dict[str, float]) -> dict[str, Any]:
    """One side's entry in run.json."""
    best = outcome.best_epoch
    return {
        "optimizer": _settings(outcome),
        "best_epoch": best.epoch,
        "epochs": best.epochs,
        "validation": {"loss": best.val_loss, best.metric_name: best.val_metric},
        "test": test,
        "seconds": round(outcome.seconds, 3),
    }


def _settings(outcome: Outcome) -> dict[str, Any]:
    """The optimizer's settings with the learning rate that was used."""
    return {**outcome.optimizer.model_dump(mode="json"), "learning_rate": outcome.learning_rate}


def epoch_line(epoch: Any) -> dict[str, Any]:
    """An epoch as a line of metrics.jsonl: `accuracy` and `val_accuracy`, or `mae` and `val_mae`."""
    values = asdict(epoch)
    name = values.pop("metric_name")
    metric, val_metric, val_loss = values.pop("metric"), values.pop("val_metric"), values.pop("val_loss")
    return {**values, name: metric, "val_loss": val_loss, f"val_{name}": val_metric}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _reason(error: Exception) -> str:
    """What the system said, without h5py's addresses."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return os.strerror(number)
    text = " ".join(str(error).split())
    return next((os.strerror(n) for n in (28, 122, 27, 30, 5) if os.strerror(n).lower() in text.lower()), text)
