"""The whole model, top to bottom: UMSE (two uni-modal encoders), CMAP (the prompt), CMAI (the unified encoder).

The uni-modal encoders never see each other, so each output can be computed once per image or text and kept (retrieval
does). Heads live with their objectives (`pretraining.py`) and tasks.

Legend: B batch, T word pieces, R regions, D width, F raw region features, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmal.model import cpu
from cmal.model.inputs import MaskingPlan
from cmal.model.prompt import AssociativePrompt
from cmal.model.transformer import NORM_EPS, TransformerStack, initialise, to_sphere

BOX_DIM = 7  # x1 y1 x2 y2 w h w*h, over image width and height


class TextualEncoder(nn.Module):
    """BERT's embeddings and its first layers.

    Source: CMAL (arXiv:2410.12595), uni-modal semantic encoder. `text_weights.py` starts it from a BERT checkpoint.
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
        """(B, T) ids, (B, T) True = real -> (B, T, D) before the sphere; with BERT's weights, BertModel's hidden states."""
        return self.stack(self._embed(token_ids)[0], token_mask)

    def _embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) ids -> (B, T, D), and the (V, D) word embeddings as `lookup` gives them."""
        embedded, words = cpu.lookup(self.tokens.weight, token_ids)
        embedded = embedded + self.positions.weight[: token_ids.shape[1]] + self.segment.weight[0]
        return cpu.dropout(self.norm(embedded), self.dropout if self.training else 0.0), words

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
        embedded = cpu.dropout(embedded, self.dropout if self.training else 0.0)
        return to_sphere(self.stack(embedded, region_mask), self.hypersphere)


class UnifiedEncoder(nn.Module):
    """LN(slot + modality type + position or box embedding of the slot), then transformer layers over text and regions.

    Source: CMAL (arXiv:2410.12595), unified semantic encoder. Ours: position and box embeddings have their own layer norms,
        so that they weigh as much as a slot, whose entries have unit scale on the sphere.
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
        needed_mask: Tensor | None = None,
        blocked_pairs: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T+R, D) of both modalities, zeros at padding and at slots that are not needed.

        Args:
            text_slots, region_slots: (B, T, D), (B, R, D), the prompt.
            boxes_unit: (B, R, 7).
            token_mask, region_mask: (B, T), (B, R) True = real.
            needed_mask: (B, T+R) True = a slot that somebody reads; None: all.
            blocked_pairs: (3, P) example, slot and slot (0 to T+R) of pairs that do not attend to each other.
        """
        text_identity = self.positions_norm(self.positions.weight[: text_slots.shape[1]]) + self.modality.weight[0]
        region_identity = self.boxes_norm(self.boxes(boxes_unit)) + self.modality.weight[1]
        slots = torch.cat([text_slots + text_identity, region_slots + region_identity], dim=1)  # (B, T+R, D)
        slots = cpu.dropout(self.norm(slots), self.dropout if self.training else 0.0)
        return self.stack(slots, torch.cat([token_mask, region_mask], dim=1), needed_mask, blocked_pairs)


@dataclass(frozen=True)
class UniModal:
    """The vectors of both uni-modal encoders, and what the unified encoder needs beside them.

    Attributes:
        text: (B, T, D); token_mask: (B, T) True = real.
        visual: (B, R, D); boxes_unit: (B, R, 7); region_mask: (B, R) True = real.
        words: (V, D) the word embeddings, for a head that is tied to them; None where the states come from a cache.
    """

    text: Tensor
    token_mask: Tensor
    visual: Tensor
    boxes_unit: Tensor
    region_mask: Tensor
    words: Tensor | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return self.text.shape[1]

    def with_texts(self, indices: Tensor) -> UniModal:
        """The same images, image i paired with text `indices[i]`; (B,) int64."""
        # index_select, not indexing: its gradient adds in a fixed order
        text, mask = self.text.index_select(0, indices), self.token_mask.index_select(0, indices)
        return replace(self, text=text, token_mask=mask)

    def with_images(self, indices: Tensor) -> UniModal:
        """The same texts, text i paired with image `indices[i]`; (B,) int64."""
        visual, boxes = self.visual.index_select(0, indices), self.boxes_unit.index_select(0, indices)
        return replace(self, visual=visual, boxes_unit=boxes, region_mask=self.region_mask.index_select(0, indices))


class Cmal(nn.Module):
    """Visual and textual encoders, the associative prompt, and the unified encoder; heads live with their objectives.

    Source: CMAL (arXiv:2410.12595).
    """

    def __init__(
        self, visual: VisualEncoder, textual: TextualEncoder, prompt: AssociativePrompt, unified: UnifiedEncoder
    ):
        super().__init__()
        self.visual, self.textual, self.prompt, self.unified = visual, textual, prompt, unified

    def encode(
        self, token_ids: Tensor, token_mask: Tensor, features: Tensor, boxes_unit: Tensor, region_mask: Tensor
    ) -> UniModal:
        """Both uni-modal encoders: (B, T), (B, T), (B, R, F), (B, R, 7), (B, R) -> UniModal."""
        text, words = self.textual.states_and_words(token_ids, token_mask)
        visual = self.visual(features, boxes_unit, region_mask)
        return UniModal(text, token_mask, visual, boxes_unit, region_mask, words)

    def unify(
        self,
        states: UniModal,
        plan: MaskingPlan[Tensor] | None = None,
        needed_mask: Tensor | None = None,
        attend_across_swap: bool = True,
    ) -> Tensor:
        """The unified encoder over the prompt: hidden states (B, T+R, D).

        Args:
            states: of both uni-modal encoders.
            plan: anchors to mask and swap; None leaves all slots as they are (downstream and at inference).
            needed_mask: (B, T+R) True = a slot that somebody reads; None: all. The others are zero.
            attend_across_swap: False blocks attention between the two slots of a swapped anchor (a third slot may still
                carry one's content to the other).
        """
        blocked = None if plan is None or attend_across_swap else plan.swapped_slot_pairs(states.tokens)
        text_slots, region_slots = self.prompt(states.text, states.visual, plan)
        masks = (states.token_mask, states.region_mask)
        return self.unified(text_slots, region_slots, states.boxes_unit, *masks, needed_mask, blocked)

    def unify_at_cls(self, states: UniModal) -> Tensor:
        """The unified hidden state at [CLS] alone -> (B, D)."""
        needed_mask = states.token_mask.new_zeros(len(states.text), states.tokens + states.visual.shape[1])
        needed_mask[:, 0] = True
        return self.unify(states, needed_mask=needed_mask)[:, 0]

    @property
    def width(self) -> int:
        """D."""
        return self.textual.tokens.embedding_dim


def build_cmal(
    *,
    vocabulary: int,
    max_tokens: int,
    region_features: int,
    width: int,
    heads: int,
    inner: int,
    text_layers: int,
    visual_layers: int,
    unified_layers: int,
    dropout: float,
    hypersphere: bool = True,
) -> Cmal:
    """A Cmal with BERT's initialisation, sampled with torch's current seed; sizes as in the recipe's `model` section."""
    model = Cmal(
        visual=VisualEncoder(region_features, width, visual_layers, heads, inner, dropout, hypersphere),
        textual=TextualEncoder(vocabulary, max_tokens, width, text_layers, heads, inner, dropout, hypersphere),
        prompt=AssociativePrompt(width, hypersphere),
        unified=UnifiedEncoder(max_tokens, width, unified_layers, heads, inner, dropout),
    )
    return initialise(model, width)
