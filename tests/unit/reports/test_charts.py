"""Line charts: thinning, gaps, scales and ticks, on numbers that can be checked by eye."""

from __future__ import annotations

import re

import pytest

from cmal.reports.charts import Point, Series, line_chart, round_step, scale, thin

NAN = float("nan")


def test_a_value_that_is_not_finite_parts_the_line():
    assert thin([1, 2, 3, 4], [1.0, 2.0, NAN, 3.0]) == [[Point(1, 1, 1, 1), Point(2, 2, 2, 2)], [Point(4, 3, 3, 3)]]
    assert thin([1, 2], [NAN, float("inf")]) == []


def test_neighbours_are_joined_to_mean_least_and_most():
    assert thin([0, 2, 4, 6], [1.0, 3.0, 5.0, NAN], most=2) == [[Point(1, 2, 1, 3), Point(5, 5, 5, 5)]]
    assert sum(map(len, thin(range(10_000), range(10_000)))) <= 240


@pytest.mark.parametrize(("wanted", "step"), [(0.3, 0.5), (1, 1), (1.1, 2), (4.9, 5), (60, 100), (0.02, 0.02)])
def test_steps_are_round(wanted, step):
    assert round_step(wanted) == pytest.approx(step)


def test_a_scale_turns_values_into_places():
    whole = scale([0, 10], start=100, end=0)
    assert (whole(0), whole(10), whole(5)) == (100, 0, 50)
    assert whole.ticks == pytest.approx((0, 5, 10))


def test_a_scale_of_one_value_has_room_around_it():
    assert scale([4.0, 4.0], 0, 10)(4.0) == 5
    assert scale([0.0], 0, 10)(0.0) == 5


def test_chart_draws_every_series_and_tells_its_last_value():
    chart = line_chart("<loss>", [Series("training", [1, 2], [4.0, 2.0]), Series("val", [2], [3.5], is_dots=True)])
    assert "&lt;loss&gt;" in chart and "<loss>" not in chart
    assert "training 2<" in chart and "val 3.5<" in chart
    points = re.search(r'<polyline points="([^"]+)"', chart)[1].split()
    assert len(points) == 2 and float(points[0].split(",")[1]) < float(points[1].split(",")[1])  # 4 is drawn above 2
    assert chart.count('class="dot"') == 1 and "polygon" not in chart


def test_a_chart_of_nothing_says_so():
    assert "no finite values" in line_chart("loss", [Series("training", [1], [NAN])])
