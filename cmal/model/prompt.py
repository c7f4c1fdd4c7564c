"""CMAP, the cross-modal associative prompt: anchor masking and swap feature filling.

A chosen anchor's word-piece slots and its region slot are masked, then filled: swapped (each gets the other's vector),
left masked, or given their own vector back. Duplicates, which would give the answer away, are masked. What was chosen and
how it is filled is drawn beforehand, per example and seeded (`cmal/data/masking.py`); this module carries it out.

Worked example, one caption [CLS] a dog runs [SEP], regions dog and tree, one chosen anchor (region 0, piece 2), swap:
    text slots    [CLS]   a      VISUAL(dog)      runs  [SEP]
    region slots  TEXT(dog)  tree
Position, box and modality embeddings are added after this, in `unified.py`, and are the slot's own: the guest takes the
host's identity.

Legend: B batch, T word pieces, R regions, K anchors chosen in the batch, P pieces of all chosen anchors, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmal.model.transformer import flat_positions, rows_at, to_sphere

FILL_SWAP, FILL_MASK, FILL_KEEP = 0, 1, 2


@dataclass(frozen=True)
class PromptPlan:
    """Which anchors were chosen in a batch and how their slots are filled.

    Attributes:
        example, region: (K,) where each chosen anchor's region is.
        fill: (K,) FILL_SWAP, FILL_MASK or FILL_KEEP.
        concept: (K,) integer concept; object and attribute concepts are different integers.
        is_attribute: (K,) bool, the role it was chosen in.
        piece_anchor: (P,) which anchor a piece belongs to, ascending; every anchor has at least one.
        piece_position: (P,) index of that piece within its caption's T.
        duplicate_token_mask: (B, T) True = masked because it would give an answer away.
        duplicate_region_mask: (B, R) the same for regions.
        positive_anchor, positive_region: (Q,) all true regions of each anchor's concept in its own example, the
            anchor's own among them; the targets when the candidates are those of one example.
        positive_piece_anchor, positive_piece_position: (W,) all true word pieces likewise.
    """

    example: Tensor
    region: Tensor
    fill: Tensor
    concept: Tensor
    is_attribute: Tensor
    piece_anchor: Tensor
    piece_position: Tensor
    duplicate_token_mask: Tensor
    duplicate_region_mask: Tensor
    positive_anchor: Tensor
    positive_region: Tensor
    positive_piece_anchor: Tensor
    positive_piece_position: Tensor

    def __len__(self) -> int:
        return len(self.region)

    def swapped_slot_pairs(self, tokens: int) -> Tensor:
        """(3, P') example, text slot and region slot of every piece of the swapped anchors; regions are counted behind T."""
        example, region = self.example[self.piece_anchor], self.region[self.piece_anchor] + tokens
        return torch.stack([example, self.piece_position, region])[:, self.fill[self.piece_anchor] == FILL_SWAP]

    def span_mean(self, text: Tensor) -> Tensor:
        """(B, T, D) -> (K, D): the mean over each chosen anchor's pieces."""
        pieces = rows_at(text, self.example[self.piece_anchor], self.piece_position)  # (P, D)
        total = pieces.new_zeros(len(self), pieces.shape[1]).index_add(0, self.piece_anchor, pieces)
        count = torch.bincount(self.piece_anchor, minlength=len(self)).to(pieces.dtype)
        return total / count[:, None]


class AssociativePrompt(nn.Module):
    """Masks and fills the slots of chosen anchors.

    Source: CMAL (arXiv:2410.12595), anchor point masking and swap feature filling. Ours: the mask and keep fills, the
        mean of a span's vectors put back on the sphere, the masking of duplicates.
    """

    def __init__(self, width: int, hypersphere: bool = True):
        super().__init__()
        self.hypersphere = hypersphere
        self.text_mask = nn.Parameter(torch.randn(width))
        self.region_mask = nn.Parameter(torch.randn(width))

    def forward(self, text: Tensor, visual: Tensor, plan: PromptPlan | None) -> tuple[Tensor, Tensor]:
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
        masks = (to_sphere(mask, self.hypersphere) for mask in (self.text_mask, self.region_mask))
        return swap_at_anchors(text, visual, plan, *masks, self.hypersphere)


def swap_at_anchors(
    text: Tensor,
    visual: Tensor,
    plan: PromptPlan,
    text_mask: Tensor,
    region_mask: Tensor,
    hypersphere: bool = True,
) -> tuple[Tensor, Tensor]:
    """Text (B, T, D) and visual (B, R, D) with the chosen anchors' slots filled and duplicates masked."""
    text_of_anchor = to_sphere(plan.span_mean(text), hypersphere)  # (K, D)
    region_of_anchor = rows_at(visual, plan.example, plan.region)  # (K, D)

    is_mask, is_swap = (plan.fill == FILL_MASK)[:, None], (plan.fill == FILL_SWAP)[:, None]
    region_fill = torch.where(is_swap, text_of_anchor, torch.where(is_mask, region_mask, region_of_anchor))
    text_out = torch.where(plan.duplicate_token_mask[..., None], text_mask.to(text.dtype), text)
    visual_out = torch.where(plan.duplicate_region_mask[..., None], region_mask.to(visual.dtype), visual)

    piece_example = plan.example[plan.piece_anchor]
    own = rows_at(text, piece_example, plan.piece_position)  # (P, D)
    guest = region_of_anchor.index_select(0, plan.piece_anchor)
    text_fill = torch.where(is_swap[plan.piece_anchor], guest, torch.where(is_mask[plan.piece_anchor], text_mask, own))

    text_out = _put_rows(text_out, piece_example, plan.piece_position, text_fill)
    return text_out, _put_rows(visual_out, plan.example, plan.region, region_fill)


def _put_rows(padded: Tensor, example: Tensor, position: Tensor, rows: Tensor) -> Tensor:
    flat = padded.flatten(0, 1)
    return flat.index_copy(0, flat_positions(example, position, padded.shape[1]), rows.to(flat.dtype)).view_as(padded)
