"""CMAP: at chosen anchors word and region change places; nothing else moves.

The running example: [CLS] fire hydr ##ant dog [SEP], regions hydrant, dog, tree. Anchor 0 is the region hydrant and the
pieces 1-3, anchor 1 the region dog and piece 4.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import empty_plan, on_sphere, toy_cmal, toy_plan

from cmal.model.inputs import FILL_KEEP, FILL_MASK, FILL_SWAP
from cmal.model.prompt import AssociativePrompt, span_mean, swap_at_anchors
from cmal.model.transformer import to_sphere

T, R, D = 6, 3, 4
TEXT_MASK, REGION_MASK = torch.full((D,), 7.0), torch.full((D,), -7.0)
BOTH = {"example": [0, 0], "region": [0, 1], "piece_anchor": [0, 0, 0, 1], "piece_position": [1, 2, 3, 4]}


def states() -> tuple[torch.Tensor, torch.Tensor]:
    return on_sphere(1, T, D, seed=1), on_sphere(1, R, D, seed=2)


def filled(text, visual, plan):
    return swap_at_anchors(text, visual, plan, TEXT_MASK, REGION_MASK)


def test_swap_in_numbers():
    """Pieces [2, 0] and [0, 2] have the mean [1, 1]; the region is [-1, 1]: all of them of length sqrt 2 but the pieces."""
    text = torch.tensor([[[9.0, 9.0], [2.0, 0.0], [0.0, 2.0], [8.0, 8.0]]])
    visual = torch.tensor([[[-1.0, 1.0], [5.0, 5.0]]])
    plan = toy_plan(4, 2, example=[0], region=[0], piece_anchor=[0, 0], piece_position=[1, 2])
    text_out, visual_out = swap_at_anchors(text, visual, plan, torch.zeros(2), torch.zeros(2))
    assert text_out.tolist() == [[[9, 9], [-1, 1], [-1, 1], [8, 8]]]
    torch.testing.assert_close(visual_out, torch.tensor([[[1.0, 1.0], [5.0, 5.0]]]))


def test_every_piece_gets_the_regions_vector_and_the_region_the_spans_mean_on_the_sphere():
    text, visual = states()
    text_out, visual_out = filled(text, visual, toy_plan(T, R, **BOTH))
    for piece in (1, 2, 3):
        assert torch.equal(text_out[0, piece], visual[0, 0])
    assert torch.equal(text_out[0, 4], visual[0, 1])
    torch.testing.assert_close(visual_out[0, 0], to_sphere(text[0, 1:4].mean(0)))
    torch.testing.assert_close(visual_out[0, 1], text[0, 4])
    torch.testing.assert_close(visual_out.norm(dim=-1), torch.full((1, R), D**0.5))


def test_partners_are_the_pieces_and_the_region_of_a_swapped_anchor():
    """Two anchors, of three pieces with region 0 and of one with region 1; kept, the second has no guest."""
    plan = toy_plan(T, R, **BOTH)
    assert plan.swapped_slot_pairs(T).tolist() == [[0] * 4, [1, 2, 3, 4], [T, T, T, T + 1]]
    plan = toy_plan(T, R, **BOTH | {"fill": [FILL_SWAP, FILL_KEEP]})
    assert plan.swapped_slot_pairs(T).tolist() == [[0] * 3, [1, 2, 3], [T] * 3]


def test_swap_leaves_other_positions_untouched():
    text, visual = states()
    before = text.clone(), visual.clone()
    text_out, visual_out = filled(text, visual, toy_plan(T, R, **BOTH))
    assert torch.equal(text_out[0, [0, 5]], text[0, [0, 5]]) and torch.equal(visual_out[0, 2], visual[0, 2])
    assert torch.equal(text, before[0]) and torch.equal(visual, before[1]), "the encoders' own states stay"


@pytest.mark.parametrize(
    ("fill", "text_slot", "region_slot"),
    [
        (FILL_SWAP, "guest", "guest"),
        (FILL_MASK, "mask", "mask"),
        (FILL_KEEP, "own", "own"),
    ],
)
def test_three_ways_to_fill_one_anchor(fill, text_slot, region_slot):
    text, visual = states()
    text_out, visual_out = filled(text, visual, toy_plan(T, R, **BOTH, fill=[fill, FILL_KEEP]))
    wanted_text = {"guest": visual[0, 0].expand(3, D), "mask": TEXT_MASK.expand(3, D), "own": text[0, 1:4]}
    wanted_region = {"guest": to_sphere(text[0, 1:4].mean(0)), "mask": REGION_MASK, "own": visual[0, 0]}
    torch.testing.assert_close(text_out[0, 1:4], wanted_text[text_slot])
    torch.testing.assert_close(visual_out[0, 0], wanted_region[region_slot])
    assert torch.equal(text_out[0, 4], text[0, 4]) and torch.equal(visual_out[0, 1], visual[0, 1])


def test_anchors_of_one_batch_are_filled_each_in_its_own_way_and_example():
    text, visual = on_sphere(2, T, D, seed=1), on_sphere(2, R, D, seed=2)
    plan = toy_plan(
        T,
        R,
        examples=2,
        example=[0, 1],
        region=[2, 0],
        piece_anchor=[0, 1, 1],
        piece_position=[4, 1, 2],
        fill=[FILL_MASK, FILL_SWAP],
    )
    text_out, visual_out = filled(text, visual, plan)
    assert torch.equal(text_out[0, 4], TEXT_MASK) and torch.equal(visual_out[0, 2], REGION_MASK)
    assert torch.equal(text_out[1, 1], visual[1, 0]) and torch.equal(text_out[1, 2], visual[1, 0])
    assert torch.equal(text_out[0, [0, 1, 2, 3, 5]], text[0, [0, 1, 2, 3, 5]])
    assert torch.equal(visual_out[1, 1:], visual[1, 1:])


def test_twins_are_masked():
    text, visual = states()
    plan = toy_plan(T, R, **BOTH, duplicate_token_mask=[(0, 5)], duplicate_region_mask=[(0, 2)])
    text_out, visual_out = filled(text, visual, plan)
    assert torch.equal(text_out[0, 5], TEXT_MASK) and torch.equal(visual_out[0, 2], REGION_MASK)
    assert torch.equal(text_out[0, 0], text[0, 0])


def test_the_mean_of_a_span():
    text = torch.tensor([[[0.0], [3.0], [6.0], [9.0], [4.0], [0.0]]])
    assert span_mean(text, toy_plan(T, R, **BOTH)).tolist() == [[6.0], [4.0]]


def test_without_a_plan_nothing_is_done():
    text, visual = states()
    text_out, visual_out = AssociativePrompt(D)(text, visual, None)
    assert text_out is text and visual_out is visual


def test_no_chosen_anchor_changes_nothing():
    text, visual = states()
    text_out, visual_out = filled(text, visual, empty_plan(T, R))
    assert torch.equal(text_out, text) and torch.equal(visual_out, visual)


def test_the_learned_masks_are_used_on_the_sphere_and_learn():
    prompt, (text, visual) = AssociativePrompt(D), states()
    plan = toy_plan(T, R, **BOTH, fill=[FILL_MASK, FILL_KEEP])
    text_out, visual_out = prompt(text, visual, plan)
    torch.testing.assert_close(text_out[0, 1], to_sphere(prompt.text_mask_embedding))
    torch.testing.assert_close(visual_out[0, 0], to_sphere(prompt.region_mask_embedding))
    (text_out[..., 0].sum() + visual_out[..., 0].sum()).backward()
    assert prompt.text_mask_embedding.grad.ne(0).any() and prompt.region_mask_embedding.grad.ne(0).any()
    assert not torch.equal(prompt.text_mask_embedding, prompt.region_mask_embedding), "two masks, one a modality"


def test_gradients_flow_through_the_swap_to_where_the_guests_came_from():
    text, visual = (state.requires_grad_() for state in states())
    text_out, visual_out = filled(text, visual, toy_plan(T, R, **BOTH))
    (text_out[0, 1] * torch.arange(D)).sum().backward(retain_graph=True)
    assert visual.grad[0, 0].ne(0).any() and visual.grad[0, 1:].eq(0).all() and text.grad.eq(0).all()
    visual_out[0, 0, 0].backward()
    assert text.grad[0, 1:4].ne(0).any() and text.grad[0, [0, 4, 5]].eq(0).all()


def test_without_hyperspheres_guests_and_masks_keep_their_lengths():
    """The mean of [2, 0] and [0, 2] is [1, 1], of length sqrt 2 as on the sphere; of [4, 0] and [0, 4] it is [2, 2]."""
    text = torch.tensor([[[9.0, 9.0], [4.0, 0.0], [0.0, 4.0]]])
    visual = torch.tensor([[[-1.0, 1.0], [5.0, 5.0]]])
    plan = toy_plan(3, 2, example=[0, 0], region=[0, 1], piece_anchor=[0, 0, 1], piece_position=[1, 2, 0])
    plan = replace(plan, fill=torch.tensor([FILL_SWAP, FILL_MASK]))
    prompt = AssociativePrompt(2, hypersphere=False)
    text_out, visual_out = prompt(text, visual, plan)
    assert torch.equal(visual_out[0, 0], torch.tensor([2.0, 2.0]))
    assert torch.equal(visual_out[0, 1], prompt.region_mask_embedding) and torch.equal(
        text_out[0, 0], prompt.text_mask_embedding
    )


@pytest.mark.parametrize("hypersphere", [True, False])
def test_encoders_end_on_the_sphere_where_the_model_has_one(hypersphere):
    cmal = toy_cmal(hypersphere=hypersphere)
    states = cmal.encode(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool),
                         torch.randn(1, 2, 3), torch.rand(1, 2, 7), torch.ones(1, 2, dtype=torch.bool))  # fmt: skip
    on = [torch.allclose(s.norm(dim=-1), torch.tensor(s.shape[-1] ** 0.5)) for s in (states.text, states.visual)]
    assert on == [hypersphere] * 2
