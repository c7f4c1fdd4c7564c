"""What `probe-anchors` measures of anchors: coverage, and precision and recall where gold anchors are known.

Plain functions of arrays and plain values; they print nothing. A gold row is what `prepare scenes` writes beside the
captions: {"id", "image_id", "caption", "anchors": [{"role": "object" | "attribute", "span": [first character, one past the
last], "concept", "box_xyxy_px"}]}; a span that speaks of several things ("two dogs") comes once for each box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmal.anchors.finder import AnchorFinder, Anchors, Mentions
from cmal.regions.boxes import iou_matrix
from cmal.regions.types import Regions

ROLES = ("object", "attribute")
GOLD_IOU = 0.5
MAX_COMMON = 12

GoldSpan = tuple[str, int, int]  # role, first character, one past the last


@dataclass(frozen=True)
class ProbeItem:
    """One caption and its image.

    Attributes:
        words, char_spans: of the caption, as `WordPieces.encode` gives them: (W,) words and (W, 2) characters.
        regions: of the image.
        gold: the gold row's "anchors", or None where no gold is known.
    """

    words: Sequence[str]
    char_spans: np.ndarray
    regions: Regions
    gold: Sequence[dict[str, Any]] | None = None


@dataclass
class _RoleCounts:
    found: int = 0
    right: int = 0
    gold_spans: int = 0
    gold_matched: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        return {
            "precision": self.right / self.found if self.found else None,
            "recall": self.gold_matched / self.gold_spans if self.gold_spans else None,
            "found": self.found,
            "right": self.right,
            "gold_spans": self.gold_spans,
            "gold_spans_met": self.gold_matched,
        }


def anchor_statistics(finder: AnchorFinder, items: Iterable[ProbeItem]) -> dict[str, Any]:
    """Statistics of the anchors between captions and their images.

    A found anchor is *right* when a gold span of its role overlaps its words and its region's box has an IoU of at least
    0.5 with one of that span's boxes. A gold span is *matched* when at least one anchor is right because of it; a span
    with several boxes counts once.

    Returns:
        JSON values: `pairs`, `pairs_with_anchor`, `coverage` (their share), `anchors`, `anchors_per_pair`,
        `object_anchors_per_pair`, `attribute_anchors_per_pair`, `concepts` (anchors by concept name, most first); and, where
        some items have gold, `gold`: `pairs`, then `all`, `object`, `attribute` (each precision, recall and counts;
        None where nothing was to be counted), `missed` and `false` (the twelve most common, each with its count).
    """
    pairs = covered = object_anchors = attribute_anchors = gold_pairs = 0
    concepts: Counter[int] = Counter()
    counts = {role: _RoleCounts() for role in ROLES}
    missed: Counter[tuple[str, str]] = Counter()
    false: Counter[tuple[str, str, str]] = Counter()
    for item in items:
        mentions = finder.find_mentions(item.words)
        anchors = finder.find_anchors(mentions, item.regions)
        pairs += 1
        covered += len(anchors) > 0
        attribute_anchors += int(anchors.is_attribute.sum())
        object_anchors += int((~anchors.is_attribute).sum())
        concepts.update(anchors.concepts.tolist())
        if item.gold is not None:
            gold_pairs += 1
            _compare(finder, item, mentions, anchors, counts, missed, false)
    names = finder.thesaurus.concept_names
    total = object_anchors + attribute_anchors
    statistics: dict[str, Any] = {
        "pairs": pairs,
        "pairs_with_anchor": covered,
        "coverage": covered / pairs if pairs else None,
        "anchors": total,
        "anchors_per_pair": total / pairs if pairs else None,
        "object_anchors_per_pair": object_anchors / pairs if pairs else None,
        "attribute_anchors_per_pair": attribute_anchors / pairs if pairs else None,
        "concepts": {f"{_kind(finder, c)}: {names[c]}": n for c, n in _most_common(concepts, None)},
    }
    if gold_pairs:
        statistics["gold"] = {
            "pairs": gold_pairs,
            "all": _sum(counts.values()).as_dict(),
            **{role: counts[role].as_dict() for role in ROLES},
            "missed": [{"role": role, "words": w, "count": n} for (role, w), n in _most_common(missed, MAX_COMMON)],
            "false": [
                {"role": role, "words": w, "tag": tag, "count": n}
                for (role, w, tag), n in _most_common(false, MAX_COMMON)
            ],
        }
    return statistics


def _compare(
    finder: AnchorFinder,
    item: ProbeItem,
    mentions: Mentions,
    anchors: Anchors,
    counts: dict[str, _RoleCounts],
    missed: Counter[tuple[str, str]],
    false: Counter[tuple[str, str, str]],
) -> None:
    """Adds one item to the counts."""
    gold = gold_boxes_by_span(item.gold or ())
    right, matched = judge_anchors(anchors, mentions, item.char_spans, item.regions.boxes_xyxy_px, gold)
    for index, (region, mention) in enumerate(anchors.pairs.tolist()):
        role = ROLES[int(anchors.is_attribute[index])]
        counts[role].found += 1
        counts[role].right += int(right[index])
        if not right[index]:
            start, end = mentions.spans[mention].tolist()
            tag = _tag_name(finder, item.regions, region, role)
            false[role, " ".join(item.words[start:end]), tag] += 1
    for span in gold:
        counts[span[0]].gold_spans += 1
        counts[span[0]].gold_matched += span in matched
        if span not in matched:
            missed[span[0], _words_in(item, span)] += 1


def gold_boxes_by_span(gold: Iterable[dict[str, Any]]) -> dict[GoldSpan, np.ndarray]:
    """The boxes (N, 4) of each gold span."""
    boxes: dict[GoldSpan, list[Any]] = {}
    for row in gold:
        boxes.setdefault((row["role"], *row["span"]), []).append(row["box_xyxy_px"])
    return {span: np.asarray(rows, dtype=np.float64).reshape(-1, 4) for span, rows in boxes.items()}


def judge_anchors(
    anchors: Anchors,
    mentions: Mentions,
    char_spans: np.ndarray,
    boxes_xyxy_px: np.ndarray,
    gold: dict[GoldSpan, np.ndarray],
) -> tuple[np.ndarray, set[GoldSpan]]:
    """(A,) True where an anchor is right, and the gold spans that the right anchors match."""
    right = np.zeros(len(anchors), dtype=bool)
    matched: set[GoldSpan] = set()
    for index, (region, mention) in enumerate(anchors.pairs.tolist()):
        first_word, past_last = mentions.spans[mention].tolist()
        start, end = int(char_spans[first_word][0]), int(char_spans[past_last - 1][1])
        role = ROLES[int(anchors.is_attribute[index])]
        for span, gold_boxes in gold.items():
            overlaps = span[0] == role and span[1] < end and start < span[2]
            if overlaps and iou_matrix(boxes_xyxy_px[[region]], gold_boxes).max() >= GOLD_IOU:
                right[index] = True
                matched.add(span)
    return right, matched


def _kind(finder: AnchorFinder, concept: int) -> str:
    return ROLES[int(concept >= finder.thesaurus.attribute_start)]


def _tag_name(finder: AnchorFinder, regions: Regions, region: int, role: str) -> str:
    concepts = finder.region_concepts(regions)
    concept = (concepts.objects if role == "object" else concepts.attributes)[region]
    return finder.thesaurus.concept_names[concept]


def _words_in(item: ProbeItem, span: GoldSpan) -> str:
    _, start, end = span
    return " ".join(w for w, (first, past) in zip(item.words, item.char_spans.tolist()) if first < end and start < past)


def _most_common(counter: Counter[Any], count: int | None) -> list[tuple[Any, int]]:
    """Most frequent first; ties in the keys' own order, so that the report is the same in every run."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


def _sum(counts: Iterable[_RoleCounts]) -> _RoleCounts:
    total = _RoleCounts()
    for one in counts:
        total.found += one.found
        total.right += one.right
        total.gold_spans += one.gold_spans
        total.gold_matched += one.gold_matched
    return total
