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
from cmal.data.masking import MaskingConfig
from cmal.data.micro_batches import MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.data.records import ImageTextRecord
from cmal.errors import CmalError, DataError, as_user_error
from cmal.io.signals import STOPPING


def plan(examples: int = 20, size: int = 4, per_step: int = 2, seed: int = 0) -> MicroBatchPlan:
    lengths = np.random.default_rng(9).integers(5, 50, examples)
    return MicroBatchPlan(lengths, size, per_step, seed)


def test_an_epoch_shows_every_example_once():
    micro_batches = [plan().micro_batch(number) for number in range(5)]
    assert sorted(i for g in micro_batches for i in g.indices) == list(range(20)) and {
        g.epoch for g in micro_batches
    } == {0}


def test_examples_that_fill_no_group_wait_for_another_epoch():
    made = plan(examples=22)
    assert made.micro_batches_per_epoch == 5
    seen = Counter(i for number in range(50) for i in made.micro_batch(number).indices)
    assert len(seen) == 22 and max(seen.values()) <= 10


def test_steps_take_groups_in_order_and_go_on_into_the_next_epoch():
    made = plan()
    third = made.step_micro_batches(3)
    assert [(g.step, g.position, g.number, g.epoch) for g in third] == [(3, 0, 4, 0), (3, 1, 5, 1)]
    assert made.step_micro_batches(1)[0].indices == made.micro_batch(0).indices


def test_groups_depend_on_the_seed_alone_not_on_what_was_asked_before():
    one, other = plan(), plan()
    wanted = one.micro_batch(13)
    for number in (2, 30, 7):
        other.micro_batch(number)
    assert other.micro_batch(13) == wanted
    assert plan(seed=1).micro_batch(13).indices != wanted.indices
    assert plan().micro_batch(13 - 5).indices != wanted.indices, "each epoch has an order of its own"


def test_examples_of_like_length_stand_together():
    lengths = np.random.default_rng(0).integers(0, 1000, 640)
    made = MicroBatchPlan(lengths, 32, 1, 0)
    spans = [np.ptp(lengths[list(made.micro_batch(n).indices)]) for n in range(made.micro_batches_per_epoch)]
    assert max(spans) < 100, "twenty groups of a thousand: about fifty each"


def test_fewer_examples_than_a_group_are_repeated():
    micro_batch = plan(examples=3, size=8).micro_batch(0)
    assert len(micro_batch.indices) == 8 and set(micro_batch.indices) == {0, 1, 2}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_devices_share_a_steps_groups_and_miss_none(world_size):
    made = plan(examples=64, per_step=4)
    shares = [list(MicroBatchSequence(made, 2, 3, rank, world_size)) for rank in range(world_size)]
    assert {len(MicroBatchSequence(made, 2, 3, rank, world_size)) for rank in range(world_size)} == {8 // world_size}
    for step in (2, 3):
        dealt = [g.position for share in shares for g in share if g.step == step]
        assert sorted(dealt) == [0, 1, 2, 3]
        assert {sum(g.step == step for g in share) for share in shares} == {4 // world_size}


def test_groups_are_dealt_by_length_back_and_forth_so_that_devices_carry_alike():
    """Eight groups of one example, of lengths 1 to 8, between two devices: 8 5 4 1 and 7 6 3 2, both 18."""
    made = MicroBatchPlan(np.arange(1, 9), 1, 8, 0)
    shares = [[made.lengths[g.indices[0]] for g in MicroBatchSequence(made, 1, 1, rank, 2)] for rank in (0, 1)]
    assert shares == [[8, 5, 4, 1], [7, 6, 3, 2]]


@pytest.mark.parametrize(("per_step", "world_size"), [(2, 2), (4, 4), (8, 8), (8, 4), (16, 8)])
def test_tokens_balance_over_devices(per_step, world_size):
    """Captions of 8-40 pieces and 10-60 regions: the fullest device has at most 3% more than its share, in the mean over
    two epochs. (Were a step's groups of any lengths, it would have 30% more where each device has one.)"""
    draws = np.random.default_rng(0)
    lengths = draws.integers(8, 41, 100_000) + draws.integers(10, 61, 100_000)
    made = MicroBatchPlan(lengths, 64, per_step, 0)
    excess = []
    for step in range(1, 2 * made.micro_batches_per_epoch // per_step, 7):
        shares = [list(MicroBatchSequence(made, step, step, rank, world_size)) for rank in range(world_size)]
        tokens = [sum(int(lengths[list(g.indices)].sum()) for g in share) for share in shares]
        excess.append(max(tokens) / np.mean(tokens))
    assert np.mean(excess) < 1.03
    padded = [
        lengths[list(made.micro_batch(n).indices)].max() * 64 / lengths[list(made.micro_batch(n).indices)].sum()
        for n in range(300)
    ]
    assert np.mean(padded) < 1.05, "padding within groups"


@pytest.mark.parametrize(("examples", "per_step"), [(20, 2), (44, 3), (28, 8), (12, 7)])
def test_every_epoch_shows_every_example_once_where_steps_cross_epochs(examples, per_step):
    made = plan(examples=examples, per_step=per_step)
    count = made.micro_batches_per_epoch
    for epoch in range(6):
        micro_batches = [made.micro_batch(number) for number in range(epoch * count, (epoch + 1) * count)]
        assert sorted(i for g in micro_batches for i in g.indices) == list(range(examples)) and {
            g.epoch for g in micro_batches
        } == {epoch}


def test_a_sequence_may_begin_anywhere():
    whole = list(MicroBatchSequence(plan(), 1, 6))
    assert list(MicroBatchSequence(plan(), 4, 6)) == whole[6:]
    assert len(MicroBatchSequence(plan(), 7, 6)) == 0


RECORDS = [ImageTextRecord(str(n), f"toy:{n % 3}", "a red dog and two cats"[: 8 + n]) for n in range(12)]
IMAGES = {f"toy:{n}": regions(["dog", "cat", "dog"], colours=["red", "", ""]) for n in range(3)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_groups_in_order_with_the_same_draws_however_many_workers(workers):
    data = PretrainingData(RECORDS, toy_builder(IMAGES), MaskingConfig(), seed=3)
    sequence = MicroBatchSequence(MicroBatchPlan(data.lengths(), 4, 1, 3), 1, 4)
    for (micro_batch, batch), wanted in zip(load_micro_batches(data, sequence, workers), sequence, strict=True):
        assert micro_batch == wanted and batch.ids == tuple(RECORDS[i].id for i in wanted.indices)
        assert batch.masked.token_ids.equal(data[wanted][1].masked.token_ids)


class Failing(Dataset):
    """Gives the first group, fails at the second in the way asked for."""

    def __init__(self, failure: Exception | int):
        self.failure = failure

    def __getitem__(self, micro_batch):
        if micro_batch.number == 0:
            return micro_batch, "batch"
        if isinstance(self.failure, int):
            os.kill(os.getpid(), self.failure)
            time.sleep(60)
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (MemoryError("no room for 3 GB"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "cannot write x"),
        (DataError("the store is damaged", "found", "hint"), "the store is damaged"),
    ],
)
def test_what_a_worker_meets_reaches_the_parent_as_a_message(failure, says):
    made = load_micro_batches(Failing(failure), MicroBatchSequence(plan(per_step=1), 1, 4), 1)
    assert next(made)[1] == "batch"
    with pytest.raises(CmalError, match=says):
        next(made)


def test_a_worker_that_is_killed_ends_the_loader_with_what_can_be_told():
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(load_micro_batches(Failing(signal.SIGKILL), MicroBatchSequence(plan(per_step=1), 1, 4), 1))
    assert "worker process ended early" in str(as_user_error(caught.value))


@pytest.mark.parametrize("number", STOPPING)
def test_workers_leave_a_request_to_stop_to_their_parent(number):
    """A scheduler signals every process of a job; the parent still wants its batches until it has written a checkpoint."""

    class Signalled(Dataset):
        def __getitem__(self, micro_batch):
            os.kill(os.getpid(), number)
            return micro_batch, "batch"

    assert [batch for _, batch in load_micro_batches(Signalled(), MicroBatchSequence(plan(), 1, 2), 1)] == ["batch"] * 4


LEFT_AT_EXIT = """
import numpy as np
from cmal.data.micro_batches import MicroBatchPlan, MicroBatchSequence, load_micro_batches

class Numbers:
    def __getitem__(self, group):
        return group.number

left = load_micro_batches(Numbers(), MicroBatchSequence(MicroBatchPlan(np.full(64, 5), 8, 1, 0), 1, 50), 1)
print(next(left))
"""


def test_a_program_ends_though_a_worker_is_left_at_its_end():
    """Workers ignore SIGTERM, by which multiprocessing stops what is left before it waits for it."""
    command = [sys.executable, "-c", LEFT_AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
