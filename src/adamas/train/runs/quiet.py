"""TensorFlow's start-up lines, which no setting of its own silences, kept from the user's screen."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# "I0000 00:00:1795370995.729337 27078 port.cc:153] oneDNN custom operations are on ..." and the line before it.
INFORMATION = re.compile(
    rb"I\d{4} \d\d:\d\d:|WARNING: All log messages before absl::InitializeLog|\d{4}-\d\d-\d\d [\d:.]+: I "
)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Holds back what C++ code writes to standard error, then lets through all but lines marked as information."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":  # somebody wants to see them
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not INFORMATION.match(line):
                    os.write(2, line)
