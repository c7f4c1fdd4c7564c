"""Box overlap and hits beside an independent implementation in exact fractions, and peers' conventions as named traps."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.regions.boxes import generalised_iou, iou_matrix, xywh_to_xyxy
from cmal.tasks.metrics import BOX_PROTOCOLS, is_hit, oracle_recall, rec_accuracy

HALF = Fraction(1, 2)


def slow_overlap(a, b, margin: int = 0) -> tuple[Fraction, Fraction, Fraction]:
    """Areas of intersection, union and enclosing box, side by side."""
    a, b = [Fraction(x) for x in a], [Fraction(x) for x in b]
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + margin, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + margin, 0)
    area_a = (a[2] - a[0] + margin) * (a[3] - a[1] + margin)
    area_b = (b[2] - b[0] + margin) * (b[3] - b[1] + margin)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height, area_a + area_b - width * height, hull


def slow_iou(a, b, margin: int = 0) -> Fraction:
    shared, union, _ = slow_overlap(a, b, margin)
    return shared / union if union else Fraction(0)


def slow_generalised(a, b) -> Fraction:
    _, union, hull = slow_overlap(a, b)
    return slow_iou(a, b) - ((hull - union) / hull if hull else 0)


def slow_hit(a, b, protocol: str) -> bool:
    if protocol in ("official", "uniter"):
        return slow_iou(a, b) > HALF
    if protocol == "albef":
        return slow_iou(a, b) >= HALF
    if protocol == "volta":
        return slow_iou(a, b, margin=1) > HALF
    return slow_generalised(a, b) >= HALF


# Quarter pixels are exact in binary, so that overlaps of exactly one half occur and are decided without rounding.
quarter = st.integers(0, 24).map(lambda n: n / 4)
size = st.integers(0, 16).map(lambda n: n / 4)
box_xywh = st.tuples(quarter, quarter, size, size)


@given(st.lists(st.tuples(box_xywh, box_xywh), min_size=1, max_size=12))
@settings(max_examples=400, deadline=None)
def test_hits_and_accuracy_agree_with_the_definition_under_every_protocol(pairs):
    predicted = xywh_to_xyxy(np.array([p for p, _ in pairs]))
    gold = xywh_to_xyxy(np.array([g for _, g in pairs]))
    for protocol in BOX_PROTOCOLS:
        expected = [slow_hit(p, g, protocol) for p, g in zip(predicted.tolist(), gold.tolist())]
        assert is_hit(predicted, gold, protocol).tolist() == expected
        assert rec_accuracy(predicted, gold, protocol) == sum(expected) / len(expected)


@given(st.lists(box_xywh, min_size=1, max_size=5), st.lists(box_xywh, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_overlap_matrices_agree_with_the_definition(a, b):
    a, b = xywh_to_xyxy(np.array(a)), xywh_to_xyxy(np.array(b))
    for i, j in np.ndindex(len(a), len(b)):
        assert iou_matrix(a, b)[i, j] == float(slow_iou(a[i], b[j]))
        assert iou_matrix(a, b, plus_one=True)[i, j] == float(slow_iou(a[i], b[j], margin=1))
        assert generalised_iou(a, b)[i, j] == float(slow_generalised(a[i], b[j]))


@given(st.lists(st.tuples(st.lists(box_xywh, max_size=4), box_xywh), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_oracle_recall_agrees_with_trying_every_proposal(sentences):
    proposals = [xywh_to_xyxy(np.array(p).reshape(-1, 4)) for p, _ in sentences]
    gold = xywh_to_xyxy(np.array([g for _, g in sentences]))
    for protocol in BOX_PROTOCOLS:
        reached = [any(slow_hit(p, g, protocol) for p in some) for some, g in zip(proposals, gold)]
        assert oracle_recall(proposals, gold, protocol) == sum(reached) / len(reached)


def test_ten_thousand_random_boxes_agree_with_the_definition():
    generator = np.random.default_rng([5, 10_000])
    gold = xywh_to_xyxy(generator.integers(0, 160, size=(10_000, 4)) / 4)
    predicted = gold + generator.integers(-40, 41, size=(10_000, 4)) / 4
    predicted = np.concatenate([predicted[:, :2], np.maximum(predicted[:, 2:], predicted[:, :2])], axis=1)
    for protocol in BOX_PROTOCOLS:
        expected = [slow_hit(p, g, protocol) for p, g in zip(predicted.tolist(), gold.tolist())]
        assert is_hit(predicted, gold, protocol).tolist() == expected
        assert 1_000 < sum(expected) < 9_000


def test_iou_exactly_half_is_a_hit_for_albef_and_a_miss_officially():
    gold, predicted = np.array([[0, 0, 2, 1]]), np.array([[0, 0, 1, 1]])
    assert iou_matrix(predicted, gold).item() == 0.5
    hits = {name: is_hit(predicted, gold, name).item() for name in BOX_PROTOCOLS}
    assert hits == {"official": False, "uniter": False, "albef": True, "volta": True, "mdetr": True}


def test_plus_one_pixel_turns_a_miss_into_a_hit_and_only_for_volta():
    gold, predicted = np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]])
    assert iou_matrix(predicted, gold).item() == 36 / 81
    assert iou_matrix(predicted, gold, plus_one=True).item() == 50 / 100
    predicted = predicted + np.array([0, 0, 0, 0.25])  # now 10 x 5.25 of 100
    assert [name for name in BOX_PROTOCOLS if is_hit(predicted, gold, name).item()] == ["volta"]


def test_generalised_overlap_is_stricter_where_the_enclosing_box_is_mostly_empty():
    gold, predicted = np.array([[0, 0, 10, 10]]), np.array([[2, 2, 12, 12]])
    predicted_inside = np.array([[0, 0, 10, 6]])
    assert iou_matrix(predicted, gold).item() == 64 / 136
    assert generalised_iou(predicted, gold).item() == pytest.approx(64 / 136 - 8 / 144)
    assert generalised_iou(predicted_inside, gold).item() == 0.6  # inside: the enclosing box is the gold box itself
    near = np.array([[1, 1, 11, 12]])  # shared 81 of 129: IoU .63; enclosing box 132, 3 of it empty
    assert generalised_iou(near, gold).item() == pytest.approx(81 / 129 - 3 / 132)
    shifted = np.array(
        [[1.75, 1.75, 11.75, 11.75]]
    )  # shared 68.0625 of 131.9375: .516; enclosing 138.0625, 6.125 empty
    assert is_hit(shifted, gold, "official").item()
    assert not is_hit(shifted, gold, "mdetr").item()


def test_real_proposals_reach_24_of_29_expressions(real_data: Path):
    rows = json.loads((real_data / "refcoco" / "testA_refcoco_unc_dets.json").read_text())
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    proposals = [xywh_to_xyxy(np.array(row["pred_boxes"])) for row in rows]
    gold = xywh_to_xyxy(np.array([row["gt_box"] for row in rows]))
    assert len(rows) == 29
    assert oracle_recall(proposals, gold) == 24 / 29
