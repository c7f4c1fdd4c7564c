"""Sentences with gold anchors.

A text is joined from pieces. A piece that names a kind or a colour also holds the concept and the things it is true of.
The gold anchors of a sentence follow from its pieces, so no parsing is needed.
Example: `join([Piece("a"), Piece("dog", (2,), "dog"), Piece("outside")])` has one anchor, characters 2-5, thing 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GLUED = (",", ".", ";", "?", "'s")  # pieces that take no space before them


@dataclass(frozen=True)
class Piece:
    """Some words. `concept` and `things` are what they name, empty for none; `role` is "object" or "attribute"."""

    text: str
    things: tuple[int, ...] = ()
    concept: str = ""
    role: str = "object"


@dataclass(frozen=True)
class Anchor:
    """One (words, thing) pair. `span` is [start, end) in characters; `thing` is an index into `Scene.things`."""

    role: str
    span: tuple[int, int]
    concept: str
    thing: int


@dataclass(frozen=True)
class Sentence:
    """A text and its gold anchors."""

    text: str
    anchors: tuple[Anchor, ...] = ()


def join(pieces: Iterable[Piece], capital: bool = False, end: str = "") -> Sentence:
    """Joins pieces into one sentence. `capital` capitalises the first letter; `end` is appended."""
    text, anchors = "", []
    for piece in pieces:
        if text and not piece.text.startswith(GLUED):
            text += " "
        span = (len(text), len(text) + len(piece.text))
        text += piece.text
        anchors += [Anchor(piece.role, span, piece.concept, thing) for thing in piece.things if piece.concept]
    if capital:
        text = text[:1].upper() + text[1:]
    return Sentence(text + end, tuple(anchors))
