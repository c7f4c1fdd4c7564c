"""Referring expressions: which region does the expression mean? One score per region, cross-entropy over candidates.

Protocols: the regions come from the store. A store of all COCO boxes of each image gives the `gt` protocol, one of detected
boxes the `det` protocol; a hit is IoU > 0.5 with the object's box (peers' conventions by name, see `metrics/boxes.py`).
Scored per sentence (Yu et al. 2016).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import ReferringRecord
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.regions.boxes import iou_matrix, xywh_to_xyxy
from cmal.tasks.base import IGNORE_LABEL, Answers, Mlp, Scores, Task, labelled_loss, region_states
from cmal.tasks.metrics import BOX_PROTOCOLS, is_hit, oracle_recall

MIN_OVERLAP = 0.5  # a training target is the best overlapping region, if it overlaps by this much


class ReferringExpressions(Task[ReferringRecord]):
    """One score per region. Args: name as in `cmal eval NAME`."""

    record_kind = ReferringRecord
    main_protocol = "official"
    protocols = tuple(BOX_PROTOCOLS)

    def __init__(self, name: str):
        self.name = name

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return Mlp(width, width, 1, dropout)

    def make_batch(
        self, records: Sequence[ReferringRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        batch = make_batch([builder.build(r.id, r.image_id, r.expression) for r in records])
        targets = []
        for record, size, boxes, mask in zip(records, batch.image_size_px, batch.boxes_unit, batch.region_mask):
            boxes_px = (boxes[mask, :4] * size.repeat(2)).numpy()  # (R, 4)
            targets.append(target_region(boxes_px, record.box_xywh_px))
        return dataclasses.replace(batch, targets={"region": torch.tensor(targets)})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(B, R) scores, -inf where there is no region."""
        hidden = region_states(cmal, batch)  # (B, R, D)
        return head(hidden).squeeze(-1).float().masked_fill(~batch.region_mask, float("-inf"))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """() cross-entropy over an image's regions; expressions without a matching region are left out."""
        has_target = batch.targets["region"] != IGNORE_LABEL
        if not bool(has_target.any()):
            output = output.masked_fill(~batch.region_mask, 0.0)  # 0 * -inf is NaN
        return labelled_loss(output, batch.targets["region"])

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        """The chosen box, xyxy in pixels, and all boxes in the order of their scores."""
        answers: Answers = {}
        for row, id in enumerate(batch.ids):
            count = int(batch.region_mask[row].sum())
            order = output[row, :count].argsort(descending=True, stable=True)
            boxes = batch.boxes_unit[row, order, :4] * batch.image_size_px[row].repeat(2)
            answers[id] = boxes.tolist()
        return answers

    def score(self, answers: Answers, records: Sequence[ReferringRecord], protocol: str) -> Scores:
        gold = xywh_to_xyxy(np.array([r.box_xywh_px for r in records]))
        proposals = [np.array(answers[r.id], float).reshape(-1, 4) for r in records]
        # an image without any region cannot be hit: `is_hit` counts NaN as no candidate
        chosen = np.array([boxes[0] if len(boxes) else np.full(4, np.nan) for boxes in proposals])
        hits = is_hit(chosen, gold, protocol).astype(float)
        chances = [
            is_hit(boxes, np.repeat(box[None], len(boxes), 0), protocol).mean() if len(boxes) else 0.0
            for boxes, box in zip(proposals, gold)
        ]
        return Scores(
            main="accuracy",
            metrics={"accuracy": float(hits.mean()), "oracle_recall": oracle_recall(proposals, gold, protocol)},
            chance=float(np.mean(chances)),
            values=hits,
            clusters=[r.image_id for r in records],
            protocol=f"accuracy per sentence, hit rule {protocol}; chance is a region drawn evenly",
            counts={
                "sentences": len(records),
                "refs": len({r.ref_id for r in records}),
                "without_regions": sum(len(boxes) == 0 for boxes in proposals),
            },
        )


def target_region(boxes_xyxy_px: np.ndarray, box_xywh_px: Sequence[float]) -> int:
    """The region that overlaps the object's box most, or IGNORE_LABEL where none overlaps by half."""
    if len(boxes_xyxy_px) == 0:
        return IGNORE_LABEL
    overlap = iou_matrix(boxes_xyxy_px, xywh_to_xyxy(np.array([box_xywh_px])))[:, 0]
    best = int(overlap.argmax())
    return best if overlap[best] >= MIN_OVERLAP else IGNORE_LABEL
