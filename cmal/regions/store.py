"""The region store: what a detector said of many images, in HDF5; this file owns the layout and reads it.

A store is a folder of shards `part-00000.h5`, `part-00001.h5`, ... with `index.json`, or one single such file. Each
shard packs N images with M regions altogether, F numbers a region:

| dataset           | shape    | dtype   | meaning |
|-------------------|----------|---------|---------|
| `header`          | (bytes,) | uint8   | JSON: format, version, detector, weights hash, F, class and attribute names |
| `image_ids`       | (N,)     | S<n>    | UTF-8, e.g. `coco:391895`; n is the longest of the shard |
| `offsets`         | (N+1,)   | int64   | the regions of image i are rows offsets[i] to offsets[i+1] of what follows |
| `sizes_wh_px`     | (N, 2)   | int32   | width and height of the upright raw image, pixels |
| `features`        | (M, F)   | float16 | raw detector features |
| `boxes_xyxy_px`   | (M, 4)   | float32 | x1 y1 x2 y2, pixels of the upright raw image |
| `object_ids`      | (M,)     | int16   | index into class_names |
| `object_conf`     | (M,)     | float16 | probability of that class, 0 to 1 |
| `attribute_ids`   | (M,)     | int16   | index into attribute_names, -1 = none |
| `attribute_conf`  | (M,)     | float16 | probability of that attribute, 0 to 1 |
| `class_top_ids`   | (M, 10)  | int16   | the ten likeliest classes |
| `class_top_probs` | (M, 10)  | float16 | their probabilities, 0 to 1 |

All little-endian. What we write is contiguous and uncompressed, so that a dataset of one image is one read at a known
place in the file; chunked or compressed datasets of the same names are read too, through h5py and slower. Links that
leave the file are refused. `index.json` repeats the header and lists name, images, regions, bytes and sha256 of each
shard. `shards.py` writes all this.
"""

from __future__ import annotations

import json
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cmal.errors import CmalError, StoreError
from cmal.files import read_json
from cmal.regions.types import TOP_CLASSES, Regions

FORMAT = "cmal-regions"
VERSION = 1
INDEX_NAME = "index.json"
MOST_OPEN_FILES = 512
PAGE_RUN_BYTES = 1 << 16  # Linux maps so much around the page one touches
MOST_MAPPED_BYTES = 96 << 20  # of this process; read pages beyond that are let go

FEATURES = "features"
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # name -> (dtype, shape after M); features' F is the header's
    FEATURES: ("<f2", (-1,)),
    "boxes_xyxy_px": ("<f4", (4,)),
    "object_ids": ("<i2", ()),
    "object_conf": ("<f2", ()),
    "attribute_ids": ("<i2", ()),
    "attribute_conf": ("<f2", ()),
    "class_top_ids": ("<i2", (TOP_CLASSES,)),
    "class_top_probs": ("<f2", (TOP_CLASSES,)),
}
BYTES_A_REGION = sum(np.dtype(d).itemsize * int(np.prod(s)) for n, (d, s) in COLUMNS.items() if n != FEATURES)


@dataclass(frozen=True)
class StoreHeader:
    """What all shards of a store share; see the module's table."""

    detector: str
    weights_sha256: str
    feature_size: int
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    @classmethod
    def of(cls, detector: Any) -> StoreHeader:
        """The header of a `Detector`."""
        return cls(
            detector.name,
            detector.weights_sha256,
            int(detector.feature_size),
            tuple(detector.class_names),
            tuple(detector.attribute_names),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "detector": self.detector,
            "weights_sha256": self.weights_sha256,
            "feature_size": self.feature_size,
            "class_names": list(self.class_names),
            "attribute_names": list(self.attribute_names),
        }

    @classmethod
    def from_json(cls, value: Any, where: Path) -> StoreHeader:
        """Raises StoreError where `value` is not a header of this format and version."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, Mapping) else type(value).__name__
            raise _unreadable(where, f'its format is {found!r}, not "{FORMAT}"')
        if value.get("version") != VERSION:
            raise StoreError(
                f"cannot open {where}",
                f"it is version {value.get('version')!r} of the format; this program reads version {VERSION}",
                "extract the regions again, or use the version of cmal that wrote it",
            )
        try:
            return cls(
                str(value["detector"]),
                str(value["weights_sha256"]),
                int(value["feature_size"]),
                tuple(str(name) for name in value["class_names"]),
                tuple(str(name) for name in value["attribute_names"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(where, f"its header is damaged: {error!r}") from error


@dataclass(frozen=True)
class ShardInfo:
    """One line of `index.json`: a shard's file name, how much it holds, and the hash of its bytes."""

    name: str
    images: int
    regions: int
    bytes: int
    sha256: str


def read_index(folder: Path) -> tuple[StoreHeader, list[ShardInfo]]:
    """Header and shards of a store folder.

    Raises:
        StoreError: no `index.json` there, or not one of ours.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise StoreError(
            f"cannot open the region store {folder}",
            f"it has no {INDEX_NAME}" if Path(folder).is_dir() else "there is no such file or folder",
            f"make it: cmal extract-regions IMAGES --out {folder}",
        )
    try:
        value = read_json(path)
    except CmalError as error:
        raise _unreadable(path, error.found) from error
    header = StoreHeader.from_json(value, path)
    try:
        shards = [ShardInfo(**{key: shard[key] for key in ShardInfo.__dataclass_fields__}) for shard in value["shards"]]
    except (KeyError, TypeError) as error:
        raise _unreadable(path, f"its list of shards is damaged: {error!r}") from error
    for shard in shards:
        if Path(shard.name).name != shard.name:
            raise _unreadable(path, f"the shard name {shard.name!r} is not a plain file name")
    return header, shards


class Shard:
    """One open HDF5 file of the layout above: its images, and where in the file their regions lie.

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
            raise _unreadable(self.path, str(error)) from error

    def _read_layout(self, file: h5py.File) -> None:
        raw = _own_dataset(file, "header", self.path)[()]
        self.header = StoreHeader.from_json(json.loads(bytes(raw)), self.path)
        ids = _own_dataset(file, "image_ids", self.path)[()]
        self.image_ids = [bytes(image_id).decode("utf-8") for image_id in ids]
        self.offsets = _own_dataset(file, "offsets", self.path)[()].astype(np.int64)
        self.sizes_wh_px = _own_dataset(file, "sizes_wh_px", self.path)[()]
        count = len(self.image_ids)
        if self.offsets.shape != (count + 1,) or self.sizes_wh_px.shape != (count, 2):
            raise _unreadable(self.path, f"{count} image ids meet {self.offsets.shape[0]} offsets")
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
            raise _unreadable(self.path, "its offsets do not rise from 0")
        rows = int(self.offsets[-1])
        self.places: list[tuple[str, np.dtype, tuple[int, ...], int, int | None]] = []
        for name, (dtype, tail) in COLUMNS.items():
            tail = (self.header.feature_size,) if name == FEATURES else tail
            dataset = _own_dataset(file, name, self.path)
            if dataset.shape != (rows, *tail) or dataset.dtype != np.dtype(dtype):
                raise _unreadable(
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
    """A shard opened for reading: a memory map with a view of each column, or an HDF5 handle where it cannot be one."""

    def __init__(self, shard: Shard):
        self.first_rows = shard.offsets.tolist()
        self.mapped: mmap.mmap | None = None
        try:
            if shard.is_contiguous:
                self._map(shard)
            else:
                self.h5py_file = h5py.File(shard.path, "r")
                self.columns = [self.h5py_file[name] for name, *_ in shard.places]
        except OSError as error:
            raise _unreadable(shard.path, f"the system says: {error.strerror or error}") from error
        self.sizes_wh_px = shard.sizes_wh_px
        self.features_range, self.bytes_a_read = shard.features_range, shard.mapped_bytes_a_read

    def _map(self, shard: Shard) -> None:
        with shard.path.open("rb") as file:
            self.mapped = mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if len(mapped) < shard.end_byte:
            raise _unreadable(shard.path, f"it has {len(mapped):,} bytes; its header speaks of {shard.end_byte:,}")
        rows = self.first_rows[-1]
        self.columns = [
            np.ndarray((rows, *tail), dtype, mapped, place) if rows and row_bytes else np.empty((rows, *tail), dtype)
            for _, dtype, tail, row_bytes, place in shard.places
        ]

    def read(self, row: int) -> Regions:
        """Regions of image number `row`: copies, so that they outlive the file."""
        rows = slice(self.first_rows[row], self.first_rows[row + 1])
        return Regions(*[np.array(column[rows]) for column in self.columns], tuple(self.sizes_wh_px[row].tolist()))

    def release(self, everything: bool) -> None:
        """Lets go of the pages that were read: of all columns, or of the features alone."""
        if self.mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if everything:
            self.mapped.madvise(mmap.MADV_DONTNEED)
        elif self.features_range:
            self.mapped.madvise(mmap.MADV_DONTNEED, *self.features_range)


class RegionStore:
    """Read access to a store by image id. Cheap to pickle and safe to fork: files are opened where they are read.

    Attributes:
        path: folder or file.
        header: detector, weights, feature size, class and attribute names.
        shard_paths: its HDF5 files.
    """

    def __init__(self, path: Path, header: StoreHeader, shard_paths: list[Path]):
        self.path, self.header, self.shard_paths = Path(path), header, shard_paths
        self._shards: list[Shard] | None = None
        self._rows: dict[str, tuple[int, int]] = {}
        self._files: OrderedDict[int, ShardFile] = OrderedDict()
        self._touched_bytes = 0
        self._owner = os.getpid()

    @classmethod
    def open(cls, path: Path | str) -> RegionStore:
        """Opens a store folder or a single store file.

        Raises:
            StoreError: nothing there, not a store, another version, a shard missing or of another shape.
        """
        path = Path(path)
        if path.is_file():
            store = cls(path, Shard(path).header, [path])
        else:
            header, infos = read_index(path)
            store = cls(path, header, [path / info.name for info in infos])
        store._load()
        return store

    feature_size = property(lambda self: self.header.feature_size)
    class_names = property(lambda self: self.header.class_names)
    attribute_names = property(lambda self: self.header.attribute_names)
    detector = property(lambda self: self.header.detector)
    weights_sha256 = property(lambda self: self.header.weights_sha256)

    @property
    def image_ids(self) -> list[str]:
        """All image ids, in the order of the shards."""
        return list(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __getitem__(self, image_id: str) -> Regions:
        """Regions of one image: arrays of this caller's own, in the dtypes of the layout.

        Raises:
            StoreError: no such image in the store, or its shard is damaged.
        """
        try:
            number, row = self._load()[image_id]
        except KeyError:
            raise StoreError(
                f'cannot load regions of the image "{image_id}"',
                f'{self.path} has no image "{image_id}"; it holds {len(self):,} images',
                f"extract the missing ones: cmal extract-regions IMAGES --out {self.path}",
            ) from None
        file = self._files.get(number) if self._owner == os.getpid() else None
        if file is None:
            file = self._open_shard(number)
        self._touched_bytes += file.bytes_a_read
        if self._touched_bytes > MOST_MAPPED_BYTES:
            self._release_pages()
        return file.read(row)

    def regions_of(self, image_id: str) -> int:
        """How many regions an image has, without reading them."""
        number, row = self._load()[image_id]
        offsets = self._shards[number].offsets
        return int(offsets[row + 1] - offsets[row])

    def size_wh_px(self, image_id: str) -> tuple[int, int]:
        """Width and height of an image, without reading its regions."""
        number, row = self._load()[image_id]
        width, height = self._shards[number].sizes_wh_px[row]
        return int(width), int(height)

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "header": self.header, "shard_paths": self.shard_paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["header"], state["shard_paths"])

    def _load(self) -> dict[str, tuple[int, int]]:
        if self._shards is None:
            shards = [Shard(path) for path in self.shard_paths]
            for number, shard in enumerate(shards):
                if shard.header != self.header:
                    raise StoreError(
                        f"cannot open the region store {self.path}",
                        f"{shard.path.name} comes from {_says(shard.header)}; the index says {_says(self.header)}",
                        "extract into one folder per detector",
                    )
                self._rows.update({image_id: (number, row) for row, image_id in enumerate(shard.image_ids)})
                shard.image_ids = []  # kept in the map alone
            self._shards = shards
        return self._rows

    def _open_shard(self, number: int) -> ShardFile:
        """Opens a shard in this process; beyond `MOST_OPEN_FILES` the one opened first is closed."""
        if self._owner != os.getpid():  # after a fork: HDF5 handles belong to the parent
            self._files, self._owner = OrderedDict(), os.getpid()
        file = self._files[number] = ShardFile(self._shards[number])
        if len(self._files) > MOST_OPEN_FILES:
            self._files.popitem(last=False)
        return file

    def _release_pages(self) -> None:
        """Keeps resident memory small however large the store is.

        The columns beside the features (64 bytes a region) only where they are many, for coming back to them costs.
        """
        self._touched_bytes = 0
        columns_bytes = sum(self._shards[number].columns_bytes for number in self._files)
        for file in self._files.values():
            file.release(everything=columns_bytes > MOST_MAPPED_BYTES // 2)


def _own_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset `name` if its bytes are in this very file: no soft, external or virtual link is followed."""
    link = file.get(name, getlink=True)
    if link is None:
        raise _unreadable(path, f"it has no dataset {name!r}")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise _unreadable(path, f"{name} is not a dataset in the file itself")
    return dataset


def _says(header: StoreHeader) -> str:
    return f"{header.detector} (weights {header.weights_sha256[:12] or 'none'}, {header.feature_size} numbers a region)"


def _unreadable(path: Path, found: str) -> StoreError:
    return StoreError(
        f"cannot open {path}", found, "check it with cmal extract-regions --verify, or extract the regions again"
    )
