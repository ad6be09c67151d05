"""The checker itself: it must be able to fail."""

from __future__ import annotations

import pytest
from fences import Fence, anchors, difference, links, parse, without_comments
from run_blocks import run_document, wrong_output


def test_blocks_and_markers_are_found():
    text = (
        "a\n```python\nx = 1\n```\n<!-- numbers within 0.5 -->\n```text\n1\n```\n<!-- setup\ny = 2\n-->\n```text\n```\n"
    )
    assert parse(text) == [
        Fence("python", "x = 1\n", 3),
        Fence("text", "1\n", 7, 0.5),
        Fence("setup", "y = 2\n", 10),
        Fence("text", "", 13),
    ]
    with pytest.raises(ValueError, match="document:2: a 'python' block is not closed"):
        parse("```python\nx = 1\n")


@pytest.mark.parametrize(
    ("shown", "printed", "within"),
    [
        ("loss 0.12", "loss 0.12\n", 0),
        ("a  b", "a b", 0),
        ("loss 0.12", "loss 0.13", 0.01),
        ("1\n...\n5", "1\n2\n3\n5", 0),
        ("1\n...", "1", 0),
    ],
)
def test_output_that_is_shown_passes(shown: str, printed: str, within: float):
    assert difference(shown, printed, within) is None


@pytest.mark.parametrize(
    ("shown", "printed", "within"),
    [
        ("loss 0.12", "loss 0.13", 0),
        ("loss 0.12", "loss 0.14", 0.01),
        ("loss 0.12", "cost 0.12", 0.01),
        ("3 epochs", "4 epochs", 2.0),
        ("1\n2", "1", 0),
        ("1", "1\n2", 0),
        ("", "1", 0),
        ("1\n...\n5", "1\n2\n3\n4", 0),
        ("loss nan", "loss 0.1", 1.0),
    ],
)
def test_output_that_is_not_shown_is_reported(shown: str, printed: str, within: float):
    assert difference(shown, printed, within) is not None


def test_a_block_that_prints_must_be_shown():
    assert wrong_output(Fence("python", "", 1), None, "3\n") is not None
    assert wrong_output(Fence("python", "", 1), Fence("python", "3\n", 1), "3\n") is not None
    assert wrong_output(Fence("python", "", 1), Fence("text", "3\n", 1), "") is not None
    assert wrong_output(Fence("python", "", 1), Fence("text", "3\n", 1), "3\n") is None


def test_a_failing_block_is_named_by_its_line(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("```python\nx = 1\n```\n\n```python\n\nx / 0\n```\n")
    (problem,) = run_document(path)
    assert f"{path}:6: the block fails" in problem
    assert f'File "{path}", line 7' in problem
    assert "ZeroDivisionError" in problem


def test_only_comments_may_be_translated():
    def rest(code: str, language: str = "python") -> list[str]:
        return without_comments(Fence(language, code, 1))

    assert rest("x = 1  # one\n# two\ny = '#'\n") == rest("x = 1  # 一\n\ny = '#'\n")
    assert rest("x = 1\n") != rest("x = 2\n")
    assert rest("if x:\n    y\n    z\n") != rest("if x:\n    y\nz\n")
    assert rest("x = '# a'\n") != rest("x = '# b'\n")
    assert rest("adamas train  # a\n", "sh") == rest("adamas train\n", "sh")
    assert rest("adamas train a#b\n", "sh") != rest("adamas train\n", "sh")
    assert rest("1 # a\n", "text") != rest("1\n", "text")


def test_links_and_anchors():
    text = "# A title: *two* words\n[a](x.md#y) `[b](z.md)` ![c](p.png)\n```sh\n[d](q)\n```\n## Next\n## Next\n"
    assert links(text) == ["x.md#y", "p.png"]
    assert anchors(text) == {"a-title-two-words", "next", "next-1"}
