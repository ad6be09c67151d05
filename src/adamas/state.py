"""The portable optimizer checkpoint: one safetensors file, by parameter name, the same from every framework.

Format "adamas.state", version 2. The file is a safetensors file (https://github.com/huggingface/safetensors):

- Tensors are named "<slot>/<parameter name>" ("m/dense/kernel"), little endian, of the parameter's shape. A slot's name
  holds no "/", so the first "/" ends it. Every slot that the rule declares is there for every parameter. Its dtype says
  its format (docs/formats.md): F32, F64, BF16; or int8 blocks, which are codes of I8 (signed) or U8 (non-negative) and
  beside them "<slot>.scales/<parameter name>", F32.
- Two more slots may be there, for any parameter: "average", the average of the weights, F32 or F64; and "correction",
  I8, the lower bits of a weight that is kept in 24 bits.
- Metadata: one entry, "adamas.state", whose text is JSON: {"version": 2, "state": "...", "checksum": "..."}
    "state"     text that is JSON: {"rule": {...}, "hypers": [{...}, ...], "tensors": [[name, step, group, carries],
                ...]}; `rule` and `hypers` hold the fields of adamas.Rule and adamas.Hyper, `group` is an index into
                `hypers`, `carries` the numbers of `rule.carries`, and the order of "tensors" is the optimizer's
    "checksum"  BLAKE2b-256 in hexadecimal, of the bytes of "state" (UTF-8) and then of every tensor, parameters in
                the order of "tensors", slots in the order of the rule, then "average" and "correction", codes before
                their scales: its dtype and shape as text, such as "float32[4, 3]", then its data

A reader MUST refuse a file whose version it does not know or whose checksum differs. Version 1 had no carries, and F32
and F64 only. Equal states are equal bytes: one entry of metadata only, because safetensors writes several in an order
that changes from run to run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from adamas.errors import AdamasError, StateError
from adamas.formats import SCALED, Blocks
from adamas.rule import Hyper, Rule

FORMAT = "adamas.state"
VERSION = 2
OPTIONAL = ("average", "correction")  # slots that no rule declares
_CODES = {"signed": "int8", "non-negative": "uint8"}
_MOST_STEPS = 2**63 - 2  # the next one still fits an int64


@dataclass(frozen=True, eq=False)
class State:
    """What an optimizer carries from one step to the next, by parameter name, free of any framework.

    Args:
        rule: the switches of the optimizer.
        slots: parameter name -> slot name -> what is stored: an array of float32, float64 or bfloat16, of the
            parameter's shape, or int8 blocks; and "average" and "correction" where the optimizer keeps them. Its order
            is the order of the parameters.
        steps: parameter name -> steps taken so far, 0 or more.
        hypers: the numbers, one entry per group.
        groups: parameter name -> index into `hypers`. Default: every parameter in group 0.
        carries: parameter name -> the numbers of `rule.carries`. Default: their values before the first step.

    Raises:
        StateError: the parts do not agree with each other.
    """

    rule: Rule
    slots: Mapping[str, Mapping[str, np.ndarray | Blocks]]
    steps: Mapping[str, int]
    hypers: Sequence[Hyper]
    groups: Mapping[str, int] = field(default_factory=dict)
    carries: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.carries:
            initial = tuple(carry.initial for carry in self.rule.carries)
            object.__setattr__(self, "carries", dict.fromkeys(self.slots, initial))
        if not self.groups:
            object.__setattr__(self, "groups", dict.fromkeys(self.slots, 0))
        problems = self._problems()
        if problems:
            raise StateError("not an optimizer state: " + "; ".join(problems))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the optimizer's order."""
        return tuple(self.slots)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape."""
        return {name: _shape(slots[self.rule.slots[0].name]) for name, slots in self.slots.items()}

    @property
    def dtypes(self) -> dict[str, str]:
        """Parameter name -> dtype that its step computes in, "float32" or "float64"."""
        first = self.rule.slots[0].name
        return {
            name: "float64" if getattr(slots[first], "dtype", None) == np.float64 else "float32"
            for name, slots in self.slots.items()
        }

    def differences(self, rule: Rule, shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, str]) -> list[str]:
        """Why this state does not fit an optimizer of these parameters: one line per difference, none if it fits."""
        lines = [
            f"rule.{switch}: the state has {mine!r}, the optimizer {getattr(rule, switch)!r}"
            for switch, mine in asdict(self.rule).items()
            if mine != getattr(rule, switch)
        ]
        here, there = self.shapes, self.dtypes
        for name in shapes:
            if name not in here:
                lines.append(f"{name}: not in the state")
            elif here[name] != tuple(shapes[name]):
                lines.append(f"{name}: the state has shape {here[name]}, the optimizer {tuple(shapes[name])}")
            elif there[name] != dtypes[name]:
                lines.append(f"{name}: the state has dtype {there[name]}, the optimizer {dtypes[name]}")
        lines += [f"{name}: not in the optimizer" for name in here if name not in shapes]
        return lines

    def check_fits(self, rule: Rule, shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, str]) -> None:
        """Nothing if this state fits an optimizer of these parameters.

        Raises:
            StateError: it does not; lists the differences.
        """
        lines = self.differences(rule, shapes, dtypes)
        if lines:
            shown = lines if len(lines) <= 10 else [*lines[:10], f"and {len(lines) - 10} more"]
            raise StateError(
                "the state belongs to another optimizer or model; nothing was loaded:\n  "
                + "\n  ".join(shown)
                + "\nMake the optimizer with the same settings and parameter names as the one that was saved."
            )

    def _problems(self) -> list[str]:
        found = []
        wanted = [slot.name for slot in self.rule.slots]
        if not self.hypers or not all(isinstance(hyper, Hyper) for hyper in self.hypers):
            found.append("hypers must be one or more adamas.Hyper")
        for what, given in (("steps", self.steps), ("groups", self.groups), ("carries", self.carries)):
            if set(given) != set(self.slots):
                found.append(f"{what} must name the same parameters as slots")
        for name, slots in self.slots.items():
            if set(slots) - set(OPTIONAL) != set(wanted):
                found.append(f"{name}: its slots are {list(slots)}, the rule keeps {wanted}")
                continue
            step, group = self.steps.get(name, 0), self.groups.get(name, 0)
            if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _MOST_STEPS:
                found.append(f"{name}: step {step!r} is not an integer from 0 to 2^63 - 2")
            if not isinstance(group, int) or not 0 <= group < max(len(self.hypers), 1):
                found.append(f"{name}: group {group!r} is not an index into hypers")
            if not _numbers(self.carries.get(name, ()), len(self.rule.carries)):
                found.append(
                    f"{name}: its carries must be {len(self.rule.carries)} numbers, one for each of the rule's"
                )
            found += [f"{name}: {problem}" for problem in self._misfits(slots)]
        return found

    def _misfits(self, slots: Mapping[str, np.ndarray | Blocks]) -> list[str]:
        """What is wrong with the arrays of one parameter."""
        found = []
        kinds = {slot.name: slot.kind for slot in self.rule.slots} | {"average": "weight", "correction": "correction"}
        for key, stored in slots.items():
            if problem := _misfit(kinds[key], stored):
                found.append(f"slot {key} {problem}")
        if not found:
            if len({_shape(stored) for stored in slots.values()}) > 1:
                found.append("its slots differ in shape")
            if len({_wide(stored) for key, stored in slots.items() if key != "correction"}) > 1:
                found.append("its slots differ in dtype: float64, and others")
        return found


def _misfit(kind: str, stored: np.ndarray | Blocks) -> str | None:
    """Why this cannot be a slot of this kind, or None."""
    if isinstance(stored, Blocks) and kind in _CODES and all(isinstance(part, np.ndarray) for part in stored):
        codes, scales = stored
        if codes.dtype.name != _CODES[kind]:
            return f"holds codes of {codes.dtype.name}, and is {kind}: {_CODES[kind]} is needed"
        if scales.dtype.name != "float32" or scales.shape != (-(-codes.size // SCALED),):
            return f"must have one float32 scale for each {SCALED} of its {codes.size} codes"
        return None
    allowed = ("int8",) if kind == "correction" else ("float32", "float64", *(("bfloat16",) if kind in _CODES else ()))
    if not isinstance(stored, np.ndarray):
        return f"must be an array{' or int8 blocks' if kind in _CODES else ''}, not a {type(stored).__name__}"
    if stored.dtype.name not in allowed:
        return f"must be one of {', '.join(allowed)}, not {stored.dtype.name}"
    return None


def _numbers(given: object, count: int) -> bool:
    return (
        isinstance(given, Sequence)
        and len(given) == count
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    )


def _shape(stored: np.ndarray | Blocks) -> tuple[int, ...]:
    return stored.codes.shape if isinstance(stored, Blocks) else stored.shape


def _wide(stored: np.ndarray | Blocks) -> bool:
    return isinstance(stored, np.ndarray) and stored.dtype == np.float64


class HasState(Protocol):
    """An optimizer that can be saved: every adapter's."""

    def portable_state(self) -> State: ...


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
            "tensors": [
                [name, state.steps[name], state.groups[name], [float(value) for value in state.carries[name]]]
                for name in state.names
            ],
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


def load(path: str | os.PathLike[str]) -> State:
    """Read a file that `save` wrote, from whatever framework; give it to an optimizer's `load_portable_state`.

    Args:
        path: the file.

    Returns:
        A `State` whose arrays are the caller's own.

    Raises:
        StateError: the file is missing, truncated, altered, of another kind or from a newer version; names the file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
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
        rule = Rule(**parsed["rule"])
        rows = [(*row, None)[:4] if version == 1 else row for row in parsed["tensors"]]
        slots = {name: _stored(rule, name, tensors) for name, _, _, _ in rows}
        keys = [key for name, own in slots.items() for slot, kept in own.items() for key, _ in _parts(name, slot, kept)]
        if sorted(keys) != sorted(tensors) or checksum != _checksum(text, (tensors[k] for k in keys)):
            raise StateError("its checksum differs: the file was altered or damaged")
        return State(
            rule=rule,
            slots=slots,
            steps={name: step for name, step, _, _ in rows},
            hypers=[Hyper(**hyper) for hyper in parsed["hypers"]],
            groups={name: group for name, _, group, _ in rows},
            carries={name: tuple(own) for name, _, _, own in rows if own is not None},
        )
    except (AdamasError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{path}: not a sound optimizer state ({error}); use another copy of the checkpoint"
        ) from error


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
        if version in (1, VERSION):
            return version, str(described["state"]), str(described["checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{path}: not a sound optimizer state (its metadata: {error!r}); use another copy of the checkpoint"
        ) from error
    raise StateError(
        f"{path}: version {version!r} of the format {FORMAT!r}, this Adamas reads versions 1 and {VERSION}; read it "
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
