"""Masking: the random choices about one example of pre-training: anchors, their fills, masked words, masked regions.

The generator depends on the seed, the epoch and the example alone, so that the order of devices, a loader worker or a
restart changes nothing.

Legend: T word pieces, R regions, K anchors chosen of one example, P pieces of chosen anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmal.data.example import Example, ExampleAnchors
from cmal.model.inputs import FILL_KEEP, FILL_MASK, FILL_SWAP, MaskingPlan
from cmal.regions.boxes import iou_matrix


@dataclass(frozen=True)
class MaskingConfig:
    """The recipe's masking rates; all are shares in [0, 1].

    Attributes:
        anchor: probability that an anchor is chosen; at least one is, where there are any.
        objects, attributes: which roles of anchors are used.
        swap, mask, keep: how the slots of a chosen anchor are filled; they sum to one.
        duplicates: whether duplicates are masked; duplicate_iou: regions overlapping a chosen one by more are duplicates.
        word, region: share of words and regions masked for MLM and MRM; 0 switches it off.
        region_iou: regions overlapping a masked one by more are zeroed with it.
    """

    anchor: float = 0.5
    objects: bool = True
    attributes: bool = True
    swap: float = 0.8
    mask: float = 0.1
    keep: float = 0.1
    duplicates: bool = True
    duplicate_iou: float = 0.4
    word: float = 0.15
    region: float = 0.15
    region_iou: float = 0.4


@dataclass(frozen=True)
class ExampleMasking:
    """What is masked in one example.

    Attributes:
        plan: the chosen anchors; its `example` is all zeros.
        token_ids: (T,) with MLM's replacements; word_positions: (M,) the masked positions, ascending.
        zeroed_region_mask: (R,) True = features zeroed; region_positions: (M',) the regions that MRM predicts.
    """

    plan: MaskingPlan[np.ndarray]
    token_ids: np.ndarray
    word_positions: np.ndarray
    zeroed_region_mask: np.ndarray
    region_positions: np.ndarray


def mask_example(
    example: Example, config: MaskingConfig, mask_id: int, vocabulary: int, generator: np.random.Generator
) -> ExampleMasking:
    """Samples everything that is masked in one example, in a fixed order.

    Args:
        example: with or without anchors.
        config: the config.
        mask_id: id of [MASK]; vocabulary: V.
        generator: of this example.
    """
    overlaps = iou_matrix(example.boxes_unit[:, :4], example.boxes_unit[:, :4])  # (R, R)
    plan = plan_anchors(example, overlaps, config, generator)

    taken_pieces = plan.duplicate_token_mask.copy()
    taken_pieces[plan.piece_position] = True
    token_ids, word_positions = mask_words(example, taken_pieces, config.word, mask_id, vocabulary, generator)

    taken_regions = plan.duplicate_region_mask.copy()
    taken_regions[plan.region] = True
    near_taken = (overlaps[:, taken_regions] > config.region_iou).any(axis=1) | taken_regions
    region_positions = _choose(np.flatnonzero(~near_taken), config.region, generator)
    zeroed = np.asarray((overlaps[:, region_positions] > config.region_iou).any(axis=1))
    zeroed[region_positions] = True
    return ExampleMasking(plan, token_ids, word_positions, zeroed, region_positions)


def choose_anchors(anchors: ExampleAnchors, config: MaskingConfig, generator: np.random.Generator) -> np.ndarray:
    """(K,) indices of the chosen anchors, ascending: one role per region, then each with probability `config.anchor`.

    A region that is an object anchor and an attribute anchor takes one of the two roles, with equal probability; of several
    attributes of a region, one is sampled. At least one anchor is chosen where any of a used role exists.
    """
    found = anchors.anchors
    is_used = np.where(found.is_attribute, config.attributes, config.objects)
    candidates = []
    by_region: dict[int, list[int]] = {}
    for index in np.flatnonzero(is_used).tolist():
        by_region.setdefault(int(found.pairs[index, 0]), []).append(index)
    for rivals in by_region.values():
        if len(rivals) > 1:
            roles = {bool(found.is_attribute[i]) for i in rivals}
            role = bool(generator.random() < 0.5) if len(roles) == 2 else roles.pop()
            rivals = [i for i in rivals if bool(found.is_attribute[i]) == role]
        candidates.append(rivals[int(generator.integers(len(rivals)))] if len(rivals) > 1 else rivals[0])
    return _choose(np.array(sorted(candidates), np.int64), config.anchor, generator)


def _choose(candidates: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Each candidate with probability `rate`, at least one; none where the rate is 0 or there is no candidate."""
    if rate == 0 or len(candidates) == 0:
        return candidates[:0]
    kept = candidates[generator.random(len(candidates)) < rate]
    return kept if len(kept) else candidates[[int(generator.integers(len(candidates)))]]


def plan_anchors(
    example: Example, overlaps: np.ndarray, config: MaskingConfig, generator: np.random.Generator
) -> MaskingPlan[np.ndarray]:
    """Chooses anchors and their fills, and finds their duplicates and positives. overlaps: (R, R) IoU of the regions."""
    anchors = example.anchors
    chosen = choose_anchors(anchors, config, generator) if anchors else np.zeros(0, np.int64)
    fills = np.array([FILL_SWAP, FILL_MASK, FILL_KEEP])
    fill = fills[np.searchsorted(np.cumsum([config.swap, config.mask]), generator.random(len(chosen)), side="right")]
    if anchors is None or len(chosen) == 0:
        return _empty_plan(len(example.token_ids), len(example.boxes_unit))
    found = anchors.anchors
    region, mention = found.pairs[chosen].T
    piece_anchor, piece_position = _spread(anchors.mention_pieces[mention])
    positive_anchor, positive_region, (positive_mention_anchor, positive_mention) = _positives(anchors, chosen)
    piece_of, positive_piece = _spread(anchors.mention_pieces[positive_mention])
    duplicate_pieces, duplicate_regions = find_duplicates(example, anchors, chosen, overlaps, config)
    return MaskingPlan(
        example=np.zeros(len(chosen), np.int64),
        region=region,
        fill=fill,
        concept=found.concepts[chosen],
        is_attribute=found.is_attribute[chosen],
        piece_anchor=piece_anchor,
        piece_position=piece_position,
        duplicate_token_mask=duplicate_pieces,
        duplicate_region_mask=duplicate_regions,
        positive_anchor=positive_anchor,
        positive_region=positive_region,
        positive_piece_anchor=positive_mention_anchor[piece_of],
        positive_piece_position=positive_piece,
    )


def _empty_plan(tokens: int, regions: int) -> MaskingPlan[np.ndarray]:
    none = np.zeros(0, np.int64)
    return MaskingPlan(
        *(none, none, none, none, none.astype(bool), none, none),
        *(np.zeros(tokens, bool), np.zeros(regions, bool), none, none, none, none),
    )


def _spread(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, 2) piece spans -> for every piece in them: the index of its span, and its position."""
    lengths = spans[:, 1] - spans[:, 0]
    owner = np.repeat(np.arange(len(spans)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owner, spans[owner, 0] + within


def _positives(anchors: ExampleAnchors, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All true regions of each chosen anchor's mention, and all true mentions of its region in the same role.

    Returns:
        anchor index (Q,), region (Q,), and (2, W) anchor index and mention.
    """
    found, is_attribute = anchors.anchors, anchors.mentions.is_attribute
    positive_region, positive_mention = found.positives[:, 0], found.positives[:, 1]
    chosen_region, chosen_mention = found.pairs[chosen].T
    same_mention = chosen_mention[:, None] == positive_mention[None, :]
    same_role = found.is_attribute[chosen][:, None] == is_attribute[positive_mention][None, :]
    same_region = (chosen_region[:, None] == positive_region[None, :]) & same_role
    anchor, pair = np.nonzero(same_mention)
    anchor_of_mention, pair_of_mention = np.nonzero(same_region)
    return anchor, positive_region[pair], np.stack([anchor_of_mention, positive_mention[pair_of_mention]])


def find_duplicates(
    example: Example, anchors: ExampleAnchors, chosen: np.ndarray, overlaps: np.ndarray, config: MaskingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (R,) True where a slot would give a chosen anchor away and is no chosen anchor itself.

    Duplicates of an anchor are the other regions of its concept, the regions that overlap its own by more than
    `duplicate_iou`, and the other mentions of its concept in the text [ours].
    """
    is_duplicate_piece = np.zeros(len(example.token_ids), bool)
    is_duplicate_region = np.zeros(len(example.boxes_unit), bool)
    if not config.duplicates:
        return is_duplicate_piece, is_duplicate_region
    found, concepts = anchors.anchors, anchors.region_concepts
    chosen_regions, chosen_mentions = found.pairs[chosen].T
    concepts_chosen, spoken = set(found.concepts[chosen].tolist()), set(chosen_mentions.tolist())
    is_duplicate_region |= (overlaps[:, chosen_regions] > config.duplicate_iou).any(axis=1)
    for region, (thing, attribute) in enumerate(zip(concepts.objects.tolist(), concepts.attributes.tolist())):
        is_duplicate_region[region] |= thing in concepts_chosen or attribute in concepts_chosen
    for region, mention in found.positives.tolist():  # tags linked to a chosen word's concept too
        is_duplicate_region[region] |= mention in spoken
    is_duplicate_region[chosen_regions] = False
    for mention, concept in enumerate(anchors.mentions.concepts.tolist()):
        if concept in concepts_chosen and mention not in spoken:
            is_duplicate_piece[slice(*anchors.mention_pieces[mention])] = True
    return is_duplicate_piece, is_duplicate_region


def mask_words(
    example: Example,
    is_taken: np.ndarray,
    rate: float,
    mask_id: int,
    vocabulary: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking of whole words: 80% become [MASK], 10% random pieces, 10% stay.

    Args:
        is_taken: (T,) True = not to be masked (the slots of chosen anchors and duplicates).

    Returns:
        token_ids (T,) with the replacements, and the masked positions (M,), ascending.
    """
    token_ids = example.token_ids.copy()
    words = example.word_of_token
    taken_words = set(words[is_taken].tolist()) | {-1}
    free = np.array([w for w in range(words.max(initial=-1) + 1) if w not in taken_words], np.int64)
    masked_words = _choose(free, rate, generator)
    kinds = generator.random(len(masked_words))
    kind_of_word = np.full(words.max(initial=-1) + 2, np.nan)  # the last entry is of index -1: [CLS] and [SEP]
    kind_of_word[masked_words] = kinds
    positions = np.flatnonzero(~np.isnan(kind_of_word[words]))
    kind_of_piece = kind_of_word[words[positions]]
    replacements = generator.integers(vocabulary, size=len(positions))
    token_ids[positions[kind_of_piece < 0.8]] = mask_id
    is_random = kind_of_piece >= 0.9
    token_ids[positions[is_random]] = replacements[is_random]
    return token_ids, positions


def sample_matching(image_ids: list[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which caption each image of a micro-batch is paired with in image-text matching.

    A random half of them gets the caption of *another image* of the micro-batch, never one of the same image. Where the
    micro-batch holds no other image the pair stays a match.

    Returns:
        text_of (B,) int64 and is_match (B,) bool.
    """
    size = len(image_ids)
    text_of = np.arange(size)
    _, image = np.unique(image_ids, return_inverse=True)
    for row in generator.permutation(size)[: size // 2]:
        others = np.flatnonzero(image != image[row])
        if len(others):
            text_of[row] = others[generator.integers(len(others))]
    return text_of, image[text_of] == image
