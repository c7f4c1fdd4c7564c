"""The thesaurus: which words and which class names mean the same concept.

It is a text file that a person can read and add to (`cmal/anchors/thesaurus.txt`; made by `recipes/build_thesaurus.py`):

    dog, puppy, pup, hound            one concept a line: canonical name, then aliases
    animal > dog, cat, cow            links: a broader concept and narrower ones
    @attribute grey, gray             a concept of attributes; its names live apart from those of objects
    @stop thing, photo                words that are too general to mean anything
    @verb watch, wave, park           words that are also verbs: "the man watches" is no mention of a watch
    # a comment

A name is found as written, else with its last word in the singular ("traffic lights"). A user's own file is read after
the package's and wins: a line whose first name is known adds to that concept, a name given again moves to the new
line's concept, and a name on a concept line leaves the stop list.

Links are ours; CMAL's synonym dictionary is flat as far as the text at hand says. They are there because detectors name
things more coarsely or finely than people do: COCO has "person" alone, Visual Genome has "man", "guy", "surfer". A word
meets a tag of the same concept, of a broader one (word "man", tag "person") or of a narrower one (word "person", tag
"man"), any number of links up or down, but never sideways ("man", "woman").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import simplemma

from cmal.errors import DataError, list_errors

NO_CONCEPT = -1
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")
_IRREGULAR = frozenset("children geese feet teeth mice oxen lice cacti fungi antennae calves".split())
_SINGULARS = {  # where the lemmatiser leaves a plural, or splits what is one word
    "loaves": "loaf", "sunglasses": "sunglasses", "eyeglasses": "eyeglasses", "trousers": "trousers",
    "overalls": "overalls", "shorts": "shorts", "blinds": "blinds", "drapes": "drapes", "skies": "sky", "skiis": "ski",
    "skis": "ski", "people": "people", "buses": "bus", "busses": "bus", "taxis": "taxi",
    "frisbees": "frisbee", "doughnuts": "doughnut", "zucchinis": "zucchini", "veggies": "veggie", "undies": "undies",
    "leaves": "leaf", "glasses": "glasses", "scissors": "scissors", "binoculars": "binoculars", "knives": "knife",
    "calves": "calf",
    "chips": "chips", "mens": "man", "womens": "woman", "grandchildren": "grandchild", "greens": "greens",
}  # fmt: skip


def name_words(name: str) -> list[str]:
    """The lower-case words of a name, each punctuation mark a word, as captions are parted ("T-shirt" -> t, -, shirt)."""
    return _WORD.findall(name.lower())


def singular(word: str) -> str:
    """The noun a lower-case word is a plural of ("geese" -> "goose"); any other word stays as it is.

    Only what looks like a plural is looked up: to the lemmatiser "parked" is "park" and "drier" is "dry".
    """
    if word in _SINGULARS:
        return _SINGULARS[word]
    looks_plural = (word.endswith("s") and not word.endswith("ss")) or word.endswith("men") or word in _IRREGULAR
    if len(word) < 3 or not looks_plural or not word.isalpha():
        return word
    return simplemma.lemmatize(word, lang="en").lower()


@dataclass
class _Lines:
    """What the files say, names as tuples of words joined by single spaces."""

    objects: list[list[str]] = field(default_factory=list)
    attributes: list[list[str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    stop: set[str] = field(default_factory=set)
    verbs: set[str] = field(default_factory=set)


class Thesaurus:
    """Names of concepts as integers: 0 .. `attribute_start` - 1 are objects, the rest are attributes.

    Attributes:
        concept_names: canonical name by concept id.
        attribute_start: the first attribute id.
        object_names, attribute_names: every name and alias -> concept id. Names are lower-case words joined by one space,
            punctuation marks being words ("t - shirt").
        stop_words: names that mean nothing.
        verbs: names of objects that are verbs as well.
    """

    def __init__(self, lines: _Lines):
        self.object_names, object_canonical = _number(lines.objects, 0)
        self.attribute_start = len(object_canonical)
        self.attribute_names, attribute_canonical = _number(lines.attributes, self.attribute_start)
        self.concept_names = tuple(object_canonical + attribute_canonical)
        self.stop_words = frozenset(lines.stop)
        self.verbs = frozenset(lines.verbs)
        self._narrower: dict[int, list[int]] = {}
        for broad, narrow in lines.links:
            self._narrower.setdefault(self.object_names[broad], []).append(self.object_names[narrow])

    @classmethod
    def load(cls, *extra_files: Path) -> Thesaurus:
        """The package's thesaurus, then the user's files in order.

        Raises:
            DataError: a file cannot be read or has faulty lines; all faults are reported together.
        """
        lines = _Lines()
        _read_into(lines, files("cmal.anchors").joinpath("thesaurus.txt").read_text(encoding="utf-8"), "thesaurus.txt")
        for path in extra_files:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"cannot read the thesaurus {path}", f"the system says: {error}", "check the path"
                ) from error
            _read_into(lines, text, str(path))
        return cls(lines)

    @classmethod
    def from_text(cls, text: str) -> Thesaurus:
        """A thesaurus from its text alone, without the package's. Raises DataError as `load`."""
        lines = _Lines()
        _read_into(lines, text, "the given text")
        return cls(lines)

    def object_concept(self, name: str) -> int:
        """Concept of a class name, -1 for none. Commas part alternatives ("hot dog,hotdog"): the first known one counts."""
        return self._concept(name, self.object_names)

    def attribute_concept(self, name: str) -> int:
        """Concept of an attribute name, -1 for none; commas part alternatives."""
        return self._concept(name, self.attribute_names)

    def _concept(self, name: str, names: dict[str, int]) -> int:
        for alternative in name.split(","):
            words = name_words(alternative)
            if not words:
                continue
            for form in (" ".join(words), " ".join((*words[:-1], singular(words[-1])))):
                if form in self.stop_words and names is self.object_names:
                    break
                if form in names:
                    return names[form]
        return NO_CONCEPT

    @cached_property
    def tags_met(self) -> tuple[tuple[int, ...], ...]:
        """By concept of a word, the concepts of tags it meets: its own first, then all broader and narrower ones."""
        return tuple(
            (concept, *sorted((self.broader[concept] | _reach(concept, self._narrower)) - {concept}))
            for concept in range(len(self.concept_names))
        )

    @cached_property
    def broader(self) -> tuple[frozenset[int], ...]:
        """By concept, all concepts above it."""
        above: dict[int, list[int]] = {}
        for broad, narrow in self._narrower.items():
            for concept in narrow:
                above.setdefault(concept, []).append(broad)
        return tuple(frozenset(_reach(concept, above)) for concept in range(len(self.concept_names)))

    def narrower_than(self, *names: str) -> frozenset[int]:
        """The concepts of these names and all concepts below them; unknown names add nothing."""
        roots = {self.object_concept(name) for name in names} - {NO_CONCEPT}
        return frozenset(roots.union(*(_reach(root, self._narrower) for root in roots)))


def _reach(start: int, edges: dict[int, list[int]]) -> set[int]:
    seen: set[int] = set()
    todo = [start]
    while todo:
        for concept in edges.get(todo.pop(), ()):
            if concept not in seen:
                seen.add(concept)
                todo.append(concept)
    return seen


def _number(concepts: Sequence[list[str]], start: int) -> tuple[dict[str, int], list[str]]:
    """Ids for concepts that still have a name; a name that moved to a later line is no longer in its first one."""
    names: dict[str, int] = {}
    canonical: list[str] = []
    for members in concepts:
        if members:
            names.update(dict.fromkeys(members, start + len(canonical)))
            canonical.append(members[0])
    return names, canonical


def _read_into(lines: _Lines, text: str, source: str) -> None:
    errors = []
    for number, line in _content(text):
        try:
            _read_line(lines, line)
        except ValueError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        raise DataError(
            f"cannot use the thesaurus {source}",
            list_errors(errors),
            'write one concept a line: "canonical name, alias, alias" or "broader > narrower, narrower"',
        )


def _content(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line:
            yield number, line


def _read_line(lines: _Lines, line: str) -> None:
    keyword, _, rest = line.partition(" ")
    if keyword == "@attribute":
        _add_concept(lines.attributes, _names(rest))
    elif keyword == "@stop":
        lines.stop.update(_names(rest))
    elif keyword == "@verb":
        lines.verbs.update(_names(rest))
    elif keyword.startswith("@"):
        raise ValueError(f'unknown keyword "{keyword}"; known: @attribute, @stop, @verb')
    elif ">" in line:
        broad, _, narrow = line.partition(">")
        (broad,) = _names(broad)[:1]
        for name in _names(narrow):
            unknown = [n for n in (broad, name) if not any(n in members for members in lines.objects)]
            if unknown:
                raise ValueError(f'"{unknown[0]}" has no concept line above')
            lines.links.append((broad, name))
    else:
        names = _names(line)
        _add_concept(lines.objects, names)
        lines.stop.difference_update(names)


def _names(text: str) -> list[str]:
    names = [" ".join(name_words(name)) for name in text.split(",")]
    if not all(names):
        raise ValueError("a name is empty")
    return names


def _add_concept(concepts: list[list[str]], names: list[str]) -> None:
    mine = next((members for members in concepts if names[0] in members), None)
    for members in concepts:
        if members is not mine:
            members[:] = [name for name in members if name not in names]
    if mine is None:
        concepts.append(list(dict.fromkeys(names)))
    else:
        mine.extend(name for name in dict.fromkeys(names) if name not in mine)
