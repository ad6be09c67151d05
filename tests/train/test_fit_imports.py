"""The door of `adamas.train`: lazy, and honest where TensorFlow is absent; what its documentation shows runs."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import adamas.train
from adamas.train.loop import fit as loop
from adamas.train.loop import order


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_it_loads_no_framework() -> None:
    assert run("import sys, adamas.train; print({'tensorflow', 'keras'} & set(sys.modules))") == "set()"


def test_it_names_the_extra_that_is_missing() -> None:
    said = run(
        "import sys; sys.modules['tensorflow'] = None\n"
        "import adamas.train\n"
        "from adamas.errors import MissingExtraError\n"
        "try: adamas.train.fit\n"
        "except MissingExtraError as error: print(error)"
    )
    assert said == ("adamas.train.fit needs tensorflow, which is not installed; run: pip install 'adamas[tensorflow]'")


def test_every_public_name_is_there() -> None:
    for name in adamas.train.__all__:
        assert name in dir(adamas.train)
        assert getattr(adamas.train, name) is not None
    assert callable(adamas.train.fit)
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        _ = adamas.train.fits


@pytest.mark.parametrize(("module", "name"), [(loop, "fit"), (order, "epoch_order")])
def test_examples_run(module: object, name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(module, name), name, module=False, globs=dict(vars(module)))
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
