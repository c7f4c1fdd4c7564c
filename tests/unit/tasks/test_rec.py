"""Referring expressions: one score a region, a target among the regions there are, a hit by overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import regions, toy_builder, toy_cmal

from cmal.data.records import ReferringRecord
from cmal.tasks.rec import IGNORE_LABEL, ReferringExpressions, target_region

BOXES = [[0, 0, 10, 10], [20, 0, 40, 20], [50, 0, 60, 10]]
IMAGES = {"toy:1": regions(["dog", "cat", "tree"], boxes=BOXES), "toy:2": regions(["dog"]), "toy:0": regions([])}
CAT_XYWH = (20.0, 0.0, 20.0, 20.0)
TASK = ReferringExpressions("refcoco")


def record(id: str, image: str, box=CAT_XYWH, ref: str = "r") -> ReferringRecord:
    return ReferringRecord(id, ref, image, "the white cat", box)


def batch(*records: ReferringRecord):
    return TASK.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_the_target_is_the_region_that_overlaps_most_by_half_at_least():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]], float)
    assert target_region(boxes, (0, 0, 10, 8)) == 1
    assert target_region(boxes, (0, 0, 10, 9.5)) == 0
    assert target_region(boxes, (0, 0, 10, 20)) == 0, "IoU is exactly a half"
    assert target_region(boxes, (0, 0, 10, 20.2)) == IGNORE_LABEL
    assert target_region(np.zeros((0, 4)), (0, 0, 1, 1)) == IGNORE_LABEL


def test_targets_come_from_boxes_in_the_images_own_pixels():
    """The image is 100 x 50: had the sides been mixed up, no box would fit."""
    assert batch(record("a", "toy:1"), record("b", "toy:2")).targets["region"].tolist() == [1, IGNORE_LABEL]


def test_forward_scores_every_region_and_rules_padding_out():
    made = batch(record("a", "toy:1"), record("b", "toy:2"))
    output = TASK.forward(toy_cmal(), TASK.build_head(8, 0.0), made)
    assert output.shape == (2, 3) and output[0].isfinite().all()
    assert output[1].tolist()[1:] == [-math.inf, -math.inf]


def test_scores_belong_to_their_region():
    """With the image's regions in another order the scores come in that order."""
    cmal, head = toy_cmal(), TASK.build_head(8, 0.0).eval()
    order = [2, 0, 1]
    turned = regions(["tree", "dog", "cat"], boxes=[BOXES[i] for i in order])
    turned.features[:] = IMAGES["toy:1"].features[order]
    made = TASK.make_batch([record("a", "toy:1")], toy_builder({"toy:1": turned}, anchors=False), None)
    there = TASK.forward(cmal, head, batch(record("a", "toy:1")))
    torch.testing.assert_close(TASK.forward(cmal, head, made), there[:, order])


def test_loss_is_over_the_images_regions_and_skips_what_has_no_target():
    made = batch(record("a", "toy:1"), record("b", "toy:2"))
    scores = torch.tensor([[math.log(p) for p in (0.1, 0.7, 0.2)], [3.0, -math.inf, -math.inf]], requires_grad=True)
    loss = TASK.loss(scores, made)
    assert loss.item() == pytest.approx(-math.log(0.7), abs=1e-6)
    loss.backward()
    assert scores.grad[1].tolist() == [0, 0, 0]


def test_a_batch_in_which_no_expression_has_a_fitting_region_costs_zero_and_gives_no_nan():
    made = batch(record("b", "toy:2"), record("c", "toy:0"))
    scores = torch.tensor([[3.0], [-math.inf]], requires_grad=True)
    loss = TASK.loss(scores, made)
    loss.backward()
    assert loss.item() == 0 and scores.grad.tolist() == [[0], [0]]


def test_an_image_without_regions_among_others_gives_no_nan():
    made = batch(record("a", "toy:1"), record("c", "toy:0"))
    cmal, head = toy_cmal(), TASK.build_head(8, 0.0)
    loss = TASK.loss(TASK.forward(cmal, head, made), made)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in cmal.parameters())
    assert TASK.answers(TASK.forward(cmal, head, made), made)["c"] == []


def test_answers_are_the_regions_boxes_in_pixels_best_first():
    made = batch(record("a", "toy:1"), record("b", "toy:2"))
    output = torch.tensor([[0.1, 0.9, 0.5], [0.2, -math.inf, -math.inf]])
    answers = TASK.answers(output, made)
    assert np.allclose(answers["a"], [BOXES[1], BOXES[2], BOXES[0]], atol=1e-4)
    assert np.allclose(answers["b"], [[0, 0, 10, 10]], atol=1e-4)


def test_score_in_numbers():
    """Sentences: a hit, a miss that another box would have hit, and one whose image has no region."""
    records = [record("a", "toy:1", ref="r1"), record("b", "toy:1", ref="r1"), record("c", "toy:0", ref="r2")]
    answers = {"a": [BOXES[1], BOXES[0], BOXES[2]], "b": [BOXES[0], BOXES[1], BOXES[2]], "c": []}
    scores = TASK.score(answers, records, "official")
    assert scores.metrics["accuracy"] == pytest.approx(1 / 3), "per sentence"
    assert scores.metrics["oracle_recall"] == pytest.approx(2 / 3)
    assert scores.chance == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    assert scores.values.tolist() == [1, 0, 0] and scores.counts == {"sentences": 3, "refs": 2, "without_regions": 1}


def test_protocols_decide_at_the_limit():
    """The chosen box covers exactly half: no hit by the official rule (> 0.5), a hit by albef's (>= 0.5)."""
    records, answers = [record("a", "toy:1")], {"a": [[20.0, 0.0, 40.0, 10.0]]}
    hits = {name: TASK.score(answers, records, name).metrics["accuracy"] for name in ("official", "uniter", "albef")}
    assert hits == {"official": 0.0, "uniter": 0.0, "albef": 1.0}
