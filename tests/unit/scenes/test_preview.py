"""Contact sheets: pictures in rows, boxes in their things' colours."""

import numpy as np
from PIL import Image

from cmal.scenes.preview import GAP_PX, LINE_PX, contact_sheet
from cmal.scenes.scene import Scene, Thing
from cmal.scenes.world import COLOUR_RGB

SIZE = (20, 10)


def _picture(box: tuple[int, int, int, int] = (2, 3, 8, 9)) -> tuple[Image.Image, Scene]:
    thing = Thing("ball", "red", "small", "plain", box, 1.0)
    return Image.new("RGB", SIZE, (90, 90, 90)), Scene("train", 0, "room", "day", SIZE, (thing,))


def test_three_pictures_in_two_columns_make_two_rows():
    sheet = contact_sheet([_picture()] * 3, columns=2)
    assert sheet.size == (2 * (20 + GAP_PX) + GAP_PX, 2 * (10 + GAP_PX) + GAP_PX)


def test_fewer_pictures_than_columns_leave_no_empty_columns():
    assert contact_sheet([_picture()], columns=6).size == (20 + 2 * GAP_PX, 10 + 2 * GAP_PX)


def test_a_box_is_drawn_on_its_own_border_pixels_in_the_things_colour():
    """Box (2, 3, 8, 9), ends exclusive: the last painted column is 7, the last painted row 8."""
    pixels = np.asarray(contact_sheet([_picture()]))[GAP_PX:, GAP_PX:]
    red = (pixels == COLOUR_RGB["red"]).all(axis=2)
    assert red[3, 2] and red[8, 7] and red[3, 2:8].all() and red[3:9, 7].all()
    assert not red[4:8, 3:7].any() and not red[:, 8:].any() and not red[9:, :].any()


def test_labels_add_a_line_of_text_for_each_thing():
    plain, labelled = (contact_sheet([_picture()], labels=labels) for labels in (False, True))
    assert labelled.height == plain.height + LINE_PX
    below = np.asarray(labelled)[GAP_PX + 10 : GAP_PX + 10 + LINE_PX]
    assert (below != 255).any()
