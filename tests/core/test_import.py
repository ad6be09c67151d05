"""`import adamas` is light, its public names come when they are used, and the version is one."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import adamas

ROOT = Path(__file__).parents[2]


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def outside(modules: set[str], *allowed: str) -> set[str]:
    return {
        m for m in modules if m.split(".")[0] not in {*sys.stdlib_module_names, *allowed} and "_sysconfigdata" not in m
    }


def test_import_adamas_loads_two_modules_of_its_own() -> None:
    """Far below the 30 ms allowed over NumPy; counted, because a timing would fail on a busy machine."""
    more = modules_after("import numpy, adamas") - modules_after("import numpy")
    assert {m for m in more if m.startswith("adamas")} == {"adamas"}
    assert len(more) <= 3
    before = modules_after("pass")
    assert outside(modules_after("import adamas") - before, "adamas") == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import adamas.numpy; adamas.numpy.Adam",
        "import adamas; adamas.numpy.AdamW; adamas.state; adamas.Rule; adamas.set_threads(None)",
        "from adamas import *",
    ],
)
def test_the_library_loads_numpy_ml_dtypes_and_the_standard_library_only(statement: str) -> None:
    assert outside(modules_after(statement) - modules_after("pass"), "adamas", "numpy", "ml_dtypes") == set()


def test_every_public_name_is_there_and_nothing_else() -> None:
    for name in adamas.__all__:
        assert getattr(adamas, name) is not None
    assert set(adamas.__all__) <= set(dir(adamas))
    assert {"numpy", "keras", "tensorflow", "train", "state"} <= set(dir(adamas))
    with pytest.raises(AttributeError, match="module 'adamas' has no attribute 'Adam'"):
        adamas.Adam  # noqa: B018


def test_what_type_checkers_see_is_what_there_is() -> None:
    """The names under TYPE_CHECKING and those that __getattr__ finds are the same."""
    tree = ast.parse((ROOT / "src/adamas/__init__.py").read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {a.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert {*seen, "__version__"} == set(adamas.__all__)
    for name, module in seen.items():
        assert getattr(adamas, name) is getattr(sys.modules[str(module)], name)


def test_the_version_is_one() -> None:
    assert adamas.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
