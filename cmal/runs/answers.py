"""A task's model, and its answers to records: computed in one process, or divided over all and gathered by record id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cmal.data.example import ExampleBuilder
from cmal.data.loaders import TaskData
from cmal.data.micro_batches import MicroBatch
from cmal.data.records import Record
from cmal.data.text import WordPieces
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.model.pretraining import ContrastiveHead, Losses
from cmal.runs.model_config import ModelConfig
from cmal.tasks.base import Answers, Task
from cmal.tasks.pair_scores import CachedStates, cache_states
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.shortlist import Shortlist
from cmal.training.distributed import DistributedContext, gather_by_id

EVALUATION_BATCH = 64


class TaskModel(nn.Module):
    """Cmal with a task's head: maps a batch to the task's loss."""

    def __init__(self, cmal: Cmal, head: nn.Module, task: Task):
        super().__init__()
        self.cmal, self.head, self.task = cmal, head, task

    def forward(self, batch: Batch) -> Losses:
        """The loss of one micro-batch."""
        return Losses(self.task.loss(self.task.forward(self.cmal, self.head, batch), batch), {})


@dataclass(frozen=True)
class LoadedTask:
    """A task with its model, configuration and vocabulary.

    Attributes:
        contrastive: the contrastive head of a pre-trained checkpoint that has one.
    """

    task: Task[Any]
    model: TaskModel
    config: ModelConfig
    word_pieces: WordPieces
    contrastive: ContrastiveHead | None = None


def has_right_answer(record: Record) -> bool:
    """False for a question without answers or a sentence without label, as in test splits that a server scores."""
    return bool(getattr(record, "answers", True)) and bool(getattr(record, "label", True))


@torch.no_grad()
def distributed_answers(
    loaded: LoadedTask,
    records: Sequence[Any],
    builder: ExampleBuilder,
    context: DistributedContext,
    report: Callable[[int, int], None] = lambda done, of: None,
    choose: Callable[[CachedStates], Shortlist] | None = None,
) -> Answers:
    """All answers, the same on every process; each process computes those at rank, rank + world_size, ...

    Args:
        choose: retrieval only; chooses the shortlist, in the first process, for all.
    """
    if not isinstance(loaded.task, Retrieval):
        own_records = records[context.rank :: context.world_size]
        return gather_by_id(answer_all(loaded, own_records, builder, context.device, report))
    cmal, head = loaded.model.cmal, loaded.model.head
    states = cache_states(cmal, records, builder, context.device)
    shortlist = None
    if choose:
        shortlist = gather_by_id({"": choose(states)} if context.is_first else {})[""]
    ranks = (context.rank, context.world_size)
    own_rows = loaded.task.score_matrix(cmal, head, states, report, ranks, shortlist)
    rows = gather_by_id({context.rank + turn * context.world_size: row for turn, row in enumerate(own_rows)})
    scores: Answers = {"scores": np.stack([rows[row] for row in range(len(rows))])}
    return scores | ({"shortlist": shortlist} if shortlist else {})


@torch.no_grad()
def answer_all(
    loaded: LoadedTask,
    records: Sequence[Record],
    builder: ExampleBuilder,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Answers:
    """Record id -> answer, computed in batches of records of similar length.

    Args:
        report: called with (answers so far, records) after every batch.

    Raises:
        CmalError: a record cannot be used; the message has its id.
    """
    data = TaskData(records, builder, loaded.task.make_batch, seed=0)
    order = data.lengths().argsort(kind="stable").tolist()
    answers: Answers = {}
    for start in range(0, len(order), EVALUATION_BATCH):
        indices = tuple(order[start : start + EVALUATION_BATCH])
        _, batch = data[MicroBatch(0, 0, 0, start, indices)]
        batch = batch.to(device)
        answers |= loaded.task.answers(loaded.task.forward(loaded.model.cmal, loaded.model.head, batch), batch)
        report(len(answers), len(records))
    return answers
