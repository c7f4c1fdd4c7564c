"""VinVL / Oscar+ feature files: `features.tsv` (with its `.lineidx`), and its label files.

A line of `features.tsv` is `key <tab> num_boxes <tab> base64` or `key <tab> {"num_boxes": R, "features": base64}`, the
array float32 (R, F+6): F feature numbers (2,048), then x1/W y1/H x2/W y2/H w/W h/H of the box. Classes, confidences,
attributes and the image's size come from another file with the same keys: `predictions_gt.tsv` or `predictions.tsv`
(`key <tab> {"image_w": W, "image_h": H, "objects": [{"class", "conf", "rect", ...}, ...]}`), or `*.label.tsv`
(`key <tab> [{"class", "conf", "rect"}, ...]`) with `*.hw.tsv` (`key <tab> [{"height": H, "width": W}]`).
A `predictions.tsv` whose objects carry `"feature"` needs no other file.

Class names are words in these files: a first pass over the labels collects and numbers them in alphabetical
order. Without labels the regions carry no tags.

Sources: microsoft/Oscar oscar/datasets/oscar_tsv.py, oscar/run_captioning.py, oscar/utils/tsv_file.py, VinVL_DOWNLOAD.md;
microsoft/scene_graph_benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError, shown
from cmal.io.json_stream import has_surrogate
from cmal.regions.imports.foreign import UNKNOWN_CLASSES, BadImage, BadRow, ForeignImage, Progress, Source
from cmal.regions.imports.tsv import LONGEST_LINE, decode, read_lines, split_fields
from cmal.regions.types import NO_ATTRIBUTE

BOX_DIM = 6
LABEL_NAMES = ("predictions_gt.tsv", "predictions.tsv")


@dataclass(frozen=True)
class _Labels:
    """The labels of one image; `attributes` holds one word per region, or ""."""

    classes: tuple[str, ...]
    conf: tuple[float, ...]
    attributes: tuple[str, ...]
    attribute_conf: tuple[float, ...]
    rects: tuple[tuple[float, ...], ...]
    size_wh: tuple[int, int] | None
    features: tuple[str, ...]


class _KeyedFile:
    """A tsv whose second field is JSON, looked up by key: sequentially, or by an index of offsets for keys out of order."""

    def __init__(self, path: Path):
        self.path, self._file = path, path.open("rb", buffering=1 << 16)
        self._offsets: dict[str, int] | None = None

    def get(self, key: str) -> Any:
        """The JSON value of `key`; None if the file lacks it."""
        found, text = self._next()
        if found != key:
            offset = self._index().get(key)
            if offset is None:
                return None
            self._file.seek(offset)
            _, text = self._next()
        return _json(text)

    def _next(self) -> tuple[str, bytes]:
        line = self._file.readline(LONGEST_LINE).rstrip(b"\r\n")
        key, _, text = line.partition(b"\t")
        return key.decode("utf-8", "replace").strip(), text

    def _index(self) -> dict[str, int]:
        if self._offsets is None:
            self._offsets, offset = {}, 0
            with self.path.open("rb") as file:
                while line := file.readline(LONGEST_LINE):
                    self._offsets[line.partition(b"\t")[0].decode("utf-8", "replace").strip()] = offset
                    offset += len(line)
        return self._offsets


def open_vinvl(path: Path) -> Source:
    """The features as a stream.

    Args:
        path: `features.tsv`, a `predictions.tsv` that holds features, or the folder of either.

    Raises:
        DataError: there is no such file, or the lineidx does not fit it.
    """
    path = _find_features(path)
    check_lineidx(path)
    label_path = _beside(path, LABEL_NAMES, ".label.tsv")
    has_own_labels = label_path == path or _has_objects(path)
    if has_own_labels:
        label_path = path
    classes, attributes = _gather_names(label_path) if label_path else ((), ())
    progress = Progress(total=max(path.stat().st_size, 1))
    labels = None if has_own_labels or label_path is None else _KeyedFile(label_path)
    sizes_path = _beside(path, (), ".hw.tsv")
    sizes = _KeyedFile(sizes_path) if sizes_path else None
    images = _images(path, labels, sizes, classes, attributes, progress)
    return Source("vinvl-tsv", classes or UNKNOWN_CLASSES, attributes, images, progress)


def looks_like_vinvl(path: Path) -> bool:
    """Whether the file's first line is one of VinVL's three forms, or a folder holds such a file."""
    if path.is_dir():
        return any((path / name).is_file() for name in ("features.tsv", "feature.tsv", *LABEL_NAMES))
    with path.open("rb") as file:
        fields = file.readline(LONGEST_LINE).rstrip(b"\r\n").split(b"\t")
    return len(fields) == 3 or (len(fields) == 2 and fields[1][:1] in (b"{", b"["))


def check_lineidx(path: Path) -> None:
    """Compares `NAME.lineidx` (the byte where each line begins, one per line) with `NAME.tsv`, where it is there.

    Raises:
        DataError: the last line it speaks of does not begin where a line begins, or there are more lines after it: one of
            the two files was cut short.
    """
    index = path.with_suffix(".lineidx")
    if not index.is_file():
        return
    last = _last_line(index)
    with path.open("rb") as file:
        fits = last.isdigit() and int(last) < path.stat().st_size
        if fits:
            file.seek(max(int(last) - 1, 0))
            fits = int(last) == 0 or file.read(1) == b"\n"
            file.readline(LONGEST_LINE)
            fits = fits and not file.read(1)
    if not fits:
        raise DataError(
            f"cannot import {path}",
            f"its index {index.name} says the last line begins at byte {last}; the file has {path.stat().st_size:,} bytes",
            "one of the two was cut short: download both again, or remove the index to import what is there",
        )


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 100, 0))
        return (file.read().split() or [b""])[-1].decode("ascii", "replace")


def _find_features(path: Path) -> Path:
    if path.is_dir():
        for name in ("features.tsv", "feature.tsv", *LABEL_NAMES):
            if (path / name).is_file():
                return path / name
        raise DataError(f"cannot import {path}", "it has no features.tsv", "name the file itself")
    return path


def _beside(path: Path, names: tuple[str, ...], suffix: str) -> Path | None:
    """The file of one of `names` in the features' folder; else the one that ends in `suffix`, of the same stem if many."""
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    found = sorted(path.parent.glob(f"*{suffix}"))
    same = [other for other in found if other.name.split(".")[0] == path.name.split(".")[0]]
    candidates = same or found
    return candidates[0] if len(candidates) == 1 else None


def _has_objects(path: Path) -> bool:
    with path.open("rb") as file:
        text = file.readline(LONGEST_LINE).partition(b"\t")[2]
    return b'"objects"' in text[:4096] or (text[:1] == b"[" and b'"feature"' in text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from None


def _parse_labels(value: Any, size: Any) -> _Labels:
    """Raises BadRow where the value is neither a list of objects nor a dict with one."""
    objects = value.get("objects") if isinstance(value, dict) else value
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise BadRow("the labels are not a list of objects")
    found = None
    if isinstance(value, dict) and "image_w" in value:
        found = (int(value["image_w"]), int(value["image_h"]))
    elif isinstance(size, list) and size and isinstance(size[0], dict):
        found = (int(size[0]["width"]), int(size[0]["height"]))
    words = [_first(one.get("attributes")) for one in objects]
    scores = [_first(one.get("attr_scores")) for one in objects]
    return _Labels(
        classes=tuple(_word(one.get("class", "")) for one in objects),
        conf=tuple(float(one.get("conf", 0.0)) for one in objects),
        attributes=tuple(_word(word) if isinstance(word, str) else "" for word in words),
        attribute_conf=tuple(float(s) if isinstance(s, int | float) else 0.0 for s in scores),
        rects=tuple(tuple(float(x) for x in one.get("rect", ())) for one in objects),
        size_wh=found,
        features=tuple(one["feature"] for one in objects if isinstance(one.get("feature"), str)),
    )


def _word(value: Any) -> str:
    if not isinstance(value, str) or has_surrogate(value):
        raise BadRow(f"a class is {shown(value)}, not a text")
    return value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _gather_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All class and attribute words of a label file, each in alphabetical order; one line in memory at a time."""
    classes: set[str] = set()
    attributes: set[str] = set()
    for _, line in read_lines(path, Progress()):
        try:
            labels = _parse_labels(_json(line.partition(b"\t")[2]), None)
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # the second pass reports it with its line
        classes.update(labels.classes)
        attributes.update(labels.attributes)
    return tuple(sorted(classes)), tuple(sorted(attributes - {""}))


def _images(
    path: Path,
    labels: _KeyedFile | None,
    sizes: _KeyedFile | None,
    classes: tuple[str, ...],
    attributes: tuple[str, ...],
    progress: Progress,
) -> Iterator[ForeignImage | BadImage]:
    class_ids = {name: number for number, name in enumerate(classes)}
    attribute_ids = {name: number for number, name in enumerate(attributes)}
    for where, line in read_lines(path, progress):
        row = split_fields(line)
        key = bytes(row[0][:200]).decode("utf-8", "replace").strip()
        try:
            size = sizes.get(key) if sizes else None
            own, features, boxes = _own_parts(row, size)
            named = own
            if named is None and labels is not None:
                value = labels.get(key)
                if value is None:
                    raise BadRow(f"{labels.path.name} has no line for it")
                named = _parse_labels(value, size)
            yield _assemble(key, where, features, boxes, named, size, class_ids, attribute_ids)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            yield BadImage(key, where, f"{error}" if isinstance(error, BadRow) else f"{type(error).__name__}: {error}")


def _own_parts(row: list[memoryview], size: Any) -> tuple[_Labels | None, np.ndarray, np.ndarray | None]:
    """Labels if the line holds them, features (R, F), and unit boxes (R, 4) if they stand behind the features."""
    if len(row) == 3:
        both = decode(row[2], "features", int(row[1]), np.float32)
    elif len(row) == 2:
        value = _json(bytes(row[1]))
        if not isinstance(value, dict) or "features" not in value:
            labels = _parse_labels(value, size)
            if len(labels.features) != len(labels.classes):
                raise BadRow(f"{len(labels.classes)} objects have {len(labels.features)} features")
            rows = [decode(text.encode(), "feature", 1, np.float32) for text in labels.features]
            width = rows[0].shape[1] if rows else 1
            if any(one.shape[1] != width for one in rows):
                raise BadRow("the objects' features differ in length")
            return labels, np.concatenate(rows) if rows else np.zeros((0, 1), np.float32), None
        both = decode(str(value["features"]).encode(), "features", int(value["num_boxes"]), np.float32)
    else:
        raise BadRow(f"{len(row)} fields; 2 or 3 were expected")
    if not len(both):
        return None, both, np.zeros((0, 4), np.float32)
    if both.shape[1] <= BOX_DIM:
        raise BadRow(f"{both.shape[1]} numbers a region: features and a box were expected")
    return None, both[:, :-BOX_DIM], both[:, -BOX_DIM:-2]


def _assemble(
    key: str,
    where: str,
    features: np.ndarray,
    unit_boxes: np.ndarray | None,
    named: _Labels | None,
    size: Any,
    class_ids: dict[str, int],
    attribute_ids: dict[str, int],
) -> ForeignImage:
    if named is None:
        found = _parse_labels([], size).size_wh
        assert unit_boxes is not None  # a line without labels holds the boxes
        return ForeignImage(key, where, features, unit_boxes, found, is_unit=True)
    if len(named.classes) != len(features):
        raise BadRow(f"{len(features)} features but {len(named.classes)} labels")
    rects = np.array(named.rects, dtype=np.float64).reshape(len(named.rects), -1)
    boxes = rects if unit_boxes is None else unit_boxes
    return ForeignImage(
        key,
        where,
        features=features,
        boxes_xyxy=boxes if len(boxes) else np.zeros((0, 4), np.float32),
        image_wh_px=named.size_wh,
        is_unit=unit_boxes is not None,
        object_ids=np.array([class_ids[name] for name in named.classes], dtype=np.int64),
        object_conf=np.array(named.conf, dtype=np.float64),
        attribute_ids=np.array([attribute_ids.get(w, NO_ATTRIBUTE) for w in named.attributes], dtype=np.int64),
        attribute_conf=np.array(named.attribute_conf, dtype=np.float64),
    )
