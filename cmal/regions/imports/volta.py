"""volta, 12-in-1 and MMF image databases: an LMDB with one pickled table per image, and `keys`, a pickled list of the keys.

The tables of the three projects differ in names and packing:

- volta: `img_h img_w num_boxes objects cls_prob boxes features`, boxes and features base64 of float32;
- 12-in-1: `image_id image_h image_w num_boxes boxes features [cls_prob]`, base64 or arrays;
- MMF: `image_height image_width num_boxes objects cls_prob bbox features`, arrays.

`cls_prob` is (R, 1601) with the background first, (R, 1600) without it, or (R,) the confidence of the best class. Nothing
of a pickle is executed: see `cmal/io/pickles.py`.

Sources: e-bug/volta features_extraction/npy_to_lmdb.py, h5_to_lmdb.py, volta/datasets/_image_features_reader.py;
facebookresearch/vilbert-multi-task script/convert_to_lmdb.py; facebookresearch/mmf tools/scripts/features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import shown
from cmal.io.lmdb_files import count_entries, lmdb_entries
from cmal.io.pickles import PickleRefused, unpickle
from cmal.regions.imports.foreign import (
    BadImage,
    BadRow,
    ForeignImage,
    Source,
    isolated_source,
)
from cmal.regions.imports.tsv import decode

KEYS_ENTRY = b"keys"
HEIGHTS, WIDTHS = ("img_h", "image_h", "image_height"), ("img_w", "image_w", "image_width")
BOXES, OBJECTS = ("boxes", "bbox"), ("objects", "objects_id")


def open_volta(path: Path, class_names: tuple[str, ...], attribute_names: tuple[str, ...]) -> Source:
    """The database as a stream.

    Args:
        class_names, attribute_names: of the ids; unused if the first image has no classes.

    Raises:
        DataError: this is no LMDB.
    """
    return isolated_source("volta-lmdb", path, lambda: _read(path, len(class_names)), class_names, attribute_names)


def _read(path: Path, classes: int) -> Iterator[int | ForeignImage | BadImage]:
    yield count_entries(path)
    for key, value in lmdb_entries(path):
        if key == KEYS_ENTRY:
            continue
        name = key.decode("utf-8", "replace")
        where = f'entry "{name}"'
        try:
            yield image_of_table(name, where, unpickle(value), classes)
        except (BadRow, PickleRefused) as error:
            yield BadImage(name, where, str(error))
        except (ValueError, KeyError, TypeError, OverflowError, IndexError) as error:
            yield BadImage(name, where, f"{type(error).__name__}: {error}")


def image_of_table(key: str, where: str, table: Any, classes: int) -> ForeignImage:
    """The image of a table of one of the three projects. Raises BadRow if something is missing or has another shape.

    Args:
        classes: number of classes; one more column of `cls_prob` is the background.
    """
    if not isinstance(table, Mapping):
        raise BadRow(f"it holds a {type(table).__name__}, not a table")
    count = None if _pick(table, ("num_boxes",)) is None else int(_pick(table, ("num_boxes",)))
    if count is not None and count < 0:
        raise BadRow(f"num_boxes is {shown(count)}")
    features = _matrix(table, ("features",), count)
    count = len(features) if count is None else min(count, len(features))  # MMF pads with zero rows behind num_boxes
    boxes = _matrix(table, BOXES, len(features), columns=4)
    height, width = _pick(table, HEIGHTS), _pick(table, WIDTHS)
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise BadRow(f"boxes have shape {boxes.shape}")
    image = ForeignImage(
        key,
        where,
        features=features[:count],
        boxes_xyxy=boxes[:count, :4],
        image_wh_px=None if height is None or width is None else (int(width), int(height)),
        object_ids=_vector(table, OBJECTS, np.int64, count),
        object_conf=_vector(table, ("objects_conf",), np.float32, count),
        attribute_ids=_vector(table, ("attrs_id",), np.int64, count),
        attribute_conf=_vector(table, ("attrs_conf",), np.float32, count),
    )
    return _with_probabilities(image, _array(table.get("cls_prob"), np.float32), count, classes)


def _with_probabilities(image: ForeignImage, probs: np.ndarray | None, count: int, classes: int) -> ForeignImage:
    if probs is None:
        return image
    if probs.ndim == 1 and probs.size in (0, count):
        return dataclasses.replace(image, object_conf=probs)
    probs = probs.reshape(len(image.features), -1) if probs.ndim == 1 else probs
    if probs.ndim != 2:
        raise BadRow(f"cls_prob has shape {probs.shape}")
    if probs.shape[1] == classes + 1:
        probs = probs[:, 1:]
    return dataclasses.replace(image, class_probs=probs[:count])


def _pick(table: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((table[name] for name in names if table.get(name) is not None), None)


def _matrix(
    table: Mapping[str, Any], names: tuple[str, ...], regions: int | None, columns: int | None = None
) -> np.ndarray:
    """(R, any number of columns), from an array or from base64 of float32."""
    value = _pick(table, names)
    if value is None:
        raise BadRow(f"it has no {names[0]}")
    if isinstance(value, str | bytes):
        if regions is None:
            raise BadRow("it has no num_boxes")
        return decode(value.encode() if isinstance(value, str) else value, names[0], regions, np.float32, columns)
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise BadRow(f"{names[0]} has shape {array.shape} and type {array.dtype}")
    return array


def _vector(table: Mapping[str, Any], names: tuple[str, ...], dtype: type, count: int) -> np.ndarray | None:
    array = _array(_pick(table, names), dtype)
    return None if array is None else array.reshape(-1)[:count]


def _array(value: Any, dtype: type) -> np.ndarray | None:
    """An array, from an array or base64; None for None and for entries without numbers."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return decode(text, "an array", 1, dtype)[0]
    array = np.asarray(value)
    return array if array.dtype.kind in "fiu" else None
