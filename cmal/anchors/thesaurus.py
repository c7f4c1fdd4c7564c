"""The thesaurus: maps words and class names to concepts.

It is a text file that can be read and extended by hand (`cmal/anchors/thesaurus.txt`, built by
`recipes/build_thesaurus.py`). Each line is one entry:

    dog, puppy, pup, hound            a concept: canonical name, then aliases
    animal > dog, cat, cow            links: a broader concept and its narrower concepts
    @attribute grey, gray             an attribute concept; attribute names do not clash with object names
    @stop thing, photo                names that are too general to be a concept
    @verb watch, wave, park           object names that are verbs as well
    # a comment

Look-up: a name is searched as written, then with its last word in the singular ("traffic lights").

User files: they are read after the package's file and override it. A line whose first name is known adds its aliases to
that concept. A name that occurs again moves to the later concept. A name on a concept line is no longer a stop word.

Links: a word matches a tag of the same concept, of a broader concept (word "man", tag "person") or of a narrower one
(word "person", tag "man"), over any number of links. Siblings ("man", "woman") do not match.

Source: CMAL (arXiv:2410.12595) uses a synonym dictionary, which its text does not describe further. Links are ours. They
bridge detectors with different vocabularies: COCO has only "person"; Visual Genome has "man", "guy" and "surfer" too.
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
_SINGULARS = {  # corrections to simplemma, which leaves some plurals and changes some words that are no plurals
    "loaves": "loaf", "sunglasses": "sunglasses", "eyeglasses": "eyeglasses", "trousers": "trousers",
    "overalls": "overalls", "shorts": "shorts", "blinds": "blinds", "drapes": "drapes", "skies": "sky", "skiis": "ski",
    "skis": "ski", "people": "people", "buses": "bus", "busses": "bus", "taxis": "taxi",
    "frisbees": "frisbee", "doughnuts": "doughnut", "zucchinis": "zucchini", "veggies": "veggie", "undies": "undies",
    "leaves": "leaf", "glasses": "glasses", "scissors": "scissors", "binoculars": "binoculars", "knives": "knife",
    "calves": "calf",
    "chips": "chips", "mens": "man", "womens": "woman", "grandchildren": "grandchild", "greens": "greens",
}  # fmt: skip


def name_words(name: str) -> list[str]:
    """The lower-case words of a name. Each punctuation mark is a word, as in captions ("T-shirt" -> t, -, shirt)."""
    return _WORD.findall(name.lower())


def singular(word: str) -> str:
    """The singular of a lower-case plural noun ("geese" -> "goose"). Other words are returned unchanged.

    Only words that look like plurals go to simplemma, because it also maps "parked" to "park" and "drier" to "dry".
    """
    if word in _SINGULARS:
        return _SINGULARS[word]
    looks_plural = (word.endswith("s") and not word.endswith("ss")) or word.endswith("men") or word in _IRREGULAR
    if len(word) < 3 or not looks_plural or not word.isalpha():
        return word
    return simplemma.lemmatize(word, lang="en").lower()


@dataclass
class _Lines:
    """The parsed entries of all files. A name is its words joined by single spaces; links are (broader, narrower)."""

    objects: list[list[str]] = field(default_factory=list)
    attributes: list[list[str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    stop: set[str] = field(default_factory=set)
    verbs: set[str] = field(default_factory=set)


class Thesaurus:
    """Concepts as integers: ids below `attribute_start` are objects, the others are attributes.

    Attributes:
        concept_names: canonical name of each concept id.
        attribute_start: the first attribute id.
        object_names, attribute_names: name or alias -> concept id. A name is its lower-case words joined by one space;
            punctuation marks count as words ("t - shirt").
        stop_words: names that have no concept.
        verbs: object names that are verbs as well ("watch").
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
        """Reads the package's thesaurus, then the user's files in the given order.

        Raises:
            DataError: a file cannot be read, or has invalid lines (all are listed in one message).
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
        """Reads a thesaurus from a string, without the package's entries. Raises DataError for invalid lines."""
        lines = _Lines()
        _read_into(lines, text, "the given text")
        return cls(lines)

    def object_concept(self, name: str) -> int:
        """Concept id of a class name, -1 for none. Commas separate alternatives ("hot dog,hotdog"); the first known wins."""
        return self._concept(name, self.object_names)

    def attribute_concept(self, name: str) -> int:
        """Concept id of an attribute name, -1 for none. Alternatives as in `object_concept`."""
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
    def matching_concepts(self) -> tuple[tuple[int, ...], ...]:
        """For each concept id, the concepts that match it: itself first, then all broader and narrower ones by id."""
        return tuple(
            (concept, *sorted((self.broader[concept] | _reach(concept, self._narrower)) - {concept}))
            for concept in range(len(self.concept_names))
        )

    @cached_property
    def broader(self) -> tuple[frozenset[int], ...]:
        """For each concept id, all concepts above it over any number of links."""
        above: dict[int, list[int]] = {}
        for broad, narrow in self._narrower.items():
            for concept in narrow:
                above.setdefault(concept, []).append(broad)
        return tuple(frozenset(_reach(concept, above)) for concept in range(len(self.concept_names)))

    def narrower_than(self, *names: str) -> frozenset[int]:
        """The concepts of these object names and all concepts below them. Unknown names are ignored."""
        roots = {self.object_concept(name) for name in names} - {NO_CONCEPT}
        return frozenset(roots.union(*(_reach(root, self._narrower) for root in roots)))


def _reach(start: int, edges: dict[int, list[int]]) -> set[int]:
    """All concepts that can be reached from `start` over at least one edge."""
    seen: set[int] = set()
    todo = [start]
    while todo:
        for concept in edges.get(todo.pop(), ()):
            if concept not in seen:
                seen.add(concept)
                todo.append(concept)
    return seen


def _number(concepts: Sequence[list[str]], start: int) -> tuple[dict[str, int], list[str]]:
    """Numbers the concepts from `start`. Returns {name: id} and the canonical names.

    A concept is skipped if all its names have moved to later lines.
    """
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
            'write one entry per line: "canonical name, alias, alias" or "broader > narrower, narrower"',
        )


def _content(text: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of every line that holds more than a comment."""
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
    """Adds `names` to the concept that has the first of them, else as a new concept, and removes them from all others."""
    mine = next((members for members in concepts if names[0] in members), None)
    for members in concepts:
        if members is not mine:
            members[:] = [name for name in members if name not in names]
    if mine is None:
        concepts.append(list(dict.fromkeys(names)))
    else:
        mine.extend(name for name in dict.fromkeys(names) if name not in mine)
