"""The parent's handle on a worker: one framework in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adamas.errors import BenchmarkError

PACKAGE = Path(__file__).resolve().parents[1]
# In another environment: the modules of this package alone are found here, everything else there. The package itself is
# empty, because compilers look at every attribute of the modules that are loaded, and its own are imported on demand.
GUEST = """
import sys
from types import ModuleType
folder, framework, kind = sys.argv[1:]
sys.modules["adamas"] = ModuleType("adamas")
sys.modules["adamas"].__path__ = [folder]
from adamas.bench.worker import main
main(framework, kind)
"""


class Worker:
    """A line of JSON for each request, a line of JSON for each answer.

    Args:
        framework: whose rows it measures.
        kind: the `adamas.bench.peers` that it loads first.
        environment: what is set besides this process' environment.
        python: an interpreter of another environment that has the framework; None: this one.
    """

    def __init__(self, framework: str, kind: str, environment: Mapping[str, str], python: str | None = None) -> None:
        self.framework = framework
        set_here = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ, **environment}
        if python is None:
            command = [sys.executable, "-m", "adamas.bench.worker", framework, kind]
        else:
            command = [python, "-c", GUEST, str(PACKAGE), framework, kind]
            set_here.pop("PYTHONPATH", None)
        # Frameworks print much; it is shown when a worker fails.
        self.printed = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=set_here,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.printed,
            text=True,
            encoding="utf-8",
        )

    def ask(self, **request: Any) -> Any:
        """The answer to a request.

        Raises:
            BenchmarkError: the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise self._ended(request)
        return json.loads(answer)

    def _ended(self, request: dict[str, Any]) -> BenchmarkError:
        code = self.process.wait()
        self.printed.seek(0)
        lines = self.printed.read().strip().splitlines()
        what = next((str(request[word]) for word in ("list", "prepare", "turn") if word in request), "a case's end")
        error = BenchmarkError(
            f"{self.framework}'s worker ended with code {code} at {what}: {lines[-1] if lines else 'it said nothing'}"
        )
        error.add_note("\n".join(lines[-50:]))
        return error

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.printed.close()
