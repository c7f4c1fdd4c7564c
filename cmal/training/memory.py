"""Keeps freed memory within the process between steps, and gives it back now and then.

A step frees and asks again for the same gigabytes. By default glibc gives large blocks back to the system at once, which
then has to clear every page anew: measured 4 ms for each 10 MB, a tenth of a training step.

Batches of ever other sizes fray a heap, kept or not: with 172 MB in use it grew from 350 to 530 MB within 2,000 small steps
and went on, though a step touches 44 MB at most. Giving all of it back stops that.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import time

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory() -> None:
    """From now on freed blocks stay with the process, to be used again; without glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def give_back_freed_memory() -> None:
    """Returns all whole free pages to the system, once; without glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Gives freed memory back so often that taking it again costs about a hundredth of the time."""

    SECONDS_A_BYTE, SHARE = 4e-10, 0.01  # to clear a page anew; of the time

    def __init__(self):
        self._next = time.monotonic()

    def look(self) -> bool:
        """To be called after every step; True where memory was given back."""
        if time.monotonic() < self._next:
            return False
        before = anonymous_bytes()
        give_back_freed_memory()
        given = max(0, before - anonymous_bytes())
        self._next = time.monotonic() + max(1.0, given * self.SECONDS_A_BYTE / self.SHARE)
        return True


def anonymous_bytes() -> int:
    """Resident memory of this process that is no file's; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
        return (resident - shared) * resource.getpagesize()
    return 0
