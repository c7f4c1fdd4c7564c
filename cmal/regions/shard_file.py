"""One shard: what its file holds and where, and reading it through a memory map, or through HDF5 where it is chunked."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import h5py
import numpy as np

from cmal.errors import StoreError
from cmal.regions.layout import BYTES_A_REGION, COLUMNS, FEATURES, StoreHeader, unreadable
from cmal.regions.types import Regions

PAGE_RUN_BYTES = 1 << 16  # Linux maps so much around the page one touches


class Shard:
    """One HDF5 file of the layout: its images, and where in the file their regions lie.

    Attributes:
        header: what the file says of itself.
        image_ids: the N ids, in the file's order.
        offsets: (N+1,) int64.  sizes_wh_px: (N, 2) int32.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                self._read_layout(file)
        except FileNotFoundError as error:
            raise StoreError(
                f"cannot open {path}", "there is no such file", "run extract-regions again, or with --verify"
            ) from error
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise unreadable(self.path, str(error)) from error

    def _read_layout(self, file: h5py.File) -> None:
        raw = _own_dataset(file, "header", self.path)[()]
        self.header = StoreHeader.from_json(json.loads(bytes(raw)), self.path)
        ids = _own_dataset(file, "image_ids", self.path)[()]
        self.image_ids = [bytes(image_id).decode("utf-8") for image_id in ids]
        self.offsets = _own_dataset(file, "offsets", self.path)[()].astype(np.int64)
        self.sizes_wh_px = _own_dataset(file, "sizes_wh_px", self.path)[()]
        count = len(self.image_ids)
        if self.offsets.shape != (count + 1,) or self.sizes_wh_px.shape != (count, 2):
            raise unreadable(self.path, f"{count} image ids meet {self.offsets.shape[0]} offsets")
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
            raise unreadable(self.path, "its offsets do not rise from 0")
        rows = int(self.offsets[-1])
        self.places: list[tuple[str, np.dtype, tuple[int, ...], int, int | None]] = []
        for name, (dtype, tail) in COLUMNS.items():
            tail = (self.header.feature_size,) if name == FEATURES else tail
            dataset = _own_dataset(file, name, self.path)
            if dataset.shape != (rows, *tail) or dataset.dtype != np.dtype(dtype):
                raise unreadable(
                    self.path,
                    f"{name} is {dataset.dtype} {dataset.shape}; it should be {np.dtype(dtype)} {(rows, *tail)}",
                )
            row_bytes = np.dtype(dtype).itemsize * int(np.prod(tail))
            place = dataset.id.get_offset() if dataset.chunks is None else None
            self.places.append((name, np.dtype(dtype), tail, row_bytes, place))
        self.is_contiguous = rows == 0 or all(place is not None for *_, place in self.places)
        self.end_byte = max((place or 0) + rows * row_bytes for *_, row_bytes, place in self.places)
        self.columns_bytes = rows * BYTES_A_REGION
        self.features_range, self.mapped_bytes_a_read = None, PAGE_RUN_BYTES * len(COLUMNS)
        if rows and self.is_contiguous:
            *_, row_bytes, place = self.places[0]
            start = -(-place // mmap.PAGESIZE) * mmap.PAGESIZE
            if place + rows * row_bytes > start:
                self.features_range = (start, place + rows * row_bytes - start)
            self.mapped_bytes_a_read = PAGE_RUN_BYTES + row_bytes * rows // count


class ShardFile:
    """A shard opened for reading: a view of each column.

    Attributes:
        survives_fork: whether a child may read through it; a memory map it may, an HDF5 handle belongs to `owner`.
        owner: the process that opened it.
        bytes_a_read: resident memory that the read of one image takes, about, until `release`.
    """

    def __init__(self, shard: Shard):
        """Raises StoreError where the file is gone, shorter than its header says, or cannot be opened."""
        self.first_rows, self.sizes_wh_px = shard.offsets.tolist(), shard.sizes_wh_px
        self.features_range, self.bytes_a_read = shard.features_range, shard.mapped_bytes_a_read
        self.survives_fork, self.owner = shard.is_contiguous, os.getpid()
        self.mapped: mmap.mmap | None = None
        try:
            columns = self._map(shard) if shard.is_contiguous else self._open(shard)
        except OSError as error:
            raise unreadable(shard.path, f"the system says: {error.strerror or error}") from error
        self.columns = [(name, column) for (name, *_), column in zip(shard.places, columns, strict=True)]

    def _map(self, shard: Shard) -> list[np.ndarray]:
        with shard.path.open("rb") as file:
            self.mapped = mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if len(mapped) < shard.end_byte:
            raise unreadable(shard.path, f"it has {len(mapped):,} bytes; its header speaks of {shard.end_byte:,}")
        rows = self.first_rows[-1]
        return [
            np.ndarray((rows, *tail), dtype, mapped, place) if rows and row_bytes else np.empty((rows, *tail), dtype)
            for _, dtype, tail, row_bytes, place in shard.places
        ]

    def _open(self, shard: Shard) -> list[h5py.Dataset]:
        self.h5py_file = h5py.File(shard.path, "r")
        return [self.h5py_file[name] for name, *_ in shard.places]

    def read(self, row: int) -> Regions:
        """Regions of image number `row`: copies, so that they outlive the file.

        Training reads tens of thousands of images a second, so the fields are filled in one loop, past `__init__`,
        whose nine guarded assignments cost as much as copying four columns.
        """
        regions, size = object.__new__(Regions), self.sizes_wh_px.item
        fields, rows = regions.__dict__, slice(self.first_rows[row], self.first_rows[row + 1])
        for name, column in self.columns:
            fields[name] = column[rows].copy()
        fields["image_wh_px"] = (size(row, 0), size(row, 1))
        return regions

    def release(self, everything: bool) -> None:
        """Lets go of the pages that were read: of all columns, or of the features alone."""
        if self.mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if everything:
            self.mapped.madvise(mmap.MADV_DONTNEED)
        elif self.features_range:
            self.mapped.madvise(mmap.MADV_DONTNEED, *self.features_range)


def _own_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset `name` if its bytes are in this very file: no soft, external or virtual link is followed."""
    link = file.get(name, getlink=True)
    if link is None:
        raise unreadable(path, f"it has no dataset {name!r}")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise unreadable(path, f"{name} is not a dataset in the file itself")
    return dataset
