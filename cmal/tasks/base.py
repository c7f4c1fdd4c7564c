"""What a downstream task brings to the one training loop and the one evaluation.

A task reads records, makes batches of them, has a head, a loss and answers, and scores the answers by its official
protocol. Tasks meet only here.

Legend: B batch, T word pieces, R regions, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.data.example import ExampleBuilder
from cmal.data.records import Record
from cmal.model.cmal import Cmal
from cmal.model.inputs import Batch
from cmal.model.transformer import no_rows

Answers = dict[str, Any]
RecordT = TypeVar("RecordT", bound=Record)
IGNORE_LABEL = -100  # label of a record without a right answer; the loss skips it


@dataclass(frozen=True)
class Scores:
    """Scores of one evaluation.

    Attributes:
        main: name of the metric that stands for the task; higher is better.
        metrics: name -> value in [0, 1] (ranks apart).
        chance: the main metric's value for guessing.
        values: (N,) per example, for the bootstrap of the main metric; clusters: (N,) image ids.
        protocol: the convention, in words.
        tables: name -> nested tables (per type, per label, ...).
        counts: name -> number.
        more_values: other metric -> its values and clusters, for their bootstraps.
    """

    main: str
    metrics: Mapping[str, float]
    chance: float
    values: np.ndarray
    clusters: Sequence[str]
    protocol: str
    tables: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    more_values: Mapping[str, tuple[np.ndarray, Sequence[str] | None]] = field(default_factory=dict)


class Task(ABC, Generic[RecordT]):
    """One downstream task.

    Attributes:
        name: as in `cmal eval NAME`; record_kind: what its files hold.
        labels: the head's classes in order; empty where it has none. Saved beside the checkpoint.
        main_protocol, protocols: names that `--protocol` takes.
    """

    name: str
    record_kind: type[RecordT]
    labels: tuple[str, ...] = ()
    main_protocol: str
    protocols: tuple[str, ...]

    @abstractmethod
    def build_head(self, width: int, dropout: float) -> nn.Module:
        """The task's own layers."""

    @abstractmethod
    def make_batch(self, records: Sequence[RecordT], builder: ExampleBuilder, generator: np.random.Generator) -> Batch:
        """Examples with targets (where the records have answers), padded."""

    @abstractmethod
    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """The head's output for a batch."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """() the training loss."""

    @abstractmethod
    def answers(self, output: Tensor, batch: Batch) -> Answers:
        """Record id -> answer, in plain Python values."""

    @abstractmethod
    def score(self, answers: Answers, records: Sequence[RecordT], protocol: str) -> Scores:
        """The official metrics of answers to all records."""


class Mlp(nn.Sequential):
    """Linear, GELU, layer norm, dropout, linear: the two-layer head most tasks use."""

    def __init__(self, width: int, inner: int, outputs: int, dropout: float):
        super().__init__(
            nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner), nn.Dropout(dropout), nn.Linear(inner, outputs)
        )


def cls_states(cmal: Cmal, batch: Batch) -> Tensor:
    """The unified hidden states at [CLS] (B, D) of a batch, nothing masked or swapped."""
    return cmal.unify_at_cls(cmal.encode(*batch.inputs))


def region_states(cmal: Cmal, batch: Batch) -> Tensor:
    """The unified hidden states of the regions (B, R, D) of a batch, nothing masked or swapped."""
    needed_mask = torch.cat([torch.zeros_like(batch.token_mask), batch.region_mask], dim=1)
    return cmal.unify(cmal.encode(*batch.inputs), needed_mask=needed_mask)[:, batch.token_mask.shape[1] :]


def labelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """() mean cross-entropy of (B, C) logits over the rows that have a label; zero, attached, where none has."""
    if not bool((labels != IGNORE_LABEL).any()):
        return no_rows(logits)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL)
