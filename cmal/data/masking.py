"""All that chance decides about one example of pre-training: anchors, fills, duplicates, masked words, masked regions.

Drawn from a generator that depends on the seed, the epoch and the example alone, so that an order of devices, a worker or
a restart changes nothing.

Legend: T word pieces, R regions, K anchors chosen of one example, P pieces of chosen anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmal.data.example import Example, ExampleAnchors
from cmal.model.prompt import FILL_KEEP, FILL_MASK, FILL_SWAP
from cmal.regions.boxes import iou_matrix


@dataclass(frozen=True)
class MaskingConfig:
    """What the recipe says of chance; all are shares in [0, 1].

    Attributes:
        anchor: probability that an anchor is chosen; at least one is, where any exists.
        objects, attributes: which roles of anchors are used.
        swap, mask, keep: how a chosen anchor's slots are filled; they sum to one.
        duplicate_iou: regions overlapping a chosen one by more are masked; duplicates: whether duplicates are masked at all.
        word, region: share of words and regions masked for MLM and MRM; 0 switches off.
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
    """One example's draws; fields as in `PromptPlan` and `MaskedInputs`, for this example alone."""

    anchor_regions: np.ndarray
    anchor_fills: np.ndarray
    anchor_concepts: np.ndarray
    anchor_is_attribute: np.ndarray
    piece_anchor: np.ndarray
    piece_position: np.ndarray
    duplicate_token_mask: np.ndarray
    duplicate_region_mask: np.ndarray
    positive_anchor: np.ndarray
    positive_region: np.ndarray
    positive_piece_anchor: np.ndarray
    positive_piece_position: np.ndarray
    masked_token_ids: np.ndarray
    masked_positions: np.ndarray
    zeroed_region_mask: np.ndarray
    masked_regions: np.ndarray


def draw(
    example: Example, rates: MaskingConfig, mask_id: int, vocabulary: int, generator: np.random.Generator
) -> ExampleMasking:
    """Everything chance decides about one example, in a fixed order."""
    overlaps = iou_matrix(example.boxes_unit[:, :4], example.boxes_unit[:, :4])  # (R, R)
    anchors = example.anchors
    chosen = choose_anchors(anchors, rates, generator) if anchors else np.zeros(0, np.int64)
    prompt = _prompt_draws(example, anchors, chosen, overlaps, rates, generator)

    taken_pieces = prompt["duplicate_token_mask"].copy()
    taken_pieces[prompt["piece_position"]] = True
    masked_ids, positions = mask_words(example, taken_pieces, rates.word, mask_id, vocabulary, generator)

    taken_regions = prompt["duplicate_region_mask"].copy()
    taken_regions[prompt["anchor_regions"]] = True
    near_taken = (overlaps[:, taken_regions] > rates.region_iou).any(axis=1) | taken_regions
    masked_regions = _choose(np.flatnonzero(~near_taken), rates.region, generator)
    zeroed = (overlaps[:, masked_regions] > rates.region_iou).any(axis=1)
    zeroed[masked_regions] = True
    return ExampleMasking(
        **prompt,
        masked_token_ids=masked_ids,
        masked_positions=positions,
        zeroed_region_mask=zeroed,
        masked_regions=masked_regions,
    )


def choose_anchors(anchors: ExampleAnchors, rates: MaskingConfig, generator: np.random.Generator) -> np.ndarray:
    """(K,) indices of the chosen anchors, ascending: one role a region, then each with probability `rates.anchor`.

    A region that is an object anchor and an attribute anchor takes one role, drawn evenly; of several attributes of a
    region, one is drawn. At least one anchor is chosen where any of a used role exists.
    """
    found = anchors.anchors
    is_used = np.where(found.is_attribute, rates.attributes, rates.objects)
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
    return _choose(np.array(sorted(candidates), np.int64), rates.anchor, generator)


def _choose(candidates: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Each candidate with probability `rate`, at least one; none where the rate is 0 or there is no candidate."""
    if rate == 0 or len(candidates) == 0:
        return candidates[:0]
    kept = candidates[generator.random(len(candidates)) < rate]
    return kept if len(kept) else candidates[[int(generator.integers(len(candidates)))]]


def _prompt_draws(
    example: Example,
    anchors: ExampleAnchors | None,
    chosen: np.ndarray,
    overlaps: np.ndarray,
    rates: MaskingConfig,
    generator: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The part of Draws that makes up the prompt plan."""
    tokens, regions = len(example.token_ids), len(example.boxes_unit)
    fills = np.array([FILL_SWAP, FILL_MASK, FILL_KEEP])
    steps = np.cumsum([rates.swap, rates.mask])
    anchor_fills = fills[np.searchsorted(steps, generator.random(len(chosen)), side="right")]
    empty = np.zeros(0, np.int64)
    if anchors is None or len(chosen) == 0:
        names = "anchor_regions anchor_concepts piece_anchor piece_position positive_anchor positive_region"
        names += " positive_piece_anchor positive_piece_position"
        return dict.fromkeys(names.split(), empty) | {
            "anchor_fills": anchor_fills,
            "anchor_is_attribute": empty.astype(bool),
            "duplicate_token_mask": np.zeros(tokens, bool),
            "duplicate_region_mask": np.zeros(regions, bool),
        }
    found = anchors.anchors
    anchor_regions, anchor_mentions = found.pairs[chosen].T
    piece_anchor, piece_position = _spread(anchors.mention_pieces[anchor_mentions])
    positive_anchor, positive_region, positive_mention = _positives(anchors, chosen)
    piece_of, positive_piece = _spread(anchors.mention_pieces[positive_mention[1]])
    draws = {
        "anchor_regions": anchor_regions,
        "anchor_fills": anchor_fills,
        "anchor_concepts": found.concepts[chosen],
        "anchor_is_attribute": found.is_attribute[chosen],
        "piece_anchor": piece_anchor,
        "piece_position": piece_position,
        "positive_anchor": positive_anchor,
        "positive_region": positive_region,
        "positive_piece_anchor": positive_mention[0][piece_of],
        "positive_piece_position": positive_piece,
    }
    is_duplicate_piece, is_duplicate_region = find_duplicates(example, anchors, chosen, overlaps, rates)
    return draws | {"duplicate_token_mask": is_duplicate_piece, "duplicate_region_mask": is_duplicate_region}


def _spread(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, 2) piece spans -> for every piece in them: which span, and its position."""
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
    example: Example, anchors: ExampleAnchors, chosen: np.ndarray, overlaps: np.ndarray, rates: MaskingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (R,) True where a slot would give a chosen anchor away and is no chosen anchor itself.

    Duplicates of an anchor are the other regions of its concept, the regions that overlap its own by more than
    `duplicate_iou`, and the other mentions of its concept in the text [ours].
    """
    is_duplicate_piece, is_duplicate_region = (
        np.zeros(len(example.token_ids), bool),
        np.zeros(len(example.boxes_unit), bool),
    )
    if not rates.duplicates:
        return is_duplicate_piece, is_duplicate_region
    found, concepts = anchors.anchors, anchors.region_concepts
    chosen_regions, chosen_mentions = found.pairs[chosen].T
    wanted, spoken = set(found.concepts[chosen].tolist()), set(chosen_mentions.tolist())
    is_duplicate_region |= (overlaps[:, chosen_regions] > rates.duplicate_iou).any(axis=1)
    for region, (thing, attribute) in enumerate(zip(concepts.objects.tolist(), concepts.attributes.tolist())):
        is_duplicate_region[region] |= thing in wanted or attribute in wanted
    for region, mention in found.positives.tolist():  # tags linked to a chosen word's concept too
        is_duplicate_region[region] |= mention in spoken
    is_duplicate_region[chosen_regions] = False
    for mention, concept in enumerate(anchors.mentions.concepts.tolist()):
        if concept in wanted and mention not in spoken:
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
    kind_of_word = np.full(words.max(initial=-1) + 2, np.nan)  # the last place is -1's: [CLS] and [SEP]
    kind_of_word[masked_words] = kinds
    positions = np.flatnonzero(~np.isnan(kind_of_word[words]))
    kind_of_piece = kind_of_word[words[positions]]
    replacements = generator.integers(vocabulary, size=len(positions))
    token_ids[positions[kind_of_piece < 0.8]] = mask_id
    is_random = kind_of_piece >= 0.9
    token_ids[positions[is_random]] = replacements[is_random]
    return token_ids, positions


def sample_matching(image_ids: list[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which caption each image of a group is shown in image-text matching.

    Half of the places, drawn at random, get the caption of *another image* of the group, never one of the same image;
    where the group holds no other image the pair stays true.

    Returns:
        text_of (B,) int64 and is_match (B,) bool.
    """
    size = len(image_ids)
    text_of = np.arange(size)
    _, image = np.unique(image_ids, return_inverse=True)
    for place in generator.permutation(size)[: size // 2]:
        others = np.flatnonzero(image != image[place])
        if len(others):
            text_of[place] = others[generator.integers(len(others))]
    return text_of, image[text_of] == image
