"""What comes out of the build: a wheel with the native kernel, and without a compiler one that works all the same."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "src")

# Prints why the native kernel cannot serve, if so, and the bits of the parameters after three steps.
PROGRAM = """
import json, numpy as np, adamas.numpy
from adamas.kernels import cpu
rng = np.random.default_rng(0)
p = rng.standard_normal(1000).astype(np.float32)
optimizer = adamas.numpy.AdamW([p], lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, amsgrad=True)
for _ in range(3):
    optimizer.step([rng.standard_normal(1000).astype(np.float32)])
print(json.dumps({"file": adamas.numpy.__file__, "why_not": cpu.why_not(), "bits": p.tobytes().hex()}))
"""


@dataclass
class Built:
    """A wheel, what the build said, and the wheel's files laid out for import."""

    wheel: Path
    output: str
    folder: Path

    def names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked: what a package index hands out, without anything built in this checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            unbuilt = shutil.ignore_patterns("*.so", "*.dylib", "__pycache__", ".*")
            shutil.copytree(ROOT / name, source / name, ignore=unbuilt)
        else:
            shutil.copy(ROOT / name, source / name)
    hook(source, "build_sdist", out, {})
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


def hook(source: Path, name: str, out: Path, environment: dict[str, str]) -> str:
    """Calls the build backend as an installer does, and returns what it printed."""
    code = f"from scikit_build_core import build; build.{name}({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, out: Path, environment: dict[str, str]) -> Built:
    output = hook(source, "build_wheel", out, environment)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "files")
    return Built(wheel, output, out / "files")


def run(built: Built) -> dict[str, str | None]:
    """The program's report, with the wheel's files before everything else on the path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=built.folder,
        env={**os.environ, "PYTHONPATH": str(built.folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["file"]).is_relative_to(built.folder)
    return report


@pytest.fixture(scope="module")
def native(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("no C++ compiler")
    flags = "-O2 -march=native -mfma" if platform.machine() == "x86_64" else "-O2"  # as many a user has exported them
    return build(sdist, tmp_path_factory.mktemp("native"), {"CXXFLAGS": flags})


@pytest.fixture(scope="module")
def pure(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built with a compiler that always fails."""
    out = tmp_path_factory.mktemp("pure")
    compiler = out / "broken-compiler"
    compiler.write_text("#!/bin/sh\necho 'this compiler always fails' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    return build(sdist, out, {"CC": str(compiler), "CXX": str(compiler)})


def test_the_source_distribution_holds_every_source(sdist: Path) -> None:
    ignored = {".so", ".dylib", ".pyc"}
    expected = {path.relative_to(ROOT) for path in (ROOT / "src").rglob("*") if path.is_file()}
    hidden = {path for path in expected if any(part.startswith(".") for part in path.parts)}  # a tool's cache
    expected = {path for path in expected - hidden if path.suffix not in ignored}
    missing = {str(path) for path in expected if not (sdist / path).exists()}
    assert not missing
    assert (sdist / "CMakeLists.txt").exists()


def test_the_wheel_holds_the_library_its_shim_its_header_and_the_source_of_the_tensorflow_op(native: Built) -> None:
    names = native.names()
    assert {"adamas/kernels/cpu/libadamas.so", "adamas/kernels/cpu/libadamas.dylib"} & names
    assert any(name.startswith("adamas/kernels/cpu/_shim.") and name.endswith(".so") for name in names)
    assert "adamas/kernels/cpu/libadamas/adamas.h" in names
    assert any(name.startswith("adamas/kernels/tensorflow/") and name.endswith(".cc") for name in names)
    assert "adamas/bench/limit.cc" in names
    assert "adamas/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".cpp", ".pyc"))]
    assert "WITHOUT its native kernel" not in native.output


def test_the_environments_flags_do_not_change_the_instructions(native: Built) -> None:
    """They end up before ours; with -march=native the library would not have been built, or not run elsewhere."""
    code = "from adamas.kernels import cpu; print(cpu.build_info(), *cpu.instruction_sets())"
    environment = {**os.environ, "PYTHONPATH": str(native.folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if platform.machine() == "x86_64":
        assert "-march=x86-64 -mno-avx -mno-fma" in done.stdout
        assert "scalar sse" in done.stdout


def test_without_a_compiler_the_build_succeeds_with_one_loud_warning(pure: Built) -> None:
    assert pure.wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in pure.names() if name.endswith((".so", ".dylib"))]
    assert pure.output.count("WARNING: adamas was installed WITHOUT its native kernel") == 1
    assert "install a C++ compiler" in pure.output


def test_without_a_compiler_a_step_gives_the_same_bits_and_the_kernel_says_why(native: Built, pure: Built) -> None:
    fast, slow = run(native), run(pure)
    assert fast["why_not"] is None
    assert slow["why_not"] is not None
    assert "compiler" in slow["why_not"]
    assert slow["bits"] == fast["bits"]


def test_the_core_needs_three_packages_and_every_extra_is_declared(native: Built) -> None:
    with zipfile.ZipFile(native.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    core = {need.split(">")[0].split("[")[0].strip() for need in needs if "extra ==" not in need}
    assert core == {"numpy", "ml_dtypes", "safetensors"}
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == {"tensorflow", "torch", "jax", "explain", "train", "test", "all"}
