"""Hypotheses: does the picture entail a sentence, contradict it, or neither (neutral)?

Meaning of the labels [ours]:

- "The dog is brown": entailment or contradiction by the dog's colour, neutral if the picture shows no dog. The same
  holds for the dog's location and its relations to other things.
- "There is a dog", "there are two dogs", "it is night": entailment or contradiction by the picture.
- "There is a dog that belongs to Anna": contradiction if there is no dog, else neutral.

A model must not be able to guess the label from the sentence alone. For this reason hypotheses are generated for a block
of scenes, and each sentence is used two or three times, for different pictures with different labels. (VQA v2 pairs
pictures per question in the same way.) The best guess from the sentence alone is right in about 41% of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from cmal.scenes.language.captions import AT_LIGHT, IN_GROUND, spoken_relations
from cmal.scenes.language.gold import join
from cmal.scenes.language.nouns import NUMBERS, choose, means_people, name_of, weighted, with_article
from cmal.scenes.language.phrases import RELATION_WORDS, noun_phrase
from cmal.scenes.scene import Description, Scene, any_of
from cmal.scenes.world import GROUP_OF, NAMED_GROUPS

LABELS = ("entailment", "neutral", "contradiction")
HYPOTHESES_PER_IMAGE = 4

SCENES_IN_PLAN = 16
Truth = Callable[[Scene], bool | None]
OWNERS = ("Anna", "Tom", "the neighbours", "a teacher", "my uncle", "the mayor")
TAILS = {
    "person": ("who likes music", "who is tired", "called Sam", "who was born in May", "who is waiting for a friend"),
    "animal": ("called Rex", "that is hungry", "that was found last week", "that is four years old"),
    "vehicle": ("that was sold last week", "that is four years old", "that will be gone tomorrow"),
    "thing": ("that was sold last week", "that was a present", "that is four years old", "that will be gone tomorrow"),
}


@dataclass(frozen=True)
class Statement:
    """A sentence and its label in any scene: one of LABELS, or None where people could disagree."""

    text: str
    label_in: Callable[[Scene], str | None]


@dataclass(frozen=True)
class Hypothesis:
    """A sentence with its label in one scene."""

    text: str
    label: str


def make_hypotheses(scenes: Sequence[Scene], rng: Generator) -> list[list[Hypothesis]]:
    """About four hypotheses per scene of a block. Every sentence occurs with two or three labels in the block.

    Args:
        scenes: 16 or more for four hypotheses per scene; with fewer scenes there are fewer. At least three.
        rng: makes all random choices.
    """
    hypotheses: list[list[Hypothesis]] = [[] for _ in scenes]
    for make_statement, labels, count in FAMILIES:
        for _ in range(max(1, round(count * len(scenes) / SCENES_IN_PLAN))):
            for _attempt in range(12):
                source = scenes[int(rng.integers(len(scenes)))]
                statement = make_statement(source, rng)
                if statement is not None and _use(statement, labels, scenes, hypotheses, rng):
                    break
    for found in hypotheses:
        order = rng.permutation(len(found))
        found[:] = [found[int(i)] for i in order]
    return hypotheses


def _use(
    statement: Statement,
    labels: tuple[str, ...],
    scenes: Sequence[Scene],
    hypotheses: list[list[Hypothesis]],
    rng: Generator,
) -> bool:
    """Adds the statement once per label, each time to the fitting scene with the fewest hypotheses.

    Returns False and adds nothing if some label fits no scene.
    """
    chosen: list[int] = []
    label_in = [statement.label_in(scene) for scene in scenes]
    order = rng.permutation(len(scenes)).tolist()
    text = statement.text.rstrip(".")
    unused = [i for i in order if all(h.text.rstrip(".") != text for h in hypotheses[i])]
    for label in labels:
        fit = [i for i in unused if label_in[i] == label]
        if not fit:
            return False
        chosen.append(min(fit, key=lambda i: len(hypotheses[i])))
    for label, i in zip(labels, chosen):
        hypotheses[i].append(Hypothesis(statement.text, label))
    return True


def _entailed(truth: bool | None) -> str | None:
    return None if truth is None else "entailment" if truth else "contradiction"


def _is_absent(scene: Scene, noun: str) -> bool:
    """Does the picture show no such thing, not even a hidden or disputed one?"""
    return not scene.fitting(Description(noun)) and not scene.is_disputed(Description(noun))


def _about(nouns: Sequence[str], truth_of: Callable[..., bool | None]) -> Callable[[Scene], str | None]:
    """Label function of a sentence about "the X" (and "the Y"): neutral if one is absent, else by `truth_of`."""

    def label_in(scene: Scene) -> str | None:
        if any(_is_absent(scene, noun) for noun in nouns):
            return "neutral"
        found = [scene.only_fit(Description(noun)) for noun in nouns]
        return None if None in found else _entailed(truth_of(scene, *found))

    return label_in


def _definite(scene: Scene, rng: Generator) -> Statement | None:
    """A sentence about the only thing of its kind or group that is true of this scene."""
    single = scene.only_of_kind()
    groups = [(i, g) for g in NAMED_GROUPS if (i := scene.only_fit(Description(g))) is not None]
    form = weighted(rng, {"colour": 0.42, "place": 0.16, "relation": 0.26, "kind": 0.16})
    if form == "kind" and groups:
        i, group = choose(rng, groups)
        kind = scene.things[i].kind
        text = f"The {name_of(group, 1)} is {with_article(name_of(kind, 1, rng))}"
        return Statement(_end(text, rng), _about([group], lambda s, a: s.things[a].kind == kind))
    if not single:
        return None
    i, noun = choose(rng, [(i, scene.things[i].kind) for i in single] + groups)
    what = scene.things[i]
    subject = f"The {name_of(noun, 1, rng)}"
    if form == "relation":
        return _definite_relation(scene, i, noun, subject, single, rng)
    if form == "place":
        place = next((p for p in ("left", "right") if scene.placed(p, i)), None)
        if place is None:
            return None
        words = choose(rng, ("on the {}", "on the {} side")).format(place)
        return Statement(_end(f"{subject} is {words}", rng), _about([noun], lambda s, a: s.placed(place, a)))
    verb = choose(rng, ("is dressed in", "is wearing", "wears")) if means_people(noun) else "is"
    text = _end(f"{subject} {verb} {what.colour}", rng)
    return Statement(text, _about([noun], lambda s, a: s.things[a].colour == what.colour))


def _definite_relation(
    scene: Scene, i: int, noun: str, subject: str, single: list[int], rng: Generator
) -> Statement | None:
    others = [j for j in single if j != i]
    relations = [(r, j) for r, j in spoken_relations(scene, i, others) if r in ("left of", "right of", "next to")]
    if not relations:
        return None
    relation, j = choose(rng, relations)
    kind = scene.things[j].kind
    text = f"{subject} is {choose(rng, RELATION_WORDS[relation])} the {name_of(kind, 1, rng)}"
    return Statement(_end(text, rng), _about([noun, kind], lambda s, a, b: s.related(relation, a, b)))


def _claim(scene: Scene, rng: Generator) -> Statement | None:
    """A sentence about the picture: what there is, how many, where, when."""
    form = weighted(rng, {"there is": 0.45, "count": 0.25, "relation": 0.15, "ground": 0.1, "light": 0.05})
    if form == "ground":
        pattern = choose(rng, ("The picture was taken {}", "This is {}", "We are {}"))
        text = pattern.format(choose(rng, IN_GROUND[scene.ground]))
        return Statement(_end(text, rng), lambda s: _entailed(s.ground == scene.ground))
    if form == "light":
        return _light(scene, rng)
    if form == "count":
        return _count(scene, rng)
    found = _existence(scene, rng, with_relation=form == "relation")
    if found is None:
        return None
    phrase, truth = found
    pattern = choose(rng, ("There is {}", "You can see {}", "The picture shows {}"))
    return Statement(_end(pattern.format(phrase), rng), lambda s: _entailed(truth(s)))


def _light(scene: Scene, rng: Generator) -> Statement | None:
    """A sentence about the time of day. Only for outdoor scenes: in a room it is hard to see."""
    if scene.ground == "room":
        return None
    text = choose(rng, ("The picture was taken {}", "This is {}")).format(choose(rng, AT_LIGHT[scene.light]))
    return Statement(_end(text, rng), lambda s: None if s.ground == "room" else _entailed(s.light == scene.light))


def _count(scene: Scene, rng: Generator) -> Statement | None:
    nouns = [n for n in (*(t.kind for t in scene.things), *NAMED_GROUPS) if scene.is_countable(Description(n))]
    counts = {noun: len(scene.fitting(Description(noun))) for noun in nouns}
    several = {noun: float(count) for noun, count in counts.items() if 2 <= count < len(NUMBERS)}
    if not several:
        return None
    noun = weighted(rng, several)
    count = counts[noun]
    pattern = choose(rng, ("There are exactly {}", "The picture shows exactly {}", "You can see exactly {}"))
    text = pattern.format(f"{NUMBERS[count]} {name_of(noun, count, rng)}")

    def truth(s: Scene) -> bool | None:
        return len(s.fitting(Description(noun))) == count if s.is_countable(Description(noun)) else None

    return Statement(_end(text, rng), lambda s: _entailed(truth(s)))


def _existence(scene: Scene, rng: Generator, with_relation: bool) -> tuple[str, Truth] | None:
    """A phrase ("a red car", "a red car next to a tree") and a function that gives its truth in a scene."""
    clear = scene.clear_things()
    if not clear:
        return None
    i = choose(rng, clear)
    what = scene.things[i]
    description = Description(what.kind, what.colour if rng.random() < 0.6 else "")
    phrase = join(noun_phrase(scene, description, rng)).text
    relations = spoken_relations(scene, i, scene.clear_others(i))
    if not with_relation:
        return phrase, lambda s: _some_fit(s, description)
    if not relations:
        return None
    relation, j = choose(rng, relations)
    other = Description(scene.things[j].kind)
    phrase += f" {choose(rng, RELATION_WORDS[relation])} {join(noun_phrase(scene, other, rng)).text}"

    def truth(s: Scene) -> bool | None:
        if _some_fit(s, description) is None or _some_fit(s, other) is None:
            return None
        return any_of([s.related(relation, a, b) for a in s.fitting(description) for b in s.fitting(other)])

    return phrase, truth


def _some_fit(scene: Scene, description: Description) -> bool | None:
    return bool(scene.fitting(description)) if scene.is_countable(description) else None


def _unknowable(scene: Scene, rng: Generator) -> Statement | None:
    """A sentence that mentions a thing with a property that no picture can show."""
    clear = scene.clear_things()
    if not clear:
        return None
    what = scene.things[choose(rng, clear)]
    description = Description(what.kind, what.colour if rng.random() < 0.5 else "")
    phrase = join(noun_phrase(scene, description, rng)).text
    group = GROUP_OF[what.kind]
    owned = group != "person" and rng.random() < 0.4
    tail = f"that belongs to {choose(rng, OWNERS)}" if owned else choose(rng, TAILS[group])
    pattern = choose(rng, ("There is {} {}", "You can see {} {}", "The picture shows {} {}"))
    label = {True: "neutral", False: "contradiction", None: None}
    return Statement(_end(pattern.format(phrase, tail), rng), lambda s: label[_some_fit(s, description)])


def _end(text: str, rng: Generator) -> str:
    return text + ("." if rng.random() < 0.85 else "")


# (function, labels of each of its sentences, number of sentences per block of 16 scenes)
FAMILIES = (
    (_definite, ("entailment", "contradiction", "neutral"), 12),
    (_definite, ("entailment", "neutral"), 5),
    (_claim, ("entailment", "contradiction"), 5),
    (_unknowable, ("neutral", "contradiction"), 5),
)
