"""Recall at k of image-text retrieval, both ways, from one matrix of scores.

Legend: N images, M captions; `scores (N, M)`, higher is better; `image_of_caption (M,)` is the row of each caption's image.
*Image retrieval*: a caption is the query for its image; its rank is counted in its own column. *Text retrieval*: an image is
the query for a caption; the best-ranked of its own captions counts. Ranks start at 1.

Ties: the right item is ranked *after* every wrong one of equal score. It needs no random draw, does not depend on the order
of the data, and a model that gives every pair the same score gets the worst rank, never a good one by luck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cmal.errors import DataError, ShapeError

_BLOCK_CELLS = 4_000_000  # cells compared at a time: bounds the memory beside the scores themselves


def retrieval_ranks(scores: np.ndarray, image_of_caption: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At which rank is the right item found? Counts the items that are ahead of it and sorts nothing.

    Args:
        scores: (N, M) of any float type; may be a memory map. Infinite scores are fine (-inf: outside a shortlist).
        image_of_caption: (M,) integers in [0, N); every image has at least one caption.

    Returns:
        image_ranks (M,): for each caption the rank of its image; text_ranks (N,): for each image the rank of the best of its
        captions.

    Raises:
        ShapeError: the shapes disagree. DataError: nothing to rank, a score is NaN, an index is out of range or an image has
            no caption.
    """
    owner = _check(scores, image_of_caption)
    images, captions = scores.shape
    right = scores[owner, np.arange(captions)]  # (M,) each caption's score with its own image
    best = np.full(images, -np.inf, dtype=right.dtype)
    with np.errstate(invalid="ignore"):  # a NaN is found and named below
        np.maximum.at(best, owner, right)  # (N,)
    image_ranks = np.zeros(captions, dtype=np.int64)
    text_ranks = np.zeros(images, dtype=np.int64)
    step = max(1, _BLOCK_CELLS // captions)
    for start in range(0, images, step):
        block = np.asarray(scores[start : start + step])  # (n, M)
        if np.isnan(block).any():
            _fail_nan(block, start)
        image_ranks += (block >= right).sum(axis=0)  # its own image is among them, once: a rank from 1
        text_ranks[start : start + step] = (block >= best[start : start + step, None]).sum(axis=1)
    own_ties = np.bincount(owner, weights=right >= best[owner], minlength=images).astype(np.int64)
    return image_ranks, text_ranks - own_ties + 1  # of its own captions at the top, the first counts


def recalls_of_ranks(
    image_ranks: np.ndarray, text_ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float | int]:
    """The named scores of `retrieval_recalls` from ranks that are already there."""
    hits = hits_of_ranks(image_ranks, text_ranks, ks)
    result: dict[str, float | int] = {name: float(np.count_nonzero(h) / len(h)) for name, h in hits.items()}
    result["recall_mean"] = sum(result.values()) / len(result)
    for name, ranks in (("image_retrieval", image_ranks), ("text_retrieval", text_ranks)):
        result[f"{name}_mean_rank"] = float(np.mean(ranks))
        result[f"{name}_median_rank"] = float(np.median(ranks))
    result["images"], result["captions"] = len(text_ranks), len(image_ranks)
    return result


def hits_of_ranks(
    image_ranks: np.ndarray, text_ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, np.ndarray]:
    """For each recall its per-query hits, (M,) or (N,) bool, whose mean it is: what a bootstrap resamples."""
    both = (("image_retrieval", image_ranks), ("text_retrieval", text_ranks))
    return {f"{name}_r{k}": ranks <= k for name, ranks in both for k in ks}


def retrieval_recalls(
    scores: np.ndarray, image_of_caption: Sequence[int] | np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float | int]:
    """Recall at each k, both ways.

    Args: as `retrieval_ranks`; ks: the depths.

    Returns:
        image_retrieval_r1 ... (share of the M captions whose image is in the first k), text_retrieval_r1 ... (share of the N
        images one of whose captions is in the first k), recall_mean (mean of all of these), mean and median ranks, and the
        counts `images` and `captions`. Raises as `retrieval_ranks`.
    """
    return recalls_of_ranks(*retrieval_ranks(scores, image_of_caption), ks)


def retrieval_recalls_of_folds(
    scores: np.ndarray, image_of_caption: Sequence[int] | np.ndarray, folds: int = 5, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float | int]:
    """Mean over equal runs of consecutive images, each with its captions alone: COCO "1k" is 5,000 images in five folds.

    Images have to be in the order of the test list, for that order defines the folds. `images` and `captions` are totals.

    Raises:
        DataError: the images cannot be divided evenly; else as `retrieval_ranks`.
    """
    owner = _check(scores, image_of_caption)
    images = scores.shape[0]
    if folds < 1 or images % folds:
        raise DataError(
            f"cannot part the images into {folds} folds",
            f"{images:,} images do not divide evenly",
            "score the whole set, or the 5,000 images of the test list",
        )
    size = images // folds
    parts = []
    for start in range(0, images, size):
        chosen = np.flatnonzero((owner >= start) & (owner < start + size))
        parts.append(retrieval_recalls(scores[start : start + size][:, chosen], owner[chosen] - start, ks))
    means: dict[str, float | int] = {name: sum(part[name] for part in parts) / folds for name in parts[0]}
    means["images"], means["captions"] = images, len(owner)
    return means


def first_five_captions(image_ids: Sequence[str], limit: int = 5) -> list[int]:
    """Positions to keep so that no image has more than five captions: its first five in the order given.

    Some COCO and Flickr images have 6 or 7; the published numbers are on 5. Training keeps them all.
    Example: image ids [a, b, a, a] with limit 2 -> [0, 1, 2].
    """
    seen: Counter[str] = Counter()
    kept = []
    for position, image_id in enumerate(image_ids):
        seen[image_id] += 1
        if seen[image_id] <= limit:
            kept.append(position)
    return kept


def _check(scores: np.ndarray, image_of_caption: Sequence[int] | np.ndarray) -> np.ndarray:
    owner = np.asarray(image_of_caption)
    if scores.ndim != 2 or owner.shape != (scores.shape[1],):
        raise ShapeError(
            "cannot rank retrieval scores",
            f"scores have shape {scores.shape}, image_of_caption {owner.shape}",
            "give scores (images, captions) and one image index a caption",
        )
    if not scores.size:
        raise DataError(
            "cannot rank retrieval scores", f"there are none: shape {scores.shape}", "choose a split with records"
        )
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < 0 or owner.max() >= len(scores):
        raise DataError(
            "cannot rank retrieval scores",
            f"image_of_caption has {owner.dtype} values from {owner.min()} to {owner.max()}",
            f"give row numbers from 0 to {len(scores) - 1}",
        )
    without = np.flatnonzero(np.bincount(owner, minlength=len(scores)) == 0)
    if len(without):
        raise DataError(
            "cannot rank retrieval scores",
            f"{len(without):,} of {len(scores):,} images have no caption, the first is row {without[0]}",
            "leave out images without captions",
        )
    return owner


def _fail_nan(block: np.ndarray, start: int) -> None:
    row, column = np.argwhere(np.isnan(block))[0]
    raise DataError(
        "cannot rank retrieval scores",
        f"the score of image row {start + row} and caption column {column} is not a number (NaN)",
        "find where it came from: a NaN has no rank",
    )
