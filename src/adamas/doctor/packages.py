"""The packages that are installed, and those that do not go together."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

PACKAGES = (
    *("adamas", "numpy", "ml_dtypes", "safetensors"),
    *("tensorflow", "keras", "tf_keras", "torch", "jax", "jaxlib", "optax"),
    *("scikit-learn", "matplotlib", "pyarrow", "protobuf"),
)
# One module, several distributions that provide it.
BUILDS = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly", "intel-tensorflow")}
# What pyproject.toml asks for; a test keeps the two together.
LEAST = {
    "numpy": "1.26",
    "ml_dtypes": "0.4",
    "safetensors": "0.4.5",
    "tensorflow": "2.19",
    "keras": "3.10",
    "torch": "2.4",
    "jax": "0.5",
    "optax": "0.2.4",
}
BACKENDS = ("tensorflow", "jax", "torch")  # of Keras


class Conflict(NamedTuple):
    """What does not go together, and what to do about it."""

    problem: str
    remedy: str


def versions() -> dict[str, str | None]:
    """The version of each package, None where it is absent; nothing is imported."""
    import adamas

    found = {package: next(iter(_builds(package).values()), None) for package in PACKAGES}
    return {**found, "adamas": found["adamas"] or adamas.__version__}


def conflicts(
    found: Mapping[str, str | None],
    builds: Mapping[str, str] | None = None,
    system: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
) -> list[Conflict]:
    """What is known to fail with these packages.

    Args:
        found: the versions of packages.
        builds: the distributions that provide TensorFlow; None: those that are installed.
        system: as `sys.platform` says it.
        environment: variables of the environment.
    """
    lines = [
        Conflict(
            f"{package} {version} is older than {least}, the first that Adamas is tested with",
            f"pip install --upgrade '{package}>={least}'",
        )
        for package, least in LEAST.items()
        if (version := found.get(package)) and _number(version) < _number(least)
    ]
    several = _builds("tensorflow") if builds is None else builds
    if len(several) > 1:
        names = " ".join(several)
        lines.append(
            Conflict(
                f"{' and '.join(several)} are both installed and overwrite each other's files",
                f"pip uninstall {names}, then install one of them",
            )
        )
    tensorflow, torch = found.get("tensorflow"), found.get("torch")
    if system == "darwin" and tensorflow and found.get("pyarrow") and _number(tensorflow) >= (2, 20):
        lines.append(  # github.com/tensorflow/tensorflow/issues/98563
            Conflict(
                f"TensorFlow {tensorflow} and pyarrow in one process crash or hang on macOS",
                "pip uninstall pyarrow, or pip install 'tensorflow<2.20'",
            )
        )
    if tensorflow and torch:
        lines.append(
            Conflict(
                "TensorFlow and PyTorch in one process have crashed, depending on which is imported first",
                "use one of them in each process; Adamas never imports both",
            )
        )
    legacy = environment.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    if tensorflow and legacy:
        lines.append(
            Conflict(
                "TF_USE_LEGACY_KERAS makes tf.keras Keras 2, whose models and optimizers Adamas does not serve",
                "unset TF_USE_LEGACY_KERAS, or import keras instead of tf.keras",
            )
        )
    backend = keras_backend(environment)
    if found.get("keras") and not found.get(backend if backend in BACKENDS else ""):
        there = " or ".join(name for name in BACKENDS if found.get(name))
        lines.append(
            Conflict(
                f"Keras is told to run on {backend!r}, which is not installed",
                f"set KERAS_BACKEND to {there}" if there else "pip install 'adamas[tensorflow]'",
            )
        )
    jax, jaxlib = found.get("jax"), found.get("jaxlib")
    if jax and jaxlib and _number(jaxlib) > _number(jax):
        lines.append(Conflict(f"jaxlib {jaxlib} is newer than jax {jax}", "pip install --upgrade jax jaxlib"))
    return lines


def keras_backend(environment: Mapping[str, str] = os.environ) -> str:
    """What Keras will run on, by its own rules: $KERAS_BACKEND, else its file of settings, else TensorFlow."""
    if environment.get("KERAS_BACKEND"):
        return environment["KERAS_BACKEND"]
    home = environment.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"


def unmet() -> list[Conflict]:
    """What installed frameworks ask for and is absent, or installed in another version; as `pip check`, for these."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:  # comes with TensorFlow, Keras and pytest
        return []
    lines = []
    for package in PACKAGES:
        for distribution in _builds(package):
            for text in metadata.requires(distribution) or ():
                try:
                    wanted = Requirement(text)
                except InvalidRequirement:
                    continue
                if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                    continue
                version = _version(wanted.name)
                if version is None or not wanted.specifier.contains(version, prereleases=True):
                    lines.append(
                        Conflict(
                            f"{distribution} {_version(distribution)} needs {wanted.name} {wanted.specifier}, "
                            + (f"{version} is installed" if version else "which is not installed"),
                            f"pip install '{wanted.name}{wanted.specifier}'",
                        )
                    )
    return lines


def _builds(package: str) -> dict[str, str]:
    """The installed distributions that provide a package, and their versions."""
    return {name: version for name in BUILDS.get(package, (package,)) if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _number(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 21, 0) of "2.21.0rc1"."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
