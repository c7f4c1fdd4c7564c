"""Anchor points: pairs of an image region and a caption word that mean the same.

A detector gives each region an object tag ("dog"). A caption has words ("puppy"). The thesaurus
(`cmal/anchors/thesaurus.py`) maps both to integer concepts. This is done once per image and once per caption.
`find_anchors` then compares integers only:

- *positives* P: all pairs of a region and a mention whose concepts match (many to many);
- *anchors* A, a subset of P: a one-to-one choice among them. Pre-training masks and swaps at these.

Shapes: W words, S mentions, R regions, A anchors, P positives. Arrays are int64 unless stated.

Source: CMAL (arXiv:2410.12595) pairs object tags with words through a synonym dictionary. Ours: the order in which
regions are chosen, matches between broader and narrower concepts, attribute anchors, and the rules for mentions
(`cmal/anchors/mentions.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cmal.anchors.mentions import NO_MENTION, MentionFinder, Mentions
from cmal.anchors.thesaurus import NO_CONCEPT, Thesaurus
from cmal.errors import DataError


class TaggedRegions(Protocol):
    """What the finder reads of one image's regions. `cmal.regions.types.Regions` has these arrays.

    `object_ids` (R,) and `attribute_ids` (R,) index the detector's names, -1 for none. `object_conf` (R,) is the tag's
    confidence. `boxes_xyxy_px` is (R, 4).
    """

    @property
    def object_ids(self) -> np.ndarray: ...
    @property
    def object_conf(self) -> np.ndarray: ...
    @property
    def attribute_ids(self) -> np.ndarray: ...
    @property
    def boxes_xyxy_px(self) -> np.ndarray: ...


@dataclass(frozen=True)
class RegionConcepts:
    """The concepts of one image's regions.

    Attributes:
        objects: (R,) concept id of each region's tag, -1 for none.
        attributes: (R,) concept id of each region's attribute, -1 for none.
        order: (R,) region indices by descending confidence. Ties: larger area first, then lower index.
    """

    objects: np.ndarray
    attributes: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class Anchors:
    """The anchors and positives of one image and one caption.

    Attributes:
        pairs: (A, 2) columns (region, mention). Object anchors come first, in caption order, then attribute anchors.
            No mention occurs twice. No region occurs twice among the object anchors.
        is_attribute: (A,) bool, True for an attribute anchor.
        concepts: (A,) concept id of the mention. The region's concept is the same, or one above or below it.
        positives: (P, 2) columns (region, mention): every matching pair, of objects and attributes, sorted by mention.
    """

    pairs: np.ndarray
    is_attribute: np.ndarray
    concepts: np.ndarray
    positives: np.ndarray

    def __len__(self) -> int:
        return len(self.concepts)


class AnchorFinder:
    """Finds the mentions of a caption, the concepts of an image's regions, and the anchors between the two.

    Args:
        thesaurus: maps names to concepts.
        class_names: the detector's class names; index = class id. Commas separate alternatives ("hot dog,hotdog").
        attribute_names: the detector's attribute names; index = attribute id. May be empty.

    Attributes:
        unknown_classes: class names without a concept. Regions of these classes never become anchors.
    """

    def __init__(self, thesaurus: Thesaurus, class_names: Sequence[str], attribute_names: Sequence[str]):
        self.thesaurus = thesaurus
        classes = [thesaurus.object_concept(name) for name in class_names]
        attributes = [thesaurus.attribute_concept(name) for name in attribute_names]
        self._class_concepts = np.array([*classes, NO_CONCEPT])  # the last entry is the concept of id -1
        self._attribute_concepts = np.array([*attributes, NO_CONCEPT])
        self.unknown_classes = tuple(n for n, c in zip(class_names, classes) if c == NO_CONCEPT)
        self._matching = [frozenset(concepts) for concepts in thesaurus.matching_concepts]
        self._broader = [broader - {concept} for concept, broader in enumerate(thesaurus.broader)]
        self._mentions = MentionFinder(thesaurus)

    def find_mentions(self, words: Sequence[str]) -> Mentions:
        """The mentions in a caption's lower-case words (from `WordPieces.encode`). Takes about 20 µs: store the result."""
        return self._mentions.find(words)

    def region_concepts(self, regions: TaggedRegions) -> RegionConcepts:
        """The concepts of an image's tags and attributes, and the order in which its regions are chosen.

        Raises:
            DataError: an id is larger than the number of names: regions and names come from different detectors.
        """
        objects = _look_up(self._class_concepts, regions.object_ids, "class")
        attributes = _look_up(self._attribute_concepts, regions.attribute_ids, "attribute")
        boxes = np.asarray(regions.boxes_xyxy_px, dtype=np.float64).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = np.lexsort((-areas, -np.asarray(regions.object_conf, dtype=np.float64)))
        return RegionConcepts(objects, attributes, order)

    def find_anchors(self, mentions: Mentions, regions: TaggedRegions | RegionConcepts) -> Anchors:
        """The positives and the one-to-one anchors of one caption and one image.

        Object anchors are chosen in two passes over the object mentions, left to right:

        1. Each mention takes the first free region of its own concept, or else of a broader one (word "man", tag
           "person"). "First" follows `RegionConcepts.order`.
        2. Each mention still without a region takes the first free region of a narrower concept (word "animal", tag
           "cat").

        The second pass waits so that "an animal beside a cat" leaves the cat's region to "cat".
        An attribute mention shares the region of the object it modifies, if the detector gave that region this
        attribute.

        Args:
            mentions: of the caption, from `find_mentions`.
            regions: of the image. `RegionConcepts` save the look-up when an image occurs more than once (then about
                10 µs per call).

        Example: regions [dog, tree, dog] with equal confidence, the second dog larger; words [two dogs run]:
            positives [[0, 0], [2, 0]], pairs [[2, 0]].
        """
        if not isinstance(regions, RegionConcepts):
            regions = self.region_concepts(regions)
        if not len(mentions) or not len(regions.objects):
            return _NO_ANCHORS
        concepts = mentions.concepts.tolist()
        tags = regions.objects.tolist()
        any_match = frozenset().union(*[self._matching[concept] for concept in concepts])
        tagged = [(region, tags[region]) for region in regions.order.tolist() if tags[region] in any_match]
        if not tagged:
            return _NO_ANCHORS
        exact, narrower = self._candidates(concepts, tagged)
        region_of = _take_one_to_one(exact, narrower)
        # Attribute mentions have no candidates yet, because no tag has an attribute's concept.
        matches = [sorted(a + b) for a, b in zip(exact, narrower)]
        pairs = [(region_of[mention], mention) for mention in sorted(region_of)]
        object_count = len(pairs)
        attribute_of = regions.attributes.tolist()
        for mention, thing in enumerate(mentions.modifies.tolist()):
            if thing != NO_MENTION and matches[thing]:
                concept = concepts[mention]
                matches[mention] = [region for region in matches[thing] if attribute_of[region] == concept]
                if thing in region_of and attribute_of[region_of[thing]] == concept:
                    pairs.append((region_of[thing], mention))
        return _as_anchors(pairs, object_count, concepts, matches)

    def _candidates(
        self, concepts: list[int], tagged: list[tuple[int, int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Two lists of candidate regions per mention, each in order of choice.

        Args:
            concepts: of the mentions.
            tagged: (region, concept of its tag), in order of choice.

        Returns:
            exact: regions of the mention's own concept, then of broader ones.
            narrower: regions of narrower concepts.
        """
        exact, narrower = [], []
        for concept in concepts:
            matching, broader = self._matching[concept], self._broader[concept]
            own: list[int] = []
            above: list[int] = []
            below: list[int] = []
            for region, tag in tagged:
                if tag in matching:
                    (own if tag == concept else above if tag in broader else below).append(region)
            exact.append(own + above)
            narrower.append(below)
        return exact, narrower


def _take_one_to_one(exact: list[list[int]], narrower: list[list[int]]) -> dict[int, int]:
    """Returns {mention: region}. All mentions choose from `exact` first; those without a region choose from `narrower`."""
    region_of: dict[int, int] = {}
    used: set[int] = set()
    for choices in (exact, narrower):
        for mention, candidates in enumerate(choices):
            if mention in region_of:
                continue
            for region in candidates:
                if region not in used:
                    used.add(region)
                    region_of[mention] = region
                    break
    return region_of


def _as_anchors(
    pairs: list[tuple[int, int]], object_count: int, concepts: list[int], matches: list[list[int]]
) -> Anchors:
    positives = [
        number for mention, regions in enumerate(matches) for region in regions for number in (region, mention)
    ]
    flat = [number for pair in pairs for number in pair]
    return Anchors(  # from flat lists: numpy needs three times as long for nested ones
        pairs=np.array(flat, dtype=np.int64).reshape(-1, 2),
        is_attribute=np.array([index >= object_count for index in range(len(pairs))], dtype=bool),
        concepts=np.array([concepts[mention] for mention in flat[1::2]], dtype=np.int64),
        positives=np.array(positives, dtype=np.int64).reshape(-1, 2),
    )


_NO_ANCHORS = _as_anchors([], 0, [], [])


def _look_up(concepts: np.ndarray, ids: np.ndarray, what: str) -> np.ndarray:
    """(R,) concept of each id, -1 where the id is negative."""
    ids = np.asarray(ids, dtype=np.int64)
    count = len(concepts) - 1
    if len(ids) and ids.max() >= count:
        raise DataError(
            "cannot map regions to concepts",
            f"a region has {what} id {ids.max()}, but only {count:,} {what} names are known",
            f"pass the {what} names of the detector that wrote the region store (they are in its index.json)",
        )
    return concepts[np.maximum(ids, -1)]
