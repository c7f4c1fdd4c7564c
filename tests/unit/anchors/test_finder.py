"""Matching words and tags: mentions, positives, and the one-to-one anchors among them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.anchors.finder import AnchorFinder, Anchors, Mentions, RegionConcepts
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.text import split_words
from cmal.errors import DataError
from cmal.regions.types import Regions

THESAURUS = Thesaurus.from_text("""
person, people
man, guy
woman
child
surfer
dog, puppy
cat
tree
light
traffic light, stop light
fire hydrant
orange
brick
box
pizza
watch
mouse
laptop
wave
table
glass
wall
elephant
baby
animal
person > man, woman, child, surfer, baby
animal > dog, cat, elephant
@attribute red
@attribute white
@attribute grey, gray
@attribute orange
@attribute brick
@attribute baby
@attribute glass
@attribute wooden
@attribute laptop
@stop thing, photo, top, on top of
@verb watch, wave
""")
CLASSES = ("dog", "tree", "person", "man", "orange", "light", "traffic light", "box", "gizmo", "cat")
ATTRIBUTES = ("red", "grey", "wooden", "sparkling", "white")


@pytest.fixture(scope="module")
def finder() -> AnchorFinder:
    return AnchorFinder(THESAURUS, CLASSES, ATTRIBUTES)


def regions_of(tags: list[str], conf=None, widths=None, attributes=None) -> Regions:
    count = len(tags)
    boxes = np.array([[0, 0, w, 10] for w in (widths or [10] * count)], dtype=np.float32).reshape(count, 4)
    attribute_ids = [ATTRIBUTES.index(a) if a else -1 for a in (attributes or [""] * count)]
    return Regions(
        features=np.zeros((count, 2), np.float32),
        boxes_xyxy_px=boxes,
        object_ids=np.array([CLASSES.index(t) for t in tags], dtype=np.int16),
        object_conf=np.array(conf or [0.5] * count, dtype=np.float16),
        attribute_ids=np.array(attribute_ids, dtype=np.int16),
        attribute_conf=np.ones(count, np.float16),
        class_top_ids=np.zeros((count, 10), np.int16),
        class_top_probs=np.zeros((count, 10), np.float16),
        image_wh_px=(100, 100),
    )


def anchors_of(finder: AnchorFinder, caption: str, regions: Regions) -> Anchors:
    return finder.find_anchors(finder.find_mentions(split_words(caption)), regions)


def test_two_dogs_run(finder):
    anchors = anchors_of(finder, "two dogs run", regions_of(["dog", "tree", "dog"], widths=[10, 10, 20]))
    assert anchors.positives.tolist() == [[0, 0], [2, 0]]
    assert anchors.pairs.tolist() == [[2, 0]]  # as confident, but larger
    assert anchors.concepts.tolist() == [THESAURUS.object_concept("dog")] and not anchors.is_attribute.any()


def test_each_mention_takes_an_unused_region_of_its_concept(finder):
    anchors = anchors_of(finder, "a dog, a dog and a dog", regions_of(["dog", "tree", "dog"], conf=[0.4, 0.9, 0.8]))
    assert anchors.pairs.tolist() == [[2, 0], [0, 1]]  # the third dog finds none left
    assert len(anchors.positives) == 6


@pytest.mark.parametrize(
    ("conf", "widths", "chosen"),
    [([0.5, 0.9], [30, 10], 1), ([0.5, 0.5], [10, 30], 1), ([0.5, 0.5], [10, 10], 0)],
    ids=["confidence first", "then area", "then the lower index"],
)
def test_order_of_choice(finder, conf, widths, chosen):
    assert anchors_of(finder, "a dog", regions_of(["dog", "dog"], conf, widths)).pairs.tolist() == [[chosen, 0]]


def test_a_region_of_the_very_concept_comes_before_a_linked_one(finder):
    regions = regions_of(["person", "man"], conf=[0.9, 0.2])
    anchors = anchors_of(finder, "a man", regions)
    assert anchors.pairs.tolist() == [[1, 0]] and anchors.positives.tolist() == [[0, 0], [1, 0]]


def test_a_broad_word_leaves_a_region_to_the_word_that_names_it(finder):
    anchors = anchors_of(finder, "an animal beside a cat", regions_of(["cat", "dog"], conf=[0.9, 0.2]))
    assert anchors.pairs.tolist() == [[1, 0], [0, 1]]


def test_a_word_finer_than_the_tags_comes_before_a_broad_word(finder):
    regions = regions_of(["person", "person"], conf=[0.2, 0.9])
    assert anchors_of(finder, "a surfer in front of people", regions).pairs.tolist() == [[1, 0], [0, 1]]
    assert anchors_of(finder, "people behind a surfer", regions).pairs.tolist() == [[1, 0], [0, 1]], "left to right"


def test_linked_regions_are_chosen_by_confidence_whatever_their_tag(finder):
    for conf, chosen in (([0.2, 0.9], 1), ([0.9, 0.2], 0)):
        assert anchors_of(finder, "an animal", regions_of(["cat", "dog"], conf)).pairs.tolist() == [[chosen, 0]]


def test_a_narrower_word_meets_a_broad_tag_and_a_sideways_one_does_not(finder):
    assert anchors_of(finder, "a surfer", regions_of(["person"])).pairs.tolist() == [[0, 0]]
    assert len(anchors_of(finder, "a woman", regions_of(["man"]))) == 0


def test_an_attribute_is_anchored_to_the_very_region_of_its_thing(finder):
    regions = regions_of(["dog", "dog"], conf=[0.9, 0.2], attributes=["red", "grey"])
    anchors = anchors_of(finder, "a red dog", regions)  # mentions: red, dog
    assert anchors.pairs.tolist() == [[0, 1], [0, 0]] and anchors.is_attribute.tolist() == [False, True]
    assert anchors.concepts.tolist() == [THESAURUS.object_concept("dog"), THESAURUS.attribute_concept("red")]
    assert anchors.positives.tolist() == [[0, 0], [0, 1], [1, 1]]


def test_an_attribute_is_no_anchor_where_its_thing_took_another_region(finder):
    regions = regions_of(["dog", "dog"], conf=[0.9, 0.2], attributes=["grey", "red"])
    anchors = anchors_of(finder, "a red dog", regions)
    assert anchors.pairs.tolist() == [[0, 1]]
    assert [1, 0] in anchors.positives.tolist()  # the red dog is a positive all the same


def test_an_attribute_of_another_thing_is_no_positive(finder):
    anchors = anchors_of(finder, "a red dog", regions_of(["dog", "tree"], attributes=["", "red"]))
    assert anchors.positives.tolist() == [[0, 1]]


def test_a_region_without_an_attribute_meets_none(finder):
    regions = regions_of(["dog"], attributes=[""])
    assert finder.region_concepts(regions).attributes.tolist() == [-1]
    assert anchors_of(finder, "a white dog", regions).positives.tolist() == [[0, 1]]


def test_no_regions_or_no_mentions_give_no_anchors(finder):
    for anchors in (anchors_of(finder, "a dog", regions_of([])), anchors_of(finder, "hello", regions_of(["dog"]))):
        assert len(anchors) == 0 and anchors.pairs.shape == (0, 2) and anchors.positives.shape == (0, 2)


def test_class_names_without_a_concept_are_told_and_never_met(finder):
    assert finder.unknown_classes == ("gizmo",)
    assert finder.region_concepts(regions_of(["gizmo", "dog"])).objects[0] == -1
    assert len(anchors_of(finder, "a gizmo", regions_of(["gizmo"]))) == 0


def test_region_concepts_and_regions_give_the_same_anchors(finder):
    regions = regions_of(["dog", "dog", "cat"], [0.1, 0.3, 0.3])
    mentions = finder.find_mentions(split_words("a dog and a cat"))
    direct, cached = (
        finder.find_anchors(mentions, regions),
        finder.find_anchors(mentions, finder.region_concepts(regions)),
    )
    assert direct.pairs.tolist() == cached.pairs.tolist() == [[1, 0], [2, 1]]


def test_a_store_of_another_detector_is_refused(finder):
    regions = dataclasses.replace(regions_of(["dog"]), object_ids=np.array([1599]))
    with pytest.raises(DataError, match=r"a region has class id 1599, but only 10 class names are known"):
        finder.region_concepts(regions)


_WORDS = "a two red grey orange baby dog dogs tree traffic light man people pizza box watch and , to thing".split()
_captions = st.lists(st.sampled_from(_WORDS), max_size=12)
_regions = st.lists(
    st.tuples(
        st.sampled_from(CLASSES), st.sampled_from([0.1, 0.5]), st.sampled_from([5, 9]), st.sampled_from(ATTRIBUTES)
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(words=_captions, rows=_regions)
def test_anchors_are_positives_one_to_one_and_the_same_each_time(words, rows):
    finder = AnchorFinder(THESAURUS, CLASSES, ATTRIBUTES)
    columns = [list(column) for column in zip(*rows)] if rows else [[], None, None, None]
    regions = regions_of(*columns)
    mentions: Mentions = finder.find_mentions(words)
    anchors = finder.find_anchors(mentions, regions)
    positives = {tuple(pair) for pair in anchors.positives.tolist()}
    things = [tuple(p) for p, attribute in zip(anchors.pairs.tolist(), anchors.is_attribute) if not attribute]
    attributes = [tuple(p) for p, attribute in zip(anchors.pairs.tolist(), anchors.is_attribute) if attribute]
    assert {*things, *attributes} <= positives
    assert len({r for r, _ in things}) == len({m for _, m in things}) == len(things)
    assert len({m for _, m in attributes}) == len(attributes)
    thing_region = {m: r for r, m in things}
    assert all(thing_region[int(mentions.modifies[m])] == r for r, m in attributes)
    taken = {m for _, m in things}
    matched = {m for _, m in positives if not mentions.is_attribute[m]}
    free = {r for r, m in positives if not mentions.is_attribute[m]} - {r for r, _ in things}
    assert all((r, m) not in positives for m in matched - taken for r in free), (
        "a mention without an anchor has a free matching region"
    )
    again = finder.find_anchors(finder.find_mentions(words), regions)
    assert again.pairs.tolist() == anchors.pairs.tolist() and again.positives.tolist() == anchors.positives.tolist()
    spans = mentions.spans
    assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] >= spans[:-1, 1]).all()


def test_order_of_region_concepts_is_a_permutation(finder):
    concepts: RegionConcepts = finder.region_concepts(regions_of(["dog", "cat", "tree"], [0.2, 0.9, 0.5]))
    assert concepts.order.tolist() == [1, 2, 0]
