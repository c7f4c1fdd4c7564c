"""Parts whose number or angle is random: `drawings` calls these functions by their names in the text files."""

from __future__ import annotations

import numpy as np

from cmal.scenes.things.pen import GLASS, Paint, Pen, shade


def stripes(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """Three or four stripes of a fish."""
    for x in np.arange(62, 104, generator.uniform(12, 17)):
        pen.arc(x - 16, 28, x + 8, 76, -70, 70, paint.dark, 4)


def windows(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """Four or five windows of a bus."""
    count = int(generator.integers(4, 6))
    step = 136 / count
    for number in range(count):
        pen.box(12 + number * step, 14, 7 + (number + 1) * step, 46, GLASS, 3)


def crown(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """The round crown of a tree, with seven leaves."""
    for x, y in ((21, 44), (55, 44), (24, 24), (52, 24), (38, 16), (38, 40)):
        pen.circle(x, y, generator.uniform(14, 16.5), paint.main)
    pen.ellipse(14, 14, 62, 52, paint.main, outline=False)
    for x, y in generator.uniform((16, 10), (58, 50), (7, 2)):
        pen.arc(x - 6, y - 4, x + 6, y + 6, 200, 340, paint.dark, 2.5)


def petals(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """Six to eight petals of a daisy and its centre."""
    count = int(generator.integers(6, 9))
    for angle in 2 * np.pi * np.arange(count) / count:
        pen.circle(32 + 20 * np.cos(angle), 31 + 20 * np.sin(angle), 10.5, paint.main)
    pen.circle(32, 31, 11, (120, 76, 30) if sum(paint.main) > 480 else (250, 206, 60))


def lamps(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """The red, amber and green lamp of a traffic light; one is lit."""
    lit = int(generator.integers(3))
    for number, lamp in enumerate(((250, 50, 46), (255, 206, 40), (60, 220, 90))):
        y = 13 + 19.5 * number
        pen.circle(20, y, 9.6, (24, 24, 28))
        pen.circle(20, y, 8, lamp if number == lit else shade(lamp, 0.55), outline=False)


def hands(pen: Pen, paint: Paint, generator: np.random.Generator) -> None:
    """Hour and minute hand of a clock."""
    for angle, length, width in zip(generator.uniform(0, 2 * np.pi, 2), (17, 26), (6, 4)):
        pen.line([(50, 50), (50 + length * np.cos(angle), 50 + length * np.sin(angle))], (20, 20, 24), width)


VARIATIONS = {function.__name__: function for function in (stripes, windows, crown, petals, lamps, hands)}
