"""The shortlist: what a first ranking keeps, that the model scores these pairs alone, and how they are counted."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from toys import IMAGES_OF_A_GROUP, enlarge, toy_builder, toy_cmal

from cmal.data.records import ImageTextRecord
from cmal.model.pretraining import ContrastiveHead
from cmal.tasks.metrics import retrieval_recalls
from cmal.tasks.pair_scores import CachedStates, VisualState, cache_states
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.shortlist import (
    CAPTION_FOR_IMAGE,
    IMAGE_FOR_CAPTION,
    LateInteraction,
    PooledVectors,
    Shortlist,
    choose_candidates,
    fit_late_interaction,
    shortlist_recalls,
)

CPU = torch.device("cpu")
IMAGE, CAPTION, BOTH = IMAGE_FOR_CAPTION, CAPTION_FOR_IMAGE, IMAGE_FOR_CAPTION | CAPTION_FOR_IMAGE
RECORDS = [
    ImageTextRecord("1", "toy:1", "a red dog is near the tree"),
    ImageTextRecord("2", "toy:2", "two dogs and a red fire hydrant"),
    ImageTextRecord("3", "toy:3", "the cat is running"),
    ImageTextRecord("4", "toy:1", "a white cat"),
]


def states_of(texts: list[list[list[float]]], images: list[list[list[float]]]) -> CachedStates:
    visuals = [VisualState(torch.tensor(r).reshape(-1, 2), torch.zeros(len(r), 7)) for r in images]
    return CachedStates([torch.tensor(t) for t in texts], visuals)


def test_each_caption_keeps_its_best_images_and_each_image_its_best_captions():
    """Caption 0 likes image 0, captions 1 and 2 like image 1; image 0 likes caption 1 best, image 1 caption 2."""
    similarities = np.array([[0.5, 0.8, 0.1], [0.4, 0.9, 0.95]])
    listed = choose_candidates(similarities, 1, np.zeros(2, int), np.zeros(3, int))
    assert listed.tolist() == [[IMAGE, CAPTION, 0], [0, IMAGE, BOTH]]
    assert (choose_candidates(similarities, 9, np.zeros(2, int), np.zeros(3, int)) == BOTH).all(), (
        "no more than there are"
    )


def test_of_equals_the_earlier_is_kept():
    listed = choose_candidates(np.zeros((3, 4)), 1, np.zeros(3, int), np.zeros(4, int))
    assert (listed[:, 0] & CAPTION).all() and (listed[0] & IMAGE).all() and (listed > 0).sum() == 3 + 4 - 1


def test_candidates_are_of_the_query_s_own_fold():
    similarities = np.array([[0.0, 9.0], [9.0, 0.0]])  # each caption likes the other fold's image better
    listed = choose_candidates(similarities, 1, np.array([0, 1]), np.array([0, 1]))
    assert listed.tolist() == [[BOTH, 0], [0, BOTH]]


def test_late_interaction_by_hand():
    """Pieces (1, 0) and (0, 2); image 0 has a region along each axis, image 1 one between them, image 2 none."""
    states = states_of([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0]]], [[[5.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]], []])
    found = LateInteraction(torch.eye(2), torch.eye(2)).similarities(states)
    between = 1 / math.sqrt(2)
    np.testing.assert_allclose(found, [[1, 1], [between, between], [0, 0]], atol=1e-6)


def test_fitted_maps_learn_which_region_a_piece_means():
    """A piece of kind k is the k-th axis, its region the axis 7 - k: only a map can bring them together. All 56 captions of
    three kinds, each with its image."""
    kinds = torch.tensor(list(itertools.combinations(range(8), 3)))
    axes, owner = torch.eye(8), np.arange(len(kinds))
    states = CachedStates(list(axes[kinds]), [VisualState(regions, torch.zeros(3, 7)) for regions in axes[7 - kinds]])

    def share_found(maps: LateInteraction) -> float:
        return retrieval_recalls(maps.similarities(states), owner)["image_retrieval_r1"]

    fitted, again = (fit_late_interaction(states, owner, steps=150) for _ in range(2))
    assert share_found(LateInteraction(axes, axes)) == 0.0 and share_found(fitted) > 0.5, "chance is 1/56"
    assert torch.equal(fitted.text, again.text), "seeded"


def test_the_fit_leaves_images_without_regions_out():
    states = states_of([[[1.0, 0.0]], [[0.0, 1.0]]], [[[1.0, 0.0]], []])
    assert torch.isfinite(fit_late_interaction(states, np.arange(2), steps=3).text).all()


@torch.no_grad()
def test_pooled_vectors_are_the_contrastive_head_s():
    cmal, builder = toy_cmal(), toy_builder(IMAGES_OF_A_GROUP, anchors=False)
    torch.manual_seed(0)
    head = enlarge(ContrastiveHead(8)).eval()
    task = Retrieval("flickr30k")
    batch = task.make_batch(RECORDS, builder, np.random.default_rng(0))
    text, visual = head(cmal.encode(*batch.inputs))
    found = PooledVectors(head).similarities(cache_states(cmal, RECORDS, builder, CPU))
    np.testing.assert_allclose(found, visual[:3] @ text.T, atol=1e-5)


@torch.no_grad()
def test_listed_pairs_get_the_full_score_and_the_others_none():
    task, cmal, builder = Retrieval("flickr30k"), toy_cmal(), toy_builder(IMAGES_OF_A_GROUP, anchors=False)
    torch.manual_seed(5)
    head = enlarge(task.build_head(8, 0.0)).eval()
    states = cache_states(cmal, RECORDS, builder, CPU)
    whole = task.score_matrix(cmal, head, states)
    listed = np.array([[1, 0, 3, 0], [0, 0, 2, 0], [0, 0, 0, 0]], np.uint8)
    found = task.score_matrix(cmal, head, states, shortlist=Shortlist(listed, 2, "x"))
    np.testing.assert_allclose(found[listed > 0], whole[listed > 0], atol=1e-6)
    assert np.isneginf(found[listed == 0]).all()


def test_every_query_ranks_its_own_list_alone():
    """Caption 0 (image 0): image 1 scores higher, but is not on its list: rank 1. Image 0's list holds caption 1 alone,
    not its own: not found. Caption 2 (image 1): its image is not listed, however well it scores."""
    records = [ImageTextRecord(str(n), image, "") for n, image in enumerate("xxy")]
    scores = np.array([[1.0, 5.0, 0.0], [9.0, 2.0, 9.0]])
    listed = np.array([[IMAGE, BOTH, IMAGE], [CAPTION, CAPTION, CAPTION]], np.uint8)
    task = Retrieval("flickr30k")
    found = task.score({"scores": scores, "shortlist": Shortlist(listed, 1, "a ranking")}, records, "full")
    assert found.values.tolist() == [1, 1, 0] and found.metrics["image_retrieval_r1"] == pytest.approx(2 / 3)
    assert found.metrics["text_retrieval_r1"] == 0.5 and found.metrics["text_retrieval_r5"] == 1.0
    assert found.metrics["image_shortlist_recall"] == pytest.approx(2 / 3)
    assert found.metrics["text_shortlist_recall"] == 1.0
    assert "shortlist of 1: 6 of 2 x 3 pairs" in found.protocol and "by a ranking" in found.protocol
    mean = np.mean([v for k, v in found.metrics.items() if k[-3:] in ("_r1", "_r5") or k.endswith("_r10")])
    assert found.metrics["recall_mean"] == pytest.approx(mean)


def test_a_list_that_holds_everything_changes_no_number():
    records = [ImageTextRecord(f"{i}-{j}", f"toy:{i}", "x") for i in range(10) for j in range(2)]
    scores = np.random.default_rng(0).normal(size=(10, 20))
    all_listed = Shortlist(np.full((10, 20), BOTH, np.uint8), 64, "x")
    for protocol in ("full", "1k"):
        task = Retrieval("coco-retrieval")
        whole = task.score({"scores": scores}, records, protocol).metrics
        found = task.score({"scores": scores, "shortlist": all_listed}, records, protocol).metrics
        assert {name: found[name] for name in whole} == pytest.approx(whole)
    owner = np.arange(20) // 2
    assert retrieval_recalls(scores, owner)["recall_mean"] < 1
    assert shortlist_recalls(all_listed.listed, owner) == {"image_shortlist_recall": 1.0, "text_shortlist_recall": 1.0}
