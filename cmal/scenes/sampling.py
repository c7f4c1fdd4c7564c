"""Samples the plan of a scene before anything is drawn: ground, light, kinds, colours, sizes, poses.

(kind, colour) pairs for which `world.is_held_out` is true occur only in the split "test", where they are over-sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmal.scenes.things import LOOKS
from cmal.scenes.world import COLOURS, GROUNDS, KINDS, LIGHTS, PEOPLE, SIZES, is_held_out

TEST_SPLIT = "test"
COUNT_SHARES = {2: 0.16, 3: 0.26, 4: 0.27, 5: 0.19, 6: 0.12}
LIGHT_SHARES = (0.6, 0.22, 0.18)
SIZE_SHARES = (0.28, 0.44, 0.28)
PERSON_WEIGHT = 2.6
HELD_OUT_SHARE = 0.45
SAME_KIND_SHARE = 0.5
SAME_COLOUR_SHARE = 0.2


@dataclass(frozen=True)
class Wish:
    """One planned thing. Drawing drops it if there is no free location for it."""

    kind: str
    colour: str
    size: str
    pose: str


@dataclass(frozen=True)
class Plan:
    """The planned content of a scene. `wishes` are in order of priority; the first two are always drawn."""

    ground: str
    light: str
    wishes: tuple[Wish, ...]


def split_number(split: str) -> int:
    """A number below 1,000,003 for seeding: a polynomial hash of the split's name."""
    number = 0
    for byte in split.encode():
        number = (number * 257 + byte) % 1_000_003
    return number


def sample_plan(split: str, generator: np.random.Generator) -> Plan:
    """Samples a plan: 2-6 things on one ground, often two of one kind, sometimes two of one colour.

    In the split "test" about 45% of the plans start with a held-out pair. Other splits contain none.
    """
    ground = GROUNDS[int(generator.integers(len(GROUNDS)))]
    light = LIGHTS[int(generator.choice(len(LIGHTS), p=LIGHT_SHARES))]
    count = int(generator.choice(list(COUNT_SHARES), p=list(COUNT_SHARES.values())))
    pairs = _sample_pairs(ground, split == TEST_SPLIT, count, generator)
    return Plan(ground, light, tuple(_wish(kind, colour, generator) for kind, colour in pairs))


def kinds_on(ground: str) -> list[str]:
    """The kinds that can occur on a ground, in the order of KINDS."""
    return [kind for kind in KINDS if ground in LOOKS[kind].places]


def _sample_pairs(ground: str, is_test: bool, count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """(kind, colour) of each thing; in 45% of test plans the first pair is held out."""
    pairs: list[tuple[str, str]] = []
    if is_test and generator.random() < HELD_OUT_SHARE:
        held_out = [(kind, colour) for kind in kinds_on(ground) for colour in COLOURS if is_held_out(kind, colour)]
        pairs.append(held_out[int(generator.integers(len(held_out)))])
    duplicate = generator.random() < SAME_KIND_SHARE
    while len(pairs) < count:
        kind = pairs[0][0] if duplicate and len(pairs) == 1 else _sample_kind(ground, pairs, generator)
        colour = COLOURS[int(generator.integers(len(COLOURS)))]
        if pairs and generator.random() < SAME_COLOUR_SHARE:
            colour = pairs[-1][1]
        if is_test or not is_held_out(kind, colour):
            pairs.append((kind, colour))
    return pairs


def _sample_kind(ground: str, pairs: list[tuple[str, str]], generator: np.random.Generator) -> str:
    """A kind that occurs on this ground. Kinds of few grounds and people weigh more, present kinds less."""
    kinds = kinds_on(ground)
    present = {kind for kind, _ in pairs}
    weights = np.array([1 / len(LOOKS[kind].places) for kind in kinds])
    weights *= [PERSON_WEIGHT if kind in PEOPLE else 1.0 for kind in kinds]
    weights *= [0.25 if kind in present else 1.0 for kind in kinds]
    return kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))]


def _wish(kind: str, colour: str, generator: np.random.Generator) -> Wish:
    size = SIZES[int(generator.choice(len(SIZES), p=SIZE_SHARES))]
    poses = LOOKS[kind].poses
    return Wish(kind, colour, size, poses[int(generator.integers(len(poses)))])
