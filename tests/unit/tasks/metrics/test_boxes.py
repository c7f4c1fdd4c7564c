"""Box helpers and what bad boxes get. Conventions and exactness are in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.errors import DataError, RecipeError, ShapeError
from cmal.regions.boxes import generalised_iou, iou_matrix, xywh_to_xyxy
from cmal.tasks.metrics import BOX_PROTOCOLS, is_hit, oracle_recall, rec_accuracy

UNIT = [[0, 0, 1, 1]]


def test_xywh_becomes_corner_coordinates_whatever_stands_before():
    assert xywh_to_xyxy(np.array([1, 2, 3, 4])).tolist() == [1, 2, 4, 6]
    assert xywh_to_xyxy(np.zeros((2, 5, 4))).shape == (2, 5, 4)


def test_overlap_matrix_has_one_row_a_box_of_a():
    a = [[0, 0, 2, 2], [10, 10, 12, 12]]
    b = [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]
    assert iou_matrix(a, b).tolist() == [[1, 1 / 3, 0], [0, 0, 0]]


def test_empty_and_inverted_boxes_overlap_nothing():
    assert iou_matrix([[1, 1, 1, 1], [3, 3, 2, 2]], [[1, 1, 1, 1], [0, 0, 4, 4]]).tolist() == [[0, 0], [0, 0]]
    assert iou_matrix(np.zeros((0, 4)), UNIT).shape == (0, 1)


def test_generalised_overlap_falls_with_distance():
    values = generalised_iou(UNIT, [[0, 0, 1, 1], [1, 0, 2, 1], [2, 0, 3, 1], [9, 0, 10, 1]])
    assert values.tolist() == [[1, 0, pytest.approx(-1 / 3), -0.8]]
    assert generalised_iou([[0, 0, 0, 0]], [[4, 4, 4, 4]]).item() == -1


def test_a_sentence_without_candidate_is_a_miss():
    nothing = [np.nan] * 4
    predicted, gold = np.array([nothing, UNIT[0]]), np.array([UNIT[0], UNIT[0]])
    assert is_hit(predicted, gold).tolist() == [False, True]
    assert rec_accuracy(predicted, gold) == 0.5
    for protocol in BOX_PROTOCOLS:  # even where the object itself is a point in the corner
        assert is_hit(np.array([nothing]), np.array([[0, 0, 0, 0]]), protocol).tolist() == [False]


def test_accuracy_is_per_sentence():
    gold = np.array([[0, 0, 4, 4]] * 3 + [[4, 4, 8, 8]])
    predicted = np.array([[0, 0, 4, 4]] * 4)
    assert rec_accuracy(predicted, gold) == 0.75


def test_oracle_recall_looks_at_every_proposal_and_an_image_without_any_is_lost():
    proposals = [np.array([[50, 50, 60, 60], [0, 0, 4, 4]]), np.zeros((0, 4)), []]
    assert oracle_recall(proposals, np.array([[0, 0, 4, 4]] * 3)) == 1 / 3


def test_bad_boxes_get_a_message():
    with pytest.raises(ShapeError, match=r"their shapes are \(1, 4\) and \(2, 4\)"):
        is_hit(UNIT, UNIT * 2)
    with pytest.raises(ShapeError, match=r"the shape is \(3,\)"):
        xywh_to_xyxy([1, 2, 3])
    with pytest.raises(DataError, match="1 of 2 have a value that is not finite"):
        is_hit(UNIT * 2, [UNIT[0], [0, 0, np.inf, 1]])
    with pytest.raises(DataError, match="cannot use the predicted boxes"):
        is_hit([[0, 0, np.nan, 1]], UNIT)
    with pytest.raises(DataError, match="there is no sentence"):
        rec_accuracy(np.zeros((0, 4)), np.zeros((0, 4)))
    with pytest.raises(ShapeError, match="1 sets of proposals for 2 sentences"):
        oracle_recall([UNIT], UNIT * 2)


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(RecipeError, match="known are: official, uniter, albef, volta, mdetr"):
        is_hit(UNIT, UNIT, "glip")
