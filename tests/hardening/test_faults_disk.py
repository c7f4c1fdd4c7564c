"""A disk that is full at the k-th write of a command: three lines and status 1, nothing half, and then it can be finished.

A preloaded library (`full_disk.c`) lets the k-th call that needs room fail, and all later ones (a full disk) or that one
alone (somebody made room). With --slow some thirty places of each command, spread over all its writes, with other ones each
day; all of them with CMAL_TEST_EVERY_WRITE=1.
"""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path

import pytest
from hardening.jobs import JOBS, Job, broken_files, differences, half_files, put_inputs, result_of
from hardening.messages import message_of
from hardening.stage import FAIL_ON, FAIL_ONCE, Stage

pytestmark = pytest.mark.slow

FAST = ("prepare vqa", "import npy", "merge", "pretrain")
PLACES, FAST_PLACES = 30, 5
FINISHED_EVERY = 3  # in every third place it is started again
MAY_BE_DONE = "it holds one already"


def places_to_try(writes: int, count: int, seed: int) -> list[int]:
    """Write numbers, one out of each of `count` equal stretches."""
    draws = random.Random(seed)
    if os.environ.get("CMAL_TEST_EVERY_WRITE") or count >= writes:
        return list(range(1, writes + 1))
    return sorted({1 + int((turn + draws.random()) * writes / count) for turn in range(count)})


def fill_the_disk(job: Job, stage: Stage, place: Path, inputs: Path, write: int, mode: int) -> str:
    """Runs a job on a disk that is full at a write -> what it reported, or "" where it could do without that write."""
    put_inputs(job, job.fresh(place, inputs))
    status, said = job.run(stage, place, disk=(str(place / "out"), write, mode))
    assert broken_files(place) == [], f"write {write}"
    if status == 0:
        assert mode == FAIL_ONCE or write > 1, said
        return ""
    assert status == 1, f"write {write}: status {status}: {said}"
    assert half_files(place) == [], f"write {write}"
    return message_of(said)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in JOBS])
def test_a_full_disk_is_told_and_loses_nothing(stage, inputs, tmp_path, request, name):
    if stage.preload is None:
        pytest.skip("there is no C compiler for the library that fills the disk")
    job, is_slow = JOBS[name], request.config.getoption("--slow")
    whole = tmp_path / "whole"
    put_inputs(job, job.fresh(whole, inputs))
    act = job.start(stage, whole, disk=(str(whole / "out"), 0, FAIL_ON))
    assert act.wait() == 0, act.said()
    wanted, seed = result_of(job, whole), datetime.date.today().toordinal() if is_slow else 0
    places, reported = places_to_try(act.writes(), PLACES if is_slow else FAST_PLACES, seed), 0
    for turn, write in enumerate(places):
        place, mode = tmp_path / f"at-{write}", FAIL_ONCE if turn % 4 == 3 else FAIL_ON
        message = fill_the_disk(job, stage, place, inputs, write, mode)
        reported += bool(message)
        assert not message or ("No space left" in message and "space" in message.splitlines()[2]), message
        if turn % FINISHED_EVERY == 0:
            status, said = job.run(stage, place)
            assert status == 0 or MAY_BE_DONE in said, said
            assert differences(result_of(job, place), wanted) == [], f"full at write {write}"
    print(
        f"{name}: full at {len(places)} of {act.writes()} writes, reported {reported}, not needed {len(places) - reported}"
    )
    assert reported > len(places) // 2
