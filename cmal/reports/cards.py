"""What is shown of one answer of each task: its text, its pictures with boxes, and the answer beside what was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmal.data.records import EntailmentRecord, ImageTextRecord, PairRecord, Record, ReferringRecord, VqaRecord
from cmal.regions.boxes import iou_matrix, xywh_to_xyxy
from cmal.runs.evaluate import Evaluation
from cmal.tasks.shortlist import seen_from

SHOWN_RANKS = 5
RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class NamedBox:
    """A box to draw: x1 y1 x2 y2 in pixels, what is written in it, and "right", "wrong" or "expected"."""

    box_xyxy_px: Sequence[float]
    name: str
    kind: str


@dataclass(frozen=True)
class ShownPicture:
    """One picture of a card. `note` is written under it; `kind` is "right" where it is the right one, else ""."""

    image_id: str
    boxes: tuple[NamedBox, ...] = ()
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Card:
    """One answer.

    Attributes:
        value: its part of the main metric, 0 to 1; state: "right", "partly" or "wrong".
        group: what cards can be chosen by (answer type, label); "" if the task has none.
        rows: (what, words) lines beside the pictures.
    """

    id: str
    value: float
    text: str
    pictures: tuple[ShownPicture, ...]
    rows: tuple[tuple[str, str], ...]
    group: str = ""

    @property
    def state(self) -> str:
        return RIGHT if self.value >= 1 else WRONG if self.value <= 0 else "partly"


def make_card(evaluation: Evaluation, number: int) -> Card:
    """The card of one record of an evaluation."""
    record, value = evaluation.records[number], float(evaluation.values[number])
    if "scores" in evaluation.answers and isinstance(record, ImageTextRecord):
        return _retrieval(evaluation, number, value)
    return _OF_KIND[type(record)](record, evaluation.answers[record.id], value)


def _referring(record: ReferringRecord, boxes: Sequence[Sequence[float]], value: float) -> Card:
    expected = xywh_to_xyxy(np.array([record.box_xywh_px]))
    shown, said = [NamedBox(expected[0].tolist(), "expected", "expected")], "no region to choose from"
    if boxes:
        overlap = float(iou_matrix(np.array(boxes[:1]), expected)[0, 0])
        shown.append(NamedBox(boxes[0], "chosen", RIGHT if value else WRONG))
        said = f"overlap {overlap:.2f}, among {len(boxes)} regions"
    picture = ShownPicture(record.image_id, tuple(shown))
    return Card(record.id, value, record.expression, (picture,), (("chosen", said),))


def _question(record: VqaRecord, answer: str, value: float) -> Card:
    counted = ", ".join(f"{text} ({n})" for text, n in Counter(record.answers).most_common()) or "none given"
    rows = (("answer", answer), ("annotators", counted), ("score", f"{value:.2f}"))
    return Card(record.id, value, record.question, (ShownPicture(record.image_id),), rows, record.answer_type)


def _entailment(record: EntailmentRecord, answer: str, value: float) -> Card:
    rows = (("answer", answer), ("expected", record.label))
    return Card(record.id, value, record.hypothesis, (ShownPicture(record.image_id),), rows, record.label)


def _pair(record: PairRecord, answer: str, value: float) -> Card:
    pictures = (ShownPicture(record.left_image_id, note="left"), ShownPicture(record.right_image_id, note="right"))
    rows = (("answer", answer), ("expected", record.label))
    return Card(record.id, value, record.sentence, pictures, rows, record.label)


def _retrieval(evaluation: Evaluation, number: int, value: float) -> Card:
    """The caption's best images, and its own image's best captions."""
    records: Sequence[Any] = evaluation.records
    for_captions, for_images = seen_from(evaluation.answers)  # (images, captions)
    record, images = records[number], list(dict.fromkeys(r.image_id for r in records))
    own = images.index(record.image_id)
    order = np.argsort(-for_captions[:, number], kind="stable")
    rank = order.tolist().index(own) + 1
    pictures = tuple(
        ShownPicture(images[i], note=f"{rank}. {for_captions[i, number]:.2f}", kind=RIGHT if i == own else "")
        for rank, i in enumerate(order[:SHOWN_RANKS].tolist(), start=1)
    )
    best = np.argsort(-for_images[own], kind="stable")[:SHOWN_RANKS].tolist()
    captions = [(f"{'✓' if records[i].image_id == record.image_id else '✗'} {for_images[own, i]:.2f}", i) for i in best]
    reported = ("its image", f"rank {rank} of {len(images)}; that image's best captions:")
    rows = (reported, *((mark, records[i].caption) for mark, i in captions))
    return Card(record.id, value, record.caption, pictures, rows)


_OF_KIND: dict[type[Record], Any] = {
    ReferringRecord: _referring,
    VqaRecord: _question,
    EntailmentRecord: _entailment,
    PairRecord: _pair,
}
