"""Phrase grounding scores: does the box chosen for a phrase lie on the thing that the phrase names?

Gold is one or more boxes per phrase ("two dogs" has two). Protocols (`GROUNDING_PROTOCOLS`):
- `merged` (default): the smallest box around all gold boxes is the one right answer (Plummer et al. 2015).
- `any`: each gold box is a right answer (as MDETR scores Flickr30k Entities).

A box is a *hit* when its IoU with a right answer is at least 0.5. The *pointing game* counts whether the chosen box's
centre lies in a right answer; it asks for less, since size does not matter.

Legend: P proposals of one phrase, G gold boxes of it. Boxes are xyxy in any one unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmal.errors import RecipeError
from cmal.regions.boxes import iou_matrix

GROUNDING_PROTOCOLS = ("merged", "any")
RECALL_AT = (1, 5, 10)
MIN_IOU = 0.5


@dataclass(frozen=True)
class PhraseScore:
    """How one phrase was answered.

    Attributes:
        rank: position of the first hit among the proposals, 0 for the first; None where no proposal is a hit.
        is_pointed: the centre of the first proposal lies in a right answer.
        hit_share: share of the proposals that are hits: what choosing one at random scores.
    """

    rank: int | None
    is_pointed: bool
    hit_share: float


def right_boxes(gold_xyxy: np.ndarray, protocol: str) -> np.ndarray:
    """The right answers of a phrase: (G, 4) gold boxes -> (1, 4) under `merged`, (G, 4) under `any`.

    Raises:
        RecipeError: the protocol is not known.
    """
    if protocol not in GROUNDING_PROTOCOLS:
        raise RecipeError(
            f'unknown grounding protocol "{protocol}"',
            f"known are: {', '.join(GROUNDING_PROTOCOLS)}",
            "choose one of these",
        )
    if protocol == "any":
        return gold_xyxy
    return np.concatenate([gold_xyxy[:, :2].min(axis=0), gold_xyxy[:, 2:].max(axis=0)])[None]


def score_phrase(ranked_xyxy: np.ndarray, gold_xyxy: np.ndarray, protocol: str = "merged") -> PhraseScore:
    """Scores the proposals of one phrase, best first.

    Args:
        ranked_xyxy: (P, 4); P may be 0, which is a miss.
        gold_xyxy: (G, 4), at least one.
        protocol: one of `GROUNDING_PROTOCOLS`.
    """
    right = right_boxes(gold_xyxy, protocol)
    if not len(ranked_xyxy):
        return PhraseScore(None, False, 0.0)
    is_hit = (iou_matrix(ranked_xyxy, right) >= MIN_IOU).any(axis=1)  # (P,)
    centre = (ranked_xyxy[0, :2] + ranked_xyxy[0, 2:]) / 2
    is_pointed = bool(((right[:, :2] <= centre) & (centre <= right[:, 2:])).all(axis=1).any())
    return PhraseScore(int(is_hit.argmax()) if is_hit.any() else None, is_pointed, float(is_hit.mean()))


def recalls(scores: Sequence[PhraseScore]) -> dict[str, float]:
    """Share of the phrases with a hit among the first k proposals, as {"r1", "r5", "r10", "oracle"}."""
    found = {
        f"r{k}": float(np.mean([score.rank is not None and score.rank < k for score in scores])) for k in RECALL_AT
    }
    return found | {"oracle": float(np.mean([score.rank is not None for score in scores]))}
