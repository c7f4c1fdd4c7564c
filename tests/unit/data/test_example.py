"""A record's text and its image's regions become one Example."""

from __future__ import annotations

import numpy as np
import pytest
from toys import PIECES, VOCAB, regions, toy_builder, write_store

from cmal.data.example import ExampleBuilder, TagNoise, pieces_of_spans, unit_boxes
from cmal.errors import StoreError
from cmal.regions.store.store import RegionStore

IMAGES = {"toy:1": regions(["dog", "fire hydrant"], boxes=[[0, 10, 50, 50], [20, 0, 40, 10]])}


def test_boxes_become_shares_of_the_image_with_their_sides_and_area():
    """Of a 100 x 50 image the box 20 0 40 10 is [.2 0 .4 .2], .2 wide, .2 high, .04 of the area."""
    boxes = unit_boxes(IMAGES["toy:1"].boxes_xyxy_px, (100, 50))
    np.testing.assert_allclose(boxes, [[0, 0.2, 0.5, 1, 0.5, 0.8, 0.4], [0.2, 0, 0.4, 0.2, 0.2, 0.2, 0.04]], atol=1e-6)
    assert boxes.dtype == np.float32


def test_boxes_beyond_the_image_are_clipped():
    assert unit_boxes(np.array([[-5, 0, 200, 25]]), (100, 50)).tolist() == [[0, 0, 1, 0.5, 1, 0.5, 0.5]]
    assert unit_boxes(np.zeros((0, 4)), (100, 50)).shape == (0, 7)


def test_word_spans_become_piece_spans():
    """[CLS] a fire hydr ##ant and dog ##s [SEP]: "fire hydrant" is pieces 2-4, "dogs" 6-7."""
    words = np.array([-1, 0, 1, 2, 2, 3, 4, 4, -1])
    assert pieces_of_spans(words, np.array([[1, 3], [4, 5]])).tolist() == [[2, 5], [6, 8]]


def test_an_example_brings_text_regions_and_anchors_together():
    example = toy_builder(IMAGES).build("7", "toy:1", "a fire hydrant and dogs")
    assert [VOCAB[i] for i in example.token_ids] == "[CLS] a fire hydr ##ant and dog ##s [SEP]".split()
    assert example.features.shape == (2, 3) and example.boxes_unit.shape == (2, 7)
    assert (example.id, example.image_id, example.image_wh_px) == ("7", "toy:1", (100, 50))
    anchors = example.anchors
    assert anchors.mention_pieces.tolist() == [[2, 5], [6, 8]]
    assert anchors.anchors.pairs.tolist() == [[1, 0], [0, 1]], "hydrant with region 1, dogs with region 0"


def test_a_name_that_is_cut_is_an_anchor_with_the_pieces_that_are_left():
    example = toy_builder(IMAGES, max_tokens=5).build("7", "toy:1", "a fire hydrant and dogs")
    assert [VOCAB[i] for i in example.token_ids] == ["[CLS]", "a", "fire", "hydr", "[SEP]"]
    assert example.anchors.mention_pieces.tolist() == [[2, 4]]


def test_words_behind_the_cut_are_no_anchors():
    example = toy_builder(IMAGES, max_tokens=4).build("7", "toy:1", "a fire hydrant and dogs")
    assert len(example.anchors.anchors) == 0


def test_downstream_no_anchors_are_sought():
    assert toy_builder(IMAGES, anchors=False).build("7", "toy:1", "a dog").anchors is None


def test_an_empty_text_is_its_two_ends():
    example = toy_builder(IMAGES).build("7", "toy:1", "")
    assert [VOCAB[i] for i in example.token_ids] == ["[CLS]", "[SEP]"] and len(example.anchors.anchors) == 0


def test_an_image_that_is_not_in_the_store_is_a_message(tmp_path):
    builder = ExampleBuilder(PIECES, RegionStore.open(write_store(tmp_path, IMAGES)), 20)
    assert builder.build("7", "toy:1", "a dog").features[1].tolist() == [2, 0, 0]
    with pytest.raises(StoreError, match='no image "toy:2"'):
        builder.build("7", "toy:2", "a dog")


def test_a_pair_that_comes_again_is_not_searched_again(monkeypatch):
    builder = toy_builder(IMAGES)
    first = builder.build("7", "toy:1", "a fire hydrant and dogs")
    monkeypatch.setattr(builder.finder, "find_anchors", None)
    again = builder.build("8", "toy:1", "a fire hydrant and dogs")
    assert again.anchors is first.anchors and again.id == "8"
    with pytest.raises(TypeError):
        builder.build("7", "toy:1", "another text")


def test_downstream_a_text_that_comes_again_is_not_tokenised_again(monkeypatch):
    builder = toy_builder(IMAGES, anchors=False)
    first = builder.build("7", "toy:1", "a dog")
    monkeypatch.setattr(builder.word_pieces, "encode", None, raising=False)
    assert builder.build("8", "toy:1", "a dog").token_ids is first.token_ids


def test_noise_changes_its_share_of_the_tags_and_the_same_ones_every_time():
    many = regions(["dog"] * 400)
    assert TagNoise(0.0, 50, seed=1).on(many, "toy:1") is many
    noisy = TagNoise(0.25, 50, seed=1).on(many, "toy:1")
    changed = noisy.object_ids != many.object_ids
    assert 0.17 < changed.mean() < 0.33 and len(set(noisy.object_ids.tolist())) > 30
    assert (noisy.features == many.features).all() and (noisy.class_top_ids == many.class_top_ids).all()
    assert (TagNoise(0.25, 50, seed=1).on(many, "toy:1").object_ids == noisy.object_ids).all()
    assert (TagNoise(0.25, 50, seed=1).on(many, "toy:2").object_ids != noisy.object_ids).any()


def test_anchors_are_found_with_the_noisy_tags():
    builder = toy_builder(IMAGES)
    builder.noise = TagNoise(1.0, 1, seed=0)  # everything becomes class 0
    assert IMAGES["toy:1"].object_ids.tolist() != [0, 0]
    wanted = builder.finder.region_concepts(builder.noise.on(IMAGES["toy:1"], "toy:1")).objects.tolist()
    example = builder.build("7", "toy:1", "a fire hydrant and dogs")
    assert example.anchors.region_concepts.objects.tolist() == wanted and len(set(wanted)) == 1
