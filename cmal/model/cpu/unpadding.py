"""Padding removal: linear layers, norms and GELU see the N real rows of a batch as (N, D), never its padding.

Attention alone goes back to (B, H, L, D/H) for a moment, in tiles of sequences of similar length, each padded to its own
longest. The last layer computes only the rows that somebody reads.

Legend: B batch, L sequence length, N real rows (N <= B*L), M rows that are read, Q queries of a sequence, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.model.cpu.kernels import attention, dropout_add, linear

# Attention in tiles pays where it saves this many weights per layer; measured on one core, widths 128 to 768, where
# three tiles more take as long as 100,000 weights.
TILES, MIN_SAVED = 4, 200_000


@dataclass(frozen=True)
class VarlenLayout:
    """Where the real rows of a padded batch are.

    Attributes:
        batch, length: B and L.
        rows: (N,) indices of the real rows in the flattened (B*L) batch; None where every row is real.
        key_mask: (B, 1, 1, L) True = may be attended to, or (B, 1, L, L) where that differs by row; None: all may.
    """

    batch: int
    length: int
    rows: Tensor | None
    key_mask: Tensor | None

    @classmethod
    def of_mask(cls, mask: Tensor) -> VarlenLayout:
        """Layout of a (B, L) mask, True = real."""
        batch, length = mask.shape
        if bool(mask.all()):
            return cls(batch, length, None, None)
        # a sequence without a single real row attends to its own padding, so that no softmax is over nothing
        keys = mask | ~mask.any(dim=1, keepdim=True)
        return cls(batch, length, mask.flatten().nonzero().squeeze(1), keys[:, None, None, :])

    @classmethod
    def of_counts(cls, counts: Tensor) -> VarlenLayout:
        """Layout of sequences with these numbers of real rows, (B,), which come first."""
        longest = max(1, int(counts.max()))
        return cls.of_mask(torch.arange(longest, device=counts.device)[None, :] < counts[:, None])

    @property
    def count(self) -> int:
        """N."""
        return self.batch * self.length if self.rows is None else len(self.rows)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, L, X) -> (N, X)."""
        flat = padded.reshape(self.batch * self.length, padded.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def pad(self, rows: Tensor) -> Tensor:
        """(N, X) -> (B, L, X), zeros at padding."""
        if self.rows is not None:  # adding to zeros takes a third of the time of index_copy
            rows = rows.new_zeros(self.batch * self.length, rows.shape[-1]).index_add_(0, self.rows, rows)
        return rows.view(self.batch, self.length, rows.shape[-1])

    def with_blocked_pairs(self, one: Tensor, other: Tensor) -> VarlenLayout:
        """Copy of this layout whose attention mask also blocks each pair (one[i], other[i]) in both directions.

        one, other: (P,) indices among the N rows.
        """
        if len(one) == 0:
            return self
        key_mask = torch.ones(self.batch, 1, 1, self.length, dtype=torch.bool, device=one.device)
        allowed = (key_mask if self.key_mask is None else self.key_mask).repeat(1, 1, self.length, 1)
        flat = (rows if self.rows is None else self.rows[rows] for rows in (one, other))
        (sequence, first), (_, second) = ((index // self.length, index % self.length) for index in flat)
        allowed[sequence, 0, first, second] = False
        allowed[sequence, 0, second, first] = False
        return replace(self, key_mask=allowed)

    def key_mask_of(self, is_query: Tensor, queries: VarlenLayout) -> Tensor | None:
        """`key_mask` for the rows that are True in `is_query` (N,), which `queries` lays out: (B, 1, Q or 1, L)."""
        if self.key_mask is None or self.key_mask.shape[2] == 1:
            return self.key_mask
        allowed = queries.pad(self.unpad(self.key_mask.squeeze(1))[is_query])
        return (allowed | ~allowed.any(dim=-1, keepdim=True))[:, None]  # padding attends to anything


@dataclass(frozen=True)
class TiledLayout:
    """The real rows of a padded batch, shortest sequences first, and how attention pads them again.

    Attributes:
        batch: the padded batch, its rows in this order.
        tiles: layouts of sequences of similar length, one after the other, each padded to its own longest.
    """

    batch: VarlenLayout
    tiles: tuple[VarlenLayout, ...]

    @classmethod
    def of_mask(cls, mask: Tensor, heads: int) -> TiledLayout:
        """Layout of a (B, L) mask, True = real; several tiles where they save more than they cost."""
        batch = VarlenLayout.of_mask(mask)
        if batch.rows is None:
            return cls(batch, (batch,))
        counts, order = mask.sum(dim=1).sort(stable=True)
        sequence, position = mask.index_select(0, order).nonzero().unbind(dim=1)
        rows = order.index_select(0, sequence) * batch.length + position
        parts: Sequence[Tensor] = [counts]
        if len(counts) >= TILES:
            tiles = counts.tensor_split(TILES)
            saved = len(counts) * int(counts[-1]) ** 2 - sum(len(tile) * int(tile[-1]) ** 2 for tile in tiles)
            parts = tiles if saved * heads >= MIN_SAVED else parts
        return cls(replace(batch, rows=rows), tuple(VarlenLayout.of_counts(part) for part in parts))

    def with_blocked_pairs(self, example: Tensor, one: Tensor, other: Tensor) -> TiledLayout:
        """Copy of this layout in which the two rows of a pair do not attend to each other.

        example: (P,) index of the example of each pair; one, other: (P,) real positions from 0 to L.
        """
        number = self.batch.pad(torch.arange(self.batch.count, device=example.device)[:, None]).flatten()
        pairs = number[torch.stack([example * self.batch.length + position for position in (one, other)])]
        tiles, first = [], 0
        for tile in self.tiles:
            here = pairs[:, (pairs[0] >= first) & (pairs[0] < first + tile.count)] - first
            tiles.append(tile.with_blocked_pairs(here[0], here[1]))
            first += tile.count
        return replace(self, tiles=tuple(tiles))

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """(N, X) -> the rows of every tile."""
        return rows.split([tile.count for tile in self.tiles]) if len(self.tiles) > 1 else (rows,)


@dataclass(frozen=True)
class QueryRows:
    """The rows of a batch that a layer has to compute.

    Attributes:
        rows: (M,) their indices among the N rows, ascending.
        layout: of these rows alone, in the tiles of the layout they are taken from.
        key_masks: per tile, what these rows may attend to.
    """

    rows: Tensor
    layout: TiledLayout
    key_masks: tuple[Tensor | None, ...]

    @classmethod
    def of_mask(cls, needed_mask: Tensor, layout: TiledLayout) -> QueryRows:
        """needed_mask: (B, L) True = needed; real rows only."""
        batch = layout.batch
        flat = needed_mask.flatten()
        is_needed = flat if batch.rows is None else flat.index_select(0, batch.rows)
        rows = is_needed.nonzero().squeeze(1)
        flat_rows = rows if batch.rows is None else batch.rows.index_select(0, rows)
        parts = layout.split(is_needed[:, None])
        tiles = tuple(VarlenLayout.of_counts(tile.pad(part).sum(dim=(1, 2))) for tile, part in zip(layout.tiles, parts))
        masks = tuple(tile.key_mask_of(part.squeeze(1), own) for tile, part, own in zip(layout.tiles, parts, tiles))
        return cls(rows, TiledLayout(replace(batch, rows=flat_rows), tiles), masks)


@dataclass(frozen=True)
class UnpaddedBatch:
    """What a layer needs beside its (N, D) rows: their layout, and which of them it has to compute (None: all)."""

    layout: TiledLayout
    query_rows: QueryRows | None = None


class Layer(Protocol):
    """What `layer_forward` reads of a `TransformerLayer`."""

    heads: int
    dropout: float
    training: bool
    qkv: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    expand: nn.Linear
    contract: nn.Linear
    output_norm: nn.LayerNorm


class Stack(Protocol):
    """What `stack_forward` reads of a `TransformerStack`."""

    heads: int
    layers: nn.ModuleList

    def run_layer(self, layer: nn.Module, *inputs: object) -> Tensor:
        """One layer, perhaps with its activations computed again in the backward pass."""
        ...


def stack_forward(
    stack: Stack,
    padded: Tensor,
    mask: Tensor,
    needed_mask: Tensor | None,
    blocked_pairs: Tensor | None,
) -> Tensor:
    """As `TransformerStack.forward`, without padding; the last layer computes the needed rows alone."""
    layout = TiledLayout.of_mask(mask, stack.heads)
    layout = layout if blocked_pairs is None else layout.with_blocked_pairs(*blocked_pairs)
    query_rows = None if needed_mask is None else QueryRows.of_mask(needed_mask & mask, layout)
    rows = layout.batch.unpad(padded)
    *first_layers, last_layer = stack.layers
    for layer in first_layers:
        rows = stack.run_layer(layer, rows, None, UnpaddedBatch(layout))
    rows = stack.run_layer(last_layer, rows, None, UnpaddedBatch(layout, query_rows))
    return (layout if query_rows is None else query_rows.layout).batch.pad(rows)


def layer_forward(layer: Layer, rows: Tensor, unpadded: UnpaddedBatch) -> Tensor:
    """As `TransformerLayer.forward` on unpadded rows: (N, D) -> (N, D).

    With query rows, only those M rows attend (to all N), and the result is (M, D).
    """
    layout, query_rows = unpadded.layout, unpadded.query_rows
    weight, bias, width = layer.qkv.weight, layer.qkv.bias, rows.shape[1]
    dropout = layer.dropout if layer.training else 0.0
    queries: list[Tensor | None] = [None] * len(layout.tiles)
    if query_rows is None:
        projected = linear(rows, weight, bias)  # (N, 3D)
        of_queries, key_masks = layout, tuple(tile.key_mask for tile in layout.tiles)
    else:
        projected = linear(rows, weight[width:], bias[width:])  # (N, 2D) keys and values
        rows, of_queries, key_masks = rows.index_select(0, query_rows.rows), query_rows.layout, query_rows.key_masks
        query = linear(rows, weight[:width], bias[:width])  # (M, D)
        queries = [tile.pad(part) for tile, part in zip(of_queries.tiles, of_queries.split(query))]
    attended = [
        own.unpad(attention(tile.pad(part), layer.heads, key_mask, dropout, query))
        for tile, part, own, query, key_mask in zip(
            layout.tiles, layout.split(projected), of_queries.tiles, queries, key_masks
        )
    ]
    mixed = attended[0] if len(attended) == 1 else torch.cat(attended)
    mixed = linear(mixed, layer.attention_out.weight, layer.attention_out.bias)
    rows = layer.attention_norm(dropout_add(rows, mixed, dropout))
    expanded = F.gelu(linear(rows, layer.expand.weight, layer.expand.bias))
    return layer.output_norm(dropout_add(rows, linear(expanded, layer.contract.weight, layer.contract.bias), dropout))
