"""The command `adamas`. Loads click only; each verb loads what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    0 done · 1 an error that one line on standard error explains · 2 wrong usage, likewise · 130 interrupted (Ctrl-C) ·
    143 terminated.

    Args:
        arguments: words after `adamas`; None: those of this process.
    """
    try:
        from adamas.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("adamas"):
            raise
        print(
            f"adamas: error: the command needs {error.name}, which is not installed: pip install 'adamas[train]'",
            file=sys.stderr,
        )
        return 1
    return run(sys.argv[1:] if arguments is None else list(arguments))
