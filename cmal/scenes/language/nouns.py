"""The lexicon: names of every kind, group words, plurals and articles; and random choices among words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from numpy.random import Generator

from cmal.scenes.world import GROUPS, KINDS, KINDS_NAMED

T = TypeVar("T")

# kind -> (singular, plural) pairs, the usual name first.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "man": (("man", "men"), ("guy", "guys")),
    "woman": (("woman", "women"), ("lady", "ladies")),
    "child": (("child", "children"), ("kid", "kids")),
    "dog": (("dog", "dogs"), ("pooch", "pooches")),
    "cat": (("cat", "cats"), ("kitty", "kitties")),
    "fish": (("fish", "fish"),),
    "car": (("car", "cars"), ("automobile", "automobiles"), ("auto", "autos")),
    "bus": (("bus", "buses"),),
    "bicycle": (("bicycle", "bicycles"), ("bike", "bikes")),
    "house": (("house", "houses"), ("home", "homes"), ("cottage", "cottages")),
    "flower": (("flower", "flowers"), ("blossom", "blossoms")),
    "bench": (("bench", "benches"),),
    "traffic light": (
        ("traffic light", "traffic lights"),
        ("traffic signal", "traffic signals"),
        ("stoplight", "stoplights"),
    ),
    "fire hydrant": (("fire hydrant", "fire hydrants"), ("hydrant", "hydrants")),
    "television": (("television", "televisions"), ("tv", "tvs"), ("television set", "television sets")),
}
NAMES.update({kind: ((kind, f"{kind}s"),) for kind in KINDS if kind not in NAMES})

GROUP_NAMES = {"person": ("person", "people"), "animal": ("animal", "animals"), "vehicle": ("vehicle", "vehicles")}
GROUP_NAMES["thing"] = ("thing", "things")

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
USUAL_NAME_SHARE = 0.65


def means_people(noun: str) -> bool:
    """Does a kind or group word include people only?"""
    return KINDS_NAMED[noun] <= GROUPS["person"]


def name_of(noun: str, count: int, rng: Generator | None = None) -> str:
    """The name of a kind or group, plural unless `count` is 1. With `rng`, a synonym in 35% of cases."""
    names = NAMES.get(noun) or (GROUP_NAMES[noun],)
    pick = 0
    if rng is not None and len(names) > 1 and rng.random() >= USUAL_NAME_SHARE:
        pick = int(rng.integers(1, len(names)))
    return names[pick][count != 1]


def with_article(phrase: str) -> str:
    """ "a" or "an" before a phrase. Correct for all words of this lexicon ("an orange cup", "a house")."""
    return ("an " if phrase[0] in "aeio" or phrase.startswith("umbrella") else "a ") + phrase


def choose(rng: Generator, options: Sequence[T]) -> T:
    """One element of a non-empty sequence, uniformly at random."""
    return options[int(rng.integers(len(options)))]


def weighted(rng: Generator, options: Mapping[T, float]) -> T:
    """One key of {option: positive weight}, with probability proportional to its weight."""
    point = rng.random() * sum(options.values())
    for option, weight in options.items():
        point -= weight
        if point < 0:
            return option
    return option
