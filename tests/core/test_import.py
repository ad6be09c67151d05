"""`import adamas` is light, its public names come when they are used, and the version is one."""

from __future__ import annotations

import ast
import importlib.util
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


NEEDED = {"tensorflow": "tensorflow", "keras": "keras", "torch": "torch", "jax": "optax"}
FRAMEWORKS = {"tensorflow", "keras", "torch", "jax", "optax"}
ITS_OWN = {"tensorflow": {"tensorflow", "keras"}, "keras": {"tensorflow", "keras"}, "jax": {"jax", "optax"}}


@pytest.mark.parametrize("adapter", NEEDED)
def test_an_adapter_loads_no_other_framework(adapter: str) -> None:
    """Nor does a step. What a framework loads by itself is its own affair: TensorFlow imports JAX where it is there."""
    if importlib.util.find_spec(NEEDED[adapter]) is None:
        pytest.skip(f"{NEEDED[adapter]} is not installed")
    own = ITS_OWN.get(adapter, {adapter})
    allowed, loaded = (
        {m.split(".")[0] for m in modules_after(code)} & FRAMEWORKS
        for code in ("\n".join(f"import {name}" for name in own), STEPS[adapter])
    )
    assert own <= loaded <= own | allowed


STEPS = {
    "tensorflow": "import tensorflow as tf; from adamas.tensorflow import Adam; v = tf.Variable([1.0]); "
    "Adam(kernel='xla').apply([tf.constant([1.0])], [v])",
    "keras": "import keras; from adamas.keras import Adam; v = keras.Variable([1.0, 2.0]); "
    "Adam(kernel='xla').apply([keras.ops.ones(2)], [v])",
    "torch": "import torch; from adamas.torch import Adam; p = torch.nn.Parameter(torch.ones(2)); "
    "p.grad = torch.ones(2); Adam([p]).step()",
    "jax": "import jax.numpy as jnp; from adamas.jax import adam; o = adam(0.1, kernel='xla'); p = jnp.ones(2); "
    "o.step(p, jnp.ones(2), o.init(p))",
}


@pytest.mark.parametrize(
    ("adapter", "absent", "extra"),
    [
        ("torch", "torch", "torch"),
        ("tensorflow", "tensorflow", "tensorflow"),
        ("tensorflow", "keras", "tensorflow"),
        ("keras", "keras", "tensorflow"),
        ("jax", "jax", "jax"),
        ("jax", "optax", "jax"),
        ("doctor", "torch", None),
        ("numpy", "torch", None),
        ("state", "tensorflow", None),
    ],
)
def test_a_framework_that_is_missing_names_the_extra(adapter: str, absent: str, extra: str | None) -> None:
    """As if it were not installed: nothing of its name can be imported."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from adamas.errors import MissingExtraError
try:
    import adamas.{adapter}
except MissingExtraError as error:
    print(error)
else:
    print("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.strip().splitlines()[-1]
    assert printed == "imported" if extra is None else f"pip install 'adamas[{extra}]'" in printed


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
