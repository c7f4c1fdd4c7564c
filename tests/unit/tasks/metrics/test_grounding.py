"""Phrase grounding: hits, pointing and recalls, with boxes that can be checked by eye."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.errors import RecipeError
from cmal.tasks.metrics.grounding import PhraseScore, recalls, right_boxes, score_phrase

LEFT, RIGHT, BOTH = [0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10]


def boxes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def test_merged_asks_for_the_box_around_all_gold_boxes_and_any_for_one_of_them():
    gold = boxes(LEFT, RIGHT)
    assert right_boxes(gold, "merged").tolist() == [BOTH]
    assert score_phrase(boxes(BOTH), gold, "merged").rank == 0
    assert score_phrase(boxes([0, 0, 9, 10]), gold, "merged").rank is None, "IoU 0.45 with the box around both"
    assert score_phrase(boxes([0, 0, 9, 10]), gold, "any").rank == 0, "IoU 0.9 with one of them"


def test_an_iou_of_exactly_half_is_a_hit():
    assert score_phrase(boxes(LEFT), boxes(BOTH)).rank == 0
    assert score_phrase(boxes([0, 0, 9.9, 10]), boxes(BOTH)).rank is None


def test_pointing_looks_at_the_centre_of_the_first_box_alone():
    score = score_phrase(boxes([4, 4, 6, 6], LEFT), boxes(LEFT))
    assert score.is_pointed and score.rank == 1
    assert not score_phrase(boxes(RIGHT, LEFT), boxes(LEFT)).is_pointed
    assert score_phrase(boxes([8, 0, 10, 10]), boxes(LEFT, RIGHT), "any").is_pointed


def test_chance_is_the_share_of_proposals_that_hit():
    assert score_phrase(boxes(LEFT, RIGHT, BOTH, [1, 0, 10, 10]), boxes(LEFT)).hit_share == 0.75


def test_a_phrase_without_a_proposal_is_a_miss():
    assert score_phrase(boxes(), boxes(LEFT)) == PhraseScore(None, False, 0.0)


def test_recalls_count_the_first_hit_among_the_first_k():
    ranks = [0, 4, 9, 11, None]
    found = recalls([PhraseScore(rank, False, 0.0) for rank in ranks])
    assert found == {"r1": 0.2, "r5": 0.4, "r10": 0.6, "oracle": 0.8}


def test_an_unknown_protocol_is_refused():
    with pytest.raises(RecipeError, match="merged, any"):
        score_phrase(boxes(LEFT), boxes(LEFT), "mdetr")
