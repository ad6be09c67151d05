"""Compiles a shim on the user's machine and keeps it in a folder of the user's.

Frameworks promise no stable C++ interface from one version to the next, so what touches theirs is built against the one
that is installed, on first use, in seconds. It holds no arithmetic: that is in libadamas.

The folder can make this process run code, so it must be the user's own and closed to everybody else; a file counts
only after it was written completely, under another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adamas.errors import KernelError
from adamas.kernels import cpu

_log = logging.getLogger("adamas")

LIBRARY = Path(__file__).with_name("library.h")  # how every shim calls libadamas
_FLAGS = ("-shared", "-fPIC", "-O2", "-Wno-deprecated-declarations")
_LIMIT_SECONDS = 600  # a compiler that hangs must not hang training
_NO_PLACE = "no folder to keep the {} in"
_SET_CACHE = "set XDG_CACHE_HOME to a writable folder"


@dataclass(frozen=True)
class Recipe:
    """What is built.

    Args:
        what: for messages, such as "TensorFlow op".
        whose: the framework and its version, such as "TensorFlow 2.21.0".
        takes: how long it takes, such as "10 s".
        prefix: the beginning of the file's name.
        source: the file that is compiled.
        beside: the other files that it includes.
        identity: what else the built file depends on.
        flags: for the compiler, before the source; those that name folders are no part of the identity.
        link: after the source.
    """

    what: str
    whose: str
    takes: str
    prefix: str
    source: Path
    beside: Sequence[Path]
    identity: Sequence[str]
    flags: Callable[[], Sequence[str]]
    link: Callable[[], Sequence[str]] = tuple

    def key(self) -> str:
        """Names everything that the built file depends on, but for the compiler."""
        digest = hashlib.sha256()
        for part in (
            *(path.read_bytes() for path in (self.source, *self.beside, LIBRARY)),
            (cpu.include_dir() / "adamas.h").read_bytes(),  # ADAMAS_ABI is in it
            *(part.encode() for part in self.identity),
            " ".join(_FLAGS).encode(),
            platform.machine().encode(),
            sys.platform.encode(),
        ):
            digest.update(hashlib.sha256(part).digest())
        return f"{self.prefix}-{digest.hexdigest()[:16]}"


def default_cache() -> Path:
    """Where built shims are kept: `adamas` in $XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "adamas"
    try:
        return Path.home() / ".cache" / "adamas"
    except RuntimeError as error:  # a container that runs under a user id of its own
        raise KernelError(f"{_NO_PLACE.format('shims')}: {error}; {_SET_CACHE}") from error


def build(recipe: Recipe, cache: str | os.PathLike[str] | None = None, compiler: str | None = None) -> Path:
    """Build a shim, unless it is built already, and return the file.

    Args:
        recipe: what.
        cache: folder for the result; default `default_cache()`. Created with mode 0700.
        compiler: C++ compiler; default $CXX, else the first of c++, g++, clang++ on the PATH.

    Raises:
        KernelError: there is no compiler, it failed, or the folder is not safe to load code from.
    """
    no_place = _NO_PLACE.format(recipe.what)
    folder = _private_folder(Path(cache) if cache is not None else default_cache(), no_place)
    key = recipe.key()
    command = _compiler(compiler)
    if command is None:
        # An image may be built with a compiler and run without one.
        for built in sorted(folder.glob(f"{key}-*.so")):
            return _checked(built)
        raise KernelError(
            f"no C++ compiler found to build the {recipe.what} (looked for $CXX, c++, g++, clang++); "
            "install one (Debian: apt-get install g++) for the fast kernel"
        )
    built = folder / f"{key}-{hashlib.sha256(' '.join(command).encode() + _version(command)).hexdigest()[:12]}.so"
    if _exists(built):
        return _checked(built)
    try:
        with _locked(folder / f"{key}.lock"):
            if not _exists(built):  # another process may have built it while this one waited
                _compile(recipe, command, built)
    except OSError as error:  # a full disk, a read-only one, one without locks
        raise KernelError(f"{no_place}: {error}; {_SET_CACHE}") from error
    return _checked(built)


def existing(recipe: Recipe, cache: str | os.PathLike[str] | None = None) -> Path | None:
    """A shim that was built earlier, or None; builds nothing.

    Raises:
        KernelError: the folder or the file is not safe to load code from.
    """
    folder = Path(cache) if cache is not None else default_cache()
    if not folder.is_dir():
        return None
    private = _private_folder(folder, _NO_PLACE.format(recipe.what))
    return next((_checked(built) for built in sorted(private.glob(f"{recipe.key()}-*.so"))), None)


def find_compiler() -> tuple[str, str] | None:
    """The C++ compiler that shims are built with, and the first line that it says of its version; None without one.

    Raises:
        KernelError: $CXX names one that does not exist, or it does not run.
    """
    command = _compiler(None)
    if command is None:
        return None
    return " ".join(command), (_version(command).decode(errors="replace").splitlines() or ["?"])[0]


def built(cache: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files that were built here, for whatever versions of the frameworks."""
    found = (Path(cache) if cache is not None else default_cache()).glob("*.so")
    return sorted(path for path in found if not path.name.startswith("."))  # those a process is writing now do


def clear(cache: str | os.PathLike[str] | None = None) -> list[Path]:
    """Remove what was built; the next step that needs a shim builds it again. A process that uses one keeps it.

    Raises:
        KernelError: a file cannot be removed.
    """
    removed = built(cache)
    try:
        for path in [*removed, *(path.with_name(f"{path.name.rpartition('-')[0]}.lock") for path in removed)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise KernelError(f"{error.filename} cannot be removed: {error.strerror}") from error
    return removed


def _compiler(wanted: str | None) -> list[str] | None:
    wanted = wanted or os.environ.get("CXX") or None
    if wanted:
        words = shlex.split(wanted)
        found = shutil.which(words[0]) if words else None
        if found is None:
            raise KernelError(f"the C++ compiler {wanted!r} was not found; set CXX to one that exists, or unset it")
        return [found, *words[1:]]
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    return None


def _version(command: list[str]) -> bytes:
    try:
        answer = subprocess.run([*command, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"the C++ compiler {command[0]} does not run: {error}") from error
    return answer.stdout + answer.stderr


def _compile(recipe: Recipe, command: list[str], target: Path) -> None:
    _log.warning(
        "adamas: building the %s for %s with %s; this takes about %s, once (kept in %s)",
        recipe.what,
        recipe.whose,
        command[0],
        recipe.takes,
        target.parent,
    )

    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=".so", dir=target.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        whole = [
            *command,
            *_FLAGS,
            *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []),
            *recipe.flags(),
            f"-I{cpu.include_dir()}",
            f"-I{LIBRARY.parent}",
            str(recipe.source),
            "-o",
            name,
            *recipe.link(),
            *(["-ldl"] if sys.platform == "linux" else []),
        ]
        try:
            answer = subprocess.run(whole, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KernelError(f"{command[0]} could not build the {recipe.what}: {error}") from error
        if answer.returncode != 0 or unfinished.stat().st_size == 0:
            lines = (answer.stderr or answer.stdout).strip().splitlines()
            errors = [line for line in lines if "error" in line.lower()] or lines or ["it printed nothing"]
            raise KernelError(
                f"{command[0]} could not build the {recipe.what} (exit status {answer.returncode}): {errors[0]}"
            )
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(unfinished, 0o700)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder, however that ends."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _private_folder(folder: Path, no_place: str) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.stat(folder)
    except OSError as error:
        raise KernelError(f"{no_place}: {error}; {_SET_CACHE}") from error
    _refuse_foreign(folder, found)
    return folder


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _checked(path: Path) -> Path:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise KernelError(f"{path} is not a regular file; remove it")
    _refuse_foreign(path, found)
    return path


def _refuse_foreign(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise KernelError(f"{path} belongs to another user (id {found.st_uid}): no code is loaded from it; remove it")
    if found.st_mode & 0o077:
        raise KernelError(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): no code is loaded from it; "
            f"if you trust what is in it, chmod 700 it, else remove it"
        )
