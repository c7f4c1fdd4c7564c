"""Bottom-up-attention and LXMERT feature files: one image per line, tab-separated fields, arrays as base64.

- 6 fields, bottom-up-attention: `image_id image_w image_h num_boxes boxes features`;
- 10 fields, LXMERT and py-bottom-up-attention: `img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes
  boxes features`.

Width and height are in different order. boxes: float32 (R, 4) x1 y1 x2 y2 in pixels; features: float32 (R, F); ids int64;
confidences float32. Object ids index the 1,600 Visual Genome classes, attribute ids the 400 attributes.

Sources: peteanderson80/bottom-up-attention tools/generate_tsv.py; airsplay/py-bottom-up-attention.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError
from cmal.regions.imports.foreign import UNKNOWN_CLASSES, BadImage, BadRow, ForeignImage, Progress, Source

FIELDS_OF_BUTD, FIELDS_OF_LXMERT = 6, 10
_LABELS: tuple[tuple[str, str, type], ...] = (  # field, attribute of ForeignImage, type
    ("objects_id", "object_ids", np.int64),
    ("objects_conf", "object_conf", np.float32),
    ("attrs_id", "attribute_ids", np.int64),
    ("attrs_conf", "attribute_conf", np.float32),
)
LONGEST_LINE = 64 << 20  # bytes; 100 regions of 2,048 numbers take 1.1 MB


def open_tsv(path: Path, class_names: tuple[str, ...], attribute_names: tuple[str, ...]) -> Source:
    """The file as a stream.

    Args:
        class_names, attribute_names: of the ids; unused for files of 6 fields, which have no ids.

    Raises:
        DataError: the file is empty or its first line has neither 6 nor 10 fields.
    """
    fields = count_fields(path)
    if fields not in (FIELDS_OF_BUTD, FIELDS_OF_LXMERT):
        raise DataError(
            f"cannot import {path}",
            f"its first line has {fields} tab-separated fields",
            "bottom-up-attention files have 6, LXMERT files 10: check the file",
        )
    progress = Progress(total=max(path.stat().st_size, 1))
    if fields == FIELDS_OF_BUTD:
        return Source("butd-tsv", UNKNOWN_CLASSES, (), _images(path, fields, progress), progress)
    return Source("lxmert-tsv", class_names, attribute_names, _images(path, fields, progress), progress)


def count_fields(path: Path) -> int:
    """How many tab-separated fields the first line has; 0 for an empty file."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    return len(line.split(b"\t")) if line.strip() else 0


def _images(path: Path, fields: int, progress: Progress) -> Iterator[ForeignImage | BadImage]:
    for where, line in read_lines(path, progress):
        row = split_fields(line)
        key = bytes(row[0][:200]).decode("utf-8", "replace").strip()
        if len(row) != fields:
            yield BadImage(key, where, f"{len(row)} fields instead of {fields}: cut short?")
            continue
        try:
            yield _parse(key, where, row)
        except (BadRow, ValueError) as error:
            yield BadImage(key, where, str(error))


def read_lines(path: Path, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """("line 1", the line with its end), ...; without blank lines. Holds one line in memory.

    Raises:
        DataError: a line is longer than 64 MB, so this is no feature file.
    """
    number = 0
    with path.open("rb", buffering=1 << 20) as file:
        while line := file.readline(LONGEST_LINE):
            number += 1
            progress.done += len(line)
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise DataError(
                    f"cannot import {path}, line {number}",
                    "the line is longer than 64 MB",
                    "this is not a feature file: check it",
                )
            if len(line) > 2 or line.strip():
                yield f"line {number}", line


def split_fields(line: bytes) -> list[memoryview]:
    """The tab-separated fields, the last one without the line end; views, to avoid copying 400 kB per line."""
    end = len(line) - (2 if line.endswith(b"\r\n") else line.endswith(b"\n"))
    view, fields, start = memoryview(line), [], 0
    while (tab := line.find(b"\t", start)) >= 0:
        fields.append(view[start:tab])
        start = tab + 1
    return [*fields, view[start:end]]


def _parse(key: str, where: str, row: list[memoryview]) -> ForeignImage:
    """The image of one line of 6 or 10 fields. Raises BadRow or ValueError."""
    count, boxes, features = row[-3:]
    regions = int(count)
    width, height = row[1:3] if len(row) == FIELDS_OF_BUTD else row[2:0:-1]
    labels: dict[str, Any] = {}
    for text, (name, attribute, dtype) in zip(row[3:-3], _LABELS):  # none in a line of 6 fields
        labels[attribute] = decode(text, name, regions, dtype, 1)[:, 0]
    return ForeignImage(
        key,
        where,
        features=decode(features, "features", regions, np.float32),
        boxes_xyxy=decode(boxes, "boxes", regions, np.float32, 4),
        image_wh_px=(int(width), int(height)),
        **labels,
    )


def decode(text: bytes | memoryview, name: str, regions: int, dtype: type, columns: int | None = None) -> np.ndarray:
    """base64 of (R, columns) as an array, read-only. Some files hold Python's `b'...'` around it, which is removed.

    Args:
        columns: how many values a region has; None is any number.

    Raises:
        BadRow: not base64, or not that many values a region.
    """
    if bytes(text[:2]) in (b"b'", b'b"'):
        text = text[2:-1]
    try:
        raw = binascii.a2b_base64(text)
    except binascii.Error as error:
        raise BadRow(f"{name} is not base64: {error}") from None
    size = np.dtype(dtype).itemsize
    if regions < 0 or len(text) % 4 or len(raw) != len(text) // 4 * 3 - bytes(text[-2:]).count(b"="):
        raise BadRow(f"{name} is not base64, or num_boxes is negative")
    if regions == 0:
        return np.zeros((0, columns or 1), dtype)
    if not raw or len(raw) % (regions * size) or columns not in (None, len(raw) // (regions * size)):
        raise BadRow(
            f"{name} has {len(raw):,} bytes; there are {regions} regions of {columns or 'some'} {size}-byte numbers"
        )
    return np.frombuffer(raw, dtype).reshape(regions, -1)
