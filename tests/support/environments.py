"""The floating-point environments that other libraries leave on a thread, set through the C library."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MODES = ("ieee", "flush", "upward")
"""Round to nearest with subnormals; flush-to-zero and denormals-are-zero, as TensorFlow's threads; rounding upward."""

# Where in fenv_t the control register is, the bits that flush, and fesetround's FE_UPWARD.
_LAYOUT = {
    ("linux", "x86_64"): (28, 0x8040, 0x800),
    ("linux", "aarch64"): (0, 1 << 24, 0x400000),
    ("darwin", "arm64"): (8, 1 << 24, 0x400000),
}


@contextmanager
def environment(mode: str) -> Iterator[None]:
    """Run a block of this thread in one of `MODES`."""
    offset, flush, upward = _LAYOUT[sys.platform, platform.machine()]
    library = ctypes.CDLL(None)
    before, inside = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
    library.fegetenv(before)
    library.fegetenv(inside)
    if mode == "flush":
        control = ctypes.c_uint32.from_buffer(inside, offset)
        control.value |= flush
        library.fesetenv(inside)
    elif mode == "upward":
        assert library.fesetround(upward) == 0
    try:
        yield
    finally:
        library.fesetenv(before)
