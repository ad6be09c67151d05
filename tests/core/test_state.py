"""The portable checkpoint: exact, whole or not there at all, and refused when it is damaged or belongs elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.stepping import same_bits

from adamas import state
from adamas.errors import ArgumentError, StateError
from adamas.formats import Blocks, arrays
from adamas.numpy import Adam, AdamW
from adamas.rule import Hyper, Rule
from adamas.state import State


def optimizer(dtype: type[np.floating] = np.float32, **settings: object) -> tuple[AdamW, dict[str, np.ndarray]]:
    rng = np.random.default_rng(8)
    params = {
        "dense/kernel": rng.standard_normal((4, 3)),
        "b": rng.standard_normal(3),
        "s": np.zeros(()),
        "e": np.zeros(0),
    }
    params = {name: np.asarray(p, dtype) for name, p in params.items()}
    made = AdamW(params, lr=0.1, **settings)  # type: ignore[arg-type]
    for _ in range(3):
        made.step({name: np.asarray(rng.standard_normal(p.shape), dtype) for name, p in params.items()})
    made.step({"b": params["b"].copy()})
    return made, params


def equal(a: State, b: State) -> bool:
    return (a.rule, a.names, dict(a.steps), list(a.hypers), dict(a.groups)) == (
        b.rule,
        b.names,
        dict(b.steps),
        list(b.hypers),
        dict(b.groups),
    ) and all(same_bits(a.slots[n][s], b.slots[n][s]) for n in a.names for s in a.slots[n])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_what_is_written_is_read(tmp_path: Path, dtype: type[np.floating], amsgrad: bool) -> None:
    made, params = optimizer(dtype, amsgrad=amsgrad)
    state.save(tmp_path / "a.safetensors", made)
    read = state.load(tmp_path / "a.safetensors")
    assert equal(read, made.portable_state())
    assert read.steps == {"dense/kernel": 3, "b": 4, "s": 3, "e": 3}
    assert read.shapes == {"dense/kernel": (4, 3), "b": (3,), "s": (), "e": (0,)}
    assert set(read.dtypes.values()) == {np.dtype(dtype).name}
    assert os.listdir(tmp_path) == ["a.safetensors"], "no temporary file is left"

    copies = {name: p.copy() for name, p in params.items()}
    other = AdamW(copies, amsgrad=amsgrad)
    other.load_portable_state(read)
    grads = {name: np.ones_like(p) for name, p in params.items()}
    made.step(grads)
    other.step(grads)
    assert other.hyper == made.hyper
    assert all(same_bits(np.atleast_1d(params[n]), np.atleast_1d(copies[n])) for n in params)


def test_numbers_that_are_not_nice_survive(tmp_path: Path) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, np.finfo(np.float32).max], np.float32)
    own = State(Rule(), {"é/x": {"v": odd[::-1], "m": odd}}, {"é/x": 2**62}, [Hyper(np.float32(0.1), 0.9, 1 / 3)])
    state.save(tmp_path / "a", own)
    read = state.load(str(tmp_path / "a"))
    assert same_bits(read.slots["é/x"]["v"], odd[::-1])
    assert read.steps["é/x"] == 2**62
    assert read.hypers[0] == Hyper(float(np.float32(0.1)), 0.9, 1 / 3)
    read.slots["é/x"]["m"][0] = 1.0  # the reader's own


def test_groups_survive(tmp_path: Path) -> None:
    slots = {name: {"m": np.zeros(2), "v": np.zeros(2)} for name in "abc"}
    own = State(Rule(), slots, dict.fromkeys("abc", 1), [Hyper(), Hyper(lr=1.0)], {"a": 0, "b": 1, "c": 0})
    state.save(tmp_path / "a", own)
    assert equal(state.load(tmp_path / "a"), own)
    with pytest.raises(StateError, match=r"other numbers for .* which share theirs in this optimizer"):
        AdamW({name: np.zeros(2) for name in "abc"}).load_portable_state(own)


def test_the_file_is_the_format_that_is_documented(tmp_path: Path) -> None:
    """Byte for byte what another reader of safetensors sees."""
    made, _ = optimizer(amsgrad=True, seed=5)
    path = tmp_path / "a.safetensors"
    state.save(path, made)
    tensors = load_file(path)
    assert sorted(tensors) == sorted(f"{s}/{n}" for s in ("m", "v", "vmax") for n in ("dense/kernel", "b", "s", "e"))
    assert same_bits(tensors["vmax/dense/kernel"], made.state_dict()["state"]["dense/kernel"]["vmax"])
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert list(metadata) == ["adamas.state"]
    described = json.loads(metadata["adamas.state"])
    assert (sorted(described), described["version"]) == (["checksum", "state", "version"], 3)
    assert json.loads(described["state"]) == {
        "rule": {
            "eps_mode": "paper",
            "decay": "decoupled",
            "amsgrad": "raw",
            "maximize": False,
            "nesterov": "off",
            "schedule_free": False,
            "rectify": False,
            "infinity": False,
            "adopt": False,
            "clip_update": False,
            "trust_ratio": "off",
            "cautious": False,
        },
        "hypers": [
            {
                "lr": 0.1,
                "beta1": 0.9,
                "beta2": 0.999,
                "eps": 1e-8,
                "eps_root": 0.0,
                "weight_decay": 0.01,
                "momentum_decay": 4e-3,
                "warmup_steps": 0.0,
                "r": 0.0,
                "weight_lr_power": 2.0,
            }
        ],
        "seed": 5,
        "tensors": [
            {"name": name, "step": step, "group": 0, "carries": {}, "rounding_name": name}
            for name, step in (("dense/kernel", 3), ("b", 4), ("s", 3), ("e", 3))
        ],
    }
    digest = hashlib.blake2b(described["state"].encode(), digest_size=32)
    for name, shape in (("dense/kernel", b"[4, 3]"), ("b", b"[3]"), ("s", b"[]"), ("e", b"[0]")):
        for slot in ("m", "v", "vmax"):
            digest.update(b"float32" + shape + tensors[f"{slot}/{name}"].tobytes())
    assert described["checksum"] == digest.hexdigest()


def written(path: Path, version: object, text: str, tensors: dict[str, np.ndarray]) -> None:
    """A file of this version, with the right checksum."""
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for array in tensors.values():
        digest.update(f"{array.dtype.name}{list(array.shape)}".encode() + array.tobytes())
    described = json.dumps({"version": version, "state": text, "checksum": digest.hexdigest()})
    save_file(tensors, path, metadata={"adamas.state": described})


HYPER = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_root": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_versions_are_read(tmp_path: Path, version: int) -> None:
    """As an older Adamas wrote them: rows in place of objects, no seed, fewer switches and numbers."""
    tensors = {"m/a": np.array([1.0, 2.0], np.float32), "v/a": np.array([3.0, 4.0], np.float32)}
    nesterov = "off" if version == 1 else "scheduled"
    rule = {"eps_mode": "paper", "decay": "coupled", "amsgrad": "off", "maximize": False}
    text = json.dumps(
        {
            "rule": rule if version == 1 else {**rule, "nesterov": nesterov},
            "hypers": [HYPER],
            "tensors": [["a", 3, 0] if version == 1 else ["a", 3, 0, [0.5]]],
        }
    )
    written(tmp_path / "x", version, text, tensors)
    read = state.load(tmp_path / "x")
    slots = {"a": {"m": tensors["m/a"], "v": tensors["v/a"]}}
    assert equal(read, State(Rule(decay="coupled", nesterov=nesterov), slots, {"a": 3}, [Hyper(0.1)]))  # type: ignore[arg-type]
    assert dict(read.carries) == {"a": () if version == 1 else (0.5,)}
    assert (read.seed, dict(read.rounding_names)) == (None, {})


ENTRY = {"name": "a", "step": 1, "group": 0, "carries": {}}
SOUND = {"rule": {}, "hypers": [HYPER], "seed": 0, "tensors": [ENTRY]}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rule": {"sharpened": True}}, "sharpened of its Rule came with a newer Adamas"),
        ({"hypers": [{"heat": 1.0}]}, "heat of its Hyper came with a newer Adamas"),
        ({"hypers": []}, "one or more adamas.Hyper"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"tensors": [{**ENTRY, "carries": {"mu": 1.0}}]}, r"its carries are \['mu'\], the rule's \[\]"),
        ({"tensors": [{**ENTRY, "step": -1}]}, "step -1"),
        ({"tensors": [{key: value for key, value in ENTRY.items() if key != "step"}]}, "'step'"),
        ({"tensors": [{**ENTRY, "rounding_name": 3}]}, "rounding_names must be strings"),
        ({"tensors": ["a"]}, "string indices"),
        ({"tensors": []}, "checksum differs"),
        ({"tensors": [ENTRY, {**ENTRY, "name": "b"}]}, "m/b"),
    ],
)
def test_texts_that_contradict_themselves_are_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    """Though the checksum is right: somebody else wrote them."""
    tensors = {"m/a": np.ones(2, np.float32), "v/a": np.ones(2, np.float32)}
    written(tmp_path / "sound", 3, json.dumps(SOUND), tensors)
    assert state.load(tmp_path / "sound").steps == {"a": 1}
    written(tmp_path / "x", 3, json.dumps({**SOUND, **parts}), tensors)
    with pytest.raises(StateError, match=rf"x: not a sound optimizer state.*{message}"):
        state.load(tmp_path / "x")


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "int8"])
def test_a_state_goes_on_under_other_names(tmp_path: Path, moments: Any) -> None:
    """Random numbers are keyed by seed and name, so both move with the state: the bits are those without the move."""
    rng = np.random.default_rng(2)
    shapes = {"dense/kernel": (70, 90), "dense/bias": (4097,)}
    names = {"dense/kernel": "0.weight", "dense/bias": "0.bias"}
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    grads = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(6)]
    old = Adam(params, lr=0.1, moments=moments, seed=11)
    for own in grads[:3]:
        old.step(own)
    state.save(tmp_path / "a", old)
    moved = {names[name]: p.copy() for name, p in reversed(params.items())}
    new = Adam(moved, moments=moments)
    read = state.load(tmp_path / "a", new, names=names)
    assert read.names == ("0.weight", "0.bias")
    assert dict(read.rounding_names) == {new: old for old, new in names.items()}
    state.save(tmp_path / "b", new)
    again = Adam({name: p.copy() for name, p in moved.items()}, moments=moments)
    again.load_state_dict(new.state_dict())
    for own in grads[3:]:
        old.step(own)
        for one in (new, again):
            one.step({names[name]: g for name, g in own.items()})
    back = state.load(tmp_path / "b", names=lambda name: {new: old for old, new in names.items()}[name])
    assert back.seed == 11
    assert dict(back.rounding_names) == {name: name for name in shapes}
    for name in shapes:
        assert same_bits(params[name], moved[names[name]])
        for one in (new, again):
            kept, right = one.portable_state().slots[names[name]], old.portable_state().slots[name]
            for slot in ("m", "v"):
                for a, b in zip(arrays(kept[slot]), arrays(right[slot]), strict=True):
                    assert a.tobytes() == b.tobytes()


def test_names_that_do_not_fit() -> None:
    made, _ = optimizer()
    own = made.portable_state()
    for names, message in (
        ({"c": "d"}, r"\['c'\] are not in the state, whose parameters are \['dense/kernel'"),
        ({"b": "s"}, r"more than one parameter would be named \['s'\]"),
        (lambda name: "x", "more than one"),
        (lambda name: None, "give strings"),
    ):
        with pytest.raises(ArgumentError, match=message):
            own.renamed(names)  # type: ignore[arg-type]
    assert own.renamed({"b": "s", "s": "b"}).shapes == {"dense/kernel": (4, 3), "s": (3,), "b": (), "e": (0,)}
    with pytest.raises(ArgumentError, match=r"\['m'\] cannot be left out.*average"):
        own.without("m")


def test_a_state_that_does_not_decay_fits_either_kind_of_decay() -> None:
    own = AdamW({"a": np.ones(2)}, weight_decay=0.0).portable_state()
    Adam({"a": np.ones(2)}).load_portable_state(own)
    decaying = AdamW({"a": np.ones(2)}).portable_state()
    with pytest.raises(StateError, match=r"rule\.decay: the state has 'decoupled', the optimizer 'coupled'"):
        Adam({"a": np.ones(2)}).load_portable_state(decaying)
    with pytest.raises(StateError, match=r"b: not in the state\n.*a: not in the optimizer\n.*state\.renamed"):
        AdamW({"b": np.ones(2)}).load_portable_state(decaying)


def test_what_is_stored_in_fewer_bits_is_written_as_it_is(tmp_path: Path) -> None:
    """The format of docs/formats.md, which other readers of safetensors see by its dtypes."""
    rng = np.random.default_rng(1)
    blocks = Blocks(rng.integers(-127, 128, (9, 10)).astype(np.int8), rng.random(2).astype(np.float32))
    own = State(
        Rule(nesterov="scheduled"),
        {
            "a/b": {
                "m": blocks,
                "v": rng.random((9, 10)).astype(bfloat16),
                "average": rng.random((9, 10)).astype("f4"),
            },
            "c": {"m": np.ones(2), "v": np.ones(2), "correction": np.array([-128, 127], np.int8)},
        },
        {"a/b": 1, "c": 2},
        [Hyper()],
        carries={"a/b": (0.25,), "c": (1.0,)},
    )
    state.save(tmp_path / "x", own)
    with safe_open(tmp_path / "x", framework="numpy") as file:
        dtypes = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert dtypes == {
        "m/a/b": "I8",
        "m.scales/a/b": "F32",
        "v/a/b": "BF16",
        "average/a/b": "F32",
        "m/c": "F64",
        "v/c": "F64",
        "correction/c": "I8",
    }
    read = state.load(tmp_path / "x")
    assert dict(read.carries) == {"a/b": (0.25,), "c": (1.0,)}
    assert read.dtypes == {"a/b": "float32", "c": "float64"}
    assert list(read.slots["a/b"]) == ["m", "v", "average"]
    stored = read.slots["a/b"]["m"]
    assert isinstance(stored, Blocks)
    assert np.array_equal(stored.codes, blocks.codes)
    assert same_bits(stored.scales, blocks.scales)
    assert np.asarray(read.slots["a/b"]["v"]).tobytes() == np.asarray(own.slots["a/b"]["v"]).tobytes()
    whole = (tmp_path / "x").read_bytes()
    scale = blocks.scales[1:].tobytes()
    (tmp_path / "x").write_bytes(whole.replace(scale, np.float32(0.5).tobytes()))
    with pytest.raises(StateError, match="checksum differs"):
        state.load(tmp_path / "x")


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    """In every process: the order of a hash table must not show."""
    made, _ = optimizer(amsgrad=True)
    state.save(tmp_path / "a", made)
    code = "import sys; from adamas import state; state.save(sys.argv[2], state.load(sys.argv[1]))"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")], check=True)
        assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
        state.save(tmp_path / "c", made)
        assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_its_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    made, _ = optimizer()
    state.save(tmp_path / "a", made)
    (tmp_path / "b").write_bytes(b"")
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == stat.S_IMODE(os.stat(tmp_path / "b").st_mode)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    made, _ = optimizer()
    path = tmp_path / "a.safetensors"
    state.save(path, made)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(StateError, match=r"a\.safetensors: not a"):
            state.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StateError, match=r"a\.safetensors"):
        state.load(path)


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    """Anything may be flipped: the length, the header, the metadata, the data. Nothing is read as something else."""
    made, _ = optimizer()
    path = tmp_path / "a.safetensors"
    state.save(path, made)
    whole = path.read_bytes()
    right = state.load(path)
    for position in range(0, len(whole), 3):
        altered = bytearray(whole)
        altered[position] ^= 1 << (position % 8)
        path.write_bytes(altered)
        try:
            read = state.load(path)
        except StateError:
            continue
        assert equal(read, right), f"byte {position}"  # white space of the header


def test_another_shape_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    made, _ = optimizer()
    path = tmp_path / "a.safetensors"
    state.save(path, made)
    whole = path.read_bytes()
    assert whole.count(b'"shape":[4,3]') == 2
    path.write_bytes(whole.replace(b'"shape":[4,3]', b'"shape":[3,4]'))
    with pytest.raises(StateError, match=r"a\.safetensors: .*checksum differs"):
        state.load(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "not an optimizer state"),
        ("{", "not a sound optimizer state"),
        ("[]", "not a sound optimizer state"),
        ('{"version": 4}', "version 4 .*reads versions 1 to 3"),
        ('{"version": 2}', "not a sound optimizer state.*'state'"),
        ('{"version": 1}', "not a sound optimizer state.*'state'"),
        ('{"version": 1, "state": "{}", "checksum": ""}', "not a sound optimizer state.*'rule'"),
        ('{"version": 1, "state": "[", "checksum": ""}', "not a sound optimizer state"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, entry: str | None, message: str) -> None:
    metadata = {"format": "pt"} if entry is None else {"adamas.state": entry}
    save_file({"m/a": np.zeros(2, np.float32)}, tmp_path / "x", metadata=metadata)
    with pytest.raises(StateError, match=f"x: .*{message}"):
        state.load(tmp_path / "x")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    made, _ = optimizer()
    with pytest.raises(StateError, match="none"):
        state.load(tmp_path / "none")
    with pytest.raises(StateError, match=str(tmp_path)):
        state.load(tmp_path)
    with pytest.raises(StateError, match=r"could not be written.*existing, writable folder"):
        state.save(tmp_path / "no" / "a", made)


FULL = """
import resource, sys
import numpy as np
from adamas import state
from adamas.errors import ArgumentError, StateError
from adamas.formats import Blocks, arrays
from adamas.numpy import Adam
optimizer = Adam([np.zeros(300_000)])
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    state.save(sys.argv[1], optimizer)
except StateError as error:
    print("refused:", error)
"""


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing fails half-way."""
    path = tmp_path / "a.safetensors"
    made, _ = optimizer()
    state.save(path, made)
    before = path.read_bytes()
    result = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"refused: {path}: the optimizer state could not be written")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("moment", ["safetensors.numpy.save_file", "os.chmod", "os.fsync", "os.replace"])
def test_an_interrupt_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.safetensors"
    made, _ = optimizer()
    state.save(path, made)
    before = path.read_bytes()
    made.lr = 0.5
    with monkeypatch.context() as patch:
        patch.setattr(moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            state.save(path, made)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_differences_of_a_wrong_model_are_listed() -> None:
    made, _ = optimizer()
    own = made.portable_state()
    shapes, dtypes = own.shapes, own.dtypes
    assert own.differences(own.rule, shapes, dtypes) == []
    own.check_fits(own.rule, shapes, dtypes)
    wrong = {**shapes, "b": (4,), "new": (1,)}
    del wrong["s"]
    lines = own.differences(Rule("keras"), wrong, {**dtypes, "new": "float32", "dense/kernel": "float64"})
    assert lines == [
        "rule.eps_mode: the state has 'paper', the optimizer 'keras'",
        "dense/kernel: the state has dtype float32, the optimizer float64",
        "b: the state has shape (3,), the optimizer (4,)",
        "new: not in the state",
        "s: not in the optimizer",
    ]
    with pytest.raises(StateError, match=r"nothing was loaded:\n  rule\.eps_mode"):
        own.check_fits(Rule("keras"), wrong, {**dtypes, "new": "float32"})
    many = {f"x{i}": (1,) for i in range(50)}
    with pytest.raises(StateError, match="and 44 more"):
        own.check_fits(own.rule, many, dict.fromkeys(many, "float32"))


def M(m: Any, v: Any = np.float64, **more: Any) -> dict[str, Any]:
    """The slots of a parameter of two elements, of which m is wrong."""
    return {"slots": {"a": {"m": m, "v": np.zeros(2, v), **more}}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"steps": {}}, "steps must name the same parameters"),
        ({"steps": {"a": 1.0}}, "step 1.0 is not an integer"),
        ({"steps": {"a": True}}, "step True"),
        ({"steps": {"a": 2**63 - 1}}, "step 9223372036854775807 is not an integer from 0 to"),
        ({"groups": {"a": 1}}, "group 1 is not an index"),
        ({"hypers": []}, "one or more adamas.Hyper"),
        ({"carries": {"a": (1.0,)}}, "a: its carries must be 0 numbers"),
        ({"carries": {"b": ()}}, "carries must name the same parameters"),
        (M(Blocks(np.zeros(2, np.uint8), np.zeros(1, np.float32))), "slot m holds codes of uint8, and is signed: int8"),
        (M(Blocks(np.zeros(2, np.int8), np.zeros(2, np.float32))), "one float32 scale for each 64 of its 2 codes"),
        (M(Blocks(np.zeros(2, np.int8), np.zeros(1))), "one float32 scale"),
        (M(Blocks(np.zeros(3, np.int8), np.zeros(1, np.float32)), np.float32), "differ in shape"),
        (M(Blocks(np.zeros(2, np.int8), np.zeros(1, np.float32))), "differ in dtype: float64"),
        (M(np.zeros(2, np.float32)), "differ in dtype: float64"),
        (M(np.zeros(2), average=np.zeros(2, bfloat16)), "slot average must be one of float32, float64, not bfloat16"),
        (M(np.zeros(2), correction=np.zeros(2)), "slot correction must be one of int8, not float64"),
        (M(np.zeros(2), correction=np.zeros(3, np.int8)), "differ in shape"),
        ({"slots": {"a": {"v": np.zeros(2), "x": np.zeros(2)}}}, "the rule keeps"),
        ({"slots": {"a": {"m": np.zeros(2), "v": np.zeros(3)}}}, "differ in shape"),
        ({"slots": {"a": {"m": np.zeros(2, int), "v": np.zeros(2, int)}}}, "one of float32, float64, bfloat16, not"),
    ],
)
def test_a_state_must_be_one(parts: dict[str, object], message: str) -> None:
    good = {
        "rule": Rule(),
        "slots": {"a": {"m": np.zeros(2), "v": np.zeros(2)}},
        "steps": {"a": 1},
        "hypers": [Hyper()],
    }
    State(**good)  # type: ignore[arg-type]
    with pytest.raises(StateError, match=message):
        State(**{**good, **parts})  # type: ignore[arg-type]


def test_adam_and_adamw_do_not_take_each_others() -> None:
    made, params = optimizer()
    with pytest.raises(StateError, match=r"rule\.decay: the state has 'decoupled', the optimizer 'coupled'"):
        Adam(params).load_portable_state(made.portable_state())
