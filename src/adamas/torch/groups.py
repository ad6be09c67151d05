"""torch's parameter groups from groups by name and shape (`adamas.groups`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from adamas.errors import ArgumentError, UnsupportedError
from adamas.groups import Group, assign, checked
from adamas.groups import no_decay as spares

_SETTINGS = ("lr", "betas", "eps", "weight_decay", "moments", "weights")


def param_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    groups: Sequence[Group] = (),
    *,
    no_decay: bool = False,
    lr: float | None = None,
) -> list[dict[str, Any]]:
    """The parameter groups that an optimizer is made of, by the names and shapes of the parameters.

        AdamW(param_groups(model.named_parameters(), no_decay=True), lr=1e-3)

    Args:
        named_parameters: `model.named_parameters()`. The groups keep the names (`param_names`).
        groups: a parameter belongs to the first that matches it; what that one leaves out, and the parameters that none
            matches, have the optimizer's own settings. `moments` and `weights` are for the optimizers of adamas.torch.
        no_decay: weight_decay=0 for the parameters that `adamas.groups.no_decay` matches (biases, normalisations), in a
            group of their own, but those of groups with a weight_decay of their own.
        lr: that of the optimizer, for groups with `lr_scale`: a scheduler then changes all of them by the same factor.

    Returns:
        A group for the parameters that none matches and one for each of `groups`, each followed by the one without
        decay; none without parameters.

    Raises:
        ArgumentError: there is no parameter, a group matches none that an earlier one leaves, or has lr_scale and no lr
            is given.
        UnsupportedError: a group has `eps_root`, which torch's optimizers have not.

    Example:
        >>> import torch
        >>> from adamas.groups import Group
        >>> from adamas.torch import param_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
        >>> made = param_groups(model.named_parameters(), [Group("1.*", lr=1e-4)], no_decay=True)
        >>> [([name for name, _ in group["params"]], group.get("weight_decay"), group.get("lr")) for group in made]
        [(['0.weight'], None, None), (['0.bias'], 0.0, None), (['1.weight', '1.bias'], 0.0, 0.0001)]
    """
    given, known = list(named_parameters), checked(groups)
    if not given:
        raise ArgumentError("there are no parameters; give model.named_parameters()")
    shapes = [tuple(p.shape) for _, p in given]
    of = assign([name for name, _ in given], shapes, known)
    found: list[dict[str, Any]] = []
    for k, group in enumerate((None, *known)):
        settings = {} if group is None else _settings(group, lr)
        members: dict[bool, list[tuple[str, Tensor]]] = {False: [], True: []}
        for named, shape, own in zip(given, shapes, of, strict=True):
            if own == k:
                members[no_decay and "weight_decay" not in settings and spares(named[0], shape)].append(named)
        for without, params in members.items():
            if params:
                found.append({"params": params, **settings, **({"weight_decay": 0.0} if without else {})})
    return found


def _settings(group: Group, lr: float | None) -> dict[str, Any]:
    if group.eps_root is not None:
        raise UnsupportedError(f"group {group.name}: torch's optimizers have no eps_root; leave it out")
    settings = {name: getattr(group, name) for name in _SETTINGS if getattr(group, name) is not None}
    if group.lr_scale is not None:
        if lr is None:
            raise ArgumentError(f"group {group.name}: lr_scale={group.lr_scale!r} is a factor of lr; give lr=...")
        settings["lr"] = group.lr_scale * lr
    return settings
