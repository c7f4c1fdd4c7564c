"""Man, woman and child. A person's colour is that of the clothes; skin and hair are random."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import DARK, HAIRS, SKINS, Colour, Paint, Pen, pick, shade


def _face(pen: Pen, x: float, y: float, radius: float, skin: Colour) -> None:
    pen.circle(x, y, radius, skin)
    for side in (-0.38, 0.38):
        pen.dot(x + side * radius, y - 0.05 * radius, 0.15 * radius)
    pen.arc(x - 0.45 * radius, y - 0.2 * radius, x + 0.45 * radius, y + 0.65 * radius, 20, 160, (150, 50, 50), 1.4)


def _arms(
    pen: Pen, pose: str, shoulder: tuple[float, float, float], reach: float, sleeve: Colour, skin: Colour
) -> None:
    """Two arms. `shoulder` is (left x, right x, y); for pose "wave" the right arm is raised."""
    left, right, y = shoulder
    left_hand = (left - 7, y + reach)
    right_hand = (right + 9, y - 0.75 * reach) if pose == "wave" else (right + 7, y + reach)
    for start, hand in (((left, y), left_hand), ((right, y), right_hand)):
        pen.limb([start, hand], sleeve, 6.5)
        pen.circle(*hand, 4, skin)


def man(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    skin, hair = pick(SKINS, generator), pick(HAIRS, generator)
    stride = 6 if pose == "walk" else 0
    for x, step in ((20, -stride), (30, stride)):
        pen.polygon([(x - 5, 56), (x + 5, 56), (x + 4 + step, 95), (x - 4 + step, 95)], paint.dark)
        pen.ellipse(x - 6 + step, 92, x + 6 + step, 99, DARK)
    _arms(pen, pose, (16, 34, 29), 24, paint.main, skin)
    pen.box(13, 23, 37, 60, paint.main, 6)
    pen.line([(14, 59), (36, 59)], DARK, 2.4)
    pen.polygon([(20, 23), (30, 23), (25, 29)], skin)
    pen.circle(25, 11, 10, hair)
    _face(pen, 25, 13.5, 8.6, skin)
    pen.pie(15.5, 1, 34.5, 21, 180, 360, hair)


def woman(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    skin, hair = pick(SKINS, generator), pick(HAIRS, generator)
    stride = 5 if pose == "walk" else 0
    for x, step in ((21, -stride), (29, stride)):
        pen.limb([(x, 74), (x + step, 95)], skin, 5)
        pen.ellipse(x - 5 + step, 94, x + 5 + step, 99.5, paint.dark)
    pen.ellipse(12, 1, 38, 26, hair)
    pen.box(12, 12, 38, 34, hair, 5)
    _arms(pen, pose, (18, 32, 30), 22, skin, skin)
    flare = generator.uniform(9, 13)
    pen.polygon([(17, 25), (33, 25), (31, 46), (25 + 1.6 * flare, 80), (25 - 1.6 * flare, 80), (19, 46)], paint.main)
    pen.line([(19, 46), (31, 46)], paint.dark, 3)
    _face(pen, 25, 14, 8.6, skin)
    pen.pie(15, 1.5, 35, 20, 180, 360, hair)


def child(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    skin, hair = pick(SKINS, generator), pick(HAIRS, generator)
    stride = 6 if pose == "walk" else 0
    for x, step in ((28, -stride), (42, stride)):
        pen.limb([(x, 76), (x + step, 92)], skin, 7)
        pen.ellipse(x - 8 + step, 91, x + 8 + step, 99.5, DARK)
    _arms(pen, pose, (24, 46, 49), 20, paint.main, skin)
    pen.box(20, 42, 50, 72, paint.main, 8)
    pen.box(21, 68, 34, 82, shade(paint.dark, 0.85), 3)
    pen.box(36, 68, 49, 82, shade(paint.dark, 0.85), 3)
    pen.circle(35, 22, 21, hair)
    _face(pen, 35, 25, 18, skin)
    pen.pie(15, 1, 55, 34, 190, 350, hair)
