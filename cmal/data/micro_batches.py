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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cmal.errors import CmalError, told
from cmal.io.signals import end_helpers, ignore_stopping

STEPS_SORTED_TOGETHER = 32  # lengths are sorted within so many steps' worth of shuffled examples


@dataclass(frozen=True)
class Group:
    """One group of examples.

    Attributes:
        step: 1-based optimizer step; place: its place among the step's groups.
        epoch: how often the data was gone through before.
        number: its number since the start of the run, the key of its random draws.
        indices: the examples.
    """

    step: int
    place: int
    epoch: int
    number: int
    indices: tuple[int, ...]


class GroupPlan:
    """All groups of a run.

    Args:
        lengths: (N,) length of every example, or something that grows with it.
        group_size: examples a group; where there are fewer examples, groups repeat some of them.
        groups_per_step: groups of one optimizer step.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, group_size: int, groups_per_step: int, seed: int):
        self.lengths = np.asarray(lengths)
        self.group_size, self.groups_per_step, self.seed = group_size, groups_per_step, seed
        self.groups_per_epoch = max(1, len(self.lengths) // group_size)
        self._epoch_order: tuple[int, np.ndarray] | None = None

    def group(self, number: int) -> Group:
        """The group of a number, counted from 0."""
        epoch, place = divmod(number, self.groups_per_epoch)
        step, place_in_step = divmod(number, self.groups_per_step)
        indices = self._order(epoch)[place]
        return Group(step + 1, place_in_step, epoch, number, tuple(indices.tolist()))

    def step_groups(self, step: int) -> list[Group]:
        """The groups of a 1-based step."""
        first = (step - 1) * self.groups_per_step
        return [self.group(number) for number in range(first, first + self.groups_per_step)]

    def _order(self, epoch: int) -> np.ndarray:
        """(groups, group_size) example indices of one epoch; the rest that fills no group waits for another epoch."""
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.lengths))
            if len(order) < self.group_size:
                order = np.resize(order, self.group_size)
            order = order[: self.groups_per_epoch * self.group_size]
            block = STEPS_SORTED_TOGETHER * self.groups_per_step * self.group_size
            parts = [order[i : i + block] for i in range(0, len(order), block)]
            parts = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
            groups = np.concatenate(parts).reshape(-1, self.group_size)
            self._epoch_order = epoch, groups[self._order_of_groups(epoch, generator)]
        return self._epoch_order[1]

    def _order_of_groups(self, epoch: int, generator: np.random.Generator) -> np.ndarray:
        """(groups,) places: whole steps in a random order, after what completes the step that the epoch before began."""
        count, size = self.groups_per_epoch, self.groups_per_step
        begun = min(-epoch * count % size, count)
        steps, rest = divmod(count - begun, size)
        whole = generator.permutation(steps)[:, None] * size + np.arange(size)
        return np.concatenate([np.arange(count - begun, count), whole.ravel(), steps * size + np.arange(rest)])


class GroupSequence:
    """The groups one device works on, step after step, as a sampler of a DataLoader.

    Within a step the groups are dealt by length, longest first and back and forth, so that devices carry alike.
    """

    def __init__(self, plan: GroupPlan, first_step: int, last_step: int, rank: int = 0, world: int = 1):
        assert plan.groups_per_step % world == 0, "every device takes the same number of groups"
        self.plan, self.first_step, self.last_step, self.rank, self.world = plan, first_step, last_step, rank, world

    def __len__(self) -> int:
        steps = max(0, self.last_step - self.first_step + 1)
        return steps * self.plan.groups_per_step // self.world

    def __iter__(self) -> Iterator[Group]:
        for step in range(self.first_step, self.last_step + 1):
            groups = self.plan.step_groups(step)
            by_length = sorted(groups, key=lambda g: (-int(self.plan.lengths[list(g.indices)].max()), g.place))
            for turn in range(0, len(groups), self.world):
                hand = by_length[turn : turn + self.world]
                yield hand[self.rank if (turn // self.world) % 2 == 0 else self.world - 1 - self.rank]


def load_groups(dataset: Dataset, groups: GroupSequence, workers: int) -> Iterator[tuple[Group, object]]:
    """Gives `dataset[group]` for every group, made in `workers` processes (0: here), at most one a core.

    Raises:
        CmalError: what a worker met that the user can put right. RuntimeError: a worker died.
    """
    workers = min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers:
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)
    loader = DataLoader(
        _Told(dataset) if workers else dataset,
        sampler=groups,
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


class _Told(Dataset):
    """A data set in a worker process, whose errors with a message reach the parent as they are, not as a traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, group: Group) -> object:
        try:
            return self.dataset[group]
        except Exception as error:
            if (message := told(error)) is None:
                raise
            return message


def _begin_worker(number: int) -> None:
    ignore_stopping()  # the parent decides; it wants its batches until it has written a checkpoint


def _end_workers() -> None:
    """At exit: multiprocessing asks what workers are left to stop, which they ignore, and would wait for them for ever."""
    others = [child for child in multiprocessing.active_children() if not child.daemon]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would call it an error that they end
    end_helpers(others)
