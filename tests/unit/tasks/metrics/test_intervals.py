"""Bootstrap intervals beside what statistics says of simple cases."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cmal.errors import DataError, ShapeError
from cmal.tasks.metrics import bootstrap_interval, paired_bootstrap_difference


def test_interval_of_a_proportion_is_the_binomial_one():
    values = np.repeat([0, 1], [300, 700])
    low, high = bootstrap_interval(values, samples=20_000)
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half_width, abs=0.002)
    assert high == pytest.approx(0.7 + half_width, abs=0.002)


def test_interval_of_measured_values_is_mean_plus_minus_two_standard_errors():
    values = np.random.default_rng(1).normal(5, 2, size=2_000)
    low, high = bootstrap_interval(values, samples=4_000)
    error = 1.96 * values.std() / np.sqrt(2_000)
    assert (low, high) == (
        pytest.approx(values.mean() - error, abs=0.01),
        pytest.approx(values.mean() + error, abs=0.01),
    )


def test_copies_of_a_question_in_one_image_add_no_certainty():
    per_image = np.random.default_rng(2).integers(2, size=200).astype(float)
    images = np.repeat(np.arange(200), 5)
    low, high = bootstrap_interval(np.repeat(per_image, 5), groups=images, samples=4_000)
    alone_low, alone_high = bootstrap_interval(per_image, samples=4_000)
    assert high - low == pytest.approx(alone_high - alone_low, rel=0.1)
    ignored = bootstrap_interval(np.repeat(per_image, 5), samples=4_000)
    assert ignored[1] - ignored[0] < 0.55 * (high - low)


def test_cluster_means_weigh_examples_and_may_be_named_by_strings():
    values, groups = [1, 1, 1, 0], ["a", "a", "a", "b"]
    low, high = bootstrap_interval(values, groups, samples=500)
    assert (low, high) == (0, 1)  # two clusters: both "a" or both "b" happen in a quarter of the draws each


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(3).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_order_of_examples_does_not_matter():
    values = np.random.default_rng(4).random(50)
    assert bootstrap_interval(values) == pytest.approx(bootstrap_interval(values[::-1]))


def test_a_wider_level_contains_a_narrower_one():
    values = np.random.default_rng(5).random(80)
    low, high = bootstrap_interval(values, level=0.99)
    inner_low, inner_high = bootstrap_interval(values, level=0.8)
    assert low < inner_low < values.mean() < inner_high < high


def test_equal_values_leave_no_doubt():
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_pairing_sees_a_small_difference_that_two_intervals_hide():
    generator = np.random.default_rng(6)
    difficulty = generator.normal(0, 1, size=500)
    a, b = difficulty + 0.05 + generator.normal(0, 0.1, 500), difficulty + generator.normal(0, 0.1, 500)
    found = paired_bootstrap_difference(a, b)
    assert found.low > 0
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert bootstrap_interval(a)[0] < bootstrap_interval(b)[1]
    assert paired_bootstrap_difference(a, a) == (0, 0, 0)


def test_two_hundred_thousand_right_or_wrong_answers_take_well_under_a_second():
    values = np.random.default_rng(7).integers(2, size=200_000)
    start = time.process_time()
    low, high = bootstrap_interval(values)
    assert time.process_time() - start < 1.0
    assert 0.49 < low < values.mean() < high < 0.51


def test_bad_input_gets_a_message():
    with pytest.raises(DataError, match="there is none"):
        bootstrap_interval([])
    with pytest.raises(DataError, match="1 not finite"):
        bootstrap_interval([0.5, np.nan])
    with pytest.raises(ShapeError, match="2 scores"):
        bootstrap_interval([0.5, 0.5], groups=[1])
    with pytest.raises(ShapeError, match="cannot compare two systems"):
        paired_bootstrap_difference([1, 2], [1])
