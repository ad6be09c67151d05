"""What a TensorFlow checkpoint holds for a Keras optimizer, looked at before anything is restored from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from adamas.errors import StateError
from adamas.keras_store import difference
from adamas.tensorflow.moments import KEYS

Shape = tuple[int, ...]

SAME = (
    "Build the optimizer for the same variables with the same amsgrad, moments, weights, sparse, use_ema, "
    "gradient_accumulation_steps and kind of learning rate (number or schedule)"
)
_EVERYBODYS = {"_variables", "_model_variables_moving_average", "_accumulated_gradients"}
_ADAMS = {"_momentums", "_velocities", "_velocity_hats"}


class Kind(NamedTuple):
    """A class of optimizers: its name, and the lists by which a checkpoint tells it from others; none for Adam's."""

    name: str
    lists: tuple[str, ...]


@dataclass(frozen=True)
class SavedOptimizer:
    """One optimizer in a checkpoint.

    shapes   of its variables, in Keras' order
    dtypes   of them
    built    whether it had seen its variables
    lists    what it keeps of each parameter, by Keras' names; of our Adam, which has no such lists, nothing
    """

    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    built: bool
    lists: tuple[str, ...]

    def misfit(self, kind: Kind, shapes: Sequence[Shape], spare: int, dtypes: Mapping[int, str]) -> str | None:
        """Why one whose variables have these shapes, and some of them these dtypes, cannot go on from it, or None.

        It may lack the last `spare` of them all together.
        """
        if spare and len(self.shapes) == len(shapes) - spare:
            shapes = shapes[:-spare]
        others = [name for name in self.lists if name not in (kind.lists or _ADAMS)]
        if others:
            return f"it keeps {', '.join(others)}, so it is no {kind.name}"
        if not self.built:
            return None
        missing = [name for name in kind.lists if name not in self.lists]
        if missing:
            return f"it does not keep {', '.join(missing)}, so it is no {kind.name}"
        return difference(self.shapes, shapes) or next(
            (
                f"its array {i} is {self.dtypes[i]}, that of this optimizer {dtype} (see `moments`)"
                for i, dtype in dtypes.items()
                if i < len(self.dtypes) and self.dtypes[i] != dtype
            ),
            None,
        )


@dataclass(frozen=True)
class Offer:
    """A checkpoint that TensorFlow restores from, at once or when the optimizer is built."""

    path: str
    optimizers: Sequence[SavedOptimizer]

    def check(self, name: str, kind: Kind, shapes: Sequence[Shape], spare: int, dtypes: Mapping[int, str]) -> None:
        """Nothing, unless no optimizer in it fits the one of this name, whose variables have these shapes: StateError.

        `dtypes`: of those variables, by number, that must be stored in just this dtype. The last `spare` may be
        missing. Which of several optimizers is meant, TensorFlow does not say; then one that fits is enough.
        """
        misfits = [optimizer.misfit(kind, shapes, spare, dtypes) for optimizer in self.optimizers]
        if all(misfits):
            raise StateError(
                f"the checkpoint {self.path} has no state for the optimizer {name!r}: "
                f"{'; '.join(map(str, misfits)) or 'it has no optimizer of Keras 3'}. Nothing was restored. {SAME}; or "
                "restore into a tf.train.Checkpoint without the optimizer, which then begins at zero"
            )


def look(path: str) -> Offer:
    """What a checkpoint offers: the Keras 3 optimizers anywhere in it."""
    reader = tf.train.load_checkpoint(path)
    nodes = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    found = []
    for node in nodes:
        children = {child.local_name: nodes[child.node_id] for child in node.children}
        if not {"_iterations", "_variables", "_trainable_variables"} <= children.keys():
            continue
        variables = {int(child.local_name): nodes[child.node_id] for child in children["_variables"].children}
        keys = [next(a.checkpoint_key for a in variables[i].attributes if a.name == KEYS[0]) for i in sorted(variables)]
        members = {child.node_id for child in children["_variables"].children}
        lists = [name for name, child in children.items() if members & {part.node_id for part in child.children}]
        found.append(
            SavedOptimizer(
                shapes=tuple(tuple(shapes[key]) for key in keys),
                dtypes=tuple(dtypes[key].name for key in keys),
                built=bool(children["_trainable_variables"].children),
                lists=tuple(name for name in lists if name not in _EVERYBODYS),
            )
        )
    return Offer(path, found)
