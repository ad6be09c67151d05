"""Whole trainings of the same models, from the same weights, in every framework.

What counts in a target: the rows of `PEERS`. Lazy rows are other mathematics, so they have a table of their own, with
more steps: they take a thousandth of the time.
"""

from __future__ import annotations

from typing import Any

from adamas.bench.case import Case, Ratio, Rounds, Target

FRAMEWORKS = ("tensorflow", "torch", "jax")
OURS = "adamas.train.fit"
KERAS = "model.fit, Keras Adam"
PEERS = (KERAS, "torch loop, Adam fused", "JAX loop, a jit call a step", "JAX loop, a scan an epoch")
FIVE = ("mlp-64", "mlp-27m", "embedding", "cnn", "transformer")  # over which the targets are


class BestPeer:
    """The speed of `adamas.train.fit` as a share of the fastest peer's."""

    rows = (*PEERS, OURS)

    def __call__(self, rounds: Rounds) -> float:
        return min(Ratio(peer, OURS)(rounds) for peer in PEERS)


BEST = Target("adamas.train.fit, share of the best peer's speed", BestPeer(), at_least=0.85)


def cases(scale: float) -> list[Case]:
    small = scale < 1

    def shrunk(full: int, least: int) -> int:
        return max(least, round(full * scale))

    digits = {"architecture": "mlp", "samples": shrunk(1797, 69), "batch": 32, "epochs": shrunk(20, 2)}
    wide = shrunk(3650, 64)
    table = {
        "architecture": "embedding",
        "batch": 512,
        "epochs": 1,
        "learning_rate": 1e-2,
        "rows": shrunk(5_000_000, 1000),
        "width": 32,
        "ids": 20,
        "hidden": 64,
        "restarts": False,
    }
    return [
        _case(
            "mlp-64",
            "digits, two hidden layers of 64, batch 32",
            digits | {"hidden": [64, 64]},
            (Target("model.fit / adamas.train.fit", Ratio(KERAS, OURS), at_least=15), BEST),
        ),
        _case(
            "mlp-512",
            "digits, two hidden layers of 512, batch 32",
            digits | {"hidden": [512, 512]},
            (Target("model.fit / adamas.train.fit", Ratio(KERAS, OURS), at_least=3.5), BEST),
        ),
        _case(
            "mlp-27m",
            "digits, three hidden layers of 3650 (27 M parameters), batch 8",
            {
                "architecture": "mlp",
                "samples": 192,
                "batch": 8,
                "epochs": 1,
                "learning_rate": 1e-3 if small else 1e-4,
                "hidden": [wide] * 3,
            },
            (BEST,),
        ),
        _case(
            "embedding", "embedding of 5 M x 32, batch 512 of 20 ids", table | {"samples": 2048}, (BEST,), large=True
        ),
        _case(
            "embedding-lazy",
            "embedding of 5 M x 32, batch 512 of 20 ids, lazy rows",
            table | {"samples": 32 * 512, "learning_rate": 1e-4, "lazy": True},
            (Target(f"{OURS}, share of SparseAdam's speed", Ratio("torch loop, SparseAdam", OURS), at_least=0.85),),
            large=True,
        ),
        _case(
            "cnn",
            "convolutions on 32 x 32 (32, 64 filters), batch 32",
            {
                "architecture": "cnn",
                "samples": shrunk(480, 128),
                "batch": 32,
                "epochs": 1,
                "filters": [4, 8] if small else [32, 64],
                "hidden": shrunk(128, 16),
            },
            (BEST,),
        ),
        _case(
            "transformer",
            "transformer, 2 blocks of 128, 64 tokens, batch 32",
            {
                "architecture": "transformer",
                "samples": shrunk(640, 128),
                "batch": 32,
                "epochs": 1,
                "vocabulary": 128,
                "length": shrunk(64, 8),
                "width": 16 if small else 128,
                "heads": 4,
                "blocks": 1 if small else 2,
            },
            (BEST,),
        ),
    ]


def _case(key: str, name: str, arguments: dict[str, Any], targets: tuple[Target, ...], large: bool = False) -> Case:
    samples = arguments["samples"] * arguments["epochs"]
    return Case(key, name, arguments, "samples/s", lambda seconds: samples / seconds, OURS, targets, large=large)


def overall(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """On how many of the five models `adamas.train.fit` is at least as fast as the best peer."""
    shares = {
        result["key"]: verdict["figure"]
        for result in results
        for verdict in result["verdicts"]
        if verdict["target"] == BEST.text and verdict["figure"] is not None
    }
    if not set(FIVE) <= set(shares):
        return []
    return [
        {
            "target": f"models of {', '.join(FIVE)} on which adamas.train.fit is the fastest",
            "bound": ">= 3",
            "figure": sum(shares[key] >= 1 for key in FIVE),
            "met": sum(shares[key] >= 1 for key in FIVE) >= 3,
        }
    ]
