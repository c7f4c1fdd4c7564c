"""One shard: where its file holds what, and reading it by memory map (or by HDF5 if its datasets are chunked)."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from cmal.errors import StoreError, system_word
from cmal.regions.store.layout import BYTES_A_REGION, COLUMNS, FEATURES, StoreHeader, unreadable
from cmal.regions.types import NO_ATTRIBUTE, NO_OBJECT, Regions

ROUNDING_PX = 1.0  # how far a box may reach beyond its image
MAX_UNPACKED_BYTES, MAX_PACKING = 64 << 20, 64  # limits of a compressed dataset: bytes, or times its file's size
PAGE_RUN_BYTES = 1 << 16  # Linux maps this much around a touched page


class _Column(NamedTuple):
    """A dataset of a shard: (rows, *tail) values of `row_bytes` a row, from byte `start` of the file where contiguous."""

    name: str
    dtype: np.dtype
    tail: tuple[int, ...]
    row_bytes: int
    start: int


class Shard:
    """One HDF5 file of the layout: its images, and the file offsets of their regions.

    Attributes:
        header: detector and names, from the file.
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
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise unreadable(self.path, f"it is damaged: {error or type(error).__name__}") from error

    def _read_layout(self, file: h5py.File) -> None:
        raw = _read_head(file, "header", "u", self.path)
        self.header = StoreHeader.from_json(json.loads(bytes(raw.astype(np.uint8))), self.path)
        ids = _read_head(file, "image_ids", "S", self.path)
        self.image_ids = [bytes(image_id).decode("utf-8") for image_id in ids]
        self.offsets = _read_head(file, "offsets", "i", self.path).astype(np.int64)
        self.sizes_wh_px = _read_head(file, "sizes_wh_px", "i", self.path).astype(np.int32)
        count, self.is_checked, self.is_contiguous = len(self.image_ids), False, True
        if self.offsets.shape != (count + 1,) or self.sizes_wh_px.shape != (count, 2):
            raise unreadable(self.path, f"{count} image ids but {self.offsets.shape[0]} offsets")
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
            raise unreadable(self.path, "its offsets do not rise from 0")
        if (self.sizes_wh_px < 1).any():
            raise unreadable(self.path, "it has an image without width or height")
        if len(set(self.image_ids)) != count:
            raise unreadable(self.path, "it has an image twice")
        rows = int(self.offsets[-1])
        self.columns: list[_Column] = []
        for name, dtype, tail in self.header.columns():
            dataset = _own_dataset(file, name, self.path)
            if dataset.shape != (rows, *tail) or dataset.dtype != np.dtype(dtype):
                raise unreadable(
                    self.path,
                    f"{name} is {dataset.dtype} {dataset.shape}; it should be {np.dtype(dtype)} {(rows, *tail)}",
                )
            row_bytes = np.dtype(dtype).itemsize * int(np.prod(tail))
            start = dataset.id.get_offset() if dataset.chunks is None else None
            if rows and row_bytes and dataset.chunks is None and start is None:
                raise unreadable(self.path, f"{name} was never written")
            self.columns.append(_Column(name, np.dtype(dtype), tail, row_bytes, start or 0))
            self.is_contiguous &= rows == 0 or start is not None
        self.end_byte = max(column.start + rows * column.row_bytes for column in self.columns)
        self.columns_bytes = rows * BYTES_A_REGION
        self.features_range: tuple[int, int] | None = None
        self.mapped_bytes_a_read = PAGE_RUN_BYTES * len(COLUMNS)
        if rows and self.is_contiguous:
            features = self.columns[0]
            start, end = -(-features.start // mmap.PAGESIZE) * mmap.PAGESIZE, features.start + rows * features.row_bytes
            if end > start:
                self.features_range = (start, end - start)
            self.mapped_bytes_a_read = PAGE_RUN_BYTES + features.row_bytes * rows // count


class ShardFile:
    """A shard opened for reading: a view of each column.

    Attributes:
        survives_fork: whether a forked process may use it: True for a memory map, False for an HDF5 handle.
        owner: id of the process that opened it.
        bytes_a_read: approximate resident memory per image read, until `release`.
    """

    def __init__(self, shard: Shard):
        """Raises StoreError where the file is gone, shorter than its header says, or cannot be opened."""
        self.path = shard.path
        self.first_rows, self.sizes_wh_px = shard.offsets.tolist(), shard.sizes_wh_px
        self.features_range, self.bytes_a_read = shard.features_range, shard.mapped_bytes_a_read
        self.survives_fork, self.owner = shard.is_contiguous, os.getpid()
        self.mapped: mmap.mmap | None = None
        try:
            columns = self._map(shard) if shard.is_contiguous else self._open(shard)
            self.columns = [(column.name, array) for column, array in zip(shard.columns, columns, strict=True)]
            if not shard.is_checked:
                _check_columns(shard, {name: column[...] for name, column in self.columns if name != FEATURES})
                shard.is_checked = True
        except OSError as error:
            raise unreadable(shard.path, f"the system says: {system_word(error)}") from error

    def _map(self, shard: Shard) -> list[np.ndarray]:
        with shard.path.open("rb") as file:
            self.mapped = mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if len(mapped) < shard.end_byte:
            raise unreadable(shard.path, f"it has {len(mapped):,} bytes; its header needs {shard.end_byte:,}")
        rows = self.first_rows[-1]
        return [
            np.ndarray((rows, *column.tail), column.dtype, mapped, column.start)
            if rows and column.row_bytes
            else np.empty((rows, *column.tail), column.dtype)
            for column in shard.columns
        ]

    def _open(self, shard: Shard) -> list[h5py.Dataset]:
        self.h5py_file = h5py.File(shard.path, "r")
        return [self.h5py_file[column.name] for column in shard.columns]

    def read(self, row: int) -> Regions:
        """The regions of image number `row`, as copies that outlive the file.

        Training reads tens of thousands of images per second. So the fields are set in one loop without `__init__`,
        whose nine guarded assignments cost as much as copying four columns.
        """
        regions, size = object.__new__(Regions), self.sizes_wh_px.item
        fields, rows = regions.__dict__, slice(self.first_rows[row], self.first_rows[row + 1])
        try:
            for name, column in self.columns:
                fields[name] = column[rows].copy()
        except OSError as error:
            raise unreadable(self.path, f"a compressed part is damaged: {error}") from error
        fields["image_wh_px"] = (size(row, 0), size(row, 1))
        return regions

    def release(self, everything: bool) -> None:
        """Releases mapped pages: of all columns, or of the features only."""
        if self.mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if everything:
            self.mapped.madvise(mmap.MADV_DONTNEED)
        elif self.features_range:
            self.mapped.madvise(mmap.MADV_DONTNEED, *self.features_range)


def _check_columns(shard: Shard, columns: dict[str, np.ndarray]) -> None:
    """Raises StoreError for impossible values outside the features; takes 1 to 2 ms, once per process and shard.

    Features are a hundred times as many, so they are checked where they are used (`cmal/data/example.py`).
    """
    boxes, images = columns["boxes_xyxy_px"], np.repeat(shard.sizes_wh_px, np.diff(shard.offsets), axis=0)
    first, last = boxes[:, :2], boxes[:, 2:]
    if not ((first >= -ROUNDING_PX).all() and (last >= first).all() and (last <= images + ROUNDING_PX).all()):
        raise unreadable(shard.path, "a box is reversed, outside of its image or NaN")
    names = {"object_ids": NO_OBJECT, "class_top_ids": 0, "attribute_ids": NO_ATTRIBUTE}
    for name, least in names.items():
        most = len(shard.header.attribute_names if name == "attribute_ids" else shard.header.class_names)
        ids = columns[name]
        if ids.size and not (ids.min() >= least and ids.max() < max(most, 1)):
            raise unreadable(shard.path, f"{name} go from {ids.min()} to {ids.max()}; there are {most:,} names")
    for name in ("object_conf", "attribute_conf", "class_top_probs"):
        shares = columns[name]
        if shares.size and not (shares.min() >= 0 and shares.max() <= 1):  # False for NaN too
            raise unreadable(shard.path, f"{name} go from {shares.min()} to {shares.max()}, not from 0 to 1")


def _read_head(file: h5py.File, name: str, kind: str, path: Path) -> np.ndarray:
    """A small dataset, read completely on opening. `kind` is numpy's letter: "i", "u" or "S"."""
    dataset = _own_dataset(file, name, path)
    if dataset.dtype.kind != kind or not dataset.shape:
        raise unreadable(path, f"{name} is {dataset.dtype} {dataset.shape}")
    return dataset[()]


def _own_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset `name`, whose bytes are in this file: soft, external and virtual links are refused."""
    link = file.get(name, getlink=True)
    if link is None:
        raise unreadable(path, f"it has no dataset {name!r}")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise unreadable(path, f"{name} is not a dataset in the file itself")
    if dataset.nbytes > max(MAX_UNPACKED_BYTES, MAX_PACKING * path.stat().st_size):
        raise unreadable(path, f"{name} would take {dataset.nbytes:,} bytes of memory")
    return dataset
