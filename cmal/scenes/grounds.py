"""Backgrounds of scenes (room, street, water, field) and their light (day, evening, night).

A ground is an RGB picture with the y positions that placement needs: the horizon and, for water, the shore. Grounds are
drawn at the final scale, without supersampling. `light_up` adds noise as texture at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cmal.scenes.things.pen import Colour, pick, shade

WIDTH_PX, HEIGHT_PX = 192, 160

WALLS = ((222, 212, 190), (196, 214, 216), (214, 200, 214), (200, 212, 184), (228, 206, 188), (184, 194, 212))
FLOORS = ((178, 132, 90), (150, 116, 86), (196, 164, 124), (162, 152, 146), (132, 122, 128))
SKIES = ((164, 206, 240), (182, 218, 240), (148, 192, 232), (196, 214, 228))
GRASSES = ((122, 176, 86), (138, 186, 96), (112, 164, 92), (158, 180, 96))
ROADS = ((116, 118, 124), (128, 124, 124), (106, 110, 118))
PAVINGS = ((186, 182, 174), (198, 190, 176), (170, 170, 172))
WATERS = ((84, 150, 190), (98, 168, 196), (76, 136, 176), (104, 170, 182))
SANDS = ((226, 206, 156), (214, 192, 144), (232, 216, 176))
TINTS = {
    "day": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "evening": ((1.01, 0.92, 0.86), (0.98, 0.92, 0.88)),
    "night": ((0.7, 0.73, 0.86), (0.78, 0.79, 0.86)),
}


@dataclass(frozen=True)
class Ground:
    """A painted ground.

    Attributes:
        picture: RGB, WIDTH_PX x HEIGHT_PX.
        horizon_px: y where the floor or the water begins.
        floor_px: smallest y at which things can stand: the shore for water, else the horizon.
    """

    picture: Image.Image
    horizon_px: int
    floor_px: int


def paint_ground(ground: str, generator: np.random.Generator) -> Ground:
    """Paints a random variation of a ground: colours, horizon, clouds, waves, grass, road markings."""
    return {"room": _room, "street": _street, "water": _water, "field": _field}[ground](generator)


def light_up(picture: Image.Image, light: str, generator: np.random.Generator) -> Image.Image:
    """Applies a light to a picture: a tint that changes from top to bottom, one brighter side, fine noise."""
    top, bottom = (np.asarray(tint, np.float32) for tint in TINTS[light])
    down = np.linspace(0, 1, HEIGHT_PX, dtype=np.float32)[:, None, None]
    across = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None, :, None]
    tint = (top + (bottom - top) * down) * (1 + generator.uniform(-0.06, 0.06) * across)
    noise = generator.normal(0, generator.uniform(1.5, 4.5), (HEIGHT_PX, WIDTH_PX, 1)).astype(np.float32)
    return Image.fromarray((np.asarray(picture, np.float32) * tint + noise).clip(0, 255).astype(np.uint8))


def _blank(fill: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), fill)
    return picture, ImageDraw.Draw(picture)


def _room(generator: np.random.Generator) -> Ground:
    wall, floor = pick(WALLS, generator), pick(FLOORS, generator)
    horizon = int(generator.integers(70, 88))
    picture, draw = _blank(wall)
    if generator.random() < 0.4:
        for x in range(int(generator.integers(4, 12)), WIDTH_PX, int(generator.integers(10, 22))):
            draw.rectangle((x, 0, x + 3, horizon), shade(wall, 0.95))
    draw.rectangle((0, horizon, WIDTH_PX, HEIGHT_PX), floor)
    draw.rectangle((0, horizon - 4, WIDTH_PX, horizon), shade(wall, 1.5))
    if generator.random() < 0.6:
        for y in np.cumsum(generator.uniform(7, 16, 10)) + horizon:
            draw.line((0, y, WIDTH_PX, y), shade(floor, 0.88))
    if generator.random() < 0.35:
        x, rug = int(generator.integers(20, 70)), pick((*WALLS, (150, 110, 104), (110, 126, 140)), generator)
        draw.ellipse((x, horizon + 28, x + 110, horizon + 66), shade(rug, 0.9), shade(rug, 0.7))
    return Ground(picture, horizon, horizon)


def _sky(horizon: int, generator: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A sky with up to three pale clouds."""
    picture, draw = _blank(pick(SKIES, generator))
    for _ in range(int(generator.integers(0, 4))):
        x, y = generator.uniform(0, WIDTH_PX), generator.uniform(6, 0.6 * horizon)
        for dx, radius in ((-11, 5), (-2, 8), (9, 6)):
            draw.ellipse((x + dx - 1.5 * radius, y - radius, x + dx + 1.5 * radius, y + radius), (236, 242, 246))
    return picture, draw


def _street(generator: np.random.Generator) -> Ground:
    horizon = int(generator.integers(58, 74))
    picture, draw = _sky(horizon, generator)
    haze = pick(((176, 186, 198), (188, 184, 186), (170, 184, 186)), generator)
    x = -5
    while x < WIDTH_PX:  # a far skyline
        width, height = int(generator.integers(14, 34)), int(generator.integers(8, 30))
        draw.rectangle((x, horizon - height, x + width, horizon), shade(haze, generator.uniform(0.92, 1.1)))
        x += width + int(generator.integers(0, 8))
    road, paving = pick(ROADS, generator), pick(PAVINGS, generator)
    kerb = horizon + int(generator.integers(14, 26))
    draw.rectangle((0, horizon, WIDTH_PX, kerb), paving)
    draw.rectangle((0, kerb, WIDTH_PX, HEIGHT_PX), road)
    draw.line((0, kerb, WIDTH_PX, kerb), shade(paving, 0.7), 2)
    middle, start = (kerb + HEIGHT_PX) // 2 + int(generator.integers(-8, 9)), int(generator.integers(-20, 0))
    for x in range(start, WIDTH_PX, 36):
        draw.polygon([(x, middle), (x + 20, middle), (x + 18, middle + 3), (x - 2, middle + 3)], (222, 220, 206))
    return Ground(picture, horizon, horizon)


def _water(generator: np.random.Generator) -> Ground:
    horizon, shore = int(generator.integers(50, 66)), int(generator.integers(120, 134))
    water, sand = pick(WATERS, generator), pick(SANDS, generator)
    picture, draw = _sky(horizon, generator)
    draw.rectangle((0, horizon, WIDTH_PX, HEIGHT_PX), water)
    for _ in range(int(generator.integers(14, 34))):
        x, y = generator.uniform(-8, WIDTH_PX), generator.uniform(horizon + 3, shore)
        length = 5 + 0.16 * (y - horizon)
        draw.arc((x, y, x + length, y + 4), 190, 350, shade(water, generator.choice([0.86, 1.3])))
    bend = generator.uniform(-5, 5)
    edge = [(x, shore + bend * np.sin(x / 40)) for x in range(0, WIDTH_PX + 12, 12)]
    draw.polygon([*edge, (WIDTH_PX, HEIGHT_PX), (0, HEIGHT_PX)], sand)
    draw.line(edge, (238, 244, 244), 2)
    return Ground(picture, horizon, shore)


def _field(generator: np.random.Generator) -> Ground:
    horizon, grass = int(generator.integers(52, 72)), pick(GRASSES, generator)
    picture, draw = _sky(horizon, generator)
    for _ in range(int(generator.integers(0, 4))):
        x, half, height = generator.uniform(0, WIDTH_PX), generator.uniform(40, 80), generator.uniform(8, 22)
        draw.ellipse(
            (x - half, horizon - height, x + half, horizon + height), shade(grass, generator.uniform(0.84, 0.95))
        )
    draw.rectangle((0, horizon, WIDTH_PX, HEIGHT_PX), grass)
    for x, y in generator.uniform((0, horizon + 4), (WIDTH_PX, HEIGHT_PX), (int(generator.integers(20, 60)), 2)):
        for lean in (-2, 2):
            draw.line((x, y, x + lean, y - 4), shade(grass, 0.82))
    if generator.random() < 0.3:
        x = generator.uniform(30, 160)
        draw.polygon([(x - 4, horizon), (x + 4, horizon), (x + 46, HEIGHT_PX), (x - 10, HEIGHT_PX)], (204, 184, 140))
    return Ground(picture, horizon, horizon)
