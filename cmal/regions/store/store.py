"""Reading a region store: the regions of one image by its id, fast and with little memory per process."""

from __future__ import annotations

import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmal.errors import StoreError
from cmal.regions.store.layout import COLUMNS, StoreHeader, read_index, unreadable
from cmal.regions.store.shard_file import PAGE_RUN_BYTES, Shard, ShardFile
from cmal.regions.types import Regions

MAX_OPEN_FILES = 512
MAX_MAPPED_BYTES = 48 << 20  # in a loader's worker; pages beyond that are released
MAX_MAPPED_BYTES_ALONE = 512 << 20  # in the main process


class RegionStore:
    """Read access to a store by image id. Cheap to pickle and safe to fork: files are opened where they are read.

    Attributes:
        path: folder or file.
        header: detector, weights, feature size, class and attribute names.
        shard_paths: its HDF5 files.
    """

    def __init__(self, path: Path, header: StoreHeader, shard_paths: list[Path]):
        self.path, self.header, self.shard_paths = Path(path), header, shard_paths
        self._shards: list[Shard] = []
        self._is_loaded = False
        self._rows: dict[str, tuple[int, int]] = {}
        self._files: OrderedDict[int, ShardFile] = OrderedDict()
        self._touched_bytes = self._mapped_bytes = 0
        self._column_bytes_a_read = 0  # used if the columns other than features are too large to stay mapped

    @classmethod
    def open(cls, path: Path | str) -> RegionStore:
        """Opens a store folder or a single store file.

        Raises:
            StoreError: it is missing, no store or of another version, or a shard is missing or damaged.
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
        """The regions of one image, as copies in the dtypes of the layout.

        Raises:
            StoreError: no such image in the store, or its shard is damaged.
        """
        number, row = self._rows.get(image_id) or self._find(image_id)
        file = self._files.get(number)
        if file is None or not (file.survives_fork or file.owner == os.getpid()):
            file = self._open_shard(number)
        self._touched_bytes += file.bytes_a_read + self._column_bytes_a_read
        if self._touched_bytes > MAX_MAPPED_BYTES:
            self._note_touched()
        return file.read(row)

    def regions_of(self, image_id: str) -> int:
        """Number of regions of an image, without reading them."""
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
        RegionStore.__init__(self, **state)

    def _load(self) -> dict[str, tuple[int, int]]:
        if not self._is_loaded:
            shards = [Shard(path) for path in self.shard_paths]
            for number, shard in enumerate(shards):
                if shard.header != self.header:
                    raise StoreError(
                        f"cannot open the region store {self.path}",
                        f"{shard.path.name} comes from {_describe(shard.header)}; the index says {_describe(self.header)}",
                        "extract into one folder per detector",
                    )
                before = len(self._rows)
                self._rows.update({image_id: (number, row) for row, image_id in enumerate(shard.image_ids)})
                if len(self._rows) != before + len(shard.image_ids):
                    raise unreadable(shard.path, "it has an image that another shard has too")
                shard.image_ids = []  # `_rows` holds them
            self._shards, self._is_loaded = shards, True
            if sum(shard.columns_bytes for shard in shards) > MAX_MAPPED_BYTES // 2:
                self._column_bytes_a_read = PAGE_RUN_BYTES * (len(COLUMNS) - 1)
        return self._rows

    def _find(self, image_id: str) -> tuple[int, int]:
        """Shard number and row of an image; loads the index first if needed."""
        try:
            return self._load()[image_id]
        except KeyError:
            raise StoreError(
                f'cannot load regions of the image "{image_id}"',
                f'{self.path} has no image "{image_id}"; it holds {len(self):,} images',
                f"extract the missing ones: cmal extract-regions IMAGES --out {self.path}",
            ) from None

    def _open_shard(self, number: int) -> ShardFile:
        """Opens a shard in this process; closes the oldest beyond `MAX_OPEN_FILES`."""
        file = self._files[number] = ShardFile(self._shards[number])
        if len(self._files) > MAX_OPEN_FILES:
            self._files.popitem(last=False)
        return file

    def _note_touched(self) -> None:
        """Releases mapped pages beyond a limit, so that resident memory does not grow with the store.

        Columns other than features (64 bytes per region) are released only in large stores: mapping them again costs.
        """
        self._mapped_bytes, self._touched_bytes = self._mapped_bytes + self._touched_bytes, 0
        is_worker = multiprocessing.parent_process() is not None
        if self._mapped_bytes > (MAX_MAPPED_BYTES if is_worker else MAX_MAPPED_BYTES_ALONE):
            self._mapped_bytes = 0
            for file in self._files.values():
                file.release(everything=self._column_bytes_a_read > 0)


def _describe(header: StoreHeader) -> str:
    return (
        f"{header.detector} (weights {header.weights_sha256[:12] or 'none'}, {header.feature_size} features per region)"
    )
