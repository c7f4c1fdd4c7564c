"""Animals, seen from the side and looking right: dog, cat, bird, duck, cow, fish."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import DARK, PALE, Paint, Pen, shade


def _eye(pen: Pen, x: float, y: float, radius: float = 3.4) -> None:
    pen.circle(x, y, radius, (255, 255, 255))
    pen.dot(x + 0.3 * radius, y, 0.55 * radius, (20, 20, 20))


def dog(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    tail = generator.uniform(12, 26)
    pen.limb([(18, 48), (8, tail + 10), (6, tail)], paint.main, 6)
    for x, tone in ((30, paint.dark), (82, paint.dark), (20, paint.main), (72, paint.main)):
        pen.limb([(x, 62), (x, 95)], tone, 9)
    pen.box(12, 38, 88, 72, paint.main, 16)
    pen.polygon([(68, 44), (82, 18), (98, 34), (88, 62)], paint.main, outline=False)
    pen.ellipse(74, 8, 108, 42, paint.main)
    pen.box(94, 22, 124, 41, paint.light, 8)
    pen.circle(121, 26, 5, (30, 26, 28))
    pen.line([(106, 38), (120, 37)], DARK, 1.8)
    _eye(pen, 98, 20, 4)
    pen.ellipse(73, 10, 87, 46, paint.dark)
    pen.line([(76, 47), (91, 54)], (196, 40, 40), 5)


def cat(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """Sits and faces the viewer."""
    curl = generator.uniform(30, 44)
    pen.limb([(56, 90), (76, 84), (80, 62), (72, curl)], paint.main, 7.5)
    pen.ellipse(14, 44, 66, 99, paint.main)
    pen.ellipse(27, 56, 53, 96, paint.light)
    for x in (29, 51):
        pen.ellipse(x - 8, 88, x + 8, 99.5, paint.main)
    for x, lean in ((21, -5), (59, 5)):
        pen.polygon([(x - 11, 22), (x + lean, 0), (x + 11, 18)], paint.main)
        pen.polygon([(x - 5, 18), (x + 0.6 * lean, 7), (x + 5, 17)], (240, 160, 170), outline=False)
    pen.ellipse(10, 10, 70, 56, paint.main)
    for x in (28, 52):
        pen.ellipse(x - 6, 25, x + 6, 37, (214, 226, 92))
        pen.ellipse(x - 2, 25.5, x + 2, 36.5, (20, 20, 20), outline=False)
    pen.polygon([(36, 39), (44, 39), (40, 44)], (232, 110, 130))
    for side in (-1, 1):
        for drop in (-3, 4):
            pen.line([(40 + 10 * side, 44), (40 + 38 * side, 44 + drop)], shade(paint.main, 0.4), 1.4)


def bird(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """Flies; the pose says whether the wings are up or down."""
    pen.polygon([(30, 52), (2, 40), (6, 56), (0, 68)], paint.dark)
    up = pose in ("up-left", "up-right")
    tip = (34, 2) if up else (38, 98)
    pen.polygon([(66, 50), (82, 8 if up else 92), (90, 50)], paint.dark)
    pen.ellipse(22, 36, 108, 72, paint.main)
    pen.circle(106, 44, 17, paint.main)
    pen.ellipse(38, 52, 98, 71, paint.light, outline=False)
    pen.polygon([(120, 39), (139, 46), (120, 52)], (250, 170, 30))
    pen.polygon([(48, 48), tip, (tip[0] + 16, tip[1]), (84, 50)], paint.main)
    pen.line([(62, 46), (tip[0] + 12, tip[1] + (8 if up else -8))], paint.dark, 3)
    _eye(pen, 111, 40, 5)


def duck(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.polygon([(24, 56), (0, 38), (10, 68)], paint.main)
    pen.ellipse(6, 42, 96, 99, paint.main)
    pen.polygon([(66, 70), (70, 28), (94, 28), (94, 72)], paint.main, outline=False)
    pen.circle(82, 24, 22, paint.main)
    pen.polygon([(100, 18), (126, 26), (124, 34), (100, 34)], (250, 154, 20))
    pen.line([(102, 28), (124, 30)], (190, 100, 10), 2)
    _eye(pen, 88, 18, 5.5)
    pen.pie(22, 38, 76, 86, 0, 180, paint.dark)
    pen.line([(34, 70), (62, 70)], paint.main, 3)


def cow(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    spot = PALE if sum(paint.main) < 620 else (70, 60, 56)
    pen.line([(10, 36), (4, 50), (5, 70)], paint.dark, 3)
    pen.polygon([(1, 68), (9, 68), (5, 80)], DARK)
    for x, tone in ((32, paint.dark), (94, paint.dark), (20, paint.main), (82, paint.main)):
        pen.box(x - 5, 62, x + 6, 98, tone)
        pen.box(x - 5, 91, x + 6, 99, DARK)
    pen.box(8, 28, 104, 72, paint.main, 12)
    pen.ellipse(44, 66, 62, 78, (246, 172, 176))
    shift = generator.uniform(-6, 6)
    pen.ellipse(24 + shift, 34, 48 + shift, 54, spot, outline=False)
    pen.ellipse(60 + shift, 44, 78 + shift, 64, spot, outline=False)
    for x in (104, 124):
        pen.polygon([(x - 3, 14), (x + 3, 14), (x + (5 if x > 110 else -5), 0)], PALE)
    pen.ellipse(88, 14, 104, 25, paint.dark)
    pen.ellipse(125, 14, 139, 25, paint.dark)
    pen.box(98, 10, 130, 52, paint.main, 10)
    pen.ellipse(95, 36, 133, 57, (246, 184, 180))
    for x in (106, 122):
        pen.dot(x, 46, 2.8)
        _eye(pen, x, 25, 4)


def fish(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    pen.polygon([(44, 50), (2, 10), (14, 50), (2, 92)], paint.dark)
    pen.polygon([(62, 20), (84, 0), (112, 20)], paint.dark)
    pen.polygon([(76, 82), (86, 99), (102, 82)], paint.dark)
    pen.ellipse(34, 14, 148, 88, paint.main)
    for x in np.arange(62, 104, generator.uniform(12, 17)):
        pen.arc(x - 16, 28, x + 8, 76, -70, 70, paint.dark, 4)
    pen.polygon([(88, 56), (66, 72), (90, 70)], paint.light)
    pen.arc(96, 20, 122, 82, -75, 75, paint.dark, 4)
    pen.arc(126, 48, 156, 74, 110, 200, DARK, 3)
    _eye(pen, 128, 42, 8)
