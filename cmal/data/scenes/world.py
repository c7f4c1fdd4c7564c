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
