"""Cmal with its pre-training heads: one batch in, the weighted losses out. MLM, MRM and AMC share the masked forward.

Legend: B batch, T word pieces, R regions, K anchors, M masked places, D width, F raw region features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.data.batch import Batch, MaskedInputs
from cmal.model import losses as objectives
from cmal.model.association import Association, AssociativeMapping, Cosines, UnimodalAssociation
from cmal.model.cmal import Cmal, UniModal
from cmal.model.transformer import Transform, initialise, rows_at

OBJECTIVES = ("mlm", "mrm_class", "mrm_feature", "itm", "amc", "itc")


@dataclass(frozen=True)
class Losses:
    """The weighted sum to train on, and its parts by name, unweighted, with measures such as accuracies beside them."""

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
        """-> (B, D) text and (B, D) visual unit vectors."""
        count = states.region_mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = (states.visual * states.region_mask[..., None]).sum(dim=1) / count
        return F.normalize(self.text(states.text[:, 0]), dim=-1), F.normalize(self.visual(pooled), dim=-1)


def both_directions(to_region: Association, to_word: Association) -> Tensor:
    """() the mean of the two directions' association losses."""
    losses = [objectives.association_loss(a.logits, a.is_positive) for a in (to_region, to_word)]
    return (losses[0] + losses[1]) / 2


class CmalForPretraining(nn.Module):
    """Every objective whose weight is not zero has its head; the others cost neither parameters nor computation.

    Args:
        cmal: the model.
        weights: name -> weight, of mlm, mrm_class, mrm_feature, itm, amc, itc.
        candidates: "batch", "example" or "both", whom an anchor is told from (see `association.py`).
        amc_at: "unified" asks AMC of the unified encoder's vectors, "both" of the uni-modal ones too.
        classes: C of the detector; region_features: F.
        attend_across_swap: whether the two slots of a swapped anchor see each other. Each sees then what it is asked for,
            and needs no context; measured on scenes, it is better for the tasks all the same.
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
        makers = {
            "mlm": lambda: LanguageHead(width, vocabulary),
            "mrm_class": lambda: nn.Sequential(Transform(width), nn.Linear(width, classes)),
            "mrm_feature": lambda: nn.Sequential(Transform(width), nn.Linear(width, region_features)),
            "itm": lambda: MatchingHead(width),
            "amc": lambda: AssociativeMapping(width),
            "itc": lambda: ContrastiveHead(width),
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.candidates, self.attend_across_swap = candidates, attend_across_swap
        self.heads = initialise(nn.ModuleDict({name: makers[name]() for name in self.weights}), width)
        if "amc" in self.weights and amc_at == "both":
            self.heads["amc_unimodal"] = UnimodalAssociation()
        self.cmal = cmal

    def forward(self, batch: Batch) -> Losses:
        """The losses of one group."""
        parts: dict[str, Tensor] = {}
        if batch.masked is not None and self.weights.keys() & {"mlm", "mrm_class", "mrm_feature", "amc"}:
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
        hidden = self.cmal.unify(states, plan, self.read_rows(batch, masked), self.attend_across_swap)
        parts = {}
        if "mlm" in self.weights:
            rows = rows_at(hidden, masked.word_example, masked.word_position)
            logits = self.heads["mlm"](rows, states.words)
            parts["mlm"] = objectives.masked_language_loss(logits, masked.word_labels)
        example, position = masked.region_example, masked.region_position
        if self.weights.keys() & {"mrm_class", "mrm_feature"}:
            rows = rows_at(hidden, example, position + states.tokens)
        if "mrm_class" in self.weights:
            top_ids, top_probs = masked.region_top_ids, masked.region_top_probs
            parts["mrm_class"] = objectives.region_class_loss(self.heads["mrm_class"](rows), top_ids, top_probs)
        if "mrm_feature" in self.weights:
            target = batch.features[example, position]
            parts["mrm_feature"] = objectives.region_feature_loss(self.heads["mrm_feature"](rows), target)
        if plan is not None:
            parts |= self.association_parts(states, hidden, batch, masked)
        return parts

    def read_rows(self, batch: Batch, masked: MaskedInputs) -> Tensor | None:
        """(B, T+R) True = a slot that an objective reads; None where it is all of them."""
        plan, tokens = masked.plan, batch.token_mask.shape[1]
        if "amc" in self.weights and self.candidates != "batch":
            return None
        wanted = torch.zeros_like(torch.cat([batch.token_mask, batch.region_mask], dim=1))
        if "mlm" in self.weights:
            wanted[masked.word_example, masked.word_position] = True
        if self.weights.keys() & {"mrm_class", "mrm_feature"}:
            wanted[masked.region_example, masked.region_position + tokens] = True
        if "amc" in self.weights:
            wanted[plan.example, plan.region + tokens] = True
            wanted[plan.example[plan.piece_anchor], plan.piece_position] = True
        return wanted

    def association_parts(
        self, states: UniModal, hidden: Tensor, batch: Batch, masked: MaskedInputs
    ) -> dict[str, Tensor]:
        """AMC, the mean of its two directions, with both accuracies; asked in two places it is their sum."""
        head = self.heads["amc"]
        if self.candidates == "batch":
            to_region, to_word = head.among_micro_batch(hidden, batch.token_mask.shape[1], masked.plan)
        else:
            choose = head.among_both if self.candidates == "both" else head.within_example
            to_region, to_word = choose(hidden, batch.token_mask, batch.region_mask, masked.plan)
        parts = {
            "amc": both_directions(to_region, to_word),
            "association_t2v": objectives.association_accuracy(to_region).detach(),
            "association_v2t": objectives.association_accuracy(to_word).detach(),
        }
        if "amc_unimodal" in self.heads:
            early = both_directions(*self.heads["amc_unimodal"](states.text, states.visual, masked.plan))
            parts |= {"amc": parts["amc"] + early, "amc_unimodal": early.detach()}
        return parts

    def paired_losses(self, batch: Batch) -> dict[str, Tensor]:
        """ITM and ITC from unmasked inputs; ITM's negatives reuse the group's text states."""
        states = self.cmal.encode(*batch.inputs)
        parts = {}
        if "itm" in self.weights and batch.text_of is not None:
            logits = self.heads["itm"](self.cmal.unify_at_cls(states.with_texts(batch.text_of)))
            parts["itm"] = objectives.matching_loss(logits, batch.is_match)
            parts["itm_accuracy"] = ((logits > 0) == batch.is_match).float().mean().detach()
        if "itc" in self.weights:
            head = self.heads["itc"]
            text, visual = head(states)
            parts["itc"] = objectives.contrastive_loss(text, visual, batch.same_image, head.temperature)
        return parts
