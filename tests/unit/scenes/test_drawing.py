"""Drawn scenes: the same seed gives the same bytes, boxes are those of the pixels, every kind shows its colour."""

import numpy as np
import pytest
from PIL import Image

from cmal.scenes import drawing
from cmal.scenes.drawing import MIN_VISIBLE_SHARE, encode_jpeg, make_scene
from cmal.scenes.grounds import light_up, paint_ground
from cmal.scenes.sampling import Wish
from cmal.scenes.scene import Scene
from cmal.scenes.things import LOOKS, SIZE_FACTORS, draw_thing
from cmal.scenes.things.pen import luminance, mix_paint, outline_of
from cmal.scenes.world import COLOUR_RGB, COLOURS, GROUNDS, KINDS, LIGHTS, SIZES

SAMPLE = 60


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Image.Image, Scene]]:
    return [make_scene(3, "train", index) for index in range(SAMPLE)]


def _placed(x: int, y: int, side: int, depth: int, least_share: float = 0.45) -> drawing._Placed:
    """A square thing, opaque all over."""
    mask = np.zeros((drawing.HEIGHT_PX, drawing.WIDTH_PX), bool)
    mask[y : y + side, x : x + side] = True
    tile = Image.new("RGBA", (side, side), (9, 9, 9, 255))
    wish = Wish("ball", "red", "small", "plain")
    return drawing._Placed(wish, tile, (x, y), depth, mask, side * side, least_share)


def test_same_seed_split_and_index_give_the_same_bytes_and_scene():
    first, again = make_scene(5, "val", 12), make_scene(5, "val", 12)
    assert encode_jpeg(first[0]) == encode_jpeg(again[0])
    assert first[1] == again[1]


@pytest.mark.parametrize("other", [(6, "val", 12), (5, "train", 12), (5, "val", 13)])
def test_another_seed_split_or_index_gives_another_picture(other):
    assert make_scene(5, "val", 12)[0].tobytes() != make_scene(*other)[0].tobytes()


def test_global_random_state_does_not_matter():
    np.random.seed(1)
    first = make_scene(5, "val", 3)[0].tobytes()
    np.random.seed(2)
    assert make_scene(5, "val", 3)[0].tobytes() == first


def test_a_scene_has_two_to_six_things_inside_a_192_by_160_picture(scenes):
    for picture, scene in scenes:
        assert picture.mode == "RGB" and picture.size == scene.size_wh_px == (192, 160)
        assert 2 <= len(scene.things) <= 6
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box_xyxy_px
            assert 0 <= x0 < x1 <= 192 and 0 <= y0 < y1 <= 160


def test_visible_shares_stay_within_bounds_and_some_things_overlap(scenes):
    shares = [thing.visible_share for _, scene in scenes for thing in scene.things]
    assert min(shares) >= MIN_VISIBLE_SHARE
    assert max(shares) == 1.0 and any(share < 0.8 for share in shares)


def test_box_and_share_of_a_covered_thing_are_those_of_its_visible_pixels():
    """A 10 x 10 square whose right 4 columns are covered: 6 columns, 60 of 100 pixels remain."""
    behind, front = _placed(20, 30, 10, depth=40), _placed(26, 28, 20, depth=48)
    thing = drawing._describe(behind, [front])
    assert thing.box_xyxy_px == (20, 30, 26, 40)
    assert thing.visible_share == 0.6
    assert drawing._describe(front, []).box_xyxy_px == (26, 28, 46, 48)


def test_a_place_that_hides_too_much_of_what_stands_behind_is_refused():
    behind, front = _placed(20, 30, 10, depth=40), _placed(26, 28, 20, depth=48)
    assert drawing._all_visible([behind, front])
    assert not drawing._all_visible([_placed(20, 30, 10, depth=40, least_share=0.61), front])
    assert not drawing._all_visible(
        [front, _placed(27, 30, 10, depth=40)]
    )  # fully covered, in either order of the list


def test_boxes_hold_what_the_picture_shows_and_their_borders_are_used(monkeypatch):
    """Without light and shadow, a pixel differs from the bare ground only where a thing is.

    Faint edges (less than half opaque) may lie outside: 98% of the changed pixels are within a pixel of a box.
    """
    grounds = []

    def keep_ground(name, generator):
        ground = paint_ground(name, generator)
        grounds.append(np.asarray(ground.picture).astype(int))
        return ground

    monkeypatch.setattr(drawing, "paint_ground", keep_ground)
    monkeypatch.setattr(drawing, "light_up", lambda picture, light, generator: picture)
    monkeypatch.setattr(drawing, "_cast_shadows", lambda picture, placed: None)
    for index in range(12):
        picture, scene = make_scene(1, "train", index)
        changed = (np.asarray(picture).astype(int) != grounds[-1]).any(axis=2)
        inside = np.zeros_like(changed)
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box_xyxy_px
            inside[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = True
            for border in (changed[y0, x0:x1], changed[y1 - 1, x0:x1], changed[y0:y1, x0], changed[y0:y1, x1 - 1]):
                assert border.any(), thing
        assert (changed & inside).sum() > 0.98 * changed.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_every_colour_in_every_size_and_pose(kind):
    """The named colour is well seen: at least 12% of the solid pixels lie within 45 of it in RGB distance."""
    for number, colour in enumerate(COLOURS):
        size, pose = SIZES[number % 3], LOOKS[kind].poses[number % len(LOOKS[kind].poses)]
        tile = np.asarray(draw_thing(kind, colour, size, pose, np.random.default_rng(number))).astype(int)
        solid = tile[tile[..., 3] >= 128][:, :3]
        near = np.linalg.norm(solid - np.array(COLOUR_RGB[colour]), axis=1) < 45
        assert near.mean() > 0.12, (kind, colour, pose, near.mean())


def test_paint_stays_nearest_to_its_own_name():
    generator = np.random.default_rng(0)
    for colour in COLOURS * 20:
        main = np.array(mix_paint(colour, generator).main)
        nearest = min(COLOURS, key=lambda name: np.linalg.norm(main - np.array(COLOUR_RGB[name])))
        assert nearest == colour


def test_outlines_stand_out_from_light_and_dark_fills():
    assert luminance(outline_of((244, 244, 240))) < 150
    assert luminance(outline_of((34, 34, 38))) > 110


@pytest.mark.parametrize("kind", KINDS)
def test_larger_sizes_are_larger_and_the_smallest_is_still_to_be_seen(kind):
    sides = [max(draw_thing(kind, "red", size, LOOKS[kind].poses[0], np.random.default_rng(4)).size) for size in SIZES]
    assert sides == sorted(sides) and sides[2] > 1.6 * sides[0]
    assert LOOKS[kind].long_side_px * SIZE_FACTORS["small"] * 0.95 >= 18


def test_a_pose_to_the_left_is_the_mirrored_pose_to_the_right():
    right = draw_thing("car", "blue", "large", "right", np.random.default_rng(8))
    left = draw_thing("car", "blue", "large", "left", np.random.default_rng(8))
    assert np.array_equal(np.asarray(left), np.asarray(right)[:, ::-1])


def test_things_stay_where_they_belong():
    """A fish is in the water and nowhere else; a bed is indoors; a clock hangs above the floor."""
    assert set(LOOKS["fish"].places) == {"water"} and set(LOOKS["bed"].places) == {"room"}
    ground = paint_ground("room", np.random.default_rng(0))
    bottoms = [drawing._bottom("wall", 30, ground, np.random.default_rng(k)) for k in range(50)]
    floors = [drawing._bottom("floor", 30, ground, np.random.default_rng(k)) for k in range(50)]
    assert max(bottoms) < ground.horizon_px < min(floors)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_vary_and_light_keeps_them_in_range(ground, light):
    first, second = (paint_ground(ground, np.random.default_rng(seed)).picture for seed in (0, 1))
    assert first.tobytes() != second.tobytes()
    lit = np.asarray(light_up(first, light, np.random.default_rng(0)))
    assert lit.shape == (160, 192, 3) and lit.dtype == np.uint8 and lit.std() > 5


def test_night_is_darker_than_day():
    ground = paint_ground("field", np.random.default_rng(0)).picture
    means = [np.asarray(light_up(ground, light, np.random.default_rng(0))).mean() for light in ("day", "night")]
    assert means[1] < 0.9 * means[0]
