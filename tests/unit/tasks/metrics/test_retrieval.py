"""Five captions an image, and what bad score matrices get. Recalls themselves are in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.errors import DataError, ShapeError
from cmal.tasks.metrics import (
    first_five_captions,
    hits_of_ranks,
    recalls_of_ranks,
    retrieval_ranks,
    retrieval_recalls_of_folds,
)


def test_five_of_seven_captions_are_kept_and_they_are_the_first():
    image_ids = ["a"] * 3 + ["b"] * 5 + ["a"] * 4
    assert first_five_captions(image_ids) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_shortlist_leaves_what_is_outside_at_the_end():
    scores = np.array([[0.3, -np.inf], [-np.inf, -np.inf], [0.1, 0.2]])
    image_ranks, text_ranks = retrieval_ranks(np.hstack([scores, [[-np.inf], [-np.inf], [0.9]]]), [0, 1, 2])
    assert image_ranks.tolist() == [1, 3, 1]
    assert text_ranks.tolist() == [1, 3, 1]


def test_recalls_can_be_counted_from_ranks_alone():
    recalls = recalls_of_ranks(np.array([1, 2, 11, 1]), np.array([1, 6]))
    assert [recalls[f"image_retrieval_r{k}"] for k in (1, 5, 10)] == [0.5, 0.75, 0.75]
    assert [recalls[f"text_retrieval_r{k}"] for k in (1, 5, 10)] == [0.5, 0.5, 1]
    assert recalls["recall_mean"] == pytest.approx(4 / 6)
    assert recalls["image_retrieval_median_rank"] == 1.5
    assert (recalls["images"], recalls["captions"]) == (2, 4)


@pytest.mark.parametrize("bad", [(0, 0), (2, 4), (0, 3)])
def test_a_score_that_is_not_a_number_is_found_and_named(bad):
    scores = np.zeros((3, 6))
    scores[bad] = np.nan
    with pytest.raises(DataError, match=f"image row {bad[0]} and caption column {bad[1]} is not a number"):
        retrieval_ranks(scores, [0, 0, 1, 1, 2, 2])


def test_shapes_and_indices_are_checked():
    with pytest.raises(ShapeError, match=r"scores have shape \(2, 3\), image_of_caption \(2,\)"):
        retrieval_ranks(np.zeros((2, 3)), [0, 1])
    with pytest.raises(DataError, match="values from 0 to 2"):
        retrieval_ranks(np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(DataError, match="1 of 2 images have no caption, the first is row 1"):
        retrieval_ranks(np.zeros((2, 3)), [0, 0, 0])
    with pytest.raises(DataError, match="there are none"):
        retrieval_ranks(np.zeros((0, 0)), np.zeros(0, dtype=int))
    with pytest.raises(DataError, match="3 images do not divide evenly"):
        retrieval_recalls_of_folds(np.eye(3), [0, 1, 2], folds=2)


def test_hits_are_what_the_recalls_are_means_of():
    image_ranks, text_ranks = np.array([1, 2, 11, 1]), np.array([1, 6])
    hits, recalls = hits_of_ranks(image_ranks, text_ranks), recalls_of_ranks(image_ranks, text_ranks)
    assert hits["image_retrieval_r5"].tolist() == [True, True, False, True]
    assert {name: values.mean() for name, values in hits.items()} == {name: recalls[name] for name in hits}
