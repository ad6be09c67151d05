"""Where a run ran: versions, machine, threads. Bits can depend on all of them, so all of them are recorded."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from adamas.errors import ArgumentError, MissingExtraError
from adamas.train.runs.quiet import quiet_start

PACKAGES = ("adamas", "numpy", "tensorflow", "keras", "scikit-learn")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """The installed version of each package, None where it is absent; nothing is imported."""
    found: dict[str, str | None] = {}
    for package in packages:
        names = (package, f"{package}-cpu") if package == "tensorflow" else (package,)
        found[package] = next((v for name in names if (v := _version(name))), None)
    if not found.get("adamas") and "adamas" in packages:
        import adamas

        found["adamas"] = adamas.__version__
    return found


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Processor, its usable and present cores, and the operating system."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores_usable": usable_cores(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def start_tensorflow(threads: int, *, asked: bool) -> int:
    """Imports TensorFlow quietly with its thread counts pinned; the number of threads it computes with.

    Results do not depend on chance, but TensorFlow's own kernels give other bits with other thread counts.

    Args:
        threads: for one operation, and operations at a time.
        asked: whether somebody asked for this number; then another one is an error.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ArgumentError: this process has already started TensorFlow with another number, or Keras on another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with quiet_start():
            import keras
            import tensorflow as tf
    except ImportError as error:
        raise MissingExtraError(f"TensorFlow and Keras are needed: pip install 'adamas[train]' ({error})") from error
    if keras.backend.backend() != "tensorflow":
        raise ArgumentError(
            f"Keras runs on {keras.backend.backend()} in this process; set KERAS_BACKEND=tensorflow in a new one"
        )
    threading = tf.config.threading
    pinned = (threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
    if pinned == (threads, threads):
        return threads
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:  # it was started earlier in this process
        intra, inter = (count or usable_cores() for count in pinned)  # 0 is TensorFlow's word for one a core
        if asked and (intra, inter) != (threads, threads):
            raise ArgumentError(
                f"threads {threads}: this process has already started TensorFlow with {intra} threads; "
                "train in a new process"
            ) from error
        return intra
    with quiet_start():
        tf.config.list_logical_devices()  # starts it, with these counts from now on
    return threads


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: what Python knows must do
    return platform.processor() or platform.machine()
