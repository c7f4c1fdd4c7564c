"""Memory of long runs under glibc: freed blocks stay with the process between steps.

A step frees and requests the same gigabytes again. By default glibc returns large blocks to the system at once, and the
system clears every page when it is requested again: 4 ms per 10 MB were measured, a tenth of a training step.
"""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Makes malloc keep freed blocks in the process for reuse. Does nothing without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)
