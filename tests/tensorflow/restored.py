"""Training that goes on in another process from the latest checkpoint of a folder.

python restored.py FOLDER LAYOUT     restores before the first step and writes FOLDER/restored.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from continuing import state

from adamas.tensorflow import Adam

SHAPES: list[tuple[int, ...]] = [(3,), (2, 4097), (), (0,)]
SETTINGS: dict[str, Any] = {"amsgrad": True, "use_ema": True, "ema_momentum": 0.5, "gradient_accumulation_steps": 3}


def variables() -> list[tf.Variable]:
    rng = np.random.default_rng(11)
    return [tf.Variable(np.asarray(rng.normal(size=shape), np.float32)) for shape in SHAPES]


def take_steps(optimizer: Any, variables: list[tf.Variable], seed: int, count: int = 7) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        optimizer.apply([tf.constant(rng.normal(size=v.shape), v.dtype) for v in variables], variables)


def laid_out(optimizer: Any, layout: str) -> Any:
    """The moments in one arena a slot, or a variable for each."""
    if layout == "separate":
        optimizer.expect_xla()
    return optimizer


def main(folder: Path, layout: str) -> None:
    optimizer, mine = laid_out(Adam(0.5, **SETTINGS), layout), [tf.Variable(tf.zeros(shape)) for shape in SHAPES]
    status = tf.train.Checkpoint(optimizer=optimizer, mine=mine).restore(tf.train.latest_checkpoint(folder))
    take_steps(optimizer, mine, seed=2)
    status.assert_consumed()
    arrays = [v.numpy() for v in mine] + state(optimizer)
    np.savez(folder / "restored.npz", **{f"{i:03}": array for i, array in enumerate(arrays)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
