"""The vocabulary of generated scenes (kinds, colours, sizes, grounds, lights) and the classes `Thing` and `Scene`.

`drawing` turns them into pictures and `language` into sentences. These two do not import each other.
"""

from __future__ import annotations

from dataclasses import dataclass

PEOPLE = ("man", "woman", "child")
ANIMALS = ("dog", "cat", "bird", "duck", "cow", "fish")
VEHICLES = ("car", "bus", "bicycle", "boat", "train")
OUTDOOR = ("house", "tree", "flower", "kite", "umbrella", "bench", "traffic light", "fire hydrant", "balloon", "ball")
INDOOR = ("chair", "table", "cup", "lamp", "clock", "book", "bottle", "vase", "hat", "television", "bed", "guitar")
KINDS = PEOPLE + ANIMALS + VEHICLES + OUTDOOR + INDOOR

COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey")
SIZES = ("small", "medium", "large")
GROUNDS = ("room", "street", "water", "field")
LIGHTS = ("day", "evening", "night")

COLOUR_RGB = {
    "red": (208, 34, 36),
    "blue": (38, 84, 204),
    "green": (42, 148, 58),
    "yellow": (244, 212, 40),
    "orange": (242, 132, 24),
    "purple": (126, 52, 168),
    "pink": (244, 134, 184),
    "brown": (124, 76, 40),
    "black": (34, 34, 38),
    "white": (244, 244, 240),
    "grey": (140, 142, 146),
}
"""Central 8-bit RGB value of each named colour, before jitter and light."""


def is_held_out(kind: str, colour: str) -> bool:
    """Is this (kind, colour) pair reserved for the split "test"? True for 33 of 396 pairs, at most one per kind.

    Kind i and colour j are held out when 7i + 5j is a multiple of 12. Neither 7 nor 5 shares a factor with 12, so the
    held-out pairs are spread evenly, and every kind and every colour occurs in training.
    """
    return (7 * KINDS.index(kind) + 5 * COLOURS.index(colour)) % 12 == 0


@dataclass(frozen=True)
class Thing:
    """One drawn object of a scene.

    Attributes:
        kind: one of KINDS.
        colour: one of COLOURS, the colour of its main part. For a person: of the clothes.
        size: one of SIZES, relative to the usual size of its kind.
        pose: one of the poses of its kind ("left", "right", "front", ...). No text depends on it.
        box_xyxy_px: tight box of its *visible* pixels; x2 and y2 are exclusive.
        visible_share: visible pixels divided by drawn pixels, in (0, 1].
    """

    kind: str
    colour: str
    size: str
    pose: str
    box_xyxy_px: tuple[int, int, int, int]
    visible_share: float


@dataclass(frozen=True)
class Scene:
    """The content of one generated image. `things` are ordered back to front; each is at least partly visible."""

    split: str
    index: int
    ground: str
    light: str
    size_wh_px: tuple[int, int]
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        """Path of the picture below the image root, without suffix: "train/000012"."""
        return f"{self.split}/{self.index:06d}"
