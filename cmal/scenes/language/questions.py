"""Questions about a scene, each with the answers of ten simulated annotators, who usually agree.

The kind of question is sampled first, then the answer, then a question with this answer. This keeps yes as frequent as
no, and no number, colour or kind is a good guess without the picture. Question and answer types are those of VQA v2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from cmal.scenes.language.captions import AIRBORNE
from cmal.scenes.language.expressions import landmarks, put_in_words, unique_meanings
from cmal.scenes.language.gold import join
from cmal.scenes.language.nouns import NAMES, NUMBERS, choose, name_of, weighted
from cmal.scenes.language.phrases import RELATION_WORDS, noun_phrase
from cmal.scenes.scene import Description, Scene
from cmal.scenes.world import COLOURS, GROUP_OF, KINDS, LIGHTS, NAMED_GROUPS, PEOPLE

QUESTIONS_PER_IMAGE = 4
ANNOTATORS = 10
AGREEMENT, AGREEMENT_YES_NO = 0.86, 0.94  # probability of the usual answer, per annotator

# The entries of the official list of question types that occur as prefixes of these questions.
QUESTION_TYPES = (
    "how many", "how many people are", "is the", "what", "what color is the", "what is the", "what is", "is there a",
    "where is the", "what kind of", "is it", "are there", "is there", "which", "what animal is", "what is in the",
    "what is on the", "is this", "is this a", "what time", "what color",
)  # fmt: skip
CLOSE_COLOURS = {
    "red": ("orange", "maroon"), "blue": ("light blue", "purple"), "green": ("dark green", "teal"),
    "yellow": ("gold", "orange"), "orange": ("red", "yellow"), "purple": ("violet", "pink"),
    "pink": ("purple", "light pink"), "brown": ("tan", "black"), "black": ("dark", "grey"),
    "white": ("grey", "silver"), "grey": ("gray", "silver"),
}  # fmt: skip
GROUND_ANSWERS = {
    "room": ("room", "indoors", "inside", "house"),
    "street": ("street", "road", "outside", "city"),
    "water": ("beach", "sea", "by the water", "outside"),
    "field": ("field", "grass", "outside", "meadow"),
}
LIGHT_ANSWERS = {
    "day": ("day", "daytime", "noon"),
    "evening": ("evening", "dusk", "sunset"),
    "night": ("night", "nighttime", "midnight"),
}
SLIPS = {
    "man": ("person", "guy"), "woman": ("person", "lady"), "child": ("kid", "person"), "duck": ("bird",),
    "bird": ("pigeon",), "boat": ("ship", "sailboat"), "train": ("tram",), "bus": ("van",), "tree": ("bush",),
    "kite": ("toy",), "umbrella": ("parasol",), "bench": ("seat",), "balloon": ("ball",), "ball": ("balloon",),
    "chair": ("seat",), "table": ("desk",), "cup": ("mug",), "lamp": ("light",), "clock": ("watch",),
    "book": ("notebook",), "bottle": ("flask",), "vase": ("pot",), "hat": ("cap",), "bed": ("couch",),
    "guitar": ("violin",), "cow": ("animal", "bull"), "fish": ("goldfish",),
}  # fmt: skip

Draft = tuple[str, str, tuple[str, ...]] | None  # question, usual answer, alternative answers
Marks = list[tuple[int, Description]]


@dataclass(frozen=True)
class Question:
    """A question, its ten answers, the most frequent answer, and the types as in VQA v2."""

    text: str
    answers: tuple[str, ...]
    answer: str
    question_type: str
    answer_type: str


def make_questions(scene: Scene, rng: Generator) -> tuple[Question, ...]:
    """Four different questions; fewer if the scene allows no more."""
    questions: dict[str, Question] = {}
    for _ in range(40):
        draft = weighted(rng, _TEMPLATES)(scene, rng)
        if draft is not None and draft[0] not in questions:
            questions[draft[0]] = _answered(*draft, rng)
        if len(questions) == QUESTIONS_PER_IMAGE:
            break
    return tuple(questions.values())


def _answered(text: str, usual: str, others: tuple[str, ...], rng: Generator) -> Question:
    """Adds ten answers: at least six times `usual`, else one of `others` (other wordings and mistakes)."""
    agreement = AGREEMENT_YES_NO if usual in ("yes", "no") else AGREEMENT
    answers = [usual if rng.random() < agreement else choose(rng, others) for _ in range(ANNOTATORS)]
    if answers.count(usual) < 6:
        answers[:6] = [usual] * 6
    answer_type = "yes/no" if usual in ("yes", "no") else "number" if usual.isdigit() else "other"
    return Question(text, tuple(answers), usual, question_type_of(text), answer_type)


def question_type_of(text: str) -> str:
    """The longest official question type that the question begins with, or "none of the above"."""
    words = text.lower().rstrip("?")
    found = [kind for kind in QUESTION_TYPES if words.startswith(f"{kind} ")]
    return max(found, key=len, default="none of the above")


def _colour(scene: Scene, rng: Generator) -> Draft:
    """What color is the car on the left?"""
    things = [i for i in scene.clear_things() if scene.things[i].kind not in PEOPLE]
    marks = landmarks(scene)
    for i in rng.permutation(things).tolist():
        meanings = [m for m in unique_meanings(scene, i, rng, 4, marks) if not m.what.colour and m.what.noun != "thing"]
        if meanings:
            colour = scene.things[i].colour
            name = _definite(put_in_words(scene, meanings[0], rng).text)
            forms = ("What color is {}?", "What color is {}?", "What colour is {}?", "What is the color of {}?")
            return choose(rng, forms).format(name), colour, CLOSE_COLOURS[colour]
    return None


def _definite(phrase: str) -> str:
    phrase = phrase[0].lower() + phrase[1:]
    return phrase if phrase.startswith("the ") else f"the {phrase}"


def _how_many(scene: Scene, rng: Generator) -> Draft:
    """How many dogs are there?"""
    count = weighted(rng, {0: 1.0, 1: 1.0, 2: 1.3, 3: 1.2, 4: 0.8, 5: 0.7})
    descriptions = [Description(noun) for noun in (*KINDS, *NAMED_GROUPS)]
    descriptions += [Description("thing", colour) for colour in COLOURS]
    fit = [d for d in descriptions if scene.is_countable(d) and len(scene.fitting(d)) == count]
    if not fit:
        return None
    what = choose(rng, fit)
    name = f"{what.colour} {name_of(what.noun, 2, rng)}".strip()
    tail = choose(rng, ("are there", "are in the picture", "can you see", "are in this photo"))
    near = tuple(str(n) for n in (count - 1, count + 1) if n >= 0)
    return f"How many {name} {tail}?", str(count), near


def _what_beside(scene: Scene, rng: Generator) -> Draft:
    """What is to the left of the tree?"""
    found = []
    for mark in scene.only_of_kind():
        for relation in ("left of", "right of", "next to", "in front of", "behind", "above"):
            truths = {i: scene.related(relation, i, mark) for i in range(len(scene.things)) if i != mark}
            kinds = {scene.things[i].kind for i, true in truths.items() if true}
            if len(kinds) != 1 or (relation == "above" and not kinds <= set(AIRBORNE)):
                continue
            if relation in ("in front of", "behind") or None not in truths.values():
                found.append((relation, mark, kinds.pop()))
    if not found:
        return None
    relation, mark, kind = choose(rng, found)
    who = "Who" if kind in PEOPLE else "What"
    words = choose(rng, RELATION_WORDS[relation])
    return f"{who} is {words} the {name_of(scene.things[mark].kind, 1, rng)}?", kind, _namings(kind)


def _namings(kind: str) -> tuple[str, ...]:
    """Other names that annotators use for a kind."""
    return SLIPS.get(kind) or tuple(names[0] for names in NAMES[kind][1:]) or (GROUP_OF[kind],)


def _which_kind(scene: Scene, rng: Generator) -> Draft:
    """What is the animal on the left? What object is red?"""
    marks = landmarks(scene)
    for i in rng.permutation(scene.clear_things()).tolist():
        kind, colour = scene.things[i].kind, scene.things[i].colour
        group = GROUP_OF[kind]
        found = []
        if group != "person" and scene.only_fit(Description("thing", colour)) == i:
            found.append(choose(rng, ("What is {}?", "What thing is {}?", "What object is {}?")).format(colour))
        if group in ("animal", "vehicle"):
            found += _group_questions(scene, i, group, marks, rng)
        if found:
            return choose(rng, found), kind, _namings(kind)
    return None


def _group_questions(scene: Scene, thing: int, group: str, marks: Marks, rng: Generator) -> list[str]:
    texts = []
    for meaning in unique_meanings(scene, thing, rng, 3, marks):
        if meaning.what.noun == group:
            texts.append(f"What is {_definite(put_in_words(scene, meaning, rng).text)}?")
    if scene.only_fit(Description(group)) == thing:
        texts.append(f"What kind of {group} is this?")
    return texts


def _is_there(scene: Scene, rng: Generator) -> Draft:
    """Is there a red car? For the answer no: another thing's colour, or a kind that is absent."""
    is_yes = bool(rng.random() < 0.5)
    clear = scene.clear_things()
    if not clear:
        return None
    what = scene.things[choose(rng, clear)]
    kind, colour = what.kind, what.colour if rng.random() < 0.5 else ""
    if not is_yes and colour:
        own = {t.colour for t in scene.things if t.kind == kind}
        colour = choose(rng, sorted({t.colour for t in scene.things} - own) or sorted(set(COLOURS) - own))
    elif not is_yes:
        kind = choose(rng, sorted(set(KINDS) - {t.kind for t in scene.things}))
    if not scene.is_countable(Description(kind, colour)):
        return None
    name = join(noun_phrase(scene, Description(kind, colour), rng)).text
    tail = choose(rng, ("", " in the picture", " in this photo"))
    text = choose(rng, ("Is there {}{}?", "Is there {}{}?", "Can you see {}{}?")).format(name, tail)
    return text, *_yes_no(is_yes)


def _yes_no(truth: bool) -> tuple[str, tuple[str, ...]]:
    return ("yes", ("no",)) if truth else ("no", ("yes",))


def _is_the(scene: Scene, rng: Generator) -> Draft:
    """Is the dog brown? Is the dog to the left of the tree?"""
    is_yes = bool(rng.random() < 0.5)
    single = scene.only_of_kind()
    if not single:
        return None
    i = choose(rng, single)
    what = scene.things[i]
    name = name_of(what.kind, 1, rng)
    relations = [
        (relation, j)
        for j in single
        for relation in ("left of", "right of", "next to", "in front of", "behind")
        if j != i and scene.related(relation, i, j) is is_yes
    ]
    if relations and (what.kind in PEOPLE or rng.random() < 0.5):
        relation, j = choose(rng, relations)
        other = name_of(scene.things[j].kind, 1, rng)
        return f"Is the {name} {choose(rng, RELATION_WORDS[relation])} the {other}?", *_yes_no(is_yes)
    if what.kind in PEOPLE:
        return None
    seen = sorted({t.colour for t in scene.things} - {what.colour}) or [c for c in COLOURS if c != what.colour]
    colour = what.colour if is_yes else choose(rng, seen)
    return f"Is the {name} {colour}?", *_yes_no(is_yes)


def _are_there(scene: Scene, rng: Generator) -> Draft:
    """Are there exactly two dogs?"""
    is_yes = bool(rng.random() < 0.5)
    nouns = [n for n in (*KINDS, *NAMED_GROUPS) if scene.is_countable(Description(n))]
    counts = {n: len(scene.fitting(Description(n))) for n in nouns}
    several = [n for n, count in counts.items() if 2 <= count <= 6]
    if not several:
        return None
    noun = choose(rng, several)
    number = counts[noun] if is_yes else max(2, counts[noun] + (1 if rng.random() < 0.5 else -1))
    if not is_yes and number == counts[noun]:
        number += 1
    return f"Are there exactly {NUMBERS[number]} {name_of(noun, 2, rng)}?", *_yes_no(is_yes)


def _ground(scene: Scene, rng: Generator) -> Draft:
    """Where was this picture taken?"""
    texts = ("Where was this picture taken?", "Where is this?", "What place is this?", "What is the setting?")
    answers = GROUND_ANSWERS[scene.ground]
    return choose(rng, texts), answers[0], answers[1:]


def _light(scene: Scene, rng: Generator) -> Draft:
    """Is it night? What time of day is it?"""
    if scene.ground == "room":
        return None
    if rng.random() < 0.5:
        return "What time of day is it?", LIGHT_ANSWERS[scene.light][0], LIGHT_ANSWERS[scene.light][1:]
    is_yes = bool(rng.random() < 0.5)
    other = choose(rng, [light for light in LIGHTS if light != scene.light])
    texts = {"day": "Is it daytime?", "evening": "Is it evening?", "night": "Is it night?"}
    return texts[scene.light if is_yes else other], *_yes_no(is_yes)


_TEMPLATES: dict[Callable[[Scene, Generator], Draft], float] = {
    _colour: 0.22,
    _how_many: 0.17,
    _what_beside: 0.13,
    _which_kind: 0.13,
    _is_there: 0.13,
    _is_the: 0.12,
    _are_there: 0.03,
    _ground: 0.05,
    _light: 0.04,
}
"""How often each kind of question is tried (relative weights)."""
