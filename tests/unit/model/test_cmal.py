"""The whole model: encoders apart, the prompt between them and the unified encoder, and what may be cached."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import empty_plan, toy_cmal, toy_plan

from cmal.model.cmal import UniModal, build_cmal
from cmal.model.inputs import FILL_KEEP, FILL_SWAP
from cmal.model.transformer import trainable_parameters

T, R = 4, 3


def inputs() -> dict[str, torch.Tensor]:
    """Two examples: 4 and 3 words, 3 and 2 regions."""
    generator = torch.Generator().manual_seed(0)
    return {
        "token_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "token_mask": torch.tensor([[True] * 4, [True, True, True, False]]),
        "features": torch.randn(2, R, 3, generator=generator),
        "boxes_unit": torch.rand(2, R, 7, generator=generator),
        "region_mask": torch.tensor([[True] * 3, [True, True, False]]),
    }


@pytest.fixture(scope="module")
def cmal():
    return toy_cmal()


def test_each_encoder_sees_one_modality(cmal):
    """So that both can be computed once per text and image, and kept."""
    before = cmal.encode(**inputs())
    other_image = cmal.encode(**inputs() | {"features": torch.ones(2, R, 3), "boxes_unit": torch.zeros(2, R, 7)})
    other_text = cmal.encode(**inputs() | {"token_ids": torch.full((2, 4), 9)})
    assert torch.equal(before.text, other_image.text) and not torch.equal(before.visual, other_image.visual)
    assert torch.equal(before.visual, other_text.visual) and not torch.equal(before.text, other_text.text)


def test_states_of_texts_and_images_can_be_paired_anew(cmal):
    """Image 0 beside text 1 out of the states is what encoding that pair from nothing gives."""
    states, given = cmal.encode(**inputs()), inputs()
    crossed = cmal.unify(states.with_texts(torch.tensor([1, 0])))
    swapped = {name: given[name].flip(0) for name in ("token_ids", "token_mask")}
    torch.testing.assert_close(crossed, cmal.unify(cmal.encode(**given | swapped)))
    images = cmal.unify(states.with_images(torch.tensor([1, 0])))
    swapped = {name: given[name].flip(0) for name in ("features", "boxes_unit", "region_mask")}
    torch.testing.assert_close(images, cmal.unify(cmal.encode(**given | swapped)))


def test_the_guest_takes_the_hosts_identity():
    """Without unified layers a slot is its own: the guest's vector with the host's position and modality, or box."""
    cmal = toy_cmal(unified_layers=0)
    states = cmal.encode(**inputs())
    plan = toy_plan(T, R, 2, example=[0], region=[2], piece_anchor=[0], piece_position=[1], fill=[FILL_SWAP])
    hidden, unified = cmal.unify(states, plan), cmal.unified
    position, box = unified.positions.weight[1], inputs()["boxes_unit"][0, 2]
    word_slot = states.visual[0, 2] + unified.positions_norm(position) + unified.modality.weight[0]
    region_slot = states.text[0, 1] + unified.boxes_norm(unified.boxes(box)) + unified.modality.weight[1]
    torch.testing.assert_close(hidden[0, 1], unified.norm(word_slot))
    torch.testing.assert_close(hidden[0, T + 2], unified.norm(region_slot))


def test_a_swapped_regions_box_does_not_travel_with_it():
    """In the unified encoder a box belongs to the slot: moving it changes what stands there, not the word's slot."""
    cmal = toy_cmal(unified_layers=0)
    states = cmal.encode(**inputs())
    moved = dataclasses.replace(states, boxes_unit=states.boxes_unit.clone())
    moved.boxes_unit[0, 2] = 0.5
    plan = toy_plan(T, R, 2, example=[0], region=[2], piece_anchor=[0], piece_position=[1])
    before, after = cmal.unify(states, plan)[0], cmal.unify(moved, plan)[0]
    assert [i for i in range(T + R) if not torch.equal(before[i], after[i])] == [T + 2]


def test_the_swap_is_off_without_a_plan_and_with_an_empty_one_or_keep(cmal):
    states = cmal.encode(**inputs())
    plain = cmal.unify(states)
    assert torch.equal(plain, cmal.unify(states, empty_plan(T, R, 2)))
    place = {"example": [0], "region": [2], "piece_anchor": [0], "piece_position": [1]}
    assert torch.equal(plain, cmal.unify(states, toy_plan(T, R, 2, **place, fill=[FILL_KEEP])))
    assert not torch.allclose(plain[0], cmal.unify(states, toy_plan(T, R, 2, **place))[0])
    assert torch.equal(plain[1], cmal.unify(states, toy_plan(T, R, 2, **place))[1]), "the other example"


def test_padding_changes_nothing_from_end_to_end(cmal):
    whole = cmal.unify(cmal.encode(**inputs()))
    alone = {name: value[1:, : 3 if name.startswith("token") else 2] for name, value in inputs().items()}
    states: UniModal = cmal.encode(**alone)
    assert states.tokens == 3
    torch.testing.assert_close(cmal.unify(states)[0], whole[1, [0, 1, 2, 4, 5]])
    assert whole[1, [3, 6]].eq(0).all()


def test_an_image_without_regions_goes_through(cmal):
    none = inputs() | {"region_mask": torch.zeros(2, R, dtype=torch.bool)}
    empty = inputs() | {"features": torch.zeros(2, 0, 3), "boxes_unit": torch.zeros(2, 0, 7)}
    empty["region_mask"] = torch.zeros(2, 0, dtype=torch.bool)
    masked, absent = cmal.unify(cmal.encode(**none)), cmal.unify(cmal.encode(**empty))
    torch.testing.assert_close(masked[:, :T], absent)
    assert masked[:, T:].eq(0).all()


def test_sizes_are_what_was_asked_for():
    """A layer of width 8 and inner 16: qkv 216, output 72, two norms 32, feed-forward 144 + 136 = 600."""
    cmal = toy_cmal(text_layers=3, visual_layers=2, unified_layers=1)
    parts = (cmal.textual, cmal.visual, cmal.unified)
    assert [len(part.stack.layers) for part in parts] == [3, 2, 1] and cmal.width == 8
    assert [trainable_parameters(part.stack) for part in parts] == [1800, 1200, 600]
    assert cmal.textual.tokens.weight.shape[1] == 8 and cmal.textual.positions.weight.shape == (20, 8)


def test_the_start_depends_on_the_seed():
    sizes = {"vocabulary": 9, "max_tokens": 5, "region_features": 2, "width": 8, "heads": 1, "inner": 8, "dropout": 0.0}
    sizes |= {"text_layers": 1, "visual_layers": 1, "unified_layers": 1}
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_cmal(**sizes).unified.boxes.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
