"""What gives batches of its own - data sets, generators, `PyDataset`s - cut into epochs as `model.fit` cuts them."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from adamas.errors import ArgumentError, DataError, UnsupportedError
from adamas.train.loop.batches import Layout
from adamas.train.loop.order import epoch_order

# Batches that TensorFlow makes ready while a step runs. With one, a slow batch holds up the step after it.
AHEAD = 2


class Source:
    """Batches in turn. Keras' own data adapters read them, so that a batch is what it is in `model.fit`.

    Args:
        data: `tf.data.Dataset`, `keras.utils.PyDataset`, generator or iterator, or what else Keras has an adapter for.
        class_weight: as `model.fit` takes it, for data sets and `PyDataset`s.
        steps: batches an epoch; None: all there are. The next epoch goes on where the last one ended, as in Keras.
        seed: of the order of the batches of a `PyDataset`; None: as they come.
        what: "validation " for the messages about validation data.

    Raises:
        ArgumentError: endless, and no number of steps.
        UnsupportedError: distributed, or class_weight for a generator.
        DataError: tensors of unknown rank, or no batches.
    """

    def __init__(
        self,
        data: Any,
        class_weight: Mapping[int, float] | None,
        steps: int | None,
        seed: int | None,
        what: str = "",
    ):
        self._given, self._seed, self._what = steps, seed, what
        self._raised: list[BaseException] = []
        if isinstance(data, keras.utils.PyDataset):
            data = _Ordered(data, self._raised)
        elif isinstance(data, Iterator):
            data = _noted(data, self._raised)
        self._data = data
        self._adapter = _adapter(data, class_weight, what)
        self._known: int | None = self._adapter.num_batches
        dataset = self._adapter.get_tf_dataset()
        endless = int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
        if steps is None and (endless or (isinstance(data, keras.utils.PyDataset) and self._known is None)):
            name = "validation_steps" if what else "steps_per_epoch"
            raise ArgumentError(f"the {what}data has no end: give {name}, the number of batches an epoch")
        if self._known == 0:
            raise DataError(f"the {what}data has no batches; give at least one")
        self._dataset = dataset.prefetch(AHEAD) if isinstance(data, tf.data.Dataset) else dataset
        self.spec: Any = dataset.element_spec
        for leaf in keras.tree.flatten(self.spec):
            if getattr(leaf, "shape", None) is not None and leaf.shape.rank is None:
                raise DataError(
                    f"the {what}data gives tensors of unknown rank ({leaf}): tell their shapes, with output_signature= "
                    "or tf.ensure_shape"
                )
        self.layout = Layout(*batch_of(self.spec))
        self._iterator: Any = None
        self._seen = 0  # batches taken from the iterator
        self._ever = 0  # batches that the longest walk to an end gave

    @property
    def steps(self) -> int | None:
        """Batches an epoch, None if that is not known yet."""
        return self._given or self._known or self._ever or None

    @property
    def varies(self) -> bool:
        """Whether batches may differ in more than their number of rows, or hold what is not a dense number."""
        return any(
            not _is_dense(leaf) or not leaf.shape[1:].is_fully_defined()
            for leaf in self.layout.flatten(*batch_of(self.spec))
        )

    def restart(self) -> None:
        """Before a training, and before each validation: from the first batch on."""
        self._iterator, self._seen, self._known = None, 0, self._adapter.num_batches
        self._adapter.on_epoch_end()

    def begin(self, epoch: int) -> tuple[Any, int | None]:
        """An epoch begins: the iterator, and how many batches to take at most (None: all)."""
        anew = self._iterator is None or self._given is None
        if anew and self._seed is not None and isinstance(self._data, _Ordered):
            self._data.renew(self._seed, epoch)  # before Keras starts its workers
        self._adapter.on_epoch_begin()
        if anew:
            self._iterator, self._seen = iter(self._dataset), 0
        known = [n for n in (self._given, self._known and self._known - self._seen) if n is not None]
        return self._iterator, min(known, default=None)

    def end(self, taken: int, ended: bool) -> None:
        """So many batches of this epoch were taken; `ended`: there are no more.

        Raises:
            DataError: there was none at all, ever.
        """
        self._seen += taken
        over = ended or (self._known is not None and self._seen >= self._known)
        expected = self._given or self._ever
        if over:
            self._iterator = None
            self._ever = max(self._ever, self._seen)
        if over and not self._ever:
            raise DataError(f"the {self._what}data gave no batch; give at least one")
        if over and taken < expected:
            warnings.warn(
                f"The {self._what}data ran out after {taken} of {expected} batches of an epoch. Give a data set that "
                "has as many in each epoch, for instance with .repeat(); a generator gives its batches only once.",
                stacklevel=4,
            )
        self._adapter.on_epoch_end()

    def failure(self, error: BaseException) -> BaseException:
        """What Python code of the user's raised, if it was that which ended an operation with this error."""
        return self._raised.pop() if self._raised else error


def is_source(data: Any) -> bool:
    """Whether this gives batches, and is no array or structure of arrays."""
    if isinstance(data, (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset, Iterator)):
        return True
    adapters = _adapters()
    return bool(
        isinstance(data, adapters.data_adapter.DataAdapter)
        or adapters.is_torch_dataloader(data)
        or adapters.is_grain_dataset(data)
    )


def batch_of(element: Any) -> Any:
    """(x, y, sample_weight) of an element of a data set, or of its specification."""
    empty = (tf.experimental.Optional, tf.OptionalSpec)  # what Keras' adapters put in place of None
    element = keras.tree.map_structure(lambda leaf: None if isinstance(leaf, empty) else leaf, element)
    return keras.utils.unpack_x_y_sample_weight(element)


def check_dense(spec: Any) -> None:
    """Refuse elements that a program which XLA compiles cannot take.

    Raises:
        UnsupportedError: sparse or ragged tensors, or strings.
    """
    for leaf in keras.tree.flatten(batch_of(spec)):
        if leaf is not None and not _is_dense(leaf):
            raise UnsupportedError(f"XLA takes dense numbers only, and the data gives {leaf}; give program='graph'")


def _is_dense(leaf: Any) -> bool:
    dtype = leaf.dtype
    return isinstance(leaf, tf.TensorSpec) and bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _adapters() -> Any:
    try:
        from keras.src.trainers import data_adapters
    except ImportError as error:
        raise UnsupportedError(
            f"adamas.train.fit reads data sets and generators through Keras' data adapters, which Keras "
            f"{keras.version()} does not have where they were looked for ({error}): give arrays, or use model.fit"
        ) from error
    return data_adapters


def _adapter(data: Any, class_weight: Mapping[int, float] | None, what: str) -> Any:
    if isinstance(data, tf.distribute.DistributedDataset):
        raise UnsupportedError(
            f"the {what}data is distributed, and adamas.train.fit trains on one device: use model.fit"
        )
    if class_weight is not None and not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        raise UnsupportedError(
            "class_weight needs arrays, a tf.data.Dataset or a PyDataset: let the generator give (x, y, sample_weight)"
        )
    return _adapters().get_data_adapter(data, class_weight=class_weight)


def _noted(data: Iterator[Any], raised: list[BaseException]) -> Generator[Any, None, None]:
    """The same items as a generator; TensorFlow turns what is raised into text, so it is kept here."""
    try:
        yield from data
    except Exception as error:
        raised.append(error)
        raise


class _Ordered(keras.utils.PyDataset):
    """A `PyDataset` with its batches in a seeded order; Keras would draw one from Python's `random`."""

    def __init__(self, inner: Any, raised: list[BaseException]):
        super().__init__(inner.workers, inner.use_multiprocessing, inner.max_queue_size)
        self._inner, self._raised = inner, raised
        self._order: Any = None

    @property
    def num_batches(self) -> int | None:
        count: int | None = self._inner.num_batches
        return count

    def __getitem__(self, index: int) -> Any:
        try:
            return self._inner[index if self._order is None else int(self._order[index])]
        except Exception as error:
            self._raised.append(error)
            raise

    def on_epoch_begin(self) -> None:
        self._inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._inner.on_epoch_end()

    def renew(self, seed: int, epoch: int) -> None:
        """From here on in another order."""
        if self._inner.num_batches is not None:
            self._order = epoch_order(self._inner.num_batches, seed, epoch)
