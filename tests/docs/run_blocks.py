"""Run the Python blocks of the documents given and compare what they print with what is shown.

    python tests/docs/run_blocks.py README.md [MORE.md ...]       exit status 1: something differs or fails

Each document has a namespace of its own. `--show` prints what each block printed, for authors.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import traceback
from pathlib import Path

from fences import Fence, difference, read


def run_document(path: Path, show: bool = False) -> list[str]:
    """What is wrong with a document; stops at the first block that fails."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    fences = read(path)
    problems = []
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        if fence.language not in ("python", "setup"):
            continue
        start = time.perf_counter()
        output = io.StringIO()
        source = compile("\n" * (fence.line - 1) + fence.code, str(path), "exec")  # tracebacks name the right line
        try:
            with contextlib.redirect_stdout(output):
                exec(source, namespace)
        except BaseException:  # a block may do anything, sys.exit included
            return [*problems, f"{path}:{fence.line}: the block fails\n{output.getvalue()}{traceback.format_exc()}"]
        if show:
            print(f"--- {path.name}:{fence.line} ({time.perf_counter() - start:.1f} s)\n{output.getvalue()}", end="")
        if problem := wrong_output(fence, following, output.getvalue()):
            problems.append(f"{path}:{fence.line}: {problem}")
    return problems


def wrong_output(fence: Fence, following: Fence | None, printed: str) -> str | None:
    shown = following.code if following and following.language == "text" and fence.language == "python" else ""
    if printed and not shown:
        return f"prints what the document does not show:\n{printed}"
    return difference(shown, printed, following.within if following and shown else 0.0)


def main(arguments: list[str]) -> int:
    show = "--show" in arguments
    problems = [p for name in arguments if name != "--show" for p in run_document(Path(name).resolve(), show)]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
