"""A task with its model, and its answers to records: alone, or each process its share, gathered by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cmal.data.batch import Batch
from cmal.data.example import ExampleBuilder
from cmal.data.loaders import TaskData
from cmal.data.micro_batches import MicroBatch
from cmal.data.records import Record
from cmal.data.text import WordPieces
from cmal.model.cmal import Cmal
from cmal.model.pretraining import ContrastiveHead, Losses
from cmal.runs.assembly import ModelConfig
from cmal.tasks.base import Answers, Task
from cmal.tasks.pair_scores import CachedStates, cache_states
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.shortlist import Shortlist
from cmal.training.distributed import DistributedContext, gather_by_id

EVALUATION_BATCH = 64


class TaskModel(nn.Module):
    """Cmal with a task's head; a batch in, the task's loss out."""

    def __init__(self, cmal: Cmal, head: nn.Module, task: Task):
        super().__init__()
        self.cmal, self.head, self.task = cmal, head, task

    def forward(self, batch: Batch) -> Losses:
        """The loss of one group."""
        loss = self.task.loss(self.task.forward(self.cmal, self.head, batch), batch)
        return Losses(loss, {})


@dataclass(frozen=True)
class TaskRun:
    """A task, its model and vocabulary, and what the checkpoint says of itself.

    contrastive: of a pre-trained checkpoint that has this head.
    """

    task: Task
    model: TaskModel
    config: ModelConfig
    word_pieces: WordPieces
    contrastive: ContrastiveHead | None = None


def has_right_answer(record: Record) -> bool:
    """False for a question without answers and a sentence without label, as in test splits that a server scores."""
    return bool(getattr(record, "answers", True)) and bool(getattr(record, "label", True))


@torch.no_grad()
def shared_answers(
    made: TaskRun,
    records: Sequence[Record],
    builder: ExampleBuilder,
    context: DistributedContext,
    report: Callable[[int, int], None] = lambda done, of: None,
    choose: Callable[[CachedStates], Shortlist] | None = None,
) -> Answers:
    """All answers on every process, each record answered by one: those at rank, rank + world, ...

    choose: for retrieval by a shortlist; the first process chooses for all.
    """
    if not isinstance(made.task, Retrieval):
        return gather_by_id(
            answer_all(made, records[context.rank :: context.world_size], builder, context.device, report)
        )
    turn, cmal = (context.rank, context.world_size), made.model.cmal
    states = cache_states(cmal, records, builder, context.device)
    shortlist = choose(states) if choose and context.is_first else None
    if choose:
        shortlist = gather_by_id({"": shortlist} if context.is_first else {})[""]  # the same everywhere
    mine = made.task.score_matrix(cmal, made.model.head, states, report, turn, shortlist)
    rows = gather_by_id({context.rank + turn * context.world_size: row for turn, row in enumerate(mine)})
    scores = {"scores": np.stack([rows[row] for row in range(len(rows))])}
    return scores | ({"shortlist": shortlist} if shortlist else {})


@torch.no_grad()
def answer_all(
    made: TaskRun,
    records: Sequence[Record],
    builder: ExampleBuilder,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Answers:
    """Every record's answer; records of like length go together. An error in a record is told with its id."""
    data = TaskData(records, builder, made.task.make_batch, seed=0)
    order = data.lengths().argsort(kind="stable").tolist()
    answers: Answers = {}
    for start in range(0, len(order), EVALUATION_BATCH):
        indices = tuple(order[start : start + EVALUATION_BATCH])
        _, batch = data[MicroBatch(0, 0, 0, start, indices)]
        batch = batch.to(device)
        answers |= made.task.answers(made.task.forward(made.model.cmal, made.model.head, batch), batch)
        report(len(answers), len(records))
    return answers
