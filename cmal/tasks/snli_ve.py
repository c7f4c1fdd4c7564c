"""Visual entailment: does the image entail, contradict or say nothing about the sentence?

Protocol: SNLI-VE (Xie et al. 2019), three-way accuracy. The checkpoint keeps the label strings in the head's order, since
peers number them in three different ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import EntailmentRecord
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.tasks.base import IGNORE_LABEL, Answers, Mlp, Scores, Task, cls_states, labelled_loss
from cmal.tasks.metrics import accuracy, confusion_table, per_label_table

LABELS = ("contradiction", "entailment", "neutral")


class SnliVe(Task[EntailmentRecord]):
    """Three-way classification at [CLS]. Args: name as in `cmal eval NAME`; labels in the head's order."""

    record_kind = EntailmentRecord
    main_protocol = "official"
    protocols = ("official",)

    def __init__(self, name: str, labels: Sequence[str] = LABELS):
        self.name, self.labels = name, tuple(labels)

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return Mlp(width, 2 * width, len(self.labels), dropout)

    def make_batch(
        self, records: Sequence[EntailmentRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        batch = make_batch([builder.build(r.id, r.image_id, r.hypothesis) for r in records])
        labels = [self.labels.index(r.label) if r.label else IGNORE_LABEL for r in records]
        return dataclasses.replace(batch, targets={"label": torch.tensor(labels)})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(B, 3) logits."""
        return head(cls_states(cmal, batch))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return labelled_loss(output, batch.targets["label"])

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        return {id: self.labels[best] for id, best in zip(batch.ids, output.argmax(dim=1).tolist())}

    def score(self, answers: Answers, records: Sequence[EntailmentRecord], protocol: str) -> Scores:
        gold, predicted = [r.label for r in records], [answers[r.id] for r in records]
        return Scores(
            main="accuracy",
            metrics={"accuracy": accuracy(predicted, gold)},
            chance=max(gold.count(label) for label in self.labels) / len(gold),
            values=np.array([p == g for p, g in zip(predicted, gold)], float),
            clusters=[r.image_id for r in records],
            protocol="three-way accuracy; chance is always answering the commonest label",
            tables={
                "per_label": per_label_table(predicted, gold, self.labels),
                "confusion": confusion_table(predicted, gold, self.labels),
            },
            counts={"hypotheses": len(records)},
        )
