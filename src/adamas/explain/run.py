"""Runs a script as `python script.py` does, with Adamas in place, then measures what that changed."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
import types
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

from adamas.errors import ArgumentError
from adamas.explain.imports import when_imported
from adamas.explain.measure import Comparison
from adamas.explain.record import Record
from adamas.explain.report import Report


def explain(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    *,
    seconds: float = 6.0,
    json_file: str | os.PathLike[str] | None = None,
) -> int:
    """Run a training script with Adamas' optimizers in the place of Keras' and torch's, and report on standard error.

    From this call on, in this process only: `keras.optimizers.Adam` and its family (also by name in `compile`) make
    `adamas.keras`' where those do the same, and `torch.optim.Adam` and its family step with `adamas.torch`'s kernel.
    The script sees `sys.argv`, `__name__`, `__file__` and `sys.path[0]` as under `python script.py`. After it, its
    steps and loops are taken once more, with and without Adamas, by turns. Use it in a process of its own.

    Args:
        script: a Python file.
        arguments: what the script finds in `sys.argv[1:]`.
        seconds: about how long the measurement after the script may last, without compilation. A script that fails is
            not measured; what was counted until then is reported.
        json_file: where to write the report as JSON, too.

    Returns:
        The exit status of the script: 1 after an exception, whose traceback was printed; 130 after Ctrl-C.

    Raises:
        ArgumentError: the script cannot be read, or `seconds` is not above 0. Nothing was run.
    """
    if not seconds > 0:
        raise ArgumentError(f"seconds={seconds!r}: give a number above 0")
    try:
        with io.open_code(os.fspath(os.path.abspath(script))) as file:
            source = file.read()
    except OSError as error:
        raise ArgumentError(f"{os.fspath(script)}: {error.strerror}; give a Python script") from error
    record = Record()
    with when_imported({"keras": lambda: _keras(record), "torch": lambda: _torch(record)}):
        status = _run(os.fspath(script), source, arguments)
        total = record.now()
        sys.stdout.flush()
        report = Report(os.fspath(script), status, total, record)
        if status == 0:
            report.loops = _measure(record, seconds, report.problems)
        else:
            report.problems.append("the script failed, so its steps were not measured")
    report.finish()
    print(report.text(), file=sys.stderr)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(report.data(), indent=1) + "\n")
    return status


def _keras(record: Record) -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        backend = keras.backend.backend()
        record.leave(
            "keras.optimizers", f"Keras runs on {backend!r}; here they are replaced where it runs on TensorFlow"
        )
        return
    with record.stopped():
        from adamas.explain.replace import keras as replace

        replace.install(record)


def _torch(record: Record) -> None:
    with record.stopped():
        from adamas.explain.replace import torch as replace

        replace.install(record)


def _measure(record: Record, seconds: float, problems: list[str]) -> list[Comparison]:
    """Every loop, by the framework that it is in. TensorFlow or torch is loaded only where the script has loaded it."""
    found: list[Comparison] = []
    for framework in ("keras", "torch"):
        fits = framework == "keras" and record.fits
        if fits or any(used.framework == framework for used in record.used):
            try:
                found += import_module(f"adamas.explain.measure.{framework}").measure(record, seconds)
            except Exception as error:  # the script has run and its exit status stands, whatever happens here
                problems.append(f"the loops with {framework} were not measured: {type(error).__name__}: {error}")
    return found


def _run(script: str, source: bytes, arguments: Sequence[str]) -> int:
    """The script as `__main__`; its exit status."""
    path = os.path.abspath(script)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __loader__=SourceFileLoader("__main__", path),
        __builtins__=__builtins__,
        __cached__=None,
        __package__=None,
        __spec__=None,
        __annotations__={},
    )
    sys.modules["__main__"] = main
    sys.argv[:] = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    try:
        exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        _show(error, path)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _show(error: BaseException, path: str) -> None:
    """The traceback, from the script's own first line on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    try:
        sys.excepthook(type(error), error.with_traceback(frames), frames)
    except Exception:  # the script's own hook fails: Python shows both
        traceback.print_exc()
        traceback.print_exception(error)
