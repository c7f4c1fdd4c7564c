"""The one transformer layer that all three encoders share: BERT's, post-norm with GELU.

This page is the whole computation in plain torch. On a CPU the same numbers are computed faster by `cmal/model/cpu/`:
padding is removed, and only rows that somebody reads are computed. `cmal.model.cpu.is_used` is the one switch.

Legend: B batch, L sequence length, D width, H heads.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cmal.model import cpu

NORM_EPS = 1e-12
INITIAL_STD, INITIAL_STD_WIDTH = 0.02, 768  # BERT-base

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual sum and layer norm.

    With a BERT layer's weights (query, key and value stacked in `qkv`) it gives that layer's output.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None, unpadded: cpu.UnpaddedBatch | None = None
    ) -> Tensor:
        """Returns (B, L, D).

        Args:
            hidden: (B, L, D).
            attention_mask: (B, 1, L, L) or (B, 1, 1, L), True = row i may attend to row j; None: all may.
            unpadded: given on the CPU path alone, where `hidden` is (N, D), see `cpu/unpadding.py`.
        """
        if unpadded is not None:
            return cpu.layer_forward(self, hidden, unpadded)
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, D/H)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout)
        attended = self.attention_out(attended.transpose(1, 2).flatten(2))  # (B, L, D)
        hidden = self.attention_norm(hidden + F.dropout(attended, dropout))
        return self.output_norm(hidden + F.dropout(self.contract(F.gelu(self.expand(hidden))), dropout))


class TransformerStack(nn.Module):
    """Transformer layers over a padded batch; padding neither attends nor is attended to."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, dropout: float):
        super().__init__()
        assert width % heads == 0, "width is a multiple of heads"
        self.heads = heads
        self.layers = nn.ModuleList(TransformerLayer(width, heads, inner, dropout) for _ in range(layers))
        self.checkpoint_activations = False

    def forward(
        self, padded: Tensor, mask: Tensor, needed_mask: Tensor | None = None, blocked_pairs: Tensor | None = None
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            padded: (B, L, D).
            mask: (B, L) True = real.
            needed_mask: (B, L) True = a row that somebody reads; None: all. On a CPU the others are not computed.
            blocked_pairs: (3, P) example, row and row of pairs that do not attend to each other.

        Returns:
            (B, L, D), zeros at padding and at rows that are not needed.
        """
        if padded.shape[1] == 0:
            return padded
        if not len(self.layers):
            return padded.masked_fill(~mask[..., None], 0.0)
        if cpu.is_used(padded):
            return cpu.stack_forward(self, padded, mask, needed_mask, blocked_pairs)
        hidden, attention_mask = padded, attention_mask_of(mask, blocked_pairs)
        for layer in self.layers:
            hidden = self.run_layer(layer, hidden, attention_mask)
        returned = mask if needed_mask is None else mask & needed_mask
        return hidden.masked_fill(~returned[..., None], 0.0)

    def run_layer(self, layer: nn.Module, *inputs: object) -> Tensor:
        """One layer; with `checkpoint_activations` its activations are computed again in the backward pass."""
        if self.checkpoint_activations and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def attention_mask_of(mask: Tensor, blocked_pairs: Tensor | None = None) -> Tensor | None:
    """The attention mask of a (B, L) mask, (B, 1, 1, L) or with blocked pairs (B, 1, L, L); None where all is real.

    A sequence without a single real row attends to its own padding, so that no softmax is over nothing.
    """
    if blocked_pairs is None or not blocked_pairs.shape[1]:
        return None if bool(mask.all()) else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
    allowed = (mask | ~mask.any(dim=1, keepdim=True))[:, None, :].repeat(1, mask.shape[1], 1)  # (B, L, L)
    example, one, other = blocked_pairs
    allowed[example, one, other] = False
    allowed[example, other, one] = False
    return (allowed | ~allowed.any(dim=-1, keepdim=True))[:, None]


class Transform(nn.Sequential):
    """Linear, GELU, layer norm: the step before an output layer (BERT's prediction head)."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=NORM_EPS))


def to_sphere(vectors: Tensor, hypersphere: bool = True) -> Tensor:
    """(..., D) onto the hypersphere of radius sqrt(D), or left as they are where the model does without.

    Radius ours: entries keep the unit scale that a layer norm gives.
    """
    if not hypersphere:
        return vectors
    return F.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])


def initialise(model: ModuleT, width: int) -> ModuleT:
    """BERT's initialisation: normal weights, zero biases, unit norms; returns the model.

    The weights' std is BERT's 0.02 at BERT-base's width of 768 and grows as 1 / sqrt(width) below it [ours], so that a
    layer's output keeps its scale. Measured on scenes at a width of 128, 700 steps: masked-language loss on validation
    pairs 0.73, against 0.85 with 0.02.
    """
    std = INITIAL_STD * math.sqrt(INITIAL_STD_WIDTH / width)
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    return model


def trainable_parameters(module: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flat_positions(example: Tensor, position: Tensor, length: int) -> Tensor:
    """(M,) rows of a flattened (B*L) batch from example and position within it."""
    return example * length + position


def rows_at(padded: Tensor, example: Tensor, position: Tensor) -> Tensor:
    """(B, L, D) at M places -> (M, D)."""
    return padded.flatten(0, 1).index_select(0, flat_positions(example, position, padded.shape[1]))


def no_rows(like: Tensor) -> Tensor:
    """A zero loss () that is still attached to the graph of `like`."""
    return torch.zeros_like(like).mul(like).sum() if like.numel() == 0 else like.sum() * 0.0
