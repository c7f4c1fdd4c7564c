"""What a generated scene is made of: kinds, colours, grounds and the dataclasses that drawing and language share.

`drawing` makes pictures of these, `language` talks about them; neither knows the other.
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
"""The middle of each named colour, 8-bit RGB, before jitter and light."""


def is_held_out(kind: str, colour: str) -> bool:
    """Is this composition kept for the split "test"? One of 12 is (33 of 396), at most one colour a kind.

    Kind number i and colour number j are held out when 7i + 5j is a multiple of 12: both steps share no factor with 12,
    so the kept-back pairs spread evenly and every kind and every colour is seen in training.
    """
    return (7 * KINDS.index(kind) + 5 * COLOURS.index(colour)) % 12 == 0


@dataclass(frozen=True)
class Thing:
    """One thing in a scene, as drawn.

    Attributes:
        kind: one of KINDS.
        colour: one of COLOURS, the colour of its main part; a person's is that of the clothes.
        size: one of SIZES, how large it was drawn for its kind.
        pose: how it stands, a word its kind knows ("left", "right", "front", ...); never the answer to a question.
        box_xyxy_px: tight box of its *visible* pixels, x2 and y2 exclusive.
        visible_share: visible pixels over drawn pixels, in (0, 1].
    """

    kind: str
    colour: str
    size: str
    pose: str
    box_xyxy_px: tuple[int, int, int, int]
    visible_share: float


@dataclass(frozen=True)
class Scene:
    """One generated image, described. `things` stand back to front; all are at least partly visible."""

    split: str
    index: int
    ground: str
    light: str
    size_wh_px: tuple[int, int]
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        """Path of the picture below the image root, without its ending: "train/000012"."""
        return f"{self.split}/{self.index:06d}"
