"""Cmal with its pre-training heads: one batch in, the weighted losses out. MLM, MRM and AMC share the masked forward.

Legend: B batch, T word pieces, R regions, K anchors, M masked positions, D width, F raw region features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.model import losses
from cmal.model.association import Association, AssociativeMapping, Cosines, UnimodalAssociation
from cmal.model.cmal import Cmal, UniModal
from cmal.model.inputs import Batch, MaskedInputs, MaskingPlan
from cmal.model.transformer import Transform, initialise, rows_at

OBJECTIVES = ("mlm", "mrm_class", "mrm_feature", "itm", "amc", "itc")
MASKED_OBJECTIVES = frozenset({"mlm", "mrm_class", "mrm_feature", "amc"})
MRM_OBJECTIVES = frozenset({"mrm_class", "mrm_feature"})


@dataclass(frozen=True)
class Losses:
    """The weighted sum to train on, and by name its unweighted parts and measures such as accuracies."""

    total: Tensor
    parts: Mapping[str, Tensor]


class MatchingHead(nn.Module):
    """Do image and text belong together? One logit from the hidden state at [CLS]."""

    def __init__(self, width: int):
        super().__init__()
        self.transform = Transform(width)
        self.score = nn.Linear(width, 1)

    def forward(self, at_cls: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.score(self.transform(at_cls)).squeeze(-1)


class LanguageHead(nn.Module):
    """BERT's masked-language head; its output weights are the word embeddings, passed in."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.transform = Transform(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, rows: Tensor, embeddings: Tensor) -> Tensor:
        """(M, D), (V, D) -> (M, V)."""
        return F.linear(self.transform(rows), embeddings, self.bias)


class ContrastiveHead(Cosines):
    """Pools each modality (text at [CLS], regions by their mean) and projects both to unit vectors."""

    def __init__(self, width: int):
        super().__init__()
        self.text, self.visual = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states: UniModal) -> tuple[Tensor, Tensor]:
        """Returns (B, D) text and (B, D) visual unit vectors."""
        count = states.region_mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = (states.visual * states.region_mask[..., None]).sum(dim=1) / count
        return F.normalize(self.text(states.text[:, 0]), dim=-1), F.normalize(self.visual(pooled), dim=-1)


def both_directions(to_region: Association, to_word: Association) -> Tensor:
    """() the mean of the two directions' association losses."""
    first, second = (losses.association_loss(a.logits, a.is_positive) for a in (to_region, to_word))
    return (first + second) / 2


class CmalForPretraining(nn.Module):
    """Cmal with a head for every objective whose weight is not zero; the others cost neither parameters nor computation.

    Args:
        cmal: the model.
        weights: name -> weight, of mlm, mrm_class, mrm_feature, itm, amc, itc.
        candidates: "batch", "example" or "both": among which candidates AMC classifies (see `association.py`).
        amc_at: "unified" asks AMC of the unified encoder's vectors, "both" of the uni-modal vectors too.
        classes: number of the detector's classes.
        region_features: F.
        attend_across_swap: whether the two slots of a swapped anchor attend to each other. Each then sees its answer and
            needs no context; measured on scenes, this is better for the tasks all the same.
    """

    def __init__(
        self,
        cmal: Cmal,
        weights: Mapping[str, float],
        candidates: str,
        amc_at: str,
        classes: int,
        region_features: int,
        attend_across_swap: bool = True,
    ):
        super().__init__()
        width, vocabulary = cmal.width, cmal.textual.tokens.num_embeddings
        builders: dict[str, Callable[[], nn.Module]] = {
            "mlm": lambda: LanguageHead(width, vocabulary),
            "mrm_class": lambda: nn.Sequential(Transform(width), nn.Linear(width, classes)),
            "mrm_feature": lambda: nn.Sequential(Transform(width), nn.Linear(width, region_features)),
            "itm": lambda: MatchingHead(width),
            "amc": lambda: AssociativeMapping(width),
            "itc": lambda: ContrastiveHead(width),
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.candidates, self.attend_across_swap = candidates, attend_across_swap
        self.heads = initialise(nn.ModuleDict({name: builders[name]() for name in self.weights}), width)
        if "amc" in self.weights and amc_at == "both":
            self.heads["amc_unimodal"] = UnimodalAssociation()
        self.cmal = cmal

    def forward(self, batch: Batch) -> Losses:
        """The losses of one micro-batch."""
        parts: dict[str, Tensor] = {}
        if batch.masked is not None and self.weights.keys() & MASKED_OBJECTIVES:
            parts |= self.masked_losses(batch, batch.masked)
        if self.weights.keys() & {"itm", "itc"}:
            parts |= self.paired_losses(batch)
        total = torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum()
        return Losses(total, parts)

    def masked_losses(self, batch: Batch, masked: MaskedInputs) -> dict[str, Tensor]:
        """MLM, MRM and AMC from one forward with masked words, zeroed regions and swapped anchors."""
        features = batch.features.masked_fill(masked.zeroed_region_mask[..., None], 0.0)
        states = self.cmal.encode(masked.token_ids, batch.token_mask, features, batch.boxes_unit, batch.region_mask)
        plan = masked.plan if "amc" in self.weights else None
        hidden = self.cmal.unify(states, plan, self.needed_mask(batch, masked), self.attend_across_swap)
        parts = {}
        if "mlm" in self.weights:
            rows = rows_at(hidden, masked.word_example, masked.word_position)
            parts["mlm"] = losses.masked_language_loss(self.heads["mlm"](rows, states.words), masked.word_labels)
        if self.weights.keys() & MRM_OBJECTIVES:
            parts |= self.region_losses(hidden, states.tokens, batch, masked)
        if plan is not None:
            parts |= self.association_parts(states, hidden, batch, plan)
        return parts

    def needed_mask(self, batch: Batch, masked: MaskedInputs) -> Tensor | None:
        """(B, T+R) True = a slot that an objective reads; None where it is all of them."""
        plan, tokens = masked.plan, batch.token_mask.shape[1]
        if "amc" in self.weights and self.candidates != "batch":
            return None
        needed = torch.zeros_like(torch.cat([batch.token_mask, batch.region_mask], dim=1))
        if "mlm" in self.weights:
            needed[masked.word_example, masked.word_position] = True
        if self.weights.keys() & MRM_OBJECTIVES:
            needed[masked.region_example, masked.region_position + tokens] = True
        if "amc" in self.weights:
            needed[plan.example, plan.region + tokens] = True
            needed[plan.example[plan.piece_anchor], plan.piece_position] = True
        return needed

    def region_losses(self, hidden: Tensor, tokens: int, batch: Batch, masked: MaskedInputs) -> dict[str, Tensor]:
        """MRM's class and feature losses at the masked regions, which stand behind the T = `tokens` word pieces."""
        example, position = masked.region_example, masked.region_position
        rows = rows_at(hidden, example, position + tokens)
        parts = {}
        if "mrm_class" in self.weights:
            logits = self.heads["mrm_class"](rows)
            parts["mrm_class"] = losses.region_class_loss(logits, masked.region_top_ids, masked.region_top_probs)
        if "mrm_feature" in self.weights:
            predicted = self.heads["mrm_feature"](rows)
            parts["mrm_feature"] = losses.region_feature_loss(predicted, batch.features[example, position])
        return parts

    def association_parts(
        self, states: UniModal, hidden: Tensor, batch: Batch, plan: MaskingPlan[Tensor]
    ) -> dict[str, Tensor]:
        """AMC, the mean of its two directions, with both accuracies; with `amc_at: both` the sum of both places."""
        head = self.heads["amc"]
        assert isinstance(head, AssociativeMapping)
        if self.candidates == "batch":
            to_region, to_word = head.among_micro_batch(hidden, states.tokens, plan)
        else:
            classify = head.among_both if self.candidates == "both" else head.within_example
            to_region, to_word = classify(hidden, batch.token_mask, batch.region_mask, plan)
        parts = {
            "amc": both_directions(to_region, to_word),
            "association_t2v": losses.association_accuracy(to_region).detach(),
            "association_v2t": losses.association_accuracy(to_word).detach(),
        }
        if "amc_unimodal" in self.heads:
            unimodal = both_directions(*self.heads["amc_unimodal"](states.text, states.visual, plan))
            parts |= {"amc": parts["amc"] + unimodal, "amc_unimodal": unimodal.detach()}
        return parts

    def paired_losses(self, batch: Batch) -> dict[str, Tensor]:
        """ITM and ITC from unmasked inputs; ITM's negatives reuse the micro-batch's text states."""
        states = self.cmal.encode(*batch.inputs)
        parts = {}
        if "itm" in self.weights and batch.text_of is not None and batch.is_match is not None:
            logits = self.heads["itm"](self.cmal.unify_at_cls(states.with_texts(batch.text_of)))
            parts["itm"] = losses.matching_loss(logits, batch.is_match)
            parts["itm_accuracy"] = ((logits > 0) == batch.is_match).float().mean().detach()
        if "itc" in self.weights and batch.same_image is not None:
            head = self.heads["itc"]
            assert isinstance(head, ContrastiveHead)
            text, visual = head(states)
            parts["itc"] = losses.contrastive_loss(text, visual, batch.same_image, head.temperature)
        return parts
