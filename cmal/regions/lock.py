"""Locks on a store folder that the system frees when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import StoreError

HOLDER_NAME = ".holder.json"


@contextlib.contextmanager
def hold_folder(folder: Path, slice_of: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Holds a store folder for one extraction: alone, or as slice i of n beside the other slices.

    Raises:
        StoreError: somebody else holds the folder or this very slice; the message says who.
    """
    number, count = slice_of
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            raise _held(folder, HOLDER_NAME) from None
        if count == 1:
            with _tell_holder(folder / HOLDER_NAME):
                yield
        else:
            with lock_file(folder / f".slice-{number}-of-{count}.lock", wait=False):
                yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a file that exists only while it is held.

    Raises:
        StoreError: not `wait`, and somebody else holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(descriptor)
            raise _held(path.parent, path.name) from None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
        os.close(descriptor)  # the last holder removed it between our two steps: try again
    try:
        with contextlib.suppress(OSError):  # a full disk: then nobody is told who holds it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _holder().encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def _tell_holder(path: Path) -> Iterator[None]:
    with contextlib.suppress(OSError):  # a full disk: then nobody is told who holds it
        path.write_text(_holder())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})


def _held(folder: Path, name: str) -> StoreError:
    try:
        who = json.loads((folder / name).read_text())
        found = f"process {who['pid']} on {who['host']} has held it since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        found = "another extraction holds it"
    return StoreError(
        f"cannot write into the region store {folder}",
        found,
        "wait for it to end, or give each process its part with --shard i/n",
    )
