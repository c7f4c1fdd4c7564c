"""Visual question answering: an answer out of a vocabulary, from the hidden state at [CLS].

Protocol: VQA v2 (Goyal et al. 2017), string metric over ten answers; binary cross-entropy on soft targets, as peers do.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import VqaRecord
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.tasks.base import Answers, Mlp, Scores, Task, cls_states
from cmal.tasks.metrics import VQA_PROTOCOLS, soft_targets, vqa_accuracies, vqa_scores


class Vqa(Task[VqaRecord]):
    """VQA over a fixed answer vocabulary.

    Args:
        name: as in `cmal eval NAME`.
        labels: the answers, in the order of the head's outputs.
    """

    record_kind = VqaRecord
    main_protocol = "official"
    protocols = tuple(VQA_PROTOCOLS)

    def __init__(self, name: str, labels: Sequence[str]):
        self.name, self.labels = name, tuple(labels)
        self._index = {answer: index for index, answer in enumerate(self.labels)}

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return Mlp(width, 2 * width, len(self.labels), dropout)

    def make_batch(
        self, records: Sequence[VqaRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        batch = make_batch([builder.build(r.id, r.image_id, r.question) for r in records])
        targets = torch.zeros(len(records), len(self.labels))
        for row, record in zip(targets, records):
            for answer, score in soft_targets(record.answers).items() if record.answers else ():
                if answer in self._index:
                    row[self._index[answer]] = score
        return dataclasses.replace(batch, targets={"answers": targets})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(B, answers) logits."""
        return head(cls_states(cmal, batch))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy, summed over the vocabulary and averaged over questions."""
        targets = batch.targets["answers"]
        return F.binary_cross_entropy_with_logits(output.float(), targets, reduction="sum") / len(targets)

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        return {id: self.labels[best] for id, best in zip(batch.ids, output.argmax(dim=1).tolist())}

    def score(self, answers: Answers, records: Sequence[VqaRecord], protocol: str) -> Scores:
        table = vqa_scores(answers, records, protocol)
        most_common = Counter(a for r in records for a in soft_targets(r.answers)).most_common(1)[0][0]
        guess = vqa_accuracies({r.id: most_common for r in records}, records, protocol)
        return Scores(
            main="accuracy",
            metrics={"accuracy": float(table["overall"])},
            chance=float(guess.mean()),
            values=vqa_accuracies(answers, records, protocol),
            clusters=[r.image_id for r in records],
            protocol=f'{protocol} string metric over ten answers; chance is always answering "{most_common}"',
            tables={name: table[name] for name in ("per_answer_type", "per_question_type")},
            counts={"questions": len(records)},
        )
