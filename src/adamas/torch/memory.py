"""Tensors as NumPy arrays over the same memory, and what `optimizer.state` holds of a slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from adamas.errors import UnsupportedError
from adamas.formats import Blocks
from adamas.rule import Rule

_KEYS = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}


def key(rule: Rule, slot: str) -> str:
    """Where the state holds a slot: torch's name of it, or ours."""
    return "exp_inf" if rule.infinity and slot == "v" else _KEYS.get(slot, slot)


def scales_key(rule: Rule, slot: str) -> str:
    """Where the state holds the scales of a slot that is stored in int8."""
    return f"{key(rule, slot)}_scales"


def as_array(tensor: Tensor) -> np.ndarray:
    """An array over the memory of a tensor on the CPU that needs no gradient; bfloat16 is that of ml_dtypes."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the memory of an array."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def stored(rule: Rule, state: Mapping[str, Any], slot: str) -> np.ndarray | Blocks:
    """What a parameter's state holds of a slot, over the same memory where that is contiguous."""
    values = as_array(state[key(rule, slot)].detach().contiguous())
    scales = state.get(scales_key(rule, slot))
    return values if scales is None else Blocks(values, as_array(scales.detach().contiguous()))


def entries(rule: Rule, slot: str, kept: np.ndarray | Blocks) -> dict[str, Tensor]:
    """What a parameter's state is to hold of a slot."""
    if isinstance(kept, Blocks):
        return {key(rule, slot): as_tensor(kept.codes), scales_key(rule, slot): as_tensor(kept.scales)}
    return {key(rule, slot): as_tensor(kept)}


def gradient(name: str, given: Tensor | None, sparse: bool) -> np.ndarray | None:
    """A gradient as an array, whatever it is.

    Args:
        sparse: whether it may be sparse, and is to be made dense.

    Raises:
        UnsupportedError: it is sparse and may not be, or cannot be read.
    """
    if given is None:
        return None
    if given.layout != torch.strided and not sparse:
        raise UnsupportedError(
            f"the gradient of parameter {name} has the layout {given.layout}, for which torch has SparseAdam; "
            "adamas.torch.Adam takes it with sparse='dense' or 'lazy'"
        )
    try:
        given = given.detach() if given.layout == torch.strided else given.detach().to_dense()
        return as_array(given.resolve_conj().resolve_neg())
    except (TypeError, RuntimeError) as error:
        raise UnsupportedError(
            f"the gradient of parameter {name} is {given.dtype} on {given.device} and cannot be read ({error}); "
            "give one of the parameter's dtype on the CPU, or use torch.optim"
        ) from error
