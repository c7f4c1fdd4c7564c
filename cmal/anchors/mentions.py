"""Mentions: the words of a caption that name objects and attributes.

The finder looks for the longest name at each position, left to right ("traffic light" is one mention, not "light").
Some words have two uses. These rules decide [ours]:

- Noun before noun: a singular object word directly before another object word only describes it and is no mention
  ("pizza" in "pizza box"). Exception: words for people ("woman surfer" mentions a woman), but not before an animal
  ("mother duck").
- Attribute or object ("brick", "baby"): an attribute directly before an object word, otherwise an object. Words that
  are colours and objects ("orange") are attributes before a joined attribute too ("orange and white cat").
- Verb or object ("watch"): no mention directly after a word for a person or an animal, or after "to", "who", "they"
  and the like.

An attribute modifies [ours]:

- the object that follows it within two words ("a red dog");
- else, after "wearing" or "in", the person just before it ("a man in red");
- else, after "is", "are", "was" or "were", the first object of its clause ("the dog beside the tree is red").

Shapes: W words, S mentions. Arrays are int64 unless stated.

Source: CMAL (arXiv:2410.12595) maps words to concepts through a synonym dictionary. Ours: names of up to three words,
attributes, and the rules above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmal.anchors.thesaurus import NO_CONCEPT, Thesaurus, singular

NO_MENTION = -1
LONGEST_NAME = 3  # words, not counting punctuation marks
ATTRIBUTE_REACH = 2  # words: the largest distance from an attribute to the object after it
_BEFORE_VERBS = frozenset("to who that which they he she it we you can will is are was were as while not".split())
_BETWEEN_ATTRIBUTES = frozenset(("and", ",", "-", "or"))
_CLOTHES_WORDS = frozenset(("wearing", "in"))
_COPULAS = frozenset(("is", "are", "was", "were"))
_CLAUSE_ENDS = frozenset(", . ; and but while".split())
_MAX_WORDS_TO_CLOTHES = 3  # words from a person to the attribute after "wearing" or "in": "a man who is wearing red"
_COLOUR_THINGS = frozenset("orange gold silver chocolate olive lime rose peach tan".split())


@dataclass(frozen=True)
class Mentions:
    """The mentions of one caption, left to right. Spans do not overlap.

    Attributes:
        spans: (S, 2) word positions [start, end).
        concepts: (S,) concept ids of the thesaurus.
        is_attribute: (S,) bool, True for an attribute, False for an object.
        modifies: (S,) for an attribute, the index of the object mention that it modifies; -1 for none and for objects.
    """

    spans: np.ndarray
    concepts: np.ndarray
    is_attribute: np.ndarray
    modifies: np.ndarray

    def __len__(self) -> int:
        return len(self.concepts)


_Found = tuple[int, int, int, bool]  # start, end, concept, is_attribute


class _Candidate(NamedTuple):
    """A name found at words [start, end), with its concept as an object and as an attribute (-1: it is not one)."""

    start: int
    end: int
    thing: int
    attribute: int


class MentionFinder:
    """Finds the mentions of captions with a thesaurus. One finder can be used for any number of captions."""

    def __init__(self, thesaurus: Thesaurus):
        self.thesaurus = thesaurus
        self._people = thesaurus.narrower_than("person")
        self._animals = thesaurus.narrower_than("animal")
        self._animate = self._people | self._animals
        self._longest = _longest_by_first_word(thesaurus)
        self._singular: dict[str, str] = {}

    def find(self, words: Sequence[str]) -> Mentions:
        """The mentions in a caption's lower-case words (from `WordPieces.encode`). Takes about 20 µs: store the result."""
        found: list[_Found] = []
        candidates = self._candidates(words)
        for index, candidate in enumerate(candidates):
            before = found[-1] if found else None
            role = self._role(words, candidates, index, before)
            if role is not None:
                concept = candidate.attribute if role else candidate.thing
                found.append((candidate.start, candidate.end, concept, role))
        count = len(found)
        return Mentions(
            spans=np.array([m[:2] for m in found], dtype=np.int64).reshape(count, 2),
            concepts=np.array([m[2] for m in found], dtype=np.int64),
            is_attribute=np.array([m[3] for m in found], dtype=bool),
            modifies=np.array(self._modified(words, found), dtype=np.int64),
        )

    def _modified(self, words: Sequence[str], found: list[_Found]) -> list[int]:
        """For each mention, the index of the object it modifies, -1 for none. The rules are in the module's docstring."""
        modifies = [NO_MENTION] * len(found)
        thing = NO_MENTION
        for index in range(len(found) - 1, -1, -1):
            start, end, _, is_attribute = found[index]
            if not is_attribute:
                thing = index
            elif thing != NO_MENTION and found[thing][0] - (end - 1) <= ATTRIBUTE_REACH:
                modifies[index] = thing
            elif start and words[start - 1] in _CLOTHES_WORDS:
                modifies[index] = self._wearer(found, index)
            elif start and words[start - 1] in _COPULAS:
                modifies[index] = _subject(words, found, index)
        return modifies

    def _wearer(self, found: list[_Found], attribute: int) -> int:
        """The last object before an attribute after "wearing" or "in", if it is a person close by; else -1."""
        start = found[attribute][0]
        things = [i for i in range(attribute) if not found[i][3]]
        near = bool(things) and start - found[things[-1]][1] <= _MAX_WORDS_TO_CLOTHES
        return things[-1] if near and found[things[-1]][2] in self._people else NO_MENTION

    def _candidates(self, words: Sequence[str]) -> list[_Candidate]:
        """The longest name at each position, left to right, without overlaps."""
        things, attributes, stop = (
            self.thesaurus.object_names,
            self.thesaurus.attribute_names,
            self.thesaurus.stop_words,
        )
        candidates, start = [], 0
        while start < len(words):
            end = start + 1
            for end in range(min(start + self._longest.get(words[start], 1), len(words)), start, -1):
                name = " ".join(words[start:end])
                attribute = attributes.get(name, NO_CONCEPT)
                thing = things.get(name, NO_CONCEPT)
                if thing == NO_CONCEPT and name not in stop:
                    name = " ".join((*words[start : end - 1], self._singular_of(words[end - 1])))
                    thing = things.get(name, NO_CONCEPT)
                if name in stop:
                    thing = NO_CONCEPT
                    if end > start + 1 and attribute == NO_CONCEPT:
                        break  # a stop phrase ("on top") hides the words in it as well
                if thing != NO_CONCEPT or attribute != NO_CONCEPT:
                    candidates.append(_Candidate(start, end, thing, attribute))
                    break
            start = end
        return candidates

    def _singular_of(self, word: str) -> str:
        if word not in self._singular:
            if len(self._singular) > 200_000:  # bounds memory; real data sets have tens of thousands of different words
                self._singular.clear()
            self._singular[word] = singular(word)
        return self._singular[word]

    def _role(
        self,
        words: Sequence[str],
        candidates: list[_Candidate],
        index: int,
        before: _Found | None,
    ) -> bool | None:
        """True: an attribute. False: an object. None: no mention. The rules are in the module's docstring."""
        it = candidates[index]
        if it.thing == NO_CONCEPT:
            return True
        next_one = candidates[index + 1] if index + 1 < len(candidates) else None
        if it.attribute != NO_CONCEPT and (
            self._describes_what_follows(words, candidates, index) or self._describes_what_precedes(words, it, before)
        ):
            return True
        last = words[it.end - 1]
        if it.end == it.start + 1 and (last in self.thesaurus.verbs or self._singular_of(last) in self.thesaurus.verbs):
            after_animate = (
                before is not None and before[1] == it.start and not before[3] and before[2] in self._animate
            )
            if after_animate or (it.start and words[it.start - 1] in _BEFORE_VERBS):
                return None
        if (
            next_one is not None
            and next_one.start == it.end
            and next_one.thing != NO_CONCEPT
            and not (it.thing in self._people and next_one.thing not in self._animals)
            and self._singular_of(last) == last
            and not self._is_verb(words[next_one.start : next_one.end])
        ):
            return True if it.attribute != NO_CONCEPT else None
        return False

    def _describes_what_follows(self, words: Sequence[str], candidates: list[_Candidate], index: int) -> bool:
        """Does an attribute-or-object word describe the words after it ("orange cat", "orange and white cat")?"""
        end = candidates[index].end
        followers = candidates[index + 1 : index + 3]
        if not followers:
            return False
        first, second = followers[0], followers[-1]
        if first.start == end:
            if first.thing == NO_CONCEPT:  # "a brick red wall", but not "a train sitting parked"
                return second.thing != NO_CONCEPT and second.start == first.end
            return not self._is_verb(words[first.start : first.end])
        is_colour = end == candidates[index].start + 1 and words[end - 1] in _COLOUR_THINGS
        joined = all(word in _BETWEEN_ATTRIBUTES for word in words[end : first.start])
        return is_colour and joined and first.thing == NO_CONCEPT

    def _describes_what_precedes(self, words: Sequence[str], it: _Candidate, before: _Found | None) -> bool:
        """Does a colour-or-object word describe an object before it ("the car is orange", "a man in orange")?"""
        if not it.start or before is None or words[it.end - 1] not in _COLOUR_THINGS:
            return False
        word = words[it.start - 1]
        return word in _COPULAS or word == "wearing" or (word == "in" and before[2] in self._people)

    def _is_verb(self, words: Sequence[str]) -> bool:
        return len(words) == 1 and self._singular_of(words[0]) in self.thesaurus.verbs


def _longest_by_first_word(thesaurus: Thesaurus) -> dict[str, int]:
    """{first word: number of words, with punctuation marks, of the longest name that starts with it}."""
    longest: dict[str, int] = {}
    for names in (thesaurus.object_names, thesaurus.attribute_names, thesaurus.stop_words):
        for name in names:
            words = name.split(" ")
            if sum(word.isalnum() for word in words) <= LONGEST_NAME:
                longest[words[0]] = max(longest.get(words[0], 1), len(words))
    return longest


def _subject(words: Sequence[str], found: list[_Found], attribute: int) -> int:
    """The first object in the clause of an attribute after "is"; -1 if the clause has none."""
    start = found[attribute][0]
    clause = next((i + 1 for i in range(start - 1, -1, -1) if words[i] in _CLAUSE_ENDS), 0)
    return next((i for i in range(attribute) if found[i][0] >= clause and not found[i][3]), NO_MENTION)
