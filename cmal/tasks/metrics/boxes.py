"""Overlap of boxes, and when a predicted box counts as the object that an expression refers to.

Boxes are xyxy in pixels, continuous coordinates: x2 - x1 is the width. All arithmetic is float64.
Legend: N, M boxes; S sentences (REC is scored per sentence, not per object).

What peers call a hit (`BOX_PROTOCOLS`):
- `official`, `uniter`: IoU > 0.5 on continuous boxes. The REFER toolbox's own function (MAttNet and UNITER have it too)
  counts an overlap of one pixel or less in either direction as none; that can decide only for boxes under 2 pixels wide or
  high, and we do not follow it there.
- `albef`: IoU >= 0.5, so exactly half is a hit.
- `volta`: IoU > 0.5 where every width and height is counted one pixel larger (as if coordinates were pixel indices).
- `mdetr`: *generalised* IoU >= 0.5 (`RefExpEvaluator`, `thresh_iou=0.5`); never more than the IoU, so it is the strictest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmal.errors import DataError, RecipeError, ShapeError
from cmal.regions.boxes import as_boxes, pairwise_generalised_iou, pairwise_iou


@dataclass(frozen=True)
class BoxProtocol:
    """A convention for hits: which overlap, above 0.5 or also at 0.5, and whether sizes are counted one pixel larger."""

    includes_half: bool = False
    plus_one: bool = False
    is_generalised: bool = False


BOX_PROTOCOLS = {
    "official": BoxProtocol(),
    "uniter": BoxProtocol(),
    "albef": BoxProtocol(includes_half=True),
    "volta": BoxProtocol(plus_one=True),
    "mdetr": BoxProtocol(includes_half=True, is_generalised=True),
}
THRESHOLD = 0.5


def is_hit(predicted_xyxy: np.ndarray, gold_xyxy: np.ndarray, protocol: str = "official") -> np.ndarray:
    """Is each predicted box the right one?

    Args:
        predicted_xyxy: (S, 4), row by row beside `gold_xyxy`; a row of four NaN says that there was no candidate: a miss.
        gold_xyxy: (S, 4).
        protocol: a key of `BOX_PROTOCOLS`.

    Returns:
        (S,) bool.

    Raises:
        ShapeError: the two differ in shape. DataError: a value is not finite (but for rows of NaN as above).
        RecipeError: the protocol is not known.
    """
    rule = _protocol(protocol)
    predicted, gold = as_boxes(predicted_xyxy), as_boxes(gold_xyxy)
    if predicted.shape != gold.shape:
        raise ShapeError(
            "cannot compare predicted boxes with gold boxes",
            f"their shapes are {predicted.shape} and {gold.shape}",
            "give one predicted box a sentence",
        )
    is_absent = np.isnan(predicted).all(axis=-1)
    _check_finite(predicted[~is_absent], "predicted boxes")
    _check_finite(gold, "gold boxes")
    return ~is_absent & _passes(np.where(is_absent[..., None], 0.0, predicted), gold, rule)


def rec_accuracy(predicted_xyxy: np.ndarray, gold_xyxy: np.ndarray, protocol: str = "official") -> float:
    """Share of sentences whose predicted box is a hit. As `is_hit`; DataError when there is no sentence."""
    hits = is_hit(predicted_xyxy, gold_xyxy, protocol)
    _check_some(len(hits))
    return float(np.count_nonzero(hits) / len(hits))


def oracle_recall(proposals_xyxy: Sequence[np.ndarray], gold_xyxy: np.ndarray, protocol: str = "official") -> float:
    """Share of sentences for which *some* proposal is a hit: no choice among these proposals can score more.

    Args:
        proposals_xyxy: for each of the S sentences its image's proposals (P, 4); P may be 0.
        gold_xyxy: (S, 4).

    Raises:
        ShapeError: not one set of proposals a sentence. DataError: no sentence, or a value that is not finite.
    """
    rule, gold = _protocol(protocol), as_boxes(gold_xyxy)
    if len(proposals_xyxy) != len(gold):
        raise ShapeError(
            "cannot measure the proposals' recall",
            f"there are {len(proposals_xyxy):,} sets of proposals for {len(gold):,} sentences",
            "give one set a sentence, empty where the image has none",
        )
    _check_some(len(gold))
    _check_finite(gold, "gold boxes")
    reached = 0
    for proposals, box in zip(proposals_xyxy, gold):
        candidates = as_boxes(np.asarray(proposals, dtype=np.float64).reshape(-1, 4))
        _check_finite(candidates, "proposals")
        reached += bool(_passes(candidates, box[None], rule).any())
    return reached / len(gold)


def _passes(predicted: np.ndarray, gold: np.ndarray, rule: BoxProtocol) -> np.ndarray:
    overlap = (
        pairwise_generalised_iou(predicted, gold)
        if rule.is_generalised
        else pairwise_iou(predicted, gold, rule.plus_one)
    )
    return overlap >= THRESHOLD if rule.includes_half else overlap > THRESHOLD


def _protocol(name: str) -> BoxProtocol:
    if name not in BOX_PROTOCOLS:
        raise RecipeError(
            f'unknown box protocol "{name}"', f"known are: {', '.join(BOX_PROTOCOLS)}", "choose one of these"
        )
    return BOX_PROTOCOLS[name]


def _check_finite(boxes: np.ndarray, name: str) -> None:
    if not np.isfinite(boxes).all():
        bad = int(np.count_nonzero(~np.isfinite(boxes).all(axis=-1)))
        raise DataError(
            f"cannot use the {name}",
            f"{bad:,} of {len(boxes):,} have a value that is not finite",
            "find where it came from",
        )


def _check_some(count: int) -> None:
    if not count:
        raise DataError("cannot score referring expressions", "there is no sentence", "choose a split that has some")
