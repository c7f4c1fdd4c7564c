"""Reading LMDB folders of other projects: read-only, without locks, one value at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmal.errors import DataError

LARGEST_VALUE = 256 << 20  # bytes; 100 regions with features, boxes and class distributions take 1.5 MB


class LmdbFile:
    """An LMDB environment: a folder with `data.mdb`, or a single file.

    Raises:
        DataError: the package lmdb is not installed, or this is no LMDB.
    """

    def __init__(self, path: Path):
        try:
            import lmdb
        except ImportError as error:
            raise DataError(
                f"cannot import {path}",
                "the Python package lmdb is not installed",
                "install the import extra: pip install 'cmal[import]'",
            ) from error
        try:
            self._environment = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=True, create=False, meminit=False
            )
        except lmdb.Error as error:
            raise DataError(f"cannot import {path}", f"it is not an LMDB: {error}", "check the path") from error
        self._error, self.path = lmdb.Error, path

    def __len__(self) -> int:
        return int(self._environment.stat()["entries"])

    def get(self, key: bytes) -> bytes | None:
        """A copy of one value."""
        with self._environment.begin() as transaction:
            return transaction.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) pairs in the order of the keys.

        Raises:
            DataError: the file is damaged, or a value is larger than 256 MB.
        """
        try:
            with self._environment.begin(buffers=True) as transaction:
                for key, value in transaction.cursor():
                    if len(value) > LARGEST_VALUE:
                        raise DataError(
                            f"cannot import {self.path}",
                            f"the entry {bytes(key)!r} has {len(value):,} bytes",
                            "check the file",
                        )
                    yield bytes(key), bytes(value)
        except self._error as error:
            raise DataError(
                f"cannot import {self.path}", f"the LMDB is damaged: {error}", "download it again"
            ) from error


def is_lmdb(path: Path) -> bool:
    """Whether this is a folder with `data.mdb`, or a file of that kind (by its magic number)."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(20)[16:] == b"\xde\xc0\xef\xbe"
