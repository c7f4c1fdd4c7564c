"""Reading LMDB files of other projects: read-only, one value at a time, every page number and length checked.

The library lmdb trusts the file: a damaged or hostile one ends the process (SIGBUS, SIGSEGV). This reader knows the format
(data version 1, little-endian, of 64-bit machines) as far as plain databases need it, and refuses what does not fit.

| where | what |
|---|---|
| page, 16 bytes of head | number u64, pad u16, flags u16 (1 branch, 2 leaf, 4 overflow, 8 meta), lower u16, upper u16 |
| page 0 and 1, from 16 | magic u32, version u32, address u64, map size u64, two tables, last page u64, transaction u64 |
| table, 48 bytes | pad u32 (of the first: the page size), flags u16, depth u16, pages 3 × u64, entries u64, root u64 |
| node | low u16, high u16, flags u16, key size u16, key; then a leaf's value; a branch's page is low, high, flags |

Source: openldap/openldap libraries/liblmdb/mdb.c.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import DataError, shown

LARGEST_VALUE = 256 << 20  # bytes; 100 regions with features, boxes and class distributions take 1.5 MB
MAGIC, DATA_VERSION = 0xBEEFC0DE, 1
HEAD_BYTES, META_BYTES, NODE_BYTES = 16, 16 + 24 + 2 * 48 + 16, 8
BRANCH, LEAF, OVERFLOW = 1, 2, 4
BIG_VALUE, SUB_DATABASE, DUPLICATES = 1, 2, 4  # flags of a node
NO_ROOT = (1 << 64) - 1
DEEPEST = 64  # pages on the way from the root
_META, _TABLE, _NODE = struct.Struct("<IIQQ"), struct.Struct("<IHHQQQQQ"), struct.Struct("<HHHH")


class _Damaged(ValueError):
    """The text says what."""


class LmdbFile:
    """An LMDB environment: a folder with `data.mdb`, or a single file.

    Raises:
        DataError: this is no LMDB.
    """

    def __init__(self, path: Path):
        self.path = path
        file = path / "data.mdb" if path.is_dir() else path
        try:
            with file.open("rb") as opened:
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_meta()
        except (OSError, ValueError) as error:
            raise DataError(f"cannot import {path}", f"it is not an LMDB: {error}", "check the path") from error

    def __len__(self) -> int:
        return self._entries

    def get(self, key: bytes) -> bytes | None:
        """A copy of one value. Raises DataError as `items`."""
        found, value = next(self.items(key), (None, None))
        return value if found == key else None

    def items(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) pairs from `start` on, in the order of the keys.

        Raises:
            DataError: the file is damaged, or a value is larger than 256 MB.
        """
        try:
            if self._root != NO_ROOT:
                yield from self._walk(self._root, start, 0)
        except _Damaged as error:
            raise DataError(
                f"cannot import {self.path}", f"the LMDB is damaged: {error}", "download it again"
            ) from error

    def _read_meta(self) -> None:
        """Page size, root and number of entries, of the newer of the two meta pages that is whole."""
        self._page_bytes, best = 0, -1
        for page in (0, 1):
            start = page * (self._page_bytes or mmap.PAGESIZE)
            if start + META_BYTES > len(self._map):
                continue
            magic, version, _, _ = _META.unpack_from(self._map, start + HEAD_BYTES)
            if magic != MAGIC or version & 0xFFFF != DATA_VERSION:
                continue
            page_bytes = _TABLE.unpack_from(self._map, start + HEAD_BYTES + 24)[0]
            _, flags, _, _, _, _, entries, root = _TABLE.unpack_from(self._map, start + HEAD_BYTES + 24 + 48)
            last, transaction = struct.unpack_from("<QQ", self._map, start + HEAD_BYTES + 24 + 96)
            if page_bytes not in (1 << bits for bits in range(8, 17)) or transaction <= best:
                continue
            if (last + 1) * page_bytes > len(self._map):
                raise ValueError(f"it was cut short: it should have {(last + 1) * page_bytes:,} bytes")
            if flags & DUPLICATES:
                raise ValueError("its keys have several values")
            self._page_bytes, self._entries, self._root, best = page_bytes, entries, root, transaction
        if best < 0:
            raise ValueError("it does not begin with one of its meta pages")
        self._entries = min(self._entries, len(self._map) // NODE_BYTES)

    def _page(self, number: int, flag: int) -> int:
        """Where a page of this kind begins."""
        start = number * self._page_bytes
        if number < 2 or start + self._page_bytes > len(self._map):
            raise _Damaged(f"page {number:,} is not in the file")
        if not struct.unpack_from("<H", self._map, start + 10)[0] & flag:
            raise _Damaged(f"page {number:,} is of another kind")
        return start

    def _walk(self, number: int, wanted: bytes, depth: int) -> Iterator[tuple[bytes, bytes]]:
        """The pairs below a page whose keys are not before `wanted`. A file has no more pages to show than it has."""
        if depth == 0:
            self._pages_left = len(self._map) // self._page_bytes
        self._pages_left -= 1
        if depth > DEEPEST or self._pages_left < 0:
            raise _Damaged("its pages lead in circles")
        start = self._page(number, BRANCH | LEAF)
        flags, lower = struct.unpack_from("<HH", self._map, start + 10)
        count = (lower - HEAD_BYTES) // 2
        if not 0 <= count <= (self._page_bytes - HEAD_BYTES) // 2:
            raise _Damaged(f"page {number:,} counts {count} entries")
        nodes = [start + place for place in struct.unpack_from(f"<{count}H", self._map, start + HEAD_BYTES)]
        keys = [self._key(node, start) for node in nodes]
        for place, node in enumerate(nodes):
            low, high, more, _ = _NODE.unpack_from(self._map, node)
            if flags & LEAF:
                if keys[place] >= wanted:
                    yield keys[place], self._value(node, start, keys[place])
            elif place + 1 == count or keys[place + 1] > wanted:
                yield from self._walk(low | high << 16 | more << 32, wanted, depth + 1)

    def _key(self, node: int, page: int) -> bytes:
        end = page + self._page_bytes
        if node + NODE_BYTES > end:
            raise _Damaged("an entry lies outside of its page")
        size = _NODE.unpack_from(self._map, node)[3]
        if node + NODE_BYTES + size > end:
            raise _Damaged("a key lies outside of its page")
        return self._map[node + NODE_BYTES : node + NODE_BYTES + size]

    def _value(self, node: int, page: int, key: bytes) -> bytes:
        low, high, flags, key_bytes = _NODE.unpack_from(self._map, node)
        size, start = low | high << 16, node + NODE_BYTES + key_bytes
        if flags & (SUB_DATABASE | DUPLICATES):
            raise _Damaged(f"the entry {shown(key)} is a database of its own")
        if size > LARGEST_VALUE:
            raise _Damaged(f"the entry {shown(key)} has {size:,} bytes")
        end = page + self._page_bytes
        if flags & BIG_VALUE:
            if start + 8 > end:
                raise _Damaged("an entry lies outside of its page")
            start = self._page(struct.unpack_from("<Q", self._map, start)[0], OVERFLOW) + HEAD_BYTES
            end = len(self._map)
        if start + size > end:
            raise _Damaged(f"the entry {shown(key)} is cut off")
        return self._map[start : start + size]


def is_lmdb(path: Path) -> bool:
    """Whether this is a folder with `data.mdb`, or a file of that kind (by its magic number)."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(20)[16:] == MAGIC.to_bytes(4, "little")
