"""Percentile bootstrap intervals of means, resampling examples or clusters of examples (say, all questions of an image).

Resampling G clusters with replacement draws how often each occurs from a multinomial distribution. Clusters that contribute
the same sum and count are interchangeable, so they are drawn as one category: exact, and for right/wrong scores a thousand
resamples of 200,000 examples take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmal.errors import DataError, ShapeError

_BLOCK_CELLS = 4_000_000


class Difference(NamedTuple):
    """Mean of a minus mean of b, and its interval; the two differ beyond chance where the interval excludes 0."""

    difference: float
    low: float
    high: float


def bootstrap_interval(
    values: np.ndarray | Sequence[float],
    groups: np.ndarray | Sequence | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval for the mean of `values`.

    Args:
        values: (N,) one score an example (booleans are fine).
        groups: (N,) cluster ids (any integers or strings); clusters are resampled as units. None: no clusters.
        samples: number of resamples. level: share of them inside. seed: same seed, same interval.

    Returns:
        (low, high): the (1 - level) / 2 quantiles of the resampled means from both ends.

    Raises:
        DataError: no value, or one that is not finite. ShapeError: values and groups differ in length.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    totals, counts, weights = _categories(*_clusters(values, groups))
    assert samples >= 1 and 0 < level < 1, "samples and level are set by our own code"
    clusters = int(weights.sum())
    generator = np.random.default_rng([seed, 0x626F6F74])
    means = np.empty(samples)
    step = max(1, _BLOCK_CELLS // len(weights))
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = generator.multinomial(clusters, weights / clusters, size=rows).astype(np.float64)  # (rows, categories)
        means[start : start + rows] = (drawn @ totals) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_difference(
    a: np.ndarray | Sequence[float],
    b: np.ndarray | Sequence[float],
    groups: np.ndarray | Sequence | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Is system a better than b on the same examples? Resampling both together removes the examples' own spread.

    Args: a, b: (N,) scores of the same examples in the same order; the rest as `bootstrap_interval`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ShapeError(
            "cannot compare two systems", f"they have {a.shape} and {b.shape} scores", "score the same examples"
        )
    low, high = bootstrap_interval(a - b, groups, samples, level, seed)
    return Difference(float(np.mean(a - b)), low, high)


def _clusters(
    values: np.ndarray | Sequence[float], groups: np.ndarray | Sequence | None
) -> tuple[np.ndarray, np.ndarray]:
    """Each cluster's sum and count: (G,), (G,)."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        found = (
            "there is none"
            if not values.size
            else f"shape {values.shape}, {np.count_nonzero(~np.isfinite(values))} not finite"
        )
        raise DataError("cannot resample these scores", found, "give one finite score an example")
    if groups is None:
        return values, np.ones_like(values)
    groups = np.asarray(groups)
    if groups.shape != values.shape:
        raise ShapeError(
            "cannot resample by cluster",
            f"{len(values):,} scores, {groups.shape} cluster ids",
            "give one cluster id a score",
        )
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _categories(totals: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of equal sum and count as one category: sums (U,), counts (U,), how many clusters (U,)."""
    pairs, weights = np.unique(np.stack([totals, counts], axis=1), axis=0, return_counts=True)
    return pairs[:, 0], pairs[:, 1], weights
