"""Locks on folders, which the system releases when the process that holds them ends, however it ends.

Every command that writes a folder (a prepared data set, a region store, a run) locks it meanwhile. A second command gets
an error that names the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import CmalError
from cmal.io.files import cannot_write, remove_left_overs

HOLDER_NAME = ".holder.json"


@contextlib.contextmanager
def hold_folder(folder: Path, slice_of: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Holds a folder, made if need be, alone, or as slice i of n beside the other slices.

    Who holds it alone finds it without the temporary files of writers that were killed.

    Raises:
        CmalError: somebody else holds the folder or this very slice (the message says who), or it cannot be made.
    """
    folder, (number, count) = Path(folder), slice_of
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        kind = fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            raise _held(folder, HOLDER_NAME) from None
        if count == 1:
            remove_left_overs(folder)
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
        CmalError: not `wait`, and somebody else holds it; or it cannot be made.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
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
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _holder().encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def _tell_holder(path: Path) -> Iterator[None]:
    try:
        with contextlib.suppress(OSError):  # a full disk or a folder that cannot be written: what follows will tell
            path.write_text(_holder())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _holder() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})


def _held(folder: Path, name: str) -> CmalError:
    try:
        who = json.loads((folder / name).read_text())
        found = f"process {who['pid']} on {who['host']} has held it since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        found = "another command works in it"
    return CmalError(
        f"cannot write into {folder}",
        found,
        "wait for it to end, or choose another folder (extract-regions: or give each process its part, --shard i/n)",
    )
