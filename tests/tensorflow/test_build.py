"""The op is built once, into a folder that nobody else can write to, and its absence is survived and explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adamas.errors import KernelError
from adamas.kernels import build as shims
from adamas.kernels.tensorflow import build

FALSE = "/bin/false"


def fake_compiler(folder: Path, body: str) -> str:
    """A compiler that answers --version, and otherwise does what `body` says with the output file in $out."""
    path = folder / "c++"
    path.write_text(
        '#!/bin/sh\n[ "$*" = --version ] && { echo fake 1; exit 0; }\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\n' + body + "\n"
    )
    path.chmod(0o755)
    return str(path)


def test_files_are_private_and_whole(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'echo built >> "$0.log"; echo code > "$out"')
    cache = tmp_path / "home" / "adamas"
    built = build.build(cache, compiler)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert built.stat().st_mode & 0o077 == 0
    assert built.read_text() == "code\n"
    assert build.build(cache, compiler) == built
    assert (tmp_path / "c++.log").read_text() == "built\n"
    assert {path.suffix for path in cache.iterdir()} == {".so", ".lock"}


def test_two_processes_build_once(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'echo built >> "$0.log"; sleep 1; echo code > "$out"')
    code = f"from adamas.kernels.tensorflow.build import build; print(build({str(tmp_path / 'cache')!r}, {compiler!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(paths) == 1
    assert (tmp_path / "c++.log").read_text() == "built\n"


def test_another_compiler_or_flag_is_another_file(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'echo code > "$out"')
    assert build.build(tmp_path / "cache", compiler) != build.build(tmp_path / "cache", compiler + " -O1")


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'echo half > "$out"; echo "step.cc:1: error: no such thing" >&2; exit 1')
    with pytest.raises(KernelError, match="no such thing"):
        build.build(tmp_path / "cache", compiler)
    assert not list((tmp_path / "cache").glob("*.so"))
    assert not list((tmp_path / "cache").glob(".*.so"))


def test_open_folders_and_files_are_refused(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'echo code > "$out"')
    cache = tmp_path / "cache"
    built = build.build(cache, compiler)
    built.chmod(0o722)
    with pytest.raises(KernelError, match="open to other users"):
        build.build(cache, compiler)
    built.chmod(0o700)
    cache.chmod(0o770)
    with pytest.raises(KernelError, match="open to other users"):
        build.build(cache, compiler)
    cache.chmod(0o700)
    built.rename(tmp_path / "elsewhere.so")
    built.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(KernelError, match="not a regular file"):
        build.build(cache, compiler)


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on without the op, so whatever the file system says must become a KernelError."""
    compiler, cache = fake_compiler(tmp_path, 'echo code > "$out"'), tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / f"{build.recipe().key()}.lock").mkdir()  # no file can be opened there, not even by root
    with pytest.raises(KernelError, match="set XDG_CACHE_HOME"):
        build.build(cache, compiler)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(KernelError, match="set XDG_CACHE_HOME"):
        build.build(None, compiler)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, 12345)
    with pytest.raises(KernelError, match="another user"):
        build.build(cache, fake_compiler(tmp_path, 'echo code > "$out"'))


def test_built_with_a_compiler_and_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build.build(tmp_path / "cache", fake_compiler(tmp_path, 'echo code > "$out"'))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert build.build(tmp_path / "cache") == built
    with pytest.raises(KernelError, match="no C\\+\\+ compiler"):
        build.build(tmp_path / "another")


STEP = """
import numpy as np, tensorflow as tf
from adamas.tensorflow import Adam, AdamW
for kind in (Adam, AdamW):
    p = tf.Variable([1.0, -2.0, 3.0])
    optimizer = kind(learning_rate=0.1)
    for _ in range(3):
        optimizer.apply([tf.constant([1.0, 1.0, -1.0])], [p])
    print(optimizer.kernel, "|", p.numpy().tolist())
"""


@pytest.mark.parametrize("how", ["false", "no path"])
def test_training_goes_on_without_a_compiler(how: str, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("CXX", None)
    environment.update({"CXX": FALSE} if how == "false" else {"PATH": str(tmp_path / "empty")})
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEP],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    adam, adamw = answer.stdout.splitlines()
    assert adam.startswith("resource: TensorFlow's ResourceApplyAdam, because ")
    assert adamw.startswith("xla: array expression compiled by XLA, because ")
    assert (FALSE if how == "false" else "no C++ compiler") in adam
    values = eval(adam.split("|")[1])
    assert values == pytest.approx([0.7, -2.3, 3.3], abs=1e-5)
    shrunk = eval(adamw.split("|")[1])
    assert shrunk == pytest.approx([0.699, -2.297, 3.296], abs=1e-3)
    assert answer.stderr.count("adamas: kernel resource") == 1
    assert answer.stderr.count("adamas: kernel xla") == 1


def test_prebuild(cache_home: Path) -> None:
    """`python -m adamas.kernels.tensorflow` finds what this run has built."""
    answer = subprocess.run(
        [sys.executable, "-m", "adamas.kernels.tensorflow"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert Path(answer.stdout.strip()).parent == cache_home / "adamas"
    assert len(list((cache_home / "adamas").glob("*.so"))) == 1


def test_what_another_process_is_writing_is_not_cleared(tmp_path: Path) -> None:
    whole, unfinished = tmp_path / "op-1-2.so", tmp_path / ".op-1-3-x.so"
    whole.touch()
    unfinished.touch()
    assert shims.built(tmp_path) == shims.clear(tmp_path) == [whole]
    assert (whole.exists(), unfinished.exists()) == (False, True)
