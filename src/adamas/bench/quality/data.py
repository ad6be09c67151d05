"""Real data that is on every machine: scikit-learn's handwritten digits, and the sources of Python's standard library.

What is held out never changes with the seed: a seed chooses the first weights and the order of the examples.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import re
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from adamas.errors import DataError

HELD_OUT = 5  # every fifth row or stretch of text
MOST = 512  # rows that are held out at most, evenly spaced: the final loss must not cost more than the training


class Rows(NamedTuple):
    """Inputs and what is to be predicted from them, row by row."""

    x: np.ndarray
    y: np.ndarray


class Data(NamedTuple):
    """What is trained on, what the final loss is taken on, and which bytes these were."""

    train: Rows
    held_out: Rows
    digest: str


def split(x: np.ndarray, y: np.ndarray) -> Data:
    """Every fifth row is held out, and at most `MOST` of them are used."""
    out = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    kept = np.flatnonzero(out)
    kept = kept[np.linspace(0, len(kept) - 1, min(MOST, len(kept))).astype(np.int64)]
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(y).tobytes()).hexdigest()[:16]
    return Data(Rows(x[~out], y[~out]), Rows(x[kept], y[kept]), digest)


@functools.cache
def digits() -> Data:
    """1797 handwritten digits: [64] float32 pixels in [0, 1], and the class 0 to 9."""
    x, y = load_digits(return_X_y=True)
    return split((x / 16).astype(np.float32), y.astype(np.int64))


@functools.cache
def modules() -> dict[str, str]:
    """The standard library's modules of one file each, by name: their sources.

    Raises:
        DataError: this Python carries none (some are shipped compiled).
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = {path.stem: path.read_text("utf-8", errors="replace") for path in sorted(folder.glob("*.py"))}
    if sum(map(len, found.values())) < 1_000_000:
        raise DataError(
            f"{folder} holds too few sources of the standard library ({len(found)} files); use a Python that carries "
            "them, or --only with the tasks on digits"
        )
    return found


@functools.cache
def characters(length: int) -> Data:
    """The sources, one after the other, in pieces of `length` characters: y is x one character later.

    Printable ASCII and the newline are 0 to 95; every other character is 96.
    """
    text = "\n".join(modules().values()).encode("ascii", errors="replace")
    symbols = np.full(256, 96, np.int64)
    symbols[ord("\n")] = 95
    symbols[32:127] = np.arange(95)
    codes = symbols[np.frombuffer(text, np.uint8)]
    count = (len(codes) - 1) // length
    return split(codes[: count * length].reshape(count, length), codes[1 : count * length + 1].reshape(count, length))


@functools.cache
def words(vocabulary: int, classes: int, length: int) -> Data:
    """Stretches of `length` words of the `classes` largest modules, and which module each is from.

    Words are identifiers, numbers and single other characters. The `vocabulary - 1` most frequent ones have numbers of
    their own, the most frequent first; all others share the last one.
    """
    largest = sorted(modules().items(), key=lambda item: (-len(item[1]), item[0]))[:classes]
    texts = [re.findall(r"\w+|[^\w\s]", source) for _, source in largest]
    counts = collections.Counter(word for text in texts for word in text)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 1]
    number = {word: i for i, word in enumerate(frequent)}
    x, y = [], []
    for label, text in enumerate(texts):
        codes = np.array([number.get(word, vocabulary - 1) for word in text], np.int64)
        count = len(codes) // length
        x.append(codes[: count * length].reshape(count, length))
        y.append(np.full(count, label))
    return split(np.concatenate(x), np.concatenate(y))
