"""Noun phrases: turns a description of things into pieces with anchors."""

from __future__ import annotations

from numpy.random import Generator

from cmal.scenes.language.gold import Piece
from cmal.scenes.language.nouns import NUMBERS, choose, means_people, name_of, with_article
from cmal.scenes.scene import Description, Scene
from cmal.scenes.world import GROUP_OF, GROUPS

RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below",),
    "next to": ("next to", "beside", "near", "close to"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
DRESSED = ("in", "dressed in", "wearing")


def noun_phrase(
    scene: Scene, description: Description, rng: Generator, determiner: str = "a", count: int = 1
) -> list[Piece]:
    """The description in words, e.g. "a small red car", "two dogs", "the man in blue".

    Args:
        scene: the anchors refer to all of its things that the description fits.
        description: kind or group, colour, size. A group word has no object anchor, because it is an indirect mention.
        rng: chooses synonyms.
        determiner: "a" (or "an"), "the", or "" for none. If `count` is not 1, the number replaces "a".
        count: number of things, for number word and plural.
    """
    things = scene.fitting(description)
    concept = "" if description.noun in GROUPS else description.noun
    words: list[Piece] = []
    if description.size:
        words.append(Piece(choose(rng, SIZE_WORDS[description.size])))
    dressed = description.colour and means_people(description.noun)
    colour = Piece(description.colour, things, description.colour, "attribute")
    if description.colour and not dressed:
        words.append(colour)
    words.append(Piece(name_of(description.noun, count, rng), things, concept))
    if dressed:
        words += [Piece(choose(rng, DRESSED)), colour]
    if determiner == "a" and count != 1:
        determiner = NUMBERS[count]
    elif determiner == "a":
        determiner = with_article(words[0].text).split()[0]
    return plain(determiner) + words


def indirect_phrase(scene: Scene, thing: int, rng: Generator) -> list[Piece]:
    """A mention that does not name the kind: "somebody", "an animal", "something red"."""
    kind, colour = scene.things[thing].kind, scene.things[thing].colour
    group = GROUP_OF[kind]
    if group == "person":
        return [Piece(choose(rng, ("somebody", "someone", "a person")))]
    if group != "thing":
        return [Piece(with_article(group))]
    if rng.random() < 0.5:
        return [Piece(choose(rng, ("an object", "something")))]
    return [Piece("something"), Piece(colour, scene.fitting(Description("thing", colour)), colour, "attribute")]


def plain(text: str) -> list[Piece]:
    """Words without anchors; no piece at all for an empty text."""
    return [Piece(text)] if text else []
