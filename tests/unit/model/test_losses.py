"""Pre-training losses in numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cmal.errors import ShapeError
from cmal.model.association import Association
from cmal.model.losses import (
    association_accuracy,
    association_loss,
    contrastive_loss,
    masked_language_loss,
    matching_loss,
    region_class_loss,
    region_feature_loss,
)

INF = float("inf")


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_association_sums_the_probability_of_all_true_regions():
    """Regions [dog tree dog], word "dog", probabilities [.5 .3 .2]: -log(.5 + .2)."""
    loss = association_loss(torch.tensor([logs(0.5, 0.3, 0.2)]), torch.tensor([[True, False, True]]))
    assert loss.item() == pytest.approx(-math.log(0.7), abs=1e-6)


def test_association_is_the_mean_over_anchors_and_shifts_of_logits_do_not_count():
    logits = torch.tensor([logs(0.5, 0.5), logs(0.1, 0.9)]) + torch.tensor([[3.0], [-7.0]])
    loss = association_loss(logits, torch.tensor([[True, False], [False, True]]))
    assert loss.item() == pytest.approx((math.log(2) - math.log(0.9)) / 2, abs=1e-6)


def test_association_does_not_count_what_is_no_candidate():
    logits = torch.tensor([[*logs(0.25, 0.75), -INF]], requires_grad=True)
    loss = association_loss(logits, torch.tensor([[False, True, False]]))
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)
    loss.backward()
    assert logits.grad.tolist()[0] == pytest.approx([0.25, -0.25, 0.0], abs=1e-6), "no NaN"


def test_association_where_all_are_right_costs_nothing():
    assert association_loss(torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)


def test_no_anchor_gives_zero_that_still_hangs_on_the_graph():
    weight = torch.ones(3, 4, requires_grad=True)
    loss = association_loss(torch.zeros(0, 3) @ weight, torch.zeros(0, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and weight.grad.eq(0).all()


def test_shapes_that_disagree_are_told():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and is_positive \(2, 2\) differ"):
        association_loss(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.bool))


def test_accuracy_of_association_counts_any_true_answer():
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [-INF, 0.0, -1.0]])
    right = torch.tensor([[False, False, True], [True, True, False], [False, True, False]])
    assert association_accuracy(Association(logits, right)).item() == pytest.approx(2 / 3)
    none = Association(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool))
    assert association_accuracy(none).item() == 0


def test_masked_words_cost_their_true_pieces_surprise():
    loss = masked_language_loss(torch.tensor([logs(0.2, 0.8), logs(0.5, 0.5)]), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, abs=1e-6)
    nothing = masked_language_loss(torch.zeros(0, 2, requires_grad=True), torch.zeros(0, dtype=torch.int64))
    assert nothing.item() == 0 and nothing.requires_grad


def test_region_classes_cost_the_divergence_from_the_detectors_distribution():
    """The detector says class 2 with .75, class 0 with .25; the model says [.5 .25 .25]: KL = .75 log 3 + .25 log .5."""
    ids, probs = torch.tensor([[2, 0, 0]]), torch.tensor([[0.75, 0.25, 0.0]])
    loss = region_class_loss(torch.tensor([logs(0.5, 0.25, 0.25)]), ids, probs)
    assert loss.item() == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(0.5), abs=1e-6)
    same = region_class_loss(torch.tensor([logs(0.25, 1e-9, 0.75)]), ids, probs)
    assert same.item() == pytest.approx(0, abs=1e-6), "a divergence, not a cross-entropy: zero where both agree"


def test_region_classes_are_scaled_to_one_and_rows_without_any_count_nothing():
    ids = torch.tensor([[1, 0], [0, 0]])
    logits = torch.tensor([logs(0.25, 0.75), logs(0.5, 0.5)])
    whole = region_class_loss(logits[:1], ids[:1], torch.tensor([[0.75, 0.25]]))
    assert whole.item() == pytest.approx(0, abs=1e-6)
    half = region_class_loss(logits[:1], ids[:1], torch.tensor([[0.375, 0.125]]))
    assert half.item() == pytest.approx(0, abs=1e-6), "the top ten need not sum to one"
    sure, none = [1.0, 0.0], [0.0, 0.0]
    beside = region_class_loss(logits, ids, torch.tensor([sure, none]))
    assert beside.item() == pytest.approx(-math.log(0.75), abs=1e-6), "one row, not half of it"
    none = region_class_loss(logits.requires_grad_(), ids, torch.zeros(2, 2))
    none.backward()
    assert none.item() == 0 and logits.grad.eq(0).all()


def test_region_features_cost_their_mean_square():
    loss = region_feature_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert loss.item() == pytest.approx((0 + 4 + 0 + 1) / 4)
    assert region_feature_loss(torch.zeros(0, 2, requires_grad=True), torch.zeros(0, 2)).requires_grad


def test_matching_is_the_surprise_of_yes_and_no():
    """A logit of log 3 says yes with 3/4."""
    loss = matching_loss(torch.tensor([math.log(3), math.log(3)]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, abs=1e-6)


EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def test_contrast_in_numbers():
    """Two pairs at right angles, temperature 1: each row has logits 1 and 0, so -log(e / (e + 1)) both ways."""
    states = torch.tensor([EAST, NORTH])
    loss = contrastive_loss(states, states, torch.eye(2, dtype=torch.bool), torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    sharper = contrastive_loss(states, states, torch.eye(2, dtype=torch.bool), torch.tensor(0.5))
    assert sharper.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


def test_contrast_goes_both_ways():
    """Both texts lie east, the images east and north. Text 1 has the wrong image, log(1 + e); image 1 is torn, log 2."""
    text, visual = torch.tensor([EAST, EAST]), torch.tensor([EAST, NORTH])
    loss = contrastive_loss(text, visual, torch.eye(2, dtype=torch.bool), torch.tensor(1.0))
    to_image = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert loss.item() == pytest.approx((to_image + math.log(2)) / 2, abs=1e-6)


def test_two_captions_of_one_image_are_no_contrast():
    """Rows 0 and 1 show one image and say the same: without row 2 nothing would be to tell apart."""
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    states = torch.tensor([EAST, EAST, NORTH])
    loss = contrastive_loss(states, states, same, torch.tensor(1.0)).item()
    e = math.e
    assert loss == pytest.approx((2 * -math.log(2 * e / (2 * e + 1)) - math.log(e / (e + 2))) / 3, abs=1e-6)
    assert contrastive_loss(states[:2], states[:2], same[:2, :2], torch.tensor(1.0)).item() == pytest.approx(
        0, abs=1e-6
    )
