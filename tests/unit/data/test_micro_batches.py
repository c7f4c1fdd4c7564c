"""Which examples work together when: a function of seed and step alone, whoever shares the work."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import Dataset
from toys import regions, toy_builder

from cmal.data.loaders import PretrainingData
from cmal.data.masking import DrawRates
from cmal.data.micro_batches import GroupPlan, GroupSequence, load_groups
from cmal.data.records import ImageTextRecord
from cmal.errors import CmalError, DataError, told
from cmal.io.signals import STOPPING


def plan(examples: int = 20, size: int = 4, per_step: int = 2, seed: int = 0) -> GroupPlan:
    lengths = np.random.default_rng(9).integers(5, 50, examples)
    return GroupPlan(lengths, size, per_step, seed)


def test_an_epoch_shows_every_example_once():
    groups = [plan().group(number) for number in range(5)]
    assert sorted(i for g in groups for i in g.indices) == list(range(20)) and {g.epoch for g in groups} == {0}


def test_examples_that_fill_no_group_wait_for_another_epoch():
    made = plan(examples=22)
    assert made.groups_per_epoch == 5
    seen = Counter(i for number in range(50) for i in made.group(number).indices)
    assert len(seen) == 22 and max(seen.values()) <= 10


def test_steps_take_groups_in_order_and_go_on_into_the_next_epoch():
    made = plan()
    third = made.step_groups(3)
    assert [(g.step, g.place, g.number, g.epoch) for g in third] == [(3, 0, 4, 0), (3, 1, 5, 1)]
    assert made.step_groups(1)[0].indices == made.group(0).indices


def test_groups_depend_on_the_seed_alone_not_on_what_was_asked_before():
    one, other = plan(), plan()
    wanted = one.group(13)
    for number in (2, 30, 7):
        other.group(number)
    assert other.group(13) == wanted
    assert plan(seed=1).group(13).indices != wanted.indices
    assert plan().group(13 - 5).indices != wanted.indices, "each epoch has an order of its own"


def test_examples_of_like_length_stand_together():
    lengths = np.random.default_rng(0).integers(0, 1000, 640)
    made = GroupPlan(lengths, 32, 1, 0)
    spans = [np.ptp(lengths[list(made.group(n).indices)]) for n in range(made.groups_per_epoch)]
    assert max(spans) < 100, "twenty groups of a thousand: about fifty each"


def test_fewer_examples_than_a_group_are_repeated():
    group = plan(examples=3, size=8).group(0)
    assert len(group.indices) == 8 and set(group.indices) == {0, 1, 2}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_devices_share_a_steps_groups_and_miss_none(world):
    made = plan(examples=64, per_step=4)
    shares = [list(GroupSequence(made, 2, 3, rank, world)) for rank in range(world)]
    assert {len(GroupSequence(made, 2, 3, rank, world)) for rank in range(world)} == {8 // world}
    for step in (2, 3):
        dealt = [g.place for share in shares for g in share if g.step == step]
        assert sorted(dealt) == [0, 1, 2, 3]
        assert {sum(g.step == step for g in share) for share in shares} == {4 // world}


def test_groups_are_dealt_by_length_back_and_forth_so_that_devices_carry_alike():
    """Eight groups of one example, of lengths 1 to 8, between two devices: 8 5 4 1 and 7 6 3 2, both 18."""
    made = GroupPlan(np.arange(1, 9), 1, 8, 0)
    shares = [[made.lengths[g.indices[0]] for g in GroupSequence(made, 1, 1, rank, 2)] for rank in (0, 1)]
    assert shares == [[8, 5, 4, 1], [7, 6, 3, 2]]


@pytest.mark.parametrize(("per_step", "world"), [(2, 2), (4, 4), (8, 8), (8, 4), (16, 8)])
def test_tokens_balance_over_devices(per_step, world):
    """Captions of 8-40 pieces and 10-60 regions: the fullest device has at most 3% more than its share, in the mean over
    two epochs. (Were a step's groups of any lengths, it would have 30% more where each device has one.)"""
    draws = np.random.default_rng(0)
    lengths = draws.integers(8, 41, 100_000) + draws.integers(10, 61, 100_000)
    made = GroupPlan(lengths, 64, per_step, 0)
    excess = []
    for step in range(1, 2 * made.groups_per_epoch // per_step, 7):
        shares = [list(GroupSequence(made, step, step, rank, world)) for rank in range(world)]
        tokens = [sum(int(lengths[list(g.indices)].sum()) for g in share) for share in shares]
        excess.append(max(tokens) / np.mean(tokens))
    assert np.mean(excess) < 1.03
    padded = [
        lengths[list(made.group(n).indices)].max() * 64 / lengths[list(made.group(n).indices)].sum() for n in range(300)
    ]
    assert np.mean(padded) < 1.05, "padding within groups"


@pytest.mark.parametrize(("examples", "per_step"), [(20, 2), (44, 3), (28, 8), (12, 7)])
def test_every_epoch_shows_every_example_once_where_steps_cross_epochs(examples, per_step):
    made = plan(examples=examples, per_step=per_step)
    count = made.groups_per_epoch
    for epoch in range(6):
        groups = [made.group(number) for number in range(epoch * count, (epoch + 1) * count)]
        assert sorted(i for g in groups for i in g.indices) == list(range(examples)) and {g.epoch for g in groups} == {
            epoch
        }


def test_a_sequence_may_begin_anywhere():
    whole = list(GroupSequence(plan(), 1, 6))
    assert list(GroupSequence(plan(), 4, 6)) == whole[6:]
    assert len(GroupSequence(plan(), 7, 6)) == 0


RECORDS = [ImageTextRecord(str(n), f"toy:{n % 3}", "a red dog and two cats"[: 8 + n]) for n in range(12)]
IMAGES = {f"toy:{n}": regions(["dog", "cat", "dog"], colours=["red", "", ""]) for n in range(3)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_groups_in_order_with_the_same_draws_however_many_workers(workers):
    data = PretrainingData(RECORDS, toy_builder(IMAGES), DrawRates(), seed=3)
    sequence = GroupSequence(GroupPlan(data.lengths(), 4, 1, 3), 1, 4)
    for (group, batch), wanted in zip(load_groups(data, sequence, workers), sequence, strict=True):
        assert group == wanted and batch.ids == tuple(RECORDS[i].id for i in wanted.indices)
        assert batch.masked.token_ids.equal(data[wanted][1].masked.token_ids)


class Failing(Dataset):
    """Gives the first group, fails at the second in the way asked for."""

    def __init__(self, failure: Exception | int):
        self.failure = failure

    def __getitem__(self, group):
        if group.number == 0:
            return group, "batch"
        if isinstance(self.failure, int):
            os.kill(os.getpid(), self.failure)
            time.sleep(60)
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (MemoryError("no room for 3 GB"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "cannot write x"),
        (DataError("the store is damaged", "found", "remedy"), "the store is damaged"),
    ],
)
def test_what_a_worker_meets_reaches_the_parent_as_a_message(failure, says):
    made = load_groups(Failing(failure), GroupSequence(plan(per_step=1), 1, 4), 1)
    assert next(made)[1] == "batch"
    with pytest.raises(CmalError, match=says):
        next(made)


def test_a_worker_that_is_killed_ends_the_loader_with_what_can_be_told():
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(load_groups(Failing(signal.SIGKILL), GroupSequence(plan(per_step=1), 1, 4), 1))
    assert "worker process ended early" in str(told(caught.value))


@pytest.mark.parametrize("number", STOPPING)
def test_workers_leave_a_request_to_stop_to_their_parent(number):
    """A scheduler signals every process of a job; the parent still wants its batches until it has written a checkpoint."""

    class Signalled(Dataset):
        def __getitem__(self, group):
            os.kill(os.getpid(), number)
            return group, "batch"

    assert [batch for _, batch in load_groups(Signalled(), GroupSequence(plan(), 1, 2), 1)] == ["batch"] * 4


LEFT_AT_EXIT = """
import numpy as np
from cmal.data.micro_batches import GroupPlan, GroupSequence, load_groups

class Numbers:
    def __getitem__(self, group):
        return group.number

left = load_groups(Numbers(), GroupSequence(GroupPlan(np.full(64, 5), 8, 1, 0), 1, 50), 1)
print(next(left))
"""


def test_a_program_ends_though_a_worker_is_left_at_its_end():
    """Workers ignore SIGTERM, by which multiprocessing stops what is left before it waits for it."""
    command = [sys.executable, "-c", LEFT_AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
