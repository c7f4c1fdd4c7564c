"""Things found in rooms: furniture, household objects, a hat and a guitar."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import DARK, METAL, PALE, WOODS, Paint, Pen, pick, shade


def chair(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """Seen from the side: a tall back on the left, a seat, four legs."""
    for x, tone in ((24, paint.dark), (62, paint.dark), (9, paint.main), (52, paint.main)):
        pen.box(x - 3, 56, x + 4, 98, tone)
    pen.polygon([(3, 2), (12, 2), (14, 60), (5, 60)], paint.main)
    pen.polygon([(12, 6), (26, 2), (28, 48), (14, 56)], paint.light)
    for y in (16, 30):
        pen.line([(13, y + 3), (26, y)], paint.dark, 3)
    pen.polygon([(5, 54), (22, 46), (68, 46), (56, 54)], paint.light)
    pen.box(5, 54, 57, 62, paint.main)
    pen.polygon([(57, 54), (68, 46), (68, 54), (57, 62)], paint.dark)


def table(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    if pose == "round":
        pen.box(70, 22, 82, 84, paint.dark)
        pen.polygon([(76, 74), (112, 97), (40, 97)], paint.dark)
        pen.ellipse(2, 14, 150, 44, paint.dark)
        pen.ellipse(2, 4, 150, 36, paint.main)
        return
    for x in (34, 116):
        pen.box(x - 4, 30, x + 4, 84, paint.dark)
    for x in (12, 140):
        pen.box(x - 5, 38, x + 5, 98, paint.main)
    pen.polygon([(24, 6), (128, 6), (150, 32), (2, 32)], paint.main)
    pen.box(2, 32, 150, 44, paint.dark)


def cup(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.arc(70, 24, 109, 76, -100, 100, paint.dark, 10)
    pen.polygon([(6, 14), (86, 14), (76, 92), (16, 92)], paint.main)
    pen.ellipse(16, 84, 76, 99, paint.main)
    pen.box(18, 78, 74, 91, paint.main, outline=False)
    pen.ellipse(4, 2, 88, 26, paint.light)
    pen.ellipse(14, 7, 78, 23, (92, 58, 36))
    pen.line([(20, 36), (25, 78)], shade(paint.main, 1.5), 5)


def lamp(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A standing lamp; the shade has its colour."""
    pen.limb([(34, 40), (34, 92)], METAL, 4)
    pen.ellipse(12, 88, 56, 99.5, DARK)
    top = generator.uniform(11, 18)
    pen.ellipse(27, 36, 41, 54, (255, 240, 160))
    pen.polygon([(34 - top, 2), (34 + top, 2), (66, 44), (2, 44)], paint.main)
    pen.line([(3, 42), (65, 42)], paint.dark, 3.5)
    pen.line([(34 - top, 4), (34 + top, 4)], paint.dark, 3.5)


def clock(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A wall clock; the rim has its colour."""
    if pose == "square":
        pen.box(1, 1, 99, 99, paint.main, 10)
    else:
        pen.circle(50, 50, 49, paint.main)
    pen.circle(50, 50, 34, PALE if pose == "round" else (252, 252, 252))
    for angle in np.arange(12) * np.pi / 6:
        pen.dot(50 + 28 * np.cos(angle), 50 + 28 * np.sin(angle), 2.6)
    hour, minute = generator.uniform(0, 2 * np.pi, 2)
    pen.line([(50, 50), (50 + 17 * np.cos(hour), 50 + 17 * np.sin(hour))], (20, 20, 24), 6)
    pen.line([(50, 50), (50 + 26 * np.cos(minute), 50 + 26 * np.sin(minute))], (20, 20, 24), 4)
    pen.dot(50, 50, 4, (200, 40, 40))


def book(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """Closed and upright, or open with the cover visible around the pages (pose "open")."""
    if pose == "open":
        pen.polygon([(1, 14), (70, 28), (139, 14), (139, 88), (70, 99), (1, 88)], paint.main)
        for side in (-1, 1):
            pen.polygon([(70, 24), (70 + 60 * side, 6), (70 + 60 * side, 76), (70, 90)], (250, 246, 232))
            for y in (24, 38, 52):
                pen.line([(70 + 10 * side, y + 10), (70 + 50 * side, y)], (120, 120, 124), 2.4)
        return
    pen.polygon([(16, 10), (100, 10), (112, 2), (30, 2)], (250, 246, 232))
    pen.polygon([(100, 10), (112, 2), (112, 88), (100, 98)], (236, 230, 212))
    pen.box(16, 10, 100, 98, paint.main)
    pen.box(16, 10, 30, 98, paint.dark)
    pen.box(42, 26, 88, 48, PALE)
    for y in (33, 41):
        pen.line([(48, y), (82, y)], (110, 100, 90), 3)


def bottle(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    neck = generator.uniform(25, 31)
    pen.box(13, 2, 25, 14, DARK, 2)
    pen.polygon(
        [(14, 12), (24, 12), (25, neck), (36, neck + 16), (36, 97), (2, 97), (2, neck + 16), (13, neck)], paint.main
    )
    pen.box(2, 90, 36, 99, paint.main, 4)
    pen.box(2, 56, 36, 80, PALE)
    pen.line([(8, 66), (30, 66)], (150, 60, 50), 3)
    pen.line([(9, neck + 18), (9, 52)], shade(paint.main, 1.5), 3)


def vase(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A wide vase with a few twigs."""
    green = (70, 136, 60)
    for x, y in ((18, 10), (30, 3), (42, 9)):
        pen.line([(30, 44), (x, y)], green, 2.5)
        pen.ellipse(x - 8, y - 3, x + 8, y + 9, green)
    pen.polygon([(20, 38), (40, 38), (38, 52), (22, 52)], paint.main)
    pen.ellipse(4, 46, 56, 94, paint.main)
    pen.box(18, 88, 42, 99, paint.dark, 2)
    pen.ellipse(16, 34, 44, 43, paint.dark)
    for y in (64, 74):
        pen.line([(7, y), (18, y - 5), (30, y), (42, y - 5), (53, y)], paint.dark, 3)


def hat(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A brimmed hat; for pose "tall" a top hat."""
    band = PALE if sum(paint.main) < 200 else (60, 46, 44)
    if pose == "tall":
        pen.ellipse(2, 74, 128, 99, paint.main)
        pen.polygon([(30, 8), (100, 8), (94, 88), (36, 88)], paint.main)
        pen.ellipse(30, 2, 100, 18, paint.light)
        pen.polygon([(35, 66), (95, 66), (94, 82), (36, 82)], band)
        return
    pen.ellipse(1, 58, 129, 98, paint.main)
    pen.pie(28, 4, 102, 152, 180, 360, paint.main)
    pen.polygon([(29, 64), (101, 64), (102, 80), (28, 80)], band)
    pen.arc(48, 4, 82, 26, 20, 160, paint.dark, 4)


def television(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """An old set with an antenna; the case has its colour."""
    pen.line([(64, 24), (40, 1)], DARK, 3)
    pen.line([(64, 24), (92, 1)], DARK, 3)
    for x in (26, 104):
        pen.box(x - 5, 88, x + 5, 99, DARK)
    pen.box(3, 20, 127, 92, paint.main, 8)
    pen.box(12, 30, 94, 82, (62, 86, 104), 8)
    pen.polygon([(22, 40), (44, 36), (28, 70), (20, 72)], (150, 180, 196), outline=False)
    for y in (42, 60):
        pen.circle(110, y, 7, METAL)
    pen.line([(102, 76), (118, 76)], DARK, 2.5)


def bed(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """From the side, head board on the left; the blanket has its colour."""
    wood = pick(WOODS, generator)
    pen.box(178, 36, 188, 98, wood, 2)
    pen.box(2, 4, 14, 98, wood, 3)
    pen.box(8, 70, 184, 86, wood)
    pen.box(12, 48, 180, 74, (250, 248, 244), 5)
    pen.ellipse(15, 28, 60, 56, (252, 252, 252))
    pen.box(56, 36, 180, 78, paint.main, 9)
    pen.box(56, 36, 76, 78, paint.light, 5)
    pen.line([(100, 76), (108, 42)], paint.dark, 3)
    pen.line([(140, 76), (146, 42)], paint.dark, 3)


def guitar(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.box(16, 1, 30, 13, (70, 46, 30), 2)
    for y in (4, 9):
        pen.dot(15, y, 2, METAL)
        pen.dot(31, y, 2, METAL)
    pen.box(19.5, 10, 26.5, 56, (96, 62, 38))
    pen.ellipse(7, 44, 39, 72, paint.main)
    pen.ellipse(1, 60, 45, 99, paint.main)
    pen.ellipse(9, 48, 37, 80, paint.main, outline=False)
    pen.box(19.5, 40, 26.5, 58, (96, 62, 38))
    pen.circle(23, 66, 7, (36, 26, 22))
    pen.box(14, 82, 32, 87, (60, 40, 28))
    for x in (21, 25):
        pen.line([(x, 12), (x, 84)], (236, 226, 200), 0.8)
