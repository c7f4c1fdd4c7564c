"""Vehicles from the side, driving to the right: car, bus, bicycle, boat, train."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import DARK, GLASS, METAL, PALE, WOODS, Paint, Pen, pick, shade

TYRE = (34, 34, 38)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.circle(x, y, radius, TYRE)
    pen.circle(x, y, 0.5 * radius, METAL)


def car(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    roof = generator.uniform(50, 62)
    pen.polygon([(38, 42), (60, 4), (60 + roof, 4), (158, 42)], paint.main)
    pen.polygon([(52, 40), (66, 12), (92, 12), (92, 40)], GLASS)
    pen.polygon([(100, 40), (100, 12), (58 + roof, 12), (140, 40)], GLASS)
    pen.box(6, 38, 194, 82, paint.main, 15)
    pen.line([(96, 42), (96, 80)], paint.dark, 2.5)
    pen.line([(12, 66), (188, 66)], paint.dark, 3)
    pen.box(102, 48, 116, 53, paint.dark)
    pen.ellipse(180, 46, 194, 60, (255, 244, 170))
    pen.box(6, 47, 14, 60, (214, 40, 40))
    for x in (48, 152):
        _wheel(pen, x, 78, 21)


def bus(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    windows = int(generator.integers(4, 6))
    pen.box(3, 2, 197, 86, paint.main, 10)
    pen.box(8, 58, 192, 66, paint.light, outline=False)
    step = 136 / windows
    for number in range(windows):
        pen.box(12 + number * step, 14, 7 + (number + 1) * step, 46, GLASS, 3)
    pen.box(152, 16, 174, 82, shade(GLASS, 0.85))
    pen.line([(163, 16), (163, 82)], DARK, 2)
    pen.box(179, 14, 196, 48, GLASS)
    pen.ellipse(186, 68, 196, 78, (255, 244, 170))
    for x in (42, 132):
        _wheel(pen, x, 82, 17)


def bicycle(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    for x in (34, 122):
        pen.arc(x - 33, 32, x + 33, 99, 0, 360, TYRE, 6)
        for angle in np.arange(0, np.pi, np.pi / 4):
            dx, dy = 29 * np.cos(angle), 29 * np.sin(angle)
            pen.line([(x - dx, 66 - dy), (x + dx, 66 + dy)], METAL, 1.2)
    hub, seat, head, crank = (34, 66), (58, 28), (108, 26), (74, 68)
    for start, end in ((hub, seat), (seat, head), (head, crank), (crank, seat), (hub, crank), ((104, 12), (122, 66))):
        pen.limb([start, end], paint.main, 8.5)
    pen.limb([(58, 28), (55, 17)], METAL, 3.5)
    pen.limb([(44, 15), (66, 14)], DARK, 7)
    pen.limb([(96, 8), (106, 11), (118, 6)], DARK, 5)
    pen.circle(*crank, 8, METAL)
    pen.limb([(74, 68), (82, 80)], DARK, 3)


def boat(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A sailing boat, or a motor boat with a cabin (pose "cabin-..."). The hull has its colour."""
    if pose.startswith("cabin"):
        pen.box(36, 36, 84, 70, PALE)
        pen.box(30, 28, 92, 38, paint.dark, 3)
        for x in (44, 64):
            pen.box(x, 44, x + 13, 58, GLASS)
        pen.box(50, 8, 64, 30, paint.main)
        pen.box(50, 8, 64, 15, DARK)
    else:
        lean = generator.uniform(-4, 4)
        pen.line([(58, 72), (58, 2)], pick(WOODS, generator), 4)
        pen.polygon([(62, 6), (62, 64), (108 + lean, 64)], paint.light)
        pen.polygon([(54, 14), (54, 64), (18 - lean, 64)], PALE)
    pen.polygon([(2, 66), (126, 66), (108, 98), (22, 98)], paint.main)
    pen.polygon([(2, 66), (126, 66), (122, 74), (7, 74)], paint.dark, outline=False)
    for x in (40, 62, 84):
        pen.circle(x, 84, 4.5, PALE)


def train(pen: Pen, paint: Paint, pose: str, generator: np.random.Generator) -> None:
    """A steam engine with one carriage."""
    pen.line([(0, 96), (220, 96)], (96, 84, 76), 4)
    pen.box(4, 24, 88, 80, paint.main, 4)
    pen.box(0, 18, 92, 28, paint.dark, 3)
    for x in (14, 38, 62):
        pen.box(x, 36, x + 16, 56, GLASS)
    pen.line([(86, 76), (104, 76)], DARK, 5)
    pen.box(100, 16, 142, 80, paint.main)
    pen.box(95, 8, 147, 19, paint.dark, 3)
    pen.box(109, 28, 132, 50, GLASS)
    pen.box(140, 40, 204, 78, paint.main, 8)
    pen.polygon([(180, 40), (174, 8), (200, 8), (194, 40)], DARK)
    pen.ellipse(150, 28, 166, 48, (230, 190, 70))
    pen.polygon([(200, 78), (219, 94), (192, 94)], DARK)
    pen.circle(203, 56, 6, (255, 240, 150))
    for x, radius in ((22, 12), (70, 12), (118, 14), (152, 11), (180, 11)):
        _wheel(pen, x, 95 - radius, radius)
