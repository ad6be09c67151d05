"""What README and docs show is true: blocks run, outputs match, translations agree, commands and links exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from fences import ROOT, Fence, anchors, documents, links, read, without_comments

DOCUMENTS = documents()
TRANSLATIONS = [path for path in DOCUMENTS if path.name.endswith(".zh-CN.md")]
TRANSLATED = ["README.md", "docs/article.md"]
LANGUAGES = {"README.md": {"python", "text", "sh"}, "article.md": {"python", "text", "sh"}}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def original(path: Path) -> Path:
    return path.with_name(path.name.replace(".zh-CN.md", ".md"))


def test_the_documents_are_there():
    assert {name(original(path)) for path in TRANSLATIONS} == set(TRANSLATED)
    assert {name(original(path)) for path in DOCUMENTS} >= {*TRANSLATED, "CONTRIBUTING.md", "CHANGELOG.md"}


# A document and its translation share a process: their frameworks are the same, and importing those costs most.
RUNNABLE = {
    name(first): [path for path in DOCUMENTS if original(path) == first]
    for first in dict.fromkeys(map(original, DOCUMENTS))
    if any(fence.language == "python" for fence in read(first))
}


@pytest.mark.parametrize("first", RUNNABLE)
def test_blocks_run_and_print_what_is_shown(first: str, tmp_path: Path):
    script = ROOT / "tests/docs/run_blocks.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, RUNNABLE[first])],
        cwd=tmp_path,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.parametrize("path", TRANSLATIONS, ids=name)
def test_a_translation_has_the_same_blocks(path: Path):
    ours, theirs = read(path), read(original(path))
    for mine, its in zip(ours, theirs, strict=False):
        where = f"{name(path)}:{mine.line} and {name(original(path))}:{its.line}"
        assert (mine.language, mine.within) == (its.language, its.within), where
        assert without_comments(mine) == without_comments(its), where
    assert len(ours) == len(theirs)


@pytest.mark.parametrize("path", TRANSLATIONS, ids=name)
def test_a_translation_has_the_same_shape(path: Path):
    """Same levels of headings, same formulas, same tables, same links outside the project."""
    ours, theirs = (re.sub(r"^```.*?^```", "", p.read_text("utf-8"), flags=re.S | re.M) for p in (path, original(path)))
    for pattern in (r"^#+(?= )", r"^\$\$\n(.*?)\n\$\$$", r"^\|(?=.*\|$)", r"https?://[^)\s>]+", r"^<!--.*-->$"):
        found = [re.findall(pattern, text, re.M | re.S if "$$" in pattern else re.M) for text in (ours, theirs)]
        assert found[0] == found[1], pattern


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if original(path).name in LANGUAGES], ids=name)
def test_every_block_is_of_a_checked_language(path: Path):
    for fence in read(path):
        assert fence.language in LANGUAGES[original(path).name], f"{name(path)}:{fence.line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path):
    for link in links(path.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{name(path)}: {link}"
        assert file.is_relative_to(ROOT), f"{name(path)}: {link}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text("utf-8")), f"{name(path)}: {link}"


def commands(path: Path) -> list[tuple[Fence, list[str]]]:
    """Every command of a document's `sh` blocks, in words."""
    found = []
    for fence in read(path):
        if fence.language == "sh":
            for line in fence.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words:
                    end = words.index("&&") if "&&" in words else len(words)
                    found.append((fence, words[:end]))
                    words = words[end + 1 :]
    return found


@cache
def help_text(*verb: str) -> str:
    """`adamas VERB --help`; fails where there is no such verb."""
    adamas = shutil.which("adamas", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert adamas, "the command is not installed"
    done = subprocess.run([adamas, *verb, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_exist(path: Path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for fence, words in commands(path):
        where = f"{name(path)}:{fence.line}: {shlex.join(words)}"
        program, *arguments = words
        match Path(program).name:
            case "adamas":
                verb = [] if not arguments or arguments[0].startswith("-") else [arguments[0]]
                verb += arguments[1:2] if verb == ["bench"] else []  # the one verb with verbs of its own
                for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
                    assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_text(*verb)), where
                assert help_text(*verb), where
            case "pip":
                for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
                    assert set(extra.split(",")) <= set(extras), where
                for file in (b for a, b in pairwise(arguments) if a in ("-c", "-r")):
                    assert (ROOT / file).exists(), where
            case "python" | "python3":
                assert arguments[:2] == ["-m", "venv"] or (ROOT / arguments[0]).exists(), where
            case other:
                pytest.fail(f"{where}: nothing here checks {other}")


def test_the_two_commands_are_those_of_ci():
    """README promises two commands on a fresh machine; CI runs these very words."""
    ci = (ROOT / ".ci/run").read_text()
    first = next(fence for fence in read(ROOT / "README.md") if fence.language == "sh")
    lines = without_comments(first)
    assert len(lines) == 2
    assert lines[0].endswith("adamas train digits --against sgd")
    assert lines[1].endswith("python tests/run.py")
    for line in lines:
        for command in line.split(" && "):
            assert command in ci, f"not in .ci/run: {command}"


def test_the_readmes_show_the_committed_results():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import readme
    finally:
        sys.path.remove(str(ROOT))
    for file in readme.READMES:
        found = readme.SECTION.findall((ROOT / file).read_text())
        assert found == [readme.section()], f"{file}: run python -m benchmarks readme"
