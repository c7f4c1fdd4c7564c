"""Noun phrases: from a description of things to pieces that know what they name."""

from __future__ import annotations

from numpy.random import Generator

from cmal.scenes.language.gold import Piece
from cmal.scenes.language.meaning import Description, fitting
from cmal.scenes.language.nouns import GROUPS, NUMBERS, choose, group_of, kinds_named, name_of, with_article
from cmal.scenes.world import Scene

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
        scene: what the anchors point into; they take in all things the description fits.
        description: kind or group, colour, size. A group word gives no object anchor: it is an indirect mention.
        rng: chooses synonyms.
        determiner: "a" (or "an"), "the", or "" for none; with `count` other than 1 the number stands instead of "a".
        count: how many; decides number word and plural.
    """
    things = fitting(scene, description)
    concept = "" if description.noun in GROUPS else description.noun
    words: list[Piece] = []
    if description.size:
        words.append(Piece(choose(rng, SIZE_WORDS[description.size])))
    dressed = description.colour and kinds_named(description.noun) <= GROUPS["person"]
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
    return ([Piece(determiner)] if determiner else []) + words


def indirect_phrase(scene: Scene, thing: int, rng: Generator) -> list[Piece]:
    """A mention that does not name the kind: "somebody", "an animal", "something red"."""
    kind, colour = scene.things[thing].kind, scene.things[thing].colour
    group = group_of(kind)
    if group == "person":
        return [Piece(choose(rng, ("somebody", "someone", "a person")))]
    if group != "thing":
        return [Piece(with_article(group))]
    if rng.random() < 0.5:
        return [Piece(choose(rng, ("an object", "something")))]
    return [Piece("something"), Piece(colour, fitting(scene, Description("thing", colour)), colour, "attribute")]


def plain(text: str) -> list[Piece]:
    """Words that name nothing."""
    return [Piece(text)]
