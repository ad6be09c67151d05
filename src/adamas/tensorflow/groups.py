"""Groups of variables with numbers and storage formats of their own, in an optimizer for Keras.

A group is an `adamas.groups.Group`; it matches the paths of variables. Keras has one learning rate for all, which may
be a schedule, or be set by callbacks: `Group.lr_scale` is a factor of it; `Group.lr` is a rate that does not follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import keras

from adamas.errors import ArgumentError
from adamas.groups import Group, Match, Shape, assign, checked, find, no_decay
from adamas.kernels.tensorflow.settings import Line
from adamas.kernels.tensorflow.slots import StoragePolicy
from adamas.rule import Hyper, Rule

keras.saving.register_keras_serializable("adamas")(no_decay)


@dataclass(frozen=True)
class Members:
    """To which group each variable belongs, and which are spared weight decay."""

    group_of: tuple[int, ...] = ()
    spared: tuple[bool, ...] = ()


class Groups:
    """The groups of an optimizer: its own, number 0, and those that it was given.

    Args:
        groups: a variable belongs to the first that matches it.
        sparing: True: what `adamas.groups.no_decay` matches has no weight decay, but for variables of a group with a
            weight_decay of its own; or what matches, as for `Group`.

    Raises:
        ArgumentError: these are no groups, or a group has a number that Keras' formulas have not.
    """

    def __init__(self, groups: Sequence[Group], sparing: bool | Match) -> None:
        self.groups = tuple(checked(groups))
        for group in self.groups:
            if group.eps_root is not None:
                raise ArgumentError(f"group {group.name}: eps_root={group.eps_root!r}: Keras' formulas have none")
        self.sparing = sparing
        self._spares = None if sparing is False else Group(no_decay if sparing is True else sparing)

    def lines(self, own: Hyper) -> tuple[Line, ...]:
        """The numbers of each, in an optimizer whose own are given."""
        lines = [Line(own)]
        for group in self.groups:
            scale = 1.0 if group.lr_scale is None else group.lr_scale
            follows = group.lr is None
            lines.append(Line(group.numbers(own), scale if follows else 0.0, 0.0 if group.lr is None else group.lr))
        return tuple(lines)

    def storage(self, own: StoragePolicy) -> list[StoragePolicy]:
        """How the variables of each are stored."""
        given = [{name: getattr(group, name) for name in ("moments", "weights")} for group in self.groups]
        return [own, *(replace(own, **{k: v for k, v in one.items() if v is not None}) for one in given)]

    def members(self, names: Sequence[str], shapes: Sequence[Shape], more: bool = False) -> Members:
        """Who belongs where.

        Args:
            names, shapes: of variables.
            more: they are added to others, so that a group may have none of them.

        Raises:
            ArgumentError: a group has no variable.
        """
        group_of = (find if more else assign)(names, shapes, self.groups)
        spared = [
            self._spares is not None
            and (k == 0 or self.groups[k - 1].weight_decay is None)
            and self._spares.matches(name, tuple(shape))
            for k, name, shape in zip(group_of, names, shapes, strict=True)
        ]
        return Members(tuple(group_of), tuple(spared))

    def name(self, k: int) -> str:
        """What group k is called."""
        if k:
            return self.groups[k - 1].name
        return "default" if self.groups else "all"

    def check(self, rule: Rule, optimizer: str) -> None:
        """Nothing if each group can have its numbers with this rule.

        Raises:
            ArgumentError: the rule carries numbers for all variables together that depend on them.
        """
        for group in self.groups:
            for name in ("betas", *(("lr", "lr_scale") if rule.schedule_free else ())):
                if rule.carries and getattr(group, name) is not None:
                    raise ArgumentError(
                        f"group {group.name}: {optimizer} carries {rule.carries[0].name} from step to step for all "
                        f"variables together, so a group has no {name} of its own; make two optimizers"
                    )

    def get_config(self) -> dict[str, Any]:
        """The arguments, where they are not the default, as JSON can hold them."""
        config: dict[str, Any] = {}
        if self.groups:
            config["groups"] = [
                {
                    field.name: _written(getattr(group, field.name))
                    for field in fields(Group)
                    if getattr(group, field.name) is not None
                }
                for group in self.groups
            ]
        if self.sparing is not False:
            config["no_decay"] = _written(self.sparing)
        return config


def from_config(config: dict[str, Any], custom_objects: dict[str, Any] | None) -> dict[str, Any]:
    """A configuration with the arguments that `Groups.get_config` wrote as they were."""
    config = dict(config)
    if "groups" in config:
        config["groups"] = [
            Group(**{name: _read(value, custom_objects) for name, value in group.items()})
            if isinstance(group, dict)
            else group
            for group in config["groups"]
        ]
    if "no_decay" in config:
        config["no_decay"] = _read(config["no_decay"], custom_objects)
    return config


def _written(value: Any) -> Any:
    if callable(value):
        return keras.saving.serialize_keras_object(value)
    return list(value) if isinstance(value, tuple) else value


def _read(value: Any, custom_objects: dict[str, Any] | None) -> Any:
    return keras.saving.deserialize_keras_object(value, custom_objects) if isinstance(value, dict) else value
