"""The pen that draws one thing on its own transparent tile, and the paint it uses.

A tile is 100 units high and as many wide as its kind asks; y grows downwards. Every shape gets a thin outline, darker
than a light fill and lighter than a dark one, so white, grey and black things stay visible on any ground.
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
DARK: Colour = (46, 46, 52)
METAL: Colour = (176, 180, 186)
GLASS: Colour = (186, 220, 238)
PALE: Colour = (246, 240, 224)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker for a factor below 1, nearer to white above it (2 is white)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)


def luminance(colour: Colour) -> float:
    """How light a colour looks, 0-255 (Rec. 601 weights)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def outline_of(fill: Colour) -> Colour:
    """A line that stands out from its fill: lighter on a dark fill, darker on any other."""
    return shade(fill, 1.45) if luminance(fill) < 62 else shade(fill, 0.5)


@dataclass(frozen=True)
class Paint:
    """The named colour of one thing: its main tone and two relatives that still bear the same name."""

    main: Colour
    dark: Colour
    light: Colour


def mix_paint(colour: str, generator: np.random.Generator) -> Paint:
    """Paint of a named colour, hue and light a little off its middle."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in COLOUR_RGB[colour]))
    hue_off, light_off = generator.uniform(-1, 1, 2)
    lightness = min(0.97, max(0.1, lightness + 0.025 * light_off))
    rgb = colorsys.hls_to_rgb((hue + 0.012 * hue_off) % 1, lightness, saturation)
    main = tuple(round(255 * c) for c in rgb)
    if colour == "black":
        return Paint(main, shade(main, 1.1), shade(main, 1.16))
    return Paint(main, shade(main, 0.88 if colour == "white" else 0.76), shade(main, 1.22))


class Pen:
    """Draws in units on a supersampled transparent tile.

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
        edge = outline_of(fill) if outline else None
        if radius:
            corners = self._corners(x0, y0, x1, y1)
            self._draw.rounded_rectangle(corners, radius * self._ky, fill, edge, OUTLINE_PX)
        else:
            self._draw.rectangle(self._corners(x0, y0, x1, y1), fill, edge, OUTLINE_PX)

    def polygon(self, points: Sequence[Point], fill: Colour, outline: bool = True) -> None:
        corners = self._at(points)
        self._draw.polygon(corners, fill)
        if outline:
            self._draw.line([*corners, corners[0]], outline_of(fill), OUTLINE_PX)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        self._draw.line(self._at(points), fill, max(2, round(width * self._ky)), joint="curve")

    def limb(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A thick line with round ends and an outline: arms, legs, tails."""
        corners = self._at(points)
        for colour, extra in ((outline_of(fill), 2 * OUTLINE_PX), (fill, 0)):
            thick = max(2, round(width * self._ky)) + extra
            self._draw.line(corners, colour, thick, joint="curve")
            for x, y in (corners[0], corners[-1]):
                self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)

    def arc(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        start_degrees: float,
        end_degrees: float,
        fill: Colour,
        width: float,
    ) -> None:
        thick = max(2, round(width * self._ky))
        self._draw.arc(self._corners(x0, y0, x1, y1), start_degrees, end_degrees, fill, thick)

    def pie(
        self, x0: float, y0: float, x1: float, y1: float, start_degrees: float, end_degrees: float, fill: Colour
    ) -> None:
        """A slice of an ellipse; angles run clockwise from three o'clock."""
        self._draw.pieslice(
            self._corners(x0, y0, x1, y1), start_degrees, end_degrees, fill, outline_of(fill), OUTLINE_PX
        )


def pick(choices: Sequence[Colour], generator: np.random.Generator) -> Colour:
    """One of several fixed colours."""
    return choices[int(generator.integers(len(choices)))]
