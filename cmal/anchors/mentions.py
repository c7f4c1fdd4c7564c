"""Mentions: where a caption speaks of things and of attributes.

Rules for words with two uses [ours]:
- the longest name wins: "traffic light" is no light;
- a singular thing-word right before another thing-word only describes it: "pizza box" is no pizza (people excepted: a
  "woman surfer" is a woman, but "mother duck" is no mother of people);
- a word that is an attribute and a thing ("brick", "baby") is an attribute right before a thing-word, else a thing; one
  that names a colour is an attribute before "and white" too ("orange and white cat");
- a word that is also a verb is no mention right after a word for a person or animal, or after "to", "who", "they" ...

What an attribute modifies [ours]: the thing that follows it ("a red dog"); else, after "wearing" or "in", the person just
before ("a man in red"); else, after "is", the first thing of its clause ("the dog beside the tree is red").

Legend: W words, S mentions. All arrays are int64 unless stated.

Source: CMAL (arXiv:2410.12595) maps words to concepts by a synonym dictionary. Ours: names of up to three words, attributes,
and the rules above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmal.anchors.thesaurus import NO_CONCEPT, Thesaurus, singular

NO_MENTION = -1
LONGEST_NAME = 3  # words, punctuation marks not counted
ATTRIBUTE_REACH = 2  # words before the thing that an attribute may stand
_BEFORE_VERBS = frozenset("to who that which they he she it we you can will is are was were as while not".split())
_BETWEEN_ATTRIBUTES = frozenset(("and", ",", "-", "or"))
_CLOTHES_WORDS = frozenset(("wearing", "in"))
_COPULAS = frozenset(("is", "are", "was", "were"))
_CLAUSE_ENDS = frozenset(", . ; and but while".split())
_MAX_WORDS_TO_CLOTHES = 3  # from a person to "wearing" or "in": "a man who is wearing red"
_COLOUR_THINGS = frozenset("orange gold silver chocolate olive lime rose peach tan".split())


@dataclass(frozen=True)
class Mentions:
    """Where a caption speaks of things and attributes, left to right; spans never overlap.

    Attributes:
        spans: (S, 2) first word and one past the last.
        concepts: (S,) concept ids of the thesaurus.
        is_attribute: (S,) bool.
        modifies: (S,) for an attribute the index of the thing's mention it describes, else -1.
    """

    spans: np.ndarray
    concepts: np.ndarray
    is_attribute: np.ndarray
    modifies: np.ndarray

    def __len__(self) -> int:
        return len(self.concepts)


_Found = tuple[int, int, int, bool]  # first word, one past the last, concept, is an attribute


class _Candidate(NamedTuple):
    """A name found in a caption: word index, one past the last, and what it may mean (-1: not that)."""

    start: int
    end: int
    thing: int
    attribute: int


class MentionFinder:
    """Finds mentions by a thesaurus; one finder serves any number of captions."""

    def __init__(self, thesaurus: Thesaurus):
        self.thesaurus = thesaurus
        self._people = thesaurus.narrower_than("person")
        self._animals = thesaurus.narrower_than("animal")
        self._animate = self._people | self._animals
        self._longest = _longest_by_first_word(thesaurus)
        self._singular: dict[str, str] = {}

    def find(self, words: Sequence[str]) -> Mentions:
        """Mentions in the lower-case words of a caption, as `WordPieces.encode` gives them. About 20 µs; keep the result."""
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
        """For each mention the index of the thing it modifies, -1 for none; see the module's docstring."""
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
        """The person just before an attribute that follows "wearing" or "in"; -1 where it is somebody or something else."""
        start = found[attribute][0]
        things = [i for i in range(attribute) if not found[i][3]]
        near = bool(things) and start - found[things[-1]][1] <= _MAX_WORDS_TO_CLOTHES
        return things[-1] if near and found[things[-1]][2] in self._people else NO_MENTION

    def _candidates(self, words: Sequence[str]) -> list[_Candidate]:
        """Longest names, left to right."""
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
                        break  # "on top": the whole name means nothing, and so do its words
                if thing != NO_CONCEPT or attribute != NO_CONCEPT:
                    candidates.append(_Candidate(start, end, thing, attribute))
                    break
            start = end
        return candidates

    def _singular_of(self, word: str) -> str:
        if word not in self._singular:
            if len(self._singular) > 200_000:  # a bound on memory; captions hold a few ten thousand different words
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
        """True: an attribute; False: a thing; None: neither. The rules of the module's docstring."""
        it = candidates[index]
        if it.thing == NO_CONCEPT:
            return True
        next_one = candidates[index + 1] if index + 1 < len(candidates) else None
        if it.attribute != NO_CONCEPT and (
            self._describes_what_follows(words, candidates, index) or self._describes_what_came(words, it, before)
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
        """Whether a word that is an attribute and a thing describes what follows: "orange cat", "orange and white cat"."""
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

    def _describes_what_came(self, words: Sequence[str], it: _Candidate, before: _Found | None) -> bool:
        """Whether a colour that is also a thing describes what came: "the car is orange", "a man in orange"."""
        if not it.start or before is None or words[it.end - 1] not in _COLOUR_THINGS:
            return False
        word = words[it.start - 1]
        return word in _COPULAS or word == "wearing" or (word == "in" and before[2] in self._people)

    def _is_verb(self, words: Sequence[str]) -> bool:
        return len(words) == 1 and self._singular_of(words[0]) in self.thesaurus.verbs


def _longest_by_first_word(thesaurus: Thesaurus) -> dict[str, int]:
    """By first word, how many words (punctuation marks too) the longest name has that begins with it."""
    longest: dict[str, int] = {}
    for names in (thesaurus.object_names, thesaurus.attribute_names, thesaurus.stop_words):
        for name in names:
            words = name.split(" ")
            if sum(word.isalnum() for word in words) <= LONGEST_NAME:
                longest[words[0]] = max(longest.get(words[0], 1), len(words))
    return longest


def _subject(words: Sequence[str], found: list[_Found], attribute: int) -> int:
    """The first thing of the clause that ends in the attribute after "is"; -1 where it names none."""
    start = found[attribute][0]
    clause = next((i + 1 for i in range(start - 1, -1, -1) if words[i] in _CLAUSE_ENDS), 0)
    return next((i for i in range(attribute) if found[i][0] >= clause and not found[i][3]), NO_MENTION)
