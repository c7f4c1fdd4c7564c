"""`Pen` draws one thing on a transparent tile; `Paint` holds the thing's colour in three tones.

A tile is 100 units high; its width in units depends on the kind; y points down. Shapes have a thin outline, darker than
a light fill and lighter than a dark fill. This keeps white, grey and black things visible on every ground.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cmal.scenes.world import COLOUR_RGB

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 3
OUTLINE_PX = 2  # on the supersampled tile

SKINS: tuple[Colour, ...] = ((255, 219, 184), (238, 188, 146), (198, 140, 96), (142, 92, 60))
HAIRS: tuple[Colour, ...] = ((52, 36, 26), (30, 26, 26), (120, 74, 34), (206, 164, 84), (150, 66, 30))
WOODS: tuple[Colour, ...] = ((134, 92, 54), (112, 74, 42), (156, 112, 70))
ROOFS: tuple[Colour, ...] = ((150, 66, 48), (92, 84, 84), (112, 76, 56))
DARK: Colour = (46, 46, 52)
METAL: Colour = (176, 180, 186)
GLASS: Colour = (186, 220, 238)
PALE: Colour = (246, 240, 224)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour scaled towards black for a factor below 1 (0 is black), towards white above 1 (2 is white)."""
    red, green, blue = (int(c * factor if factor <= 1 else c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Perceived lightness, 0-255 (Rec. 601 weights)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def outline_of(fill: Colour) -> Colour:
    """Outline colour for a fill: lighter than a dark fill, darker than any other."""
    return shade(fill, 1.45) if luminance(fill) < 62 else shade(fill, 0.5)


@dataclass(frozen=True)
class Paint:
    """The colour of one thing: main tone, and a darker and a lighter tone that have the same colour name."""

    main: Colour
    dark: Colour
    light: Colour


def mix_paint(colour: str, generator: np.random.Generator) -> Paint:
    """Paint of a named colour, with random small changes of hue and lightness."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in COLOUR_RGB[colour]))
    hue_off, light_off = generator.uniform(-1, 1, 2)
    lightness = min(0.97, max(0.1, lightness + 0.025 * light_off))
    red, green, blue = colorsys.hls_to_rgb((hue + 0.012 * hue_off) % 1, lightness, saturation)
    main = round(255 * red), round(255 * green), round(255 * blue)
    if colour == "black":
        return Paint(main, shade(main, 1.1), shade(main, 1.16))
    return Paint(main, shade(main, 0.88 if colour == "white" else 0.76), shade(main, 1.22))


class Pen:
    """A pen on a supersampled transparent tile, with coordinates and widths in units.

    Args:
        width_units: tile width; the height is always 100 units.
        size_px: (width, height) of the finished tile in pixels.
    """

    def __init__(self, width_units: float, size_px: tuple[int, int]):
        self.tile = Image.new("RGBA", (size_px[0] * SUPERSAMPLING, size_px[1] * SUPERSAMPLING), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.tile)
        self._kx = (self.tile.width - 1) / width_units
        self._ky = (self.tile.height - 1) / 100

    def _at(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._kx, y * self._ky) for x, y in points]

    def _corners(self, x0: float, y0: float, x1: float, y1: float) -> list[Point]:
        return self._at([(x0, y0), (max(x1, x0 + 0.1), max(y1, y0 + 0.1))])

    def _thickness(self, width: float) -> int:
        """A line's width in pixels of the supersampled tile."""
        return max(2, round(width * self._ky))

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, outline: bool = True) -> None:
        edge = outline_of(fill) if outline else None
        self._draw.ellipse(self._corners(x0, y0, x1, y1), fill, edge, OUTLINE_PX)

    def circle(self, x: float, y: float, radius: float, fill: Colour, outline: bool = True) -> None:
        self.ellipse(x - radius, y - radius, x + radius, y + radius, fill, outline)

    def dot(self, x: float, y: float, radius: float, fill: Colour = DARK) -> None:
        self.circle(x, y, radius, fill, outline=False)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0, outline: bool = True
    ) -> None:
        edge, corners = outline_of(fill) if outline else None, self._corners(x0, y0, x1, y1)
        if radius:
            self._draw.rounded_rectangle(corners, radius * self._ky, fill, edge, OUTLINE_PX)
        else:
            self._draw.rectangle(corners, fill, edge, OUTLINE_PX)

    def polygon(self, points: Sequence[Point], fill: Colour, outline: bool = True) -> None:
        corners = self._at(points)
        self._draw.polygon(corners, fill)
        if outline:
            self._draw.line([*corners, corners[0]], outline_of(fill), OUTLINE_PX)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        self._draw.line(self._at(points), fill, self._thickness(width), joint="curve")

    def limb(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A thick line with round ends and an outline: arms, legs, tails."""
        corners = self._at(points)
        for colour, extra in ((outline_of(fill), 2 * OUTLINE_PX), (fill, 0)):
            thick = self._thickness(width) + extra
            self._draw.line(corners, colour, thick, joint="curve")
            for x, y in (corners[0], corners[-1]):
                self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)

    def arc(
        self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, fill: Colour, width: float
    ) -> None:
        """Part of an ellipse's edge. Angles are degrees, clockwise from three o'clock."""
        self._draw.arc(self._corners(x0, y0, x1, y1), start, end, fill, self._thickness(width))

    def pie(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, fill: Colour) -> None:
        """A slice of an ellipse. Angles as in `arc`."""
        self._draw.pieslice(self._corners(x0, y0, x1, y1), start, end, fill, outline_of(fill), OUTLINE_PX)


def pick(choices: Sequence[Colour], generator: np.random.Generator) -> Colour:
    """One of the colours, uniformly at random."""
    return choices[int(generator.integers(len(choices)))]
