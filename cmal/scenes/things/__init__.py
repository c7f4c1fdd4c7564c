"""The drawing of every kind, with its proportions, usual size, poses and locations.

`people`, `animals`, `vehicles`, `outdoor` and `indoor` each hold the drawing functions of one family. A drawing function
has the name of its kind and draws it with a `Pen`, facing right. `draw_thing` returns the finished tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from cmal.scenes.things import animals, indoor, outdoor, people, vehicles
from cmal.scenes.things.pen import SUPERSAMPLING, Paint, Pen, mix_paint

SIZE_FACTORS = {"small": 0.7, "medium": 1.0, "large": 1.36}
FLOOR, AIR, WALL, WATER = "floor", "air", "wall", "water"
LEFT_RIGHT = ("left", "right")


@dataclass(frozen=True)
class Look:
    """How one kind is drawn.

    Attributes:
        draw: draws it on the pen's tile, facing right.
        width_units: tile width in units; the tile is 100 units high.
        long_side_px: longer side of a medium one in the finished picture.
        poses: names of its poses. A pose that ends in "left" is drawn mirrored.
        places: ground -> location there (floor, air, wall, water). It does not occur on other grounds.
    """

    draw: Callable[[Pen, Paint, str, np.random.Generator], None]
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
    "man": Look(people.man, 50, 66, STANDING, ANYWHERE),
    "woman": Look(people.woman, 50, 64, STANDING, ANYWHERE),
    "child": Look(people.child, 70, 46, STANDING, ANYWHERE),
    "dog": Look(animals.dog, 128, 44, LEFT_RIGHT, ANYWHERE),
    "cat": Look(animals.cat, 84, 38, LEFT_RIGHT, ANYWHERE),
    "bird": Look(animals.bird, 140, 38, ("up-left", "up-right", "down-left", "down-right"), IN_SKY),
    "duck": Look(animals.duck, 127, 36, LEFT_RIGHT, AFLOAT),
    "cow": Look(animals.cow, 140, 60, LEFT_RIGHT, ROADS),
    "fish": Look(animals.fish, 150, 38, LEFT_RIGHT, {"water": WATER}),
    "car": Look(vehicles.car, 200, 62, LEFT_RIGHT, ROADS),
    "bus": Look(vehicles.bus, 200, 70, LEFT_RIGHT, ROADS),
    "bicycle": Look(vehicles.bicycle, 157, 52, LEFT_RIGHT, OUTSIDE),
    "boat": Look(vehicles.boat, 128, 58, (*LEFT_RIGHT, "cabin-left", "cabin-right"), {"water": WATER}),
    "train": Look(vehicles.train, 220, 76, LEFT_RIGHT, ROADS),
    "house": Look(outdoor.house, 110, 62, LEFT_RIGHT, ROADS),
    "tree": Look(outdoor.tree, 76, 66, ("round", "fir"), ROADS),
    "flower": Look(outdoor.flower, 64, 40, ("daisy", "tulip"), GARDEN),
    "kite": Look(outdoor.kite, 80, 46, LEFT_RIGHT, IN_SKY),
    "umbrella": Look(outdoor.umbrella, 100, 48, LEFT_RIGHT, ANYWHERE),
    "bench": Look(outdoor.bench, 180, 56, LEFT_RIGHT, OUTSIDE),
    "traffic light": Look(outdoor.traffic_light, 40, 56, ("front",), _on_floor("street")),
    "fire hydrant": Look(outdoor.fire_hydrant, 70, 40, ("front",), ROADS),
    "balloon": Look(outdoor.balloon, 58, 44, LEFT_RIGHT, IN_AIR),
    "ball": Look(outdoor.ball, 100, 28, ("striped", "plain"), ANYWHERE),
    "chair": Look(indoor.chair, 72, 48, LEFT_RIGHT, ANYWHERE),
    "table": Look(indoor.table, 152, 60, ("square", "round"), _on_floor("room", "field", "street")),
    "cup": Look(indoor.cup, 110, 30, LEFT_RIGHT, _on_floor("room")),
    "lamp": Look(indoor.lamp, 68, 54, ("front",), _on_floor("room")),
    "clock": Look(indoor.clock, 100, 36, ("round", "square"), {"room": WALL}),
    "book": Look(indoor.book, 140, 36, ("left", "right", "open"), _on_floor("room", "water")),
    "bottle": Look(indoor.bottle, 38, 40, ("front",), _on_floor("room", "water")),
    "vase": Look(indoor.vase, 60, 44, ("front",), _on_floor("room")),
    "hat": Look(indoor.hat, 130, 36, ("wide", "tall"), _on_floor("room", "water")),
    "television": Look(indoor.television, 130, 48, ("front",), _on_floor("room")),
    "bed": Look(indoor.bed, 190, 76, LEFT_RIGHT, _on_floor("room")),
    "guitar": Look(indoor.guitar, 46, 60, ("front",), _on_floor("room", "field")),
}


def draw_thing(kind: str, colour: str, size: str, pose: str, generator: np.random.Generator) -> Image.Image:
    """Draws one thing on a transparent RGBA tile at its final scale.

    Args:
        kind, colour, size: from KINDS, COLOURS and SIZES.
        pose: one of the kind's poses.
        generator: varies proportions, colour and details.
    """
    look = LOOKS[kind]
    height = look.long_side_px * SIZE_FACTORS[size] / max(1.0, look.width_units / 100) * generator.uniform(0.95, 1.05)
    width = height * look.width_units / 100 * generator.uniform(0.93, 1.08)
    pen = Pen(look.width_units, (max(8, round(width)), max(8, round(height))))
    look.draw(pen, mix_paint(colour, generator), pose, generator)
    tile = pen.tile.reduce(SUPERSAMPLING)
    return ImageOps.mirror(tile) if pose.endswith("left") else tile
