"""Retrieval: hard negatives in training, COCO's 1k protocol, several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import IMAGES_OF_A_GROUP, enlarge, toy_builder, toy_cmal

from cmal.data.records import ImageTextRecord
from cmal.errors import DataError
from cmal.runs.results import result_of_scores
from cmal.tasks.metrics import retrieval_recalls
from cmal.tasks.pair_scores import cache_states
from cmal.tasks.retrieval import Retrieval, draw_mismatches, hardest, score_pairs

RECORDS = [
    ImageTextRecord("1", "toy:1", "a red dog is near the tree"),
    ImageTextRecord("2", "toy:2", "two dogs and a red fire hydrant"),
    ImageTextRecord("3", "toy:3", "the cat is running"),
    ImageTextRecord("4", "toy:1", "a white cat"),
    ImageTextRecord("5", "toy:3", "a tree"),
]


def made(candidates: int):
    task = Retrieval("flickr30k", hard_negatives=candidates)
    torch.manual_seed(3)
    head = enlarge(task.build_head(8, 0.0)).eval()
    batch = task.make_batch(RECORDS, toy_builder(IMAGES_OF_A_GROUP, anchors=False), np.random.default_rng(0))
    return task, toy_cmal(), head, batch


def test_the_hardest_candidate_of_each_mismatch_is_trained_on():
    task, cmal, head, batch = made(4)
    text, image = batch.targets["text"], batch.targets["image"]
    assert text.shape == image.shape == (15, 4) and batch.targets["is_match"].sum() == 5
    states = cmal.encode(*batch.inputs)
    chosen = hardest(cmal, head, states, text, image, 5)
    output = task.forward(cmal, head, batch)
    assert output.shape == (15,)
    differs = 0
    for row in range(15):
        scores = score_pairs(cmal, head, states, text[row], image[row])
        best = scores.max() if row >= 5 else scores[0]
        torch.testing.assert_close(output[row], best)
        differs += bool(scores.max() - scores.min() > 1e-4)
        assert (int(chosen[0][row]), int(chosen[1][row])) in set(zip(text[row].tolist(), image[row].tolist()))
    assert differs >= 5, "the candidates are not all alike"


def test_choosing_costs_no_gradient_and_the_loss_has_one():
    task, cmal, head, batch = made(3)
    loss = task.loss(task.forward(cmal, head, batch), batch)
    loss.backward()
    gradients = [p.grad for p in head.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_candidates_are_never_of_the_same_image_and_one_is_what_was_drawn_before():
    images = [r.image_id for r in RECORDS]
    for seed in range(100):
        texts, places = draw_mismatches(images, np.random.default_rng(seed), 6)
        assert texts.shape == (15, 6)
        assert all(images[t] != images[p] for t, p in zip(texts[5:].ravel(), places[5:].ravel()))
    texts, places = draw_mismatches(["a", "a"], np.random.default_rng(0), 6)
    assert texts.shape == places.shape == (2, 6), "no other image: true pairs alone"


def five_times_two() -> tuple[np.ndarray, list[ImageTextRecord]]:
    """Ten images of 5 captions; caption j of image i is ranked by a seeded matrix."""
    records = [ImageTextRecord(f"{i}-{j}", f"toy:{i}", "x") for i in range(10) for j in range(5)]
    scores = np.random.default_rng(1).normal(size=(10, 50))
    scores[np.arange(50) // 5, np.arange(50)] += 1
    return scores, records


def test_1k_is_the_mean_of_five_folds_and_full_is_all_at_once():
    scores, records = five_times_two()
    task, owner = Retrieval("coco-retrieval"), np.arange(50) // 5
    folds = task.score({"scores": scores}, records, "1k")
    parts = [retrieval_recalls(scores[2 * f : 2 * f + 2, 10 * f : 10 * f + 10], owner[:10]) for f in range(5)]
    for name in ("image_retrieval_r1", "text_retrieval_r1", "image_retrieval_r5"):
        assert folds.metrics[name] == pytest.approx(np.mean([part[name] for part in parts]), abs=1e-12)
    whole = task.score({"scores": scores}, records, "full")
    assert whole.metrics["image_retrieval_r1"] == retrieval_recalls(scores, owner)["image_retrieval_r1"]
    assert folds.metrics["image_retrieval_r1"] > whole.metrics["image_retrieval_r1"]
    assert "mean of 5 folds of 2 images" in folds.protocol and "folds" not in whole.protocol
    assert (folds.chance, whole.chance) == (0.5, 0.1)


def test_the_interval_is_of_the_reported_number_even_where_folds_differ_in_captions():
    scores, records = five_times_two()
    kept = [n for n, r in enumerate(records) if not (r.image_id == "toy:0" and r.id[-1] in "1234")]
    found = Retrieval("coco-retrieval").score({"scores": scores[:, kept]}, [records[n] for n in kept], "1k")
    about = dict.fromkeys(
        ("task", "split", "proposal_set", "checkpoint", "checkpoint_sha256", "recipe_sha256", "leakage"), "x"
    )
    result = result_of_scores(found, **about)  # refuses values of another mean
    for name in ("image_retrieval_r1", "text_retrieval_r1"):
        metric = result.metrics[name]
        assert metric.low <= metric.value <= metric.high


def test_images_that_do_not_part_into_five_are_refused():
    scores, records = five_times_two()
    with pytest.raises(DataError, match="cannot part the images into 5 folds"):
        Retrieval("coco-retrieval").score({"scores": scores[:9, :45]}, records[:45], "1k")


@torch.no_grad()
def test_rows_shared_by_two_processes_make_the_whole_matrix():
    task, cmal, head, _ = made(1)
    builder = toy_builder(IMAGES_OF_A_GROUP, anchors=False)
    cpu = torch.device("cpu")
    whole = task.score_matrix(cmal, head, cache_states(cmal, RECORDS, builder, cpu))
    parts = [
        task.score_matrix(cmal, head, cache_states(cmal, RECORDS, builder, cpu), rank_and_world=(rank, 2))
        for rank in range(2)
    ]
    assert [len(part) for part in parts] == [2, 1]
    np.testing.assert_array_equal(np.stack([parts[0][0], parts[1][0], parts[0][1]]), whole)
