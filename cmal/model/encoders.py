"""UMSE: visual and textual semantic encoders, one modality each, onto their hyperspheres.

The two never see each other, so each output can be computed once per image or text and kept (retrieval does).

Legend: B batch, T word pieces, R regions, D width, F raw region features, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from cmal.model.cpu.kernels import dropped, lookup
from cmal.model.transformer import NORM_EPS, TransformerStack, to_sphere

BOX_DIM = 7  # x1 y1 x2 y2 w h w*h, over image width and height


class TextualEncoder(nn.Module):
    """BERT's embeddings and its first layers.

    Source: CMAL (arXiv:2410.12595), uni-modal semantic encoder. Initialised from a BERT checkpoint (`pretrained.py`).
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        width: int,
        layers: int,
        heads: int,
        inner: int,
        dropout: float,
        hypersphere: bool = True,
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.segment = nn.Embedding(2, width)  # BERT's two segments; a caption is all of segment 0
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.stack = TransformerStack(width, layers, heads, inner, dropout)
        self.dropout, self.hypersphere = dropout, hypersphere

    def hidden(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """(B, T) ids, (B, T) True = real -> (B, T, D), before the sphere: BertModel's hidden states, given its weights."""
        return self.stack(self._embed(token_ids)[0], token_mask)

    def _embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) ids -> (B, T, D), and the (V, D) word embeddings as `lookup` gives them."""
        embedded, words = lookup(self.tokens.weight, token_ids)
        embedded = embedded + self.positions.weight[: token_ids.shape[1]] + self.segment.weight[0]
        return dropped(self.norm(embedded), self.dropout if self.training else 0.0), words

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """(B, T) ids, (B, T) True = real -> (B, T, D), each of length sqrt(D); zeros at padding."""
        return self.states_and_words(token_ids, token_mask)[0]

    def states_and_words(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, and the (V, D) word embeddings as a head that is tied to them should take them (see `lookup`)."""
        embedded, words = self._embed(token_ids)
        return to_sphere(self.stack(embedded, token_mask), self.hypersphere), words


class VisualEncoder(nn.Module):
    """LN(W_f f) + LN(W_p p), then transformer layers.

    Source: CMAL (arXiv:2410.12595), uni-modal semantic encoder; the sum of two normed projections is UNITER's.
    """

    def __init__(
        self,
        region_features: int,
        width: int,
        layers: int,
        heads: int,
        inner: int,
        dropout: float,
        hypersphere: bool = True,
    ):
        super().__init__()
        self.features = nn.Linear(region_features, width)
        self.features_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.boxes = nn.Linear(BOX_DIM, width)
        self.boxes_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.stack = TransformerStack(width, layers, heads, inner, dropout)
        self.dropout, self.hypersphere = dropout, hypersphere

    def forward(self, features: Tensor, boxes_unit: Tensor, region_mask: Tensor) -> Tensor:
        """(B, R, F), (B, R, 7), (B, R) True = real -> (B, R, D), each of length sqrt(D); zeros at padding."""
        embedded = self.features_norm(self.features(features)) + self.boxes_norm(self.boxes(boxes_unit))
        embedded = dropped(embedded, self.dropout if self.training else 0.0)
        return to_sphere(self.stack(embedded, region_mask), self.hypersphere)
