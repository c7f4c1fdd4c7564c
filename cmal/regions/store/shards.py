"""Writing a region store: one shard, the index, or a stream of images. `layout.py` describes the format.

Files are written atomically (temporary name, fsync, rename). The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from cmal.errors import ShapeError, StoreError
from cmal.io.files import atomic_path, sha256_of, write_json
from cmal.regions.store.layout import BYTES_A_REGION, FEATURES, INDEX_NAME, ShardInfo, StoreHeader
from cmal.regions.types import Regions

IMAGES_A_WRITE = 128
BYTES_AN_IMAGE = 64  # id, offset and size, about
LARGEST_FLOAT16 = 65504.0
ALIGN_AT_BYTES, ALIGN_TO_BYTES = 65536, 4096
HDF5_OWN_BYTES = 1 << 18  # upper bound of HDF5's metadata and of the gaps between columns


SHARD_PATTERN = "part-[0-9][0-9][0-9][0-9][0-9].h5"


def shard_name(number: int) -> str:
    """ "part-00012.h5" for 12."""
    return f"part-{number:05d}.h5"


def write_shard(path: Path, items: Iterable[tuple[str, Regions]], header: StoreHeader) -> ShardInfo:
    """Writes one shard atomically. Holds its packed arrays in memory (147 kB per image at 36 x 2048).

    Args:
        path: the file; an existing one is replaced.
        items: (image id, its regions) in order; may be empty.
        header: of the store.

    Raises:
        ShapeError: arrays of an image disagree with each other or with `header`.
        StoreError: an image comes twice, or its numbers are not finite.
        CmalError: the disk is full or the folder cannot be written.
    """
    image_ids: list[str] = []
    packed: list[tuple[np.ndarray, ...]] = []
    sizes = []
    for image_id, regions in items:
        image_ids.append(image_id)
        packed.append(_pack(image_id, regions, header))
        sizes.append(regions.image_wh_px)
    if len(set(image_ids)) != len(image_ids):
        twice = next(name for name in image_ids if image_ids.count(name) > 1)
        raise StoreError(f"cannot write {path}", f'the image "{twice}" comes twice', "give each image once")
    offsets = np.cumsum([0, *(len(arrays[0]) for arrays in packed)], dtype="<i8")
    with atomic_path(Path(path)) as temporary:
        try:
            with new_file(temporary, largest_size(header, image_ids, int(offsets[-1]))) as file:
                write_head(file, header, image_ids, offsets, sizes)
                _write_columns(file, header, packed, offsets)
        except RuntimeError as error:  # HDF5's error for a full disk on closing
            raise OSError(str(error)) from error
        size, digest = temporary.stat().st_size, sha256_of(temporary)
    return ShardInfo(Path(path).name, len(image_ids), int(offsets[-1]), size, digest)


@contextlib.contextmanager
def new_file(path: Path, largest: int) -> Iterator[h5py.File]:
    """A new HDF5 file without timestamps, its columns aligned to pages.

    Its disk space is reserved first: HDF5 ends the process with a segmentation fault if the disk fills up.

    Args:
        path: the file.
        largest: upper bound of its size in bytes.

    Raises:
        OSError: the disk has too little space.
    """
    path.touch()
    _take_room(path, largest)
    with h5py.File(
        path,
        "w",
        libver=("earliest", "v110"),
        track_order=False,
        alignment_threshold=ALIGN_AT_BYTES,
        alignment_interval=ALIGN_TO_BYTES,
    ) as file:
        _take_room(path, largest)  # again: HDF5 has emptied the file
        yield file
        file.flush()
        size = file.id.get_filesize()
    os.truncate(path, size)


def _take_room(path: Path, count: int) -> None:
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, count)
    elif (free := shutil.disk_usage(path.parent).free) < count:
        raise OSError(errno.ENOSPC, f"{_size(count)} are needed, {_size(free)} are free")


def largest_size(header: StoreHeader, image_ids: Sequence[str], regions: int) -> int:
    """Upper bound in bytes for a file of these images with `regions` regions in total."""
    width = max([1, *(len(image_id.encode("utf-8")) for image_id in image_ids)])
    heads = len(json.dumps(header.to_json())) + len(image_ids) * (width + 8 + 8) + 8
    return heads + regions * (2 * header.feature_size + BYTES_A_REGION) + HDF5_OWN_BYTES


def _pack(image_id: str, regions: Regions, header: StoreHeader) -> tuple[np.ndarray, ...]:
    """One image's arrays in the layout's order, shapes and dtypes; features beyond float16 are cut to its largest."""
    count, arrays = len(regions.object_ids), []
    for name, dtype, tail in header.columns():
        array, expected = np.asarray(getattr(regions, name)), (count, *tail)
        if array.shape != expected:
            raise ShapeError(
                f'cannot store the regions of the image "{image_id}"',
                f"{name} has shape {array.shape}; with {count} regions it should be {expected}",
                "this is a bug in the detector or the import: report it with the image",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise StoreError(
                f'cannot store the regions of the image "{image_id}"',
                f"{name} holds numbers that are not finite",
                "check the detector's weights, or run it in float32",
            )
        if name == FEATURES and array.dtype != np.float16:
            array = np.clip(array, -LARGEST_FLOAT16, LARGEST_FLOAT16)
        arrays.append(np.ascontiguousarray(array, dtype))
    return tuple(arrays)


def write_head(
    file: h5py.File,
    header: StoreHeader,
    image_ids: list[str],
    offsets: Sequence[int] | np.ndarray,
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Writes header, image_ids, offsets and sizes_wh_px."""
    text = json.dumps(header.to_json(), ensure_ascii=False).encode("utf-8")
    encoded = [image_id.encode("utf-8") for image_id in image_ids]
    width = max([1, *(len(image_id) for image_id in encoded)])
    heads = {
        "header": np.frombuffer(text, np.uint8),
        "image_ids": np.array(encoded, dtype=f"S{width}"),
        "offsets": np.asarray(offsets, dtype="<i8"),
        "sizes_wh_px": np.array(sizes, dtype="<i4").reshape(-1, 2),
    }
    for name, value in heads.items():
        file.create_dataset(name, data=value, track_times=False)


def _write_columns(
    file: h5py.File, header: StoreHeader, packed: list[tuple[np.ndarray, ...]], offsets: np.ndarray
) -> None:
    """Writes column by column in blocks of many images: large writes make large pages, which are faster to read."""
    for column, (name, dtype, tail) in enumerate(header.columns()):
        dataset = file.create_dataset(name, (int(offsets[-1]), *tail), dtype, track_times=False)
        for first in range(0, len(packed), IMAGES_A_WRITE):
            block = packed[first : first + IMAGES_A_WRITE]
            start, stop = int(offsets[first]), int(offsets[first + len(block)])
            if stop > start:
                dataset[start:stop] = np.concatenate([arrays[column] for arrays in block])


def write_index(folder: Path, header: StoreHeader, shards: Iterable[ShardInfo]) -> None:
    """Writes `index.json`: header, totals, shards in the order of their names."""
    shards = sorted(shards, key=lambda shard: shard.name)
    value = header.to_json()
    value["images"] = sum(shard.images for shard in shards)
    value["regions"] = sum(shard.regions for shard in shards)
    value["shards"] = [asdict(shard) for shard in shards]
    write_json(Path(folder) / INDEX_NAME, value)


def check_disk_space(folder: Path, images: int, regions_text: str, regions: int, feature_size: int) -> str:
    """One line with the expected size of a store and the free disk space.

    Args:
        folder: the existing folder of the store.
        images: number of images.
        regions_text: regions per image in words ("up to 36").
        regions: the same as a number. feature_size: feature dimension.

    Raises:
        StoreError: the disk cannot hold it.
    """
    needed = images * (regions * (2 * feature_size + BYTES_A_REGION) + BYTES_AN_IMAGE)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"cannot write regions into {folder}",
            f"{images:,} images with {regions_text} regions need {_size(needed)}; the disk has {_size(free)} free",
            "free some space, or choose another disk (or extract fewer regions, with --max-regions)",
        )
    return f"{images:,} images, {_size(needed)} at {regions_text} regions an image; {_size(free)} free"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class StoreWriter:
    """Writes a new store from a stream of images, one shard at a time.

        with StoreWriter(folder, header) as writer:
            writer.add("coco:391895", regions)

    The index is written when the block succeeds. A block that fails leaves no shard. A killed one leaves shards without an
    index, which is no store; the next writer removes them. The caller holds the folder's lock.

    Raises:
        StoreError: the folder holds a store already, or an image comes twice.
    """

    def __init__(self, folder: Path, header: StoreHeader, shard_size: int = 1000):
        self.folder, self.header, self.shard_size = Path(folder), header, shard_size
        self.shards: list[ShardInfo] = []
        self._waiting: list[tuple[str, Regions]] = []
        self._seen: set[str] = set()
        if (self.folder / INDEX_NAME).exists():
            raise StoreError(
                f"cannot write a store into {folder}", "it holds one already", "choose another --out, or remove it"
            )
        os.makedirs(self.folder, exist_ok=True)
        self._remove_shards()

    def add(self, image_id: str, regions: Regions) -> None:
        """Adds the regions of one image."""
        if image_id in self._seen:
            raise StoreError(
                f"cannot write a store into {self.folder}",
                f'the image "{image_id}" comes twice',
                "give each image once",
            )
        self._seen.add(image_id)
        self._waiting.append((image_id, regions))
        if len(self._waiting) == self.shard_size:
            self._flush()

    def _flush(self) -> None:
        path = self.folder / shard_name(len(self.shards))
        self.shards.append(write_shard(path, self._waiting, self.header))
        self._waiting = []

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._remove_shards()
            return
        if self._waiting:
            self._flush()
        write_index(self.folder, self.header, self.shards)

    def _remove_shards(self) -> None:
        """Removes shards of a store that was never finished."""
        for path in self.folder.glob(SHARD_PATTERN):
            with contextlib.suppress(OSError):
                path.unlink()
