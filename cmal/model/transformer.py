"""The one transformer layer all three encoders share: BERT's (post-norm, GELU), computed on real rows only.

Sequences come padded, (B, L, D) with a mask. Padding is removed once per stack: linear layers, norms and GELU see the N
real rows as (N, D); attention alone goes back to (B, H, L, D/H) for a moment, in tiles of sequences of similar length.

Legend: B batch, L sequence length, N real rows (N <= B*L), D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cmal.model.cpu.kernels import attention, dropout_add, linear

NORM_EPS = 1e-12
INITIAL_STD, INITIAL_STD_WIDTH = 0.02, 768  # BERT-base
# of attention; on one core, widths 128 to 768, three tiles more take as long as 100,000 weights a layer
TILES, MIN_SAVED = 4, 200_000


@dataclass(frozen=True)
class Layout:
    """Where the real rows of a padded batch lie.

    Attributes:
        batch, length: B and L.
        rows: (N,) indices of the real rows in the flattened (B*L) batch; None where every row is real.
        key_mask: (B, 1, 1, L) True = real, for attention, or (B, 1, L, L) where not every row sees every real one; None
            where it does and every row is real.
    """

    batch: int
    length: int
    rows: Tensor | None
    key_mask: Tensor | None

    @classmethod
    def of_mask(cls, mask: Tensor) -> Layout:
        """Layout of a (B, L) mask, True = real."""
        batch, length = mask.shape
        if bool(mask.all()):
            return cls(batch, length, None, None)
        # a sequence without a single real row would have no key at all: let it look at its own padding
        keys = mask | ~mask.any(dim=1, keepdim=True)
        return cls(batch, length, mask.flatten().nonzero().squeeze(1), keys[:, None, None, :])

    @classmethod
    def of_counts(cls, counts: Tensor) -> Layout:
        """Layout of sequences of so many real rows each, (B,), which come first."""
        longest = max(1, int(counts.max()))
        return cls.of_mask(torch.arange(longest, device=counts.device)[None, :] < counts[:, None])

    @property
    def count(self) -> int:
        """N."""
        return self.batch * self.length if self.rows is None else len(self.rows)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, L, X) -> (N, X)."""
        flat = padded.reshape(self.batch * self.length, padded.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, X) -> (B, L, X), zeros where nothing is real."""
        if self.rows is not None:  # on a CPU adding to zeros takes a third of the time that index_copy does
            rows = rows.new_zeros(self.batch * self.length, rows.shape[-1]).index_add_(0, self.rows, rows)
        return rows.view(self.batch, self.length, rows.shape[-1])

    def apart(self, one: Tensor, other: Tensor) -> Layout:
        """The same, but of the packed rows `one` and `other`, (P,) each, the two of a pair do not see each other."""
        if len(one) == 0:
            return self
        key_mask = torch.ones(self.batch, 1, 1, self.length, dtype=torch.bool, device=one.device)
        seen = (key_mask if self.key_mask is None else self.key_mask).repeat(1, 1, self.length, 1)
        places = (rows if self.rows is None else self.rows[rows] for rows in (one, other))
        (sequence, one_place), (_, other_place) = ((p // self.length, p % self.length) for p in places)
        seen[sequence, 0, one_place, other_place] = False
        seen[sequence, 0, other_place, one_place] = False
        return replace(self, key_mask=seen)

    def seen_by(self, asked: Tensor, few: Layout) -> Tensor | None:
        """`key_mask` for some of the packed rows, True in `asked` (n,) and laid out by `few`: (B, 1, Q, L) or as it is."""
        if self.key_mask is None or self.key_mask.shape[2] == 1:
            return self.key_mask
        seen = few.unpack(self.pack(self.key_mask.squeeze(1))[asked])
        return (seen | ~seen.any(dim=-1, keepdim=True))[:, None]  # padding looks at anything, as elsewhere


@dataclass(frozen=True)
class Packing:
    """The real rows of a padded batch, shortest sequences first, and how attention pads them again.

    Attributes:
        whole: the padded batch, its rows in this order.
        tiles: layouts of sequences of similar length, one after the other, each padded to its own longest.
    """

    whole: Layout
    tiles: tuple[Layout, ...]

    def apart(self, example: Tensor, one: Tensor, other: Tensor) -> Packing:
        """The same, but the two places of a pair do not see each other.

        example: (P,) whose pair it is; one, other: (P,) of 0 to L, real places.
        """
        packed = self.whole.unpack(torch.arange(self.whole.count, device=example.device)[:, None]).flatten()
        pairs = packed[torch.stack([flat_positions(example, place, self.whole.length) for place in (one, other)])]
        tiles, first = [], 0
        for tile in self.tiles:
            here = pairs[:, (pairs[0] >= first) & (pairs[0] < first + tile.count)] - first
            tiles.append(tile.apart(*here))
            first += tile.count
        return replace(self, tiles=tuple(tiles))

    @classmethod
    def of_mask(cls, mask: Tensor, heads: int) -> Packing:
        """Packing of a (B, L) mask, True = real. Several tiles only on a CPU, and where they save more than they cost."""
        whole = Layout.of_mask(mask)
        if whole.rows is None:
            return cls(whole, (whole,))
        counts, order = mask.sum(dim=1).sort(stable=True)
        sequence, place = mask.index_select(0, order).nonzero().unbind(dim=1)
        rows = flat_positions(order.index_select(0, sequence), place, whole.length)
        tiles = [counts]
        if mask.device.type == "cpu" and len(counts) >= TILES:
            parts = counts.tensor_split(TILES)
            saved = len(counts) * int(counts[-1]) ** 2 - sum(len(part) * int(part[-1]) ** 2 for part in parts)
            tiles = parts if saved * heads >= MIN_SAVED else tiles
        return cls(replace(whole, rows=rows), tuple(Layout.of_counts(part) for part in tiles))

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """(N, X) -> the rows of every tile."""
        return rows.split([tile.count for tile in self.tiles]) if len(self.tiles) > 1 else (rows,)


@dataclass(frozen=True)
class Asked:
    """Some rows of a packed batch, for a layer that need not compute the others.

    Attributes:
        rows: (M,) their indices among the N packed rows, ascending.
        packing: of these rows alone, tile by tile as the packing they are taken from.
        key_masks: of every tile, what these rows see.
    """

    rows: Tensor
    packing: Packing
    key_masks: tuple[Tensor | None, ...]

    @classmethod
    def of_mask(cls, wanted: Tensor, packing: Packing) -> Asked:
        """wanted: (B, L) True = asked for; real rows only."""
        whole = packing.whole
        flat = wanted.flatten()
        among_packed = flat if whole.rows is None else flat.index_select(0, whole.rows)
        rows = among_packed.nonzero().squeeze(1)
        places = rows if whole.rows is None else whole.rows.index_select(0, rows)
        parts = packing.split(among_packed[:, None])
        tiles = tuple(Layout.of_counts(tile.unpack(part).sum(dim=(1, 2))) for tile, part in zip(packing.tiles, parts))
        seen = tuple(tile.seen_by(part.squeeze(1), few) for tile, part, few in zip(packing.tiles, parts, tiles))
        return cls(rows, Packing(replace(whole, rows=places), tiles), seen)


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

    def forward(self, rows: Tensor, packing: Packing, asked: Asked | None = None) -> Tensor:
        """(N, D) -> (N, D), or (M, D) where only M rows are asked for: all rows are looked at, those alone look."""
        weight, bias, width = self.qkv.weight, self.qkv.bias, rows.shape[1]
        if asked is None:
            projected = linear(rows, weight, bias)  # (N, 3D)
            asking, queries = packing, [None] * len(packing.tiles)
            key_masks = [tile.key_mask for tile in packing.tiles]
        else:
            projected = linear(rows, weight[width:], bias[width:])  # (N, 2D)
            rows, asking, key_masks = rows.index_select(0, asked.rows), asked.packing, asked.key_masks
            query = linear(rows, weight[:width], bias[:width])  # (M, D)
            queries = [tile.unpack(part) for tile, part in zip(asking.tiles, asking.split(query))]
        tiles = zip(packing.tiles, packing.split(projected), asking.tiles, queries, key_masks)
        attended = [few.pack(self.attend(tile.unpack(part), seen, query)) for tile, part, few, query, seen in tiles]
        attended = attended[0] if len(attended) == 1 else torch.cat(attended)
        dropout = self.dropout if self.training else 0.0
        attended = linear(attended, self.attention_out.weight, self.attention_out.bias)
        rows = self.attention_norm(dropout_add(rows, attended, dropout))
        expanded = F.gelu(linear(rows, self.expand.weight, self.expand.bias))
        contracted = linear(expanded, self.contract.weight, self.contract.bias)
        return self.output_norm(dropout_add(rows, contracted, dropout))

    def attend(self, projected: Tensor, key_mask: Tensor | None, query: Tensor | None = None) -> Tensor:
        """(B, L, 3D) queries, keys, values -> (B, L, D); or (B, L, 2D) keys, values and (B, Q, D) -> (B, Q, D)."""
        dropout = self.dropout if self.training else 0.0
        return attention(projected, self.heads, key_mask, dropout, query)


class TransformerStack(nn.Module):
    """`layers` TransformerLayers over a padded batch; pads are removed on the way in and zero on the way out."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, dropout: float):
        super().__init__()
        assert width % heads == 0, "width is a multiple of heads"
        self.layers = nn.ModuleList(TransformerLayer(width, heads, inner, dropout) for _ in range(layers))
        self.checkpoint_activations = False

    def forward(
        self, padded: Tensor, mask: Tensor, wanted: Tensor | None = None, apart: Tensor | None = None
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            padded: (B, L, D).
            mask: (B, L) True = real.
            wanted: (B, L) True = a row that somebody reads; None: all. The last layer computes these alone.
            apart: (3, P) example, row and row of pairs that do not see each other.

        Returns:
            (B, L, D), zeros at padding and at rows that are not wanted.
        """
        if padded.shape[1] == 0:
            return padded
        if not len(self.layers):
            return padded.masked_fill(~mask[..., None], 0.0)
        packing = Packing.of_mask(mask, self.layers[0].heads)
        packing = packing if apart is None else packing.apart(*apart)
        asked = Asked.of_mask(wanted & mask, packing) if wanted is not None else None
        rows = packing.whole.pack(padded)
        for number, layer in enumerate(self.layers, start=1):
            asked_here = asked if number == len(self.layers) else None
            if self.checkpoint_activations and self.training:
                rows = checkpoint(layer, rows, packing, asked_here, use_reentrant=False)
            else:
                rows = layer(rows, packing, asked_here)
        return (packing if asked is None else asked.packing).whole.unpack(rows)


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


def initialise(model: nn.Module, width: int) -> nn.Module:
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
