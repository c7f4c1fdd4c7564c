"""The whole model, top to bottom: UMSE, CMAP, CMAI, and the pooled vectors that heads read.

Legend: B batch, T word pieces, R regions, D width, F raw region features, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from cmal.model.encoders import TextualEncoder, VisualEncoder
from cmal.model.prompt import AssociativePrompt, PromptPlan
from cmal.model.transformer import initialise
from cmal.model.unified import UnifiedEncoder


@dataclass(frozen=True)
class UniModal:
    """What one modality's encoder gave, with what the unified encoder needs beside it.

    Attributes:
        text: (B, T, D); token_mask: (B, T) True = real.
        visual: (B, R, D); boxes_unit: (B, R, 7); region_mask: (B, R) True = real.
        words: (V, D) the word embeddings, for a head that is tied to them; None where the states were kept from before.
    """

    text: Tensor
    token_mask: Tensor
    visual: Tensor
    boxes_unit: Tensor
    region_mask: Tensor
    words: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.text.shape[1]

    def with_texts(self, places: Tensor) -> UniModal:
        """The same images, image i beside the text of place `places[i]`. (`index_select`: its gradient adds in order.)"""
        text, mask = self.text.index_select(0, places), self.token_mask.index_select(0, places)
        return replace(self, text=text, token_mask=mask)

    def with_images(self, places: Tensor) -> UniModal:
        """The same texts, text i beside the image of place `places[i]`."""
        names = ("visual", "boxes_unit", "region_mask")
        return replace(self, **{name: getattr(self, name).index_select(0, places) for name in names})


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
        plan: PromptPlan | None = None,
        wanted: Tensor | None = None,
        attend_across_swap: bool = True,
    ) -> Tensor:
        """The unified encoder over the (hybrid, where there is a plan) prompt -> hidden (B, T+R, D).

        wanted: (B, T+R) True = a row that somebody reads; None: all. The others are not computed, and zero.
        attend_across_swap: False where the two slots of a swapped anchor do not look at each other; a third may tell them.
        """
        apart = None if plan is None or attend_across_swap else plan.swapped_slot_pairs(states.tokens)
        text_slots, region_slots = self.prompt(states.text, states.visual, plan)
        masks = (states.token_mask, states.region_mask)
        return self.unified(text_slots, region_slots, states.boxes_unit, *masks, wanted, apart)

    def unify_at_cls(self, states: UniModal) -> Tensor:
        """The unified hidden state at [CLS] alone -> (B, D)."""
        wanted = states.token_mask.new_zeros(len(states.text), states.tokens + states.visual.shape[1])
        wanted[:, 0] = True
        return self.unify(states, wanted=wanted)[:, 0]

    @property
    def width(self) -> int:
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
    """A Cmal with BERT's initialisation, drawn from torch's current seed."""
    shape = {"width": width, "heads": heads, "inner": inner, "dropout": dropout}
    model = Cmal(
        visual=VisualEncoder(region_features, layers=visual_layers, **shape, hypersphere=hypersphere),
        textual=TextualEncoder(vocabulary, max_tokens, layers=text_layers, **shape, hypersphere=hypersphere),
        prompt=AssociativePrompt(width, hypersphere),
        unified=UnifiedEncoder(max_tokens, layers=unified_layers, **shape),
    )
    return initialise(model, width)
