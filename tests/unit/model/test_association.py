"""CMAC: whose word is this region's, whose region is this word's? All by cosines that can be worked out by eye.

D is 2 and both projections are the identity unless said otherwise. Legend: K anchors, C candidates.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from toys import empty_plan, toy_plan

from cmal.model.association import AssociativeMapping, UnimodalAssociation

EAST, NORTH, NORTH_EAST = [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]
INF = float("inf")


def mapping(temperature: float = 1.0) -> AssociativeMapping:
    head = AssociativeMapping(2)
    with torch.no_grad():
        for linear in (head.text, head.region):
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
        head.log_temperature.fill_(math.log(temperature))
    return head


def assert_close(a: torch.Tensor, b: list) -> None:
    torch.testing.assert_close(a, torch.tensor(b), rtol=0, atol=1e-6)


def test_among_the_group_candidates_are_the_chosen_anchors_of_the_other_modality():
    """Two examples of 2 words and 2 regions; each chose word 1 with region 0. Words east and north, regions north, east."""
    hidden = torch.tensor([[NORTH, EAST, NORTH, [9.0, 9.0]], [EAST, NORTH, EAST, [9.0, 9.0]]])
    plan = toy_plan(2, 2, 2, example=[0, 1], region=[0, 0], piece_anchor=[0, 1], piece_position=[1, 1], concept=[5, 6])
    to_region, to_word = mapping().among_micro_batch(hidden, 2, plan)
    assert_close(to_region.logits, [[0.0, 1.0], [1.0, 0.0]])
    assert_close(to_word.logits, [[0.0, 1.0], [1.0, 0.0]])
    assert to_region.is_positive.tolist() == [[True, False], [False, True]]


def test_all_anchors_of_a_concept_are_right():
    hidden = torch.randn(3, 2, 2)
    places = {"example": [0, 1, 2], "region": [0] * 3, "piece_anchor": [0, 1, 2], "piece_position": [0] * 3}
    to_region, to_word = mapping().among_micro_batch(hidden, 1, toy_plan(1, 1, 3, **places, concept=[5, 6, 5]))
    wanted = [[True, False, True], [False, True, False], [True, False, True]]
    assert to_region.is_positive.tolist() == wanted and to_word.is_positive.tolist() == wanted
    torch.testing.assert_close(to_word.logits, to_region.logits.T)


def test_a_words_vector_is_the_mean_over_its_pieces():
    hidden = torch.tensor([[EAST, NORTH, NORTH_EAST]])  # two pieces, and a region that lies where their mean does
    plan = toy_plan(2, 1, example=[0], region=[0], piece_anchor=[0, 0], piece_position=[0, 1])
    to_region, _ = mapping().among_micro_batch(hidden, 2, plan)
    assert_close(to_region.logits, [[1.0]])


def test_lengths_do_not_count_and_the_temperature_divides():
    hidden = torch.tensor([[[30.0, 0.0], [0.1, 0.1]]])
    plan = toy_plan(1, 1, example=[0], region=[0], piece_anchor=[0], piece_position=[0])
    assert_close(mapping(0.5).among_micro_batch(hidden, 1, plan)[0].logits, [[0.5**0.5 / 0.5]])


def test_text_and_regions_have_a_projection_each():
    head = mapping()
    head.region.weight.data = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # a quarter turn
    hidden = torch.tensor([[EAST, EAST]])
    plan = toy_plan(1, 1, example=[0], region=[0], piece_anchor=[0], piece_position=[0])
    assert_close(head.among_micro_batch(hidden, 1, plan)[0].logits, [[0.0]])
    assert_close(head.within_example(hidden, *masks(1, 1), plan)[0].logits, [[0.0]])


def masks(tokens: int, regions: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, tokens, dtype=torch.bool), torch.ones(1, regions, dtype=torch.bool)


def test_within_an_example_candidates_are_all_its_real_regions_and_words():
    """Words [east, north, pad], regions [north, east, pad]; the anchor is word 0 with region 1; region 0 is right too."""
    pad = [7.0, 7.0]
    hidden = torch.tensor([[EAST, NORTH, pad, NORTH, EAST, pad]])
    token_mask, region_mask = torch.tensor([[True, True, False]]), torch.tensor([[True, True, False]])
    plan = toy_plan(
        3,
        3,
        example=[0],
        region=[1],
        piece_anchor=[0],
        piece_position=[0],
        positive_anchor=[0, 0],
        positive_region=[0, 1],
        positive_piece_anchor=[0],
        positive_piece_position=[0],
    )
    to_region, to_word = mapping().within_example(hidden, token_mask, region_mask, plan)
    assert_close(to_region.logits, [[0.0, 1.0, -INF]])
    assert_close(to_word.logits, [[1.0, 0.0, -INF]])
    sharper, _ = mapping(0.25).within_example(hidden, token_mask, region_mask, plan)
    assert_close(sharper.logits, [[0.0, 4.0, -INF]])
    assert to_region.is_positive.tolist() == [[True, True, False]]
    assert to_word.is_positive.tolist() == [[True, False, False]]


def test_within_an_example_nobody_elses_regions_are_asked():
    hidden = torch.tensor([[EAST, EAST], [NORTH, NORTH]])
    token_mask = region_mask = torch.ones(2, 1, dtype=torch.bool)
    plan = toy_plan(1, 1, 2, example=[1], region=[0], piece_anchor=[0], piece_position=[0])
    to_region, _ = mapping().within_example(hidden, token_mask, region_mask, plan)
    assert_close(to_region.logits, [[1.0]])


def test_among_both_the_own_example_whole_and_of_others_their_chosen_anchors():
    """Two examples of one word and two regions; each chose its word with region 0, of one concept.

    Words north-east and east; regions (north, east) and (east, north). Of the other example its region 0 alone stands
    for choice; the own one is not asked twice.
    """
    hidden = torch.tensor([[NORTH_EAST, NORTH, EAST], [EAST, EAST, NORTH]])
    token_mask, region_mask = torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    plan = toy_plan(1, 2, 2, example=[0, 1], region=[0, 0], piece_anchor=[0, 1], piece_position=[0, 0], concept=[5, 5])
    own = {"positive_anchor": [0, 1], "positive_region": [0, 0]}
    own |= {"positive_piece_anchor": [0, 1], "positive_piece_position": [0, 0]}
    plan = replace(plan, **{name: torch.tensor(value) for name, value in own.items()})
    to_region, to_word = mapping().among_both(hidden, token_mask, region_mask, plan)
    half = 0.5**0.5
    assert_close(to_region.logits, [[half, half, -INF, half], [1.0, 0.0, 0.0, -INF]])
    assert to_region.is_positive.tolist() == [[True, False, False, True], [True, False, True, False]]
    assert_close(to_word.logits, [[half, -INF, 0.0], [1.0, half, -INF]])
    assert to_word.is_positive.tolist() == [[True, False, True], [True, True, False]]


def test_no_anchor_gives_no_question():
    hidden = torch.randn(2, 5, 2)
    plan, real = empty_plan(3, 2, 2), (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool))
    assert [a.logits.shape for a in mapping().among_micro_batch(hidden, 3, plan)] == [(0, 0), (0, 0)]
    assert [a.logits.shape for a in mapping().within_example(hidden, *real, plan)] == [(0, 2), (0, 3)]
    assert [a.logits.shape for a in mapping().among_both(hidden, *real, plan)] == [(0, 2), (0, 3)]


def test_the_temperature_starts_at_a_tenth_and_has_a_floor():
    head = AssociativeMapping(2)
    assert head.temperature.item() == pytest.approx(0.1)
    head.log_temperature.data.fill_(-20.0)
    assert head.temperature.item() == pytest.approx(0.01)
    head.log_temperature.data.fill_(math.log(0.03))
    assert head.temperature.item() == pytest.approx(0.03) and head.log_temperature.requires_grad


def test_before_they_are_mixed_the_vectors_are_compared_as_they_are():
    """Two examples, each a word and a region: words east and north, regions twice as long and the other way round."""
    text, visual = torch.tensor([[EAST], [NORTH]]), torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]])
    plan = toy_plan(1, 1, 2, example=[0, 1], region=[0, 0], piece_anchor=[0, 1], piece_position=[0, 0], concept=[5, 6])
    head = UnimodalAssociation()
    to_region, to_word = head(text, visual, plan)
    assert_close(to_region.logits, [[0.0, 10.0], [10.0, 0.0]])
    assert_close(to_word.logits, [[0.0, 10.0], [10.0, 0.0]])
    assert to_region.is_positive.tolist() == [[True, False], [False, True]]
    assert [name for name, _ in head.named_parameters()] == ["log_temperature"], "no projection: the spaces themselves"
