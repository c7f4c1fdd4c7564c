"""The text files of drawings: their fills and numbers mean what `drawings` says, and they fit the table of kinds."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.scenes.things import LOOKS, draw_thing
from cmal.scenes.things.drawings import Drawing, descriptions
from cmal.scenes.things.pen import PALE, SKINS, Paint, Pen, shade

MAIN = (100, 150, 200)  # sums to 450


@pytest.fixture()
def drawing() -> Drawing:
    drawing = Drawing(Pen(100, (50, 50)), Paint(MAIN, (0, 0, 0), (9, 9, 9)), np.random.default_rng(3))
    drawing.fills["main"] = MAIN
    return drawing


def test_the_files_describe_every_kind_in_its_own_poses_only():
    assert set(descriptions()) == set(LOOKS)
    for kind, parts in descriptions().items():
        assert {pose for part in parts for pose in part.poses} <= {"all", *LOOKS[kind].poses}, kind


def test_parts_in_brackets_are_drawn_in_their_poses_only():
    up, down = (
        draw_thing("bird", "red", "large", pose, np.random.default_rng(1)) for pose in ("up-right", "down-right")
    )
    assert up.size == down.size and up.tobytes() != down.tobytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main", MAIN),
        ("main*0.5", shade(MAIN, 0.5)),
        ("#0a0b0c", (10, 11, 12)),
        ("pale|451|#0a0b0c", PALE),
        ("pale|450|#0a0b0c", (10, 11, 12)),
    ],
)
def test_fills(drawing, text, expected):
    assert drawing._fill(text) == expected


def test_a_random_fill_stays_the_same_within_one_thing(drawing):
    assert len({drawing._fill("skin") for _ in range(20)}) == 1 and drawing._fill("skin") in SKINS


def test_numbers_are_sums_of_numbers_and_names(drawing):
    drawing._draw_part("let", "tail", "12..12.5")
    tail = drawing.numbers["tail"]
    assert 12 <= tail <= 12.5
    assert [drawing._number(text) for text in ("-8", "10+tail", "34-tail")] == [-8, 10 + tail, 34 - tail]
