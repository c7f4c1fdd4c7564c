"""UMSE: each modality on its own, onto its hypersphere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toys import enlarge

from cmal.model.cmal import TextualEncoder, VisualEncoder


def textual(layers: int = 1) -> TextualEncoder:
    torch.manual_seed(0)
    return enlarge(TextualEncoder(10, 6, 8, layers, 2, 16, 0.1)).eval()


def visual(layers: int = 1) -> VisualEncoder:
    torch.manual_seed(1)
    return enlarge(VisualEncoder(3, 8, layers, 2, 16, 0.1)).eval()


IDS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
TOKEN_MASK = torch.tensor([[True] * 4, [True, True, True, False]])
REGION_MASK = torch.tensor([[True, True], [True, False]])


def features_and_boxes() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 2, 3, generator=generator), torch.rand(2, 2, 7, generator=generator)


def test_words_come_out_on_the_sphere_and_padding_as_zeros():
    out = textual()(IDS, TOKEN_MASK)
    torch.testing.assert_close(out.norm(dim=-1), TOKEN_MASK * 8**0.5)


def test_regions_come_out_on_the_sphere_and_padding_as_zeros():
    out = visual()(*features_and_boxes(), REGION_MASK)
    torch.testing.assert_close(out.norm(dim=-1), REGION_MASK * 8**0.5)


def test_embeddings_of_words_are_berts_sum_of_three():
    model = textual(layers=0)
    words, places, segment = model.tokens.weight, model.positions.weight, model.segment.weight
    wanted = model.norm(words[6] + places[2] + segment[0])
    torch.testing.assert_close(model.hidden(IDS, TOKEN_MASK)[0, 2], wanted)


def test_embeddings_of_regions_are_two_normed_projections():
    model, (features, boxes) = visual(layers=0), features_and_boxes()
    wanted = model.features_norm(model.features(features[0, 1])) + model.boxes_norm(model.boxes(boxes[0, 1]))
    out = model(features, boxes, REGION_MASK)[0, 1]
    torch.testing.assert_close(out, F.normalize(wanted, dim=-1) * 8**0.5)


def test_the_order_of_words_matters_and_that_of_regions_does_not():
    swapped = IDS[:, [0, 2, 1, 3]]
    text = textual()
    assert not torch.allclose(text(IDS, TOKEN_MASK)[0, 0], text(swapped, TOKEN_MASK)[0, 0], atol=1e-3)
    image, (features, boxes) = visual(), features_and_boxes()
    out = image(features[:1], boxes[:1], REGION_MASK[:1])
    back = image(features[:1].flip(1), boxes[:1].flip(1), REGION_MASK[:1])
    torch.testing.assert_close(back.flip(1), out)


@pytest.mark.parametrize("part", [0, 1])
def test_features_and_boxes_both_count(part):
    inputs = list(features_and_boxes())
    before = visual()(*inputs, REGION_MASK)[0, 0]
    inputs[part][0, 0, 1] += 1.0
    assert not torch.allclose(before, visual()(*inputs, REGION_MASK)[0, 0], atol=1e-3)


def test_padding_holds_nothing_that_is_seen():
    text, ids = textual(), IDS.clone()
    ids[1, 3] = 9
    assert torch.equal(text(ids, TOKEN_MASK)[1, :3], text(IDS, TOKEN_MASK)[1, :3])
    torch.testing.assert_close(text(IDS[1:, :3], TOKEN_MASK[1:, :3])[0], text(IDS, TOKEN_MASK)[1, :3])
    image, (features, boxes) = visual(), features_and_boxes()
    features[1, 1], boxes[1, 1] = 1e4, 0.3
    alone = image(features[1:, :1], boxes[1:, :1], REGION_MASK[1:, :1])
    torch.testing.assert_close(image(features, boxes, REGION_MASK)[1, 0], alone[0, 0])


def test_images_without_a_region_are_fine():
    assert visual()(torch.zeros(2, 0, 3), torch.zeros(2, 0, 7), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0, 8)
    features, boxes = features_and_boxes()
    none = torch.tensor([[False, False], [True, True]])
    out = visual()(features, boxes, none)
    assert out[0].eq(0).all() and out[1].isfinite().all() and out[1].ne(0).any()
