"""`adamas bench quality`: the statistics, the trainings, and a short run of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import torch.nn.functional as F  # noqa: E402

from adamas.bench.quality import data, plot, run, tasks, training  # noqa: E402
from adamas.bench.quality import report as report_module  # noqa: E402
from adamas.bench.quality.report import Report  # noqa: E402
from adamas.bench.quality.statistics import Comparison, compare  # noqa: E402
from adamas.bench.quality.storages import BASELINE, STORAGES  # noqa: E402
from adamas.bench.quality.training import stored, train  # noqa: E402
from adamas.cli import main  # noqa: E402
from adamas.errors import ArgumentError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MLP, CNN, CODE, WORDS, CHARACTERS = tasks.TASKS


# The interval and the verdict


def test_the_interval_is_students_for_pairs():
    baseline = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    difference = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    found = compare(baseline, baseline + difference)
    assert found.spread == pytest.approx(2.5**0.5)
    assert found.margin == pytest.approx(2.5**0.5 / 2)
    assert found.mean == pytest.approx(0.3)
    half = 2.7764451051977987 * (0.025 / 5) ** 0.5  # t(0.975) with 4 degrees of freedom, from a printed table
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))


def test_the_interval_holds_the_truth_19_times_in_20():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        baseline = random.normal(0, 5, 6)
        found = compare(baseline, baseline + random.normal(1, 2, 6))
        hits += found.low <= 1 <= found.high
    assert abs(hits / 2000 - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_pairs_count_and_not_the_two_groups():
    baseline = np.array([0.0, 10.0, 20.0, 30.0])
    assert compare(baseline, baseline + np.array([0.1, 0.2, 0.1, 0.2])).verdict == "alike"
    assert compare(baseline, baseline[::-1] + 0.0).verdict == "not shown"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, 0.5, "alike"),
        (-0.51, 0.0, "not shown"),
        (0.0, 0.51, "not shown"),
        (0.49, 9.0, "not shown"),
        (-9.0, 9.0, "not shown"),
        (0.51, 9.0, "different"),
        (-9.0, -0.51, "different"),
        (float("nan"), float("nan"), "different"),
    ],
)
def test_the_verdict(low: float, high: float, verdict: str):
    assert Comparison(1.0, (low + high) / 2, low, high).verdict == verdict


def test_a_training_that_diverged_is_different():
    assert compare(np.arange(5.0), np.array([0.0, 1.0, 2.0, 3.0, np.inf])).verdict == "different"


@pytest.mark.parametrize(
    ("baseline", "other"),
    [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0, 2.0]], [[1.0, 2.0]]), ([1.0, np.nan], [1.0, 2.0])],
)
def test_what_cannot_be_compared_is_refused(baseline: list[float], other: list[float]):
    with pytest.raises(ArgumentError):
        compare(np.array(baseline), np.array(other))


# The data


def test_nothing_that_is_held_out_is_trained_on():
    for task in (MLP, WORDS, CHARACTERS):
        found = task.data()
        assert 300 < len(found.held_out.x) <= data.MOST < len(found.train.x)
    whole = data.split(np.arange(100), np.arange(100))
    assert sorted({*whole.train.x, *whole.held_out.x}) == list(range(100))
    assert not {*whole.train.x} & {*whole.held_out.x}


def test_characters_follow_each_other():
    train = CHARACTERS.data().train
    assert train.x.shape[1] == tasks.LENGTH
    assert (train.x[:, 1:] == train.y[:, :-1]).all()
    assert train.x.min() >= 0
    assert train.x.max() < tasks.SYMBOLS
    source = "\n".join(data.modules().values())
    text = "".join(chr(code + 32) if code < 95 else "\n" if code == 95 else "?" for code in train.x[0])
    assert text == source[: tasks.LENGTH]


def test_words_are_numbered_by_how_often_they_occur():
    found = WORDS.data()
    counts = np.bincount(found.train.x.ravel(), minlength=tasks.VOCABULARY)
    assert len(counts) == tasks.VOCABULARY
    assert counts[0] > counts[100] > counts[5000] > 0
    assert set(found.train.y) == set(found.held_out.y) == set(range(tasks.CLASSES))


# The models


def stacked(task: tasks.Task, seeds: int) -> tasks.Stacked:
    firsts = [task.initial(np.random.default_rng([seed, 7])) for seed in range(seeds)]
    return {name: torch.from_numpy(np.stack([first[name] for first in firsts])) for name in firsts[0]}


def some(task: tasks.Task, seeds: int, rows: int) -> list[torch.Tensor]:
    x, y = task.data().train
    return [torch.from_numpy(part[: seeds * rows].reshape(seeds, rows, *part.shape[1:])) for part in (x, y)]


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.key)
def test_seeds_do_not_see_each_other(task: tasks.Task):
    """Each seed's loss and gradients are those that it has alone, to rounding; and every weight takes part."""
    weights = {name: w.requires_grad_() for name, w in stacked(task, 3).items()}
    x, y = some(task, 3, 4)
    losses = task.loss(weights, x, y)
    gradients = torch.autograd.grad(losses.sum(), list(weights.values()))
    for seed in range(3):
        own = {name: w[seed : seed + 1].detach().requires_grad_() for name, w in weights.items()}
        alone = task.loss(own, x[seed : seed + 1], y[seed : seed + 1])
        assert torch.allclose(alone, losses[seed], rtol=1e-5)
        for name, ours, g in zip(own, torch.autograd.grad(alone.sum(), list(own.values())), gradients, strict=True):
            assert torch.allclose(ours[0], g[seed], rtol=1e-3, atol=1e-6), name
            assert ours.abs().max() > 0, name


def test_the_convolution_is_torchs():
    weights = {name: w[:1] for name, w in stacked(CNN, 1).items()}
    x = torch.from_numpy(CNN.data().train.x[:5]).view(1, 5, 1, 8, 8)
    kernel = weights["conv1.w"][0].T.reshape(16, 1, 3, 3)
    expected = F.max_pool2d(F.conv2d(x[0], kernel, weights["conv1.b"][0], padding=1).relu(), 2)
    assert torch.allclose(tasks.conv(weights, "conv1", x)[0], expected, atol=1e-6)


def test_the_transformer_does_not_look_ahead():
    weights = stacked(CHARACTERS, 2)
    x, y = some(CHARACTERS, 2, 3)
    x.requires_grad_(False)
    changed = x.clone()
    changed[..., 30:] = (changed[..., 30:] + 1) % tasks.SYMBOLS
    seen = []
    original = tasks.entropy
    tasks.entropy = lambda logits, y: seen.append(logits) or original(logits, y)
    try:
        CHARACTERS.loss(weights, x, y)
        CHARACTERS.loss(weights, changed, y)
    finally:
        tasks.entropy = original
    first, second = seen
    assert torch.allclose(first[..., :30, :], second[..., :30, :], atol=1e-5)
    assert (first[..., 30:, :] - second[..., 30:, :]).abs().amax((-1, -2)).min() > 1e-3


def test_the_rate_falls_to_zero():
    rates = [MLP.rate(step, 100) for step in range(101)]
    assert rates[0] == MLP.lr
    assert rates[50] == pytest.approx(MLP.lr / 2)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


# The trainings


def test_a_training_depends_on_its_seed_and_nothing_else():
    first, again = (train(MLP, BASELINE, range(5), 8) for _ in range(2))
    assert (first == again).all()
    assert len(set(first)) == 5
    assert train(MLP, BASELINE, [3, 1], 8) == pytest.approx(first[[3, 1]], rel=1e-5)


def test_a_training_learns_and_the_loss_is_that_of_all_rows():
    short, long = (train(CODE, BASELINE, [0, 1], steps) for steps in (2, 60))
    assert (long < short / 2).all()


def test_float32_is_torchs_adamw():
    """The whole training, written once more in torch's own words."""
    steps = 20
    first = MLP.initial(np.random.default_rng([4, 0]))
    weights = {name: torch.from_numpy(w[None].copy()).requires_grad_() for name, w in first.items()}
    optimizer = torch.optim.AdamW(list(weights.values()), lr=MLP.lr, weight_decay=MLP.weight_decay)
    found = MLP.data()
    random = np.random.default_rng([4, 1])
    order = random.permutation(len(found.train.x))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = MLP.rate(step, steps)
        rows = order[step * MLP.batch : (step + 1) * MLP.batch]
        optimizer.zero_grad()
        x, y = (torch.from_numpy(part[rows])[None] for part in found.train)
        MLP.loss(weights, x, y).sum().backward()
        optimizer.step()
    x, y = (torch.from_numpy(part)[None] for part in found.held_out)
    expected = MLP.loss(weights, x, y).item()
    assert train(MLP, BASELINE, [4], steps)[0] == pytest.approx(expected, rel=1e-4)


def test_every_storage_trains_and_changes_something():
    losses = {storage.key: train(MLP, storage, range(2), 8) for storage in STORAGES}
    for key, found in losses.items():
        assert found == pytest.approx(losses["float32"], rel=0.05), key
    del losses["nudged"]  # which differs in a last bit, if at all after so few steps
    assert len({tuple(found) for found in losses.values()}) == len(losses)


def test_gradients_of_float16_are_unscaled():
    """Where epsilon matters, a gradient that stayed 1024 times too large would train many times as fast."""
    faint = replace(MLP, loss=lambda *given: 1e-7 * MLP.loss(*given))
    float16 = next(storage for storage in STORAGES if storage.dtype == "float16")
    first, last = (train(faint, BASELINE, range(2), steps) for steps in (1, 12))
    found = train(faint, float16, range(2), 12)
    assert first - found == pytest.approx(first - last, rel=0.2)


def test_the_control_begins_one_bit_higher():
    first = np.array([0.5, -1.0, 0.0], np.float32)
    weights = training.stacked([first, first], STORAGES[1]).detach().numpy()
    assert STORAGES[1].nudged
    assert (weights == [[0.5 + 2**-24, -1 + 2**-24, 2.0**-149]] * 2).all()


def test_bytes_a_parameter():
    found = {storage.key: storage.bytes for storage in STORAGES}
    assert found["float32"] == 12
    assert found["m-bfloat16"] == 8
    assert found["w-split+m-int8"] == 5.125
    assert found["w-stochastic+m-int8"] == 4.125
    assert len(found) == len(STORAGES)


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.key)
def test_most_weights_are_in_the_format(task: tasks.Task):
    assert 0.75 < stored(task) <= 1


# The whole


@pytest.fixture(scope="module")
def report() -> Report:
    return run.quality(seeds=5, scale=0.004, tasks=["mlp", "code"])


def test_the_report(report: Report):
    content = json.loads(json.dumps(report.data, allow_nan=False))
    assert [task["key"] for task in content["tasks"]] == ["mlp", "code"]
    assert content["command"] == "adamas bench quality --seeds 5 --scale 0.004 --only mlp,code"
    for task in content["tasks"]:
        assert [row["storage"] for row in task["storages"]] == [storage.key for storage in STORAGES]
        check_verdicts(task)
    text = report.text()
    assert text.count("\n| weights bfloat16 split, moments int8 | 5.125 | ") == 1
    assert all(len(line.split("|")) == 7 for line in text.splitlines() if line.startswith(("| m", "| w")))


def check_verdicts(task: dict) -> None:
    """What is said of a task follows from its losses."""
    baseline = np.array(task["storages"][0]["losses"])
    assert len(baseline) == task["seeds"] >= 5
    for row in task["storages"][1:]:
        losses = np.array([np.nan if loss is None else loss for loss in row["losses"]])
        found = compare(baseline, losses)
        assert row["verdict"] == found.verdict
        assert found.spread == pytest.approx(task["spread"])
        if row["mean"] is not None:
            assert (row["mean"], row["low"], row["high"]) == pytest.approx((found.mean, found.low, found.high))


def test_marks_in_the_table():
    row = {"mean": 0.1, "low": -0.2, "high": 0.4}
    signs = {"alike": "", "not shown": " ?", "different": " ✗"}
    for verdict, sign in signs.items():
        shown = report_module.cell({**row, "verdict": verdict}, 2.0)
        assert shown == f"+0.05 [\N{MINUS SIGN}0.10, +0.20]{sign}"
    assert report_module.cell({"mean": None, "verdict": "different"}, 2.0) == "diverged ✗"
    assert report_module.signed(-0.001) == "0.00"


def test_the_picture(report: Report, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for name in ("first", "second"):
        plot.draw(report.data, tmp_path / name)
    picture = (tmp_path / "first").read_bytes()
    assert picture == (tmp_path / "second").read_bytes()
    for words in ("moments int8", "dense layers", "autoencoder", "5 seeds"):
        assert words.encode() in picture


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 4}, "at least 5"),
        ({"scale": 0}, "above 0"),
        ({"scale": 1.5}, "at most 1"),
        ({"tasks": ["word"]}, "did you mean words"),
        ({"tasks": ["xyzzy"]}, "give some of mlp"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(settings: dict, message: str):
    with pytest.raises(ArgumentError, match=message):
        run.quality(**settings, say=lambda text: pytest.fail("it trains"))


def test_the_command(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    pytest.importorskip("click", reason="click is not installed")
    words = "bench quality --seeds 5 --scale 0.004 --only code --json".split()
    assert main([*words, str(tmp_path / "q.json"), "--plot", str(tmp_path / "q.svg")]) == 0
    shown = capfd.readouterr()
    content = json.loads((tmp_path / "q.json").read_text())
    assert Report(content).text() == shown.out
    assert (tmp_path / "q.svg").read_text().startswith("<?xml")
    assert shown.err.count("digits, autoencoder") == len(STORAGES)


@pytest.mark.parametrize("absent", ["torch", "sklearn", "matplotlib"])
def test_what_is_missing_is_said_first(absent: str, tmp_path: Path):
    code = f"import sys; sys.modules[{absent!r}] = None; from adamas.cli import main; sys.exit(main())"
    words = ["bench", "quality", "--plot", str(tmp_path / "q.svg")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    name = "scikit-learn" if absent == "sklearn" else absent
    assert name in done.stderr
    assert "pip install" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_the_committed_results_are_whole_and_the_page_shows_them():
    content = json.loads((ROOT / "docs/quality.json").read_text())
    assert content["command"] == "adamas bench quality"
    assert [task["key"] for task in content["tasks"]] == [task.key for task in tasks.TASKS]
    for found, task in zip(content["tasks"], tasks.TASKS, strict=True):
        assert (found["seeds"], found["steps"], found["batch"]) == (task.seeds, task.steps, task.batch)
        assert [row["storage"] for row in found["storages"]] == [storage.key for storage in STORAGES]
        check_verdicts(found)
    page = (ROOT / "docs/quality.md").read_text("utf-8")
    shown = page.partition("<!-- quality -->\n")[2].partition("<!-- /quality -->")[0]
    assert shown.strip() == Report(content).text().strip(), (
        "docs/quality.md: put what the command prints between the marks"
    )
    picture = (ROOT / "docs/quality.svg").read_text("utf-8")
    assert all(storage.name in picture for storage in STORAGES[1:])
