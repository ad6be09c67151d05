"""Groups: which numbers, and which storage formats, which tensor of an optimizer gets.

    Adam(params, lr=1e-3, weight_decay=0.01, groups=[
        Group("*.bias", weight_decay=0.0),
        Group("encoder.*", lr=1e-4),
        Group(lambda name, shape: len(shape) == 2 and shape[0] > 50_000, moments="int8"),
    ])

A tensor belongs to the first group that matches it; what that group leaves out, and the tensors that none matches, have
the optimizer's own settings. It knows names and shapes only, so every adapter can use it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from adamas.errors import ArgumentError, StateError
from adamas.rule import Hyper, is_number

Shape = tuple[int, ...]
Match = str | Sequence[str] | Callable[[str, Shape], bool]


@dataclass(frozen=True)
class Group:
    """Settings for the tensors that `match`; None leaves a setting as it is for the whole optimizer.

    Args:
        match: a pattern for names, in which `*` stands for any characters, `?` for one and `[ab]` for one of a set;
            several such patterns; or a function of (name, shape) that says whether a tensor belongs, such as
            `no_decay`. Upper and lower case differ.
        lr, betas, eps, eps_root, weight_decay, moments, weights: as for the optimizer.
        lr_scale: instead of `lr`, at least 0: the group's learning rate is that of the optimizer times this, also
            where the optimizer's changes.
        name: for messages and tables; by default it is made from `match`.

    Raises:
        ArgumentError: `match` is none of these, or `betas` not two numbers. What is out of range is refused by the
            optimizer, and so is a group that matches no tensor of it.
    """

    match: Match
    lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    eps_root: float | None = None
    weight_decay: float | None = None
    moments: str | None = None
    weights: str | None = None
    lr_scale: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.match, (list, tuple)):
            sound = bool(self.match) and all(isinstance(pattern, str) for pattern in self.match)
        else:
            sound = isinstance(self.match, str) or callable(self.match)
        if not sound:
            raise ArgumentError(
                f"match={self.match!r}: give a pattern for names such as '*.bias', a list of them, or a function of "
                "(name, shape)"
            )
        check_betas(self.betas)
        if self.lr_scale is not None and not (is_number(self.lr_scale) and 0.0 <= self.lr_scale < math.inf):
            raise ArgumentError(f"lr_scale={self.lr_scale!r}: give a finite number of at least 0")
        if self.lr_scale is not None and self.lr is not None:
            raise ArgumentError(f"lr={self.lr!r} and lr_scale={self.lr_scale!r} exclude each other; give one of them")
        if not self.name:
            object.__setattr__(self, "name", _describe(self.match))

    def matches(self, name: str, shape: Shape) -> bool:
        """Whether a tensor of this name and shape belongs to the group."""
        if callable(self.match):
            return bool(self.match(name, shape))
        patterns = (self.match,) if isinstance(self.match, str) else self.match
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    def numbers(self, own: Hyper) -> Hyper:
        """The numbers of this group, in an optimizer whose own are given.

        Raises:
            ArgumentError: a number is outside its range.
        """
        given = {name: getattr(self, name) for name in _NUMBERS if getattr(self, name) is not None}
        if self.lr_scale is not None:
            given["lr"] = self.lr_scale * own.lr
        if self.betas is not None:
            given["beta1"], given["beta2"] = self.betas
        try:
            return replace(own, **given)
        except ArgumentError as error:
            raise ArgumentError(f"group {self.name}: {error}") from None


_NUMBERS = sorted({field.name for field in fields(Group)} & {field.name for field in fields(Hyper)})


def check_betas(betas: object) -> None:
    """Nothing if these are the two decay rates, or None.

    Raises:
        ArgumentError: they are not two.
    """
    if betas is not None and not (isinstance(betas, (tuple, list)) and len(betas) == 2):
        raise ArgumentError(f"betas={betas!r}: give two numbers in [0, 1), such as (0.9, 0.999)")


_LAST = re.compile(r"bias|gamma|beta|.*_bias|bias_[kv]")
_NORMALISATION = re.compile(r".*norm(alization)?(_?\d+)?")


def no_decay(name: str, shape: Shape) -> bool:
    """Whether a tensor is one that weight decay should leave out: a bias, or the weight of a normalisation.

    It is one if, upper and lower case alike, any of these holds (the parts of a name are between "/" and "."; a ":0" at
    its end does not count):

    - it has at most one dimension;
    - the last part of its name is "bias", "beta", "gamma", "bias_k" or "bias_v", or ends in "_bias";
    - the part before the last ends in "norm" or "normalization", digits and one "_" before them aside ("norm1.weight",
      "LayerNorm_0/scale", "batch_normalization_3/gamma").

    Source: every public recipe for transformers; biases and scales have few numbers and no reason to be near 0.

    Example:
        >>> from adamas.groups import no_decay
        >>> [no_decay("dense/bias", (10,)), no_decay("attention/query/bias", (8, 64)), no_decay("dense/kernel", (9, 9))]
        [True, True, False]
    """
    if len(shape) <= 1:
        return True
    *rest, last = re.split(r"[/.]", name.lower().removesuffix(":0"))
    return bool(_LAST.fullmatch(last) or (rest and _NORMALISATION.fullmatch(rest[-1])))


class Numbers:
    """The numbers of every tensor of one optimizer: its own and those of its groups, in rows that tensors share.

    Row 0 is the optimizer's own. A group has one row, and like the optimizer itself one more, without decay, where
    `no_decay` is asked for, some of its tensors are such, and it has no weight_decay of its own.

    Args:
        names, shapes: one per tensor.
        hyper: the optimizer's own numbers.
        groups: a tensor belongs to the first that matches it.
        no_decay: no weight decay for the tensors that `adamas.groups.no_decay` matches, but those of groups with a
            weight_decay of their own.

    Raises:
        ArgumentError: a group matches no tensor that an earlier one leaves, or a number is out of its range.
    """

    def __init__(
        self,
        names: Sequence[str],
        shapes: Sequence[Shape],
        hyper: Hyper,
        groups: Sequence[Group] = (),
        no_decay: bool = False,
    ) -> None:
        self._groups = checked(groups)
        self.group_of = assign(names, shapes, self._groups)
        if not isinstance(no_decay, (bool, np.bool_)):
            raise ArgumentError(f"no_decay={no_decay!r}: give False or True")
        self._names = list(names)
        self._hypers: list[Hyper] = []
        self._rows_of: list[list[int]] = []
        rows = np.zeros(len(names), np.int32)
        for k, group in enumerate((None, *self._groups)):
            own = hyper if group is None else group.numbers(hyper)
            members = [i for i, of in enumerate(self.group_of) if of == k]
            spared = [i for i in members if no_decay and _spared(group, names[i], shapes[i])]
            self._rows_of.append([len(self._hypers)])
            rows[members] = len(self._hypers)
            self._hypers.append(own)
            if spared:
                self._rows_of[k].append(len(self._hypers))
                rows[spared] = len(self._hypers)
                self._hypers.append(replace(own, weight_decay=0.0))
        self.row_of = rows
        self.table = _table(self._hypers)

    @property
    def hypers(self) -> list[Hyper]:
        """The numbers of each row."""
        return list(self._hypers)

    @property
    def rows(self) -> np.ndarray | None:
        """int32, each tensor's row; None where there is one row only."""
        return None if len(self._hypers) == 1 else self.row_of

    def groups(self) -> tuple[LiveGroup, ...]:
        """The optimizer's own group, and the others in their order."""
        return tuple(LiveGroup(self, k) for k in range(len(self._rows_of)))

    def setting(self, name: str, own: str) -> list[str]:
        """Each tensor's value of a setting that is not a number; `own` is the optimizer's."""
        values = [own, *(own if getattr(group, name) is None else getattr(group, name) for group in self._groups)]
        return [values[of] for of in self.group_of]

    def fit(self, hypers: Sequence[Hyper], row_of: Mapping[str, int]) -> list[Hyper]:
        """The numbers that each row takes over from a state with these numbers; nothing is changed.

        Raises:
            StateError: tensors that share a row here have different numbers there.
        """
        taken = list(hypers) if len(hypers) == len(self._hypers) else list(self._hypers)
        for row in range(len(taken)):
            members = [name for name, of in zip(self._names, self.row_of.tolist(), strict=True) if of == row]
            there = {hypers[row_of[name]]: name for name in members}
            if len(there) > 1:
                (one, first), (other, second), *_ = there.items()
                raise StateError(
                    f"the state has other numbers for {first!r} ({one}) than for {second!r} ({other}), which share "
                    "theirs in this optimizer; make it with groups like those of the optimizer that was saved"
                )
            if there:
                (taken[row],) = there
        return taken

    def set(self, hypers: Sequence[Hyper]) -> None:
        """New numbers for each row."""
        table = _table(hypers)
        self._hypers, self.table = list(hypers), table  # both or, if interrupted, none

    def set_lr(self, lr: float, group: int | None = None) -> None:
        """A learning rate for one group; or for the optimizer's own, and for the groups that have none themselves."""
        hypers = self.hypers
        for k, rows in enumerate(self._rows_of):
            follows = k == 0 or self._groups[k - 1].lr is None
            if follows if group is None else k == group:
                scale = self._groups[k - 1].lr_scale if k and group is None else None
                for row in rows:
                    hypers[row] = replace(hypers[row], lr=lr if scale is None else scale * lr)
        self.set(hypers)


class LiveGroup:
    """A group of an optimizer, as it is now: `optimizer.groups[1].lr = 1e-4` changes its next step."""

    __slots__ = ("_k", "_numbers")  # so that setting anything else is an error

    def __init__(self, numbers: Numbers, k: int) -> None:
        self._numbers, self._k = numbers, k

    @property
    def name(self) -> str:
        """What it is called; "default" for the tensors that no group matches."""
        return self._numbers._groups[self._k - 1].name if self._k else "default"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its tensors."""
        numbers = self._numbers
        return tuple(name for name, of in zip(numbers._names, numbers.group_of, strict=True) if of == self._k)

    @property
    def hyper(self) -> Hyper:
        """Its numbers; those of its tensors that `no_decay` spares differ by having no weight decay."""
        return self._numbers._hypers[self._numbers._rows_of[self._k][0]]

    @property
    def lr(self) -> float:
        """The learning rate of its next step."""
        return self.hyper.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._numbers.set_lr(value, self._k)

    def __repr__(self) -> str:
        return f"{self.name}: {len(self.tensors)} tensors, {self.hyper}"


def assign(names: Sequence[str], shapes: Sequence[Shape], groups: Sequence[Group]) -> list[int]:
    """Which group each tensor belongs to, the first that matches it: 1, 2, ...; 0 where none does.

    Raises:
        ArgumentError: a group has no tensor.
    """
    found = find(names, shapes, groups)
    for k, group in enumerate(groups, 1):
        if k in found:
            continue
        taken = [name for name, shape in zip(names, shapes, strict=True) if group.matches(name, tuple(shape))]
        if taken:
            raise ArgumentError(
                f"group {group.name}: an earlier group has all that it matches ({_some(taken)}), and the first match "
                "wins; put it before the others"
            )
        raise ArgumentError(f"group {group.name}: it matches no tensor; the tensors are {_some(names)}")
    return found


def find(names: Sequence[str], shapes: Sequence[Shape], groups: Sequence[Group]) -> list[int]:
    """As `assign`, where a group may have no tensor."""
    return [
        next((k for k, group in enumerate(groups, 1) if group.matches(name, tuple(shape))), 0)
        for name, shape in zip(names, shapes, strict=True)
    ]


def _spared(group: Group | None, name: str, shape: Shape) -> bool:
    return (group is None or group.weight_decay is None) and no_decay(name, tuple(shape))


def checked(groups: Sequence[Group]) -> list[Group]:
    """The groups, if they are.

    Raises:
        ArgumentError: they are not.
    """
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Group) for group in groups):
        raise ArgumentError(f"groups={groups!r}: give a list of adamas.groups.Group")
    return list(groups)


def _table(hypers: Sequence[Hyper]) -> np.ndarray:
    return np.array([astuple(hyper) for hyper in hypers], np.float64)


def _describe(match: Match) -> str:
    if callable(match):
        return getattr(match, "__name__", type(match).__name__)
    return match if isinstance(match, str) else ", ".join(match)


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
