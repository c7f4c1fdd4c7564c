"""Captions: five true sentences about a scene, from seven templates.

As in captions written by people, most things are not mentioned, and some are mentioned indirectly ("an animal", "it").
"""

from __future__ import annotations

from numpy.random import Generator

from cmal.scenes.language.gold import Piece, Sentence, join
from cmal.scenes.language.nouns import choose, weighted
from cmal.scenes.language.phrases import RELATION_WORDS, indirect_phrase, noun_phrase, plain
from cmal.scenes.scene import RELATIONS, Description, Scene
from cmal.scenes.world import GROUP_OF, PEOPLE

CAPTIONS_PER_IMAGE = 5
PLACE_ONLY_SHARE, DOING_SHARE = 0.015, 0.3
INDIRECT_SHARE, COLOUR_SHARE, CLOTHES_SHARE, SIZE_SHARE = 0.12, 0.5, 0.15, 0.1

IN_GROUND = {
    "room": ("in a room", "indoors", "inside a room", "in the room"),
    "street": ("on a street", "in the street", "on the road", "along a road", "outdoors on a street"),
    "water": ("by the water", "at the beach", "by the sea", "at the seaside"),
    "field": ("in a field", "on the grass", "in a meadow", "out in a grassy field"),
}
GROUND_NAMES = {
    "room": ("a room", "the inside of a room", "a view of a room"),
    "street": ("a street", "a street scene", "a road"),
    "water": ("a beach", "a beach scene", "a view of the sea"),
    "field": ("a field", "a meadow", "a grassy field"),
}
AT_LIGHT = {
    "day": ("in the daytime", "during the day", "in daylight"),
    "evening": ("in the evening", "at dusk"),
    "night": ("at night", "in the dark", "after dark"),
}
IN_PLACE = {
    "left": ("on the left", "on the left side", "on the left of the picture"),
    "right": ("on the right", "on the right side", "on the right of the picture"),
    "middle": ("in the middle", "in the center", "in the middle of the picture"),
}
AIRBORNE = ("kite", "balloon", "bird", "clock")
DOING = {
    "man": "standing", "woman": "standing", "child": "standing", "cow": "standing", "dog": "standing",
    "bird": "flying", "kite": "flying", "balloon": "floating", "car": "parked", "bus": "parked", "bicycle": "parked",
}  # fmt: skip
WITH_IT = {
    "left of": ("to the left of it", "on its left"),
    "right of": ("to the right of it", "on its right"),
    "next to": ("next to it", "beside it", "near it"),
    "in front of": ("in front of it",),
    "behind": ("behind it",),
    "above": ("above it",),
}


def make_captions(scene: Scene, rng: Generator) -> tuple[Sentence, ...]:
    """Five captions with gold anchors. They differ, unless the scene has too little to mention."""
    captions: dict[str, Sentence] = {}
    for attempt in range(40):
        pieces = weighted(rng, TEMPLATES)(scene, rng) or _ground_with(scene, rng)
        if pieces is None or attempt > 30 or rng.random() < PLACE_ONLY_SHARE:
            pieces = _place_only(scene, rng)
        sentence = _finish(pieces, rng)
        captions.setdefault(sentence.text.lower().rstrip("."), sentence)
        if len(captions) == CAPTIONS_PER_IMAGE:
            break
    found = list(captions.values())
    return tuple(found[i % len(found)] for i in range(CAPTIONS_PER_IMAGE))


def _finish(pieces: list[Piece], rng: Generator) -> Sentence:
    style = rng.random()
    if style < 0.15:
        return join(pieces)
    return join(pieces, capital=True, end="" if style < 0.3 else ".")


def spoken_relations(scene: Scene, thing: int, among: list[int]) -> list[tuple[str, int]]:
    """(relation, other) pairs that people would mention: never "below", "above" only for things that hang or fly."""
    usual = [
        r for r in RELATIONS if r not in ("above", "below") or (r == "above" and scene.things[thing].kind in AIRBORNE)
    ]
    return [(relation, other) for other in among for relation in usual if scene.related(relation, thing, other)]


def _one(scene: Scene, thing: int, rng: Generator, vague: bool = False) -> list[Piece]:
    """A mention of one thing: usually its name, sometimes with colour or size, sometimes indirect.

    "something" and "an object" occur only if `vague` is true.
    """
    is_grouped = GROUP_OF[scene.things[thing].kind] != "thing"
    if rng.random() < INDIRECT_SHARE and (is_grouped or vague):
        return indirect_phrase(scene, thing, rng)
    return noun_phrase(scene, _describe(scene, thing, rng), rng)


def _describe(scene: Scene, thing: int, rng: Generator) -> Description:
    what = scene.things[thing]
    colour = rng.random() < (CLOTHES_SHARE if what.kind in PEOPLE else COLOUR_SHARE)
    size = rng.random() < SIZE_SHARE and what.size != "medium"
    return Description(what.kind, what.colour if colour else "", what.size if size else "")


def _some(scene: Scene, thing: int, rng: Generator) -> list[Piece]:
    """A mention of the thing or, if there are several of its kind, in 70% of cases of all of them ("two dogs")."""
    kind = scene.things[thing].kind
    count = len(scene.fitting(Description(kind)))
    if count < 2 or not scene.is_countable(Description(kind)) or rng.random() < 0.3:
        return _one(scene, thing, rng)
    description = Description(kind)
    colours = {scene.things[i].colour for i in scene.fitting(description)}
    if len(colours) == 1 and rng.random() < (CLOTHES_SHARE if kind in PEOPLE else COLOUR_SHARE):
        description = Description(kind, colours.pop())
    if count >= 3 and rng.random() < 0.4:
        return plain("several") + noun_phrase(scene, description, rng, "", count)
    return noun_phrase(scene, description, rng, "a", count)


def _pick(scene: Scene, rng: Generator, count: int) -> list[int]:
    """Up to `count` clear things of different kinds, in random order."""
    picked: list[int] = []
    for i in rng.permutation(scene.clear_things()):
        if len(picked) < count and scene.things[i].kind not in {scene.things[j].kind for j in picked}:
            picked.append(int(i))
    return picked


def _list(parts: list[list[Piece]]) -> list[Piece]:
    """Joins phrases as in "a, b and c"."""
    joined = list(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        joined += plain("and" if number == len(parts) else ",") + part
    return joined


def _in_ground(scene: Scene, things: list[int], rng: Generator) -> str:
    """Where the things are. Things that fly or hang are "outdoors", not "on the road"."""
    if scene.ground in ("street", "field") and any(scene.things[i].kind in AIRBORNE for i in things):
        return choose(rng, ("outdoors", "outside"))
    return choose(rng, IN_GROUND[scene.ground])


def _surroundings(scene: Scene, things: list[int], rng: Generator) -> list[Piece]:
    pick = rng.random()
    if pick < 0.35:
        return []
    words = [_in_ground(scene, things, rng)] if pick < 0.9 else []
    if scene.ground != "room" and (not words or rng.random() < 0.4):
        words.append(choose(rng, AT_LIGHT[scene.light]))
    return plain(" ".join(words))


def _relation(scene: Scene, rng: Generator) -> list[Piece] | None:
    """A dog next to a red car, by the water."""
    said = _related_pair(scene, rng)
    return said and said[0]


def _related_pair(scene: Scene, rng: Generator) -> tuple[list[Piece], set[int]] | None:
    for thing in _pick(scene, rng, 4):
        relations = spoken_relations(scene, thing, scene.clear_others(thing))
        if relations:
            relation, other = choose(rng, relations)
            person = scene.things[thing].kind in PEOPLE
            verb = choose(rng, ("", "", "", "is", "who is" if person else "that is"))
            doing = DOING.get(scene.things[thing].kind, "") if rng.random() < DOING_SHARE else ""
            words = " ".join(f"{verb} {doing} {choose(rng, RELATION_WORDS[relation])}".split())
            start = plain("there is" if not verb and rng.random() < 0.2 else "")
            pair = [thing, other]
            end = plain(_in_ground(scene, pair, rng)) if len(verb) > 2 else _surroundings(scene, pair, rng)
            return start + _one(scene, thing, rng, True) + plain(words) + _one(scene, other, rng) + end, set(pair)
    return None


def _with_it(scene: Scene, rng: Generator) -> list[Piece] | None:
    """A table with a lamp behind it."""
    for thing in _pick(scene, rng, 4):
        if scene.things[thing].kind in PEOPLE:
            continue
        others = scene.clear_others(thing)
        relations = [(r, i) for i in others for r in WITH_IT if (r, thing) in spoken_relations(scene, i, [thing])]
        if relations:
            relation, other = choose(rng, relations)
            where = plain(choose(rng, WITH_IT[relation]))
            if rng.random() < 0.5:
                return _one(scene, thing, rng) + plain("with") + _one(scene, other, rng) + where
            start = plain("there is" if rng.random() < 0.5 else "you can see")
            return start + _one(scene, thing, rng) + plain("and") + where + plain("is") + _one(scene, other, rng)
    return None


def _listing(scene: Scene, rng: Generator) -> list[Piece] | None:
    """Two dogs, a tree and a red car in a field."""
    things = _pick(scene, rng, int(rng.integers(1, 4)))
    if not things:
        return None
    start = choose(rng, ("", "", "", "there is", "a picture of", "a photo of", "we see"))
    phrases = [_some(scene, thing, rng) for thing in things]
    if start == "there is" and phrases[0][0].text not in ("a", "an"):
        start = "there are"
    return plain(start) + _list(phrases) + _surroundings(scene, things, rng)


def _ground_with(scene: Scene, rng: Generator) -> list[Piece] | None:
    """A street at night with two cars and a man."""
    things = _pick(scene, rng, int(rng.integers(1, 4)))
    if not things:
        return None
    light = scene.ground != "room" and rng.random() < 0.4
    where = choose(rng, GROUND_NAMES[scene.ground]) + (f" {choose(rng, AT_LIGHT[scene.light])}" if light else "")
    return plain(f"{where} with") + _list([_some(scene, thing, rng) for thing in things])


def _places(scene: Scene, rng: Generator) -> list[Piece] | None:
    """A dog on the left and a chair on the right."""
    parts: list[tuple[str, int]] = []
    for thing in _pick(scene, rng, 8):
        places = [place for place in IN_PLACE if scene.placed(place, thing) and place not in [p for p, _ in parts]]
        if places and len(parts) < 2:
            parts.append((places[0], thing))
    if not parts:
        return None
    verb = choose(rng, ("", "", "is"))
    said = [_one(scene, t, rng) + plain(f"{verb} {choose(rng, IN_PLACE[p])}".strip()) for p, t in parts]
    return _list(said if rng.random() < 0.75 else said[:1])


def _predicate(scene: Scene, rng: Generator) -> list[Piece] | None:
    """The car next to the tree is red."""
    for thing in _pick(scene, rng, 6):
        what = scene.things[thing]
        if what.kind not in PEOPLE and scene.only_fit(Description(what.kind)) == thing:
            subject = noun_phrase(scene, Description(what.kind), rng, "the")
            relations = spoken_relations(scene, thing, [i for i in scene.clear_things() if i != thing])
            if relations and rng.random() < 0.6:
                relation, other = choose(rng, relations)
                subject += plain(choose(rng, RELATION_WORDS[relation])) + _one(scene, other, rng)
            return subject + plain("is") + [Piece(what.colour, (thing,), what.colour, "attribute")]
    return None


def _chain(scene: Scene, rng: Generator) -> list[Piece] | None:
    """A man next to a car, and on the left there is a tree."""
    first = _related_pair(scene, rng)
    if first is None:
        return None
    mentioned = {scene.things[i].kind for i in first[1]}
    rest = [i for i in scene.clear_things() if scene.things[i].kind not in mentioned]
    sides = [(side, i) for i in rest for side in ("left", "right") if scene.placed(side, i)]
    if sides and rng.random() < 0.5:
        side, thing = choose(rng, sides)
        link = choose(rng, (f", while on the {side} there is", f", and on the {side} is"))
        return first[0] + plain(link) + _one(scene, thing, rng)
    if not rest:
        return None
    return first[0] + plain(choose(rng, (", and there is also", ", along with"))) + _one(scene, choose(rng, rest), rng)


def _place_only(scene: Scene, rng: Generator) -> list[Piece]:
    """A picture of a street (mentions no thing)."""
    start = choose(rng, ("a picture of ", "a photo of ", "", "this is ", "we see "))
    return plain(start + choose(rng, GROUND_NAMES[scene.ground]))


TEMPLATES = {
    _relation: 0.32,
    _with_it: 0.1,
    _listing: 0.2,
    _ground_with: 0.16,
    _places: 0.12,
    _predicate: 0.03,
    _chain: 0.06,
}
"""How often each template is used (relative weights)."""
