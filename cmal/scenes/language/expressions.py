"""Referring expressions: short descriptions that fit exactly one thing, as in a referring game.

An `Expression` is a meaning and `referents` evaluates it in a scene. Only expressions that clearly fit one thing become
sentences. Most need more than the noun, because several things share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

from cmal.scenes.language.gold import Piece, Sentence, join
from cmal.scenes.language.nouns import choose, means_people
from cmal.scenes.language.phrases import RELATION_WORDS, noun_phrase, plain
from cmal.scenes.scene import CLEAR_GAP, PLACES, Description, Scene, any_of
from cmal.scenes.world import GROUP_OF, GROUPS

REFERENCES_PER_IMAGE = 3
ORDINALS = ("", "second", "third")
MIN_STEP = 0.05  # of the picture's width: the order of closer centres is unclear
RELATIONS_USED = ("left of", "right of", "next to", "in front of", "behind", "above", "below")


@dataclass(frozen=True)
class Expression:
    """The meaning of an expression: the things that fit `what`, narrowed by `side`, `relation` or `extreme` (at most one).

    Attributes:
        what: kind or group, colour, size.
        side: "left" or "right": the thing number `rank` from that side. "middle": the middle one of exactly three.
        rank: 0 = the outermost; see `side`.
        relation: one of RELATIONS, to something that fits `other`.
        extreme: "largest" or "smallest" by the area of its box.
    """

    what: Description
    side: str = ""
    rank: int = 0
    relation: str = ""
    other: Description | None = None
    extreme: str = ""


@dataclass(frozen=True)
class Reference:
    """One thing (an index into `Scene.things`) and the sentences that refer to it."""

    thing: int
    sentences: tuple[Sentence, ...]
    meanings: tuple[Expression, ...]


def referents(scene: Scene, expression: Expression) -> tuple[int, ...] | None:
    """The things an expression refers to; None if people could disagree.

    Example: two dogs and a cat: "dog" gives both dogs, "left dog" one, "left cat" the cat, "second cat" nothing.
    """
    found = scene.fitting(expression.what)
    if any(not scene.things[i].is_clear for i in found) or not scene.is_countable(expression.what):
        return None
    if expression.side:
        return _counted_off(scene, found, expression)
    if expression.extreme:
        return _extreme(scene, found, expression.extreme)
    if expression.other is not None:
        others = scene.fitting(expression.other)
        truths = [any_of([scene.related(expression.relation, i, j) for j in others]) for i in found]
        return None if None in truths else tuple(i for i, true in zip(found, truths) if true)
    return found


def _counted_off(scene: Scene, found: tuple[int, ...], expression: Expression) -> tuple[int, ...] | None:
    ordered = sorted(found, key=lambda i: scene.things[i].centre[0], reverse=expression.side == "right")
    xs = [scene.things[i].centre[0] / scene.size_wh_px[0] for i in ordered]
    if any(abs(b - a) < MIN_STEP for a, b in itertools.pairwise(xs)):
        return None
    if expression.side == "middle":
        return (ordered[1],) if len(ordered) == 3 else ()
    if len(xs) > 1 and expression.rank == 0 and abs(xs[1] - xs[0]) < CLEAR_GAP:
        return None
    return (ordered[expression.rank],) if expression.rank < len(ordered) else ()


def _extreme(scene: Scene, found: tuple[int, ...], extreme: str) -> tuple[int, ...] | None:
    ordered = sorted(found, key=lambda i: scene.things[i].area, reverse=extreme == "largest")
    areas = [scene.things[i].area for i in ordered]
    if len(areas) > 1 and max(areas[:2]) < 1.6 * min(areas[:2]):
        return None
    return tuple(ordered[:1])


def make_references(scene: Scene, rng: Generator) -> tuple[Reference, ...]:
    """Up to three things with two or three sentences each that fit only it. Things that share their kind come first."""
    shares_kind = [len(scene.fitting(Description(t.kind))) > 1 for t in scene.things]
    order = sorted(rng.permutation(scene.clear_things()).tolist(), key=lambda i: not shares_kind[i])
    marks = landmarks(scene)
    references = []
    for thing in order:
        found = unique_meanings(scene, thing, rng, int(rng.integers(2, 4)), marks)
        if len(found) >= 2:
            sentences = {put_in_words(scene, meaning, rng): meaning for meaning in found}
            references.append(Reference(thing, tuple(sentences), tuple(sentences.values())))
        if len(references) == REFERENCES_PER_IMAGE:
            break
    return tuple(references)


def unique_meanings(
    scene: Scene, thing: int, rng: Generator, count: int, marks: list[tuple[int, Description]]
) -> list[Expression]:
    """Up to `count` meanings of different forms that fit only this thing. Those whose noun fits other things come first.

    Args:
        scene: content of the picture.
        thing: index of the thing.
        rng: shuffles the candidates.
        count: largest number of meanings.
        marks: `landmarks(scene)`, computed once per scene.
    """
    hard: dict[str, Expression] = {}
    easy: dict[str, Expression] = {}
    candidates = list(_candidates(scene, thing, marks))
    for k in rng.permutation(len(candidates)):
        form, meaning = candidates[int(k)]
        if form in hard or form in easy or referents(scene, meaning) != (thing,):
            continue
        into = hard if len(scene.fitting(Description(meaning.what.noun))) > 1 else easy
        into[form] = meaning
        if len(hard) == count:
            break
    return [*hard.values(), *list(easy.values())[: max(2 - len(hard), 0)]]


def _candidates(scene: Scene, thing: int, marks: list[tuple[int, Description]]) -> Iterator[tuple[str, Expression]]:
    """(form, meaning) pairs that may fit only this thing, without superfluous words. The caller checks them."""
    what = scene.things[thing]
    group = GROUP_OF[what.kind]
    by_colour = Description("person" if group == "person" else "thing", what.colour)
    bases = [Description(what.kind), Description(what.kind, what.colour), by_colour]
    if len(scene.fitting(Description(group))) > 1:
        bases.append(Description(group))
    if what.size != "medium":
        bases.append(Description(what.kind, size=what.size))
    places = [(i, other) for i, other in marks if i != thing]
    beside = [(r, i, other) for i, other in places for r in RELATIONS_USED if scene.related(r, thing, i)]
    for base in bases:
        form = f"{base.noun in GROUPS}{bool(base.colour)}{bool(base.size)}"
        if base.noun != "thing" or base.colour:
            yield f"plain{form}", Expression(base)
        if len(scene.fitting(base)) < 2 or base.size:
            continue
        if base.noun != "thing" or base.colour:
            for side in PLACES:
                for rank in range(1 if side == "middle" else 3):
                    yield f"side{form}", Expression(base, side=side, rank=rank)
        if base.noun == what.kind and not base.colour:
            yield "extreme", Expression(base, extreme="largest")
            yield "extreme", Expression(base, extreme="smallest")
        for relation, i, other in beside:
            if not scene.things[i].fits(base if base.noun != "thing" else Description(what.kind)):
                yield f"{relation}{form}", Expression(base, relation=relation, other=other)


def landmarks(scene: Scene) -> list[tuple[int, Description]]:
    """(thing, description) of things identified by kind, or by kind and colour. Other things are located by them."""
    found = []
    for i in scene.clear_things():
        mark = scene.things[i]
        for description in (Description(mark.kind), Description(mark.kind, mark.colour)):
            if scene.only_fit(description) == i:
                found.append((i, description))
                break
    return found


def put_in_words(scene: Scene, meaning: Expression, rng: Generator) -> Sentence:
    """The meaning in words: "left dog", "the cup next to the lamp", "second car from the right"."""
    article = "the" if rng.random() < 0.4 else ""
    if meaning.side or meaning.extreme:
        pieces = _superlative(scene, meaning, rng, article)
    else:
        pieces = noun_phrase(scene, meaning.what, rng, article)
    if meaning.other is not None:
        other = noun_phrase(scene, meaning.other, rng, "the")
        pieces += plain(choose(rng, RELATION_WORDS[meaning.relation])) + other
    return join(pieces, capital=rng.random() < 0.1)


def _superlative(scene: Scene, meaning: Expression, rng: Generator, article: str) -> list[Piece]:
    what = noun_phrase(scene, meaning.what, rng, "")
    the = plain(article)
    if meaning.extreme:
        words = {"largest": ("largest", "biggest", "bigger"), "smallest": ("smallest", "tiniest", "smaller")}
        several = len(scene.fitting(meaning.what)) > 2
        return the + plain(choose(rng, words[meaning.extreme][: 2 if several else 3])) + what
    if meaning.side == "middle":
        return the + (plain("middle") + what if rng.random() < 0.5 else what + plain("in the middle"))
    if meaning.rank:
        return the + plain(ORDINALS[meaning.rank]) + what + plain(f"from the {meaning.side}")
    side = meaning.side
    if meaning.what.colour and means_people(meaning.what.noun):
        return the + what + plain(f"on the {side}")  # "man in red on the left", not "left man in red"
    before, after = choose(rng, ((side, ""), (f"{side}most", ""), ("", f"on the {side}"), ("", f"on the far {side}")))
    return the + plain(before) + what + plain(after)
