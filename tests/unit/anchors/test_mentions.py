"""Mentions of objects and attributes in captions: longest names, and words with two uses."""

from __future__ import annotations

import pytest

from cmal.anchors.mentions import MentionFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.text import split_words

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
@stop thing, photo, top, on top of, dog food
@verb watch, wave
""")


@pytest.fixture(scope="module")
def finder() -> MentionFinder:
    return MentionFinder(THESAURUS)


def spoken(finder: MentionFinder, caption: str) -> list[str]:
    """Mentions as readable text: "dog:dog" for an object, "red@2:red" for an attribute that modifies mention 2."""
    words = split_words(caption)
    m = finder.find(words)
    names = finder.thesaurus.concept_names
    rows = zip(m.spans.tolist(), m.concepts.tolist(), m.is_attribute.tolist(), m.modifies.tolist())
    return [f"{' '.join(words[s:e])}{f'@{to}' if attribute else ''}:{names[c]}" for (s, e), c, attribute, to in rows]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog and a tree", ["dog:dog", "tree:tree"]),
        ("Puppies!", ["puppies:dog"]),
        ("a traffic light", ["traffic light:traffic light"]),
        ("two stop lights and a light", ["stop lights:traffic light", "light:light"]),
        ("a fire hydrant", ["fire hydrant:fire hydrant"]),
        ("a thing on top of a photo", []),
        ("dog food for a dog", ["dog:dog"]),
        ("people and geese", ["people:person"]),
        ("", []),
    ],
)
def test_the_longest_name_wins_and_the_stop_list_means_nothing(finder, caption, expected):
    assert spoken(finder, caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red dog", ["red@1:red", "dog:dog"]),
        ("a red wooden table", ["red@2:red", "wooden@2:wooden", "table:table"]),
        ("a red shiny old table", ["red@-1:red", "table:table"]),  # three words before
        ("a red dog box", ["red@1:red", "box:box"]),
        ("red light, grey cat", ["red@1:red", "light:light", "grey@3:grey", "cat:cat"]),
    ],
)
def test_an_attribute_modifies_the_next_thing_at_most_two_words_on(finder, caption, expected):
    assert spoken(finder, caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the dog is red", ["dog:dog", "red@0:red"]),
        ("the dog beside a white tree is red", ["dog:dog", "white@2:white", "tree:tree", "red@0:red"]),
        ("a cat, and the dog is red", ["cat:cat", "dog:dog", "red@1:red"]),
        ("it is red, says a cat", ["red@-1:red", "cat:cat"]),
        ("a man in red", ["man:man", "red@0:red"]),
        ("a woman who is wearing orange", ["woman:woman", "orange@0:orange"]),
        ("a child dressed in white left of a grey cat", ["child:child", "white@0:white", "grey@3:grey", "cat:cat"]),
        ("a dog in red", ["dog:dog", "red@-1:red"]),  # only people wear
        ("a man beside a tall old tree in red", ["man:man", "tree:tree", "red@-1:red"]),
        ("a man in a long old shiny red", ["man:man", "red@-1:red"]),
        ("the car is an orange", ["orange:orange"]),
    ],
)
def test_an_attribute_after_its_thing(finder, caption, expected):
    assert spoken(finder, caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("an orange on a table", ["orange:orange", "table:table"]),
        ("an orange cat", ["orange@1:orange", "cat:cat"]),
        ("an orange and white cat", ["orange@-1:orange", "white@2:white", "cat:cat"]),
        ("a red brick wall", ["red@2:red", "brick@2:brick", "wall:wall"]),
        ("a baby elephant", ["baby@1:baby", "elephant:elephant"]),
        ("a baby and a dog", ["baby:baby", "dog:dog"]),
        ("a laptop and white mouse", ["laptop:laptop", "white@2:white", "mouse:mouse"]),
        ("a glass red wooden", ["glass:glass", "red@-1:red", "wooden@-1:wooden"]),
        ("a baby watches a cat", ["baby:baby", "cat:cat"]),
        ("a glass table, a glass", ["glass@1:glass", "table:table", "glass:glass"]),
    ],
)
def test_words_that_are_attributes_and_things(finder, caption, expected):
    assert spoken(finder, caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a pizza box", ["box:box"]),
        ("dogs, trees", ["dogs:dog", "trees:tree"]),
        ("near dogs trees grow", ["dogs:dog", "trees:tree"]),
        ("a woman surfer", ["woman:woman", "surfer:surfer"]),
        ("a woman elephant", ["elephant:elephant"]),
        ("a man watches a cat", ["man:man", "cat:cat"]),
        ("a dog watches a cat", ["dog:dog", "cat:cat"]),
        ("a man with a watch", ["man:man", "watch:watch"]),
        ("they wave to a man on a wave", ["man:man", "wave:wave"]),
    ],
)
def test_compounds_and_verbs_are_no_mentions(finder, caption, expected):
    assert spoken(finder, caption) == expected


def test_spans_count_words(finder):
    mentions = finder.find(split_words("a red traffic light"))
    assert mentions.spans.tolist() == [[1, 2], [2, 4]] and len(mentions) == 2
