"""Fair comparison of optimizers: the same weights, the same order of examples, the same budget.

from adamas.compare import against
comparison = against({"data": "digits", "against": {"name": "sgd"}})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adamas.compare.pair import Comparison, Side, against

__all__ = ["Comparison", "Side", "against"]


def __getattr__(name: str) -> Any:
    """PEP 562: TensorFlow and the rest are loaded when something is compared."""
    if name in __all__:
        return getattr(import_module("adamas.compare.pair"), name)
    raise AttributeError(f"module 'adamas.compare' has no attribute {name!r}")
