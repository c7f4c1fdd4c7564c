"""CMAI: the unified semantic encoder, which reads the hybrid prompt for context adaptation.

Legend: B batch, T word pieces, R regions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmal.model.cpu.kernels import dropped
from cmal.model.encoders import BOX_DIM
from cmal.model.transformer import NORM_EPS, TransformerStack


class UnifiedEncoder(nn.Module):
    """LN(slot + modality type + host position or box embedding), then transformer layers over text and regions together.

    Source: CMAL (arXiv:2410.12595), unified semantic encoder. Ours: position and box embeddings go through a layer norm of
        their own, so that they weigh as much as a slot, whose entries have unit scale on the sphere.
    """

    def __init__(self, positions: int, width: int, layers: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.modality = nn.Embedding(2, width)  # 0 text, 1 region
        self.positions = nn.Embedding(positions, width)
        self.positions_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.boxes = nn.Linear(BOX_DIM, width)
        self.boxes_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.stack = TransformerStack(width, layers, heads, inner, dropout)
        self.dropout = dropout

    def forward(
        self,
        text_slots: Tensor,
        region_slots: Tensor,
        boxes_unit: Tensor,
        token_mask: Tensor,
        region_mask: Tensor,
        wanted: Tensor | None = None,
        apart: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D), (B, R, D), (B, R, 7), (B, T) and (B, R) True = real -> hidden (B, T+R, D), zeros at padding.

        wanted: (B, T+R) True = a row that somebody reads; None: all. The others are not computed, and zero.
        apart: (3, P) example, slot and slot, of 0 to T+R, of pairs that do not see each other.
        """
        host_text = self.positions_norm(self.positions.weight[: text_slots.shape[1]]) + self.modality.weight[0]
        host_region = self.boxes_norm(self.boxes(boxes_unit)) + self.modality.weight[1]
        slots = torch.cat([text_slots + host_text, region_slots + host_region], dim=1)  # (B, T+R, D)
        slots = dropped(self.norm(slots), self.dropout if self.training else 0.0)
        return self.stack(slots, torch.cat([token_mask, region_mask], dim=1), wanted, apart)
