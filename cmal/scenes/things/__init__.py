"""The drawing of every kind, with its proportions, usual size, poses and locations.

`people.txt`, `animals.txt`, `vehicles.txt`, `outdoor.txt` and `indoor.txt` describe how each kind looks when it faces
right; `drawings` explains their format. `draw_thing` returns the finished tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from cmal.scenes.things.drawings import Drawing
from cmal.scenes.things.pen import SUPERSAMPLING, Pen, mix_paint

SIZE_FACTORS = {"small": 0.7, "medium": 1.0, "large": 1.36}
FLOOR, AIR, WALL, WATER = "floor", "air", "wall", "water"
LEFT_RIGHT = ("left", "right")


@dataclass(frozen=True)
class Look:
    """How one kind is drawn.

    Attributes:
        width_units: tile width in units; the tile is 100 units high.
        long_side_px: longer side of a medium one in the finished picture.
        poses: names of its poses. A pose that ends in "left" is drawn mirrored.
        places: ground -> location there (floor, air, wall, water). It does not occur on other grounds.
    """

    width_units: float
    long_side_px: int
    poses: tuple[str, ...]
    places: dict[str, str]


def _on_floor(*grounds: str) -> dict[str, str]:
    return dict.fromkeys(grounds, FLOOR)


ANYWHERE = _on_floor("room", "street", "water", "field")
OUTSIDE = _on_floor("street", "water", "field")
ROADS = _on_floor("street", "field")
GARDEN = _on_floor("room", "field", "street")
IN_AIR = {"room": AIR, "street": AIR, "water": AIR, "field": AIR}
IN_SKY = {"street": AIR, "water": AIR, "field": AIR}
AFLOAT = {"water": WATER, "field": FLOOR}
STANDING = ("front", "walk", "wave")

LOOKS: dict[str, Look] = {
    "man": Look(50, 66, STANDING, ANYWHERE),
    "woman": Look(50, 64, STANDING, ANYWHERE),
    "child": Look(70, 46, STANDING, ANYWHERE),
    "dog": Look(128, 44, LEFT_RIGHT, ANYWHERE),
    "cat": Look(84, 38, LEFT_RIGHT, ANYWHERE),
    "bird": Look(140, 38, ("up-left", "up-right", "down-left", "down-right"), IN_SKY),
    "duck": Look(127, 36, LEFT_RIGHT, AFLOAT),
    "cow": Look(140, 60, LEFT_RIGHT, ROADS),
    "fish": Look(150, 38, LEFT_RIGHT, {"water": WATER}),
    "car": Look(200, 62, LEFT_RIGHT, ROADS),
    "bus": Look(200, 70, LEFT_RIGHT, ROADS),
    "bicycle": Look(157, 52, LEFT_RIGHT, OUTSIDE),
    "boat": Look(128, 58, (*LEFT_RIGHT, "cabin-left", "cabin-right"), {"water": WATER}),
    "train": Look(220, 76, LEFT_RIGHT, ROADS),
    "house": Look(110, 62, LEFT_RIGHT, ROADS),
    "tree": Look(76, 66, ("round", "fir"), ROADS),
    "flower": Look(64, 40, ("daisy", "tulip"), GARDEN),
    "kite": Look(80, 46, LEFT_RIGHT, IN_SKY),
    "umbrella": Look(100, 48, LEFT_RIGHT, ANYWHERE),
    "bench": Look(180, 56, LEFT_RIGHT, OUTSIDE),
    "traffic light": Look(40, 56, ("front",), _on_floor("street")),
    "fire hydrant": Look(70, 40, ("front",), ROADS),
    "balloon": Look(58, 44, LEFT_RIGHT, IN_AIR),
    "ball": Look(100, 28, ("striped", "plain"), ANYWHERE),
    "chair": Look(72, 48, LEFT_RIGHT, ANYWHERE),
    "table": Look(152, 60, ("square", "round"), _on_floor("room", "field", "street")),
    "cup": Look(110, 30, LEFT_RIGHT, _on_floor("room")),
    "lamp": Look(68, 54, ("front",), _on_floor("room")),
    "clock": Look(100, 36, ("round", "square"), {"room": WALL}),
    "book": Look(140, 36, ("left", "right", "open"), _on_floor("room", "water")),
    "bottle": Look(38, 40, ("front",), _on_floor("room", "water")),
    "vase": Look(60, 44, ("front",), _on_floor("room")),
    "hat": Look(130, 36, ("wide", "tall"), _on_floor("room", "water")),
    "television": Look(130, 48, ("front",), _on_floor("room")),
    "bed": Look(190, 76, LEFT_RIGHT, _on_floor("room")),
    "guitar": Look(46, 60, ("front",), _on_floor("room", "field")),
}


def draw_thing(kind: str, colour: str, size: str, pose: str, generator: np.random.Generator) -> Image.Image:
    """Renders one thing on a transparent RGBA tile at its final scale.

    Args:
        kind, colour, size: from KINDS, COLOURS and SIZES.
        pose: one of the kind's poses.
        generator: varies proportions, colour and details.
    """
    look = LOOKS[kind]
    height = look.long_side_px * SIZE_FACTORS[size] / max(1.0, look.width_units / 100) * generator.uniform(0.95, 1.05)
    width = height * look.width_units / 100 * generator.uniform(0.93, 1.08)
    pen = Pen(look.width_units, (max(8, round(width)), max(8, round(height))))
    Drawing(pen, mix_paint(colour, generator), generator).draw(kind, pose)
    tile = pen.tile.reduce(SUPERSAMPLING)
    return ImageOps.mirror(tile) if pose.endswith("left") else tile
