"""The configuration: every key known, every value in range, and the resolved one reproduces the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adamas.errors import ArgumentError
from adamas.train.runs.config import Config
from adamas.train.runs.resolve import five_rates, prepare


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": {}}, "unknown key optimiser: did you mean optimizer?"),
        ({"training": {"epoch": 3}}, "unknown key training.epoch: did you mean epochs?"),
        ({"against": {"name": "sgd", "learning_rates": 1}}, "against.learning_rates: did you mean learning_rate?"),
        ({"zzz": 1}, "unknown key zzz: the keys are data, task, seed"),
        ({"training": {"epochs": 0}}, "training.epochs 0: give greater than or equal to 1"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate -1: give greater than 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate nan"),
        ({"optimizer": {"name": "adamx"}}, "optimizer.name 'adamx': give 'adam', 'adamw' or 'sgd'"),
        ({"split": {"test": 0.5}}, "split.test 0.5: give less than 0.5"),
        ({"seed": -1}, "seed -1"),
        ({"name": "../up"}, "name: '../up': give letters"),
        ({"name": "latest"}, "not 'latest'"),
        ({"against": {"name": "adam"}}, "against and optimizer are both adam"),
        ({"optimizer": {"name": "adamw", "weight_decay": 0}}, "adamw with weight_decay 0 is adam"),
        ({"seed": -1, "training": {"epochs": 0}}, "; "),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Config.parse({"data": "digits", **values})
    assert message in str(caught.value)


def test_the_data_must_be_said() -> None:
    with pytest.raises(ArgumentError, match="data is missing"):
        Config.parse({})


@pytest.mark.parametrize("against", [None, {"name": "sgd"}])
def test_a_resolved_configuration_resolves_to_itself(tmp_path: Path, against: dict[str, Any] | None) -> None:
    resolved = prepare(Config.parse({"data": "wine", "against": against})).config
    path = tmp_path / "config.yaml"
    path.write_text(resolved.to_yaml())
    assert Config.read(path) == resolved
    assert prepare(Config.read(path)).config == resolved
    assert None not in (resolved.training.epochs, resolved.training.batch_size, resolved.model.hidden)


def test_both_sides_get_the_same_budget() -> None:
    tuning = prepare(Config.parse({"data": "wine", "against": {"name": "sgd"}})).config.tuning
    assert tuning.learning_rates is not None
    assert tuning.learning_rates["adam"] == five_rates(3e-3) == (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    assert tuning.learning_rates["sgd"] == (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    uneven = {"learning_rates": {"adam": [1e-3], "sgd": [1e-2, 1e-1]}}
    with pytest.raises(ArgumentError, match="the same number of learning rates"):
        prepare(Config.parse({"data": "wine", "against": {"name": "sgd"}, "tuning": uneven}))


def test_settings_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"batch size 500 is more than the 10\d training rows"):
        prepare(Config.parse({"data": "wine", "training": {"batch_size": 500}}))
    with pytest.raises(ArgumentError, match="tuning is for a comparison"):
        prepare(Config.parse({"data": "wine", "tuning": {"epochs": 3}}))


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("[1, 2\n")
    with pytest.raises(ArgumentError, match="is not YAML"):
        Config.read(path)
    path.write_text("just words\n")
    with pytest.raises(ArgumentError, match="holds no settings"):
        Config.read(path)
