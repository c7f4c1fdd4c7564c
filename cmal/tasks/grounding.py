"""Phrase grounding: which region does a phrase of the sentence mean? One score per region.

The model reads the whole sentence and all regions. The score of a region is a cosine with the phrase (mean over its word
pieces), computed twice and added: between the uni-modal vectors, and between the unified encoder's vectors after
projection. Pre-training's association learns both cosines at anchors, so a pre-trained model grounds without fine-tuning.

Legend: B batch, T word pieces, R regions, D width.
Source: the task and its protocols, Plummer et al. 2015 (see `metrics/grounding.py`). Ours: the sum of the two cosines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.data.batch import make_batch, pad
from cmal.data.example import ExampleBuilder
from cmal.data.records import PhraseRecord
from cmal.data.text import TokenisedText
from cmal.model.association import AssociativeMapping, UnimodalAssociation
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.model.transformer import no_rows
from cmal.regions.boxes import iou_matrix, xywh_to_xyxy
from cmal.tasks.base import Answers, Scores, Task
from cmal.tasks.metrics.grounding import GROUNDING_PROTOCOLS, MIN_IOU, recalls, right_boxes, score_phrase

SCORED_BY = ("both", "unified", "unimodal")


class GroundingHead(nn.Module):
    """Cosines of phrase and regions over learned temperatures, in the unified encoder and between the uni-modal vectors.

    Args:
        width: D.
        scored_by: "both", "unified" or "unimodal".
    """

    def __init__(self, width: int, scored_by: str = "both"):
        super().__init__()
        self.scored_by = scored_by
        self.unified, self.unimodal = AssociativeMapping(width), UnimodalAssociation()

    def start_from(self, heads: Mapping[str, nn.Module]) -> None:
        """Takes over what pre-training learned of associations: its heads `amc` and `amc_unimodal`, as far as there."""
        for name, head in (("amc", self.unified), ("amc_unimodal", self.unimodal)):
            if name in heads:
                head.load_state_dict(heads[name].state_dict())

    def forward(self, phrase: tuple[Tensor, Tensor], regions: tuple[Tensor, Tensor]) -> Tensor:
        """Scores (B, R) from the phrase's and the regions' vectors, (B, D) and (B, R, D), each (uni-modal, unified)."""
        scores = regions[0].new_zeros(regions[0].shape[:2])
        if self.scored_by != "unified":
            scores = scores + _cosines(phrase[0], regions[0]) / self.unimodal.temperature
        if self.scored_by != "unimodal":
            word, region = self.unified.text(phrase[1]), self.unified.region(regions[1])
            scores = scores + _cosines(word, region) / self.unified.temperature
        return scores


class PhraseGrounding(Task[PhraseRecord]):
    """See the module. Args: name as in `cmal eval NAME`; scored_by as in `GroundingHead`."""

    record_kind = PhraseRecord
    main_protocol = "merged"
    protocols = GROUNDING_PROTOCOLS

    def __init__(self, name: str, scored_by: str = "both"):
        self.name, self.scored_by = name, scored_by

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return GroundingHead(width, self.scored_by)

    def make_batch(
        self, records: Sequence[PhraseRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        """Examples with `phrase` (B, T) True at the phrase's pieces and `overlap` (B, R), IoU with the merged gold."""
        examples = [builder.build(r.id, r.image_id, r.sentence) for r in records]
        phrases = [phrase_pieces(builder.word_pieces.encode(r.sentence, builder.max_tokens), r.span) for r in records]
        overlaps = [
            iou_matrix(e.boxes_unit[:, :4], right_boxes(gold_boxes_unit(r), "merged"))[:, 0]
            for e, r in zip(examples, records)
        ]
        targets = {
            "phrase": pad(phrases, torch.bool),
            "overlap": pad(overlaps, torch.float32),
            "original_wh_px": torch.tensor([r.image_wh_px for r in records], dtype=torch.float32),
        }
        return dataclasses.replace(make_batch(examples), targets=targets)

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(B, R) scores, -inf where there is no region."""
        states = cmal.encode(*batch.inputs)
        hidden = cmal.unify(states)  # (B, T+R, D)
        phrase = batch.targets["phrase"]
        unimodal, unified = (_mean_at(text, phrase) for text in (states.text, hidden[:, : states.tokens]))
        scores = head((unimodal, unified), (states.visual, hidden[:, states.tokens :]))
        return scores.float().masked_fill(~batch.region_mask, float("-inf"))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """() cross-entropy with the IoU as soft target, among regions that overlap by half; others count nothing."""
        overlap = batch.targets["overlap"]
        target = torch.where(overlap >= MIN_IOU, overlap, 0.0)
        has_target = target.sum(dim=1) > 0
        if not bool(has_target.any()):
            return no_rows(output.masked_fill(~batch.region_mask, 0.0))
        target = target[has_target] / target[has_target].sum(dim=1, keepdim=True)
        log_p = F.log_softmax(output[has_target], dim=1).masked_fill(~batch.region_mask[has_target], 0.0)
        return -(target * log_p).sum(dim=1).mean()

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        """All boxes, best first, xyxy in pixels of the original photograph."""
        answers: Answers = {}
        for row, id in enumerate(batch.ids):
            count = int(batch.region_mask[row].sum())
            order = output[row, :count].argsort(descending=True, stable=True)
            boxes = batch.boxes_unit[row, order, :4] * batch.targets["original_wh_px"][row].repeat(2)
            answers[id] = boxes.tolist()
        return answers

    def score(self, answers: Answers, records: Sequence[PhraseRecord], protocol: str) -> Scores:
        return score_grounding(answers, records, protocol)


def score_grounding(answers: Answers, records: Sequence[PhraseRecord], protocol: str) -> Scores:
    """Accuracy, pointing, recalls and their tables per type, of ranked boxes for every phrase (see `answers`)."""
    gold = [xywh_to_xyxy(np.array(record.boxes_xywh_px)) for record in records]
    ranked = [np.array(answers[record.id], float).reshape(-1, 4) for record in records]
    scores = [score_phrase(boxes, right, protocol) for boxes, right in zip(ranked, gold)]
    hits = np.array([score.rank == 0 for score in scores], float)
    pointed = np.array([score.is_pointed for score in scores], float)
    images = [record.image_id for record in records]
    types = sorted({name for record in records for name in record.phrase_types})
    of_type = {name: np.array([name in record.phrase_types for record in records]) for name in types}
    found = recalls(scores)
    return Scores(
        main="accuracy",
        metrics={"accuracy": float(hits.mean()), "pointing": float(pointed.mean()), **found},
        chance=float(np.mean([score.hit_share for score in scores])),
        values=hits,
        clusters=images,
        protocol=f"phrases with a box, gold boxes {protocol}, hit at IoU >= 0.5; chance is a region drawn evenly",
        tables={
            "per_type": {
                name: {
                    "accuracy": float(hits[is_it].mean()),
                    "pointing": float(pointed[is_it].mean()),
                    "count": int(is_it.sum()),
                }
                for name, is_it in of_type.items()
            }
        },
        counts={
            "phrases": len(records),
            "images": len(set(images)),
            "without_regions": sum(not len(b) for b in ranked),
        },
        more_values={"pointing": (pointed, images)},
    )


def gold_boxes_unit(record: PhraseRecord) -> np.ndarray:
    """(G, 4) gold boxes xyxy over the original photograph's width and height: a resized file has the same."""
    width, height = record.image_wh_px
    return xywh_to_xyxy(np.array(record.boxes_xywh_px)) / np.array([width, height, width, height])


def phrase_pieces(text: TokenisedText, span: tuple[int, int]) -> np.ndarray:
    """(T,) True at the word pieces of the words that the characters `span` touch; at [CLS] where all were cut off."""
    touched = (text.char_spans[:, 0] < span[1]) & (span[0] < text.char_spans[:, 1])  # (W,)
    is_phrase = np.append(touched, False)[text.word_of_token]  # -1, [CLS] and [SEP], is the last: no word
    if not is_phrase.any():
        is_phrase[0] = True
    return is_phrase


def _mean_at(text: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) at (B, T) True -> (B, D)."""
    weights = mask.to(text.dtype)
    return (text * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def _cosines(phrase: Tensor, regions: Tensor) -> Tensor:
    """(B, D), (B, R, D) -> (B, R)."""
    return torch.einsum("bd,brd->br", F.normalize(phrase, dim=-1), F.normalize(regions, dim=-1))
