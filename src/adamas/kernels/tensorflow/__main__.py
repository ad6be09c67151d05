"""`python -m adamas.kernels.tensorflow`: build the op ahead of time, for an image or a machine without a compiler."""

from __future__ import annotations

import sys

from adamas.errors import KernelError
from adamas.kernels.tensorflow.build import build

if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except KernelError as error:
        sys.exit(f"error: {error}")
