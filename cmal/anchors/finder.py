"""Anchor points: where object tags meet words.

A region has a tag (the detector's class name), a caption has words; both are mapped to integer concepts through the
thesaurus (`cmal/anchors/thesaurus.py`), once for each caption and each image. What is left then, `find_anchors`, is the
operator O ⊕ W on integers: all pairs of a region and a mention that meet are *positives* P (many to many), and the
*anchors* A ⊆ P are one to one, for swapping.

Legend: W words, S mentions, R regions, A anchors, P positive pairs. All arrays are int64 unless stated.

Source: CMAL (arXiv:2410.12595): anchor points between object tags and words, through a synonym dictionary. Ours: the
order of choice, links between broader and narrower concepts, attribute anchors, and what counts as a mention
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
    """The regions of one image as the finder needs them; `cmal.regions.types.Regions` has these arrays."""

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
        self._broader = [broader - {concept} for concept, broader in enumerate(thesaurus.broader)]
        self._mentions = MentionFinder(thesaurus)

    def find_mentions(self, words: Sequence[str]) -> Mentions:
        """Mentions in the lower-case words of a caption, as `WordPieces.encode` gives them. About 20 µs; keep the result."""
        return self._mentions.find(words)

    def region_concepts(self, regions: TaggedRegions) -> RegionConcepts:
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

    def find_anchors(self, mentions: Mentions, regions: TaggedRegions | RegionConcepts) -> Anchors:
        """Positives and one-to-one anchors of one caption and one image.

        Args:
            mentions: of the caption, from `find_mentions`.
            regions: of the image; give the `RegionConcepts` where the image comes more than once (fast: about 10 µs).

        Mentions of things, left to right, each take the first unused region of their own concept in the regions' order of
        choice, or else of a broader one; then those left without take one of a narrower concept ("an animal beside a cat"
        leaves the cat to "cat"). So words at least as exact as the tags come first: of two regions tagged as persons, "a
        player in front of people" gives the likelier one to the player. An attribute takes the region of the thing it
        modifies, if that region has this attribute.

        Example: regions [dog, tree, dog], words [two dogs run], all as confident, the second dog larger:
            positives [[0, 0], [2, 0]], pairs [[2, 0]].
        """
        if not isinstance(regions, RegionConcepts):
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
        exact, narrower = self._candidates(concepts, hits)
        taken = _take_one_to_one(exact, narrower)
        meeting = [sorted(a + b) for a, b in zip(exact, narrower)]  # of attributes none yet: no tag has their ids
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

    def _candidates(self, concepts: list[int], hits: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
        """For each mention its regions, first choice first: those of its own and then of broader concepts; of narrower ones.

        Args:
            concepts: of the mentions.
            hits: (region, concept of its tag) in the order of choice.
        """
        exact, narrower = [], []
        for concept in concepts:
            met, broader = self._met[concept], self._broader[concept]
            own, above, below = [], [], []
            for region, tag in hits:
                if tag in met:
                    (own if tag == concept else above if tag in broader else below).append(region)
            exact.append(own + above)
            narrower.append(below)
        return exact, narrower


def _take_one_to_one(exact: list[list[int]], narrower: list[list[int]]) -> dict[int, int]:
    """mention -> region, left to right: first among the mentions' exact candidates, then among the narrower ones."""
    taken: dict[int, int] = {}
    used: set[int] = set()
    for choices in (exact, narrower):
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
