"""Things found outdoors: house, plants, street furniture, toys."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import DARK, GLASS, METAL, PALE, WOODS, Paint, Pen, pick, shade


def house(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """The walls have its colour; the roof's is random."""
    roof = pick(((150, 66, 48), (92, 84, 84), (112, 76, 56)), generator)
    chimney = 74 if pose == "right" else 24
    pen.box(chimney, 6, chimney + 11, 34, shade(roof, 0.8))
    pen.box(12, 42, 98, 99, paint.main)
    pen.polygon([(1, 46), (55, 3), (109, 46)], roof)
    pen.circle(55, 29, 7, GLASS)
    door = 62 if pose == "right" else 24
    pen.box(door, 64, door + 20, 99, pick(WOODS, generator))
    pen.dot(door + 16, 82, 2, (240, 210, 90))
    window = 22 if pose == "right" else 58
    pen.box(window, 58, window + 28, 82, GLASS)
    pen.line([(window + 14, 58), (window + 14, 82)], PALE, 3)
    pen.line([(window, 70), (window + 28, 70)], PALE, 3)


def tree(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """The leaves have its colour: a round crown, or three tiers (pose "fir")."""
    pen.polygon([(33, 56), (43, 56), (46, 99), (30, 99)], pick(WOODS, generator))
    if pose == "fir":
        for top, bottom, half in ((44, 82, 36), (22, 60, 29), (1, 37, 21)):
            pen.polygon([(38, top), (38 + half, bottom), (38 - half, bottom)], paint.main)
        return
    centres = [(21, 44), (55, 44), (24, 24), (52, 24), (38, 16), (38, 40)]
    for x, y in centres:
        pen.circle(x, y, generator.uniform(14, 16.5), paint.main)
    pen.ellipse(14, 14, 62, 52, paint.main, outline=False)
    for x, y in generator.uniform((16, 10), (58, 50), (7, 2)):
        pen.arc(x - 6, y - 4, x + 6, y + 6, 200, 340, paint.dark, 2.5)


def flower(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """The petals have its colour; stem and leaves are green."""
    green = (60, 140, 52)
    pen.limb([(32, 40), (32, 97)], green, 4.5)
    pen.polygon([(32, 86), (8, 64), (14, 84)], green)
    pen.polygon([(32, 80), (56, 58), (50, 78)], green)
    if pose == "tulip":
        pen.polygon([(10, 8), (22, 22), (32, 3), (42, 22), (54, 8), (54, 40), (43, 54), (21, 54), (10, 40)], paint.main)
        pen.arc(20, 6, 44, 66, 150, 210, paint.dark, 3)
        pen.arc(20, 6, 44, 66, -30, 30, paint.dark, 3)
        return
    petals = int(generator.integers(6, 9))
    for angle in 2 * np.pi * np.arange(petals) / petals:
        pen.circle(32 + 20 * np.cos(angle), 31 + 20 * np.sin(angle), 10.5, paint.main)
    pen.circle(32, 31, 11, (120, 76, 30) if sum(paint.main) > 480 else (250, 206, 60))


def kite(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.line([(40, 62), (34, 74), (44, 84), (36, 98)], DARK, 1.8)
    for x, y in ((37, 74), (41, 84), (38, 94)):
        pen.polygon([(x - 9, y - 4), (x - 9, y + 4), (x + 9, y - 4), (x + 9, y + 4)], paint.dark)
    corners = [(40, 1), (77, 28), (40, 66), (3, 28)]
    pen.polygon(corners, paint.main)
    pen.polygon([(40, 1), (77, 28), (40, 28)], paint.light)
    pen.polygon([(40, 66), (3, 28), (40, 28)], paint.light)
    pen.line([(40, 1), (40, 66)], shade(paint.dark, 0.5), 2)
    pen.line([(3, 28), (77, 28)], shade(paint.dark, 0.5), 2)


def umbrella(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.limb([(50, 6), (50, 92)], (120, 84, 56), 3)
    pen.arc(49, 84, 65, 99, 0, 180, (120, 84, 56), 4)
    pen.limb([(50, 2), (50, 8)], DARK, 2)
    pen.pie(2, 6, 98, 102, 180, 360, paint.main)
    pen.pie(34, 6, 66, 102, 180, 360, paint.light)
    for x in (2, 26, 50, 74):
        pen.pie(x, 47, x + 24, 62, 180, 360, shade(paint.dark, 0.8))


def bench(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    for x in (20, 160):
        pen.limb([(x, 8), (x, 96)], DARK, 6)
        pen.limb([(x - 8, 97), (x + 10, 97)], DARK, 4)
        pen.limb([(x - 10, 44), (x + 8, 44)], DARK, 5)
    for y in (6, 22, 38):
        pen.box(4, y, 176, y + 12, paint.main, 3)
    pen.box(1, 58, 179, 69, paint.light, 3)
    pen.box(1, 67, 179, 76, paint.main, 3)


def traffic_light(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """Housing and pole have its colour. The lamps are red, amber and green; one is lit."""
    pen.box(17, 58, 23, 96, paint.dark)
    pen.box(8, 93, 32, 99.5, paint.dark, 2)
    pen.box(4, 1, 36, 64, paint.main, 7)
    lit = int(generator.integers(3))
    for number, lamp in enumerate(((250, 50, 46), (255, 206, 40), (60, 220, 90))):
        y = 13 + 19.5 * number
        pen.circle(20, y, 9.6, (24, 24, 28))
        pen.circle(20, y, 8, lamp if number == lit else shade(lamp, 0.55), outline=False)


def fire_hydrant(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.box(13, 86, 57, 99, paint.dark, 3)
    pen.box(2, 44, 68, 62, paint.dark, 5)
    pen.box(19, 30, 51, 90, paint.main)
    pen.pie(17, 6, 53, 58, 180, 360, paint.main)
    pen.box(13, 28, 57, 36, paint.dark, 2)
    pen.box(29, 1, 41, 10, paint.dark, 2)
    pen.circle(35, 54, 13, METAL)
    pen.circle(35, 54, 6, paint.main)


def balloon(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    bend = 7 if pose == "right" else -7
    pen.line([(29, 64), (29 + bend, 76), (29 - bend, 88), (29, 99)], (110, 110, 116), 2)
    pen.polygon([(29, 56), (36, 67), (22, 67)], paint.dark)
    pen.ellipse(2, 1, 56, 62, paint.main)
    pen.ellipse(13, 10, 25, 26, shade(paint.main, 1.6), outline=False)


def ball(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A beach ball (pose "striped"), or a plain ball with two seams."""
    pen.circle(50, 50, 49, paint.main)
    if pose == "striped":
        pale = PALE if sum(paint.main) < 620 else (120, 160, 210)
        pen.pie(1, 1, 99, 99, 250, 290, pale)
        pen.pie(1, 1, 99, 99, 10, 50, pale)
        pen.pie(1, 1, 99, 99, 130, 170, pale)
        pen.circle(50, 50, 9, PALE)
    else:
        pen.arc(-30, 4, 50, 96, -62, 62, shade(paint.dark, 0.6), 4)
        pen.arc(50, 4, 130, 96, 118, 242, shade(paint.dark, 0.6), 4)
        pen.ellipse(54, 12, 74, 28, shade(paint.main, 1.6), outline=False)
