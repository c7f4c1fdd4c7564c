"""What one line of each prepared data set means: frozen dataclasses, and how they are read from and written to jsonl.

`cmal prepare` writes `<split>.jsonl`, one record a line, UTF-8, keys as the field names below. Reading checks every
field and reports all faults of a file together, each with its line. Image ids are unique over all data sets and are
the keys of the region store (see `cmal/data/image_ids.py`).
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmal.errors import DataError, list_faults


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


Record = ImageTextRecord | VqaRecord | EntailmentRecord | ReferringRecord | PairRecord
