"""`adamas --cite` and CITATION.cff: the version, the formats and the papers are those that were asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import adamas
from adamas.citation import MOMENTS, OPTIMIZERS, REFERENCES, WEIGHTS, methods
from adamas.cli import main
from adamas.errors import ArgumentError

ROOT = Path(__file__).resolve().parents[2]


def cite(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    shown = capfd.readouterr()
    assert not shown.err
    return shown.out


def test_without_settings_it_is_adam_in_float32(capfd: pytest.CaptureFixture[str]) -> None:
    shown = cite(capfd, "--cite")
    assert shown == methods() + "\n"
    paragraph = " ".join(shown.split("\n\n")[0].split())
    assert paragraph == (
        f"Weights were updated with Adam (Kingma & Ba, 2015) as implemented in Adamas {adamas.__version__}. Between "
        "steps, weights were stored in float32, and the optimizer's moments in float32. Each step was computed in "
        "float32."
    )
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("words", [("--cite", "moments=int8,weights=bfloat16-split,optimizer=AdamW"),
                                   ("--cite=optimizer=AdamW,moments=int8,weights=bfloat16-split",)])  # fmt: skip
def test_settings_are_filled_in(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    shown = cite(capfd, *words)
    assert shown == methods("AdamW", moments="int8", weights="bfloat16-split") + "\n"
    paragraph, references, bibtex = shown.split("\n\n")
    paragraph = " ".join(paragraph.split())
    assert (
        f"AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019) as implemented in Adamas {adamas.__version__}."
        in paragraph
    )
    assert "weights were stored in bfloat16 with an 8-bit correction, together a 24-bit weight" in paragraph
    assert "moments in 8 bits, in blocks of 64 elements with one float32 scale each" in paragraph
    assert "random bits" in paragraph
    assert references.count("- ") == 2
    assert f"version = {{{adamas.__version__}}}" in bibtex
    assert bibtex.count("{") == bibtex.count("}")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_paper_that_is_named_is_listed(optimizer: str) -> None:
    paragraph, references, _ = methods(optimizer).split("\n\n")
    cited = OPTIMIZERS[optimizer].partition("(")[2].rstrip(")").split("; ")
    assert set(cited) <= set(REFERENCES)
    assert references.count("- ") == len(cited)
    assert all(name in " ".join(paragraph.split()) for name in cited)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_random_bits_are_explained_where_rounding_is_stochastic(moments: str, weights: str) -> None:
    paragraph = " ".join(methods("Adam", moments, weights).split("\n\n")[0].split())
    assert MOMENTS[moments] in paragraph
    assert WEIGHTS[weights] in paragraph
    assert ("fewer than 4096 elements were kept in float32" in paragraph) == (moments != "float32")
    assert ("The random bits" in paragraph) == (moments != "float32" or weights.endswith(("stochastic", "split")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train", "'train' is no setting"),
        ("format=int8", "'format=int8' is no setting"),
        ("moments=int8,moments=int8", "there twice"),
        ("moments=int", "did you mean int8"),
        ("weights=float16-split", "give one of float32, bfloat16-nearest"),
        ("optimizer=adamw", "did you mean AdamW"),
    ],
)
def test_what_cannot_be_cited_is_refused(settings: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(("--cite", settings)) == 1
    shown = capfd.readouterr()
    assert message in shown.err
    assert not shown.out


def test_from_python_the_error_is_the_same() -> None:
    with pytest.raises(ArgumentError, match="moments='half'"):
        methods(moments="half")


def test_the_citation_file_is_of_this_version() -> None:
    """The keys that version 1.2.0 of the Citation File Format requires, and ours."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    assert content["cff-version"] == "1.2.0"
    assert content["type"] == "software"
    assert content["version"] == adamas.__version__
    assert content["license"] == "Apache-2.0"
    assert content["authors"]
    assert all("name" in author or "family-names" in author for author in content["authors"])
