"""Retrieval recalls beside an independent implementation that sorts, hand-worked matrices, and peers' traps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.tasks.metrics import retrieval_ranks, retrieval_recalls, retrieval_recalls_of_folds


def slow_rank(scores: list[float], right: set[int]) -> int:
    """Place of the first right item in a list sorted by falling score, right items last among equals."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i in right))
    return 1 + min(order.index(i) for i in right)


def slow_recalls(scores: np.ndarray, owner: list[int], ks=(1, 5, 10)) -> dict[str, float]:
    images, captions = scores.shape
    image_ranks = [slow_rank([scores[i, c] for i in range(images)], {owner[c]}) for c in range(captions)]
    text_ranks = [slow_rank(list(scores[i]), {c for c in range(captions) if owner[c] == i}) for i in range(images)]
    result = {f"image_retrieval_r{k}": sum(rank <= k for rank in image_ranks) / captions for k in ks}
    result |= {f"text_retrieval_r{k}": sum(rank <= k for rank in text_ranks) / images for k in ks}
    for name, ranks in (("image_retrieval", image_ranks), ("text_retrieval", text_ranks)):
        ordered, n = sorted(ranks), len(ranks)
        result[f"{name}_mean_rank"] = sum(ranks) / n
        result[f"{name}_median_rank"] = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return result


@st.composite
def problems(draw):
    images = draw(st.integers(1, 14))
    owner = [*range(images), *draw(st.lists(st.integers(0, images - 1), max_size=30))]
    owner = draw(st.permutations(owner))
    levels = draw(st.sampled_from([1, 3, 1000]))  # one level: all tied; three: many ties
    seed = draw(st.integers(0, 2**31))
    scores = np.random.default_rng(seed).integers(levels, size=(images, len(owner))).astype(np.float32)
    scores[draw(st.integers(0, images - 1))] = draw(st.sampled_from([0, 1, -np.inf, np.inf]))
    return scores, owner


@given(problems())
@settings(max_examples=400, deadline=None)
def test_recalls_agree_with_sorting_ties_included(problem):
    scores, owner = problem
    found = retrieval_recalls(scores, owner)
    for name, value in slow_recalls(scores, owner).items():
        assert found[name] == value, name


@given(problems())
@settings(max_examples=100, deadline=None)
def test_ranks_do_not_depend_on_the_order_of_images_or_captions(problem):
    scores, owner = problem
    generator = np.random.default_rng(1)
    rows, columns = generator.permutation(scores.shape[0]), generator.permutation(scores.shape[1])
    place = np.argsort(rows)
    image_ranks, text_ranks = retrieval_ranks(scores, owner)
    moved_image_ranks, moved_text_ranks = retrieval_ranks(scores[rows][:, columns], place[np.array(owner)[columns]])
    assert np.array_equal(moved_image_ranks, image_ranks[columns])
    assert np.array_equal(moved_text_ranks, text_ranks[rows])


def test_blocks_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(2)
    scores, owner = generator.integers(9, size=(30, 60)).astype(float), np.repeat(np.arange(30), 2)
    whole = retrieval_recalls(scores, owner)
    monkeypatch.setattr("cmal.tasks.metrics.retrieval._BLOCK_CELLS", 7 * 60)
    assert retrieval_recalls(scores, owner) == whole


def test_hand_worked_matrix():
    # Two images; captions 0 and 1 belong to image 0, caption 2 to image 1.
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.4]])
    image_ranks, text_ranks = retrieval_ranks(scores, [0, 0, 1])
    assert image_ranks.tolist() == [1, 2, 2]  # caption 1 likes image 1 better, caption 2 image 0
    assert text_ranks.tolist() == [1, 2]  # image 0 finds caption 0; image 1 prefers caption 1 to its own
    recalls = retrieval_recalls(scores, [0, 0, 1], ks=(1, 2))
    assert recalls["image_retrieval_r1"] == 1 / 3
    assert recalls["text_retrieval_r1"] == 1 / 2
    assert recalls["recall_mean"] == pytest.approx((1 / 3 + 1 + 1 / 2 + 1) / 4)


def test_text_retrieval_takes_the_best_ranked_of_the_images_captions():
    scores = np.array([[0.1, 0.2, 0.9, 0.5], [0.0, 0.0, 0.0, 1.0]])
    _, text_ranks = retrieval_ranks(scores, [0, 0, 0, 1])
    assert text_ranks.tolist() == [1, 1]  # caption 2 is first for image 0, though captions 0 and 1 are last


def test_recall_counts_columns_only():
    """A well-known evaluator looks the right index up in a 2-D table of rankings and counts row numbers as ranks as well."""
    generator = np.random.default_rng(3)
    scores = generator.random((50, 50))
    ranking = np.argsort(-scores.T, axis=1)  # row c: images in the order that caption c prefers
    rows, columns = np.nonzero(ranking == np.arange(50)[:, None])
    with_rows = np.count_nonzero(np.concatenate([rows, columns]) < 10) / 50
    assert retrieval_recalls(scores, np.arange(50))["image_retrieval_r10"] == np.count_nonzero(columns < 10) / 50
    assert with_rows >= np.count_nonzero(columns < 10) / 50 + 10 / 50  # the ten first row numbers all pass for hits


def test_ties_put_the_right_item_last_so_that_a_constant_score_earns_nothing():
    owner = np.repeat(np.arange(20), 5)
    recalls = retrieval_recalls(np.zeros((20, 100)), owner)
    assert recalls["recall_mean"] == 0
    assert recalls["image_retrieval_mean_rank"] == 20  # last of 20 images
    assert recalls["text_retrieval_mean_rank"] == 96  # after all 95 wrong captions


def test_coco_1k_is_the_mean_of_folds_with_their_own_captions():
    generator = np.random.default_rng(4)
    owner = np.sort(np.concatenate([np.arange(20), generator.integers(20, size=35)]))
    scores = generator.random((20, len(owner)))
    folds = retrieval_recalls_of_folds(scores, owner, folds=4)
    parts = []
    for start in (0, 5, 10, 15):
        inside = [c for c in range(len(owner)) if start <= owner[c] < start + 5]
        parts.append(slow_recalls(scores[start : start + 5][:, inside], [owner[c] - start for c in inside]))
    for name in parts[0]:
        assert folds[name] == pytest.approx(sum(part[name] for part in parts) / 4)
    assert (folds["images"], folds["captions"]) == (20, 55)
