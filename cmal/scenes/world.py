"""The vocabulary of generated scenes: kinds and their groups, colours, sizes, grounds, lights."""

from __future__ import annotations

PEOPLE = ("man", "woman", "child")
ANIMALS = ("dog", "cat", "bird", "duck", "cow", "fish")
VEHICLES = ("car", "bus", "bicycle", "boat", "train")
OUTDOOR = ("house", "tree", "flower", "kite", "umbrella", "bench", "traffic light", "fire hydrant", "balloon", "ball")
INDOOR = ("chair", "table", "cup", "lamp", "clock", "book", "bottle", "vase", "hat", "television", "bed", "guitar")
KINDS = PEOPLE + ANIMALS + VEHICLES + OUTDOOR + INDOOR

GROUPS: dict[str, frozenset[str]] = {
    "person": frozenset(PEOPLE),
    "animal": frozenset(ANIMALS),
    "vehicle": frozenset(VEHICLES),
    "thing": frozenset(KINDS) - frozenset(PEOPLE),
}
NAMED_GROUPS = ("person", "animal", "vehicle")  # groups that people count and refer to by name
KINDS_NAMED = {kind: frozenset((kind,)) for kind in KINDS} | GROUPS
"""The kinds that a kind or group word includes: "animal" -> dog, cat, ..."""
GROUP_OF = {kind: group for group, kinds in reversed(GROUPS.items()) for kind in kinds}  # "thing" is overwritten
"""The group of a kind: person, animal, vehicle, or thing."""

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
