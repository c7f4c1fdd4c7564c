"""Anchor points: where object tags meet words.

A region has a tag (the detector's class name), a caption has words; both are mapped to integer concepts through the
thesaurus (`cmal/thesaurus.py`), once for each caption and each image. What is left then, `find_anchors`, is the
operator O ⊕ W on integers: all pairs of a region and a mention that meet are *positives* P (many to many), and the
*anchors* A ⊆ P are one to one, for swapping.

Legend: W words, S mentions, R regions, A anchors, P positive pairs. All arrays are int64 unless stated.

Source: CMAL (arXiv:2410.12595): anchor points between object tags and words, through a synonym dictionary. Ours: spans of
up to three words, the order of choice, links between broader and narrower concepts, attribute anchors, and the rules
below for words with two uses.

Rules for words with two uses [ours]:
- the longest name wins: "traffic light" is no light;
- a singular thing-word right before another thing-word only describes it: "pizza box" is no pizza (people excepted: a
  "woman surfer" is a woman, but "mother duck" is no mother of people);
- a word that is an attribute and a thing ("brick", "baby") is an attribute right before a thing-word, else a thing; one
  that names a colour is an attribute before "and white" too ("orange and white cat");
- a word that is also a verb is no mention right after a word for a person or animal, or after "to", "who", "they" ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmal.errors import DataError
from cmal.regions.types import Regions
from cmal.thesaurus import NO_CONCEPT, Thesaurus, singular

NO_MENTION = -1
LONGEST_NAME = 3  # words, punctuation marks not counted
ATTRIBUTE_REACH = 2  # words before the thing that an attribute may stand
_BEFORE_VERBS = frozenset("to who that which they he she it we you can will is are was were as while not".split())
_BETWEEN_ATTRIBUTES = frozenset(("and", ",", "-", "or"))
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


@dataclass(frozen=True)
class RegionConcepts:
    """The regions of one image as concepts.

    Attributes:
        objects: (R,) concept of each tag, -1 for none.
        attributes: (R,) concept of each attribute, -1 for none.
        order: (R,) region indices, first choice first: highest confidence, then larger area, then lower index.
    """

    objects: np.ndarray
    attributes: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class Anchors:
    """Anchors of one image and caption.

    Attributes:
        pairs: (A, 2) columns (region, mention). Object anchors come first, left to right, then attribute anchors. Among
            the object anchors no region and no mention comes twice, and so among the attribute anchors' mentions.
        is_attribute: (A,) bool.
        concepts: (A,) concept of the mention; the region's is the same, or linked to it.
        positives: (P, 2) all pairs (region, mention) that meet, of objects and of attributes, sorted by mention.
    """

    pairs: np.ndarray
    is_attribute: np.ndarray
    concepts: np.ndarray
    positives: np.ndarray

    def __len__(self) -> int:
        return len(self.concepts)


class _Candidate(NamedTuple):
    """A name found in a caption: word index, one past the last, and what it may mean (-1: not that)."""

    start: int
    end: int
    thing: int
    attribute: int


class AnchorFinder:
    """Finds mentions in captions, concepts of regions, and anchors between them.

    Args:
        thesaurus: the concepts.
        class_names: the detector's classes in id order; commas part alternatives ("hot dog,hotdog").
        attribute_names: the detector's attributes in id order; may be empty.

    Attributes:
        unknown_classes: class names without a concept; no region of theirs is ever an anchor.
    """

    def __init__(self, thesaurus: Thesaurus, class_names: Sequence[str], attribute_names: Sequence[str]):
        self.thesaurus = thesaurus
        self._class_concepts = np.array([thesaurus.object_concept(n) for n in class_names], dtype=np.int64)
        self._attribute_concepts = np.array([thesaurus.attribute_concept(n) for n in attribute_names], dtype=np.int64)
        self.unknown_classes = tuple(n for n, c in zip(class_names, self._class_concepts) if c == NO_CONCEPT)
        self._met = [frozenset(concepts) for concepts in thesaurus.tags_met]
        self._people = thesaurus.narrower_than("person")
        self._animals = thesaurus.narrower_than("animal")
        self._animate = self._people | self._animals
        self._longest = _longest_by_first_word(thesaurus)
        self._singular: dict[str, str] = {}

    def find_mentions(self, words: Sequence[str]) -> Mentions:
        """Mentions in the lower-case words of a caption, as `WordPieces.encode` gives them. About 20 µs; keep the result."""
        found: list[tuple[int, int, int, bool]] = []
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
            modifies=np.array(_modified(found), dtype=np.int64),
        )

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
        before: tuple[int, int, int, bool] | None,
    ) -> bool | None:
        """True: an attribute; False: a thing; None: neither. The four rules of the module's docstring."""
        it = candidates[index]
        if it.thing == NO_CONCEPT:
            return True
        next_one = candidates[index + 1] if index + 1 < len(candidates) else None
        if it.attribute != NO_CONCEPT and self._describes_what_follows(words, candidates, index):
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

    def _is_verb(self, words: Sequence[str]) -> bool:
        return len(words) == 1 and self._singular_of(words[0]) in self.thesaurus.verbs

    def region_concepts(self, regions: Regions) -> RegionConcepts:
        """Concepts of an image's tags and attributes, and the order in which regions are chosen.

        Raises:
            DataError: an id lies beyond the class or attribute names: the store and the names do not belong together.
        """
        objects = _look_up(self._class_concepts, regions.object_ids, "class")
        attributes = _look_up(self._attribute_concepts, regions.attribute_ids, "attribute")
        boxes = np.asarray(regions.boxes_xyxy_px, dtype=np.float64).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = np.lexsort((-areas, -np.asarray(regions.object_conf, dtype=np.float64)))
        return RegionConcepts(objects, attributes, order)

    def find_anchors(self, mentions: Mentions, regions: Regions | RegionConcepts) -> Anchors:
        """Positives and one-to-one anchors of one caption and one image.

        Args:
            mentions: of the caption, from `find_mentions`.
            regions: of the image; give the `RegionConcepts` where the image comes more than once (fast: about 10 µs).

        Mentions of things, left to right, each take the first unused region of their own concept in the regions' order of
        choice; then those left without take one of a linked concept ("an animal beside a cat" leaves the cat to "cat"). An
        attribute takes the region of the thing it modifies, if that region has this attribute.

        Example: regions [dog, tree, dog], words [two dogs run], all as confident, the second dog larger:
            positives [[0, 0], [2, 0]], pairs [[2, 0]].
        """
        if isinstance(regions, Regions):
            regions = self.region_concepts(regions)
        if not len(mentions) or not len(regions.objects):
            return _NO_ANCHORS
        concepts = mentions.concepts.tolist()
        met = self._met
        wanted = frozenset().union(*[met[concept] for concept in concepts])
        tags = regions.objects.tolist()
        hits = [(region, tags[region]) for region in regions.order.tolist() if tags[region] in wanted]
        if not hits:
            return _NO_ANCHORS
        own = [[region for region, tag in hits if tag == concept] for concept in concepts]
        linked = [[region for region, tag in hits if tag != concept and tag in met[concept]] for concept in concepts]
        taken = _take_one_to_one(own, linked)
        meeting = [sorted(a + b) for a, b in zip(own, linked)]  # of attributes none yet: no tag has their ids
        pairs = [(taken[mention], mention) for mention in sorted(taken)]
        object_count = len(pairs)
        attribute_of = regions.attributes.tolist()
        for mention, thing in enumerate(mentions.modifies.tolist()):
            if thing != NO_MENTION and meeting[thing]:
                concept = concepts[mention]
                meeting[mention] = [region for region in meeting[thing] if attribute_of[region] == concept]
                if thing in taken and attribute_of[taken[thing]] == concept:
                    pairs.append((taken[thing], mention))
        return _as_anchors(pairs, object_count, concepts, meeting)


def _take_one_to_one(own: list[list[int]], linked: list[list[int]]) -> dict[int, int]:
    """mention -> region, first for all mentions with a region of their own concept, then by links; left to right."""
    taken: dict[int, int] = {}
    used: set[int] = set()
    for choices in (own, linked):
        for mention, candidates in enumerate(choices):
            if mention in taken:
                continue
            for region in candidates:
                if region not in used:
                    used.add(region)
                    taken[mention] = region
                    break
    return taken


def _as_anchors(
    pairs: list[tuple[int, int]], object_count: int, concepts: list[int], meeting: list[list[int]]
) -> Anchors:
    positives = [
        number for mention, regions in enumerate(meeting) for region in regions for number in (region, mention)
    ]
    flat = [number for pair in pairs for number in pair]
    return Anchors(  # from flat lists: numpy takes three times as long over nested ones
        pairs=np.array(flat, dtype=np.int64).reshape(-1, 2),
        is_attribute=np.array([index >= object_count for index in range(len(pairs))], dtype=bool),
        concepts=np.array([concepts[mention] for mention in flat[1::2]], dtype=np.int64),
        positives=np.array(positives, dtype=np.int64).reshape(-1, 2),
    )


_NO_ANCHORS = _as_anchors([], 0, [], [])


def _longest_by_first_word(thesaurus: Thesaurus) -> dict[str, int]:
    """By first word, how many words (punctuation marks too) the longest name has that begins with it."""
    longest: dict[str, int] = {}
    for names in (thesaurus.object_names, thesaurus.attribute_names, thesaurus.stop_words):
        for name in names:
            words = name.split(" ")
            if sum(word.isalnum() for word in words) <= LONGEST_NAME:
                longest[words[0]] = max(longest.get(words[0], 1), len(words))
    return longest


def _modified(found: list[tuple[int, int, int, bool]]) -> list[int]:
    """For each mention the index of the thing it modifies: the next one, if it starts at most two words on."""
    modifies = [NO_MENTION] * len(found)
    thing = NO_MENTION
    for index in range(len(found) - 1, -1, -1):
        _, end, _, is_attribute = found[index]
        if not is_attribute:
            thing = index
        elif thing != NO_MENTION and found[thing][0] - (end - 1) <= ATTRIBUTE_REACH:
            modifies[index] = thing
    return modifies


def _look_up(concepts: np.ndarray, ids: np.ndarray, what: str) -> np.ndarray:
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and ids.max() >= len(concepts):
        raise DataError(
            "cannot map regions to concepts",
            f"a region has {what} id {ids.max()}, but only {len(concepts):,} {what} names are known",
            f"give the {what} names of the detector that made the region store (they are in its index.json)",
        )
    if not len(concepts):
        return np.full(len(ids), NO_CONCEPT, dtype=np.int64)
    return np.where(ids < 0, NO_CONCEPT, concepts[ids])
