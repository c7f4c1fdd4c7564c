"""Retrieval: every image with every caption, uni-modal states computed once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import enlarge, regions, toy_builder, toy_cmal

from cmal.data.batch import make_batch
from cmal.data.records import ImageTextRecord
from cmal.errors import DataError
from cmal.tasks.pair_scores import cache_states
from cmal.tasks.retrieval import Retrieval, draw_mismatches, hardest

IMAGES = {
    "toy:1": regions(["dog", "cat", "tree"]),
    "toy:2": regions(["tree"]),
    "toy:3": regions([]),
    "toy:4": regions(["cat", "dog", "dog", "tree", "tree"]),
}
RECORDS = [
    ImageTextRecord(f"{image[-1]}-{n}", image, text)
    for image, texts in {
        "toy:1": ["a dog and a cat is near the tree", "the dog"],
        "toy:2": ["two red trees"],
        "toy:3": ["", "a fire hydrant is running near a puppy and the white cat"],
        "toy:4": ["two dogs"],
    }.items()
    for n, text in enumerate(texts)
]
CPU = torch.device("cpu")


def head_of(task: Retrieval) -> torch.nn.Module:
    torch.manual_seed(5)
    return enlarge(task.build_head(8, 0.0)).eval()


@torch.no_grad()
@pytest.mark.parametrize("tile", [2, 256])
def test_the_score_matrix_is_what_full_forwards_pair_by_pair_give(monkeypatch, tile):
    """Cached states, tiles of like lengths, and an image without regions: all to 1e-5, in the records' order."""
    monkeypatch.setattr("cmal.tasks.pair_scores.MAX_PAIRS", tile)
    monkeypatch.setattr("cmal.tasks.pair_scores.ENCODE_BATCH", 3)
    task, cmal, builder = Retrieval("flickr30k"), toy_cmal(), toy_builder(IMAGES, anchors=False)
    head, done = head_of(task), []
    scores = task.score_matrix(
        cmal, head, cache_states(cmal, RECORDS, builder, CPU), lambda row, of: done.append((row, of))
    )
    assert scores.shape == (4, 6) and scores.std() > 0.03
    for row, image in enumerate(IMAGES):
        for column, record in enumerate(RECORDS):
            pair = make_batch([builder.build("x", image, record.caption)])
            assert scores[row, column] == pytest.approx(
                head(cmal.unify(cmal.encode(*pair.inputs))[:, 0]).item(), abs=1e-5
            )
    assert done[-1] == (4, 4)


def test_training_pairs_are_one_true_and_two_false_of_each():
    task = Retrieval("flickr30k")
    batch = task.make_batch(RECORDS, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))
    text, image, is_match = (batch.targets[name].tolist() for name in ("text", "image", "is_match"))
    assert len(text) == 18 and is_match == [True] * 6 + [False] * 12
    for place in range(6):
        assert (text[place], image[place]) == (place, place)
        assert image[6 + place] == place and text[12 + place] == place, "another caption; then another image"
    cmal, head = toy_cmal(), head_of(task)
    output = task.forward(cmal, head, batch)
    states = cmal.encode(*batch.inputs)
    crossed = states.with_texts(torch.tensor(text[7:8])).with_images(torch.tensor(image[7:8]))
    torch.testing.assert_close(output[7], head(cmal.unify(crossed)[:, 0])[0])
    assert task.answers(output, batch).keys() == {r.id for r in RECORDS}


def test_mismatches_are_never_of_the_same_image():
    images = ["a", "a", "b", "c", "a"]
    for seed in range(200):
        texts, places = draw_mismatches(images, np.random.default_rng(seed))
        assert all(images[t] != images[p] for t, p in zip(texts[5:], places[5:])) and len(texts) == 15


def test_a_group_of_one_image_has_true_pairs_alone():
    texts, places = draw_mismatches(["a", "a"], np.random.default_rng(0))
    assert texts.tolist() == places.tolist() == [0, 1]


def test_loss_tells_true_pairs_from_false_ones():
    task = Retrieval("flickr30k")
    batch = task.make_batch(RECORDS[:3], toy_builder(IMAGES, anchors=False), np.random.default_rng(0))
    yes = math.log(3)  # a probability of 3/4
    logits = torch.tensor([yes] * 3 + [-yes] * 6)
    assert task.loss(logits, batch).item() == pytest.approx(-math.log(0.75), abs=1e-6)
    assert task.loss(-logits, batch).item() == pytest.approx(-math.log(0.25), abs=1e-6)


def test_evaluation_takes_the_first_captions_of_the_first_images():
    many = [ImageTextRecord(f"{image}{n}", image, "") for n in range(7) for image in ("x", "y", "z")]
    kept = Retrieval("flickr30k", images=2).evaluation_records(many)
    assert [r.id for r in kept] == ["x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"]
    assert len(Retrieval("flickr30k", captions_per_image=1).evaluation_records(many)) == 3


def test_score_in_numbers():
    """Captions 0, 1 of image x, caption 2 of y. Caption 1 finds image y first; image x finds caption 2 before its own."""
    records = [ImageTextRecord(str(n), image, "") for n, image in enumerate("xxy")]
    scores = Retrieval("flickr30k").score({"scores": np.array([[1.0, 2.0, 3.0], [0.0, 5.0, 4.0]])}, records, "full")
    assert scores.metrics["image_retrieval_r1"] == pytest.approx(2 / 3), "captions 0 and 2"
    assert scores.metrics["text_retrieval_r1"] == 0.0 and scores.metrics["text_retrieval_r5"] == 1.0
    assert scores.chance == 0.5 and scores.counts == {"images": 2, "captions": 3}
    assert scores.values.tolist() == [1, 0, 1]


def test_hard_mismatches_are_the_likeliest_of_those_drawn_and_never_of_the_same_image():
    task = Retrieval("flickr30k", hard_negatives=3)
    batch = task.make_batch(RECORDS, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))
    text, image, count = batch.targets["text"], batch.targets["image"], len(RECORDS)
    assert text.shape == image.shape == (18, 3)
    owner = [r.image_id for r in RECORDS]
    for row in range(count, 18):
        assert all(owner[t] != owner[i] for t, i in zip(text[row].tolist(), image[row].tolist()))
    cmal, head = toy_cmal(), head_of(task)
    states = cmal.encode(*batch.inputs)
    hard_text, hard_image = hardest(cmal, head, states, text, image, count)
    assert hard_text[:count].tolist() == hard_image[:count].tolist() == list(range(count)), "true pairs stay"
    for row in range(count, 18):
        pairs = [(int(t), int(i)) for t, i in zip(text[row], image[row])]
        crossed = [states.with_texts(torch.tensor([t])).with_images(torch.tensor([i])) for t, i in pairs]
        likeliest = pairs[int(np.argmax([head(cmal.unify(one)[:, 0]).item() for one in crossed]))]
        assert (int(hard_text[row]), int(hard_image[row])) == likeliest
    assert task.forward(cmal, head, batch).shape == (18,)


def test_the_1k_protocol_ranks_within_each_fold():
    """Ten images of a caption each, all scores equal but a caption's own: best of its fold. One is beaten in its fold,
    another by an image of another fold, which counts in `full` alone."""
    records = [ImageTextRecord(str(n), f"image{n}", "") for n in range(10)]
    scores = np.eye(10)
    scores[1, 0] = 2.0  # images 0 and 1 are one fold of two
    scores[9, 5] = 2.0  # images 4 and 5 are another
    task = Retrieval("coco-retrieval")
    full, folded = (task.score({"scores": scores}, records, name) for name in ("full", "1k"))
    assert full.metrics["image_retrieval_r1"] == pytest.approx(0.8)
    assert folded.metrics["image_retrieval_r1"] == pytest.approx(0.9)
    assert folded.values.mean() == pytest.approx(0.9) and (full.chance, folded.chance) == (0.1, 0.5)


def test_processes_share_the_images_of_the_matrix():
    task, cmal, builder = Retrieval("flickr30k"), toy_cmal(), toy_builder(IMAGES, anchors=False)
    with torch.no_grad():
        whole, even, odd = (
            task.score_matrix(cmal, head_of(task), cache_states(cmal, RECORDS, builder, CPU), rank_and_world=place)
            for place in ((0, 1), (0, 2), (1, 2))
        )
    np.testing.assert_allclose(even, whole[0::2], atol=1e-6)
    np.testing.assert_allclose(odd, whole[1::2], atol=1e-6)


def test_one_image_is_nothing_to_choose_from():
    with pytest.raises(DataError, match="at least two images"):
        Retrieval("flickr30k").score({"scores": np.ones((1, 2))}, RECORDS[:2], "full")
