"""What chance decides about an example, and what it must never do.

The running example: "a red dog and two dogs is near the cat" (13 pieces: [CLS] a red dog and two dog ##s is near the cat
[SEP]) with regions [red dog, white dog, cat, tree], all apart.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from toys import (
    ATTRIBUTES,
    CLASSES,
    PIECES,
    THESAURUS,
    VOCAB,
    ids_of,
    random_caption,
    random_image,
    regions,
    toy_builder,
)

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.example import Example
from cmal.data.masking import ExampleMasking, MaskingConfig, choose_anchors, mask_example, sample_matching
from cmal.model.inputs import FILL_KEEP, FILL_MASK, FILL_SWAP
from cmal.runs.pretrain import masking_config
from cmal.runs.recipe import PretrainRecipe

CAPTION = "a red dog and two dogs is near the cat"
PLAIN = MaskingConfig(word=0, region=0)
RED_DOG, WHITE_DOG, CAT, TREE = range(4)


def example(caption: str = CAPTION, tags=("dog", "dog", "cat", "tree"), **how) -> Example:
    how = {"colours": ["red", "white", "", ""], "conf": [0.9, 0.8, 0.7, 0.6]} | how
    return toy_builder({"toy:1": regions(tags, **how)}).build("1", "toy:1", caption)


def maskings_of(one: Example, rates: MaskingConfig, seeds: int = 200):
    for seed in range(seeds):
        yield mask_example(one, rates, PIECES.mask_id, len(PIECES), np.random.default_rng(seed))


def one_anchor(one: Example, wanted: tuple[int, bool], rates: MaskingConfig = PLAIN):
    """A draw in which exactly the anchor (region, is_attribute) was chosen."""
    few = dataclasses.replace(rates, anchor=0.01)
    for masking in maskings_of(one, few):
        if list(zip(masking.plan.region.tolist(), masking.plan.is_attribute.tolist())) == [wanted]:
            return masking
    raise AssertionError(f"{wanted} was never chosen")


def arrays_of(masking: ExampleMasking) -> list[np.ndarray]:
    """All arrays of a masking, its plan's first."""
    plan, *others = vars(masking).values()
    return [*vars(plan).values(), *others]


def test_the_running_example_is_what_it_says():
    one = example()
    assert [VOCAB[i] for i in one.token_ids] == "[CLS] a red dog and two dog ##s is near the cat [SEP]".split()
    pairs = one.anchors.anchors.pairs.tolist()
    assert pairs == [[0, 1], [1, 2], [2, 3], [0, 0]], "red dog, the dogs, cat; then red"
    assert one.anchors.mention_pieces.tolist() == [[2, 3], [3, 4], [6, 8], [11, 12]]


# anchors


def test_every_anchor_is_chosen_at_rate_one_with_all_its_pieces():
    masking = next(maskings_of(example(), dataclasses.replace(PLAIN, anchor=1.0, attributes=False)))
    assert masking.plan.region.tolist() == [RED_DOG, WHITE_DOG, CAT]
    assert masking.plan.piece_anchor.tolist() == [0, 1, 1, 2] and masking.plan.piece_position.tolist() == [3, 6, 7, 11]
    dog, cat = (THESAURUS.object_concept(name) for name in ("dog", "cat"))
    assert masking.plan.concept.tolist() == [dog, dog, cat]


def test_at_least_one_anchor_is_chosen_however_low_the_rate():
    rates = dataclasses.replace(PLAIN, anchor=1e-6)
    chosen = [len(masking.plan.region) for masking in maskings_of(example(), rates)]
    assert set(chosen) == {1}


def test_rate_is_the_share_that_is_chosen():
    counts = [
        len(masking.plan.region) for masking in maskings_of(example(), dataclasses.replace(PLAIN, anchor=0.5), 2000)
    ]
    assert np.mean(counts) == pytest.approx(3 * 0.5 + 0.125, abs=0.06), "three regions; none at all becomes one"


def test_a_region_with_two_roles_takes_one_at_a_time_drawn_evenly():
    roles = Counter()
    for masking in maskings_of(example(), dataclasses.replace(PLAIN, anchor=1.0), 1000):
        assert len(set(masking.plan.region.tolist())) == 3, "each region once"
        roles[bool(masking.plan.is_attribute[masking.plan.region.tolist().index(RED_DOG)])] += 1
    assert roles[True] / 1000 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("objects", "attributes", "count"), [(True, False, 3), (False, True, 1), (False, False, 0)])
def test_roles_can_be_switched_off(objects, attributes, count):
    rates = dataclasses.replace(PLAIN, anchor=1.0, objects=objects, attributes=attributes)
    for masking in maskings_of(example(), rates, 20):
        assert len(masking.plan.region) == count and masking.plan.is_attribute.all() == (not objects)


def test_an_attribute_anchors_word_is_the_attribute():
    masking = one_anchor(example(), (RED_DOG, True))
    assert masking.plan.piece_position.tolist() == [2], '"red"'
    assert masking.plan.concept.tolist() == [THESAURUS.attribute_concept("red")]


def test_fills_come_at_their_rates():
    rates = dataclasses.replace(PLAIN, anchor=1.0, swap=0.5, mask=0.3, keep=0.2)
    fills = Counter(f for masking in maskings_of(example(), rates, 1000) for f in masking.plan.fill.tolist())
    shares = [fills[kind] / 3000 for kind in (FILL_SWAP, FILL_MASK, FILL_KEEP)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    always = dataclasses.replace(PLAIN, anchor=1.0, swap=1.0, mask=0.0, keep=0.0)
    assert {f for masking in maskings_of(example(), always) for f in masking.plan.fill.tolist()} == {FILL_SWAP}


def test_rate_zero_chooses_nothing_and_an_example_without_anchors_neither():
    for one, rates in (
        (example(), dataclasses.replace(PLAIN, anchor=0.0)),
        (example("a tree", tags=("cat", "cat")[:1], colours=[""], conf=[0.9]), PLAIN),
        (example("", tags=(), colours=[], conf=[]), PLAIN),
        (dataclasses.replace(example(), anchors=None), PLAIN),
    ):
        masking = next(maskings_of(one, rates))
        assert (
            masking.plan.region.shape == masking.plan.piece_anchor.shape == masking.plan.positive_region.shape == (0,)
        )
        assert not masking.plan.duplicate_token_mask.any() and not masking.plan.duplicate_region_mask.any()
        assert masking.plan.duplicate_token_mask.shape == one.token_ids.shape
        assert len(masking.plan.duplicate_region_mask) == len(one.features)


# positives


def test_positives_are_all_regions_of_the_word_and_all_words_of_the_region():
    masking = one_anchor(example(), (RED_DOG, False))
    assert masking.plan.positive_region.tolist() == [RED_DOG, WHITE_DOG]
    assert masking.plan.positive_piece_position.tolist() == [3, 6, 7], '"dog" and both pieces of "dogs"'


def test_positives_of_an_attribute_are_its_own_role():
    masking = one_anchor(example(), (RED_DOG, True))
    assert masking.plan.positive_region.tolist() == [RED_DOG] and masking.plan.positive_piece_position.tolist() == [2]


# duplicates


def test_twins_of_a_dog_are_the_other_dog_and_the_other_dogs_words():
    masking = one_anchor(example(), (RED_DOG, False))
    assert np.flatnonzero(masking.plan.duplicate_region_mask).tolist() == [WHITE_DOG]
    assert np.flatnonzero(masking.plan.duplicate_token_mask).tolist() == [6, 7]


def test_the_chosen_anchors_own_slots_are_no_twins():
    rates = dataclasses.replace(PLAIN, anchor=1.0, attributes=False)
    masking = next(maskings_of(example(), rates))
    assert not masking.plan.duplicate_region_mask.any(), "both dogs and the cat are chosen themselves"
    assert not masking.plan.duplicate_token_mask.any()


def test_a_region_that_overlaps_a_chosen_one_is_a_twin_whatever_its_tag():
    """The tree's box shares 8 of 12 columns with the cat's: IoU 2/3. At a limit of 0.7 it is no duplicate."""
    boxes = [[0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10], [62, 0, 72, 10]]
    one = example(boxes=boxes)
    assert np.flatnonzero(one_anchor(one, (CAT, False)).plan.duplicate_region_mask).tolist() == [TREE]
    tolerant = dataclasses.replace(PLAIN, duplicate_iou=0.7)
    assert not one_anchor(one, (CAT, False), tolerant).plan.duplicate_region_mask.any()


def test_twins_of_a_colour_are_the_other_regions_of_that_colour():
    one = example(colours=["red", "white", "", "red"])
    assert np.flatnonzero(one_anchor(one, (RED_DOG, True)).plan.duplicate_region_mask).tolist() == [TREE]


def test_twins_can_be_left_as_they_are():
    masking = one_anchor(example(), (RED_DOG, False), dataclasses.replace(PLAIN, duplicates=False))
    assert not masking.plan.duplicate_region_mask.any() and not masking.plan.duplicate_token_mask.any()


def test_a_region_whose_tag_is_only_linked_to_a_chosen_word_is_a_twin():
    """ "animal" swaps with the surest dog; the cat is an animal too, the tree is none."""
    thesaurus = Thesaurus.from_text("dog\ncat\ntree\nanimal\nanimal > dog, cat")
    builder = toy_builder({"toy:1": regions(["dog", "cat", "tree"], conf=[0.9, 0.5, 0.5])})
    builder.finder = AnchorFinder(thesaurus, CLASSES[:3], ())
    masking = next(maskings_of(builder.build("1", "toy:1", "an animal"), PLAIN))
    assert masking.plan.region.tolist() == [0]
    assert np.flatnonzero(masking.plan.duplicate_region_mask).tolist() == [1]


def test_of_several_attributes_of_a_region_each_has_its_turn():
    one, seen = example("the red red dog"), Counter()
    for masking in maskings_of(one, dataclasses.replace(PLAIN, objects=False)):
        assert len(masking.plan.region) == 1
        seen[int(masking.plan.piece_position[0])] += 1
    assert set(seen) == {2, 3} and min(seen.values()) > 60


# masked words

WORDS = MaskingConfig(anchor=0, region=0, word=0.5)


def test_whole_words_are_masked():
    for masking in maskings_of(example(), WORDS):
        masked = set(masking.word_positions.tolist())
        assert ({6, 7} <= masked) or not ({6, 7} & masked), '"dog" and "##s" are one word'
        assert masked and not masked & {0, 12}, "at least one, never [CLS] or [SEP]"


def test_a_word_is_masked_or_left_with_all_its_pieces():
    """One piece the mask and the other itself would give the word away."""
    seen = Counter()
    for masking in maskings_of(example(), dataclasses.replace(WORDS, word=1.0)):
        first, second = masking.token_ids[6] == PIECES.mask_id, masking.token_ids[7] == PIECES.mask_id
        assert not (first and masking.token_ids[7] == ids_of("##s")[0])
        assert not (second and masking.token_ids[6] == ids_of("dog")[0])
        seen[bool(first and second)] += 1
    assert seen[True] > 100


def test_the_share_of_masked_words_and_at_least_one():
    one = example()
    few = [masking.word_positions for masking in maskings_of(one, dataclasses.replace(WORDS, word=1e-6))]
    assert {len(set(one.word_of_token[p].tolist())) for p in few} == {1}
    some = [len(set(one.word_of_token[d.word_positions].tolist())) for d in maskings_of(one, WORDS, 1000)]
    assert np.mean(some) == pytest.approx(0.5 * 10, abs=0.15)


def test_masked_pieces_are_80_percent_mask_10_random_10_themselves():
    one, kinds = example(), Counter()
    for masking in maskings_of(one, dataclasses.replace(WORDS, word=1.0), 1000):
        untouched = np.setdiff1d(np.arange(13), masking.word_positions)
        assert (masking.token_ids[untouched] == one.token_ids[untouched]).all()
        for position in masking.word_positions:
            now = masking.token_ids[position]
            kinds["mask" if now == PIECES.mask_id else "same" if now == one.token_ids[position] else "other"] += 1
    total = sum(kinds.values())
    v = len(PIECES)  # a random piece is the mask or the word itself now and then
    wanted = [0.8 + 0.1 / v, 0.1 + 0.1 / v, 0.1 * (v - 2) / v]
    assert [kinds[k] / total for k in ("mask", "same", "other")] == pytest.approx(wanted, abs=0.015)


def test_words_of_chosen_anchors_and_of_twins_are_never_masked():
    rates = MaskingConfig(anchor=0.01, region=0, word=1.0, attributes=False)
    for masking in maskings_of(example(), rates):
        taken = set(masking.plan.piece_position.tolist()) | set(
            np.flatnonzero(masking.plan.duplicate_token_mask).tolist()
        )
        assert taken and not taken & set(masking.word_positions.tolist())
        assert len(masking.word_positions) == 11 - len(taken), "all the others are"


def test_word_rate_zero_masks_nothing():
    masking = next(maskings_of(example(), PLAIN))
    assert masking.word_positions.shape == (0,) and (masking.token_ids == example().token_ids).all()


# masked regions

NEAR = [[0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10], [60, 0, 70, 5]]  # the tree is half of the cat: IoU 0.5
REGIONS = MaskingConfig(anchor=0, word=0, region=1e-6)


def test_a_masked_regions_overlapping_neighbours_are_zeroed_but_not_asked_for():
    seen = set()
    for masking in maskings_of(example(boxes=NEAR), REGIONS):
        (asked,) = masking.region_positions.tolist()
        zeroed = np.flatnonzero(masking.zeroed_region_mask).tolist()
        assert zeroed == ([CAT, TREE] if asked in (CAT, TREE) else [asked])
        seen.add(asked)
    assert seen == {RED_DOG, WHITE_DOG, CAT, TREE}


def test_a_masked_region_without_an_area_is_zeroed_though_it_overlaps_nothing():
    one = example(tags=("dog",), colours=[""], conf=[0.9], boxes=[[5, 5, 5, 5]])
    masking = next(maskings_of(one, REGIONS))
    assert masking.region_positions.tolist() == [0] and masking.zeroed_region_mask.tolist() == [True]


def test_the_rates_that_hold_where_none_are_given_are_the_recipes():
    reported = masking_config(PretrainRecipe())
    assert reported == MaskingConfig()


def test_neighbours_below_the_limit_stay():
    for masking in maskings_of(example(boxes=NEAR), dataclasses.replace(REGIONS, region_iou=0.6), 50):
        assert masking.zeroed_region_mask.sum() == 1


def test_regions_of_chosen_anchors_their_twins_and_neighbours_are_never_masked():
    rates = MaskingConfig(anchor=0.01, word=0, region=1.0, attributes=False, duplicate_iou=0.9)
    for masking in maskings_of(example(boxes=NEAR), rates):
        taken = set(masking.plan.region.tolist()) | set(np.flatnonzero(masking.plan.duplicate_region_mask).tolist())
        if CAT in taken:
            taken.add(TREE)
        assert set(masking.region_positions.tolist()) == {0, 1, 2, 3} - taken
        assert not masking.zeroed_region_mask[list(taken)].any(), "the guest's own picture must not vanish"


def test_region_rate_zero_masks_nothing():
    masking = next(maskings_of(example(), PLAIN))
    assert masking.region_positions.shape == (0,) and not masking.zeroed_region_mask.any()


# whatever comes


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_no_two_draws_ever_want_the_same_slot(rate):
    """Over 400 random captions and images: what an example may suffer fits together."""
    chosen = 0
    rates = MaskingConfig(anchor=rate, word=rate, region=rate)
    for seed in range(400):
        generator = np.random.default_rng(seed)
        builder = toy_builder({"toy:1": random_image(generator)}, max_tokens=10)
        one = builder.build("1", "toy:1", random_caption(generator))
        masking = mask_example(one, rates, PIECES.mask_id, len(PIECES), generator)
        tokens, count = len(one.token_ids), len(one.features)
        pieces, duplicates = (
            masking.plan.piece_position.tolist(),
            np.flatnonzero(masking.plan.duplicate_token_mask).tolist(),
        )
        words = masking.word_positions.tolist()
        assert (
            len(set(pieces)) == len(pieces)
            and not set(pieces + duplicates) & set(words)
            and not set(pieces) & set(duplicates)
        )
        assert all(0 < p < tokens - 1 for p in pieces + duplicates + words), "never [CLS] or [SEP]"
        at, beside = masking.plan.region.tolist(), np.flatnonzero(masking.plan.duplicate_region_mask).tolist()
        zeroed = np.flatnonzero(masking.zeroed_region_mask).tolist()
        assert len(set(at)) == len(at) and not set(at) & set(beside + zeroed) and not set(beside) & set(zeroed)
        assert set(masking.region_positions.tolist()) <= set(zeroed) <= set(range(count))
        assert sorted(set(masking.plan.piece_anchor.tolist())) == list(range(len(at))), "every anchor has its pieces"
        own = set(zip(masking.plan.positive_anchor.tolist(), masking.plan.positive_region.tolist()))
        assert set(enumerate(at)) <= own, "an anchor's own region is among the right answers"
        chosen += len(at)
    assert chosen > 100


# determinism and matching


def test_draws_depend_on_the_generator_alone():
    one = example()
    first, again, other = (
        mask_example(one, MaskingConfig(), 4, len(PIECES), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    same = [np.array_equal(a, b) for a, b in zip(arrays_of(first), arrays_of(again))]
    assert all(same)
    assert not all(np.array_equal(a, b) for a, b in zip(arrays_of(first), arrays_of(other)))


def test_the_choice_keeps_the_anchors_order():
    anchors = example().anchors
    for seed in range(50):
        chosen = choose_anchors(anchors, MaskingConfig(anchor=0.9), np.random.default_rng(seed))
        assert (np.diff(chosen) > 0).all()


def test_a_mismatched_caption_is_never_of_the_same_image():
    images = ["a", "a", "b", "a", "c", "b"]
    for seed in range(300):
        text_of, is_match = sample_matching(images, np.random.default_rng(seed))
        for place, source in enumerate(text_of):
            assert is_match[place] == (images[source] == images[place])
            assert is_match[place] == (source == place), "another caption of the same image is never masking"
        assert is_match.sum() == 3, "half of the pairs"


def test_every_place_is_mismatched_as_often_and_with_all_others():
    wrong, partners = Counter(), Counter()
    for seed in range(2000):
        text_of, is_match = sample_matching(["a", "b", "c", "d"], np.random.default_rng(seed))
        wrong.update(np.flatnonzero(~is_match).tolist())
        partners.update((p, int(t)) for p, t in enumerate(text_of) if p != t)
    assert [wrong[p] / 2000 for p in range(4)] == pytest.approx([0.5] * 4, abs=0.04)
    assert len(partners) == 12 and min(partners.values()) > 250


def test_a_group_of_one_image_has_no_mismatch():
    text_of, is_match = sample_matching(["a", "a", "a"], np.random.default_rng(0))
    assert text_of.tolist() == [0, 1, 2] and is_match.all()


def test_the_toys_are_as_the_test_thinks():
    assert CLASSES[:2] == ("dog", "cat") and ATTRIBUTES == ("red", "white")
    assert ids_of("[MASK]") == [PIECES.mask_id]
