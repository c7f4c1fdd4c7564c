"""Anchor statistics, on two captions whose every number can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.text import split_words, word_spans
from cmal.regions.types import Regions
from cmal.tasks.anchor_probe import ProbeItem, anchor_statistics, gold_boxes_by_span

CLASSES, ATTRIBUTES = ("dog", "tree", "cat"), ("red", "green")
DOG, TREE, FAR = [0, 0, 10, 10], [20, 0, 40, 30], [60, 60, 70, 70]


@pytest.fixture(scope="module")
def finder() -> AnchorFinder:
    text = "dog\ntree\ncat\n@attribute red\n@attribute green"
    return AnchorFinder(Thesaurus.from_text(text), CLASSES, ATTRIBUTES)


def item(caption: str, tags: list[tuple[str, str, list[int]]], gold=None) -> ProbeItem:
    count = len(tags)
    regions = Regions(
        features=np.zeros((count, 2), np.float32),
        boxes_xyxy_px=np.array([box for _, _, box in tags], np.float32).reshape(count, 4),
        object_ids=np.array([CLASSES.index(tag) for tag, _, _ in tags]),
        object_conf=np.ones(count, np.float32),
        attribute_ids=np.array([ATTRIBUTES.index(a) if a else -1 for _, a, _ in tags]),
        attribute_conf=np.ones(count, np.float32),
        class_top_ids=np.zeros((count, 10), int),
        class_top_probs=np.zeros((count, 10)),
        image_wh_px=(100, 100),
    )
    return ProbeItem(split_words(caption), np.array(word_spans(caption)).reshape(-1, 2), regions, gold)


def gold_row(caption: str, word: str, role: str, box: list[int]) -> dict:
    start = caption.index(word)
    return {"role": role, "span": [start, start + len(word)], "concept": word, "box_xyxy_px": box}


def test_boxes_of_one_span_come_together():
    rows = [gold_row("two dogs", "dogs", "object", DOG), gold_row("two dogs", "dogs", "object", FAR)]
    assert {span: len(boxes) for span, boxes in gold_boxes_by_span(rows).items()} == {("object", 4, 8): 2}


def test_coverage_counts_pairs_and_anchors(finder):
    items = [item("a red dog", [("dog", "red", DOG)]), item("a tree", [("dog", "", DOG)]), item("a dog", [])]
    found = anchor_statistics(finder, items)
    assert (found["pairs"], found["pairs_with_anchor"], found["coverage"]) == (3, 1, pytest.approx(1 / 3))
    assert found["anchors"] == 2 and found["attribute_anchors_per_pair"] == pytest.approx(1 / 3)
    assert found["concepts"] == {"object: dog": 1, "attribute: red": 1}
    assert "gold" not in found


def test_precision_and_recall_against_gold(finder):
    caption = "a red dog and a tree"
    gold = [
        gold_row(caption, "red", "attribute", DOG),
        gold_row(caption, "dog", "object", DOG),
        gold_row(caption, "tree", "object", TREE),
    ]
    tags = [("dog", "red", DOG), ("tree", "", FAR)]  # the tree's region is somewhere else
    scores = anchor_statistics(finder, [item(caption, tags, gold)])["gold"]
    assert (scores["object"]["precision"], scores["object"]["recall"]) == (0.5, 0.5)
    assert (scores["attribute"]["precision"], scores["attribute"]["recall"]) == (1.0, 1.0)
    assert (scores["all"]["right"], scores["all"]["found"], scores["all"]["gold_spans"]) == (2, 3, 3)
    assert scores["missed"] == [{"role": "object", "words": "tree", "count": 1}]
    assert scores["false"] == [{"role": "object", "words": "tree", "tag": "tree", "count": 1}]


def test_a_plural_span_with_several_boxes_counts_once(finder):
    gold = [gold_row("two dogs", "dogs", "object", box) for box in (DOG, FAR)]
    scores = anchor_statistics(finder, [item("two dogs", [("dog", "", FAR)], gold)])["gold"]
    assert scores["object"]["recall"] == 1.0 and scores["object"]["gold_spans"] == 1


def test_the_role_must_agree(finder):
    caption = "a dog"
    gold = [gold_row(caption, "dog", "attribute", DOG)]
    scores = anchor_statistics(finder, [item(caption, [("dog", "", DOG)], gold)])["gold"]
    assert scores["object"]["precision"] == 0.0 and scores["attribute"]["recall"] == 0.0
    assert scores["attribute"]["precision"] is None


def test_an_iou_of_a_half_is_enough_and_less_is_not(finder):
    gold = [gold_row("a dog", "dog", "object", [0, 0, 10, 10])]
    half = anchor_statistics(finder, [item("a dog", [("dog", "", [0, 0, 10, 5])], gold)])["gold"]
    less = anchor_statistics(finder, [item("a dog", [("dog", "", [0, 0, 10, 4])], gold)])["gold"]
    assert half["object"]["precision"] == 1.0 and less["object"]["precision"] == 0.0


def test_pairs_without_gold_count_for_coverage_alone(finder):
    items = [item("a dog", [("dog", "", DOG)], None), item("a dog", [("dog", "", DOG)], [])]
    found = anchor_statistics(finder, items)
    assert found["pairs"] == 2 and found["gold"]["pairs"] == 1 and found["gold"]["object"]["found"] == 1


def test_only_the_twelve_most_common_are_listed_in_a_fixed_order(finder):
    words = [f"w{n:02d}" for n in range(20)]
    items = [item(w, [], [gold_row(w, w, "object", DOG)]) for w in words] + [
        item("w19", [], [gold_row("w19", "w19", "object", DOG)])
    ]
    missed = anchor_statistics(finder, items)["gold"]["missed"]
    assert [row["words"] for row in missed] == ["w19", *words[:11]] and missed[0]["count"] == 2


def test_no_pairs_at_all_and_the_result_is_json(finder):
    assert anchor_statistics(finder, [])["coverage"] is None
    json.dumps(anchor_statistics(finder, [item("a dog", [("dog", "", DOG)], [])]))
