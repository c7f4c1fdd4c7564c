"""Padding and joining, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import PIECES, ids_of, regions, toy_builder

from cmal.data.batch import lengths_mask, make_batch, make_pretraining_batch, pad
from cmal.data.masking import MaskingConfig, mask_example
from cmal.model.inputs import FILL_SWAP, move

IMAGES = {
    "toy:1": regions(["dog", "cat"], colours=["red", ""]),
    "toy:2": regions(["tree"], size=(40, 20)),
    "toy:3": regions(["cat", "dog", "dog"]),
}
TEXTS = [("1", "toy:1", "a red dog"), ("2", "toy:2", "two dogs run"), ("3", "toy:3", "dogs and a cat")]
EVERY_ANCHOR = MaskingConfig(anchor=1.0, attributes=False, swap=1.0, mask=0.0, keep=0.0, word=0.0, region=0.0)


def examples():
    builder = toy_builder(IMAGES)
    return [builder.build(*text) for text in TEXTS]


def pretraining_batch(rates: MaskingConfig, text_of=(0, 1, 2), is_match=(True, True, True)):
    many = examples()
    draws = [mask_example(e, rates, PIECES.mask_id, len(PIECES), np.random.default_rng(0)) for e in many]
    return make_pretraining_batch(many, draws, np.array(text_of), np.array(is_match)), draws


def test_padding_puts_zeros_behind():
    padded = pad([np.array([[1, 2]]), np.zeros((0, 2)), np.array([[3, 4], [5, 6]])], torch.int64)
    assert padded.tolist() == [[[1, 2], [0, 0]], [[0, 0], [0, 0]], [[3, 4], [5, 6]]]
    assert pad([np.zeros((0, 3)), np.zeros((0, 3))], torch.float32).shape == (2, 0, 3)


def test_masks_are_true_for_real_entries():
    assert lengths_mask([2, 0, 3]).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert lengths_mask([0, 0]).shape == (2, 0)


def test_a_batch_holds_each_example_and_its_masks():
    batch = make_batch(examples())
    assert batch.ids == ("1", "2", "3") and len(batch) == 3
    assert batch.token_ids[0].tolist() == [*ids_of("[CLS]", "a", "red", "dog", "[SEP]"), 0, 0]
    assert batch.token_mask.sum(1).tolist() == [5, 6, 7] and batch.region_mask.sum(1).tolist() == [2, 1, 3]
    assert batch.features[2, :, 0].tolist() == [1, 2, 3] and batch.features[1, :, 0].tolist() == [1, 0, 0]
    assert (batch.features.dtype, batch.boxes_unit.shape) == (torch.float32, (3, 3, 7))
    assert batch.image_size_px.tolist() == [[100, 50], [40, 20], [100, 50]]
    assert batch.masked is batch.text_of is batch.same_image is None


def test_images_without_regions_make_a_batch():
    builder = toy_builder({"toy:0": regions([])})
    batch = make_batch([builder.build("1", "toy:0", "a dog"), builder.build("2", "toy:0", "")])
    assert batch.features.shape == (2, 0, 3) and batch.region_mask.shape == (2, 0)


def test_chosen_anchors_of_all_examples_are_joined_and_know_whose_they_are():
    """Example 0: dog (region 0, piece 3). 1: none. 2: dogs (region 1, pieces 1 and 2), cat (region 0, piece 5)."""
    batch, _ = pretraining_batch(EVERY_ANCHOR)
    plan = batch.masked.plan
    assert len(plan) == 3
    assert plan.example.tolist() == [0, 2, 2] and plan.region.tolist() == [0, 1, 0]
    assert plan.piece_anchor.tolist() == [0, 1, 1, 2] and plan.piece_position.tolist() == [3, 1, 2, 5]
    assert plan.fill.tolist() == [FILL_SWAP] * 3 and plan.is_attribute.tolist() == [False] * 3
    assert plan.positive_anchor.tolist() == [0, 1, 1, 2] and plan.positive_region.tolist() == [0, 1, 2, 0]
    assert plan.positive_piece_anchor.tolist() == [0, 1, 1, 2]
    assert plan.duplicate_region_mask.tolist() == [[False] * 3, [False] * 3, [False, False, True]]
    assert plan.duplicate_token_mask.shape == batch.token_ids.shape


def test_the_joined_plan_finds_the_pieces_and_regions_of_the_batch():
    """What the plan points at in the padded batch are the words and tags that met."""
    batch, _ = pretraining_batch(EVERY_ANCHOR)
    plan = batch.masked.plan
    pieces = batch.token_ids[plan.example[plan.piece_anchor], plan.piece_position]
    assert pieces.tolist() == ids_of("dog", "dog", "##s", "cat")
    assert batch.features[plan.example, plan.region, 0].tolist() == [1, 2, 1]


def test_masked_words_and_regions_carry_their_true_answers():
    batch, draws = pretraining_batch(dataclasses.replace(EVERY_ANCHOR, anchor=0.0, word=1.0, region=1.0))
    masked = batch.masked
    assert masked.word_example.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert masked.word_position.tolist() == [1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert masked.word_labels.tolist() == batch.token_ids[masked.word_example, masked.word_position].tolist()
    assert masked.token_ids[0, :5].tolist() == draws[0].token_ids.tolist()
    assert masked.region_example.tolist() == [0, 0, 1, 2, 2, 2] and masked.region_position.tolist() == [
        0,
        1,
        0,
        0,
        1,
        2,
    ]
    assert masked.region_top_ids[:, 0].tolist() == [0, 1, 2, 1, 0, 0], "dog cat, tree, cat dog dog"
    assert masked.region_top_probs[:, 0].tolist() == [1.0] * 6
    assert masked.zeroed_region_mask.tolist() == batch.region_mask.tolist()
    assert batch.features[0, 0, 0] == 1, "the true features stay: they are the answer"


def test_matching_and_which_pairs_show_one_image():
    many = examples()
    many[1] = dataclasses.replace(many[1], image_id="toy:1")
    draws = [mask_example(e, EVERY_ANCHOR, 4, len(PIECES), np.random.default_rng(0)) for e in many]
    batch = make_pretraining_batch(many, draws, np.array([2, 1, 2]), np.array([False, True, True]))
    assert batch.text_of.tolist() == [2, 1, 2] and batch.is_match.tolist() == [False, True, True]
    assert batch.same_image.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_moving_takes_every_tensor_along():
    batch, _ = pretraining_batch(EVERY_ANCHOR)
    there = dataclasses.replace(batch, targets={"a": torch.ones(2)}).to("meta")
    tensors = [
        there.token_ids,
        there.same_image,
        there.targets["a"],
        there.masked.word_labels,
        there.masked.plan.region,
    ]
    assert {t.device.type for t in tensors} == {"meta"} and there.ids == batch.ids
    assert move("text", "meta") == "text"


@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_padding_keeps_values_of_any_integer_width(dtype):
    assert pad([np.array([300, -5], dtype)], torch.int64).tolist() == [[300, -5]]
