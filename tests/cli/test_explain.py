"""`adamas explain`: real scripts in real processes, run as `python script.py` runs them, and what it says of them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamas.cli import main
from adamas.explain.imports import when_imported
from adamas.explain.measure import AFTER, BEFORE, FIT, Comparison

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
QUICK = ("--seconds", "0.3")


def run(
    script: Path, *before: str, words: tuple[str, ...] = (), stdin: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python BEFORE script.py WORDS`, in the script's folder or in another one."""
    folder = folder or script.parent
    return subprocess.run(
        [sys.executable, *before, str(script.relative_to(folder)), *words],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
    )


def explained(script: Path, **how: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`adamas explain`, and its report as data."""
    report = script.with_suffix(".json")
    shown = run(script, "-m", "adamas", "explain", *QUICK, "--json", str(report), **how)
    return shown, json.loads(report.read_text()) if report.exists() else {}


def write(folder: Path, text: str) -> Path:
    script = folder / "script.py"
    script.write_text(text)
    return script


def sums(loop: dict[str, Any]) -> dict[str, float]:
    """Column -> seconds of one step."""
    return {column: sum(parts.values()) for column, parts in loop["each"].items()}


PLAIN = """
import os, sys
print(__name__, os.path.basename(__file__), os.path.isabs(__file__), sys.argv, sys.path[0] == os.path.dirname(__file__))
print(sys.modules["__main__"].__dict__ is globals(), input(), __spec__, __package__, __doc__)
print("adamas.numpy" in sys.modules, "torch" in sys.modules, "tensorflow" in sys.modules)
"""


def test_a_script_finds_what_python_gives_it(tmp_path: Path) -> None:
    script = write(tmp_path, PLAIN)
    words = ("a", "--seconds", "-x", "--help")
    plain = run(script, words=words, stdin="line\n", folder=tmp_path.parent)
    shown, report = explained(script, words=words, stdin="line\n", folder=tmp_path.parent)
    assert plain.returncode == shown.returncode == 0
    assert plain.stdout == shown.stdout
    assert "script.py', 'a', '--seconds', '-x', '--help'] True" in plain.stdout
    assert "False False False" in plain.stdout
    assert (report["loops"], report["replaced"], report["left"]) == ([], [], {})
    assert report["verdict"] == ["No gain: no Adam or AdamW was stepped that Adamas could replace."]
    assert report["verdict"][0] in shown.stderr


def test_python_m_adamas_of_a_script_is_explain(tmp_path: Path) -> None:
    shown = run(write(tmp_path, "import sys; print(sys.argv)"), "-m", "adamas", words=("--epochs", "3"))
    assert (shown.returncode, shown.stdout) == (0, "['script.py', '--epochs', '3']\n")
    assert "adamas explain script.py" in shown.stderr


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("def f():\n    return 1 / 0\nf()", 1),
        ("x = (", 1),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('a reason')", 1),
        ("raise SystemExit", 0),
        ("import sys; sys.excepthook = lambda *e: print('own hook', e[0]); raise ValueError", 1),
    ],
)
def test_a_script_that_fails_fails_as_under_python(tmp_path: Path, text: str, status: int) -> None:
    script = write(tmp_path, text)
    plain, (shown, report) = run(script), explained(script)
    assert plain.returncode == shown.returncode == report["status"] == status
    assert plain.stdout == shown.stdout
    assert shown.stderr.startswith(plain.stderr)  # the traceback, without a frame of ours
    assert ("the script failed" in shown.stderr) == (status != 0)


def test_ctrl_c_ends_the_script_and_what_was_counted_is_said(tmp_path: Path) -> None:
    script = write(tmp_path, "import signal\nsignal.raise_signal(signal.SIGINT)\nprint('not here')")
    shown, report = explained(script)
    assert (shown.returncode, shown.stdout, report["status"]) == (130, "", 130)
    assert re.match(r'Traceback.*\n  File ".*script.py", line 2, in <module>\n(.*\n)*KeyboardInterrupt\n', shown.stderr)
    assert "No verdict" in shown.stderr


def test_sigterm_ends_it_at_once_as_under_python(tmp_path: Path) -> None:
    script = write(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nprint('not here')")
    shown, report = explained(script)
    assert (shown.returncode, shown.stdout, shown.stderr, report) == (-15, "", "", {})


def test_what_is_no_script_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["explain", str(tmp_path / "none.py")]) == 2
    assert re.fullmatch(r"adamas: error: [^\n]*none.py[^\n]*does not exist[^\n]*\n", capfd.readouterr().err)
    assert main(["explain", "--seconds", "0", __file__]) == 2
    assert "give a finite number above 0" in capfd.readouterr().err


TORCH = """
import atexit, sys, torch
from torch.optim import Adam
atexit.register(lambda: print("tensorflow" in sys.modules, "jax" in sys.modules, "keras" in sys.modules))
torch.manual_seed(0)
x = torch.randn(64, 5)
model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
for _ in range(30):
    optimizer.zero_grad()
    loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
    loss.backward()
    optimizer.step()
    schedule.step()
print(type(optimizer), isinstance(optimizer, Adam), list(optimizer.state_dict()["state"][0]), f"{loss.item():.4f}")
torch.save(optimizer, "optimizer.pt")
tiny = torch.nn.Parameter(torch.ones(1))
tiny.grad = torch.full((1,), 2e-38)
other = Adam([tiny])
other.step()
with open("moment.txt", "a") as file:  # 2e-39: Adamas stores what is below the smallest normal number as 0
    print(other.state[tiny]["exp_avg"].item() > 0, file=file)
"""


@needs_torch
def test_a_torch_loop(tmp_path: Path) -> None:
    script = write(tmp_path, TORCH)
    plain = run(script)
    shown, report = explained(script)
    assert plain.returncode == shown.returncode == 0, shown.stderr
    assert plain.stdout == shown.stdout
    assert "False False False" in shown.stdout
    assert (tmp_path / "moment.txt").read_text() == "True\nFalse\n"  # torch's step, and ours
    (replaced,) = report["replaced"]
    assert replaced.startswith("torch.optim.Adam by adamas.torch (")
    loop, _ = report["loops"]
    assert loop["steps"] == 29
    assert 0 < loop["seconds"] < report["seconds"]
    assert set(loop["each"]) == {BEFORE, AFTER}
    assert all(parts["optimizer"] > 0 and parts["the rest"] >= 0 for parts in loop["each"].values())
    assert loop["total"][AFTER] == loop["seconds"]
    difference = loop["each"][BEFORE]["optimizer"] - loop["each"][AFTER]["optimizer"]
    assert loop["total"][BEFORE] == pytest.approx(loop["seconds"] + 29 * difference)
    assert "on copies of the script's 4 parameters" in loop["how"][0]
    for word in ("before", "after", "the loop around torch.optim.Adam", "29 steps", "times as fast"):
        assert word in " ".join(shown.stderr.split())
    code = "import torch, sys; torch.load('optimizer.pt', weights_only=False).step(); print('adamas' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert loaded.stdout == "False\n"


TORCH_LEFT = """
import torch
class Mine(torch.optim.Adam):
    pass
def trained(kind, dtype, **options):
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    optimizer = kind([p], lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        (p ** 2).sum().backward()
        optimizer.step()
    return p.tolist()
print(trained(torch.optim.Adam, torch.bfloat16), trained(Mine, torch.float32), trained(torch.optim.SGD, torch.float32))
unused = torch.optim.Adagrad([torch.ones(1)]), torch.optim.AdamW([torch.ones(1)])
p = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.AdamW([p])
p.grad = torch.ones(1)
torch.compile(lambda: optimizer.step(), backend="eager")()
print(p.item(), trained(torch.optim.AdamW, torch.float32, capturable=True))
"""


TORCH_FAMILY = """
import sys, torch
def trained(kind):
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([p], lr=0.1, weight_decay=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (p ** 2).sum().backward()
        optimizer.step()
    return [round(x, 4) for x in p.tolist()], sorted(optimizer.state[p])
for name in ("NAdam", "RAdam", "Adamax"):
    print(name, trained(getattr(torch.optim, name)))
"""


@needs_torch
def test_the_rest_of_the_family(tmp_path: Path) -> None:
    script = write(tmp_path, TORCH_FAMILY)
    plain, (shown, report) = run(script), explained(script)
    assert plain.stdout == shown.stdout != "", shown.stderr
    names = [replaced.split(" by adamas.torch (")[0] for replaced in report["replaced"]]
    assert names == ["torch.optim.Adamax", "torch.optim.NAdam", "torch.optim.RAdam"]
    assert report["left"] == {}


@needs_torch
def test_what_adamas_cannot_do_alike_is_left_to_torch_and_named(tmp_path: Path) -> None:
    # torch itself refuses capturable=True on CPUs with an AssertionError, in both runs.
    script = write(tmp_path, TORCH_LEFT)
    plain, (shown, report) = run(script), explained(script)
    assert plain.stdout == shown.stdout
    assert "If capturable=True" in plain.stderr
    assert "If capturable=True" in shown.stderr
    left = report["left"]
    assert "is torch.bfloat16" in left["torch.optim.Adam"]
    assert left["Mine"] == "a subclass of torch.optim.Adam, which may step in its own way"
    assert left["torch.optim.SGD"] == "not Adam"
    assert "capturable=True" in left["torch.optim.AdamW"]
    assert report["replaced"] == []


@needs_torch
def test_a_loop_with_sgd_only_is_no_gain(tmp_path: Path) -> None:
    text = """
import torch
p = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([p], lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    (p ** 2).sum().backward()
    optimizer.step()
"""
    shown, report = explained(write(tmp_path, text))
    assert shown.returncode == 0, shown.stderr
    assert report["left"] == {"torch.optim.SGD": "not Adam"}
    assert report["loops"] == []
    assert "No gain: no Adam or AdamW was stepped" in shown.stderr


@needs_torch
def test_importing_explain_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import torch; before = torch.optim.Adam.step, torch.optim.Optimizer.__init__\n"
        "import adamas.explain, adamas.explain.replace.torch, adamas.torch\n"
        "print(before == (torch.optim.Adam.step, torch.optim.Optimizer.__init__))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout == "True\n"


FIT_SCRIPT = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(640, 8)).astype("float32")
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
history = model.fit(x, x.sum(axis=1), batch_size=32, epochs=3, verbose=0, shuffle=False)
print(isinstance(model.optimizer, keras.optimizers.Adam), int(model.optimizer.iterations), "torch" in sys.modules)
print(" ".join(f"{loss:.4f}" for loss in history.history["loss"]))
np.save("weights.npy", np.concatenate([w.ravel() for w in model.get_weights()]))
model.save("model.keras")
with open("kinds.txt", "a") as file:
    print([kind.__module__ for kind in type(model.optimizer).__mro__][1], file=file)
"""


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str, subprocess.CompletedProcess[str], dict[str, Any]]:
    script = write(tmp_path_factory.mktemp("fit"), FIT_SCRIPT)
    return script, run(script).stdout, *explained(script)


def test_model_fit_is_taken_apart(fitted: Any) -> None:
    script, plain, shown, report = fitted
    kinds = (script.parent / "kinds.txt").read_text().split()
    assert kinds[0].startswith("keras.")
    assert kinds[1] == "adamas.tensorflow.adam"
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == plain  # rounded to four places, where both formulas agree
    (replaced,) = report["replaced"]
    assert replaced.startswith("keras.optimizers.Adam by adamas.keras.Adam (")
    assert report["left"] == {}
    (loop,) = report["loops"]
    assert (loop["what"].startswith("model.fit of "), loop["steps"]) == (True, 60)
    assert set(loop["each"]) == {BEFORE, AFTER, FIT}
    for column in (BEFORE, AFTER):
        parts = loop["each"][column]
        assert list(parts) == ["forward, backward", "optimizer", "the loop"]
        assert parts["forward, backward"] > 0
        assert all(seconds >= 0 for seconds in parts.values())
    assert loop["total"][AFTER] == pytest.approx(loop["seconds"])
    assert loop["once"][FIT] > 0
    each = sums(loop)
    assert (each[BEFORE] - each[AFTER] > 0) == (loop["total"][BEFORE] > loop["total"][AFTER])
    assert len(report["verdict"]) == 2
    for word in ("before", "after", "train.fit", "forward, backward", "compiling, once", "by adamas.train.fit"):
        assert word in " ".join(shown.stderr.split())


def test_what_an_explained_script_saves_loads_without_adamas(fitted: Any) -> None:
    script, *_ = fitted
    code = """
import sys, keras, numpy as np
model = keras.models.load_model("model.keras")
print(type(model.optimizer) is keras.optimizers.Adam, int(model.optimizer.iterations), "adamas" in sys.modules)
weights = np.concatenate([w.ravel() for w in model.get_weights()])
print(np.array_equal(weights, np.load("weights.npy")), all(v.numpy().any() for v in model.optimizer.variables))
"""
    shown = run(write(script.parent / "..", code).rename(script.parent / "load.py"))
    assert shown.stdout == "True 60 False\nTrue True\n", shown.stderr


LOOPS = """
import numpy as np
import tensorflow as tf
from tensorflow.keras.optimizers import Adam, AdamW

tf.keras.utils.set_random_seed(0)
inputs, num_epochs = tf.random.normal((64, 8)), 12
labels = tf.reduce_sum(inputs, axis=1, keepdims=True)
model = tf.keras.Sequential([tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(1)])
loss = tf.keras.losses.MeanSquaredError()
optimizer = Adam(learning_rate=1e-3)
for epoch in range(num_epochs):
    with tf.GradientTape() as tape:
        loss_value = loss(labels, model(inputs))
    grads = tape.gradient(loss_value, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    print("Epoch {} loss: {:.4f}".format(epoch + 1, loss_value))

compiled = AdamW(learning_rate=1e-3)

@tf.function
def train_step():
    with tf.GradientTape() as tape:
        value = loss(labels, model(inputs))
    compiled.apply_gradients(zip(tape.gradient(value, model.trainable_variables), model.trainable_variables))
    return value

for _ in range(7):
    value = train_step()
print(f"{float(value):.4f}")

class Mine(tf.keras.optimizers.Adam):
    pass

def three_steps(optimizer, dtype):
    v = tf.Variable([1.0, 2.0], dtype=dtype)
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones(2, dtype), v)])
    return type(optimizer).__name__, v.numpy().tolist()

print(three_steps(Mine(0.1), tf.float32), three_steps(tf.keras.optimizers.SGD(0.1), tf.float32))
with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
    print(type(AdamW(0.1)).__module__)
plain = tf.keras.optimizers.Adam(0.1)
print(three_steps(plain, tf.bfloat16), type(plain).__module__, int(plain.iterations))
"""


def test_loops_of_ones_own_and_what_is_left_to_keras(tmp_path: Path) -> None:
    script = write(tmp_path, LOOPS)
    plain = run(script)
    shown, report = explained(script)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == plain.stdout
    assert "Epoch 12 loss" in shown.stdout
    eager, compiled = report["loops"]
    assert eager["what"] == "the loop around keras.optimizers.Adam, eager, after its first step"
    assert eager["steps"] == 11
    assert compiled["what"] == "train_step, compiled, with keras.optimizers.AdamW, after its first call"
    assert compiled["steps"] == 6
    for loop in (eager, compiled):
        assert loop["each"][BEFORE]["optimizer"] > 0
        assert loop["each"][AFTER]["optimizer"] > 0
        assert loop["total"][AFTER] == pytest.approx(loop["seconds"])
    # On a quiet machine Keras' eager step of these 4 variables takes about 80 times as long as ours.
    assert eager["each"][BEFORE]["optimizer"] > 3 * eager["each"][AFTER]["optimizer"]
    left = report["left"]
    assert left["Mine"] == "a subclass of keras.optimizers.Adam, which may step in its own way"
    assert left["keras.optimizers.SGD"] == "not Adam"
    assert "MirroredStrategy is active" in left["keras.optimizers.AdamW"]
    assert "is bfloat16" in left["keras.optimizers.Adam"]


KERAS_FAMILY = """
import keras, numpy as np, tensorflow as tf
x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
for name in ("Adamax", "Nadam"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile(optimizer=name.lower(), loss="mse")
    model.fit(x, x.sum(axis=1), batch_size=16, epochs=2, verbose=0, shuffle=False)
    v = tf.Variable([1.0, 2.0])
    optimizer = getattr(tf.keras.optimizers, name)(0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.apply_gradients([(2 * v, v)])
    print(isinstance(model.optimizer, getattr(keras.optimizers, name)), v.numpy().round(4))
    np.save(name, np.concatenate([w.ravel() for w in model.get_weights()]))
    model.save(name + ".keras")
    again = keras.models.load_model(name + ".keras").optimizer
    print(int(again.iterations), all(np.array(w).any() for w in again.variables))
"""


def test_the_rest_of_kerass_family(tmp_path: Path) -> None:
    script = write(tmp_path, KERAS_FAMILY)
    plain = run(script)
    right = {name: np.load(tmp_path / f"{name}.npy") for name in ("Adamax", "Nadam")}
    shown, report = explained(script)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == plain.stdout != ""
    for name, weights in right.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), weights, rtol=1e-4, atol=1e-6)
    names = {replaced.partition(" (")[0] for replaced in report["replaced"]}
    assert names == {f"keras.optimizers.{name} by adamas.keras.{name}" for name in right}
    assert report["left"] == {}


FITS = """
import keras, numpy as np, tensorflow as tf
x = np.random.default_rng(0).normal(size=(320, 8)).astype("float32")
y = x.sum(axis=1, keepdims=True)

class Linear(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)
    def call(self, x):
        return self.layer(x)
    def train_step(self, data):
        return super().train_step(data)

model = Linear()
model.compile(keras.optimizers.SGD(0.1), loss=lambda a, b: keras.ops.mean((a - b) ** 2))
def batches():
    for _ in range(40):
        yield x[:32], y[:32]
generator = batches()
model.fit(generator, steps_per_epoch=10, epochs=2, verbose=0)
print(len(list(generator)) > 0, [float(w.sum()) for w in model.get_weights()])
import atexit
atexit.register(lambda: print([float(w.sum()) for w in model.get_weights()]))
"""


def test_a_model_and_data_that_only_model_fit_takes(tmp_path: Path) -> None:
    """A generator, a train_step and a loss of the script's own, and SGD: what cannot be measured is said, with why."""
    shown, report = explained(write(tmp_path, FITS))
    assert shown.returncode == 0, shown.stderr
    (loop,) = report["loops"]
    assert loop["steps"] == 20
    assert list(loop["each"]) == [BEFORE]
    assert "use model.fit" in loop["missing"]["adamas.train.fit"]
    assert report["left"]["keras.optimizers.SGD"] == "not Adam"
    assert "No gain" in shown.stderr
    before, after = shown.stdout.splitlines()
    assert before == f"True {after}"  # the measurement left the script's model as it was


def test_frameworks_are_met_when_the_script_imports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "early_module.py").write_text("")
    (tmp_path / "late_module.py").write_text("import sys\nready = True\nspec = __spec__\n")
    monkeypatch.syspath_prepend(tmp_path)
    import early_module  # type: ignore[import-not-found]  # noqa: F401

    met: list[str] = []

    def meet(name: str) -> None:
        met.append(name)
        assert name == "early_module" or sys.modules[name].ready

    names = ("early_module", "late_module", "no_such_module")
    with when_imported({name: lambda name=name: meet(name) for name in names}):  # type: ignore[misc]
        assert met == ["early_module"]
        assert importlib.util.find_spec("late_module") is not None  # asks, and does not import
        assert importlib.util.find_spec("no_such_module") is None
        assert met == ["early_module"]
        import late_module  # type: ignore[import-not-found]

        assert met == ["early_module", "late_module"]
        assert type(late_module.spec.loader).__module__ == "_frozen_importlib_external"
        assert late_module.spec.loader is late_module.__loader__
    assert not [finder for finder in sys.meta_path if "adamas" in type(finder).__module__]


def test_a_loops_time_with_another_step_is_computed_from_what_was_measured() -> None:
    loop = Comparison("a loop", steps=10, seconds=2.0)
    loop.add_loop({BEFORE: 0.5, AFTER: 0.05})
    assert loop.each[AFTER] == {"optimizer": 0.05, "the rest": pytest.approx(0.15)}
    assert loop.total == {BEFORE: pytest.approx(6.5), AFTER: 2.0}


def test_an_optimizer_that_was_made_and_not_used_is_named_as_that(tmp_path: Path) -> None:
    text = """
import keras, tensorflow as tf
variable = tf.Variable([1.0])
keras.optimizers.Adam()
optimizer = keras.optimizers.Adam()
optimizer.apply([tf.ones(1)], [variable])
"""
    shown, report = explained(write(tmp_path, text))
    assert shown.returncode == 0, shown.stderr
    assert len(report["replaced"]) == 1
    assert report["left"] == {"keras.optimizers.Adam": "one of them took no step"}
