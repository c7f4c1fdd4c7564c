"""CMAP, the cross-modal associative prompt: anchor masking and swap feature filling.

A chosen anchor has word-piece slots and a region slot. Both are masked, then filled: *swapped* (each gets the other's
vector), left *masked*, or given their own vector back (*keep*). Duplicates, which would give the answer away, are masked.
Which anchors and fills these are was sampled before, per example and seeded (`cmal/data/masking.py`).

Example: caption [CLS] a dog runs [SEP], regions dog and tree, one chosen anchor (region 0, piece 2), fill swap:
    text slots    [CLS]   a      VISUAL(dog)      runs  [SEP]
    region slots  TEXT(dog)  tree
Position, box and modality embeddings are added afterwards (`UnifiedEncoder`) and are the slot's own: a swapped-in vector
gets the identity of the slot that it is in.

Legend: B batch, T word pieces, R regions, K anchors chosen in the batch, P pieces of all chosen anchors, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmal.model.inputs import FILL_MASK, FILL_SWAP, MaskingPlan
from cmal.model.transformer import flat_positions, rows_at, to_sphere


class AssociativePrompt(nn.Module):
    """Masks and fills the slots of chosen anchors.

    Source: CMAL (arXiv:2410.12595), anchor point masking and swap feature filling. Ours: the mask and keep fills, the
        mean of a span's vectors put back on the sphere, the masking of duplicates.
    """

    def __init__(self, width: int, hypersphere: bool = True):
        super().__init__()
        self.hypersphere = hypersphere
        self.text_mask_embedding = nn.Parameter(torch.randn(width))
        self.region_mask_embedding = nn.Parameter(torch.randn(width))

    def forward(self, text: Tensor, visual: Tensor, plan: MaskingPlan[Tensor] | None) -> tuple[Tensor, Tensor]:
        """The hybrid prompt's text and region slots.

        Args:
            text: (B, T, D) on the textual sphere.
            visual: (B, R, D) on the visual sphere.
            plan: the chosen anchors, or None to leave everything as it is (downstream and at inference).

        Returns:
            (B, T, D) and (B, R, D).
        """
        if plan is None:
            return text, visual
        text_mask_embedding = to_sphere(self.text_mask_embedding, self.hypersphere)
        region_mask_embedding = to_sphere(self.region_mask_embedding, self.hypersphere)
        return swap_at_anchors(text, visual, plan, text_mask_embedding, region_mask_embedding, self.hypersphere)


def swap_at_anchors(
    text: Tensor,
    visual: Tensor,
    plan: MaskingPlan[Tensor],
    text_mask_embedding: Tensor,
    region_mask_embedding: Tensor,
    hypersphere: bool = True,
) -> tuple[Tensor, Tensor]:
    """Fills the slots of the chosen anchors and masks duplicates; other slots stay as they are.

    Args:
        text, visual: (B, T, D), (B, R, D).
        plan: the chosen anchors.
        text_mask_embedding, region_mask_embedding: (D,) what masked slots hold.
        hypersphere: whether the mean of a span is put back on the sphere.

    Returns:
        (B, T, D) and (B, R, D).
    """
    text_of_anchor = to_sphere(span_mean(text, plan), hypersphere)  # (K, D)
    region_of_anchor = rows_at(visual, plan.example, plan.region)  # (K, D)

    is_mask, is_swap = (plan.fill == FILL_MASK)[:, None], (plan.fill == FILL_SWAP)[:, None]
    region_fill = torch.where(is_swap, text_of_anchor, torch.where(is_mask, region_mask_embedding, region_of_anchor))
    text_out = torch.where(plan.duplicate_token_mask[..., None], text_mask_embedding.to(text.dtype), text)
    visual_out = torch.where(plan.duplicate_region_mask[..., None], region_mask_embedding.to(visual.dtype), visual)

    piece_example = plan.example[plan.piece_anchor]
    own = rows_at(text, piece_example, plan.piece_position)  # (P, D)
    swapped_in = region_of_anchor.index_select(0, plan.piece_anchor)
    text_fill = torch.where(
        is_swap[plan.piece_anchor], swapped_in, torch.where(is_mask[plan.piece_anchor], text_mask_embedding, own)
    )

    text_out = put_rows(text_out, piece_example, plan.piece_position, text_fill)
    return text_out, put_rows(visual_out, plan.example, plan.region, region_fill)


def span_mean(text: Tensor, plan: MaskingPlan[Tensor]) -> Tensor:
    """(B, T, D) -> (K, D): the mean over the word pieces of each chosen anchor."""
    pieces = rows_at(text, plan.example[plan.piece_anchor], plan.piece_position)  # (P, D)
    total = pieces.new_zeros(len(plan), pieces.shape[1]).index_add(0, plan.piece_anchor, pieces)
    count = torch.bincount(plan.piece_anchor, minlength=len(plan)).to(pieces.dtype)
    return total / count[:, None]


def put_rows(padded: Tensor, example: Tensor, position: Tensor, rows: Tensor) -> Tensor:
    """(B, L, D) with the M slots at (example, position) replaced by `rows` (M, D)."""
    flat = padded.flatten(0, 1)
    return flat.index_copy(0, flat_positions(example, position, padded.shape[1]), rows.to(flat.dtype)).view_as(padded)
