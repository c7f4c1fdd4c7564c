"""LMDB files of other projects, read-only, through the package lmdb.

The package trusts the file: a damaged one can end the process (SIGBUS, SIGSEGV). So it is read in a
child process (see `isolated.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmal.errors import DataError, shown
from cmal.io.isolated import run_isolated

MAX_VALUE_BYTES = 256 << 20  # 100 regions with features, boxes and class distributions take 1.5 MB
MAGIC = 0xBEEFC0DE
MAGIC_AT_BYTE = 16


def is_lmdb(path: Path) -> bool:
    """Whether this is a folder with `data.mdb`, or a file of that kind (by its magic number)."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(MAGIC_AT_BYTE + 4)[MAGIC_AT_BYTE:] == MAGIC.to_bytes(4, "little")


def find_keys(path: Path, *keys: bytes) -> set[bytes]:
    """Which of `keys` the file has; looked up in a child process. Raises DataError as `lmdb_entries`."""

    def look() -> set[bytes]:
        with _open(path) as transaction:
            return {key for key in keys if transaction.get(key) is not None}

    return run_isolated(path, look)


def count_entries(path: Path) -> int:
    """How many entries the file says it has. Call it in a child process; raises DataError as `lmdb_entries`."""
    with _open(path) as transaction:
        return transaction.stat()["entries"]


def lmdb_entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """All (key, value) pairs in the order of the keys. Call it in a child process.

    Raises:
        DataError: this is no LMDB, it is damaged, a value is larger than 256 MB, or the package lmdb is not installed.
    """
    with _open(path) as transaction:
        before = b""
        for view, value in transaction.cursor():
            key = bytes(view)
            if key < before or len(value) > MAX_VALUE_BYTES:  # pages that lead in circles repeat keys
                raise _damaged(path, f"keys out of order, or a value of {len(value):,} bytes, at {shown(key)}")
            before = key
            yield key, bytes(value)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A read transaction."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError(
            f"cannot import {path}",
            "the Python package lmdb is not installed",
            "install the import extra: pip install 'cmal[import]'",
        ) from error
    try:
        with (
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as environment,
            environment.begin(buffers=True) as transaction,
        ):
            yield transaction
    except (lmdb.Error, SystemError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, found: str) -> DataError:
    return DataError(f"cannot import {path}", f"it is not an LMDB, or a damaged one: {found}", "download it again")
