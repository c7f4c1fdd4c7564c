"""Which examples make up each group of each step: seeded, of known length, and a function of the step alone.

Groups hold examples of similar length, so that little is padded, and the groups of a step are neighbours in length, so that
devices carry alike even with one group each. Nothing depends on how many devices share the work: a step has always the same
groups, and a device takes its part of them. There is no state to save but the step.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cmal.errors import CmalError, as_user_error
from cmal.io.signals import end_helpers, ignore_stopping

STEPS_SORTED_TOGETHER = 32  # lengths are sorted within so many steps' worth of shuffled examples


@dataclass(frozen=True)
class MicroBatch:
    """One group of examples.

    Attributes:
        step: 1-based optimizer step; position: its position among the step's groups.
        epoch: how often the data was gone through before.
        number: its number since the start of the run, the key of its random draws.
        indices: the examples.
    """

    step: int
    position: int
    epoch: int
    number: int
    indices: tuple[int, ...]


class MicroBatchPlan:
    """All groups of a run.

    Args:
        lengths: (N,) length of every example, or something that grows with it.
        micro_batch_size: examples a group; where there are fewer examples, groups repeat some of them.
        micro_batches_per_step: groups of one optimizer step.
        seed: of the order.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, micro_batch_size: int, micro_batches_per_step: int, seed: int
    ):
        self.lengths = np.asarray(lengths)
        self.micro_batch_size, self.micro_batches_per_step, self.seed = micro_batch_size, micro_batches_per_step, seed
        self.micro_batches_per_epoch = max(1, len(self.lengths) // micro_batch_size)
        self._epoch_order: tuple[int, np.ndarray] | None = None

    def micro_batch(self, number: int) -> MicroBatch:
        """The group of a number, counted from 0."""
        epoch, row = divmod(number, self.micro_batches_per_epoch)
        step, position = divmod(number, self.micro_batches_per_step)
        indices = self._order(epoch)[row]
        return MicroBatch(step + 1, position, epoch, number, tuple(indices.tolist()))

    def step_micro_batches(self, step: int) -> list[MicroBatch]:
        """The groups of a 1-based step."""
        first = (step - 1) * self.micro_batches_per_step
        return [self.micro_batch(number) for number in range(first, first + self.micro_batches_per_step)]

    def _order(self, epoch: int) -> np.ndarray:
        """(groups, micro_batch_size) example indices of one epoch; the rest that fills no group waits for another epoch."""
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.lengths))
            if len(order) < self.micro_batch_size:
                order = np.resize(order, self.micro_batch_size)
            order = order[: self.micro_batches_per_epoch * self.micro_batch_size]
            block = STEPS_SORTED_TOGETHER * self.micro_batches_per_step * self.micro_batch_size
            parts = [order[i : i + block] for i in range(0, len(order), block)]
            parts = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
            micro_batches = np.concatenate(parts).reshape(-1, self.micro_batch_size)
            self._epoch_order = epoch, micro_batches[self._order_of_micro_batches(epoch, generator)]
        return self._epoch_order[1]

    def _order_of_micro_batches(self, epoch: int, generator: np.random.Generator) -> np.ndarray:
        """(groups,) places: whole steps in a random order, after what completes the step that the epoch before began."""
        count, size = self.micro_batches_per_epoch, self.micro_batches_per_step
        begun = min(-epoch * count % size, count)
        steps, rest = divmod(count - begun, size)
        whole = generator.permutation(steps)[:, None] * size + np.arange(size)
        return np.concatenate([np.arange(count - begun, count), whole.ravel(), steps * size + np.arange(rest)])


class MicroBatchSequence:
    """The groups one device works on, step after step, as a sampler of a DataLoader.

    Within a step the groups are dealt by length, longest first and back and forth, so that devices carry alike.
    """

    def __init__(self, plan: MicroBatchPlan, first_step: int, last_step: int, rank: int = 0, world_size: int = 1):
        assert plan.micro_batches_per_step % world_size == 0, "every device takes the same number of groups"
        self.plan, self.first_step, self.last_step, self.rank, self.world_size = (
            plan,
            first_step,
            last_step,
            rank,
            world_size,
        )

    def __len__(self) -> int:
        steps = max(0, self.last_step - self.first_step + 1)
        return steps * self.plan.micro_batches_per_step // self.world_size

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self.first_step, self.last_step + 1):
            micro_batches = self.plan.step_micro_batches(step)
            by_length = sorted(
                micro_batches, key=lambda g: (-int(self.plan.lengths[list(g.indices)].max()), g.position)
            )
            for turn in range(0, len(micro_batches), self.world_size):
                hand = by_length[turn : turn + self.world_size]
                yield hand[self.rank if (turn // self.world_size) % 2 == 0 else self.world_size - 1 - self.rank]


def load_micro_batches(
    dataset: Dataset, micro_batches: Iterable[MicroBatch], workers: int
) -> Iterator[tuple[MicroBatch, Any]]:
    """Gives `dataset[group]` for every group, made in `workers` processes (0: here), at most one a core.

    Raises:
        CmalError: what a worker met that the user can put right. RuntimeError: a worker died.
    """
    workers = min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers:
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)
    loader = DataLoader(
        _ErrorReporting(dataset) if workers else dataset,
        sampler=micro_batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
        worker_init_fn=_begin_worker if workers else None,
    )
    for made in loader:
        if isinstance(made, CmalError):
            raise made
        yield made


class _ErrorReporting(Dataset):
    """A data set in a worker process, whose errors with a message reach the parent as they are, not as a traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, micro_batch: MicroBatch) -> object:
        try:
            return self.dataset[micro_batch]
        except Exception as error:
            if (message := as_user_error(error)) is None:
                raise
            return message


def _begin_worker(number: int) -> None:
    ignore_stopping()  # the parent decides; it wants its batches until it has written a checkpoint


def _end_workers() -> None:
    """At exit: multiprocessing asks what workers are left to stop, which they ignore, and would wait for them for ever."""
    others = [child for child in multiprocessing.active_children() if not child.daemon]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would call it an error that they end
    end_helpers(others)
