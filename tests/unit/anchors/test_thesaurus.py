"""From names to concepts: reading a thesaurus, singulars, and the contents of the package's file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cmal.anchors.thesaurus import Thesaurus, name_words, singular
from cmal.data.text import split_words
from cmal.errors import DataError
from cmal.scenes.world import COLOURS, KINDS

ROOT = Path(__file__).resolve().parents[3]

SMALL = """
# pets
dog, puppy, hound
cat, kitten
animal, beast
person
traffic light, stop light
t-shirt, tee
animal > dog, cat
@attribute grey, gray
@attribute orange
orange
@stop thing, photo
@verb watch
"""

SINGULARS = {
    "men": "man", "women": "woman", "children": "child", "people": "people", "policemen": "policeman", "kids": "kid",
    "buses": "bus", "busses": "bus", "geese": "goose", "mice": "mouse", "feet": "foot", "teeth": "tooth", "oxen": "ox",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "cattle": "cattle", "dogs": "dog", "puppies": "puppy",
    "ladies": "lady", "cherries": "cherry", "boxes": "box", "benches": "bench", "couches": "couch", "dishes": "dish",
    "sandwiches": "sandwich", "brushes": "brush", "foxes": "fox", "glasses": "glasses", "knives": "knife", "calves": "calf",
    "loaves": "loaf", "wolves": "wolf", "leaves": "leaf", "scarves": "scarf", "tomatoes": "tomato",
    "potatoes": "potato", "pianos": "piano", "photos": "photo", "radios": "radio", "toys": "toy", "keys": "key",
    "monkeys": "monkey", "horses": "horse", "vases": "vase", "roses": "rose", "noses": "nose", "houses": "house",
    "suitcases": "suitcase", "airplanes": "airplane", "bikes": "bike", "canoes": "canoe", "shoes": "shoe",
    "skis": "ski", "skies": "sky", "pants": "pants", "jeans": "jeans", "shorts": "shorts", "scissors": "scissors",
    "sunglasses": "sunglasses", "trousers": "trousers", "clothes": "clothes", "bus": "bus", "dress": "dress",
    "grass": "grass", "glass": "glass", "tennis": "tennis", "canvas": "canvas", "cactus": "cactus", "cacti": "cactus",
    "surfboards": "surfboard", "zebras": "zebra", "giraffes": "giraffe", "umbrellas": "umbrella", "tracks": "track",
    "parked": "parked", "surfing": "surfing", "striped": "striped", "crossing": "crossing", "building": "building",
    "drier": "drier", "lighter": "lighter", "bananas": "banana", "donuts": "donut", "doughnuts": "doughnut",
    "trees": "tree", "knees": "knee", "movies": "movie", "cookies": "cookie", "wooden": "wooden", "red": "red",
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Thesaurus:
    return Thesaurus.from_text(SMALL)


@pytest.fixture(scope="module")
def thesaurus() -> Thesaurus:
    return Thesaurus.load()


@pytest.mark.parametrize(("word", "expected"), SINGULARS.items())
def test_singular_of_plurals_and_nothing_else(word, expected):
    assert singular(word) == expected


def test_aliases_share_one_concept_and_canonical_names_come_first(small):
    dog = small.object_concept("dog")
    assert small.object_concept("puppy") == small.object_concept("Hounds") == dog != small.object_concept("cat")
    assert small.concept_names[dog] == "dog"


def test_object_and_attribute_ids_are_disjoint(small):
    assert small.object_concept("orange") < small.attribute_start <= small.attribute_concept("orange")
    assert small.attribute_concept("gray") == small.attribute_concept("grey")
    assert small.attribute_concept("dog") == small.object_concept("grey") == -1


def test_commas_in_a_class_name_are_alternatives(small):
    assert small.object_concept("hotdog,dog") == small.object_concept("dog")
    assert small.object_concept("stoplight,stop light") == small.object_concept("traffic lights")


def test_punctuation_inside_a_name_is_matched_as_captions_write_it(small):
    assert small.object_concept("T-Shirt") == small.object_concept("tee") != -1


def test_unknown_and_over_general_names_have_no_concept(small):
    assert [small.object_concept(name) for name in ("gizmo", "thing", "photos", "", ",")] == [-1] * 5


def test_links_lead_up_and_down_but_never_sideways(small):
    dog, cat, animal = (small.object_concept(name) for name in ("dog", "cat", "animal"))
    assert set(small.matching_concepts[dog]) == {dog, animal} and small.matching_concepts[dog][0] == dog
    assert set(small.matching_concepts[animal]) == {animal, dog, cat}
    assert small.narrower_than("animal", "gizmo") == {dog, cat, animal}


def test_a_user_file_adds_aliases_moves_names_and_lifts_the_stop(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("dog, bowwow\nyacht club, ship\nthing\nwidget\nvehicle > widget\n")
    before, after = Thesaurus.load(), Thesaurus.load(path)
    assert after.object_concept("bowwow") == after.object_concept("puppy")
    assert after.object_concept("ship") == after.object_concept("yacht club") != after.object_concept("ferry")
    assert after.concept_names[after.object_concept("ferry")] == "ferry"  # "ship" led that line and is gone from it
    assert before.object_concept("thing") == -1 != after.object_concept("thing")
    assert after.object_concept("vehicle") in after.matching_concepts[after.object_concept("widget")]


def test_faulty_lines_are_reported_together_with_their_numbers(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("dog, , cat\nok\nanimal > unicornfish\n@colour red\n")
    with pytest.raises(DataError) as caught:
        Thesaurus.load(path)
    assert caught.value.what == f"cannot use the thesaurus {path}"
    assert caught.value.found.splitlines() == [
        "line 1: a name is empty",
        '  line 3: "unicornfish" has no concept line above',
        '  line 4: unknown keyword "@colour"; known: @attribute, @stop, @verb',
    ]


def test_a_missing_user_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        Thesaurus.load(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("name", ["T-shirt", "catcher's mitt", "hot dog", "multi-colored", "snow_board", "jalapeño"])
def test_names_are_parted_as_captions_are(name):
    assert tuple(name_words(name)) == split_words(name)


def test_every_kind_and_colour_of_the_scenes_has_its_own_concept(thesaurus):
    kinds = [thesaurus.object_concept(kind) for kind in KINDS]
    colours = [thesaurus.attribute_concept(colour) for colour in COLOURS]
    assert -1 not in kinds + colours
    assert len(set(kinds)) == len(KINDS) and len(set(colours)) == len(COLOURS)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("automobile", "car"), ("kid", "child"), ("bike", "bicycle"), ("tv", "television"), ("cottage", "house"),
        ("puppy", "dog"), ("kitten", "cat"), ("lady", "woman"), ("guy", "man"), ("gentleman", "man"), ("kids", "child"),
        ("stoplight", "traffic light"), ("hydrant", "fire hydrant"), ("blossom", "flower"), ("locomotive", "train"),
    ],
)  # fmt: skip
def test_everyday_synonyms_mean_the_kind(thesaurus, word, kind):
    assert thesaurus.object_concept(word) == thesaurus.object_concept(kind)


@pytest.mark.parametrize(
    ("word", "tag"), [("man", "person"), ("person", "man"), ("surfer", "person"), ("ship", "boat")]
)
def test_narrower_and_broader_words_meet_a_tag(thesaurus, word, tag):
    assert thesaurus.object_concept(tag) in thesaurus.matching_concepts[thesaurus.object_concept(word)]


@pytest.mark.parametrize(
    ("word", "tag"), [("man", "woman"), ("dog", "cat"), ("dog", "hot dog"), ("bear", "teddy bear")]
)
def test_neighbours_do_not_meet(thesaurus, word, tag):
    assert thesaurus.object_concept(tag) not in thesaurus.matching_concepts[thesaurus.object_concept(word)]


def test_all_classes_of_visual_genome_and_coco_have_a_concept_or_are_on_the_stop_list(thesaurus, real_data):
    vocabulary = real_data / "visual_genome/1600-400-20"
    without = [
        n for n in (vocabulary / "objects_vocab.txt").read_text().splitlines() if thesaurus.object_concept(n) < 0
    ]
    stopped = [n for n in without if {n, singular(n)} & thesaurus.stop_words]
    assert without == stopped and len(without) < 160
    attributes = (vocabulary / "attributes_vocab.txt").read_text().splitlines()
    assert all(thesaurus.attribute_concept(name) >= 0 for name in attributes)
    coco = json.loads((real_data / "coco/annotations/instances_val2017.json").read_text())["categories"]
    concepts = [thesaurus.object_concept(category["name"]) for category in coco]
    assert -1 not in concepts and len(set(concepts)) == 80


def test_the_package_file_is_what_the_recipe_builds(real_data, tmp_path):
    out = tmp_path / "thesaurus.txt"
    vocabulary, coco = real_data / "visual_genome/1600-400-20", real_data / "coco/annotations/instances_val2017.json"
    command = [sys.executable, ROOT / "recipes/build_thesaurus.py", "--objects", vocabulary / "objects_vocab.txt"]
    command += ["--attributes", vocabulary / "attributes_vocab.txt", "--coco-instances", coco]
    command += ["--wordnet", real_data / "vocab/wordnet", "--out", out]
    subprocess.run([str(part) for part in command], check=True)
    assert out.read_bytes() == (ROOT / "cmal/anchors/thesaurus.txt").read_bytes()
