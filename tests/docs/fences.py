"""What the tests read out of a Markdown document: its fenced blocks, its links and its headings.

Rules for authors:

- Blocks marked `python` run, in order, in one namespace a document. A block may use the names of earlier ones.
- A block marked `text` after a `python` block, with no other block between, is what that block prints. A block that
  prints must be followed by one. A line `...` stands for any number of lines.
- Numbers in it are compared digit for digit. A comment `<!-- numbers within 0.02 -->` anywhere between the two blocks
  allows numbers with a decimal point to differ by 0.02: for training, where the processor decides the last digits.
- `<!-- setup` ... `-->` holds Python that a reader sees elsewhere; it runs before the next block and may not print.
- A translation, `x.zh-CN.md` beside `x.md`, has the same blocks in the same order with the same markers.
  Comments in `python` and `sh` blocks may be translated; nothing else may differ.
"""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
WITHIN = re.compile(r"<!-- numbers within (\S+) -->")
SETUP = "<!-- setup"
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|<(?:a|img)[^>]+(?:href|src)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Fence:
    """One fenced block, or a setup comment (language "setup"). `line` is that of its first line of code."""

    language: str
    code: str
    line: int
    within: float = 0.0


def documents() -> list[Path]:
    """Every Markdown document that the project shows."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])


def read(path: Path) -> list[Fence]:
    """The blocks of a document, in order."""
    return parse(path.read_text(encoding="utf-8"), str(path))


def parse(text: str, name: str = "document") -> list[Fence]:
    found: list[Fence] = []
    within = 0.0
    opened: tuple[str, str, int] | None = None  # closing line, language, line of the first line of code
    code: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened:
            if line.strip() == opened[0]:
                found.append(Fence(opened[1], "".join(f"{c}\n" for c in code), opened[2], within))
                opened, code, within = None, [], 0.0
            else:
                code.append(line)
        elif line.startswith("```"):
            opened = ("```", line[3:].strip(), number + 1)
        elif line.strip() == SETUP:
            opened = ("-->", "setup", number + 1)
        elif match := WITHIN.search(line):
            within = float(match[1])
    if opened:
        raise ValueError(f"{name}:{opened[2]}: a {opened[1]!r} block is not closed")
    return found


def without_comments(fence: Fence) -> list[str]:
    """What of a block a translation must keep: every token of `python`, every line of the rest; comments of
    `python` and `sh` are left out."""
    if fence.language in ("python", "setup"):
        skip = (tokenize.COMMENT, tokenize.NL)
        return [t.string for t in tokenize.generate_tokens(io.StringIO(fence.code).readline) if t.type not in skip]
    lines = fence.code.splitlines()
    if fence.language == "sh":
        lines = [re.sub(r"(^|\s)#.*$", "", line).rstrip() for line in lines]
        lines = [line for line in lines if line]
    return lines


def difference(shown: str, printed: str, within: float = 0.0) -> str | None:
    """Why what a block printed is not what the document shows, or None."""
    want, got = shown.splitlines(), printed.splitlines()
    at = 0
    for i, line in enumerate(want):
        if line.strip() == "...":
            rest = sum(1 for later in want[i + 1 :] if later.strip() != "...")
            at = max(at, len(got) - rest)
            continue
        if at >= len(got):
            return f"shown but not printed: {line!r}"
        if not same_line(line, got[at], within):
            return f"shown   {line!r}\nprinted {got[at]!r}" + (f"\nnumbers may differ by {within}" if within else "")
        at += 1
    return None if at == len(got) else f"printed but not shown: {got[at]!r}"


def same_line(shown: str, printed: str, within: float) -> bool:
    if [*NUMBER.sub("0", shown).split()] != [*NUMBER.sub("0", printed).split()]:
        return False
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        close = "." in a and "." in b and abs(float(a) - float(b)) <= within * (1 + 1e-9)
        if a != b and not (within and close):
            return False
    return True


def links(text: str) -> list[str]:
    """Every link target outside code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    return [next(filter(None, groups)) for groups in LINK.findall(text)]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings: lower case, punctuation dropped, spaces to hyphens."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    names = [re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)]
    seen: dict[str, int] = {}
    found = set()
    for name in names:
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found
