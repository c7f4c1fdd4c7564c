"""Boxes on pictures: their names can be read wherever the box lies."""

from __future__ import annotations

import re

import pytest

from cmal.reports.album import box_of

SIZE = (340, 200)  # a letter is a thirty-fourth of the width: 10 pixels


def name_of(svg: str) -> dict[str, str]:
    """Attributes of the name that is written into a box."""
    return dict(re.findall(r'([\w-]+)="([^"]*)"', re.search(r"<text([^>]*)>", svg)[1]))


def test_a_name_stands_in_the_upper_left_corner_and_at_the_foot_where_asked():
    box = (20.0, 30.0, 120.0, 130.0)
    at = name_of(box_of(box, "dog", SIZE, "right", "#000"))
    assert (at["x"], at["y"]) == ("22.5", "40.0")
    assert name_of(box_of(box, "dog", SIZE, "expected", "#000", at_foot=True))["y"] == "126.7"


@pytest.mark.parametrize(("left", "anchor"), [(100.0, None), (300.0, "end")])
def test_a_name_that_would_leave_the_picture_is_written_to_the_left(left, anchor):
    at = name_of(box_of((left, 30.0, 335.0, 130.0), "white woman", SIZE, "right", "#000"))
    assert at.get("text-anchor") == anchor
    assert float(at["x"]) == (left + 2.5 if anchor is None else 332.5)


def test_a_box_beyond_the_picture_has_its_name_within():
    at = name_of(box_of((10.0, -40.0, 400.0, 260.0), "a dog", SIZE, "right", "#000", at_foot=True))
    assert 0 < float(at["y"]) <= 200
