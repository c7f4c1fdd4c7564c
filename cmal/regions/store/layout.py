"""The layout of a region store: the detector's output for many images, in HDF5.

A store is a folder of shards `part-00000.h5`, `part-00001.h5`, ... with `index.json`, or one single such file. Each
shard packs N images with M regions in total, feature dimension F:

| dataset           | shape    | dtype   | meaning |
|-------------------|----------|---------|---------|
| `header`          | (bytes,) | uint8   | JSON: format, version, detector, weights hash, F, class and attribute names |
| `image_ids`       | (N,)     | S<n>    | UTF-8, e.g. `coco:391895`; n bytes is the longest id of the shard |
| `offsets`         | (N+1,)   | int64   | the regions of image i are rows offsets[i] to offsets[i+1] of the datasets below |
| `sizes_wh_px`     | (N, 2)   | int32   | width and height of the upright raw image, pixels |
| `features`        | (M, F)   | float16 | raw detector features |
| `boxes_xyxy_px`   | (M, 4)   | float32 | x1 y1 x2 y2, pixels of the upright raw image |
| `object_ids`      | (M,)     | int16   | index into class_names, -1 = no tag |
| `object_conf`     | (M,)     | float16 | probability of that class, 0 to 1 |
| `attribute_ids`   | (M,)     | int16   | index into attribute_names, -1 = none |
| `attribute_conf`  | (M,)     | float16 | probability of that attribute, 0 to 1 |
| `class_top_ids`   | (M, 10)  | int16   | the ten likeliest classes |
| `class_top_probs` | (M, 10)  | float16 | their probabilities, 0 to 1 |

All little-endian. Our shards are contiguous and uncompressed, so that the data of one image is one read at a known
offset of the file; chunked or compressed datasets of the same names are read through h5py, which is slower. Links
are refused. `index.json` repeats the header and lists name, images, regions, bytes and sha256 of each
shard. `store.py` reads all this, `shards.py` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import CmalError, StoreError, shown
from cmal.io.files import read_json
from cmal.regions.types import TOP_CLASSES

FORMAT = "cmal-regions"
VERSION = 1
INDEX_NAME = "index.json"

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
MAX_NAMES = 1 << 15  # largest number of int16 ids
MAX_FEATURES = 1 << 20  # feature dimension
_PLAIN_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
BYTES_A_REGION = sum(np.dtype(d).itemsize * int(np.prod(s)) for n, (d, s) in COLUMNS.items() if n != FEATURES)


@dataclass(frozen=True)
class StoreHeader:
    """What all shards of a store share.

    Attributes:
        detector: its name. weights_sha256: hash of its weights, "" for none.
        feature_size: feature dimension F of a region.
        class_names, attribute_names: names of the ids.
    """

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

    def columns(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(name, dtype, shape after M) of the datasets with one row per region, in the layout's order."""
        for name, (dtype, tail) in COLUMNS.items():
            yield name, dtype, (self.feature_size,) if name == FEATURES else tail

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
            raise unreadable(where, f'its format is {shown(found)}, not "{FORMAT}"')
        if value.get("version") != VERSION:
            raise StoreError(
                f"cannot open {where}",
                f"it is version {shown(value.get('version'))} of the format; this program reads version {VERSION}",
                "extract the regions again, or use the version of cmal that wrote it",
            )
        try:
            names = [value[name] for name in ("class_names", "attribute_names")]
            texts = [value["detector"], value["weights_sha256"], *names[0], *names[1]]
            if not all(isinstance(text, str) for text in texts) or not all(isinstance(some, list) for some in names):
                raise ValueError("a name is not a string")
            if max(map(len, names)) > MAX_NAMES:
                raise ValueError(f"more than {MAX_NAMES:,} names")
            if type(value["feature_size"]) is not int or not 0 <= value["feature_size"] <= MAX_FEATURES:
                raise ValueError(f"feature_size is {shown(value['feature_size'])}")
            return cls(texts[0], texts[1], value["feature_size"], tuple(names[0]), tuple(names[1]))
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(where, f"its header is damaged: {error}") from error


@dataclass(frozen=True)
class ShardInfo:
    """One entry of `index.json`: a shard's file name, its counts and size, and the hash of its bytes."""

    name: str
    images: int
    regions: int
    bytes: int
    sha256: str


def read_index(folder: Path) -> tuple[StoreHeader, list[ShardInfo]]:
    """The header and the shards of a store folder, from its `index.json`.

    Raises:
        StoreError: there is no `index.json`, or it is damaged or of another format.
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
        raise unreadable(path, error.found) from error
    header = StoreHeader.from_json(value, path)
    try:
        shards = [ShardInfo(**{key: shard[key] for key in ShardInfo.__dataclass_fields__}) for shard in value["shards"]]
        for shard in shards:
            counts = (shard.images, shard.regions, shard.bytes)
            if not isinstance(shard.sha256, str) or not all(type(count) is int and count >= 0 for count in counts):
                raise TypeError(f"the line of {shown(shard.name)} is damaged")
            if not isinstance(shard.name, str) or not _PLAIN_NAME.match(shard.name):
                raise TypeError(f"the shard name {shown(shard.name)} is not a plain file name")
    except (KeyError, TypeError) as error:
        raise unreadable(path, f"its list of shards is damaged: {error}") from error
    if len({shard.name for shard in shards}) != len(shards):
        raise unreadable(path, "its list of shards names one twice")
    return header, shards


def unreadable(path: Path, found: str) -> StoreError:
    """A StoreError for a shard or index that is damaged or of another format."""
    return StoreError(
        f"cannot open {path}", found, "check it with cmal extract-regions --verify, or extract the regions again"
    )
