"""The file of a state: docs/checkpoint.md is the specification, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adamas.errors import AdamasError, StateError
from adamas.formats import Blocks
from adamas.rule import Hyper, Rule
from adamas.state.contents import OPTIONAL, Names, State

FORMAT = "adamas.state"
VERSION = 3


class HasState(Protocol):
    """An optimizer that can be saved: every adapter's."""

    def portable_state(self) -> State: ...


class TakesState(Protocol):
    """An optimizer that a state can be loaded into: every adapter's."""

    def load_portable_state(self, state: State) -> None: ...


def save(path: str | os.PathLike[str], source: HasState | State) -> None:
    """Write an optimizer's state to one file: whole, or not at all.

    It is written under a temporary name in the same folder, synced to disk and renamed, so that `path` holds either
    what was there before or the complete new state.

    Args:
        path: the file; an existing one is replaced. Its folder must exist.
        source: an optimizer of any adapter, or a `State`.

    Raises:
        StateError: the file cannot be written; says why. What was at `path` is untouched.

    Example:
        >>> import numpy as np, tempfile, os
        >>> from adamas.numpy import Adam
        >>> from adamas import state
        >>> optimizer = Adam({"w": np.zeros(3, np.float32)})
        >>> optimizer.step({"w": np.ones(3, np.float32)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state.save(os.path.join(folder, "adam.safetensors"), optimizer)
        ...     state.load(os.path.join(folder, "adam.safetensors")).steps
        {'w': 1}
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    state = source if isinstance(source, State) else source.portable_state()
    text = json.dumps(
        {
            "rule": asdict(state.rule),
            "hypers": [{key: float(value) for key, value in asdict(hyper).items()} for hyper in state.hypers],
            "seed": state.seed,
            "tensors": [_entry(state, name) for name in state.names],
        }
    )
    tensors = {
        key: _little_endian(array)
        for name, slots in state.slots.items()
        for slot in (*(slot.name for slot in state.rule.slots), *OPTIONAL)
        if slot in slots
        for key, array in _parts(name, slot, slots[slot])
    }
    described = json.dumps({"version": VERSION, "state": text, "checksum": _checksum(text, tensors.values())})
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        save_file(tensors, temporary, metadata={FORMAT: described})
        os.chmod(temporary, mode)  # safetensors makes its files private
        _sync(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise StateError(
            f"{path}: the optimizer state could not be written ({error}); what was there before is unchanged. "
            "Give a file in an existing, writable folder with enough free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something failed or a Ctrl-C came
            os.unlink(temporary)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        _sync(path.parent)


def load(path: str | os.PathLike[str], into: TakesState | None = None, *, names: Names | None = None) -> State:
    """Read a file that `save` wrote, from whatever framework.

    Args:
        path: the file.
        into: an optimizer of any adapter that takes the state over: moments (in its own format), step counts, numbers
            and the seed. None: nothing but reading is done.
        names: `State.renamed`, for an optimizer that calls its parameters otherwise than the one that was saved.

    Returns:
        A `State` whose arrays are the caller's own.

    Raises:
        StateError: the file is missing, truncated, altered, of another kind or from a newer version; names the file. Or
            the state does not fit the optimizer: lists the differences, and nothing was loaded.
        ArgumentError: `names` does not fit the state.

    Example:
        >>> import numpy as np, tempfile, os
        >>> from adamas.numpy import Adam
        >>> from adamas import state
        >>> old, new = Adam({"w": np.zeros(3, np.float32)}), Adam([np.zeros(3, np.float32)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "adam.safetensors")
        ...     state.save(path, old)
        ...     state.load(path, new, names={"w": "0"}).names
        ('0',)
    """
    found = _read(Path(path))
    if names is not None:
        found = found.renamed(names)
    if into is not None:
        into.load_portable_state(found)
    return found


def _read(path: Path) -> State:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            version, text, checksum = _described(path, (file.metadata() or {}).get(FORMAT))
            tensors = {key: np.array(file.get_tensor(key), order="C") for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError) as error:
        raise StateError(
            f"{path}: not a readable optimizer state ({error}); give a file that adamas.state.save wrote"
        ) from error
    try:
        parsed = json.loads(text)
        rule = _made(Rule, parsed["rule"])
        entries = parsed["tensors"] if version >= 3 else [_entry_of_row(rule, row) for row in parsed["tensors"]]
        slots = {entry["name"]: _stored(rule, entry["name"], tensors) for entry in entries}
        keys = [key for name, own in slots.items() for slot, kept in own.items() for key, _ in _parts(name, slot, kept)]
        if sorted(keys) != sorted(tensors) or checksum != _checksum(text, (tensors[k] for k in keys)):
            raise StateError("its checksum differs: the file was altered or damaged")

        named = any("rounding_name" in entry for entry in entries)
        return State(
            rule=rule,
            slots=slots,
            steps={entry["name"]: entry["step"] for entry in entries},
            hypers=[_made(Hyper, hyper) for hyper in parsed["hypers"]],
            groups={entry["name"]: entry["group"] for entry in entries},
            carries={entry["name"]: _carries(rule, entry) for entry in entries},
            seed=parsed["seed"] if version >= 3 else None,
            rounding_names={entry["name"]: entry["rounding_name"] for entry in entries} if named else {},
        )
    except (AdamasError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{path}: not a sound optimizer state ({error}); use another copy of the checkpoint"
        ) from error


def _entry(state: State, name: str) -> dict[str, Any]:
    """What the file says of a parameter beside its tensors."""
    carries = zip(state.rule.carries, state.carries[name], strict=True)
    entry = {
        "name": name,
        "step": state.steps[name],
        "group": state.groups[name],
        "carries": {carry.name: float(value) for carry, value in carries},
    }
    return {**entry, "rounding_name": state.rounding_names[name]} if state.rounding_names else entry


def _entry_of_row(rule: Rule, row: Sequence[Any]) -> dict[str, Any]:
    """The same from version 1, [name, step, group], and version 2, with the values of the carries behind them."""
    name, step, group, *rest = row
    values = rest[0] if rest else [carry.initial for carry in rule.carries]
    carries = {carry.name: value for carry, value in zip(rule.carries, values, strict=True)}
    return {"name": name, "step": step, "group": group, "carries": carries}


def _carries(rule: Rule, entry: Mapping[str, Any]) -> tuple[float, ...]:
    names = [carry.name for carry in rule.carries]
    if set(entry["carries"]) != set(names):
        raise StateError(f"{entry['name']}: its carries are {sorted(entry['carries'])}, the rule's {names}")
    return tuple(entry["carries"][name] for name in names)


def _made(kind: Any, given: Mapping[str, Any]) -> Any:
    """A `Rule` or `Hyper` of its fields.

    Raises:
        StateError: this Adamas does not know one of them.
    """
    unknown = sorted(set(given) - {field.name for field in fields(kind)})
    if unknown:
        raise StateError(f"{', '.join(unknown)} of its {kind.__name__} came with a newer Adamas; read it with that")
    return kind(**given)


def _parts(name: str, slot: str, stored: np.ndarray | Blocks) -> list[tuple[str, np.ndarray]]:
    """The tensors of the file that one slot of a parameter is, by their names."""
    if isinstance(stored, Blocks):
        return [(f"{slot}/{name}", stored.codes), (f"{slot}.scales/{name}", stored.scales)]
    return [(f"{slot}/{name}", stored)]


def _stored(rule: Rule, name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | Blocks]:
    """The slots of one parameter, from the tensors of a file."""
    found: dict[str, np.ndarray | Blocks] = {}
    for slot in (*(slot.name for slot in rule.slots), *OPTIONAL):
        if slot in OPTIONAL and f"{slot}/{name}" not in tensors:
            continue
        codes, scales = tensors[f"{slot}/{name}"], tensors.get(f"{slot}.scales/{name}")
        found[slot] = codes if scales is None else Blocks(codes, scales)
    return found


def _described(path: Path, entry: str | None) -> tuple[int, str, str]:
    """The version of a file, and the texts "state" and "checksum" of its metadata."""
    if entry is None:
        raise StateError(
            f"{path}: a safetensors file, but not an optimizer state (its metadata has no {FORMAT!r}); give a file "
            "that adamas.state.save wrote"
        )
    try:
        described = json.loads(entry)
        version = described["version"]
        if version in (1, 2, VERSION):
            return version, str(described["state"]), str(described["checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{path}: not a sound optimizer state (its metadata: {error!r}); use another copy of the checkpoint"
        ) from error
    raise StateError(
        f"{path}: version {version!r} of the format {FORMAT!r}, this Adamas reads versions 1 to {VERSION}; read it "
        "with the Adamas that wrote it, or a newer one"
    )


def _checksum(text: str, arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for array in arrays:
        digest.update(f"{array.dtype.name}{list(array.shape)}".encode())
        digest.update(_little_endian(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _sync(path: str | os.PathLike[str]) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
