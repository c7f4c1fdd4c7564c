"""Scores of images with captions from uni-modal states computed once; per pair only the unified encoder runs.

Captions of similar length share a tile, which keeps padding small. The last unified layer is computed at [CLS] alone.

Legend: N images, M captions, P pairs at once, T word pieces, R regions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import ImageTextRecord
from cmal.model.cmal import Cmal, UniModal
from cmal.model.transformer import TransformerLayer

ENCODE_BATCH = 64
MAX_PAIRS = 256
# values in the widest activation of one tile on a CPU. A larger tile leaves the caches: at width 768 and 56 slots, a pair
# takes 50% longer in tiles of 128 pairs than in tiles of 32.
MAX_NUMBERS = 6_000_000


@dataclass(frozen=True)
class VisualState:
    """One image's uni-modal states: visual (R, D), boxes_unit (R, 7)."""

    visual: Tensor
    boxes_unit: Tensor


@dataclass(frozen=True)
class CachedStates:
    """Uni-modal states without padding: of every caption (T, D), and of every image, in order of first appearance."""

    texts: list[Tensor]
    visuals: list[VisualState]


@torch.no_grad()
def cache_states(
    cmal: Cmal, records: Sequence[ImageTextRecord], builder: ExampleBuilder, device: torch.device
) -> CachedStates:
    """The uni-modal states of the records' captions (one per record) and images (one per distinct image)."""
    texts: list[Tensor] = []
    visuals: dict[str, VisualState] = {}
    for start in range(0, len(records), ENCODE_BATCH):
        part = records[start : start + ENCODE_BATCH]
        batch = make_batch([builder.build(r.id, r.image_id, r.caption) for r in part]).to(device)
        states = cmal.encode(*batch.inputs)
        for row, record in enumerate(part):
            texts.append(states.text[row, states.token_mask[row]])
            if record.image_id not in visuals:
                real = states.region_mask[row]
                visuals[record.image_id] = VisualState(states.visual[row, real], states.boxes_unit[row, real])
    return CachedStates(texts, list(visuals.values()))


@torch.no_grad()
def score_rows(
    cmal: Cmal,
    head: nn.Module,
    texts: Sequence[Tensor],
    visuals: Sequence[VisualState],
    is_candidate: np.ndarray | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> np.ndarray:
    """(N, M) matching logits of images with captions.

    Args:
        is_candidate: (N, M) True = score this pair; the others are -inf. None: score all.
    """
    scores = np.full((len(visuals), len(texts)), -np.inf, np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for row, visual in enumerate(visuals):
        columns = order if is_candidate is None else order[is_candidate[row, order]]
        start = 0
        while start < len(columns):
            tile = columns[start : start + MAX_PAIRS]
            tile = tile[: pairs_at_once(cmal, len(texts[tile[-1]]) + len(visual.visual), visual.visual.device)]
            states = pair_states([texts[column] for column in tile], visual)
            scores[row, tile] = head(cmal.unify_at_cls(states)).float().cpu().numpy()
            start += len(tile)
        report(row + 1, len(visuals))
    return scores


def pairs_at_once(cmal: Cmal, slots: int, device: torch.device) -> int:
    """Pairs per tile where a pair has at most `slots` positions (word pieces and regions)."""
    if device.type != "cpu":
        return MAX_PAIRS
    layers = [layer for layer in cmal.unified.stack.layers if isinstance(layer, TransformerLayer)]
    widest = layers[0].expand.out_features if layers else cmal.width
    return min(MAX_PAIRS, max(1, MAX_NUMBERS // (slots * widest)))


def pair_states(texts: Sequence[Tensor], image: VisualState) -> UniModal:
    """The states of one image beside each of P captions."""
    count = len(texts)
    text = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)  # (P, T, D)
    lengths = torch.tensor([len(t) for t in texts], device=text.device)
    token_mask = torch.arange(text.shape[1], device=text.device)[None, :] < lengths[:, None]
    region_mask = torch.ones(count, len(image.visual), dtype=torch.bool, device=text.device)
    visual = image.visual.expand(count, -1, -1)
    return UniModal(text, token_mask, visual, image.boxes_unit.expand(count, -1, -1), region_mask)
