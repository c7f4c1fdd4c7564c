"""UNITER image databases: an LMDB, one image a key (`coco_train2014_000000000009.npz`), values msgpack or npz.

A value holds `features` (R, 2048), `norm_bb` (R, 6: x1/W y1/H x2/W y2/H w/W h/H), `conf` (R,), and often `soft_labels`
(R, 1601), the class distribution with the background **first**. Floats are float16. Arrays are packed as msgpack-numpy
does: `{b"nd": True, b"type": "<f2", b"kind": b"", b"shape": [R, 2048], b"data": bytes}`. The entry `__keys__` lists the
keys. The size of the image is not there: boxes are shares of it.

Source: ChenRocks/UNITER scripts/convert_imgdir.py, data/data.py.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError
from cmal.io.lmdb_files import MAX_VALUE_BYTES, count_entries, lmdb_entries
from cmal.regions.imports.foreign import (
    BadImage,
    BadRow,
    ForeignImage,
    Source,
    isolated_source,
)

KEYS_ENTRY = b"__keys__"
ARRAYS = ("features", "norm_bb", "conf", "soft_labels")


def open_uniter(path: Path, class_names: tuple[str, ...]) -> Source:
    """The database as a stream.

    Args:
        class_names: without background; unused if the first image has no `soft_labels`.

    Raises:
        DataError: this is no LMDB.
    """
    return isolated_source("uniter-lmdb", path, lambda: _read(path), class_names)


def _read(path: Path) -> Iterator[int | ForeignImage | BadImage]:
    yield count_entries(path)
    for key, value in lmdb_entries(path):
        if key.startswith(b"__"):
            continue
        name = key.decode("utf-8", "replace")
        where = f'entry "{name}"'
        try:
            yield parse_value(name, where, value)
        except DataError:
            raise
        except Exception as error:  # zip, zlib, msgpack and numpy raise many types for damaged bytes
            yield BadImage(name, where, f"{error}" if isinstance(error, BadRow) else f"{type(error).__name__}: {error}")


def parse_value(key: str, where: str, value: bytes) -> ForeignImage:
    """The image of one value. Raises BadRow, or what zip and msgpack raise, if it cannot be read."""
    arrays = _read_npz(value) if value[:2] == b"PK" else _read_msgpack(value)
    for name in ("features", "norm_bb"):
        if name not in arrays:
            raise BadRow(f"it has no {name}")
    boxes = arrays["norm_bb"]
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise BadRow(f"norm_bb has shape {boxes.shape}")
    probs = arrays.get("soft_labels")
    if probs is not None and probs.ndim != 2:
        raise BadRow(f"soft_labels have shape {probs.shape}")
    return ForeignImage(
        key,
        where,
        features=arrays["features"],
        boxes_xyxy=boxes[:, :4],
        image_wh_px=None,
        is_unit=True,
        object_conf=arrays.get("conf"),
        class_probs=None if probs is None else probs[:, 1:],
    )


def _read_npz(value: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(value)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_VALUE_BYTES:
            raise BadRow("it unpacks to more than 256 MB")
    with np.load(io.BytesIO(value), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ARRAYS if name in arrays.files}


def _read_msgpack(value: bytes) -> dict[str, np.ndarray]:
    try:
        import msgpack
    except ImportError as error:
        raise DataError(
            "cannot import a UNITER database",
            "the Python package msgpack is not installed",
            "install the import extra: pip install 'cmal[import]'",
        ) from error
    try:
        unpacked = msgpack.unpackb(value, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRow(f"neither msgpack nor npz: {error}") from None
    if not isinstance(unpacked, dict):
        raise BadRow(f"it holds a {type(unpacked).__name__}, not a table of arrays")
    return {name: _array(name, unpacked[name]) for name in ARRAYS if name in unpacked}


def _array(name: str, packed: Any) -> np.ndarray:
    """One array as msgpack-numpy packs it; only numbers are allowed."""
    if not isinstance(packed, dict):
        raise BadRow(f"{name} is not an array")
    fields = {(k.decode() if isinstance(k, bytes) else k): v for k, v in packed.items()}
    kind, code, shape, data = fields.get("kind"), fields.get("type"), fields.get("shape"), fields.get("data")
    code = code.decode() if isinstance(code, bytes) else code
    if kind not in (b"", "", None) or not isinstance(code, str) or not isinstance(data, bytes):
        raise BadRow(f"{name} is not an array of plain numbers")
    dtype = np.dtype(code)
    if dtype.kind not in "fiu" or not isinstance(shape, list | tuple) or not all(isinstance(n, int) for n in shape):
        raise BadRow(f"{name} is not an array of plain numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise BadRow(f"{name} has {len(data):,} bytes; which do not fit its shape {tuple(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)
