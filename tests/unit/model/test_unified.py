"""CMAI: slots, each with the identity of its place, read together."""

from __future__ import annotations

import torch
from toys import enlarge, on_sphere

from cmal.model.cmal import UnifiedEncoder

T, R, D = 3, 2, 8
TOKENS, REGIONS = torch.ones(1, T, dtype=torch.bool), torch.ones(1, R, dtype=torch.bool)


def unified(layers: int = 1) -> UnifiedEncoder:
    torch.manual_seed(0)
    return enlarge(UnifiedEncoder(6, D, layers, 2, 16, 0.1)).eval()


def slots() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return on_sphere(1, T, D, seed=1), on_sphere(1, R, D, seed=2), torch.rand(1, R, 7)


def test_a_slot_gets_its_places_modality_and_position_or_box():
    model, (text, visual, boxes) = unified(layers=0), slots()
    hidden = model(text, visual, boxes, TOKENS, REGIONS)
    assert hidden.shape == (1, T + R, D)
    word = model.norm(text[0, 2] + model.positions_norm(model.positions.weight[2]) + model.modality.weight[0])
    region = model.norm(visual[0, 1] + model.boxes_norm(model.boxes(boxes[0, 1])) + model.modality.weight[1])
    torch.testing.assert_close(hidden[0, 2], word)
    torch.testing.assert_close(hidden[0, T + 1], region)


def test_the_same_vector_is_told_apart_by_where_it_stands():
    model, (text, visual, boxes) = unified(layers=0), slots()
    text[:], visual[:] = text[0, 0], text[0, 0]
    hidden = model(text, visual, boxes, TOKENS, REGIONS)[0]
    assert len({tuple(row) for row in hidden.tolist()}) == T + R


def test_position_and_box_weigh_as_much_as_a_slot_whatever_their_weights_size():
    model, (text, visual, boxes) = unified(layers=0), slots()
    before = model(text, visual, boxes, TOKENS, REGIONS)
    with torch.no_grad():
        model.positions.weight.mul_(100)
        model.boxes.weight.mul_(100)
        model.boxes.bias.mul_(100)
    torch.testing.assert_close(model(text, visual, boxes, TOKENS, REGIONS), before)


def test_words_and_regions_see_each_other():
    model, (text, visual, boxes) = unified(), slots()
    before = model(text, visual, boxes, TOKENS, REGIONS)[0]
    other = visual.clone()
    other[0, 1] = on_sphere(D, seed=9)
    after = model(text, other, boxes, TOKENS, REGIONS)[0]
    assert ((after - before).abs().amax(1) > 1e-3).all()


def test_padding_between_text_and_regions_changes_nothing():
    model, (text, visual, boxes) = unified(), slots()
    whole = model(text, visual, boxes, TOKENS, REGIONS)[0]
    wide_text = torch.cat([text, torch.full((1, 2, D), 5.0)], 1)
    wide_visual = torch.cat([visual, torch.full((1, 1, D), 5.0)], 1)
    wide_boxes = torch.cat([boxes, torch.ones(1, 1, 7)], 1)
    token_mask, region_mask = torch.tensor([[True] * 3 + [False] * 2]), torch.tensor([[True, True, False]])
    padded = model(wide_text, wide_visual, wide_boxes, token_mask, region_mask)[0]
    torch.testing.assert_close(padded[[0, 1, 2, 5, 6]], whole)
    assert padded[[3, 4, 7]].eq(0).all()


def test_an_image_without_regions_leaves_the_text_alone():
    model, (text, visual, boxes) = unified(), slots()
    none = model(text, visual[:, :0], boxes[:, :0], TOKENS, REGIONS[:, :0])
    masked = model(text, visual, boxes, TOKENS, torch.zeros_like(REGIONS))
    assert none.shape == (1, T, D)
    torch.testing.assert_close(masked[:, :T], none)
