"""Mean average precision by hand: few boxes, precision and recall countable on the fingers."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.errors import ShapeError
from cmal.regions.detection_map import box_ious, match_boxes, mean_average_precision

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def found(*rows: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of (box, confidence, class)."""
    boxes = np.array([row[0] for row in rows], float).reshape(-1, 4)
    return boxes, np.array([row[1] for row in rows], float), np.array([row[2] for row in rows], int)


def truth(*rows: tuple) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row[0] for row in rows], float).reshape(-1, 4), np.array([row[1] for row in rows], int)


def test_iou_of_boxes_that_share_a_third():
    assert box_ious(np.array([A]), np.array([[5, 0, 15, 10], FAR])).tolist() == [[pytest.approx(50 / 150), 0.0]]


def test_all_found_and_nothing_else_is_one():
    mean, per_class = mean_average_precision([found((A, 0.9, 0), (B, 0.8, 1))], [truth((A, 0), (B, 1))])
    assert mean == 1.0 and per_class == {0: 1.0, 1: 1.0}


def test_a_false_box_above_the_second_hit_costs_precision_there():
    # hit, miss, hit: precision 1 up to recall 1/2 (points 0 to .50: 51 of 101), then 2/3 for the other 50
    mean, _ = mean_average_precision([found((A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0))], [truth((A, 0), (B, 0))])
    assert mean == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_false_box_below_all_hits_costs_nothing():
    mean, _ = mean_average_precision([found((A, 0.9, 0), (B, 0.8, 0), (FAR, 0.1, 0))], [truth((A, 0), (B, 0))])
    assert mean == 1.0


def test_a_thing_found_twice_counts_once():
    # two hits on one thing: the second is false, and comes before the hit on B
    mean, _ = mean_average_precision([found((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))], [truth((A, 0), (B, 0))])
    assert mean == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_the_right_place_with_the_wrong_class_is_no_hit():
    mean, per_class = mean_average_precision([found((A, 0.9, 1))], [truth((A, 0))])
    assert mean == 0.0 and per_class == {0: 0.0}


def test_confidences_rank_over_images_and_classes_average_evenly():
    boxes = [found((FAR, 0.9, 0)), found((A, 0.5, 0), (B, 0.5, 1))]
    mean, per_class = mean_average_precision(boxes, [truth(), truth((A, 0), (B, 1))])
    assert per_class == {0: pytest.approx(0.5), 1: 1.0} and mean == pytest.approx(0.75)


def test_the_threshold_is_reached_by_an_equal_iou():
    half = np.array([[0, 0, 10, 5]])
    assert match_boxes(half, np.array([A]), 0.5).tolist() == [0]
    assert match_boxes(half, np.array([A]), 0.51).tolist() == [-1]


def test_each_box_takes_the_best_true_box_that_is_left():
    assert match_boxes(np.array([A, A, B]), np.array([B, A])).tolist() == [1, -1, 0]


def test_no_truth_and_lists_of_different_length():
    assert mean_average_precision([found((A, 1, 0))], [truth()]) == (0.0, {})
    with pytest.raises(ShapeError, match="1 images of detections, 0 of truth"):
        mean_average_precision([found()], [])
