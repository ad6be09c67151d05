"""`adamas doctor`: every framework in a process of its own, what does not go together, the folder of shims."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import adamas
from adamas import doctor
from adamas.cli.doctor import command
from adamas.doctor import diagnose
from adamas.doctor.machine import quota, too_many_threads
from adamas.doctor.packages import LEAST, conflicts, keras_backend, unmet
from adamas.doctor.probe import FRAMEWORKS, probe
from adamas.errors import KernelError
from adamas.kernels import build as shims
from adamas.kernels import cpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "adamas", "doctor", "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_it_finds_here(facts: dict[str, Any]) -> None:
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["adamas"] == adamas.__version__
    assert facts["libadamas"]["problem"] == cpu.why_not()
    assert facts["libadamas"].get("instruction_set") == (None if cpu.why_not() else cpu.get_instruction_set())
    assert facts["machine"]["cores_usable"] <= facts["machine"]["cores"]
    assert set(facts["frameworks"]) == set(FRAMEWORKS)
    for name, own in facts["frameworks"].items():
        if facts["versions"][name] is None:
            assert own == {"problem": f"not installed: pip install 'adamas[{name}]'"}
        else:
            assert own["problem"] is None
            assert own["version"] == facts["versions"][name]
            assert own["exact"] is not False
            assert None in own["kernels"].values()
    assert facts["frameworks"]["numpy"]["exact"] is True


def test_every_framework_gives_the_bits_of_the_reference_once_it_is_built(facts: dict[str, Any]) -> None:
    """A shim that was built earlier is tried; `--build` builds it."""
    for own in facts["frameworks"].values():
        if own["problem"] is None and own["kernels"].get("native", "") is None and own["built"]:
            assert own["exact"] is True


def test_the_example() -> None:
    failed, tried = doctest.testmod(doctor.diagnosis)
    assert (failed, tried > 0) == (0, True)


def test_the_report_says_the_same() -> None:
    found = diagnose(frameworks=["numpy"])
    lines = str(found).splitlines()
    assert lines[0].startswith("machine")
    assert any(
        re.fullmatch(r"numpy +\S+: kernel (cpu|reference), the bits of the reference \(\d+\.\d s\)", x) for x in lines
    )
    lacking = replace(
        found,
        libadamas={"problem": "it is lost"},
        compiler={"problem": "no C++ compiler"},
        cache={"problem": "not a folder"},
        frameworks={
            "torch": {"problem": "crashed with SIGSEGV: x"},
            "jax": {
                "problem": None, "version": "9", "seconds": 1.0, "built": False, "exact": None, "devices": ["cpu:0"],
                "kernels": {"native": "no compiler", "xla": None},
            },
            "tensorflow": {
                "problem": None, "version": "8", "seconds": 1.0, "built": False, "exact": False,
                "kernels": {"native": None, "xla": None},
            },
        },
        conflicts=(doctor.packages.Conflict("a and b crash", "pip uninstall b"),),
    )  # fmt: skip
    shown = re.sub(r" +", " ", str(lacking))
    for line in (
        "libadamas NO: it is lost",
        "compiler NO: no C++ compiler",
        "shims NO: not a folder",
        "torch NO: crashed with SIGSEGV: x",
        "jax 9: kernel xla; cpu:0 (1.0 s)\n not native: no compiler",
        "tensorflow 8: kernel native, not built yet: the first step does it in some seconds, or `adamas doctor "
        "--build` now, NOT THE BITS OF THE REFERENCE: please report it (1.0 s)",
        "known conflicts:\n- a and b crash\n remedy: pip uninstall b",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed with SIGSEGV: it printed nothing"),
        ("raise ImportError('libcudart.so.12: no such file')", r"ImportError: libcudart\.so\.12: no such file"),
        ("import time; time.sleep(60)", "gave no answer within 3 s"),
        ("__version__ = '0'", "ImportError: cannot import name .* from 'torch'.*"),
        ("import sys; sys.exit(0)", "it printed nothing"),
    ],
)
def test_what_happens_to_a_framework_is_a_line_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, problem: str
) -> None:
    """In the place of torch there is a module that crashes, lacks something, or hangs."""
    (tmp_path / "torch.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = probe("torch", limit=3.0 if "sleep" in body else 60.0)
    assert re.fullmatch(problem, found["problem"]), found


GOOD = {"adamas": "1", "numpy": "2.4", "tensorflow": "2.21.0", "keras": "3.15", "jax": "0.10.2", "jaxlib": "0.10.2"}


@pytest.mark.parametrize(
    ("changed", "environment", "problem", "remedy"),
    [
        ({}, {}, None, ""),
        ({"tensorflow": "2.18.1"}, {}, "tensorflow 2.18.1 is older than 2.19", "'tensorflow>=2.19'"),
        ({"optax": "0.2.10"}, {}, None, ""),
        ({"pyarrow": "21"}, {}, "pyarrow in one process crash", "tensorflow<2.20"),
        ({"pyarrow": "21", "tensorflow": "2.19.1"}, {}, None, ""),
        ({"torch": "2.13.0+cpu"}, {}, "TensorFlow and PyTorch in one process", "in each process"),
        ({}, {"TF_USE_LEGACY_KERAS": "1"}, "Keras 2", "unset TF_USE_LEGACY_KERAS"),
        ({}, {"TF_USE_LEGACY_KERAS": "0"}, None, ""),
        ({}, {"KERAS_BACKEND": "torch"}, "run on 'torch', which is not", "KERAS_BACKEND to tensorflow or jax"),
        ({}, {"KERAS_BACKEND": "jax"}, None, ""),
        ({"tensorflow": None, "jax": None, "jaxlib": None}, {}, "run on 'tensorflow'", "adamas[tensorflow]"),
        ({"jaxlib": "0.11.0"}, {}, "jaxlib 0.11.0 is newer than jax 0.10.2", "--upgrade jax jaxlib"),
    ],
)
def test_known_conflicts(changed: Any, environment: dict[str, str], problem: str | None, remedy: str) -> None:
    found = conflicts({**GOOD, **changed}, {}, "darwin", {"KERAS_HOME": "/nowhere", **environment})
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert problem in found[0].problem
        assert remedy in found[0].remedy


def test_two_builds_of_tensorflow_overwrite_each_other() -> None:
    (found,) = conflicts(
        GOOD, {"tensorflow": "2.21.0", "tensorflow-cpu": "2.20.0"}, "linux", {"KERAS_HOME": "/nowhere"}
    )
    assert found.problem.startswith("tensorflow and tensorflow-cpu are both installed")
    assert found.remedy.startswith("pip uninstall tensorflow tensorflow-cpu")


def test_what_pyproject_asks_for_is_what_is_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["tensorflow"], *extras["torch"], *extras["jax"]]
    assert dict(line.split(">=") for line in wanted) == LEAST


def test_requirements_that_are_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that asks for what is absent, and for another NumPy."""
    before = unmet()
    folder = tmp_path / "tf_keras-2.99.dist-info"
    folder.mkdir()
    wanted = ["numpy<1", "nosuchpackage>=3", "numpy>=1", 'alsoabsent; extra == "more"']
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tf_keras\nVersion: 2.99\n" + "".join(f"Requires-Dist: {x}\n" for x in wanted)
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    found = [line for line in unmet() if line not in before]
    assert [line.remedy for line in found] == ["pip install 'numpy<1'", "pip install 'nosuchpackage>=3'"]
    assert found[0].problem == f"tf_keras 2.99 needs numpy <1, {np.__version__} is installed"
    assert found[1].problem == "tf_keras 2.99 needs nosuchpackage >=3, which is not installed"


def test_the_backend_of_keras_is_found_as_keras_does(tmp_path: Path) -> None:
    home = {"KERAS_HOME": str(tmp_path)}
    assert keras_backend(home) == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert keras_backend(home) == "jax"
    assert keras_backend({**home, "KERAS_BACKEND": "torch"}) == "torch"
    (tmp_path / "keras.json").write_text("[")
    assert keras_backend(home) == "tensorflow"


def test_quotas_of_both_versions_of_control_groups(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "cpu" / "c").mkdir(parents=True)
    assert quota(tmp_path / "absent", root) is None
    groups.write_text("0::/a/b\n")
    assert quota(groups, root) is None
    (root / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert quota(groups, root) is None
    (root / "a" / "cpu.max").write_text("150000 100000\n")
    assert quota(groups, root) == 1.5
    (root / "a" / "b" / "cpu.max").write_text("50000 100000\n")
    assert quota(groups, root) == 0.5
    groups.write_text("5:memory:/c\n4:cpu,cpuacct:/c\n")
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    (root / "cpu" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(groups, root) is None
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("300000\n")
    assert quota(groups, root) == 3.0


def test_threads_beyond_the_quota() -> None:
    here = {"quota": 2.5, "cores_usable": 8}
    found = too_many_threads(here, {})
    assert found is not None
    assert found.problem.startswith("the control group grants 2.5 of 8 cores")
    assert "OMP_NUM_THREADS=2" in found.remedy
    assert too_many_threads(here, {"OMP_NUM_THREADS": "2"}) is None
    assert too_many_threads({**here, "quota": None}, {}) is None
    assert too_many_threads({**here, "quota": 8.0}, {}) is None


def test_clear_removes_what_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "diagnose", functools.partial(diagnose, frameworks=["numpy"]))
    folder = tmp_path / "adamas"
    assert shims.built() == []
    folder.mkdir(mode=0o700)
    for name in ("jax-1-00ff-aa.so", "jax-1-00ff.lock", "notes.txt"):
        (folder / name).write_bytes(b"x" * 1000)
    command.callback(build=False, clear=False, machine=True)  # type: ignore[misc]
    assert json.loads(capsys.readouterr().out)["cache"]["files"] == {"jax-1-00ff-aa.so": 1000}
    command.callback(build=False, clear=True, machine=True)  # type: ignore[misc]
    found = json.loads(capsys.readouterr().out)
    assert found["removed"] == [str(folder / "jax-1-00ff-aa.so")]
    assert found["cache"]["files"] == {}
    assert os.listdir(folder) == ["notes.txt"]
    command.callback(build=False, clear=True, machine=False)  # type: ignore[misc]
    assert capsys.readouterr().out.startswith("removed 0 shims\n")


@pytest.mark.parametrize(("name", "what"), [("jax", "the JAX handler"), ("torch", "the reader of torch's tensors")])
def test_a_build_that_fails_is_an_error(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(doctor, "diagnose", functools.partial(diagnose, frameworks=[name]))
    with pytest.raises(KernelError, match=rf"{name}: .*false could not build {what}"):
        click.Context(command).invoke(command, build=True, clear=False, machine=False)
    shown = capsys.readouterr().out
    assert ("not native: " in shown) == (name == "jax")
    assert ("the bits of the reference" in shown) or name == "jax"
