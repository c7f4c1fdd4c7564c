"""Groups of records become batches, and the draws of an example depend on seed, epoch and example alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import regions, toy_builder

from cmal.data.loaders import PretrainingData, TaskData, image_ids_of
from cmal.data.masking import MaskingConfig
from cmal.data.micro_batches import MicroBatch
from cmal.data.records import EntailmentRecord, ImageTextRecord, PairRecord, ReferringRecord, VqaRecord
from cmal.tasks.snli_ve import SnliVe

CAPTION = "a red dog and two cats is near the tree"
RECORDS = [ImageTextRecord(f"r{n}", f"toy:{n // 2}", CAPTION) for n in range(6)]
IMAGES = {f"toy:{n}": regions(["dog", "cat", "tree", "cat"][: n + 2]) for n in range(3)}


def data(seed: int = 1, masking: MaskingConfig | None = None) -> PretrainingData:
    return PretrainingData(RECORDS, toy_builder(IMAGES), masking or MaskingConfig(word=0.5, region=0.5), seed)


def micro_batch(indices: tuple[int, ...], epoch: int = 0, number: int = 0) -> MicroBatch:
    return MicroBatch(1, 0, epoch, number, indices)


def masked_row(made: PretrainingData, which: MicroBatch, record: str) -> list:
    """All that was drawn of one example, as plain values."""
    _, batch = made[which]
    place, masked = batch.ids.index(record), batch.masked
    mine = masked.plan.example == place
    words = masked.word_position[masked.word_example == place].tolist()
    zeroed = masked.zeroed_region_mask[place].nonzero().flatten().tolist()
    plan = [masked.plan.region[mine].tolist(), masked.plan.fill[mine].tolist()]
    return [masked.token_ids[place][batch.token_mask[place]].tolist(), words, zeroed, plan]


def test_a_group_becomes_a_batch_with_everything_drawn():
    given = micro_batch((4, 0, 1))
    reported, batch = data()[given]
    assert reported == given and batch.ids == ("r4", "r0", "r1")
    assert batch.masked is not None and batch.text_of.shape == batch.is_match.shape == (3,)
    assert batch.same_image.tolist() == [[True, False, False], [False, True, True], [False, True, True]]


def test_an_examples_draws_do_not_depend_on_its_neighbours_its_place_or_the_step():
    alone = masked_row(data(), micro_batch((2,)), "r2")
    for other in (micro_batch((2, 0, 5), number=7), micro_batch((1, 3, 2))):
        assert masked_row(data(), other, "r2") == alone


@pytest.mark.parametrize("change", ["epoch", "seed", "example"])
def test_they_depend_on_seed_epoch_and_example(change):
    one = [masked_row(data(), micro_batch((n,)), f"r{n}") for n in (0, 1)]
    if change == "epoch":
        other = [masked_row(data(), micro_batch((n,), epoch=1), f"r{n}") for n in (0, 1)]
    elif change == "seed":
        other = [masked_row(data(seed=2), micro_batch((n,)), f"r{n}") for n in (0, 1)]
    else:
        one, other = one[:1], one[1:]
    assert one != other


def test_matching_is_drawn_for_the_group_and_never_within_an_image():
    drawn = set()
    for number in range(30):
        _, batch = data()[micro_batch((0, 1, 2, 3), number=number)]
        for place, source in enumerate(batch.text_of.tolist()):
            assert bool(batch.is_match[place]) == (source == place)
            assert source == place or not batch.same_image[place, source]
        drawn.add(tuple(batch.text_of.tolist()))
    assert len(drawn) > 5, "each group draws anew"
    again = data()[micro_batch((0, 1, 2, 3), number=4)][1]
    assert torch.equal(again.text_of, data()[micro_batch((0, 1, 2, 3), number=4)][1].text_of)


def test_rates_of_zero_reach_the_batch():
    _, batch = data(masking=MaskingConfig(anchor=0.0, word=0.0, region=0.0))[micro_batch((0, 1))]
    masked = batch.masked
    assert len(masked.plan) == len(masked.word_labels) == len(masked.region_position) == 0
    assert torch.equal(masked.token_ids, batch.token_ids) and not masked.zeroed_region_mask.any()


def test_lengths_grow_with_words_and_regions():
    lengths = data().lengths()
    assert lengths.tolist() == [len(CAPTION) // 5 + n for n in (2, 2, 3, 3, 4, 4)]


def test_a_tasks_data_makes_the_tasks_batches_with_lengths_of_any_record():
    records = [
        EntailmentRecord("a", "toy:0", "a dog", "neutral"),
        EntailmentRecord("b", "toy:2", CAPTION, "entailment"),
    ]
    made = TaskData(records, toy_builder(IMAGES, anchors=False), SnliVe("snli-ve").make_batch, seed=0)
    reported, batch = made[micro_batch((1, 0))]
    assert reported.indices == (1, 0) and batch.targets["label"].tolist() == [1, 2]
    assert made.lengths().tolist() == [1 + 2, len(CAPTION) // 5 + 4]


def test_a_tasks_random_draws_depend_on_seed_and_group_number():
    def draw_five(records, builder, generator: np.random.Generator):
        return generator.integers(1000, size=5).tolist()

    def drawn(seed: int, number: int) -> list[int]:
        return TaskData(RECORDS, toy_builder(IMAGES), draw_five, seed)[micro_batch((0,), number=number)][1]

    assert drawn(1, 2) == drawn(1, 2) != drawn(1, 3) != drawn(2, 3)


def test_all_images_that_records_speak_of():
    records = [
        VqaRecord("1", "coco:1", "?"),
        ReferringRecord("2", "2", "coco:2", "dog", (0, 0, 1, 1)),
        PairRecord("3", "nlvr2:l", "nlvr2:r", "s", "i"),
    ]
    assert image_ids_of(records) == {"coco:1", "coco:2", "nlvr2:l", "nlvr2:r"}
    pairs = TaskData(records[2:], toy_builder({"nlvr2:l": IMAGES["toy:0"]}), lambda *a: None, 0)
    assert pairs.lengths().tolist() == [0 + 2], "the left image stands for both"
