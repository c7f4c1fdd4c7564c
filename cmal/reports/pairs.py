"""Which pairs of a probe are shown, and what is to be seen on each: words, boxes, whether they are right, associations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmal.data.records import ImageTextRecord
from cmal.data.text import split_words, word_spans
from cmal.regions.inspect import region_tag
from cmal.regions.types import Regions
from cmal.reports.sample import sample_items
from cmal.runs.probe import Probe
from cmal.tasks.anchor_probe import ROLES, GoldSpan, gold_boxes_by_span, judge_anchors
from cmal.tasks.association_probe import Answer

Box = tuple[float, float, float, float]
_Key = tuple[int, int, int, int, bool]  # record, region, first word, past the last, is attribute


@dataclass(frozen=True)
class ShownAnchor:
    """A word span and a box.

    Attributes:
        state: "right" or "false" by gold anchors, "missed" (a gold anchor that was not found), "unknown" without gold.
        role: "object" or "attribute"; concept: its name.
        span: first character of the caption and one past the last.
        box_xyxy_px: of the region, or of the gold box where it was missed; tag: the detector's word for it, "" if missed.
        word_to_region, region_to_word: what the model says there, if there is a model.
    """

    state: str
    role: str
    concept: str
    span: tuple[int, int]
    box_xyxy_px: Box
    tag: str
    word_to_region: Answer | None = None
    region_to_word: Answer | None = None

    @property
    def model_state(self) -> str:
        """ "right" if both associations are, "wrong" if one is not, "" without a model."""
        if self.word_to_region is None or self.region_to_word is None:
            return ""
        return "right" if self.word_to_region.is_right and self.region_to_word.is_right else "wrong"


@dataclass(frozen=True)
class ShownPair:
    """One caption and its image. `boxes`: (box, tag) of every region."""

    record: ImageTextRecord
    image_wh_px: tuple[int, int]
    boxes: tuple[tuple[Box, str], ...]
    anchors: tuple[ShownAnchor, ...]


def choose_pairs(probe: Probe, count: int) -> list[ShownPair]:
    """Up to `count` pairs, half of them with an error if there are enough such pairs.

    Each half is spread evenly over the records.
    """
    answers = _answers_by_anchor(probe)
    has_error = [_has_error(_pair(probe, number, answers)) for number in range(len(probe.records))]
    return [_pair(probe, number, answers) for number in sample_items(has_error, count)]


def _has_error(pair: ShownPair) -> bool:
    return any(a.state in ("false", "missed") or a.model_state == "wrong" for a in pair.anchors)


def _answers_by_anchor(probe: Probe) -> dict[_Key, tuple[Answer, Answer]]:
    found = probe.association
    if found is None:
        return {}
    rows = zip(found.queries, found.is_attribute.tolist(), found.answers["t2v"], found.answers["v2t"])
    return {(q.record, q.region, *q.span, is_attribute): (t2v, v2t) for q, is_attribute, t2v, v2t in rows}


def _pair(probe: Probe, number: int, answers: dict[_Key, tuple[Answer, Answer]]) -> ShownPair:
    record = probe.records[number]
    regions = probe.store[record.image_id]
    mentions = probe.finder.find_mentions(split_words(record.caption))
    anchors = probe.finder.find_anchors(mentions, regions)
    chars = np.array(word_spans(record.caption), np.int64).reshape(-1, 2)
    rows = probe.gold.get(record.id)
    states, matched = ["unknown"] * len(anchors), set[GoldSpan]()
    if rows is not None:
        right, matched = judge_anchors(anchors, mentions, chars, regions.boxes_xyxy_px, gold_boxes_by_span(rows))
        states = ["right" if one else "false" for one in right]
    boxes = _boxes(probe, regions)
    shown = []
    for index, (region, mention) in enumerate(anchors.pairs.tolist()):
        first, past = mentions.spans[mention].tolist()
        is_attribute = bool(anchors.is_attribute[index])
        said = answers.get((number, region, first, past, is_attribute), (None, None))
        name = probe.finder.thesaurus.concept_names[int(anchors.concepts[index])]
        span = (int(chars[first][0]), int(chars[past - 1][1]))
        shown.append(ShownAnchor(states[index], ROLES[is_attribute], name, span, *boxes[region], *said))
    return ShownPair(record, regions.image_wh_px, boxes, (*shown, *_missed(rows or (), matched)))


def _missed(rows: Sequence[dict[str, Any]], matched: set[GoldSpan]) -> Iterator[ShownAnchor]:
    """Gold spans that no right anchor matches, one per box."""
    for row in rows:
        span = tuple(row["span"])
        if (row["role"], *span) not in matched:
            yield ShownAnchor("missed", row["role"], row["concept"], span, tuple(row["box_xyxy_px"]), "")


def _boxes(probe: Probe, regions: Regions) -> tuple[tuple[Box, str], ...]:
    """Box and tag ("red dog .87") of every region."""
    names, attributes = probe.store.class_names, probe.store.attribute_names
    boxes = np.asarray(regions.boxes_xyxy_px, np.float64).round(1).tolist()
    return tuple((tuple(box), region_tag(regions, row, names, attributes)) for row, box in enumerate(boxes))
