"""MMF feature folders: `NAME.npy` with the features (R, F) and `NAME_info.npy` with a pickled table.

The table holds `bbox num_boxes objects cls_prob image_width image_height` (`extract_features_vmb.py`), with `bbox` in
pixels (R, 4); or, from `extract_features_vinvl.py`, `bbox` as shares of the image (R, 6), which the features repeat in
their last six columns. 12-in-1 writes one `NAME.npy` whose table holds the features too. Sub-folders are read as well.
Nothing of a pickle is executed: see `cmal/io/pickles.py`.

Source: facebookresearch/mmf tools/scripts/features; facebookresearch/vilbert-multi-task script/extract_features.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError, shown
from cmal.io.pickles import PickleRefused, unpickle
from cmal.regions.imports.foreign import (
    BadImage,
    BadRow,
    ForeignImage,
    Source,
    isolated_source,
)
from cmal.regions.imports.volta import image_of_table

INFO = "_info.npy"
LARGEST_FILE = 256 << 20  # bytes
UNIT_BOX_COLUMNS = 6


def open_mmf(folder: Path, class_names: tuple[str, ...]) -> Source:
    """The folder as a stream, files in the order of their names.

    Args:
        class_names: of the ids; unused if the first image has no classes.

    Raises:
        DataError: the folder has no `.npy` file.
    """
    paths = list(feature_files(folder))
    if not paths:
        raise DataError(f"cannot import {folder}", "it has no .npy file", "name the folder that holds them")
    return isolated_source("mmf-npy", folder, lambda: _read(folder, paths, len(class_names)), class_names)


def feature_files(folder: Path) -> Iterator[str]:
    """Paths of the `.npy` files under `folder`, relative to it, sorted, without the `_info.npy` ones."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".npy") and not name.endswith(INFO):
                yield os.path.relpath(os.path.join(root, name), folder)


def _read(folder: Path, paths: list[str], classes: int) -> Iterator[int | ForeignImage | BadImage]:
    yield len(paths)
    for name in paths:
        key = name[: -len(".npy")]
        try:
            yield read_pair(folder / name, key, classes)
        except (BadRow, PickleRefused) as error:
            yield BadImage(key, name, str(error))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, IndexError) as error:
            yield BadImage(key, name, f"{type(error).__name__}: {error}")


def read_pair(path: Path, key: str, classes: int) -> ForeignImage:
    """One image from `NAME.npy` and its `NAME_info.npy`. Raises BadRow or PickleRefused."""
    found = read_npy(path)
    if isinstance(found, dict):
        return image_of_table(str(found.get("image_id", key)), path.name, found, classes)
    info_path = path.with_name(path.name[: -len(".npy")] + INFO)
    if not info_path.is_file():
        raise BadRow(f"{info_path.name} is missing")
    info = read_npy(info_path)
    if not isinstance(info, dict):
        raise BadRow(f"{info_path.name} holds no table")
    image = image_of_table(key, path.name, {**info, "features": found}, classes)
    bbox = np.asarray(info.get("bbox"))
    if bbox.ndim != 2 or bbox.shape[1] != UNIT_BOX_COLUMNS:
        return image
    repeats = found.shape[1] > UNIT_BOX_COLUMNS and np.array_equal(found[: len(bbox), -UNIT_BOX_COLUMNS:], bbox)
    features = image.features[:, :-UNIT_BOX_COLUMNS] if repeats else image.features
    return dataclasses.replace(image, features=features, is_unit=True)


def read_npy(path: Path) -> Any:
    """A `.npy` file: an array of numbers, or the table that a 0-dimensional object array holds, read without executing it.

    Raises:
        BadRow: damaged, too large, or of another kind.
        PickleRefused: its pickle holds something that is not allowed.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise BadRow(f"{path.name} has {path.stat().st_size:,} bytes")
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
        except Exception as error:  # its head is a Python literal, whose parsers have a dozen errors
            raise BadRow(f"{path.name} is not a .npy file: {error}") from None
        if dtype.hasobject:
            if shape != ():
                raise BadRow(f"{path.name} holds an array of objects")
            objects = unpickle(file.read())  # numpy's own array of one object, here a list
            return objects[0] if isinstance(objects, list) and len(objects) == 1 else objects
        if math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise BadRow(f"{path.name} is cut short: its shape is {shown(shape)}")
    return np.load(path, allow_pickle=False)
