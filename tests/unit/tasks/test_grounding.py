"""Phrase grounding: the phrase's own pieces are asked, against the regions, in units that a resized file cannot change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import PIECES, regions, toy_builder, toy_cmal

from cmal.data.records import PhraseRecord
from cmal.tasks.grounding import GroundingHead, PhraseGrounding, phrase_pieces, score_grounding

BOXES = [[0, 0, 10, 10], [20, 0, 40, 20], [50, 0, 60, 10]]
IMAGES = {"toy:1": regions(["dog", "cat", "tree"], boxes=BOXES), "toy:2": regions(["dog"]), "toy:0": regions([])}
TASK = PhraseGrounding("flickr30k-entities")
SENTENCE = "a white cat is near the tree"
CAT, TREE = (2, 11), (20, 28)
CAT_BOX = (20.0, 0.0, 20.0, 20.0)


def record(id: str, image: str, span=CAT, boxes=(CAT_BOX,), size=(100, 50), types=("animals",)) -> PhraseRecord:
    return PhraseRecord(id, image, SENTENCE, span, types, boxes, size)


def batch(*records: PhraseRecord):
    return TASK.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_a_phrase_is_all_pieces_of_the_words_that_its_characters_touch():
    text = PIECES.encode("two dogs near a fire hydrant", 20)  # [CLS] two dog ##s near a fire hydr ##ant [SEP]
    assert np.flatnonzero(phrase_pieces(text, (4, 8))).tolist() == [2, 3]
    assert np.flatnonzero(phrase_pieces(text, (16, 28))).tolist() == [6, 7, 8]
    assert np.flatnonzero(phrase_pieces(PIECES.encode("two dogs near a tree", 4), (16, 20))).tolist() == [0], "cut off"


def test_targets_are_overlaps_with_the_gold_box_of_the_original_photograph():
    """The file at hand is 100 x 50; the gold box is in pixels of an original twice as large."""
    doubled = record("b", "toy:1", boxes=((40.0, 0.0, 40.0, 40.0),), size=(200, 100))
    made = batch(record("a", "toy:1"), doubled)
    torch.testing.assert_close(made.targets["overlap"], torch.tensor([[0.0, 1, 0], [0, 1, 0]]))


def test_forward_scores_every_region_rules_padding_out_and_depends_on_the_phrase():
    made = batch(record("a", "toy:1"), record("b", "toy:1", TREE), record("c", "toy:2"))
    output = TASK.forward(toy_cmal(), TASK.build_head(8, 0.0), made)
    assert output.shape == (3, 3) and output[:2].isfinite().all()
    assert output[2].tolist()[1:] == [-math.inf, -math.inf]
    assert not torch.allclose(output[0], output[1])


@pytest.mark.parametrize("scored_by", ["unified", "unimodal"])
def test_the_two_places_add_up(scored_by):
    torch.manual_seed(0)
    head = GroundingHead(4)
    phrase, seen = (torch.randn(2, 4), torch.randn(2, 4)), (torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    parts = []
    for name in ("unified", "unimodal"):
        head.scored_by = name
        parts.append(head(phrase, seen))
    head.scored_by = "both"
    torch.testing.assert_close(head(phrase, seen), sum(parts))
    head.scored_by = scored_by
    other = (seen[0] + 1, seen[1]) if scored_by == "unified" else (seen[0], seen[1] + 1)
    torch.testing.assert_close(head(phrase, other), head(phrase, seen), msg="it looks at one place alone")


def test_pretraining_heads_are_taken_over():
    source, head = GroundingHead(4), GroundingHead(4)
    head.start_from({"amc": source.unified, "amc_unimodal": source.unimodal})
    torch.testing.assert_close(head.unified.text.weight, source.unified.text.weight)


def test_the_loss_asks_for_regions_that_overlap_by_half_and_ignores_phrases_without_one():
    hit, miss = record("a", "toy:1"), record("b", "toy:1", boxes=((80.0, 40.0, 5.0, 5.0),))
    output = torch.tensor([[0.0, 2.0, 0.0]] * 2)
    expected = -torch.log_softmax(output[0], 0)[1]
    torch.testing.assert_close(TASK.loss(output, batch(hit, miss)), expected)
    padded = TASK.forward(toy_cmal(), TASK.build_head(8, 0.0), batch(hit, record("c", "toy:2")))
    assert TASK.loss(padded, batch(hit, record("c", "toy:2"))).isfinite()
    alone = batch(miss)
    assert TASK.loss(TASK.forward(toy_cmal(), TASK.build_head(8, 0.0), alone), alone) == 0


def test_answers_are_ranked_boxes_in_pixels_of_the_original():
    made = batch(record("a", "toy:1", size=(200, 100)), record("b", "toy:0"))
    answers = TASK.answers(torch.tensor([[0.1, 0.9, 0.5], [-math.inf] * 3]), made)
    assert np.round(answers["a"], 3).tolist() == [[40, 0, 80, 40], [100, 0, 120, 20], [0, 0, 20, 20]]
    assert answers["b"] == []


def test_scores_count_a_phrase_with_two_types_in_both_and_say_their_protocol():
    records = [record("a", "toy:1", types=("animals", "scene")), record("b", "toy:2", types=("people",))]
    right, wrong = [20.0, 0.0, 40.0, 20.0], [90.0, 40.0, 99.0, 49.0]
    scores = score_grounding({"a": [right, wrong], "b": [wrong, right]}, records, "any")
    assert scores.metrics == {"accuracy": 0.5, "pointing": 0.5, "r1": 0.5, "r5": 1.0, "r10": 1.0, "oracle": 1.0}
    table = scores.tables["per_type"]
    assert (table["animals"]["accuracy"], table["scene"]["accuracy"], table["people"]["accuracy"]) == (1.0, 1.0, 0.0)
    assert "gold boxes any" in scores.protocol and scores.chance == 0.5
