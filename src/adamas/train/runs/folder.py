"""The folder of a run: built beside its final place, whole or clearly not.

    runs/NAME.unfinished/   while it is being made, and after an interruption or a failure
    runs/NAME/              complete: every file written, run.json last, then renamed
    runs/latest             the last complete one: a link, or a file with its name where links do not work

run.json says `"complete": true` in a complete run only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from adamas.errors import AdamasError, RunError

UNFINISHED = ".unfinished"
RECORD = "run.json"


class RunFolder:
    """A run in the making; a context manager that leaves a folder marked unfinished unless `finish` was reached.

    Args:
        out: the folder of all runs; made if it is not there.
        name: of this run; None: the time and `label`, and a number if that is taken.
        label: what a name given by time ends in.

    Raises:
        RunError: the run exists already, is being made by a living process, or nothing can be written there.
    """

    def __init__(self, out: str | Path, name: str | None, label: str) -> None:
        self.out = Path(out)
        self._began = time.time()
        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"{self.out} is a file; give a folder for the runs")
        with _writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self.name = self._claim(name, label)
            self.path = self.out / (self.name + UNFINISHED)
            self._metrics = (self.path / "metrics.jsonl").open("w", encoding="utf-8")
        self._record("running")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._metrics.close()
            if error is not None and self.path.exists():
                interrupted = isinstance(error, KeyboardInterrupt)
                self._record("interrupted" if interrupted else f"failed: {' '.join(str(error).split())}")
        except (OSError, RunError):
            pass  # the disk is full or gone: the folder keeps the mark it already has, its name
        if error is not None:
            error.add_note(f"{self.path} is left unfinished")

    def metric(self, record: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl and hands it to the system, so that it can be followed while training."""
        with _writing(self.path):
            self._metrics.write(json.dumps(record) + "\n")
            self._metrics.flush()

    def write(self, name: str, content: str | bytes) -> None:
        """Writes one file whole: under a temporary name, to the disk, then renamed."""
        with _writing(self.path):
            write_file(self.path / name, content)

    def finish(self, result: Mapping[str, Any]) -> Path:
        """Writes run.json with the result, puts the folder in its place and points `latest` to it; its path."""
        with _writing(self.path):
            os.fsync(self._metrics.fileno())
            self._metrics.close()
            for file in sorted(self.path.rglob("*")):
                if file.is_file():
                    _sync(file)
            self._record("complete", result)
            final = self.out / self.name
            os.rename(self.path, final)
            _sync(self.out)
            _point(self.out / "latest", self.name)
        self.path = final
        return final

    def _record(self, status: str, result: Mapping[str, Any] | None = None) -> None:
        complete = status == "complete"
        head = {
            "format": "adamas.run",
            "version": 1,
            "name": self.name,
            "complete": complete,
            "status": status,
            "began": _when(self._began),
            "seconds": round(time.time() - self._began, 3),
        }
        if not complete:
            head |= {"process": os.getpid(), "host": socket.gethostname()}
        self.write(RECORD, json.dumps({**head, **(result or {})}, indent=2) + "\n")

    def _claim(self, name: str | None, label: str) -> str:
        """Makes the unfinished folder; its final name."""
        stem = name or time.strftime("%Y-%m-%d-%H%M%S", time.localtime(self._began)) + "-" + label
        for number in range(1, 1000):
            candidate = stem if number == 1 else f"{stem}-{number}"
            final, building = self.out / candidate, self.out / (candidate + UNFINISHED)
            if name and building.exists():
                _remove_dead(building)
            try:
                building.mkdir()
            except FileExistsError:
                if name:
                    raise RunError(f"{building} has just been made by another process; choose another --name") from None
                continue
            if not final.exists():  # asked only now: a run may have been finished a moment ago
                return candidate
            building.rmdir()
            if name:
                raise RunError(f"{final} exists; choose another --name, or remove it")
        raise RunError(f"{self.out} holds a thousand runs named {stem}; choose another --name")


def open_run(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a complete run and its run.json.

    Args:
        path: the folder, or `runs/latest`.

    Raises:
        RunError: there is no such run, it is unfinished, or its record is damaged.
    """
    asked = Path(path)
    folder = asked
    if asked.name == "latest" and asked.is_file():
        folder = asked.parent / asked.read_text(encoding="utf-8").strip()
    building = folder.parent / (folder.name + UNFINISHED)
    if not folder.is_dir():
        if building.is_dir():
            folder = building
        elif folder.is_file():
            raise RunError(f"{asked} is a file; give the folder of a run")
        elif asked.is_symlink():
            raise RunError(f"{asked} points to a run that was removed; give the folder of another")
        else:
            raise RunError(f"{asked}: no such run; `adamas train` makes one")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {}
        if not folder.name.endswith(UNFINISHED):
            raise RunError(f"{asked} is not a run: it holds no {RECORD}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / RECORD} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise RunError(f"{folder / RECORD} is damaged: it holds no record")
    if record.get("complete") is not True or folder.name.endswith(UNFINISHED):
        raise RunError(f"{folder} is unfinished ({record.get('status', 'no record')}); train it again")
    if (record.get("format"), record.get("version")) != ("adamas.run", 1):
        raise RunError(f"{folder} was written by another version of Adamas; this one reads version 1")
    return folder.resolve() if folder.is_symlink() else folder, record


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: under a temporary name in its folder, to the disk, then renamed."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class _writing:
    """Turns what the system says into one of our errors, naming the place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, AdamasError):
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return RunError(f"cannot write to {path}: {reason}")


def _remove_dead(building: Path) -> None:
    """Removes what an earlier, ended attempt under the same name has left."""
    try:
        record = json.loads((building / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    process = record.get("process")
    if not record and time.time() - building.stat().st_mtime < 10:
        raise RunError(f"{building} has just been made by another process; choose another --name, or wait")
    if record.get("status") == "running" and record.get("host") == socket.gethostname() and _alive(process):
        raise RunError(f"{building} is being made by process {process}; choose another --name, or wait")
    shutil.rmtree(building)


def _alive(process: object) -> bool:
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".latest.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(name, temporary, target_is_directory=True)
    except (OSError, NotImplementedError):
        write_file(link, name + "\n")
        return
    os.replace(temporary, link)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            raise  # some systems cannot sync a folder; every one can sync a file
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
