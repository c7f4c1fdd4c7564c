"""What one line of each prepared data set means: frozen dataclasses, and how they are read from and written to jsonl.

`cmal prepare` writes `<split>.jsonl`, one record a line, UTF-8, keys as the field names below. Reading checks every
field and reports all errors of a file together, each with its line. Image ids are unique over all data sets and are
the keys of the region store (see `cmal/regions/image_ids.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cmal.errors import DataError, list_errors, shown
from cmal.io.json_stream import has_surrogate


@dataclass(frozen=True)
class ImageTextRecord:
    """An image and one caption of it. coco-captions, vg-captions, cc3m, sbu, flickr30k, pairs, scenes."""

    id: str
    image_id: str
    caption: str


@dataclass(frozen=True)
class VqaRecord:
    """A question about an image. `answers` holds the annotators' answers as given (ten in VQA v2), none in a test split."""

    id: str
    image_id: str
    question: str
    answers: tuple[str, ...] = ()
    question_type: str = ""
    answer_type: str = ""


@dataclass(frozen=True)
class EntailmentRecord:
    """Does the image entail, contradict or say nothing about the hypothesis? `label` is one of the three strings or ""."""

    id: str
    image_id: str
    hypothesis: str
    label: str = ""


@dataclass(frozen=True)
class ReferringRecord:
    """One *sentence* that refers to one object of the image.

    `box_xywh_px` is the object's box as COCO gives it. `candidate_boxes_xywh_px` are the boxes of all objects of the image
    (the `gt` protocol), in the annotation file's order; the object itself is among them.
    """

    id: str
    ref_id: str
    image_id: str
    expression: str
    box_xywh_px: tuple[float, float, float, float]
    candidate_boxes_xywh_px: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class PairRecord:
    """A sentence about two images (NLVR2); `label` is "True", "False" or "". `identifier` groups rows for consistency."""

    id: str
    left_image_id: str
    right_image_id: str
    sentence: str
    identifier: str
    label: str = ""


@dataclass(frozen=True)
class PhraseRecord:
    """A phrase of a sentence and the boxes of what it names (Flickr30k Entities).

    `span` is the phrase's first character in the sentence and one past its last. `boxes_xywh_px` are in pixels of the
    original photograph, whose width and height are `image_wh_px`; the file at hand may be a resized copy.
    """

    id: str
    image_id: str
    sentence: str
    span: tuple[int, int]
    phrase_types: tuple[str, ...]
    boxes_xywh_px: tuple[tuple[float, float, float, float], ...]
    image_wh_px: tuple[int, int]

    @property
    def phrase(self) -> str:
        """The words of the phrase."""
        return self.sentence[self.span[0] : self.span[1]]


_ENCODER = json.JSONEncoder(ensure_ascii=False)

Record = ImageTextRecord | VqaRecord | EntailmentRecord | ReferringRecord | PairRecord | PhraseRecord
RecordType = TypeVar("RecordType", bound=Record)

_TEXT, _TEXTS, _BOX, _BOXES = "text", "list of texts", "box [x, y, w, h]", "list of boxes"
_NUMBERS = "pair of whole numbers"


def _kind_of(annotation: object) -> str:
    if annotation is str:
        return _TEXT
    arguments = typing.get_args(annotation)
    if arguments[0] is str:
        return _TEXTS
    if arguments == (int, int):
        return _NUMBERS
    return _BOX if arguments[0] is float else _BOXES


@functools.cache
def _fields_of(kind: type) -> tuple[tuple[str, str, bool], ...]:
    """Name, kind of value and whether it is required, of every field. Hints are text: evaluating them takes long."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, _kind_of(hints[field.name]), field.default is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    )


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e9 for x in value)
        and value[2] >= 0
        and value[3] >= 0
    )


def _is_text(value: object) -> bool:
    """A text of whole characters: half of one (a lone surrogate) can be written nowhere."""
    return isinstance(value, str) and not has_surrogate(value)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(x) is int and 0 <= x < 1 << 31 for x in value)


_CHECKS = {
    _TEXT: _is_text,
    _TEXTS: lambda v: isinstance(v, list) and all(map(_is_text, v)),
    _BOX: _is_box,
    _BOXES: lambda v: isinstance(v, list) and all(_is_box(x) for x in v),
    _NUMBERS: _is_pair,
}
_CASTS = {
    _TEXT: lambda v: v,
    _TEXTS: tuple,
    _BOX: lambda v: tuple(float(x) for x in v),
    _BOXES: lambda v: tuple(tuple(float(x) for x in box) for box in v),
    _NUMBERS: tuple,
}


def parse_record(line: str | bytes, kind: type[RecordType]) -> RecordType:
    """One jsonl line as a record of `kind`.

    Raises:
        ValueError: not JSON, not an object, a key missing or unknown, or a value of the wrong type; the text says which.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    values = {}
    for name, expected, is_required in _fields_of(typing.cast(type, kind)):
        if name not in row:
            if is_required:
                raise ValueError(f'key "{name}" is missing')
            continue
        value = row.pop(name)
        if not _CHECKS[expected](value):
            raise ValueError(f'"{name}" should be a {expected}, found {shown(value)}')
        values[name] = _CASTS[expected](value)
    if row:
        raise ValueError(f'unknown key "{next(iter(row))}"')
    if not values["id"]:
        raise ValueError('"id" is empty')
    return kind(**values)


def record_line(record: Record) -> str:
    """The record as its jsonl line, newline included; the inverse of `parse_record`."""
    return _ENCODER.encode(vars(record)) + "\n"


def iterate_records(path: Path, kind: type[RecordType]) -> Iterator[RecordType]:
    """Every record of a jsonl file in order, in bounded memory; blank lines are passed over.

    Raises:
        DataError: the file is missing or empty, or some lines cannot be used (all reported together, with their lines).
    """
    errors, count = [], 0
    for number, line in enumerate(_open_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = parse_record(line, kind)
        except ValueError as error:
            errors.append(f"line {number}: {error}")
            continue
        count += 1
        if not errors:
            yield record
    if errors:
        raise DataError(
            f"cannot read {path} as {kind.__name__} lines",
            list_errors(errors),
            "prepare the data set again: cmal prepare",
        )
    if not count:
        raise DataError(f"cannot read {path}", "it holds no record", "prepare the data set again: cmal prepare")


def _open_lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise DataError(f"cannot read records {path}", "there is no such file", "make it first: cmal prepare DATASET")
    with path.open("rb") as file:
        yield from file


def read_records(path: Path, kind: type[RecordType]) -> list[RecordType]:
    """All records of a jsonl file. Raises DataError as `iterate_records`, and when two records share an id."""
    records = list(iterate_records(Path(path), kind))
    repeated = [id for id, count in Counter(record.id for record in records).items() if count > 1]
    if repeated:
        raise DataError(
            f"cannot use {path}",
            f'{len(repeated):,} record ids appear twice, the first is "{repeated[0]}"',
            "prepare the data set again: cmal prepare",
        )
    return records
