"""Renders the scene of (seed, split, index): samples a plan, draws each thing, places it, adds shadows and light.

Things are pasted back to front. Boxes and visible shares are measured in pixels. A pixel belongs to a thing if the
thing's tile is at least half opaque there and no nearer thing covers it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cmal.scenes.grounds import HEIGHT_PX, WIDTH_PX, Ground, light_up, paint_ground
from cmal.scenes.sampling import Wish, sample_plan, split_number
from cmal.scenes.scene import Scene, Thing
from cmal.scenes.things import AIR, FLOOR, LOOKS, WALL, WATER, draw_thing

MIN_VISIBLE_SHARE = 0.45
MOSTLY_VISIBLE_SHARE = 0.8
OVERLAP_SHARE = 0.5
TRIES = 14
MARGIN_PX = 2
JPEG_QUALITY = 92
DEPTH_OF_HANGING = {AIR: -1000, WALL: -2000}


@dataclass
class _Placed:
    wish: Wish
    tile: Image.Image
    corner: tuple[int, int]
    depth: int  # larger = nearer to the viewer
    mask: np.ndarray  # (HEIGHT_PX, WIDTH_PX) bool, drawn pixels
    drawn_px: int
    least_share: float


def make_scene(seed: int, split: str, index: int) -> tuple[Image.Image, Scene]:
    """Renders one picture and describes its content.

    Args:
        seed: of the data set, not negative.
        split: seeds the pictures too. Only "test" can contain held-out (kind, colour) pairs.
        index: of the picture in its split.

    Returns:
        An RGB picture of 192 x 160 pixels and its Scene with 2-6 things. Equal arguments give equal results.
    """
    generator = np.random.default_rng([seed, split_number(split), index])
    plan = sample_plan(split, generator)
    ground = paint_ground(plan.ground, generator)
    placed: list[_Placed] = []
    for number, wish in enumerate(plan.wishes):
        _place(wish, plan.ground, ground, placed, generator, must=number < 2)
    placed.sort(key=lambda one: one.depth)
    picture = ground.picture
    _cast_shadows(picture, placed)
    for one in placed:
        picture.paste(one.tile, one.corner, one.tile)
    things = tuple(_describe(one, placed[number + 1 :]) for number, one in enumerate(placed))
    scene = Scene(split, index, plan.ground, plan.light, (WIDTH_PX, HEIGHT_PX), things)
    return light_up(picture, plan.light, generator), scene


def encode_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes at quality 92. Equal pictures give equal bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _place(
    wish: Wish, ground_name: str, ground: Ground, placed: list[_Placed], generator: np.random.Generator, must: bool
) -> None:
    """Appends the wish to `placed` at a random location where every thing keeps its required visible share.

    After 14 failed attempts an optional wish is dropped. One that `must` be drawn gets 112 attempts; from the 15th on
    it requires only MIN_VISIBLE_SHARE of itself.
    """
    tile = draw_thing(wish.kind, wish.colour, wish.size, wish.pose, generator)
    tile = tile.crop(tile.getchannel("A").getbbox())
    solid = np.asarray(tile.getchannel("A")) >= 128
    place = LOOKS[wish.kind].places[ground_name]
    least = MIN_VISIBLE_SHARE + 0.05 if generator.random() < OVERLAP_SHARE else MOSTLY_VISIBLE_SHARE
    for attempt in range(TRIES * (8 if must else 1)):
        if attempt >= TRIES:
            least = MIN_VISIBLE_SHARE
        x = int(generator.integers(MARGIN_PX, WIDTH_PX - MARGIN_PX - tile.width + 1))
        bottom = _bottom(place, tile.height, ground, generator)
        mask = np.zeros((HEIGHT_PX, WIDTH_PX), bool)
        mask[bottom - tile.height : bottom, x : x + tile.width] = solid
        depth = bottom + DEPTH_OF_HANGING.get(place, 0)
        candidate = _Placed(wish, tile, (x, bottom - tile.height), depth, mask, int(solid.sum()), least)
        if _all_visible([*placed, candidate]):
            placed.append(candidate)
            return


def _bottom(place: str, height: int, ground: Ground, generator: np.random.Generator) -> int:
    """Random y of the thing's lower edge in pixels, such that the thing lies inside the picture."""
    lowest = HEIGHT_PX - MARGIN_PX
    ranges = {
        FLOOR: (ground.floor_px + 8, lowest),
        WATER: (ground.horizon_px + 14, ground.floor_px - 3),
        AIR: (height + MARGIN_PX, max(height + 14, ground.horizon_px + 8)),
        WALL: (height + MARGIN_PX, max(height + 8, ground.horizon_px - 12)),
    }
    first, last = ranges[place]
    first = max(first, height + MARGIN_PX)
    return int(generator.integers(first, max(first, min(last, lowest)) + 1))


def _all_visible(placed: list[_Placed]) -> bool:
    """Does every thing keep its required visible share?"""
    ordered = sorted(placed, key=lambda one: one.depth)
    covered = ordered[-1].mask.copy()
    for one in reversed(ordered[:-1]):
        hidden = np.count_nonzero(one.mask & covered)
        if one.drawn_px - hidden < one.least_share * one.drawn_px:
            return False
        covered |= one.mask
    return True


def _cast_shadows(picture: Image.Image, placed: list[_Placed]) -> None:
    """Darkens an ellipse under every thing that stands or floats."""
    overlay = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(overlay)
    for one in placed:
        if one.depth > 0:
            x, bottom, width = one.corner[0], one.depth, one.tile.width
            draw.ellipse((x - 1, bottom - 4, x + width + 3, bottom + 2), 70)
    picture.paste((30, 30, 40), (0, 0), overlay)


def _describe(one: _Placed, nearer: list[_Placed]) -> Thing:
    visible = one.mask.copy()
    for other in nearer:
        visible &= ~other.mask
    ys, xs = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    share = round(int(visible.sum()) / one.drawn_px, 4)
    return Thing(one.wish.kind, one.wish.colour, one.wish.size, one.wish.pose, box, share)
