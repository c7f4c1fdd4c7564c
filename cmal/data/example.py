"""Record text + regions + anchors -> Example: everything one example brings to a batch, in arrays.

Legend: T word pieces, R regions, S mentions, A anchors, P positive pairs, F raw region features.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from cmal.anchors.finder import AnchorFinder, Anchors, Mentions, RegionConcepts
from cmal.data.text import TokenisedText, WordPieces
from cmal.errors import StoreError
from cmal.regions.store.store import RegionStore
from cmal.regions.types import NO_OBJECT, Regions, are_finite

KEPT = 10_000  # pairs


@dataclass(frozen=True)
class ExampleAnchors:
    """Where tags meet words in one example.

    Attributes:
        mention_pieces: (S, 2) first piece and one past the last of each mention.
        mentions, anchors, region_concepts: as `anchors.py` gives them, over words.
    """

    mention_pieces: np.ndarray
    mentions: Mentions
    anchors: Anchors
    region_concepts: RegionConcepts


@dataclass(frozen=True)
class Example:
    """One text and the regions of one image.

    Attributes:
        token_ids, word_of_token: (T,) word pieces with [CLS] and [SEP], and each piece's word, -1 for those two.
        features: (R, F); boxes_unit: (R, 7) x1 y1 x2 y2 w h w*h, in [0, 1] of the image.
        class_top_ids, class_top_probs: (R, 10) the detector's likeliest classes.
        anchors: None where the builder has no anchor finder (downstream).
    """

    id: str
    image_id: str
    token_ids: np.ndarray
    word_of_token: np.ndarray
    features: np.ndarray
    boxes_unit: np.ndarray
    class_top_ids: np.ndarray
    class_top_probs: np.ndarray
    image_wh_px: tuple[int, int]
    anchors: ExampleAnchors | None = None


@dataclass(frozen=True)
class TagNoise:
    """Wrong tags on purpose: what do anchors cost that are not true?

    Attributes:
        share: probability that a region's class is replaced by one drawn evenly from all classes.
        classes: C of the detector; seed: of the draws, which are the same whenever an image comes.
    """

    share: float
    classes: int
    seed: int

    def on(self, regions: Regions, image_id: str) -> Regions:
        """The regions with some of their `object_ids` changed; features and class distributions stay."""
        if self.share == 0:
            return regions
        generator = np.random.default_rng([self.seed, zlib.crc32(image_id.encode())])
        is_changed = (generator.random(len(regions)) < self.share) & (regions.object_ids != NO_OBJECT)
        drawn = generator.integers(self.classes, size=len(regions))
        return replace(regions, object_ids=np.where(is_changed, drawn, regions.object_ids))


class ExampleBuilder:
    """Joins texts with their images' regions; finds anchors where it was given a finder.

    Texts and anchors of the first `KEPT` pairs are kept, a few kilobytes each: a small set comes many times.

    Args:
        word_pieces: the tokeniser.
        store: the region store.
        max_tokens: word pieces kept of a text, [CLS] and [SEP] included.
        finder: finds anchors, or None.
        noise: of the tags that anchors are found with.
    """

    def __init__(
        self,
        word_pieces: WordPieces,
        store: RegionStore,
        max_tokens: int,
        finder: AnchorFinder | None = None,
        noise: TagNoise | None = None,
    ):
        self.word_pieces, self.store, self.max_tokens = word_pieces, store, max_tokens
        self.finder, self.noise = finder, noise
        self._kept: dict[tuple[str, str], tuple[TokenisedText, ExampleAnchors | None]] = {}

    def build(self, id: str, image_id: str, text: str) -> Example:
        """One Example.

        Raises:
            StoreError: the store does not hold the image, or its features are not finite.
        """
        regions = self.store[image_id]
        if not are_finite(regions.features):
            raise StoreError(
                f'cannot use the regions of the image "{image_id}"',
                "its features hold numbers that are not finite",
                "check the store with cmal extract-regions --verify, or extract the regions again",
            )
        tokenised, anchors = self._read_once(text, image_id, regions)
        return Example(
            id=id,
            image_id=image_id,
            token_ids=tokenised.token_ids,
            word_of_token=tokenised.word_of_token,
            features=regions.features,
            boxes_unit=unit_boxes(regions.boxes_xyxy_px, regions.image_wh_px),
            class_top_ids=regions.class_top_ids,
            class_top_probs=regions.class_top_probs,
            image_wh_px=regions.image_wh_px,
            anchors=anchors,
        )

    def _read_once(self, text: str, image_id: str, regions: Regions) -> tuple[TokenisedText, ExampleAnchors | None]:
        found = self._kept.get((image_id, text))
        if found is None:
            found = self._read(text, self.noise.on(regions, image_id) if self.noise else regions)
            if len(self._kept) < KEPT:
                self._kept[image_id, text] = found
        return found

    def _read(self, text: str, regions: Regions) -> tuple[TokenisedText, ExampleAnchors | None]:
        tokenised = self.word_pieces.encode(text, self.max_tokens)
        if self.finder is None:
            return tokenised, None
        mentions = self.finder.find_mentions(tokenised.words)
        concepts = self.finder.region_concepts(regions)
        anchors = self.finder.find_anchors(mentions, concepts)
        pieces = pieces_of_spans(tokenised.word_of_token, mentions.spans)
        return tokenised, ExampleAnchors(pieces, mentions, anchors, concepts)


def unit_boxes(boxes_xyxy_px: np.ndarray, image_wh_px: tuple[int, int]) -> np.ndarray:
    """(R, 4) pixels -> (R, 7) x1 y1 x2 y2 w h w*h over image width and height, float32, clipped to [0, 1]."""
    width, height = image_wh_px
    xyxy = np.asarray(boxes_xyxy_px, np.float32) / np.array([width, height, width, height], np.float32)
    xyxy = np.minimum(np.maximum(xyxy, 0.0), 1.0)  # half the time of clip
    sides = xyxy[:, 2:] - xyxy[:, :2]  # (R, 2)
    return np.concatenate([xyxy, sides, sides[:, :1] * sides[:, 1:]], axis=1)


def pieces_of_spans(word_of_token: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """(S, 2) word spans, end exclusive -> (S, 2) piece spans, end exclusive. Words' pieces stand in order behind [CLS]."""
    words = word_of_token[1:-1]
    return np.searchsorted(words, spans, side="left") + 1
