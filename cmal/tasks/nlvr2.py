"""NLVR2: is the sentence true of the pair of images? Each image is read with the sentence; the two [CLS] states are joined.

Protocol: Suhr et al. 2019, accuracy, and consistency (the share of sentences whose every image pair is right).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import PairRecord
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.tasks.base import IGNORE_LABEL, Answers, Mlp, Scores, Task, cls_states, labelled_loss
from cmal.tasks.metrics import accuracy_and_consistency


class Nlvr2(Task[PairRecord]):
    """Two-way classification of both images' [CLS] states side by side. Args: name as in `cmal eval NAME`."""

    record_kind = PairRecord
    labels = ("False", "True")
    main_protocol = "official"
    protocols = ("official",)

    def __init__(self, name: str):
        self.name = name

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return Mlp(2 * width, 2 * width, 2, dropout)

    def make_batch(
        self, records: Sequence[PairRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        """2B examples: all left images, then all right ones; `ids` are the B records'."""
        sides = [(r.left_image_id, r) for r in records] + [(r.right_image_id, r) for r in records]
        batch = make_batch([builder.build(r.id, image_id, r.sentence) for image_id, r in sides])
        labels = [self.labels.index(r.label) if r.label else IGNORE_LABEL for r in records]
        ids = tuple(r.id for r in records)
        return dataclasses.replace(batch, ids=ids, targets={"label": torch.tensor(labels)})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(B, 2) logits."""
        left, right = cls_states(cmal, batch).chunk(2)
        return head(torch.cat([left, right], dim=1))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return labelled_loss(output, batch.targets["label"])

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        return {id: self.labels[best] for id, best in zip(batch.ids, output.argmax(dim=1).tolist())}

    def score(self, answers: Answers, records: Sequence[PairRecord], protocol: str) -> Scores:
        correct = np.array([answers[r.id] == r.label for r in records])
        metrics = accuracy_and_consistency(correct, [r.identifier for r in records])
        true_share = sum(r.label == "True" for r in records) / len(records)
        return Scores(
            main="accuracy",
            metrics={name: metrics[name] for name in ("accuracy", "consistency")},
            chance=max(true_share, 1 - true_share),
            values=correct.astype(float),
            clusters=[r.left_image_id for r in records],
            protocol="accuracy; consistency is the share of sentences right on all their image pairs",
            counts={"pairs": len(records)},
        )
