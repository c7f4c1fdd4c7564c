"""Captions say only what is true, and their gold anchors cut out exactly the words that name a thing."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.scenes.language.captions import AT_LIGHT, GROUND_NAMES, IN_GROUND, make_captions
from cmal.scenes.language.gold import Piece, join
from cmal.scenes.language.nouns import NAMES, with_article
from cmal.scenes.language.phrases import noun_phrase
from cmal.scenes.scene import Description, Scene, Thing
from cmal.scenes.world import COLOURS, KINDS


def thing(kind: str, colour: str, box: tuple[int, int, int, int], size: str = "medium", visible: float = 1.0) -> Thing:
    return Thing(kind, colour, size, "front", box, visible)


# A brown dog far left, a red car right of it, a black dog far right that hides half of the car; a man in blue between.
DOGS = Scene(
    "train",
    0,
    "street",
    "night",
    (200, 100),
    (
        thing("car", "red", (120, 40, 170, 70), size="large"),
        thing("dog", "brown", (5, 50, 25, 70)),
        thing("man", "blue", (60, 30, 75, 70)),
        thing("dog", "black", (160, 50, 190, 72), size="small"),
    ),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def all_captions(scene: Scene, seeds: int = 60):
    return [caption for seed in range(seeds) for caption in make_captions(scene, rng(seed))]


def test_there_are_five_captions_and_they_differ():
    for seed in range(20):
        texts = [c.text.lower() for c in make_captions(DOGS, rng(seed))]
        assert len(texts) == 5 and len(set(texts)) == 5


def test_pieces_carry_their_things_to_exactly_their_characters():
    sentence = join(
        [Piece("a"), Piece("red", (0,), "red", "attribute"), Piece("car", (0,), "car"), Piece(","), Piece("outside")]
    )
    assert sentence.text == "a red car, outside"
    assert [(a.role, a.span, a.thing) for a in sentence.anchors] == [("attribute", (2, 5), 0), ("object", (6, 9), 0)]


def test_a_phrase_names_every_thing_it_is_true_of():
    def things(**words) -> set[int]:
        return {a.thing for a in join(noun_phrase(DOGS, Description(**words), rng())).anchors if a.role == "object"}

    assert things(noun="dog") == {1, 3}
    assert things(noun="dog", colour="black") == {3}
    assert things(noun="animal") == set()  # names no kind: an indirect mention


def test_numbers_and_plurals_agree():
    pair = Scene("train", 0, "room", "day", (9, 9), (thing("child", "red", (0, 0, 1, 1)),) * 2)
    texts = {join(noun_phrase(pair, Description("child"), rng(seed), "a", 2)).text for seed in range(20)}
    assert texts == {"two children", "two kids"}


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("orange cup", "an orange cup"), ("umbrella", "an umbrella"), ("house", "a house"), ("auto", "an auto")],
)
def test_articles(phrase, expected):
    assert with_article(phrase) == expected


def test_gold_spans_are_names_of_the_thing_they_point_to():
    for caption in all_captions(DOGS):
        for anchor in caption.anchors:
            words = caption.text[slice(*anchor.span)].lower()
            what = DOGS.things[anchor.thing]
            if anchor.role == "attribute":
                assert words == anchor.concept == what.colour
            else:
                assert words in {name for pair in NAMES[what.kind] for name in pair} and anchor.concept == what.kind


def test_every_name_of_a_kind_in_a_caption_is_an_anchor():
    names = {form: kind for kind in KINDS for pair in NAMES[kind] for form in pair}
    for caption in all_captions(DOGS):
        starts = {a.span[0] for a in caption.anchors}
        words = caption.text.lower().replace(".", " ").replace(",", " ").split(" ")
        position = 0
        for word in words:
            assert word not in names or position in starts, caption.text
            position += len(word) + 1


def test_a_caption_mentions_no_kind_colour_ground_or_light_that_is_not_there():
    others = [words for ground, words in (IN_GROUND | {}).items() if ground != "street"]
    others += [words for ground, words in GROUND_NAMES.items() if ground != "street"]
    others += [words for light, words in AT_LIGHT.items() if light != "night"]
    wrong = {phrase for words in others for phrase in words}
    for caption in all_captions(DOGS):
        text = f" {caption.text.lower().rstrip('.').replace(',', ' ')} "
        assert not [phrase for phrase in wrong if f" {phrase} " in text], text
        said = {word for word in text.split() if word in COLOURS}
        assert said <= {"red", "brown", "black", "blue"}


def test_left_and_right_are_read_off_the_boxes_and_close_calls_are_nobodys():
    assert DOGS.related("left of", 1, 0) is True and DOGS.related("right of", 1, 0) is False
    assert DOGS.related("left of", 0, 3) is None  # they overlap
    assert DOGS.related("in front of", 3, 0) is True and DOGS.related("behind", 3, 0) is False
    assert DOGS.related("in front of", 1, 0) is None  # apart: nobody stands in front
    assert DOGS.related("next to", 1, 3) is False
    assert DOGS.placed("left", 1) is True and DOGS.placed("left", 3) is False


def test_relations_said_are_true():
    """Only one thing of each kind here, so that "left of" in a caption can be checked word by word."""
    scene = Scene("train", 0, "field", "day", DOGS.size_wh_px, DOGS.things[:3])
    order = {"dog": 1, "pooch": 1, "animal": 1, "man": 2, "guy": 2, "car": 3, "automobile": 3, "auto": 3, "vehicle": 3}
    checked = 0
    for caption in all_captions(scene):
        text = caption.text.lower()
        for relation, sign in (("left of", 1), ("right of", -1)):
            if text.count(relation) == 1 and " it" not in text:
                before, after = text.split(relation)
                first = [w for w in before.replace(",", " ").split() if w in order]
                second = [w for w in after.rstrip(".").replace(",", " ").split() if w in order]
                if first and second:
                    assert (order[second[0]] - order[first[-1]]) * sign > 0, text
                    checked += 1
    assert checked > 20


def test_hardly_visible_things_are_not_spoken_of():
    hidden = Scene("train", 0, "room", "day", (99, 99), (thing("dog", "red", (0, 0, 30, 30), visible=0.1),))
    assert all(not caption.anchors for caption in all_captions(hidden, 5))


def test_same_seed_same_captions():
    assert make_captions(DOGS, rng(5)) == make_captions(DOGS, rng(5)) != make_captions(DOGS, rng(6))
